"""Images a second of `pctool train` against a plain PyTorch loop with stock spectral norm, a step of each in turn.

The plain loop is what a user writes: the same residual networks with `torch.nn.utils.parametrizations.spectral_norm`
on every layer of D, float32, contiguous NCHW, a DataLoader over uint8 images, D on real and fake in passes of their
own, no average of G. Beside it what two lines make of that loop (`plain-channels-last`) and two more
(`plain-bf16`, channels_last under autocast). Ours is `pctool.training.loop.train` itself, a step at a time, each
method in float32 and in bf16: batches, noise, finiteness checks and the average of G included. Each round takes one
step of every variant in turn, another one first each time; figures are medians over the rounds, ratios medians of
each round's own ratios. The plain loops have a process of their own, since `pctool train` sets how its process keeps
memory; one of the two waits while the other computes.

    python benchmarks/throughput.py --resolutions 32,48 --batch-size 32 --threads 2 --json

`outside_compute` is what a real run of `--outside-method` spends outside of training proper. Each part is timed in it
by itself; the share is sum(seconds of a part / its default interval) / (seconds of a step + that sum).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.nn.utils.parametrizations import spectral_norm as stock_spectral_norm
from torch.utils.data import DataLoader, TensorDataset

from pctool.core.layers.preconditioner import preconditioned_layers
from pctool.core.models import DIM_Z, build_discriminator, build_generator, default_widths, resampling
from pctool.core.models.factored import FactoredConv2d
from pctool.core.models.resnet import Generator
from pctool.data.feed import MappedFeed
from pctool.data.sampler import SampleOrder
from pctool.training import loop, session, step_end
from pctool.training.background import Background
from pctool.training.config import TrainConfig, resolve
from pctool.training.memory import keep_freed_memory
from pctool.training.recorder import Watcher
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest
from pctool.training.state import TrainingState

PLAIN = ("plain", "plain-channels-last", "plain-bf16")
N_IMAGES = 4096  # of noise: convolutions and copies take as long for them as for photographs
# What a step pays once in so many steps, and the setting whose default says so; None: at every step.
PARTS = {
    "next batch": None,
    "dequantise": None,
    "report": None,
    "log": "log_every",
    "spectrum row": "spectrum_every",
    "sample grid": "sample_every",
    "checkpoint": "save_every",
}


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Our networks as a user writes them: PyTorch's own operations, one after the other."""

    def convolve(layer: FactoredConv2d, x: torch.Tensor, halve: bool = False) -> torch.Tensor:
        y = torch.nn.Conv2d.forward(layer, x)
        return F.avg_pool2d(y, 2) if halve else y

    def doubled(x: torch.Tensor, upsampling: str, _: torch.Tensor | None = None) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode=upsampling)

    operations = mock.patch.multiple(
        resampling,
        double_and_convolve=lambda x, weight, bias: F.conv2d(doubled(x, "nearest"), weight, bias, padding=1),
        doubled=doubled,
        average_pool=lambda x: F.avg_pool2d(x, 2),
    )
    with operations, mock.patch.object(FactoredConv2d, "forward", convolve):
        yield


class Plain:
    """The loop that a user writes, (1,1) with hinge loss."""

    def __init__(self, kind: str, resolution: int, args: argparse.Namespace, images: np.ndarray) -> None:
        self.device = args.device
        self.autocast = torch.autocast(args.device, torch.bfloat16, enabled=kind == "plain-bf16")
        layout = torch.contiguous_format if kind == "plain" else torch.channels_last
        width_g, width_d = default_widths("resnet", resolution)
        torch.manual_seed(0)
        self.G = build_generator("resnet", resolution, 3, args.width_g or width_g, args.variant)
        self.D = build_discriminator("resnet", resolution, 3, args.width_d or width_d, args.variant)
        for network in (self.G, self.D):
            network.to(device=args.device, memory_format=layout)  # type: ignore[call-overload]
        assert isinstance(self.G, Generator)
        # Ours goes over to channels_last in G's forward; here the first block gets the format asked for.
        self.G.blocks.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous(memory_format=layout))
        self.layout = layout
        for layer in preconditioned_layers(self.D).values():
            stock_spectral_norm(layer)
        self.optim_g = torch.optim.Adam(self.G.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optim_d = torch.optim.Adam(self.D.parameters(), lr=2e-4, betas=(0.5, 0.999))
        data = TensorDataset(torch.from_numpy(images))
        self.loader = DataLoader(data, args.batch_size, shuffle=True, drop_last=True)
        self.batches = iter(self.loader)

    @as_written()
    def step(self) -> float:
        """Trains D, then G; the seconds it took."""
        start = _now(self.device)
        pixels = next(self.batches, None)
        if pixels is None:
            self.batches = iter(self.loader)
            pixels = next(self.batches)
        real = pixels[0].to(self.device).float().div(127.5).sub(1).contiguous(memory_format=self.layout)
        with self.autocast:
            fake = self.G(torch.randn(len(real), DIM_Z, device=self.device))
            on_real, on_fake = self.D(real), self.D(fake.detach())
        loss_d = F.relu(1 - on_real.float()).mean() + F.relu(1 + on_fake.float()).mean()
        self.optim_d.zero_grad()
        loss_d.backward()
        self.optim_d.step()
        with self.autocast:
            logits = self.D(self.G(torch.randn(len(real), DIM_Z, device=self.device)))
        loss_g = -logits.float().mean()
        self.optim_g.zero_grad()
        loss_g.backward()
        self.optim_g.step()
        loss_d.item(), loss_g.item()  # what a progress bar shows
        return _now(self.device) - start


class Ours:
    """`loop.train` on one state, a step at a time; bf16 and float32 take turns on it."""

    def __init__(self, method: str, resolution: int, args: argparse.Namespace, images: np.ndarray) -> None:
        self.config = configuration(method, resolution, args)
        self.state = TrainingState(self.config)
        feed = MappedFeed(images, self.state.device)
        self.reals = feed.batches(SampleOrder(len(feed), 0).batches(0, args.batch_size))
        self.draw = self.state.draw

    def step(self, precision: str) -> float:
        """One step; its seconds, from drawing for it until the loop asks whether to stop."""
        clock = _Clock(self.config.device)

        def draw(*arguments: Any) -> Any:
            clock.start()
            return self.draw(*arguments)

        self.state.draw = draw  # type: ignore[method-assign, assignment]
        settings = {"steps": self.state.step + 1, "precision": precision}
        self.state.config = self.config.model_copy(update=settings)
        folder = RunFolder(self.config.out)  # without a recorder nothing is written
        loop.train(self.state, self.reals, folder, stop=clock, recorder=None, scorer=None)
        return clock.seconds


class _Clock(StopRequest):
    """Measures a step of the loop: it is asked to stop at the end of each."""

    seconds = 0.0

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def start(self) -> None:
        self.started = _now(self.device)

    @property
    def requested(self) -> bool:
        self.seconds = _now(self.device) - self.started
        return False


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def configuration(method: str, resolution: int, args: argparse.Namespace, **settings: Any) -> TrainConfig:
    """What `pctool train --method METHOD` resolves to, on images of a path: `fpc-7` is fpc with degree 7."""
    name, _, degree = method.partition("-")
    widths = {key: value for key in ("width_g", "width_d") if (value := getattr(args, key))}
    flags = {
        "dataset": "./images.zip",
        "resolution": resolution,
        "method": name,
        "d_iters": 1,
        "arch": "resnet",
        "variant": args.variant,
        "batch_size": args.batch_size,
        "device": args.device,
        "out": Path("-"),
    }
    return resolve({**flags, **({"degree": int(degree)} if degree else {}), **widths, **settings})


def plain_variants(resolution: int, args: argparse.Namespace, images: np.ndarray) -> dict[str, Callable[[], float]]:
    """A step of each plain loop, by its name."""
    kinds = [kind for kind in PLAIN if "bf16" in args.precisions or "bf16" not in kind]
    return {kind: Plain(kind, resolution, args, images).step for kind in kinds}


def our_variants(resolution: int, args: argparse.Namespace, images: np.ndarray) -> dict[str, Callable[[], float]]:
    """A step of each method in each precision."""
    if args.device == "cpu":
        keep_freed_memory()
    variants: dict[str, Callable[[], float]] = {}
    for method in args.methods.split(","):
        ours = Ours(method, resolution, args, images)
        for precision in args.precisions.split(","):
            variants[f"{method} {precision}"] = lambda ours=ours, precision=precision: ours.step(precision)  # type: ignore[misc]
    return variants


def serve(connection: Connection, make: Callable[..., dict[str, Callable[[], float]]], *arguments: Any) -> None:
    """In a process of its own: says which variants there are, then takes a step of each that it is asked for."""
    resolution, args = arguments
    if args.threads:
        torch.set_num_threads(args.threads)
    images = np.random.default_rng(0).integers(0, 256, (N_IMAGES, 3, resolution, resolution), dtype=np.uint8)
    variants = make(resolution, args, images)
    connection.send(list(variants))
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            connection.send(variants[connection.recv()]())


@contextlib.contextmanager
def apart(*arguments: Any) -> Iterator[dict[str, Connection]]:
    """Every variant's connection, by its name."""
    connections: dict[str, Connection] = {}
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as at_end:
        for make in (plain_variants, our_variants):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, make, *arguments), daemon=True)
            process.start()
            at_end.callback(process.join)
            at_end.callback(here.close)  # ends it
            there.close()
            connections |= dict.fromkeys(here.recv(), here)
        yield connections


def compare(resolution: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every variant at one resolution: images a second, seconds a step, and how many times the plain loop's speed."""
    with apart(resolution, args) as variants:
        seconds = in_turn(variants, resolution, args)
    ratios = {
        name: [plain / own for plain, own in zip(seconds["plain"], values, strict=True)]
        for name, values in seconds.items()
    }
    return {
        "images_per_second": {name: args.batch_size / statistics.median(values) for name, values in seconds.items()},
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "speed_of_plain": {name: statistics.median(values) for name, values in ratios.items()},
        "lowest_and_highest": {name: (min(values), max(values)) for name, values in ratios.items()},
    }


def in_turn(variants: dict[str, Connection], resolution: int, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each variant's steps, a step a round."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-args.warm_up, args.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            variants[name].send(name)
            taken = variants[name].recv()
            if number >= 0:
                seconds[name].append(taken)
        print(f"{resolution} px, round {number + 1} of {args.rounds}", file=sys.stderr)
    return seconds


def outside_compute(resolution: int, args: argparse.Namespace) -> dict[str, Any]:
    """What a real run of a few steps spends outside of training proper: seconds of each part, and the whole's share."""
    parts = Parts(args.device)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.zip"
        make_images(images, resolution, 8 * args.batch_size)
        config = configuration(
            args.outside_method,
            resolution,
            args,
            dataset=str(images),
            out=Path(folder) / "run",
            precision="auto",
            steps=args.rounds + 2,  # the first warms up, and the last is not seen to end
            **{name: 1 for name in PARTS.values() if name},
        )
        cache = mock.patch.dict(os.environ, PCTOOL_CACHE_DIR=folder)  # the decoded images go with the rest
        with cache, mock.patch.object(loop, "train", parts), session.opened(config) as opened:
            opened.train(Watcher())
    seconds = {part: statistics.median(values[1:]) for part, values in parts.seconds.items()}
    every = {part: TrainConfig.model_fields[name].default if name else 1 for part, name in PARTS.items()}
    outside = sum(seconds[part] / every[part] for part in PARTS)
    training = statistics.median(parts.steps[1:])
    return {
        "method": args.outside_method,
        "precision": config.precision,
        "seconds": seconds,
        "every_steps": every,
        "seconds_a_step_outside": outside,
        "seconds_a_step_training": training,
        "share": outside / (training + outside),
    }


def make_images(path: Path, resolution: int, count: int) -> None:
    """A ZIP of `count` PNG images of noise."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)).save(buffer, "PNG")
            archive.writestr(f"{i:06d}.png", buffer.getvalue())


class InLine(Background):
    """Does what it is given at once, so that it is timed as if the training waited."""

    def __call__(self, work: Callable[..., object], *arguments: Any) -> None:
        work(*arguments)


class Parts:
    """Stands in for `loop.train`: times what it calls outside of training proper, and what is left of each step.

    What is written in the background counts in whole: an upper bound, exact where no core is free for it.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self.steps: list[float] = []
        self.now: dict[str, float] = {}
        self.train = loop.train

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, counted to `part` of the step under way."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            start = _now(self.device)
            result = work(*arguments, **named)
            self.now[part] = self.now.get(part, 0.0) + _now(self.device) - start
            return result

        return wrapped

    def __call__(self, state: Any, reals: Any, run: Any, *, recorder: Any, **rest: Any) -> bool:
        """`loop.train` with its helpers timed; the step before ends where the next sets the learning rates."""
        for owner, name, part in (
            (state, "dequantise", "dequantise"),
            (state, "checkpoint", "checkpoint"),
            (run, "save_checkpoint", "checkpoint"),
            (run, "save_samples", "sample grid"),
            (recorder, "report", "report"),
            (recorder, "log", "log"),
            (state.preconditioner, "layer_states", "spectrum row"),
            (recorder, "record_spectrum", "spectrum row"),
        ):
            setattr(owner, name, self.timed(part, getattr(owner, name)))
        set_learning_rates, started = state.set_learning_rates, _now(self.device)

        def begin() -> None:
            nonlocal started
            now = _now(self.device)
            if self.now.keys() == PARTS.keys():  # a whole step lies behind
                self.steps.append(now - started - sum(self.now.values()))
                for part, spent in self.now.items():
                    self.seconds[part].append(spent)
            self.now, started = {}, now
            set_learning_rates()

        state.set_learning_rates = begin
        batches = iter(self.timed("next batch", lambda: next(reals)), None)
        timed_sample = mock.patch.object(step_end, "sample", self.timed("sample grid", step_end.sample))
        with timed_sample, mock.patch.object(step_end, "Background", InLine):
            return self.train(state, batches, run, recorder=recorder, **rest)


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolutions", default="32,48", help="of 32, 48, 64, 128, 256")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--variant", choices=["authors", "sngan"], default="sngan")
    parser.add_argument("--width-g", type=int, help="SN-GAN's own without it")
    parser.add_argument("--width-d", type=int)
    parser.add_argument("--methods", default="sn,fpc-3,fpc-7,apc,svd", help="of none, sn, fpc-3 to fpc-9, apc, svd")
    parser.add_argument("--precisions", default="fp32,bf16", help="of fp32, tf32, bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before them that do not count")
    parser.add_argument("--outside-method", default="fpc-7", help="whose share outside of training is measured")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": args.batch_size,
        "variant": args.variant,
        "rounds": args.rounds,
        "resolutions": {},
    }
    for resolution in map(int, args.resolutions.split(",")):
        measured = compare(resolution, args)
        measured["outside_compute"] = outside_compute(resolution, args)
        result["resolutions"][str(resolution)] = measured
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for resolution, measured in result["resolutions"].items():
        print(f"{resolution} px, batch {args.batch_size}, {result['threads']} threads")
        for name, speed in measured["images_per_second"].items():
            ratio, (low, high) = measured["speed_of_plain"][name], measured["lowest_and_highest"][name]
            print(f"{name:20} {speed:8.1f} images/s  {ratio:.2f} of plain ({low:.2f} to {high:.2f})")
        outside = measured["outside_compute"]
        print(f"outside of training: {outside['share']:.2%} of {outside['method']} in {outside['precision']}")


if __name__ == "__main__":
    main(sys.argv[1:])
