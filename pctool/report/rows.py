"""From runs to the rows of the paper's Tables 1 and 2: seeds together, mean and standard deviation over them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pctool.data import datasets
from pctool.errors import InputError
from pctool.evaluation.metric_names import distance_of
from pctool.report.paper import PaperRow, method_key, published
from pctool.report.runs import Run
from pctool.spectrum.store import SUMMARY
from pctool.training.config import NAMED_IN_OUT, resolve
from pctool.training.run_files import n_fake

Select = Literal["final", "best"]

DATASETS = {"cifar10": "CIFAR-10", "stl10": "STL-10", "fashion-mnist": "Fashion-MNIST"}
ARCHS = {"resnet": "ResNet", "cnn": "CNN", "dcgan": "DCGAN"}
METHODS = {"none": "no normalisation", "sn": "SN-GAN", "apc": "APC", "svd": "SVD"}
ORDER = ("none", "sn", "svd", "fpc3", "fpc5", "fpc7", "fpc9", "apc")  # of the paper's tables
# What makes two scores comparable (docs/eval.md).
PROTOCOL = ("name", "n_real", "n_fake", "split", "resolution", "resizer", "network", "bn", "extractor_sha256")


@dataclass(frozen=True)
class Value:
    """Mean and sample standard deviation over `n` seeds; the latter None for one seed."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Value | None:
        """None for no numbers."""
        if not numbers:
            return None
        values = np.array(numbers)
        with np.errstate(invalid="ignore"):  # an infinite condition number has no deviation
            return cls(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


@dataclass(frozen=True, eq=False)
class Row:
    """The runs that differ in nothing but their seed, diverged ones counted and left out of the values.

    `kappas` has the six columns of a spectrum's summary; `departs` says where the runs leave the recipe.
    """

    setting: str
    method: str
    table: int
    runs: tuple[Run, ...]
    diverged: int
    unfinished: int
    steps: tuple[int, ...]
    metric: str | None
    score: Value | None
    kappas: dict[str, Value]
    paper: PaperRow | None
    departs: str

    @property
    def label(self) -> str:
        """What a legend calls it."""
        return f"{self.setting}, {self.method}"


def rows_of(runs: Sequence[Run], wanted: str | None = None, select: Select = "final") -> list[Row]:
    """A row for runs of one experiment: settings in the order of their first run, methods in the paper's.

    The score is the distance `wanted`, else what `metric_of` finds for the data set. Where two rows would read
    the same, their methods say what differs. Raises InputError where no run has the distance wanted.
    """
    if wanted is not None and wanted not in (there := _score_names(runs)):
        raise InputError(f"no run has a score {wanted!r}; there are: {', '.join(there) or 'none'}")
    of_dataset: dict[object, list[Run]] = {}
    for run in runs:
        of_dataset.setdefault(run.config.get("dataset"), []).append(run)
    metrics = {name: wanted or metric_of(its_runs) for name, its_runs in of_dataset.items()}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        identity = {key: value for key, value in run.record.identity.items() if key != "seed"}
        groups.setdefault(json.dumps(identity, sort_keys=True), []).append(run)
    rows = [_row(group, metrics[group[0].config.get("dataset")], select) for group in groups.values()]
    settings = [row.setting for row in rows]
    rows.sort(key=lambda row: (row.table, settings.index(row.setting), _place(row)))
    return [_told_apart(row, rows) for row in rows]


def one_a_seed(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Of runs with the same settings and seed the one that has come furthest, and a line for each that is left out."""
    kept: dict[str, Run] = {}
    keys = {run.path: json.dumps(run.record.identity, sort_keys=True) for run in runs}
    for run in sorted(runs, key=lambda run: -run.step):
        kept.setdefault(keys[run.path], run)
    left_out = [
        f"{run.path} has the settings and the seed of {kept[keys[run.path]].path}, and is left out."
        for run in runs
        if run is not kept[keys[run.path]]
    ]
    return [run for run in runs if run is kept[keys[run.path]]], left_out


def _row(runs: Sequence[Run], metric: str | None, select: Select) -> Row:
    config = runs[0].config
    counted = [run for run in runs if run.ended != "diverged"]
    picked = [(run, chosen(run, metric, select)) for run in counted]
    scores = [entry["scores"][metric] for _, entry in picked if entry and metric]
    kappas = [at for at in (kappas_at(run, entry["step"] if entry else None) for run, entry in picked) if at]
    kappa_values = {name: Value.of([at[name] for at in kappas]) for name in SUMMARY}
    return Row(
        setting=setting_of(config),
        method=method_of(config),
        table=2 if str(config.get("dataset", "")).startswith("lsun") else 1,
        runs=tuple(runs),
        diverged=len(runs) - len(counted),
        unfinished=sum(run.ended == "unfinished" for run in runs),
        steps=tuple(sorted({entry["step"] if entry else run.step for run, entry in picked})),
        metric=metric,
        score=Value.of(scores),
        kappas={name: value for name, value in kappa_values.items() if value},
        paper=published(config),
        departs=departures(config),
    )


def _told_apart(row: Row, rows: Sequence[Row]) -> Row:
    twins = [other for other in rows if other.label == row.label]
    if len(twins) < 2:
        return row
    identities = [other.runs[0].record.identity for other in twins]
    own = row.runs[0].record.identity
    differ = [key for key in sorted(own) if key != "seed" and any(i.get(key) != own[key] for i in identities)]
    text = ", ".join(f"{key} {_short(own[key])}" for key in differ)
    return replace(row, method=f"{row.method} ({text})")


def setting_of(config: dict[str, Any]) -> str:
    """Data set, architecture and updates, as the paper's tables head their rows."""
    dataset = str(config.get("dataset"))
    if dataset.startswith("lsun-"):
        name = f"LSUN {dataset.removeprefix('lsun-').replace('-', ' ')} {config.get('resolution')}"
    else:
        name = DATASETS.get(dataset) or dataset.rstrip("/").rpartition("/")[2]
    arch = str(config.get("arch"))
    return f"{name} {ARCHS.get(arch, arch)} ({config.get('d_iters')},{config.get('g_iters')})"


def method_of(config: dict[str, Any]) -> str:
    """The method in the paper's words."""
    key = method_key(config)
    if key.startswith("fpc"):
        return "FPC, own polynomial" if config.get("poly") else f"FPC, deg-{config.get('degree')}"
    return METHODS.get(key, key) + (", own ladder" if config.get("ladder") else "")


def departures(config: dict[str, Any]) -> str:
    """Where a configuration leaves the recipe of its experiment; "" nowhere, or where there is no recipe."""
    try:
        named = NAMED_IN_OUT if config["dataset"] in datasets.DATASETS else (*NAMED_IN_OUT, "resolution")
        plain = resolve({**{key: config[key] for key in named}, "out": "-"}).identity()
    except (InputError, KeyError, TypeError, ValueError):
        return ""
    apart = [key for key in plain if key not in named and key in config and config[key] != plain[key]]
    return ", ".join(f"{key} {_short(config[key])} (recipe {_short(plain[key])})" for key in apart)


def _short(value: object) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 24 else text[:21] + "..."


def metric_of(runs: Sequence[Run]) -> str | None:
    """The distance to tabulate; None without any."""
    return distance_of(_score_names(runs))


def _score_names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for entry in run.metrics for name in _scores(entry)))


def _scores(entry: dict[str, Any]) -> dict[str, float]:
    scores = entry.get("scores")
    numbers = scores.items() if isinstance(scores, dict) else ()
    of_another = ("_std", "_se")  # what a score's spread is called
    return {name: value for name, value in numbers if isinstance(value, int | float) and not name.endswith(of_another)}


def higher_is_better(metric: str) -> bool:
    """Inception scores, precision and recall; everything else is a distance to the data."""
    return metric.startswith(("inception_score", "is_", "precision", "recall"))


def chosen(run: Run, metric: str | None, select: Select) -> dict[str, Any] | None:
    """The evaluation that stands for a run: that of its last step (of several the one of most samples), or the best."""
    entries = [entry for entry in run.metrics if metric in _scores(entry)]
    if not entries:
        return None
    if select == "best":
        sign = -1 if higher_is_better(str(metric)) else 1
        return min(entries, key=lambda entry: sign * float(entry["scores"][metric]))
    last = max(entry["step"] for entry in entries)
    return max(reversed([entry for entry in entries if entry["step"] == last]), key=n_fake)


def step_of(run: Run, metric: str | None, select: Select) -> int:
    """The step that a row says of a run: that of its evaluation, or the last one."""
    entry = chosen(run, metric, select)
    return int(entry["step"]) if entry else run.step


def recorded_at(run: Run, step: int) -> int | None:
    """The step of the last row of the spectrum up to `step`, None where there is none."""
    before = [recorded for recorded in run.spectrum.steps.tolist() if recorded <= step] if run.spectrum else []
    return before[-1] if before else None


def kappas_at(run: Run, step: int | None) -> dict[str, float] | None:
    """The summary of the recorded spectrum at `step`, or the last row before it; at the end for None.

    None where there is no such row, or where it could not be measured.
    """
    steps = run.spectrum.steps if run.spectrum else np.zeros(0)
    before = len(steps) if step is None else int(np.searchsorted(steps, step, side="right"))
    if run.spectrum is None or not before:
        return None
    found = {name: float(values[before - 1]) for name, values in run.spectrum.summary.items()}
    return found if not any(math.isnan(value) for value in found.values()) else None


def protocols(rows: Sequence[Row], select: Select) -> list[dict[str, Any]]:
    """The distinct protocols behind the scores of rows: more than one means they must not be compared."""
    found: list[dict[str, Any]] = []
    for metric, run in ((row.metric, run) for row in rows for run in row.runs):
        entry = chosen(run, metric, select)
        protocol = entry.get("protocol") if entry else None
        if isinstance(protocol, dict):
            shown = {key: protocol.get(key) for key in PROTOCOL}
            found += [] if shown in found else [shown]
    return found


def _place(row: Row) -> int:
    key = method_key(row.runs[0].config)
    return ORDER.index(key) if key in ORDER else len(ORDER)
