"""`python -m tests.training.forked SCRIPT JOBS`: `main` of a script beside this one, in forked processes.

JOBS: JSON, [[number of processes, [argument, ...]], ...], done one after the other; the processes of a job know each
other as torchrun's do. Forked, so that torch is imported once and not once for every process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch._dynamo  # noqa: F401  # what every optimizer would import

ROOT = Path(__file__).parents[2]


def run(script: str, *jobs: tuple[int, list[object]]) -> None:
    """Has the jobs done, and returns when they are."""
    written = json.dumps([[size, [str(argument) for argument in arguments]] for size, arguments in jobs])
    command = [sys.executable, "-m", "tests.training.forked", script, written]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True)
    try:
        assert process.wait(300) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def job(main: Callable[..., None], size: int, arguments: list[str]) -> None:
    """Raises where a process fails."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            try:
                if size > 1:
                    joined = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
                    os.environ.update({name: str(value) for name, value in joined.items()})
                    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
                main(*arguments)
            except BaseException:  # a child must never go on as its parent
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    for _ in children:
        _, status = os.wait()
        if code := os.waitstatus_to_exitcode(status):
            time.sleep(2)  # for the others to say what they have to say
            raise SystemExit(f"exit code {code}")


if __name__ == "__main__":
    script = importlib.import_module(f"tests.training.{sys.argv[1]}")
    for size, arguments in json.loads(sys.argv[2]):
        job(script.main, size, arguments)
