"""Ladders: every rung leaves the same condition number, and its polynomial is the strongest of its kind."""

import itertools

import numpy as np
import pytest

from pctool.core.polynomial import PUBLISHED
from pctool.core.polynomial_file import dump, ladder_file, read_ladder
from pctool.core.polynomial_models import check_certificate, report
from pctool.errors import InputError
from pctool.fitting.diagnosis import kappa_after
from pctool.fitting.ladder import equal_ripple, fit_ladder, published_ladder


@pytest.fixture(scope="module", params=[(5.0, 1.2), (5.0, 5.0), (1.2, 1.05)], ids=str)
def ladder(request):
    """Ladders for several goals and ripples."""
    goal, ripple = request.param
    return fit_ladder(goal, ripple=ripple)


def test_every_rung_leaves_the_same_kappa(ladder):
    """At the end of its reach each polynomial leaves the goal, to 0.2 %; below never more. Thresholds rise."""
    assert [g.degree for g in ladder.polynomials] == [3, 5, 7, 9]
    assert ladder.taus == (ladder.goal, *ladder.reach[:-1])
    assert all(a < b for a, b in itertools.pairwise([*ladder.taus, ladder.reach[-1]]))
    for tau, reach, g in zip(ladder.taus, ladder.reach, ladder.polynomials, strict=True):
        assert kappa_after(g, reach) == pytest.approx(ladder.goal, rel=2e-3)
        for kappa in np.geomspace(tau, reach, 20):
            assert kappa_after(g, kappa) <= ladder.goal


def test_norms_stay_bounded_and_certificates_hold(ladder):
    """No rung's g exceeds 1 on [0, 1.1]; each carries a valid proof that its ripple is the smallest."""
    for g in ladder.polynomials:
        assert np.abs(g(np.linspace(0, 1.1, 2001))).max() <= 1 + 1e-12
        assert report(g).max_value == pytest.approx(1, abs=1e-12)
        assert len(g.fit.certificate.points) == len(g.coeffs) + 1
        check_certificate(g)
        assert g.fit.certificate.lower_bound == pytest.approx(report(g).max_error, rel=1e-6)


def test_ripple_bounds_what_large_singular_values_differ_by(ladder):
    """On its fit's range max/min is the same for every rung, and falls are no deeper than it allows."""
    ratios = [kappa_after(g, 1 / g.fit.gamma_lower, 1.1) for g in ladder.polynomials]
    assert ratios == pytest.approx([ratios[0]] * 4, rel=2e-3)
    for rung in ladder.outcomes():
        assert rung.falls_by <= 1 - 1 / ratios[0] + 2e-3
        assert rung.at_one >= 1 / ratios[0] - 2e-3


def test_a_larger_ripple_reaches_further():
    """That is what it is for; and the published polynomials reach less than a ripple of 1.2."""
    gentle, full, published = fit_ladder(5.0), fit_ladder(5.0, ripple=5.0), published_ladder(5.0)
    assert all(a < b < c for a, b, c in zip(published.reach, gentle.reach, full.reach, strict=True))


def test_outcomes_tell_growth_and_rounding():
    """g at 1.2 and 1.5 and the rounding errors of every rung; the default's degree 9 grows six times the published."""
    default, published = fit_ladder().outcomes(), published_ladder().outcomes()
    assert (default[2].beyond[1.2], default[3].beyond[1.5]) == (
        pytest.approx(-0.10, abs=0.01),
        pytest.approx(99, abs=1),
    )
    assert (published[2].beyond[1.2], published[3].beyond[1.5]) == (
        pytest.approx(0.87, abs=0.01),
        pytest.approx(15.5, abs=0.1),
    )
    assert all(0 < rung.float32_error < rung.bfloat16_error for rung in [*default, *published])


def test_the_published_ladder_keeps_the_published_coefficients():
    """Its polynomials are the table's, its thresholds those at which each leaves 5."""
    ladder = published_ladder()
    assert ladder.polynomials == tuple(PUBLISHED.values())
    assert [kappa_after(g, reach) for g, reach in zip(ladder.polynomials, ladder.reach, strict=True)] == pytest.approx(
        [5.0] * 4, rel=2e-3
    )


def test_a_ladder_survives_its_file(tmp_path):
    """Taus, coefficients and fits come back, and train accepts every rung."""
    ladder = fit_ladder()
    (tmp_path / "l.json").write_text(dump(ladder_file(ladder.taus, ladder.polynomials)))
    assert read_ladder(tmp_path / "l.json") == (ladder.taus, ladder.polynomials)


def test_equal_ripple_is_the_scaled_minimax_fit():
    """Scaled by its own maximum, it swings between 1 and one over its kappa."""
    g = equal_ripple(7, 10.0)
    x = np.linspace(0.1, 1.1, 20_001)
    assert (g(x).max(), g(x).min()) == (pytest.approx(1, abs=1e-6), pytest.approx(1 / 2.1989, abs=1e-4))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"goal": 1.0}, "kappa-after 1 "),
        ({"goal": 200.0}, "kappa-after 200"),
        ({"goal": float("nan")}, "not allowed"),
        ({"ripple": 1.0}, "ripple of 1 "),
        ({"ripple": 6.0}, "ripple of 6 "),
        ({"gamma_upper": 1.0}, "gamma-upper 1 "),
        ({"gamma_upper": 5.0}, "gamma-upper 5 "),
    ],
)
def test_values_out_of_range_are_refused(options, hint):
    """One line with what is allowed."""
    with pytest.raises(InputError, match=hint):
        fit_ladder(**options)
