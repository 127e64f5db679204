"""`pctool report`: the paper's tables and figures from run folders."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pctool import files
from pctool.cli.console import finite, note, output, print_json
from pctool.errors import InputError

if TYPE_CHECKING:
    from pctool.report.rows import Row, Value


def report(  # noqa: PLR0917  # every setting is a flag of its own
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run folders of 'pctool train', studies, or quoted patterns."),
    ],
    select: Annotated[
        Literal["final", "best"],
        typer.Option("--select", help="A run's last evaluation, or its best one."),
    ] = "final",
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="The score to tabulate. [fid, else the fd_... there is]", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write into.")] = Path("report"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that hold something else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Tables 1 and 2 of the paper from run folders, each row beside the paper's, and figures that overlay methods.

    Runs that differ only in their seed make one row: mean and standard deviation, diverged ones counted and left
    out of the values. Writes report.md, report.csv, report.tex, report.html (one page, no network needed) and
    the figures as PNG and SVG.

    Example: pctool report runs/cifar10-resnet-sn-d1-s0 runs/cifar10-resnet-apc-d1-s0 --select best
    """
    from pctool.report import page, tables
    from pctool.report.figures import overlays, spectra_of
    from pctool.report.rows import one_a_seed, rows_of
    from pctool.report.runs import find_runs, read_run

    if os.path.exists(out) and not os.path.isdir(out):  # neither where it may not be looked at: then writing says so
        raise InputError(f"--out {out} is a file; give a folder")
    runs, left_out = one_a_seed([read_run(path) for path in find_runs(inputs)])
    rows = rows_of(runs, metric, select)
    remarks = [*left_out, *_remarks(rows, select)]
    figures = overlays(rows)
    spectra = {run: spectra_of(run) for row in rows for run in row.runs}
    which = {"final": "last evaluation", "best": "best evaluation"}[select]
    about = f"Of each run its {which}, and the condition numbers recorded at that step, or last before it."
    texts = {
        "report.md": tables.markdown(rows, remarks),
        "report.csv": tables.csv_text(rows),
        "report.tex": tables.latex(rows),
        "report.html": page.html(rows, figures, spectra, remarks, about),
    }
    written = {out / name: files.printable(text).encode() for name, text in texts.items()}
    written |= {out / name: data for name, data in figures.items()}
    files.write_new(written, force=force)
    for remark in remarks:
        note(files.printable(remark))
    if as_json:
        print_json(
            {
                "select": select,
                "files": [str(path) for path in written],
                "remarks": remarks,
                "rows": [_row(row) for row in rows],
            }
        )
        return
    _show(rows, out, figures)


def _remarks(rows: Sequence[Row], select: Literal["final", "best"]) -> list[str]:
    """What makes numbers of a table unfit to be compared, for each of the tables' settings; and what has none."""
    from pctool.report.rows import protocols, recorded_at, step_of

    remarks = []
    for setting in dict.fromkeys(row.setting for row in rows):
        found = protocols([row for row in rows if row.setting == setting], select)
        apart = [key for key in found[0] if len({str(one[key]) for one in found}) > 1] if found else []
        if apart:
            differ = "; ".join(f"{key} {' or '.join(sorted({str(one[key]) for one in found}))}" for key in apart)
            remarks.append(f"The scores of {setting} have different protocols ({differ}): do not compare them.")
    counted = [(run, step_of(run, row.metric, select)) for row in rows for run in row.runs if run.ended != "diverged"]
    for run, step in counted:
        recorded = recorded_at(run, step)
        if recorded not in {None, step}:
            remarks.append(f"The condition numbers of {run.path} are those recorded at step {recorded:,}.")
    unscored = [str(run.path) for row in rows for run in row.runs if not run.metrics and run.ended != "diverged"]
    if unscored:
        command = shlex.join(["pctool", "eval", unscored[0]])
        remarks.append(f"Without a score: {', '.join(unscored)}. '{command}' scores a run; then make the report again.")
    return remarks


def _show(rows: Sequence[Row], out: Path, figures: Collection[str]) -> None:
    from pctool.report.tables import DEPARTING, notes, plain

    console = output()
    for setting in dict.fromkeys(row.setting for row in rows):
        found = [row for row in rows if row.setting == setting]
        for line in [setting, *plain(found)]:
            console.print(line.replace("±", "+-") if console.options.ascii_only else line, markup=False)
        console.print()
    if notes(rows):
        console.print(DEPARTING, markup=False)
        for text in notes(rows):
            console.print(f"- {text}", markup=False)
        console.print()
    console.print(f"tables: {out / 'report.md'}, report.csv, report.tex", markup=False)
    console.print(f"figures: {', '.join(name for name in figures if name.endswith('.png'))}", markup=False)
    console.print(f"one page: {out / 'report.html'}", markup=False)


def _row(row: Row) -> dict[str, Any]:
    return {
        **vars(row),
        "runs": [str(run.path) for run in row.runs],
        "score": _value(row.score),
        "kappas": {name: _value(value) for name, value in row.kappas.items()},
        "paper": vars(row.paper) if row.paper else None,
    }


def _value(value: Value | None) -> dict[str, float | int | None] | None:
    if value is None:
        return None
    return {"mean": finite(value.mean), "std": finite(value.std), "n": value.n}
