"""Files that are whole or absent: written beside their place, flushed to the disk, then renamed. Folders, and locks."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path, PurePath

from pctool.errors import InputError, PctoolError, WriteError


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


def printable(name: str) -> str:
    """A file's name for messages, JSON and other names: bytes of it that are not UTF-8 become `\\udc..`."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_folder(path: Path, allowed: str) -> bool:
    """Whether `path` is a folder; otherwise it is a file.

    Raises InputError where it is neither, with what is `allowed`, and where it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # no path can be so
        mode = 0
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}:
            raise read_error(path, error) from error
        mode = 0
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise InputError(f"{path} does not exist: give {allowed}")
    return stat.S_ISDIR(mode)


def visible_files(folder: Path) -> Iterator[str]:
    """The files in `folder` and its subfolders, as names with `/` in no order, but for those that are hidden.

    Links to folders are followed, though never to one that they lie in. Raises InputError for what cannot be read.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]  # and the folders they lie in
    try:
        while waiting:
            prefix, above = waiting.pop()
            status = os.stat(folder / prefix)
            inside = above | {(status.st_dev, status.st_ino)}
            if inside == above:
                continue
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir():
                        waiting.append((f"{prefix}{entry.name}/", inside))
                    elif entry.is_file():
                        yield prefix + entry.name
                    elif entry.is_symlink():  # to a folder of images, perhaps
                        raise InputError(f"{entry.path} is a link to what is not there; mend it, or remove it")
    except OSError as error:
        raise read_error(error.filename, error) from error


def numbered(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder that have a number for a name, as `00001000.pt`, by rising number."""
    found = [path for path in folder.glob(f"*{suffix}") if path.stem.isdecimal()]
    return sorted(found, key=lambda path: int(path.stem))


def read_error(path: Path | str, error: OSError) -> InputError:
    """The one line for what is there and cannot be read; raised `from error`, by which `is_unreadable` knows it."""
    remedy = "; its permissions must allow it" if isinstance(error, PermissionError) else ""
    return InputError(f"cannot read {path}: {error.strerror or error}{remedy}")


def is_unreadable(error: PctoolError) -> bool:
    """Whether the system did not let a file be read, which says nothing about its content."""
    return isinstance(error.__cause__, OSError)


def write_error(path: Path, error: OSError, size: int | None = None, place: str = "choose another place") -> WriteError:
    """The one line for a file that could not be written: path, bytes, the system's reason, what to do.

    `place` is how another one is chosen.
    """
    amount = f" ({size:,} bytes)" if size is not None else ""
    remedies: dict[int | None, str] = {
        **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None), f"free space or {place}"),
        **dict.fromkeys(
            (errno.ENOLCK, errno.ENOTSUP), f"there are no file locks (Lustre: mount it with flock); {place}"
        ),
        errno.ENOENT: "its folder was moved or deleted; put it back",
        errno.EMFILE: "raise ulimit -n",
    }
    return WriteError(f"cannot write {path}{amount}: {error.strerror or error}; {remedies.get(error.errno, place)}")


@contextlib.contextmanager
def locked(
    lock: Path,
    what: Path,
    say: Callable[[str], object] = lambda line: None,
    place: str = "choose another place",
) -> Iterator[None]:
    """Lets one process at a time work on `what`: a second waits, says so, and then finds the work done.

    Makes the folder of the file `lock`. Raises WriteError; `place` as in `write_error`.
    """
    import filelock  # takes a while, and few commands lock

    held = filelock.FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except filelock.Timeout:
            say(f"waiting for another process that writes {what}")
            held.acquire()
    except OSError as error:
        raise write_error(lock, error, place=place) from error
    try:
        yield
    finally:
        held.release()


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


def is_leftover(name: str) -> bool:
    """Whether a file of that name is one that a killed process left half-written."""
    return re.fullmatch(r"\..*\.[0-9a-f]{8}\.tmp", name) is not None


def remove_leftovers_in(folder: Path) -> None:
    """The same for every file of a folder."""
    _remove_temporaries(folder, "*")


def _remove_temporaries(folder: Path, names: str) -> None:
    for temporary in folder.glob(f".{names}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def holds(path: Path, data: bytes) -> bool:
    """Whether a file holds just that; not where it is not there, or cannot be read."""
    try:
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except (OSError, ValueError):  # ValueError: no path can be so
        return False


def write_new(contents: Mapping[Path, bytes], *, force: bool, own: Collection[Path] = ()) -> list[Path]:
    """Writes every file, or none where one of them exists with other content; returns those that it wrote.

    The same content is left as it is. `force` overwrites; `own` are files of this very command that may be replaced
    without it. Raises InputError for what is in the way, WriteError.
    """
    missing = [path for path, data in contents.items() if not holds(path, data)]
    for path in missing:
        if "\0" in str(path):
            raise InputError(f"{printable(str(path))!r} is no name of a file; give another")
        if os.path.isdir(path):
            raise InputError(f"{path} is a folder; name a file")
        if os.path.exists(path) and not os.path.isfile(path):  # a device: it would be replaced
            raise InputError(f"{path} is no regular file; name another place")
        # What may not even be looked at counts as absent: writing it says why it cannot be.
        if os.path.exists(path) and path not in own and not force:
            raise InputError(f"{path} exists with other content; add --force to overwrite, or name another place")
    for path in missing:
        write_bytes(path, contents[path])
    return missing


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all. Raises WriteError naming path and bytes."""
    with write_beside(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 `text` to `path`, whole or not at all. Raises WriteError naming path and bytes."""
    write_bytes(path, text.encode("utf-8"))


def append_line(path: Path, line: str) -> None:
    """Appends one line to a log in a single write, so that a reader never sees half of it.

    A last line that a crash cut short is ended first.
    """
    data = (line + "\n").encode("utf-8")
    try:
        with path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n":
                data = b"\n" + data
            written = file.write(data)
            if written != len(data):  # a disk that is nearly full takes a part and says so only here
                file.truncate(file.tell() - (written or 0))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise write_error(path, error, len(data)) from error


def free_bytes(path: Path) -> int:
    """Bytes free where `path` is or would be made. Raises WriteError where nothing may be written there."""
    existing = next(folder for folder in (path, *path.absolute().parents) if os.path.isdir(folder))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WriteError(f"cannot write {path}: {existing} does not allow it; choose another place")
    return shutil.disk_usage(existing).free
