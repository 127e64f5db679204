"""`pctool eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pctool.errors import InputError
from pctool.evaluation import metric_names

WHAT = "What is scored"
HOW = "How"


def evaluate(  # noqa: PLR0917  # every setting is a flag of its own
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A run folder, a checkpoint, a folder or ZIP of images, or an .npz with arr_0 (uint8 NHWC). "
            "(default: the newest run below ./runs)",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Data set, or folder/ZIP/.npz of real images, or an .npz of statistics. (default: the run's)",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.", rich_help_panel=WHAT)] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set. (default: the protocol's)", rich_help_panel=WHAT)
    ] = None,
    n_fake: Annotated[
        int | None,
        typer.Option(min=2, help="Number of samples. (default: the protocol's; all files)", rich_help_panel=WHAT),
    ] = None,
    n_real: Annotated[
        int | None, typer.Option(min=2, help="Number of real images. (default: the protocol's)", rich_help_panel=WHAT)
    ] = None,
    network: Annotated[
        Literal["G_ema", "G"] | None,
        typer.Option(help="Which generator. (default: the protocol's)", rich_help_panel=WHAT),
    ] = None,
    bn: Annotated[
        Literal["running", "batch"] | None,
        typer.Option(
            help="Batch norm by its running averages or by each batch. (default: the protocol's)", rich_help_panel=WHAT
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of z and of the scores' subsets.", rich_help_panel=WHAT)] = 0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Score again with seeds SEED+1, ...: mean and deviation.", rich_help_panel=WHAT)
    ] = 1,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Of fid, kid, is, pr (precision, recall), separated by commas. (default: fid,kid,is)",
            rich_help_panel=HOW,
        ),
    ] = None,
    protocol: Annotated[
        Literal["clean-50k", "legacy-50k", "paper", "sngan", "fashion-10k"] | None,
        typer.Option(
            help="Counts, split, resizer and network by name. (default: fashion-10k for fashion-cnn, else clean-50k)",
            rich_help_panel=HOW,
        ),
    ] = None,
    resizer: Annotated[
        Literal["clean", "legacy", "both"] | None,
        typer.Option(help="Inception's: clean-fid's, TensorFlow's, or both in one pass.", rich_help_panel=HOW),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="inception, fashion-cnn (default for fashion-mnist) or a torchvision network.",
            rich_help_panel=HOW,
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The extractor's weights file.", rich_help_panel=HOW)] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never fetch weights; use what is here.", rich_help_panel=HOW)
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images at a time. (default: the protocol's, 100)", rich_help_panel=HOW)
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.", rich_help_panel=HOW)
    ] = "auto",
    samples_out: Annotated[Path | None, typer.Option(help="Keep the samples as PNG: a new folder, or a .zip.")] = None,
    stats_out: Annotated[
        Path | None, typer.Option(help="Keep the real images' statistics in this .npz, which --against takes.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the answer to this JSON file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another --out.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Scores generated images against real ones: Frechet distance, kernel distance, inception score.

    The answer holds the protocol beside the scores, and a run's metrics.jsonl gets it too.
    Only Inception's Frechet distance is called FID; another network's is called fd_NETWORK.

    Example: pctool eval runs/demo --extractor fashion-cnn --n-fake 2000
    """
    if source is not None and not source.exists():  # said before torch is imported, which takes seconds
        raise InputError(
            f"{source} is not there; name a run folder, a checkpoint, a folder or ZIP of images, or an .npz with arr_0"
        )
    if weights is not None and not weights.is_file():
        raise InputError(f"--weights {weights} is not there, or no file; name the weights file itself")
    wanted = metric_names.chosen("fid,kid,is" if metrics is None else metrics)
    from pctool.cli import evaluation_plan, evaluation_session

    evaluation_session.run(
        evaluation_plan.Request(
            source=source,
            against=against,
            data_dir=data_dir,
            split=split,
            n_fake=n_fake,
            n_real=n_real,
            network=network,
            bn=bn,
            seed=seed,
            repeats=repeats,
            metrics=wanted,
            metrics_named=metrics is not None,
            protocol=protocol,
            resizer=resizer,
            extractor=extractor,
            weights=weights,
            offline=offline,
            batch_size=batch_size,
            device=device,
            samples_out=samples_out,
            stats_out=stats_out,
        ),
        out=out,
        force=force,
        as_json=json_,
    )
