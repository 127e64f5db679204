"""The committed comparison with a plain PyTorch loop (benchmarks/throughput.py)."""

import contextlib
import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pctool.core.models import build_discriminator, build_generator

ROOT = Path(__file__).parents[2]


def test_the_plain_loop_takes_every_operation_in_turn():
    """FLOP of a forward pass at 32 px, by hand: 3 x 3 convolutions at the full resolution, each 2 * 9 * in * out a
    pixel. Without `as_written` the same networks have fewer, and return the same."""
    script = importlib.util.spec_from_file_location("throughput", ROOT / "benchmarks" / "throughput.py")
    throughput = importlib.util.module_from_spec(script)
    script.loader.exec_module(throughput)
    torch.manual_seed(0)
    G, D = build_generator("resnet", 32, 3, 8, "sngan"), build_discriminator("resnet", 32, 3, 8, "sngan")
    z = torch.randn(2, 128)
    found = []
    for how in (throughput.as_written(), contextlib.nullcontext()):
        with how, torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits = D(G(z))
        found.append((counter.get_total_flops(), logits))
    pixels = (4**2, 8**2, 16**2, 32**2)
    nine, one = 2 * 9 * 8 * 8, 2 * 8 * 8
    of_g = 2 * 128 * 8 * 16 + sum(2 * nine * after + one * before for before, after in pairwise(pixels))
    of_g += 2 * 9 * 8 * 3 * pixels[3]
    of_d = (
        2 * 9 * 3 * 8 * pixels[3] + nine * pixels[3] + 2 * 3 * 8 * pixels[2]
    )  # first block: at 32 px, its shortcut at 16
    of_d += 2 * nine * pixels[2] + one * pixels[1] + 4 * nine * pixels[1] + 2 * 8
    assert found[0][0] == 2 * (of_g + of_d)
    assert found[1][0] < 0.75 * found[0][0]
    torch.testing.assert_close(*(logits for _, logits in found), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_throughput_benchmark_runs():
    """On tiny networks: every variant is timed against the plain loop, and the share outside of training is the sum of
    its parts over their default intervals.
    """
    options = (
        "--width-g 8 --width-d 8 --batch-size 4 --rounds 1 --resolutions 32 --methods fpc-7 --precisions fp32,bf16"
    )
    command = [sys.executable, str(ROOT / "benchmarks" / "throughput.py"), *options.split(), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["resolutions"]["32"]
    seconds = found["seconds"]
    assert seconds.keys() == {"plain", "plain-channels-last", "plain-bf16", "fpc-7 fp32", "fpc-7 bf16"}
    for name, value in seconds.items():
        assert found["images_per_second"][name] == pytest.approx(4 / value)
        assert found["speed_of_plain"][name] == pytest.approx(seconds["plain"] / value)
    outside = found["outside_compute"]
    assert outside["every_steps"] == {
        "next batch": 1,
        "dequantise": 1,
        "report": 1,
        "log": 50,
        "spectrum row": 500,
        "sample grid": 1000,
        "checkpoint": 1000,
    }
    assert all(value > 0 for value in outside["seconds"].values())
    spent = sum(value / outside["every_steps"][part] for part, value in outside["seconds"].items())
    assert outside["share"] == pytest.approx(spent / (spent + outside["seconds_a_step_training"]))
