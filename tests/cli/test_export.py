"""`pctool export` from a checkpoint to a file that others read."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from pctool.cli.main import run
from pctool.core import checkpoint as checkpoints
from pctool.core.models import build_generator
from pctool.spectrum.measure import measure_layer
from pctool.spectrum.sources import read_layers
from tests.spectrum.samples import states, write_checkpoint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with runs/demo and its checkpoints of steps 10 and 20."""
    monkeypatch.chdir(tmp_path)
    for step in (10, 20):
        write_checkpoint(tmp_path / "runs/demo/checkpoints" / f"{step:08d}.pt", step)
    return tmp_path


def test_a_place_that_may_not_be_written_ends_in_5(
    folder: Path, capsys: pytest.CaptureFixture[str], forbid: Callable[[str], None]
) -> None:
    """Path and bytes are named."""
    forbid("locked")
    assert run(["export", "runs/demo", "--network", "D", "--out", "locked/in/G.safetensors"]) == 5
    assert re.search(r"cannot write locked/in/G.safetensors \([\d,]+ bytes\): Permission", capsys.readouterr().err)


def test_what_to_do_next_can_be_pasted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name with a space is quoted."""
    assert run(["export", "runs/demo", "--network", "D", "--out", "odd name.safetensors"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: pctool spectrum 'odd name.safetensors'"


def test_a_run_gives_its_newest_discriminator(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain safetensors whose raw spectra are the effective ones of the checkpoint; the metadata say what it is."""
    assert run(["export", "runs/demo", "--network", "D", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["out"], answer["step"]) == ("demo-00000020-D.safetensors", 20)
    with safetensors.safe_open(folder / answer["out"], "pt") as file:
        assert file.metadata()["network"] == "D"
    network, step, plain = read_layers(folder / answer["out"])
    assert (network, step) == ("D", 20)
    assert plain is not None
    expected = {state.name: measure_layer(state).effective for state in states(20)}
    for state in plain:
        assert measure_layer(state).raw == pytest.approx(expected[state.name], abs=1e-6)


def test_a_name_that_lies_about_the_format_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written: torch.load would fail on it later."""
    assert run(["export", "runs/demo", "--out", "g.pt"]) == 2
    assert "g.pt: the file is a .safetensors" in capsys.readouterr().err
    assert not (folder / "g.pt").exists()


def test_the_last_layer_of_an_export_is_the_network_s(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the linear head is not last in the alphabet, the summary of the exported D still leaves out the head."""
    kept = {"z.conv": torch.randn(6, 3, 3, 3), "y.conv": torch.randn(6, 6, 3, 3), "a.linear": torch.randn(4, 6)}
    beside = {}
    for name, W in kept.items():
        U, _, Vh = torch.linalg.svd(W.flatten(1), full_matrices=False)
        beside[name] = {"u": U[:, 0], "v": Vh[0], "coeffs": [1.0], "history": []}
    D = {f"{name}.weight": W for name, W in kept.items()}
    checkpoints.write(folder / "c.pt", {"step": 3, "config": "{}", "D": D, "preconditioner": beside})
    assert run(["export", "c.pt", "--network", "D", "--out", "d.safetensors"]) == 0
    capsys.readouterr()
    answers = []
    for name in ("c.pt", "d.safetensors"):
        assert run(["spectrum", name, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [layer["name"] for layer in answers[1]["layers"]] == list(kept)
    for key, (value,) in answers[0]["summary"].items():
        assert answers[1]["summary"][key] == pytest.approx([value], rel=1e-5)


def test_a_generator_is_exported_as_it_is(folder: Path) -> None:
    """No weight changes; the metadata say what it takes."""
    assert run(["export", "runs/demo/checkpoints/00000010.pt", "--network", "G", "--out", "g.safetensors"]) == 0
    with safetensors.safe_open(folder / "g.safetensors", "pt") as file:
        assert file.metadata()["input"] == "z, 128 independent standard normal numbers an image"
    tensors = safetensors.torch.load_file(folder / "g.safetensors")
    for state in states(10):
        assert (tensors[f"{state.name}.weight"] == state.weight).all()


def test_another_content_is_overwritten_only_with_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same again succeeds; another network under that name needs --force."""
    assert run(["export", "runs/demo", "--network", "G", "--out", "x.safetensors"]) == 0
    assert run(["export", "runs/demo", "--network", "G", "--out", "x.safetensors"]) == 0
    assert run(["export", "runs/demo", "--network", "D", "--out", "x.safetensors"]) == 2
    assert "add --force" in capsys.readouterr().err
    assert run(["export", "runs/demo", "--network", "D", "--out", "x.safetensors", "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "cannot read checkpoint nowhere"),
        (["runs"], "holds no checkpoint"),
        (["runs/demo"], "holds no G_ema"),
        (["runs/demo", "--network", "G", "--out", "runs"], "is a folder"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit 2 and no file."""
    before = sorted(folder.rglob("*"))
    assert run(["export", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(folder.rglob("*")) == before


def test_the_page_on_exports_has_the_generator(tmp_path: Path) -> None:
    """Written out in plain PyTorch there, it gives what the exported network gives."""
    page = (Path(__file__).parent.parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^    import torch\n(?:(?:    .*)?\n)+", page, re.MULTILINE)
    names: dict[str, Any] = {}
    exec(textwrap.dedent(blocks[0]), names)
    torch.manual_seed(0)
    G = build_generator("resnet", 32, 3, 8, "authors").eval()
    plain = names["Generator"](8, 3).eval()
    plain.load_state_dict(G.state_dict())
    z = torch.randn(4, 128)
    torch.testing.assert_close(plain(z), G(z), rtol=0, atol=1e-5)
