"""Nothing in a checkpoint is there for nothing: what each single item of it is good for."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pctool.core.layers import strength
from pctool.errors import InputError
from pctool.training import loop
from pctool.training.config import resolve
from pctool.training.signals import StopRequest
from pctool.training.state import TrainingState

SAVED, END = 5, 7  # measured at 4, to be applied at 6: a measurement is under way when the state is saved


class Recorder:
    """Keeps what would be logged."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def report(self, line: object) -> None:
        pass

    def log(self, entry: dict[str, Any]) -> None:
        # A clock's time differs from run to run, but not by an hour.
        timeless = {**entry, "seconds": round(entry["seconds"] / 3600)}
        del timeless["images_per_second"]
        self.entries.append(timeless)


class Folder:
    """Keeps the last checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], keep: int) -> None:
        self.checkpoint = copy.deepcopy(checkpoint)


def reals(state: TrainingState) -> Iterator[torch.Tensor]:
    """What a feed gives from the state's step on."""
    for i in itertools.count(state.step * 2):
        yield torch.full((4, 1, 32, 32), i % 251, dtype=torch.uint8).random_(generator=torch.Generator().manual_seed(i))


def config(method: str, steps: int = END):
    return resolve(
        {
            "arch": "cnn",
            "width_g": 8,
            "width_d": 8,
            "batch_size": 4,
            "d_iters": 2,
            "method": method,
            "apc_every": 4,
            "taus": (1.7, 2.0, 2.3, 2.6),
            "steps": steps,
            "log_every": 1,
            "sample_every": 0,
            "spectrum_every": 0,
            "save_every": SAVED,
            "out": "-",
            "device": "cpu",
        }
    )


def go_on(method: str, checkpoint: dict[str, Any] | None, steps: int = END) -> tuple[dict[str, Any], list[Any]]:
    """From a checkpoint, or from the start, to the end: the last checkpoint and the log."""
    state = TrainingState(config(method))
    if checkpoint is not None:
        state.resume(checkpoint)
    recorder, folder = Recorder(), Folder()
    state.config = config(method, steps)
    loop.train(
        state,
        reals(state),
        folder,  # type: ignore[arg-type]
        stop=StopRequest(),
        recorder=recorder,  # type: ignore[arg-type]
        scorer=None,
    )
    return folder.checkpoint, recorder.entries


def same_end(a: tuple[dict[str, Any], list[Any]], b: tuple[dict[str, Any], list[Any]]) -> bool:
    """Whether two ends agree in every weight and buffer of the networks, bit for bit, in the step and in the log."""
    (left, left_log), (right, right_log) = a, b
    weights = all(
        torch.equal(value, right[network][name])
        for network in ("G", "D", "G_ema")
        for name, value in left[network].items()
    )
    return weights and left_log == right_log and left["step"] == right["step"]


Path = tuple[Any, ...]


def items(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all leaves: tensors, numbers, texts, and lists of numbers as one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from items(item, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, item in enumerate(value):
            yield from items(item, (*path, i))
    else:
        yield path


def changed(checkpoint: dict[str, Any], path: Path, change: Callable[[Any, Any], None]) -> dict[str, Any]:
    other = copy.deepcopy(checkpoint)
    holder = other
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return other


def drop(holder: Any, key: Any) -> None:
    del holder[key]


def alter(holder: Any, key: Any) -> None:
    holder[key] = other_value(holder[key])


def other_value(value: Any) -> Any:
    """Something else of the same kind."""
    if isinstance(value, torch.Tensor):
        return value + 1 if not value.is_floating_point() else value * 1.5 + 0.25
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + (1 if isinstance(value, int) else 1e5)
    if isinstance(value, str):
        return value.replace('"seed":0', '"seed":1') if value.startswith("{") else f"{value}x"
    if isinstance(value, list | tuple):
        return type(value)(v * 3 if v < 2 else v / 3 for v in value)  # of APC's measurements: across a threshold
    return True if value is None else NotImplemented


SINGLE_D = (3, 7, 30)  # D's parameters under svd that are a d with one entry, which is divided by itself to 1


def is_form(path: Path, method: str) -> bool:
    """Whether the next steps need not notice this item, since it is there for other readers of the file."""
    # torch's forms of an optimizer, Adam's settings following from the configuration, and of a batch norm: ours have a
    # momentum
    if "param_groups" in path or str(path[-1]).endswith("num_batches_tracked"):
        return True
    if path[0] == "G_ema" and "running_" in path[-1]:  # copied from G at each step; samples and scores use it
        return True
    if path[0] == "D" and method == "svd":  # the product of svd_u, svd_d and svd_v, for whoever looks for a weight
        return path[-1].endswith(".weight")
    if path[0] == "optim_d" and method == "svd":
        return path[2] in SINGLE_D
    if path[0] == "preconditioner" and (method != "apc" or path[1] == "linear"):  # what spectrum and export apply,
        return path[-1] in {"coeffs", "history", "pending"}  # by the configuration; no measurements without APC
    return False


@pytest.fixture(autouse=True)
def _late_strengths(monkeypatch):
    """APC applies at step 6 what it measured at step 4."""
    monkeypatch.setattr(strength, "DELAY", 2)


def kind(path: Path) -> tuple[str, str]:
    """What an item is, whatever its layer."""
    return path[0], str(path[-1]).rpartition(".")[2]


def check_items(method: str, chosen: Callable[[list[Path]], list[Path]]) -> None:
    whole = go_on(method, None)
    saved, _ = go_on(method, None, SAVED)
    if method == "apc":
        assert saved["preconditioner"]["stages.0"]["pending"] is not None
    resumed = go_on(method, copy.deepcopy(saved))
    assert same_end((whole[0], whole[1][SAVED:]), resumed)
    unnoticed = []
    for path in chosen(list(items(saved))):
        for change in (drop, alter):
            try:
                end = go_on(method, changed(saved, path, change))
            except InputError:
                continue
            if same_end(end, resumed) and not is_form(path, method):
                unnoticed.append((change.__name__, path))
    assert unnoticed == []


def test_every_kind_of_item_matters():
    """As below, for the first item of each kind under APC, which has most of them."""

    def first_of_each(paths: list[Path]) -> list[Path]:
        return list({kind(path): path for path in reversed(paths) if not is_form(path, "apc")}.values())

    check_items("apc", first_of_each)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sn", "fpc", "apc", "svd"])
def test_every_item_matters(method):
    """Dropped or altered alone, each item of a checkpoint makes resumption refuse it, or end with other weights or
    another log than the run without a pause: none is superfluous, and a state without it would be noticed."""
    check_items(method, lambda paths: paths)
