"""Kernel distance against its definition."""

import numpy as np
import pytest

from pctool.evaluation.kid import kernel, kid, mmd2


def by_loops(x, y):
    """The unbiased estimate, pair by pair."""

    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize(("n", "m"), [(12, 12), (9, 17)])
def test_mmd2_equals_the_double_loop(n, m):
    """`mmd2` is the double sum over pairs without the diagonal, for equal and unequal counts."""
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, 5)), rng.standard_normal((m, 5)) + 0.3
    assert mmd2(x, y) == pytest.approx(by_loops(x, y), rel=1e-12)


def test_kernel():
    """The kernel is (x.y / d + 1)^3."""
    x, y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(kernel(x, y), [[6.5**3, 1.0]], rtol=1e-15)


def test_unbiased():
    """For two draws of one distribution the estimate averages to 0, and is below 0 about as often as above."""
    rng = np.random.default_rng(0)
    values = np.array([mmd2(rng.standard_normal((20, 4)), rng.standard_normal((20, 4))) for _ in range(800)])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(800)
    assert 0.3 < (values < 0).mean() < 0.8


def test_whole_sets_need_one_evaluation():
    """Where a subset is the whole on both sides, KID is mmd2 of the whole, with deviation 0 and whatever the seed."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((50, 8)).astype(np.float32), rng.standard_normal((50, 8)).astype(np.float32) + 1
    mean, std, error = kid(x, y, seed=3)
    assert mean == pytest.approx(mmd2(x.astype(np.float64), y.astype(np.float64)), rel=1e-12)
    assert std == error == 0
    assert kid(x, y, seed=4)[0] == pytest.approx(mean, rel=1e-12)


def test_subsets_are_seeded_and_estimate_the_whole():
    """Subsets: same seed, same value; another seed another, both within their errors of the whole's value."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((600, 8)), rng.standard_normal((500, 8)) + 0.5
    first, again, other = (kid(x, y, seed=seed, n_subsets=50, subset_size=100) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    for mean, std, error in (first, other):
        assert error == pytest.approx(std / np.sqrt(50))
        assert std > 0
        assert abs(mean - mmd2(x, y)) < 5 * std / np.sqrt(50)


def test_one_vector_is_too_few():
    """The diagonal-free sums need two vectors a side: a ValueError otherwise."""
    with pytest.raises(ValueError, match="at least two"):
        kid(np.ones((1, 3)), np.ones((5, 3)), seed=0)
