"""Brings a data set into the data folder, from files or from its official host; what lands there is verified first."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import filelock

from pctool import places
from pctool.data import catalog, cifar, download, landed, lsun, store
from pctool.errors import InputError, WriteError

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
    if not os.path.exists(source):  # unlike Path.exists, False for a path that cannot be one
        raise InputError(f"{source} does not exist: give one of {allowed(name)}")
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
    time. The archive is removed afterwards; a partial one stays, and the next call continues it.
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
        packed = folder / name / Path(about.archive.url).name
        other_road = f"'pctool data import {name} --from FILE|FOLDER' takes the data from files you have"
        download.download(about.archive, packed, other_road, advance, timeout)
        say(f"unpacking {packed.name}")
        _land(name, packed, data_dir, lambda images: None, say)
        packed.unlink()
    return "fetched"


def _is_here(name: str, data_dir: Path | None) -> bool:
    return all(state.state == "verified" for state in catalog.states(name, data_dir, full=True))


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
    files = landed.land(source, folder, about.files, link=link, advance=advance)
    if about.form == "lsun":
        say("numbering the images")
        data, expected = folder / "data.mdb", about.splits["train"].images
        try:
            keys = lsun.index(data)
            if len(keys) != expected:
                raise InputError(f"{source} is not the official {name}: {len(keys):,} images, expected {expected:,}")
        except InputError:
            data.unlink()
            raise
        store.write(folder / lsun.KEYS, keys)
        files |= {lsun.KEYS: landed.record_of(folder / lsun.KEYS)}
    landed.write_manifest(folder, landed.Manifest(dataset=name, files=files))


def allowed(name: str) -> str:
    """What can be imported as the data set `name`."""
    return {
        "arrays": cifar.ALLOWED,
        "stl10": "stl10_binary.tar.gz, or the folder it unpacks to",
        "lsun": "the official ..._train_lmdb.zip, the folder it unpacks to, or its data.mdb",
    }[catalog.describe(name).form]


@contextlib.contextmanager
def _lock(name: str, folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """One process a data set: a second waits, says so, and then finds the work done."""
    store.make_folder(folder / name)
    lock = filelock.FileLock(folder / name / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that writes {folder / name}")
            lock.acquire()
    except OSError as error:
        raise WriteError(f"cannot write {lock.lock_file}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
