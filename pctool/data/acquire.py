"""Brings a data set into the data folder, from files or from its official host; what lands there is verified first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import numpy as np

from pctool import files, places
from pctool.data import catalog, cifar, download, landed, lsun, store
from pctool.errors import InputError

PLACE = "choose another with --data-dir"  # how the data folder is chosen
Outcome = Literal["built in", "already here", "imported", "fetched"]


def import_files(
    name: str,
    source: Path,
    data_dir: Path | None = None,
    advance: Callable[[int], object] = lambda read: None,
    say: Callable[[str], object] = lambda line: None,
    *,
    link: bool = False,
) -> Outcome:
    """Lands `name` from the files in `source`, as canonical arrays or official files, unless it is here and verified.

    `advance` is told of images read (of bytes, for official files), `say` of what takes time or is replaced (a
    damaged file is). With `link` official files that lie in a folder stay there and get a symbolic link.
    Raises InputError for a source that is not exactly the official data, and WriteError.
    """
    about = catalog.describe(name)
    if about.asset is not None:
        raise InputError(f"{name} is built in: there is nothing to import")
    files.is_folder(source, f"one of {allowed(name)}")
    if link and about.form == "arrays":
        raise InputError(f"--link is for official files that are kept as they are; {name} is not")
    if _is_here(name, data_dir):  # before the lock, which a read-only folder does not allow
        return "already here"
    with _lock(name, places.data_dir(data_dir), say):
        if _is_here(name, data_dir):
            return "already here"
        _land(name, source, data_dir, advance, say, link=link)
    return "imported"


def fetch(
    name: str,
    data_dir: Path | None = None,
    advance: Callable[[int], object] = lambda received: None,
    say: Callable[[str], object] = lambda line: None,
    timeout: float = download.TIMEOUT,
) -> Outcome:
    """Downloads the official archive of `name` and lands what it holds, unless that is here and verified.

    `advance` is told of bytes received (a negative number where a download starts again), `say` of what takes
    time. The archive is removed afterwards, unless it was there before; a partial one stays, and the next call
    continues it.
    Raises MissingError where the host does not give it, InputError for wrong bytes, and WriteError.
    """
    about = catalog.describe(name)
    if about.archive is None:
        return "built in"
    if _is_here(name, data_dir):
        return "already here"
    folder = places.data_dir(data_dir)
    with _lock(name, folder, say):
        if _is_here(name, data_dir):
            return "already here"
        packed = folder / name / about.archive.name
        brought = packed.is_file()
        other_road = f"'pctool data import {name} --from FILE|FOLDER' takes the data from files you have"
        download.download(about.archive, packed, other_road, advance, place=PLACE, timeout=timeout)
        say(f"unpacking {packed.name}")
        _land(name, packed, data_dir, lambda images: None, say)
        if not brought:
            packed.unlink()
    return "fetched"


def _is_here(name: str, data_dir: Path | None) -> bool:
    """Raises InputError for what is here and cannot be read: it would be brought again, perhaps in vain."""
    states = catalog.states(name, data_dir, full=True)
    for state in states:
        if state.state == "unreadable":
            raise InputError(str(state.problem))
    return all(state.state == "verified" for state in states)


def _land(
    name: str,
    source: Path,
    data_dir: Path | None,
    advance: Callable[[int], object],
    say: Callable[[str], object],
    *,
    link: bool = False,
) -> None:
    """Of arrays reads all, verifies all, and only then writes, so that wrong data leave no trace."""
    about = catalog.DATASETS[name]
    files.remove_leftovers_in(places.data_dir(data_dir) / name)
    if about.form != "arrays":
        _land_files(name, source, places.data_dir(data_dir) / name, advance, say, link=link)
        return
    arrays = cifar.read(source, about.splits["test"].images, advance)
    for split, images in arrays.items():
        found, expected = store.sha256(images), about.splits[split].sha256
        if found != expected:
            raise InputError(
                f"the {split} images in {source} are not the official ones: SHA-256 {found}, expected {expected}"
            )
    for state in catalog.states(name, data_dir):
        if state.state == "damaged":
            say(f"replacing {state.path}, which was damaged")
        if state.path is not None and state.state != "verified":
            store.write(state.path, arrays[state.split])


def _land_files(
    name: str,
    source: Path,
    folder: Path,
    advance: Callable[[int], object],
    say: Callable[[str], object],
    *,
    link: bool,
) -> None:
    """Official files one by one, each verified; LSUN's with the index of its keys; then the manifest of them all."""
    about = catalog.DATASETS[name]
    keys: list[np.ndarray] = []

    def number(path: Path, what: str) -> None:
        say("numbering the images")
        found, expected = lsun.index(path, what), about.splits["train"].images
        if len(found) != expected:
            raise InputError(f"{source} is not the official {name}: {len(found):,} images, expected {expected:,}")
        keys.append(found)

    verify = number if about.form == "lsun" else lambda path, what: None
    known = landed.land(source, folder, about.files, link=link, advance=advance, verify=verify)
    if keys:
        store.write(folder / lsun.KEYS, keys[0])
        known |= {lsun.KEYS: landed.record_of(folder / lsun.KEYS)}
    landed.write_manifest(folder, landed.Manifest(dataset=name, files=known))


def allowed(name: str) -> str:
    """What can be imported as the data set `name`."""
    return {
        "arrays": cifar.ALLOWED,
        "stl10": "stl10_binary.tar.gz, or the folder it unpacks to",
        "lsun": "the official ..._train_lmdb.zip, the folder it unpacks to, or its data.mdb",
    }[catalog.describe(name).form]


def _lock(name: str, folder: Path, say: Callable[[str], object]) -> AbstractContextManager[None]:
    return files.locked(folder / name / ".lock", folder / name, say, PLACE)
