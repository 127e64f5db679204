"""What `pctool fit-poly` does: targets, the two solvers, ladders, and what a polynomial's report means."""

from pctool.fitting.fit import fit_polynomial as fit_polynomial
from pctool.fitting.fit import published as published
from pctool.fitting.fit import read_knots as read_knots
