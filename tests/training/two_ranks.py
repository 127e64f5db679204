"""A run in float64 by one process, or by one of two: a script of `forked`."""

from pathlib import Path

import torch

from pctool.training import recorder, session, signals
from pctool.training.config import resolve
from pctool.training.ranks import joined


class Watcher(recorder.Watcher):
    """Says nothing; asks rank 0 alone for a stop after step 3 of a run that is to be interrupted."""

    def __init__(self, rank: int, interrupt: bool) -> None:
        self.stop_after = 3 if interrupt and rank == 0 else None

    def step(self, report):
        if report.step == self.stop_after:
            signals.signal.raise_signal(signals.signal.SIGTERM)


def config(out: Path, steps: int, method: str):
    """A small run with batch norm, two updates of D a step and an APC change on the way; `dcgan`: of those networks."""
    dcgan = {"arch": "dcgan", "resolution": 64, "width_d": 64, "lr_d": 1e-3, "dataset": str(out.parent / "images")}
    arch = dcgan if method == "dcgan" else {}
    return resolve(
        {
            "max_images": 50,
            "width_g": 8,
            "width_d": 8,
            "batch_size": 8,
            "lr_d": 1e-2,
            "steps": steps,
            "d_iters": 2,
            "method": method if method != "dcgan" else "apc",
            "apc_every": 4,
            "taus": (1.4, 1.6, 1.8, 2.0),
            "log_every": 1,
            "save_every": 5,
            "sample_every": 5,
            "spectrum_every": 2,
            "device": "cpu",
            "out": out,
            **arch,
        }
    )


def main(folder: str, steps: str, method: str, interrupt: str = "") -> None:
    """Trains in the folder; every rank leaves its own state beside it."""
    out = Path(folder)
    torch.set_default_dtype(torch.float64)
    with joined("cpu") as ranks, session.opened(config(out, int(steps), method), ranks) as opened:
        states = []
        build = session.TrainingState
        session.TrainingState = lambda *a: states.append(build(*a)) or states[-1]
        opened.train(Watcher(ranks.rank, interrupt == "interrupt"))
        torch.save(states[0].checkpoint(), out.with_name(f"{out.name}.rank{ranks.rank}"))
