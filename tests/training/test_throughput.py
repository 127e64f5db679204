"""The committed comparison with a plain PyTorch loop (benchmarks/throughput.py)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
