"""How much faster is our Frechet distance than with scipy.linalg.sqrtm, and does it give the same number?

    python benchmarks/frechet_time.py
    python benchmarks/frechet_time.py --json > frechet_time.json

Two full-rank covariances of 2048 dimensions, both ways in turn in one process, after a small problem that loads the
libraries; each pair begins with the other way, and the ratio is the median of the pairs'. Then covariances of fewer
vectors than dimensions, against the nuclear norm of the centred features. The last line says whether all limits hold.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import scipy.linalg
import typer
from numpy.typing import NDArray

from pctool.evaluation.frechet import Moments, frechet_distance
from pctool.evaluation.metrics_file import versions

FASTER, EQUAL, EQUAL_DEFICIENT = 5.0, 1e-8, 1e-12  # the limits in docs/eval.md


def features(n: int, dim: int, seed: int) -> NDArray[np.float64]:
    """Correlated features [n, dim] whose variances fall over four decades, as a network's do."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) / np.sqrt(dim)
    return rng.standard_normal((n, dim)) * np.logspace(0, -2, dim) @ mixing + 0.1 * seed


def by_square_root(a: Moments, b: Moments) -> float:
    """The usual formula."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's remark on singular matrices
        root = scipy.linalg.sqrtm(a.cov @ b.cov)
    delta = a.mean - b.mean
    return float(delta @ delta + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(root).real)


def by_nuclear_norm(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """tr (AB)^1/2 is the sum of the singular values of X Y^T, centred and scaled by 1 / sqrt(n - 1)."""
    delta = x.mean(0) - y.mean(0)
    x, y = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))
    return float(delta @ delta + (x * x).sum() + (y * y).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum())


def timed(way: Callable[[Moments, Moments], float], a: Moments, b: Moments) -> tuple[float, float]:
    """Value and seconds."""
    start = time.perf_counter()
    return way(a, b), time.perf_counter() - start


def by_moments(a: Moments, b: Moments) -> float:
    """Our way."""
    return frechet_distance(a.mean, a.cov, b.mean, b.cov)


Timed = list[tuple[float, float]]


def pairs(a: Moments, b: Moments, repeats: int) -> tuple[Timed, Timed]:
    """Values and seconds of our way and of the usual one, one after the other, and in the other order next time."""
    ours: Timed = []
    theirs: Timed = []
    for i in range(repeats):
        for way, found in [(by_moments, ours), (by_square_root, theirs)][:: 1 if i % 2 == 0 else -1]:
            found.append(timed(way, a, b))
    return ours, theirs


def main(
    dim: Annotated[int, typer.Option(help="Number of features.")] = 2048,
    repeats: Annotated[int, typer.Option(help="Pairs of both ways.", min=1)] = 5,
    json_: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
) -> None:
    """Times both ways in turn, and prints medians, ratio and differences."""
    small = [Moments.of(features(128, 64, seed)) for seed in (0, 1)]
    by_square_root(*small), by_moments(*small)
    a, b = (Moments.of(features(2 * dim, dim, seed)) for seed in (0, 1))
    ours, theirs = pairs(a, b, repeats)
    ratios = [slow / quick for (_, quick), (_, slow) in zip(ours, theirs, strict=True)]
    deficient = {}
    for n in (dim // 4, dim // 2):
        x, y = features(n, dim, 0), features(n, dim, 1)
        expected = by_nuclear_norm(x, y)
        deficient[n] = abs(by_moments(Moments.of(x), Moments.of(y)) - expected) / expected
    answer: dict[str, Any] = {
        "dim": dim,
        "repeats": repeats,
        "seconds": statistics.median(elapsed for _, elapsed in ours),
        "seconds_sqrtm": statistics.median(elapsed for _, elapsed in theirs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "difference": abs(ours[0][0] - theirs[0][0]) / theirs[0][0],
        "difference_deficient": deficient,
        "processors": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {**versions(), "scipy": scipy.__version__},
    }
    ok = (
        answer["ratio"] >= FASTER
        and answer["difference"] <= EQUAL
        and all(gap <= EQUAL_DEFICIENT for gap in deficient.values())
    )
    if json_:
        print(json.dumps({**answer, "ok": ok}, indent=2))
        return
    print(f"{dim} dimensions: {answer['seconds']:.2f} s, with sqrtm {answer['seconds_sqrtm']:.2f} s")
    print(f"ratio {answer['ratio']:.1f}, of the pairs {min(ratios):.1f} to {max(ratios):.1f}")
    print(f"relative difference {answer['difference']:.1e}")
    for n, gap in deficient.items():
        print(f"{n} vectors: relative difference to the nuclear norm {gap:.1e}")
    print("all limits hold" if ok else "a limit is MISSED")


if __name__ == "__main__":
    typer.run(main)
