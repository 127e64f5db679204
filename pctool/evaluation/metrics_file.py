"""The answer of `pctool eval`: scores with everything that decided them (format `pctool-metrics`)."""

from __future__ import annotations

import platform
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
    n_real: int
    n_fake: int
    split: str | None
    resolution: int
    resizer: str
    network: str | None
    bn: str | None
    seed: int
    extractor: str
    extractor_sha256: str
    real_sha256: str
    skipped: list[str]


class Metrics(_Strict):
    """One evaluation. `notes` are remarks on how far the scores can be trusted."""

    format: Literal["pctool-metrics"] = "pctool-metrics"
    version: Literal[1] = 1
    step: int | None
    scores: dict[str, float]
    protocol: Protocol
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
