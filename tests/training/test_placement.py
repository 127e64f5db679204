"""Which process of a run this one is, and how all of them meet."""

import re
import socket
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from pctool.errors import InputError
from pctool.training import placement as placement_module
from pctool.training.placement import PORTS, first_host, meet, placement

TORCHRUN_VARIABLES = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
SRUN_VARIABLES = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[03-05],gpu9",
    "SLURM_JOB_ID": "41000",
    "SLURM_STEP_ID": "2",
}
PORT = PORTS[zlib.crc32(b"41000.2") % len(PORTS)]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN_VARIABLES, (3, 4, 1, "tcp://h:1/")),
        ({**TORCHRUN_VARIABLES, "TORCHELASTIC_RUN_ID": "x"}, (3, 4, 1, "env://")),
        ({**TORCHRUN_VARIABLES, "WORLD_SIZE": "1", "RANK": "0"}, None),
        (SRUN_VARIABLES, (5, 8, 1, f"tcp://gpu03:{PORT}/41000.2")),
        ({**SRUN_VARIABLES, "MASTER_ADDR": "a", "MASTER_PORT": "7"}, (5, 8, 1, "tcp://a:7/41000.2")),
        ({**SRUN_VARIABLES, "MASTER_ADDR": "::1", "MASTER_PORT": "7"}, (5, 8, 1, "tcp://[::1]:7/41000.2")),
        ({**TORCHRUN_VARIABLES, "MASTER_ADDR": "fe80::2"}, (3, 4, 1, "tcp://[fe80::2]:1/")),
        ({**SRUN_VARIABLES, "SLURM_STEP_NUM_TASKS": ""}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # the batch script itself, outside srun
    ],
)
def test_placement(environment, expected):
    """torchrun's variables, srun's, and neither."""
    assert placement(environment) == expected


def test_a_contradicting_environment_is_refused():
    """srun's count without a rank: one line."""
    with pytest.raises(InputError, match="SLURM_PROCID"):
        placement({"SLURM_STEP_NUM_TASKS": "2"})
    with pytest.raises(InputError, match="SLURM_STEP_NUM_TASKS, SLURM_LOCALID do not say which process"):
        placement({**SRUN_VARIABLES, "SLURM_STEP_NUM_TASKS": "abc"})
    for port in ("abc", "70000", "-1"):
        with pytest.raises(InputError, match=f"MASTER_PORT is {port}: give a port from 1 to 65535"):
            placement({**TORCHRUN_VARIABLES, "MASTER_PORT": port})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu1", "gpu1"), ("gpu[03-05,9],x", "gpu03"), ("a-[7,9]-ib", "a-7-ib"), ("n1,n2", "n1"), ("a.b.c", "a.b.c")],
)
def test_first_host(nodes, host):
    """SLURM's compressed node lists."""
    assert first_host(nodes) == host


def test_every_step_of_a_job_has_a_port_of_its_own():
    """Of a hundred steps of one job, and as many jobs beside each other, hardly two have the same."""
    ports = {
        re.search(r":(\d+)/", placement({**SRUN_VARIABLES, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})[3])[1]
        for job, step in [(41000, step) for step in range(100)] + [(41001 + i, 0) for i in range(100)]
    }
    assert len(ports) >= 195
    assert all(int(port) in PORTS for port in ports)


@pytest.fixture
def port():
    """One that is free."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def soon(monkeypatch):
    """Nobody is waited for long."""
    monkeypatch.setattr(placement_module, "ARRIVAL", timedelta(seconds=0.6))


def met(
    *processes: tuple[int, int, str, str],
    gpus: Sequence[str] = ("", "", "", ""),
    say: Callable[[str], object] = lambda line: None,
) -> list[object]:
    """What the processes (rank, size, address, device) get from `meet`, with each rank's GPU: a store, or the error."""

    def one(rank: int, size: int, address: str, device: str) -> object:
        try:
            return meet((rank, size, 0, address), device, gpus[rank], say)
        except InputError as error:
            return error

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(one, *zip(*processes, strict=True)))


@pytest.mark.parametrize(("device", "gpus"), [("cpu", ["", "", ""]), ("cuda", ["a, GPU-1", "b, GPU-1", "a, GPU-2"])])
def test_all_meet(port, device, gpus):
    """Whoever comes last, every process gets a store in which each finds what another one left."""
    processes = ((rank, 3, f"tcp://localhost:{port}/7.0", device) for rank in (2, 1, 0))
    stores = met(*processes, gpus=gpus)
    stores[0].set("left", "here")
    assert [store.get("left") for store in stores] == [b"here"] * 3


def test_who_does_not_come_is_named_to_all(soon, monkeypatch, port):
    """The first process says it, and before that for whom it waits; the others that came end with it in silence."""
    monkeypatch.setattr(placement_module, "REMINDER", timedelta(seconds=0.35))
    address = f"tcp://localhost:{port}/7.0"
    first, third = met((0, 4, address, "cpu"), (2, 4, address, "cpu"), say=(said := []).append)
    assert said == ["waiting for processes 1, 3 of 4, up to 0.01 minutes"]
    assert str(first).startswith("processes 1, 3 of 4 did not come within 0.01 minutes; look at their own output")
    assert (first.said, str(third), third.said) == (None, str(first), None)


def test_where_the_first_does_not_come_another_says_so(soon, monkeypatch, port):
    """In one line, with nothing of PyTorch's own on stderr; the second process waits aloud, a third in silence."""
    monkeypatch.setattr(placement_module, "REMINDER", timedelta(seconds=0.35))
    address = f"tcp://localhost:{port}/7.0"
    error, _ = met((1, 3, address, "cpu"), (2, 3, address, "cpu"), say=(said := []).append)
    assert said == [f"waiting for process 0 of 3 at localhost:{port}, up to 0.01 minutes"]
    assert f"process 0 of 3 did not come to localhost:{port} within" in str(error)
    assert error.said is False


def test_another_device_is_refused(port):
    """One node without its GPU would wait for the others in another backend."""
    address = f"tcp://localhost:{port}/7.0"
    first, second = met((0, 2, address, "cuda"), (1, 2, address, "cpu"))
    assert "process 1 of 2 would train on cpu, process 0 on cuda" in str(first)
    assert str(second) == str(first)


def test_one_gpu_for_two_processes_is_refused(port):
    """NCCL would end all of them with pages of its own."""
    address = f"tcp://localhost:{port}/7.0"
    processes = [(rank, 3, address, "cuda") for rank in range(3)]
    errors = met(*processes, gpus=["a, GPU-1", "b, GPU-2", "a, GPU-1"])
    assert str(errors[0]).startswith("processes 0 and 2 of 3 have the same GPU (a, GPU-1); start at most as many")
    assert len({str(error) for error in errors}) == 1


def test_another_step_at_the_same_port_is_refused_at_once(port):
    """Its first process cannot listen and says what to do; its second does not join the run that has the port."""
    first, second, stranger, foreign = met(
        *((rank, 2, f"tcp://localhost:{port}/7.0", "cpu") for rank in (0, 1)),
    ) + met(*((rank, 2, f"tcp://localhost:{port}/7.1", "cpu") for rank in (0, 1)))
    first.set("left", "here")
    assert second.get("left") == b"here"
    assert "(address already in use); set MASTER_PORT" in str(stranger)
    assert "is taken by the job step 7.0; set MASTER_PORT" in str(foreign)


def test_what_answers_and_says_nothing_is_waited_for_no_longer(soon, monkeypatch):
    """Another's server at the port: one line, where PyTorch's own store waits for ever."""
    monkeypatch.setattr(placement_module, "HEARING", timedelta(seconds=1))
    with socket.create_server(("localhost", 0)) as server:
        (error,) = met((1, 2, f"tcp://localhost:{server.getsockname()[1]}/7.0", "cpu"))
    assert "is no process of this run; set MASTER_PORT" in str(error)
    assert error.said is False
