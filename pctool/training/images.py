"""The real images of a run, as its configuration names them."""

from __future__ import annotations

from typing import Any

from pctool.data import catalog
from pctool.training.config import TrainConfig


def load(config: TrainConfig, *, whole: bool = False, **progress: Any) -> catalog.ImageSet:
    """What the run trains on; `whole`, without `max_images`, is what it is scored against.

    `progress` is `counted` and `say` of `catalog.load`, which names the errors.
    """
    return catalog.load(
        config.dataset,
        config.split,
        config.data_dir,
        None if whole else config.max_images,
        resolution=config.resolution,
        crop=config.crop,
        cache_limit=catalog.limit_of(config.cache_limit),
        workers=config.data_workers,
        **progress,
    )
