"""`pctool train`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pctool.cli.console import print_headers
from pctool.errors import InputError, did_you_mean
from pctool.files import write_error

WHAT = "What and how (the run's identity)"
WHERE = "Where and when (may change when a run is continued)"


NOT_SETTINGS = ("context", "study", "task", "preset", "resume", "preflight", "dry_run", "json_")


def _option(panel: str | None, help_text: str, name: str) -> Any:
    return typer.Option(name, help=help_text, rich_help_panel=panel, envvar=_variable(name), show_envvar=False)


_what, _where, _how = (functools.partial(_option, panel) for panel in (WHAT, WHERE, None))


def _variable(name: str) -> str:
    """PCTOOL_D_ITERS for --d-iters; of a pair of flags the first."""
    return "PCTOOL_" + name.split("/", maxsplit=1)[0].removeprefix("--").replace("-", "_").upper()


def train(  # noqa: PLR0917  # every setting is a flag of its own
    context: typer.Context,
    dataset: Annotated[
        str | None,
        _what(
            "fashion-mnist (built in, the default), cifar10, stl10, lsun-bedroom, lsun-living-room, lsun-tower, or a "
            "folder or ZIP of images.",
            "--dataset",
        ),
    ] = None,
    split: Annotated[str | None, _what("Part of the data set. (default the one to train on)", "--split")] = None,
    resolution: Annotated[
        int | None, _what("Pixels a side. (default the data set's own; needed for a folder)", "--resolution")
    ] = None,
    crop: Annotated[
        Literal["centre", "resize"] | None,
        _what("LSUN, folder, ZIP: cut out the middle, or resize the short side first.", "--crop"),
    ] = None,
    max_images: Annotated[int | None, _what("Use only the first N images.", "--max-images")] = None,
    method: Annotated[
        Literal["none", "sn", "fpc", "apc", "svd"] | None,
        _what(
            "What is behind D's weights: nothing, spectral norm, a fixed or an adaptive polynomial, or the SVD "
            "baseline. (default apc)",
            "--method",
        ),
    ] = None,
    degree: Annotated[
        int | None, _what("fpc: degree of the published polynomial, 3, 5, 7 or 9. (default 7)", "--degree")
    ] = None,
    poly: Annotated[Path | None, _what("fpc: a polynomial file of fit-poly instead.", "--poly")] = None,
    taus: Annotated[str | None, _what("apc: thresholds for degrees 3, 5, 7, 9. (default 5,10,20,30)", "--taus")] = None,
    ladder: Annotated[Path | None, _what("apc: a ladder file of fit-poly instead.", "--ladder")] = None,
    apc_every: Annotated[int | None, _what("apc: steps between measurements. (default 1000)", "--apc-every")] = None,
    apc_history: Annotated[
        int | None,
        _what("apc: measurements in the mean that decides; 1 as in the paper's text. (default 5)", "--apc-history"),
    ] = None,
    n_power_iterations: Annotated[
        int | None, _what("Power iterations per update of D. (default 1)", "--n-power-iterations")
    ] = None,
    skip_linear: Annotated[
        bool | None,
        _what(
            "Spectral norm alone on D's last linear layer, or the polynomial there too. (default skip)",
            "--skip-linear/--all-layers",
        ),
    ] = None,
    arch: Annotated[
        Literal["resnet", "cnn", "dcgan"] | None, _what("Networks. (default resnet, for LSUN dcgan)", "--arch")
    ] = None,
    variant: Annotated[
        Literal["authors", "sngan"] | None,
        _what("Whose networks, where the two sources differ. (default authors)", "--variant"),
    ] = None,
    width_g: Annotated[int | None, _what("G's width; scales all its stages.", "--width-g")] = None,
    width_d: Annotated[int | None, _what("D's width; scales all its stages.", "--width-d")] = None,
    loss: Annotated[Literal["hinge", "log"] | None, _what("GAN loss.", "--loss")] = None,
    d_iters: Annotated[int | None, _what("Updates of D per step. (default 1)", "--d-iters")] = None,
    g_iters: Annotated[int | None, _what("Updates of G per step. (default 1)", "--g-iters")] = None,
    steps: Annotated[int | None, _what("Steps in all; may grow when a run is continued.", "--steps")] = None,
    batch_size: Annotated[int | None, _what("Real images per update of D.", "--batch-size")] = None,
    batch_size_g: Annotated[int | None, _what("Fakes per update of G. (default batch-size)", "--batch-size-g")] = None,
    lr_g: Annotated[float | None, _what("Adam's learning rate for G.", "--lr-g")] = None,
    lr_d: Annotated[float | None, _what("Adam's learning rate for D.", "--lr-d")] = None,
    beta1: Annotated[float | None, _what("Adam's beta1.", "--beta1")] = None,
    beta2: Annotated[float | None, _what("Adam's beta2.", "--beta2")] = None,
    decay_from: Annotated[
        float | None,
        _what(
            "Learning rates fall linearly to 0 from here: a step, or a share of steps below 1.",
            "--decay-from",
        ),
    ] = None,
    ema_decay: Annotated[
        float | None, _what("Decay of G's average, after its ramp. (default 0.9999)", "--ema-decay")
    ] = None,
    seed: Annotated[int | None, _what("Seed of everything random. (default 0)", "--seed")] = None,
    precision: Annotated[
        Literal["fp32", "tf32", "bf16", "auto"] | None,
        _what("Arithmetic of the networks; auto takes bf16 where it is fast. (default fp32)", "--precision"),
    ] = None,
    layer_precision: Annotated[
        Literal["fp32", "tf32", "bf16"] | None,
        _what("Arithmetic of the polynomial's matrix products. (default fp32)", "--layer-precision"),
    ] = None,
    preset: Annotated[
        str | None, _what("Settings from a shipped preset or a TOML file; 'list' shows them.", "--preset")
    ] = None,
    study: Annotated[Path | None, _where("A folder of 'pctool study', to run one of its tasks.", "--study")] = None,
    task: Annotated[int | None, _where("Which task of the study, from 0.", "--task")] = None,
    data_dir: Annotated[Path | None, _where("Where data sets lie.", "--data-dir")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, _where("Where to train. (default auto)", "--device")
    ] = None,
    threads: Annotated[int | None, _where("CPU threads. (default all cores)", "--threads")] = None,
    cache_limit: Annotated[
        float | None,
        _where("GB that decoded images may take on the disk, else they are streamed. (default 100)", "--cache-limit"),
    ] = None,
    data_workers: Annotated[
        int | None, _where("Processes that decode images. (default by the processors)", "--data-workers")
    ] = None,
    compile: Annotated[  # the contract's name
        bool | None, _where("Compile the networks with torch.compile. (default no)", "--compile/--no-compile")
    ] = None,
    cuda_graphs: Annotated[
        bool | None,
        _where(
            "Replay the step of one process on one GPU as a CUDA graph. (default yes)", "--cuda-graphs/--no-cuda-graphs"
        ),
    ] = None,
    out: Annotated[Path | None, _where("The run folder. (default runs/<named after the settings>)", "--out")] = None,
    resume: Annotated[
        Literal["auto", "never"], _where("Whether the same command continues a run. (default auto)", "--resume")
    ] = "auto",
    log_every: Annotated[
        int | None, _where("Steps between lines of stats.jsonl, 0 for none. (default 50)", "--log-every")
    ] = None,
    save_every: Annotated[int | None, _where("Steps between checkpoints. (default 1000)", "--save-every")] = None,
    sample_every: Annotated[int | None, _where("Steps between sample grids. (default 1000)", "--sample-every")] = None,
    spectrum_every: Annotated[
        int | None, _where("Steps between rows of spectrum.h5. (default 500)", "--spectrum-every")
    ] = None,
    eval_every: Annotated[
        int | None, _where("Steps between evaluations, and at the end. (default 0)", "--eval-every")
    ] = None,
    eval_extractor: Annotated[
        str | None,
        _where("The network that scores, as in 'pctool eval'. (default by the data set)", "--eval-extractor"),
    ] = None,
    eval_weights: Annotated[Path | None, _where("The file of its weights, if not fetched.", "--eval-weights")] = None,
    keep: Annotated[int | None, _where("Checkpoints to keep. (default 2)", "--keep")] = None,
    tensorboard: Annotated[
        bool | None,
        _where("Write the logs for TensorBoard too, into RUN/tensorboard.", "--tensorboard/--no-tensorboard"),
    ] = None,
    time_limit: Annotated[
        str | None,
        _where("Save and stop after so many MINUTES; auto: before SLURM_JOB_END_TIME.", "--time-limit"),
    ] = None,
    stop_on_collapse: Annotated[
        bool | None,
        _where(
            "Save and stop when D's spectrum collapses (docs/train.md); without it, warn.",
            "--stop-on-collapse/--no-stop-on-collapse",
        ),
    ] = None,
    fork: Annotated[
        Path | None, _where("Start a new run from this checkpoint, with other settings; needs --out.", "--fork")
    ] = None,
    preflight: Annotated[bool, _how("Check data, weights, disk and device; train nothing.", "--preflight")] = False,
    dry_run: Annotated[bool, _how("Print the resolved configuration and stop.", "--dry-run")] = False,
    json_: Annotated[bool, _how("One JSON object on stdout.", "--json")] = False,
) -> None:
    """Trains a GAN whose discriminator has preconditioned weights; the same command continues a run.

    Without a flag: adaptive preconditioning on the built-in data. What is left open follows the recipe of
    dataset, arch and d-iters (docs/train.md). Every flag can also be set by the environment (--d-iters by
    PCTOOL_D_ITERS).

    Example: pctool train --dataset cifar10 --method apc --d-iters 1
    """
    given = {key: value for key, value in locals().items() if value is not None and key not in NOT_SETTINGS}
    looking = dry_run or preflight
    task_run: Path | None = None
    _check_environment(set(inspect.signature(train).parameters) - {"context"})
    _check_names(dataset, preset, data_dir)
    if preset == "list":
        from pctool.training import recipes

        print_headers("presets", recipes.headers(recipes.presets_folder()), as_json=json_)
        return
    from pctool.cli import training_session

    from_environment = {key for key in given if _is_from_environment(context, key)}
    if study is not None or task is not None:
        from pctool.training import study_folder

        beside = [*given, *(["preset"] if preset else [])]
        preset, run_folder = study_folder.pick(study, task)
        task_run = None if looking else run_folder
        typed = {key: f"--{key.replace('_', '-')}" for key in beside if not _is_from_environment(context, key)}
        study_folder.check_given(typed)  # a slip at the prompt is no task's end
        with training_session.task_recorded(task_run):
            study_folder.check_given({key: _spelled(context, key) for key in beside})
        given["out"] = run_folder
        if not looking:  # so that a task that fails before it begins can say why
            try:
                run_folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise write_error(run_folder, error) from error
    flags = {key: value for key, value in given.items() if key not in from_environment}
    environment = {key: given[key] for key in from_environment}
    with training_session.task_recorded(task_run):
        try:
            config = training_session.configure(flags, preset, environment)
        except InputError as error:
            raise InputError(_spelled_as_given(context, str(error))) from None
    if dry_run:
        training_session.show_config(config, as_json=json_)
        return
    if preflight:
        training_session.preflight(config, may_resume=resume == "auto", as_json=json_)
        return
    training_session.run(config, may_resume=resume == "auto", as_json=json_)


def _spelled(context: typer.Context, key: str) -> str:
    """How a setting was given: its variable, or its flag."""
    return _variable(key.replace("_", "-")) if _is_from_environment(context, key) else f"--{key.replace('_', '-')}"


def _spelled_as_given(context: typer.Context, message: str) -> str:
    """A message that begins with a flag, with the variable that was given in its place."""
    flag, colon, rest = message.partition(":")
    key = flag.removeprefix("--").replace("-", "_")
    return f"{_spelled(context, key)}{colon}{rest}" if flag == f"--{key.replace('_', '-')}" else message


def _is_from_environment(context: typer.Context, key: str) -> bool:
    source = context.get_parameter_source(key)
    return source is not None and source.name == "ENVIRONMENT"


def _check_environment(settings: Iterable[str]) -> None:
    """Refuses a variable that is no setting: a slip in its name would train something else for days."""
    known = {_variable(name.strip("_")) for name in settings} | {"PCTOOL_CACHE_DIR"}
    for name in sorted(os.environ):
        if name.startswith("PCTOOL_") and name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"the environment variable {name} is no setting of train; unset it{hint}")


def _check_names(dataset: str | None, preset: str | None, data_dir: Path | None) -> None:
    """Refuses an unknown name at once: what resolves the settings imports torch, which takes seconds."""
    from pctool.data import datasets, encoded
    from pctool.places import data_dir as existing_data_dir
    from pctool.training import recipes

    existing_data_dir(data_dir)
    if preset is not None and preset != "list":
        recipes.read_preset(preset)
    if dataset is not None and not encoded.is_path(dataset):
        datasets.describe(dataset, ", and a folder or ZIP that is there")
