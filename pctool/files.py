"""Files that are whole or absent: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePath

from pctool.errors import WriteError


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once its folder has been synchronised."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_hidden(name: str) -> bool:
    """Whether a file within a folder or ZIP is nobody's content: `.a`, and what macOS adds, `__MACOSX/._a.png`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePath(name).parts)


def write_error(path: Path, error: OSError, size: int | None = None) -> WriteError:
    """The one line for a file that could not be written: path, bytes, the system's reason, what to do."""
    amount = f" ({size:,} bytes)" if size is not None else ""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}
    remedy = "free space or choose another place" if full else "choose another place"
    return WriteError(f"cannot write {path}{amount}: {error.strerror or error}; {remedy}")


@contextlib.contextmanager
def write_beside(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yields a temporary path in `path`'s folder; on success it is fsynced and renamed to `path`.

    On any error the temporary file is removed and what was at `path` stays as it was.
    `size` is the number of bytes to be written, for the message. Raises WriteError for an OSError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error, size) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes what killed processes left of `write_beside(path)`; only for who holds the lock that guards `path`."""
    _remove_temporaries(path.parent, glob.escape(path.name))


def remove_leftovers_in(folder: Path) -> None:
    """The same for every file of a folder."""
    _remove_temporaries(folder, "*")


def _remove_temporaries(folder: Path, names: str) -> None:
    for temporary in folder.glob(f".{names}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Writes `data` to `path`, whole or not at all. Raises WriteError naming path and bytes."""
    with write_beside(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 `text` to `path`, whole or not at all. Raises WriteError naming path and bytes."""
    write_bytes(path, text.encode("utf-8"))


def append_line(path: Path, line: str) -> None:
    """Appends one line to a log in a single write, so that a reader never sees half of it."""
    data = (line + "\n").encode("utf-8")
    try:
        with path.open("ab", buffering=0) as file:
            written = file.write(data)
            if written != len(data):  # a disk that is nearly full takes a part and says so only here
                file.truncate(file.tell() - (written or 0))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise write_error(path, error, len(data)) from error


def free_bytes(path: Path) -> int:
    """Bytes free where `path` is or would be made. Raises WriteError where nothing may be written there."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WriteError(f"{existing} cannot be written to; choose another place")
    return shutil.disk_usage(existing).free
