"""What `pctool eval` puts together: samples, real images, extractor and protocol; and how it shows the answer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from pctool import files
from pctool.cli import evaluation_plan, weights
from pctool.cli.console import clean_up_when_terminated, note, output, print_json, progress
from pctool.cli.evaluation_plan import Plan, Request
from pctool.cli.evaluation_sources import Batches, Trained, check_against, is_images, look_at, opened, real_images
from pctool.data import catalog
from pctool.errors import InputError, MissingError, PartialError
from pctool.evaluation import features, samples_out, statistics_file
from pctool.evaluation.features import Extractor
from pctool.evaluation.images import Images, image_names
from pctool.evaluation.metrics_file import Metrics, mean_of
from pctool.evaluation.protocols import CUSTOM
from pctool.evaluation.reference import reference, subset
from pctool.evaluation.score import score
from pctool.training.config import resolve_device
from pctool.training.memory import keep_freed_memory


def run(request: Request, *, out: Path | None, force: bool, as_json: bool) -> None:
    """Scores, keeps the answer where it belongs, and prints it."""
    clean_up_when_terminated()
    _check(request, out, force=force)
    device = torch.device(resolve_device(request.device))
    if device.type == "cpu":
        keep_freed_memory()
    found = opened(request.source)
    trained = found if isinstance(found, Trained) else None
    against = request.against or (trained.config.get("dataset") if trained else None)
    if against is None:  # of files it was asked for
        raise InputError(f"{request.source} does not say what it was trained on; add --against NAME")
    name = request.extractor or features.default_for(against)
    plan = evaluation_plan.of_run(request, name, against) if trained else evaluation_plan.of_files(request, name)
    of_run = trained.config if trained and request.against is None else None
    load = functools.partial(real_images, against, plan.split, request.data_dir, of_run)
    data_set = load() if against in catalog.DATASETS else None
    extractor = _extractor(name, request, device)  # before all files of a folder are looked at, for minutes
    source = found if isinstance(found, Trained) else look_at(found)
    real, split = data_set or load()
    if request.against is not None and request.against not in catalog.DATASETS:  # no split of a data set
        plan = dataclasses.replace(plan, name=CUSTOM)
    if isinstance(real, Path):  # of how many images, and which, no protocol of ours can promise
        plan = dataclasses.replace(plan, name=CUSTOM, n_real=request.n_real)
        if request.stats_out is not None:
            raise InputError(f"--stats-out is for images; {real} holds statistics already")
    answer = _scored(request, plan, source, real, split, extractor)
    with contextlib.ExitStack() as places:  # one that cannot be written to must not cost the others the answer
        if trained and trained.run is not None:
            places.callback(files.append_line, trained.run / "metrics.jsonl", answer.model_dump_json())
        if out is not None:
            text = answer.model_dump_json(indent=2) + "\n"
            places.callback(files.write_new, {out: text.encode()}, force=force)
        if request.stats_out is not None:
            assert not isinstance(real, Path)
            places.callback(_write_statistics, request.stats_out, plan, real, split, extractor)
        _show(answer, as_json=as_json)
    left_out = answer.protocol.skipped
    if not request.metrics_named:  # nobody asked for a metric that cannot be computed: a note says it
        left_out = [*_skipped(source), *_skipped(real)]
    if left_out:
        raise PartialError(f"left out: {'; '.join(left_out)}; the scores are of the rest")


def _extractor(name: str, request: Request, device: torch.device) -> Extractor:
    """The network, its weights fetched where they may be."""
    try:
        if request.weights is None and not request.offline and weights.is_known(name):
            weights.fetch(name)
        return features.load(name, request.weights, device)
    except MissingError as error:
        raise MissingError(f"{error}, or name the file by --weights FILE") from error


def _skipped(images: Trained | Images | Path) -> tuple[str, ...]:
    return () if isinstance(images, Trained | Path) else images.skipped


def _check(request: Request, out: Path | None, *, force: bool) -> None:
    """What would fail after minutes fails at once."""
    if request.source is not None and is_images(request.source):
        image_names(request.source)
        evaluation_plan.check_for_files(request)
    if request.against is not None and request.against not in catalog.DATASETS and os.path.exists(request.against):
        image_names(Path(request.against))
    if request.samples_out is not None:
        samples_out.check_free(request.samples_out)
        if request.repeats > 1:
            raise InputError("--samples-out keeps the samples of one evaluation; leave --repeats out")
    # os.path's answer is False, not an error, where nothing may be looked at: `free_bytes` then says so.
    if request.stats_out is not None and os.path.exists(request.stats_out):
        raise InputError(f"--stats-out {request.stats_out} exists; choose another name or remove it")
    if request.stats_out is not None and request.stats_out.suffix != ".npz":
        raise InputError(f"--stats-out {request.stats_out}: the file is an .npz; name it so")
    if out is not None and os.path.isdir(out):
        raise InputError(f"--out {out} is a folder; name a file")
    kept = out if out is not None and os.path.exists(out) and not force else None
    if kept is not None and '"pctool-metrics"' not in kept.read_text("utf-8", "replace"):
        raise InputError(f"--out {out} exists and holds no scores; choose another name or add --force")
    for path in (out, request.stats_out, request.samples_out):
        if path is not None:
            files.free_bytes(path)
    if request.extractor is not None:
        features.check_name(request.extractor)
    if request.against is not None:
        check_against(request.against, request.split)


def _scored(  # noqa: PLR0917  # what run() has put together
    request: Request, plan: Plan, source: Trained | Images, real: Images | Path, split: str | None, extractor: Extractor
) -> Metrics:
    """One evaluation, or the mean of `--repeats` with other z."""
    draw: Callable[[int, int], Batches]
    about: dict[str, Any]
    if isinstance(source, Trained):
        draw, available = source.drawing(plan, extractor.device), None
        about = {"network": plan.network, "bn": plan.bn, "step": source.step, "notes": source.notes(plan.network)}
    else:
        images = source
        available, about = len(images), {"skipped": images.skipped, "notes": images.notes}
        for shape in images.shapes:
            extractor.check(shape)
        if (plan.n_fake or 0) > available:
            raise InputError(f"--n-fake {plan.n_fake:,} is more than the {available:,} images in the source")

        def draw(n: int, seed: int) -> Batches:
            return images.batches(plan.batch_size, subset(len(images), n))

    n_fake = plan.n_fake or available
    assert n_fake is not None
    n_is = plan.n_is or n_fake
    n_drawn = max(n_fake, n_is) if "is" in plan.metrics and extractor.has_probabilities else n_fake
    n_real = plan.n_real or (0 if isinstance(real, Path) else len(real))
    started = time.monotonic()
    total = request.repeats * (n_drawn + n_real * len(plan.resizers or (1,)))
    with progress("eval", total, "images") as advance:
        answers = [
            score(
                _kept(draw(n_drawn, seed), request.samples_out),
                real,
                extractor,
                n_fake=n_fake,
                n_real=plan.n_real,
                n_is=n_is,
                resizers=plan.resizers,
                metrics=plan.metrics,
                seed=seed,
                batch_size=plan.batch_size,
                protocol=plan.name,
                split=split,
                advance=advance,
                **about,
            )
            for seed in range(request.seed, request.seed + request.repeats)
        ]
    seconds = time.monotonic() - started
    n_scored = request.repeats * n_drawn
    note(f"{n_scored:,} samples in {seconds:.0f} s, {n_scored / seconds:,.3g} images/s")
    return answers[0] if len(answers) == 1 else mean_of(answers)


def _write_statistics(path: Path, plan: Plan, real: Images, split: str | None, extractor: Extractor) -> None:
    """The reference as a file, from the cache: `--against` takes it on a machine without the images."""
    view = extractor.with_resizer(plan.resizers[0]) if plan.resizers else extractor
    found = reference(
        real,
        view,
        n_real=plan.n_real or len(real),
        split=split,
        with_features=False,
        batch_size=plan.batch_size,
        advance=lambda n: None,
    )
    about = found.statistics.about
    assert about is not None
    alone = dataclasses.replace(found.statistics, about=about.model_copy(update={"features_sha256": None}))
    statistics_file.write(path, alone)


def _kept(batches: Batches, path: Path | None) -> Batches:
    """The same batches, also written to `path`."""
    if path is None:
        yield from batches
        return
    with samples_out.writer(path) as write:
        for batch in batches:
            write(batch)
            yield batch


def _show(answer: Metrics, *, as_json: bool) -> None:
    for remark in (*answer.notes, *(f"skipped {reason}" for reason in answer.protocol.skipped)):
        note(f"note: {remark}")
    if as_json:
        print_json(answer.model_dump())
        return
    table = Table(box=None, show_header=False)
    for key, value in answer.scores.items():
        if not key.endswith(("_std", "_se")):
            table.add_row(key, f"{value:.5g}{_spread(answer, key)}")
    for key, value in answer.protocol.model_dump(exclude={"skipped"}, exclude_none=True).items():
        shown = f"{value:,}" if key.startswith("n_") else str(value)
        table.add_row(key.replace("name", "protocol"), shown[:12] if key.endswith("sha256") else shown)
    output().print(table)


def _spread(answer: Metrics, key: str) -> str:
    """A score's standard deviation, and over what; nothing where it is 0, as of a single subset."""
    if answer.repeats:
        deviation, parts = answer.repeats.std[key], f"{len(answer.repeats.seeds)} repeats"
    else:
        deviation = answer.scores.get(f"{key}_std", 0.0)
        parts = "subsets" if key.startswith(("kid", "kd")) else "splits"
    return f" ± {deviation:.2g} over {parts}" if deviation else ""
