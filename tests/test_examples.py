"""The examples run as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pctool.data.catalog import load
from pctool.evaluation import features
from pctool.evaluation.frechet import Moments, frechet_distance

ROOT = Path(__file__).parent.parent


def plug_in(folder: Path, *options: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / "plug_in.py"), "--out", str(folder / "samples.png"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def samples(folder: Path) -> np.ndarray:
    """uint8 [64, 1, 32, 32], out of the grid of 8 x 8 with a border of 2 pixels."""
    grid = np.asarray(Image.open(folder / "samples.png").convert("L"))
    return np.stack([grid[2 + 34 * i :, 2 + 34 * j :][:32, :32] for i in range(8) for j in range(8)])[:, None]


def test_the_plug_in_example_trains_with_and_without_the_line(tmp_path: Path) -> None:
    """Three steps: with the line the weights in use are bounded by g, without it they are as they were drawn."""
    with_line, plain = plug_in(tmp_path, "--steps", "3"), plug_in(tmp_path, "--steps", "3", "--plain")
    for text in (with_line, plain):
        assert "step 3: D" in text
        assert text.count("modified kappa") == 4
    assert with_line != plain
    assert samples(tmp_path).std() > 0


@pytest.mark.slow
def test_the_plug_in_examples_line_makes_its_loop_stable(tmp_path: Path) -> None:
    """300 steps: with the line the Frechet distance of the samples (fashion-cnn) is well under the plain loop's."""
    extractor = features.load("fashion-cnn")
    images = load("fashion-mnist").images
    reference = Moments.of(extractor(images[:2000])[0])
    distances = []
    for options in ((), ("--plain",)):
        plug_in(tmp_path, *options)
        found = Moments.of(extractor(samples(tmp_path))[0])
        distances.append(frechet_distance(found.mean, found.cov, reference.mean, reference.cov))
    assert distances[0] < 0.75 * distances[1]
