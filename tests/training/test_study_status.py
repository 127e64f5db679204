"""How runs stand, from files: each state, numbers against a calculation by hand, and nothing disturbed."""

import json
import os
import subprocess
import sys
import time

import filelock
import numpy as np
import pytest

from pctool.errors import InputError
from pctool.spectrum.live import SpectrumWriter
from pctool.training import study_folder
from pctool.training.config import Identity, TrainConfig
from pctool.training.recipes import as_toml
from pctool.training.study_status import MAY_BE_UNSET, study_status
from tests.spectrum.samples import row

NAME = "0000-a-s0"
LONG_AGO = 10_000.0  # seconds: beyond every patience but that for a slow run


@pytest.fixture
def study(tmp_path):
    """A study of one task of 1000 steps, and its run folder, not begun."""
    texts = ["steps = 1000\n"]
    study_folder.write(tmp_path, study_folder.StudyFile(name="mine", seeds=(0,), tasks=(NAME,)), texts, force=False)
    return tmp_path


@pytest.fixture
def run(study):
    """The run folder of a process that began, with nothing else yet."""
    folder = study / "runs" / NAME
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / ".lock").touch()
    return folder


def ended(run, code, step, requeue=False, reason="why"):
    (run / "exit.json").write_text(json.dumps({"code": code, "reason": reason, "step": step, "requeue": requeue}))


def stats(run, count, every=50, seconds=10.0, start=0):
    """`count` lines of stats.jsonl, every so many steps, each so many seconds after the one before."""
    lines = [{"step": start + every * i, "seconds": seconds * i, "loss_d": 1.0} for i in range(1, count + 1)]
    (run / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def age(run, seconds):
    """Everything in the folder is that old."""
    then = time.time() - seconds
    for path in run.iterdir():
        os.utime(path, (then, then))


def only(study, **options):
    (task,) = study_status(study, **options)
    return task


def test_a_task_that_has_not_begun_waits(study):
    """Without a run folder, and with one that has no configuration yet."""
    task = only(study)
    assert (task.state, task.step, task.steps, task.steps_per_second) == ("waiting", 0, 1000, None)
    (study / "runs" / NAME).mkdir(parents=True)
    assert only(study).state == "waiting"


def test_a_run_that_writes_is_running(study, run):
    """Step, speed and time left are those of the last lines."""
    stats(run, 8)
    task = only(study)
    assert (task.state, task.reason, task.step) == ("running", None, 400)
    assert task.steps_per_second == pytest.approx(5.0, rel=1e-12)
    assert task.seconds_left == pytest.approx(120.0, rel=1e-12)


def test_a_run_without_a_log_has_come_as_far_as_its_checkpoints(study, run):
    """`--log-every 0`: the newest one's name is the step."""
    (run / "checkpoints").mkdir()
    for name in ("00000040.pt", "00000120.pt", "00000160.pt.damaged", "best.pt"):
        (run / "checkpoints" / name).touch()
    assert (only(study).state, only(study).step) == ("running", 120)


def test_the_speed_is_the_recent_one(study, run):
    """Of a long log only the last 20 lines count: 19 intervals of 2 s after many of 100 s."""
    seconds = np.concatenate([np.arange(1, 481) * 100.0, 48_000 + np.arange(1, 21) * 2.0])
    lines = [json.dumps({"step": 2 * (i + 1), "seconds": s, "text": "x" * 300}) for i, s in enumerate(seconds)]
    (run / "stats.jsonl").write_text("\n".join(lines) + "\n")
    task = only(study)
    assert task.step == 1000
    assert task.steps_per_second == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("code", "step", "requeue", "state", "words"),
    [
        (0, 1000, False, "done", None),
        (0, 400, False, "waiting", "saved at step 400"),  # the study's steps have grown
        (3, 400, False, "diverged", "why"),
        (75, 400, True, "waiting", "saved at step 400, to be requeued"),
        (75, 400, False, "waiting", "saved at step 400"),
        (5, 400, False, "stale", "ended with code 5: why"),
        (130, 400, False, "waiting", "interrupted after step 400"),
        (1, None, False, "stale", "ended with code 1: why"),
    ],
)
def test_how_the_last_process_ended_decides(study, run, code, step, requeue, state, words):
    """exit.json is there: nobody works there now, however long ago it was."""
    stats(run, 8)
    ended(run, code, step, requeue)
    for seconds in (0, LONG_AGO):
        age(run, seconds)
        task = only(study)
        assert (task.state, task.reason) == (state, words)


@pytest.mark.parametrize(
    ("lines", "seconds", "patience"), [(0, 0.0, 600), (8, 1.0, 120), (8, 12.0, 120), (8, 60.0, 600)]
)
def test_a_silent_run_is_stale(study, run, lines, seconds, patience):
    """After 10 usual intervals, two minutes at least; ten minutes before there is an interval."""
    if lines:
        stats(run, lines, seconds=seconds)
    age(run, patience - 20)
    assert only(study).state == "running"
    age(run, patience + 20)
    task = only(study)
    assert task.state == "stale"
    assert "no process, nothing written for" in task.reason


def test_the_patience_can_be_given(study, run):
    """stale_after goes before what the run's own pace says."""
    stats(run, 8)
    age(run, 30)
    assert only(study, stale_after=20).state == "stale"
    age(run, LONG_AGO)
    assert only(study, stale_after=LONG_AGO + 60).state == "running"


@pytest.mark.parametrize("sign", ["metrics.jsonl", "spectrum.h5", "samples", "checkpoints"])
def test_any_file_is_a_sign_of_life(study, run, sign):
    """A run that logs no lines but writes something else is running."""
    age(run, LONG_AGO)
    (run / sign).mkdir() if "." not in sign else (run / sign).touch()
    assert only(study).state == "running"


def test_a_held_folder_is_running_for_an_hour(study, run):
    """A long evaluation writes nothing, and its process holds the lock; one that is frozen is told after an hour."""
    code = (
        f"import filelock, sys; lock = filelock.FileLock({str(run / '.lock')!r}); lock.acquire(timeout=0); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        age(run, 1500)
        assert (only(study).state, only(study).reason) == ("running", "held by a process, nothing written for 25 min")
        age(run, 3700)
        assert (only(study).state, only(study).reason) == ("stale", "held by a process, nothing written for 62 min")
        process.communicate()
    assert only(study).reason == "no process, nothing written for 62 min"


def test_asking_leaves_no_trace(study, run):
    """No file changes, and the lock is free for the next process."""
    stats(run, 8)
    age(run, LONG_AGO)
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    only(study)
    assert before == {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    lock = filelock.FileLock(run / ".lock")
    lock.acquire(timeout=0)
    lock.release()


def test_score_kappa_and_alarm(study, run):
    """The last evaluation, the last row of the spectrum, and alarm.json."""
    lines = [{"step": 500, "scores": {"fid": 40.0}}, {"step": 900, "scores": {"kid": 0.1, "fid": 30.5}}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "alarm.json").write_text('{"step": 700, "reason": "kappa 99 in linear"}')
    writer = SpectrumWriter(run / "spectrum.h5", source="s", network="D")
    rows = [row(0), row(500)]
    for each in rows:
        writer.append(each)
    task = only(study)
    assert (task.score.name, task.score.value, task.score.step) == ("fid", 30.5, 900)
    assert (task.alarm.step, task.alarm.reason) == (700, "kappa 99 in linear")
    expected = (500, rows[1].summary["max_kappa"], rows[1].summary["max_modified_kappa"])
    assert (task.kappa.step, task.kappa.max_kappa, task.kappa.max_modified_kappa) == expected


@pytest.mark.parametrize(
    ("scores", "name"),
    [
        ({"inception_score": 8.0, "fd_mobilenet_v2": 3.0}, "fd_mobilenet_v2"),
        ({"fid_legacy": 2.0, "kid": 1.0}, "fid_legacy"),
        ({"fd_a": 2.0, "fid": 1.0}, "fid"),
    ],
)
def test_the_score_is_a_distance_if_there_is_one(study, run, scores, name):
    """FID where there is one, then any Frechet distance, then the first score."""
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "scores": scores}) + "\n")
    assert only(study).score.name == name


TASK = {"dataset": "/here/faces", "method": "sn", "lr_d": 2e-4, "precision": "auto", "seed": 0}
BEGUN = {"dataset": "faces", "method": "sn", "lr_d": 2e-4, "precision": "bf16", "seed": 0, "poly": None, "steps": 1000}


@pytest.mark.parametrize(
    ("begun", "changes"),
    [
        ({"data_sha256": "x", "layer_precision": "fp32", "steps": 400}, None),  # of the files; of a later version
        ({"lr_d": 0.5, "method": "apc"}, "lr_d: 0.5 -> 0.0002; method: apc -> sn"),
        ({"max_images": 9, "poly": [1.5, -0.5]}, "max_images: 9 -> None; poly: [1.5, -0.5] -> None"),
        ({"dataset": "cats"}, "dataset: cats -> faces"),
        ({"steps": 2000}, "steps: 2000 -> 1000"),
    ],
)
def test_a_run_of_other_settings_is_stale(study, run, begun, changes):
    """`train` would refuse the task there, however far the run is; steps may grow, and `auto` takes what there is."""
    (study / "tasks" / f"{NAME}.toml").write_text(as_toml({**TASK, "steps": 1000}))
    (run / "config.json").write_text(json.dumps({"identity": {**BEGUN, **begun}}))
    assert only(study).state == "running"  # it was refused before its first step, or begins: nothing would be lost
    stats(run, 20)
    ended(run, 0, 1000)
    task = only(study)
    assert task.state == ("stale" if changes else "done")
    assert task.reason == (
        changes
        and f"its folder holds a run of other settings ({changes}); write the study as it was, or move the folder away"
    )


def test_what_toml_cannot_say_is_known():
    """A setting of the identity that may be unset is missing in a task's file."""
    identity = set(Identity.model_fields)
    assert {key for key in identity if TrainConfig.model_fields[key].default is None} == set(MAY_BE_UNSET)


DAMAGE = [b"", b"\xff\xfe", b"[", b"3", b'{"step": NaN}', b'{"step": 1e999, "seconds": 1}', b"[" * 100_000, b"\0" * 99]


@pytest.mark.parametrize("name", ["stats.jsonl", "metrics.jsonl", "exit.json", "alarm.json", "spectrum.h5"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_counts_as_absent(study, run, name, damage):
    """Whatever lies in a file of a run, every task is told; an alarm that cannot be read is still one."""
    (run / name).write_bytes(damage)
    task = only(study)
    assert (task.state, task.step, task.score, task.kappa) == ("running", 0, None, None)
    assert (task.alarm is not None) == (name == "alarm.json")


def test_a_line_that_is_cut_is_left_out(study, run):
    """The log of a killed run ends with the last whole line."""
    stats(run, 3)
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"step": 200, "sec')
    assert only(study).step == 150


def test_a_study_without_its_tasks_is_refused(study):
    """A task's file that is missing or has no steps is named."""
    path = study / "tasks" / f"{NAME}.toml"
    path.write_text("")
    with pytest.raises(InputError, match="does not say its steps"):
        study_status(study)
    path.unlink()
    with pytest.raises(InputError, match=f"cannot read .*{NAME}"):
        study_status(study)
