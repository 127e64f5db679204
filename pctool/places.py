"""What this machine gives a process: places for data and caches, and processors.

The places are `PCTOOL_DATA_DIR` and `PCTOOL_CACHE_DIR`, else the platform's own folders.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from pctool.errors import InputError


def data_dir(given: Path | None = None) -> Path:
    """`given`, else `PCTOOL_DATA_DIR`, else the user's data folder. Raises InputError where a file is there."""
    if given is None:
        given = _place("PCTOOL_DATA_DIR", platformdirs.user_data_dir)
    if os.path.isfile(given):  # Path.is_file raises where a folder above may not be searched
        raise InputError(f"the data folder {given} is a file; name a folder by --data-dir or PCTOOL_DATA_DIR")
    return given


def cache_dir() -> Path:
    """`PCTOOL_CACHE_DIR`, else the user's cache folder."""
    return _place("PCTOOL_CACHE_DIR", platformdirs.user_cache_dir)


def _place(variable: str, default: Callable[..., str]) -> Path:
    """The folder that a variable names, `~` being the user's, else the platform's. InputError for users without one."""
    with contextlib.suppress(RuntimeError):  # platformdirs', of a user without a home folder
        path = os.path.expanduser(os.environ.get(variable) or default("pctool", appauthor=False))
        if path != "~" and not path.startswith("~/"):
            return Path(path)
    raise InputError(f"there is no home folder (HOME is not set, and the system knows none); name one by {variable}")


def n_processors() -> int:
    """The processors that this process may use: those of its job, where the machine has more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
