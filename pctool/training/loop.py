"""The training loop, on one page.

D's effective weights are a value: computed once after each update of D, used detached by the G step and
with their graph by the next D step, for real and fake in one batch (docs/method.md, "Weights are values").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pctool.training import ema
from pctool.training.config import TrainConfig
from pctool.training.cuda import Recorded, beside
from pctool.training.evaluation import Scorer
from pctool.training.finite import Descent, Updates, check_finite
from pctool.training.losses import LOSSES
from pctool.training.recorder import Recorder
from pctool.training.run_folder import RunFolder
from pctool.training.signals import StopRequest
from pctool.training.state import Draws, TrainingState
from pctool.training.step_end import StepEnd


def train(
    state: TrainingState,
    reals: Iterator[Tensor],
    run: RunFolder,
    *,
    stop: StopRequest,
    recorder: Recorder | None,
    scorer: Scorer | None,
) -> bool:
    """Trains from `state.step` to the last; returns False when it was asked to stop, with the state saved.

    reals: batches of uint8 [n, C, H, W] on the training device, from `state.step` on, n the batch size or, of several
    ranks, this one's share of it; the first alone has a `recorder` and writes. All have a `scorer`, or none. Raises
    NonFiniteError where an update was not finite, which was not applied, WriteError when a file cannot be written.
    """
    config, pre = state.config, state.preconditioner
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    update = Recorded(
        functools.partial(_update, state, *_networks(state)),
        record=records(config, state.device.type, state.ranks.size),
    )
    if state.step == 0:
        pre.update_strengths()
    with StepEnd(state, run, stop=stop, recorder=recorder, scorer=scorer) as step_end:
        go_on = step_end.begin()
        upcoming = _drawn(state, state.step, reals) if go_on else None

        while go_on and state.step < config.steps and upcoming:
            step, draws = state.step, upcoming.result()
            state.set_learning_rates()

            # Choose the strength of each layer's polynomial, some steps after it was measured.
            if step and pre.follow(step, config.apc_every):
                update.renew()

            # Update G, its average and D, and draw for the next step while a GPU is at it.
            updates = update(draws)
            upcoming = None if stop.requested else _drawn(state, step + 1, reals)
            check_finite(state, updates)

            # Count, report, record, save, score.
            go_on = step_end(updates.loss("D"), updates.loss("G"))
            del updates
    return go_on


def records(config: TrainConfig, device: str, n_ranks: int) -> bool:
    """Whether a step is recorded as a CUDA graph: where one process trains on one GPU, unless that is switched off."""
    return config.cuda_graphs and device == "cuda" and n_ranks == 1


def _drawn(state: TrainingState, step: int, reals: Iterator[Tensor]) -> Future[Draws]:
    """A step's draws, or the error that they end in, for when it is the step's turn; nothing beyond the last step."""
    drawn: Future[Draws] = Future()
    try:
        if step < state.config.steps:
            drawn.set_result(state.draw(step, reals))
    except Exception as error:
        drawn.set_exception(error)
    return drawn


def _update(
    state: TrainingState,
    generate: Callable[[Tensor], Tensor],
    discriminate: Callable[..., Tensor],
    draws: Draws,
) -> Updates:
    """One step: G, its average, D. Nothing here looks at a value, so that a GPU can replay it as a whole.

    An update that is not finite, and whatever follows it, changes no parameter of G or D.
    """
    G, D, pre, loss = state.G, state.D, state.preconditioner, LOSSES[state.config.loss]
    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=state.config.precision == "bf16")
    descents: list[Descent] = []

    # D's effective weights, a value until D's next update; on a GPU beside G's first forward.
    with beside(state.side_stream) as join:
        W_hat = pre.weights()

    # Update G, with D's weights constant.
    D.requires_grad_(False)
    frozen = {name: value.detach() for name, value in W_hat.items()}
    for z in draws.z_g:
        with autocast:
            fake = generate(z)
            join()
            logits = discriminate(D, frozen, fake)
        _descend(state, "G", loss.g(logits.float()), descents)
    D.requires_grad_(True)

    # Update EMA.
    ema.update(state.G_ema, G, draws.ema_weight)

    # Update D, real and fake in one batch, and what its effective weights follow from.
    for i, (real, z) in enumerate(zip(draws.real, draws.z_d, strict=True)):
        W_hat = pre.weights() if i else W_hat
        with autocast:
            with torch.no_grad():
                fake = generate(z)
            logits = discriminate(D, W_hat, torch.cat([real, fake.float()]))
        loss_d = loss.d(*logits.float().split(len(real)))
        if (penalty := pre.penalty()) is not None:
            loss_d = loss_d + penalty
        _descend(state, "D", loss_d, descents)
        pre.advance()
    return Updates(descents, {name: value.detach() for name, value in W_hat.items()})


def _descend(state: TrainingState, network: Literal["G", "D"], loss: Tensor, descents: list[Descent]) -> None:
    """One update of G or D by the gradient of the global batch, unless it or one before it in the step is broken."""
    module, optimizer = (state.G, state.optim_g) if network == "G" else (state.D, state.optim_d)
    optimizer.zero_grad()
    loss.backward()
    state.ranks.average_gradients(module.parameters())
    descents.append(Descent.of(network, loss, module, descents))
    optimizer.found_inf = descents[-1].broken  # type: ignore[attr-defined]  # what skips a fused step, on the device
    optimizer.step()


def _networks(state: TrainingState) -> tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]:
    """G, and D with its weights as arguments; compiled for the shapes of their calls where that is asked for.

    As arguments, since the polynomial then stays outside what is compiled: its change compiles nothing again.
    """
    if not state.config.compile:
        return state.G, _run
    return torch.compile(state.G, dynamic=False), torch.compile(_run, dynamic=False)


def _run(D: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """D's logits [n] for x [n, C, H, W] with these weights in place of its own."""
    logits: Tensor = functional_call(D, weights, (x,))
    return logits
