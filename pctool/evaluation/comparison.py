"""The one pass over the samples: moments, features and class probabilities as they come, and the scores of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError
from pctool.evaluation.feature_store import FeatureStore
from pctool.evaluation.features import INCEPTION, Extractor
from pctool.evaluation.frechet import Moments, frechet_distance
from pctool.evaluation.inception_score import InceptionScore
from pctool.evaluation.kid import kid
from pctool.evaluation.metric_names import Metric
from pctool.evaluation.precision_recall import precision_recall
from pctool.evaluation.reference import Reference

# Only Inception's scores are called so; another network's name follows the other keys.
INCEPTION_KEYS = {"fid": "fid", "kid": "kid", "is": "inception_score", "precision": "precision", "recall": "recall"}
OTHER_KEYS = {"fid": "fd", "kid": "kd", "is": "is", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class View:
    """The network behind one resizer, and what the real images gave it (None where only the samples count)."""

    extractor: Extractor
    known: Reference | None = None

    def moments(self, dim: int) -> Moments:
        """Empty moments of `dim` features. InputError where the real images' are of another dimension."""
        theirs = dim if self.known is None else len(self.known.statistics.mean)
        if theirs != dim:
            raise InputError(f"the statistics are of {theirs:,} features, {self.extractor.name} gives {dim:,}")
        return Moments(dim)


@dataclass
class Collected:
    """What scores need of `n` samples in a row, of [C, H, W] `shape`.

    Moments of every view that has seen some, in their order; the first view's features, float32 [n, d], where they
    are needed; and its probabilities' sums.
    """

    moments: list[Moments]
    features: NDArray[np.float32] | None
    inception: InceptionScore
    n: int
    shape: tuple[int, ...]


def collect(
    fake: Iterable[NDArray[np.uint8]],
    views: Sequence[View],
    metrics: Sequence[Metric],
    *,
    n_fake: int,
    n_is: int,
    seed: int,
    first: int = 0,
    advance: Callable[[int], object] = lambda n: None,
) -> Collected:
    """What there is to know of samples that arrive in batches uint8 [b, C, H, W]: all, or those from `first` on.

    Of the whole set the first `n_fake` count for all but the inception score, which takes the first `n_is`; the
    Frechet distance is computed in every view, all else in the first.
    """
    inception = InceptionScore(n_is, seed=seed, first=first)
    store = FeatureStore(n_fake)
    moments: list[Moments] = []
    n, shape = 0, ()
    for batch in fake:
        shape = shape or batch.shape[1:]
        n_counted = max(0, min(len(batch), n_fake - first - n))
        n_classified = max(0, min(len(batch), n_is - first - n)) if "is" in metrics else 0
        for i, view in enumerate(views):
            n_seen = max(n_counted, n_classified) if i == 0 else n_counted
            if n_seen == 0:
                continue
            features, probabilities = view.extractor(batch[:n_seen])
            if n_counted:
                if len(moments) == i:
                    moments.append(view.moments(features.shape[1]))
                moments[i].update(features[:n_counted])
            if i == 0 and n_counted and {"kid", "pr"} & set(metrics):
                store.append(features[:n_counted])
            if i == 0 and n_classified and probabilities is not None:
                inception.update(probabilities[:n_classified])
        n += len(batch)
        advance(len(batch))
    return Collected(moments, store.features if len(store) else None, inception, n, shape)


def joined(parts: Sequence[Collected]) -> Collected:
    """Parts of one set of samples, in the order of the samples, as if one process had seen them all."""
    whole, *others = parts
    for part in others:
        for ours, theirs in zip(whole.moments, part.moments, strict=False):  # a part beyond n_fake has none
            ours.merge(theirs)
        whole.inception.merge(part.inception)
        whole.n += part.n
    found = [part.features for part in parts if part.features is not None]
    if len(found) > 1:
        store = FeatureStore(sum(map(len, found)))
        for features in found:
            store.append(features)
        whole.features = store.features
    return whole


def scores_of(
    samples: Collected, views: Sequence[View], metrics: Sequence[Metric], *, n_expected: int, seed: int
) -> dict[str, float]:
    """The scores of all the samples by name. ValueError where they are not `n_expected`."""
    if samples.n != n_expected:
        raise ValueError(f"{samples.n} samples came, {n_expected} were announced")
    extractor, known = views[0].extractor, views[0].known
    scores: dict[str, float] = {}
    if "fid" in metrics:
        for view, moments in zip(views, samples.moments, strict=True):
            assert view.known is not None
            theirs = view.known.statistics
            suffix = "_legacy" if view.extractor.resizer == "legacy" else ""
            distance = frechet_distance(moments.mean, moments.cov, theirs.mean, theirs.cov)
            scores[key("fid", extractor) + suffix] = distance
    if "kid" in metrics:
        real, fake = _both(known, samples)
        found = kid(fake, real, seed=seed)
        for suffix, value in zip(("", "_std", "_se"), found, strict=True):
            scores[key("kid", extractor) + suffix] = value
    if "is" in metrics:
        name = key("is", extractor)
        scores[name], scores[f"{name}_std"] = samples.inception.result()
    if "pr" in metrics:
        real, fake = _both(known, samples)
        scores[key("precision", extractor)], scores[key("recall", extractor)] = precision_recall(real, fake)
    return scores


def _both(known: Reference | None, samples: Collected) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The features of the real images and of the samples."""
    assert known is not None
    assert known.features is not None
    assert samples.features is not None
    return known.features, samples.features


def key(score_name: str, extractor: Extractor) -> str:
    """The name a score is published under: Inception's own, or with the network's name."""
    if extractor.name == INCEPTION:
        return INCEPTION_KEYS[score_name]
    return f"{OTHER_KEYS[score_name]}_{extractor.name}"
