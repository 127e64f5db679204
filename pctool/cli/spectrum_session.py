"""What `pctool spectrum` does with checkpoints: measuring, continuing, writing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pctool.cli.console import note, print_json, progress
from pctool.errors import InputError, PartialError, SavedInterrupt

if "numpy" not in sys.modules:  # before it loads: one thread for linear algebra, so that no result depends on it
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")})

from pctool import files
from pctool.cli.spectrum_answer import figures_into, follow_up, show, summary, taken_as_dense, warn
from pctool.cli.spectrum_plan import check_places, default_out
from pctool.core import checkpoint as checkpoints
from pctool.places import n_processors
from pctool.spectrum.reader import parse_spectrum
from pctool.spectrum.resume import already_measured, unfinished_image
from pctool.spectrum.sources import (
    Measured,
    Request,
    Unread,
    chosen_network,
    find_checkpoints,
    is_ours,
    measure_all,
    merged,
)
from pctool.spectrum.store import file_image
from pctool.training.config import TrainConfig
from pctool.training.signals import StopRequest, listen

SECONDS_BETWEEN_SAVES = 10.0  # of what is measured so far
FILES_A_JOB = 4  # below, starting another process takes longer than its share of the work


@dataclass(frozen=True)
class Settings:
    """The flags of a measurement, as typed; `grid` None for matrices."""

    inputs: Sequence[str]
    network: Literal["D", "G", "G_ema"] | None
    layers: str
    grid: int | None
    out: Path | None
    plot: Path | None
    jobs: int | None


def measure(settings: Settings, *, force: bool, as_json: bool) -> None:
    """Measures, writes the file and the figures, and answers.

    Raises InputError, WriteError, PartialError for what could not be measured, and SavedInterrupt where a
    signal came after something had been measured: the same command then continues.
    """
    paths = find_checkpoints(settings.inputs)
    target = settings.out or default_out(settings.inputs, paths, settings.network, settings.layers, settings.grid)
    check_places(target, settings.plot, paths)
    _check_one_run(paths)
    request = Request(settings.network or chosen_network(paths), settings.layers, settings.grid)
    for recorded in [Path(given) / "spectrum.h5" for given in settings.inputs]:
        comparable = settings.network in (None, "D") and request.operator == "matrix"
        if comparable and recorded.is_file() and recorded.resolve() != target.resolve():
            note(f"there is also {recorded}, which 'pctool spectrum {recorded}' shows; this measures checkpoints")
    source = " ".join(settings.inputs).encode("utf-8", "replace").decode()  # a file name need not be valid text
    begun = already_measured(target, request, paths)
    jobs = settings.jobs or max(1, min(n_processors(), len(paths) // FILES_A_JOB))
    with listen() as stop, progress("spectrum", len(paths), "checkpoints") as advance:
        collected = _Collected(target, request, source, begun or [], may_save=force or begun is not None)
        advance(len(collected.measured))
        if begun:
            note(f"{target} has {len(begun)} of {len(paths)} checkpoints; measuring the others")
        done = {result.path for result in collected.measured}
        left = [path for path in paths if path not in done]
        for result in measure_all(left, request, jobs, lambda: stop.signal is not None):
            collected.add(result)
            advance(1)
        collected.stop_if_asked(stop, len(paths))
    collected.check()
    network, rows = merged(collected.measured)
    extra = {} if request.grid is None else {"grid": request.grid}
    contents = {target: file_image(rows, source, network, request.operator, extra)}
    measured = parse_spectrum(contents[target], str(target))
    contents |= figures_into(settings.plot, measured)
    files.write_new(contents, force=force, own=[target] if begun is not None or collected.saved else [])
    if as_json:
        print_json(summary(measured, target, list(contents)[1:], collected.skipped))
    else:
        show(measured)
        follow_up(target, settings.plot, _again(settings), settings.inputs[0])
    warn(measured)
    if request.grid is not None and not is_ours(paths[0]) and (remark := taken_as_dense(measured)):
        note(remark)
    _report([f"step {row.step}: {problem}" for row in rows for problem in row.problems], collected.skipped)


def _check_one_run(paths: Sequence[Path]) -> None:
    """InputError where checkpoints of ours were trained with different settings: their rows are no history of one run.

    What other people's files, and damaged ones, are of cannot be told: they pass.
    """
    known = [(path, identity) for path in paths if len(paths) > 1 and (identity := _identity(path))]
    for path, identity in known[1:]:
        first, expected = known[0]
        apart = [f"{key} {expected[key]} and {value}" for key, value in identity.items() if value != expected[key]]
        if apart:
            raise InputError(f"{first} and {path} are of two runs ({'; '.join(apart)}): measure each by itself")


def _identity(path: Path) -> dict[str, Any] | None:
    """The settings that make a run another run; `steps` may grow in one."""
    try:
        identity = TrainConfig.model_validate(checkpoints.settings(path)).identity()
    except ValidationError:
        return None
    identity.pop("steps")
    return identity


class _Collected:
    """The results so far, saved every now and then where the target is ours to write."""

    def __init__(
        self, target: Path, request: Request, source: str, begun: Sequence[Measured], *, may_save: bool
    ) -> None:
        self.target, self.request, self.source = target, request, source
        self.measured = list(begun)
        self.skipped: dict[str, str] = {}
        self.left_out: list[str] = []
        self.may_save = may_save or not os.path.exists(target)
        self.saved = False
        self.last_save = time.monotonic()

    def add(self, result: Measured | Unread) -> None:
        if isinstance(result, Unread):
            self.skipped[str(result.path)] = result.reason
        elif result.row is None:
            self.left_out.append(f"{result.path} is left out: {result.left_out}")
        else:
            self.measured.append(result)
        if self.measured and time.monotonic() - self.last_save >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        self.last_save = time.monotonic()
        if self.may_save:
            files.write_bytes(self.target, unfinished_image(self.measured, self.request, self.source))
            self.saved = True

    def stop_if_asked(self, stop: StopRequest, total: int) -> None:
        if stop.signal is None or len(self.measured) + len(self.skipped) + len(self.left_out) == total:
            return
        if not self.measured or not self.may_save:
            raise KeyboardInterrupt
        self.save()
        raise SavedInterrupt(
            f"interrupted after {len(self.measured)} of {total} checkpoints, kept in {self.target}; "
            "the same command continues"
        )

    def check(self) -> None:
        """Notes what is left out; raises the first file's reason where nothing could be measured."""
        for line in sorted(self.left_out):
            note(line)
        if not self.measured:
            reasons = [self.skipped[path] for path in sorted(self.skipped)] or sorted(self.left_out)
            raise InputError(reasons[0])
        for path, reason in sorted(self.skipped.items()):
            note(f"skipped: {reason if path in reason else f'{path}: {reason}'}")


def _again(settings: Settings) -> list[str]:
    """The same command, to be followed by --plot."""
    command = ["spectrum", *settings.inputs]
    command += ["--network", settings.network] if settings.network else []
    command += ["--layers", settings.layers] if settings.layers != "*" else []
    command += ["--operator", "fft", "--grid", str(settings.grid)] if settings.grid else []
    return [*command, *(["--out", str(settings.out)] if settings.out else [])]


def _report(problems: Sequence[str], skipped: dict[str, str]) -> None:
    """A note a layer that could not be measured, then exit 6: everything else has been written."""
    for problem in problems[1:]:
        note(problem)
    lines = [f"measurements that are NaN: {len(problems)}, the first: {problems[0]}"] if problems else []
    lines += [f"files skipped: {len(skipped)}, the first: {min(skipped)}"] if skipped else []
    if lines:
        raise PartialError(f"{'; '.join(lines)}; the rest is complete")
