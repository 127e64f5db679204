"""The loop against the same training written out plainly: every forward recomputes the weights, nothing is shared."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from pctool.core.polynomial import PUBLISHED
from pctool.data import catalog
from pctool.data.sampler import SampleOrder
from pctool.training import recorder, session
from pctool.training.config import resolve
from pctool.training.state import TrainingState

STEPS = 5
TAUS = (1.5305, 1.7, 2.2, 3.0)  # between the kappas that layers come to
FLAGS = {
    "max_images": 40,
    "arch": "cnn",
    "variant": "sngan",  # whose biases start at 0: others outweigh what real and fake images differ by
    "loss": "hinge",
    "width_g": 16,
    "width_d": 64,  # from which one convolution is cheaper in two factors
    "batch_size": 8,
    "lr_g": 1e-3,
    "lr_d": 1e-3,
    "beta1": 0.5,
    "beta2": 0.999,
    "decay_from": 0.5,
    "steps": STEPS,
    "apc_every": 2,
    "taus": TAUS,
    "save_every": 0,
    "sample_every": 0,
    "spectrum_every": 0,
}


class Reference:
    """D's normalisation by hand: power iteration, polynomial by Horner, APC by NumPy's SVD."""

    def __init__(self, state: TrainingState) -> None:
        self.D = copy.deepcopy(state.D)
        layers = state.preconditioner.state()
        self.vectors = {name: (entry["u"].clone(), entry["v"].clone()) for name, entry in layers.items()}
        self.coeffs = dict.fromkeys(layers, (1.0,))
        self.history: dict[str, list[float]] = {name: [] for name in layers}

    def matrix(self, name: str) -> torch.Tensor:
        return self.D.get_parameter(f"{name}.weight").flatten(1)

    def measure(self) -> None:
        for name in self.vectors:
            if name == "linear":
                continue
            sigmas = np.linalg.svd(self.matrix(name).detach().double().numpy(), compute_uv=False)
            lowest = sigmas[-int(np.ceil(len(sigmas) / 10)) :]
            self.history[name] = [*self.history[name], sigmas[0] / lowest.mean()][-5:]
            mean = np.mean(self.history[name])
            degree = [1, 3, 5, 7, 9][sum(mean > tau for tau in TAUS)]
            self.coeffs[name] = (1.0,) if degree == 1 else PUBLISHED[degree].coeffs

    def iterate(self) -> None:
        for name, (_, v) in self.vectors.items():
            W = self.matrix(name).detach()
            u = F.normalize(W @ v, dim=0)
            self.vectors[name] = (u, F.normalize(W.T @ u, dim=0))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weights = {}
        for name, (u, v) in self.vectors.items():
            A = self.matrix(name) / (u @ self.matrix(name) @ v)
            W_hat = self.coeffs[name][-1] * A
            for a in self.coeffs[name][-2::-1]:
                W_hat = A @ (A.T @ W_hat) + a * A
            weights[f"{name}.weight"] = W_hat.view_as(self.D.get_parameter(f"{name}.weight"))
        return functional_call(self.D, weights, (x,))


def train_plainly(config) -> tuple[TrainingState, Reference, list[tuple[float, float]]]:
    state = TrainingState(config)
    D = Reference(state)
    optim_g = torch.optim.Adam(state.G.parameters(), betas=(0.5, 0.999))
    optim_d = torch.optim.Adam(D.D.parameters(), betas=(0.5, 0.999))
    images = torch.tensor(catalog.load("fashion-mnist", max_images=40).images)
    order, losses = SampleOrder(40, config.seed), []
    for step in range(STEPS):
        if step % 2 == 0:
            D.measure()
        for optimizer in (optim_g, optim_d):
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 if step < 2 else (STEPS - step) / (STEPS - 2))
        loss_g = -D(state.G(state.latent(8, "z-g", step, 0))).mean()
        optim_g.zero_grad()
        loss_g.backward()
        optim_g.step()
        decay = min(0.9999, (1 + step) / (10 + step))
        with torch.no_grad():
            for averaged, current in zip(state.G_ema.parameters(), state.G.parameters(), strict=True):
                averaged.copy_(decay * averaged + (1 - decay) * current)
        real = state.dequantise(images[order.indices(8 * step, 8)], "dequantise", step, 0)
        with torch.no_grad():
            fake = state.G(state.latent(8, "z-d", step, 0))
        loss_d = F.relu(1 - D(real)).mean() + F.relu(1 + D(fake)).mean()
        optim_d.zero_grad()
        loss_d.backward()
        optim_d.step()
        D.iterate()
        losses.append((float(loss_d.detach()), float(loss_g.detach())))
    return state, D, losses


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_loop_is_the_plain_training_written_out(tmp_path, monkeypatch, compiled, request):
    """Losses, D, G_ema and strengths after five APC steps equal those of the loop with nothing shared or cached."""
    if compiled:
        request.getfixturevalue("compiler")
    config = resolve({**FLAGS, "out": tmp_path / "r", "compile": compiled})
    expected, D, losses = train_plainly(config)
    seen, states = [], []

    class Watcher(recorder.Watcher):
        def step(self, report):
            seen.append(report)

    build = session.TrainingState
    monkeypatch.setattr(session, "TrainingState", lambda *a: states.append(build(*a)) or states[-1])
    with session.opened(config) as opened:
        opened.train(Watcher())
    assert [(r.loss_d, r.loss_g) for r in seen] == [pytest.approx(pair, rel=2e-4, abs=2e-5) for pair in losses]
    assert [layer.name for layer in states[0].preconditioner.layers if layer.factored] == ["stages.10"]
    degrees = {name: 2 * len(coeffs) - 1 for name, coeffs in D.coeffs.items()}
    assert seen[-1].strengths == degrees
    assert len({tuple(r.strengths.values()) for r in seen}) > 1, "the thresholds were to force a change"
    for name, value in D.D.named_parameters():
        torch.testing.assert_close(states[0].D.get_parameter(name), value, rtol=1e-3, atol=1e-4)
    for name, value in expected.G_ema.named_parameters():
        if not (name.startswith("stages") and name.endswith("bias")):  # batch norm cancels them: noise decides
            torch.testing.assert_close(states[0].G_ema.get_parameter(name), value, rtol=1e-3, atol=1e-4)
