"""The one pass over the samples: moments, features and class probabilities as they come, and the scores of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError
from pctool.evaluation.feature_store import FeatureStore
from pctool.evaluation.features import INCEPTION, Extractor
from pctool.evaluation.frechet import Moments, frechet_distance
from pctool.evaluation.inception_score import InceptionScore
from pctool.evaluation.kid import kid
from pctool.evaluation.precision_recall import precision_recall
from pctool.evaluation.reference import Reference

Metric = Literal["fid", "kid", "is", "pr"]
# Only Inception's scores are called so; another network's name follows the other keys.
INCEPTION_KEYS = {"fid": "fid", "kid": "kid", "is": "inception_score", "precision": "precision", "recall": "recall"}
OTHER_KEYS = {"fid": "fd", "kid": "kd", "is": "is", "precision": "precision", "recall": "recall"}


@dataclass
class View:
    """The network behind one resizer, what the real images gave it, and the moments of the samples so far."""

    extractor: Extractor
    known: Reference | None
    moments: Moments | None = None

    def add(self, features: NDArray[np.float32]) -> None:
        """Adds features [n, d] of samples. InputError where the real images' are of another dimension."""
        dim = features.shape[1]
        if self.moments is None:
            self.moments = Moments(dim)
            theirs = dim if self.known is None else len(self.known.statistics.mean)
            if theirs != dim:
                raise InputError(f"the statistics are of {theirs:,} features, {self.extractor.name} gives {dim:,}")
        self.moments.update(features)


def compare(
    fake: Iterable[NDArray[np.uint8]],
    views: Sequence[View],
    metrics: Sequence[Metric],
    *,
    n_fake: int,
    n_is: int,
    seed: int,
    advance: Callable[[int], object],
) -> tuple[dict[str, float], tuple[int, ...]]:
    """The scores of samples that arrive in batches uint8 [b, C, H, W], and the shape [C, H, W] of the first.

    The first `n_fake` count for all but the inception score, which takes the first `n_is`; the Frechet distance is
    computed in every view, all else in the first. ValueError where another number of samples comes.
    """
    inception = InceptionScore(n_is, seed=seed)
    store = FeatureStore(n_fake)
    seen, shape = 0, ()
    expected = max(n_fake, n_is) if "is" in metrics else n_fake
    for batch in fake:
        shape = shape or batch.shape[1:]
        n_counted = max(0, min(len(batch), n_fake - seen))
        n_classified = max(0, min(len(batch), n_is - seen)) if "is" in metrics else 0
        for i, view in enumerate(views):
            n = max(n_counted, n_classified) if i == 0 else n_counted
            if n == 0:
                continue
            features, probabilities = view.extractor(batch[:n])
            if n_counted:
                view.add(features[:n_counted])
            if i == 0 and n_counted and {"kid", "pr"} & set(metrics):
                store.append(features[:n_counted])
            if i == 0 and n_classified and probabilities is not None:
                inception.update(probabilities[:n_classified])
        seen += len(batch)
        advance(len(batch))
    if seen != expected:
        raise ValueError(f"{seen} samples came, {expected} were announced")
    return _scores(views, metrics, store, inception, seed), shape


def _scores(
    views: Sequence[View], metrics: Sequence[Metric], store: FeatureStore, inception: InceptionScore, seed: int
) -> dict[str, float]:
    extractor, known = views[0].extractor, views[0].known
    scores: dict[str, float] = {}
    if "fid" in metrics:
        for view in views:
            assert view.moments is not None
            assert view.known is not None
            theirs = view.known.statistics
            suffix = "_legacy" if view.extractor.resizer == "legacy" else ""
            distance = frechet_distance(view.moments.mean, view.moments.cov, theirs.mean, theirs.cov)
            scores[key("fid", extractor) + suffix] = distance
    if "kid" in metrics:
        assert known is not None
        assert known.features is not None
        found = kid(store.features, known.features, seed=seed)
        for suffix, value in zip(("", "_std", "_se"), found, strict=True):
            scores[key("kid", extractor) + suffix] = value
    if "is" in metrics:
        name = key("is", extractor)
        scores[name], scores[f"{name}_std"] = inception.result()
    if "pr" in metrics:
        assert known is not None
        assert known.features is not None
        scores[key("precision", extractor)], scores[key("recall", extractor)] = precision_recall(
            known.features, store.features
        )
    return scores


def key(score_name: str, extractor: Extractor) -> str:
    """The name a score is published under: Inception's own, or with the network's name."""
    if extractor.name == INCEPTION:
        return INCEPTION_KEYS[score_name]
    return f"{OTHER_KEYS[score_name]}_{extractor.name}"
