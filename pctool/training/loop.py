"""The training loop, on one page.

D's effective weights are a value: computed once after each update of D, used detached by the G step and
with their graph by the next D step, for real and fake in one batch (docs/method.md, "Weights are values").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pctool.core.layers.strength import DELAY
from pctool.training import ema
from pctool.training.config import TrainConfig
from pctool.training.evaluation import Scorer
from pctool.training.finite import check_finite
from pctool.training.losses import LOSSES
from pctool.training.ranks import Ranks
from pctool.training.recorder import Recorder
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest
from pctool.training.state import TrainingState
from pctool.training.step_end import StepEnd


def train(
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
    G, D, pre, loss = state.G, state.D, state.preconditioner, LOSSES[config.loss]
    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=config.precision == "bf16")
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    generate, discriminate, begin_update = _functions(config, state)
    step_end = StepEnd(config, state, run, ranks=ranks, stop=stop, recorder=recorder, scorer=scorer)
    if state.step == 0:
        pre.update_strengths()
    W_hat = pre.weights(iterate=False)
    go_on = step_end.begin()

    while go_on and state.step < config.steps:
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
            _descend(state, "G", loss_g, W_hat)
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
            _descend(state, "D", loss_d, W_hat)
            W_hat = pre.weights()

        # Count, report, record, save, score.
        go_on = step_end(loss_d, loss_g)
    return go_on


def _descend(state: TrainingState, network: Literal["G", "D"], loss: Tensor, W_hat: dict[str, Tensor]) -> None:
    """One update of G or D by its loss, with the gradient of the global batch, unless that is not finite."""
    optimizer, parameters = (
        (state.optim_g, state.G.parameters()) if network == "G" else (state.optim_d, state.D.parameters())
    )
    optimizer.zero_grad()
    loss.backward()
    state.ranks.average_gradients(parameters)
    check_finite(state, network, loss, W_hat)
    optimizer.step()


Functions = tuple[Callable[[Tensor], Tensor], Callable[..., Tensor], Callable[[], object]]


def _functions(config: TrainConfig, state: TrainingState) -> Functions:
    """G, D with weights as arguments, and what is called before each update; compiled where that is asked for.

    D's weights are arguments: the polynomial stays outside what is compiled, and its change compiles nothing again.
    A CUDA graph overwrites its last results: each update begins with none of them in use.
    """
    if not config.compile:
        return state.G, _run, lambda: None
    return _compiled(state.G, state), _compiled(_run, state), torch.compiler.cudagraph_mark_step_begin


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
