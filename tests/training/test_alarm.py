"""The kappa alarm on synthetic series."""

import math

import pytest

from pctool.training.alarm import collapse


def series(*pairs):
    """(step, mean, worst) rows, 500 steps apart."""
    return [(500 * i, mean, worst) for i, (mean, worst) in enumerate(pairs)]


COLLAPSING = [(3, 8), (6, 15), (10, 30), (13, 50), (18, 113)]  # towards Table 1's failed CIFAR-10 run


def test_a_collapsing_run_is_told_at_the_third_row_above_the_limits():
    """Rising kappa: silent until three rows in turn are above both limits, then named with step and numbers."""
    rows = series(*COLLAPSING)
    assert [collapse(rows[:n]) is not None for n in range(6)] == [False, False, False, False, False, True]
    assert "step 2,000" in collapse(rows)
    assert "18.0" in collapse(rows)
    assert "1/113" in collapse(rows)


@pytest.mark.parametrize(
    "pairs",
    [
        [(3.2, 22.7)] * 9,  # Table 1's FPC-3 on CIFAR-10: one uneven layer, the mean is low
        [(4.4, 23.8)] * 9,  # its FPC-3 on STL-10
        [(12, 15)] * 9,  # many layers uneven, none of them collapsed
        [(30, 300), (20, 200), (12, 90)],  # recovering
        [(18, 113), (18, 113)],  # two rows only
        [(18, 113), (2, 3), (18, 113)],  # one good row in between
        [(9.97, 59.7), (10.2, 61), (10.4, 65.1), (10.4, 65)],  # a narrow network, as it was drawn
        [(18, 113), (math.nan, math.nan), (18, 113)],
    ],
)
def test_what_is_no_collapse(pairs):
    """Good runs of the paper, a recovery, too few rows, gaps."""
    assert collapse(series(*pairs)) is None


def test_an_infinite_kappa_counts():
    """A rank that is lost is the end of the road, not missing evidence."""
    assert collapse(series((math.inf, math.inf), (math.inf, math.inf), (math.inf, math.inf))) is not None
