"""How commands that make several files write them: all, or none where one is in the way."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from pctool import files
from pctool.errors import InputError


def write_new(contents: Mapping[Path, bytes], *, force: bool, own: Collection[Path] = ()) -> None:
    """Writes every file, or none where one of them exists with other content. The same content is left as it is.

    `force` overwrites; `own` are files of this very command that may be replaced without it.
    Raises InputError for a file in the way, WriteError.
    """
    missing = {path: data for path, data in contents.items() if not files.holds(path, data)}
    # What may not even be looked at counts as absent: writing it says why it cannot be.
    in_the_way = [path for path in missing if os.path.exists(path) and path not in own]
    if in_the_way and not force:
        raise InputError(f"{in_the_way[0]} exists with other content; add --force to overwrite, or name another place")
    for path, data in missing.items():
        files.write_bytes(path, data)
