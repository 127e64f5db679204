"""`pctool spectrum` from its arguments to its files, its answer and its exit code."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pctool.cli.main import run
from pctool.core import checkpoint as checkpoints
from pctool.spectrum.live import SpectrumWriter
from pctool.spectrum.reader import read_spectrum
from pctool.training.config import resolve
from tests.spectrum.samples import SHAPES, row, saved, write_checkpoint

FIGURES = ("smallest", "condition", "heatmap", "strength", "ratio")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with runs/demo and its checkpoints of steps 10 and 20, standing for `states(step)`."""
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "runs" / "demo" / "checkpoints"
    saved.mkdir(parents=True)
    for step in (10, 20):
        write_checkpoint(saved / f"{step:08d}.pt", step)
    return tmp_path


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, after checking that stdout is empty."""
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err.splitlines()[-1]


def test_a_run_folder_becomes_one_file_and_two_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """demo.spectrum.h5 in the current folder, equal to a direct measurement; the tables, the file, the next command."""
    assert run(["spectrum", "runs/demo"]) == 0
    spectrum = read_spectrum(folder / "demo.spectrum.h5")
    assert spectrum.steps.tolist() == [10, 20]
    assert (spectrum.source, spectrum.network, spectrum.operator) == ("runs/demo", "D", "matrix")
    for layer, expected in zip(spectrum.layers, row(20).layers, strict=True):
        assert (layer.effective[1] == expected.effective).all()
    out = capsys.readouterr().out
    assert all(name in out for name in SHAPES)
    assert f"{row(20).summary['max_kappa']:.2f}" in out
    assert out.splitlines()[-2:] == [
        "all singular values: demo.spectrum.h5",
        "next: pctool spectrum runs/demo --plot figures",
    ]
    assert max(map(len, out.splitlines())) <= 80


def test_long_names_are_whole_where_there_is_no_terminal(folder: Path) -> None:
    """Piped, every column stands in a line as long as it needs."""
    name = ".".join(["a_long_name_of_a_module"] * 3)
    torch.save({f"{name}.weight": torch.eye(4, 5)}, "long.pt")
    command = [sys.executable, "-m", "pctool", "spectrum", "long.pt"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in out.splitlines() if line.startswith(name)]
    assert line.split()[:9] == [name, "4x5", "0", "1.00", "1.00", "1.00", "1.00", "1.00", "1.00"]


def test_the_same_command_again_succeeds_and_changes_nothing(folder: Path) -> None:
    """The same content is no reason to refuse."""
    assert run(["spectrum", "runs/demo"]) == 0
    path = folder / "demo.spectrum.h5"
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert run(["spectrum", "runs/demo"]) == 0
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_another_content_is_overwritten_only_with_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 names the file and --force; then --force replaces it."""
    path = folder / "demo.spectrum.h5"
    path.write_text("mine")
    assert run(["spectrum", "runs/demo", "--plot", "figures"]) == 2
    assert "demo.spectrum.h5 exists with other content; add --force" in _error(capsys)
    assert path.read_text() == "mine"
    assert not (folder / "figures").exists()
    assert run(["spectrum", "runs/demo", "--force"]) == 0
    assert h5py.is_hdf5(path)


def test_measurements_of_one_run_lie_beside_each_other(folder: Path) -> None:
    """Another network, operators and a choice of layers have files of their own; none asks for --force."""
    others = {
        "demo": ["--network", "D"],
        "demo-G": ["--network", "G"],
        "demo-fft4": ["--operator", "fft", "--grid", "4"],
        "demo-G-fft16-blocks.0.conv1": ["--network", "G", "--operator", "fft", "--layers", "blocks.0.conv1"],
        "demo-conv": ["--layers", "*conv*"],
    }
    for name, flags in others.items():
        assert run(["spectrum", "runs/demo", *flags]) == 0
        assert (folder / f"{name}.spectrum.h5").is_file()
    assert len(list(folder.glob("*.h5"))) == len(others)


def test_checkpoints_of_two_runs_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed is another run, wherever the files lie; another data folder or more steps are not."""

    def write(name: str, step: int, **settings: object) -> None:
        config = resolve({"width_g": 8, "width_d": 8, "out": "x", "steps": 50, **settings}).model_dump_json()
        D, beside = saved(step)
        checkpoints.write(folder / name, {"step": step, "config": config, "D": D, "preconditioner": beside})

    write("a1.pt", 1, seed=1)
    write("a2.pt", 2, seed=1, data_dir="elsewhere", steps=70)
    write("b3.pt", 3, seed=2)
    assert run(["spectrum", "a1.pt", "a2.pt"]) == 0
    capsys.readouterr()
    assert run(["spectrum", "a1.pt", "a2.pt", "b3.pt", "--out", "c.h5"]) == 2
    assert "a1.pt and b3.pt are of two runs (seed 1 and 2): measure each by itself" in _error(capsys)
    assert not (folder / "c.h5").exists()
    (folder / "b3.pt").write_bytes(b"damaged")  # is named as what it is
    assert run(["spectrum", "a1.pt", "a2.pt", "b3.pt", "--out", "c.h5"]) == 6


def test_vectors_that_never_ran_are_said_to_be_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """spectral_norm of the old form with random u and v: one line with the factor; after iterations none."""
    torch.manual_seed(0)
    W = torch.randn(8, 20)
    u, v = (torch.nn.functional.normalize(torch.randn(n), dim=0) for n in (8, 20))
    torch.save({"fc.weight_orig": W, "fc.weight_u": u, "fc.weight_v": v}, folder / "never.pth")
    assert run(["spectrum", "never.pth"]) == 0
    said = capsys.readouterr().err
    ratio = float(torch.linalg.matrix_norm(W, 2) / (u @ W @ v).abs())
    assert said.startswith(f"sigma / sigma_hat is above 1.1 in 1 of 1 layers, {ratio:.3g} in fc at step 0")
    assert said.count("\n") == 1
    assert run(["spectrum", "never.spectrum.h5", "--json"]) == 0
    assert capsys.readouterr().err == said
    for _ in range(50):
        v = torch.nn.functional.normalize(W.T @ u, dim=0)
        u = torch.nn.functional.normalize(W @ v, dim=0)
    torch.save({"fc.weight_orig": W, "fc.weight_u": u, "fc.weight_v": v}, folder / "ran.pth")
    assert run(["spectrum", "ran.pth"]) == 0
    assert capsys.readouterr().err == ""


def test_plot_writes_all_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five figures as PNG and SVG, and another next command."""
    assert run(["spectrum", "runs/demo", "--plot", "figures", "--out", "sub/x.h5", "--layers", "*conv*"]) == 0
    assert _files(folder) >= {
        "sub/x.h5",
        *(f"figures/{name}.{end}" for name in FIGURES for end in ("png", "svg")),
    }
    assert capsys.readouterr().out.splitlines()[-2:] == ["figures: figures", "next: pctool eval runs/demo"]
    assert len(read_spectrum(folder / "sub/x.h5").layers) == 2
    torch.save({"conv.weight": torch.randn(4, 3, 3, 3)}, folder / "foreign.pth")
    assert run(["spectrum", "foreign.pth", "--plot", "others"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "figures: others"  # nothing to score


def test_json_is_one_strict_object(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Summary a step, layers at the last one, and nothing else on stdout."""
    assert run(["spectrum", "runs/demo/checkpoints/00000020.pt", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["out"] == "00000020.spectrum.h5"
    assert answer["steps"] == [20]
    measured = row(20)
    assert answer["summary"] == {name: [value] for name, value in measured.summary.items()}
    for layer, expected in zip(answer["layers"], measured.layers, strict=True):
        assert layer["name"] == expected.name
        assert layer["strength"] == expected.strength
        assert layer["kappa"] == expected.kappa
        assert layer["sigma_over_sigma_hat"] == expected.sigma_over_sigma_hat
        assert layer["smallest"] == expected.effective[::-1][:5].tolist()


def test_a_generator_has_no_normalisation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--network G: no sigma_hat in the answer, strength 0, and the flag is repeated in the next command."""
    assert run(["spectrum", "runs/demo", "--network", "G", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {layer["strength"] for layer in answer["layers"]} == {0}
    assert {layer["sigma_over_sigma_hat"] for layer in answer["layers"]} == {None}
    assert run(["spectrum", "runs/demo", "--network", "G", "--layers", "b*", "--out", "g.h5"]) == 0
    follow = "next: pctool spectrum runs/demo --network G --layers 'b*' --out g.h5 --plot figures"
    assert capsys.readouterr().out.splitlines()[-1] == follow


def test_a_layer_that_is_not_finite_ends_in_6_after_everything_was_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN in the file, null in the answer, the layer, step and reason on stderr, exit 6."""
    write_checkpoint(folder / "runs/demo/checkpoints/00000020.pt", 20, bad=True)
    assert run(["spectrum", "runs/demo", "--json", "--plot", "figures"]) == 6
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["layers"][1]["kappa"] is None
    assert "1 non-finite of 324" in answer["layers"][1]["problem"]
    assert answer["summary"]["max_kappa"][0] == row(10).summary["max_kappa"]
    assert answer["summary"]["max_kappa"][1] is None
    assert "step 20: layer blocks.0.conv2: the matrix has 1 non-finite of 324 entries" in printed.err
    layer = read_spectrum(folder / "demo.spectrum.h5").layers[1]
    assert np.isfinite(layer.raw[0]).all()
    assert np.isnan(layer.raw[1]).all()
    assert len(list((folder / "figures").iterdir())) == 10
    assert run(["spectrum", "demo.spectrum.h5"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "could not be measured" in line]
    assert lines == ["layer blocks.0.conv2 could not be measured: step 20: the matrix has 1 non-finite of 324 entries"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no checkpoint at nowhere"),
        (["runs"], "no checkpoint at runs"),
        (["runs/*/none*.pt"], "no checkpoint at"),
        (["notes.txt"], "notes.txt is damaged or no weights file"),
        (["runs/demo", "copy.pt"], "both of step 10"),
        (["runs/demo", "--layers", "conv9"], "no layer fits 'conv9'"),
        (["runs/demo", "--network", "X"], "network"),
        (["runs/demo", "--out", "runs"], "is a folder"),
        (["runs/demo", "--out", "runs/demo/checkpoints/00000010.pt", "--force"], "one of the checkpoints"),
        (["runs/demo", "--plot", "notes.txt"], "notes.txt is a file"),
        (["runs/demo", "--grid", "8"], "--grid is for --operator fft"),
        (["runs/demo", "--operator", "fft", "--grid", "2"], "at least 3"),
        (["runs/demo", "--operator", "fft", "--grid", "30000"], "gives a layer 2,700,000,000 singular values, at most"),
        (["runs/demo", "--jobs", "0"], "--jobs"),
        (["runs/demo", "--watch", "--layers", "*conv*"], "--watch follows one run: leave out --layers"),
        (["runs", "--watch"], "no run folder"),
        (["runs/none.h5"], "cannot read runs/none.h5"),
        (["runs/none.h5", "--out", "x.h5"], "leave out --out"),
        ([], "CKPT"),
    ],
)
def test_bad_input_is_one_line_and_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit 2, the cause in one line on stderr, and the folder as it was."""
    (folder / "notes.txt").write_text("hello")
    write_checkpoint(folder / "copy.pt", 10, bad=True)
    before = _files(folder)
    assert run(["spectrum", *arguments]) == 2
    assert message in _error(capsys)
    assert _files(folder) == before


def test_a_place_that_cannot_be_written_ends_in_5(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out below a file: exit 5 with the path."""
    (folder / "file").touch()
    assert run(["spectrum", "runs/demo", "--out", "file/x.h5"]) == 5
    assert "file/x.h5" in _error(capsys)


def test_a_state_dict_of_anybody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Network and step from the name; the spectra are NumPy's."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.Linear(6, 2))
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, folder / "G_step40.pth")
    assert run(["spectrum", "G_step40.pth", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["network"], answer["steps"]) == ("G", [40])
    sigmas = np.linalg.svd(net[0].weight.detach().flatten(1).double().numpy(), compute_uv=False)
    assert answer["layers"][0]["smallest"] == pytest.approx(sigmas[::-1][:5], rel=1e-12)
    assert answer["layers"][0]["kappa"] == pytest.approx(sigmas[0] / sigmas[-1])


def test_a_damaged_file_among_others_is_skipped_and_ends_in_6(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are measured and written; the file and its reason are on stderr and in the answer."""
    path = folder / "runs/demo/checkpoints/00000020.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert run(["spectrum", "runs/demo", "--json"]) == 6
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert answer["steps"] == [10]
    assert list(answer["skipped"]) == ["runs/demo/checkpoints/00000020.pt"]
    assert "files skipped: 1, the first: " in printed.err.splitlines()[-1]
    assert read_spectrum(folder / "demo.spectrum.h5").steps.tolist() == [10]


def test_files_of_another_network_are_left_out_with_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pattern over D's and G's weights: D's are measured, each of G's is named; --network G turns it round."""
    import torch

    for step in (1, 2):
        for network in "DG":
            torch.save({"fc.weight": torch.eye(3)}, folder / f"model={network}-step={step}.pth")
    assert run(["spectrum", "model=*.pth", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["steps"] == [1, 2]
    assert json.loads(printed.out)["network"] == "D"
    assert printed.err.count("is left out: it holds G; --network G measures that") == 2
    assert run(["spectrum", "model=*.pth", "--network", "G", "--out", "g.h5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network"] == "G"


def test_an_operator_spectrum_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The view and its grid are attributes; the follow-up command repeats them."""
    assert run(["spectrum", "runs/demo", "--operator", "fft", "--grid", "4"]) == 0
    follow = "next: pctool spectrum runs/demo --operator fft --grid 4 --plot figures"
    assert capsys.readouterr().out.splitlines()[-1] == follow
    with h5py.File(folder / "demo-fft4.spectrum.h5") as file:
        assert (file.attrs["operator"], file.attrs["grid"]) == ("fft", 4)
        assert file["layers/blocks.0.conv2/raw"].shape == (2, 96)


def test_a_recorded_file_is_shown_and_drawn_and_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's own spectrum.h5: the same tables, the figures, and no other file."""
    assert run(["spectrum", "runs/demo", "--out", "runs/demo/spectrum.h5"]) == 0
    tables = capsys.readouterr().out.splitlines()[:-2]
    assert run(["spectrum", "runs/demo"]) == 0
    assert "there is also runs/demo/spectrum.h5" in capsys.readouterr().err
    (folder / "demo.spectrum.h5").unlink()
    before = (folder / "runs/demo/spectrum.h5").read_bytes()
    assert run(["spectrum", "runs/demo/spectrum.h5", "--plot", "figures"]) == 0
    assert capsys.readouterr().out.splitlines()[:-3] == tables
    assert (folder / "figures/smallest.png").exists()
    assert (folder / "runs/demo/spectrum.h5").read_bytes() == before
    assert not list(folder.glob("*.h5"))


def test_watch_follows_a_run_to_its_end(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits for the first row, shows the tables after every new one, and ends when exit.json says so."""
    demo = folder / "runs/demo"
    (demo / "exit.json").write_text("{}")  # of the time before it continued
    os.utime(demo / "exit.json", (1, 1))
    (demo / "config.json").write_text("{}")
    writer = SpectrumWriter(demo / "spectrum.h5", "x", "D")
    moments = iter(
        [
            lambda: (demo / "spectrum.h5").write_bytes(b"half a write"),
            (demo / "spectrum.h5").unlink,
            lambda: writer.append(row(5)),
            lambda: None,
            lambda: writer.append(row(9)),
            lambda: (demo / "exit.json").write_text("{}"),
        ]
    )
    monkeypatch.setattr("pctool.cli.spectrum_shown.time.sleep", lambda seconds: next(moments)())
    assert run(["spectrum", "runs/demo", "--watch"]) == 0
    printed = capsys.readouterr()
    assert "waiting" in printed.err
    assert printed.out.count("Layers at step 5:") == 1
    assert printed.out.count("Layers at step 9:") == 1
    assert printed.out.splitlines()[-2] == "all singular values: runs/demo/spectrum.h5"


def test_watching_ends_with_ctrl_c(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 0 once something was shown: there is nothing to continue."""
    (folder / "runs/demo/config.json").write_text("{}")
    SpectrumWriter(folder / "runs/demo/spectrum.h5", "x", "D").append(row(5))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pctool.cli.spectrum_shown.time.sleep", interrupt)
    assert run(["spectrum", "runs/demo", "--watch"]) == 0


def test_watching_a_run_that_was_killed_says_so_once(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no process holds the folder and nothing comes: a line, and on it waits; while one holds it, nothing."""
    demo = folder / "runs/demo"
    (demo / "config.json").write_text("{}")
    SpectrumWriter(demo / "spectrum.h5", "x", "D").append(row(5))
    monkeypatch.setattr("pctool.cli.spectrum_shown.SILENCE", 0.0)
    with (demo / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        looks = iter([lambda: None, lambda: None, lock.close, *[lambda: None] * 3])
        monkeypatch.setattr("pctool.cli.spectrum_shown.time.sleep", lambda seconds: next(looks, end)())

        def end() -> None:
            (demo / "exit.json").write_text("{}")

        assert run(["spectrum", "runs/demo", "--watch"]) == 0
    said = "runs/demo: no process trains there, and its last one has not said why it ended; waiting for another"
    assert capsys.readouterr().err.splitlines().count(said) == 1


@pytest.mark.slow
def test_the_same_file_for_one_and_two_jobs(folder: Path) -> None:
    """Byte by byte, from processes of their own, for matrices and operators."""
    for step in (30, 40, 50):
        write_checkpoint(folder / "runs/demo/checkpoints" / f"{step:08d}.pt", step)
    for view in ([], ["--operator", "fft", "--grid", "6"]):
        for jobs in ("1", "2"):
            command = [sys.executable, "-m", "pctool", "spectrum", "runs/demo", *view, "--jobs", jobs]
            subprocess.run([*command, "--out", f"{jobs}.h5", "--force"], check=True, capture_output=True)
        assert (folder / "1.h5").read_bytes() == (folder / "2.h5").read_bytes()


@pytest.mark.parametrize("flags", [["--out", "locked/in/x.h5"], ["--plot", "locked/in/plot"]])
def test_a_place_that_may_not_be_written_ends_in_5(
    folder: Path, capsys: pytest.CaptureFixture[str], forbid: Callable[[str], None], flags: list[str]
) -> None:
    """Path and bytes are named, also where it may not even be looked at."""
    forbid("locked")
    assert run(["spectrum", "runs/demo/checkpoints/00000010.pt", "--layers", "linear", *flags]) == 5
    assert re.search(rf"cannot write {flags[1]}[/\w.]* \([\d,]+ bytes\): Permission denied", _error(capsys))


def test_sigterm_counts_from_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is listened to within: 130, as with Ctrl-C."""
    monkeypatch.setattr(
        "pctool.cli.spectrum_session.find_checkpoints", lambda inputs: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert run(["spectrum", "runs/demo"]) == 130


def test_layers_that_cannot_be_measured_end_in_6(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A weight under weight_norm: named, the others are measured."""
    net = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 3)), torch.nn.Linear(3, 3))
    torch.save(net.state_dict(), "norm.pt")
    assert run(["spectrum", "norm.pt", "--json"]) == 6
    printed = capsys.readouterr()
    assert [layer["kappa"] is None for layer in json.loads(printed.out)["layers"]] == [True, False]
    assert "step 0: layer 0: the file has only what a parametrization other than spectral_norm" in printed.err


def test_names_of_any_signs_are_shown_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What rich would take for markup, in layers and in a file's own words."""
    torch.save({"a[red]b.weight": torch.eye(3), "c[bold].weight": torch.eye(3)}, "odd.pt")
    assert run(["spectrum", "odd.pt"]) == 0
    assert "a[red]b" in capsys.readouterr().out
    with h5py.File("odd.spectrum.h5", "r+") as file:
        file.attrs["network"] = "[/red]x"
    assert run(["spectrum", "odd.spectrum.h5"]) == 0
    assert "of [/red]x's effective weights" in capsys.readouterr().out


def test_convolutions_that_may_be_depthwise_are_said_to_be_taken_as_dense(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the operator of other people's files only: the matrix is what it is, and ours have no groups."""
    torch.save({"dw.weight": torch.randn(6, 1, 3, 3), "fc.weight": torch.randn(1, 6)}, "dw.pt")
    for flags, said in (([], False), (["--operator", "fft", "--grid", "4"], True)):
        assert run(["spectrum", "dw.pt", *flags]) == 0
        assert ("1 of 2 layers have one input channel, the first dw" in capsys.readouterr().err) == said
