"""One of two processes that score one generator: a script of `forked`."""

import dataclasses
import json
from pathlib import Path

import torch

from pctool.core.models import build_generator
from pctool.errors import InputError
from pctool.training import evaluation
from pctool.training.config import resolve
from pctool.training.global_batch_norm import with_global_batch_norm
from pctool.training.ranks import Ranks, joined
from pctool.training.signals import StopRequest


def small(ranks: Ranks) -> evaluation.Scorer:
    """Against 600 of the built-in images."""
    scorer = evaluation.Scorer(resolve({"device": "cpu", "seed": 4}), ranks)
    scorer.dataset = dataclasses.replace(scorer.dataset, images=scorer.dataset.images[:600], sha256="600")
    return scorer


def damaged(images):
    """An extractor that fails."""
    raise InputError("a damaged network")


def main(file: str) -> None:
    """Leaves the scores by both ranks and by rank 0 alone, and how each rank ends where the second one fails."""
    out = Path(file)
    torch.set_num_threads(1)
    evaluation.N_FAKE = 1100  # three batches on the first rank; a whole one and a part of one on the second
    torch.manual_seed(0)
    G_ema = with_global_batch_norm(build_generator("cnn", 32, 1, 16, "authors")).eval()
    with joined("cpu") as ranks:
        scorer, counted = small(ranks), []
        found = scorer.score(G_ema, 7, StopRequest(), counted.append)
        assert (found is None) == (ranks.rank == 1)
        if ranks.main:
            alone = small(Ranks()).score(G_ema, 7, StopRequest())
            out.write_text(json.dumps({"two": found, "one": alone, "counted": sum(counted)}))
        if ranks.rank == 1:
            scorer.extractor = dataclasses.replace(scorer.extractor, network=damaged)
        end = "nothing"
        try:
            scorer.score(G_ema, 8, StopRequest())
        except (InputError, SystemExit) as error:
            end = repr(error)
        out.with_name(f"end{ranks.rank}").write_text(end)
