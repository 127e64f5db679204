"""TensorBoard's files, read back by TensorBoard itself."""

import builtins
import errno
import math
import os

import pytest

from pctool.errors import MissingError, WriteError
from pctool.training.board import Board

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's own imports


def points(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(e.step, e.value) for e in events.Scalars(tag)]


def test_numbers_arrive_and_a_resumed_run_hides_what_it_writes_again(tmp_path):
    """Finite numbers are points under group/name; after resuming at step 2 the old step 3 is gone."""
    board = Board(tmp_path, 0)
    for step in (1, 2, 3):
        board.add("train", step, {"step": step, "loss_d": step / 2, "strengths": {"a": 1}, "kappa": math.inf})
    board.close()
    assert points(tmp_path, "train/loss_d") == [(1, 0.5), (2, 1.0), (3, 1.5)]
    board = Board(tmp_path, 2)
    board.add("train", 3, {"loss_d": 9.0})
    board.close()
    assert points(tmp_path, "train/loss_d") == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_without_tensorboard_the_remedy_is_named(tmp_path, monkeypatch):
    """Not installed: MissingError with the command that installs it."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingError, match=r"pip install 'pctool\[tensorboard\]'"):
        Board(tmp_path, 0)


def test_a_full_disk_is_a_write_error(tmp_path, monkeypatch):
    """As for every other log of a run."""
    board = Board(tmp_path, 0)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(board._writer, "add_scalar", full)
    with pytest.raises(WriteError, match="No space left"):
        board.add("train", 1, {"loss_d": 0.5})
