"""What a run needs, looked at before sixty jobs are queued."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from pctool import files
from pctool.core import checkpoint as checkpoints
from pctool.data import catalog, encoded
from pctool.data.decoding import EncodedImages
from pctool.errors import PctoolError, WriteError
from pctool.training import board, compiling, evaluation, images
from pctool.training.config import TrainConfig
from pctool.training.memory import enough_memory
from pctool.training.run_folder import RunFolder
from pctool.training.session import identity_hashes
from pctool.training.state import TrainingState

Found = TypeVar("Found")


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found; or what is wrong, with the error that a run would end with."""

    name: str
    text: str
    error: PctoolError | None = None


def preflight(config: TrainConfig, *, may_resume: bool = True, **progress: Any) -> list[Check]:
    """Checks data, networks, device, what flags need, weights to score with, fork, folder and disk.

    Each is looked at whatever became of the others. Trains nothing, and writes nothing but the cache of decoded
    images; `progress` is `counted` and `say` of `catalog.load`.
    """
    checks: list[Check] = []

    def look(name: str, find: Callable[[], tuple[Found, str]]) -> Found | None:
        """What one check finds, None where it fails; either way a line."""
        try:
            with enough_memory():
                found, text = find()
        except PctoolError as error:
            checks.append(Check(name, str(error), error))
            return None
        checks.append(Check(name, text))
        return found

    dataset = look("data", lambda: _data(config, progress))
    state = look("networks", lambda: _networks(config))
    look("device", lambda: (None, torch.cuda.get_device_name() if config.device == "cuda" else "cpu"))
    if config.compile:
        look("compile", lambda: (None, compiling.check(config.device)))
    if config.tensorboard:
        look("tensorboard", lambda: (board.check(), "installed"))
    if config.eval_every:
        look("scores", lambda: _scores(config, dataset))
    if config.fork and state:
        look("fork", lambda: _fork(config, state))
    look("folder", lambda: _folder(config, dataset, may_resume=may_resume))
    if state:
        look("disk", lambda: _disk(config, state))
    return checks


def _data(config: TrainConfig, progress: dict[str, Any]) -> tuple[catalog.ImageSet, str]:
    dataset = images.load(config, **progress)
    if dataset.verified:
        sums = "sums verified"
    elif encoded.is_path(config.dataset) and isinstance(dataset.images, EncodedImages):
        sums = "read while training: there are no sums to verify"
    else:
        command = ["pctool", "data", "verify", config.dataset]
        command += ["--data-dir", str(config.data_dir)] if config.data_dir else []
        sums = f"sizes checked, sums not: '{shlex.join(command)}' reads every byte"
    return dataset, f"{config.dataset}: {len(dataset.images):,} images of {config.resolution} px, {sums}"


def _networks(config: TrainConfig) -> tuple[TrainingState, str]:
    state = TrainingState(config)
    return state, ", ".join(f"{name} {size:,} parameters" for name, size in _sizes(state).items())


def _sizes(state: TrainingState) -> dict[str, int]:
    return {name: sum(p.numel() for p in net.parameters()) for name, net in (("G", state.G), ("D", state.D))}


def _scores(config: TrainConfig, dataset: catalog.ImageSet | None) -> tuple[None, str]:
    if dataset is None:  # the weights alone
        return None, f"{evaluation.extractor(config).name}, whose weights are here"
    scorer = evaluation.Scorer(config)
    return None, f"{scorer.extractor.name}, {scorer.n_images:,} images each time"


def _fork(config: TrainConfig, state: TrainingState) -> tuple[None, str]:
    assert config.fork is not None
    state.fork(checkpoints.read(config.fork))
    return None, f"{config.fork}, step {state.step:,}"


def _folder(config: TrainConfig, dataset: catalog.ImageSet | None, *, may_resume: bool) -> tuple[None, str]:
    hashes = None if dataset is None else identity_hashes(config, dataset)
    return None, f"{config.out}: {RunFolder(config.out).check(config, hashes, may_resume=may_resume)}"


def _disk(config: TrainConfig, state: TrainingState) -> tuple[None, str]:
    """Adam keeps two numbers a parameter, G_ema a copy of G; a checkpoint is written beside those that are kept."""
    sizes = _sizes(state)
    checkpoint = 4 * (4 * sizes["G"] + 3 * sizes["D"])
    needed, free = checkpoint * (config.keep + 2), files.free_bytes(config.out)
    text = f"{needed / 2**20:,.0f} MiB needed for checkpoints, {free / 2**20:,.0f} MiB free"
    if needed > free:
        raise WriteError(f"{config.out}: {text}; free space or lower --keep")
    return None, text
