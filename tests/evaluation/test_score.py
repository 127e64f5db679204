"""One pass over the samples: the scores, their names, what is recorded, and what is refused."""

import numpy as np
import pytest
import torch

from pctool.errors import InputError
from pctool.evaluation import resizers
from pctool.evaluation.features import Extractor
from pctool.evaluation.frechet import frechet_distance
from pctool.evaluation.images import array_sha256
from pctool.evaluation.inception_score import InceptionScore
from pctool.evaluation.kid import kid
from pctool.evaluation.metrics_file import Metrics, mean_of
from pctool.evaluation.precision_recall import precision_recall
from pctool.evaluation.score import score
from tests.evaluation.flat import flat, network

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (120, 1, 3, 3), np.uint8)
FAKE = RNG.integers(0, 200, (90, 1, 3, 3), np.uint8)


def batches(images, size):
    return (images[start : start + size] for start in range(0, len(images), size))


def test_scores_are_those_of_the_formulas():
    """From batches of any size come the Frechet and kernel distances and the inception score of all the features."""
    found = score(batches(FAKE, 13), REAL, flat(), n_fake=90, seed=5).scores
    a, b = FAKE.reshape(90, -1) / 255, REAL.reshape(120, -1) / 255
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    assert found["fd_flat"] == pytest.approx(frechet_distance(a.mean(0), cov_a, b.mean(0), cov_b), rel=1e-5)
    assert (found["kd_flat"], found["kd_flat_std"], found["kd_flat_se"]) == pytest.approx(
        kid(a, b, seed=5), rel=1e-4, abs=1e-7
    )
    inception = InceptionScore(90, seed=5)
    inception.update(network(torch.from_numpy(FAKE).float())[1].numpy())
    assert (found["is_flat"], found["is_flat_std"]) == pytest.approx(inception.result(), rel=1e-6)


def test_only_inception_s_scores_are_called_fid():
    """Keys carry the network's name, except Inception's."""
    named = score([FAKE], REAL, flat("inception"), n_fake=90).scores
    assert set(named) == {"fid", "kid", "kid_std", "kid_se", "inception_score", "inception_score_std"}
    other = score([FAKE], REAL, flat("mobilenet_v2"), n_fake=90, metrics=("fid",)).scores
    assert set(other) == {"fd_mobilenet_v2"}


def test_what_is_recorded():
    """The protocol holds counts, seeds, hashes and names; the whole survives its JSON."""
    found = score([FAKE], REAL, flat(), n_fake=90, n_real=50, seed=3, protocol="p", split="s", network="G", bn="batch")
    assert (found.protocol.n_fake, found.protocol.n_real, found.protocol.seed) == (90, 50, 3)
    assert (found.protocol.name, found.protocol.split, found.protocol.network) == ("p", "s", "G")
    assert found.protocol.real_sha256 == array_sha256(REAL)
    assert found.protocol.resolution == 3
    assert {"python", "torch", "pctool"} <= set(found.versions)
    assert Metrics.model_validate_json(found.model_dump_json()) == found


def test_no_probabilities_no_inception_score():
    """Without class probabilities the inception score is left out, and `skipped` says so."""
    found = score([FAKE], REAL, flat(probabilities=False), n_fake=90)
    assert set(found.scores) == {"fd_flat", "kd_flat", "kd_flat_std", "kd_flat_se"}
    assert found.protocol.skipped == ["is: the extractor's weights give no class probabilities"]


def test_notes():
    """Too few images for the features, another size, and the extractor's own remark are said; else there is nothing."""
    assert score([FAKE], REAL, flat(), n_fake=90).notes == []
    few = score([FAKE[:9]], REAL, flat(note="odd weights"), n_fake=9).notes
    assert few[0] == "odd weights"
    assert "9 images are too few for 9 features" in few[1]


def test_counts_that_cannot_be():
    """More real images than there are, or fewer than two, are InputErrors; a wrong announcement is a ValueError."""
    with pytest.raises(InputError, match="121 real images are asked for and there are 120"):
        score([FAKE], REAL, flat(), n_fake=90, n_real=121)
    with pytest.raises(InputError, match="at least 2"):
        score([FAKE], REAL, flat(), n_fake=1)
    for announced in (91, 60):
        with pytest.raises(ValueError, match="announced"):
            score(batches(FAKE, 30), REAL, flat(), n_fake=announced, metrics=("fid",))


def test_a_set_against_itself_is_the_nearest():
    """The distance of a set to itself is 0, and grows with noise."""
    noisy = [np.clip(REAL + RNG.normal(0, s, REAL.shape), 0, 255).astype(np.uint8) for s in (0, 30, 90)]
    found = [score([fake], REAL, flat(), n_fake=120, metrics=("fid",)).scores["fd_flat"] for fake in noisy]
    assert found[0] == pytest.approx(0, abs=1e-9)
    assert found[0] < found[1] < found[2]


def test_progress_counts_real_and_fake():
    """`advance` counts every real and every generated image once."""
    counted = []
    score(batches(FAKE, 40), REAL, flat(), n_fake=90, n_real=100, advance=counted.append)
    assert sum(counted) == 190


def resized(resizer, seen):
    """A network called inception that counts the images it sees, and whose resizers are a shift of the pixels."""

    def net(x):
        seen.append(len(x))
        return network(x)

    return Extractor("inception", "0" * 64, 1, 3, resizer, True, torch.device("cpu"), net)


def test_both_resizers_in_one_pass(monkeypatch):
    """clean and legacy FID come from one pass over the samples; KID and IS are those of clean alone."""
    monkeypatch.setattr(resizers, "clean", lambda images, size: images.astype(np.float32))
    monkeypatch.setattr(resizers, "legacy", lambda images, size: images.astype(np.float32) // 2)
    seen = []
    drawn = list(batches(FAKE, 40))
    both = score(iter(drawn), REAL, resized("clean", seen), n_fake=90, resizers=("clean", "legacy"))
    assert sum(seen) == 2 * (90 + 120)
    assert both.protocol.resizer == "both"
    clean = score(drawn, REAL, resized("clean", []), n_fake=90)
    legacy = score(drawn, REAL, resized("clean", []), n_fake=90, resizers=("legacy",))
    assert both.scores == {**clean.scores, "fid_legacy": legacy.scores["fid_legacy"]}
    assert both.scores["fid_legacy"] != both.scores["fid"]
    assert legacy.scores["kid"] != clean.scores["kid"]
    assert (clean.protocol.resizer, legacy.protocol.resizer) == ("clean", "legacy")


def test_inception_score_of_more_samples():
    """The first n_fake samples count for the distances, all n_is for the inception score."""
    found = score(batches(FAKE, 40), REAL, flat(), n_fake=50, n_is=90)
    fewer = score([FAKE[:50]], REAL, flat(), n_fake=50, metrics=("fid", "kid"))
    alone = score([FAKE], REAL, flat(), n_fake=90, metrics=("is",))
    assert found.scores == pytest.approx({**fewer.scores, **alone.scores}, rel=1e-9)
    assert (found.protocol.n_fake, found.protocol.n_is) == (50, 90)
    with pytest.raises(ValueError, match="90 were announced"):
        score([FAKE[:50]], REAL, flat(), n_fake=50, n_is=90)


def test_precision_and_recall_are_of_the_features():
    """`pr` gives both shares of the features, named after the network."""
    found = score(batches(FAKE, 40), REAL, flat(), n_fake=90, metrics=("pr",)).scores
    expected = precision_recall(REAL.reshape(120, -1) / 255, FAKE.reshape(90, -1) / 255)
    assert (found["precision_flat"], found["recall_flat"]) == expected
    few = score([FAKE[:3]], REAL, flat(), n_fake=3, metrics=("fid", "pr"))
    assert "nearest neighbours" in few.protocol.skipped[0]


def test_what_files_skipped_stands_in_the_answer():
    """Remarks on samples and real images reach the answer."""
    found = score([FAKE], REAL, flat(), n_fake=90, metrics=("fid",), skipped=["2 files"], notes=["3 grey"])
    assert found.protocol.skipped == ["2 files"]
    assert found.notes[0] == "3 grey"


def test_the_mean_of_repeats():
    """`mean_of` gives means, deviations (n - 1), and every evaluation's own scores."""
    answers = [score([FAKE[i:]], REAL, flat(), n_fake=90 - i, seed=i, metrics=("fid",)) for i in range(3)]
    found = mean_of(answers)
    values = [answer.scores["fd_flat"] for answer in answers]
    assert found.scores["fd_flat"] == pytest.approx(np.mean(values), rel=1e-14)
    assert found.repeats.std["fd_flat"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert found.repeats.seeds == [0, 1, 2]
    assert Metrics.model_validate_json(found.model_dump_json()) == found


def test_an_interrupted_evaluation_leaves_nothing_in_the_way(tmp_path):
    """Stopped among the real images or the samples it leaves only whole files; the next run is as the first."""

    def stopping(at):
        seen = []

        def advance(n):
            seen.append(n)
            if sum(seen) > at:
                raise KeyboardInterrupt

        return advance

    for at, n_files in ((40, 0), (150, 2)):  # of the real images moments and features are kept, once they are whole
        with pytest.raises(KeyboardInterrupt):
            score(batches(FAKE, 20), REAL, flat(), n_fake=90, batch_size=30, advance=stopping(at))
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == n_files
    again = score(batches(FAKE, 20), REAL, flat(), n_fake=90).scores
    assert again == score(batches(FAKE, 20), REAL, flat("flat"), n_fake=90).scores
    assert again["fd_flat"] == pytest.approx(score([FAKE], REAL, flat("other"), n_fake=90).scores["fd_other"], rel=1e-6)
