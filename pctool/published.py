"""A file as its publisher names it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """A file's address, its SHA-256 (hex) or the first digits of it, and its size in bytes (None: not published)."""

    url: str
    sha256: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]
