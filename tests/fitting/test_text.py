"""What a person reads: the summary, the curve, the ladder's table."""

import pytest

from pctool.core.polynomial import IDENTITY, PUBLISHED
from pctool.fitting import fit_polynomial, published, text
from pctool.fitting.diagnosis import diagnose
from pctool.fitting.ladder import fit_ladder


def test_the_formula_can_be_evaluated():
    """The printed formula, read as Python, is g to its five digits."""
    formula = text.formula(PUBLISHED[7]).removeprefix("g(x) = x (").removesuffix(")").replace("^", "**")
    for x in (0.1, 0.5, 1.0):
        assert x * eval(formula.replace(" x", f" * {x}")) == pytest.approx(PUBLISHED[7](x), abs=1e-4)


def test_the_summary_says_what_to_act_on():
    """Errors, proof, overshoot and falls with their places, growth, rounding and kappas are all there."""
    g = fit_polynomial(0.4, 7, norm="linf")
    summary = text.summary(g, diagnose(g))
    for word in ("degree 7", "PL_0.4", "smallest maximal error", "no error below 0.0607", "0.484 to 0.777", "by 0.074"):
        assert word in summary
    assert "10 -> 3.62" in summary
    assert "g(1.5) = 0.673" in summary
    assert max(map(len, summary.splitlines())) <= 120


def test_targets_have_names():
    """PL_b, a constant, knots; a polynomial without a fit says so."""
    assert "published" in text.title(published(3))
    assert "hand" in text.title(IDENTITY)
    one = fit_polynomial(None, 5, norm="linf", target="one", gamma_lower=0.1, at_one=False)
    assert text.target_name(one.fit) == "the constant 1"
    knots = {"knots": ((0.0, 0.0), (0.3, 0.9), (1.0, 1.0))}
    assert text.target_name(fit_polynomial(None, 5, target=knots).fit) == "3 knots"


@pytest.mark.parametrize("g", [IDENTITY, published(9)], ids=["identity", "published"])
def test_the_curve_is_the_polynomial(g):
    """Every column's mark lies in the row that g has there; plain ASCII."""
    lines = text.curve(g, width=40, height=12).splitlines()
    top, bottom = float(lines[0].split("|")[0]), float(lines[11].split("|")[0])
    rows = [line.partition("|")[2] for line in lines[:12]]
    for column in range(40):
        marked = [i for i, row in enumerate(rows) if row[column : column + 1] == "o"]
        height = top - marked[0] * (top - bottom) / 11
        assert height == pytest.approx(g(1.1 * column / 39), abs=(top - bottom) / 20)
    assert "\n".join(lines).isascii()


def test_a_ladders_table_has_a_line_a_rung():
    """Threshold, degree and what is left of the reach, in order."""
    lines = text.ladder_table(fit_ladder()).splitlines()
    cells = [line.split() for line in lines[3:7]]
    assert [row[1] for row in cells] == ["3", "5", "7", "9"]
    assert [row[3] for row in cells] == ["5"] * 4
    assert lines[2].split()[-4:] == ["g(1.2)", "g(1.5)", "32", "16"]
    assert float(cells[3][-3]) == pytest.approx(99, abs=0.5)
    assert max(map(len, lines)) <= 80
