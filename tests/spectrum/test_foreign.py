"""Other people's weight files, as PyTorch, NumPy and safetensors write them, and as somebody hostile might."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import prune

from pctool.errors import InputError
from pctool.spectrum import foreign
from pctool.spectrum.measure import measure_layer
from pctool.spectrum.sources import read_layers
from pctool.spectrum.state_dicts import named_network, networks, step_in_name


def _network(norm: Any = lambda layer: layer) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(norm(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6), nn.Flatten(), norm(nn.Linear(6, 2)))


def _save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _old_spectral_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():  # PyTorch asks for the new form; files in the old one are what this is about
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.spectral_norm(layer)


@pytest.mark.parametrize(
    "nested",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"weights": {"inner": state}}, "optimizer": {"state": {0: {"exp_avg": state}}}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"net": {f"module._orig_mod.{key}": value for key, value in state.items()}},
        lambda state: {f"discriminator._orig_mod.{key.replace('.', '.module.')}": v for key, v in state.items()},
    ],
)
def test_a_state_dict_is_found_wherever_it_lies(tmp_path: Path, nested: Any) -> None:
    """Plain, nested, from data parallel or compiled: the same layers under the same names."""
    net = _network()
    path = _save(tmp_path / "w.pt", nested(net.state_dict()))
    network, _, states = read_layers(path)
    assert network == "D"
    assert states is not None
    assert [(state.name, state.kind, tuple(state.weight.shape)) for state in states] == [
        ("0", "conv", (6, 3, 3, 3)),
        ("3", "linear", (2, 6)),
    ]
    assert torch.equal(states[0].weight, net[0].weight.detach())
    assert {state.sigma_hat for state in states} == {None}


@pytest.mark.parametrize("norm", [_old_spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_forms_of_spectral_norm_give_the_weight_that_pytorch_applies(
    tmp_path: Path, norm: Any, prefix: str
) -> None:
    """`normalized` is the spectrum of the weight in eval mode, whichever keys hold it: NumPy's SVD of that weight."""
    net = _network(norm)
    net.train()(torch.randn(4, 3, 3, 3))
    net.eval()(torch.randn(4, 3, 3, 3))  # the old form computes its weight in the forward pass
    state = {prefix + key: value for key, value in net.state_dict().items()}
    _, _, states = read_layers(_save(tmp_path / "D.pt", state))
    assert states is not None
    assert [state.name for state in states] == ["0", "3"]
    for state, index in zip(states, (0, 3), strict=True):
        measured = measure_layer(state)
        applied = net[index].weight.detach().flatten(1).double().numpy()
        assert measured.strength == 1
        assert measured.effective == pytest.approx(np.linalg.svd(applied, compute_uv=False), rel=2e-6)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_weight_that_is_parametrized_otherwise_is_a_problem_of_its_layer(tmp_path: Path) -> None:
    """Orthogonal layers, weight_norm in both forms, pruned ones: the applied weight is not in the file."""
    net = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)], nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    nn.utils.parametrizations.orthogonal(net[0])
    nn.utils.parametrizations.weight_norm(net[1])
    nn.utils.weight_norm(net[2])
    prune.l1_unstructured(net[3], "weight", 0.5)
    _, _, states = read_layers(_save(tmp_path / "x.pt", net.state_dict()))
    assert states is not None
    assert [state.name for state in states] == ["0", "1", "2", "3", "4"]
    *broken, whole = (measure_layer(state) for state in states)
    assert all(layer.problem and "other than spectral_norm" in layer.problem for layer in broken)
    assert all(np.isnan(layer.kappa) for layer in broken)
    assert whole.problem is None


def test_keys_that_differ_only_by_a_wrapper_stay_apart(tmp_path: Path) -> None:
    """`a.module.weight` beside `a.weight`: there `module` is a name."""
    state = {"a.module.weight": torch.eye(2), "a.weight": torch.eye(3)}
    _, _, states = read_layers(_save(tmp_path / "x.pt", state))
    assert states is not None
    assert [(state.name, len(state.weight)) for state in states] == [("a.module", 2), ("a", 3)]


@pytest.mark.parametrize("shape", [(3, 5), (4, 4)])
def test_a_transposed_convolution_has_its_output_side_first(tmp_path: Path, shape: tuple[int, int]) -> None:
    """PyTorch normalises it along its second side: as the lengths of u and v tell, or the larger estimate."""
    torch.manual_seed(1)
    layer = nn.utils.parametrizations.spectral_norm(nn.ConvTranspose2d(*shape, 3), n_power_iterations=50)
    layer.train()(torch.randn(1, shape[0], 4, 4))
    layer.eval()
    _, _, states = read_layers(_save(tmp_path / "x.pt", layer.state_dict()))
    assert states is not None
    measured = measure_layer(states[0])
    assert measured.sigma_over_sigma_hat == pytest.approx(1.0, abs=1e-4)
    applied = layer.weight.detach().transpose(0, 1).flatten(1).double().numpy()
    assert measured.effective == pytest.approx(np.linalg.svd(applied, compute_uv=False), rel=2e-6)


def test_a_file_too_old_to_hold_v_has_one_computed(tmp_path: Path) -> None:
    """|u^T W v| with v = W^T u / |W^T u| is |W^T u|; the normalised weight that such files hold beside is no layer."""
    W, u = torch.randn(4, 9), torch.nn.functional.normalize(torch.randn(4), dim=0)
    content = {"fc.weight": W / 3, "fc.weight_orig": W, "fc.weight_u": u}
    _, _, states = read_layers(_save(tmp_path / "x.pt", content))
    assert states is not None
    assert [state.name for state in states] == ["fc"]
    assert states[0].sigma_hat == pytest.approx(float((W.double().T @ u.double()).norm()), rel=1e-12)


def test_vectors_of_another_layer_are_refused(tmp_path: Path) -> None:
    """u and v whose lengths fit neither side: the key is named."""
    path = _save(tmp_path / "x.pt", {"fc.weight_orig": torch.randn(4, 9), "fc.weight_u": torch.randn(5)})
    with pytest.raises(InputError, match=r"fc\.weight_orig"):
        read_layers(path)


def test_layers_of_a_safetensors_file_stand_in_counting_order(tmp_path: Path) -> None:
    """The file keeps no order of its own: conv2 comes before conv10."""
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({f"conv{i}.weight": torch.ones(2, 2) for i in (10, 2, 1, 30)}, path)
    _, _, states = read_layers(path)
    assert states is not None
    assert [state.name for state in states] == ["conv1", "conv2", "conv10", "conv30"]


@pytest.mark.parametrize("layers", ["[3]", "{", '"conv1"', "[" * 9999, '["other"]'])
def test_what_metadata_say_of_layers_need_not_be_true(tmp_path: Path, layers: str) -> None:
    """Anything but a list of names, and names of other layers, change nothing."""
    path = tmp_path / "x.safetensors"
    state = {f"conv{i}.weight": torch.ones(2, 2) for i in (10, 2, 1)}
    safetensors.torch.save_file(state, path, metadata={"layers": layers})
    assert list(foreign.load(path)) == ["conv1.weight", "conv2.weight", "conv10.weight"]


def test_safetensors_and_their_metadata(tmp_path: Path) -> None:
    """The same layers; the step stands in the metadata; half precision and bfloat16 are read."""
    state = {key: value.to(torch.bfloat16) for key, value in _network().state_dict().items()}
    path = tmp_path / "D.safetensors"
    safetensors.torch.save_file(state, path, metadata={"step": "700", "author": "somebody"})
    network, step, states = read_layers(path)
    assert (network, step) == ("D", 700)
    assert states is not None
    assert measure_layer(states[0]).raw == pytest.approx(
        np.linalg.svd(state["0.weight"].flatten(1).double().numpy(), compute_uv=False), rel=1e-12
    )


@pytest.mark.parametrize("number", [np.float64(1.5), np.float32(2), np.int64(7), np.uint8(3), np.bool_(True)])
def test_numpy_scalars_beside_the_weights_are_read(tmp_path: Path, number: np.generic) -> None:
    """As numbers of their own type."""
    path = _save(tmp_path / "x.pt", {"best": number, "state_dict": _network().state_dict()})
    found = foreign.load(path)["best"]
    assert found == number
    assert found.dtype == number.dtype


def test_a_numpy_scalar_of_the_other_byte_order(tmp_path: Path) -> None:
    """Written on a big-endian machine."""
    assert foreign.load(_save(tmp_path / "x.pt", {"x": np.array(3.25, dtype=">f8")[()]}))["x"] == 3.25


class _Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("echo executed",))


@pytest.mark.parametrize(
    "content",
    [np.zeros(3), np.str_("text"), np.datetime64(0, "s"), np.array([(1, 2.0)], dtype="i4,f8")[0], _Evil(), nn.ReLU()],
)
def test_anything_else_is_refused_and_nothing_is_executed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: Any
) -> None:
    """NumPy arrays, texts, dates and records, modules, and calls of the system."""
    path = _save(tmp_path / "x.pt", {"x": content, "fc.weight": torch.randn(2, 2)})
    with pytest.raises(InputError, match=r"x\.pt (is damaged or no weights file|holds more than weights \(\S+\))"):
        foreign.load(path)
    assert capfd.readouterr().out == ""


def test_a_file_with_its_settings_is_told_what_to_save(tmp_path: Path) -> None:
    """The name of what stands beside the weights, an argparse.Namespace as often as not, and the cure."""
    path = _save(tmp_path / "x.pt", {"args": argparse.Namespace(lr=1), "fc.weight": torch.randn(2, 2)})
    with pytest.raises(InputError, match=r"weights \(argparse\.Namespace\); save model\.state_dict\(\) alone"):
        foreign.load(path)


def test_numpys_own_types_stay_as_they_are(tmp_path: Path) -> None:
    """A file that sets the state of NumPy's float64 sets that of a stand-in."""
    before = np.dtype("f8").str, np.dtype("f8").metadata
    data = pickle.dumps(np.float64(1.0), protocol=2).replace(b"<", b">")
    archive = io.BytesIO()
    torch.save({"x": 1}, archive)
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    foreign.load(path)
    assert (np.dtype("f8").str, np.dtype("f8").metadata) == before


def test_a_small_file_cannot_claim_a_large_tensor(tmp_path: Path) -> None:
    """2^40 elements over 4 bytes, by strides of 0: refused before anything is copied."""
    path = _save(tmp_path / "x.pt", {"fc.weight": torch.zeros(1).expand(2**20, 2**20)})
    assert path.stat().st_size < 3000
    with pytest.raises(InputError, match=r"fc\.weight claims 4,398,046,511,104 bytes"):
        read_layers(path)


@pytest.mark.parametrize(
    "weight",
    [torch.eye(4).to_sparse(), torch.empty(2**20, 2**20, device="meta")],
    ids=["sparse", "meta"],
)
def test_tensors_without_plain_memory_are_refused(tmp_path: Path, weight: torch.Tensor) -> None:
    """Sparse ones and those without any data: one line."""
    with pytest.raises(InputError, match=r"fc\.weight is no plain tensor|is damaged or no weights file"):
        read_layers(_save(tmp_path / "x.pt", {"fc.weight": weight}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_weights_that_are_no_real_numbers_are_a_problem_of_their_layer(tmp_path: Path, dtype: torch.dtype) -> None:
    """NaN with the reason, beside layers that are measured."""
    state = {"a.weight": torch.ones(3, 4).to(dtype), "b.weight": torch.eye(3)}
    _, _, states = read_layers(_save(tmp_path / "x.pt", state))
    assert states is not None
    broken, whole = (measure_layer(state) for state in states)
    assert broken.problem is not None
    assert "real floating-point" in broken.problem
    assert np.isnan(broken.raw).all()
    assert whole.raw.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_short_floating_point_formats_are_measured_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    """The spectrum of those very numbers."""
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    _, _, states = read_layers(_save(tmp_path / "x.pt", {"a.weight": weight}))
    assert states is not None
    expected = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    assert measure_layer(states[0]).raw == pytest.approx(expected, rel=1e-12)


def test_a_packed_archive_is_refused(tmp_path: Path) -> None:
    """100 MB of zeros pack into 100 kB; PyTorch itself never packs."""
    source = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(5000, 5000)}, source)
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(InputError, match="claims 100,00"):
        foreign.load(path)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_two_hundred_damaged_files_are_one_line_each(tmp_path: Path, name: str) -> None:
    """Cut or with a byte changed anywhere: read as it is, or refused; nothing else is raised."""
    path = tmp_path / name
    state = {"fc.weight": torch.randn(4, 6), "conv.weight": torch.randn(2, 2, 3, 3)}
    if name.endswith("pt"):
        torch.save({"state_dict": state, "epoch": np.int64(3)}, path)
    else:
        safetensors.torch.save_file(state, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused: list[str] = []
    for i in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data[: rng.integers(len(data))] if i % 4 == 0 else data)
        try:
            read_layers(path)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) >= 50
    assert not any("\n" in line for line in refused)


def test_a_file_that_differs_from_the_sum_beside_it_is_refused(tmp_path: Path) -> None:
    """Anybody's `<file>.sha256` counts, as sha256sum writes it."""
    path = _save(tmp_path / "x.pt", _network().state_dict())
    beside = tmp_path / "x.pt.sha256"
    beside.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  x.pt\n")
    read_layers(path)
    beside.write_text("0" * 64 + "  x.pt\n")
    with pytest.raises(InputError, match="SHA-256"):
        read_layers(path)


@pytest.mark.parametrize(
    ("name", "network", "step"),
    [
        ("model=D-current-weights-step=4000.pth", "D", 4000),
        ("G_epoch12.pth", "G", 12),
        ("netD_epoch_24.pth", "D", 24),
        ("G_ema-0001000.pt", "G_ema", 1000),
        ("discriminator.iter500.pth", "D", 500),
        ("00000500.pt", None, 500),
        ("resnet50-0676ba61.pth", None, None),
        ("resnet50.pth", None, None),
        ("deep3-split10x.pth", None, None),
        ("DCGAN.pth", None, None),
    ],
)
def test_names_of_files(name: str, network: str | None, step: int | None) -> None:
    """Networks are words of a name; a step follows its word, or ends the name as a number of its own."""
    assert named_network(Path(name).stem) == network
    assert step_in_name(Path(name)) == step


def test_the_content_counts_before_the_name(tmp_path: Path) -> None:
    """A step in the file is the step, wherever it stands; an epoch only where there is none."""
    state = _network().state_dict()
    path = tmp_path / "D_step7.pt"
    for content, expected in [
        ({"state_dict": state, "epoch": 2, "global_step": 900}, 900),
        ({"state_dict": state, "epoch": np.int64(2)}, 2),
        ({"state_dict": state, "info": {"iteration": torch.tensor(40)}}, 40),
        ({"state_dict": state, "epoch": 5, "args": {"step": 2}}, 5),
        ({"state_dict": state, "args": {"epochs": 100, "steps": 50}}, 7),
        ({"state_dict": state, "step": "many"}, 7),
        ({"state_dict": state, "step": -1, "epoch": True}, 7),
    ]:
        assert read_layers(_save(path, content))[1] == expected


def test_several_networks_in_one_file(tmp_path: Path) -> None:
    """By the keys that lead to them, or that begin their weights' names; D is what is asked for by default."""
    D, G = _network().state_dict(), {"fc.weight": torch.randn(5, 4)}
    apart = {"netD": D, "G_state": G, "generator_ema": {"fc.weight": torch.randn(5, 4)}}
    assert set(networks(apart)) == {"D", "G", "G_ema"}
    joined = {"state_dict": {**{f"discriminator.{k}": v for k, v in D.items()}, "generator.fc.weight": G["fc.weight"]}}
    for content in (apart, joined):
        path = _save(tmp_path / "all.ckpt", content)
        network, _, states = read_layers(path)
        assert network == "D"
        assert states is not None
        assert [state.name for state in states] == ["0", "3"]
        network, _, states = read_layers(path, "G")
        assert network == "G"
        assert states is not None
        assert [state.name for state in states] == ["fc"]


def test_layers_called_d1_and_g2_are_no_networks(tmp_path: Path) -> None:
    """Only words without a number, before a layer's own name, tell of a network."""
    state = {f"{name}.conv.weight": torch.eye(2) for name in ("d1", "g2", "e3")} | {"d.weight": torch.eye(2)}
    _, _, states = read_layers(_save(tmp_path / "unet.pt", state))
    assert states is not None
    assert [state.name for state in states] == ["d1.conv", "g2.conv", "e3.conv", "d"]


def test_a_named_discriminator_counts_before_a_nameless_network(tmp_path: Path) -> None:
    """Whichever stands first in the file."""
    named, nameless = {"netD": {"a.weight": torch.eye(2)}}, {"model": {"b.weight": torch.eye(2)}}
    for content in ({**named, **nameless}, {**nameless, **named}):
        _, _, states = read_layers(_save(tmp_path / "x.pt", content))
        assert states is not None
        assert states[0].name == "a"


def test_what_is_asked_for_and_not_there_has_no_layers(tmp_path: Path) -> None:
    """The file holds G by its name or by its key: `--network D` gets nothing of it; a nameless one is what is asked."""
    state = _network().state_dict()
    assert read_layers(_save(tmp_path / "G_12.pth", state), "D") == ("G", 12, None)
    assert read_layers(_save(tmp_path / "x.pth", {"netG": state}), "D") == ("G", 0, None)
    assert read_layers(_save(tmp_path / "x.pth", state), "G_ema")[0] == "G_ema"
    assert read_layers(_save(tmp_path / "G_12.pth", state))[0] == "G"


def test_a_file_without_layers_is_refused(tmp_path: Path) -> None:
    """Biases, optimizers and empty files are no network."""
    for content in ({"bias": torch.zeros(3)}, {}, [1, 2], {"weight": torch.zeros(0, 3)}):
        with pytest.raises(InputError, match="no convolution and no linear layer"):
            read_layers(_save(tmp_path / "x.pt", content))
