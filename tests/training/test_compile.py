"""What --compile compiles, and how often. That compiled equals eager is in test_loop.py and test_parametrization.py."""

import random

import pytest
import torch
from torch._dynamo.utils import counters

from pctool.core.layers.strength import Ladder
from pctool.core.polynomial import IDENTITY
from pctool.training import loop, recorder, session
from pctool.training.config import resolve
from tests.training.test_loop import FLAGS


class Watcher(recorder.Watcher):
    """Remembers the strengths and the number of graphs after each step."""

    def __init__(self):
        self.strengths, self.graphs = [], []

    def step(self, report):
        self.strengths.append(tuple(report.strengths.values()))
        self.graphs.append(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("arch", [pytest.param("cnn", marks=pytest.mark.slow), "resnet"])
def test_a_change_of_apc_compiles_nothing_again(tmp_path, monkeypatch, arch):
    """Four graphs (G with gradients and without, D in either update) after the first step, and no other after nine
    more, in each of which every layer gets an arbitrary one of the five strengths. Traced and not translated, which is
    quick and counts the same.
    """
    torch._dynamo.reset()
    counters.clear()
    compile_, choice = torch.compile, random.Random(0)
    monkeypatch.setattr(loop.torch, "compile", lambda f, **options: compile_(f, backend="eager", **options))
    monkeypatch.setattr(Ladder, "choose", lambda ladder, kappa: choice.choice([IDENTITY, *ladder.polynomials]))
    watcher = Watcher()
    flags = {**FLAGS, "arch": arch, "apc_every": 1, "apc_history": 1, "steps": 10, "compile": True}
    with session.opened(resolve({**flags, "out": tmp_path / "r"})) as opened:
        opened.train(watcher)
    assert len(set(watcher.strengths)) == 10, "every step was to bring a change"
    assert watcher.graphs == [4] * 10


@pytest.mark.parametrize(
    ("device", "n_ranks", "flags", "expected"),
    [
        ("cuda", 1, {}, True),
        ("cpu", 1, {}, False),
        ("cuda", 2, {}, False),
        ("cuda", 1, {"cuda_graphs": False}, False),
    ],
)
def test_one_process_on_one_gpu_records(device, n_ranks, flags, expected):
    """A step is a CUDA graph there, unless that is switched off."""
    assert loop.records(resolve({"device": "cpu", **flags}), device, n_ranks) is expected
