"""The scores by the names that are asked for; imports nothing heavy, so that a misspelt one is refused at once."""

from __future__ import annotations

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
