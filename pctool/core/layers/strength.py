"""Adaptive control: which polynomial a layer gets, from its own modified condition number (paper, Sec. 3.4)."""

from __future__ import annotations

import functools
import math
import numbers
import os
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial
from pctool.core.spectra import modified_condition_number, singular_values

PUBLISHED_TAUS = (5.0, 10.0, 20.0, 30.0)  # the authors' thresholds for degrees 3, 5, 7, 9 (their public code)
HISTORY = 5  # the authors decide on the mean of so many measurements at most (public code); the paper's text on one
# A measurement counts this share of the interval later: time for it to be made beside the training, and a fixed
# step, so that a run's weights do not depend on how long that took.
DELAY = 10


@dataclass(frozen=True)
class Ladder:
    """APC's choice: `polynomials[i]` where modified kappa is above `taus[i]` and not above the next (Sec. 3.4).

    Below the first threshold the polynomial is the identity. Raises ValueError for unequal lengths or
    thresholds that do not rise.
    """

    taus: tuple[float, ...] = PUBLISHED_TAUS
    polynomials: tuple[OddPolynomial, ...] = tuple(PUBLISHED[degree] for degree in (3, 5, 7, 9))

    def __post_init__(self) -> None:
        if len(self.taus) != len(self.polynomials):
            raise ValueError(f"{len(self.polynomials)} polynomials need as many thresholds, not {len(self.taus)}")
        if list(self.taus) != sorted(set(self.taus)):
            raise ValueError(f"thresholds must rise, not {self.taus}")

    def choose(self, modified_kappa: float) -> OddPolynomial:
        """The polynomial for a modified condition number; an infinite one gets the strongest."""
        above = sum(modified_kappa > tau for tau in self.taus)
        return self.polynomials[above - 1] if above else IDENTITY


def is_due(step: int, every: int) -> bool:
    """Whether `AdaptiveStrength.follow` has anything to do at this step."""
    return step % every in (0, every // DELAY)


def check_count(name: str, value: object) -> None:
    """Raises ValueError unless the value is a whole number, 1 or more."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} is {value}, allowed is a whole number, 1 or more")


class AdaptiveStrength:
    """One layer's polynomial under APC, with the measurements it was chosen by.

    `measure` looks at the weight now, `apply` chooses by it, later and at a step that the caller fixes.
    """

    def __init__(self, ladder: Ladder, history: int = HISTORY) -> None:
        check_count("history", history)
        self.ladder = ladder
        self.longest = history
        self.polynomial = IDENTITY
        self.history: list[float] = []
        self._pending: Callable[[], float] | None = None

    def measure(self, W: Tensor) -> None:
        """Starts the measurement of W [n, m] as it is now, in float64, in a thread beside the training."""
        copy, copied = W.detach().clone(), torch.cuda.Event() if W.is_cuda else None
        if copied:  # on a stream that the thread's does not wait for
            copied.record(torch.cuda.current_stream(copy.device))
        self._pending = _measurer().submit(_modified_kappa, copy, copied).result

    def apply(self) -> bool:
        """Chooses by the mean of the last measurements; whether that changed the polynomial. Waits for the newest.

        One of weights that were not finite counts for nothing.
        """
        newest, self._pending = self._waiting(), None
        if newest is None:
            return False
        self.history = [*self.history, newest][-self.longest :]
        before = self.polynomial
        self.polynomial = self.ladder.choose(statistics.fmean(self.history))
        return self.polynomial.coeffs != before.coeffs

    def follow(self, W: Tensor, step: int, every: int) -> bool:
        """Once a step: measures W at each multiple of `every`, and a tenth of `every` later does what `apply` does."""
        if step % every == 0:
            self.measure(W)
        return step % every == every // DELAY and self.apply()

    def state(self) -> dict[str, Any]:
        """Coefficients, measurements, and the one that has not been applied yet (None without), as plain values."""
        return {
            "coeffs": list(self.polynomial.coeffs),
            "history": list(self.history),
            "pending": self._waiting(),
        }

    def _waiting(self) -> float | None:
        """The measurement that has not been applied yet; waits for it."""
        found = math.nan if self._pending is None else self._pending()
        return None if math.isnan(found) else found

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over `state()`; raises KeyError for what it lacks."""
        self.polynomial = OddPolynomial(tuple(state["coeffs"]))
        self.history = [float(kappa) for kappa in state["history"]]
        pending = state["pending"]
        self._pending = None if pending is None else functools.partial(float, pending)


def _modified_kappa(W: Tensor, written: torch.cuda.Event | None) -> float:
    if written:
        written.synchronize()
    return modified_condition_number(singular_values(W)) if torch.isfinite(W).all() else math.nan


@functools.cache
def _measurer() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="pctool-spectra")


def _finish_measuring() -> None:
    """Waits for what is being measured: a forked process would wait for it in vain."""
    if _measurer.cache_info().currsize:
        _measurer().submit(int).result()


os.register_at_fork(before=_finish_measuring, after_in_child=_measurer.cache_clear)  # the child has not the thread
