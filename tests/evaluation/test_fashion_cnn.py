"""The shipped classifier: what its file holds, and that it knows clothes."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from pctool.data import catalog
from pctool.evaluation import fashion_cnn, features

ASSET = Path(fashion_cnn.__file__).parent / "assets" / fashion_cnn.WEIGHTS
LEAST_ACCURACY = 0.91


@pytest.fixture(scope="module")
def scored():
    """Features and probabilities of the 10,000 built-in images."""
    extractor = features.load("fashion-cnn")
    images = catalog.load("fashion-mnist").images
    parts = [extractor(images[start : start + 500]) for start in range(0, len(images), 500)]
    return np.concatenate([f for f, _ in parts]), np.concatenate([p for _, p in parts])


def test_the_file():
    """It is below 1 MB, holds every weight of the network in float32, and its metadata says how good it is and why."""
    assert ASSET.stat().st_size < 1_000_000
    with safetensors.safe_open(ASSET, "pt") as file:
        metadata, held = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    expected = {k: v for k, v in fashion_cnn.FashionCNN().state_dict().items() if v.is_floating_point()}
    assert {k: v.shape for k, v in held.items()} == {k: v.shape for k, v in expected.items()}
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in held.values())
    assert float(metadata["test_accuracy"]) >= LEAST_ACCURACY
    assert metadata["test_images"] == "10000"
    assert metadata["command"].startswith("python tools/train_fashion_cnn.py")


def test_predictions_on_the_built_in_images_are_balanced(scored):
    """There are 1,000 images of each class: 7 to 13 % go to each of the ten, and nine in ten surely (p > 0.5)."""
    found, p = scored
    assert found.shape == (10_000, 96)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    shares = np.bincount(p.argmax(1), minlength=10) / len(p)
    assert shares.min() > 0.07
    assert shares.max() < 0.13
    assert (p.max(1) > 0.5).mean() > 0.9


def test_probabilities_are_of_the_features(scored):
    """The features are what the last linear layer sees: its softmax of them gives the probabilities."""
    found, p = scored
    with safetensors.safe_open(ASSET, "np") as file:
        logits = found @ file.get_tensor("head.weight").T + file.get_tensor("head.bias")
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(p, odds / odds.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.slow
def test_accuracy_with_labels(scored):
    """Against the official labels, the accuracy is the one in the metadata, and at least 91 %."""
    folder = os.environ.get("FASHION_MNIST_FILES")
    if not folder:
        pytest.skip("FASHION_MNIST_FILES does not name the folder of the official IDX files")
    raw = gzip.decompress((Path(folder) / "t10k-labels-idx1-ubyte.gz").read_bytes())
    accuracy = (scored[1].argmax(1) == np.frombuffer(raw, np.uint8, offset=8)).mean()
    with safetensors.safe_open(ASSET, "pt") as file:
        assert accuracy == pytest.approx(float(file.metadata()["test_accuracy"]), abs=5e-4)
    assert accuracy >= LEAST_ACCURACY
