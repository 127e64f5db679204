"""Damaged and hostile polynomial and ladder files: a clear refusal, or a file that is still valid."""

import dataclasses
import json
import random
import time

import numpy as np
import pytest

from pctool.core import polynomial_file
from pctool.core.polynomial import PUBLISHED, OddPolynomial
from pctool.core.polynomial_models import Certificate, Fit
from pctool.errors import InputError

# The equal-ripple cubic on [0.2, 1.1] (tests/core/test_polynomial_file.py works it out), with its certificate.
B = 2 / 0.972
E = 1 - 0.286 * B
RIPPLE = OddPolynomial(
    (1.47 * B, -B),
    Fit(
        cutoff=None,
        gamma_lower=0.2,
        norm="linf",
        at_one=False,
        target="one",
        certificate=Certificate(points=(0.2, 0.7, 1.1), levelled_error=E, lower_bound=E),
    ),
)
FITTED = dataclasses.replace(PUBLISHED[7], fit=Fit(cutoff=0.4))
ODD_VALUES = [
    *["null", "true", "false", '""', '"pl"', '"\\u0000"', "[]", "{}", "[[]]", "0", "-0.0", "-1", "3", "27", "1e999"],
    *["NaN", "-Infinity", "1e-320", "1e308", "1e15", "9" * 400, "9" * 6000, "0.1" * 3, "[" * 2000 + "]" * 2000],
    *['{"knots": [[0, 0], [1, 1]]}', '{"knots": [[0, 0], [1e-6, 1e3], [2e-6, -1e3]]}', "[1, 2, 3, 4]", "[0, 0, 0, 0]"],
]


def originals():
    """The bytes of four valid polynomial files and of a ladder, each with the function that reads its like."""
    single = [PUBLISHED[3], FITTED, RIPPLE, OddPolynomial((1e15,) * 13, Fit(cutoff=0.5, gamma_upper=4.0, at_one=False))]
    files = [
        (polynomial_file.dump(polynomial_file.PolynomialFile.of(g)).encode(), polynomial_file.read_polynomial)
        for g in single
    ]
    ladder = polynomial_file.ladder_file((5.0, 10.0), (RIPPLE, FITTED))
    return [*files, (polynomial_file.dump(ladder).encode(), polynomial_file.read_ladder)]


ORIGINALS = originals()


def places(node, path=()):
    """The path of every entry of a JSON document."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutate_structure(data, rng):
    """Replaces, removes, repeats or renames one entry."""
    document = json.loads(data)
    path = rng.choice(list(places(document)))
    node = document
    for key in path[:-1]:
        node = node[key]
    how = rng.choice(["value", "number", "remove", "rename"])
    if how == "number" and isinstance(node[path[-1]], float):
        node[path[-1]] *= rng.choice([-1, 0, 2, 1 + 1e-12, 1 + 1e-5, 1e300, rng.uniform(-2, 2)])
    elif how == "remove":
        del node[path[-1]]
    elif how == "rename" and isinstance(node, dict):
        node[rng.choice(["tau", "fit", "x", "coeffs", ""])] = node.pop(path[-1])
    else:
        node[path[-1]] = "HERE"
        return json.dumps(document).replace('"HERE"', rng.choice(ODD_VALUES)).encode()
    return json.dumps(document).encode()


def mutate_bytes(data, rng):
    """Flips, removes, inserts, repeats or cuts off a few bytes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.choice([1, 1, 2, 20, 200]))
        how = rng.choice(["flip", "remove", "insert", "repeat", "cut"])
        if how == "flip":
            data[start] ^= 1 << rng.randrange(8)
        elif how == "remove":
            del data[start:end]
        elif how == "insert":
            data[start:start] = bytes(rng.randrange(256) for _ in range(end - start))
        elif how == "repeat":
            data[start:start] = data[start:end]
        else:
            del data[start:]
        if not data:
            break
    return bytes(data)


def check_mutations(count, seed, path):
    """Reads `count` mutated files; returns how many were still valid."""
    rng = random.Random(seed)
    valid = 0
    for _ in range(count):
        data, read = rng.choice(ORIGINALS)
        mutated = rng.choice([mutate_structure, mutate_bytes])(data, rng)
        path.write_bytes(mutated)
        start = time.monotonic()
        try:
            found = read(path)
        except InputError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 600 + len(str(path))
        else:
            valid += 1
            for g in [found] if isinstance(found, OddPolynomial) else found[1]:
                assert np.isfinite(g(np.linspace(0, 1.1, 11))).all()
                assert g.degree <= 25
        assert time.monotonic() - start < 5
    return valid


def test_200_mutated_files(tmp_path):
    """Each is refused in one line or still valid: no other exception, no warning, no infinity, none takes 5 s."""
    valid = check_mutations(200, 0, tmp_path / "mutated.json")
    assert 0 < valid < 100


@pytest.mark.slow
def test_10_000_mutated_files(tmp_path):
    """The same at length."""
    valid = check_mutations(10_000, 1, tmp_path / "mutated.json")
    assert 0 < valid < 5_000
