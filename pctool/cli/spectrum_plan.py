"""What `pctool spectrum` measures together, and where it puts it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pctool.errors import InputError


def default_out(
    inputs: Sequence[str], paths: Sequence[Path], network: str | None, layers: str, grid: int | None
) -> Path:
    """`<name>.spectrum.h5` in the current folder: of the first input, or the first file that a pattern gave.

    Another network than D, operators and a choice of layers stand behind the name, so that measurements of one input
    lie beside each other: `demo-G_ema-fft16-conv1.spectrum.h5`.
    """
    first = Path(inputs[0]) if Path(inputs[0]).exists() else paths[0]
    chosen = [network] if network and network != "D" else []
    chosen += [f"fft{grid}"] if grid else []
    chosen += re.findall(r"[\w.-]+", layers)
    name = "-".join([first.resolve().name if first.is_dir() else first.stem, *chosen])
    return Path(f"{name}.spectrum.h5")


def check_places(target: Path | None, plot: Path | None, paths: Sequence[Path]) -> None:
    """Before any work: InputError for what could not be written in any case."""
    if target and os.path.isdir(target):  # False, not an error, where it may not be looked at: then writing says so
        raise InputError(f"--out {target} is a folder; give a file name such as {target / 'spectrum.h5'}")
    if target and target.resolve() in {path.resolve() for path in paths}:
        raise InputError(f"--out {target} is one of the checkpoints to read; give another name")
    if plot and os.path.exists(plot) and not os.path.isdir(plot):
        raise InputError(f"--plot {plot} is a file; give a folder")
