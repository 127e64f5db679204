"""What a run writes and says while it trains: logs, live spectrum, scores, alarm, the person watching."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pctool.core.layers.state import LayerState
from pctool.core.polynomial_report import LAYER_UPPER
from pctool.spectrum.live import SpectrumWriter
from pctool.spectrum.measure import Row, measure
from pctool.spectrum.reader import read_summary
from pctool.training import evaluation
from pctool.training.alarm import collapse
from pctool.training.board import Board
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest
from pctool.training.state import TrainingState


@dataclass(frozen=True)
class StepReport:
    """What the person watching sees after a step."""

    step: int
    loss_d: float
    loss_g: float
    images_per_second: float
    strengths: dict[str, int]


class Watcher:
    """Who is told how a run goes; this one shows nothing."""

    def note(self, message: str) -> None:
        """A line worth reading; from the thread that measures and writes, too."""

    def begin(self, step: int, total_steps: int) -> None:
        """Training starts at `step`."""

    def step(self, report: StepReport) -> None:
        """A step is done."""

    def scoring(self, total: int) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        """Scoring `total` images starts; the context gives what counts them."""
        return contextlib.nullcontext(lambda n: None)


class Recorder:
    """Writes a run's records from `state.step` on; made by the one process that writes."""

    def __init__(self, folder: RunFolder, state: TrainingState, watcher: Watcher, stop: StopRequest) -> None:
        self.config, self.folder, self.watcher, self.stop = state.config, folder, watcher, stop
        self.report = watcher.step
        self.board = Board(folder.path / "tensorboard", state.step) if self.config.tensorboard else None
        self.spectrum = SpectrumWriter(folder.spectrum_path, source=str(folder.path), network="D")
        self.spectrum.truncate_after(state.step if state.step else -1, state.preconditioner.layer_states())
        self.kappas = _recorded_kappas(folder)
        self.warned = False

    def log(self, entry: dict[str, Any]) -> None:
        """A line of stats.jsonl."""
        self.folder.log("stats.jsonl", entry)
        if self.board:
            self.board.add("train", entry["step"], entry)

    def record_spectrum(self, step: int, layers: Sequence[LayerState]) -> None:
        """A row of spectrum.h5, and what there is to say about it."""
        row = measure(step, layers)
        self.spectrum.append(row)
        if self.board:
            self.board.add("spectrum", row.step, row.summary)
        for problem in row.problems:
            self.watcher.note(f"step {step:,}: spectrum of {problem}")
        self._alarm(row)
        if not self.warned and (message := out_of_range(row)):  # once a run: it says what to do
            self.watcher.note(message)
            self.warned = True

    def _alarm(self, row: Row) -> None:
        self.kappas.append((row.step, row.summary["mean_modified_kappa"], row.summary["max_modified_kappa"]))
        reason = collapse(self.kappas)
        if reason is None:
            return
        if self.folder.raise_alarm(row.step, reason):
            hint = "" if self.config.stop_on_collapse else "; --stop-on-collapse would stop here"
            self.watcher.note(reason + hint)
        if self.config.stop_on_collapse:
            self.stop.collapse = reason

    def scored(self, scorer: evaluation.Scorer, step: int) -> bool:
        """Whether metrics.jsonl has this step as the run itself scores it."""
        entries = self.folder.read_log("metrics.jsonl")
        return any(entry.get("step") == step and scorer.made(entry.get("protocol", {})) for entry in entries)

    def evaluate(self, scorer: evaluation.Scorer, state: TrainingState) -> None:
        """A line of metrics.jsonl; the checkpoint is kept when it is the best so far. Raises Stopped."""
        with self.watcher.scoring(scorer.n_images) as advance:
            metrics = scorer.score(state.G_ema, state.step, self.stop, advance)
        assert metrics is not None  # on the one rank that records
        entries = self.folder.read_log("metrics.jsonl")  # `pctool eval` adds lines of other protocols
        own = (entry for entry in entries if scorer.made(entry.get("protocol", {})))
        before = [evaluation.distance(entry["scores"]) for entry in own]
        if evaluation.distance(metrics["scores"]) < min(before, default=math.inf):
            self.folder.save_best(state.checkpoint())
        self.folder.log("metrics.jsonl", metrics)  # last: a step without its line is scored again
        if self.board:
            self.board.add("scores", state.step, metrics["scores"])

    def close(self) -> None:
        """Ends what has to be ended."""
        if self.board:
            self.board.close()


def out_of_range(row: Row) -> str | None:
    """What to say of a layer whose polynomial is used beyond its range, because the power iteration lags behind."""
    found = (
        f"step {row.step:,}: in {layer.name} the spectral norm is {layer.sigma_over_sigma_hat:.3f} times its estimate; "
        f"beyond {LAYER_UPPER} a polynomial grows fast: a run with --n-power-iterations 2 follows the weights closer"
        for layer in row.layers
        if layer.strength > 1 and (layer.sigma_over_sigma_hat or 0) > LAYER_UPPER
    )
    return next(found, None)


def _recorded_kappas(folder: RunFolder) -> list[tuple[int, float, float]]:
    """What the kappa alarm goes by, of the rows that an earlier process recorded."""
    if not folder.spectrum_path.exists():
        return []
    recorded = read_summary(folder.spectrum_path)
    columns = (recorded.steps, recorded.summary["mean_modified_kappa"], recorded.summary["max_modified_kappa"])
    return [(int(step), float(mean), float(worst)) for step, mean, worst in zip(*columns, strict=True)]
