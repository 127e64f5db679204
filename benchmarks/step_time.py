"""What the preconditioning layer costs: a whole (1,1) GAN step of each method, interleaved in one process.

Every method trains its own copy of the same networks on the same batches: update G, update its average, update D on
real and fake in one batch. `stock` is `torch.nn.utils.parametrizations.spectral_norm` in the same loop, `plug-in` is
`pctool.precondition_` within `parametrize.cached()`, `naive` a polynomial by Horner on the rectangular matrix, left to
autograd, at every forward. Times are medians of steps taken in turn, a different method first each round. With
`--in-turn` the convolution and the average at the end of D's blocks are two operations, as in other implementations. On
a GPU `--cuda-graphs` times every step as a CUDA graph too, as `METHOD graph`.

    python benchmarks/step_time.py --resolution 32 --batch-size 32 --json
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm as stock_spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pctool.core.layers.plugin import precondition_
from pctool.core.layers.preconditioner import METHODS, Preconditioner, last_linear, preconditioned_layers
from pctool.core.layers.strength import PUBLISHED_TAUS, Ladder
from pctool.core.models import DIM_Z, build_discriminator, build_generator, default_widths, resampling
from pctool.core.polynomial import IDENTITY, PUBLISHED
from pctool.core.power_iteration import initial_vectors, power_iteration
from pctool.core.products import Precision
from pctool.training import ema
from pctool.training.cuda import beside
from pctool.training.losses import hinge_d, hinge_g
from pctool.training.memory import MIB, peak_mib

CONTRACT = ("none", "sn", "fpc-3", "fpc-5", "fpc-7", "fpc-9", "apc", "svd")
OTHERS = ("stock", "fpc-7-low", "apc-low", "plug-in", "naive")
LOW = "-low"
SPECTRAL_NORMS = (("stock", "stock"), ("own", "sn"))
IN_PLACE = ("stock", "plug-in", "naive")
# What torch's counter leaves out: C.baddbmm_(A, B) with A [b, n, k], B [b, k, m], and oneDNN's A B^T.
MORE_PRODUCTS = {
    torch.ops.aten.baddbmm_: lambda c, a, b, **_: 2 * a[0] * a[1] * a[2] * b[2],
    torch.ops.mkldnn._linear_pointwise: lambda a, b, *_, **__: 2 * a[0] * a[1] * b[0],
}
GRAPH = " graph"


def last_strengths(run: Path) -> dict[str, int]:
    """The degrees that APC ended with, by layer: stats.jsonl has them where they changed."""
    entries = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    found: dict[str, int] = [entry["strengths"] for entry in entries if "strengths" in entry][-1]
    return found


class NaiveHorner(nn.Module):
    """g(SN(W)) as the formula reads, in float32, iterated and evaluated at every training forward."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, coeffs: tuple[float, ...]) -> None:
        super().__init__()
        self.coeffs = coeffs
        u, v = initial_vectors(weight.detach().flatten(1))
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            W = weight.flatten(1)
            u, v = power_iteration(W, self.u, self.v, 1)
            self.u.copy_(u)
            self.v.copy_(v)
            A = W / torch.dot(self.u, W @ self.v)
            value = self.coeffs[-1] * A
            for a in self.coeffs[-2::-1]:
                value = A @ (A.t() @ value) + a * A
            return value.view(weight.shape)


class Training:
    """One method's networks, optimisers and step."""

    def __init__(self, method: str, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(0)
        width_g, width_d = default_widths(args.arch, args.resolution)
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        self.G = build_generator(args.arch, args.resolution, 3, args.width_g or width_g, "authors")
        self.D = build_discriminator(args.arch, args.resolution, 3, args.width_d or width_d, "authors")
        for network in (self.G, self.D):
            network.to(device=args.device, memory_format=layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.G).requires_grad_(False)
        self.method = method
        self.layer_seconds = 0.0
        self.pre = self._preconditioner(method, args)
        for layer in self.pre.layers:
            if layer.factored:
                self._time_factor(layer.module)
        adam: Any = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True, "capturable": args.device == "cuda"}
        self.optim_g, self.optim_d = (torch.optim.Adam(net.parameters(), **adam) for net in (self.G, self.D))
        self.weight = torch.tensor(0.01, device=args.device)
        self.side_stream = torch.cuda.Stream() if args.device == "cuda" and method != "svd" else None

    def _preconditioner(self, method: str, args: argparse.Namespace) -> Preconditioner:
        images = (2 * args.batch_size, 3, args.resolution, args.resolution)
        low: Precision = "bf16" if args.device == "cpu" else "tf32"
        how: Any = {"precision": low if method.endswith(LOW) else "fp32", "images": images}
        method = method.removesuffix(LOW)
        if method in METHODS:
            pre = Preconditioner(self.D, method, ladder=Ladder(tuple(args.taus)), **how)
            if method == "apc" and args.apc_run:
                state = pre.state()
                for name, degree in last_strengths(args.apc_run).items():
                    state[name]["coeffs"] = list((PUBLISHED[degree] if degree > 1 else IDENTITY).coeffs)
                pre.load_state(state)
            else:
                pre.update_strengths()
            return pre
        if method.startswith("fpc"):
            return Preconditioner(self.D, "fpc", polynomial=PUBLISHED[int(method.split("-")[1])], **how)
        layers = preconditioned_layers(self.D)
        if method == "plug-in":
            precondition_(self.D, "fpc", degree=7)
        for name, layer in layers.items():
            if method == "stock":
                stock_spectral_norm(layer)
            elif method == "naive":
                coeffs = (1.0,) if name == last_linear(layers) else PUBLISHED[7].coeffs
                horner = NaiveHorner(layer.get_parameter("weight"), coeffs)
                parametrize.register_parametrization(layer, "weight", horner)
            if method in IN_PLACE:
                on_weight: Any = layer.parametrizations
                self._time_in_place(on_weight.weight[0])
        return Preconditioner(self.D, "none")

    def _time_in_place(self, parametrization: nn.Module) -> None:
        """Adds the forward and backward time of what stands on a layer's weight to `layer_seconds`.

        Its backward is one stretch: autograd's CPU engine takes the newest nodes first, and those are its own.
        """
        parametrization.register_forward_pre_hook(self._begin)
        parametrization.register_forward_hook(self._end)
        parametrization.register_full_backward_pre_hook(self._begin)
        parametrization.register_full_backward_hook(self._end)

    def _time_factor(self, layer: Any) -> None:
        """Adds the forward and backward time of applying a factored layer's factor to `layer_seconds`."""
        apply = layer.apply_factor

        def timed(y: Tensor, bias: Tensor | None) -> Tensor:
            self._begin()
            value: Tensor = apply(y, bias)
            self._end()
            if y.requires_grad:
                value.register_hook(self._begin)
                y.register_hook(self._end)
            return value

        layer.apply_factor = timed

    def _begin(self, *_: object) -> None:
        self.began = time.perf_counter()

    def _end(self, *_: object) -> None:
        self.layer_seconds += time.perf_counter() - self.began

    def step(self, real: Tensor, z: Tensor) -> None:
        """One (1,1) step, as in pctool/training/loop.py."""
        autocast = torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.precision == "bf16")
        cached = parametrize.cached if self.method == "plug-in" else contextlib.nullcontext
        start = time.perf_counter()
        with beside(self.side_stream) as join:
            W_hat = self.pre.weights()
        self.layer_seconds = time.perf_counter() - start
        self.D.requires_grad_(False)
        frozen = {name: value.detach() for name, value in W_hat.items()}
        with cached():
            with autocast:
                fake = self.G(z)
                join()
                logits = functional_call(self.D, frozen, (fake,)) if frozen else self.D(fake)
            self.optim_g.zero_grad()
            hinge_g(logits.float()).backward()
        self.optim_g.step()
        self.D.requires_grad_(True)
        ema.update(self.average, self.G, self.weight)
        with cached():
            with autocast:
                with torch.no_grad():
                    fake = self.G(z)
                both = torch.cat([real, fake.float()])
                # Leaves, where the layer's own backward pass is timed by itself; the gradient is the same, and what
                # `apply_factor` noted on it is not on a leaf's `grad`.
                leaves = {name: value.detach().requires_grad_() for name, value in W_hat.items()}
                leaves = W_hat if self.side_stream else leaves
                gradients: dict[str, Tensor] = {}
                for name, leaf in leaves.items() if leaves is not W_hat else ():
                    leaf.register_hook(functools.partial(gradients.__setitem__, name))
                logits = functional_call(self.D, leaves, (both,)) if leaves else self.D(both)
            loss = hinge_d(*logits.float().split(len(real)))
            self.optim_d.zero_grad()
            loss.backward()
        start = time.perf_counter()
        if leaves is not W_hat:
            torch.autograd.backward(list(W_hat.values()), [gradients[name] for name in W_hat])
        if (penalty := self.pre.penalty()) is not None:
            penalty.backward()
        middle = time.perf_counter()
        self.optim_d.step()
        again = time.perf_counter()
        self.pre.advance()
        if leaves:
            self.layer_seconds += middle - start + time.perf_counter() - again

    def recorded(self, real: Tensor, z: Tensor, stream: Any, pool: Any) -> Callable[[], None]:
        """The step as a CUDA graph, sharing its memory with others of `pool` and `stream`: it leaves nothing there."""
        graph = torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step(real, z)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            self.step(real, z)
            self.optim_g.zero_grad()
            self.optim_d.zero_grad()
        return graph.replay


class Operations(TorchDispatchMode):
    """Counts tensor operations that do work: views, and what only asks, left out."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not any(tensor.alias_info for tensor in func._schema.returns) or func._schema.is_mutable
        return func(*args, **(kwargs or {}))


def interleaved(
    trainings: dict[str, Training],
    steps: dict[str, Callable[[], None]],
    args: argparse.Namespace,
    finish: Callable[[], None],
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each step and median share of the layer in them.

    `--inner` steps a round, a different method first each time, after a round that does not count.
    """
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    shares: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(args.repeats + 1):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            finish()
            start = time.perf_counter()
            for _ in range(args.inner):
                steps[name]()
            finish()
            if round_number:
                seconds[name].append((time.perf_counter() - start) / args.inner)
                shares[name].append(trainings[name.removesuffix(GRAPH)].layer_seconds / seconds[name][-1])
    medians = [{name: statistics.median(values) for name, values in found.items()} for found in (seconds, shares)]
    return medians[0], medians[1]


def ratios(seconds: dict[str, float], reference: str) -> dict[str, float]:
    """Each method's seconds in units of the reference's, both eager or both as a CUDA graph."""
    found = {}
    for name, taken in seconds.items():
        other = reference + GRAPH * name.endswith(GRAPH)
        if other in seconds:
            found[name] = taken / seconds[other]
    return found


def tensor_mib(device: str) -> float:
    """MiB of tensors on a GPU, from where the peak is counted anew; 0 on a CPU."""
    if device == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / MIB


def by_share(shares: dict[str, float], reference: str) -> dict[str, float]:
    """Steps in units of the reference's, the work outside the layer being the same: (1 - its share) / (1 - share)."""
    if reference not in shares:
        return {}
    return {name: (1 - shares[reference]) / (1 - share) for name, share in shares.items()}


def in_turn() -> Any:
    """The convolution and the average at the end of D's blocks are two operations in it."""

    def operations(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return resampling.average_pool(F.conv2d(x, weight, bias, padding=1))

    return mock.patch.object(resampling, "convolve_and_halve", operations)


def peak_memory(method: str, argv: list[str]) -> float:
    """MiB that a process of its own needs at most for a few steps of the method."""
    command = [sys.executable, __file__, *argv, "--methods", method, "--peak-of-one"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--arch", default="resnet")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width-g", type=int)
    parser.add_argument("--width-d", type=int)
    parser.add_argument("--methods", default=",".join((*CONTRACT, *OTHERS)))
    parser.add_argument("--taus", type=float, nargs=4, default=PUBLISHED_TAUS, help="apc's thresholds")
    parser.add_argument(
        "--apc-run", type=Path, help="apc with the strengths that this run of 'pctool train' ended with"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--in-turn", action="store_true", help="D's convolutions and averages as two operations")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--inner", type=int, default=1, help="steps that are timed together")
    parser.add_argument("--cuda-graphs", action="store_true", help="every step as a CUDA graph too")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--memory", action="store_true", help="peak memory of each method too; on CPUs, by a process each"
    )
    parser.add_argument("--peak-of-one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    with in_turn() if args.in_turn else contextlib.nullcontext():
        if args.peak_of_one:
            print(peak_of_one(args))
            return
        result = measure(args, argv)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def batch(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Images and z, random."""
    sides = (args.batch_size, 3, args.resolution, args.resolution)
    format_ = torch.channels_last if args.channels_last else torch.contiguous_format
    real = torch.rand(sides, device=args.device).mul(2).sub(1).contiguous(memory_format=format_)
    return real, torch.randn(args.batch_size, DIM_Z, device=args.device)


def peak_of_one(args: argparse.Namespace) -> float:
    """MiB that this process needs at most for a few steps of one method."""
    real, z = batch(args)
    training = Training(args.methods, args)
    for _ in range(3):
        training.step(real, z)
    if args.device == "cuda":
        torch.cuda.synchronize()
    return peak_mib(args.device)


def measure(args: argparse.Namespace, argv: list[str]) -> dict[str, Any]:
    """Everything that is printed; `argv` is what `args` was parsed from."""
    methods = args.methods.split(",")
    real, z = batch(args)
    finish = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)
    trainings: dict[str, Training] = {}
    operations, flops, peaks = {}, {}, {}
    for method in methods:
        held = tensor_mib(args.device)
        training = trainings[method] = Training(method, args)
        training.step(real, z)  # the first allocates Adam's moments
        training.step(real, z)
        if args.device == "cuda":
            peaks[method] = peak_mib(args.device) - held
        with Operations() as counter:
            training.step(real, z)
        operations[method] = counter.count
        with FlopCounterMode(display=False, custom_mapping=MORE_PRODUCTS) as counted:
            training.step(real, z)
        flops[method] = counted.get_total_flops()
    steps: dict[str, Callable[[], None]] = {m: functools.partial(t.step, real, z) for m, t in trainings.items()}
    if args.cuda_graphs:
        shared = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        steps |= {m + GRAPH: training.recorded(real, z, *shared) for m, training in trainings.items()}
    seconds, shares = interleaved(trainings, steps, args, finish)
    result: dict[str, Any] = {
        "resolution": args.resolution,
        "batch_size": args.batch_size,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
        "precision": args.precision,
        "channels_last": args.channels_last,
        "in_turn": args.in_turn,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": args.repeats,
        "ratio_to_stock_sn": ratios(seconds, "stock"),
        "ratio_to_own_sn": ratios(seconds, "sn"),
        "seconds": seconds,
        # On a GPU calls return before the work is done.
        "layer_share": shares if args.device == "cpu" else None,
        **(
            {}
            if args.device == "cuda"
            else {f"ratio_to_{n}_sn_by_share": by_share(shares, m) for n, m in SPECTRAL_NORMS}
        ),
        "gflop": {m: count / 1e9 for m, count in flops.items()},
        "operations": operations,
        "apc_degrees": trainings["apc"].pre.strengths() if "apc" in trainings else None,
    }
    if peaks:
        result["peak_mib"] = peaks
    elif args.memory:
        own = [arg for arg in argv if arg not in ("--memory", "--json")]
        result["peak_mib"] = {method: peak_memory(method, own) for method in methods}
    return result


def show(result: dict[str, Any]) -> None:
    """A line a step."""
    for name, taken in result["seconds"].items():
        against = [f"{result[key].get(name, float('nan')):.3f}" for key in ("ratio_to_stock_sn", "ratio_to_own_sn")]
        method = name.removesuffix(GRAPH)
        layer = f"layer {result['layer_share'][method]:.1%}  " if result["layer_share"] else ""
        print(
            f"{name:16} {taken:.4f} s  {against[0]} of stock SN  {against[1]} of own SN  {layer}"
            f"{result['gflop'][method]:.1f} GFLOP  {result['operations'][method]} operations"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
