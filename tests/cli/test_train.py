"""`pctool train` as a shell script meets it."""

import contextlib
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from pctool.cli import training_session
from pctool.cli.main import run
from pctool.core import checkpoint as checkpoints
from pctool.core.polynomial import OddPolynomial
from pctool.errors import SavedInterrupt
from pctool.training.config import resolve

SMALL = [
    "--max-images",
    "50",
    "--width-g",
    "8",
    "--width-d",
    "8",
    "--batch-size",
    "4",
    "--log-every",
    "1",
    "--save-every",
    "2",
]
OFF = ["--sample-every", "0", "--spectrum-every", "0"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pctool", "train", *SMALL, *map(str, arguments)]


def test_a_run_leaves_the_contracts_folder_and_a_json_summary(tmp_path, capsys):
    """Config, stats, spectrum, samples, checkpoint with sum and exit.json lie there; stdout is one JSON object."""
    out = tmp_path / "r"
    assert run(["train", *SMALL, "--steps", "3", "--eval-every", "0", "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["step"], summary["finished"], summary["run"]) == (3, True, str(out))
    assert set(summary["files"]) == {"samples", "spectrum", "figure", "checkpoint"}
    assert all(Path(path).is_file() for path in summary["files"].values())
    assert {"max_kappa", "mean_modified_kappa"} <= set(summary["kappa"])
    expected = {"config.json", "stats.jsonl", "spectrum.h5", "samples", "checkpoints", "exit.json"}
    assert expected <= {path.name for path in out.iterdir()}
    ended = json.loads((out / "exit.json").read_text())
    assert 0 < ended.pop("peak_memory_mib") <= summary["peak_memory_mib"]
    assert ended == {"code": 0, "reason": "done", "step": 3, "requeue": False}
    line = json.loads((out / "stats.jsonl").read_text().splitlines()[0])
    assert {"step", "images", "seconds", "loss_d", "loss_g", "lr", "images_per_second", "strengths"} == set(line)
    checkpoint = checkpoints.newest(out)[1]
    assert {"format", "version", "step", "config", "G", "D", "G_ema", "optim_g", "optim_d"} <= set(checkpoint)
    assert "blocks.0.conv1.weight" in checkpoint["D"]


def test_dry_run_prints_the_configuration_and_trains_nothing(tmp_path, capsys, monkeypatch):
    """--dry-run shows every resolved setting; flags win over the environment, the environment over the preset."""
    monkeypatch.setenv("PCTOOL_D_ITERS", "3")
    monkeypatch.setenv("PCTOOL_STEPS", "77")
    out = tmp_path / "r"
    assert run(["train", "--preset", "demo", "--steps", "9", "--out", str(out), "--dry-run", "--json"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["d_iters"], config["steps"], config["width_g"]) == (3, 9, 128)
    assert not out.exists()


@pytest.mark.parametrize(
    ("variables", "flags", "expected"),
    [
        ({"DEGREE": "5"}, ["--method", "fpc", "--poly", "g.json"], {"poly": [1.5, -0.5], "degree": 3}),
        ({"POLY": "g.json"}, ["--method", "fpc", "--degree", "5"], {"poly": None, "degree": 5}),
        ({"LADDER": "absent.json"}, ["--taus", "1,2,3,4"], {"ladder": None, "taus": [1, 2, 3, 4]}),
        ({"DEGREE": "5", "METHOD": "fpc"}, ["--method", "sn"], {"method": "sn", "degree": 7}),
        ({"TAUS": "1,2,3,4"}, ["--method", "fpc", "--degree", "9"], {"method": "fpc", "degree": 9}),
        ({"METHOD": "fpc", "POLY": "g.json"}, ["--degree", "7"], {"method": "fpc", "poly": None, "degree": 7}),
    ],
)
def test_a_flag_overrules_a_variable_that_contradicts_it(tmp_path, capsys, monkeypatch, variables, flags, expected):
    """Also one of another name: a degree beside a polynomial's file, or what the flag's method has no use for."""
    monkeypatch.chdir(tmp_path)
    OddPolynomial((1.5, -0.5)).save(tmp_path / "g.json")
    for name, value in variables.items():
        monkeypatch.setenv(f"PCTOOL_{name}", value)
    assert run(["train", *flags, "--dry-run", "--json"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert {key: config[key] for key in expected} == expected


def test_what_contradicts_a_variable_is_refused_by_its_name(capsys, monkeypatch):
    """A variable that the method has no use for, and a flag that the variable's method has no use for."""
    monkeypatch.setenv("PCTOOL_DEGREE", "5")
    assert run(["train", "--dry-run"]) == 2
    assert "PCTOOL_DEGREE is for method fpc, not apc; add --method fpc, or leave it out" in capsys.readouterr().err
    monkeypatch.delenv("PCTOOL_DEGREE")
    monkeypatch.setenv("PCTOOL_METHOD", "sn")
    assert run(["train", "--taus", "1,2,3,4", "--dry-run"]) == 2
    said = "--taus is for method apc, not sn; PCTOOL_METHOD says so; add --method apc, or leave --taus out"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("D_ITERS", "x", "value for PCTOOL_D_ITERS:"), ("TAUS", "1,2", "PCTOOL_TAUS: four rising numbers")],
)
def test_a_variables_value_is_refused_by_its_name(capsys, monkeypatch, name, value, said):
    """Nobody typed a flag; where somebody did, the flag is named."""
    flag = "--" + name.lower().replace("_", "-")
    assert run(["train", flag, value, "--dry-run"]) == 2
    assert flag in capsys.readouterr().err
    monkeypatch.setenv(f"PCTOOL_{name}", value)
    assert run(["train", "--dry-run"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["PCTOOL_STEP", "PCTOOL_ALL_LAYERS", "PCTOOL_CONTEXT", "PCTOOL_"])
def test_a_variable_that_is_no_setting_is_refused(tmp_path, capsys, monkeypatch, name):
    """A slip in a variable's name trains nothing; the folders' variables, which serve every command, are known."""
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path))
    assert run(["train", "--dry-run"]) == 0
    monkeypatch.setenv(name, "5")
    assert run(["train", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert f"the environment variable {name} is no setting of train" in error
    assert ("did you mean PCTOOL_STEPS?" in error) == (name == "PCTOOL_STEP")


def test_every_flag_has_its_variable(tmp_path, capsys, monkeypatch):
    """Also those that are no settings: PCTOOL_DRY_RUN and PCTOOL_JSON train nothing and print JSON."""
    monkeypatch.setenv("PCTOOL_DRY_RUN", "1")
    monkeypatch.setenv("PCTOOL_JSON", "1")
    assert run(["train", "--out", str(tmp_path / "r")]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "apc"
    assert not (tmp_path / "r").exists()


def test_a_preset_writes_polynomials_as_the_flags_do(tmp_path, capsys):
    """taus as text, poly and ladder as files: the preset resolves to what the flags resolve to; a flag wins over it."""
    poly, preset = tmp_path / "g.json", tmp_path / "p.toml"
    OddPolynomial((1.5, -0.5)).save(poly)

    def resolved(*arguments):
        assert run(["train", *arguments, "--dry-run", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    preset.write_text(f'method = "fpc"\npoly = "{poly}"\n')
    assert resolved("--preset", str(preset)) == resolved("--method", "fpc", "--poly", str(poly))
    assert resolved("--preset", str(preset), "--degree", "5") == resolved("--method", "fpc", "--degree", "5")
    preset.write_text('taus = "2,3,4,5"\n')
    assert resolved("--preset", str(preset)) == resolved("--taus", "2,3,4,5")
    preset.write_text('precision = "auto"\n[without_bf16]\ntaus = "2,3,x,5"\n')
    assert run(["train", "--preset", str(preset), "--dry-run"]) == 2
    assert "2,3,x,5" in capsys.readouterr().err


def test_a_dry_run_is_toml_that_sets_the_same_again(tmp_path, capsys):
    """Without --json the answer is TOML with no unset value; as a preset it resolves to the same configuration."""
    command = ["train", "--dataset", "cifar10", "--method", "apc", "--steps", "9", "--lr-g", "1e-5", "--dry-run"]
    assert run(command) == 0
    text = capsys.readouterr().out
    assert None not in tomllib.loads(text).values()
    assert "null" not in text
    assert "# channels = 3" in text
    (tmp_path / "again.toml").write_text(text)
    assert run([*command, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["threads"] is None
    assert run(["train", "--preset", str(tmp_path / "again.toml"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_names_are_checked_before_torch_is_imported(tmp_path):
    """An unknown preset or data set, a file as data folder and a missing source of eval: refused without torch."""
    file = tmp_path / "file"
    file.touch()
    commands = [
        ["train", "--preset", "nothing"],
        ["train", "--dataset", "cifra10"],
        ["train", "--data-dir", str(file), "--dry-run"],
        ["data", "list", "--data-dir", str(file)],
        ["eval", str(tmp_path / "absent")],
    ]
    code = (
        "import sys; from pctool.cli.main import run\n"
        f"assert [run(command) for command in {commands!r}] == [2] * {len(commands)}\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == len(commands)
    assert result.stderr.count(f"{file} is a file; name a folder") == 2


def test_presets_are_listed(capsys):
    """--preset list shows each shipped preset with its header."""
    assert run(["train", "--preset", "list"]) == 0
    assert "demo: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--dataset", "cifra10"], 2, "did you mean cifar10"),
        (["--dataset", "cifar10"], 4, "pctool data"),
        (["--degree", "4", "--method", "fpc"], 2, "--degree: 4 is not allowed"),
        (["--steps", "0"], 2, "--steps: 0 is not allowed"),
        (["--taus", "1,2,x,4"], 2, "--taus"),
        (["--taus", "1,2"], 2, "--taus: four rising numbers above 0 are needed"),
        (["--taus", "1,2,3,4", "--method", "sn"], 2, "--taus is for method apc, not sn; leave it out"),
        (["--degree", "3"], 2, "--degree is for method fpc, not apc; add --method fpc, or leave it out"),
        (["--apc-every", "9", "--preset", "cifar10-resnet-sn"], 2, "--apc-every is for method apc, not sn"),
        (["--degree", "5"], 2, "--degree is for method fpc, not apc"),
        (["--layer-precision", "bf16", "--method", "svd"], 2, "is for method fpc and apc, not svd"),
        (["--poly", "missing.json", "--method", "fpc"], 2, "missing.json"),
        (["--preset", "nothing"], 2, "unknown preset 'nothing'"),
        (["--device", "cuda"], 4, "CUDA"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, code, words, tmp_path, capsys, monkeypatch):
    """One line on stderr with the remedy, the contract's code, and no run folder."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = tmp_path / "r"
    assert run(["train", "--out", str(out), *arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert not out.exists()


def test_another_run_in_the_folder_is_refused(tmp_path, capsys):
    """An existing run of another configuration: exit 2, each difference as key: old -> new, exit.json untouched."""
    out = str(tmp_path / "r")
    assert run(["train", *SMALL, *OFF, "--steps", "2", "--out", out]) == 0
    before = (tmp_path / "r/exit.json").read_bytes()
    capsys.readouterr()
    assert run(["train", *SMALL, *OFF, "--steps", "2", "--out", out, "--seed", "7"]) == 2
    assert "seed: 0 -> 7" in capsys.readouterr().err
    assert run(["train", *SMALL, *OFF, "--steps", "2", "--out", out, "--resume", "never"]) == 2
    assert (tmp_path / "r/exit.json").read_bytes() == before


@pytest.mark.parametrize(("number", "requeue"), [(signal.SIGTERM, False), (signal.SIGUSR2, True)])
def test_a_signal_saves_and_the_same_command_continues(tmp_path, number, requeue):
    """TERM and USR2 end a real process with 75 and a checkpoint; only USR2 asks for a requeue."""
    out = tmp_path / "r"
    arguments = command(*OFF, "--steps", 100_000, "--out", out)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (out / "stats.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    last = stderr.splitlines()[-1]
    assert last.startswith(f"pctool: stopped by {number.name.removeprefix('SIG')} and saved at step")
    assert "the same command continues" in last
    ended = json.loads((out / "exit.json").read_text())
    assert (ended["code"], ended["requeue"]) == (75, requeue)
    assert checkpoints.newest(out)[1]["step"] == ended["step"] > 0


def test_a_finished_run_that_is_looked_at_again_stays_finished(tmp_path):
    """Interrupted while its data are loaded, it goes on saying that it is done."""
    config = resolve({"out": tmp_path, "steps": 4})
    (tmp_path / "checkpoints").mkdir()
    for step in (3, 4):
        (tmp_path / "checkpoints" / f"{step:08d}.pt").touch()
        for error in (KeyboardInterrupt(), SavedInterrupt("")):
            assert training_session._is_recorded(config, error) == (step < 4)


SLOW = """
import sys, time
from pctool.cli.main import main
from pctool.training import images
def load(config, **progress):
    print("loading", file=sys.stderr, flush=True)
    time.sleep(60)
images.load = load
main()
"""


@pytest.mark.parametrize(
    ("number", "saved", "code", "requeue"),
    [
        (signal.SIGTERM, False, 130, False),
        pytest.param(signal.SIGTERM, True, 75, False, marks=pytest.mark.slow),
        (signal.SIGUSR2, False, 75, True),
    ],
)
def test_a_signal_while_data_are_loaded_ends_at_once(tmp_path, number, saved, code, requeue):
    """130 where there is nothing to save, 75 where the run is saved or is to be queued again; exit.json says it, and
    the same command goes on from there."""
    out = tmp_path / "r"
    if saved:
        assert run(["train", *SMALL, *OFF, "--steps", "2", "--out", str(out)]) == 0
    words = [*SMALL, *OFF, "--steps", "4", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", SLOW, "train", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "loading\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert stderr.count("\n") == 1
    ended = json.loads((out / "exit.json").read_text())
    assert (ended["code"], ended["requeue"], ended["step"]) == (code, requeue, 2 if saved else 0)
    assert code == 75 or ended["reason"] == "KeyboardInterrupt: interrupted"
    assert run(["train", *words]) == 0


def test_a_reader_that_has_gone_ends_no_run(tmp_path):
    """Ctrl-C in `pctool train 2>&1 | tee log` ends tee at once: the run still saves and ends with 75, or trains on."""
    out = tmp_path / "r"
    process = subprocess.Popen(command(*OFF, "--steps", 100_000, "--out", out), stderr=subprocess.PIPE)
    assert process.stderr.readline().startswith(b"this may take hours")
    process.stderr.close()
    deadline = time.monotonic() + 60
    while not (out / "stats.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75
    assert checkpoints.newest(out)[1]["step"] == json.loads((out / "exit.json").read_text())["step"]


def test_a_full_disk_is_exit_5_and_the_last_checkpoint_stays(tmp_path):
    """When a checkpoint no longer fits: path and bytes in one line, code 5, the earlier checkpoint verifies."""
    out = tmp_path / "r"
    assert run(["train", *SMALL, *OFF, "--steps", "2", "--out", str(out)]) == 0
    size = checkpoints.newest(out)[0].stat().st_size
    result = subprocess.run(
        command(*OFF, "--steps", 6, "--out", out),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
        ),
    )
    assert result.returncode == 5, result.stderr
    assert "00000004.pt" in result.stderr.splitlines()[-1]
    assert "bytes" in result.stderr.splitlines()[-1]
    assert checkpoints.newest(out)[1]["step"] == 2
    assert [path.suffix for path in (out / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_run_without_a_readable_checkpoint_is_not_begun_anew(tmp_path, capsys):
    """All checkpoints damaged: code 2 in one line and in exit.json; logs and checkpoints stay, and with one of them
    restored the run goes on, with its own number of steps too. So where they are gone, as after a purge."""
    out = tmp_path / "r"
    words = ["train", *SMALL, "--sample-every", "0", "--out", str(out), "--steps"]
    assert run([*words, "4"]) == 0
    good = {path: path.read_bytes() for path in checkpoints.list_checkpoints(out)}
    for path, data in good.items():
        path.write_bytes(data[:-9] + b"not these" * 2)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in {".jsonl", ".pt", ".h5"}}
    capsys.readouterr()
    for _ in range(2):
        assert run([*words, "6"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "no readable checkpoint among 2" in said
        assert json.loads((out / "exit.json").read_text())["code"] == 2
        assert {path: path.read_bytes() for path in kept} == kept
    for path, data in good.items():
        path.write_bytes(data)
    assert run([*words, "4"]) == 0
    assert "is finished" in capsys.readouterr().err
    list(good)[-1].unlink()
    assert run([*words, "6"]) == 0
    assert "continues, at step 2" in capsys.readouterr().err
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in {".jsonl", ".h5"}}
    shutil.rmtree(out / "checkpoints")
    for _ in range(2):
        assert run([*words, "6"]) == 2
        assert "has come to step 6, and its checkpoints are gone" in capsys.readouterr().err
        assert json.loads((out / "exit.json").read_text())["code"] == 0
        assert {path: path.read_bytes() for path in kept} == kept
    assert run([*words, "6", "--preflight"]) == 2


def test_a_closed_terminal_ends_a_run_that_is_saved(tmp_path):
    """HUP, and a bar that can no longer be drawn: exit code 75 with a checkpoint."""
    master, slave = pty.openpty()
    words = [sys.executable, "-m", "pctool", "train", *SMALL, "--steps", "100000", "--out", str(tmp_path / "r")]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who started the tests may have it ignored
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave)
    signal.signal(signal.SIGHUP, before)
    with process:
        os.close(slave)
        seen = b""
        while b"/100000" not in seen:  # the bar's steps
            seen += os.read(master, 4096)
        os.close(master)
        process.send_signal(signal.SIGHUP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
    assert process.returncode == 75
    ended = json.loads((tmp_path / "r" / "exit.json").read_text())
    assert "stopped by HUP" in ended["reason"]
    assert ended["step"] == int(checkpoints.list_checkpoints(tmp_path / "r")[-1].stem) > 0


def test_a_poly_file_trains_and_counts_by_its_coefficients(tmp_path, capsys):
    """`fit-poly --out F` then `train --poly F`: the layer runs with F's coefficients; a copy of F continues the run."""
    first, copy = tmp_path / "a.json", tmp_path / "b.json"
    assert run(["fit-poly", "--cutoff", "0.6", "--degree", "5", "--out", str(first)]) == 0
    copy.write_bytes(first.read_bytes())
    arguments = ["train", *SMALL, *OFF, "--method", "fpc", "--out", str(tmp_path / "r")]
    assert run([*arguments, "--steps", "2", "--poly", str(first)]) == 0
    assert run([*arguments, "--steps", "3", "--poly", str(copy)]) == 0
    coeffs = json.loads(first.read_text())["coeffs"]
    saved = checkpoints.newest(tmp_path / "r")[1]
    assert saved["preconditioner"]["blocks.0.conv1"]["coeffs"] == coeffs
    capsys.readouterr()
    assert run([*arguments, "--steps", "3"]) == 2
    assert "poly: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "{toml}"], "preset {toml}: unknown setting 'widthg'; see 'pctool train --help' for the settings"),
        (["--eval-every", "5", "--eval-extractor", "mobilenet_v"], "unknown extractor 'mobilenet_v'"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_begins(tmp_path, monkeypatch, capsys, words, message):
    """By --dry-run too, and no run folder is left; a preset's file is named, and what was meant."""
    monkeypatch.chdir(tmp_path)
    toml = tmp_path / "own.toml"
    toml.write_text("widthg = 3\n")
    for more in (["--dry-run"], []):
        assert run(["train", *SMALL, *(word.format(toml=toml) for word in words), *more]) == 2
        said = capsys.readouterr().err
        assert message.format(toml=toml) in said
        assert "did you mean " in said
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]
