"""Named protocols: how many samples are compared with how many real images of which split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """`n_fake` samples against `n_real` real images (None: all of them) of the data set's default split."""

    n_fake: int
    n_real: int | None


# clean-50k: what clean-fid's tables use. fashion-10k: the built-in images are 10,000, and both sides get as many.
PROTOCOLS: dict[str, Counts] = {"clean-50k": Counts(50_000, None), "fashion-10k": Counts(10_000, 10_000)}
CUSTOM = "custom"


def default_for(extractor: str) -> str:
    """The protocol when none is named."""
    return "fashion-10k" if extractor == "fashion-cnn" else "clean-50k"
