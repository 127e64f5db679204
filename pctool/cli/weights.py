"""Weights of the networks that score, fetched once into the cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pctool.cli.console import note, output, print_json, progress
from pctool.data import catalog, download
from pctool.errors import InputError, did_you_mean
from pctool.evaluation import features, inception, torchvision_nets
from pctool.evaluation.weights_files import INCEPTION, INCEPTION_SCRIPT, WeightsFile
from pctool.files import locked, sha256_of

Outcome = Literal["built in", "already here", "fetched", "not here"]


def is_known(extractor: str) -> bool:
    """Whether `fetch` knows where the weights of that extractor are."""
    if extractor in {features.INCEPTION, features.FASHION_CNN}:  # torchvision, which takes seconds, is not asked
        return extractor == features.INCEPTION
    return extractor in torchvision_nets.names()


def fetch(extractor: str) -> tuple[Path, bool]:
    """Where the weights are, fetched if they were not there, and whether they were not.

    MissingError where the host does not give them, InputError for wrong bytes, WriteError.
    """
    file = _published(extractor)
    if os.path.exists(file.path):  # unlike Path.exists, False where a folder above may not be searched
        return file.path, False
    note(f"fetching the weights of {extractor} from {file.url}")
    place = "choose another cache folder by PCTOOL_CACHE_DIR"
    with (
        locked(file.path.with_name(f".{file.name}.lock"), file.path, note, place),
        progress("fetch", file.size, "bytes") as advance,
    ):
        download.download(file, file.path, f"bring the file to {file.path}", advance, place=place)
    return file.path, True


def _published(extractor: str) -> WeightsFile:
    if extractor == features.INCEPTION:
        return INCEPTION_SCRIPT if inception.default_path() == INCEPTION_SCRIPT.path else INCEPTION
    return torchvision_nets.official(extractor)


def verified(extractor: str, *, offline: bool = False) -> tuple[Path | None, Outcome]:
    """Where the weights are (None: in the package), fetched if need be, with the published SHA-256; what was done.

    With `offline` nothing is fetched, and the path of weights that are not here is where they belong.
    Raises InputError for a damaged file, and as `fetch`.
    """
    if extractor == features.FASHION_CNN:
        return None, "built in"
    file = _published(extractor)
    if offline and not file.path.exists():
        return file.path, "not here"
    path, fetched = fetch(extractor)
    if not fetched and not (found := sha256_of(path)).startswith(file.sha256):
        raise InputError(
            f"{path} is damaged: SHA-256 {found}, expected {file.sha256}; remove it, and it is fetched again"
        )
    return path, "fetched" if fetched else "already here"


def report(extractor: str, *, as_json: bool) -> None:
    """`pctool data fetch` of what is no data set: fetches a network's weights, and says where the file lies.

    InputError for a name that is none.
    """
    if extractor != features.FASHION_CNN and not is_known(extractor):
        raise InputError(_unknown(extractor))
    path, outcome = verified(extractor)
    if as_json:
        print_json({"name": extractor, "outcome": outcome, "path": str(path) if path else None})
        return
    output().print(f"the weights of {extractor}: {outcome}" + (f"\n  {path}" if path else ""), markup=False)


def _unknown(name: str) -> str:
    known = [*catalog.DATASETS, features.INCEPTION, features.FASHION_CNN, *torchvision_nets.names()]
    return (
        f"unknown data set '{name}': allowed are {', '.join(catalog.DATASETS)}, and of networks that score inception "
        f"and torchvision's, such as mobilenet_v2{did_you_mean(name, known)}"
    )
