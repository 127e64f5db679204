"""One seed, many streams."""

import hashlib

import numpy as np
import pytest
import torch

from pctool.core.seeds import mix


def test_mix_is_the_first_63_bits_of_sha256_of_the_repr():
    """The value is what the docstring says, written here with other means."""
    digest = hashlib.sha256(b"(7, 'epoch', 3)").hexdigest()
    assert mix(7, "epoch", 3) == int(digest[:16], 16) // 2
    assert mix(7) == int(hashlib.sha256(b"(7,)").hexdigest()[:16], 16) // 2


def test_streams_differ_and_fit_a_generator():
    """10,000 seeds, names and counters give as many values, all in [0, 2^63), which a generator takes."""
    values = {mix(seed, name, i) for seed in range(10) for name in ("G", "D") for i in range(500)}
    assert len(values) == 10_000
    assert all(0 <= value < 2**63 for value in values)
    assert torch.Generator().manual_seed(max(values)).initial_seed() == max(values)


def test_integers_count_by_value_and_strings_are_not_numbers():
    """NumPy's integers give Python's value; "3" is not 3; a float is refused."""
    assert mix(np.int64(7), "z", np.int32(3)) == mix(7, "z", 3)
    assert mix(7, "3") != mix(7, 3)
    assert mix(1, 23) != mix(12, 3)
    with pytest.raises(TypeError):
        mix(7, 3.0)
