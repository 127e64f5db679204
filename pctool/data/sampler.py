"""The order in which images are taken: a function of (seed, epoch), so that resuming needs one number."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pctool.core.seeds import mix


class SampleOrder:
    """The endless sequence of indices into `n` images: one permutation of range(n) after the other, an epoch each.

    Epoch e's permutation is `torch.randperm(n)` on the CPU with a generator seeded by
    `mix(seed, "sample order", e)`: a pure function of (seed, e). The object holds no position; the permutations
    that the last call used are kept only to save time. Raises ValueError for n < 1.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError(f"n is {n}: an order needs at least one image")
        self.n = n
        self.seed = seed
        self._permutations: dict[int, torch.Tensor] = {}

    def indices(self, start: int, count: int) -> torch.Tensor:
        """Entries start .. start + count - 1 of the sequence: int64 [count], on the CPU, a new tensor each time.

        Raises ValueError for a negative start or count.
        """
        if start < 0 or count < 0:
            raise ValueError(f"start {start} and count {count} must not be negative")
        stop = start + count
        epochs = range(start // self.n, -(-stop // self.n))
        self._permutations = {e: self._permutation(e) for e in epochs}
        parts = [p[max(start - e * self.n, 0) : stop - e * self.n] for e, p in self._permutations.items()]
        return torch.cat([torch.empty(0, dtype=torch.int64), *parts])

    def batches(self, start: int, count: int) -> Iterator[torch.Tensor]:
        """`indices(start, count)`, then the `count` after them, without an end."""
        while True:
            yield self.indices(start, count)
            start += count

    def _permutation(self, epoch: int) -> torch.Tensor:
        """int64 [n], from the last call where it is still there."""
        if epoch in self._permutations:
            return self._permutations[epoch]
        generator = torch.Generator().manual_seed(mix(self.seed, "sample order", epoch))
        return torch.randperm(self.n, generator=generator)
