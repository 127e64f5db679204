"""A training step as one CUDA graph, which the GPU replays without a host that launches, and work beside other work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from pctool.training.finite import Updates
from pctool.training.state import Draws

Update = Callable[[Draws], Updates]


@contextlib.contextmanager
def beside(stream: torch.cuda.Stream | None) -> Iterator[Callable[[], None]]:
    """Work on another stream, which the current one does not wait for until it calls what the context gives.

    Without a stream it is done at once. Autograd does its backward pass there too.
    """
    if stream is None:
        yield lambda: None
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield lambda: torch.cuda.current_stream().wait_stream(stream)


class Recorded:
    """An update of fixed shapes, called as it is or, with `record`, as a CUDA graph.

    It runs as it is once, on a stream of its own, so that what is chosen or allocated at a first time is there; then it
    is recorded, and replayed with each step's draws copied into the first's place. What it returns is overwritten by
    the next call.
    """

    def __init__(self, update: Update, *, record: bool) -> None:
        self._update = update
        self._stream = torch.cuda.Stream() if record else None
        self.renew()

    def renew(self) -> None:
        """Records anew: the update has become another, as by a change of APC's strengths."""
        self._recorded: tuple[torch.cuda.CUDAGraph, Draws, Updates] | None = None
        self._tried = False

    def __call__(self, draws: Draws) -> Updates:
        if self._stream is None:
            return self._update(draws)
        if not self._tried:
            self._tried = True
            return self._try(self._stream, draws)
        if self._recorded is None:
            self._recorded = self._record(self._stream, draws)
        graph, first, updates = self._recorded
        if draws is not first:
            torch._foreach_copy_(first.tensors(), draws.tensors())
        graph.replay()
        return updates

    def _try(self, stream: torch.cuda.Stream, draws: Draws) -> Updates:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            updates = self._update(draws)
        torch.cuda.current_stream().wait_stream(stream)
        return updates

    def _record(self, stream: torch.cuda.Stream, draws: Draws) -> tuple[torch.cuda.CUDAGraph, Draws, Updates]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on meanwhile: APC's measurement does.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            updates = self._update(draws)
        return graph, draws, updates
