"""Samples kept as files: what was written is what is read, whole or not at all."""

import numpy as np
import pytest

from pctool.errors import InputError, WriteError
from pctool.evaluation import samples_out
from pctool.evaluation.images import open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), np.uint8)


@pytest.mark.parametrize("name", ["kept", "kept.zip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(name, channels, tmp_path):
    """Reading the folder or ZIP gives the same bytes in the same order, and no temporary file is left."""
    images = IMAGES[:, :channels]
    with samples_out.writer(tmp_path / name) as write:
        write(images[:3])
        assert not (tmp_path / name).exists()
        write(images[3:])
    np.testing.assert_array_equal(np.concatenate(list(open_images(tmp_path / name).batches(2))), images)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["kept", "kept.zip"])
def test_an_interruption_leaves_nothing(name, tmp_path):
    """When the block fails, neither the files nor a temporary place remain."""

    def interrupted():
        with samples_out.writer(tmp_path / name) as write:
            write(IMAGES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path):
    """An existing file or a folder with something in it is refused; an empty folder is taken."""
    (tmp_path / "a.zip").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("a.zip", "full"):
        with pytest.raises(InputError, match="exists"), samples_out.writer(tmp_path / name) as write:
            write(IMAGES)
    with samples_out.writer(tmp_path / "empty") as write:
        write(IMAGES)
    assert len(list((tmp_path / "empty").iterdir())) == 5


@pytest.mark.parametrize("name", ["kept", "kept.zip"])
def test_a_place_that_cannot_be_written(name, tmp_path):
    """Below a file no folder can be made: WriteError naming the place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"), samples_out.writer(tmp_path / "file" / name) as write:
        write(IMAGES)
