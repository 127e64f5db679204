"""Fetches a network's weights into the cache: streamed, hashed, and renamed only when the hash is the pinned one."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from pctool.data.download import CHUNK, TIMEOUT, reason
from pctool.errors import InputError, MissingError
from pctool.files import locked, write_beside


def fetch(
    url: str,
    path: Path,
    sha256: str,
    advance: Callable[[int], object] = lambda received: None,
    timeout: float = TIMEOUT,
) -> bool:
    """Brings the file at `url` to `path`, unless one is there; returns whether it had to be fetched.

    `sha256` is the pinned hash (hex), or as many of its first digits as the publisher gives. `advance` is told of
    bytes received. MissingError where the host does not give the file, InputError for other bytes (nothing is kept),
    WriteError.
    """
    if os.path.exists(path):  # unlike Path.exists, False where a folder above may not be searched
        return False
    with locked(path.with_name(f".{path.name}.lock"), path):
        if path.exists():  # another process has fetched it meanwhile
            return False
        digest = hashlib.sha256()
        with write_beside(path) as temporary, temporary.open("wb") as file:
            for data in _stream(url, path, timeout):
                file.write(data)
                digest.update(data)
                advance(len(data))
            if not digest.hexdigest().startswith(sha256):
                raise InputError(
                    f"{url} gave other bytes: SHA-256 {digest.hexdigest()}, expected {sha256}; nothing was kept: "
                    f"try again, or bring the right file to {path}"
                )
    return True


def _stream(url: str, path: Path, timeout: float) -> Iterator[bytes]:
    """The bytes of one answer. MissingError where the connection fails or ends before the announced length."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "pctool"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            announced, received = response.length, 0
            while data := response.read(CHUNK):
                received += len(data)
                yield data
        if announced is not None and received < announced:
            raise OSError(f"the connection ended after {received:,} of {announced:,} bytes")
    except (OSError, http.client.HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise MissingError(f"cannot fetch {url}: {reason(error)}; bring the file to {path}") from error
