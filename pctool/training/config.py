"""The configuration of a run: frozen, complete, in one place; unknown keys fail.

Precedence: default < recipe < preset < environment < flag.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pctool import files
from pctool.core.layers.preconditioner import METHODS, Method
from pctool.core.layers.strength import HISTORY, PUBLISHED_TAUS, Ladder
from pctool.core.models import RESOLUTIONS, Arch, default_widths
from pctool.core.models.blocks import Variant
from pctool.core.polynomial import MAX_COEFFS, PUBLISHED, OddPolynomial
from pctool.core.products import Precision, has_fast_bf16
from pctool.data import catalog, datasets, encoded
from pctool.data.pictures import Crop
from pctool.errors import InputError, MissingError, did_you_mean
from pctool.training.recipes import default_arch, recipe
from pctool.training.run_files import read_object

Count = Annotated[int, Field(ge=1)]
Every = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=8, le=4096)]
Batch = Annotated[int, Field(ge=2, le=2**20)]
Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Threshold = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Coeffs = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1, max_length=MAX_COEFFS)]

USED_BY: dict[str, tuple[Method, ...]] = {  # what only some methods look at; see docs/method.md
    "degree": ("fpc",),
    "poly": ("fpc",),
    "taus": ("apc",),
    "ladder": ("apc",),
    "apc_every": ("apc",),
    "apc_history": ("apc",),
    "n_power_iterations": ("sn", "fpc", "apc"),
    "skip_linear": ("fpc", "apc"),
    "layer_precision": ("fpc", "apc"),
}
INSTEAD = (("poly", "degree"), ("ladder", "taus"))  # a file, and the setting whose place it takes
NAMED_IN_OUT = ("dataset", "arch", "method", "degree", "d_iters", "seed")  # spelled out in the default run folder


class Identity(BaseModel):
    """The settings that decide what a run computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = "fashion-mnist"
    split: str | None = None
    max_images: Count | None = None
    resolution: int
    crop: Crop | None = None
    channels: int
    method: Method = "apc"
    degree: Literal[3, 5, 7, 9] = 7
    poly: Coeffs | None = None
    taus: Annotated[tuple[Threshold, ...], Field(min_length=4, max_length=4)] = PUBLISHED_TAUS
    ladder: tuple[tuple[Threshold, Coeffs], ...] | None = None
    apc_every: Count = 1000
    apc_history: Count = HISTORY
    n_power_iterations: Annotated[int, Field(ge=1, le=1000)] = 1
    skip_linear: bool = True
    arch: Arch = "resnet"
    variant: Variant = "authors"
    width_g: Width
    width_d: Width
    loss: Literal["hinge", "log"]
    d_iters: Count = 1
    g_iters: Count = 1
    steps: Count
    batch_size: Batch
    batch_size_g: Batch
    lr_g: Rate
    lr_d: Rate
    beta1: Moment
    beta2: Moment
    decay_from: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    ema_decay: Moment = 0.9999
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    precision: Precision = "fp32"
    layer_precision: Precision = "fp32"


class TrainConfig(Identity):
    """Every setting of a run, resolved; those here say where and when, and may change on resumption.

    See docs/cli.md for each one's meaning.
    """

    data_dir: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # OpenMP crashes with too many
    compile: bool = False
    cuda_graphs: bool = True
    cache_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] = catalog.CACHE_LIMIT / 1e9
    data_workers: Annotated[int, Field(ge=0)] | None = None
    out: Path
    log_every: Every = 50
    save_every: Every = 1000
    sample_every: Every = 1000
    spectrum_every: Every = 500
    eval_every: Every = 0
    eval_extractor: str | None = None
    eval_weights: Path | None = None
    keep: Count = 2
    tensorboard: bool = False
    time_limit: Literal["auto"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    stop_on_collapse: bool = False
    fork: Path | None = None

    @field_validator("data_dir", "out", "eval_weights", "fork")
    @classmethod
    def _expanded(cls, path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.expanduser(path))

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if list(self.taus) != sorted(set(self.taus)):
            raise ValueError(f"--taus: {','.join(f'{tau:g}' for tau in self.taus)} must rise, as 5,10,20,30 do")
        if self.poly is not None and self.method != "fpc":
            raise ValueError(f"a polynomial file goes with method fpc, not {self.method}")
        if self.ladder is not None and self.method != "apc":
            raise ValueError(f"a ladder file goes with method apc, not {self.method}")
        if self.stop_on_collapse and not self.spectrum_every:
            raise ValueError("--stop-on-collapse looks at the recorded spectrum; leave it or --spectrum-every 0 out")
        if (self.eval_extractor or self.eval_weights) and not self.eval_every:
            raise ValueError("--eval-extractor and --eval-weights are for scores while training: add --eval-every N")
        if self.arch == "dcgan" and self.variant != "authors":
            raise ValueError("arch dcgan has one source, the authors' code; leave --variant out")
        if self.resolution not in RESOLUTIONS[self.arch]:
            raise ValueError(_no_network(self.arch, self.resolution))
        return self

    def identity(self) -> dict[str, Any]:
        """The settings of `Identity`; a folder or ZIP counts by its name, wherever it lies."""
        settings = self.model_dump(mode="json", include=set(Identity.model_fields))
        if encoded.is_path(self.dataset):
            settings["dataset"] = os.path.basename(os.path.realpath(self.dataset))
        return settings

    def polynomial(self) -> OddPolynomial:
        """fpc's polynomial: the file's, or the published one of `degree`."""
        return OddPolynomial(self.poly) if self.poly else PUBLISHED[self.degree]

    def apc_ladder(self) -> Ladder:
        """apc's polynomials and thresholds: the file's, or the published four with `taus`."""
        if self.ladder is None:
            return Ladder(taus=self.taus)
        return Ladder(tuple(tau for tau, _ in self.ladder), tuple(OddPolynomial(coeffs) for _, coeffs in self.ladder))

    def decay_start(self) -> int:
        """The step from which the learning rates fall linearly to 0; `steps` when they never do."""
        if self.decay_from is None:
            return self.steps
        return round(self.decay_from * self.steps) if self.decay_from < 1 else round(self.decay_from)


def resolve(flags: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> TrainConfig:
    """Flags (environment included) over preset over recipe over defaults; `auto` becomes what this machine has.

    What the method has no use for (`USED_BY`) keeps its default, so that it makes no other run of it.
    `precision = "auto"` is what a run in that folder began with, else bf16 where it is fast; a preset's table
    `[without_bf16]` applies where it is not bf16, and is checked everywhere.
    Raises InputError in one line for an unknown key or a value that is not allowed, MissingError for CUDA
    asked for where there is none.
    """
    from_preset = dict(preset or {})
    without_bf16 = from_preset.pop("without_bf16", {})
    if not isinstance(without_bf16, dict):
        raise InputError(f"without_bf16 is a table of settings, not {without_bf16!r}")
    if "channels" in {**from_preset, **without_bf16, **flags}:
        raise InputError("channels follow from the data set; leave them out")
    given = {**from_preset, **flags}
    slow = {**from_preset, **without_bf16, **flags, "precision": "fp32"}
    device = resolve_device(given.get("device", "auto"))
    if given.get("precision") != "auto":
        if without_bf16:
            _checked(slow, flags, device)  # on every machine, or the mistake would wait for another one
        return _checked(given, flags, device)
    config = _checked(slow, flags, device)
    out = config.out  # the same folder on every machine, so that a job may go on on another one
    before = read_object(out / "config.json").get("config")
    begun = before.get("precision") if isinstance(before, dict) else None
    precision = begun or ("bf16" if has_fast_bf16(device) else "fp32")
    if precision != "fp32":
        config = _checked({**given, "precision": precision}, flags, device)
    return config.model_copy(update={"out": out})


def _checked(given: dict[str, Any], flags: Mapping[str, Any], device: str) -> TrainConfig:
    """The configuration of the settings given, what is left open filled in."""
    for file, own in INSTEAD:
        if file in flags and own in flags:
            raise InputError(f"--{file} and --{own} contradict each other: the file brings its own; leave one out")
        if own in flags:  # a flag wins over the preset, whose file would bring another
            given.pop(file, None)
    for key in unused(given.get("method", TrainConfig.model_fields["method"].default), given):
        given.pop(key)
    if "poly" in given:
        with contextlib.suppress(TypeError, ValueError):  # no coefficients: refused below, in one line
            given["degree"] = OddPolynomial(given["poly"]).degree
    values = {**_open_settings(given), **given}
    values.setdefault("batch_size_g", values["batch_size"])
    if values.get("fork") is not None and "out" not in values:
        raise InputError("--fork starts a new run: name its folder with --out")
    values = {key: os.path.expanduser(each) if isinstance(each, str) else each for key, each in values.items()}
    for key, value in values.items():
        if isinstance(value, str | Path) and str(value) != files.printable(str(value)):
            raise InputError(f"--{key.replace('_', '-')} {files.printable(str(value))} is no valid UTF-8; rename it")
    try:
        config = TrainConfig(**{"out": "-", **values, "device": device})
    except ValidationError as error:
        raise InputError(_one_line(error)) from None
    return config if "out" in values else config.model_copy(update={"out": default_out(config)})


def unused(method: str, settings: Iterable[str]) -> list[str]:
    """Those of the settings that the method has no use for."""
    return [key for key in settings if key in USED_BY and method in METHODS and method not in USED_BY[key]]


def _open_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe, split, resolution, crop and published widths for the experiment that `given` names."""
    dataset = str(given.get("dataset", TrainConfig.model_fields["dataset"].default))
    arch = str(given.get("arch", default_arch(dataset)))
    resolution, crop = encoded.check_choice(dataset, given.get("resolution"), given.get("crop"))
    is_path = encoded.is_path(dataset)
    if is_path and given.get("split") is not None:
        raise InputError(f"--split is for data sets; {dataset} is taken whole")
    settings: dict[str, Any] = {
        "arch": arch,
        "split": None if is_path else datasets.split_of(dataset, given.get("split")),
        "resolution": resolution,
        "crop": crop,
        "channels": 3 if is_path else catalog.describe(dataset).channels,
    }
    if arch in RESOLUTIONS:  # anything else is refused by TrainConfig, with what is allowed
        if resolution not in RESOLUTIONS[arch]:
            raise InputError(_no_network(arch, resolution))
        settings["width_g"], settings["width_d"] = default_widths(arch, resolution)  # type: ignore[arg-type]
    return {**settings, **recipe(dataset, arch, given.get("d_iters", 1))}


def _no_network(arch: str, resolution: int) -> str:
    others = ", ".join(name for name, sizes in RESOLUTIONS.items() if resolution in sizes)
    sizes = ", ".join(map(str, RESOLUTIONS[arch]))
    return f"arch {arch} has no networks at {resolution} px, but at {sizes}; at {resolution} px there are: {others}"


def default_out(config: TrainConfig) -> Path:
    """`runs/<dataset>-<arch>-<method with degree>-d<d_iters>-s<seed>`, plus a hash of what departs from the recipe."""
    method = f"fpc{config.degree}" if config.method == "fpc" and config.poly is None else config.method
    label, named = config.dataset, {key: getattr(config, key) for key in NAMED_IN_OUT}
    if encoded.is_path(config.dataset):  # which has no resolution of its own
        place = Path(os.path.realpath(config.dataset))
        label, named["resolution"] = f"{place.stem}{config.resolution}", config.resolution
    name = f"{label}-{config.arch}-{method}-d{config.d_iters}-s{config.seed}"
    own = config.identity()
    plain = resolve({**named, "out": "-"}).identity()
    departs = {key: value for key, value in own.items() if key != "steps" and value != plain[key]}
    if departs:
        name += "-" + hashlib.sha256(json.dumps(departs, sort_keys=True).encode()).hexdigest()[:6]
    return Path("runs") / name


def resolve_device(name: str) -> str:
    """`cpu` or `cuda` for auto, cpu or cuda. MissingError for CUDA where there is none; `eval` uses it too."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            "--device cuda: this machine has no usable CUDA device; use --device cpu, or see 'pctool doctor'"
        )
    return name


def unknown_setting(key: str) -> str:
    """What to say of a setting that there is not."""
    hint = did_you_mean(key, TrainConfig.model_fields)
    return f"unknown setting {key!r}; see 'pctool train --help' for the settings there are{hint}"


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "configuration"
    if first["type"] == "extra_forbidden":
        return unknown_setting(str(first["loc"][0]))
    if first["type"] == "value_error":
        return f"{first['ctx']['error']}"
    if first["loc"][:1] == ("taus",):
        return f"{where}: four rising numbers above 0 are needed, for example 5,10,20,30"
    if first["loc"][:1] == ("time_limit",):
        return f"{where}: {first['input']!r} is not allowed; minutes above 0 are, and 'auto'"
    if first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        hint = did_you_mean(str(first["input"]), choices)
        return f"{where}: {first['input']!r} is not allowed; allowed: {first['ctx']['expected']}{hint}"
    return f"{where}: {first['input']!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"
