"""What changes while a run trains. Checkpoints and whole resumptions are in test_session.py."""

import numpy as np
import pytest
import torch
from scipy import stats

from pctool.errors import InputError
from pctool.training.config import resolve
from pctool.training.state import TrainingState


def make(**flags) -> TrainingState:
    return TrainingState(resolve({"width_g": 8, "width_d": 8, "arch": "cnn", "out": "-", **flags}))


def test_draws_depend_on_seed_and_purpose_alone():
    """z and the noise are the same whatever was drawn before, and others for another purpose, step or seed."""
    state, pixels = make(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    z, noise = state.latent(3, "d", 5), state.dequantise(pixels, "noise", 5)
    torch.manual_seed(1234)
    torch.rand(7)
    again = make()
    again.latent(9, "g", 1)
    assert torch.equal(again.latent(3, "d", 5), z)
    assert torch.equal(again.dequantise(pixels, "noise", 5), noise)
    for other in (again.latent(3, "g", 5), again.latent(3, "d", 6), make(seed=1).latent(3, "d", 5)):
        assert not torch.equal(other, z)
    assert not torch.equal(again.dequantise(pixels, "noise", 6), noise)


def test_latents_are_standard_normal():
    """[n, 128] from N(0, I): 64,000 values pass the Kolmogorov-Smirnov test."""
    z = make().latent(500, "z")
    assert (z.shape, z.dtype) == ((500, 128), torch.float32)
    assert stats.kstest(z.numpy().ravel(), "norm").pvalue > 1e-4


def test_dequantised_pixels_fill_their_step_evenly():
    """x / 128 - 1 + U(0, 1/128): each value lies in its pixel's step of 1/128, spread evenly, all within [-1, 1]."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(200, 3, 1, 1)
    x = make().dequantise(pixels, "noise")
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert float(x.min()) >= -1
    assert float(x.max()) <= 1
    share = (x.numpy().astype(np.float64) + 1) * 128 - pixels.numpy()
    assert -1e-5 < share.min() < 0.001
    assert 0.999 < share.max() < 1 + 1e-5  # the rounding of x to float32
    assert stats.kstest(share.ravel(), "uniform").pvalue > 1e-4


def test_learning_rates_of_both_optimizers_follow_the_schedule():
    """Each its own rate to decay_from, then along the line to 0 at the last step: NumPy's interpolation."""
    state = make(steps=50, decay_from=20, lr_g=1e-4, lr_d=3e-4)
    for step in range(50):
        state.step = step
        state.set_learning_rates()
        factor = np.interp(step, [0, 20, 50], [1, 1, 0])
        assert state.learning_rates(step) == pytest.approx((1e-4 * factor, 3e-4 * factor), rel=1e-12)
        assert state.optim_g.param_groups[0]["lr"].item() == pytest.approx(1e-4 * factor, rel=1e-6)
        assert state.optim_d.param_groups[0]["lr"].item() == pytest.approx(3e-4 * factor, rel=1e-6)


def test_the_optimizers_are_the_configured_adam_over_all_parameters():
    """Betas as set; G's parameters in one optimizer, D's in the other, the average's in none, and it starts as G."""
    state = make(beta1=0.25, beta2=0.75)
    for network, optimizer in ((state.G, state.optim_g), (state.D, state.optim_d)):
        group = optimizer.param_groups[0]
        assert group["betas"] == (0.25, 0.75)
        assert {id(p) for p in group["params"]} == {id(p) for p in network.parameters()}
    assert not state.G_ema.training
    for average, own in zip(state.G_ema.parameters(), state.G.parameters(), strict=True):
        assert not average.requires_grad
        assert torch.equal(average, own)
        assert average.data_ptr() != own.data_ptr()


@pytest.mark.parametrize("other", [{"width_d": 16}, {"width_g": 16}, {"arch": "resnet"}])
def test_a_checkpoint_of_another_shape_is_one_line(other):
    """Networks that do not fit, and an entry that is missing, are refused in one line that says what to do."""
    state, checkpoint = make(**other), make().checkpoint()
    with pytest.raises(
        InputError,
        match=r"does not fit this configuration .*; give the settings that it was trained with, or another checkpoint$",
    ) as caught:
        state.load(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("vector", ["u", "v"])
def test_vectors_of_another_length_are_refused(vector):
    """A layer's u and v decide its norm: none is cut or filled up."""
    checkpoint = make(method="apc").checkpoint()
    entry = checkpoint["preconditioner"]["stages.12"]
    entry[vector] = entry[vector][:3]
    with pytest.raises(InputError, match=r"u and v of stages\.12 are of another shape"):
        make(method="apc").load(checkpoint)


def test_images_that_have_moved_are_the_same(tmp_path):
    """A folder of images has no name of its own within a checkpoint: the run folder compares name and content."""
    folder = {"dataset": str(tmp_path / "v1"), "resolution": 32}
    checkpoint, moved = make(**folder).checkpoint(), make(**folder | {"dataset": str(tmp_path / "there" / "v2")})
    moved.resume(checkpoint)
    with pytest.raises(InputError, match=r"of another run .*dataset: v1 -> fashion-mnist"):
        make().resume(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preconditioner": {}}, "lacks the state of D's preconditioner"),
        ({"optim_g": {"state": {}}, "step": 6}, "Adam's moments of parameter 0 are missing"),
        ({"optim_d": {"state": {}}, "step": 6}, "Adam's moments of parameter 0 are missing"),
        ({"seconds": float("nan")}, "nan seconds"),
        ({"seconds": "x"}, "could not convert string"),
        ({"seconds": 10**400}, "too large"),
        ({"optim_d": torch.ones(3)}, "does not fit"),
        ({"preconditioner": torch.ones(3)}, "does not fit"),
    ],
)
def test_a_state_that_lacks_what_the_next_step_depends_on_is_refused(change, message):
    """Empty moments are those before the first step alone, and an empty preconditioner that of a run without."""
    with pytest.raises(InputError, match=message):
        make(method="apc").resume({**make(method="apc").checkpoint(), **change})
    make(method="none").resume(make(method="none").checkpoint())
    make(method="apc").fork(make(method="none").checkpoint())


@pytest.mark.parametrize("entry", ["G", "D", "G_ema", "optim_g", "optim_d", "preconditioner", "step", "seconds"])
def test_a_checkpoint_without_an_entry_is_refused(entry):
    """Nothing of a state is optional."""
    checkpoint = make().checkpoint()
    del checkpoint[entry]
    with pytest.raises(InputError, match=f"'{entry}'"):
        make().load(checkpoint)
