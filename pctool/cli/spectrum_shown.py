"""What `pctool spectrum` does with a spectrum file: it shows it, and follows that of a run while it grows.

Without torch, which takes seconds to load.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pctool import files
from pctool.cli.console import note, output, print_json, reader_has_gone
from pctool.cli.spectrum_answer import figures_into, follow_up, show, summary, warn
from pctool.cli.spectrum_plan import check_places
from pctool.errors import InputError
from pctool.spectrum.reader import Spectrum, read_spectrum
from pctool.training.study_status import is_held

SECONDS_BETWEEN_LOOKS = 2.0  # of --watch; runs record a row in a minute or so
SILENCE = 60.0  # without a new row, after which --watch says so where no process trains


def show_recorded(text: str, *, watch: bool, plot: Path | None, force: bool, as_json: bool) -> None:
    """Shows a spectrum file, with `watch` that of a run while it grows. Writes nothing but the figures."""
    path = Path(text)
    check_places(None, plot, [])
    if watch:
        path = path / "spectrum.h5"
        _watch(path.parent, path, quiet=as_json)
    measured = read_spectrum(path)
    if not len(measured.steps):
        raise InputError(f"{path} has no row yet; wait for the run, or give another file")
    contents = figures_into(plot, measured)
    files.write_new(contents, force=force)
    warn(measured)
    if as_json:
        print_json(summary(measured, path, list(contents), {}))
        return
    if not watch:
        show(measured)
    follow_up(path, plot, ["spectrum", str(path)], str(path.parent))


def _watch(run: Path, path: Path, *, quiet: bool) -> None:
    """The tables after every new row, until the run ends or Ctrl-C; `quiet` only waits."""
    if not (run / "config.json").is_file():
        raise InputError(f"{run} is no run folder; --watch wants the folder that 'pctool train' writes into")
    seen: tuple[Any, ...] = ()
    changed, said = time.monotonic(), False
    try:
        while not reader_has_gone():
            ended = _ended(run)
            measured = _look(path, last=ended)
            if measured is not None and tuple(measured.steps) != seen:
                if len(measured.steps) and not quiet:
                    console = output()
                    console.clear()  # on a terminal; elsewhere it prints nothing
                    show(measured)
                changed, said = time.monotonic(), False
                seen = tuple(measured.steps)
            if ended:
                if not seen:
                    raise InputError(f"{run} has ended without a spectrum; see its exit.json")
                return
            if not seen and not quiet:
                note(f"{run} has no spectrum yet; waiting")
            if not said and time.monotonic() - changed > SILENCE and not is_held(run):
                note(f"{run}: no process trains there, and its last one has not said why it ended; waiting for another")
                said = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        if not seen:
            raise


def _look(path: Path, *, last: bool) -> Spectrum | None:
    """The file as it is now; None where it is not there, or was read while a row was being written."""
    try:
        return read_spectrum(path) if path.exists() else None
    except InputError:
        if last:
            raise
        return None


def _ended(run: Path) -> bool:
    """A run writes config.json when it begins or continues, removes exit.json then, and writes it when it ends."""
    try:
        return (run / "exit.json").stat().st_mtime >= (run / "config.json").stat().st_mtime
    except FileNotFoundError:
        return False
