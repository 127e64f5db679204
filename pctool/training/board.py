"""TensorBoard, for those who installed the extra: the numbers of the logs, as they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pctool.errors import MissingError
from pctool.files import write_error


def check() -> Any:
    """TensorBoard's writer. Raises MissingError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingError("--tensorboard needs TensorBoard: pip install 'pctool[tensorboard]'") from None
    return SummaryWriter


class Board:
    """Writes `RUN/tensorboard`; a resumed run hides what an earlier process wrote beyond `step`.

    Raises MissingError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._writer = check()(str(folder), purge_step=step + 1)

    def add(self, group: str, step: int, values: Mapping[str, Any]) -> None:
        """One point a finite number in `values`, under `group`/name. Raises WriteError."""
        try:
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step" and math.isfinite(value):
                    self._writer.add_scalar(f"{group}/{name}", value, step)
            self._writer.flush()
        except OSError as error:
            raise write_error(self._folder, error) from error

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
