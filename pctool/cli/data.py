"""`pctool data`: what is here, and how the rest gets here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pctool import errors
from pctool.cli import console, data_answer

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


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show every data set: its images, its size, and whether it is here.

    Arrays are verified, every byte read; of official files, which are large, the sizes are compared ("here").

    Example: pctool data list
    """
    from pctool.data import catalog

    console.clean_up_when_terminated()
    data_answer.show([state for name in catalog.DATASETS for state in catalog.states(name, data_dir)], as_json)


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

    console.clean_up_when_terminated()
    shown, counted = [], []
    for each in [name] if name else list(catalog.DATASETS):
        states = [] if encoded.is_path(each) else catalog.states(each, data_dir, full=True)
        states += catalog.cached_states(each, data_dir)
        if name and not states:
            how = f"{name} --resolution N" if encoded.is_path(name) else name
            raise errors.MissingError(f"nothing is prepared of {name} as it is: 'pctool data prepare {how}' does it")
        shown += states
        if name or any(state.state != "absent" for state in states):
            counted += states
    data_answer.show(shown, as_json)
    for state in counted:
        if state.state in ("damaged", "unreadable"):
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

    console.clean_up_when_terminated()
    about = catalog.describe(name)
    total: int | None = sum(split.images for split in about.splits.values())
    unit = "images"
    if about.form != "arrays":
        known = sum(pin.size or 0 for pin in about.files.values())
        total, unit = known or (about.archive and about.archive.size) or None, "bytes"  # LSUN's JPEGs do not pack
    with console.progress(f"reading {name}", total, unit) as advance:
        outcome = acquire.import_files(name, source, data_dir, advance, console.note, link=link)
    data_answer.report(name, outcome, data_dir, as_json)


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

    console.clean_up_when_terminated()
    if name not in catalog.DATASETS:
        from pctool.cli import weights

        weights.report(name, as_json=as_json)
        return
    archive = catalog.describe(name).archive
    with console.progress(f"fetching {name}", archive.size if archive else None, "bytes") as advance:
        outcome = acquire.fetch(name, data_dir, advance, console.note)
    data_answer.report(name, outcome, data_dir, as_json)


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
        float,
        typer.Option("--cache-limit", help="GB that decoded images may take; a larger set is streamed.", min=0),
    ] = 100.0,
    workers: Annotated[
        int | None, typer.Option("--data-workers", help="Processes that decode (default: by the processors).", min=0)
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch neither data nor weights; use what is here.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Do all that can be done ahead of a job: fetch, verify, decode into the cache that all runs share.

    Brings the weights of the network that scores a run on these data, too. Give the options that 'pctool train' will
    get.

    Example: pctool data prepare stl10
    """
    from pctool.data import acquire, catalog, datasets, encoded

    encoded.check_choice(name, resolution, crop)
    if not encoded.is_path(name):
        datasets.split_of(name, split)
    console.clean_up_when_terminated()
    if not (offline or encoded.is_path(name)) and any(s.state == "absent" for s in catalog.states(name, data_dir)):
        archive = catalog.describe(name).archive
        with console.progress(f"fetching {name}", archive.size if archive else None, "bytes") as advance:
            acquire.fetch(name, data_dir, advance, console.note)
    loaded = catalog.load(
        name,
        split,
        data_dir,
        max_images,
        resolution=resolution,
        crop=crop,
        cache_limit=catalog.limit_of(cache_limit),
        workers=workers,
        counted=lambda total: console.progress(f"decoding {name}", total, "images"),
        say=console.note,
    )
    # Last: the data may be there where the weights' host is not.
    from pctool.cli import weights
    from pctool.evaluation import features

    extractor = features.default_for(name)
    problem: errors.MissingError | None = None
    try:
        path, outcome = weights.verified(extractor, offline=offline)
    except errors.MissingError as error:
        path, outcome, problem = None, "not here", error
    data_answer.prepared(name, loaded, extractor, outcome, path, as_json)
    if problem is not None:
        raise errors.MissingError(f"{problem}, or leave it out with --offline") from problem
