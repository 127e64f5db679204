"""`pctool study` and `pctool train --study` as a shell script meets them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pctool.cli.main import run
from tests.data import small_cifar, small_encoded

GRID = """
axes = [[{dataset = "fashion-mnist"}, {dataset = "cifar10"}], [{method = "sn"}, {method = "fpc", degree = 3}]]
[settings]
threads = 1
max_images = 20
width_g = 8
width_d = 8
batch_size = 4
steps = 2
log_every = 1
sample_every = 0
"""


@pytest.fixture
def pctool(capsys):
    """Runs a command; returns its exit code, its answer, and what it said on stderr."""

    def call(*arguments):
        code = run([*map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GRID)
    return path


def states(pctool, folder, *options):
    code, out, _ = pctool("study", "status", folder, "--json", *options)
    assert code == 0
    return [task["state"] for task in json.loads(out)["tasks"]]


def test_a_grid_is_written_and_its_tasks_run(pctool, grid, tmp_path, monkeypatch):
    """From a TOML file to runs of two data sets, each with the settings of its task, and a status that says so."""
    small = small_cifar.make()
    small.install(monkeypatch)
    folder, source = tmp_path / "s", small_cifar.write_folder(tmp_path / "source", small.files("binary"))
    assert pctool("data", "import", "cifar10", "--from", source)[0] == 0
    code, out, _ = pctool("study", grid, "--seeds", "4:6", "--set", "steps=1", "--out", folder, "--json")
    assert code == 0
    answer = json.loads(out)
    assert (answer["study"], answer["folder"], answer["seeds"], len(answer["tasks"])) == (
        "mine",
        str(folder),
        [4, 5],
        8,
    )
    assert answer["tasks"][7] == "0007-cifar10-fpc-3-s5"
    for task in (0, 7):
        assert pctool("train", "--study", folder, "--task", task, "--save-every", 1)[0] == 0
    assert states(pctool, folder) == ["done", *["waiting"] * 6, "done"]
    config = json.loads((folder / "runs" / "0007-cifar10-fpc-3-s5" / "config.json").read_text())["config"]
    expected = ("cifar10", "fpc", 3, 5, 1, 8)
    assert tuple(config[key] for key in ("dataset", "method", "degree", "seed", "steps", "width_d")) == expected
    code, out, _ = pctool("study", "status", folder)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["task", "state", "step", "steps/s", "left", "score", "kappa", "modified", "alarm"]
    assert lines[8].split()[:3] == ["0007-cifar10-fpc-3-s5", "done", "1/1"]
    assert lines[-1] == "8 tasks: 2 done, 6 waiting"


def test_write_is_what_a_name_is_short_for(pctool, grid, tmp_path):
    """`study write FILE` and `study FILE` write the same folder; its commands come with it."""
    code, out, err = pctool("study", grid, "--out", tmp_path / "s")
    assert (code, err) == (0, "")
    assert f"pctool train --study {tmp_path / 's'} --task 0" in out
    assert f"sbatch {tmp_path / 's' / 'array.sbatch'}" in out
    assert pctool("study", "write", grid, "--out", tmp_path / "s")[0] == 0


def test_a_dry_run_shows_the_grid_and_writes_nothing(pctool, grid, tmp_path):
    """Every task's name, those that are written without it; a setting that is wrong is refused as ever."""
    command = ("study", grid, "--seeds", "0:2", "--out", tmp_path / "s")
    code, out, err = pctool(*command, "--dry-run")
    assert (code, err, (tmp_path / "s").exists()) == (0, "", False)
    *names, last = out.splitlines()
    assert last == f"8 tasks for {tmp_path / 's'}; nothing is written"
    assert json.loads(pctool(*command, "--dry-run", "--json")[1])["written"] is False
    assert pctool(*command, "--dry-run", "--set", "stepz=3")[0] == 2
    assert not (tmp_path / "s").exists()
    answer = json.loads(pctool(*command, "--json")[1])
    assert (answer["tasks"], answer["written"]) == (names, True)


def test_list_names_what_is_shipped(pctool):
    """Both tables, with what they are."""
    code, out, _ = pctool("study", "list", "--json")
    assert code == 0
    assert set(json.loads(out)["studies"]) == {"table1", "table2"}
    assert pctool("study", "list")[1].startswith("table1: Table 1 of the paper")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", "tabel1"], "did you mean table1"),
        (["study", "{grid}", "--seeds", "3:1"], "--seeds '3:1'"),
        (["study", "{grid}", "--set", "steps"], "is not KEY=VALUE"),
        (["study", "{grid}", "--set", "stepz=3"], "unknown setting 'stepz'"),
        (["study", "{grid}", "--set", "lr-d=fast"], "--lr-d: 'fast' is not allowed"),
        (["study", "{grid}", "--set", "dataset=cifar10"], "--set dataset"),
        (["study", "status", "{folder}"], "is no study"),
        (["train", "--study", "{folder}", "--task", "0"], "is no study"),
        (["train", "--task", "0"], "--task goes with --study"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(pctool, grid, tmp_path, arguments, words):
    """Exit 2, the reason on stderr, and no folder: every task is resolved before the first is written."""
    folder = tmp_path / "s"
    arguments = [text.format(grid=grid, folder=folder) for text in arguments]
    if arguments[:2] == ["study", str(grid)]:
        arguments += ["--out", str(folder)]
    code, out, err = pctool(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not folder.exists()


def test_the_environment_cannot_make_it_another_run(pctool, grid, tmp_path, monkeypatch):
    """PCTOOL_METHOD would silently train something else; PCTOOL_STUDY and PCTOOL_TASK are as good as the flags."""
    assert pctool("study", grid, "--out", tmp_path / "s")[0] == 0
    monkeypatch.setenv("PCTOOL_STUDY", str(tmp_path / "s"))
    monkeypatch.setenv("PCTOOL_TASK", "1")
    code, out, _ = pctool("train", "--dry-run", "--json")
    assert (code, json.loads(out)["method"], json.loads(out)["degree"]) == (0, "fpc", 3)
    assert json.loads(out)["out"] == str(tmp_path / "s" / "runs" / "0001-fashion-mnist-fpc-3-s0")
    monkeypatch.setenv("PCTOOL_METHOD", "sn")
    code, _, err = pctool("train", "--dry-run")
    assert (code, "PCTOOL_METHOD is decided by the study" in err) == (2, True)
    assert states(pctool, tmp_path / "s") == ["waiting"] * len(states(pctool, tmp_path / "s"))
    assert pctool("train")[0] == 2
    assert states(pctool, tmp_path / "s")[1] == "stale"


def test_a_task_that_fails_before_it_begins_says_why(pctool, tmp_path):
    """A folder that is gone, or an image that is broken: stale, with the reason; mended, the task runs."""
    pictures, grid, folder = tmp_path / "faces", tmp_path / "g.toml", tmp_path / "s"
    pictures.mkdir()
    for i in range(4):
        (pictures / f"{i}.png").write_bytes(small_encoded.encoded(small_encoded.smooth(32, 32, i)))
    settings = "threads = 1\nresolution = 32\nwidth_g = 8\nwidth_d = 8\nbatch_size = 2\nsteps = 1\ndata_workers = 0\n"
    grid.write_text(f'axes = [[{{method = "sn"}}]]\n[settings]\ndataset = "{pictures}"\n{settings}')
    assert pctool("study", grid, "--out", folder)[0] == 0
    train = ("train", "--study", folder, "--task", 0)

    def status():
        (task,) = json.loads(pctool("study", "status", folder, "--json")[1])["tasks"]
        return task["state"], task["reason"]

    away = pictures.rename(tmp_path / "away")
    assert pctool(*train)[0] == 2
    state, reason = status()
    assert (state, "ended with code 2" in reason, "does not exist" in reason) == ("stale", True, True)
    away.rename(pictures)
    (pictures / "9.png").write_bytes(b"junk")
    assert pctool(*train)[0] == 2
    assert "9.png is not a readable image" in status()[1]
    (pictures / "9.png").unlink()
    assert pctool(*train)[0] == 0
    assert status() == ("done", None)
    ended = (folder / "runs" / "0000-sn-s0" / "exit.json").read_bytes()
    (pictures / "0.png").unlink()  # other data: refused, and the finished run stays as it is
    assert pctool(*train)[0] == 2
    assert (folder / "runs" / "0000-sn-s0" / "exit.json").read_bytes() == ended


def test_a_task_whose_settings_cannot_be_had_here_says_why(pctool, tmp_path, monkeypatch):
    """A GPU asked for on a node without one: stale, with the reason; once it is there, or not needed, the task runs,
    and a task that is done stays so."""
    grid, folder = tmp_path / "g.toml", tmp_path / "s"
    small = "threads = 1\nwidth_g = 8\nwidth_d = 8\nbatch_size = 2\nsteps = 1\nmax_images = 4\n"
    grid.write_text(f'axes = [[{{method = "sn"}}]]\n[settings]\n{small}')
    assert pctool("study", grid, "--out", folder)[0] == 0
    train = ("train", "--study", folder, "--task", 0)

    def status():
        (task,) = json.loads(pctool("study", "status", folder, "--json")[1])["tasks"]
        return task["state"], task["reason"]

    assert pctool(*train, "--steps", 10)[0] == 2  # a slip at the prompt is no end of the task
    assert status() == ("waiting", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PCTOOL_DEVICE", "cuda")
    for looking in ("--dry-run", "--preflight"):
        assert pctool(*train, looking)[0] == 4
        assert status() == ("waiting", None)
    code, _, err = pctool(*train)
    state, reason = status()
    assert (code, state, "ended with code 4" in reason) == (4, "stale", True)
    assert "no usable CUDA device" in err
    assert "no usable CUDA device" in reason
    monkeypatch.delenv("PCTOOL_DEVICE")
    assert pctool(*train)[0] == 0
    assert status() == ("done", None)
    assert pctool(*train, "--device", "cuda")[0] == 4
    assert status() == ("done", None)


def test_another_study_over_runs_names_them(pctool, tmp_path):
    """--force with another learning rate: the finished task is named and stale, as the command refuses it; the study
    as it was finds it done."""
    grid, folder = tmp_path / "g.toml", tmp_path / "s"
    small = "threads = 1\nwidth_g = 8\nwidth_d = 8\nbatch_size = 2\nsteps = 1\nmax_images = 4\nspectrum_every = 0\n"
    grid.write_text(f'axes = [[{{method = "sn"}}, {{method = "svd"}}]]\n[settings]\n{small}')
    assert pctool("study", grid, "--out", folder)[0] == 0
    assert pctool("train", "--study", folder, "--task", 0)[0] == 0
    assert states(pctool, folder) == ["done", "waiting"]
    code, out, err = pctool("study", grid, "--out", folder, "--set", "lr_d=0.5", "--force", "--json")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("0000-sn-s0: its folder holds a run of other settings (lr_d: 0.0002 -> 0.5);")
    assert list(json.loads(out)["stale"]) == ["0000-sn-s0"]
    assert states(pctool, folder) == ["stale", "waiting"]
    assert "lr_d: 0.0002 -> 0.5" in pctool("train", "--study", folder, "--task", 0)[2]
    assert pctool("study", grid, "--out", folder, "--force")[::2] == (0, "")
    assert states(pctool, folder) == ["done", "waiting"]


def test_a_study_may_fork(pctool, grid, tmp_path, monkeypatch):
    """Every task starts from the same checkpoint, in its own folder."""
    monkeypatch.chdir(tmp_path)
    assert pctool("study", grid, "--out", "s", "--set", "fork=a.pt")[0] == 0
    text = (tmp_path / "s" / "tasks" / "0000-fashion-mnist-sn-s0.toml").read_text()
    assert f'fork = "{tmp_path / "a.pt"}"\n' in text
    assert "\nout" not in text


@pytest.mark.slow
def test_status_follows_a_job_that_runs_is_killed_and_is_stopped(pctool, grid, tmp_path):
    """running while it trains, stale once it is killed, waiting once it has saved; the run is never disturbed."""
    folder = tmp_path / "s"
    settings = ["--set", "steps=100000", "--set", "save_every=5", "--set", "spectrum_every=2"]
    assert pctool("study", grid, "--out", folder, *settings)[0] == 0
    stats = folder / "runs" / "0000-fashion-mnist-sn-s0" / "stats.jsonl"
    command = [sys.executable, "-m", "pctool", "train", "--study", str(folder), "--task", "0"]

    def started():
        before = stats.stat().st_size if stats.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not stats.exists() or stats.stat().st_size <= before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process

    process = started()
    for _ in range(5):
        (task, *_) = json.loads(pctool("study", "status", folder, "--json")[1])["tasks"]
        assert (task["state"], task["steps"], task["reason"]) == ("running", 100_000, None)
    assert task["step"] > 0
    assert task["kappa"]["max_kappa"] >= 1
    process.kill()
    process.communicate()
    assert states(pctool, folder)[0] == "running"  # nobody has told yet
    time.sleep(0.2)
    assert states(pctool, folder, "--stale-after", "0.1")[0] == "stale"
    for path in stats.parent.iterdir():
        os.utime(path, (1, 1))
    assert states(pctool, folder)[0] == "stale"
    process = started()
    assert states(pctool, folder, "--stale-after", "0")[0] == "running"
    process.send_signal(signal.SIGUSR2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    (task, *_) = json.loads(pctool("study", "status", folder, "--json")[1])["tasks"]
    assert (task["state"], "to be requeued" in task["reason"]) == ("waiting", True)
