"""What `pctool train` shows: the configuration, the progress of a run, and its summary."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pctool.cli.console import SECONDS_BETWEEN_LINES, note, print_json, progress
from pctool.cli.exit_codes import exit_code
from pctool.core.polynomial_file import read_ladder, read_training_polynomial
from pctool.core.products import has_fast_bf16
from pctool.errors import InputError, PartialError, PctoolError, SavedInterrupt, WriteError
from pctool.training import recipes
from pctool.training.config import INSTEAD, USED_BY, TrainConfig, resolve, unknown_setting, unused
from pctool.training.memory import peak_mib
from pctool.training.run_files import read_object

if TYPE_CHECKING:
    from pctool.training import session
    from pctool.training.recorder import StepReport
    from pctool.training.run_folder import RunFolder


def configure(
    flags: Mapping[str, Any], preset: str | None, environment: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The resolved configuration of the flags over the environment over a preset; files become what they hold.

    A file that a preset names is looked for from the current folder, like one that a flag names.
    """
    environment = _left_standing(environment or {}, flags)
    flags = {**environment, **flags}
    table = recipes.read_preset(preset) if preset else {}
    for key in table:
        if key not in TrainConfig.model_fields and key != "without_bf16":
            raise InputError(f"preset {preset}: {unknown_setting(key)}")
    narrow = table.get("without_bf16")
    if isinstance(narrow, dict):
        table["without_bf16"] = _with_coefficients(narrow)
    method = flags.get("method") or table.get("method") or TrainConfig.model_fields["method"].default
    for key in unused(method, flags):
        flag, methods = f"PCTOOL_{key.upper()}" if key in environment else f"--{key.replace('_', '-')}", USED_BY[key]
        remedy = "leave it out" if flags.get("method") else f"add --method {methods[0]}, or leave it out"
        if "method" in environment:
            remedy = f"PCTOOL_METHOD says so; add --method {methods[0]}, or leave {flag} out"
        raise InputError(f"{flag} is for method {' and '.join(methods)}, not {method}; {remedy}")
    config = resolve(_with_coefficients(flags), _with_coefficients(table))
    if config.eval_every and config.eval_extractor:
        from pctool.evaluation import features

        features.check_name(config.eval_extractor)
    return config


def _left_standing(environment: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Of the variables those that the flags do not overrule: by another method, or by a setting in another's place."""
    overruled = set(unused(flags.get("method", ""), environment))
    overruled |= {key for pair in INSTEAD for key, other in (pair, pair[::-1]) if other in flags}
    return {key: value for key, value in environment.items() if key not in overruled}


def _with_coefficients(values: Mapping[str, Any]) -> dict[str, Any]:
    """`taus` written as text becomes numbers, and a `poly` or `ladder` that names a file becomes what it holds."""
    read = dict(values)
    if isinstance(read.get("taus"), str):
        read["taus"] = _numbers(read["taus"])
    if isinstance(read.get("poly"), str | Path):
        read["poly"] = read_training_polynomial(Path(read["poly"])).coeffs
    if isinstance(read.get("ladder"), str | Path):
        taus, polynomials = read_ladder(Path(read["ladder"]))
        read["ladder"] = tuple((tau, g.coeffs) for tau, g in zip(taus, polynomials, strict=True))
    return read


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--taus: {text!r} is not four rising numbers; write for example 5,10,20,30") from None


def show_config(config: TrainConfig, *, as_json: bool) -> None:
    """The resolved configuration, as JSON or as TOML: what is unset is left out there, since TOML has no null."""
    if as_json:
        print_json(config.model_dump(mode="json"))
        return
    print(recipes.as_toml(config.model_dump(mode="json", exclude_none=True)), end="")


def run(config: TrainConfig, *, may_resume: bool, as_json: bool) -> None:
    """Trains or continues, shows it, and ends with the summary. Raises SavedInterrupt when a signal stopped it."""
    # late: torchvision and matplotlib take seconds, a wrong setting should not
    from pctool.training import compiling, session
    from pctool.training.ranks import joined
    from pctool.training.run_folder import RunFolder
    from pctool.training.signals import listen, seconds_left

    decoding = partial(progress, "decode", unit="images")
    with (
        joined(config.device, note) as ranks,
        listen(seconds_left(config.time_limit)) as stop,
        contextlib.ExitStack() as stack,
    ):
        if config.time_limit == "auto" and seconds_left("auto") is None and ranks.main:
            note("SLURM_JOB_END_TIME does not say when the job ends: --time-limit auto is no limit here")
        begun = session.opened(config, ranks, stop=stop, may_resume=may_resume, counted=decoding, say=note)
        try:
            ranks.together(lambda: compiling.check(config.device) if config.compile else None)
            opened = stack.enter_context(begun)
        except (KeyboardInterrupt, PctoolError) as error:
            if ranks.main and _is_recorded(config, error):
                RunFolder(config.out).record_early_exit(config, _exit_entry(error, requeue=stop.requeue))
            raise
        if not ranks.main:
            opened.train(_Silent())
            return
        with _exit_recorded(config.device, opened.folder) as record, _Watcher(config) as watcher:
            outcome = opened.train(watcher)
            record.update(step=outcome.step, requeue=outcome.requeue)
            if outcome.collapse:
                raise PartialError(f"{outcome.collapse}; saved; the same command without --stop-on-collapse trains on")
            if not outcome.finished:
                by = f" by {stop.describe()}" if stop.requested else ""  # or by what another process was told
                raise SavedInterrupt(f"stopped{by} and saved at step {outcome.step:,}; the same command continues")
        summary = summarise(config, outcome)
        if as_json:
            print_json(summary)
        else:
            _show_summary(outcome, config)


@contextlib.contextmanager
def task_recorded(out: Path | None) -> Iterator[None]:
    """Where the block fails: why, in the exit.json of a study's task that it keeps from beginning (a GPU that this
    machine lacks, a variable that would make it another run). None for what is no task, or only looks at one."""
    from pctool.training.run_folder import RunFolder

    try:
        yield
    except PctoolError as error:
        # A task that is done stays so.
        if out is not None and read_object(out / "exit.json").get("code") != 0 and _ended_by(out, error):
            RunFolder(out).record_early_exit(None, _exit_entry(error))
        raise


def _is_recorded(config: TrainConfig, error: BaseException) -> bool:
    """Whether exit.json is to say why nothing began: where the folder is there, as a study's is, somebody reads it.

    Of a run that is finished it goes on saying so.
    """
    from pctool.training.run_folder import RunFolder

    if isinstance(error, KeyboardInterrupt | SavedInterrupt):
        return RunFolder(config.out).saved_step() < config.steps
    return os.path.isdir(config.out) and _ended_by(config.out, error)


def _ended_by(out: Path, error: BaseException) -> bool:
    """Whether the error is a run's own end: not where bad input (another seed) refuses one that has begun."""
    return not (isinstance(error, InputError) and (out / "config.json").exists())


def preflight(config: TrainConfig, *, may_resume: bool, as_json: bool) -> None:
    """What a job would need, looked at now: prints what was found, and ends as the first check that failed."""
    from pctool.training import preflight as checks

    decoding = partial(progress, "decode", unit="images")
    found = checks.preflight(config, may_resume=may_resume, counted=decoding, say=note)
    failed = {check.name: check.text for check in found if check.error}
    if as_json:
        print_json({**{check.name: check.text for check in found if not check.error}, "failed": failed})
    else:
        for check in found:
            mark = "failed: " if check.error else ""
            print(f"{check.name:<{max(len(each.name) for each in found)}}  {mark}{check.text}")
    for check in found:
        if check.error:
            raise check.error


@contextlib.contextmanager
def _exit_recorded(device: str, folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Writes exit.json when the block ends, however it ends: code, reason, step, whether to requeue, peak memory."""
    record: dict[str, Any] = {}
    error: BaseException | None = None
    try:
        yield record
    except BaseException as raised:
        error = raised
        raise
    finally:
        with contextlib.suppress(WriteError):  # a full disk has been reported by `error` itself
            own = {"step": folder.saved_step(), **record, "peak_memory_mib": peak_mib(device)}
            folder.record_exit({**_exit_entry(error), **own})


def _exit_entry(error: BaseException | None, *, requeue: bool = False) -> dict[str, Any]:
    said = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    reason = "done" if error is None else f"{type(error).__name__}: {said}"
    return {"code": exit_code(error), "reason": reason, "step": None, "requeue": requeue}


def summarise(config: TrainConfig, outcome: session.Outcome) -> dict[str, Any]:
    """How a run ended, for `--json`; an infinite condition number is null there."""
    return {
        "run": str(outcome.path),
        "step": outcome.step,
        "finished": outcome.finished,
        "files": {name: str(path) for name, path in outcome.files.items()},
        "kappa": {name: value if math.isfinite(value) else None for name, value in outcome.kappas.items()},
        "scores": outcome.scores,
        "peak_memory_mib": peak_mib(config.device),
        "method": config.method,
    }


def _show_summary(outcome: session.Outcome, config: TrainConfig) -> None:
    rows = [(name, str(path)) for name, path in outcome.files.items()]
    if outcome.kappas:
        for definition in ("kappa", "modified_kappa"):
            columns = [f"{label} {outcome.kappas[f'{key}_{definition}']:.2f}" for key, label in _COLUMNS.items()]
            rows.append((definition.replace("_", " "), ", ".join(columns) + " (effective weights of D)"))
    rows += [(name, f"{value:.4g}") for name, value in outcome.scores.items() if not name.endswith(("_std", "_se"))]
    rows.append(("memory", f"at most {peak_mib(config.device):,.0f} MiB"))
    place = ["--data-dir", str(config.data_dir)] if config.data_dir else []
    score = ["pctool", "eval", str(outcome.path), *place]
    recorded = outcome.path / "spectrum.h5"
    look = ["pctool", "spectrum", str(recorded if recorded.exists() else outcome.path), "--plot", "figures"]
    rows.append(("next", shlex.join(look if outcome.scores else score)))
    print(f"{outcome.path}: {outcome.step:,} steps")
    for name, text in rows:  # plain lines: a path that is cut or folded cannot be copied
        print(f"  {name:<{max(len(row[0]) for row in rows)}}  {text}")


LONG_ON_A_CPU = 10_000  # steps; at the smallest default widths a step takes a second on two cores
_COLUMNS = {"max": "max", "second_max": "second", "mean": "mean"}


class _Watcher:
    """A bar with losses, speed, remaining time and APC strengths on a terminal, a line every 10 s elsewhere."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.total = config.steps
        self.last_line = 0.0

    def __enter__(self) -> _Watcher:
        if sys.stderr.isatty():
            columns = (
                TextColumn("train"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
            )
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def note(self, message: str) -> None:
        note(message)

    def begin(self, step: int, total_steps: int) -> None:
        self.total = total_steps
        if self.bar is not None:
            self.task = self.bar.add_task("train", total=total_steps, completed=step, status="")
        if self.config.precision == "bf16" and not has_fast_bf16(self.config.device):
            note("this machine computes bf16 slowly; a run keeps the precision that it began with")
        if self.config.device == "cpu" and total_steps - step >= LONG_ON_A_CPU:
            note("this may take hours on a CPU; a run of minutes: pctool train --preset demo")
        what = f"{self.config.dataset}, {self.config.arch}, {self.config.method}, {self.config.precision}"
        note(
            f"training {what} on {self.config.device} into {self.config.out}; Ctrl-C saves, the same command continues"
        )

    def step(self, report: StepReport) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=report.step, status=_status(report))
            return
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES and report.step < self.total:
            return
        self.last_line = now
        images = (self.total - report.step) * self.config.batch_size * self.config.d_iters
        left = timedelta(seconds=round(images / report.images_per_second))
        note(f"step {report.step:,}/{self.total:,}, {left} left, {_status(report)}")

    def scoring(self, total: int) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        if self.bar is None:
            return progress("score", total, "images")
        return self._scoring_task(self.bar, total)

    @contextlib.contextmanager
    def _scoring_task(self, bar: Progress, total: int) -> Iterator[Callable[[int], object]]:
        task = bar.add_task("score", total=total, status="scoring")
        try:
            yield lambda n: bar.advance(task, n)
        finally:
            bar.remove_task(task)


class _Silent:
    """Of several processes the first shows the run; the others train."""

    def note(self, message: str) -> None:
        pass

    def begin(self, step: int, total_steps: int) -> None:
        pass

    def step(self, report: StepReport) -> None:
        pass

    def scoring(self, total: int) -> contextlib.AbstractContextManager[Callable[[int], object]]:
        raise AssertionError("only the first process shows scores")


def _status(report: StepReport) -> str:
    counts: dict[int, int] = {}
    for degree in report.strengths.values():
        counts[degree] = counts.get(degree, 0) + 1
    strengths = ", ".join(f"{degree} on {count}" for degree, count in sorted(counts.items()))
    return f"D {report.loss_d:.3f} G {report.loss_g:+.3f}, {report.images_per_second:.0f} images/s" + (
        f", degree {strengths} layers" if counts else ""
    )
