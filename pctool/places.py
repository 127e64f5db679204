"""Where data and caches live: `PCTOOL_DATA_DIR` and `PCTOOL_CACHE_DIR`, else the platform's own folders."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def data_dir(given: Path | None = None) -> Path:
    """`given`, else `PCTOOL_DATA_DIR`, else the user's data folder."""
    return given or Path(os.environ.get("PCTOOL_DATA_DIR") or platformdirs.user_data_dir("pctool", appauthor=False))


def cache_dir() -> Path:
    """`PCTOOL_CACHE_DIR`, else the user's cache folder."""
    return Path(os.environ.get("PCTOOL_CACHE_DIR") or platformdirs.user_cache_dir("pctool", appauthor=False))
