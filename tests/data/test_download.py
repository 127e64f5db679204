"""Downloads from a real server on this machine that can be cut, lie and stall."""

import hashlib
import random
import resource
import signal
import socket

import pytest

from pctool.data import download
from pctool.errors import InputError, MissingError, WriteError
from pctool.published import PublishedFile

from .server import Behaviour, serve

BODY = random.Random(0).randbytes(1_000_000)
SIZE = len(BODY)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def get(tmp_path):
    """Downloads to tmp_path/file; returns the bytes `advance` was told of."""

    def run(url, timeout=5.0, sha256=SHA256, size=SIZE):
        told: list[int] = []
        file = PublishedFile(url, sha256, size)
        download.download(file, tmp_path / "file", "OTHER ROAD", told.append, place="GO ELSEWHERE", timeout=timeout)
        assert (tmp_path / "file").read_bytes() == BODY
        assert not (tmp_path / "file.part").exists()
        return sum(told)

    return run


def test_a_whole_file_arrives_and_is_not_fetched_twice(get):
    """The file lands under its name with all bytes told; a second call asks the server nothing."""
    behaviour = Behaviour(BODY)
    with serve(behaviour) as url:
        assert get(url) == len(BODY)
        get(url)
    assert behaviour.asked == [None]


def test_a_cut_connection_is_taken_up_by_range(get):
    """Cut twice, the download asks for the rest and gets the same bytes; progress counts every byte once."""
    behaviour = Behaviour(BODY, cut_after=[300_000, 200_000])
    with serve(behaviour) as url:
        assert get(url) == len(BODY)
    assert behaviour.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_the_next_call_continues(get, tmp_path):
    """What an earlier call left is kept and completed."""
    (tmp_path / "file.part").write_bytes(BODY[:123_456])
    behaviour = Behaviour(BODY)
    with serve(behaviour) as url:
        assert get(url) == len(BODY)
    assert behaviour.asked == ["bytes=123456-"]


@pytest.mark.parametrize("announce", [True, False])
def test_a_server_without_ranges_is_read_from_zero(get, tmp_path, announce):
    """Where Range is ignored the partial file is thrown away, never prefixed to the whole."""
    (tmp_path / "file.part").write_bytes(BODY[:400_000])
    behaviour = Behaviour(BODY, ranges=False, announce=announce)
    with serve(behaviour) as url:
        assert get(url) == len(BODY)
    assert behaviour.asked == ["bytes=400000-"]


@pytest.mark.parametrize("announce", [True, False])
def test_a_size_that_nobody_publishes(get, announce, tmp_path):
    """By the first digits of its sum alone a file arrives, too; a cut shows by what the answer announced."""
    behaviour = Behaviour(BODY, cut_after=[300_000] if announce else [], announce=announce)
    with serve(behaviour) as url:
        assert get(url, sha256=SHA256[:8], size=None) == len(BODY)
        assert behaviour.asked == ([None, "bytes=300000-"] if announce else [None])
        (tmp_path / "file").unlink()
        with pytest.raises(InputError, match=f"SHA-256 {SHA256}, expected 00ff; they were removed"):
            get(url, sha256="00ff", size=None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_of_a_size_that_nobody_publishes(get, tmp_path):
    """A part that is cut stays for the next call; one that was whole needs no server, a foreign one is replaced."""
    with (
        serve(Behaviour(BODY, cut_after=[400_000, 0])) as url,
        pytest.raises(MissingError, match="the connection was cut; 400,000 bytes are kept, the same command continues"),
    ):
        get(url, size=None)
    (tmp_path / "file.part").write_bytes(BODY)
    get("http://nowhere.invalid/x", size=None)
    (tmp_path / "file").unlink()
    (tmp_path / "file.part").write_bytes(bytes(len(BODY) + 1))
    behaviour = Behaviour(BODY)
    with serve(behaviour) as url:
        get(url, size=None)
    assert behaviour.asked == [f"bytes={len(BODY) + 1}-", None]


def test_a_connection_that_stays_cut_keeps_what_it_brought(get, tmp_path):
    """Without new bytes the attempts end: exit as missing, naming bytes, the next command and the other road."""
    behaviour = Behaviour(BODY, cut_after=[300_000, 0, 0, 0, 0, 0])
    with (
        serve(behaviour) as url,
        pytest.raises(MissingError, match=r"300,000 of 1,000,000 bytes are kept.*OTHER ROAD") as caught,
    ):
        get(url)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file.part").read_bytes() == BODY[:300_000]
    assert len(behaviour.asked) == 2


def test_attempts_are_bounded(get):
    """A server that gives ten bytes a connection is left after five connections."""
    behaviour = Behaviour(BODY, cut_after=[10] * 20)
    with serve(behaviour) as url, pytest.raises(MissingError, match="50 of 1,000,000 bytes are kept"):
        get(url)
    assert len(behaviour.asked) == download.ATTEMPTS


def test_wrong_bytes_are_removed(get, tmp_path):
    """The right number of other bytes is refused with both sums, and nothing stays."""
    with serve(Behaviour(bytes(len(BODY)))) as url, pytest.raises(InputError, match=f"expected {SHA256}.*OTHER ROAD"):
        get(url)
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_of_something_else_does_not_stay(get, tmp_path):
    """A partial file with other contents leads to one refusal, after which the same command succeeds."""
    (tmp_path / "file.part").write_bytes(bytes(1000))
    with serve(Behaviour(BODY)) as url:
        with pytest.raises(InputError, match="other bytes"):
            get(url)
        assert get(url) == len(BODY)


@pytest.mark.parametrize("extra", [0, 5])
def test_a_complete_but_wrong_partial_file_starts_again(get, tmp_path, extra):
    """A partial file of full length or more that is not the file is thrown away first; a right one needs no server."""
    (tmp_path / "file.part").write_bytes(bytes(len(BODY) + extra))
    behaviour = Behaviour(BODY)
    with serve(behaviour) as url:
        assert get(url) == len(BODY)
        assert behaviour.asked == [None]
        (tmp_path / "file").rename(tmp_path / "file.part")
        get(url)
    assert behaviour.asked == [None]


def test_a_file_of_another_length_is_not_begun(get, tmp_path):
    """A page of text in the place of the file, as a hotel's network gives, is refused by its announced length."""
    page = Behaviour(b"<html>please log in</html>")
    with serve(page) as url, pytest.raises(MissingError, match="the host offers 26 bytes, expected 1,000,000"):
        get(url)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file.part").write_bytes(BODY[:100])
    with serve(page) as url, pytest.raises(MissingError, match="the host offers 26 bytes"):
        get(url)
    assert page.asked == [None, "bytes=100-", None]  # 416 in between
    assert (tmp_path / "file.part").read_bytes() == BODY[:100]


def test_no_more_than_the_size_is_taken(get, tmp_path):
    """An endless answer without a length is read to one byte past the size, then refused and removed."""
    told: list[int] = []
    with serve(Behaviour(BODY * 3, announce=False)) as url, pytest.raises(InputError, match="other bytes"):
        download.download(PublishedFile(url, SHA256, len(BODY)), tmp_path / "file", "", told.append)
    assert sum(told) == len(BODY) + 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_refusing_host_is_named_with_its_answer(get, status):
    """An HTTP error is one line with its code, as missing."""
    with serve(Behaviour(BODY, status=status)) as url, pytest.raises(MissingError, match=f"answered {status}"):
        get(url)


def test_an_unreachable_host_is_missing(get):
    """A closed port and a name that does not exist are one line that names the other road."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/x", "http://nowhere.invalid/x"):
        with pytest.raises(MissingError, match=f"cannot fetch {url}: .*; OTHER ROAD"):
            get(url)


def test_a_silent_host_times_out(get, tmp_path):
    """A connection that goes silent is left after the time-out; what it brought is kept."""
    behaviour = Behaviour(BODY, cut_after=[500_000, 0], stall=True)
    with serve(behaviour) as url, pytest.raises(MissingError, match="timed out"):
        get(url, timeout=0.3)
    assert 0 < (tmp_path / "file.part").stat().st_size <= 500_000


def test_a_full_disk_names_file_and_size(get, tmp_path):
    """Where the disk takes no more, one line names the path and the bytes, and the partial file continues later."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    behaviour = Behaviour(BODY)
    with serve(behaviour) as url:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
        try:
            with pytest.raises(WriteError, match=r"file.part \(1,000,000 bytes\): File too large; .*GO ELSEWHERE"):
                get(url)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert (tmp_path / "file.part").stat().st_size <= 600_000
        get(url)


def test_bytes_are_on_the_disk_before_they_count(get, tmp_path, monkeypatch):
    """A crash after the rename must not leave a file that is shorter than its name says."""
    synced = []
    monkeypatch.setattr("os.fsync", lambda number: synced.append((tmp_path / "file").exists()))
    with serve(Behaviour(BODY)) as url:
        get(url)
    assert synced == [False]
