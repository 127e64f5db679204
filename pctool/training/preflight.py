"""What a run needs, looked at before sixty jobs are queued."""

from __future__ import annotations

import torch

from pctool import files
from pctool.core import checkpoint as checkpoints
from pctool.errors import WriteError
from pctool.training import evaluation, images
from pctool.training.config import TrainConfig
from pctool.training.run_folder import RunFolder
from pctool.training.session import identity_hashes
from pctool.training.state import TrainingState


def preflight(config: TrainConfig, *, may_resume: bool = True) -> dict[str, str]:
    """Checks data, networks, device, weights to score with, folder and disk; trains and writes nothing.

    One line of what was found each. Raises InputError, MissingError or WriteError for the first that is wrong.
    """
    found = {}
    dataset = images.load(config)
    found["data"] = f"{config.dataset}: {len(dataset.images):,} images of {config.resolution} px, sums verified"
    state = TrainingState(config)
    sizes = {name: sum(p.numel() for p in net.parameters()) for name, net in (("G", state.G), ("D", state.D))}
    found["networks"] = ", ".join(f"{name} {size:,} parameters" for name, size in sizes.items())
    found["device"] = torch.cuda.get_device_name() if config.device == "cuda" else "cpu"
    if config.eval_every:
        scorer = evaluation.Scorer(config)
        found["scores"] = f"{scorer.extractor.name}, {scorer.n_images:,} images each time"
    if config.fork:
        state.fork(checkpoints.read(config.fork))
        found["fork"] = f"{config.fork}, step {state.step:,}"
    folder = RunFolder(config.out)
    found["folder"] = f"{config.out}: {folder.check(config, identity_hashes(config, dataset), may_resume=may_resume)}"
    # Adam keeps two numbers a parameter, G_ema a copy of G; a checkpoint is written beside those that are kept.
    checkpoint = 4 * (4 * sizes["G"] + 3 * sizes["D"])
    needed, free = checkpoint * (config.keep + 2), files.free_bytes(config.out)
    found["disk"] = f"{needed / 2**20:,.0f} MiB needed for checkpoints, {free / 2**20:,.0f} MiB free"
    if needed > free:
        raise WriteError(f"{config.out}: {found['disk']}; free space or lower --keep")
    return found
