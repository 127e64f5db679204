"""The real images of a run, as its configuration names them."""

from __future__ import annotations

from typing import Any

from pctool.data import catalog
from pctool.training.config import TrainConfig


def load(config: TrainConfig, **progress: Any) -> catalog.ImageSet:
    """What the run trains on; `progress` is `counted` and `say` of `catalog.load`, which names the errors."""
    return _load(config, config.max_images, **progress)


def load_whole(config: TrainConfig) -> catalog.ImageSet:
    """The same without `max_images`: what the run is scored against."""
    return _load(config, None)


def _load(config: TrainConfig, max_images: int | None, **progress: Any) -> catalog.ImageSet:
    return catalog.load(
        config.dataset,
        config.split,
        config.data_dir,
        max_images,
        resolution=config.resolution,
        crop=config.crop,
        cache_limit=round(config.cache_limit * 1e9),
        workers=config.data_workers,
        **progress,
    )
