"""Everything that is worth knowing of a machine with a GPU, in one call, as one JSON file.

    python benchmarks/gpu.py --out gpu.json

The tests marked `gpu`; the kernel's errors against float64 at each precision; whole steps of each method and resolution
(`step_time.py`); steps a second of `pctool train` on images of noise, eager and compiled (CUDA graphs), with the graphs
compiled again after APC's changes counted. The file is written anew after each part, so that a time limit costs only
what is left; a part that fails is recorded with its last words. `--device cpu --quick` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from throughput import make_images

from pctool.core.layers.preconditioner import preconditioned_layers
from pctool.core.linalg import coefficient_rows, initial_vectors, precondition_batch
from pctool.core.models import build_discriminator, default_widths
from pctool.core.polynomial import PUBLISHED
from pctool.core.products import Precision, available

HERE = Path(__file__).parent
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")


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
    return command("-m", "pytest", "-q", "-m", "gpu", "-n", "0", "tests").splitlines()[-1]


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


def step_times(args: argparse.Namespace) -> dict[str, Any]:
    """`step_time.py` at each resolution, batch 64: 32 and 48 px with peak memory."""
    resolutions, batch, repeats = (("32",), "4", "1") if args.quick else (("32", "48", "128", "256"), "64", "9")
    widths = ("--width-g", "16", "--width-d", "16") if args.quick else ()
    methods = "none,stock,sn,fpc-7" if args.quick else "none,stock,sn,fpc-3,fpc-5,fpc-7,fpc-9,fpc-7-low,apc,svd,plug-in"
    return {
        resolution: json.loads(
            command(
                *("benchmarks/step_time.py", "--resolution", resolution, "--batch-size", batch, "--repeats", repeats),
                *("--methods", methods, "--device", args.device, "--json", *widths),
                *(("--memory",) if resolution in {"32", "48"} else ()),
            )
        )
        for resolution in resolutions
    }


def training(args: argparse.Namespace) -> dict[str, Any]:
    """`pctool train` at 32 px, the authors' widths, batch 64, (1,1), eager and compiled."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder) / "images.zip", 32, 512)
        for method in ("sn", "fpc", "apc"):
            for precision in ("fp32",) if args.device == "cpu" else ("fp32", "tf32", "bf16"):
                for compiled in (False,) if args.quick else (False, True):
                    name = f"{method} {precision}{' compiled' * compiled}"
                    flags = ["--method", method, "--precision", precision, *(["--compile"] if compiled else [])]
                    found[name] = _run(args, Path(folder), name.replace(" ", "-"), flags)
    return found


def _run(args: argparse.Namespace, folder: Path, name: str, flags: list[str]) -> dict[str, Any]:
    """Steps a second without a run's first tenth; how often torch compiled again, also for APC's changes."""
    steps, log_every, batch = (20, 2, 4) if args.quick else (600, 20, 64)
    flags += ["--dataset", f"{folder}/images.zip", "--resolution", "32", "--arch", "resnet", "--d-iters", "1"]
    flags += ["--batch-size", f"{batch}", "--steps", f"{steps}", "--log-every", f"{log_every}", "--eval-every", "0"]
    flags += ["--device", args.device, "--out", f"{folder}/{name}"]
    if "apc" in flags:  # thresholds so low that strengths change
        flags += ["--apc-every", "50", "--taus", "1.5,2,2.5,3"]
    if args.quick:
        flags += ["--width-g", "16", "--width-d", "16"]
    told = folder / f"{name}.log"
    logs = {"TORCH_LOGS": "recompiles", "TORCH_LOGS_OUT": str(told)}
    command("-m", "pctool", "train", *flags, PCTOOL_CACHE_DIR=str(folder), **logs)
    lines = [json.loads(line) for line in (folder / name / "stats.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] / batch for line in lines[max(1, len(lines) // 10) :]]
    return {
        "steps_per_second": statistics.median(rates),
        "compiled_again": told.read_text().count("Recompiling function") if told.exists() else 0,
        "peak_memory_mib": json.loads((folder / name / "exit.json").read_text())["peak_memory_mib"],
    }


def main() -> None:
    """Measures part after part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default="tests,errors,step_times,training")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few steps")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --quick tries the script itself")
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "tests": tests, "errors": errors, "step_times": step_times, "training": training,
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
    for name in args.parts.split(","):
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
