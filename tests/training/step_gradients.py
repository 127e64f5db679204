"""D's gradient after one step of the trainer in float32, by one process or one of two: a script of `forked`."""

from pathlib import Path

import torch

from pctool.training import session
from pctool.training.config import resolve
from pctool.training.ranks import joined

from .two_ranks import Watcher

SEEDS = (0, 1, 2)
KERNELS = {"pytorch": False, "onednn": True}


def main(folder: str) -> None:
    """Leaves beside the folder, by rank, {"<kernels>/<seed>": {parameter: gradient}}: averaged, as Adam got it."""
    out = Path(folder)
    torch.set_num_threads(1)
    small = {"max_images": 50, "width_g": 8, "width_d": 8, "batch_size": 8, "steps": 1, "device": "cpu"}
    off = dict.fromkeys(("log_every", "save_every", "sample_every", "spectrum_every"), 0)
    build, states, found = session.TrainingState, [], {}
    session.TrainingState = lambda *a: states.append(build(*a)) or states[-1]
    with joined("cpu") as ranks:
        for kernels, use_onednn in KERNELS.items():
            torch.backends.mkldnn.enabled = use_onednn
            for seed in SEEDS:
                config = resolve({**small, **off, "seed": seed, "out": out / f"{kernels}-{seed}"})
                with session.opened(config, ranks) as opened:
                    opened.train(Watcher(ranks.rank, interrupt=False))
                found[f"{kernels}/{seed}"] = {name: p.grad for name, p in states[-1].D.named_parameters()}
        torch.save(found, out.with_name(f"{out.name}.rank{ranks.rank}"))
