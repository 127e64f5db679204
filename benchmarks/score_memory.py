"""How much memory does an evaluation of 50,000 images with 2048 features take?

    python benchmarks/score_memory.py

Random images through a random linear map to 2048 features and 1008 classes, in place of Inception, so that what is
measured is what grows: moments, features of KID, probabilities. Peak resident memory as the system counts it, memory
maps included. `--metrics` may add pr, precision and recall: many minutes on two cores.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from pctool.evaluation.features import Extractor
from pctool.evaluation.images import ImageArray
from pctool.evaluation.metric_names import chosen
from pctool.evaluation.score import score

SIZE = 8  # pixels a side: the images themselves are to weigh little
N_FEATURES, N_CLASSES = 2048, 1008  # of Inception
LIMIT = 2 * 1024**3  # bytes


def random_network() -> Extractor:
    """A fixed random map of the pixels, rectified, and a softmax of a map of that."""
    rng = torch.Generator().manual_seed(0)
    first = torch.randn(3 * SIZE * SIZE, N_FEATURES, generator=rng) / 128
    second = torch.randn(N_FEATURES, N_CLASSES, generator=rng) / 16

    def network(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = (x.flatten(1) @ first / SIZE).relu()
        return features, (features @ second).softmax(1)

    return Extractor("random", "0" * 64, 3, SIZE, "none", True, torch.device("cpu"), network)


def drawn(n: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """Random images in batches of 100."""
    rng = np.random.default_rng(seed)
    for start in range(0, n, 100):
        yield rng.integers(0, 256 - 40 * seed, (min(100, n - start), 3, SIZE, SIZE), np.uint8)


def main(
    n: Annotated[int, typer.Option(help="Images a side.")] = 50_000,
    metrics: Annotated[str, typer.Option(help="Of fid, kid, is and pr.")] = "fid,kid,is",
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of a line.")] = False,
) -> None:
    """Scores random images, and prints the peak memory of this process."""
    wanted = chosen(metrics)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PCTOOL_CACHE_DIR"] = folder
        real = ImageArray(np.concatenate(list(drawn(n, 0))))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        score(drawn(n, 1), real, random_network(), n_fake=n, metrics=wanted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.perf_counter() - started
    if json_:
        answer = {"n": n, "metrics": wanted, "peak_bytes": peak, "bytes_before": before, "seconds": seconds}
        print(json.dumps({**answer, "ok": peak < LIMIT}, indent=2))
        return
    print(
        f"{n:,} images a side, {', '.join(wanted)}: peak {peak / 1024**2:,.0f} MiB, before {before / 1024**2:,.0f} MiB,"
    )
    print(f"{seconds:.0f} s; {'below' if peak < LIMIT else 'ABOVE'} 2 GiB")


if __name__ == "__main__":
    typer.run(main)
