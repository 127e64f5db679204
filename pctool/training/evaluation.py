"""Scores while training: the same code, cache and names as `pctool eval`. Several ranks split the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pctool.errors import MissingError
from pctool.evaluation import features, protocols, score
from pctool.evaluation.comparison import View, collect
from pctool.evaluation.generate import generate
from pctool.evaluation.images import ImageArray
from pctool.evaluation.metric_names import distance_of
from pctool.training import ema, images
from pctool.training.config import TrainConfig
from pctool.training.ranks import Ranks, Stopped
from pctool.training.signals import StopRequest

N_FAKE = 10_000  # samples an evaluation: as many as the built-in data has images, and as the paper's code takes
BATCH_SIZE = 250


def extractor(config: TrainConfig) -> features.Extractor:
    """The network that scores a run. InputError for an unknown one, MissingError where its weights are not here."""
    name = config.eval_extractor or features.default_for(config.dataset)
    return features.load(name, config.eval_weights, config.device)


class Scorer:
    """Scores G_ema against the whole data set, also where the run trains on a part of it.

    Each rank has one, and a part of the samples. Raises MissingError at once where the extractor is not to be had.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks = Ranks()) -> None:  # noqa: B008  # frozen
        self.ranks = ranks
        self.extractor = extractor(config)
        self.dataset = images.load(config, whole=True)
        self.seed = config.seed
        self.n_images = N_FAKE + len(self.dataset.images)
        name = protocols.default_for(self.extractor.name)
        named, n_real = protocols.PROTOCOLS[name], len(self.dataset.images)
        as_named = named.n_fake == N_FAKE and named.n_real in (None, n_real)
        self.protocol = name if as_named else protocols.CUSTOM
        self.ema_decay = config.ema_decay

    def made(self, protocol: dict[str, Any]) -> bool:
        """Whether a protocol of metrics.jsonl is this scorer's."""
        own = {
            "name": self.protocol,
            "n_fake": N_FAKE,
            "network": "G_ema",
            "bn": "running",
            "batch_size": BATCH_SIZE,
            "seed": self.seed,
            "extractor": self.extractor.name,
        }
        return own.items() <= protocol.items()

    def score(
        self, G_ema: nn.Module, step: int, stop: StopRequest, advance: Callable[[int], object] = lambda n: None
    ) -> dict[str, Any] | None:
        """The metrics of `pctool eval` at this step, as JSON values; None on all ranks but the first.

        Raises Stopped, on all ranks, soon after any was asked to stop.
        The parts are whole batches, each the same on any rank; moments and the sums of the inception score are added
        in float64, features are gathered by rank 0, which alone goes through the real images.
        """

        def go_on(n: int) -> None:
            if stop.requested or self.ranks.broken:
                raise Stopped
            advance(n)

        part, device = self.ranks.part(N_FAKE, BATCH_SIZE), self.extractor.device
        samples = generate(G_ema, N_FAKE, seed=self.seed, batch_size=BATCH_SIZE, device=device, part=part)
        if not self.ranks.main:
            n, views, first = N_FAKE, [View(self.extractor)], part.start
            self.ranks.gathered(
                lambda: collect(
                    samples, views, score.USUAL, n_fake=n, n_is=n, seed=self.seed, first=first, advance=go_on
                )
            )
            return None
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
            advance=go_on,
            gather=self.ranks.gathered,
        )
        return metrics.model_dump(mode="json")


def opened(config: TrainConfig, ranks: Ranks, say: Callable[[str], object]) -> Scorer | None:
    """What scores the run, or None with one line at the start where the extractor is not to be had on every rank."""
    if config.eval_every == 0:
        return None
    scorer, problem = None, "another process has not got the weights; put them where all find them"
    try:
        scorer = Scorer(config, ranks)
    except MissingError as error:
        problem = str(error)
    if ranks.any(scorer is None, torch.device(config.device)):
        say(f"no scores while training: {problem}")
        return None
    return scorer


def distance(scores: dict[str, float]) -> float:
    """The score that the best checkpoint is chosen by."""
    name = distance_of(scores)
    assert name is not None  # what is scored while training has one
    return scores[name]
