"""What a run's files say, read from outside while the run writes them; what is cut or damaged counts as absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from pctool.errors import InputError
from pctool.evaluation.metric_names import distance_of

MAX_DIGITS = 18  # of a number that any array can hold
TAIL = 2**16  # bytes of a log that are read: some hundred lines of stats.jsonl


class RunRecord(BaseModel):
    """config.json: the resolved configuration, its identity with the hash of the data, versions, command line."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]
    identity: dict[str, Any]
    identity_sha256: str
    versions: dict[str, str]
    command: list[str]


@dataclass(frozen=True)
class Score:
    """The last evaluation that has a distance to the data: its name and value, and the step."""

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
    """The last such evaluation in metrics.jsonl; None where there is none."""
    for line in reversed(last_lines(run / "metrics.jsonl")):
        found, step = scores_of(line), number(line.get("step"))
        if step is not None and (name := distance_of(found)):
            return Score(name, found[name], int(step))
    return None


def scores_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The scores in an entry of metrics.jsonl that are numbers."""
    scores = entry.get("scores")
    given = scores if isinstance(scores, dict) else {}
    return {name: value for name in given if (value := number(given[name])) is not None}


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
    """The last entries of a log; none where there is none to read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return entries(file.read(TAIL))
    except OSError:
        return []


def entries(log: bytes) -> list[dict[str, Any]]:
    """What the lines of a log say, without those that a crash has cut or damaged."""
    return [entry for line in log.split(b"\n") if (entry := _parsed(line))]


def up_to(log: bytes, step: int) -> bytes:
    """A log without what it says beyond `step`, and without lines that speak of no step."""
    steps = [(line, number(_parsed(line).get("step"))) for line in log.split(b"\n")]
    return b"".join(line + b"\n" for line, its in steps if its is not None and its <= step)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _refuse(word: str) -> NoReturn:
    """NaN and the infinities, which to `json.loads` would be numbers."""
    raise ValueError(word)


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


def number(value: object) -> float | None:
    """A finite number, or None."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if fits else None  # type: ignore[arg-type]
