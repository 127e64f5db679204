"""`pctool data` from the command line: answers, exit codes, and what stays on the disk."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest

from pctool.cli.main import run
from pctool.data import cache, catalog, store
from pctool.evaluation.weights_files import WeightsFile
from pctool.published import PublishedFile
from tests.data import small_cifar, small_encoded
from tests.data.server import Behaviour, serve


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """A small CIFAR-10 in the real one's place, its binary form in tmp_path/source, and an empty data folder."""
    small = small_cifar.make()
    small.install(monkeypatch)
    small_cifar.write_folder(tmp_path / "source", small.files("binary"))
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path / "data"))
    return small


@pytest.fixture
def pctool(capsys):
    """Runs a command; returns its exit code, its answer, and what it said on stderr."""

    def call(*arguments):
        code = run(["data", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def inception(monkeypatch, tmp_path):
    """A stand-in for Inception's weights that nobody gives: its content, and the address that a test may set."""
    content = b"weights of a network"

    def at(url):
        file = WeightsFile(url, hashlib.sha256(content).hexdigest(), len(content))
        for module in ("cli.weights", "evaluation.inception"):
            monkeypatch.setattr(f"pctool.{module}.INCEPTION", file)
        return file

    at("http://nowhere.invalid/inception.pth")
    return content, at


def flip_last_byte(path):
    """Damages a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_list_shows_every_split_and_its_state(cifar, pctool):
    """Nothing is here at first but the built-in set: a table with every split, exit code 0."""
    code, out, _ = pctool("list")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert [(row[0], row[1], row[2]) for row in rows[1:]] == [
        ("fashion-mnist", "test", "10,000"),
        ("cifar10", "train", "20"),
        ("cifar10", "test", "4"),
        ("stl10", "unlabeled", "100,000"),
        ("stl10", "train", "5,000"),
        ("stl10", "test", "8,000"),
        ("stl10", "all", "113,000"),
        ("lsun-bedroom", "train", "3,033,042"),
        ("lsun-living-room", "train", "1,315,802"),
        ("lsun-tower", "train", "708,264"),
    ]
    for state, line in zip(["built in", *["absent"] * 9], out.splitlines()[1:], strict=True):
        assert state in line
    code, out, _ = pctool("list", "--json")
    assert code == 0
    assert [split["state"] for split in json.loads(out)["splits"]] == ["built in", *["absent"] * 9]


def test_import_then_verify_then_damage(cifar, pctool, tmp_path):
    """Import gives 0, verify gives 0; a flipped byte turns verify into 2, a missing file into 4, each with one line."""
    code, out, _ = pctool("import", "cifar10", "--from", tmp_path / "source")
    assert code == 0
    assert "cifar10 is imported and verified" in out
    assert "next: pctool train --dataset cifar10" in out
    assert pctool("verify", "cifar10")[0] == 0
    assert pctool("verify")[0] == 0
    code, out, _ = pctool("import", "cifar10", "--from", tmp_path / "source", "--json")
    assert (code, json.loads(out)["outcome"]) == (0, "already here")

    train = tmp_path / "data" / "cifar10" / "train.npy"
    flip_last_byte(train)
    for arguments in (["verify", "cifar10"], ["verify"], ["verify", "--json"]):
        code, out, err = pctool(*arguments)
        assert code == 2
        assert "damaged" in out
        assert err.startswith(f"pctool: {train} is damaged: SHA-256")
        assert err.count("\n") == 1
    assert [split["state"] for split in json.loads(out)["splits"]][:3] == ["built in", "damaged", "verified"]

    train.unlink()
    for arguments in (["verify", "cifar10"], ["verify"]):
        code, _, err = pctool(*arguments)
        assert code == 4
        assert "pctool data fetch cifar10" in err


def test_verify_of_absent_data(cifar, pctool):
    """By name, data that are not here are exit code 4; without a name they do not count."""
    assert pctool("verify", "cifar10")[0] == 4
    code, out, err = pctool("verify")
    assert (code, err) == (0, "")
    assert "absent" in out
    assert pctool("verify", "fashion-mnist")[0] == 0


def test_fetch_answers_json_alone_on_stdout(cifar, pctool, monkeypatch, tmp_path):
    """With --json stdout is one object; --data-dir overrides the environment."""
    body = small_cifar.targz(cifar.files("binary"))
    with serve(Behaviour(body)) as url:
        archive = PublishedFile(url, hashlib.sha256(body).hexdigest(), len(body))
        about = dataclasses.replace(catalog.DATASETS["cifar10"], archive=archive)
        monkeypatch.setitem(catalog.DATASETS, "cifar10", about)
        code, out, err = pctool("fetch", "cifar10", "--json", "--data-dir", tmp_path / "other")
    answer = json.loads(out)
    assert (code, answer["outcome"]) == (0, "fetched")
    assert [split["state"] for split in answer["splits"]] == ["verified", "verified"]
    assert answer["splits"][0]["path"] == str(tmp_path / "other" / "cifar10" / "train.npy")
    assert "unpacking" in err
    assert store.path_of(tmp_path / "other", "cifar10", "test").is_file()
    assert not (tmp_path / "data").exists()


def test_fetching_what_is_built_in_is_a_success(pctool, tmp_path):
    """There is nothing to do, and nothing is written."""
    code, out, _ = pctool("fetch", "fashion-mnist", "--data-dir", tmp_path)
    assert code == 0
    assert "fashion-mnist is built in: there is nothing to do" in out
    assert list(tmp_path.iterdir()) == []


def test_a_host_out_of_reach_is_exit_code_4(cifar, pctool, monkeypatch):
    """One line that names the other road."""
    archive = PublishedFile("http://nowhere.invalid/cifar-10-binary.tar.gz", "0" * 64, 10)
    about = dataclasses.replace(catalog.DATASETS["cifar10"], archive=archive)
    monkeypatch.setitem(catalog.DATASETS, "cifar10", about)
    code, out, err = pctool("fetch", "cifar10")
    assert (code, out) == (4, "")
    assert "pctool data import cifar10 --from FILE|FOLDER" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "cifar"], "unknown data set 'cifar': allowed are fashion-mnist, cifar10, stl10, "),
        (["fetch", "cifar"], "lsun-tower, and of networks that score inception and torchvision's"),
        (["fetch", "cifar"], "did you mean cifar10?"),
        (["fetch", "incption"], "did you mean inception?"),
        (["fetch", "mobilenet_v"], "did you mean mobilenet_v"),
        (["import", "cifar11", "--from", "."], "unknown data set 'cifar11'"),
        (["verify", "stl"], "unknown data set 'stl'"),
        (["import", "cifar10"], "--from"),
        (["import", "cifar10", "--from", "/nowhere"], "/nowhere does not exist"),
        (["import", "cifar10", "--from", __file__], "as a tar archive"),
        (["import", "fashion-mnist", "--from", "."], "fashion-mnist is built in"),
        (["fetch"], "NAME"),
        (["list", "--speed"], "--speed"),
        (["list", "--data-dir", __file__], f"the data folder {__file__} is a file; name a folder"),
        (["import", "cifar10", "--from", ".", "--data-dir", __file__], f"the data folder {__file__} is a file"),
    ],
)
def test_bad_input_is_exit_code_2(cifar, pctool, tmp_path, arguments, message):
    """One line on stderr that names what was wrong, nothing on stdout, and no data written."""
    code, out, err = pctool(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.npy"))


def test_a_folder_that_cannot_be_written_is_exit_code_5(cifar, pctool, tmp_path):
    """A data folder below a file gets one line that names it."""
    (tmp_path / "file").touch()
    code, _, err = pctool("import", "cifar10", "--from", tmp_path / "source", "--data-dir", tmp_path / "file" / "x")
    assert code == 5
    assert str(tmp_path / "file") in err
    assert err.count("\n") == 1


def test_stl10_from_import_to_prepared(pctool, monkeypatch, tmp_path):
    """import keeps the official files, prepare decodes them once, verify reads all; damage of either is exit 2."""
    files = small_encoded.stl_files(small_encoded.stl_images())
    small_encoded.install_stl(monkeypatch, files)
    source = small_cifar.write_folder(tmp_path / "stl10_binary", files)
    code, out, err = pctool("import", "stl10", "--from", source)
    assert code == 0, err
    assert "stl10 is imported" in out
    code, out, _ = pctool("prepare", "stl10", "--data-workers", 0, "--offline", "--json")
    answer = json.loads(out)
    assert (code, answer["images"], answer["shape"], answer["streamed"]) == (0, 6, [3, 48, 48], False)
    cached = tmp_path / "cache" / "images"
    assert [str(path) for path in cached.glob("stl10-unlabeled-48px-*.npy")] == [answer["cache"]]
    code, out, _ = pctool("verify", "stl10")
    assert code == 0
    assert out.count("verified") == 5  # four splits and what is decoded
    assert "here" in pctool("list")[1]
    flip_last_byte(next(cached.glob("*.npy")))
    code, _, err = pctool("verify", "stl10")
    assert (code, err.count("\n")) == (2, 1)
    assert "'pctool data prepare stl10' makes it again" in err
    assert pctool("prepare", "stl10", "--data-workers", 0, "--offline")[0] == 0
    assert pctool("verify", "stl10")[0] == 0
    flip_last_byte(tmp_path / "data" / "stl10" / "test_X.bin")
    code, _, err = pctool("verify", "stl10")
    assert code == 2
    assert "test_X.bin is damaged: SHA-256" in err


def test_prepare_fetches_what_is_not_here(pctool, inception, monkeypatch, tmp_path):
    """On a login node one command does all: download, unpack, number, decode, and the weights that score."""
    small_encoded.install_lsun(monkeypatch)
    small_encoded.write_lmdb(tmp_path / "tower_train_lmdb", small_encoded.lsun_values())
    body = small_encoded.zip_folder(tmp_path / "tower_train_lmdb", tmp_path / "t.zip").read_bytes()
    weights, at = inception
    with serve(Behaviour(body)) as url, serve(Behaviour(weights)) as weights_url:
        archive = PublishedFile(url, hashlib.sha256(body).hexdigest(), len(body))
        about = dataclasses.replace(catalog.DATASETS["lsun-tower"], archive=archive)
        monkeypatch.setitem(catalog.DATASETS, "lsun-tower", about)
        file = at(weights_url)
        code, out, err = pctool("prepare", "lsun-tower", "--resolution", 128, "--max-images", 3, "--data-workers", 0)
    assert code == 0, err
    assert "lsun-tower: 3 images of 128x128x3, in " in out
    assert f"scored by inception, its weights verified, in {file.path}\n" in out
    assert file.path.read_bytes() == weights
    assert not list((tmp_path / "data" / "lsun-tower").glob("*.zip*"))
    code, out, err = pctool("prepare", "lsun-tower", "--cache-limit", 0, "--json")
    assert (code, json.loads(out)["streamed"], json.loads(out)["cache"]) == (0, True, None)
    assert json.loads(out)["scores"] == {"extractor": "inception", "weights": "already here", "path": str(file.path)}
    assert "0.00 GB of decoded images are more than --cache-limit" in err
    flip_last_byte(file.path)
    code, out, err = pctool("prepare", "lsun-tower", "--cache-limit", 0)
    assert (code, out) == (2, "")
    assert f"{file.path} is damaged: SHA-256" in err


def test_prepare_without_a_network(cifar, pctool, inception, tmp_path):
    """Data that are here are ready, the weights' host is named in one line with exit code 4; --offline asks nobody."""
    code, out, err = pctool("prepare", "cifar10", "--offline")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "cifar10 is not here" in err
    assert pctool("import", "cifar10", "--from", tmp_path / "source")[0] == 0
    code, out, err = pctool("prepare", "cifar10")
    assert code == 4
    assert out.startswith("cifar10: 20 images of 32x32x3, in ")
    line = err.splitlines()[-1]
    assert line.startswith("pctool: cannot fetch http://nowhere.invalid/inception.pth: ")
    assert line.endswith("inception.pth, or leave it out with --offline")
    code, out, err = pctool("prepare", "cifar10", "--offline", "--json")
    scores = json.loads(out)["scores"]
    assert (code, err, scores["extractor"], scores["weights"]) == (0, "", "inception", "not here")


def test_a_folder_is_prepared_and_verified(pctool, tmp_path):
    """A path takes the place of a name; verify wants it prepared first."""
    folder = small_cifar.write_folder(
        tmp_path / "faces", {f"{i}.png": small_encoded.encoded(small_encoded.smooth(40, 50, i)) for i in range(3)}
    )
    code, _, err = pctool("verify", folder)
    assert code == 4
    assert "'pctool data prepare " in err
    assert pctool("prepare", folder)[0] == 2
    code, out, _ = pctool("prepare", folder, "--resolution", 32, "--data-workers", 0, "--offline")
    assert code == 0
    assert "3 images of 32x32x3, in " in out
    code, out, _ = pctool("verify", folder)
    assert code == 0
    assert "all, decoded" in out
    assert pctool("prepare", "fashion-mnist")[1] == (
        "fashion-mnist: 10,000 images of 32x32x1, inside the package\nscored by fashion-cnn, inside the package\n"
    )


def test_another_folders_data_confirm_nothing(pctool, tmp_path):
    """What was prepared of a folder says nothing of one of the same name elsewhere, nor of one that is not there."""
    for place, seed in (("a", 0), ("b", 1)):
        content = {"0.png": small_encoded.encoded(small_encoded.smooth(40, 50, seed))}
        (tmp_path / place).mkdir()
        small_cifar.write_folder(tmp_path / place / "faces", content)
    prepare = ("prepare", tmp_path / "a" / "faces", "--resolution", 32, "--data-workers", 0, "--offline")
    assert pctool(*prepare)[0] == 0
    assert pctool("verify", tmp_path / "a" / "faces")[0] == 0
    assert pctool("verify", tmp_path / "b" / "faces")[0] == 4
    code, _, err = pctool("verify", tmp_path / "c" / "faces")
    assert (code, err.count("\n")) == (2, 1)
    assert "c/faces does not exist" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stl10", "--split", "nope"], "stl10 has no split 'nope'"),
        (["cifar10", "--resolution", "64"], "cifar10 has no resolution 64"),
        (["cifar10", "--crop", "centre"], "cifar10 has no crop 'centre'"),
        (["cifar10", "--cache-limit", "nan"], "'--cache-limit': Input should be greater than or equal to 0"),
    ],
)
def test_prepare_looks_at_its_options_first(pctool, monkeypatch, arguments, message):
    """What is not allowed is exit code 2 before anything is fetched."""
    monkeypatch.setattr("pctool.data.acquire.fetch", lambda *a: pytest.fail("fetched"))
    code, _, err = pctool("prepare", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_what_cannot_be_read_is_said_so(cifar, pctool, tmp_path):
    """list shows it, verify ends with 2, and neither speaks of damage or of fetching it again."""
    path = tmp_path / "data" / "cifar10" / "train.npy"
    path.mkdir(parents=True)  # what root cannot read either
    assert json.loads(pctool("list", "--json")[1])["splits"][1]["state"] == "unreadable"
    code, _, err = pctool("verify", "cifar10")
    assert (code, err) == (2, f"pctool: cannot read {path}: Is a directory\n")


def test_term_leaves_nothing_half_written(pctool, monkeypatch, tmp_path):
    """A scheduler's TERM ends prepare as Ctrl-C does: code 130, and no part of the decoded file stays."""
    names = ("0.png", "1.png")
    content = {name: small_encoded.encoded(small_encoded.smooth(40, 50, 0)) for name in names}
    folder = small_cifar.write_folder(tmp_path / "faces", content)
    whole = cache.decoding.decoded

    def decoded(*arguments):
        yield from whole(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cache.decoding, "decoded", decoded)
    before = signal.getsignal(signal.SIGTERM)
    try:
        code, _, _ = pctool("prepare", folder, "--resolution", 32, "--data-workers", 0, "--offline")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 130
    assert not [path for path in (tmp_path / "cache" / "images").iterdir() if path.suffix != ".lock"]


def test_a_link_leaves_the_files_where_they_are(cifar, pctool, monkeypatch, tmp_path):
    """--link makes symbolic links of official files; arrays, which are made anew, refuse it."""
    small_encoded.install_lsun(monkeypatch)
    small_encoded.write_lmdb(tmp_path / "l", small_encoded.lsun_values())
    assert pctool("import", "lsun-tower", "--from", tmp_path / "l", "--link")[0] == 0
    link = tmp_path / "data" / "lsun-tower" / "data.mdb"
    assert link.resolve() == tmp_path / "l" / "data.mdb"
    code, _, err = pctool("import", "cifar10", "--from", tmp_path / "source", "--link")
    assert code == 2
    assert "--link is for official files" in err


def test_listing_does_not_load_torch(tmp_path):
    """The data commands need NumPy and the standard library, not torch: they answer quickly."""
    code = "import sys; from pctool.cli.main import run; run(['data', 'list']); sys.exit('torch' in sys.modules)"
    environment = {"PCTOOL_DATA_DIR": str(tmp_path), "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_built_in_network_needs_no_fetching(pctool):
    """fashion-cnn comes with the package, and `fetch` says so."""
    code, out, _ = pctool("fetch", "fashion-cnn", "--json")
    assert (code, json.loads(out)) == (0, {"name": "fashion-cnn", "outcome": "built in", "path": None})


def test_weights_that_are_there_need_no_lock(cifar, pctool, inception, tmp_path, monkeypatch):
    """Weights in a cache folder that cannot be written serve; to fetch there is exit code 5, with how to choose one."""

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    content, at = inception
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    code, _, err = pctool("fetch", "inception")
    assert code == 5
    assert "cannot write" in err
    assert "Permission denied; choose another cache folder by PCTOOL_CACHE_DIR" in err
    path = at("http://nowhere.invalid/inception.pth").path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    assert pctool("fetch", "inception")[0] == 0
