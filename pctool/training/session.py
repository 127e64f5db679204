"""One run from its configuration to its outcome: data, folder, resumption, spectrum and scores around the loop."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pctool.core import checkpoint as checkpoints
from pctool.data import catalog, feed
from pctool.data.sampler import SampleOrder
from pctool.errors import InputError, PctoolError, SavedInterrupt
from pctool.files import write_error
from pctool.spectrum.plots import evolution_figure
from pctool.spectrum.reader import read_summary
from pctool.training import evaluation, images, loop
from pctool.training.config import TrainConfig
from pctool.training.memory import enough_memory, keep_freed_memory
from pctool.training.ranks import Ranks, shared_settings
from pctool.training.recorder import Recorder, Watcher
from pctool.training.run_files import n_fake, scores_of
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest, listen, seconds_left
from pctool.training.state import TrainingState


@dataclass
class Outcome:
    """How a run ended and where its files lie."""

    path: Path
    step: int
    finished: bool
    requeue: bool = False
    collapse: str | None = None
    kappas: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


@contextlib.contextmanager
def opened(
    config: TrainConfig,
    ranks: Ranks = Ranks(),  # noqa: B008  # frozen
    *,
    stop: StopRequest | None = None,
    may_resume: bool = True,
    counted: Callable[[int], contextlib.AbstractContextManager[Callable[[int], object]]] = lambda total: (
        contextlib.nullcontext(lambda n: None)
    ),
    say: Callable[[str], object] = lambda line: None,
) -> Iterator[Session]:
    """Loads the data and takes the run folder; nothing is touched when either fails.

    Of several ranks the first takes the folder. `stop` is the request of signals that the caller listens to; without
    one they are listened to here, and the time limit counts from here. While data are loaded they end it at once, with
    SavedInterrupt where the run has a checkpoint or is to be queued again, and else with KeyboardInterrupt.
    Raises InputError (an unknown data set, another run's folder, one in use, a batch that does not divide),
    MissingError (data), WriteError; of an error on any rank all ranks.
    """
    ranks.check_same(shared_settings(config))
    ranks.together(lambda: _check_batches(config, ranks.size))
    with listen(seconds_left(config.time_limit)) if stop is None else contextlib.nullcontext(stop) as request:
        progress: dict[str, Any] = {"counted": counted, "say": say} if ranks.main else {}
        folder = RunFolder(config.out)
        # Before the data, which may take long: their hash is compared when the folder is taken.
        ranks.first(lambda: _check(folder, config, may_resume=may_resume))
        dataset = ranks.together(lambda: _load(config, request, progress))
        if ranks.any(dataset is None, torch.device(config.device)) or dataset is None:
            raise _interrupted(config, request)
        ranks.check_same({"data_sha256": dataset.sha256})
        ranks.first(lambda: _take(folder, config, dataset, may_resume=may_resume))
        try:
            yield Session(config, dataset, folder, ranks, request)
        finally:
            folder.close()


def _check_batches(config: TrainConfig, n_ranks: int) -> None:
    for name in ("batch_size", "batch_size_g"):
        if getattr(config, name) % n_ranks:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {getattr(config, name)} does not divide among {n_ranks} processes")


def _load(config: TrainConfig, stop: StopRequest, progress: dict[str, Any]) -> catalog.ImageSet | None:
    """The data; None where this process was asked to stop before they were there."""
    try:
        with stop.at_once():
            return images.load(config, **progress)
    except KeyboardInterrupt:
        return None


def _interrupted(config: TrainConfig, stop: StopRequest) -> BaseException:
    """What ends a run that was asked to stop before its first step."""
    saved = checkpoints.list_checkpoints(config.out)
    if not saved and not stop.requeue:
        return KeyboardInterrupt()  # nothing was computed, and nobody is to start it again
    where = f"the run is saved at step {int(saved[-1].stem):,}" if saved else "nothing is lost"
    return SavedInterrupt(f"stopped by {stop.describe()} while loading data; {where}; the same command continues")


def _check(folder: RunFolder, config: TrainConfig, *, may_resume: bool) -> None:
    with _writable(folder):
        folder.check(config, None, may_resume=may_resume)


def _take(folder: RunFolder, config: TrainConfig, dataset: catalog.ImageSet, *, may_resume: bool) -> None:
    with _writable(folder):
        folder.open(config, identity_hashes(config, dataset), may_resume=may_resume)


@contextlib.contextmanager
def _writable(folder: RunFolder) -> Iterator[None]:
    """What may not even be looked at cannot be written."""
    try:
        yield
    except PermissionError as error:
        raise write_error(folder.path, error) from error


def identity_hashes(config: TrainConfig, dataset: catalog.ImageSet) -> dict[str, str]:
    """The part of a run's identity that files hold: the data's hash, and of a fork the checkpoint's."""
    hashes, folder = {"data_sha256": dataset.sha256}, RunFolder(config.out)
    # A run that has begun no longer needs the checkpoint it came from, which its own run may have replaced or removed.
    begun = folder.record() if folder.saved_step() else None
    known = begun.identity.get("fork_sha256") if begun else None
    source = config.fork and config.fork.absolute()
    if known and begun and (source is None or not source.exists() or str(source) == begun.config.get("fork")):
        return {**hashes, "fork_sha256": known}
    return {**hashes, "fork_sha256": checkpoints.sha256(config.fork)} if config.fork else hashes


@dataclass(frozen=True)
class Session:
    """A run folder in this process's hands, with the data it trains on."""

    config: TrainConfig
    dataset: catalog.ImageSet
    folder: RunFolder
    ranks: Ranks
    stop: StopRequest

    def train(self, watcher: Watcher) -> Outcome:
        """Trains, or continues; returns how it ended, an interruption by a signal included.

        Raises NonFiniteError, WriteError, InputError for a checkpoint that does not fit or a device without enough
        memory, and PctoolError where another process of the run has died.
        """
        with self.ranks.unbroken(), enough_memory():
            return _train(self, watcher)


def _train(session: Session, watcher: Watcher) -> Outcome:
    config, dataset, folder, ranks = session.config, session.dataset, session.folder, session.ranks
    stop = session.stop
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.device == "cpu":
        keep_freed_memory()
    state = TrainingState(config, ranks)
    checkpoint = _newest(folder, watcher, ranks)
    ranks.together(lambda: _resume(state, folder, watcher, ranks, checkpoint))
    source = feed.open_feed(dataset, state.device, config.data_workers)
    order = SampleOrder(len(source), config.seed)
    first = state.step * config.d_iters * config.batch_size
    own = map(ranks.share, order.batches(first, config.batch_size))
    scorer = evaluation.opened(config, ranks, watcher.note)
    recorder = Recorder(folder, state, watcher, stop) if ranks.main else None  # refuses a damaged spectrum
    ranks.first(folder.write_record)
    if state.step < config.steps:
        if ranks.main:
            folder.forget_exit()
        watcher.begin(state.step, config.steps)
        if len(source) < config.batch_size:
            watcher.note(f"{len(source):,} images make batches of {config.batch_size}: some are there more than once")
    with contextlib.closing(source.batches(own)) as reals, warnings.catch_warnings():
        # torch.compile looks at .grad of the weights that are values, and is told that they have none.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        # On a GPU float32 is meant where it stands, and weights are values of another stream than the optimizer's.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores for float32", UserWarning)
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match", UserWarning)
        finished = loop.train(state, reals, folder, stop=stop, recorder=recorder, scorer=scorer)
    requeue = ranks.any(stop.requeue, state.device) and not finished
    outcome = Outcome(folder.path, state.step, finished, requeue, stop.collapse)
    if recorder is not None:
        recorder.close()
        _fill_in(outcome, folder, watcher.note)
    return outcome


def _fill_in(outcome: Outcome, folder: RunFolder, note: Callable[[str], object]) -> None:
    """What the folder holds at the outcome's step: files, the last row's condition numbers, the scores of this step."""
    if folder.spectrum_path.exists():
        recorded = read_summary(folder.spectrum_path)
        outcome.kappas = {name: float(values[-1]) for name, values in recorded.summary.items() if len(values)}
        if outcome.finished:
            title = f"{folder.path.name}: D's spectra while training"
            try:
                evolution_figure(folder.spectrum_path, folder.figure_path, title)
            except PctoolError as error:  # the run itself is done and saved
                note(f"{folder.figure_path.name} was not drawn: {error}")
    entries = [entry for entry in folder.read_log("metrics.jsonl") if entry.get("step") == outcome.step]
    if entries:
        outcome.scores = scores_of(max(reversed(entries), key=n_fake))
    found = {
        "samples": folder.path / "samples" / f"{outcome.step:08d}.png",
        "spectrum": folder.spectrum_path,
        "figure": folder.figure_path,
        "checkpoint": folder.checkpoint_path(outcome.step),
        "best": folder.path / "checkpoints" / "best.pt",
    }
    outcome.files = {name: path for name, path in found.items() if path.exists()}


def _newest(folder: RunFolder, watcher: Watcher, ranks: Ranks) -> dict[str, Any] | None:
    """The checkpoint to go on from, found by rank 0."""
    found = ranks.first(folder.newest_checkpoint)
    checkpoint, problems = found or (None, [])
    for problem in problems:
        watcher.note(problem)
    return ranks.from_first(checkpoint)


def _schedule(config: TrainConfig) -> str:
    start = config.decay_start()
    return f"falls from step {start:,} to {config.steps:,}" if start < config.steps else "stays as it is"


def _resume(
    state: TrainingState, folder: RunFolder, watcher: Watcher, ranks: Ranks, checkpoint: dict[str, Any] | None
) -> None:
    """Every rank takes over the run's checkpoint, or without one that of the run it forks."""
    fork = state.config.fork
    if checkpoint is None and fork is not None:
        state.fork(checkpoints.read(fork))
        if state.step >= state.config.steps:
            raise InputError(
                f"{fork} is of step {state.step:,}; --steps {state.config.steps:,} leaves nothing to train"
            )
        watcher.note(f"{folder.path} starts from {fork}, at step {state.step:,}")
    elif checkpoint is not None:
        state.resume(checkpoint)
        before, now = _schedule(TrainConfig.model_validate_json(checkpoint["config"])), _schedule(state.config)
        if before != now:
            watcher.note(f"the learning rate now {now}; before, it {before}")
        done = state.step >= state.config.steps
        what = "is finished; --steps N trains on" if done else "continues"
        watcher.note(f"{folder.path} {what}, at step {state.step:,}")
    if ranks.main:
        folder.cut_logs(state.step)
