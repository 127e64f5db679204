"""A study as a folder: one task a process, and a SLURM array that works them off.

study.json                       its name, seeds and tasks; written last: a folder without it is no study
tasks/0003-cifar10-apc-s0.toml   the resolved settings of a task, in the form of a preset
runs/0003-cifar10-apc-s0/        its run folder, once it has begun
logs/                            what the jobs print
array.sbatch                     the SLURM array
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from pctool import files
from pctool.core.polynomial_file import parse
from pctool.data import encoded
from pctool.errors import InputError
from pctool.training import recipes
from pctool.training.studies import Task, folder_of_grids

if TYPE_CHECKING:
    from pctool.training.config import TrainConfig

OWN = {"tasks", "runs", "logs", "array.sbatch"}  # beside study.json: what a write that was cut short may have left


class StudyFile(BaseModel):
    """study.json: the study's name, its seeds, and its tasks by name, in the order of their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["pctool-study"] = "pctool-study"
    version: Literal[1] = 1
    name: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]


def task_text(study: str, task: Task, config: TrainConfig) -> str:
    """A task's file: what decides the result, resolved, and what the study set besides."""
    identity = config.identity()
    values = {
        key: value
        for key, value in config.model_dump(mode="json", exclude_none=True).items()
        if key in identity or key in task.settings
    }
    if task.settings.get("precision") == "auto":  # the machine that trains decides, not the one that writes
        values["precision"] = "auto"
    for key in values:  # a job may start in another folder
        value = getattr(config, key)
        if isinstance(value, Path) or (key == "dataset" and encoded.is_path(value)):
            values[key] = str(Path(value).absolute())
    return f"# Task {task.number} of the study {study}.\n{recipes.as_toml(values)}"


def write(folder: Path, study: StudyFile, texts: Sequence[str], *, force: bool) -> list[Path]:
    """Writes the folder, `texts` being the tasks' files; returns the files. The same content again is a success.

    With `force` files of other content are overwritten, and tasks that are no longer in the study removed; runs stay.
    Raises InputError where the folder holds something else, WriteError.
    """
    present = (
        {path.name for path in folder.iterdir() if not path.name.startswith(".")} if os.path.isdir(folder) else set()
    )
    if "study.json" not in present and not present <= OWN and not force:
        raise InputError(f"{folder} exists and is no study; give another --out, or --force to write into it")
    contents = {folder / "tasks" / f"{name}.toml": text for name, text in zip(study.tasks, texts, strict=True)}
    contents[folder / "array.sbatch"] = array_script(folder, study)
    contents[folder / "study.json"] = study.model_dump_json(indent=2) + "\n"
    leftover = sorted(set((folder / "tasks").glob("*.toml")) - set(contents))
    if leftover and not force:
        raise InputError(f"{leftover[0]} is no task of this study; add --force to remove it, or give another --out")
    files.write_new({path: text.encode() for path, text in contents.items()}, force=force)
    for path in leftover:
        path.unlink()
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)  # SLURM makes no folders for its output
    except OSError as error:
        raise files.write_error(folder / "logs", error) from error
    return list(contents)


def array_script(folder: Path, study: StudyFile) -> str:
    """The SLURM array of a study in `folder`. Raises InputError for a folder that no such file can name."""
    place = str(folder.resolve())
    if not place.isprintable():
        raise InputError(f"--out {place!r} has characters that a job script cannot name; give another")
    filled = {
        "@NAME@": study.name,
        "@LAST@": str(len(study.tasks) - 1),
        "@STUDY@": shlex.quote(place),
        "@OUTPUT@": shlex.quote(place.replace("%", "%%") + "/logs/%a.out"),  # SLURM reads % as the start of a pattern
    }
    text = (folder_of_grids() / "array.sbatch").read_text(encoding="utf-8")
    return re.sub("|".join(filled), lambda match: filled[match[0]], text)


def read_study(folder: Path) -> StudyFile:
    """study.json of a folder. Raises InputError where there is none, or a damaged one."""
    path = folder / "study.json"
    try:
        text = path.read_bytes()
    except OSError:
        raise InputError(f"{folder} is no study; give a folder that 'pctool study' wrote") from None
    study = parse(text, StudyFile, str(path), "'pctool study NAME --out DIR' writes one")
    if any(Path(name).name != name or not name.isprintable() for name in study.tasks):
        raise InputError(f"{path} cannot be used: a task has the name of no folder; write the study again")
    return study


def task_file(folder: Path, name: str) -> Path:
    """Where a task's settings lie."""
    return folder / "tasks" / f"{name}.toml"


def run_folder(folder: Path, name: str) -> Path:
    """Where a task's run lies, once it has begun."""
    return folder / "runs" / name


def pick(folder: Path | None, number: int | None) -> tuple[str, Path]:
    """The preset and the run folder of a task. Raises InputError for a missing or unknown one."""
    if folder is None:
        raise InputError("--task goes with --study DIR; name the study's folder")
    study = read_study(folder)
    last = len(study.tasks) - 1
    if number is None or not 0 <= number <= last:
        said = "is missing" if number is None else f"{number} is not there"
        raise InputError(
            f"--task {said}: {folder} has the tasks 0 to {last}; 'pctool study status {folder}' names them"
        )
    return str(task_file(folder, study.tasks[number])), run_folder(folder, study.tasks[number])


def check_given(given: Mapping[str, str]) -> None:
    """Raises InputError where a setting given beside the task would make it another run: where and when may be given.

    `given` says how each was given, `--steps` or PCTOOL_STEPS.
    """
    from pctool.training.config import Identity

    for key, spelled in given.items():
        if key in {"out", "preset", *Identity.model_fields}:
            raise InputError(f"{spelled} is decided by the study; leave it out, or write another study")
