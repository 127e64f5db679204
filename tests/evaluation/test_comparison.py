"""Samples collected in parts, as several processes do, against one pass."""

import itertools
import pickle

import numpy as np
import pytest

from pctool.evaluation import comparison
from pctool.evaluation.comparison import View, collect, joined, scores_of
from pctool.evaluation.frechet import Moments
from pctool.evaluation.metric_names import METRICS
from pctool.evaluation.reference import Reference
from pctool.evaluation.statistics_file import Statistics
from tests.evaluation.flat import flat

RNG = np.random.default_rng(0)
FAKE = RNG.integers(0, 200, (95, 1, 3, 3), np.uint8)
REAL = RNG.integers(0, 256, (80, 9), np.uint8).astype(np.float32) / 255


def views(n=1):
    moments = Moments.of(REAL)
    known = Reference(Statistics(moments.mean, moments.cov, None), REAL)
    return [View(flat(), known)] * n


def part(first, end, n_fake, **options):
    batches = (FAKE[start : min(start + 10, end)] for start in range(first, end, 10))
    return collect(batches, views(), METRICS, n_fake=n_fake, n_is=95, seed=2, first=first, **options)


@pytest.mark.parametrize("edges", [(0, 50, 95), (0, 10, 20, 90, 95), (0, 70, 70, 95)])
@pytest.mark.parametrize("n_fake", [95, 60])
def test_parts_give_the_scores_of_the_whole(edges, n_fake):
    """Parts that went through pickle, joined in their order, give every score of one pass to 1e-12; a part may be
    empty, or lie beyond the samples that the distances count."""
    whole = scores_of(part(0, 95, n_fake), views(), METRICS, n_expected=95, seed=2)
    parts = [part(first, end, n_fake) for first, end in itertools.pairwise(edges)]
    together = joined([pickle.loads(pickle.dumps(each)) for each in parts])
    assert (together.n, together.moments[0].n, together.shape) == (95, n_fake, (1, 3, 3))
    np.testing.assert_array_equal(together.features, part(0, 95, n_fake).features)
    found = scores_of(together, views(), METRICS, n_expected=95, seed=2)
    assert set(found) >= {"fd_flat", "kd_flat", "is_flat", "precision_flat"}
    assert found == pytest.approx(whole, rel=1e-12)


def test_a_missing_part_is_noticed():
    """Fewer samples than announced are a ValueError, not a score."""
    with pytest.raises(ValueError, match="50 samples came, 95 were announced"):
        scores_of(joined([part(0, 50, 95)]), views(), METRICS, n_expected=95, seed=2)


def test_one_part_is_not_copied():
    """A process alone keeps its features where they are: in the file that has no name."""
    alone = part(0, 95, 95)
    assert comparison.joined([alone]).features is alone.features
