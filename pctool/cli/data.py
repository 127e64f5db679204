"""`pctool data`: what is here, and how the rest gets here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pctool import errors
from pctool.cli import console

if TYPE_CHECKING:
    from pctool.data.acquire import Outcome
    from pctool.data.catalog import SplitState

app = typer.Typer(
    no_args_is_help=True,
    help="Data sets: list, fetch, import, verify.\n\nExample: pctool data list",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The data set: fashion-mnist or cifar10.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where data sets lie (default: PCTOOL_DATA_DIR, else your user data folder)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]

OUTCOMES = {
    "built in": "{name} is built in: there is nothing to do",
    "already here": "{name} was already here; every byte is verified",
    "imported": "{name} is imported and verified",
    "fetched": "{name} is fetched and verified",
}


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show every data set: its images, its size, and whether it is here, every byte read and verified.

    Example: pctool data list
    """
    from pctool.data import catalog

    _show([state for name in catalog.DATASETS for state in catalog.states(name, data_dir)], as_json)


@app.command("verify")
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The data set (default: all that are here).")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hash the data again. Exit code 0: all as it should be; 2: damaged; 4: not here.

    Without NAME, sets of which nothing is here are shown and do not count.

    Example: pctool data verify cifar10
    """
    from pctool.data import catalog

    shown, counted = [], []
    for each in [name] if name else list(catalog.DATASETS):
        states = catalog.states(each, data_dir)
        shown += states
        if name or any(state.state != "absent" for state in states):
            counted += states
    _show(shown, as_json)
    for state in counted:
        if state.state == "damaged":
            raise errors.InputError(str(state.problem))
    for state in counted:
        if state.state == "absent":
            raise errors.MissingError(str(state.problem))


@app.command("import")
def import_(
    name: Name,
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            metavar="FILE|FOLDER",
            help="For cifar10: cifar-10-binary.tar.gz, cifar-10-python.tar.gz, a folder of either or of what it "
            "unpacks to, or the PNG pages data_batch_1..5.png and test_batch.png.",
        ),
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take a data set from files you have. They are read, never executed, and verified before anything is written.

    Example: pctool data import cifar10 --from ~/Downloads/cifar-10-python.tar.gz
    """
    from pctool.data import acquire, catalog

    total = sum(split.images for split in catalog.describe(name).splits.values())
    with console.progress(f"reading {name}", total, "images") as advance:
        outcome = acquire.import_files(name, source, data_dir, advance, console.note)
    _report(name, outcome, data_dir, as_json)


@app.command("fetch")
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The data set, or a network that scores: inception, or one of torchvision's."
        ),
    ],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Download a data set from its official host, and verify it. An interrupted download is continued.

    Weights of a network go to the cache folder, where eval finds them.

    Example: pctool data fetch cifar10
    """
    from pctool.data import acquire, catalog

    if name not in catalog.DATASETS:
        from pctool.cli import weights

        if weights.is_known(name):
            weights.report(name, as_json=as_json)
            return
    archive = catalog.describe(name).archive
    with console.progress(f"fetching {name}", archive.size if archive else 0, "bytes") as advance:
        outcome = acquire.fetch(name, data_dir, advance, console.note)
    _report(name, outcome, data_dir, as_json)


def _report(name: str, outcome: Outcome, data_dir: Path | None, as_json: bool) -> None:
    from pctool.data import catalog

    states = catalog.states(name, data_dir)
    if as_json:
        console.print_json({"name": name, "outcome": outcome, "splits": [_as_dict(state) for state in states]})
        return
    console.output().print(OUTCOMES[outcome].format(name=name), markup=False)
    for state in states:
        if state.path:
            console.output().print(f"  {state.path}", markup=False)
    place = f" --data-dir {data_dir}" if data_dir else ""
    console.output().print(f"next: pctool train --dataset {name}{place}", markup=False)


def _show(states: list[SplitState], as_json: bool) -> None:
    if as_json:
        console.print_json({"splits": [_as_dict(state) for state in states]})
        return
    rows = [("data set", "split", "images", "size", "state", "where")]
    for state in states:
        values = _as_dict(state)
        size = f"{values['resolution']} x {values['resolution']} x {values['channels']}"
        where = str(state.path or "in the package")
        rows.append((state.name, state.split, f"{values['images']:,}", size, state.state, where))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.rjust(w) if i == 2 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        console.output().print("  ".join(cells).rstrip(), markup=False)


def _as_dict(state: SplitState) -> dict[str, object]:
    from pctool.data import catalog

    about = catalog.describe(state.name)
    return {
        "name": state.name,
        "split": state.split,
        "state": state.state,
        "path": str(state.path) if state.path else None,
        "problem": state.problem,
        "images": about.splits[state.split].images,
        "resolution": about.resolution,
        "channels": about.channels,
        "sha256": about.splits[state.split].sha256,
        "licence": about.licence,
        "address": about.address,
    }
