"""`pctool fit-poly`: fit the preconditioning polynomial, or a ladder of them, and say what it will do."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pctool import files
from pctool.cli import console
from pctool.errors import InputError

if TYPE_CHECKING:
    from pctool.core.polynomial import OddPolynomial
    from pctool.fitting.ladder import FittedLadder

LEAST_SQUARES_ONLY = ("alpha", "points", "sampling", "seed")


def _flag(help_text: str, *names: str, metavar: str | None = None) -> Any:
    """An option whose default the library knows: the help names it, the command passes on only what is given."""
    return typer.Option(*names, help=help_text, metavar=metavar, show_default=False)


def fit_poly(  # noqa: PLR0917  # every setting is a flag of its own
    cutoff: Annotated[
        list[float] | None,
        _flag("Where the target PL_b reaches 1: in (0, gamma-upper), at most 1 with g(1) = 1.", "--cutoff"),
    ] = None,
    degree: Annotated[
        list[int] | None,
        _flag("Odd, 3 to 25. Give --cutoff and --degree several times for several fits, pair by pair.", "--degree"),
    ] = None,
    alpha: Annotated[float | None, _flag("Weight x^alpha of the squared error; l2 only. (4)", "--alpha")] = None,
    gamma_lower: Annotated[float | None, _flag("The range's lower end. (0)", "--gamma-lower")] = None,
    gamma_upper: Annotated[float | None, _flag("The range's upper end, at most 4. (1.1)", "--gamma-upper")] = None,
    points: Annotated[int | None, _flag("Sample points, 100 to 100000; l2 only. (2000)", "--points")] = None,
    sampling: Annotated[
        Literal["grid", "uniform"] | None, _flag("How the points lie; l2 only. (grid)", "--sampling")
    ] = None,
    seed: Annotated[int | None, _flag("Of uniform sampling. (0)", "--seed")] = None,
    norm: Annotated[
        Literal["l2", "linf"] | None,
        _flag("Least squares, or the smallest maximal error with its proof. (l2)", "--norm"),
    ] = None,
    at_one: Annotated[bool | None, _flag("Ask for g(1) = 1, or not. (at-one)", "--at-one/--free")] = None,
    target: Annotated[
        str | None,
        _flag("pl: PL_b; one: 1 on a range that starts above 0; or a file of knots. (pl)", "--target", metavar="T"),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The published polynomials of degree 3, 5, 7, 9; no fit.")
    ] = False,
    ladder: Annotated[
        Path | None,
        _flag("Write a ladder for train --method apc: degrees 3 to 9 and their thresholds.", "--ladder"),
    ] = None,
    kappa_after: Annotated[
        float | None, _flag("The condition number that every rung of the ladder leaves. (5)", "--kappa-after")
    ] = None,
    ripple: Annotated[
        float | None,
        _flag("How far apart a rung may leave large singular values; more reaches further. (1.2)", "--ripple"),
    ] = None,
    out: Annotated[Path | None, _flag("Where to write. (pl0.4-deg7.json and the like)", "--out")] = None,
    plot: Annotated[Path | None, _flag("Draw targets and fits: .png, .pdf or .svg.", "--plot")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that hold something else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Fit the odd polynomial that preconditioning applies to singular values, and report what it will do.

    Writes a file for 'pctool train --poly', and ends with that line. The same command again changes nothing.

    Example: pctool fit-poly --cutoff 0.4 --degree 7 --plot fit.png
    """
    fit_options = {
        "alpha": alpha, "gamma_lower": gamma_lower, "gamma_upper": gamma_upper, "points": points,
        "sampling": sampling, "seed": seed, "norm": norm, "at_one": at_one, "target": target,
    }  # fmt: skip
    given = {name: value for name, value in fit_options.items() if value is not None}
    ladder_options = {"goal": kappa_after, "ripple": ripple}
    shape = {name: value for name, value in ladder_options.items() if value is not None}
    if ladder:
        others = {**given, **_present(cutoff=cutoff, degree=degree, out=out)}
        _finish_ladder(_ladder(shape, others, published), ladder, plot, force=force, as_json=as_json)
        return
    if shape:
        raise InputError("--kappa-after and --ripple belong to --ladder; leave them out")
    polynomials = _published(degree, cutoff, given) if published else _fits(degree, cutoff, given)
    if out and len(polynomials) > 1:
        raise InputError(f"--out names one file, {len(polynomials)} fits are asked for; leave it out")
    paths = [out or Path(_name(g, target)) for g in polynomials]
    _finish(polynomials, paths, plot, force=force, as_json=as_json)


def _present(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _option(name: str) -> str:
    return "--at-one/--free" if name == "at_one" else f"--{name.replace('_', '-')}"


def _fits(degrees: list[int] | None, cutoffs: list[float] | None, given: dict[str, Any]) -> list[OddPolynomial]:
    from pctool.fitting import fit_polynomial, read_knots

    if not degrees:
        raise InputError("--degree is needed: an odd number from 3 to 25; try --cutoff 0.4 --degree 7")
    unused = [_option(name) for name in LEAST_SQUARES_ONLY if name in given]
    if given.get("norm") == "linf" and unused:
        raise InputError(f"--norm linf takes no {', '.join(unused)}; leave it out, or take --norm l2")
    target = given.get("target", "pl")
    if target not in {"pl", "one"}:
        given = {**given, "target": read_knots(Path(target))}
    pairs: list[float] | list[None] = cutoffs or [None] * len(degrees)
    if len(pairs) != len(degrees):
        raise InputError(f"{len(pairs)} --cutoff for {len(degrees)} --degree; give them pair by pair")
    return [fit_polynomial(b, d, **given) for b, d in zip(pairs, degrees, strict=True)]


def _published(degrees: list[int] | None, cutoffs: list[float] | None, given: dict[str, Any]) -> list[OddPolynomial]:
    from pctool.fitting import published

    if given or cutoffs:
        names = [_option(name) for name in [*given, *_present(cutoff=cutoffs)]]
        raise InputError(f"--published fits nothing; leave {', '.join(names)} out")
    if not degrees:
        raise InputError("--published needs --degree 3, 5, 7 or 9")
    return [published(degree) for degree in degrees]


def _exact(value: float | None) -> str:
    """0.4, 1: no digit more than needed, and none less, so that two values never share a name."""
    return repr(value).removesuffix(".0")


def _name(g: OddPolynomial, target: str | None) -> str:
    """The file's name in the current folder: target, degree, and what departs from the defaults."""
    fit = g.fit
    if fit is None:
        raise ValueError("a fitted polynomial carries its fit")
    if fit.solver == "published":
        return f"published-deg{g.degree}.json"
    if fit.target == "pl":
        stem = f"pl{_exact(fit.cutoff)}"
    else:
        stem = f"one{_exact(fit.gamma_lower)}" if fit.target == "one" else Path(str(target)).stem
    stem += f"-deg{g.degree}{'-linf' * (fit.norm == 'linf')}{'-free' * (not fit.at_one)}"
    for key in ("alpha", "gamma_lower", "gamma_upper", "points", "seed"):
        value, named = getattr(fit, key), key == "gamma_lower" and fit.target == "one"
        if value != type(fit).model_fields[key].default and not named:
            stem += f"-{key.replace('_', '')}{_exact(value)}"
    return f"{stem}.json"


def _write(made: list[tuple[Path, bytes]], force: bool) -> None:
    """All of them or none."""
    places: dict[str, bytes] = {}
    for path, data in made:
        if "\0" not in str(path) and places.setdefault(os.path.realpath(path), data) != data:
            raise InputError(f"{path} is to hold two different things; give each file its own name, or fit one by one")
    contents = dict(made)
    written = files.write_new(contents, force=force)
    for path in contents:
        console.note(f"wrote {path}" if path in written else f"{path} holds this already")


def _finish(polynomials: list[OddPolynomial], paths: list[Path], plot: Path | None, force: bool, as_json: bool) -> None:
    from pctool.core.polynomial_file import dump, why_not_trainable
    from pctool.core.polynomial_models import PolynomialFile
    from pctool.fitting.diagnosis import diagnose
    from pctool.fitting.picture import draw
    from pctool.fitting.text import curve, summary

    models = [PolynomialFile.of(g) for g in polynomials]
    made = [(path, dump(model).encode()) for path, model in zip(paths, models, strict=True)]
    if plot:
        made.append((plot, draw(polynomials, plot.name)))
    _write(made, force)
    answers = []
    for g, path, model in zip(polynomials, paths, models, strict=True):
        found, obstacle = diagnose(g), why_not_trainable(g)
        line = None if obstacle else f"pctool train --method fpc --poly {shlex.quote(str(path))}"
        extra = {"path": str(path), "plot": str(plot) if plot else None, "train": line, "not_trainable": obstacle}
        answers.append({**model.model_dump(mode="json"), "diagnosis": found.as_json(), **extra})
        if not as_json:
            ending = line or f"train cannot use it: {obstacle}"
            typer.echo(f"{summary(g, found)}\n{curve(g)}\n{ending}")
    if as_json:
        console.print_json(answers[0] if len(answers) == 1 else {"polynomials": answers})


def _ladder(shape: dict[str, float], others: dict[str, Any], published: bool) -> FittedLadder:
    from pctool.fitting.ladder import fit_ladder, published_ladder

    unused = [_option(name) for name in others if published or name != "gamma_upper"]
    if published and "ripple" in shape:
        unused.append("--ripple")
    if unused:
        raise InputError(f"--ladder chooses its own fits; leave {', '.join(unused)} out")
    return published_ladder(**shape) if published else fit_ladder(**shape, **others)


def _finish_ladder(ladder: FittedLadder, path: Path, plot: Path | None, *, force: bool, as_json: bool) -> None:
    from pctool.core.polynomial_file import dump, ladder_file
    from pctool.fitting.picture import draw
    from pctool.fitting.text import ladder_table

    model = ladder_file(ladder.taus, ladder.polynomials)
    made = [(path, dump(model).encode())]
    if plot:
        made.append((plot, draw(ladder.polynomials, plot.name, ladder.taus)))
    _write(made, force)
    line = f"pctool train --method apc --ladder {shlex.quote(str(path))}"
    if not as_json:
        typer.echo(f"{ladder_table(ladder)}\n{line}")
        return
    extra = {"path": str(path), "plot": str(plot) if plot else None, "train": line}
    outcomes = [dataclasses.asdict(outcome) for outcome in ladder.outcomes()]
    console.print_json({**model.model_dump(mode="json"), "outcomes": outcomes, **extra})
