"""What scores need of the real images, computed once: moments and features, cached under all that decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError, WriteError
from pctool.evaluation import statistics_file
from pctool.evaluation.feature_store import FeatureStore
from pctool.evaluation.features import Extractor
from pctool.evaluation.frechet import Moments
from pctool.evaluation.images import Images
from pctool.evaluation.statistics_file import About, Statistics
from pctool.files import sha256_of, write_beside
from pctool.places import cache_dir

CACHE_VERSION = 2  # raise it with any change of what is computed here or in `features`
SUBSET_SEED = 0  # which n of the real images: always the same ones, whatever the seed of the samples


@dataclass(frozen=True)
class Reference:
    """Of the real images: moments of their features, and the features float32 [n, d] where they were asked for.

    `notes`: for the result.
    """

    statistics: Statistics
    features: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()


def reference(
    real: Images,
    extractor: Extractor,
    *,
    n_real: int,
    split: str | None = None,
    with_features: bool,
    batch_size: int,
    advance: Callable[[int], object],
) -> Reference:
    """The reference of `n_real` of the images, from the cache or computed into it.

    Fewer than all are a fixed random subset, so that the order of a sorted folder does not matter. A damaged cache
    file is computed anew. Features are memory-mapped. A cache that cannot be written costs another computation the
    next time, and a note says so.
    """
    about = About(
        n=n_real,
        split=split,
        resolution=real.shape[1],
        resizer=extractor.resizer,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        real_sha256=real.sha256,
    )
    path = _cache_path(about, extractor.size)
    stored = _read(path, about, with_features)
    if stored is not None:
        advance(n_real)
        return stored
    moments: Moments | None = None
    store = FeatureStore(n_real)
    for batch in real.batches(batch_size, subset(len(real), n_real)):
        features, _ = extractor(batch)
        moments = moments or Moments(features.shape[1])
        moments.update(features)
        if with_features:
            store.append(features)
        advance(len(features))
    assert moments is not None
    features_of_all = store.features if with_features else None
    try:
        return _write(path, about, moments, features_of_all)
    except WriteError as error:
        unkept = f"the real images' statistics are not kept, so that the next score computes them again: {error}"
        return Reference(Statistics(moments.mean, moments.cov, about), features_of_all, (unkept,))


def subset(total: int, n: int) -> list[int]:
    """Which `n` of `total` images count: a fixed random choice, in rising order."""
    return np.sort(np.random.default_rng(SUBSET_SEED).permutation(total)[:n]).tolist()


def from_statistics(path: Path, extractor: Extractor) -> Reference:
    """The reference in a statistics file, with notes on what it does not say.

    InputError where it says that it is of another network or resizer, or where its dimension is another.
    """
    statistics = statistics_file.read(path)
    about = statistics.about
    if about is None:
        unsaid = f"{path} does not say its network, resizer and number of images: they are taken to be the same"
        return Reference(statistics, notes=(unsaid,))
    for what, theirs, ours in (
        ("network", about.extractor, extractor.name),
        ("weights", about.extractor_sha256, extractor.sha256),
        ("resizer", about.resizer, extractor.resizer),
    ):
        if theirs != ours:
            raise InputError(f"{path} is of the {what} {theirs}, the samples are scored with {ours}; use the same")
    return Reference(statistics)


def _cache_path(about: About, size: int) -> Path:
    key = {"cache": CACHE_VERSION, "subset_seed": SUBSET_SEED, "size": size, **about.model_dump()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "reference" / f"{about.extractor}-{about.resizer}-{about.n}-{digest[:32]}.npz"


def _read(path: Path, about: About, with_features: bool) -> Reference | None:
    """What the cache holds, None where it holds nothing whole (a flipped bit fails a CRC, or the features' hash)."""
    try:
        statistics = statistics_file.read(path)
    except InputError:
        return None
    found = statistics.about
    if found is None or found.model_copy(update={"features_sha256": None}) != about:
        return None
    if not with_features:
        return Reference(statistics)
    features_path = _features_path(path)
    try:
        if sha256_of(features_path) != found.features_sha256:
            return None
        features = np.lib.format.open_memmap(features_path, mode="r")
    except (OSError, ValueError):
        return None
    return Reference(statistics, features)


def _write(path: Path, about: About, moments: Moments, features: NDArray[np.float32] | None) -> Reference:
    """Features first: the moments' file names their hash, and so is never ahead of them."""
    if features is not None:
        features_path = _features_path(path)
        with write_beside(features_path, features.nbytes) as temporary:
            with temporary.open("wb") as file:
                np.lib.format.write_array(file, features, allow_pickle=False)
            about = about.model_copy(update={"features_sha256": sha256_of(temporary)})
        features = np.lib.format.open_memmap(features_path, mode="r")
    statistics = Statistics(moments.mean, moments.cov, about)
    statistics_file.write(path, statistics)
    return Reference(statistics, features)


def _features_path(path: Path) -> Path:
    return path.with_suffix(".features.npy")
