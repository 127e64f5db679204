"""What `pctool train` puts together: the configuration, a run and how it ends, and its summary."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pctool.cli.console import finite, note, print_json, progress
from pctool.cli.exit_codes import exit_code
from pctool.core.polynomial_file import read_ladder, read_training_polynomial
from pctool.errors import InputError, PartialError, PctoolError, SavedInterrupt, WriteError
from pctool.training import recipes
from pctool.training.config import INSTEAD, USED_BY, TrainConfig, resolve, unknown_setting, unused
from pctool.training.memory import peak_mib
from pctool.training.run_files import read_object

if TYPE_CHECKING:
    from pctool.training import session
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
        read["poly"] = read_training_polynomial(Path(read["poly"]).expanduser()).coeffs
    if isinstance(read.get("ladder"), str | Path):
        taus, polynomials = read_ladder(Path(read["ladder"]).expanduser())
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
    from pctool.cli.training_progress import TrainingProgress
    from pctool.training import board, compiling, session
    from pctool.training.ranks import joined
    from pctool.training.recorder import Watcher
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
            ranks.together(lambda: board.check() if config.tensorboard else None)
            opened = stack.enter_context(begun)
        except (KeyboardInterrupt, PctoolError) as error:
            if ranks.main and _is_recorded(config, error):
                RunFolder(config.out).record_early_exit(config, _exit_entry(error, requeue=stop.requeue))
            raise
        if not ranks.main:
            opened.train(Watcher())  # the first shows the run; the others train
            return
        folder, device = opened.folder, config.device
        ranks.record_loss(lambda error: _record_exit(folder, device, error, {}))
        with _exit_recorded(device, folder) as record, TrainingProgress(config) as watcher:
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
        _record_exit(folder, device, error, record)


def _record_exit(folder: RunFolder, device: str, error: BaseException | None, known: Mapping[str, Any]) -> None:
    moved_away = not folder.path.is_dir()
    if moved_away or (isinstance(error, InputError) and folder.is_fresh):
        return
    with contextlib.suppress(WriteError):  # a full disk has been reported by `error` itself
        own = {"step": folder.saved_step(), **known, "peak_memory_mib": peak_mib(device)}
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
        "kappa": {name: finite(value) for name, value in outcome.kappas.items()},
        "scores": outcome.scores,
        "peak_memory_mib": peak_mib(config.device),
        "method": config.method,
    }


_COLUMNS = {"max": "max", "second_max": "second", "mean": "mean"}


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
