"""Statistics files: ours and those of other toolkits."""

import numpy as np
import pytest
import torch

from pctool.errors import InputError
from pctool.evaluation import statistics_file
from pctool.evaluation.features import Extractor
from pctool.evaluation.reference import from_statistics
from pctool.evaluation.score import score
from pctool.evaluation.statistics_file import About, Statistics

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (50, 1, 3, 3), np.uint8)
FAKE = RNG.integers(0, 200, (40, 1, 3, 3), np.uint8)
X = REAL.reshape(50, -1) / 255
ABOUT = About(n=50, resolution=3, resizer="none", extractor="flat", extractor_sha256="0" * 64, real_sha256="1" * 64)


def flat(**changes):
    def network(x):
        return x.flatten(1) / 255, None

    settings = {"name": "flat", "sha256": "0" * 64, "resizer": "none", **changes}
    return Extractor(
        channels=1, size=3, has_probabilities=False, device=torch.device("cpu"), network=network, **settings
    )


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "ours.npz"
    statistics_file.write(path, Statistics(X.mean(0), np.cov(X, rowvar=False), ABOUT))
    return path


def test_ours_scores_as_the_images_do(ours):
    """Against our file the distance is that against its images; what needs features is skipped, and says why."""
    found = score([FAKE], ours, flat(), n_fake=40, metrics=("fid", "kid", "pr"))
    direct = score([FAKE], REAL, flat(), n_fake=40, metrics=("fid",))
    assert found.scores == pytest.approx(direct.scores, rel=1e-5)
    assert [line.split(":")[0] for line in found.protocol.skipped] == ["kid", "pr"]
    assert (found.protocol.n_real, found.protocol.real_sha256) == (50, "1" * 64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_those_of_others(tmp_path, dtype):
    """mu and sigma as clean-fid, pytorch-fid or StyleGAN's kin write them, with whatever else is there."""
    path = tmp_path / "theirs.npz"
    np.savez(path, mu=X.mean(0).astype(dtype), sigma=np.cov(X, rowvar=False).astype(dtype), other=np.zeros(3))
    assert statistics_file.is_statistics(path)
    found = score([FAKE], path, flat(), n_fake=40, metrics=("fid",))
    direct = score([FAKE], REAL, flat(), n_fake=40, metrics=("fid",))
    assert found.scores["fd_flat"] == pytest.approx(direct.scores["fd_flat"], rel=1e-4)
    assert found.protocol.n_real is None
    assert "does not say its network" in found.notes[0]


def test_ours_is_read_by_others(ours):
    """Our file has what clean-fid reads: mu and sigma in float64."""
    with np.load(ours) as arrays:
        np.testing.assert_array_equal(arrays["mu"], X.mean(0))
        np.testing.assert_array_equal(arrays["sigma"], np.cov(X, rowvar=False))


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"name": "other"}, "network"), ({"sha256": "2" * 64}, "weights"), ({"resizer": "clean"}, "resizer")],
)
def test_another_network_is_refused(ours, changes, match):
    """Statistics of another network, other weights or another resizer cannot be compared with: InputError."""
    with pytest.raises(InputError, match=f"is of the {match}"):
        from_statistics(ours, flat(**changes))


def test_damaged_files(tmp_path):
    """Shapes that do not fit, NaN, other arrays, text and an unknown member of ours are InputErrors of one line."""
    path = tmp_path / "s.npz"
    good = {"mu": np.zeros(3), "sigma": np.eye(3)}
    for arrays, match in (
        ({**good, "sigma": np.eye(2)}, r"sigma \[2, 2\]"),
        ({**good, "mu": np.full(3, np.nan)}, "NaN"),
        ({"mean": np.zeros(3)}, "no statistics file"),
        ({**good, "pctool": np.array('{"format": "x"}')}, "no statistics file"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=match) as error:
            statistics_file.read(path)
        assert "\n" not in str(error.value)
    path.write_text("text")
    assert not statistics_file.is_statistics(path)
    with pytest.raises(InputError, match="no statistics file"):
        statistics_file.read(path)


def test_another_dimension(tmp_path):
    """Moments of another number of features are refused at the first batch."""
    path = tmp_path / "s.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InputError, match="of 3 features, flat gives 9"):
        score([FAKE], path, flat(), n_fake=40, metrics=("fid",))


def test_what_takes_images(ours):
    """--n-real and --resizer both with a statistics file are InputErrors: it is of one set and one resizer."""
    with pytest.raises(InputError, match="--n-real is for images"):
        score([FAKE], ours, flat(), n_fake=40, n_real=30, metrics=("fid",))
    with pytest.raises(InputError, match="--resizer both takes images"):
        score([FAKE], ours, flat(), n_fake=40, resizers=("clean", "legacy"), metrics=("fid",))
