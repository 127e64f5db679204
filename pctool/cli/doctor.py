"""`pctool doctor`: what is installed, what is missing, and what that means."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Annotated

import typer

_PACKAGES = ("torch", "torchvision", "numpy", "scipy", "cvxpy", "h5py", "clean-fid", "pydantic", "matplotlib")


def doctor(json_: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> None:
    """Says what this machine has, what is missing, and what that means for you.

    Example: pctool doctor
    """
    from pctool.cli.console import output, print_json

    findings = _findings()
    if json_:
        print_json({"checks": [{"check": c, "found": f, "means": m} for c, f, m in findings]})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("", "found", "what it means"):
        table.add_column(heading, overflow="fold")
    for check, found, means in findings:
        table.add_row(check, found, means)
    output().print(table)


def _findings() -> list[tuple[str, str, str]]:
    return [
        ("pctool", importlib.metadata.version("pctool"), f"on Python {platform.python_version()}"),
        *[(name, _version(name), "") for name in _PACKAGES],
        *_device(),
        *_places(),
        *_data(),
        _inception(),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing: pip install pctool again"


def _device() -> list[tuple[str, str, str]]:
    import torch

    from pctool.training.config import has_fast_bf16

    cores = str(os.cpu_count())
    cpu = "bf16 is fast here: --precision auto uses it" if has_fast_bf16("cpu") else "no fast bf16: fp32 is used"
    rows = [("CPU", f"{cores} cores", cpu)]
    if not torch.cuda.is_available():
        return [
            *rows,
            ("GPU", "none usable", "training runs on the CPU: the demo, small runs; no full experiment"),
        ]
    return [*rows, ("GPU", torch.cuda.get_device_name(), "used by default (--device auto)")]


def _places() -> list[tuple[str, str, str]]:
    from pctool.places import cache_dir, data_dir

    return [
        ("data", str(data_dir()), "data sets; PCTOOL_DATA_DIR changes it"),
        ("cache", str(cache_dir()), "weights, reference statistics; PCTOOL_CACHE_DIR changes it"),
    ]


def _data() -> list[tuple[str, str, str]]:
    from pctool.data.catalog import DATASETS, states

    rows: list[tuple[str, str, str]] = []
    for name in DATASETS:
        for found in states(name):
            usable = found.problem is None
            rows.append((f"{name} {found.split}", found.state, "can be used" if usable else str(found.problem)))
    return rows


def _inception() -> tuple[str, str, str]:
    from pctool.evaluation.inception import default_path

    path = default_path()
    if path.exists():
        return ("Inception", str(path), "FID can be measured")
    return (
        "Inception",
        "no weights",
        "pctool data fetch inception brings them; fashion-cnn works without",
    )
