"""What `pctool eval` puts together: samples, real images, extractor and protocol; and how it shows the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from pctool import files
from pctool.cli.console import note, output, print_json, progress
from pctool.core import checkpoint as checkpoints
from pctool.data import catalog
from pctool.errors import InputError
from pctool.evaluation import features, samples_out
from pctool.evaluation.generate import BatchNorm, generate
from pctool.evaluation.images import array_sha256, open_images
from pctool.evaluation.metrics_file import Metrics
from pctool.evaluation.protocols import CUSTOM, PROTOCOLS, default_for
from pctool.evaluation.score import METRICS, Metric, score
from pctool.training.config import resolve_device

Batches = Iterator[NDArray[np.uint8]]


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
    metrics: str
    protocol: str | None
    extractor: str | None
    weights: Path | None
    batch_size: int
    device: Literal["auto", "cpu", "cuda"]
    samples_out: Path | None


@dataclass(frozen=True)
class Samples:
    """What is scored: `draw(n, batch_size)` yields it. `available` is None where it can be generated without end."""

    draw: Callable[[int, int], Batches]
    available: int | None
    dataset: str | None = None
    step: int | None = None
    run: Path | None = None
    network: str | None = None
    bn: str | None = None


@dataclass(frozen=True)
class Real:
    """The images to compare with."""

    images: NDArray[np.uint8]
    sha256: str
    split: str | None


def run(request: Request, *, out: Path | None, force: bool, as_json: bool) -> None:
    """Scores, keeps the answer where it belongs, and prints it."""
    if request.samples_out is not None:
        samples_out.check_free(request.samples_out)
    wanted = _metrics(request.metrics)
    samples = _samples(request)
    against = request.against or samples.dataset
    if against is None:
        raise InputError(f"what is {request.source} to be compared with? add --against DATASET or FOLDER")
    real = _real(against, request)
    extractor = features.load(
        request.extractor or features.default_for(against),
        request.weights,
        torch.device(resolve_device(request.device)),
    )
    if out is not None and out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file")
    protocol, n_fake, n_real = _counts(request, samples, extractor.name, len(real.images))
    with progress("eval", n_fake + n_real, "images") as advance:
        answer = score(
            _kept(samples.draw(n_fake, request.batch_size), request.samples_out),
            real.images,
            extractor,
            n_fake=n_fake,
            n_real=n_real,
            metrics=wanted,
            seed=request.seed,
            batch_size=request.batch_size,
            real_sha256=real.sha256,
            protocol=protocol,
            split=real.split,
            network=samples.network,
            bn=samples.bn,
            step=samples.step,
            advance=advance,
        )
    if out is not None:
        _write(out, answer, force=force)
    _show(answer, as_json=as_json)
    if samples.run is not None:  # last: a run folder that cannot be written to must not cost the answer
        files.append_line(samples.run / "metrics.jsonl", answer.model_dump_json())


def _metrics(text: str) -> tuple[Metric, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise InputError(f"--metrics {text!r}: allowed are {', '.join(METRICS)}, separated by commas")
    return tuple(metric for metric in METRICS if metric in names)


def _samples(request: Request) -> Samples:
    source = request.source or _newest_run()
    if request.source is None:
        note(f"scoring the newest run, {source}")
    if _is_run(source):
        return _generated(checkpoints.latest(source), source, request)
    if source.is_file() and source.suffix.lower() not in (".zip", ".npz"):
        parent = source.parent.parent
        return _generated(source, parent if source.parent.name == "checkpoints" and _is_run(parent) else None, request)
    for flag, value in (("--network", request.network), ("--bn", request.bn), ("--samples-out", request.samples_out)):
        if value is not None:
            raise InputError(f"{flag} is for runs and checkpoints; {source} holds finished images")
    images = open_images(source)
    return Samples(lambda n, batch_size: images.batches(batch_size, n), len(images))


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def _newest_run() -> Path:
    runs = [path.parent for path in Path("runs").rglob("config.json") if _is_run(path.parent)]
    if not runs:
        raise InputError("there is no run below ./runs; name a run folder, a checkpoint, a folder of images or a ZIP")
    return max(runs, key=lambda path: (path / "checkpoints").stat().st_mtime_ns)


def _generated(path: Path, run_folder: Path | None, request: Request) -> Samples:
    checkpoint = checkpoints.read(path)
    network, bn = request.network or "G_ema", request.bn or "running"
    G = checkpoints.generator(checkpoint, network)
    device = torch.device(resolve_device(request.device))

    def draw(n: int, batch_size: int) -> Batches:
        return generate(G, n, seed=request.seed, batch_size=batch_size, device=device, bn=bn)

    dataset = checkpoints.config(checkpoint)["dataset"]
    return Samples(draw, None, dataset, checkpoint["step"], run_folder, network, bn)


def _real(against: str, request: Request) -> Real:
    if against not in catalog.DATASETS and Path(against).exists():
        if request.split is not None:
            raise InputError(f"--split is for data sets; {against} is compared with whole")
        opened = open_images(Path(against))
        images = np.concatenate(list(opened.batches(request.batch_size)))
        return Real(images, array_sha256(images), None)
    loaded = catalog.load(against, request.split, request.data_dir)
    return Real(loaded.images, loaded.sha256, loaded.split)


def _counts(request: Request, samples: Samples, extractor: str, n_available: int) -> tuple[str, int, int]:
    """The protocol's name, and how many samples and real images that means here."""
    name = request.protocol or default_for(extractor)
    counts = PROTOCOLS[name]
    if samples.available is not None:  # finished images count whole
        if request.protocol is not None:
            raise InputError(f"--protocol {name} is for runs and checkpoints; files are scored whole, or by --n-fake")
        if (request.n_fake or 0) > samples.available:
            raise InputError(f"--n-fake {request.n_fake:,} is more than the {samples.available:,} images in the source")
        return CUSTOM, request.n_fake or samples.available, request.n_real or n_available
    n_fake = request.n_fake or counts.n_fake
    n_real = request.n_real or counts.n_real or n_available
    as_named = (n_fake, n_real) == (counts.n_fake, counts.n_real or n_available) and request.split is None
    return name if as_named else CUSTOM, n_fake, n_real


def _kept(batches: Batches, path: Path | None) -> Batches:
    """The same batches, also written to `path`."""
    if path is None:
        yield from batches
        return
    with samples_out.writer(path) as write:
        for batch in batches:
            write(batch)
            yield batch


def _write(path: Path, answer: Metrics, *, force: bool) -> None:
    text = answer.model_dump_json(indent=2) + "\n"
    if path.exists() and not force and path.read_text(encoding="utf-8", errors="replace") != text:
        raise InputError(f"--out {path} exists with another content; choose another name or add --force")
    files.write_text(path, text)


def _show(answer: Metrics, *, as_json: bool) -> None:
    for remark in (*answer.notes, *(f"skipped {reason}" for reason in answer.protocol.skipped)):
        note(f"note: {remark}")
    if as_json:
        print_json(answer.model_dump())
        return
    table = Table(box=None, show_header=False)
    for key, value in answer.scores.items():
        if not key.endswith("_std"):
            deviation = answer.scores.get(f"{key}_std")
            table.add_row(key, f"{value:.5g}" + (f" ± {deviation:.2g}" if deviation else ""))
    for key, value in answer.protocol.model_dump(exclude={"skipped"}, exclude_none=True).items():
        shown = f"{value:,}" if key.startswith("n_") else str(value)
        table.add_row(key.replace("name", "protocol"), shown[:12] if key.endswith("sha256") else shown)
    output().print(table)
