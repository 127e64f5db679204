"""What scores need of the real images, computed once: moments and features, cached under all that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pctool.evaluation.features import Extractor
from pctool.evaluation.frechet import Moments
from pctool.evaluation.images import UNREADABLE_NPZ
from pctool.files import write_beside
from pctool.places import cache_dir

CACHE_VERSION = 1  # raise it with any change of what is computed here or in `features`
SUBSET_SEED = 0  # which n of the real images: always the same ones, whatever the seed of the samples


@dataclass(frozen=True)
class Reference:
    """Of the real images: moments of their features, and the features float32 [n, d] where they were asked for."""

    moments: Moments
    features: NDArray[np.float32] | None


def reference(
    real: NDArray[np.uint8],
    extractor: Extractor,
    *,
    n_real: int,
    real_sha256: str,
    with_features: bool,
    batch_size: int,
    advance: Callable[[int], object],
) -> Reference:
    """The reference of `n_real` of the images uint8 [N, C, H, W], from the cache or computed into it.

    Fewer than all are a fixed random subset, so that the order of a sorted folder does not matter. A damaged cache
    file is computed anew. WriteError where the cache cannot be written.
    """
    path = _cache_path(extractor, real_sha256, n_real, with_features)
    stored = _read(path, n_real, with_features)
    if stored is not None:
        advance(n_real)
        return stored
    chosen = np.sort(np.random.default_rng(SUBSET_SEED).permutation(len(real))[:n_real])
    moments: Moments | None = None
    parts = []
    for start in range(0, n_real, batch_size):
        features, _ = extractor(real[chosen[start : start + batch_size]])
        moments = moments or Moments(features.shape[1])
        moments.update(features)
        if with_features:
            parts.append(features)
        advance(len(features))
    assert moments is not None
    computed = Reference(moments, np.concatenate(parts) if with_features else None)
    _write(path, computed)
    return computed


def _cache_path(extractor: Extractor, real_sha256: str, n_real: int, with_features: bool) -> Path:
    key = {
        "cache": CACHE_VERSION,
        "real": real_sha256,
        "n_real": n_real,
        "subset_seed": SUBSET_SEED,
        "extractor": [extractor.name, extractor.sha256, extractor.size, extractor.resizer],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    kind = "features" if with_features else "moments"
    return cache_dir() / "reference" / f"{extractor.name}-{n_real}-{digest[:32]}.{kind}.npz"


def _read(path: Path, n: int, with_features: bool) -> Reference | None:
    """What the cache holds, None where it holds nothing whole (a flipped bit fails the CRC of its archive)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            mean, cov = arrays["mean"], arrays["cov"]
            features = arrays["features"] if with_features else None
    except UNREADABLE_NPZ:
        return None
    d = mean.size
    whole = (
        mean.shape == (d,)
        and cov.shape == (d, d)
        and mean.dtype == cov.dtype == np.float64
        and np.isfinite(mean).all()
        and np.isfinite(cov).all()
        and (features is None or (features.shape == (n, d) and features.dtype == np.float32))
    )
    return Reference(Moments.restore(n, mean, cov), features) if whole else None


def _write(path: Path, computed: Reference) -> None:
    arrays: dict[str, NDArray[np.floating]] = {"mean": computed.moments.mean, "cov": computed.moments.cov}
    if computed.features is not None:
        arrays["features"] = computed.features
    with write_beside(path, sum(array.nbytes for array in arrays.values())) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
