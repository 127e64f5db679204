"""Run folders as a report needs them: configuration, how they ended, scores, spectra, newest samples."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pctool import files
from pctool.errors import InputError, NonFiniteError
from pctool.spectrum.reader import Spectrum, read_spectrum
from pctool.training.run_files import RunRecord, entries, number, read_object

Ended = Literal["finished", "diverged", "unfinished"]
MAX_LOG_BYTES = 2**28  # a line a log step: 200,000 steps make 1 MB
MAX_PICTURE_BYTES = 2**25
DAMAGED = "is damaged or cannot be read; restore it, or leave it out"
# Of the settings that rows are named and sorted by.
TYPES: dict[str, type] = {
    **dict.fromkeys(("dataset", "arch", "method"), str),
    **dict.fromkeys(("resolution", "degree", "d_iters", "g_iters", "seed", "steps"), int),
}
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class Run:
    """One run. `stats` and `metrics` are the lines of its logs; `samples` its newest grid of images, PNG.

    `spectrum` has of each layer's singular values the two smallest.
    """

    path: Path
    record: RunRecord
    ended: Ended
    step: int
    stats: tuple[dict[str, Any], ...]
    metrics: tuple[dict[str, Any], ...]
    spectrum: Spectrum | None
    samples: bytes | None

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self.record.config


def find_runs(inputs: Sequence[str]) -> list[Path]:
    """The run folders meant by paths, studies and quoted patterns, each once. InputError for one that gives none."""
    found: dict[Path, Path] = {}
    for text in inputs:
        matches = [Path(text)] if Path(text).exists() else [Path(name) for name in sorted(glob.glob(text))]
        inside = [sorted(path.glob("runs/*")) if (path / "study.json").is_file() else [path] for path in matches]
        folders = [path for paths in inside for path in paths if (path / "config.json").is_file()]
        if not folders:
            raise InputError(f"no run folder at {text}; give folders that 'pctool train' wrote, or a pattern")
        for folder in folders:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_run(path: Path) -> Run:
    """Reads a run folder. Raises InputError for a damaged file; logs and spectrum may be missing."""
    try:
        record = RunRecord.model_validate_json((path / "config.json").read_bytes())
    except (OSError, ValidationError):
        raise InputError(f"{path / 'config.json'} {DAMAGED}") from None
    if any(not isinstance(record.config.get(key, kind()), kind) for key, kind in TYPES.items()):
        raise InputError(f"{path / 'config.json'} {DAMAGED}")
    stats, metrics = _log(path / "stats.jsonl"), _log(path / "metrics.jsonl")
    spectrum = read_spectrum(path / "spectrum.h5", smallest=2) if (path / "spectrum.h5").exists() else None
    recorded = spectrum.steps.tolist() if spectrum else []
    ending = read_object(path / "exit.json")
    last = int(number(ending.get("step")) or 0)
    saved = [int(checkpoint.stem) for checkpoint in files.numbered(path / "checkpoints", ".pt")]
    step = max([0, last, *saved[-1:], *recorded, *(entry["step"] for entry in stats)])
    wanted = record.config.get("steps")
    done = ending.get("code") == 0 and isinstance(wanted, int) and step >= wanted
    ended: Ended = "diverged" if ending.get("code") == NonFiniteError.code else "finished" if done else "unfinished"
    return Run(path, record, ended, step, stats, metrics, spectrum, _newest_picture(path / "samples"))


def _log(path: Path) -> tuple[dict[str, Any], ...]:
    """The entries of a log that name a step; lines that a crash has cut or damaged are left out."""
    if not path.exists():
        return ()
    try:
        if path.stat().st_size > MAX_LOG_BYTES:
            raise InputError(f"{path} has more than {MAX_LOG_BYTES:,} bytes; leave that run out")
        found = entries(path.read_bytes())
    except OSError:
        raise InputError(f"cannot read {path}; restore it, or leave that run out") from None
    return tuple(entry for entry in found if isinstance(entry.get("step"), int))


def _newest_picture(folder: Path) -> bytes | None:
    pictures = files.numbered(folder, ".png")
    if not pictures or pictures[-1].stat().st_size > MAX_PICTURE_BYTES:
        return None
    content = pictures[-1].read_bytes()
    return content if content.startswith(PNG) else None
