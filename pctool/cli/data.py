"""`pctool data`: what is here, and how the rest gets here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pctool import errors
from pctool.cli import console

if TYPE_CHECKING:
    from pctool.data.acquire import Outcome
    from pctool.data.catalog import SplitState

app = typer.Typer(
    no_args_is_help=True,
    help="Data sets: list, fetch, import, prepare, verify.\n\nExample: pctool data list",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The data set; 'pctool data list' shows them.")]
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
    """Show every data set: its images, its size, and whether it is here.

    Arrays are verified, every byte read; of official files, which are large, the sizes are compared ("here").

    Example: pctool data list
    """
    from pctool.data import catalog

    _show([state for name in catalog.DATASETS for state in catalog.states(name, data_dir)], as_json)


@app.command("verify")
def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The data set, folder or ZIP (default: all that are here)."),
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Hash the data again. Exit code 0: all as it should be; 2: damaged; 4: not here.

    Without NAME, sets of which nothing is here are shown and do not count. What 'prepare' made of a set is hashed
    too; of a folder or ZIP nothing else is.

    Example: pctool data verify cifar10
    """
    from pctool.data import catalog, encoded

    shown, counted = [], []
    for each in [name] if name else list(catalog.DATASETS):
        states = [] if encoded.is_path(each) else catalog.states(each, data_dir, full=True)
        states += catalog.cached_states(each)
        if name and not states:
            raise errors.MissingError(f"nothing is prepared of {name}: 'pctool data prepare {name}' does it")
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
            "unpacks to, or the PNG pages data_batch_1..5.png and test_batch.png. For stl10: stl10_binary.tar.gz or "
            "its folder. For LSUN: ..._train_lmdb.zip, its folder or data.mdb.",
        ),
    ],
    link: Annotated[
        bool, typer.Option("--link", help="Leave stl10's or LSUN's files where they are, behind a symbolic link.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Take a data set from files you have. They are read, never executed, and verified before anything is written.

    Example: pctool data import cifar10 --from ~/Downloads/cifar-10-python.tar.gz
    """
    from pctool.data import acquire, catalog

    about = catalog.describe(name)
    total, unit = sum(split.images for split in about.splits.values()), "images"
    if about.form != "arrays":
        known = sum(pin.size or 0 for pin in about.files.values())
        total, unit = known or (about.archive.size if about.archive else 0), "bytes"  # LSUN's JPEGs do not pack
    with console.progress(f"reading {name}", total, unit) as advance:
        outcome = acquire.import_files(name, source, data_dir, advance, console.note, link=link)
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

        weights.report(name, as_json=as_json)
        return
    archive = catalog.describe(name).archive
    with console.progress(f"fetching {name}", archive.size if archive else 0, "bytes") as advance:
        outcome = acquire.fetch(name, data_dir, advance, console.note)
    _report(name, outcome, data_dir, as_json)


@app.command("prepare")
def prepare(  # noqa: PLR0917  # every setting is a flag of its own
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set, or a folder or ZIP of images.")],
    split: Annotated[str | None, typer.Option("--split", help="Which part (default: the one to train on).")] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Pixels a side (default: the data set's own).")
    ] = None,
    crop: Annotated[
        Literal["centre", "resize"] | None,
        typer.Option("--crop", help="LSUN, folder, ZIP: cut out the middle, or resize the short side first."),
    ] = None,
    max_images: Annotated[int | None, typer.Option("--max-images", help="Only the first N images.", min=1)] = None,
    cache_limit: Annotated[
        float, typer.Option("--cache-limit", help="GB that decoded images may take; a larger set is streamed.", min=0)
    ] = 100.0,
    workers: Annotated[
        int | None, typer.Option("--data-workers", help="Processes that decode (default: by the processors).", min=0)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Do ahead of a job what its first minutes would do: fetch, verify, decode into the cache that all runs share.

    Give the options that 'pctool train' will get.

    Example: pctool data prepare stl10
    """
    from pctool.data import acquire, catalog, encoded
    from pctool.data.decoding import EncodedImages

    if not encoded.is_path(name) and any(s.state == "absent" for s in catalog.states(name, data_dir)):
        archive = catalog.describe(name).archive
        with console.progress(f"fetching {name}", archive.size if archive else 0, "bytes") as advance:
            acquire.fetch(name, data_dir, advance, console.note)
    limit = round(cache_limit * 1e9)
    loaded = catalog.load(
        name,
        split,
        data_dir,
        max_images,
        resolution=resolution,
        crop=crop,
        cache_limit=limit,
        workers=workers,
        counted=lambda total: console.progress(f"decoding {name}", total, "images"),
        say=console.note,
    )
    streamed = isinstance(loaded.images, EncodedImages)
    path = getattr(loaded.images, "filename", None)
    if as_json:
        console.print_json(
            {
                "name": name,
                "split": loaded.split,
                "images": len(loaded.images),
                "shape": list(loaded.images.shape[1:]),
                "sha256": loaded.sha256,
                "cache": str(path) if path else None,
                "streamed": streamed,
            }
        )
        return
    where = "streamed while training" if streamed else f"in {path}" if path else "inside the package"
    size = "x".join(map(str, reversed(loaded.images.shape[1:])))
    console.output().print(f"{name}: {len(loaded.images):,} images of {size}, {where}", markup=False)


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

    about = catalog.DATASETS.get(state.name)
    return {
        "name": state.name,
        "split": state.split,
        "state": state.state,
        "path": str(state.path) if state.path else None,
        "problem": state.problem,
        "images": state.images,
        "resolution": state.resolution,
        "channels": state.channels,
        "sha256": state.sha256,
        "licence": about.licence if about else None,
        "address": about.address if about else None,
    }
