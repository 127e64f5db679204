"""What a run's files say, read from outside while the run writes them; what is cut or damaged counts as absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pctool.errors import InputError

TAIL = 2**16  # bytes of a log that are read: some hundred lines of stats.jsonl


@dataclass(frozen=True)
class Score:
    """The last evaluation: its first distance (fid, else the first there is), and its step."""

    name: str
    value: float
    step: int


@dataclass(frozen=True)
class Kappa:
    """The last row of the live spectrum: the largest condition numbers of D's effective weights; may be inf."""

    step: int
    max_kappa: float
    max_modified_kappa: float


@dataclass(frozen=True)
class Alarm:
    """What RUN/alarm.json says."""

    step: int | None
    reason: str


def last_score(run: Path) -> Score | None:
    """The last evaluation in metrics.jsonl; None where there is none."""
    for line in reversed(last_lines(run / "metrics.jsonl")):
        scores, step = line.get("scores"), number(line.get("step"))
        if not isinstance(scores, dict) or step is None:
            continue
        found = {name: value for name in scores if (value := number(scores[name])) is not None}
        first = [name for name in found if name == "fid" or name.startswith("fd_")]
        if found:
            name = "fid" if "fid" in found else (first or list(found))[0]
            return Score(name, found[name], int(step))
    return None


def n_fake(entry: Mapping[str, Any]) -> int:
    """Of how many samples an entry of metrics.jsonl is: of several at one step that of most counts."""
    protocol = entry.get("protocol")
    n = protocol.get("n_fake") if isinstance(protocol, dict) else None
    return n if isinstance(n, int) else 0


def last_kappa(run: Path) -> Kappa | None:
    """The last whole row of spectrum.h5; None where there is none to read."""
    if not (run / "spectrum.h5").exists():
        return None
    from pctool.spectrum.reader import read_summary  # late: without a spectrum h5py is not needed

    try:
        spectrum = read_summary(run / "spectrum.h5")
    except InputError:
        return None
    if not len(spectrum.steps):
        return None
    last = {name: float(values[-1]) for name, values in spectrum.summary.items()}
    return Kappa(int(spectrum.steps[-1]), last["max_kappa"], last["max_modified_kappa"])


def alarm(run: Path) -> Alarm | None:
    """What alarm.json says; None where there is none."""
    path = run / "alarm.json"
    if not path.exists():
        return None
    said = read_object(path)
    step = number(said.get("step"))
    return Alarm(None if step is None else int(step), str(said.get("reason", "alarm.json cannot be read")))


def read_object(path: Path) -> dict[str, Any]:
    """A small JSON object; empty where there is none to read."""
    try:
        with path.open("rb") as file:
            return _parsed(file.read(TAIL))
    except OSError:
        return {}


def last_lines(path: Path) -> list[dict[str, Any]]:
    """The last lines of a log, without those that are cut or damaged."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read(TAIL).splitlines()
    except OSError:
        return []
    return [entry for line in lines if (entry := _parsed(line))]


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def refuse(word: str) -> NoReturn:
    """For `json.loads`, to which NaN and the infinities would be numbers."""
    raise ValueError(word)


def number(value: object) -> float | None:
    """A finite number, or None."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if fits else None  # type: ignore[arg-type]
