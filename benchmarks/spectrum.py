"""How fast are spectra? Against PyTorch's SVD in the same process, and WeightWatcher on the same file.

    python benchmarks/spectrum.py --json
    python benchmarks/spectrum.py --json --weightwatcher ~/weightwatcher/bin/python

Random weights in the shapes of torchvision's ResNet-50, of the 48 px discriminator and of the 32 px one. Repeats
of the two ways to singular values are interleaved; medians count. Then `pctool spectrum` and, given a Python that
has it, WeightWatcher (once) read the same state dict in turn, each in a process of its own, start-up included.
WeightWatcher is asked for the singular values alone (`describe`, `get_ESD`); with --analyze for its power-law
analysis as well. With WeightWatcher it takes three minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

# ruff: noqa: E402  # the libraries read the environment when they load
for library in ("OMP", "OPENBLAS", "MKL"):  # as the command does: its threads share layers, not matrices
    os.environ[f"{library}_NUM_THREADS"] = "1"

import torch
import torchvision
import typer

from pctool.core.layers.state import LayerState
from pctool.core.models import build_discriminator
from pctool.spectrum.measure import measure
from pctool.spectrum.state_dicts import layer_states

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GRID = 16
# Seconds that each of these may take on two cores.
LIMITS = {"resnet50_command": 8.0, "discriminator_48": 1.0, "discriminator_32_operator": 2.0}
LEAST_RATIO = 5.0  # of PyTorch's SVD to ours

WEIGHTWATCHER = """
import sys, time, warnings, logging, json
logging.disable(logging.CRITICAL); warnings.simplefilter("ignore")
import torch, torchvision, weightwatcher
model = torchvision.models.resnet50()
model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
watcher = weightwatcher.WeightWatcher(model=model)
start = time.perf_counter()
if sys.argv[2] == "esd":
    for layer in watcher.describe().layer_id:
        watcher.get_ESD(layer=int(layer))
else:
    watcher.analyze()
print(json.dumps({"version": weightwatcher.__version__, "inside_seconds": time.perf_counter() - start}))
"""


def resnet50() -> dict[str, torch.Tensor]:
    """Its state dict, randomly initialised."""
    torch.manual_seed(0)
    return torchvision.models.resnet50().state_dict()


def discriminator(resolution: int, width: int) -> list[LayerState]:
    """The layers of the residual discriminator, randomly initialised."""
    torch.manual_seed(0)
    return layer_states(build_discriminator("resnet", resolution, 3, width, "authors").state_dict())


def svdvals(states: list[LayerState]) -> None:
    """What PyTorch offers: float64, all cores."""
    torch.set_num_threads(CORES)
    for state in states:
        torch.linalg.svdvals(state.weight.flatten(1).double())


def interleaved(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turn so that a disturbance meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


# A process inherits its parent's peak memory: this parent of a few MiB keeps ours, with PyTorch loaded, out of it.
METER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - start
last = (done.stdout.rstrip().splitlines() or [""])[-1]
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
extra = json.loads(last) if last.startswith("{") else {}
print(json.dumps({"seconds": seconds, "peak_mib": peak, **extra}))
sys.exit(done.returncode)
"""


def in_child(command: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of a process, start-up included, and the JSON that ends its output."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    metered = [sys.executable, "-c", METER, *command]
    done = subprocess.run(metered, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare_commands(folder: Path, weightwatcher: str | None, analyze: bool) -> dict[str, Any]:
    """`pctool spectrum` and WeightWatcher on one file: median seconds, largest peak.

    Ours before, between and after WeightWatcher's, which takes a minute or two and so comes once.
    """
    path = folder / "resnet50.pth"
    torch.save(resnet50(), path)
    ours = [sys.executable, "-m", "pctool", "spectrum", str(path), "--out", str(folder / "x.h5"), "--force", "--json"]
    commands = {"pctool_spectrum": ours}
    for way in ["esd", *(["analyze"] if analyze else [])] if weightwatcher else []:
        commands[f"weightwatcher_{way}"] = [str(weightwatcher), "-c", WEIGHTWATCHER, str(path), way]
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for name, command in commands.items():
        taken[name].append(in_child(command))
        taken["pctool_spectrum"].append(in_child(ours))
    return {
        name: {
            **{key: all_of[-1][key] for key in ("version", "inside_seconds") if key in all_of[-1]},
            "runs": len(all_of),
            "seconds": statistics.median(one["seconds"] for one in all_of),
            "peak_mib": max(one["peak_mib"] for one in all_of),
        }
        for name, all_of in taken.items()
    }


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Of each way.")] = 5,
    weightwatcher: Annotated[
        str | None, typer.Option(metavar="PYTHON", help="An interpreter that has WeightWatcher, to compare with it.")
    ] = None,
    analyze: Annotated[bool, typer.Option(help="Also WeightWatcher's own analysis, which takes minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Prints the ratio of torch.linalg.svdvals' time to ours, and the times of whole commands."""
    states = layer_states(resnet50())
    large, small = discriminator(48, 64), discriminator(32, 128)
    measure(0, small, threads=CORES)  # threads and libraries are warm
    resnet = interleaved(
        {"gram": lambda: measure(0, states, threads=CORES), "svdvals": lambda: svdvals(states)}, repeats
    )
    torch.set_num_threads(1)  # as the command has it; only svdvals is given all cores
    alone = interleaved(
        {
            "discriminator_48": lambda: measure(0, large, threads=CORES),
            "discriminator_32_operator": lambda: measure(0, small, grid=GRID, threads=CORES),
        },
        repeats,
    )
    with tempfile.TemporaryDirectory() as folder:
        commands = compare_commands(Path(folder), weightwatcher, analyze)
    ratio = resnet["svdvals"] / resnet["gram"]
    seconds = {"resnet50_command": commands["pctool_spectrum"]["seconds"], **alone}
    answer = {
        "cores": CORES,
        "torch": torch.__version__,
        "repeats": repeats,
        "resnet50": {"layers": len(states), **resnet, "ratio": ratio},
        "discriminator_48": {"layers": len(large), "seconds": alone["discriminator_48"]},
        "discriminator_32_operator": {
            "layers": len(small),
            "grid": GRID,
            "seconds": alone["discriminator_32_operator"],
        },
        "resnet50_file": commands,
        "limits": {"least_ratio": LEAST_RATIO, **LIMITS},
        "kept": {"ratio": ratio >= LEAST_RATIO, **{name: seconds[name] < limit for name, limit in LIMITS.items()}},
    }
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    print(f"ResNet-50: {resnet['gram']:.2f} s, torch.linalg.svdvals {resnet['svdvals']:.2f} s, {ratio:.1f} times")
    for name, limit in LIMITS.items():
        print(f"{name}: {seconds[name]:.2f} s (limit {limit:g} s)")
    for name, taken in commands.items():
        print(f"{name}: {taken['seconds']:.1f} s, {taken['peak_mib']:.0f} MiB")


if __name__ == "__main__":
    typer.run(main)
