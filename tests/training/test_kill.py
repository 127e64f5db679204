"""A run that is killed again and again loses nothing that was saved, and ends as if nothing had happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .test_session import assert_same_run, spectrum, stats

ROOT = Path(__file__).parents[2]


def _campaign(folder: Path, method: str, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.kill_campaign", str(folder), method, str(kills)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert killed["moment"] + killed["call"] == kills, "the run was over before"
    assert killed["best"] > 10
    assert_same_run(folder / "whole", folder / "killed")
    steps = [line["step"] for line in stats(folder / "killed")]
    assert steps == list(range(1, steps[-1] + 1))
    assert spectrum(folder / "killed")["step"].tolist() == sorted({*range(0, steps[-1], 5), steps[-1]})
    names = {path.name for path in (folder / "killed").rglob("*")}
    assert {name for name in names if name.endswith((".tmp", ".damaged"))} == set()
    assert names == {path.name for path in (folder / "whole").rglob("*")}


def test_four_kills(tmp_path: Path) -> None:
    """The same as below, four times, for the method with most state."""
    _campaign(tmp_path, "apc", 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sn", "fpc", "apc", "svd"])
def test_sixty_kills(tmp_path: Path, method: str) -> None:
    """60 SIGKILLs during one run, at random moments and between the calls of whoever writes: after each, every file
    with a checkpoint's name is whole and none is lost; in the end all weights are those of a run without a pause,
    bit for bit, logs and spectrum have every line once, and nothing is left lying about."""
    _campaign(tmp_path, method, 60)
