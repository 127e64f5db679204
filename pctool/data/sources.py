"""Files inside a folder or a tar archive, read by name into memory; nothing is unpacked to the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

from pctool import files
from pctool.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
# The official archives unpack to 184 MB (binary) and 186 MB (Python): more than this is not one of them.
MAX_UNPACKED = 256 << 20
# What Python's tar and gzip readers raise for damaged input (a chain of long-name headers recurses).
TAR_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError)


class _Capped:
    """Reads from `stream` and refuses to go beyond MAX_UNPACKED bytes, so that a bomb costs a bounded time."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.left = MAX_UNPACKED

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
        return data


def in_folder(folder: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Name and contents of those files in `folder` that `limits` names, none larger than its limit in bytes.

    Raises InputError for a larger one and for one that cannot be read.
    """
    for name, limit in limits.items():
        path = folder / name
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise files.read_error(path, error) from error
        _check_size(str(path), len(data), limit)
        yield name, data


def in_tar(path: Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
    """Name (without folders) and contents of those regular files in a tar archive, gzipped or not, that `limits` names.

    One pass over the stream, in the archive's order; links, devices and sparse files are passed over. Raises
    InputError for a member larger than its limit in bytes, for a file that is no such archive or is cut short,
    and for one that unpacks to more than MAX_UNPACKED bytes.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
            capped = cast(BinaryIO, _Capped(stream))
            with tarfile.open(fileobj=capped, mode="r|") as archive:
                for info in archive:
                    name = Path(info.name).name
                    if name in limits and info.isreg() and not info.issparse():
                        _check_size(f"{name} in {path}", info.size, limits[name])
                        yield name, cast(io.BufferedIOBase, archive.extractfile(info)).read()
    except TAR_ERRORS as error:
        raise InputError(f"cannot read {path} as a tar archive, gzipped or not: {error}") from error


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise InputError(f"{what} is larger than the {limit:,} bytes that such a file can have")
