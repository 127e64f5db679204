"""Checkpoints: whole or absent, verified, and nothing in them is executed."""

import dataclasses
import hashlib
import math
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch

import pctool
from pctool.core import checkpoint as checkpoints
from pctool.errors import InputError
from pctool.spectrum.measure import measure_layer
from pctool.training.config import resolve
from pctool.training.state import TrainingState


@pytest.fixture
def state(tmp_path):
    return TrainingState(resolve({"width_g": 8, "width_d": 8, "out": tmp_path, "method": "fpc", "degree": 5}))


def test_a_checkpoint_is_plain_tensors_with_its_sum_beside_it(tmp_path, state):
    """torch.load(weights_only=True) reads it, the .sha256 file is what sha256sum would write, read gives it back."""
    path = tmp_path / "checkpoints" / "00000000.pt"
    checkpoints.write(path, state.checkpoint())
    loaded = torch.load(path, weights_only=True)
    assert (loaded["format"], loaded["version"], loaded["step"]) == ("pctool-checkpoint", 1, 0)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoints.sum_path(path).read_text() == f"{digest}  {path.name}\n"
    assert torch.equal(checkpoints.read(path)["D"]["linear.weight"], state.D.linear.weight)


@pytest.mark.parametrize("position", [0, 100, 0.3, 0.6, 0.99])
def test_any_flipped_bit_is_found(tmp_path, state, position):
    """A bit flipped anywhere in the file makes it differ from its sum: InputError instead of other weights."""
    path = tmp_path / "a.pt"
    checkpoints.write(path, state.checkpoint())
    data = bytearray(path.read_bytes())
    data[position if isinstance(position, int) else int(position * len(data))] ^= 16
    path.write_bytes(data)
    with pytest.raises(InputError, match="differs from its SHA-256"):
        checkpoints.read(path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint at all\n",
        b"",
        pickle.dumps(Evil()),
        pickle.dumps({"format": "pctool-checkpoint", "version": 1}),
    ],
    ids=["text", "empty", "hostile pickle", "plain pickle"],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content, capsys):
    """A text file, an empty one, a pickle that would run code: InputError, one line, nothing executed."""
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        checkpoints.read(path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_other_peoples_checkpoints_and_other_versions_are_named(tmp_path):
    """A state dict of somebody else's and a later version of ours say what they are."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="no pctool checkpoint"):
        checkpoints.read(tmp_path / "a.pt")
    torch.save({"format": "pctool-checkpoint", "version": 2}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="version 2"):
        checkpoints.read(tmp_path / "b.pt")


def use_everything(path):
    loaded = checkpoints.read(path)
    checkpoints.generator(loaded)
    checkpoints.layer_states(loaded)


@pytest.mark.parametrize(
    "change",
    [
        *({}, {"config": "{"}, {"config": "[]"}, {"config": "null"}, {"config": "{}"}, {"G_ema": {}}),
        *({"preconditioner": {"linear": {}}}, {"step": "x"}, {"step": -5}, {"step": 10**400}, {"step": True}),
    ],
)
def test_a_checkpoint_with_parts_missing_is_refused_in_one_line(tmp_path, state, change):
    """Format and version alone, a broken config, an empty network, a layer without u: InputError, one line."""
    whole = state.checkpoint()
    content = {**whole, **change} if change else {}
    checkpoints.write(tmp_path / "a.pt", content)
    with pytest.raises(InputError, match="lacks what it should have") as caught:
        use_everything(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("coeffs", ["abc", [], [1.0, math.nan], [10**400]])
def test_a_polynomial_that_is_none_is_refused(tmp_path, state, coeffs):
    """No layer is measured with coefficients that `pctool train` does not write."""
    content = state.checkpoint()
    content["preconditioner"]["linear"]["coeffs"] = coeffs
    checkpoints.write(tmp_path / "a.pt", content)
    with pytest.raises(InputError, match="lacks what it should have"):
        use_everything(tmp_path / "a.pt")


def test_a_version_that_is_no_number_is_named(tmp_path):
    """A tensor equals nothing and everything."""
    torch.save({"format": "pctool-checkpoint", "version": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="has checkpoint version tensor"):
        checkpoints.read(tmp_path / "a.pt")


def test_an_old_file_is_read_without_torchs_warnings(tmp_path, state, monkeypatch):
    """They name a line of torch's code, and nothing that a user could do."""
    checkpoints.write(tmp_path / "a.pt", state.checkpoint())
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **options: warnings.warn("old", stacklevel=1) or load(*a, **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.read(tmp_path / "a.pt")["step"] == 0


@pytest.mark.parametrize("path", ["x" * 300 + ".pt", "there/is/none.pt"])
def test_a_path_that_cannot_be_looked_at_is_one_line(path):
    """Whatever the system says of it."""
    with pytest.raises(InputError, match="cannot read checkpoint"):
        checkpoints.read(Path(path))


def test_a_pipe_is_no_checkpoint(tmp_path):
    """Nobody would ever write into it."""
    os.mkfifo(tmp_path / "00000001.pt")
    with pytest.raises(InputError, match="it is a pipe or a device; give a"):
        checkpoints.read(tmp_path / "00000001.pt")


def test_a_sum_that_cannot_be_read_is_refused_in_one_line(tmp_path, state):
    """The system's error for the .sha256 file names it and the remedy; without the file the checkpoint is read."""
    path = tmp_path / "00000000.pt"
    checkpoints.write(path, state.checkpoint())
    recorded = checkpoints.sum_path(path)
    recorded.unlink()
    recorded.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*00000000\.pt\.sha256: Is a directory; .*remove it") as caught:
        checkpoints.read(path)
    assert "\n" not in str(caught.value)
    recorded.rmdir()
    assert checkpoints.read(path)["step"] == 0


def test_latest_is_the_newest_that_verifies(tmp_path, state):
    """With the newest damaged, the one before is the latest; without any, the folder is named; with none whole, one."""
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoints.newest(tmp_path)
    for step in (1, 2, 10):
        state.step = step
        checkpoints.write(tmp_path / "checkpoints" / f"{step:08d}.pt", state.checkpoint())
    (tmp_path / "checkpoints/00000010.pt").write_bytes(b"x")
    assert checkpoints.newest(tmp_path)[0].name == "00000002.pt"
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"{step:08d}.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"00000001\.pt differs from its SHA-256"):
        checkpoints.newest(tmp_path)


def test_generator_draws_what_the_run_drew(tmp_path, state):
    """The generator of a checkpoint gives G_ema's own images, in eval mode."""
    path = tmp_path / "a.pt"
    checkpoints.write(path, state.checkpoint())
    z = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    G = checkpoints.generator(checkpoints.read(path))
    with torch.no_grad():
        assert torch.equal(G(z), state.G_ema(z))
    assert not G.training
    assert G.dim_z == 128


def test_layer_states_of_a_checkpoint_are_the_runs_own(tmp_path, state):
    """D's layers carry coefficients and estimates; G's have weights alone."""
    path = tmp_path / "a.pt"
    checkpoints.write(path, state.checkpoint())
    loaded = checkpoints.read(path)
    live = state.preconditioner.layer_states()
    for a, b in zip(checkpoints.layer_states(loaded), live, strict=True):
        assert (a.name, a.kind, a.sigma_hat, a.coeffs, a.strength) == (
            b.name,
            b.kind,
            b.sigma_hat,
            b.coeffs,
            b.strength,
        )
    assert {s.strength for s in live} == {5, 1}
    assert {s.strength for s in checkpoints.layer_states(loaded, "G")} == {0}


@pytest.mark.parametrize("arch", ["cnn", "resnet"])
def test_a_generators_transposed_convolutions_have_their_output_side_first(tmp_path, arch):
    """Its layers have the spectra that `singular_values` gives of the generator itself, as matrices and operators."""
    state = TrainingState(resolve({"arch": arch, "width_g": 8, "width_d": 8, "out": tmp_path}))
    checkpoint = {**state.checkpoint(), "format": "pctool-checkpoint"}
    expected = pctool.singular_values(checkpoints.generator(checkpoint))
    found = checkpoints.layer_states(checkpoint, "G_ema")
    assert [layer.name for layer in found] == list(expected)
    for layer in found:
        assert measure_layer(layer).raw == pytest.approx(expected[layer.name], rel=1e-9)
    if arch == "cnn":
        turned = next(layer for layer in found if layer.kind == "conv")
        as_stored = dataclasses.replace(turned, weight=turned.weight.transpose(0, 1))
        assert measure_layer(turned, grid=4).raw == pytest.approx(measure_layer(as_stored, grid=4).raw, rel=1e-9)


def test_too_little_memory_is_no_damage(tmp_path, monkeypatch):
    """Also where no sum vouches for the file."""
    path = tmp_path / "a.pt"
    checkpoints.write(path, {"step": 1, "config": "{}"})
    checkpoints.sum_path(path).unlink()

    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(InputError, match=r"cannot load checkpoint .*allocate memory") as caught:
        checkpoints.read(path)
    assert not isinstance(caught.value, checkpoints.DamagedError)


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path, monkeypatch):
    """best.pt is written anew while a run trains: who meets old bytes and the new sum reads both again."""
    path = tmp_path / "best.pt"
    content = {"config": "{}", "value": torch.ones(2)}
    checkpoints.write(path, {"step": 1, **content})
    sha256 = checkpoints._sha256

    def replaced_meanwhile(data):
        monkeypatch.setattr(checkpoints, "_sha256", sha256)
        checkpoints.write(path, {"step": 2, **content})
        return "0" * 64

    monkeypatch.setattr(checkpoints, "_sha256", replaced_meanwhile)
    assert checkpoints.read(path)["step"] == 2
