"""A download that continues where it was cut, has a size it may not exceed, and counts only after its checksum."""

from __future__ import annotations

import http
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pctool.data.datasets import Archive
from pctool.errors import InputError, MissingError, WriteError
from pctool.files import sha256_of

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # connections, as long as each brings something
CHUNK = 1 << 18  # bytes between two calls of `advance`


class _CutError(Exception):
    """The connection failed; the message says how."""


def download(
    archive: Archive, path: Path, other_road: str, advance: Callable[[int], object], timeout: float = TIMEOUT
) -> None:
    """Brings `archive` to `path`, verified.

    Bytes gather in `<path>.part`. A connection that is cut is taken up again by a Range request, in this call as
    long as every attempt brings something, otherwise in the next; a server that ignores Range is read from zero.
    `advance` gets the bytes received, those of an earlier call included, negative where they are thrown away.
    Raises MissingError, with `other_road`, where the host does not give the whole file; InputError for bytes with
    another checksum or beyond the size, which are removed, and for another file at `path`, which stays; WriteError
    where the disk does not take them.
    """
    part = path.with_name(path.name + ".part")
    try:
        if path.is_file():
            if (found := sha256_of(path)) != archive.sha256:
                raise InputError(
                    f"{path} is not the official file: SHA-256 {found}, expected {archive.sha256}; move it away, and "
                    "the official one is fetched"
                )
        else:
            _gather(archive, part, other_road, advance, timeout)
            part.replace(path)
    except OSError as error:  # of the files: those of the connection have become _CutError
        raise WriteError(
            f"cannot write {part} ({archive.size:,} bytes in all): {error.strerror or error}; "
            "free space, or choose another place with --data-dir"
        ) from error


def _gather(archive: Archive, part: Path, other_road: str, advance: Callable[[int], object], timeout: float) -> None:
    """Fills `part` and verifies it."""
    have = _size(part)
    if have >= archive.size and sha256_of(part) != archive.sha256:
        part.unlink()
        have = 0
    advance(have)
    problem = ""
    for _ in range(ATTEMPTS):
        if have >= archive.size:
            break
        before = have
        try:
            _receive(archive, part, advance, timeout)
        except _CutError as error:
            problem = str(error)
        have = _size(part)
        if have <= before:
            break
    if have < archive.size:
        kept = f"; {have:,} of {archive.size:,} bytes are kept, the same command continues" if have else ""
        raise MissingError(f"cannot fetch {archive.url}: {problem or 'the connection was cut'}{kept}; {other_road}")
    found = sha256_of(part)
    if found != archive.sha256:
        part.unlink()
        raise InputError(
            f"{archive.url} gave other bytes: SHA-256 {found}, expected {archive.sha256}; "
            f"they were removed: try again, or {other_road}"
        )


def _receive(archive: Archive, part: Path, advance: Callable[[int], object], timeout: float) -> None:
    """One connection: appends to `part` until the server ends, or one byte past the size shows a wrong file.

    Raises _CutError where the connection fails, or announces another length than what is missing.
    """
    have = _size(part)
    request = urllib.request.Request(archive.url, headers={"User-Agent": "pctool"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _open(request, timeout) as response:
        continues = response.status == http.HTTPStatus.PARTIAL_CONTENT and response.headers.get(
            "Content-Range", ""
        ).startswith(f"bytes {have}-")
        if have and not continues:
            advance(-have)
            have = 0
        if response.length not in (None, archive.size - have):
            raise _CutError(f"the host offers {response.length:,} bytes, expected {archive.size - have:,}")
        with part.open("ab" if have else "wb") as file:
            while have <= archive.size:
                data = _read(response, min(CHUNK, archive.size + 1 - have))
                if not data:
                    return
                file.write(data)
                have += len(data)
                advance(len(data))


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
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(reason(error)) from error


def reason(error: Exception) -> str:
    """Why a connection failed, in the words of whatever failed."""
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
