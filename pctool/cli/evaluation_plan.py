"""What `pctool eval` will do: the protocol's settings with those of the flags in their place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pctool.errors import InputError
from pctool.evaluation import features
from pctool.evaluation.generate import BatchNorm
from pctool.evaluation.metric_names import Metric
from pctool.evaluation.protocols import CUSTOM, PROTOCOLS, default_for
from pctool.evaluation.resizers import Resizer


@dataclass(frozen=True)
class Request:
    """The flags of `pctool eval`; None where one was not given."""

    source: Path | None
    against: str | None
    data_dir: Path | None
    split: str | None
    n_fake: int | None
    n_real: int | None
    network: Literal["G_ema", "G"] | None
    bn: BatchNorm | None
    seed: int
    repeats: int
    metrics: tuple[Metric, ...]
    metrics_named: bool
    protocol: str | None
    resizer: Literal["clean", "legacy", "both"] | None
    extractor: str | None
    weights: Path | None
    offline: bool
    batch_size: int | None
    device: Literal["auto", "cpu", "cuda"]
    samples_out: Path | None
    stats_out: Path | None


@dataclass(frozen=True)
class Plan:
    """Everything decided. `n_fake` and `n_real` are None where all files count, `split` where the data set decides."""

    name: str
    extractor: str
    metrics: tuple[Metric, ...]
    resizers: tuple[Resizer, ...] | None
    n_fake: int | None
    n_real: int | None
    n_is: int | None
    split: str | None
    network: Literal["G_ema", "G"]
    bn: BatchNorm
    batch_size: int


def check_for_files(request: Request) -> None:
    """InputError for what finished images do not go with, before they are read: that may take minutes."""
    given = {
        "--network": request.network,
        "--bn": request.bn,
        "--samples-out": request.samples_out,
        "--repeats": request.repeats if request.repeats > 1 else None,
    }
    for flag, value in given.items():
        if value is not None:
            raise InputError(f"{flag} is for runs and checkpoints; {request.source} holds finished images")
    if request.protocol is not None:
        raise InputError(
            f"--protocol {request.protocol} is for runs and checkpoints; files are scored whole, or by --n-fake"
        )
    if request.against is None:
        raise InputError(f"what is {request.source} to be compared with? add --against DATASET or FOLDER")


def of_files(request: Request, extractor: str) -> Plan:
    """Finished images count whole, or as many as the flags say, under no protocol's name."""
    return Plan(
        name=CUSTOM,
        extractor=extractor,
        metrics=request.metrics,
        resizers=_resizers(request.resizer),
        n_fake=request.n_fake,
        n_real=request.n_real,
        n_is=None,
        split=request.split,
        network="G_ema",
        bn="running",
        batch_size=request.batch_size or 100,
    )


def of_run(request: Request, extractor: str, dataset: str) -> Plan:
    """The protocol with the flags in place of its own settings; `custom` where one departs from it."""
    name = request.protocol or default_for(extractor)
    protocol = PROTOCOLS[name]
    inception = extractor == features.INCEPTION
    resizers = _resizers(request.resizer) or ((protocol.resizer,) if inception else None)
    as_many = request.n_fake in (None, protocol.n_fake)
    as_named = (
        as_many
        and request.n_real in (None, protocol.n_real)
        and request.split is None
        and request.network in (None, protocol.network)
        and request.bn in (None, protocol.bn)
        and (protocol.bn == "running" or request.batch_size in (None, protocol.batch_size))
        and (name == "fashion-10k") == (extractor == features.FASHION_CNN)
        and (inception or protocol.resizer == "clean")
        and (resizers is None or resizers[0] == protocol.resizer)
    )
    return Plan(
        name=name if as_named else CUSTOM,
        extractor=extractor,
        metrics=request.metrics,
        resizers=resizers,
        n_fake=request.n_fake or protocol.n_fake,
        n_real=request.n_real or protocol.n_real,
        n_is=protocol.n_is if as_many else None,
        split=request.split or protocol.splits.get(dataset),
        network=request.network or protocol.network,
        bn=request.bn or protocol.bn,
        batch_size=request.batch_size or protocol.batch_size,
    )


def _resizers(name: Literal["clean", "legacy", "both"] | None) -> tuple[Resizer, ...] | None:
    if name == "both":
        return "clean", "legacy"
    return None if name is None else (name,)
