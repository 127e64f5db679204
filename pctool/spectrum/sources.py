"""From what a user types to weight files, and from weight files to rows of a spectrum."""

from __future__ import annotations

import contextlib
import glob
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pctool.core import checkpoint as checkpoints
from pctool.core.checkpoint import Network
from pctool.core.layers.state import LayerState
from pctool.errors import InputError
from pctool.places import n_processors
from pctool.spectrum import foreign, state_dicts
from pctool.spectrum.measure import LayerSpectrum, Row, measure
from pctool.spectrum.store import structure

WHAT_TO_GIVE = "give a checkpoint, a run folder or a pattern such as 'runs/demo/checkpoints/*.pt'"
SPECTRUM_FILE = ".spectrum.h5"  # our own answers, which a pattern may meet
WEIGHT_FILES = (".pt", ".pth", ".safetensors")
OURS = checkpoints.FORMAT.encode()  # in the pickle that begins a checkpoint
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def find_checkpoints(inputs: Sequence[str]) -> list[Path]:
    """The weight files meant by files, folders (all that lie in them) and globs, each once, in that order.

    Raises InputError for an input that gives none.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        names = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))
        matches = [Path(name) for name in names if name == text or not name.endswith(SPECTRUM_FILE)]
        paths = [path for match in matches for path in _of_one(match)]
        if not paths:
            recorded = Path(text) / "spectrum.h5"
            what = f"what was recorded is in {recorded}, give that" if recorded.is_file() else WHAT_TO_GIVE
            raise InputError(f"no checkpoint at {text}: {what}")
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _of_one(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return checkpoints.list_checkpoints(path) or sorted(
        file for file in path.iterdir() if file.suffix in WEIGHT_FILES and file.is_file()
    )


@dataclass(frozen=True)
class Request:
    """What to measure of each file. `network` None: what the file tells it holds, D where it tells nothing.

    `pattern` is a glob of layer names; `grid` None means matrices, else operators (see `measure.measure`).
    """

    network: Network | None = None
    pattern: str = "*"
    grid: int | None = None

    @property
    def operator(self) -> str:
        """The name of the view in the file: `matrix`, or `fft` with its grid."""
        return "matrix" if self.grid is None else "fft"


@dataclass(frozen=True)
class Measured:
    """One file's row and network, or `left_out`: why it has none although nothing is wrong with it."""

    path: Path
    network: Network
    row: Row | None
    left_out: str | None = None


@dataclass(frozen=True)
class Unread:
    """A file that cannot be read or measured, with the reason."""

    path: Path
    reason: str


def chosen_network(paths: Sequence[Path]) -> Network | None:
    """D where the names tell of D and of other networks, else what each file tells (None)."""
    return "D" if {"D"} < {state_dicts.named_network(path.stem) or "D" for path in paths} else None


def measure_file(path: Path, request: Request, threads: int = 1) -> Measured | Unread:
    """Reads one weight file, ours or anybody's, and measures it."""
    try:
        network, step, states = read_layers(path, request.network)
        if states is None:
            return Measured(path, network, None, f"it holds {network}; --network {network} measures that")
        return Measured(path, network, measure(step, states, request.pattern, request.grid, threads))
    except InputError as error:
        return Unread(path, str(error))


def read_layers(path: Path, wanted: Network | None = None) -> tuple[Network, int, list[LayerState] | None]:
    """The network, the step and the layers of a weight file; layers None where it holds another than `wanted`.

    What the file itself does not tell, its name does; a file without any number is of step 0.
    Raises InputError for a file that cannot be read or holds no layer.
    """
    if is_ours(path):
        checkpoint = checkpoints.read(path)
        network = wanted or "D"
        return network, int(checkpoint["step"]), checkpoints.layer_states(checkpoint, network)
    content = foreign.load(path)
    found = state_dicts.networks(content)
    if not found:
        raise InputError(f"{path} holds no convolution and no linear layer; {foreign.GIVE_ANOTHER}")
    named = state_dicts.named_network(path.stem)
    step = state_dicts.step_in(content)
    if step is None:
        step = state_dicts.step_in_name(path) or 0
    if None in found and len(found) == 1:
        network = named or wanted or "D"
        return network, step, found[None] if wanted in (None, network) else None
    told: dict[Network, list[LayerState]] = {network: layers for network, layers in found.items() if network}
    if None in found:
        told.setdefault("D", found[None])
    first = next(iter(told))
    network = wanted or (named if named in told else "D" if "D" in told else first)
    return (network, step, told[network]) if network in told else (first, step, None)


def is_ours(path: Path) -> bool:
    """Whether a file is a checkpoint of `pctool train`. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return OURS in file.read(2**20)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {WHAT_TO_GIVE}") from None


def measure_all(
    paths: Sequence[Path], request: Request, jobs: int = 1, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Measured | Unread]:
    """A result a file, in any order; fewer once `stopped` says so.

    With `jobs` above 1 so many processes share the files, each with one thread for linear algebra, and the
    results are the same bit by bit as with one job in a process that has one such thread.
    """
    cores = n_processors()
    if jobs == 1 or len(paths) < 2:
        for path in paths:
            if stopped():
                return
            yield measure_file(path, request, cores)
        return
    with (
        _one_thread_each(),
        ProcessPoolExecutor(
            min(jobs, len(paths)), mp_context=multiprocessing.get_context("spawn"), initializer=_leave_signals
        ) as pool,
    ):
        futures = {pool.submit(measure_file, path, request, max(1, cores // jobs)): path for path in paths}
        try:
            for future in as_completed(futures):
                try:
                    yield future.result()
                except BrokenExecutor:  # the system killed a process, as it does when memory runs out
                    yield Unread(futures[future], f"the process measuring {futures[future]} was killed; try --jobs 1")
                if stopped():
                    return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """The environment in which new processes start: their libraries read it when they load."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave_signals() -> None:
    """A terminal interrupts all its processes; the one that collects the results decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def merged(results: Sequence[Measured]) -> tuple[Network, list[Row]]:
    """The network and its rows by rising step.

    Raises InputError for two files of one step, or of networks that differ.
    """
    rows: dict[int, Row] = {}
    origin: dict[int, Path] = {}
    measured = [(each, each.row) for each in sorted(results, key=lambda each: str(each.path)) if each.row]
    first, first_row = measured[0]
    for result, row in measured:
        step = row.step
        if step in rows and all(map(_same, rows[step].layers, row.layers)):
            continue  # best.pt beside the checkpoint of its step
        if step in rows:
            raise InputError(f"{origin[step]} and {result.path} are both of step {step}: give the checkpoints of one")
        if result.network != first.network:
            raise InputError(
                f"{first.path} is of {first.network} and {result.path} of {result.network}: choose with --network"
            )
        if structure(row) != structure(first_row):
            raise InputError(f"{first.path} and {result.path} hold different networks: give the checkpoints of one run")
        rows[step], origin[step] = row, result.path
    return first.network, [rows[step] for step in sorted(rows)]


def _same(one: LayerSpectrum, other: LayerSpectrum) -> bool:
    pairs = ((one.raw, other.raw), (one.effective, other.effective))
    return one.name == other.name and all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
