"""Files in folders and archives, hostile ones included."""

import gzip
import io
import random
import tarfile
import time

import pytest

from pctool.data import sources
from pctool.errors import InputError

from .small_cifar import tar_bytes

LIMITS = {"a.bin": 100, "b.bin": 100}


def read(path, data):
    """Writes an archive and reads it."""
    path.write_bytes(data)
    return dict(sources.in_tar(path, LIMITS))


def archive(*members):
    """A tar of (TarInfo, bytes)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name, size=0, kind=tarfile.REGTYPE, target=""):
    """A header."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


def test_only_what_is_asked_for_is_read(tmp_path):
    """Members are found by their name without folders; others are passed over, gzipped or not."""
    data = tar_bytes({"a.bin": b"1", "c.bin": b"2" * 1000, "b.bin": b"3"}, folder="../../x/")
    assert read(tmp_path / "x.tar", data) == {"a.bin": b"1", "b.bin": b"3"}
    assert read(tmp_path / "x.tar", gzip.compress(data)) == {"a.bin": b"1", "b.bin": b"3"}
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


def test_links_and_devices_are_not_followed(tmp_path):
    """A link, hard or symbolic, or a pipe with a wanted name is as good as absent."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    data = archive(
        (member("a.bin", kind=tarfile.SYMTYPE, target=str(secret)), b""),
        (member("b.bin", kind=tarfile.LNKTYPE, target="secret"), b""),
        (member("b.bin", kind=tarfile.FIFOTYPE), b""),
    )
    assert read(tmp_path / "x.tar", data) == {}


def test_a_member_over_its_limit_is_refused_before_it_is_read(tmp_path):
    """A header that claims 8 GB, and a file of one byte too many, are refused by the size they have."""
    with pytest.raises(InputError, match=r"a.bin in .* larger than the 100 bytes"):
        read(tmp_path / "x.tar", member("a.bin", 8 << 30).tobuf() + b"short")
    with pytest.raises(InputError, match="larger than the 100 bytes"):
        read(tmp_path / "x.tar", archive((member("a.bin", 101), bytes(101))))
    (tmp_path / "a.bin").write_bytes(bytes(101))
    with pytest.raises(InputError, match=r"a.bin is larger than the 100 bytes"):
        list(sources.in_folder(tmp_path, LIMITS))


def test_a_bomb_costs_a_bounded_time(tmp_path, monkeypatch):
    """A small archive that unpacks to more than the limit is refused when it reaches it."""
    monkeypatch.setattr(sources, "MAX_UNPACKED", 1 << 20)
    bomb = gzip.compress(archive((member("other", 50 << 20), bytes(50 << 20)), (member("a.bin", 1), b"1")))
    assert len(bomb) < 100_000
    start = time.monotonic()
    with pytest.raises(InputError, match="unpacks to more than 1,048,576 bytes"):
        read(tmp_path / "x.tgz", bomb)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_and_changed_archives_raise_only_inputerror(tmp_path, packed):
    """400 archives cut or changed at random give members or an InputError; text and an empty file too."""
    good = tar_bytes({"a.bin": b"1" * 100, "b.bin": b"2" * 100})
    rng = random.Random(4)
    refused = 0
    for _ in range(400):
        data = gzip.compress(good) if packed else good
        bad = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])])
        for _ in range(rng.choice([1, 2, 8])):
            if bad:
                bad[rng.randrange(min(len(bad), 1600))] = rng.randrange(256)
        try:
            assert set(read(tmp_path / "x", bytes(bad))) <= set(LIMITS)
        except InputError:
            refused += 1
    assert refused > 100
    for data in (b"", b"hello\n" * 500):
        with pytest.raises(InputError, match="cannot read"):
            read(tmp_path / "x", gzip.compress(data) if packed else data)


def test_a_chain_of_long_names_ends_in_one_line(tmp_path):
    """Thousands of nested long-name headers, which make Python's reader recurse, are refused."""
    one = member("././@LongLink", 2, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "x.tar", one * 3000)


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    """A file that the system refuses to open gets one line."""
    (tmp_path / "a.bin").touch()

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot read .*a.bin: Permission denied"):
        list(sources.in_folder(tmp_path, LIMITS))
