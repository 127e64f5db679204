"""From the name of a data set, or a path, to its encoded images."""

from __future__ import annotations

import os
from pathlib import Path

from pctool import files, places
from pctool.data import folders, landed
from pctool.data.datasets import DATASETS, describe
from pctool.data.lsun import KEYS, LmdbPictures
from pctool.data.pictures import Crop, Pictures
from pctool.data.stl10 import RECORD, StlPictures
from pctool.errors import InputError

PATH_RESOLUTIONS: tuple[int, ...] = (32, 48, 64, 128, 256)  # that there are networks for
PATH_CROPS: tuple[Crop, ...] = ("resize", "centre")


def is_path(name: str) -> bool:
    """Whether `name` means a folder or a ZIP: it is no data set's, and looks like a path or is there."""
    if "\0" in name:  # which no path can have
        return False
    return name not in DATASETS and (os.sep in name or name.lower().endswith(".zip") or os.path.exists(name))


def label(name: str, split: str | None) -> str:
    """What files made of the images are called after."""
    return files.printable(Path(os.path.realpath(name)).stem) if split is None else f"{name}-{split}"


def check_choice(name: str, resolution: int | None, crop: Crop | None) -> tuple[int, Crop | None]:
    """Resolution and crop with the data set's defaults; the crop is None for canonical arrays, which are as they are.

    Raises InputError for what the data set does not have.
    """
    if is_path(name):
        default, resolutions, crops = None, PATH_RESOLUTIONS, PATH_CROPS
    else:
        about = describe(name, ", a folder or a ZIP")
        default, crops = about.resolution, about.crops
        resolutions = about.resolutions or (about.resolution,)
    allowed = ", ".join(map(str, resolutions))
    if (resolution := resolution or default) is None:
        raise InputError(f"at what resolution is {name} to be taken? add --resolution: {allowed}")
    if resolution not in resolutions:
        raise InputError(f"{name} has no resolution {resolution}: allowed are {allowed}")
    if crop is not None and crop not in crops:
        said = f"allowed are {', '.join(crops)}" if crops else "its images are taken as they are; leave it out"
        raise InputError(f"{name} has no crop '{crop}': {said}")
    return resolution, crop or (crops[0] if crops else None)


def open_pictures(name: str, split: str | None, data_dir: Path | None) -> Pictures:
    """The encoded images. Raises InputError (damaged, or no images) and MissingError (not here)."""
    if split is None:
        return folders.open_path(Path(name))
    about = describe(name)
    wanted = about.splits[split].files
    folder = places.data_dir(data_dir) / name
    known = landed.check(folder, wanted, full=False)
    paths = tuple(folder / file for file in wanted)
    if about.form == "stl10":
        sizes = tuple(known.files[file].size for file in wanted)
        return StlPictures(paths, tuple(size // RECORD for size in sizes), tuple(known.files[f].sha256 for f in wanted))
    landed.check(folder, (KEYS,), full=True)
    return LmdbPictures(paths[0], folder / KEYS, about.splits[split].images, known.files["data.mdb"].sha256)
