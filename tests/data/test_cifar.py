"""Reading CIFAR-10's forms."""

import pickle
import random
import tracemalloc
import zlib

import numpy as np
import pytest

from pctool.data import cifar as module
from pctool.errors import InputError

from . import small_cifar
from .small_cifar import COUNT

DECODERS = {"binary": module.decode_binary, "python": module.decode_python, "pages": module.decode_page}


def nothing(_: int) -> None:
    """No progress."""


def test_the_test_files_python_form_is_a_real_pickle(cifar):
    """The Python form of these tests unpickles to the official dictionary: the reader is tested on the truth."""
    batch = pickle.loads(small_cifar.python_batch(cifar.test), encoding="bytes")
    assert set(batch) == {b"batch_label", b"labels", b"data", b"filenames"}
    np.testing.assert_array_equal(batch[b"data"], cifar.test.reshape(COUNT, 3072))


@pytest.mark.parametrize("form", DECODERS)
def test_each_form_decodes_to_the_same_images(cifar, form):
    """A batch in each form gives uint8 [N, 3, 32, 32] with the original values."""
    (data, *_) = cifar.files(form).values()
    found = DECODERS[form](data, COUNT)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, cifar.images[0])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_python_form_of_any_protocol(cifar, protocol):
    """A batch pickled again by Python 3 decodes too: bytes from protocol 3, Latin-1 text before."""
    data = pickle.dumps({b"labels": [1] * COUNT, b"data": cifar.test.tobytes()}, protocol)
    np.testing.assert_array_equal(module.decode_python(data, COUNT), cifar.test)


def test_nothing_in_a_pickle_is_executed(cifar, tmp_path):
    """A pickle that would run a command on loading is read without running it."""
    marker = tmp_path / "executed"
    attack = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR0"
    good = small_cifar.python_batch(cifar.test)
    hostile = good[:2] + attack + good[2:]
    np.testing.assert_array_equal(module.decode_python(hostile, COUNT), cifar.test)
    assert not marker.exists()
    pickle.loads(hostile, encoding="bytes")
    assert marker.exists()  # the attack is a real one


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02.",
        b"hello",
        b"\x80\x02" + b"N0" * 200_000 + b".",
        b"\x80\x02T\xff\xff\xff\x7fshort.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b"short.",
        b"\x80\x02L" + b"9" * 5000 + b"L\n.",
        b"S'\\d'\n.",
    ],
    ids=["empty", "no string", "text", "endless", "2 GB claimed", "2^64 claimed", "long number", "odd escape"],
)
def test_hostile_pickles_are_refused_cheaply(data):
    """Sizes that lie, floods of opcodes and nonsense are a ValueError, without the memory that they claim."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"."):
        module.decode_python(data, COUNT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_two_candidate_strings_are_refused(cifar):
    """Where two strings have the length of the images, neither is guessed."""
    data = pickle.dumps([cifar.test.tobytes(), cifar.images[0].tobytes()], 2)
    with pytest.raises(ValueError, match="expected one"):
        module.decode_python(data, COUNT)


@pytest.mark.parametrize("form", DECODERS)
def test_damaged_batches_raise_only_valueerror(cifar, form):
    """300 random changes of a batch give images or a ValueError, never anything else."""
    (good, *_) = cifar.files(form).values()
    rng = random.Random(3)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 2, 8])):
            bad[rng.randrange(min(len(bad), 100))] = rng.randrange(256)
        bad = bad[: rng.choice([len(bad), len(bad), rng.randrange(len(bad))])]
        try:
            assert DECODERS[form](bytes(bad), COUNT).shape == (COUNT, 3, 32, 32)
        except ValueError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("size", [(1024, COUNT + 1), (1023, COUNT), (32, 32), (20_000, 20_000)])
def test_pages_of_another_size_are_refused(size):
    """Another width or height is named in the refusal; one that would unpack to 1.2 GB is not unpacked."""
    png = bytearray(small_cifar.png_page(np.zeros((COUNT, 3, 32, 32), np.uint8)))
    ihdr = b"IHDR" + size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + bytes(png[24:29])
    png[12:33] = ihdr + zlib.crc32(ihdr).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"expected RGB 1024 x 4|not a whole PNG"):
        module.decode_page(bytes(png), COUNT)


@pytest.mark.parametrize("form", DECODERS)
@pytest.mark.parametrize("place", ["folder", "parent", "tar", "tar.gz", "folder with tar.gz"])
def test_every_road_gives_the_same_arrays(cifar, form, place, tmp_path):
    """Each form, unpacked or packed, in the folder or one above it, gives train and test in the official order."""
    files = cifar.files(form)
    official = {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py", "pages": "."}[form]
    if place == "folder":
        source = small_cifar.write_folder(tmp_path / "x", files)
    elif place == "parent":
        source = tmp_path
        small_cifar.write_folder(tmp_path / official, files)
    elif place == "folder with tar.gz":
        source = tmp_path
        name = "cifar-10-python.tar.gz" if form == "python" else "cifar-10-binary.tar.gz"
        (tmp_path / name).write_bytes(small_cifar.targz(files))
    else:
        source = tmp_path / f"any.{place}"
        source.write_bytes(small_cifar.targz(files) if place == "tar.gz" else small_cifar.tar_bytes(files))
    told: list[int] = []
    arrays = module.read(source, COUNT, told.append)
    np.testing.assert_array_equal(arrays["train"], cifar.train)
    np.testing.assert_array_equal(arrays["test"], cifar.test)
    assert told == [COUNT] * 6


def test_order_in_an_archive_does_not_matter(cifar, tmp_path):
    """The official archive holds its batches out of order; the arrays are in order all the same."""
    files = dict(reversed(cifar.files("binary").items()))
    (tmp_path / "a.tar.gz").write_bytes(small_cifar.targz(files))
    np.testing.assert_array_equal(module.read(tmp_path / "a.tar.gz", COUNT, nothing)["train"], cifar.train)


def test_two_forms_in_one_place(cifar, tmp_path):
    """Where both forms lie together the first counts, and the other is not mixed in."""
    files = cifar.files("binary") | small_cifar.make(1).files("python")
    source = small_cifar.write_folder(tmp_path / "both", files)
    np.testing.assert_array_equal(module.read(source, COUNT, nothing)["train"], cifar.train)
    (tmp_path / "a.tar").write_bytes(small_cifar.tar_bytes(files))
    np.testing.assert_array_equal(module.read(tmp_path / "a.tar", COUNT, nothing)["train"], cifar.train)


def test_what_is_missing_or_wrong_is_named(cifar, tmp_path):
    """A missing batch, a batch twice, a short batch, an empty folder and no path at all get one line that names it."""
    files = cifar.files("binary")
    lacking = {name: data for name, data in files.items() if name != "data_batch_3.bin"}
    short = files | {"test_batch.bin": files["test_batch.bin"][:-1]}
    cases = {
        "lacks data_batch_3.bin": small_cifar.write_folder(tmp_path / "lacking", lacking),
        "test_batch.bin .* binary form: 12,291 bytes, expected 12,292": small_cifar.write_folder(tmp_path / "s", short),
        "holds no CIFAR-10: allowed are cifar-10-binary.tar.gz": small_cifar.write_folder(tmp_path / "empty", {}),
        "nowhere does not exist": tmp_path / "nowhere",
    }
    twice = tmp_path / "twice.tar"
    twice.write_bytes(small_cifar.tar_bytes(files)[:-10240] + small_cifar.tar_bytes(files))
    cases["holds data_batch_1.bin twice"] = twice
    for message, source in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            module.read(source, COUNT, nothing)
        assert "\n" not in str(caught.value)
