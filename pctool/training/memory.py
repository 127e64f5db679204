"""How much memory a run needed at most, and what becomes of the memory that it frees."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from pctool.errors import InputError, PctoolError, is_out_of_memory

MIB = 2**20
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that this process frees, for whichever of its threads needs some next.

    glibc takes blocks above 32 MiB from the system one by one and gives them back, and the system clears their pages
    each time anew: on a CPU, where a step's tensors are such blocks, a tenth of the step. With other libraries nothing
    changes.
    """
    c = ctypes.CDLL(None)
    if hasattr(c, "mallopt"):
        c.mallopt(M_MMAP_MAX, 0)
        c.mallopt(M_TRIM_THRESHOLD, -1)  # never
        c.mallopt(M_ARENA_MAX, 1)


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """A block that runs out of memory, a GPU's or the machine's, ends with an InputError that says what takes less."""
    try:
        yield
    except PctoolError:  # what somebody has found a word for
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, torch.OutOfMemoryError) or is_out_of_memory(cause)):
            cause = cause.__context__  # the end of a recording that ran out of memory fails by itself
        if cause is None:
            raise
        where = "the GPU" if "CUDA" in str(cause) else "this machine, or its limit (ulimit),"
        said = str(cause).split(". GPU")[0].rpartition("memory: ")[2].split(". Error")[0]
        raise InputError(
            f"{where} has not enough memory{f' ({said})' if said else ''}; a smaller --batch-size, --width-g or "
            "--width-d takes less, and so does --precision bf16: each makes another run"
        ) from error


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
