"""The training loop, on one page.

D's effective weights are a value: computed once after each update of D, used detached by the G step and
with their graph by the next D step, for real and fake in one batch (docs/method.md, "Weights are values").
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pctool.core.layers.strength import DELAY
from pctool.training import ema
from pctool.training.config import TrainConfig
from pctool.training.evaluation import Scorer
from pctool.training.finite import check_finite
from pctool.training.losses import LOSSES
from pctool.training.ranks import Ranks, Stopped
from pctool.training.recorder import Recorder, StepReport
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest
from pctool.training.state import TrainingState

N_SAMPLES = 64  # images in a sample grid
SPEED_WINDOW = 10.0  # seconds that images_per_second looks back


def train(  # noqa: PLR0912, PLR0915  # one page, read from top to bottom
    config: TrainConfig,
    reals: Iterator[Tensor],
    state: TrainingState,
    run: RunFolder,
    *,
    ranks: Ranks,
    stop: StopRequest,
    recorder: Recorder | None,
    scorer: Scorer | None,
) -> bool:
    """Trains from `state.step` to `config.steps`; returns False when it was asked to stop, with the state saved.

    reals: batches of uint8 [n, C, H, W] on the training device, from `state.step` on, n the batch size or, of several
    `ranks`, this one's share of it; the first alone has a `recorder` and writes. All have a `scorer`, or none. Raises
    NonFiniteError before a non-finite update is applied, WriteError when a file cannot be written.
    """
    G, D, pre = state.G, state.D, state.preconditioner
    loss = LOSSES[config.loss]
    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    # D's weights are arguments: the polynomial stays outside what is compiled, and its change compiles nothing again.
    generate: Callable[[Tensor], Tensor] = _compiled(G, state) if config.compile else G
    discriminate: Callable[..., Tensor] = _compiled(_run, state) if config.compile else _run
    # A CUDA graph overwrites its last results: each update begins with none of them in use.
    begin_update = torch.compiler.cudagraph_mark_step_begin if config.compile else lambda: None
    z_samples = state.latent(N_SAMPLES, "samples")
    if state.step == 0:
        pre.update_strengths()
        if config.spectrum_every and recorder:
            recorder.record_spectrum(state)
    W_hat = pre.weights(iterate=False)

    def scored() -> bool:
        """Makes the evaluation that is due now and not there yet; False where the run was asked to stop meanwhile."""
        if not scorer or not state.step or not _due(state.step, config.eval_every, state.step == config.steps):
            return True
        if ranks.any(recorder is not None and recorder.scored(scorer, state.step), state.device):
            return True
        try:
            recorder.evaluate(scorer, state) if recorder else scorer.score(state.G_ema, state.step, stop)
        except Stopped:
            if recorder:
                run.save_checkpoint(state.checkpoint(), config.keep)
            return False
        return True

    if not scored():  # of the step that an earlier process ended at
        return False
    started, seconds_before = time.monotonic(), state.seconds
    recent = deque([(started, state.step)])  # what the speed is measured over

    while state.step < config.steps:
        step = state.step
        state.set_learning_rates()

        # Choose the strength of each layer's polynomial, some steps after it was measured.
        if step and step % config.apc_every == 0:
            pre.measure()
        if step % config.apc_every == config.apc_every // DELAY and pre.apply_strengths():
            W_hat = pre.weights(iterate=False)

        # Update G, with D's weights constant.
        D.requires_grad_(False)
        frozen = {name: value.detach() for name, value in W_hat.items()}
        for i in range(config.g_iters):
            begin_update()
            with autocast:
                fake = generate(ranks.share(state.latent(config.batch_size_g, "z-g", step, i)))
                fake_logits = discriminate(D, frozen, fake)
            loss_g = loss.g(fake_logits.float())
            state.optim_g.zero_grad()
            loss_g.backward()
            ranks.average_gradients(G.parameters())
            check_finite(state, "G", loss_g, W_hat)
            state.optim_g.step()
        D.requires_grad_(True)

        # Update EMA.
        ema.update(state.G_ema, G, ema.ramped_decay(config.ema_decay, step))

        # Update D, real and fake in one batch, then its effective weights.
        for i in range(config.d_iters):
            begin_update()
            real = state.dequantise(next(reals), "dequantise", step, i)
            with autocast:
                with torch.no_grad():
                    fake = generate(ranks.share(state.latent(config.batch_size, "z-d", step, i)))
                logits = discriminate(D, W_hat, torch.cat([real, fake.float()]))
            loss_d = loss.d(*logits.float().split(len(real)))
            if (penalty := pre.penalty()) is not None:
                loss_d = loss_d + penalty
            state.optim_d.zero_grad()
            loss_d.backward()
            ranks.average_gradients(D.parameters())
            check_finite(state, "D", loss_d, W_hat)
            state.optim_d.step()
            W_hat = pre.weights()

        # Report, record, save.
        state.step += 1
        now = time.monotonic()
        state.seconds = seconds_before + now - started
        n_real = config.batch_size * config.d_iters
        speed = (state.step - recent[0][1]) * n_real / (now - recent[0][0])
        recent.append((now, state.step))
        while now - recent[0][0] > SPEED_WINDOW and len(recent) > 1:
            recent.popleft()
        mean_d, mean_g = ranks.means(loss_d, loss_g)
        line = StepReport(state.step, mean_d, mean_g, speed, pre.strengths())
        last = state.step == config.steps
        if recorder:
            recorder.report(line)
            if _due(state.step, config.log_every, last):
                recorder.log(_stats(state, line, n_real))
            if _due(state.step, config.spectrum_every, last):
                recorder.record_spectrum(state)
            if _due(state.step, config.sample_every, last):
                run.save_samples(state.step, sample(state.G_ema, z_samples))
        stopping = ranks.any(stop.requested, state.device)
        if recorder and (last or stopping or _due(state.step, config.save_every, last)):
            run.save_checkpoint(state.checkpoint(), config.keep)
        if stopping and not last:
            return False
        if not scored():
            return False
    return True


def _compiled(function: Callable[..., Tensor], state: TrainingState) -> Callable[..., Tensor]:
    """Compiled for the shapes of its calls; where one process trains on one GPU, recorded as CUDA graphs."""
    cuda_graphs = state.device.type == "cuda" and state.ranks.size == 1
    compiled: Callable[..., Tensor] = torch.compile(
        function, dynamic=False, mode="reduce-overhead" if cuda_graphs else None
    )
    return compiled


def _run(D: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """D's logits [n] for x [n, C, H, W] with these weights in place of its own."""
    logits: Tensor = functional_call(D, weights, (x,))
    return logits


@torch.no_grad()
def sample(G: nn.Module, z: Tensor) -> Tensor:
    """Images [n, C, H, W] in [-1, 1] of G in eval mode."""
    images: Tensor = G(z)
    return images


def _due(step: int, every: int, last: bool) -> bool:
    """Whether a periodic action falls on this step; 0 switches it off, and the last step always has it."""
    return every > 0 and (step % every == 0 or last)


def _stats(state: TrainingState, line: StepReport, n_real: int) -> dict[str, Any]:
    """A line of stats.jsonl; the strengths only where they changed since the last."""
    entry: dict[str, Any] = {
        "step": line.step,
        "images": line.step * n_real,
        "seconds": round(state.seconds, 3),
        "loss_d": line.loss_d,
        "loss_g": line.loss_g,
        "lr": state.optim_g.param_groups[0]["lr"],
        "images_per_second": round(line.images_per_second, 1),
    }
    if line.strengths != state.logged_strengths:
        entry["strengths"] = state.logged_strengths = line.strengths
    return entry
