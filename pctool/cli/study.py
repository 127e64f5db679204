"""`pctool study`: a table's runs as tasks for a cluster, and how they stand."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from pctool.cli import console
from pctool.errors import InputError

if TYPE_CHECKING:
    from pctool.training.study_status import TaskStatus


class _Studies(typer.core.TyperGroup):
    """`pctool study table1` is short for `pctool study write table1`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = not args or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["write", *args])


app = typer.Typer(
    cls=_Studies,
    no_args_is_help=True,
    help="Many runs at once: a table's grid as tasks and a SLURM array, and how they stand. 'pctool study NAME' is "
    "short for 'pctool study write NAME'.\n\nExample: pctool study table1 --seeds 0:3 --out studies/table1",
)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


@app.command("write")
def write(  # noqa: PLR0917  # every setting is a flag of its own
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A shipped study ('pctool study list'), or a TOML file of your own.")
    ],
    seeds: Annotated[str, typer.Option("--seeds", help="0:3 for 0, 1 and 2, or a list: 1,5,9.")] = "0",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The study's folder. (studies/NAME)")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of train for every run, such as steps=1000."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that hold something else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the tasks and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write every run of a table as a task with its resolved settings, and a SLURM array script that runs them.

    Nothing is written unless every task resolves. The same command again changes nothing.

    Example: pctool study table1 --seeds 0:3 --out studies/table1
    """
    from pctool.cli import training_session
    from pctool.training import studies, study_folder
    from pctool.training.study_status import other_settings

    grid = studies.read_grid(name)
    numbers = studies.parse_seeds(seeds)
    tasks = studies.tasks(grid, numbers, dict(_setting(text) for text in settings or ()))
    label = studies.plain(Path(name).stem)
    folder = out or Path("studies") / label
    texts, stale = list[str](), dict[str, str]()
    for task in tasks:
        run = study_folder.run_folder(folder, task.name)
        # A login node need not have what the settings ask of the nodes that train.
        config = training_session.configure({**task.settings, "device": "auto", "out": run}, None)
        texts.append(study_folder.task_text(label, task, config))
        if held := other_settings(run, tomllib.loads(texts[-1])):
            stale[task.name] = held
    study = study_folder.StudyFile(name=label, seeds=numbers, tasks=tuple(task.name for task in tasks))
    if not dry_run:
        study_folder.write(folder, study, texts, force=force)
    for task_name, held in stale.items():
        console.note(f"{task_name}: {held}")
    if as_json:
        named = {"study": label, "folder": str(folder), "seeds": study.seeds, "tasks": study.tasks, "stale": stale}
        console.print_json({**named, "written": not dry_run})
        return
    if dry_run:
        for task in tasks:
            print(task.name)
        print(f"{len(tasks)} tasks for {folder}; nothing is written")
        return
    print(
        f"{len(tasks)} tasks in {folder}, seeds {', '.join(map(str, study.seeds))}: {tasks[0].name} to {tasks[-1].name}"
    )
    commands = {
        "one here": ["pctool", "train", "--study", str(folder), "--task", "0"],
        "on a cluster": ["sbatch", str(folder / "array.sbatch")],
        "how they stand": ["pctool", "study", "status", str(folder)],
    }
    for what, command in commands.items():
        print(f"  {what + ':':<15} {shlex.join(command)}")


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE; a value that is not TOML is a text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"--set {text!r} is not KEY=VALUE; write for example --set steps=1000")
    try:
        return key.strip().replace("-", "_"), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip().replace("-", "_"), value.strip()


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Name the studies that are shipped.

    Example: pctool study list
    """
    from pctool.training import recipes, studies

    console.print_headers("studies", recipes.headers(studies.folder_of_grids()), as_json=as_json)


@app.command("status")
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that 'pctool study' wrote.")],
    stale_after: Annotated[
        float | None,
        typer.Option(
            "--stale-after",
            min=0,
            help="Seconds without a sign of life that make a run stale. (10 times its usual interval, 120 at least)",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how every task stands: running, stale, diverged, done or waiting, with speed, score, kappa and alarm.

    Reads files alone, while jobs run, from any machine that sees the folder.

    Example: pctool study status studies/table1
    """
    from pctool.training.study_status import study_status

    tasks = study_status(folder, stale_after)
    counts = {state: sum(task.state == state for task in tasks) for state in dict.fromkeys(t.state for t in tasks)}
    if as_json:
        console.print_json({"folder": str(folder), "counts": counts, "tasks": [_as_dict(task) for task in tasks]})
        return
    for line in _table(tasks):
        print(line)
    print()
    print(f"{len(tasks)} tasks: {', '.join(f'{count} {state}' for state, count in counts.items())}")
    for task in tasks:
        if task.alarm:
            at = "" if task.alarm.step is None else f" at step {task.alarm.step:,}"
            print(f"alarm in {task.name}{at}: {task.alarm.reason}")
        if task.reason:
            print(f"{task.state}: {task.name}: {task.reason}")


def _table(tasks: Sequence[TaskStatus]) -> list[str]:
    rows = [("task", "state", "step", "steps/s", "left", "score", "kappa", "modified", "alarm")]
    rows += [
        (
            task.name,
            task.state,
            f"{task.step:,}/{task.steps:,}",
            f"{task.steps_per_second:.2f}" if task.steps_per_second else "",
            str(timedelta(seconds=round(task.seconds_left))) if task.seconds_left is not None else "",
            f"{task.score.name} {task.score.value:.2f}" if task.score else "",
            f"{task.kappa.max_kappa:.2f}" if task.kappa else "",
            f"{task.kappa.max_modified_kappa:.2f}" if task.kappa else "",
            "yes" if task.alarm else "",
        )
        for task in tasks
    ]
    return console.columns(rows)


def _as_dict(task: TaskStatus) -> dict[str, Any]:
    """One task for `--json`; an infinite condition number is null."""
    shown = {**dataclasses.asdict(task), "run": str(task.run)}
    for name in ("max_kappa", "max_modified_kappa") if task.kappa else ():
        shown["kappa"][name] = console.finite(shown["kappa"][name])
    return shown
