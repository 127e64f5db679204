"""`pctool spectrum`: all singular values of checkpoints, in one HDF5 file, as tables and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pctool.cli.console import clean_up_when_terminated
from pctool.errors import InputError


def spectrum(  # noqa: PLR0917  # every setting is a flag of its own
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT",
            help="Checkpoints, state dicts, .safetensors files, run folders (all their checkpoints), quoted patterns; "
            "or one spectrum file, such as RUN/spectrum.h5, to show.",
        ),
    ],
    network: Annotated[
        Literal["D", "G", "G_ema"] | None,
        typer.Option("--network", help="Whose layers. [what the file tells it holds, else D]", show_default=False),
    ] = None,
    layers: Annotated[str, typer.Option("--layers", help="Only layers whose name fits this pattern.")] = "*",
    operator: Annotated[
        Literal["matrix", "fft"],
        typer.Option(
            "--operator", help="The paper's matrix, out x in k k, or the convolution as a map on a periodic grid."
        ),
    ] = "matrix",
    grid: Annotated[
        int | None,
        typer.Option("--grid", min=1, help="Points a side of fft's grid. [16]", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Where to write. [<first input>.spectrum.h5; what departs from the defaults stands in the name]",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the figures into this folder, as PNG and SVG.", metavar="DIR")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="So many checkpoints at once. [up to a core each]", show_default=False),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the spectrum of a running job until it ends (or Ctrl-C).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that hold something else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """All singular values of every layer, raw and as applied, with their condition numbers, into one HDF5 file.

    Prints Table 1's columns by both definitions of kappa, and the five smallest values of each layer.

    Example: pctool spectrum runs/demo --plot figures
    """
    if grid is not None and operator == "matrix":
        raise InputError("--grid is for --operator fft; add that, or leave --grid out")
    given = {"--network": network, "--out": out, "--jobs": jobs, "--grid": grid}
    changed = [name for name, value in given.items() if value is not None]
    changed += ["--layers"] * (layers != "*") + ["--operator"] * (operator != "matrix")
    recorded = watch or inputs[0].endswith((".h5", ".hdf5"))
    if recorded and (len(inputs) > 1 or changed):
        what = "--watch follows one run" if watch else "a spectrum file is shown as it is"
        raise InputError(f"{what}: leave out {', '.join([*changed, *inputs[1:]])}")
    clean_up_when_terminated()
    if recorded:
        from pctool.cli import spectrum_shown

        spectrum_shown.show_recorded(inputs[0], watch=watch, plot=plot, force=force, as_json=as_json)
        return
    from pctool.cli import spectrum_session as session

    points = (grid or 16) if operator == "fft" else None
    settings = session.Settings(inputs, network, layers, points, out, plot, jobs)
    session.measure(settings, force=force, as_json=as_json)
