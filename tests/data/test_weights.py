"""Weights fetched into the cache: whole, with the pinned hash, or not at all."""

import hashlib
import os

import filelock
import pytest

from pctool.data import weights
from pctool.errors import InputError, MissingError, WriteError
from tests.data.server import Behaviour, serve

BODY = os.urandom(700_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_with_the_pinned_hash_lands(tmp_path, digits):
    """The bytes are at the path, counted, and a second call asks nobody; a prefix of the hash is enough."""
    counted = []
    path = tmp_path / "cache" / "w.pth"
    behaviour = Behaviour(BODY)
    with serve(behaviour) as url:
        assert weights.fetch(url, path, SHA256[:digits], counted.append)
        assert not weights.fetch(url, path, SHA256[:digits])
    assert path.read_bytes() == BODY
    assert sum(counted) == len(BODY)
    assert len(behaviour.asked) == 1


def test_other_bytes_are_refused(tmp_path):
    """A file with another hash is an InputError with both hashes, and nothing of it stays."""
    with serve(Behaviour(BODY)) as url, pytest.raises(InputError, match=f"{SHA256}, expected 00ff"):
        weights.fetch(url, tmp_path / "w.pth", "00ff")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(BODY, cut_after=[1000]), Behaviour(BODY, status=404), Behaviour(BODY, cut_after=[9], stall=True)],
    ids=["cut", "404", "silent"],
)
def test_a_host_that_does_not_give_it(tmp_path, behaviour):
    """A cut connection, a refusal and silence are MissingErrors that name the address and the place."""
    with serve(behaviour) as url, pytest.raises(MissingError, match=rf"cannot fetch {url}.*bring the file to .*w.pth$"):
        weights.fetch(url, tmp_path / "w.pth", SHA256, timeout=0.5)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    """A file that is there needs no lock, so a shared folder will do; one that is not is a WriteError."""

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    (tmp_path / "w.pth").write_bytes(BODY)
    assert not weights.fetch("http://nowhere.invalid", tmp_path / "w.pth", SHA256)
    with pytest.raises(WriteError, match=r"cannot write .*v.pth.lock: Permission denied; choose another place"):
        weights.fetch("http://nowhere.invalid", tmp_path / "v.pth", SHA256)
