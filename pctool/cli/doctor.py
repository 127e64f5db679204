"""`pctool doctor`: what is installed, what is missing, and what that means."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import textwrap
from collections.abc import Callable
from typing import Annotated

import typer

from pctool.errors import PctoolError
from pctool.places import n_processors

Row = tuple[str, str, str]  # what was looked for, what was found, what that means

_PACKAGES = {
    "torch": "networks, training, singular values",
    "torchvision": "classification networks as extractors of eval",
    "numpy": "arrays and float64 mathematics",
    "scipy": "what cvxpy and clean-fid build on",
    "cvxpy": "the solver of fit-poly",
    "h5py": "spectra as HDF5 files",
    "lmdb": "LSUN's databases",
    "pillow": "image files and sample grids",
    "safetensors": "exports, and the built-in classifier",
    "filelock": "one process a run folder",
    "clean-fid": "the resizer that FID is defined with",
    "pydantic": "strict configurations and JSON files",
    "matplotlib": "plots",
    "tensorboard": "only for train --tensorboard",
}
_EXTRAS = ("tensorboard",)  # of pctool, with the versions that fit
_LONGEST_FOUND = 16  # characters that the second column is made wide for; paths go beyond it


def doctor(json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Says what this machine has, what is missing, and what that means for you.

    Example: pctool doctor
    """
    from pctool.cli.console import output, print_json

    findings = _findings()
    if json_:
        print_json({"checks": [{"check": c, "found": f, "means": m} for c, f, m in findings]})
        return
    console = output()
    for line in _lines(findings, console.width if console.is_terminal else None):
        console.print(line, markup=False, soft_wrap=True)


def _lines(findings: list[Row], width: int | None) -> list[str]:
    """A line a row; in a terminal too narrow for that, what it means goes below, with quoted commands left whole."""
    first = max(len(check) for check, _, _ in findings)
    second = max(len(found) for _, found, _ in findings if len(found) <= _LONGEST_FOUND)
    lines = []
    for check, found, means in findings:
        line = f"{check:<{first}}  {found:<{second}}  {means}"
        if width is None or len(line) <= width:
            lines.append(line)
            continue
        lines.append(f"{check:<{first}}  {found}")
        whole = re.sub(r"\"[^\"]*\"|(?<!\w)'[^']*'", lambda quoted: quoted[0].replace(" ", "\0"), means)
        below = textwrap.wrap(
            whole,
            width,
            initial_indent="    ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [part.replace("\0", " ") for part in below]
    return lines


def _findings() -> list[Row]:
    return [
        _pctool(),
        *[_package(name, serves) for name, serves in _PACKAGES.items()],
        *_tried("CPU and GPU", _device),
        *_tried("data", _data_dir),
        *_tried("cache", _cache_dir),
        *_tried("data sets", _data),
        *_tried("Inception", _inception),
        ("fashion-cnn", "built in", "scores grey images, as of fashion-mnist, offline; that is no FID"),
    ]


def _pctool() -> Row:
    python = f"on Python {platform.python_version()}"
    try:
        return ("pctool", importlib.metadata.version("pctool"), python)
    except importlib.metadata.PackageNotFoundError:
        return ("pctool", "not installed", f"run from its source {python}; pip install it, as README.md says")


def _package(name: str, serves: str) -> Row:
    try:
        return (name, importlib.metadata.version(name), serves)
    except importlib.metadata.PackageNotFoundError:
        command = f"\"pip install 'pctool[{name}]'\"" if name in _EXTRAS else f"'pip install {name}'"
        return (name, "missing", f"{serves}: get it with {command}")


def _tried(check: str, find: Callable[[], list[Row]]) -> list[Row]:
    """The rows that `find` gives, or one that says why it could not: a doctor must outlive what it looks at."""
    try:
        return find()
    except PctoolError as error:
        return [(check, "cannot be used", str(error))]
    except (ImportError, OSError) as error:  # OSError: a shared library of torch that does not load
        reason = " ".join(str(error).split())
        return [(check, "cannot be told", f"{reason}; first mend the packages above")]


def _device() -> list[Row]:
    import torch

    from pctool.core.products import has_fast_bf16

    cpu = (
        "bf16 is fast here: --precision auto uses it"
        if has_fast_bf16("cpu")
        else "neither AMX nor avx512_bf16: fp32 is used"
    )
    gpu = ("none usable", "training runs on the CPU: the demo, small runs; no full experiment")
    if torch.cuda.is_available():
        gpu = (torch.cuda.get_device_name(), "used by default (--device auto)")
    return [("CPU", f"{n_processors()} cores", cpu), ("GPU", *gpu)]


def _data_dir() -> list[Row]:
    from pctool.places import data_dir

    return [("data", str(data_dir()), "data sets; PCTOOL_DATA_DIR changes it")]


def _cache_dir() -> list[Row]:
    from pctool.places import cache_dir

    return [("cache", str(cache_dir()), "weights, reference statistics; PCTOOL_CACHE_DIR changes it")]


def _data() -> list[Row]:
    from pctool.data.catalog import DATASETS, states

    found = [state for name in DATASETS for state in states(name)]
    return [(f"{each.name} {each.split}", each.state, each.problem or "can be used") for each in found]


def _inception() -> list[Row]:
    from pctool.evaluation.inception import default_path

    path = default_path()
    if path.exists():
        return [("Inception", str(path), "FID can be measured")]
    return [("Inception", "no weights", "no FID: 'pctool data fetch inception' brings them")]
