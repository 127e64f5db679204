"""What this machine gives a process: places for data and caches, and processors.

The places are `PCTOOL_DATA_DIR` and `PCTOOL_CACHE_DIR`, else the platform's own folders.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from pctool.errors import InputError


def data_dir(given: Path | None = None) -> Path:
    """`given`, else `PCTOOL_DATA_DIR`, else the user's data folder. Raises InputError where a file is there."""
    if given is None:
        given = _named("PCTOOL_DATA_DIR") or Path(platformdirs.user_data_dir("pctool", appauthor=False))
    if os.path.isfile(given):  # Path.is_file raises where a folder above may not be searched
        raise InputError(f"the data folder {given} is a file; name a folder by --data-dir or PCTOOL_DATA_DIR")
    return given


def cache_dir() -> Path:
    """`PCTOOL_CACHE_DIR`, else the user's cache folder."""
    return _named("PCTOOL_CACHE_DIR") or Path(platformdirs.user_cache_dir("pctool", appauthor=False))


def _named(variable: str) -> Path | None:
    """The folder that a variable names, `~` being the user's."""
    named = os.environ.get(variable)
    return Path(os.path.expanduser(named)) if named else None


def n_processors() -> int:
    """The processors that this process may use: those of its job, where the machine has more."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
