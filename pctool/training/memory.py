"""How much memory a run needed at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

MIB = 2**20


def peak_mib(device: str) -> float:
    """MiB that this process has used at most so far: on `cuda` of tensors on its GPU, on `cpu` resident memory."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / MIB, 1)
    status = Path("/proc/self/status")  # Linux: getrusage's figure starts at that of the process which started this one
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 2**10, 1)
    unit = 1 if sys.platform == "darwin" else 2**10  # getrusage counts bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB, 1)
