"""What is left open follows the experiment: recipes by (dataset, arch, d_iters), and presets as TOML files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pctool.errors import InputError, did_you_mean

# Beneath every recipe: the authors' Adam and batch (their public code), hinge loss on the ResNet (paper, Sec. 4).
_ALWAYS: dict[str, Any] = {"loss": "hinge", "lr_g": 2e-4, "lr_d": 2e-4, "batch_size": 64}
_FIVE_TO_ONE = {"beta1": 0.0, "beta2": 0.9}
_ONE_TO_ONE = {"beta1": 0.5, "beta2": 0.999}


def default_arch(dataset: str) -> str:
    """The networks of the paper's runs on a data set: the LSUN nets for LSUN, else the residual ones."""
    return "dcgan" if dataset.startswith("lsun-") else "resnet"


def recipe(dataset: str, arch: str, d_iters: int) -> dict[str, Any]:
    """The settings an experiment starts from. Steps and decay are the authors'; see docs/train.md for each source.

    An experiment that nobody published takes the nearest: the CIFAR-10 recipe for the same arch and d_iters.
    """
    if arch == "cnn":  # SN-GAN's settings B (d_iters 1) and A (5), 100k steps, the learning rate held
        betas = {"beta1": 0.5, "beta2": 0.999 if d_iters == 1 else 0.9}
        return {**_ALWAYS, **betas, "loss": "log", "lr_g": 1e-4, "lr_d": 1e-4, "steps": 100_000}
    betas = _ONE_TO_ONE if d_iters == 1 else _FIVE_TO_ONE
    if arch == "dcgan":  # the authors' LSUN runs, all of them (1,1): the decay starts at 50k of 200k steps
        return {**_ALWAYS, **betas, "loss": "log", "steps": 200_000, "decay_from": 0.25}
    if dataset == "fashion-mnist":  # built in: sized for a laptop, from no paper
        return {**_ALWAYS, **betas, "width_g": 64, "width_d": 64, "steps": 10_000, "decay_from": 0.5}
    if dataset == "stl10" and d_iters == 1:  # the authors' run; the decay starts at 150k of 200k steps
        return {**_ALWAYS, **betas, "steps": 200_000, "decay_from": 0.75}
    return {**_ALWAYS, **betas, "steps": 200_000 if d_iters == 1 else 100_000, "decay_from": 0.5}


def read_preset(name: str) -> dict[str, Any]:
    """The table of a preset: `name` of one that is shipped, or a path to a TOML file.

    Raises InputError for an unknown name, an unreadable file or broken TOML.
    """
    return read_toml(shipped("preset", name, presets_folder()))


def shipped(kind: str, name: str, folder: Path) -> Path:
    """The TOML file of that name in `folder`, or `name` where it is a path to one. Raises InputError for neither."""
    if Path(name).suffix == ".toml":
        return Path(name)
    known = headers(folder)
    if name not in known:
        hint = did_you_mean(name, known) or f"; shipped are {', '.join(known)}"
        raise InputError(f"unknown {kind} {name!r}: neither a shipped one nor a .toml file{hint}")
    return folder / f"{name}.toml"


def headers(folder: Path) -> dict[str, str]:
    """The shipped TOML files of a folder by name, sorted, each with the first line of its header."""
    found = {path.stem: path for path in folder.glob("*.toml")}
    return {name: found[name].read_text(encoding="utf-8").splitlines()[0].strip("# ") for name in sorted(found)}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from None
    except (ValueError, RecursionError) as error:  # of a number of 5,000 digits, or lists within lists, too
        raise InputError(f"{path} is not TOML: {error}") from None


def presets_folder() -> Path:
    """Inside the installed package, or beside it in a source tree."""
    installed = Path(str(resources.files("pctool"))) / "presets"
    return installed if installed.is_dir() else installed.parent.parent / "presets"


def as_toml(values: Mapping[str, Any]) -> str:
    """Settings as JSON values, a line each, in the form of a preset; None is to be left out, TOML has none."""
    lines = []
    for name, value in values.items():
        comment = "# " if name == "channels" else ""  # of the data set; a preset may not have them
        lines.append(f"{comment}{name} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)
