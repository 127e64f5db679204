"""One seed, many independent streams of random numbers."""

from __future__ import annotations

import hashlib
import operator
from typing import SupportsIndex

SEED_BITS = 63  # what `torch.Generator.manual_seed` takes as a non-negative int64


def mix(seed: SupportsIndex, *streams: SupportsIndex | str) -> int:
    """A seed for one stream, in [0, 2^63): the first 63 bits of SHA-256 of `repr((seed, *streams))`.

    A pure function of its arguments, the same on every machine and in every version of Python. Streams are
    names and counters, as in `mix(seed, "epoch", 3)`; another name or number gives an unrelated value, and the
    string "3" is not the number 3. Integers of any integer type (NumPy's too) count by their value.
    Raises TypeError for anything else.
    """
    parts: list[int | str] = [operator.index(seed)]
    parts += [stream if isinstance(stream, str) else operator.index(stream) for stream in streams]
    digest = hashlib.sha256(repr(tuple(parts)).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
