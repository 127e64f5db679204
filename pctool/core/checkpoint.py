"""The one way to write and to read a checkpoint.

A checkpoint is tensors and plain values, loadable with `torch.load(path, weights_only=True)`. It is written
beside its place and renamed, with its SHA-256 in `<file>.sha256`; reading verifies the sum when it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pctool import files
from pctool.core.layers.state import LayerState
from pctool.core.layers.state import layer_states as states_of_weights
from pctool.core.models import build_generator
from pctool.errors import InputError, is_out_of_memory

FORMAT, VERSION = "pctool-checkpoint", 1
Network = Literal["D", "G", "G_ema"]


class DamagedError(InputError):
    """A checkpoint file whose bytes are not those that were written."""


def write(path: Path, checkpoint: dict[str, Any]) -> None:
    """Writes checkpoint and sum, each whole or not at all; the sum first, since alone it does no harm.

    A checkpoint that is replaced is without a sum for that moment: its own would not fit the new one, nor the new
    sum the old one. Raises WriteError (disk full, permission); the checkpoint that was there stays.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **checkpoint}, buffer)
    data = buffer.getvalue()
    recorded, line = sum_path(path), f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    if path.exists():
        try:
            recorded.unlink(missing_ok=True)
        except OSError as error:
            raise files.write_error(recorded, error) from error
        files.write_bytes(path, data)
        files.write_text(recorded, line)
    else:
        files.write_text(recorded, line)
        files.write_bytes(path, data)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, its tensors on the CPU.

    Raises InputError for a missing file and one that is no checkpoint of ours, DamagedError for one that differs from
    its SHA-256, or has none and cannot be taken apart.
    """
    data, verified = _bytes(path)
    try:
        checkpoint = unpickled(data)
    except Exception as error:  # torch raises whatever its unpickler meets in a foreign or damaged file
        if verified or is_out_of_memory(error):
            # The file is what was written, or may be, and something else is wrong: no memory, say.
            raise InputError(f"cannot load checkpoint {path}: {' '.join(str(error).split())[:200]}") from None
        raise DamagedError(f"{path} is damaged or no checkpoint; give a .pt file that 'pctool train' wrote") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise InputError(f"{path} is no pctool checkpoint; give a .pt file that 'pctool train' wrote")
    version = checkpoint.get("version")
    if type(version) is not int or version != VERSION:
        raise InputError(f"{path} has checkpoint version {version}; this pctool reads {VERSION}")
    with _well_formed():
        config(checkpoint)
        step = checkpoint["step"]
        if type(step) is not int or not 0 <= step < 2**53:
            raise ValueError(f"step {step!r}")
    return checkpoint


def unpickled(data: bytes) -> Any:
    """What a PyTorch file holds, its tensors on the CPU: plain values and tensors, or torch's own errors.

    Without its warnings about how old a file is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _bytes(path: Path) -> tuple[bytes, bool]:
    """What the file holds, and whether its SHA-256 vouches for it.

    Read twice before it is given up: another process may be replacing file and sum, and network storage may fail once.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # unlike Path's, none raises
        raise InputError(f"cannot read checkpoint {path}: it is a pipe or a device; give a .pt file or a run folder")
    for again in (True, False):
        try:
            data = path.read_bytes()
        except (OSError, MemoryError) as error:
            if again and not isinstance(error, FileNotFoundError | IsADirectoryError):
                continue
            why = error.strerror if isinstance(error, OSError) else "not enough memory"
            raise InputError(f"cannot read checkpoint {path}: {why}; give a .pt file or a run folder") from None
        recorded = _recorded_sum(path)
        if recorded is None or recorded == _sha256(data):
            return data, recorded is not None
    raise DamagedError(f"{path} differs from its SHA-256: it is damaged; use another checkpoint or a good copy")


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint files of a run folder, by rising step."""
    return files.numbered(run / "checkpoints", ".pt")


def newest(run: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint file of a run folder that verifies, and what it holds; InputError when it has none."""
    problem = f"{run} holds no checkpoint; give a run folder that 'pctool train' has saved into"
    for path in reversed(list_checkpoints(run)):
        try:
            return path, read(path)
        except InputError as error:
            problem = str(error)
    raise InputError(problem)


def config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The resolved configuration that the run was trained with."""
    loaded = json.loads(checkpoint["config"])
    if not isinstance(loaded, dict):
        raise ValueError("a configuration that is none")
    return loaded


def settings(path: Path) -> dict[str, Any] | None:
    """The configuration in a checkpoint file, its tensors left on the disk; None for another or a damaged file."""
    try:
        return config(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception:  # torch raises whatever its unpickler meets in a foreign or damaged file
        return None


def generator(checkpoint: dict[str, Any], network: Literal["G", "G_ema"] = "G_ema") -> nn.Module:
    """The generator in eval mode: z float32 [n, dim_z] -> images float32 [n, C, H, W] in [-1, 1]."""
    with _well_formed():
        G = _built_generator(config(checkpoint))
        G.load_state_dict(checkpoint[network])
    return G.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def layer_states(checkpoint: dict[str, Any], network: Network = "D") -> list[LayerState]:
    """Every weight of a network with what is applied to it; only D has normalisation, only G transposed layers."""
    with _well_formed():
        if network == "D":
            return states_of_weights(checkpoint["D"], checkpoint["preconditioner"])
        with torch.device("meta"):
            G = _built_generator(config(checkpoint))
        transposed = {name for name, module in G.named_modules() if isinstance(module, nn.ConvTranspose2d)}
        return states_of_weights(checkpoint[network], transposed=transposed)


def _built_generator(settings: dict[str, Any]) -> nn.Module:
    return build_generator(
        settings["arch"], settings["resolution"], settings["channels"], settings["width_g"], settings["variant"]
    )


@contextlib.contextmanager
def _well_formed() -> Iterator[None]:
    """A missing or misshapen entry of a file from elsewhere becomes one line."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"the checkpoint lacks what it should have ({reason}); use one of 'pctool train'") from None


def sum_path(path: Path) -> Path:
    """Where the SHA-256 of a checkpoint lies."""
    return path.with_name(path.name + ".sha256")


def _recorded_sum(path: Path) -> str | None:
    """The sum beside a checkpoint, None where there is none. One that cannot be read is no reason to go without."""
    recorded = sum_path(path)
    try:
        return recorded.read_text(encoding="ascii", errors="replace")[:64]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"cannot read {recorded}: {error.strerror or error}; make it readable, or remove it to go without"
        ) from None


def sha256(path: Path) -> str:
    """The SHA-256 of a checkpoint file; InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read checkpoint {path}: {error.strerror}; give a .pt file") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
