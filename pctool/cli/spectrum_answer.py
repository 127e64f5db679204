"""The answer of `pctool spectrum`: tables on a terminal, or one JSON object."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pctool.cli.console import finite, note, output
from pctool.core.polynomial_report import LAYER_UPPER
from pctool.spectrum.reader import LayerSeries, Spectrum
from pctool.spectrum.tables import layer_table, smallest, summary_table


def show(measured: Spectrum) -> None:
    """Table 1's columns, the layers of the last step, and which of them could not be measured, since when and why."""
    console = output()
    console.print(summary_table(measured))
    console.print()
    width = console.width if console.is_terminal else None
    console.print(layer_table(measured, width, ascii_only=console.options.ascii_only))
    for layer in measured.layers:
        if layer.problem:
            console.print(f"layer {layer.name} could not be measured: {layer.problem}", markup=False)
    console.print()


def figures_into(plot: Path | None, measured: Spectrum) -> dict[Path, bytes]:
    """The figures by the files that they go to, none without a folder."""
    if plot is None:
        return {}
    from pctool.spectrum.plots import figures

    return {plot / name: data for name, data in figures(measured).items()}


def warn(measured: Spectrum) -> None:
    """A note of layers whose norm is far above the power iteration's estimate, as where that never ran."""
    ratios = {each.name: each.sigma_over_sigma_hat for each in measured.layers if each.sigma_over_sigma_hat is not None}
    beyond = [name for name, ratio in ratios.items() if (ratio > LAYER_UPPER).any()]
    if not beyond:
        return
    worst = max(beyond, key=lambda name: np.nanmax(ratios[name]))
    at = int(np.nanargmax(ratios[worst]))
    note(
        f"sigma / sigma_hat is above {LAYER_UPPER} in {len(beyond)} of {len(measured.layers)} layers, "
        f"{ratios[worst][at]:.3g} in {worst} at step {measured.steps[at]}: its u and v were never iterated or lag far "
        "behind W, and normalized and effective are of that estimate"
    )


def taken_as_dense(measured: Spectrum) -> str | None:
    """What to say of operators of convolutions with one input channel, which may be depthwise."""
    names = [layer.name for layer in measured.layers if layer.kind == "conv" and layer.shape[1] == 1 < layer.shape[0]]
    if not names:
        return None
    return (
        f"{len(names)} of {len(measured.layers)} layers have one input channel, the first {names[0]}: weights do not "
        "tell groups, and the operator of a depthwise convolution is another one than measured here"
    )


def follow_up(target: Path, plot: Path | None, command: Sequence[str], scored: str) -> None:
    """Names the files, and the next command: figures first, then the scores of `scored` where that is a run."""
    console = output()
    console.print(f"all singular values: {target}", markup=False)
    if plot:
        console.print(f"figures: {plot}", markup=False)
    run = Path(scored)
    if plot is None:
        console.print(f"next: {shlex.join(['pctool', *command, '--plot', 'figures'])}", markup=False)
    elif (run / "checkpoints").is_dir() or run.parent.name == "checkpoints":  # eval scores no foreign weights
        console.print(f"next: {shlex.join(['pctool', 'eval', scored])}", markup=False)


def summary(measured: Spectrum, target: Path, plots: Sequence[Path], skipped: Mapping[str, str]) -> dict[str, Any]:
    """What `--json` prints: the summary a step, the layers at the last step; null for inf and NaN."""
    return {
        "out": str(target),
        "plots": [str(path) for path in plots],
        "skipped": dict(skipped),
        "source": measured.source,
        "network": measured.network,
        "operator": measured.operator,
        "steps": measured.steps.tolist(),
        "summary": {name: [finite(value) for value in values] for name, values in measured.summary.items()},
        "layers": [_layer(layer) for layer in measured.layers],
    }


def _layer(layer: LayerSeries) -> dict[str, Any]:
    ratio = layer.sigma_over_sigma_hat
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "strength": int(layer.strength[-1]),
        "kappa": finite(layer.kappa[-1]),
        "modified_kappa": finite(layer.modified_kappa[-1]),
        "kappa_raw": finite(layer.kappa_raw[-1]),
        "modified_kappa_raw": finite(layer.modified_kappa_raw[-1]),
        "sigma_over_sigma_hat": None if ratio is None else finite(ratio[-1]),
        "smallest": [finite(sigma) for sigma in smallest(layer.effective[-1])[::-1]],
        "problem": layer.problem,
    }
