"""`python -m tests.training.kill_campaign DIR METHOD KILLS`: one run without a pause into DIR/whole, one that is killed
KILLS times into DIR/killed, whose checkpoints are checked after each.

A process of its own, so that children can be forked from one without threads, and KILLS imports are spared.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import torch
import torch._dynamo  # which every child's optimizer would import

from pctool.core import checkpoint as checkpoints
from pctool.spectrum.reader import read_spectrum
from pctool.training import images, session
from pctool.training.config import TrainConfig, resolve
from pctool.training.recorder import Watcher
from pctool.training.run_folder import RunFolder

STEPS_A_KILL = 8  # more than a killed process gets on, on average
MOST_STEPS = 8  # that a process gets on before it is killed
MOST_CALLS = 100  # of the writers before a process is killed: some 25 to begin, 25 a checkpoint, 1 or more a step


class Quiet(Watcher):
    """Is told everything and says nothing."""

    def note(self, message: str) -> None:
        assert "damaged" not in message, message


def config(out: Path, method: str, steps: int) -> TrainConfig:
    """A run with every kind of state: strengths that change, two updates of D, a decaying rate, all records."""
    return resolve(
        {
            "max_images": 50,
            "arch": "cnn",
            "width_g": 8,
            "width_d": 8,
            "batch_size": 2,
            "d_iters": 2,
            "lr_d": 2e-3,
            "method": method,
            "apc_every": 10,  # measured at 10, 20, ... and applied a step later
            "taus": (1.4, 1.6, 1.8, 2.0),
            "decay_from": 0.5,
            "steps": steps,
            "log_every": 1,
            "save_every": 3,
            "sample_every": 20,
            "spectrum_every": 5,
            "device": "cpu",
            "out": out,
        }
    )


def train(settings: TrainConfig) -> None:
    """Trains or continues, to the end."""
    with session.opened(settings) as opened:
        assert opened.train(Quiet()).finished


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returns to nobody")


def die_at_call(last: int, folder: Path) -> None:
    """From now on this process dies instead of its `last`-th step towards a file in `folder`: opening it to write,
    the second half of its bytes, fsync, rename, removal."""
    calls = itertools.count(1)
    fsync = os.fsync

    def call() -> None:
        if next(calls) == last:
            die()

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"os.rename", "os.remove", "os.mkdir"} or (
            event == "open" and str(arguments[0]).startswith(str(folder)) and arguments[1] not in {"r", "rb"}
        ):
            call()

    def counted_fsync(descriptor: int) -> None:
        call()
        fsync(descriptor)

    def write_in_halves(path: Path, data: bytes | memoryview) -> int:
        with path.open("wb", buffering=0) as file:
            half = len(data) // 2
            file.write(data[:half])
            call()
            return half + (file.write(data[half:]) or 0)

    os.fsync = counted_fsync
    Path.write_bytes = write_in_halves  # type: ignore[method-assign, assignment]
    sys.addaudithook(audit)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_and_kill(child: int, log: Path, n_steps: int, seconds: float) -> None:
    """Kills the child `seconds` after it has logged so many steps."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if lines(log) >= n_steps:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(0.002)


def verified_step(run: Path) -> int:
    """The newest checkpoint's step, after checking that every file with a checkpoint's name is whole."""
    steps = [0]
    for path in checkpoints.list_checkpoints(run):
        assert checkpoints.sum_path(path).exists(), path
        assert checkpoints.read(path)["step"] == int(path.stem), path
        steps.append(int(path.stem))
    if (run / "spectrum.h5").exists():
        read_spectrum(run / "spectrum.h5")
    return steps[-1]


def campaign(settings: TrainConfig, n_kills: int) -> dict[str, int]:
    """How often a process was killed, at a moment and at a call, while the run went from its start to its end."""
    chance, killed, reached = random.Random(0), {"moment": 0, "call": 0}, 0
    run = settings.out
    while True:
        kind = ("moment", "call")[sum(killed.values()) % 2] if sum(killed.values()) < n_kills else "none"
        last_call, n_steps, seconds = (
            chance.randint(1, MOST_CALLS),
            chance.randint(0, MOST_STEPS),
            chance.uniform(0, 0.1),
        )
        child = os.fork()
        if not child:
            try:
                if kind == "call":
                    die_at_call(last_call, run)
                train(settings)
            except BaseException as error:  # a child must never go on as its parent
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if kind == "moment":
            # In front of the first step a process has more to do: that is where the longer waits belong.
            wait_and_kill(child, run / "stats.jsonl", reached + n_steps, seconds if n_steps else 5 * seconds)
        _, status = os.waitpid(child, 0)
        before, reached = reached, verified_step(run)
        assert reached >= before, "a checkpoint was lost"
        if status == 0:
            return killed
        assert os.WIFSIGNALED(status), "a process that continued the run failed"
        killed[kind] += 1


def rewrites_of_best(folder: Path) -> int:
    """best.pt written over and over by processes that die at their 1st, 2nd, ... call: how many died.

    It must be readable after each, the one before or the new one.
    """
    run = RunFolder(folder)
    settings = config(folder, "sn", 9).model_dump_json()
    run.save_best({"step": 0, "config": settings})
    for last in itertools.count(1):
        child = os.fork()
        if not child:
            die_at_call(last, folder)
            run.save_best({"step": last, "config": settings})
            os._exit(0)
        _, status = os.waitpid(child, 0)
        step = checkpoints.read(folder / "checkpoints/best.pt")["step"]
        if status == 0:
            assert step == last
            return last - 1
    raise AssertionError("endless")


def main(folder: Path, method: str, n_kills: int) -> None:
    """Raises where a checkpoint is ever unreadable or a continued run fails; prints what was done."""
    torch.set_num_threads(1)
    steps = n_kills * STEPS_A_KILL
    settings = {name: config(folder / name, method, steps) for name in ("whole", "killed")}
    dataset = images.load(settings["whole"])
    images.load = lambda config, **progress: dataset  # once for all processes
    train(settings["whole"])
    killed = campaign(settings["killed"], n_kills)
    print(json.dumps({**killed, "best": rewrites_of_best(folder / "best")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
