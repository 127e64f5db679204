"""The kappa alarm: a discriminator whose spectrum collapses says so before the score does (paper, Figs. 1 and 2).

In the paper's failing runs the smallest singular values fall towards zero in several layers while the condition
numbers rise; the score follows. The alarm looks at the effective weights of D in the recorded spectrum, without the
last linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence

# Mean modified kappa at the end of the paper's runs (Table 1): 17.77 and 53.37 where training failed (SN), 1.53 to
# 4.36 where it did not. The geometric middle between 4.36 and 17.77 is 8.8.
MEAN_KAPPA = 9.0
# The worst layer's lowest tenth lies below a twentieth of its largest value. A mean above the limit without it would
# be many layers that are merely uneven.
WORST_KAPPA = 20.0
# A network may be drawn ill-conditioned, as narrow ones are: a collapse is a rise.
RISE = 1.5  # times the first row's mean
ROWS = 3  # so many recorded rows in turn, so that one bad step is no alarm


def collapse(rows: Sequence[tuple[int, float, float]]) -> str | None:
    """Why the run's D is taken to collapse, None while it is not.

    rows: (step, mean modified kappa, largest modified kappa) of the effective weights, in recorded order. In each of
    the last three both exceed their limits, and the mean has risen since the first row and not fallen over them. NaN,
    from a layer that could not be measured, is no evidence.
    """
    last = rows[-ROWS:]
    if len(last) < ROWS or not all(mean > MEAN_KAPPA and worst > WORST_KAPPA for _, mean, worst in last):
        return None
    step, mean, worst = last[-1]
    if mean < last[0][1] or mean < RISE * rows[0][1]:
        return None
    return (
        f"step {step:,}: D's spectrum collapses: mean modified kappa {mean:.1f} (above {MEAN_KAPPA:g}, not "
        f"falling over {ROWS} rows), and in one layer the lowest tenth of the values is at 1/{worst:.0f} of the largest"
    )
