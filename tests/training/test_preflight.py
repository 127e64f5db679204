"""`--preflight`: what a run needs, each in a line, whatever became of the others."""

import json
import shutil
import sys

import pytest
import torch
import torch._inductor.config

from pctool.cli.main import run
from pctool.data import acquire, cache
from pctool.errors import InputError, MissingError, WriteError
from pctool.training.config import resolve
from pctool.training.preflight import preflight
from tests.data import small_encoded

SMALL = {"max_images": 50, "width_g": 8, "width_d": 8, "batch_size": 4, "steps": 2}
FLAGS = ["--width-g", "8", "--width-d", "8", "--batch-size", "4", "--data-workers", "0"]


@pytest.fixture
def tower(monkeypatch, tmp_path):
    """A small LSUN tower, imported."""
    small_encoded.install_lsun(monkeypatch)
    small_encoded.write_lmdb(tmp_path / "tower_train_lmdb", small_encoded.lsun_values())
    acquire.import_files("lsun-tower", tmp_path / "tower_train_lmdb")


def found(**flags):
    """Name and text of each check."""
    return {check.name: check.text for check in preflight(resolve({**SMALL, **flags}))}


def test_it_says_what_is_there_and_writes_nothing(tmp_path):
    """Data, networks, device, folder and disk in a line each; nothing is made; another run's folder fails alone."""
    checks = found(out=tmp_path / "new")
    assert list(checks) == ["data", "networks", "device", "folder", "disk"]
    assert checks["data"].endswith("50 images of 32 px, sums verified")
    assert checks["folder"].endswith("new")
    assert not (tmp_path / "new").exists()
    out = ["--out", str(tmp_path / "new")]
    assert run(["train", *FLAGS, "--max-images", "50", "--steps", "2", *out]) == 0
    assert found(out=tmp_path / "new")["folder"].endswith("continues")
    *_, folder, disk = preflight(resolve({**SMALL, "out": tmp_path / "new", "seed": 3}))
    assert isinstance(folder.error, InputError)
    assert "seed: 0 -> 3" in folder.text
    assert disk.error is None


def test_a_disk_too_small(tmp_path, monkeypatch):
    """Fewer bytes free than the checkpoints need: WriteError with both numbers."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    disk = preflight(resolve({**SMALL, "out": tmp_path / "new"}))[-1]
    assert isinstance(disk.error, WriteError)
    assert "MiB needed for checkpoints, 0 MiB free" in disk.text


def test_what_flags_need_is_looked_at(tmp_path, monkeypatch, capsys):
    """Without a compiler or TensorBoard --compile and --tensorboard fail now, in a line each; no folder is begun."""
    flags = ["train", *FLAGS, "--max-images", "50", "--steps", "2", "--compile", "--out", str(tmp_path / "r")]
    torch._dynamo.reset()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert run([*flags, "--tensorboard", "--preflight"]) == 4
        said = capsys.readouterr()
        assert said.out.count("failed:") == 2
        assert "compile   " in said.out
        assert "pip install 'pctool[tensorboard]'" in said.out
        assert run(flags) == 4
        said = capsys.readouterr()
        assert said.err.startswith("pctool: --compile: torch.compile fails here")
        assert "install a C++ compiler (g++), or leave --compile out" in said.err
        assert said.err.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_every_failed_check_has_a_line(tmp_path, capsys):
    """Without data and weights all lines are there, two marked; the first one's error and code end the command."""
    arguments = ["train", *FLAGS, "--dataset", "cifar10", "--eval-every", "5", "--out", str(tmp_path / "r")]
    assert run([*arguments, "--preflight"]) == 4
    said = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert list(lines) == ["data", "networks", "device", "scores", "folder", "disk"]
    assert [name for name, text in lines.items() if text.startswith("failed: ")] == ["data", "scores"]
    assert "get them with 'pctool data fetch inception'" in lines["scores"]
    assert "--" not in lines["scores"]  # no flag that train does not have
    assert lines["folder"].endswith("r: new")
    assert said.err.startswith("pctool: cifar10 is not here")
    assert said.err.count("\n") == 1
    assert run([*arguments, "--preflight", "--json"]) == 4
    answer = json.loads(capsys.readouterr().out)
    assert (list(answer["failed"]), "disk" in answer, "data" in answer) == (["data", "scores"], True, False)


def test_weights_alone_are_missing(tmp_path, tower):
    """With the data here only the scores fail, and it is weights that are missing."""
    checks = preflight(
        resolve({"dataset": "lsun-tower", "eval_every": 5, "steps": 2, "cache_limit": 0, "out": tmp_path / "r"})
    )
    failed = [check for check in checks if check.error]
    assert [check.name for check in failed] == ["scores"]
    assert isinstance(failed[0].error, MissingError)


def test_decoding_shows_its_progress(tmp_path, tower, capsys):
    """What is decoded into the cache is announced on stderr, as in a run."""
    arguments = ["train", *FLAGS, "--dataset", "lsun-tower", "--resolution", "128", "--out", str(tmp_path / "r")]
    assert run([*arguments, "--preflight"]) == 0
    assert "decoding 5 images" in capsys.readouterr().err


def test_what_is_said_of_sums(tmp_path, tower, monkeypatch):
    """They are verified in a small file of the cache, not where images are streamed or the file is large."""
    tower_128 = {"dataset": "lsun-tower", "resolution": 128, "data_workers": 0, "out": tmp_path / "r"}
    assert found(**tower_128)["data"].endswith("5 images of 128 px, sums verified")
    unverified = "sizes checked, sums not: 'pctool data verify lsun-tower' reads every byte"
    monkeypatch.setattr(cache, "CHECKED_WHEN_OPENED", 10**5)
    assert found(**tower_128)["data"].endswith(unverified)
    assert found(**{**tower_128, "cache_limit": 0, "resolution": 256})["data"].endswith(unverified)
    (tmp_path / "faces").mkdir()
    for i in range(4):
        (tmp_path / "faces" / f"{i}.png").write_bytes(small_encoded.encoded(small_encoded.smooth(40, 50, i)))
    faces = {"dataset": str(tmp_path / "faces"), "resolution": 32, "cache_limit": 0, "out": tmp_path / "r"}
    assert found(**faces)["data"].endswith("there are no sums to verify")
