"""Scores of a set of images against real ones, in one pass over the samples; training calls this too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError
from pctool.evaluation.features import INCEPTION, Extractor
from pctool.evaluation.frechet import Moments, frechet_distance
from pctool.evaluation.images import array_sha256
from pctool.evaluation.inception_score import InceptionScore
from pctool.evaluation.kid import kid
from pctool.evaluation.metrics_file import Metrics, Protocol, versions
from pctool.evaluation.reference import Reference, reference

Metric = Literal["fid", "kid", "is"]
METRICS: tuple[Metric, ...] = get_args(Metric)
INCEPTION_KEYS = {"fid": "fid", "kid": "kid", "is": "inception_score"}  # only Inception's scores are called so
OTHER_KEYS = {"fid": "fd", "kid": "kd", "is": "is"}  # followed by the network's name


def score(
    fake: Iterable[NDArray[np.uint8]],
    real: NDArray[np.uint8],
    extractor: Extractor,
    *,
    n_fake: int,
    n_real: int | None = None,
    metrics: Sequence[Metric] = METRICS,
    seed: int = 0,
    batch_size: int = 100,
    real_sha256: str | None = None,
    protocol: str = "custom",
    split: str | None = None,
    network: str | None = None,
    bn: str | None = None,
    step: int | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> Metrics:
    """Scores `n_fake` samples that arrive in batches, uint8 [b, C, H, W], against real images uint8 [N, C, H, W].

    `n_real` of them (all). `seed` draws KID's subsets and the parts of the inception score, and is recorded as the
    seed of the samples. `real_sha256` identifies the real images in the cache (else they are hashed here).
    `protocol`, `split`, `network`, `bn` and `step` are only recorded. `advance` counts n_real + n_fake images.

    InputError: counts that cannot be, or images the extractor does not take. ValueError: not `n_fake` samples came.
    """
    n_real = len(real) if n_real is None else n_real
    _check_counts(n_fake, n_real, len(real))
    extractor.check(real.shape[1:])
    real_sha256 = real_sha256 or array_sha256(real)
    skipped = []
    if "is" in metrics and not extractor.has_probabilities:
        skipped.append("is: the extractor's weights give no class probabilities")
    known = reference(
        real,
        extractor,
        n_real=n_real,
        real_sha256=real_sha256,
        with_features="kid" in metrics,
        batch_size=batch_size,
        advance=advance,
    )
    wanted = [metric for metric in metrics if metric != "is" or extractor.has_probabilities]
    scores, shape = _compare(fake, known, extractor, wanted, n_fake=n_fake, seed=seed, advance=advance)
    dim = len(known.moments.mean)
    return Metrics(
        step=step,
        scores=scores,
        protocol=Protocol(
            name=protocol,
            n_real=n_real,
            n_fake=n_fake,
            split=split,
            resolution=shape[1],
            resizer=extractor.resizer,
            network=network,
            bn=bn,
            seed=seed,
            extractor=extractor.name,
            extractor_sha256=extractor.sha256,
            real_sha256=real_sha256,
            skipped=skipped,
        ),
        notes=_notes(extractor, wanted, n=min(n_fake, n_real), dim=dim, fake_shape=shape, real_shape=real.shape[1:]),
        versions=versions(),
    )


def _compare(
    fake: Iterable[NDArray[np.uint8]],
    known: Reference,
    extractor: Extractor,
    metrics: Sequence[Metric],
    *,
    n_fake: int,
    seed: int,
    advance: Callable[[int], object],
) -> tuple[dict[str, float], tuple[int, ...]]:
    """The pass over the samples: their scores, and the shape [C, H, W] they have."""
    moments = Moments(len(known.moments.mean))
    inception = InceptionScore(n_fake, seed=seed)
    parts = []
    shape: tuple[int, ...] = ()
    for batch in fake:
        shape = batch.shape[1:]
        features, probabilities = extractor(batch)
        moments.update(features)
        if "kid" in metrics:
            parts.append(features)
        if "is" in metrics and probabilities is not None:
            inception.update(probabilities)
        advance(len(batch))
    if moments.n != n_fake:
        raise ValueError(f"{moments.n} samples came, {n_fake} were announced")
    scores: dict[str, float] = {}
    if "fid" in metrics:
        distance = frechet_distance(moments.mean, moments.cov, known.moments.mean, known.moments.cov)
        scores[_key("fid", extractor)] = distance
    if "kid" in metrics:
        assert known.features is not None
        _add(scores, _key("kid", extractor), kid(np.concatenate(parts), known.features, seed=seed))
    if "is" in metrics:
        _add(scores, _key("is", extractor), inception.result())
    return scores, shape


def _key(metric: Metric, extractor: Extractor) -> str:
    return INCEPTION_KEYS[metric] if extractor.name == INCEPTION else f"{OTHER_KEYS[metric]}_{extractor.name}"


def _add(scores: dict[str, float], key: str, mean_and_std: tuple[float, float]) -> None:
    scores[key], scores[f"{key}_std"] = mean_and_std


def _check_counts(n_fake: int, n_real: int, available: int) -> None:
    if n_real > available:
        raise InputError(f"--n-real {n_real:,} is more than the {available:,} real images there are; ask for fewer")
    if min(n_fake, n_real) < 2:
        raise InputError(f"scores take at least 2 images a side, not {n_fake} samples and {n_real} real ones")


def _notes(
    extractor: Extractor,
    metrics: Sequence[Metric],
    *,
    n: int,
    dim: int,
    fake_shape: tuple[int, ...],
    real_shape: tuple[int, ...],
) -> list[str]:
    notes = [extractor.note] if extractor.note else []
    if "fid" in metrics and n <= dim:
        notes.append(
            f"{n:,} images are too few for {dim:,} features: the covariance has not full rank and "
            f"{_key('fid', extractor)} is biased upwards; compare it at equal counts only"
        )
    if fake_shape != real_shape:
        notes.append(
            f"the samples are {fake_shape[2]}x{fake_shape[1]}, the real images {real_shape[2]}x{real_shape[1]}"
        )
    return notes
