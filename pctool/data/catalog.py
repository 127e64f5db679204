"""Loading a data set by its name, and what of it is here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from pctool import files, places
from pctool.data import builtin, cache, datasets, encoded, landed, lsun, store
from pctool.data.datasets import DATASETS, DataSet, Split, describe
from pctool.data.decoding import EncodedImages
from pctool.data.pictures import Crop, Pictures
from pctool.errors import InputError, MissingError

__all__ = ["DATASETS", "DataSet", "ImageSet", "Split", "SplitState", "describe", "load", "states"]

CACHE_LIMIT = 100_000_000_000  # bytes of a decoded set, by default: LSUN bedroom at 128 px has 149 GB, tower 35 GB


def limit_of(gigabytes: float) -> int:
    """The bytes of `--cache-limit`; beyond what any disk has it is none."""
    return round(min(gigabytes, 1e9) * 1e9)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in canonical order.

    `images` is uint8 [N, C, H, W] and read-only (memory-mapped where it is a file), or `EncodedImages`, which is read
    in the same way. `sha256` identifies them: it is of the bytes of a canonical array (so it differs where
    `max_images` cut the set), and otherwise of the encoded images and of how they are decoded.
    """

    name: str
    split: str | None
    images: np.ndarray
    sha256: str

    @property
    def verified(self) -> bool:
        """Whether every byte was compared with its sum when it was loaded.

        Not where images are decoded as they come, nor in a large file of the cache: there sizes alone were compared.
        """
        if isinstance(self.images, EncodedImages):
            return False
        path = getattr(self.images, "filename", None)
        return path is None or Path(path).stat().st_size <= cache.CHECKED_WHEN_OPENED


def load(
    name: str,
    split: str | None = None,
    data_dir: Path | None = None,
    max_images: int | None = None,
    *,
    resolution: int | None = None,
    crop: Crop | None = None,
    cache_limit: int = CACHE_LIMIT,
    workers: int | None = None,
    counted: Callable[[int], AbstractContextManager[Callable[[int], object]]] = lambda total: nullcontext(_ignore),
    say: Callable[[str], object] = lambda line: None,
) -> ImageSet:
    """The images of a split of a data set, or of a folder or ZIP.

    `split` defaults to the one to train on; `max_images` takes that many from the start (all, if there are fewer).
    Canonical arrays have every byte checked against the sum pinned here. Other sets are decoded at `resolution`
    with `crop`: taken from the cache, or decoded into it where they have at most `cache_limit` bytes (by `workers`
    processes; `counted` gives what counts so many images, `say` gets a line about what takes time), else left encoded.
    Raises InputError for an unknown name or split, a value that is not allowed and damaged data, MissingError for
    data that is not here, WriteError where the cache cannot be written.
    """
    if max_images is not None and max_images < 1:
        raise InputError(f"max_images is {max_images}: allowed are 1 and more")
    is_path = encoded.is_path(name)
    resolution, crop = encoded.check_choice(name, resolution, crop)
    split = None if is_path else datasets.split_of(name, split)
    if crop is None:
        assert split is not None
        images = read_array(name, split, data_dir)
        sha256 = cast(str, DATASETS[name].splits[split].sha256)
        if max_images is not None and max_images < len(images):
            images = images[:max_images]
            sha256 = store.sha256(images)
        return ImageSet(name, split, images, sha256)
    with nullcontext() if is_path else remedied(name, data_dir):
        source = encoded.open_pictures(name, split, data_dir)
    asked = EncodedImages(source, resolution, crop, min(max_images or len(source), len(source)))
    label = encoded.label(name, split)
    found = cache.find(label, asked)
    if found is None and asked.nbytes <= cache_limit:
        say(f"decoding {len(asked):,} images ({asked.nbytes / 1e9:.2f} GB) into {cache.path_of(label, asked)}, once")
        with counted(len(asked)) as advance:
            check = functools.partial(_check_unchanged, name, split, data_dir, source)
            cache.build(label, asked, workers=workers, advance=advance, say=say, check=check)
        found = cache.find(label, asked)
    if found is None:
        say(f"{asked.nbytes / 1e9:.2f} GB of decoded images are more than --cache-limit: they are decoded as they come")
    # EncodedImages has what is used of an array here: len, shape, and indexing by a slice or an array.
    return ImageSet(name, split, cast(np.ndarray, asked) if found is None else found, cache.key_of(asked))


def _check_unchanged(name: str, split: str | None, data_dir: Path | None, source: Pictures) -> None:
    if encoded.open_pictures(name, split, data_dir).fingerprint != source.fingerprint:
        raise InputError(f"{name} changed while it was decoded; start again")


State = Literal["built in", "verified", "here", "absent", "damaged", "unreadable"]


@dataclass(frozen=True)
class SplitState:
    """What is here of a split: its state, where it lies (None: in the package), and what is wrong, if anything.

    `here` is what `verified` would be had every byte been read: files whose sizes are right.
    """

    name: str
    split: str
    state: State
    path: Path | None
    problem: str | None
    images: int
    resolution: int
    channels: int
    sha256: str | None


def read_array(name: str, split: str, data_dir: Path | None) -> np.ndarray:
    """A canonical array, every byte checked against the sum pinned here. Raises InputError and MissingError."""
    about = DATASETS[name]
    shape, expected = about.shape(split), about.splits[split].sha256
    assert expected is not None
    if about.asset is not None:
        return builtin.read_fashion_mnist(about.asset, shape, expected)
    with remedied(name, data_dir):
        return store.read(store.path_of(places.data_dir(data_dir), name, split), shape, expected)


@contextmanager
def remedied(name: str, data_dir: Path | None) -> Iterator[None]:
    """Errors of the files end with the commands that mend them; those of what cannot be read stay as they are."""
    place = f" --data-dir {data_dir}" if data_dir else ""
    remedy = f"'pctool data fetch {name}{place}' or 'pctool data import {name} --from FILE|FOLDER{place}'"
    try:
        yield
    except MissingError as error:
        path = str(error).removesuffix(" is not there")
        raise MissingError(f"{name} is not here ({path}): get it with {remedy}") from error
    except InputError as error:
        if files.is_unreadable(error):
            raise
        raise InputError(f"{error}; replace it with {remedy}") from error


def states(name: str, data_dir: Path | None = None, *, full: bool = False) -> list[SplitState]:
    """What is here of each split. Arrays are always read whole, official files with `full` only.

    Raises InputError for an unknown name.
    """
    about = describe(name)
    folder = places.data_dir(data_dir)
    found = []

    @functools.cache  # splits share files
    def check(file: str) -> None:
        with remedied(name, data_dir):
            landed.check(folder / name, (file,), full=full)

    for split, part in about.splits.items():
        path = None if about.asset else store.path_of(folder, name, split)
        state: State = "built in" if about.asset else "verified"
        problem = None
        try:
            if part.files:
                path = folder / name / part.files[0] if len(part.files) == 1 else folder / name
                state = "verified" if full else "here"
                for file in part.files + ((lsun.KEYS,) if about.form == "lsun" else ()):
                    check(file)
            else:
                read_array(name, split, data_dir)
        except MissingError as error:
            state, problem = "absent", str(error)
        except InputError as error:
            state, problem = "unreadable" if files.is_unreadable(error) else "damaged", str(error)
        size = (part.images, about.resolution, about.channels, part.sha256)
        found.append(SplitState(name, split, state, path, problem, *size))
    return found


def cached_states(name: str, data_dir: Path | None = None) -> list[SplitState]:
    """What was decoded of a data set that is here, a folder or a ZIP, every byte read; the split says at what
    resolution. Raises InputError for a path where there are no images.
    """
    is_path = encoded.is_path(name)
    splits = [None] if is_path else [split for split, part in describe(name).splits.items() if part.files]
    found = []
    for split in splits:
        try:
            pictures = encoded.open_pictures(name, split, data_dir)
        except (InputError, MissingError):
            if is_path:
                raise
            continue  # `states` tells of it
        for path, record in cache.made_of(pictures):
            state: State = "verified"
            problem = None
            try:
                cache.open_verified(path, full=True)
            except (InputError, MissingError) as error:
                if files.is_unreadable(error):
                    state, problem = "unreadable", str(error)
                else:
                    state, problem = "damaged", f"{error}; remove it: 'pctool data prepare {name}' makes it again"
            part = f"{split or 'all'}, decoded"
            size = (record.images, record.resolution, 3, record.sha256)
            found.append(SplitState(name, part, state, path, problem, *size))
    return found


def _ignore(n: int) -> None:
    """Counts nothing."""
