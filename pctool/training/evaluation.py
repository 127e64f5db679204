"""Scores while training: the same code, cache and names as `pctool eval`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pctool.data.catalog import ImageSet
from pctool.evaluation import features, score
from pctool.evaluation.generate import generate
from pctool.training.config import TrainConfig

N_FAKE = 10_000  # samples an evaluation: as many as the built-in data has images, and as the paper's code takes
BATCH_SIZE = 250


class Scorer:
    """Scores G_ema against the training images; raises MissingError at once where the extractor is not to be had."""

    def __init__(self, config: TrainConfig, dataset: ImageSet) -> None:
        self.dataset = dataset
        self.seed = config.seed
        self.extractor = features.load(features.default_for(config.dataset), device=config.device)
        self.n_images = N_FAKE + len(dataset.images)

    def score(self, G_ema: nn.Module, step: int, advance: Callable[[int], object]) -> dict[str, Any]:
        """The metrics of `pctool eval` at this step, as JSON values."""
        samples = generate(G_ema, N_FAKE, seed=self.seed, batch_size=BATCH_SIZE, device=self.extractor.device)
        metrics = score.score(
            samples,
            self.dataset.images,
            self.extractor,
            n_fake=N_FAKE,
            seed=self.seed,
            batch_size=BATCH_SIZE,
            real_sha256=self.dataset.sha256,
            protocol="fashion-10k" if self.extractor.name == features.FASHION_CNN else "custom",
            split=self.dataset.split,
            network="G_ema",
            bn="running",
            step=step,
            advance=advance,
        )
        return metrics.model_dump(mode="json")
