"""`pctool fit-poly` from the command line: files, answers, refusals, and what stays untouched."""

import json
import re
import shlex

import pytest

from pctool.cli.main import run
from pctool.core.polynomial import PUBLISHED, OddPolynomial
from pctool.core.polynomial_file import read_ladder, read_training_polynomial
from pctool.errors import InputError
from pctool.fitting import fit_polynomial

BASE = ("--cutoff", 0.4, "--degree", 7)


@pytest.fixture
def fit_poly(capsys, tmp_path, monkeypatch):
    """Runs the command in an empty folder; returns its exit code, its answer, and what it said on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(["fit-poly", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_plain_command_writes_the_file_and_ends_with_the_train_line(fit_poly, tmp_path):
    """The default name, the fit's own coefficients, and a last line that train accepts as it stands."""
    code, out, err = fit_poly(*BASE)
    assert code == 0
    assert "wrote pl0.4-deg7.json" in err
    assert OddPolynomial.load(tmp_path / "pl0.4-deg7.json") == fit_polynomial(0.4, 7)
    line = shlex.split(out.splitlines()[-1])
    assert line[:-1] == ["pctool", "train", "--method", "fpc", "--poly"]
    assert read_training_polynomial(tmp_path / line[-1]).degree == 7
    assert "kappa" in out
    assert out.count(" |") >= 14  # the curve


def test_the_same_command_again_is_a_success_and_changes_nothing(fit_poly, tmp_path):
    """File and picture keep their bytes and times."""
    assert fit_poly(*BASE, "--plot", "p.png")[0] == 0
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("p*")}
    code, _, err = fit_poly(*BASE, "--plot", "p.png")
    assert code == 0
    assert err.count("holds this already") == 2
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("p*")} == before
    assert len(before) == 2


def test_another_content_is_refused_without_force(fit_poly, tmp_path):
    """Exit 2, one line, neither file nor picture touched; with --force both are written."""
    fit_poly(*BASE, "--plot", "p.png")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("p*")}
    other = [*BASE, "--alpha", 3, "--out", "pl0.4-deg7.json"]
    code, out, err = fit_poly(*other)
    assert (code, out) == (2, "")
    assert "pl0.4-deg7.json exists with other content" in err
    assert err.count("\n") == 1
    # The picture alone stands in the way of a new file: that one is not written either.
    assert fit_poly("--cutoff", 0.5, "--degree", 7, "--plot", "p.png")[0] == 2
    assert {path.name: path.read_bytes() for path in tmp_path.glob("p*")} == before
    assert fit_poly(*other, "--plot", "p.png", "--force")[0] == 0
    assert OddPolynomial.load(tmp_path / "pl0.4-deg7.json").fit.alpha == 3


def test_json_is_one_object_with_the_file_in_it(fit_poly, tmp_path):
    """The file's own entries, the diagnosis, the path and the train line; the rest of the talk is on stderr."""
    code, out, _ = fit_poly(*BASE, "--norm", "linf", "--json")
    answer = json.loads(out)
    assert code == 0
    content = json.loads((tmp_path / answer["path"]).read_text())
    assert {key: answer[key] for key in content} == content
    assert answer["path"] == "pl0.4-deg7-linf.json"
    assert answer["train"] == "pctool train --method fpc --poly pl0.4-deg7-linf.json"
    assert answer["diagnosis"]["kappa_after"]["10"] == pytest.approx(3.62, abs=0.01)
    assert answer["not_trainable"] is None


NAMES = {
    "one": (["--target", "one", "--gamma-lower", 0.2, "--degree", 5], "one0.2-deg5.json"),
    "free": ([*BASE, "--free"], "pl0.4-deg7-free.json"),
    "many digits": (["--cutoff", 0.40000001, "--degree", 7], "pl0.40000001-deg7.json"),
    "cutoff 1": (["--cutoff", 1, "--degree", 7], "pl1-deg7.json"),
    "both": ([*BASE, "--free", "--norm", "linf"], "pl0.4-deg7-linf-free.json"),
    "published": (["--published", "--degree", 9], "published-deg9.json"),
    "out": ([*BASE, "--out", "below/x y.json"], "below/x y.json"),
    "knots": (["--target", "corner.json", "--degree", 7], "corner-deg7.json"),
    "weights": ([*BASE, "--alpha", 2, "--points", 500], "pl0.4-deg7-alpha2-points500.json"),
    "drawn": ([*BASE, "--sampling", "uniform", "--seed", 3], "pl0.4-deg7-seed3.json"),
    "range": ([*BASE, "--gamma-lower", 0.05, "--gamma-upper", 1.2], "pl0.4-deg7-gammalower0.05-gammaupper1.2.json"),
}


@pytest.mark.parametrize(("arguments", "name"), NAMES.values(), ids=NAMES)
def test_every_road_writes_a_file_that_train_reads(fit_poly, tmp_path, arguments, name):
    """Its name tells what departs from the default; the train line quotes it."""
    knots = {"format": "pctool-knots", "version": 1, "knots": [[0, 0], [0.3, 0.8], [0.6, 1]]}
    (tmp_path / "corner.json").write_text(json.dumps(knots))
    code, out, _ = fit_poly(*arguments)
    assert code == 0
    assert shlex.split(out.splitlines()[-1])[-1] == name
    assert read_training_polynomial(tmp_path / name).fit is not None


def test_several_pairs_are_the_papers_figure(fit_poly, tmp_path):
    """Four pairs give four files and one picture; --json gives them in order."""
    pairs = [part for b, d in ((0.8, 3), (0.6, 5), (0.4, 7), (0.3, 9)) for part in ("--cutoff", b, "--degree", d)]
    code, out, _ = fit_poly(*pairs, "--plot", "fig3.png", "--json")
    assert code == 0
    answers = json.loads(out)["polynomials"]
    assert [answer["degree"] for answer in answers] == [3, 5, 7, 9]
    assert all((tmp_path / answer["path"]).is_file() for answer in answers)
    assert (tmp_path / "fig3.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_set_is_written_as_it_was_published(fit_poly, tmp_path):
    """No fit: the table's coefficients."""
    assert fit_poly("--published", "--degree", 7, "--out", "p.json")[0] == 0
    assert OddPolynomial.load(tmp_path / "p.json") == PUBLISHED[7]


def test_a_high_degree_is_written_and_said_not_to_train(fit_poly, tmp_path):
    """Degree 25 is a valid file; the last line says why train would refuse it."""
    code, out, _ = fit_poly("--cutoff", 0.05, "--degree", 25)
    assert code == 0
    assert "train cannot use it: degree 25 is above 9" in out.splitlines()[-1]
    assert OddPolynomial.load(tmp_path / "pl0.05-deg25.json").degree == 25


def test_a_fit_on_a_short_range_is_said_not_to_train(fit_poly, tmp_path):
    """On [0, 0.2] its float32 error is small, at 1, where a layer evaluates it, huge: train refuses the file."""
    code, out, _ = fit_poly("--cutoff", 0.1, "--degree", 9, "--gamma-upper", 0.2, "--free")
    assert code == 0
    assert "train cannot use it: its float32 evaluation errs" in out.splitlines()[-1]
    with pytest.raises(InputError, match="float32"):
        read_training_polynomial(tmp_path / "pl0.1-deg9-free-gammaupper0.2.json")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], marks=pytest.mark.slow),
        ["--kappa-after", 3, "--ripple", 1.1, "--gamma-upper", 1.2],
        ["--published"],
        ["--plot", "l.svg"],
    ],
    ids=["plain", "shaped", "published", "plotted"],
)
def test_a_ladder_is_written_for_apc(fit_poly, tmp_path, options):
    """Degrees 3 to 9 with rising thresholds, the file read back, and the train line last."""
    code, out, _ = fit_poly("--ladder", "l.json", *options)
    assert code == 0
    assert out.splitlines()[-1] == "pctool train --method apc --ladder l.json"
    taus, polynomials = read_ladder(tmp_path / "l.json")
    assert [g.degree for g in polynomials] == [3, 5, 7, 9]
    assert list(taus) == sorted(taus)
    assert fit_poly("--ladder", "l.json", *options)[0] == 0


def test_a_ladders_json_has_its_rungs_and_outcomes(fit_poly):
    """The file's entries, and for each rung what it leaves and what it costs."""
    code, out, _ = fit_poly("--ladder", "l.json", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["format"], len(answer["rungs"]), len(answer["outcomes"])) == ("pctool-ladder", 4, 4)
    assert all(rung["kappa_after"] == pytest.approx(5, rel=2e-3) for rung in answer["outcomes"])


REFUSED = {
    "degree 4": (["--cutoff", 0.4, "--degree", 4], "an odd number from 3 to 25"),
    "degree 7.5": (["--cutoff", 0.4, "--degree", 7.5], "integer"),
    "cutoff 0": (["--cutoff", 0, "--degree", 7], "cutoff 0 must lie in"),
    "cutoff NaN": (["--cutoff", "nan", "--degree", 7], "finite"),
    "no degree": (["--cutoff", 0.4], "--degree is needed"),
    "no cutoff": (["--degree", 7], "cutoff is needed"),
    "two cutoffs, one degree": ([*BASE, "--cutoff", 0.3], "pair by pair"),
    "two fits, one name": ([*BASE, *BASE, "--out", "x.json"], "--out names one file"),
    "alpha without l2": ([*BASE, "--norm", "linf", "--alpha", 2], "--norm linf takes no --alpha"),
    "a seed without uniform": ([*BASE, "--seed", 1], "seed belongs to uniform"),
    "norm l1": ([*BASE, "--norm", "l1"], "--norm"),
    "no such target": (
        ["--degree", 7, "--target", "absent.json"],
        "absent.json is not a file; docs/fit-poly.md shows a knots file",
    ),
    "one from 0": (["--degree", 7, "--target", "one"], "gamma_lower above 0"),
    "published and fitted": (["--published", *BASE], "leave --cutoff out"),
    "published, no degree": (["--published"], "--degree 3, 5, 7 or 9"),
    "published, degree 11": (["--published", "--degree", 11], "3, 5, 7 or 9"),
    "a ladder with a cutoff": (["--ladder", "l.json", "--cutoff", 0.4], "leave --cutoff out"),
    "a published ladder with a ripple": (["--ladder", "l.json", "--published", "--ripple", 1.1], "--ripple out"),
    "a ladder of kappa 1": (["--ladder", "l.json", "--kappa-after", 1], "1 is not allowed"),
    "kappa-after alone": ([*BASE, "--kappa-after", 3], "belong to --ladder"),
    "a picture of another kind": ([*BASE, "--plot", "p.gif"], ".png, .pdf or .svg"),
    "a picture over the fit": ([*BASE, "--out", "p.svg", "--plot", "./p.svg"], "p.svg is to hold two different things"),
    "a picture over the ladder": (["--ladder", "l.png", "--plot", "l.png"], "two different things"),
    "a cutoff of 1e-7": (["--cutoff", 1e-7, "--degree", 7], "must lie in [1e-06, gamma_upper = 1.1)"),
    "an unknown flag": ([*BASE, "--order", 3], "--order"),
}


@pytest.mark.parametrize(("arguments", "hint"), REFUSED.values(), ids=REFUSED)
def test_bad_input_gets_one_line_exit_2_and_no_file(fit_poly, tmp_path, arguments, hint):
    """What it was, what is allowed; nothing is written and nothing goes to stdout."""
    code, out, err = fit_poly(*arguments)
    assert (code, out) == (2, "")
    assert hint in err
    assert err.count("\n") == 1
    assert [path for path in tmp_path.iterdir() if path.name not in {"data", "cache"}] == []


def test_two_fits_with_one_name_are_refused(fit_poly, tmp_path, monkeypatch):
    """Where two default names meet, neither is written; the same fit twice is one file."""
    assert fit_poly(*BASE, *BASE)[0] == 0
    assert [path.name for path in tmp_path.glob("*.json")] == ["pl0.4-deg7.json"]
    monkeypatch.setattr("pctool.cli.fit_poly._name", lambda g, target: "same.json")
    code, out, err = fit_poly(*BASE, "--cutoff", 0.5, "--degree", 7)
    assert (code, out) == (2, "")
    assert "same.json is to hold two different things" in err
    assert not (tmp_path / "same.json").exists()


def test_a_full_folder_is_exit_5_with_the_path_and_bytes(fit_poly, tmp_path):
    """Below a file nothing can be written: the path and the size are named."""
    (tmp_path / "file").write_text("")
    code, out, err = fit_poly(*BASE, "--out", "file/p.json")
    assert (code, out) == (5, "")
    assert "file/p.json" in err
    assert "bytes" in err


def test_a_place_that_may_not_be_written_is_exit_5_with_the_path_and_bytes(fit_poly, forbid):
    """Also where it may not even be looked at."""
    forbid("locked")
    code, _, err = fit_poly("--cutoff", "0.4", "--degree", "7", "--out", "locked/in/p.json")
    assert code == 5
    assert re.search(r"cannot write locked/in/p.json \([\d,]+ bytes\): Permission denied", err)
