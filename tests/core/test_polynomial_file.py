"""Polynomial and ladder files: what is written is read, and nothing else is believed."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from pctool.core import polynomial_file
from pctool.core.polynomial import IDENTITY, PUBLISHED, OddPolynomial
from pctool.core.polynomial_models import Fit
from pctool.errors import InputError, WriteError

FITTED = dataclasses.replace(PUBLISHED[7], fit=Fit(cutoff=0.4, solver="published"))
# The minimax cubic for f = 1 on [0.2, 1.1] by hand: g = a x - b x^3 with errors -E, +E, -E at 0.2, its top, 1.1.
CUBIC = json.loads(
    """{"format": "pctool-polynomial", "version": 1, "degree": 3, "coeffs": [1.0, 0.0],
        "fit": {"cutoff": 0.5, "alpha": 4.0, "gamma_lower": 0.0, "gamma_upper": 1.1, "points": 2000,
                "sampling": "grid", "seed": null, "norm": "l2", "at_one": true, "solver": "CLARABEL",
                "solver_version": "0.11.1"},
        "report": null}"""
)


def write(path, content):
    """Writes JSON, or text as it is; returns the path."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def contents(polynomial=FITTED):
    """A polynomial's file as plain JSON objects."""
    return json.loads(polynomial_file.dump(polynomial_file.PolynomialFile.of(polynomial)))


def changed(**places):
    """The fitted file with some of its entries replaced: `coeffs=...`, `fit__cutoff=...`."""
    content = contents()
    for place, value in places.items():
        *outer, last = place.split("__")
        inner = content
        for key in outer:
            inner = inner[key]
        inner[last] = value
    return content


@pytest.mark.parametrize("polynomial", [IDENTITY, PUBLISHED[9], FITTED], ids=["identity", "by hand", "fitted"])
def test_what_is_saved_is_loaded(polynomial, tmp_path):
    """Coefficients to the last bit, and the fit with them; saving the loaded one gives the same bytes."""
    polynomial.save(tmp_path / "a.json")
    loaded = OddPolynomial.load(tmp_path / "a.json")
    assert loaded == polynomial
    assert loaded.fit == polynomial.fit
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_file_has_the_promised_entries():
    """Format, version, degree, ascending coefficients, fit and report under the names that others rely on."""
    content = contents()
    assert list(content) == ["format", "version", "degree", "coeffs", "fit", "report"]
    assert (content["format"], content["version"], content["degree"]) == ("pctool-polynomial", 1, 7)
    assert content["coeffs"] == [2.909, -4.649, 4.023, -1.283]
    named = {"cutoff", "alpha", "gamma_lower", "gamma_upper", "points", "sampling", "seed", "norm", "at_one"}
    assert named | {"solver", "solver_version"} <= set(content["fit"])
    assert {"max_error", "weighted_rms", "g_at_one", "g_at_gamma_upper", "max_value", "monotone"} == set(
        content["report"]
    )


def test_a_file_written_by_hand_needs_only_its_coefficients(tmp_path):
    """fit and report may be null or absent, or the report alone; entries that have a default may be absent."""
    bare = {"format": "pctool-polynomial", "version": 1, "degree": 3, "coeffs": [1.5, -0.5]}
    for content in (bare, {**bare, "fit": None, "report": None}):
        assert OddPolynomial.load(write(tmp_path / "bare.json", content)).coeffs == (1.5, -0.5)
    assert OddPolynomial.load(write(tmp_path / "cubic.json", CUBIC)).fit.cutoff == 0.5


REFUSED = {
    "an unknown key": (changed(colour="red"), "colour"),
    "an unknown key in the fit": (changed(fit__colour="red"), "colour"),
    "another format": (changed(format="pctool-ladder"), "pctool-polynomial"),
    "another version": (changed(version=2), "version"),
    "a version that is true": (changed(version=True), "version"),
    "an even degree": (changed(degree=6), "coefficients"),
    "a degree of another length": (changed(degree=9), "needs 5 coefficients, got 4"),
    "degree 27": ({**contents(), "degree": 27, "coeffs": [1.0] * 14}, "25"),
    "no coefficients": (changed(coeffs=[]), "coeffs"),
    "a coefficient in words": (changed(coeffs=["2.909", -4.649, 4.023, -1.283]), "coeffs.0"),
    "a coefficient that is true": (changed(coeffs=[True, -4.649, 4.023, -1.283]), "coeffs.0"),
    "a huge coefficient": (changed(coeffs=[1e16, -4.649, 4.023, -1.283]), "coeffs.0"),
    "other coefficients": (changed(coeffs=[2.909, -4.649, 4.023, -1.28301]), "report states"),
    "another maximal error": (changed(report__max_error=0.0948), "max_error"),
    "another g(1)": (changed(report__g_at_one=1.00001), "g_at_one"),
    "monotone, which it is not": (changed(report__monotone=True), "monotone"),
    "at_one, which it is not": ({**changed(coeffs=[2.909, -4.649, 4.023, -1.28301]), "report": None}, "at_one"),
    "a report without a fit": (changed(fit=None), "report"),
    "a cutoff of 0": (changed(fit__cutoff=0.0), "cutoff"),
    "a cutoff beyond the range": (changed(fit__cutoff=1.1), "cutoff"),
    "an empty range": (changed(fit__gamma_lower=1.1), "gamma_lower"),
    "another sampling": (changed(fit__sampling="random"), "sampling"),
    "a control character in a name": (changed(fit__solver="a\nb"), "solver"),
    "NaN": (json.dumps(contents()).replace("2.909", "NaN"), "finite"),
    "infinity": (json.dumps(contents()).replace("2.909", "1e999"), "finite"),
    "a duplicate key": (json.dumps(contents()).replace('"version": 1', '"version": 1, "version": 1'), "twice"),
    "a digit too many": (json.dumps(contents()).replace("2.909", "9" * 5000), ""),
    "deep nesting": ("[" * 100_000, "deep"),
    "no JSON": ("degree 7", ""),
    "an empty file": ("", ""),
    "a list": ("[]", ""),
}


@pytest.mark.parametrize(("content", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_in_one_line(content, hint, tmp_path):
    """InputError: one line of bounded length that names the file and the trouble."""
    path = write(tmp_path / "p.json", content)
    with pytest.raises(InputError) as caught:
        OddPolynomial.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert hint in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))


def test_a_certificate_is_verified(tmp_path):
    """The cubic that equals 1 -+ E at three alternating points is accepted; a larger bound or moved points are not."""
    # g = a x - b x^3 on [0.2, 1.1] with g(0.2) = g(1.1) = 1 - E: a/b = 1.1^2 + 1.1 * 0.2 + 0.2^2 = 1.47, the top
    # lies at 0.7 with g = 0.686 b, and 1 - E = g(0.2) = 0.286 b: b = 2 / 0.972.
    b = 2 / 0.972
    E = 1 - 0.286 * b
    fit = {**CUBIC["fit"], "cutoff": None, "gamma_lower": 0.2, "norm": "linf", "at_one": False, "target": "one"}
    proof = {"points": [0.2, 0.7, 1.1], "levelled_error": E, "lower_bound": E}
    content = {**CUBIC, "coeffs": [1.47 * b, -b], "fit": {**fit, "certificate": proof}}
    report = polynomial_file.parse(json.dumps(content).encode(), polynomial_file.PolynomialFile, "here")
    measured = polynomial_file.PolynomialFile.of(report.polynomial()).report
    assert measured.max_error == pytest.approx(E, abs=1e-12)
    content["report"] = measured.model_dump()
    assert OddPolynomial.load(write(tmp_path / "p.json", content)).fit.certificate.lower_bound == E
    for wrong in (
        {**proof, "lower_bound": E + 1e-4},
        {**proof, "points": [0.2, 0.6, 1.1]},
        {**proof, "points": [0.2, 1.1]},
        {**proof, "points": [0.2, 1.1, 0.7]},
        {**proof, "points": [0.1, 0.7, 1.1]},
        {**proof, "lower_bound": E - 1e-4},
        {**proof, "levelled_error": E + 1e-4},
        {"points": [], "levelled_error": E, "lower_bound": 0.0},
        None,
    ):
        content["fit"]["certificate"] = wrong
        for stated in (measured.model_dump(), None):  # without a report too
            content["report"] = stated
            with pytest.raises(InputError, match="certificate"):
                OddPolynomial.load(write(tmp_path / "p.json", content))


def test_size_is_capped_before_anything_is_parsed(tmp_path):
    """A file of more than 256 KiB is refused, however valid."""
    path = write(tmp_path / "p.json", json.dumps(contents()) + " " * polynomial_file.MAX_BYTES)
    with pytest.raises(InputError, match="larger than"):
        OddPolynomial.load(path)


def test_no_file_and_a_folder_are_refused(tmp_path):
    """What is not a file is named."""
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(InputError, match="not a file"):
            OddPolynomial.load(path)


def test_the_same_content_again_is_no_error_and_another_is(tmp_path):
    """Saving twice leaves the file; another polynomial is refused and leaves it too, unless forced."""
    path = tmp_path / "p.json"
    FITTED.save(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    FITTED.save(path)
    with pytest.raises(InputError, match="other content"):
        PUBLISHED[3].save(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    PUBLISHED[3].save(path, force=True)
    assert OddPolynomial.load(path) == PUBLISHED[3]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_regular_file_is_never_overwritten(tmp_path, force):
    """A device or a pipe would be replaced by the file, and reading one may never end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(InputError, match="is no regular file; name another place"):
            FITTED.save(path, force=force)


def test_a_folder_is_never_overwritten(tmp_path):
    """Not even with force."""
    for force in (False, True):
        with pytest.raises(InputError, match="is a folder; name a file"):
            FITTED.save(tmp_path, force=force)


def test_a_place_that_cannot_be_written_is_a_write_error(tmp_path):
    """Below a file there is no folder: WriteError with the path and the bytes."""
    FITTED.save(tmp_path / "p.json")
    with pytest.raises(WriteError, match=r"below\.json \([0-9,]+ bytes\)"):
        FITTED.save(tmp_path / "p.json" / "below.json")


def test_training_takes_degree_9_and_no_more(tmp_path):
    """Degree 11 is a valid file that train refuses."""
    PUBLISHED[9].save(tmp_path / "nine.json")
    assert polynomial_file.read_training_polynomial(tmp_path / "nine.json") == PUBLISHED[9]
    OddPolynomial((1.0,) * 6).save(tmp_path / "eleven.json")
    with pytest.raises(InputError, match="degree 11 is above 9"):
        polynomial_file.read_training_polynomial(tmp_path / "eleven.json")


def test_training_refuses_what_float32_cannot_evaluate(tmp_path):
    """1e5 (x - 2 x^3 + x^5) + ... cancels: right in float64, wrong by more than 1e-3 in float32."""
    cancelling = OddPolynomial((1e5, -2e5, 1e5))
    cancelling.save(tmp_path / "p.json")
    assert polynomial_file.read_polynomial(tmp_path / "p.json") == cancelling
    with pytest.raises(InputError, match="float32"):
        polynomial_file.read_training_polynomial(tmp_path / "p.json")


def test_a_ladder_is_read_as_it_was_written(tmp_path):
    """Rising taus and their polynomials; the file has the promised entries."""
    taus, polynomials = (5.0, 10.0, 20.0, 30.0), tuple(PUBLISHED.values())
    (tmp_path / "l.json").write_text(polynomial_file.dump(polynomial_file.ladder_file(taus, polynomials)))
    assert polynomial_file.read_ladder(tmp_path / "l.json") == (taus, polynomials)
    content = json.loads((tmp_path / "l.json").read_text())
    assert list(content) == ["format", "version", "rungs"]
    assert [list(rung) for rung in content["rungs"]] == [["tau", "polynomial"]] * 4
    assert content["rungs"][0]["polynomial"] == contents(PUBLISHED[3])


LADDERS = {
    "taus that do not rise": ([5.0, 5.0], "must rise"),
    "a tau below 1": ([0.5, 5.0], "tau"),
    "no rungs": ([], "rungs"),
    "too many rungs": ([float(tau) for tau in range(1, 18)], "rungs"),
}


@pytest.mark.parametrize(("taus", "hint"), LADDERS.values(), ids=LADDERS)
def test_a_ladder_that_cannot_be_climbed_is_refused(taus, hint, tmp_path):
    """InputError names what is wrong with the thresholds."""
    rungs = [{"tau": tau, "polynomial": contents(PUBLISHED[3])} for tau in taus]
    path = write(tmp_path / "l.json", {"format": "pctool-ladder", "version": 1, "rungs": rungs})
    with pytest.raises(InputError, match=hint):
        polynomial_file.read_ladder(path)


def test_a_ladder_whose_degrees_do_not_rise_is_refused(tmp_path):
    """A later rung of the same or a lower degree is no step up."""
    for degrees in ((5, 5), (7, 3)):
        rungs = [{"tau": tau, "polynomial": contents(PUBLISHED[d])} for tau, d in zip((5.0, 9.0), degrees, strict=True)]
        path = write(tmp_path / "l.json", {"format": "pctool-ladder", "version": 1, "rungs": rungs})
        with pytest.raises(InputError, match="degrees must rise"):
            polynomial_file.read_ladder(path)


def test_a_ladder_is_for_training(tmp_path):
    """A rung that train could not evaluate is refused, and its tau named."""
    ladder = polynomial_file.ladder_file((5.0, 8.0), (PUBLISHED[3], OddPolynomial((1.0,) * 6)))
    (tmp_path / "l.json").write_text(polynomial_file.dump(ladder))
    with pytest.raises(InputError, match="tau 8 cannot train: degree 11"):
        polynomial_file.read_ladder(tmp_path / "l.json")
