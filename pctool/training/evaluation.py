"""Scores while training: the same code, cache and names as `pctool eval`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pctool.evaluation import features, protocols, score
from pctool.evaluation.generate import generate
from pctool.evaluation.images import ImageArray
from pctool.training import ema, images
from pctool.training.config import TrainConfig

N_FAKE = 10_000  # samples an evaluation: as many as the built-in data has images, and as the paper's code takes
BATCH_SIZE = 250


class Scorer:
    """Scores G_ema against the whole data set, also where the run trains on a part of it.

    Raises MissingError at once where the extractor is not to be had.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.extractor = features.load(features.default_for(config.dataset), device=config.device)
        self.dataset = images.load_whole(config)
        self.seed = config.seed
        self.n_images = N_FAKE + len(self.dataset.images)
        name = protocols.default_for(self.extractor.name)
        named, n_real = protocols.PROTOCOLS[name], len(self.dataset.images)
        as_named = named.n_fake == N_FAKE and named.n_real in (None, n_real)
        self.protocol = name if as_named else protocols.CUSTOM
        self.ema_decay = config.ema_decay

    def score(self, G_ema: nn.Module, step: int, advance: Callable[[int], object]) -> dict[str, Any]:
        """The metrics of `pctool eval` at this step, as JSON values."""
        samples = generate(G_ema, N_FAKE, seed=self.seed, batch_size=BATCH_SIZE, device=self.extractor.device)
        metrics = score.score(
            samples,
            ImageArray(self.dataset.images, self.dataset.sha256),
            self.extractor,
            n_fake=N_FAKE,
            seed=self.seed,
            batch_size=BATCH_SIZE,
            protocol=self.protocol,
            split=self.dataset.split,
            network="G_ema",
            bn="running",
            step=step,
            notes=ema.notes(self.ema_decay, step),
            advance=advance,
        )
        return metrics.model_dump(mode="json")


def distance(scores: dict[str, float]) -> float:
    """The score that the best checkpoint is chosen by: FID, or the Frechet distance of another extractor."""
    return next(value for name, value in scores.items() if name == "fid" or name.startswith("fd_"))
