"""FID's own network from either published form: a state dict (torch-fidelity, pytorch-fid), or NVIDIA's TorchScript."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from pctool.core.checkpoint import unpickled
from pctool.errors import InputError
from pctool.evaluation.weights_files import INCEPTION, INCEPTION_SCRIPT
from pctool.picture_files import ZIP_ERRORS

SIZE = 299  # pixels a side of its input
FORMS = f"{INCEPTION.name} (a state dict) or {INCEPTION_SCRIPT.name} (TorchScript)"
KNOWN = {weights.sha256 for weights in (INCEPTION, INCEPTION_SCRIPT)}
Scorer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


def default_path() -> Path:
    """Where the weights are, or belong, when no file is named: the state dict, or the TorchScript where only it is."""
    return INCEPTION_SCRIPT.path if INCEPTION_SCRIPT.path.exists() and not INCEPTION.path.exists() else INCEPTION.path


def scorer(data: bytes, path: Path, device: torch.device) -> tuple[Scorer, bool]:
    """The network in `data` (read from `path`) as a function, and whether it gives probabilities.

    [n, 3, 299, 299] in [0, 255] -> features [n, 2048] of (x - 128) / 128, resized outside. Probabilities are the
    softmax of the last layer's weight times the features, without its bias, as in the original Inception score; a
    TorchScript file without `output` has none. InputError where `data` is neither form.
    """
    if _is_torchscript(data):
        network, head = _torchscript(data, path, device)
    else:
        network, head = _from_state_dict(data, path, device)

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = network((x - 128) / 128).flatten(1)
        return features, None if head is None else F.linear(features, head).softmax(1)

    return score, head is not None


def _is_torchscript(data: bytes) -> bool:
    """TorchScript is a ZIP with code in it; a state dict is a ZIP without, or torch's older format."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any("/code/" in name for name in archive.namelist())
    except ZIP_ERRORS:
        return False


def _torchscript(data: bytes, path: Path, device: torch.device) -> tuple[Any, torch.Tensor | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces the end of torch.jit to whoever loads such a file
            base = torch.jit.load(io.BytesIO(data), map_location=device).eval()
    except Exception as error:  # torch raises whatever its reader meets in a foreign or damaged file
        raise InputError(f"{path} is no readable TorchScript file ({type(error).__name__}); give {FORMS}") from None
    if not hasattr(base, "layers"):
        raise InputError(f"{path} is TorchScript, but not of Inception: it has no 'layers'; give {FORMS}")
    head = base.output.weight if hasattr(base, "output") and hasattr(base.output, "weight") else None
    return base.layers, head


def _from_state_dict(data: bytes, path: Path, device: torch.device) -> tuple[Any, torch.Tensor]:
    try:
        state = unpickled(data)
    except Exception as error:  # torch raises whatever its unpickler meets in a foreign or damaged file
        raise InputError(f"{path} holds no weights ({type(error).__name__}); give {FORMS}") from None
    from pctool.evaluation.inception_net import FIDInception  # late: torchvision takes two seconds to load

    net = FIDInception()
    try:
        if not isinstance(state, Mapping):
            raise TypeError(f"a {type(state).__name__} and no state dict")
        net.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} does not fit Inception ({reason}); give {FORMS}") from None
    net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    return net, net.fc.weight
