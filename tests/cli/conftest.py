"""Places that may not be written, also for root, who may write everywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes everything in a folder one that the system refuses to look at and to make."""

    def forbidden(folder: str) -> None:
        def refusing(plain: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *args: Any, **kwargs: Any) -> Any:
                if isinstance(path, str | Path) and Path(folder) in Path(path).parents:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return plain(path, *args, **kwargs)

            return call

        Path(folder).mkdir()
        for name in ("stat", "mkdir", "open"):
            monkeypatch.setattr(os, name, refusing(getattr(os, name)))

    return forbidden
