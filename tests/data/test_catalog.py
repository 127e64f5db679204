"""Names, splits and the one loader."""

import hashlib

import numpy as np
import pytest
import torch

from pctool.data import catalog, store
from pctool.errors import InputError, MissingError


def test_descriptions_are_those_of_the_official_sets():
    """CIFAR-10 has 50,000 and 10,000 images of 3 x 32 x 32, the built-in set 10,000 of 1 x 32 x 32."""
    cifar10 = catalog.describe("cifar10")
    assert cifar10.shape("train") == (50_000, 3, 32, 32)
    assert cifar10.shape("test") == (10_000, 3, 32, 32)
    assert cifar10.default_split == "train"
    assert catalog.describe("fashion-mnist").shape("test") == (10_000, 1, 32, 32)
    assert catalog.describe("fashion-mnist").default_split == "test"


def test_unknown_names_are_refused_with_the_allowed_ones():
    """An unknown name lists what is allowed and a close one; so does an unknown split."""
    with pytest.raises(InputError, match=r"'cifar-10'.*fashion-mnist, cifar10, .*a ZIP; did you mean cifar10"):
        catalog.load("cifar-10")
    with pytest.raises(
        InputError, match=r"allowed are fashion-mnist, cifar10, stl10, .*lsun-tower, a folder or a ZIP$"
    ):
        catalog.load("zzzz")
    with pytest.raises(InputError, match="no split 'train': allowed are test"):
        catalog.load("fashion-mnist", "train")


def test_absent_data_name_both_commands(tmp_path, monkeypatch):
    """What is not here names the fetch and the import command, with the folder where one was given."""
    with pytest.raises(MissingError, match=r"pctool data fetch cifar10 --data-dir.*pctool data import cifar10 --from"):
        catalog.load("cifar10", data_dir=tmp_path)
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingError, match="'pctool data fetch cifar10' or 'pctool data import cifar10 --from"):
        catalog.load("cifar10")


def test_load_gives_the_verified_split(cifar, tmp_path):
    """The default split is train; images and sums are those that were stored."""
    for split, images in (("train", cifar.train), ("test", cifar.test)):
        store.write(store.path_of(tmp_path, "cifar10", split), images)
    loaded = catalog.load("cifar10", data_dir=tmp_path)
    assert (loaded.name, loaded.split) == ("cifar10", "train")
    np.testing.assert_array_equal(loaded.images, cifar.train)
    assert loaded.sha256 == hashlib.sha256(cifar.train.tobytes()).hexdigest()
    np.testing.assert_array_equal(catalog.load("cifar10", "test", tmp_path).images, cifar.test)
    torch.testing.assert_close(torch.tensor(loaded.images), torch.from_numpy(cifar.train.copy()), rtol=0, atol=0)


def test_max_images_takes_the_first_and_has_its_own_sum(cifar, tmp_path):
    """The first N in canonical order, hashed as used; more than there are is all; below one is refused."""
    store.write(store.path_of(tmp_path, "cifar10", "train"), cifar.train)
    seven = catalog.load("cifar10", data_dir=tmp_path, max_images=7)
    np.testing.assert_array_equal(seven.images, cifar.train[:7])
    assert seven.sha256 == hashlib.sha256(cifar.train[:7].tobytes()).hexdigest()
    everything = catalog.load("cifar10", data_dir=tmp_path, max_images=1000)
    assert everything.sha256 == catalog.load("cifar10", data_dir=tmp_path).sha256
    with pytest.raises(InputError, match="max_images is 0"):
        catalog.load("cifar10", data_dir=tmp_path, max_images=0)


def test_states_tell_verified_from_absent_and_damaged(cifar, tmp_path):
    """Each split is verified, absent or damaged on its own; the built-in one is built in."""
    path = store.path_of(tmp_path, "cifar10", "train")
    store.write(path, cifar.train)
    train, test = catalog.states("cifar10", tmp_path)
    assert (train.state, train.path, train.problem) == ("verified", path, None)
    assert test.state == "absent"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert catalog.states("cifar10", tmp_path)[0].state == "damaged"
    with pytest.raises(InputError, match=r"is damaged: SHA-256.*replace it with 'pctool data fetch cifar10"):
        catalog.load("cifar10", data_dir=tmp_path)
    (builtin,) = catalog.states("fashion-mnist", tmp_path)
    assert (builtin.state, builtin.path) == ("built in", None)
