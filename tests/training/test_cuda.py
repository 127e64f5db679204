"""When a step runs, is recorded and is replayed. That a recorded step is the step: tests/test_devices.py, on a GPU."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from pctool.training import cuda
from pctool.training.state import Draws


def draws(value: float) -> Draws:
    return Draws([torch.full((2,), value)], [torch.full((2,), value)], [torch.full((2,), value)], torch.tensor(value))


@pytest.fixture
def gpu(monkeypatch):
    """Stands in for CUDA: what is called while a graph is recorded, and how often graphs are replayed."""
    seen = SimpleNamespace(recording=False, replays=0)

    class Graph:
        def replay(self):
            seen.replays += 1

    @contextlib.contextmanager
    def graph(_, **options):
        assert options["capture_error_mode"] == "thread_local"
        seen.recording = True
        yield
        seen.recording = False

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda _: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return seen


def test_a_step_is_tried_then_recorded_then_replayed(gpu):
    """The first call and the first after `renew` run as they are; the next is recorded and replayed; others copy their
    draws into the recorded ones and are replayed. Without `record` every call runs as it is."""
    calls = []

    def update(given):
        calls.append(("recorded" if gpu.recording else "run", given))
        return given

    step = cuda.Recorded(update, record=True)
    first = draws(1.0)
    assert step(draws(0.0)) is calls[0][1]
    assert step(first) is first
    assert [(kind, gpu.replays) for kind, _ in calls] == [("run", 1), ("recorded", 1)]
    assert step(draws(5.0)) is first
    assert gpu.replays == 2
    assert all((tensor == 5.0).all() for tensor in first.tensors())
    step.renew()
    step(draws(2.0))
    step(draws(3.0))
    assert [kind for kind, _ in calls] == ["run", "recorded", "run", "recorded"]
    assert gpu.replays == 3
    assert all((tensor == 5.0).all() for tensor in first.tensors())
    plain = cuda.Recorded(update, record=False)
    for value in range(3):
        plain(draws(value))
    assert [kind for kind, _ in calls[4:]] == ["run"] * 3
