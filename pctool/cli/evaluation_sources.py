"""Where `pctool eval` takes samples and real images from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pctool.cli.console import note, progress
from pctool.cli.evaluation_plan import Plan
from pctool.core import checkpoint as checkpoints
from pctool.data import catalog
from pctool.errors import InputError, did_you_mean
from pctool.evaluation import statistics_file
from pctool.evaluation.generate import generate
from pctool.evaluation.images import ImageArray, Images, open_images
from pctool.training import ema

Batches = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True)
class Trained:
    """A checkpoint, and the run folder it is in."""

    checkpoint: dict[str, Any]
    run: Path | None

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration."""
        return checkpoints.config(self.checkpoint)

    @property
    def step(self) -> int:
        """The checkpoint's step."""
        return int(self.checkpoint["step"])

    def notes(self, network: str) -> list[str]:
        """What is to be said of this network's samples, whatever they score."""
        return ema.notes(self.config.get("ema_decay", 0.0), self.step) if network == "G_ema" else []

    def drawing(self, plan: Plan, device: torch.device) -> Callable[[int, int], Batches]:
        """`draw(n, seed)`: n samples in batches."""
        G = checkpoints.generator(self.checkpoint, plan.network)

        def draw(n: int, seed: int) -> Batches:
            return generate(G, n, seed=seed, batch_size=plan.batch_size, device=device, bn=plan.bn)

        return draw


def opened(source: Path | None) -> Trained | Path:
    """A run folder's newest checkpoint, a checkpoint, or where finished images are; without a source the newest run."""
    if source is None:
        source = _newest_run()
        note(f"scoring the newest run, {source}")
    if is_images(source):
        return source
    if _is_run(source):
        return Trained(checkpoints.newest(source)[1], source)
    parent = source.parent.parent
    in_run = source.parent.name == "checkpoints" and _is_run(parent)
    return Trained(checkpoints.read(source), parent if in_run else None)


def is_images(source: Path) -> bool:
    """Whether these are finished images: a folder that is no run, a ZIP or an .npz."""
    return not _is_run(source) and (source.is_dir() or source.suffix.lower() in (".zip", ".npz"))


def real_images(
    against: str, split: str | None, data_dir: Path | None, run: Mapping[str, Any] | None = None
) -> tuple[Images | Path, str | None]:
    """A data set's split, finished images or a statistics file; and the split's name.

    With `run`, the settings of a run on `against`, the images are those it was trained on, all of them.
    Raises InputError for what is none of these.
    """
    path = Path(against)
    if run is None and against not in catalog.DATASETS:
        check_against(against, split)
        if path.suffix.lower() == ".npz" and statistics_file.is_statistics(path):
            return path, None
        return look_at(path), None
    if run is not None and against not in catalog.DATASETS and not os.path.exists(against):
        raise InputError(
            f"the run's images were at {against}, which is not there from here; add --against FOLDER or ZIP"
        )
    about = run or {}
    limit = about.get("cache_limit")
    loaded = catalog.load(
        against,
        split or about.get("split"),
        data_dir,
        resolution=about.get("resolution"),
        crop=about.get("crop"),
        cache_limit=catalog.CACHE_LIMIT if limit is None else catalog.limit_of(limit),
        counted=lambda total: progress("decode", total, "images"),
        say=note,
    )
    return ImageArray(loaded.images, loaded.sha256), loaded.split


def check_against(against: str, split: str | None) -> None:
    """Raises InputError for what is neither a data set nor a file or folder, and for a split of one of these."""
    if against in catalog.DATASETS:
        return
    if not Path(against).exists():
        names = ", ".join(catalog.DATASETS)
        raise InputError(
            f"--against {against} is neither a data set nor there; give {names}, or a folder, ZIP or .npz of real "
            f"images, or an .npz of statistics{did_you_mean(against, catalog.DATASETS)}"
        )
    if split is not None:
        raise InputError(f"--split is for data sets; {against} is compared with whole")


def look_at(path: Path) -> Images:
    """Finished images, every file of which is looked at. Raises InputError for what is none."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        note(f"looking at every file in {path}")
    return open_images(path)


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _newest_run() -> Path:
    runs = [path.parent for path in Path("runs").rglob("config.json") if _is_run(path.parent)]
    if not runs:
        raise InputError("there is no run below ./runs; name a run folder, a checkpoint, a folder of images or a ZIP")
    return max(runs, key=lambda path: (path / "checkpoints").stat().st_mtime_ns)
