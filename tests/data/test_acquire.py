"""Import and fetch from end to end, on a small CIFAR-10 in the real one's forms."""

import dataclasses
import hashlib
import multiprocessing

import filelock
import numpy as np
import pytest

from pctool.data import acquire, catalog, store
from pctool.errors import InputError, MissingError, WriteError
from pctool.published import PublishedFile

from . import small_cifar
from .server import Behaviour, serve


@pytest.fixture
def official(cifar, monkeypatch):
    """The small binary archive served in the official one's place: behaviour and a way to install an address."""
    body = small_cifar.targz(cifar.files("binary"))
    behaviour = Behaviour(body)
    with serve(behaviour) as url:
        archive = PublishedFile(url, hashlib.sha256(body).hexdigest(), len(body))
        about = dataclasses.replace(catalog.DATASETS["cifar10"], archive=archive)
        monkeypatch.setitem(catalog.DATASETS, "cifar10", about)
        yield behaviour


def listing(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["binary", "python", "pages"])
def test_import_lands_the_same_files_from_every_form(cifar, form, tmp_path):
    """Each form lands the same two canonical files; a second import says they are here and reads nothing."""
    source = small_cifar.write_folder(tmp_path / "source", cifar.files(form))
    told: list[int] = []
    assert acquire.import_files("cifar10", source, tmp_path / "data", told.append) == "imported"
    assert sum(told) == 24
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "cifar10" / "train.npy"), cifar.train)
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "cifar10" / "test.npy"), cifar.test)
    assert acquire.import_files("cifar10", source, tmp_path / "data", told.append) == "already here"
    assert sum(told) == 24


def test_other_images_land_nowhere(cifar, tmp_path):
    """Whole, well-formed files with one other pixel are refused with both sums, and nothing is written."""
    other = small_cifar.SmallCifar(cifar.images.copy())
    other.images[2, 1, 0, 5, 5] ^= 1
    source = small_cifar.write_folder(tmp_path / "source", other.files("binary"))
    with pytest.raises(InputError, match=r"train images .* not the official ones: SHA-256 .*, expected"):
        acquire.import_files("cifar10", source, tmp_path / "data")
    assert set(listing(tmp_path / "data")) <= {"cifar10/.lock"}


def test_a_damaged_or_missing_split_is_replaced_and_named(cifar, tmp_path):
    """Import mends what is damaged, says so, and leaves the good file alone."""
    source = small_cifar.write_folder(tmp_path / "source", cifar.files("binary"))
    acquire.import_files("cifar10", source, tmp_path)
    train, test = (store.path_of(tmp_path, "cifar10", split) for split in ("train", "test"))
    before = test.stat().st_ino
    train.write_bytes(train.read_bytes()[:-1])
    said: list[str] = []
    assert acquire.import_files("cifar10", source, tmp_path, say=said.append) == "imported"
    assert said == [f"replacing {train}, which was damaged"]
    assert test.stat().st_ino == before
    assert [state.state for state in catalog.states("cifar10", tmp_path)] == ["verified", "verified"]


def test_nothing_to_import_and_nowhere_to_import_from(tmp_path):
    """A built-in set has nothing to import; a source that does not exist, or cannot, lists the allowed ones."""
    with pytest.raises(InputError, match="fashion-mnist is built in"):
        acquire.import_files("fashion-mnist", tmp_path, tmp_path)
    for source in (tmp_path / "nowhere", tmp_path / ("x" * 5000)):
        with pytest.raises(InputError, match=r"does not exist: give one of cifar-10-binary.tar.gz"):
            acquire.import_files("cifar10", source, tmp_path)
    assert acquire.fetch("fashion-mnist", tmp_path) == "built in"
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_cannot_be_looked_at_is_not_called_absent(tmp_path, monkeypatch):
    """In a folder that may not be searched nobody can tell whether it exists."""
    (tmp_path / "source").symlink_to("source")
    with pytest.raises(InputError, match=r"cannot read .*source: Too many levels of symbolic links"):
        acquire.import_files("cifar10", tmp_path / "source", tmp_path)


def test_leftovers_of_a_killed_process_are_removed(cifar, tmp_path):
    """What a killed import left of any file goes with the next import."""
    source = small_cifar.write_folder(tmp_path / "source", cifar.files("binary"))
    left = tmp_path / "data" / "cifar10" / ".train.npy.0123abcd.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    acquire.import_files("cifar10", source, tmp_path / "data")
    assert not left.exists()


def test_fetch_lands_the_data_and_removes_the_archive(cifar, official, tmp_path):
    """Fetch leaves the two canonical files alone; again, it says they are here and asks the host nothing."""
    told: list[int] = []
    assert acquire.fetch("cifar10", tmp_path, told.append) == "fetched"
    assert sum(told) == len(official.body)
    assert set(listing(tmp_path)) == {"cifar10/train.npy", "cifar10/test.npy", "cifar10/.lock"}
    np.testing.assert_array_equal(catalog.load("cifar10", data_dir=tmp_path).images, cifar.train)
    assert acquire.fetch("cifar10", tmp_path) == "already here"
    assert official.asked == [None]


def test_an_archive_that_was_there_stays(cifar, official, tmp_path):
    """The official one brought by hand is taken, nothing asked; another under its name is refused. Neither is lost."""
    there = tmp_path / "cifar10" / catalog.DATASETS["cifar10"].archive.url.rpartition("/")[2]
    there.parent.mkdir()
    for body, wrong in ((official.body, False), (b"mine", True)):
        there.write_bytes(body)
        if wrong:
            (there.parent / "train.npy").unlink()
            with pytest.raises(InputError, match=r"is not the official file: SHA-256 .*move it away"):
                acquire.fetch("cifar10", tmp_path)
        else:
            assert acquire.fetch("cifar10", tmp_path) == "fetched"
        assert there.read_bytes() == body
    assert official.asked == []


def test_fetch_continues_after_a_cut(official, tmp_path):
    """A fetch that failed half-way names the import road, and the same call completes it from where it was."""
    half = len(official.body) // 2
    official.cut_after = [half, 0]
    with pytest.raises(MissingError, match="pctool data import cifar10 --from FILE"):
        acquire.fetch("cifar10", tmp_path)
    assert acquire.fetch("cifar10", tmp_path) == "fetched"
    assert official.asked[-1] == f"bytes={half}-"


def test_data_on_a_read_only_folder_are_recognised(cifar, official, tmp_path, monkeypatch):
    """Verified data need no lock, so that a shared folder without write permission will do."""
    acquire.fetch("cifar10", tmp_path)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert acquire.fetch("cifar10", tmp_path) == "already here"
    assert acquire.import_files("cifar10", tmp_path, tmp_path) == "already here"
    store.path_of(tmp_path, "cifar10", "train").unlink()
    with pytest.raises(WriteError, match="Permission denied"):
        acquire.fetch("cifar10", tmp_path)


def fetch_in_a_process(about, folder, started, queue):
    """One process of the race, with the small catalogue put in place there too."""
    catalog.DATASETS["cifar10"] = about
    started.wait()
    queue.put(acquire.fetch("cifar10", folder))


def test_processes_do_not_clash(official, tmp_path):
    """Of three processes that fetch at once one downloads; the others wait and find the data."""
    context = multiprocessing.get_context("spawn")
    queue, started = context.Queue(), context.Barrier(3)
    arguments = (catalog.DATASETS["cifar10"], tmp_path, started, queue)
    processes = [context.Process(target=fetch_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    outcomes = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    queue.close()
    assert outcomes == ["already here", "already here", "fetched"]
    assert official.asked == [None]


def test_a_second_process_says_that_it_waits(cifar, tmp_path):
    """While another holds the lock, one line says so; afterwards the work goes on."""
    source = small_cifar.write_folder(tmp_path / "source", cifar.files("binary"))
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    other = filelock.FileLock(tmp_path / "data" / "cifar10" / ".lock", is_singleton=False)
    other.acquire()
    said: list[str] = []

    def say(line):
        said.append(line)
        other.release()

    assert acquire.import_files("cifar10", source, tmp_path / "data", say=say) == "imported"
    assert said == [f"waiting for another process that writes {tmp_path / 'data' / 'cifar10'}"]
