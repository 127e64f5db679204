"""The answers of `pctool data`: tables or JSON."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pctool.cli import console

if TYPE_CHECKING:
    from pctool.data.acquire import Outcome
    from pctool.data.catalog import ImageSet, SplitState

OUTCOMES = {
    "built in": "{name} is built in: there is nothing to do",
    "already here": "{name} was already here; every byte is verified",
    "imported": "{name} is imported and verified",
    "fetched": "{name} is fetched and verified",
}


def report(name: str, outcome: Outcome, data_dir: Path | None, as_json: bool) -> None:
    """What became of a data set, where it lies, and what to do next."""
    from pctool.data import catalog

    states = catalog.states(name, data_dir)
    if as_json:
        console.print_json({"name": name, "outcome": outcome, "splits": [_as_dict(state) for state in states]})
        return
    console.output().print(OUTCOMES[outcome].format(name=name), markup=False)
    for state in states:
        if state.path:
            console.output().print(f"  {state.path}", markup=False)
    place = ["--data-dir", str(data_dir)] if data_dir else []
    command = shlex.join(["pctool", "train", "--dataset", name, *place])
    console.output().print(f"next: {command}", markup=False)


def prepared(  # noqa: PLR0917  # what was prepared
    name: str, loaded: ImageSet, extractor: str, weights: str, weights_path: Path | None, as_json: bool
) -> None:
    """The images that are ready, and the `weights` (an outcome of `cli.weights`) of what scores a run on them."""
    from pctool.data.decoding import EncodedImages

    streamed = isinstance(loaded.images, EncodedImages)
    path = getattr(loaded.images, "filename", None)
    if as_json:
        console.print_json(
            {
                "name": name,
                "split": loaded.split,
                "images": len(loaded.images),
                "shape": list(loaded.images.shape[1:]),
                "sha256": loaded.sha256,
                "cache": str(path) if path else None,
                "streamed": streamed,
                "scores": {
                    "extractor": extractor,
                    "weights": weights,
                    "path": str(weights_path) if weights_path else None,
                },
            }
        )
        return
    where = "streamed while training" if streamed else f"in {path}" if path else "inside the package"
    size = "x".join(map(str, reversed(loaded.images.shape[1:])))
    console.output().print(f"{name}: {len(loaded.images):,} images of {size}, {where}", markup=False)
    of_weights = {
        "built in": "inside the package",
        "not here": f"whose weights are not here: 'pctool data fetch {extractor}' brings them",
    }
    scored_by = of_weights.get(weights, f"its weights verified, in {weights_path}")
    console.output().print(f"scored by {extractor}, {scored_by}", markup=False)


def show(states: list[SplitState], as_json: bool) -> None:
    """A row a split, or one JSON object."""
    if as_json:
        console.print_json({"splits": [_as_dict(state) for state in states]})
        return
    rows = [("data set", "split", "images", "size", "state", "where")]
    for state in states:
        size = f"{state.resolution} x {state.resolution} x {state.channels}"
        where = str(state.path or "in the package")
        rows.append((state.name, state.split, f"{state.images:,}", size, state.state, where))
    for line in console.columns(rows, right=2):
        console.output().print(line, markup=False)


def _as_dict(state: SplitState) -> dict[str, object]:
    from pctool.data import catalog

    about = catalog.DATASETS.get(state.name)
    return {
        **vars(state),
        "path": str(state.path) if state.path else None,
        "licence": about.licence if about else None,
        "address": about.address if about else None,
    }
