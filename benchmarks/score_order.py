"""Do the scores order as they should? Real CIFAR-10 images against real, blurred and noisy ones.

    python benchmarks/score_order.py --weights mobilenet_v2-b0353104.pth

Two disjoint random halves of real images; the second is blurred and, apart from that, made noisy, at three strengths
each. Both distances to the first half must grow with the strength; the last line says whether they do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pctool.data import catalog
from pctool.evaluation import features
from pctool.evaluation.metrics_file import versions
from pctool.evaluation.score import score

BLUR_RADII = (0.5, 1.0, 2.0)  # pixels of 32
NOISE_DEVIATIONS = (5.0, 15.0, 45.0)  # levels of 255
BATCH_SIZE = 100


def blurred(images: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Each image [C, H, W] through Pillow's Gaussian blur."""
    pictures = (Image.fromarray(image.transpose(1, 2, 0)) for image in images)
    filtered = [np.asarray(picture.filter(ImageFilter.GaussianBlur(radius))) for picture in pictures]
    return np.ascontiguousarray(np.stack(filtered).transpose(0, 3, 1, 2))


def noisy(images: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    """Independent Gaussian noise on every pixel, clipped to bytes."""
    noise = np.random.default_rng(1).normal(0, deviation, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def main(
    weights: Annotated[Path, typer.Option(help="The network's official weights file.")],
    extractor: Annotated[str, typer.Option(help="A torchvision network, or inception.")] = "mobilenet_v2",
    n: Annotated[int, typer.Option(help="Images a side.")] = 1000,
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Scores the seven sets and prints a line each."""
    images = catalog.load("cifar10", "train", data_dir).images
    order = np.random.default_rng(0).permutation(len(images))
    first, second = images[np.sort(order[:n])], images[np.sort(order[n : 2 * n])]
    sets = {"real": [second]}
    sets["blur"] = [blurred(second, radius) for radius in BLUR_RADII]
    sets["noise"] = [noisy(second, deviation) for deviation in NOISE_DEVIATIONS]
    network = features.load(extractor, weights)
    rows: list[dict[str, Any]] = []
    for kind, strengths in (("real", (0.0,)), ("blur", BLUR_RADII), ("noise", NOISE_DEVIATIONS)):
        for strength, fake in zip(strengths, sets[kind], strict=True):
            batches = (fake[start : start + BATCH_SIZE] for start in range(0, n, BATCH_SIZE))
            scores = score(batches, first, network, n_fake=n).scores
            rows.append({"kind": kind, "strength": strength, **scores})
            if not json_:
                values = "  ".join(
                    f"{key} {value:.5g}" for key, value in scores.items() if not key.endswith(("_std", "_se"))
                )
                print(f"{kind:5} {strength:4g}  {values}", flush=True)
    distances = [
        key for key in rows[0] if key.startswith(("fd_", "kd_", "fid", "kid")) and not key.endswith(("_std", "_se"))
    ]
    series = [[row[key] for row in rows if row["kind"] in ("real", kind)] for kind in sets for key in distances]
    ordered = all(values == sorted(values) for values in series)
    if json_:
        print(json.dumps({"n": n, "ordered": ordered, "rows": rows, "versions": versions()}, indent=2))
    else:
        print("distances grow with the strength" if ordered else "distances do NOT grow with the strength")


if __name__ == "__main__":
    typer.run(main)
