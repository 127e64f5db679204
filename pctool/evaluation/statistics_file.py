"""Moments of features as a file: `mu` and `sigma`, which clean-fid, pytorch-fid and StyleGAN's kin write too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pctool.errors import InputError
from pctool.evaluation.images import UNREADABLE_NPZ
from pctool.files import write_beside

ABOUT = "pctool"  # the member of ours that says what the moments are of


class About(BaseModel):
    """What moments are of: the images, and the network with its resizer. `features_sha256`: of a file beside them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = "pctool-statistics"
    version: int = 1
    n: int
    split: str | None = None
    resolution: int
    resizer: str
    extractor: str
    extractor_sha256: str
    real_sha256: str
    features_sha256: str | None = None


@dataclass(frozen=True)
class Statistics:
    """Mean [d] and covariance [d, d] in float64; `about` is None in a file of another toolkit."""

    mean: NDArray[np.float64]
    cov: NDArray[np.float64]
    about: About | None


def is_statistics(path: Path) -> bool:
    """Whether the file is an .npz with `mu` and `sigma`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {"mu", "sigma"} <= set(arrays.files)
    except (*UNREADABLE_NPZ, AttributeError):  # a bare .npy has no names
        return False


def read(path: Path) -> Statistics:
    """The moments in an .npz. InputError where they are damaged, not finite or of no fitting shapes."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            mean, cov = np.asarray(arrays["mu"], np.float64), np.asarray(arrays["sigma"], np.float64)
            about = About.model_validate_json(str(arrays[ABOUT])) if ABOUT in arrays.files else None
    except (*UNREADABLE_NPZ, ValidationError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} is no statistics file ({reason}); it is an .npz with mu [d] and sigma [d, d]"
        ) from None
    if mean.ndim != 1 or cov.shape != (mean.size, mean.size):
        raise InputError(f"{path}: mu is {list(mean.shape)}, sigma {list(cov.shape)}; they must be [d] and [d, d]")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise InputError(f"{path} holds NaN or infinity; write it again")
    return Statistics(mean, cov, about)


def write(path: Path, statistics: Statistics) -> None:
    """Writes the moments, whole or not at all. WriteError."""
    arrays: dict[str, NDArray] = {"mu": statistics.mean, "sigma": statistics.cov}
    if statistics.about is not None:
        arrays[ABOUT] = np.array(json.dumps(statistics.about.model_dump()))
    size = sum(array.nbytes for array in arrays.values())
    with write_beside(path, size) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
