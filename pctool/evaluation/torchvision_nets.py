"""Any torchvision classification network with its official weights file, as a feature extractor.

torchvision takes two seconds to load: the functions that need it import it, so that other commands do not wait.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pctool.core.checkpoint import unpickled
from pctool.errors import InputError
from pctool.evaluation.weights_files import WeightsFile

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")  # torch.hub's convention: the SHA-256 begins with it
# Arguments that the official weights of a network imply: no random start (slow, and it warns), ImageNet's scaling.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"init_weights": False, "transform_input": True},
    "googlenet": {"init_weights": False, "transform_input": True},
}
Scorer = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Recipe:
    """How the official weights want their input: crop size, mean and deviation of each channel of [0, 1]."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str | None


def names() -> list[str]:
    """The classification networks of the installed torchvision."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def recipe(name: str, path: Path, sha256: str) -> Recipe:
    """The input that the weights at `path` were trained with, by their hash among the official ones.

    Unknown weights are used with the network's first official recipe, and a note says so.
    """
    import torchvision

    official = list(torchvision.models.get_model_weights(name))
    matching = [entry for entry in official if sha256.startswith(promised_sha256(entry.url) or "none")]
    transforms = (matching or official)[0].transforms()
    note = None if matching else f"{path.name} is none of torchvision's official weights of {name} (SHA-256 {sha256})"
    return Recipe(transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std), note)


def promised_sha256(name: str) -> str | None:
    """The first digits of the SHA-256 that a file's name, or the end of its address, carries; None for another."""
    found = HASH_IN_NAME.search(name)
    return found and found[1]


def official(name: str) -> WeightsFile:
    """torchvision's default weights of a network; the file's name has the first digits of its SHA-256."""
    import torchvision

    url = torchvision.models.get_model_weights(name).DEFAULT.url
    promised = promised_sha256(url)
    assert promised is not None, url
    return WeightsFile(url, promised)


def scorer(name: str, data: bytes, path: Path, recipe: Recipe, device: torch.device) -> Scorer:
    """[n, 3, size, size] in [0, 255] -> input of the last linear layer, and the softmax of its output."""
    net = _build(name, data, path, recipe).to(device)
    linear = [module_name for module_name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(f"--extractor {name} ends in no linear layer, so it has no features; take another network")
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) * 255 for values in (recipe.mean, recipe.std))

    head = net.get_submodule(linear[-1])
    net.set_submodule(linear[-1], nn.Identity())  # it comes last in all of them, so the network gives its input now

    def score(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = net((x - mean) / std)
        return features, head(features).softmax(1)

    return score


def _build(name: str, data: bytes, path: Path, recipe: Recipe) -> nn.Module:
    import torchvision

    arguments = {"image_size": recipe.size} if name.startswith("vit_") else ARGUMENTS.get(name, {})
    net = torchvision.models.get_model(name, weights=None, **arguments)
    try:
        state = unpickled(data)
    except Exception as error:  # torch raises whatever its unpickler meets in a foreign or damaged file
        reason = type(error).__name__
        raise InputError(f"{path} holds no weights ({reason}); give torchvision's .pth file of {name}") from None
    try:
        # DenseNet's published files predate a renaming: norm.1 is norm1 today.
        net.load_state_dict(
            {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): state[key] for key in state}
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} does not fit {name} ({reason}); give torchvision's .pth file of {name}") from None
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
