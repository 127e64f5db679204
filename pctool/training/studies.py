"""Studies: grids of runs as TOML, and the tasks they make.

A grid has `[settings]` that all runs share, and `axes`, each a list of choices (tables of settings). The tasks are the
product of the axes and the seeds. `study_folder.py` has their files.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pctool.core.polynomial_file import first_problem
from pctool.errors import InputError
from pctool.training import recipes

DECIDED = ("seed", "out")  # by the study itself
MAX_TASKS = 4000  # four times as many as SLURM's default MaxArraySize takes
Settings = dict[str, Any]


class Grid(BaseModel):
    """What a study compares: settings of every run, and axes of choices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings = Field(default_factory=dict)
    axes: tuple[tuple[Settings, ...], ...]


@dataclass(frozen=True)
class Task:
    """One run of a study: its number, its name (`0003-cifar10-apc-s0`) and its settings, not yet resolved."""

    number: int
    name: str
    settings: Settings


def folder_of_grids() -> Path:
    """Where the shipped grids lie."""
    return recipes.presets_folder() / "studies"


def read_grid(name: str) -> Grid:
    """The grid of that name, or of a TOML file. Raises InputError for an unknown name or what is no grid."""
    path = recipes.shipped("study", name, folder_of_grids())
    try:
        grid = Grid.model_validate(recipes.read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path} is no grid: {first_problem(error)}; docs/cluster.md shows one") from None
    _check_grid(grid, path)
    return grid


def _check_grid(grid: Grid, path: Path) -> None:
    seen = set(grid.settings)
    for axis in grid.axes:
        keys = {key for choice in axis for key in choice}
        if not all(axis) or not axis:
            raise InputError(f"{path} is no grid: an axis or a choice is empty; docs/cluster.md shows one")
        if twice := sorted(seen & keys):
            raise InputError(f"{path} sets {twice[0]} in two places; keep one")
        seen |= keys
    if decided := sorted(seen & {*DECIDED, "seeds"}):
        raise InputError(f"{path} sets {decided[0]}, which the study decides (--seeds, --out); leave it out")


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0:3` is 0, 1 and 2; `1,5,9` and `7` are themselves. Raises InputError for anything else."""
    if match := re.fullmatch(r"(\d{1,18}):(\d{1,18})", text):
        first, end = int(match[1]), int(match[2])
        if 0 < end - first <= MAX_TASKS:
            return tuple(range(first, end))
    elif re.fullmatch(r"\d{1,18}(,\d{1,18})*", text):
        seeds = tuple(int(part) for part in text.split(","))
        if len(set(seeds)) == len(seeds):
            return seeds
    raise InputError(
        f"--seeds {text!r} is not a range such as 0:3 (0, 1 and 2) nor a list such as 1,5,9 of different seeds"
    )


def tasks(grid: Grid, seeds: Sequence[int], settings: Mapping[str, Any]) -> list[Task]:
    """The product of the axes and the seeds, `settings` over those of the grid.

    The seeds vary slowest: the first tasks are the whole table once. Raises InputError where `settings` would
    replace what the study compares, for two equal tasks and for more than MAX_TASKS.
    """
    compared = {key for axis in grid.axes for choice in axis for key in choice}
    if fixed := sorted((compared | set(DECIDED)) & set(settings)):
        raise InputError(f"--set {fixed[0]}: the study decides that itself; leave it out")
    choices = list(itertools.product(*grid.axes))
    if len(choices) * len(seeds) > MAX_TASKS:
        raise InputError(f"{len(choices)} runs by {len(seeds)} seeds are more than {MAX_TASKS} tasks; take fewer seeds")
    for one, other in itertools.combinations(choices, 2):
        if one == other:
            raise InputError(f"the study has {_label(one)} twice; leave one out")
    found = []
    for number, (seed, choice) in enumerate(itertools.product(seeds, choices)):
        own = {key: value for part in choice for key, value in part.items()}
        name = f"{number:04d}-{_label(choice)}-s{seed}"
        found.append(Task(number, name, {**grid.settings, **settings, **own, "seed": seed}))
    return found


def _label(choice: Sequence[Settings]) -> str:
    """What a run folder is called after: texts and sizes as they are (lsun-tower-256-fpc-3), others with their key."""
    parts = []
    for key, value in (item for part in choice for item in part.items()):
        as_it_is = isinstance(value, str) or key in ("degree", "resolution")
        text = Path(value).stem if isinstance(value, str) else str(value)
        parts.append(plain(text if as_it_is else f"{key}{text}"))
    return "-".join(parts)


def plain(text: str) -> str:
    """`text` in letters that file names, job names and shells take as they are."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-")
