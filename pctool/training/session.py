"""One run from its configuration to its outcome: data, folder, resumption, spectrum and scores around the loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from pctool.core import checkpoint as checkpoints
from pctool.core.polynomial_report import LAYER_UPPER
from pctool.data import catalog
from pctool.errors import MissingError
from pctool.spectrum.measure import Row, measure
from pctool.spectrum.plots import evolution_figure
from pctool.spectrum.reader import read_spectrum
from pctool.spectrum.store import SpectrumWriter
from pctool.training import evaluation, loop
from pctool.training.alarm import collapse
from pctool.training.board import Board
from pctool.training.config import TrainConfig
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest, listen, seconds_left
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
    collapse: str | None = None
    kappas: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


@contextlib.contextmanager
def opened(config: TrainConfig, *, may_resume: bool = True) -> Iterator[Session]:
    """Loads the data and takes the run folder; nothing is touched when either fails.

    Raises InputError (an unknown data set, another run's folder, one in use), MissingError (data), WriteError.
    """
    dataset = catalog.load(config.dataset, data_dir=config.data_dir, max_images=config.max_images)
    folder = RunFolder(config.out)
    folder.open(config, identity_hashes(config, dataset), may_resume=may_resume)
    try:
        yield Session(config, dataset, folder)
    finally:
        folder.close()


def identity_hashes(config: TrainConfig, dataset: catalog.ImageSet) -> dict[str, str]:
    """The part of a run's identity that files hold: the data's hash, and of a fork the checkpoint's."""
    fork = {"fork_sha256": checkpoints.sha256(config.fork)} if config.fork else {}
    return {"data_sha256": dataset.sha256, **fork}


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
        with listen(seconds_left(self.config.time_limit)) as stop:
            return _train(self.config, self.dataset, self.folder, watcher, stop)


def _train(
    config: TrainConfig, dataset: catalog.ImageSet, folder: RunFolder, watcher: Watcher, stop: StopRequest
) -> Outcome:
    if config.threads:
        torch.set_num_threads(config.threads)
    state = TrainingState(config)
    _resume(state, folder, watcher)
    scorer = _scorer(config, watcher)
    images = torch.tensor(dataset.images).to(state.device)

    board = Board(folder.path / "tensorboard", state.step) if config.tensorboard else None
    spectrum = SpectrumWriter(folder.spectrum_path, source=str(folder.path), network="D")
    spectrum.truncate_after(state.step if state.step else -1)
    kappas = _recorded_kappas(folder)

    warned: list[str] = []

    def record_spectrum(state: TrainingState) -> None:
        row = measure(state.step, state.preconditioner.layer_states())
        spectrum.append(row)
        if board:
            board.add("spectrum", row.step, row.summary)
        for problem in row.problems:
            watcher.note(f"step {state.step:,}: spectrum of {problem}")
        alarm(row)
        if not warned and (messages := out_of_range(row)):  # once a run: it says what to do
            watcher.note(messages[0])
            warned.extend(messages)

    def alarm(row: Row) -> None:
        kappas.append((row.step, row.summary["mean_modified_kappa"], row.summary["max_modified_kappa"]))
        reason = collapse(kappas)
        if reason is None:
            return
        if folder.raise_alarm(row.step, reason):
            watcher.note(f"{reason}{'' if config.stop_on_collapse else '; --stop-on-collapse would stop here'}")
        if config.stop_on_collapse:
            stop.collapse = reason

    def evaluate(state: TrainingState) -> None:
        if scorer is None:
            return
        with watcher.scoring(scorer.n_images) as advance:
            metrics = scorer.score(state.G_ema, state.step, advance)
        before = [evaluation.distance(entry["scores"]) for entry in folder.read_log("metrics.jsonl")]
        folder.log("metrics.jsonl", metrics)
        if evaluation.distance(metrics["scores"]) < min(before, default=math.inf):
            folder.save_best(state.checkpoint())
        if board:
            board.add("scores", state.step, metrics["scores"])

    def log(entry: dict[str, Any]) -> None:
        folder.log("stats.jsonl", entry)
        if board:
            board.add("train", entry["step"], entry)

    if state.step < config.steps:
        watcher.begin(state.step, config.steps)
    finished = loop.train(
        config,
        images,
        state,
        folder,
        stop=stop,
        log=log,
        record_spectrum=record_spectrum,
        evaluate=evaluate,
        report=watcher.step,
    )
    if board:
        board.close()
    outcome = _outcome(folder, state.step, finished=finished, requeue=stop.requeue)
    outcome.collapse = stop.collapse
    return outcome


def out_of_range(row: Row) -> list[str]:
    """What to say of layers whose polynomial is used beyond its range, because the power iteration lags behind."""
    return [
        f"step {row.step:,}: in {layer.name} the spectral norm is {layer.sigma_over_sigma_hat:.2f} times its estimate; "
        f"beyond {LAYER_UPPER} a polynomial grows fast: a run with --n-power-iterations 2 follows the weights closer"
        for layer in row.layers
        if layer.strength > 1 and (layer.sigma_over_sigma_hat or 0) > LAYER_UPPER
    ]


def _recorded_kappas(folder: RunFolder) -> list[tuple[int, float, float]]:
    """What the kappa alarm goes by, of the rows that an earlier process recorded."""
    if not folder.spectrum_path.exists():
        return []
    recorded = read_spectrum(folder.spectrum_path)
    columns = (recorded.steps, recorded.summary["mean_modified_kappa"], recorded.summary["max_modified_kappa"])
    return [(int(step), float(mean), float(worst)) for step, mean, worst in zip(*columns, strict=True)]


def _outcome(folder: RunFolder, step: int, *, finished: bool, requeue: bool) -> Outcome:
    """What the folder holds at `step`: files, the last row's condition numbers, the scores of this step."""
    outcome = Outcome(folder.path, step, finished, requeue)
    if folder.spectrum_path.exists():
        spectrum = read_spectrum(folder.spectrum_path)
        outcome.kappas = {name: float(values[-1]) for name, values in spectrum.summary.items() if len(values)}
        if finished:
            title = f"{folder.path.name}: D's spectra while training"
            evolution_figure(folder.spectrum_path, folder.figure_path, title)
    for entry in folder.read_log("metrics.jsonl"):
        if entry["step"] == step:
            outcome.scores = entry["scores"]
    found = {
        "samples": folder.path / "samples" / f"{step:08d}.png",
        "spectrum": folder.spectrum_path,
        "figure": folder.figure_path,
        "checkpoint": folder.path / "checkpoints" / f"{step:08d}.pt",
        "best": folder.path / "checkpoints" / "best.pt",
    }
    outcome.files = {name: path for name, path in found.items() if path.exists()}
    return outcome


def _resume(state: TrainingState, folder: RunFolder, watcher: Watcher) -> None:
    checkpoint, problems = folder.newest_checkpoint()
    for problem in problems:
        watcher.note(problem)
    fork = state.config.fork
    if checkpoint is None and fork is not None:
        state.fork(checkpoints.read(fork))
        watcher.note(f"{folder.path} starts from {fork}, at step {state.step:,}")
    elif checkpoint is not None:
        state.load(checkpoint)
        done = state.step >= state.config.steps
        what = "is finished; --steps N trains on" if done else "continues"
        watcher.note(f"{folder.path} {what}, at step {state.step:,}")
    folder.cut_logs(state.step)


def _scorer(config: TrainConfig, watcher: Watcher) -> evaluation.Scorer | None:
    """What scores the run, or None with one note at the start where the extractor is not to be had."""
    if config.eval_every == 0:
        return None
    try:
        return evaluation.Scorer(config)
    except MissingError as error:
        watcher.note(f"no scores while training: {error}")
        return None
