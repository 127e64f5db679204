"""The picture: a valid file, the same bytes for the same polynomials, and lines that show g."""

import io

import numpy as np
import pytest
from PIL import Image

from pctool.core.polynomial import IDENTITY
from pctool.errors import InputError
from pctool.fitting import picture, published


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_same_polynomials_give_the_same_bytes(name, start):
    """In each of the three formats, so that the same command changes nothing."""
    polynomials = [published(3), IDENTITY]
    first = picture.draw(polynomials, name)
    assert first.startswith(start)
    assert picture.draw(polynomials, name) == first


def test_every_polynomial_has_its_colour_on_the_picture():
    """As many of the palette's colours as polynomials are found, and not the next one."""
    pixels = np.asarray(Image.open(io.BytesIO(picture.draw([published(d) for d in (3, 5, 7)], "a.png"))).convert("RGB"))
    present = [
        bool((pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any())
        for colour in picture.COLOURS[:4]
    ]
    assert present == [True, True, True, False]


def test_a_ladders_lines_are_named_by_their_thresholds(monkeypatch):
    """With taus, each rung's line says above which kappa it is used."""
    labels = []
    monkeypatch.setattr(picture, "_in_and_out", lambda axes, polynomials, names: labels.extend(names))
    picture.draw([published(3), published(5)], "a.svg", (5.0, 7.489))
    assert [label.partition(",")[0] for label in labels] == ["above 5: degree 3", "above 7.489: degree 5"]


def test_what_cannot_be_drawn_is_refused():
    """Another format, or more polynomials than colours."""
    with pytest.raises(InputError, match=r"\.png, \.pdf or \.svg"):
        picture.draw([IDENTITY], "a.jpeg")
    with pytest.raises(InputError, match="7 polynomials at most"):
        picture.draw([IDENTITY] * 8, "a.png")
