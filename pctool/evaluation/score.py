"""Scores of a set of images against real ones, in one pass over the samples; training calls this too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pctool.errors import InputError
from pctool.evaluation.comparison import Collected, View, collect, joined, key, scores_of
from pctool.evaluation.features import Extractor
from pctool.evaluation.images import ImageArray, Images, describe
from pctool.evaluation.metric_names import Metric
from pctool.evaluation.metrics_file import Metrics, Protocol, versions
from pctool.evaluation.precision_recall import NEIGHBOURS
from pctool.evaluation.reference import Reference, from_statistics, reference
from pctool.evaluation.resizers import Resizer
from pctool.evaluation.statistics_file import About
from pctool.files import sha256_of

USUAL: tuple[Metric, ...] = ("fid", "kid", "is")
Gather = Callable[[Callable[[], Collected]], Sequence[Collected]]


@dataclass(frozen=True)
class _Wanted:
    """What can be computed of what was asked for; `skipped` and `notes` say what cannot, and why."""

    metrics: tuple[Metric, ...]
    skipped: list[str]
    notes: list[str]


def score(
    fake: Iterable[NDArray[np.uint8]],
    real: Images | NDArray[np.uint8] | Path,
    extractor: Extractor,
    *,
    n_fake: int,
    n_real: int | None = None,
    n_is: int | None = None,
    resizers: Sequence[Resizer] | None = None,
    metrics: Sequence[Metric] = USUAL,
    seed: int = 0,
    batch_size: int = 100,
    protocol: str = "custom",
    split: str | None = None,
    network: str | None = None,
    bn: str | None = None,
    step: int | None = None,
    skipped: Sequence[str] = (),
    notes: Sequence[str] = (),
    advance: Callable[[int], object] = lambda n: None,
    gather: Gather = lambda own: [own()],
) -> Metrics:
    """Scores samples that arrive in batches, uint8 [b, C, H, W], against real images or a statistics file.

    `n_fake` samples come, or `n_is` (n_fake) if that is more and the inception score is computed, which takes the
    first `n_is`; all else takes the first `n_fake`. `n_real` of the real images (all). `resizers`: the extractor's,
    or for Inception `clean`, `legacy` or both; the Frechet distance is computed with each, all else with the first.
    `seed` draws KID's subsets and the parts of the inception score, and is recorded as the seed of the samples.
    `protocol`, `split`, `network`, `bn`, `step`, `skipped` and `notes` are recorded. `advance` counts every real
    image (once a resizer) and every sample. `gather` is for samples split among processes, of which this one has the
    first part: it does this one's work and gives the parts of all, which the others get from `comparison.collect`.

    InputError: counts that cannot be, images the extractor does not take, or no metric that can be computed of them.
    ValueError: another number of samples.
    """
    if isinstance(real, np.ndarray):
        real = ImageArray(real)
    n_is = n_fake if n_is is None else n_is
    n_real = _counts(real, n_fake, n_is if "is" in metrics else n_fake, n_real, n_resizers=len(resizers or ()))
    wanted = _wanted(metrics, extractor, real, n_fake, n_real)
    views: list[View] = []

    def own() -> Collected:
        for resizer in (resizers or (extractor.resizer,))[: None if "fid" in wanted.metrics else 1]:
            view = extractor.with_resizer(resizer)
            known = _known(real, view, wanted, n_real, split=split, batch_size=batch_size, advance=advance)
            views.append(View(view, known))
        return collect(fake, views, wanted.metrics, n_fake=n_fake, n_is=n_is, seed=seed, advance=advance)

    parts = gather(own)
    advance(sum(part.n for part in parts[1:]))
    samples = joined(parts)
    n_expected = max(n_fake, n_is) if "is" in wanted.metrics else n_fake
    scores = scores_of(samples, views, wanted.metrics, n_expected=n_expected, seed=seed)
    about = views[0].known.statistics.about if views[0].known else None
    n_real = n_real or (about.n if about else None)
    remarks = _notes(views, wanted.metrics, n_fake=n_fake, n_real=n_real, samples=samples, real=real)
    return Metrics(
        step=step,
        scores=scores,
        protocol=Protocol(
            name=protocol,
            n_real=n_real,
            n_fake=n_fake,
            n_is=n_is if "is" in wanted.metrics else None,
            split=split or (about.split if about else None),
            resolution=samples.shape[1],
            resizer="both" if len(views) > 1 else views[0].extractor.resizer,
            network=network,
            bn=bn,
            batch_size=batch_size,
            seed=seed,
            extractor=extractor.name,
            extractor_sha256=extractor.sha256,
            real_sha256=_sha256(real, about),
            skipped=[*skipped, *([] if isinstance(real, Path) else real.skipped), *wanted.skipped],
        ),
        notes=[*notes, *wanted.notes, *remarks],
        versions=versions(),
    )


def _counts(real: Images | Path, n_fake: int, n_is: int, n_real: int | None, *, n_resizers: int) -> int | None:
    """How many real images that is; None where a file says it, or nobody."""
    if isinstance(real, Path):
        if n_real is not None:
            raise InputError(f"--n-real is for images; {real} holds the moments of as many as it was made of")
        if n_resizers > 1:
            raise InputError(f"--resizer both takes images; {real} holds the moments of one resizer: name it")
    else:
        n_real = len(real) if n_real is None else n_real
        if n_real > len(real):
            raise InputError(
                f"{n_real:,} real images are asked for and there are {len(real):,}; give --n-real {len(real)} or less"
            )
    if min(n_fake, n_is, n_real or n_fake) < 2:
        raise InputError(f"scores take at least 2 images a side, not {n_fake} samples and {n_real} real ones")
    return n_real


def _wanted(
    metrics: Sequence[Metric], extractor: Extractor, real: Images | Path, n_fake: int, n_real: int | None
) -> _Wanted:
    impossible: dict[Metric, str] = {}
    if not extractor.has_probabilities:
        impossible["is"] = "the extractor's weights give no class probabilities"
    if isinstance(real, Path):
        impossible |= dict.fromkeys(("kid", "pr"), f"{real} holds moments and no features")
    else:
        for shape in real.shapes:
            extractor.check(shape)
        if min(n_fake, n_real or n_fake) <= NEIGHBOURS:
            impossible["pr"] = f"{NEIGHBOURS} nearest neighbours take more than {NEIGHBOURS} images a side"
    skipped = [f"{metric}: {reason}" for metric, reason in impossible.items() if metric in metrics]
    left = tuple(metric for metric in metrics if metric not in impossible)
    if not left:
        raise InputError(f"nothing that --metrics names can be computed here: {'; '.join(skipped)}")
    return _Wanted(left, skipped, [] if isinstance(real, Path) else list(real.notes))


def _known(
    real: Images | Path,
    extractor: Extractor,
    wanted: _Wanted,
    n_real: int | None,
    *,
    split: str | None,
    batch_size: int,
    advance: Callable[[int], object],
) -> Reference | None:
    """What the real images give this network; None where only the samples count. What it leaves open is noted."""
    if isinstance(real, Path):
        found = from_statistics(real, extractor)
    elif set(wanted.metrics) <= {"is"}:
        advance(n_real or 0)
        return None
    else:
        assert n_real is not None
        found = reference(
            real,
            extractor,
            n_real=n_real,
            split=split,
            with_features=bool({"kid", "pr"} & set(wanted.metrics)),
            batch_size=batch_size,
            advance=advance,
        )
    wanted.notes.extend(note for note in found.notes if note not in wanted.notes)
    return found


def _notes(
    views: Sequence[View],
    metrics: Sequence[Metric],
    *,
    n_fake: int,
    n_real: int | None,
    samples: Collected,
    real: Images | Path,
) -> list[str]:
    extractor = views[0].extractor
    notes = [extractor.note] if extractor.note else []
    dim = len(samples.moments[0].mean)
    n = min(n_fake, n_real or n_fake)
    if "fid" in metrics and n <= dim:
        notes.append(
            f"{n:,} images are too few for {dim:,} features: the covariance has not full rank and "
            f"{key('fid', extractor)} is biased upwards; compare it at equal counts only"
        )
    if not isinstance(real, Path) and samples.shape != real.shape:
        notes.append(f"the samples are {describe(samples.shape)}, the real images {describe(real.shape)}")
    return notes


def _sha256(real: Images | Path, about: About | None) -> str:
    """What the real images are known by; of a foreign statistics file, its own hash."""
    if not isinstance(real, Path):
        return real.sha256
    return sha256_of(real) if about is None else about.real_sha256
