"""A download that continues where it was cut, exceeds no published size, and counts only after its checksum."""

from __future__ import annotations

import http
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pctool.errors import InputError, MissingError
from pctool.files import sha256_of, write_error
from pctool.published import PublishedFile

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # connections, as long as each brings something
CHUNK = 1 << 18  # bytes between two calls of `advance`


class _CutError(Exception):
    """The connection failed; the message says how."""


def download(
    file: PublishedFile,
    path: Path,
    other_road: str,
    advance: Callable[[int], object],
    *,
    place: str = "choose another place",
    timeout: float = TIMEOUT,
) -> None:
    """Brings `file` to `path`, verified.

    Bytes gather in `<path>.part`. A connection that is cut is taken up again by a Range request, in this call as
    long as every attempt brings something, otherwise in the next; a server that ignores Range is read from zero.
    `advance` gets the bytes received, those of an earlier call included, negative where they are thrown away.
    Raises MissingError, with `other_road`, where the host does not give the whole file; InputError for bytes with
    another checksum or beyond the size, which are removed, and for another file at `path`, which stays; WriteError
    where the disk does not take them, with the `place` to choose instead.
    """
    part = path.with_name(path.name + ".part")
    try:
        if path.is_file():
            if not (found := sha256_of(path)).startswith(file.sha256):
                raise InputError(
                    f"{path} is not the official file: SHA-256 {found}, expected {file.sha256}; move it away, and "
                    "the official one is fetched"
                )
        else:
            _gather(file, part, other_road, advance, timeout)
            part.replace(path)
    except OSError as error:  # of the files: those of the connection have become _CutError
        raise write_error(part, error, file.size, place) from error


def _gather(file: PublishedFile, part: Path, other_road: str, advance: Callable[[int], object], timeout: float) -> None:
    """Fills `part` and verifies it."""
    have = _size(part)
    whole = have > 0 and have >= (file.size or 0) and sha256_of(part).startswith(file.sha256)
    if have and file.size is not None and have >= file.size and not whole:
        part.unlink()
        have = 0
    advance(have)
    problem = "the connection was cut"
    for _ in range(ATTEMPTS):
        if whole:
            break
        before = have
        try:
            whole = _receive(file, part, advance, timeout)
        except _CutError as error:
            problem = str(error)
        have = _size(part)
        if have <= before:
            break
    if not whole:
        of = "" if file.size is None else f" of {file.size:,}"
        kept = f"; {have:,}{of} bytes are kept, the same command continues" if have else ""
        raise MissingError(f"cannot fetch {file.url}: {problem}{kept}; {other_road}")
    found = sha256_of(part)
    if not found.startswith(file.sha256):
        part.unlink()
        raise InputError(
            f"{file.url} gave other bytes: SHA-256 {found}, expected {file.sha256}; "
            f"they were removed: try again, or {other_road}"
        )


def _receive(file: PublishedFile, part: Path, advance: Callable[[int], object], timeout: float) -> bool:
    """One connection: appends to `part` until the server ends, or one byte past the size shows a wrong file.

    Returns whether that is all. Raises _CutError where the connection fails, or announces another length than what is
    missing.
    """
    have = _size(part)
    request = urllib.request.Request(file.url, headers={"User-Agent": "pctool"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _open(request, timeout) as response:
        continues = response.status == http.HTTPStatus.PARTIAL_CONTENT and response.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        if have and not continues:
            advance(-have)
            have = 0
        size = file.size
        if size is None and response.length is not None:
            size = have + response.length
        elif size is not None and response.length not in {None, size - have}:
            raise _CutError(f"the host offers {response.length:,} bytes, expected {size - have:,}")
        with part.open("ab" if have else "wb") as gathered:
            while size is None or have <= size:
                data = _read(response, CHUNK if size is None else min(CHUNK, size + 1 - have))
                if not data:
                    break
                gathered.write(data)
                have += len(data)
                advance(len(data))
            gathered.flush()
            os.fsync(gathered.fileno())
        return size is None or have >= size


def _open(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and request.has_header("Range"):
            request.remove_header("Range")  # the host's file ends before ours: ask for the whole
            return _open(request, timeout)
        raise _CutError(f"the host answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise _CutError(reason(error)) from error
    return response


def _read(response: http.client.HTTPResponse, size: int) -> bytes:
    try:
        return response.read(size)
    except http.client.IncompleteRead as error:
        if error.partial:  # the next call fails again, with nothing
            return error.partial
        raise _CutError("the connection was cut") from error
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(reason(error)) from error


def reason(error: Exception) -> str:
    """Why a connection failed, in the words of whatever failed."""
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
