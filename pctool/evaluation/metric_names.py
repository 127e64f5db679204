"""The scores by the names that are asked for; imports nothing heavy, so that a misspelt one is refused at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from pctool.errors import InputError, did_you_mean

Metric = Literal["fid", "kid", "is", "pr"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def chosen(text: str) -> tuple[Metric, ...]:
    """The metrics in a list with commas, in the order of METRICS. InputError for any other name, and for none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        guess = did_you_mean(unknown[0], METRICS) if unknown else ""
        raise InputError(f"--metrics {text!r}: allowed are {', '.join(METRICS)}, separated by commas{guess}")
    return tuple(metric for metric in METRICS if metric in names)


def distance_of(names: Iterable[str]) -> str | None:
    """The distance to the data among an evaluation's scores: `fid`, else `fid_legacy`, else the first `fd_...`."""
    known = list(names)
    distances = [name for name in known if name.startswith("fd_") and not name.endswith(("_std", "_se"))]
    return next((name for name in ["fid", "fid_legacy", *distances] if name in known), None)
