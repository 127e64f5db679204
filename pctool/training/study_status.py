"""How the runs of a study stand, from their files alone: nothing is asked of the jobs, and nothing of theirs changed.

waiting    not begun, or stopped with the state saved: the same task continues it
running    files changed lately, or a process holds the folder
stale      no sign of life, ended by an error, or a run of other settings than the task's: somebody has to look
diverged   training became non-finite
done       all steps
"""

from __future__ import annotations

import fcntl
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pctool.data import encoded
from pctool.errors import INTERRUPTED, InputError, NonFiniteError, SavedInterrupt
from pctool.training.recipes import read_toml
from pctool.training.run_files import (
    Alarm,
    Kappa,
    Score,
    alarm,
    last_kappa,
    last_lines,
    last_score,
    number,
    read_object,
)
from pctool.training.study_folder import read_study, run_folder, task_file

State = Literal["running", "stale", "diverged", "done", "waiting"]

LINES = 20  # of stats.jsonl that the speed is taken from: 1000 steps by default, so that samples and checkpoints count
QUIET = 120.0  # seconds without a change that are nothing: file systems over a network show times up to 60 s late
QUIET_AT_FIRST = 600.0  # before the first line: compiling, and the first steps on a CPU, take minutes
QUIET_INTERVALS = 10  # or as many times the usual interval between two lines
HELD_QUIET = 3600.0  # and with the folder held, which a long evaluation does: an hour
SIGNS = ("config.json", "stats.jsonl", "metrics.jsonl", "spectrum.h5", "samples", "checkpoints")
MAY_BE_UNSET = ("split", "max_images", "crop", "poly", "ladder", "decay_from")  # of a run's identity; TOML has no null


@dataclass(frozen=True)
class TaskStatus:
    """One task. `reason` says why where the state alone does not; speed in steps/s, time in seconds."""

    task: int
    name: str
    run: Path
    state: State
    reason: str | None
    step: int
    steps: int
    steps_per_second: float | None
    seconds_left: float | None
    score: Score | None
    kappa: Kappa | None
    alarm: Alarm | None


def study_status(folder: Path, stale_after: float | None = None) -> list[TaskStatus]:
    """Every task of the study in `folder`, in order; `stale_after` are the seconds of silence that count as stale.

    Raises InputError for what is no study or misses a task's file. A damaged file of a run counts as absent.
    """
    study = read_study(folder)
    return [_task_status(folder, task, name, stale_after) for task, name in enumerate(study.tasks)]


def _task_status(folder: Path, task: int, name: str, stale_after: float | None) -> TaskStatus:
    run, path = run_folder(folder, name), task_file(folder, name)
    settings = read_toml(path)
    steps = settings.get("steps")
    if not isinstance(steps, int):
        raise InputError(f"{path} does not say its steps; write the study again with --force")
    stats = [line for line in last_lines(run / "stats.jsonl") if number(line.get("step")) is not None]
    ended = read_object(run / "exit.json")
    step = max([_saved_step(run), *(int(line["step"]) for line in stats), int(number(ended.get("step")) or 0)])
    recent = [(line["step"], line["seconds"]) for line in stats[-LINES:] if number(line.get("seconds")) is not None]
    quiet_for = _patience(recent) if stale_after is None else stale_after
    held = other_settings(run, settings)
    state, reason = ("stale", held) if held else _state(run, ended, step=step, steps=steps, quiet_for=quiet_for)
    speed = _speed(recent)
    return TaskStatus(
        task=task,
        name=name,
        run=run,
        state=state,
        reason=reason,
        step=step,
        steps=steps,
        steps_per_second=speed,
        seconds_left=(steps - step) / speed if speed and state == "running" else None,
        score=last_score(run),
        kappa=last_kappa(run),
        alarm=alarm(run),
    )


def other_settings(run: Path, settings: Mapping[str, Any]) -> str | None:
    """Where a run folder holds a run that is not of these settings of a task, which `train` refuses there: the line."""
    begun = read_object(run / "config.json").get("identity")
    trained = any(os.path.exists(run / sign) for sign in SIGNS[1:])
    if not isinstance(begun, dict) or not trained:  # nothing would be lost
        return None
    task = {**dict.fromkeys(MAY_BE_UNSET), **settings}
    if encoded.is_path(str(task.get("dataset", ""))):
        task["dataset"] = os.path.basename(os.path.realpath(task["dataset"]))
    if task.get("precision") == "auto":  # a run keeps the one that it began with
        del task["precision"]
    differing = sorted(key for key in task.keys() & begun.keys() - {"steps"} if task[key] != begun[key])
    if (number(begun.get("steps")) or 0) > (number(task.get("steps")) or 0):  # they may grow
        differing.append("steps")
    changes = "; ".join(f"{key}: {begun[key]} -> {task[key]}" for key in differing)
    remedy = "write the study as it was, or move the folder away"
    return f"its folder holds a run of other settings ({changes}); {remedy}" if changes else None


def _saved_step(run: Path) -> int:
    """The newest checkpoint's, by its name: a run with --log-every 0 may show no other. Without torch."""
    return max((int(path.stem) for path in (run / "checkpoints").glob("[0-9]*.pt") if path.stem.isdigit()), default=0)


Verdict = tuple[State, str | None]


def _state(run: Path, ended: dict[str, Any], *, step: int, steps: int, quiet_for: float) -> Verdict:
    """What the files of a run say; `quiet_for` are the seconds without a change that are nothing."""
    if ended.get("code") == 0 and step >= steps:
        return "done", None
    # A process removes exit.json when it begins to train, and writes it when it ends, for want of data before it began.
    if isinstance(ended.get("code"), int):
        return _ended_state(ended, step)
    if not (run / "config.json").exists():
        return "waiting", None
    quiet = time.time() - max(_changed(run / sign) for sign in SIGNS)
    if quiet <= quiet_for:
        return "running", None
    held = is_held(run)
    state: State = "running" if held and quiet <= HELD_QUIET else "stale"
    return state, f"{'held by a process' if held else 'no process'}, nothing written for {_minutes(quiet)}"


def _ended_state(ended: dict[str, Any], step: int) -> Verdict:
    code, why = ended.get("code"), str(ended.get("reason", ""))
    if code == NonFiniteError.code:
        return "diverged", why
    if code in (0, SavedInterrupt.code):  # 0: the study's steps have grown since
        return "waiting", f"saved at step {step:,}{', to be requeued' if ended.get('requeue') is True else ''}"
    if code == INTERRUPTED:
        return "waiting", "interrupted" + (f" after step {step:,}" if step else " before its first step")
    return "stale", f"ended with code {code}: {why}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


Recent = list[tuple[int, float]]  # steps, and the seconds of training up to each


def _patience(recent: Recent) -> float:
    """Seconds without a change that are nothing for this run."""
    intervals = [b - a for (_, a), (_, b) in pairwise(recent) if b > a]
    if not intervals:
        return QUIET_AT_FIRST
    return max(QUIET, QUIET_INTERVALS * statistics.median(intervals))


def _speed(recent: Recent) -> float | None:
    """Steps a second over the last lines; None where there is no line yet."""
    if not recent:
        return None
    first_step, first_seconds = recent[0] if len(recent) > 1 else (0, 0.0)
    seconds = recent[-1][1] - first_seconds
    return float((recent[-1][0] - first_step) / seconds) if seconds > 0 else None


def _changed(path: Path) -> float:
    """When a file or folder was last changed; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def is_held(run: Path) -> bool:
    """Whether a process holds the run's lock, as far as this machine can see.

    Asked only of runs that have long been quiet: for the moment of asking, a process that begins would be refused.
    """
    try:
        with (run / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go when the file is closed
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        return False
    return False
