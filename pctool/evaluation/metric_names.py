"""The scores by the names that are asked for; imports nothing heavy, so that a misspelt one is refused at once."""

from __future__ import annotations

import difflib
from typing import Literal, get_args

from pctool.errors import InputError

Metric = Literal["fid", "kid", "is", "pr"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def chosen(text: str) -> tuple[Metric, ...]:
    """The metrics in a list with commas, in the order of METRICS. InputError for any other name, and for none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        close = difflib.get_close_matches(unknown[0], METRICS, n=1) if unknown else []
        guess = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"--metrics {text!r}: allowed are {', '.join(METRICS)}, separated by commas{guess}")
    return tuple(metric for metric in METRICS if metric in names)
