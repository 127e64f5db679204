"""The answer of `pctool eval`: scores with everything that decided them (format `pctool-metrics`)."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Sequence
from importlib import metadata
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# What a score depends on: numerics, the classifiers, the resizer.
PACKAGES = ("pctool", "torch", "torchvision", "numpy", "pillow", "clean-fid")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Protocol(_Strict):
    """What was compared with what, and how; `None` where it does not apply (a folder has no network)."""

    name: str
    n_real: int | None  # None: a statistics file that does not say it
    n_fake: int
    n_is: int | None = None  # samples of the inception score
    split: str | None
    resolution: int
    resizer: str
    network: str | None
    bn: str | None
    batch_size: int | None = None
    seed: int
    extractor: str
    extractor_sha256: str
    real_sha256: str
    skipped: list[str]


class Repeats(_Strict):
    """The same evaluation with other z: their seeds, the scores of each, and the standard deviation of each score."""

    seeds: list[int]
    scores: list[dict[str, float]]
    std: dict[str, float]


class Metrics(_Strict):
    """One evaluation, or the mean of several. `notes` are remarks on how far the scores can be trusted."""

    format: Literal["pctool-metrics"] = "pctool-metrics"
    version: Literal[1] = 1
    step: int | None
    scores: dict[str, float]
    protocol: Protocol
    repeats: Repeats | None = None
    notes: list[str] = Field(default_factory=list)
    versions: dict[str, str]


def versions() -> dict[str, str]:
    """Python's version and those of the packages in PACKAGES; `source` for one that is not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "source"
    return found


def mean_of(answers: Sequence[Metrics]) -> Metrics:
    """Several evaluations of one network as one: each score's mean, and its deviation (n - 1) in `repeats`."""
    first = answers[0]
    values = {key: [answer.scores[key] for answer in answers] for key in first.scores}
    repeats = Repeats(
        seeds=[answer.protocol.seed for answer in answers],
        scores=[answer.scores for answer in answers],
        std={key: statistics.stdev(found) for key, found in values.items()},
    )
    means = {key: statistics.fmean(found) for key, found in values.items()}
    return first.model_copy(update={"scores": means, "repeats": repeats})
