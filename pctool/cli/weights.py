"""Weights of the networks that score, fetched once into the cache."""

from __future__ import annotations

import difflib
from pathlib import Path

from pctool.cli.console import note, output, print_json, progress
from pctool.core.weights_files import INCEPTION
from pctool.data import catalog, weights
from pctool.errors import InputError
from pctool.evaluation import features, inception, torchvision_nets


def is_known(extractor: str) -> bool:
    """Whether `fetch` knows where the weights of that extractor are."""
    return extractor == features.INCEPTION or extractor in torchvision_nets.names()


def fetch(extractor: str) -> tuple[Path, bool]:
    """Where the weights are, fetched if they were not there, and whether they were not.

    MissingError where the host does not give them, InputError for wrong bytes, WriteError.
    """
    if extractor == features.INCEPTION:
        path, url, sha256, size = inception.default_path(), INCEPTION.url, INCEPTION.sha256, INCEPTION.size
    else:
        official = torchvision_nets.official(extractor)
        path, url, sha256, size = official.path, official.url, official.sha256_prefix, 0
    if path.exists():
        return path, False
    note(f"fetching the weights of {extractor} from {url}")
    with progress("fetch", size, "bytes") as advance:
        weights.fetch(url, path, sha256, advance)
    return path, True


def report(extractor: str, *, as_json: bool) -> None:
    """`pctool data fetch` of what is no data set: fetches a network's weights, and says where the file lies.

    InputError for a name that is none.
    """
    if extractor == features.FASHION_CNN:
        path, outcome = None, "built in"
    elif is_known(extractor):
        path, fetched = fetch(extractor)
        outcome = "fetched" if fetched else "already here"
    else:
        raise InputError(_unknown(extractor))
    if as_json:
        print_json({"name": extractor, "outcome": outcome, "path": str(path) if path else None})
        return
    output().print(f"the weights of {extractor}: {outcome}" + (f"\n  {path}" if path else ""), markup=False)


def _unknown(name: str) -> str:
    known = [*catalog.DATASETS, features.INCEPTION, features.FASHION_CNN, *torchvision_nets.names()]
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    return (
        f"unknown data set '{name}': allowed are {', '.join(catalog.DATASETS)}, and of networks that score inception "
        f"and torchvision's, such as mobilenet_v2{guess}"
    )
