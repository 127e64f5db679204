"""One run from its configuration to its outcome: data, folder, resumption, spectrum and scores around the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from pctool.core import checkpoint as checkpoints
from pctool.data import catalog
from pctool.errors import MissingError
from pctool.spectrum.measure import Row, measure
from pctool.spectrum.plots import evolution_figure
from pctool.spectrum.store import SpectrumWriter
from pctool.training import evaluation, loop
from pctool.training.config import TrainConfig
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest, listen
from pctool.training.state import TrainingState


class Watcher(Protocol):
    """Who is told how the run goes; the command line shows it, a script may ignore it."""

    def note(self, message: str) -> None:
        """A line worth reading."""

    def begin(self, step: int, total_steps: int) -> None:
        """Training starts at `step`."""

    def step(self, report: loop.StepReport) -> None:
        """A step is done."""

    def scoring(self, total: int) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        """Scoring `total` images starts; the context gives what counts them."""


@dataclass
class Outcome:
    """How a run ended and where its files lie."""

    path: Path
    step: int
    finished: bool
    requeue: bool = False
    spectrum: Row | None = None
    metrics: dict[str, Any] | None = None
    files: dict[str, Path] = field(default_factory=dict)


@contextlib.contextmanager
def opened(config: TrainConfig, *, may_resume: bool = True) -> Iterator[Session]:
    """Loads the data and takes the run folder; nothing is touched when either fails.

    Raises InputError (an unknown data set, another run's folder, one in use), MissingError (data), WriteError.
    """
    dataset = catalog.load(config.dataset, data_dir=config.data_dir, max_images=config.max_images)
    folder = RunFolder(config.out)
    folder.open(config, dataset.sha256, may_resume=may_resume)
    try:
        yield Session(config, dataset, folder)
    finally:
        folder.close()


@dataclass(frozen=True)
class Session:
    """A run folder in this process's hands, with the data it trains on."""

    config: TrainConfig
    dataset: catalog.ImageSet
    folder: RunFolder

    def train(self, watcher: Watcher) -> Outcome:
        """Trains, or continues; returns how it ended, an interruption by a signal included.

        Raises NonFiniteError, WriteError, and InputError for a checkpoint that does not fit.
        """
        with listen() as stop:
            return _train(self.config, self.dataset, self.folder, watcher, stop)


def _train(
    config: TrainConfig, dataset: catalog.ImageSet, folder: RunFolder, watcher: Watcher, stop: StopRequest
) -> Outcome:
    state = TrainingState(config)
    outcome = Outcome(folder.path, 0, False)
    _resume(state, folder, watcher)
    scorer = _scorer(config, dataset, watcher)
    images = torch.tensor(dataset.images).to(state.device)

    spectrum = SpectrumWriter(folder.spectrum_path, source=str(folder.path), network="D")
    spectrum.truncate_after(state.step if state.step else -1)

    def record_spectrum(state: TrainingState) -> None:
        outcome.spectrum = measure(state.step, state.preconditioner.layer_states())
        spectrum.append(outcome.spectrum)
        for problem in outcome.spectrum.problems:
            watcher.note(f"step {state.step:,}: spectrum of {problem}")

    def evaluate(state: TrainingState) -> None:
        if scorer is None:
            return
        with watcher.scoring(scorer.n_images) as advance:
            outcome.metrics = scorer.score(state.G_ema, state.step, advance)
        folder.log("metrics.jsonl", outcome.metrics)

    watcher.begin(state.step, config.steps)
    outcome.finished = loop.train(
        config,
        images,
        state,
        folder,
        stop=stop,
        record_spectrum=record_spectrum,
        evaluate=evaluate,
        report=watcher.step,
    )
    outcome.step, outcome.requeue = state.step, stop.requeue
    if outcome.finished and config.spectrum_every:
        evolution_figure(folder.spectrum_path, folder.figure_path, f"{folder.path.name}: D's spectra while training")
    outcome.files = _files(folder, state.step)
    return outcome


def _resume(state: TrainingState, folder: RunFolder, watcher: Watcher) -> None:
    checkpoint, problems = folder.newest_checkpoint()
    for problem in problems:
        watcher.note(problem)
    if checkpoint is not None:
        state.load(checkpoint)
        watcher.note(f"continuing {folder.path} at step {state.step:,}")
    folder.cut_logs(state.step)


def _scorer(config: TrainConfig, dataset: catalog.ImageSet, watcher: Watcher) -> evaluation.Scorer | None:
    """What scores the run, or None with one note at the start where the extractor is not to be had."""
    if config.eval_every == 0:
        return None
    try:
        return evaluation.Scorer(config, dataset)
    except MissingError as error:
        watcher.note(f"no scores while training: {error}")
        return None


def _files(folder: RunFolder, step: int) -> dict[str, Path]:
    found = {
        "samples": folder.path / "samples" / f"{step:08d}.png",
        "spectrum": folder.spectrum_path,
        "figure": folder.figure_path,
        "checkpoint": next(iter(reversed(checkpoints.list_checkpoints(folder.path))), folder.path),
    }
    return {name: path for name, path in found.items() if path.exists()}
