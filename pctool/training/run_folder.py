"""A run's folder: its configuration, logs, samples and checkpoints, and who may write to it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import filelock
import torch
from pydantic import ValidationError

from pctool import files
from pctool.core import checkpoint as checkpoints
from pctool.errors import InputError, WriteError
from pctool.evaluation.metrics_file import versions
from pctool.training.background import MOST
from pctool.training.config import TrainConfig
from pctool.training.run_files import RunRecord, entries, number, read_object, up_to
from pctool.training.sample_grid import grid_image

BEFORE_A_STEP = {".lock", "exit.json", "config.json"}  # what a process leaves that ended before its first step


class RunFolder:
    """Opened by one process at a time (a lock file), for one identity; see docs/train.md for what lies in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spectrum_path = path / "spectrum.h5"
        self.figure_path = path / "spectrum.png"
        self._made: list[Path] = []  # the folders that this process made, it and those above it
        self._record: RunRecord | None = None
        self._lock = filelock.FileLock(path / ".lock")

    def open(self, config: TrainConfig, hashes: dict[str, str], *, may_resume: bool) -> None:
        """Takes the folder for this run, new or to be continued; `write_record` then makes it the run's.

        `hashes` are the part of the identity that files hold: the data's, and of a fork the checkpoint's.

        Raises InputError where another process holds it, where it holds something else, or a run of another
        identity (each `key: old -> new`); nothing is touched then. `steps` may grow.
        """
        self._take(config, hashes, may_resume=may_resume)
        self._sweep()
        identity = {**config.identity(), **hashes}
        before = self.record()
        source = str(config.fork.absolute()) if config.fork else before and before.config.get("fork")
        self._record = RunRecord(
            config={**config.model_dump(mode="json"), "fork": source},
            identity=identity,
            identity_sha256=_hash(identity),
            versions=versions(),
            command=sys.argv,
        )

    def write_record(self) -> None:
        """Writes config.json: not before all is there that the run needs, so that what is refused leaves nothing."""
        assert self._record is not None  # after `open`
        files.write_text(self.path / "config.json", self._record.model_dump_json(indent=2) + "\n")

    def _take(self, config: TrainConfig, hashes: dict[str, str] | None, *, may_resume: bool) -> None:
        self.check(config, hashes, may_resume=may_resume)
        self._hold()
        self.check(config, hashes, may_resume=may_resume)  # another process may have begun in between

    def _hold(self) -> None:
        try:
            self._made = self._made or [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise InputError(
                f"another process is training in {self.path}; wait for it, or give another --out"
            ) from None
        except FileExistsError:
            raise InputError(f"{self.path} is a link to what is not there; mend it, or give another --out") from None
        except OSError as error:
            raise files.write_error(self.path, error) from error

    @property
    def is_fresh(self) -> bool:
        """Whether this process made the folder, and no run is in it yet: of what is refused then nothing stays."""
        return bool(self._made) and not (self.path / "config.json").exists()

    def forget_exit(self) -> None:
        """Removes exit.json: how an earlier process ended is not how this one does."""
        path = self.path / "exit.json"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.write_error(path, error) from error

    def record_exit(self, entry: dict[str, Any]) -> None:
        """Writes exit.json: how this process ended."""
        files.write_text(self.path / "exit.json", json.dumps(entry, indent=2) + "\n")

    def record_early_exit(self, config: TrainConfig | None, entry: dict[str, Any]) -> None:
        """The same of a process that has not opened the folder, where the folder is this run's or new.

        Without a configuration where that itself failed, of a study's task: its folder can only be its own.
        """
        with contextlib.suppress(InputError, WriteError):
            if config is None:
                self._hold()
            else:
                self._take(config, None, may_resume=True)
            self.record_exit({**entry, "step": self.saved_step()})
        self.close()

    def saved_step(self) -> int:
        """That of the newest checkpoint, 0 without one."""
        saved = checkpoints.list_checkpoints(self.path)
        return int(saved[-1].stem) if saved else 0

    def check(self, config: TrainConfig, hashes: dict[str, str] | None, *, may_resume: bool) -> str:
        """Whether this run may have the folder, as `open` decides it; "new" or "continues".

        Without `hashes`, where they are not known yet, the settings alone are compared.
        """
        identity, steps = {**config.identity(), **(hashes or {})}, config.steps
        recorded = self.path / "config.json"
        if not recorded.exists():
            if self.path.is_file() or (self.path.is_dir() and any(map(_is_result, self.path.iterdir()))):
                raise InputError(f"{self.path} exists and is no run folder; move it away, or give another --out")
            return "new"
        if not may_resume:
            raise InputError(f"{self.path} already holds a run; --resume never wants a new --out")
        try:
            record = RunRecord.model_validate_json(recorded.read_bytes())
            old = record.identity
            fewer = steps < int(old.get("steps", 0))
        except (OSError, TypeError, ValueError, OverflowError):
            raise InputError(f"{recorded} is damaged; restore it, or give another --out") from None
        changed = [
            f"{key}: {old.get(key)} -> {identity.get(key)}"
            for key in sorted({*old, *identity} if hashes is not None else identity)
            if old.get(key) != identity.get(key) and key != "steps"
        ]
        if fewer:
            changed.append(f"steps: {old['steps']} -> {steps} (may only grow)")
        # A fork that was killed before it recorded anything has nothing else that tells what it began from.
        was_fork = hashes is not None and "fork_sha256" in old and "fork_sha256" not in identity
        if changed and not was_fork and not self._has_results():  # refused before its first step: another shape's fork
            return "new"
        if changed:
            raise InputError(
                f"{self.path} holds another run ({'; '.join(changed)}); move it away, or give another --out; it was "
                f"begun by: {shlex.join(record.command)}"
            )
        self._check_checkpoints()
        return "continues"

    def _check_checkpoints(self) -> None:
        """Raises InputError where there were some and none is left: to begin anew would be to lose the run."""
        if checkpoints.list_checkpoints(self.path) or any((self.path / "checkpoints").glob("*.pt.damaged")):
            return
        step = _int(read_object(self.path / "exit.json").get("step"))
        before = self.record()
        save_every = _int(before and before.config.get("save_every"))
        if not step and save_every:  # it was killed; its fifth checkpoint would have waited for the first
            logged = [x for entry in self.read_log("stats.jsonl") if (x := number(entry.get("step"))) is not None]
            step = int(logged[-1]) if logged and logged[-1] - logged[0] > (MOST + 1) * save_every else 0
        if step:
            raise InputError(
                f"{self.path} has come to step {step:,}, and its checkpoints are gone; put one back, or begin anew "
                "with another --out or by deleting the folder"
            )

    def _has_results(self) -> bool:
        return any(path.is_file() and _is_result(path) for path in self.path.rglob("*"))

    def record(self) -> RunRecord | None:
        """config.json, None where there is none that can be read."""
        with contextlib.suppress(OSError, ValidationError):
            return RunRecord.model_validate_json((self.path / "config.json").read_bytes())
        return None

    def _sweep(self) -> None:
        """Removes what a killed process left half-written, and sums whose checkpoint it did not write or removed."""
        for folder in (self.path, self.path / "checkpoints", self.path / "samples"):
            files.remove_leftovers_in(folder)
        for path in (self.path / "checkpoints").glob("*.pt.sha256"):
            if not path.with_suffix("").exists():
                with contextlib.suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Lets another process take the folder; one that was made and has nothing in it goes."""
        if self._made and self.path.is_dir() and {entry.name for entry in self.path.iterdir()} == {".lock"}:
            with contextlib.suppress(OSError):
                (self.path / ".lock").unlink()
                for folder in self._made:
                    folder.rmdir()
        self._lock.release()

    def newest_checkpoint(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest checkpoint that verifies, and a line for each newer one, which is kept as `<file>.damaged`.

        None where there has never been one. Raises InputError where there are some and none can be read: to begin anew
        would be to lose the run without a word. All are left as they are, and so is one that cannot be read for another
        reason than damage: the storage, the memory.
        """
        problems: dict[Path, str] = {}
        for path in reversed(checkpoints.list_checkpoints(self.path)):
            try:
                found = checkpoints.read(path)
            except checkpoints.DamagedError as error:
                problems[path] = str(error)
                continue
            for bad in problems:
                aside = bad.with_name(bad.name + ".damaged")
                bad.replace(aside)
                why, used = problems[bad].split(";")[0], found["step"]
                problems[bad] = f"{why}; it is kept as {aside.name}, and step {used:,} is used"
            return found, list(problems.values())
        earlier = sorted(path.name for path in (self.path / "checkpoints").glob("*.pt.damaged"))
        if problems or earlier:
            why = next(iter(problems.values())).split(";")[0] if problems else f"{earlier[-1]} was set aside"
            raise InputError(
                f"{self.path} has no readable checkpoint among {len(problems) + len(earlier)} ({why}); all are kept as "
                "they are; restore one, or begin anew with another --out or by deleting the folder"
            )
        return None, []

    def save_checkpoint(self, checkpoint: dict[str, Any], keep: int) -> None:
        """Writes checkpoints/<step>.pt and removes all but the newest `keep` that came before it or are it."""
        checkpoints.write(self.checkpoint_path(checkpoint["step"]), checkpoint)
        for old in checkpoints.list_checkpoints(self.path)[:-keep]:
            with contextlib.suppress(OSError):  # one that stays too long costs space; the run goes on
                old.unlink(missing_ok=True)
                checkpoints.sum_path(old).unlink(missing_ok=True)

    def checkpoint_path(self, step: int) -> Path:
        """checkpoints/<step>.pt"""
        return self.path / "checkpoints" / f"{step:08d}.pt"

    def save_best(self, checkpoint: dict[str, Any]) -> None:
        """Writes checkpoints/best.pt, which no later checkpoint removes."""
        checkpoints.write(self.path / "checkpoints" / "best.pt", checkpoint)

    def raise_alarm(self, step: int, reason: str) -> bool:
        """Writes alarm.json; False where it is there already."""
        path = self.path / "alarm.json"
        if path.exists():
            return False
        files.write_text(path, json.dumps({"step": step, "reason": reason}, indent=2) + "\n")
        return True

    def log(self, name: str, entry: dict[str, Any]) -> None:
        """Appends one JSON line to `name`, flushed."""
        files.append_line(self.path / name, json.dumps(entry, allow_nan=False))

    def read_log(self, name: str) -> list[dict[str, Any]]:
        """The entries of a log; none where there is no such file yet."""
        path = self.path / name
        return entries(path.read_bytes()) if path.exists() else []

    def cut_logs(self, step: int) -> None:
        """Drops what logs and alarm say beyond `step`: a resumed run writes it again, once."""
        alarm = self.path / "alarm.json"
        said = number(read_object(alarm).get("step"))
        if alarm.exists() and (said is None or said > step):
            alarm.unlink()
        for name in ("stats.jsonl", "metrics.jsonl"):
            path = self.path / name
            if path.exists():
                files.write_bytes(path, up_to(path.read_bytes(), step))

    def save_samples(self, step: int, images: torch.Tensor) -> None:
        """samples/<step>.png: a square grid of [n, C, H, W] images in [-1, 1]."""
        path = self.path / "samples" / f"{step:08d}.png"
        with files.write_beside(path) as temporary:
            grid_image(images).save(temporary, format="png")


def _is_result(path: Path) -> bool:
    return path.name not in BEFORE_A_STEP and not files.is_leftover(path.name)


def _int(value: object) -> int:
    """A number that a file holds, 0 where it holds none."""
    return int(number(value) or 0)


def _hash(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
