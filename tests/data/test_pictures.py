"""Decoding and cropping, against Pillow and torchvision."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from pctool.data.pictures import decode, render
from pctool.errors import InputError

from .small_encoded import encoded, smooth


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_kind_of_image_becomes_rgb():
    """RGB stays; grey, black and white, palettes, CMYK and an opaque alpha channel become RGB with Pillow's values."""
    colour = Image.fromarray(smooth(8, 9, 0))
    grey = Image.fromarray(np.arange(72, dtype=np.uint8).reshape(8, 9))
    opaque = colour.copy()
    opaque.putalpha(255)
    kinds = {
        "colour": (saved(colour), colour),
        "jpeg": (saved(colour, "JPEG", quality=90), Image.open(io.BytesIO(saved(colour, "JPEG", quality=90)))),
        "grey": (saved(grey), grey),
        "black and white": (saved(grey.convert("1")), grey.convert("1")),
        "palette": (saved(colour.quantize(8)), colour.quantize(8)),
        "opaque": (saved(opaque), colour),
        "ppm": (saved(colour, "PPM"), colour),
        "cmyk": (saved(colour.convert("CMYK"), "JPEG"), Image.open(io.BytesIO(saved(colour.convert("CMYK"), "JPEG")))),
    }
    for name, (data, expected) in kinds.items():
        found = decode(data, name)
        assert found.mode == "RGB", name
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected.convert("RGB")), err_msg=name)
    plane = np.asarray(decode(saved(grey), "grey"))
    assert (plane == plane[..., :1]).all()


def half_transparent() -> bytes:
    picture = Image.fromarray(smooth(4, 4, 0))
    picture.putalpha(128)
    return saved(picture)


def png(colour_type: int, bits: int, *early: tuple[bytes, bytes], late: tuple[bytes, bytes] | None = None) -> bytes:
    """A PNG of 2 x 2 black pixels, as Pillow would not write it: RGB (2), palette (3), RGBA (6); `late` after them."""
    header = struct.pack(">IIBBBBB", 2, 2, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(bytes(2 * (1 + 2 * bits // 8 * {2: 3, 3: 1, 6: 4}[colour_type])))
    parts = ((b"IHDR", header), *early, (b"IDAT", pixels), *([late] if late else []), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


GREYS = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
PARTLY_CLEAR = (  # images without an alpha channel, and the colour that is transparent in each
    (GREYS, 3),
    (GREYS.convert("1"), 0),
    (GREYS.convert("RGB"), (3, 3, 3)),
    (GREYS.convert("P"), 3),
    (GREYS.convert("P"), bytes([255, 128])),
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (half_transparent(), "x.png is transparent in places"),
        (saved(Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4))), "has 16 bits a channel"),
        (png(2, 16), "has 16 bits a channel"),
        (png(6, 16), "has 16 bits a channel"),
        (b"P6 2 2 65535\n" + bytes(24), "has 16 bits a channel"),
        *((saved(picture, transparency=clear), "is transparent in places") for picture, clear in PARTLY_CLEAR),
        (png(2, 8, late=(b"iCCP", b"")), "not a readable image"),
        (png(3, 8, (b"PLTE", bytes(6)), (b"tRNS", b"\xff" * 300 + b"\0")), "not a readable image"),
        (encoded(smooth(64, 64, 0))[:500], "not a readable image"),
        (encoded(smooth(64, 64, 0), "JPEG")[:300], "not a readable image"),
        (b"GIF89a" + bytes(40), "none of PNG, JPEG"),
        (b"", "none of PNG, JPEG"),
        (b"<svg></svg>", "none of PNG, JPEG"),
    ],
)
def test_what_cannot_be_taken_is_named(data, words):
    """Transparency, 16 bits, a file that is cut short, another format: one line with the name."""
    with pytest.raises(InputError, match=r"x\.png") as caught:
        decode(data, "x.png")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused(monkeypatch):
    """An image beyond Pillow's limit is refused before it is decoded, not only warned of."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"x\.png is not a readable image"):
        decode(encoded(smooth(11, 11, 0)), "x.png")


@pytest.mark.parametrize("size", [(256, 300), (341, 256), (257, 301), (128, 128), (129, 131)])
def test_the_centre_is_torchvisions(size):
    """`centre` cuts what torchvision's CenterCrop cuts, which the authors' code uses, odd margins included."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = np.asarray(transforms.CenterCrop(128)(picture)).transpose(2, 0, 1)
    np.testing.assert_array_equal(render(picture, 128, "centre", "x"), expected)


@pytest.mark.parametrize("size", [(96, 96), (100, 96), (256, 341), (333, 257), (30, 40)])
def test_resizing_is_pillows_bicubic(size):
    """`resize` brings the short side to the resolution by Pillow's bicubic filter, then cuts, as torchvision does."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    resized = transforms.Resize(48, transforms.InterpolationMode.BICUBIC)(picture)
    expected = np.asarray(transforms.CenterCrop(48)(resized)).transpose(2, 0, 1)
    np.testing.assert_array_equal(render(picture, 48, "resize", "x"), expected)
    if size == (96, 96):
        direct = np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        np.testing.assert_array_equal(render(picture, 48, "resize", "x"), direct)


def test_too_small_for_a_cut_is_named():
    """An image smaller than the cut is refused with its size and the other crop."""
    with pytest.raises(InputError, match=r"x is 100 x 90, smaller than 128 px; use --crop resize"):
        render(Image.new("RGB", (100, 90)), 128, "centre", "x")


def test_too_long_to_be_resized_is_named():
    """An image so thin that its short side, brought to the resolution, would take all memory is refused."""
    with pytest.raises(InputError, match=r"x is 1 x 2000000: too long to be resized"):
        render(Image.new("RGB", (1, 2_000_000)), 48, "resize", "x")


def test_transparency_that_shows_nowhere_is_no_transparency():
    """A colour that counts as transparent and does not occur leaves an image as it is."""
    for picture, clear in ((GREYS, 99), (GREYS.convert("RGB"), (9, 9, 8)), (GREYS.convert("P"), bytes([255] * 3))):
        np.testing.assert_array_equal(
            np.asarray(decode(saved(picture, transparency=clear), "x")), picture.convert("RGB")
        )
