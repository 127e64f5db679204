"""`pctool export`: a network of a checkpoint as safetensors."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from pctool import files
from pctool.cli.console import output, print_json
from pctool.errors import InputError


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, or a run folder (its newest checkpoint).")
    ],
    network: Annotated[
        Literal["G_ema", "G", "D"],
        typer.Option("--network", help="A generator, or the discriminator with the weights it applies, g(SN(W))."),
    ] = "G_ema",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write. [<run>-<step>-<network>.safetensors]", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that holds something else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """One network as plain tensors (safetensors), which load without this package.

    D's file holds no normalisation any more: a plain network of the same layers computes what D does.

    Example: pctool export runs/demo --network G_ema
    """
    from pctool.core import checkpoint as checkpoints
    from pctool.core.export import description, plain_weights, to_safetensors

    is_run = checkpoint.is_dir()
    path, loaded = checkpoints.newest(checkpoint) if is_run else (checkpoint, checkpoints.read(checkpoint))
    step = int(loaded["step"])
    target = out or Path(f"{_run_name(path)}-{step:08d}-{network}.safetensors")
    if os.path.isdir(target):  # False, not an error, where it may not be looked at: then writing says so
        raise InputError(f"--out {target} is a folder; give a file name such as {target / 'G.safetensors'}")
    if target.suffix != ".safetensors":
        raise InputError(f"--out {target}: the file is a .safetensors; name it so")
    tensors = plain_weights(loaded, network)
    about = description(loaded, network)
    files.write_new({target: to_safetensors(tensors, about)}, force=force)
    if as_json:
        shapes = {key: list(value.shape) for key, value in tensors.items()}
        print_json({"out": str(target), "network": network, "step": step, "metadata": about, "tensors": shapes})
        return
    count = sum(value.numel() for value in tensors.values())
    output().print(f"{network} at step {step:,}, {len(tensors)} tensors, {count:,} numbers: {target}", markup=False)
    if network == "D":
        output().print(f"next: {shlex.join(['pctool', 'spectrum', str(target)])}", markup=False)


def _run_name(path: Path) -> str:
    """The run a checkpoint lies in, as RUN/checkpoints/<step>.pt; its own name elsewhere."""
    inside = path.resolve().parent
    return inside.parent.name if inside.name == "checkpoints" and inside.parent.name else path.stem
