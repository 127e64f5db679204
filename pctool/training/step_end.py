"""What follows a step of the loop: it is counted, reported, recorded, saved, scored, and the run goes on or stops.

Spectra, samples and checkpoints are copied at their step and measured and written in the background, in this order:
what a checkpoint stands for is on the disk before it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from pctool.errors import InputError, PctoolError
from pctool.training.background import Background
from pctool.training.evaluation import Scorer
from pctool.training.ranks import Stopped
from pctool.training.recorder import Recorder, StepReport
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest
from pctool.training.state import TrainingState

N_SAMPLES = 64  # images in a sample grid
SPEED_WINDOW = 10.0  # seconds that images_per_second looks back


class StepEnd:
    """Of one run, on each of its ranks; the first alone has a `recorder` and writes. All have a `scorer`, or none.

    A context that ends with everything written.
    """

    def __init__(
        self,
        state: TrainingState,
        run: RunFolder,
        *,
        stop: StopRequest,
        recorder: Recorder | None,
        scorer: Scorer | None,
    ) -> None:
        self.state, self.config, self.ranks = state, state.config, state.ranks
        self.run, self.stop, self.recorder, self.scorer = run, stop, recorder, scorer
        self.images_a_step = self.config.batch_size * self.config.d_iters
        self._z_samples = state.latent(N_SAMPLES, "samples")
        self._background = Background()
        self._saved = state.step  # the step that is on the disk, or about to be
        self.ranks.spare(self._background.busy)

    def __enter__(self) -> StepEnd:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *traceback: object) -> None:
        background, step = self._background, self.state.step
        # Over an image that cannot be read, say: nothing was computed since the last step.
        saving = isinstance(error, InputError) and self.recorder is not None and step > self._saved
        try:
            if saving and not background.error:
                with contextlib.suppress(PctoolError):  # `error` is what the run ends over
                    self._save_checkpoint()
        finally:
            background.close(give_up=isinstance(error, KeyboardInterrupt))
        if error is None:
            background.check()
        elif saving and self.recorder and self.run.checkpoint_path(step).exists():
            self.recorder.watcher.note(
                f"saved at step {step:,}; where the data have to change, another run goes on from there: "
                f"--fork {self.run.checkpoint_path(step)} --out NEW"
            )
        elif self.recorder and isinstance(background.error, PctoolError) and background.error is not error:
            self.recorder.watcher.note(str(background.error))

    def begin(self) -> bool:
        """What is due before the first step of this process; False where it was asked to stop meanwhile."""
        if self.state.step == 0 and self.config.spectrum_every:
            self._record_spectrum()
        go_on = self._scored()  # the step that an earlier process ended at
        self._started, self._seconds_before = time.monotonic(), self.state.seconds
        self._recent = deque([(self._started, self.state.step)])  # what the speed is measured over
        return go_on

    def __call__(self, loss_d: Tensor, loss_g: Tensor) -> bool:
        """Counts the step and does what is due; False where the run was asked to stop, with the state saved.

        Raises WriteError when a file cannot be written, NonFiniteError rather than save a NaN.
        """
        state, config, recorder = self.state, self.config, self.recorder
        state.step += 1
        speed = self._clock()
        mean_d, mean_g = self.ranks.means(loss_d, loss_g)
        line = StepReport(state.step, mean_d, mean_g, speed, state.preconditioner.strengths())
        if recorder:
            recorder.report(line)
            self._background.check()
            if self._due(config.log_every):
                recorder.log(_stats(state, line, self.images_a_step))
            if self._due(config.spectrum_every):
                self._record_spectrum()
            if self._due(config.sample_every):
                self._background(self.run.save_samples, state.step, sample(state.G_ema, self._z_samples).cpu())
        last = state.step == config.steps
        stopping = self.ranks.any(self.stop.requested, state.device)
        if last or stopping or self._due(config.save_every):
            self._save_checkpoint()
        return False if stopping and not last else self._scored()

    def _clock(self) -> float:
        """Adds up the seconds of training; images a second over the last while."""
        now, recent = time.monotonic(), self._recent
        self.state.seconds = self._seconds_before + now - self._started
        speed = (self.state.step - recent[0][1]) * self.images_a_step / (now - recent[0][0])
        recent.append((now, self.state.step))
        while now - recent[0][0] > SPEED_WINDOW and len(recent) > 1:
            recent.popleft()
        return speed

    def _due(self, every: int) -> bool:
        """Whether a periodic action falls on this step; 0 switches it off, and the last step always has it."""
        return every > 0 and (self.state.step % every == 0 or self.state.step == self.config.steps)

    def _scored(self) -> bool:
        """Makes the evaluation that is due now and not there yet; False where the run was asked to stop meanwhile."""
        state, scorer, recorder = self.state, self.scorer, self.recorder
        if not scorer or not state.step or not self._due(self.config.eval_every):
            return True
        self._background.wait()
        if self.ranks.any(recorder is not None and recorder.scored(scorer, state.step), state.device):
            return True
        try:
            recorder.evaluate(scorer, state) if recorder else scorer.score(state.G_ema, state.step, self.stop)
        except Stopped:
            self._save_checkpoint()
            return False
        return True

    def _record_spectrum(self) -> None:
        if self.recorder:
            self._background(self.recorder.record_spectrum, self.state.step, self.state.preconditioner.layer_states())
            if self.config.stop_on_collapse:  # a row stops the run at its own step
                self._background.wait()

    def _save_checkpoint(self) -> None:
        self._saved = self.state.step
        if self.recorder:
            self._background(self.run.save_checkpoint, self.state.checkpoint(), self.config.keep)


@torch.no_grad()
def sample(G: nn.Module, z: Tensor) -> Tensor:
    """Images [n, C, H, W] in [-1, 1] of G in eval mode."""
    images: Tensor = G(z)
    return images


def _stats(state: TrainingState, line: StepReport, images_a_step: int) -> dict[str, Any]:
    """A line of stats.jsonl; the strengths only where they changed since the last."""
    entry: dict[str, Any] = {
        "step": line.step,
        "images": line.step * images_a_step,
        "seconds": round(state.seconds, 3),
        "loss_d": line.loss_d,
        "loss_g": line.loss_g,
        "lr": state.learning_rates(line.step - 1)[0],
        "images_per_second": round(line.images_per_second, 1),
    }
    if line.strengths != state.logged_strengths:
        entry["strengths"] = state.logged_strengths = line.strengths
    return entry
