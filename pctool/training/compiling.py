"""Whether torch.compile works here, found out by trying: it needs a C++ compiler on CPUs, and Triton on GPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from pctool.errors import MissingError


def check(device: str) -> str:
    """Compiles and runs one line there, and says so. Raises MissingError, with the reason, where that fails."""
    try:
        torch.compile(_line, dynamic=False)(torch.ones(8, device=device))
    except RuntimeError as error:  # what all errors of its parts are
        reason = str(error).partition("\n")[0]
        remedy = "install a C++ compiler (g++)" if device == "cpu" else "install Triton, see 'pctool doctor'"
        said = f"--compile: torch.compile fails here ({reason}); {remedy}, or leave --compile out"
        raise MissingError(said) from error
    return "torch.compile works"


def _line(x: Tensor) -> Tensor:
    return torch.relu(x) * 2
