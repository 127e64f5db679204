"""From what a user types to checkpoints, and from checkpoints to rows of a spectrum."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pctool.core import checkpoint as checkpoints
from pctool.core.layers.state import LayerState
from pctool.errors import InputError
from pctool.spectrum.measure import Row, measure

WHAT_TO_GIVE = "give a checkpoint, a run folder or a pattern such as 'runs/*/checkpoints/*.pt'"


def find_checkpoints(inputs: Sequence[str]) -> list[Path]:
    """The checkpoint files meant by files, run folders (all their checkpoints) and globs, each once, in that order.

    Raises InputError for an input that gives none.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        matches = (
            [Path(text)] if Path(text).exists() else [Path(name) for name in sorted(glob.glob(text, recursive=True))]
        )
        paths = [path for match in matches for path in _of_one(match)]
        if not paths:
            raise InputError(f"no checkpoint at {text}: {WHAT_TO_GIVE}")
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _of_one(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return checkpoints.list_checkpoints(path) or sorted(path.glob("*.pt"))


def measure_checkpoints(
    paths: Sequence[Path],
    network: checkpoints.Network = "D",
    pattern: str = "*",
    advance: Callable[[int], object] = lambda n: None,
) -> list[Row]:
    """A row a checkpoint by rising step, of the layers whose name fits the glob `pattern`.

    Raises InputError for a file that is no checkpoint, two of the same step, networks that differ, or a
    pattern that no layer fits.
    """
    rows: dict[int, Row] = {}
    origin: dict[int, Path] = {}
    structure: list[Any] | None = None
    for path in paths:
        checkpoint = checkpoints.read(path)
        step = int(checkpoint["step"])
        if step in rows:
            raise InputError(f"{origin[step]} and {path} are both of step {step}: give the checkpoints of one run")
        states = checkpoints.layer_states(checkpoint, network)
        structure = structure or _structure(states)
        if _structure(states) != structure:
            raise InputError(f"{paths[0]} and {path} hold different networks: give the checkpoints of one run")
        rows[step], origin[step] = measure(step, states, pattern), path
        advance(1)
    return [rows[step] for step in sorted(rows)]


def _structure(states: Sequence[LayerState]) -> list[Any]:
    return [(state.name, tuple(state.weight.shape), state.sigma_hat is None) for state in states]
