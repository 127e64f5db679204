"""How much memory a run needed at most, and what becomes of the memory that it frees."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

MIB = 2**20
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Has the C library keep, for this process, the memory that is freed, for what comes next, whichever thread's.

    glibc takes blocks above 32 MiB from the system one by one and gives them back, and the system clears their pages
    each time anew: on a CPU, where a step's tensors are such blocks, a tenth of the step. With other libraries nothing
    changes.
    """
    c = ctypes.CDLL(None)
    if hasattr(c, "mallopt"):
        c.mallopt(M_MMAP_MAX, 0)
        c.mallopt(M_TRIM_THRESHOLD, -1)  # never
        c.mallopt(M_ARENA_MAX, 1)


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
