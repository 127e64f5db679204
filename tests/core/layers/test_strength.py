"""Adaptive control: the authors' rule, exactly, on synthetic spectra."""

import math
import subprocess
import sys

import pytest
import torch

from pctool.core.layers.strength import AdaptiveStrength, Ladder
from pctool.core.polynomial import IDENTITY, PUBLISHED


def with_sigmas(sigmas: list[float]) -> torch.Tensor:
    """A diagonal matrix: its singular values are exact."""
    return torch.diag(torch.tensor(sigmas, dtype=torch.float64))


def strength(*matrices: torch.Tensor, **settings) -> AdaptiveStrength:
    """After measuring and applying each in turn."""
    found = AdaptiveStrength(Ladder(), **settings)
    for W in matrices:
        found.measure(W)
        found.apply()
    return found


@pytest.mark.parametrize(
    ("kappa", "degree"),
    [(1.0, 1), (5.0, 1), (5.001, 3), (10.0, 3), (10.001, 5), (20.0, 5), (20.001, 7), (30.0, 7), (30.001, 9), (1e9, 9)],
)
def test_thresholds_and_ties(kappa, degree):
    """<= 5 identity, <= 10 degree 3, <= 20 degree 5, <= 30 degree 7, else degree 9: a tie takes the weaker."""
    assert strength(with_sigmas([kappa] * 9 + [1.0])).polynomial.degree == degree


def test_the_lowest_tenth_decides_rounded_up():
    """Of 20 values the mean of the lowest two, of 11 also two: kappa 30 over a mean of 2 is 15, degree 5."""
    for r in (20, 11):
        assert strength(with_sigmas([30.0] * (r - 2) + [3.0, 1.0])).history == pytest.approx([15.0])
        assert strength(with_sigmas([30.0] * (r - 2) + [3.0, 1.0])).polynomial.degree == 5


def test_the_mean_of_the_last_five_or_of_one():
    """40 then five of 4: means 40, 22, 16, 13, 11.2, 4; with a history of one only the newest counts."""
    high, low = with_sigmas([40.0] * 9 + [1.0]), with_sigmas([4.0] * 9 + [1.0])
    degrees = [strength(high, *[low] * n).polynomial.degree for n in range(6)]
    assert degrees == [9, 7, 5, 5, 5, 1]
    assert strength(high, low, history=1).polynomial is IDENTITY


def test_a_measurement_counts_when_it_is_applied():
    """measure changes nothing, apply does, once; the state carries a measurement that waits."""
    W = with_sigmas([40.0] * 9 + [1.0])
    waiting = AdaptiveStrength(Ladder())
    waiting.measure(W)
    assert waiting.polynomial is IDENTITY
    other = AdaptiveStrength(Ladder())
    other.load_state(waiting.state())
    W.fill_(1.0)  # what was measured is the weight as it was
    assert [waiting.apply(), waiting.apply(), other.apply()] == [True, False, True]
    assert waiting.state() == other.state() == {"coeffs": list(PUBLISHED[9].coeffs), "history": [40.0], "pending": None}


def test_infinity_gets_the_strongest():
    """A singular layer has an infinite modified kappa and the last polynomial."""
    assert Ladder().choose(math.inf) is PUBLISHED[9]
    assert strength(with_sigmas([1.0] * 5 + [0.0] * 5)).polynomial is PUBLISHED[9]


FORKED = """
import os, torch
from pctool.core.layers.strength import AdaptiveStrength, Ladder
strength = AdaptiveStrength(Ladder())
strength.measure(torch.eye(4))
assert not strength.apply()
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
strength.measure(torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-3])))
os._exit(0 if strength.apply() and strength.polynomial.degree == 9 else 1)
"""


def test_a_forked_process_measures_too():
    """The parent's thread does not exist in a child: it gets one of its own instead of waiting for ever."""
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=120, check=False).returncode == 0
