"""The order of the images."""

import pytest
import torch

from pctool.core.seeds import mix
from pctool.data.sampler import SampleOrder


def reference(n: int, seed: int, epochs: int) -> torch.Tensor:
    """The sequence written out from its definition."""
    return torch.cat(
        [
            torch.randperm(n, generator=torch.Generator().manual_seed(mix(seed, "sample order", e)))
            for e in range(epochs)
        ]
    )


@pytest.mark.parametrize("count", [1, 3, 7, 10, 64])
def test_any_reading_gives_the_defined_sequence(count):
    """Read in pieces of any size, from any start, forwards or at random, the sequence is the definition's."""
    expected = reference(7, 5, 40)
    order = SampleOrder(7, 5)
    for start in [*range(0, 200, count), 13, 0, 199]:
        found = order.indices(start, count)
        assert found.dtype == torch.int64
        assert torch.equal(found, expected[start : start + count])


def test_every_epoch_shows_every_image_once_in_another_order():
    """Each epoch is a permutation; two epochs and two seeds differ."""
    epochs = SampleOrder(100, 0).indices(0, 500).view(5, 100)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(100).expand(5, 100))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 5
    assert not torch.equal(epochs[0], SampleOrder(100, 1).indices(0, 100))


def test_resuming_needs_only_the_start():
    """A new object continues where another one was, and the global generator has no part in it."""
    order = SampleOrder(50, 3)
    order.indices(0, 64)
    torch.manual_seed(0)
    expected = order.indices(64, 64)
    torch.manual_seed(99)
    assert torch.equal(SampleOrder(50, 3).indices(64, 64), expected)


def test_the_sequence_is_pinned():
    """These are the values of today's PyTorch: should they change, every resumed run would change with them."""
    assert SampleOrder(10, 0).indices(0, 12).tolist() == [9, 5, 4, 0, 8, 1, 2, 3, 6, 7, 1, 5]


def test_what_is_returned_is_the_callers_own():
    """Writing into the result does not change the sequence."""
    order = SampleOrder(10, 0)
    first = order.indices(0, 10)
    kept = first.clone()
    first.zero_()
    assert torch.equal(order.indices(0, 10), kept)


def test_empty_and_wrong_arguments():
    """No entries are an empty int64 tensor; negative numbers and no images are a programmer's mistake."""
    assert SampleOrder(3, 0).indices(5, 0).shape == (0,)
    assert SampleOrder(3, 0).indices(6, 0).dtype == torch.int64
    with pytest.raises(ValueError, match="at least one image"):
        SampleOrder(0, 0)
    with pytest.raises(ValueError, match="negative"):
        SampleOrder(3, 0).indices(-1, 2)
    with pytest.raises(ValueError, match="negative"):
        SampleOrder(3, 0).indices(1, -2)


def test_batches_are_the_indices_one_after_the_other():
    """`batches` goes on where `indices` would, across epochs."""
    batches = SampleOrder(10, 1).batches(7, 4)
    for i in range(6):
        assert next(batches).tolist() == SampleOrder(10, 1).indices(7 + 4 * i, 4).tolist()
