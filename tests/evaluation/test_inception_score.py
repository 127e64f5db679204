"""Inception score against its definition, and at its extremes."""

import itertools

import numpy as np
import pytest

from pctool.errors import InputError
from pctool.evaluation.inception_score import InceptionScore


def direct(p, splits):
    """exp of the mean KL divergence to the marginal, a split after the other, as the definition reads."""
    scores = []
    for part in np.array_split(p, splits):
        marginal = part.mean(0, keepdims=True)
        scores.append(np.exp((part * (np.log(part) - np.log(marginal))).sum(1).mean()))
    return np.mean(scores), np.std(scores)


def streamed(p, batch=7, **options):
    score = InceptionScore(len(p), **options)
    for start in range(0, len(p), batch):
        score.update(p[start : start + batch])
    return score.result()


@pytest.mark.parametrize(("n", "splits"), [(100, 10), (103, 10), (64, 1)])
def test_equals_the_definition(n, splits):
    """Unshuffled, the streamed score and its deviation equal the direct formula, for uneven parts too."""
    p = np.random.default_rng(n).dirichlet(np.ones(6), n)
    assert streamed(p, seed=None, splits=splits) == pytest.approx(direct(p, splits), rel=1e-12)


def test_shuffle():
    """With a seed the parts are a permutation's: same seed, same score; sorted classes no longer fill one part each."""
    p = np.repeat(np.eye(10), 30, axis=0)
    assert streamed(p, seed=None)[0] == pytest.approx(1.0, rel=1e-12)
    assert streamed(p, seed=0) == streamed(p, seed=0)
    assert streamed(p, seed=0)[0] > 8
    assert streamed(p, seed=0) != streamed(p, seed=1)


def test_uniform_scores_one():
    """A classifier that never knows gives the least score, 1."""
    assert streamed(np.full((50, 10), 0.1), seed=0) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_balanced_one_hot_scores_the_number_of_classes():
    """Sure and balanced over k classes gives k, the largest score; zeros of p are no problem."""
    p = np.tile(np.eye(10), (20, 1))
    assert streamed(p, seed=None) == pytest.approx((10.0, 0.0), abs=1e-9)


def test_fewer_images_than_splits():
    """With 3 images there are 3 parts of one, each scoring 1."""
    assert streamed(np.random.default_rng(0).dirichlet(np.ones(4), 3), seed=0) == pytest.approx((1, 0), abs=1e-12)


def test_counts_are_checked():
    """More images than announced, or a result before all came, is a ValueError."""
    score = InceptionScore(3, seed=0)
    score.update(np.full((2, 4), 0.25))
    with pytest.raises(ValueError, match="2 of 3"):
        score.result()
    with pytest.raises(ValueError, match="announced"):
        score.update(np.full((2, 4), 0.25))


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("cuts", [(41,), (0, 7, 99)])
def test_parts_of_the_images_add_up(seed, cuts):
    """Streams of the first, the next and the last images, merged, are one stream of all; others do not merge."""
    p = np.random.default_rng(0).dirichlet(np.ones(6), 103)
    edges = (0, *cuts, 103)
    streams = []
    for first, end in itertools.pairwise(edges):
        streams.append(InceptionScore(103, seed=seed, first=first))
        if end > first:
            streams[-1].update(p[first:end])
    whole, *others = streams
    for other in others:
        whole.merge(other)
    assert whole.result() == pytest.approx(streamed(p, seed=seed), rel=1e-13)
    with pytest.raises(ValueError, match="do not add up"):
        whole.merge(InceptionScore(103, seed=8))


def test_damaged_weights_are_one_line():
    """Probabilities that are NaN are an InputError."""
    score = InceptionScore(4, seed=None)
    with pytest.raises(InputError, match="hold NaN"):
        score.update(np.array([[0.5, 0.5], [np.nan, 1.0]]))
