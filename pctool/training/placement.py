"""Which of a run's processes this one is, by what torchrun or srun say, and where all of them meet.

Without torch but in `meet`, since a refusal needs to know the place too.
"""

from __future__ import annotations

import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pctool.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # it is documented, and there on every system

ARRIVAL = timedelta(minutes=10)  # for all to come: imports from network storage may put nodes minutes apart
HEARING = timedelta(seconds=10)  # for the others to hear what the first process has found, before its store goes
REMINDER = timedelta(seconds=30)  # between two lines about who is waited for
POLL = 0.1  # seconds; PyTorch's own waiting ends with pages of C++ frames on stderr
PORTS = range(20_000, 32_000)  # below those that Linux gives to outgoing connections

Place = tuple[int, int, int, str]
Say = Callable[[str], object]
T = TypeVar("T")


def placement(environment: Mapping[str, str]) -> Place | None:
    """(rank, processes, local rank, where they meet) by torchrun's or srun's variables; None for one process.

    They meet at `env://`, which torchrun's agents keep, or at `tcp://host:port/`, of srun with job and step behind it.
    """
    if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys():
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        by_hand = environment.get("MASTER_ADDR", ""), environment.get("MASTER_PORT", "29500"), ""
        address = "env://" if "TORCHELASTIC_RUN_ID" in environment else _address(*by_hand)
    elif environment.get("SLURM_STEP_NUM_TASKS", "") not in {"", "1"}:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
        host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
        step = f"{environment.get('SLURM_JOB_ID', '0')}.{environment.get('SLURM_STEP_ID', '0')}"
        port = environment.get("MASTER_PORT") or str(PORTS[zlib.crc32(step.encode()) % len(PORTS)])
        address = _address(host, port, step)
    else:
        return None
    try:
        rank, size, local = (int(environment[name]) for name in names)
    except (KeyError, ValueError):
        raise InputError(f"{', '.join(names)} do not say which process this is; start with torchrun or srun") from None
    return None if size == 1 else (rank, size, local, address)


def _address(host: str, port: str, step: str) -> str:
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"MASTER_PORT is {port}: give a port from 1 to 65535")
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}/{step}"  # an address of IPv6 has colons


def first_host(nodes: str) -> str:
    """The first of SLURM's compressed list of nodes: `gpu[03-05,9],login1` begins with gpu03."""
    match = re.match(r"([^\[,]*)(?:\[([^-,\]]*)[^\]]*\])?([^,]*)", nodes)
    assert match is not None  # every part may be empty
    return "".join(part or "" for part in match.groups())


def meet(place: Place, device: str, gpu: str = "", say: Say = lambda line: None) -> Store:
    """The store by which the processes can join, once all are there; the first one keeps it.

    Where that takes long `say` is told for whom the first process waits, or the second for the first.

    Raises InputError on all, and the first says it, where one does not come within ARRIVAL, trains on another device,
    or has the `gpu` of another, as no two may by NCCL; where the port is another's; and where the first itself does not
    come.
    """
    from torch.distributed import DistError

    rank, size, _, address = place

    def join() -> tuple[Store, str]:
        """The store, and what is wrong with the others, nothing for all being well."""
        try:
            store = _store(place, say)
        except DistError as error:
            why = str(error).splitlines()[0].rpartition("message: ")[2].rstrip(".")
            raise _aloud(
                f"process {rank} cannot meet the others at {address} ({why}); set MASTER_PORT to a free port"
            ) from None
        try:
            found = _heard(store, rank, address, device, gpu) if rank else _found(store, size, device, gpu, say)
            return store, found
        except DistError:
            raise _aloud(f"process 0 of {size} ended while they met; look at its own output") from None

    found = _in_time(join, 2 * ARRIVAL + HEARING)
    if found is None:
        raise _aloud(f"what answers at {address} is no process of this run; set MASTER_PORT to a free port")
    store, problem = found
    if problem:
        raise InputError(problem)
    return store


def _store(place: Place, say: Say) -> Store:
    """The store at the place, which the first process opens and the others look for."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # as Store
    from torch.distributed.rendezvous import rendezvous

    rank, size, _, address = place
    if address == "env://":
        agents: Store = next(rendezvous(address, rank, size, timeout=ARRIVAL))[0]
        return agents
    host, port = urlsplit(address).hostname or "", urlsplit(address).port or 0

    def remind() -> None:
        if rank == 1:  # one is enough
            say(f"waiting for process 0 of {size} at {host}:{port}, up to {_minutes()}")

    if rank and not _wait(lambda: _answers(host, port), ARRIVAL, remind):
        raise _aloud(f"process 0 of {size} did not come to {host}:{port} within {_minutes()}; look at its own output")
    store: Store = TCPStore(host, port, is_master=rank == 0, timeout=ARRIVAL, wait_for_workers=False)
    if rank == 0:
        store.set("step", urlsplit(address).path)
    return store


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _found(store: Store, size: int, device: str, gpu: str, say: Say) -> str:
    """What the first process finds wrong with the others, nothing for all being well; tells them."""
    others = range(1, size)

    def missing() -> list[int]:
        return [rank for rank in others if not store.check([f"device/{rank}"])]

    def named(absent: list[int]) -> str:
        return f"process{'es' if absent[1:] else ''} {', '.join(map(str, absent))} of {size}"

    def remind() -> None:
        if absent := missing():  # the last one may have come just now
            say(f"waiting for {named(absent)}, up to {_minutes()}")

    _wait(lambda: store.check([f"device/{rank}" for rank in others]), ARRIVAL, remind)
    absent = missing()
    there = [rank for rank in others if rank not in absent]
    devices = {0: device} | {rank: store.get(f"device/{rank}").decode() for rank in there}
    gpus = {0: gpu} | {rank: store.get(f"gpu/{rank}").decode() for rank in there}
    users = {each: rank for rank, each in reversed(gpus.items())}  # of each GPU, the first process that has it
    problem = ""
    if absent:
        problem = (
            f"{named(absent)} did not come within {_minutes()}; look at their own output, and at the "
            "PCTOOL_* variables and the package on their nodes"
        )
    elif other := next((rank for rank in there if devices[rank] != device), 0):
        problem = (
            f"process {other} of {size} would train on {devices[other]}, process 0 on {device}; all need the same "
            "--device"
        )
    elif second := next((rank for rank in there if gpus[rank] and users[gpus[rank]] != rank), 0):
        problem = (
            f"processes {users[gpus[second]]} and {second} of {size} have the same GPU ({gpus[second]}); start at most "
            "as many processes on a node as it has GPUs"
        )
    store.set("problem", problem)
    if problem:
        _wait(lambda: store.check([f"heard/{rank}" for rank in there]), HEARING)
    return problem


def _heard(store: Store, rank: int, address: str, device: str, gpu: str) -> str:
    """What the first process has found, as another one hears it."""
    if address != "env://" and (theirs := store.get("step").decode()) != urlsplit(address).path:
        return f"{address} is taken by the job step {theirs[1:]}; set MASTER_PORT to a free port"
    store.set(f"gpu/{rank}", gpu)
    store.set(f"device/{rank}", device)
    _wait(lambda: store.check(["problem"]), ARRIVAL + HEARING)
    problem = store.get("problem").decode()
    store.set(f"heard/{rank}", "")
    return problem


def _in_time(work: Callable[[], T], limit: timedelta) -> T | None:
    """What the work gives or raises, None beyond the limit: a store whose other end says nothing waits for ever."""
    ended: list[T | BaseException] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit.total_seconds())
    found = ended[0] if ended else None
    if isinstance(found, BaseException):
        raise found
    return found


def _wait(there: Callable[[], bool], limit: timedelta, remind: Callable[[], object] = lambda: None) -> bool:
    """Whether it is there within the limit; `remind` is called now and then until it is."""
    start = time.monotonic()
    reminders = 1
    while not (found := there()) and (waited := time.monotonic() - start) < limit.total_seconds():
        if waited > reminders * REMINDER.total_seconds():
            remind()
            reminders += 1
        time.sleep(POLL)
    return found


def _minutes() -> str:
    return f"{ARRIVAL.total_seconds() / 60:g} minutes"


def _aloud(message: str) -> InputError:
    """An error that this process says, whichever it is."""
    error = InputError(message)
    error.said = False
    return error
