"""Several processes as one run: torchrun or srun start them, torch.distributed joins them.

Every rank holds the same networks and draws the same global batch, of which it takes its share; gradients are
averaged before they are applied, batch norm sees the global batch, and only rank 0 writes. With one process every
operation here does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pctool.errors import InputError, PctoolError
from pctool.training.lifeline import Lifeline
from pctool.training.placement import meet, placement

if TYPE_CHECKING:
    from pctool.training.config import TrainConfig

T = TypeVar("T")

# Rank 0 records, and goes through the real images before the first scores, while the others wait for it.
PATIENCE = timedelta(hours=2)
PARTING = 3.0  # seconds that a failed process gives its group to end: less than lifeline.GRACE


class Stopped(Exception):
    """Work that can be done again was given up, since the run was asked to stop."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    lifeline: Lifeline | None = None

    @property
    def broken(self) -> bool:
        """Whether another process has died: what is under way can no longer be put together."""
        return self.lifeline is not None and self.lifeline.lost is not None

    def unbroken(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the loss of another process is a PctoolError that names it."""
        return self.lifeline.unbroken() if self.lifeline else contextlib.nullcontext()

    def spare(self, working: Callable[[], bool]) -> None:
        """While `working()` is true the loss of another process does not end this one, for a minute at most."""
        if self.lifeline:
            self.lifeline.working = working

    def record_loss(self, record: Callable[[PctoolError], object]) -> None:
        """Where the loss of another process ends this one within a collective, `record` is told why."""
        if self.lifeline:
            self.lifeline.record = record

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This rank's part of a global batch [n, ...], n a multiple of `size`."""
        return batch.chunk(self.size)[self.rank] if self.size > 1 else batch

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the ranks: that of the global batch, the same bits on each."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def means(self, *values: Tensor) -> list[float]:
        """Each scalar's mean over the ranks."""
        together = torch.stack([value.detach().float() for value in values])
        if self.size > 1:
            dist.all_reduce(together)
            together /= self.size
        return together.tolist()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag stands on any rank: all stop at the same step, or none."""
        if self.size == 1:
            return flag
        found = torch.tensor(int(flag), device=device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raises InputError, on all ranks, where one has other values than rank 0, which names them."""
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, dict(values))
        for rank, its in enumerate(found):
            if its != found[0]:
                differing = [key for key in values if its[key] != found[0][key]]
                said, wanted = (", ".join(f"{key} {of[key]}" for key in differing) for of in (its, found[0]))
                error = InputError(
                    f"process {rank} of {self.size} has {said} where process 0 has {wanted}: a run needs the same on "
                    "all; for independent runs start each with its own srun -n 1, or unset what makes them one "
                    "(SLURM_STEP_NUM_TASKS; RANK and WORLD_SIZE)"
                )
                error.said = not self.main
                raise error

    def first(self, work: Callable[[], T]) -> T | None:
        """Rank 0 does the work while the others wait; None for them. An error on rank 0 ends them in the same way."""
        return self.together(work if self.main else lambda: None)

    def together(self, work: Callable[[], T]) -> T:
        """Every rank does the work; where it fails on one, all end with that error, and rank 0 says it."""
        if self.size == 1:
            return work()
        failed: BaseException | None = None
        try:
            done = work()
        except BaseException as error:
            failed = error
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, failed if isinstance(failed, PctoolError | None) else SystemExit(1))
        if failed is not None and not isinstance(failed, PctoolError):
            raise failed  # a bug or an interrupt: this process says so itself
        first = next((error for error in found if error is not None), None)
        if first is None:
            return done
        if isinstance(first, PctoolError):
            first.said = not self.main
        raise first

    def part(self, n: int, unit: int) -> range:
        """This rank's of the numbers below n: one piece after the other, in whole units of which rank 0 has some."""
        units = -(-n // unit)
        first, end = (-(-units * rank // self.size) * unit for rank in (self.rank, self.rank + 1))
        return range(first, min(end, n))

    def gathered(self, work: Callable[[], T]) -> list[T]:
        """Every rank does its work; rank 0 gets all results, in the ranks' order, the others nothing.

        An error on one rank ends the others quietly too; where one raises Stopped, all do.
        """
        if self.size == 1:
            return [work()]
        result, outcome = None, "failed"
        try:
            result = work()
            outcome = "done"
        except Stopped:
            outcome = "stopped"
        finally:
            on_all: list[Any] = [None] * self.size
            dist.all_gather_object(on_all, outcome)
            if "failed" in on_all and outcome != "failed":
                raise SystemExit(1)  # the rank that failed says why
        if "stopped" in on_all:
            raise Stopped
        results: list[Any] | None = [None] * self.size if self.main else None
        dist.gather_object(result, results)
        return results or []

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def shared_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that all processes of a run need the same: its identity, and what else makes them compute together.

    Not where a node has its data, nor what rank 0 alone does.
    """
    others = config.model_dump(mode="json", include={"compile", "eval_every", "eval_extractor", "fork"})
    return {**config.identity(), **others, "out": str(config.out.absolute())}


@contextlib.contextmanager
def joined(device: str, say: Callable[[str], object] = lambda line: None) -> Iterator[Ranks]:
    """Joins the processes that torchrun or srun started, by their environment; alone without either.

    On CUDA each takes the device of its local rank, by NCCL; on CPUs gloo. Where one dies all end within seconds; `say`
    is told what a process has to say then. Raises InputError for an environment that contradicts itself, and where not
    all come (`placement.meet`).
    """
    place = placement(os.environ)
    if place is None:
        yield Ranks()
        return
    rank, size, local, address = place
    gpu = ""
    if device == "cuda":
        torch.cuda.set_device(local % torch.cuda.device_count())
        gpu = f"{socket.gethostname()}, {torch.cuda.get_device_properties().uuid}"
    backend = "nccl" if device == "cuda" else "gloo"
    store = meet(place, device, gpu, say)
    store.set_timeout(PATIENCE)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    lifeline, failed = Lifeline(rank, size, say), True
    lifeline.tie(urlsplit(address).hostname or os.environ["MASTER_ADDR"], Ranks(rank, size).from_first)
    try:
        with lifeline.unbroken():
            yield Ranks(rank, size, lifeline)
        failed = False
    except PctoolError as error:
        if rank and error.said is None:  # of this process alone
            error.said, error.args = False, (f"process {rank}: {error}",)
        raise
    finally:
        lifeline.leave(failed=failed)
        if _left_group(failed=failed):
            lifeline.close()


def _left_group(*, failed: bool) -> bool:
    """Leaves the group; of a failed process False where that takes long.

    NCCL's end waits for processes that are stuck in a collective with this one, which has still to say why it failed.
    """
    if not failed:
        dist.destroy_process_group()
        return True

    def leave() -> None:
        with contextlib.suppress(Exception):  # of a broken group; the process has an error of its own
            dist.destroy_process_group()

    leaving = threading.Thread(target=leave, daemon=True)
    leaving.start()
    leaving.join(PARTING)
    return not leaving.is_alive()
