"""`pctool spectrum`: all singular values of checkpoints, in one HDF5 file, as tables and as figures."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pctool import files
from pctool.cli.console import note, output, print_json, progress
from pctool.errors import InputError, PartialError

if TYPE_CHECKING:
    from pctool.spectrum.measure import Row
    from pctool.spectrum.reader import LayerSeries, Spectrum


def spectrum(  # noqa: PLR0917  # every setting is a flag of its own
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT", help="Checkpoint files, run folders (all their checkpoints), or quoted patterns."
        ),
    ],
    network: Annotated[Literal["D", "G", "G_ema"], typer.Option("--network", help="Whose layers.")] = "D",
    layers: Annotated[str, typer.Option("--layers", help="Only layers whose name fits this pattern.")] = "*",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to write. [<name of the first input>.spectrum.h5]", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the figures into this folder, as PNG and SVG.", metavar="DIR")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that hold something else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """All singular values of every layer, raw and as applied, with their condition numbers, into one HDF5 file.

    Prints Table 1's columns by both definitions of kappa, and the five smallest values of each layer.

    Example: pctool spectrum runs/demo --plot figures
    """
    from pctool.spectrum.reader import parse_spectrum
    from pctool.spectrum.sources import find_checkpoints, measure_checkpoints
    from pctool.spectrum.store import file_image

    paths = find_checkpoints(inputs)
    target = out or default_out(inputs, paths)
    _check_places(target, plot, paths)
    with progress("spectrum", len(paths), "checkpoints") as advance:
        rows = measure_checkpoints(paths, network, layers, advance)
    source = " ".join(inputs).encode("utf-8", "replace").decode()  # a file name need not be valid text
    image = file_image(rows, source, network)
    measured = parse_spectrum(image, str(target))
    contents = {target: image}
    if plot:
        from pctool.spectrum.plots import figures

        contents |= {plot / name: data for name, data in figures(measured).items()}
    _write(contents, force)
    if as_json:
        print_json(_summary(measured, list(contents)))
    else:
        _show(measured)
        follow = _eval(inputs, paths) if plot else _with_plot(inputs, network, layers, out)
        _name_files(target, plot, follow)
    _report_problems(rows)


def default_out(inputs: Sequence[str], paths: Sequence[Path]) -> Path:
    """`<name>.spectrum.h5` in the current folder: of the first input, or the first file that a pattern gave."""
    first = Path(inputs[0]) if Path(inputs[0]).exists() else paths[0]
    name = first.resolve().name if first.is_dir() else first.stem
    return Path(f"{name}.spectrum.h5")


def _check_places(target: Path, plot: Path | None, paths: Sequence[Path]) -> None:
    """Before any work: what could not be written in any case."""
    if target.is_dir():
        raise InputError(f"--out {target} is a folder; give a file name such as {target / 'spectrum.h5'}")
    if target.resolve() in {path.resolve() for path in paths}:
        raise InputError(f"--out {target} is one of the checkpoints to read; give another name")
    if plot and plot.exists() and not plot.is_dir():
        raise InputError(f"--plot {plot} is a file; give a folder")


def _write(contents: dict[Path, bytes], force: bool) -> None:
    """All files, or none where one of them exists with other content. The same content is left as it is."""
    missing = {path: data for path, data in contents.items() if not _holds(path, data)}
    in_the_way = [path for path in missing if path.exists()]
    if in_the_way and not force:
        raise InputError(f"{in_the_way[0]} exists with other content; add --force to overwrite, or name another place")
    for path, data in missing.items():
        files.write_bytes(path, data)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:  # it is not there, or cannot be read: no
        return False


def _show(measured: Spectrum) -> None:
    from pctool.spectrum.tables import layer_table, summary_table

    console = output()
    console.print(summary_table(measured))
    console.print()
    console.print(layer_table(measured, ascii_only=console.options.ascii_only))
    console.print()


def _name_files(target: Path, plot: Path | None, follow: Sequence[str]) -> None:
    console = output()
    console.print(f"all singular values: {target}", markup=False)
    if plot:
        console.print(f"figures: {plot}", markup=False)
    console.print(f"next: {shlex.join(['pctool', *follow])}", markup=False)


def _eval(inputs: Sequence[str], paths: Sequence[Path]) -> list[str]:
    return ["eval", inputs[0] if Path(inputs[0]).exists() else str(paths[-1])]


def _with_plot(inputs: Sequence[str], network: str, layers: str, out: Path | None) -> list[str]:
    """The same command, drawing as well."""
    command = ["spectrum", *inputs]
    command += ["--network", network] if network != "D" else []
    command += ["--layers", layers] if layers != "*" else []
    command += ["--out", str(out)] if out else []
    return [*command, "--plot", "figures"]


def _summary(measured: Spectrum, written: Sequence[Path]) -> dict[str, Any]:
    """What `--json` prints: the summary a step, the layers at the last step; null for inf and NaN."""
    return {
        "out": str(written[0]),
        "plots": [str(path) for path in written[1:]],
        "source": measured.source,
        "network": measured.network,
        "operator": measured.operator,
        "steps": measured.steps.tolist(),
        "summary": {name: [_finite(value) for value in values] for name, values in measured.summary.items()},
        "layers": [_layer(layer) for layer in measured.layers],
    }


def _layer(layer: LayerSeries) -> dict[str, Any]:
    from pctool.spectrum.tables import smallest

    ratio = layer.sigma_over_sigma_hat
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "strength": int(layer.strength[-1]),
        "kappa": _finite(layer.kappa[-1]),
        "modified_kappa": _finite(layer.modified_kappa[-1]),
        "kappa_raw": _finite(layer.kappa_raw[-1]),
        "modified_kappa_raw": _finite(layer.modified_kappa_raw[-1]),
        "sigma_over_sigma_hat": None if ratio is None else _finite(ratio[-1]),
        "smallest": [_finite(sigma) for sigma in smallest(layer.effective[-1])[::-1]],
        "problem": layer.problem,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _report_problems(rows: Sequence[Row]) -> None:
    """A note a layer that could not be measured, then exit 6: everything else has been written."""
    problems = [f"step {row.step}: {problem}" for row in rows for problem in row.problems]
    for problem in problems:
        note(problem)
    if problems:
        raise PartialError(f"{len(problems)} measurements are NaN, the first: {problems[0]}; the rest is complete")
