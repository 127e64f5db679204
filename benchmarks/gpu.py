"""Everything that is worth knowing of a machine with a GPU, in one call, as one JSON file.

    python benchmarks/gpu.py --out gpu.json

What the device gives; the tests marked `gpu`; the kernel's errors against float64 at each precision; steps a second of
`pctool train` on images of noise, eager, as CUDA graphs and compiled, with what APC's changes cost; whole steps of each
method and resolution (`step_time.py`). Where they are named, also `resampled`, a profile, and `curves`: long runs side
by side on real images, whose logs, spectra and samples are a ZIP beside it, for `pctool report`. The file is written
anew after each part, so that a time limit costs only what is left; a part that fails is recorded with its last words.
`--device cpu --quick` tries the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import step_time
import torch
from throughput import make_images
from torch._dynamo.utils import counters

from pctool.core.layers.preconditioner import preconditioned_layers
from pctool.core.layers.strength import Ladder
from pctool.core.linalg import coefficient_rows, precondition_batch
from pctool.core.models import build_discriminator, default_widths
from pctool.core.polynomial import IDENTITY, PUBLISHED
from pctool.core.power_iteration import initial_vectors
from pctool.core.products import Precision, available
from pctool.errors import PctoolError
from pctool.spectrum.reader import read_spectrum
from pctool.training import session
from pctool.training.config import resolve
from pctool.training.memory import peak_mib
from pctool.training.recorder import StepReport, Watcher

HERE = Path(__file__).parent
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
MANY = "none,stock,sn,fpc-3,fpc-7,fpc-9,fpc-7-low,apc,svd,plug-in"
FEW = "none,stock,sn,fpc-7,apc"
STEPS = (("32", "bf16"), ("48", "bf16"), ("128", "bf16"), ("256", "bf16"), ("32", "fp32"), ("48", "fp32"))
RUNS = (
    "sn bf16 eager", "apc bf16 eager", "none bf16 graph", "sn bf16 graph", "fpc bf16 graph", "apc bf16 graph",
    "svd bf16 graph", "apc tf32 graph", "apc fp32 graph", "apc bf16 compiled", "apc bf16 compiled graph",
    "apc bf16 graph records", "apc bf16 graph in-turn", "apc bf16 compiled graph in-turn",
)  # fmt: skip


def command(*arguments: str, **environment: str) -> str:
    """Standard output of a process; RuntimeError with the end of its standard error where it fails."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=HERE.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(f"exit {result.returncode}: {(result.stdout + result.stderr)[-2000:]}")
    return result.stdout


def tests(args: argparse.Namespace) -> str:
    """The last line of the tests marked `gpu`."""
    return command("-m", "pytest", "-q", "-m", "gpu", "-n", "0", "-W", "default", "tests/test_devices.py").splitlines()[
        -1
    ]


def errors(args: argparse.Namespace) -> dict[str, Any]:
    """Of D's layers at 48 px, for each degree and precision: the largest relative error of a singular value above 1e-3,
    and the largest relative error of a layer's gradient (Frobenius norm), against float64 on the same device.
    """
    torch.manual_seed(0)
    _, width = default_widths("resnet", 48)
    D = build_discriminator("resnet", 48, 3, 8 if args.quick else width, "authors").to(args.device)
    found: dict[str, Any] = {}
    for degree, g in PUBLISHED.items():
        worst: dict[str, list[float]] = {precision: [0.0, 0.0] for precision in PRECISIONS}
        for layer in preconditioned_layers(D).values():
            W = layer.get_parameter("weight").detach().flatten(1).double()
            G = torch.randn_like(W)
            exact, gradient = _values_and_gradient(W, G, g.coeffs, "fp32")
            for precision in PRECISIONS:
                if available(precision, W.float()) != precision:
                    worst.pop(precision, None)
                    continue
                low, low_gradient = _values_and_gradient(W.float(), G.float(), g.coeffs, precision)
                error = ((low - exact).abs() / exact)[exact > 1e-3].max().item()
                norm = torch.linalg.vector_norm
                rough = (norm(low_gradient.double() - gradient) / norm(gradient)).item()
                worst[precision] = [max(pair) for pair in zip(worst[precision], (error, rough), strict=True)]
        found[str(degree)] = {p: {"singular_values": e, "gradient": d} for p, (e, d) in worst.items()}
    return found


def _values_and_gradient(
    W: torch.Tensor, G: torch.Tensor, coeffs: tuple[float, ...], precision: Precision
) -> tuple[torch.Tensor, torch.Tensor]:
    W = W.clone().requires_grad_()
    u, v = initial_vectors(W.detach(), torch.Generator().manual_seed(0))
    W_hat = precondition_batch([W], [u], [v], coefficient_rows([coeffs], W), precision=precision)[0]
    W_hat.backward(G)
    assert W.grad is not None
    return torch.linalg.svdvals(W_hat.detach().double()), W.grad


def rates(args: argparse.Namespace) -> dict[str, float]:
    """What the device gives: TFLOP/s of products of 8192 x 8192 at each precision on random data, TB/s of a copy."""
    side = 256 if args.quick else 8192
    found = {}
    for precision in PRECISIONS:
        X, Y = (torch.randn(side, side, device=args.device) for _ in range(2))
        if precision == "bf16":
            X, Y = X.bfloat16(), Y.bfloat16()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        found[f"{precision} TFLOP/s"] = 2 * side**3 / _seconds(lambda X=X, Y=Y: X @ Y, args) / 1e12  # type: ignore[misc]
    torch.set_float32_matmul_precision("highest")
    source = torch.randn((1 if args.quick else 1024) * 2**20, device=args.device)
    target = torch.empty_like(source)
    found["copy TB/s"] = 8 * source.numel() / _seconds(lambda: target.copy_(source), args) / 1e12
    return found


def _seconds(work: Callable[[], object], args: argparse.Namespace, repeats: int = 9) -> float:
    """The median of single calls."""
    finish = torch.cuda.synchronize if args.device == "cuda" else (lambda: None)
    taken = []
    for _ in range(3 + repeats):
        finish()
        start = time.perf_counter()
        work()
        finish()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])


def step_times(resolution: str, precision: str, args: argparse.Namespace, methods: str = "") -> dict[str, Any]:
    """`step_time.py`, batch 64, channels_last, eager and as CUDA graphs."""
    batch, repeats, inner = ("4", "1", "1") if args.quick else ("64", "5", "3")
    usual = "none,stock,sn,fpc-7" if args.quick else FEW if resolution in {"128", "256"} else MANY
    methods = methods or usual
    flags = ["--resolution", resolution, "--batch-size", batch, "--repeats", repeats, "--inner", inner]
    flags += ["--methods", methods, "--device", args.device, "--precision", precision, "--channels-last"]
    flags += ["--width-g", "16", "--width-d", "16"] if args.quick else []
    flags += ["--cuda-graphs"] if args.device == "cuda" else []
    found = step_time.measure(step_time.parse(flags), flags)
    gc.collect()
    torch.cuda.empty_cache()
    print({name: round(1e3 * taken, 2) for name, taken in found["seconds"].items()}, "ms", file=sys.stderr)
    return found


def resampled(args: argparse.Namespace) -> dict[str, Any]:
    """Own SN's step in bf16 at each resolution, D's convolutions and averages as one operation and in turn."""
    found: dict[str, Any] = {}
    for side, precision in STEPS:
        if precision == "bf16":
            found[side] = step_times(side, precision, args, "sn")["seconds"]
            with step_time.in_turn():
                found[f"{side} in turn"] = step_times(side, precision, args, "sn")["seconds"]
    return found


def training(args: argparse.Namespace) -> dict[str, Any]:
    """Steps a second of `pctool train` at 32 px, the authors' widths, batch 64, (1,1).

    Eager, as a CUDA graph, and compiled, with nothing written meanwhile, APC with strengths that change at random every
    100 steps, which takes the seconds given apart; `records`: 1000 steps with all that is written by default.
    `in-turn`: the convolution and the average at the end of D's blocks as two operations.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, PCTOOL_CACHE_DIR=folder):
        make_images(Path(folder) / "images.zip", 32, 512)
        runs = args.runs.split(",") if args.runs else RUNS[: 1 if args.quick else None]
        for name in runs:
            method, precision, *how = name.split()
            found[name] = _run(args, Path(folder), method, precision, how)
            print(name, found[name], file=sys.stderr)
    return found


def _run(args: argparse.Namespace, folder: Path, method: str, precision: str, how: list[str]) -> dict[str, Any]:
    """One run; what is counted begins when everything is compiled, tried and recorded."""
    steps, first, batch = (20, 5, 4) if args.quick else (1131, 130, 64) if "records" in how else (330, 30, 64)
    widths = {"width_g": 16, "width_d": 16} if args.quick else {}
    changing = {"apc_every": 100} if method == "apc" and "records" not in how else {}
    chance = random.Random(0)
    settings: dict[str, Any] = {
        "dataset": f"{folder}/images.zip", "resolution": 32, "method": method, "arch": "resnet", "d_iters": 1,
        "batch_size": batch, "steps": steps, "precision": precision, "device": args.device,
        "cuda_graphs": "graph" in how, "compile": "compiled" in how,
        "out": folder / "-".join((method, precision, *how)),
    }  # fmt: skip
    off = {} if "records" in how else dict.fromkeys(("log_every", "save_every", "sample_every", "spectrum_every"), 0)
    watcher, graphs = Times(), counters["stats"]["unique_graphs"]
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    choose = mock.patch.object(Ladder, "choose", lambda own, kappa: chance.choice([IDENTITY, *own.polynomials]))
    operations = step_time.in_turn() if "in-turn" in how else contextlib.nullcontext()
    with operations, choose, session.opened(resolve({**settings, **off, **widths, **changing})) as opened:
        opened.train(watcher)
    taken = watcher.seconds[first:-1]  # the last step saves
    usual = statistics.median(taken)
    changes = [i for i in range(first, steps - 1) if watcher.strengths[i] != watcher.strengths[i - 1]]
    return {
        "steps_per_second": 1 / usual,
        "steps_per_second_with_all": len(taken) / sum(taken),
        "slowest_step_seconds": max(taken),
        "first_step_seconds": watcher.seconds[0],
        "seconds_a_change": [sum(watcher.seconds[i : i + 2]) - 2 * usual for i in changes],
        "compiled": counters["stats"]["unique_graphs"] - graphs,
        "peak_memory_mib": peak_mib(args.device),
    }


class Times(Watcher):
    """Watches a run: the seconds of each step, and the strengths after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.strengths: list[tuple[int, ...]] = []

    def note(self, message: str) -> None:
        print(message, file=sys.stderr)

    def begin(self, step: int, total_steps: int) -> None:
        self.last = time.perf_counter()

    def step(self, report: StepReport) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.strengths.append(tuple(report.strengths.values()))
        self.last = now


def curves(args: argparse.Namespace) -> dict[str, Any]:
    """`--curves`, each `METHOD PIXELS`, at once on one device for `--minutes`: (1,1), the authors' widths, batch 64.

    With spectra, and at 32 px scores over mobilenet_v2 where its `--weights` are there. What is drawn of them: D's
    condition numbers, APC's strengths where they changed, scores. Their folders, less the checkpoints, are curves.zip
    beside the file.
    """
    kept, ends = args.out.parent.resolve() / "curves", {}
    for run in args.curves.split(","):
        method, pixels = run.split()
        out = kept / f"{method}-{pixels}"
        flags = [
            "--dataset", _path(args.data), "--resolution", pixels, "--arch", "resnet", "--method", method,
            "--d-iters", "1", "--device", args.device, "--out", str(out), "--steps", "200000",
            "--time-limit", str(args.minutes), "--spectrum-every", "250", "--sample-every", "5000", "--keep", "1",
        ]  # fmt: skip
        flags += ["--width-g", "16", "--width-d", "16"] if args.quick else ["--precision", "bf16", "--compile"]
        if args.weights and pixels == "32":
            flags += ["--eval-every", "5000", "--eval-extractor", "mobilenet_v2", "--eval-weights", _path(args.weights)]
        ends[out] = subprocess.Popen([sys.executable, "-m", "pctool", "train", *flags], cwd=HERE.parent)
    for process in ends.values():
        process.wait()
    found = {}
    for out in ends:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        try:
            found[out.name] = _drawn(out)
        except (OSError, PctoolError) as error:
            found[out.name] = {"refused or killed": repr(error)}
    if kept.exists():
        shutil.make_archive(str(kept), "zip", kept)
        shutil.rmtree(kept)
    return found


def _drawn(run: Path) -> dict[str, Any]:
    spectrum = read_spectrum(run / "spectrum.h5")
    logs = {
        name: [json.loads(line) for line in path.read_text().splitlines()] if (path := run / name).exists() else []
        for name in ("stats.jsonl", "metrics.jsonl")
    }
    return {
        "exit": json.loads((run / "exit.json").read_text()),
        "kappas": {"step": spectrum.steps.tolist(), **{key: row.tolist() for key, row in spectrum.summary.items()}},
        "strengths": {entry["step"]: entry["strengths"] for entry in logs["stats.jsonl"] if "strengths" in entry},
        "scores": {entry["step"]: entry["scores"] for entry in logs["metrics.jsonl"]},
    }


def _path(text: str) -> str:
    """As the processes find it, which start in another folder; a data set's name as it is."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def profile(args: argparse.Namespace) -> str:
    """Where the time of a step goes: kernels of FPC-7's graph at 32 px in bf16, the longest first."""
    given = ["--resolution", "32", "--batch-size", "64", "--precision", "bf16", "--channels-last", "--device", "cuda"]
    options = step_time.parse([*given, "--methods", "fpc-7"])
    trained = step_time.Training("fpc-7", options)
    real = torch.rand(64, 3, 32, 32, device="cuda").contiguous(memory_format=torch.channels_last)
    stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    replay = trained.recorded(real, torch.randn(64, 128, device="cuda"), stream, pool)
    replay()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(3):
            replay()
        torch.cuda.synchronize()
    return str(seen.key_averages().table(sort_by="cuda_time_total", row_limit=60, max_name_column_width=90))


def main() -> None:
    """Measures part after part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", help="some, as 'rates,32 px bf16'; the last three are made where they are named")
    parser.add_argument("--runs", help="some of the training part's, as 'sn bf16 eager,apc bf16 compiled graph'")
    parser.add_argument("--curves", default="sn 32,apc 32", help="the curves part's runs")
    parser.add_argument("--data", default="fashion-mnist", help="their images")
    parser.add_argument("--weights", help="mobilenet_v2's, to score them by")
    parser.add_argument("--minutes", type=float, default=8, help="they take")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few steps")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --quick tries the script itself")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "rates": rates, "tests": tests, "errors": errors, "training": training,
        **{f"{side} px {precision}": functools.partial(step_times, side, precision) for side, precision in STEPS},
        "resampled": resampled, "profile": profile, "curves": curves,
    }  # fmt: skip
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(sys.argv),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "seconds": {},
    }
    for name in args.parts.split(",") if args.parts else list(parts)[:-3]:
        start = time.perf_counter()
        try:
            result[name] = parts[name](args)
        except Exception as error:  # the other parts are worth their time all the same
            result[name] = {"failed": repr(error)}
        result["seconds"][name] = time.perf_counter() - start
        args.out.write_text(json.dumps(result, indent=2))
        print(f"{name}: {result['seconds'][name]:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
