"""Reading and writing polynomials and ladders as JSON files; the formats are in `polynomial_models.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pctool.core.polynomial import MAX_COEFFS, OddPolynomial
from pctool.core.polynomial_models import LadderFile, PolynomialFile, Rung
from pctool.core.polynomial_report import LAYER_UPPER, float32_error
from pctool.errors import InputError
from pctool.files import write_new

MAX_BYTES = 262_144  # a ladder of 16 certified polynomials takes 30 kB
MAX_TRAIN_DEGREE = 2 * MAX_COEFFS - 1
MAX_FLOAT32_ERROR = 1e-3  # the last digit of the published coefficients
WRITER = "'pctool fit-poly' writes one"

Model = TypeVar("Model", bound=BaseModel)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {max(keys, key=keys.count)!r:.60} appears twice")
    return dict(pairs)


def first_problem(error: ValidationError) -> str:
    """The first thing that a model found wrong, in one line: where, a short value, what is allowed."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    value = first["input"]
    shown = f" {value!r}" if place and isinstance(value, int | float | str) and len(repr(value)) < 40 else ""
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return " ".join(f"{place}{shown}{': ' if place else ''}{message}".split())[:300]


def parse(text: bytes, model: type[Model], origin: str, source: str = WRITER) -> Model:
    """Validates JSON against a model, without duplicate keys. Raises InputError naming `origin` and `source`."""
    try:
        json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
        return model.model_validate_json(text)
    except ValidationError as error:
        problem = first_problem(error)
    except RecursionError:
        problem = "nested too deeply"
    except ValueError as error:  # not UTF-8, not JSON, a duplicate key, a number of thousands of digits
        problem = " ".join(str(error).split())[:300]
    remedy = "give another file" if problem.startswith("format ") else "mend it"
    raise InputError(f"{origin} cannot be used: {problem}; {remedy}; {source}")


def read_model(path: Path, model: type[Model], source: str = WRITER) -> Model:
    """Reads and validates one JSON file of at most MAX_BYTES. Raises InputError, which says where one comes from."""
    try:
        if not path.is_file():
            raise InputError(f"{path} is not a file; {source}")
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot read {path}: {error}; check the path") from error
    if len(text) > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES:,} bytes, which no polynomial needs; check the path")
    return parse(text, model, str(path), source)


def dump(model: BaseModel) -> str:
    """The JSON text of a file model, indented, ending in a newline; the same model gives the same text."""
    return json.dumps(model.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"


def read_polynomial(path: Path) -> OddPolynomial:
    """A polynomial file, with its report recomputed and its certificate verified. Raises InputError."""
    return read_model(path, PolynomialFile).polynomial()


def write_polynomial(path: Path, polynomial: OddPolynomial, *, force: bool = False) -> None:
    """Writes a polynomial file; see `OddPolynomial.save`."""
    write_new({path: dump(PolynomialFile.of(polynomial)).encode()}, force=force)


def why_not_trainable(polynomial: OddPolynomial) -> str | None:
    """Why `train` cannot use a polynomial, in words; None where it can."""
    if polynomial.degree > MAX_TRAIN_DEGREE:
        return f"degree {polynomial.degree} is above {MAX_TRAIN_DEGREE}, the largest that train evaluates"
    upper = max(polynomial.fit.gamma_upper, LAYER_UPPER) if polynomial.fit else LAYER_UPPER
    error = float32_error(polynomial, upper)
    if error > MAX_FLOAT32_ERROR:
        return f"its float32 evaluation errs by {error:.2g}, {MAX_FLOAT32_ERROR:g} at most is allowed"
    return None


def _require_trainable(polynomial: OddPolynomial, origin: str) -> None:
    problem = why_not_trainable(polynomial)
    if problem:
        raise InputError(f"{origin} cannot train: {problem}; fit a lower degree")


def read_training_polynomial(path: Path) -> OddPolynomial:
    """A polynomial file for `train --poly`: degree 9 at most, exact to 1e-3 in float32. Raises InputError."""
    polynomial = read_polynomial(path)
    _require_trainable(polynomial, str(path))
    return polynomial


def read_ladder(path: Path) -> tuple[tuple[float, ...], tuple[OddPolynomial, ...]]:
    """A ladder file for `train --ladder`: rising taus, and the polynomial that APC uses above each.

    Below the first tau a layer keeps spectral normalisation alone. Raises InputError, also for a polynomial
    that `read_training_polynomial` would refuse.
    """
    rungs = read_model(path, LadderFile).rungs
    polynomials = tuple(rung.polynomial.polynomial() for rung in rungs)
    for rung, polynomial in zip(rungs, polynomials, strict=True):
        _require_trainable(polynomial, f"{path}, tau {rung.tau:g}")
    return tuple(rung.tau for rung in rungs), polynomials


def ladder_file(taus: tuple[float, ...], polynomials: tuple[OddPolynomial, ...]) -> LadderFile:
    """The file of a ladder. Raises ValueError for taus that do not rise."""
    rungs = tuple(
        Rung(tau=tau, polynomial=PolynomialFile.of(polynomial))
        for tau, polynomial in zip(taus, polynomials, strict=True)
    )
    return LadderFile(format="pctool-ladder", version=1, rungs=rungs)
