"""Frechet distance and streamed moments against closed forms, SciPy and NumPy."""

import numpy as np
import pytest
import scipy.linalg

from pctool.errors import InputError
from pctool.evaluation.frechet import Moments, frechet_distance


def random_moments(rng, d, n):
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)
    return x, x.mean(0), np.cov(x, rowvar=False)


def test_one_dimension():
    """In one dimension the distance is (m1 - m2)^2 + (s1 - s2)^2 for deviations s."""
    found = frechet_distance(np.array([1.0]), np.array([[4.0]]), np.array([-2.0]), np.array([[9.0]]))
    assert found == pytest.approx(9.0 + 1.0, rel=1e-14)


def test_commuting_covariances():
    """Where both covariances share eigenvectors Q, it is |m1 - m2|^2 + |sqrt(l1) - sqrt(l2)|^2 of the eigenvalues."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((7, 7)))[0]
    first, second = rng.uniform(0.1, 5, (2, 7))
    mean = rng.standard_normal((2, 7))
    expected = ((mean[0] - mean[1]) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    found = frechet_distance(mean[0], (Q * first) @ Q.T, mean[1], (Q * second) @ Q.T)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 20, 100])
def test_equals_the_matrix_square_root(d):
    """On random positive definite covariances it equals the usual formula with scipy.linalg.sqrtm."""
    rng = np.random.default_rng(d)
    (_, mean_a, cov_a), (_, mean_b, cov_b) = (random_moments(rng, d, 3 * d + 5) for _ in range(2))
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n_a", "n_b"), [(20, 25), (20, 300), (300, 20)])
def test_rank_deficient(n_a, n_b):
    """With fewer vectors than dimensions it equals the nuclear-norm form: tr (AB)^1/2 = |X_a X_b^T|_*, centred."""
    rng = np.random.default_rng(1)
    d = 120
    (a, mean_a, cov_a), (b, mean_b, cov_b) = random_moments(rng, d, n_a), random_moments(rng, d, n_b)
    product = (a - mean_a) @ (b - mean_b).T / np.sqrt((n_a - 1) * (n_b - 1))
    cross = np.linalg.svd(product, compute_uv=False).sum()
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-8)


def test_zero_on_itself_and_symmetric():
    """d(a, a) is 0 to rounding, for full and for deficient rank, and d(a, b) = d(b, a)."""
    rng = np.random.default_rng(2)
    for n in (15, 200):
        (_, mean_a, cov_a), (_, mean_b, cov_b) = (random_moments(rng, 40, n) for _ in range(2))
        assert frechet_distance(mean_a, cov_a, mean_a, cov_a) < 1e-9 * np.trace(cov_a)
        forth = frechet_distance(mean_a, cov_a, mean_b, cov_b)
        assert forth == pytest.approx(frechet_distance(mean_b, cov_b, mean_a, cov_a), rel=1e-10)


def test_a_point_has_no_covariance():
    """Against a covariance of zero the distance is |m1 - m2|^2 + the trace of the other."""
    found = frechet_distance(np.ones(3), np.zeros((3, 3)), np.zeros(3), 2 * np.eye(3))
    assert found == pytest.approx(3 + 6, rel=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_is_an_error(bad):
    """NaN or infinity in moments or features is an InputError, never a number."""
    cov = np.eye(2)
    cov[0, 1] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), cov)
    with pytest.raises(InputError, match="NaN or infinity"):
        Moments(2).update(np.array([[0.0, bad]], np.float32))


def test_streaming_equals_numpy():
    """Batches of uneven size give numpy's mean and cov, even where the mean dwarfs the deviation."""
    x = np.random.default_rng(3).standard_normal((501, 6)) + 1e6
    moments = Moments(6)
    for start in range(0, 501, 64):
        moments.update(x[start : start + 64])
    moments.update(x[:0])
    assert moments.n == 501
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.cov, np.cov(x, rowvar=False), rtol=1e-8, atol=1e-10)


def test_merge_equals_all_at_once():
    """Merging two halves gives the moments of the whole, in either order."""
    x = np.random.default_rng(4).standard_normal((90, 5)) ** 3
    whole, first, second = Moments.of(x), Moments.of(x[:30]), Moments.of(x[30:])
    second.merge(first)
    assert second.n == 90
    np.testing.assert_allclose(second.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(second.cov, whole.cov, rtol=1e-12, atol=1e-14)


def test_one_vector_has_no_covariance():
    """A covariance of fewer than two vectors is a ValueError."""
    with pytest.raises(ValueError, match="at least two"):
        _ = Moments.of(np.zeros((1, 3))).cov


@pytest.mark.parametrize("decades", [2, 8, 12])
@pytest.mark.parametrize("n", [200, 50, 60])
def test_ill_conditioned_covariances_keep_their_digits(n, decades):
    """Where variances fall over many decades it equals the nuclear norm of the features' triangles to 1e-12, for full
    and for deficient rank, and is 0 on itself to 1e-13."""
    rng = np.random.default_rng(decades)
    x, y = (
        rng.standard_normal((n, 60)) * np.logspace(0, -decades / 2, 60) @ np.linalg.qr(rng.random((60, 60)))[0]
        for _ in range(2)
    )
    cov = np.cov(x, rowvar=False)
    assert frechet_distance(x.mean(0), cov, x.mean(0), cov) < 1e-13
    roots = [np.linalg.qr((v - v.mean(0)) / np.sqrt(n - 1), "r") for v in (x, y)]
    delta = x.mean(0) - y.mean(0)
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    expected = delta @ delta + sum((root * root).sum() for root in roots) - 2 * cross
    found = frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    assert found == pytest.approx(expected, rel=1e-12)
