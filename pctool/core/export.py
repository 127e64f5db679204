"""A network out of a checkpoint as plain tensors that need nothing of this package to be loaded."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pctool.core import checkpoint as checkpoints
from pctool.core.checkpoint import Network
from pctool.core.linalg import precondition
from pctool.core.models import DIM_Z
from pctool.errors import InputError

MODEL_KEYS = ("arch", "variant", "resolution", "channels", "width_g", "width_d")


def plain_weights(checkpoint: dict[str, Any], network: Network) -> dict[str, Tensor]:
    """The state dict of a network, contiguous and on the CPU; D's weights are those it applies, g(SN(W)).

    u and v are used as they are stored, so that D computes what it did when the checkpoint was written; without
    normalisation D's weights are its raw ones. Raises InputError for a checkpoint without such a network.
    """
    if not isinstance(checkpoint.get(network), dict):
        raise InputError(f"the checkpoint holds no {network}; use one of 'pctool train'")
    tensors = {key: value.detach().cpu() for key, value in checkpoint[network].items() if isinstance(value, Tensor)}
    if network == "D":  # under svd its factors are behind a weight that is there already
        tensors = {key: value for key, value in tensors.items() if not key.rpartition(".")[2].startswith("svd_")}
        try:
            for name, entry in checkpoint["preconditioner"].items():
                raw = tensors[f"{name}.weight"]
                W_hat = precondition(raw.flatten(1), entry["u"].cpu(), entry["v"].cpu(), tuple(entry["coeffs"]))
                tensors[f"{name}.weight"] = W_hat.detach().view(raw.shape)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:80]
            raise InputError(f"the checkpoint's preconditioner does not fit D ({reason})") from None
    if not all(torch.isfinite(value).all() for value in tensors.values() if value.is_floating_point()):
        raise InputError(f"{network} has weights that are not finite; use an earlier checkpoint")
    return {key: value.contiguous() for key, value in tensors.items()}


def to_safetensors(tensors: dict[str, Tensor], about: dict[str, str]) -> bytes:
    """The file's bytes, the same for the same content: the library itself writes the texts in any order."""
    data = safetensors.torch.save(tensors, metadata=about)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def description(checkpoint: dict[str, Any], network: Network) -> dict[str, str]:
    """What a reader of the plain tensors needs to know: of which network they are, and how it is built."""
    config = checkpoints.config(checkpoint)
    known = {key: str(config[key]) for key in MODEL_KEYS if key in config}
    # A safetensors file does not keep the order of its tensors, in which readers show the layers.
    layers = [key.removesuffix(".weight") for key, value in checkpoint[network].items() if _is_layer(key, value)]
    about = {"format": "pt", "network": network, "step": str(checkpoint["step"]), **known}
    about["layers"] = json.dumps(layers)
    if network != "D":
        about["input"] = f"z, {DIM_Z} independent standard normal numbers an image"
    else:
        degrees = {name: 2 * len(entry["coeffs"]) - 1 for name, entry in checkpoint["preconditioner"].items()}
        about |= {"weights": "effective: normalisation and polynomial are in them", "degrees": json.dumps(degrees)}
    return about


def _is_layer(key: str, value: object) -> bool:
    return key.endswith(".weight") and isinstance(value, Tensor) and value.dim() > 1
