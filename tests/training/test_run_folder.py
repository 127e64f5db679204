"""A run's folder by itself. Whole runs, resumed, refused and in use, are in test_session.py."""

import errno
import hashlib
import json
import pathlib

import numpy as np
import pytest
import torch

from pctool.core import checkpoint as checkpoints
from pctool.errors import InputError
from pctool.training.config import resolve
from pctool.training.run_folder import RunFolder
from pctool.training.sample_grid import grid_image


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def config(folder, **flags):
    return resolve({"out": folder.path, **flags})


def small_checkpoint(step: int) -> dict:
    return {"step": step, "config": "{}", "value": torch.tensor([float(step)])}


def test_the_record_names_its_identity(folder):
    """config.json has what decides the result, the data's hash included, and the SHA-256 of exactly that."""
    folder.open(config(folder, threads=3), {"data_sha256": "d" * 64}, may_resume=True)
    folder.write_record()
    folder.close()
    record = json.loads((folder.path / "config.json").read_text())
    assert record["identity"]["data_sha256"] == "d" * 64
    assert "threads" not in record["identity"]
    assert record["config"]["threads"] == 3
    canonical = json.dumps(record["identity"], sort_keys=True).encode()
    assert record["identity_sha256"] == hashlib.sha256(canonical).hexdigest()


def test_how_an_earlier_process_ended_is_gone_while_another_trains(folder):
    """Else a process that is killed would seem to have ended as the one before it."""
    folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    folder.record_exit({"code": 75})
    for _ in range(2):
        folder.forget_exit()
        assert not (folder.path / "exit.json").exists()


def test_other_data_is_another_run(folder):
    """The same settings on images with another hash do not continue the run, and the record stays."""
    folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    folder.write_record()
    folder.save_checkpoint(small_checkpoint(1), 2)
    folder.close()
    before = (folder.path / "config.json").read_bytes()
    with pytest.raises(InputError, match=f"data_sha256: {'a' * 64} -> {'b' * 64}"):
        RunFolder(folder.path).open(config(folder), {"data_sha256": "b" * 64}, may_resume=True)
    assert (folder.path / "config.json").read_bytes() == before


WITHOUT_A_NUMBER = (
    b'{"config": {}, "identity": {"steps": "many"}, "identity_sha256": "", "versions": {}, "command": []}'
)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"config": 1}', WITHOUT_A_NUMBER])
def test_a_damaged_record_is_refused_and_kept(folder, content):
    """Without a readable identity nobody can say that it is the same run."""
    folder.path.mkdir()
    (folder.path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    assert (folder.path / "config.json").read_bytes() == content


def test_never_resume_refuses_a_run_and_takes_an_empty_folder(folder):
    """`--resume never` is for a new run: an empty folder will do, one with a run will not, whosever it is."""
    folder.path.mkdir()
    folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=False)
    folder.write_record()
    folder.close()
    with pytest.raises(InputError, match="already holds a run"):
        RunFolder(folder.path).open(config(folder), {"data_sha256": "a" * 64}, may_resume=False)


def test_a_file_in_the_folders_place_is_refused(folder):
    """It is kept as it is."""
    folder.path.write_text("mine")
    with pytest.raises(InputError, match="is no run folder"):
        folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    assert folder.path.read_text() == "mine"


def test_one_at_a_time_and_the_next_after_close(folder):
    """A folder that is open is refused to another; close lets it in."""
    folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    other = RunFolder(folder.path)
    with pytest.raises(InputError, match="another process is training"):
        other.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    folder.close()
    other.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
    other.close()


@pytest.mark.parametrize(("last", "left"), [(12, False), (11, True)])
def test_a_killed_run_that_had_checkpoints_does_not_begin_anew(folder, last, left):
    """Its logs tell, a cut last line apart: beyond the fifth save the first was written. best.pt alone is none."""
    settings = config(folder, save_every=2), {"data_sha256": "a" * 64}
    folder.open(*settings, may_resume=True)
    folder.write_record()
    folder.save_best(small_checkpoint(2))
    for step in range(3, last + 1):
        folder.log("stats.jsonl", {"step": step})
    with (folder.path / "stats.jsonl").open("a") as file:
        file.write('{"step": 1')
    assert folder.path.joinpath("checkpoints/best.pt").exists()
    if left:
        assert folder.check(*settings, may_resume=True) == "continues"
        return
    with pytest.raises(InputError, match="has come to step 12, and its checkpoints are gone"):
        folder.check(*settings, may_resume=True)


def test_a_new_folder_that_got_no_run_goes(folder):
    """Of what is refused after the folder was taken nothing is left; a folder that was there stays."""
    for made in (True, False):
        folder = RunFolder(folder.path)
        folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
        assert folder.is_fresh is made
        folder.close()
        assert folder.path.exists() is not made
        folder.path.mkdir(exist_ok=True)


def test_every_damaged_checkpoint_is_told_and_kept(folder):
    """With the newest two of three damaged the oldest is read, a line each, newest first."""
    for step in (9, 10, 100):  # in the order of numbers, not of letters
        folder.save_checkpoint(small_checkpoint(step), keep=3)
    paths = checkpoints.list_checkpoints(folder.path)
    for path in paths[1:]:
        path.write_bytes(b"damaged")
    found, problems = folder.newest_checkpoint()
    assert found is not None
    assert found["step"] == 9
    kept = [line.partition("kept as ")[2] for line in problems]
    assert kept == [f"{step:08d}.pt.damaged, and step 9 is used" for step in (100, 10)]
    assert all(path.with_name(path.name + ".damaged").read_bytes() == b"damaged" for path in paths[1:])


@pytest.mark.parametrize("fails", ["storage", "memory"])
def test_only_damage_sets_a_checkpoint_aside(folder, monkeypatch, fails):
    """Storage or memory that fails ends the command, and the checkpoint keeps its name; once alone, storage is asked
    again."""
    for step in (9, 10):
        folder.save_checkpoint(small_checkpoint(step), keep=3)
    read, failures = pathlib.Path.read_bytes, [1]

    def stale(path):
        if failures and path.suffix == ".pt":
            failures.pop()
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    if fails == "storage":
        monkeypatch.setattr(pathlib.Path, "read_bytes", stale)
        assert folder.newest_checkpoint()[0]["step"] == 10
        failures.extend([1, 1])
    else:
        monkeypatch.setattr(torch, "load", full)
    with pytest.raises(
        InputError, match=r"cannot (read|load) checkpoint .*00000010.pt: .*(Stale file|allocate memory)"
    ):
        folder.newest_checkpoint()
    assert [path.name for path in checkpoints.list_checkpoints(folder.path)] == ["00000009.pt", "00000010.pt"]


def test_a_folder_with_damaged_checkpoints_alone_is_refused(folder):
    """Where none can be read, set aside earlier or not, nothing is renamed; without any there is nothing to refuse."""
    assert folder.newest_checkpoint() == (None, [])
    for step in (9, 10):
        folder.save_checkpoint(small_checkpoint(step), keep=3)
        checkpoints.list_checkpoints(folder.path)[-1].write_bytes(b"damaged")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"no readable checkpoint among 2 \(.*00000010\.pt differs from its SHA-256:"):
        folder.newest_checkpoint()
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    for path in checkpoints.list_checkpoints(folder.path):
        path.rename(path.with_name(path.name + ".damaged"))
    with pytest.raises(InputError, match=r"among 2 \(00000010\.pt\.damaged was set aside\); .* deleting the folder"):
        folder.newest_checkpoint()


def test_logs_are_cut_to_a_step_byte_for_byte(folder):
    """Lines up to the step stay as they were; later ones, a line cut by a crash and a foreign one go."""
    folder.path.mkdir()
    kept = ['{"step": 1,  "loss": 0.10}', '{"loss": 2, "step": 4}']
    dropped = ['{"step": 5}', '{"step": 40}', "[4]", '{"loss": 1}', '{"step": nul', '{"step": 4, "lo']
    (folder.path / "stats.jsonl").write_bytes("\n".join([*kept, *dropped]).encode() + b"\xff\x00")
    folder.cut_logs(4)
    assert (folder.path / "stats.jsonl").read_text() == "".join(line + "\n" for line in kept)
    assert not (folder.path / "metrics.jsonl").exists()
    folder.log("stats.jsonl", {"step": 5})
    assert folder.read_log("stats.jsonl") == [*map(json.loads, kept), {"step": 5}]


def test_a_log_takes_no_nan(folder):
    """A NaN is no JSON: it is an error, and the log stays readable."""
    folder.path.mkdir()
    folder.log("stats.jsonl", {"step": 1})
    with pytest.raises(ValueError, match="JSON"):
        folder.log("stats.jsonl", {"step": 2, "loss": float("nan")})
    assert folder.read_log("stats.jsonl") == [{"step": 1}]


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (5, 3, 2), (64, 8, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_grid_shows_each_image_in_reading_order(n, columns, rows, channels):
    """Image i is at row i // columns; -1 is 0, 1 is 255, out of range is clipped, gaps and empty places are black."""
    height, width = 3, 5
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 256, (n, height, width, channels), np.uint8)
    between = rng.uniform(-0.45, 0.45, expected.shape)  # of a level; the nearest one is shown
    images = torch.tensor(expected + between).permute(0, 3, 1, 2) / 127.5 - 1
    images[0, :, 0, 0], expected[0, 0, 0] = 1.7, 255
    images[0, :, 0, 1], expected[0, 0, 1] = -1.7, 0
    sheet = np.asarray(grid_image(images)).reshape((height + 2) * rows - 2, (width + 2) * columns - 2, channels).copy()
    for i in range(n):
        top, left = i // columns * (height + 2), i % columns * (width + 2)
        tile = sheet[top : top + height, left : left + width]
        assert np.array_equal(tile, expected[i])
        tile[:] = 0
    assert not sheet.any()


def test_a_checkpoint_that_cannot_be_removed_ends_no_run(folder, monkeypatch):
    """What is kept too long costs space; the newer ones are written."""
    remove = pathlib.Path.unlink

    def refuse(path, missing_ok=False):
        if path.name == "00000001.pt":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        remove(path, missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", refuse)
    for step in (1, 2, 3):
        folder.save_checkpoint(small_checkpoint(step), 1)
    assert [path.stem for path in checkpoints.list_checkpoints(folder.path)] == ["00000001", "00000003"]


def test_a_link_to_nothing_is_no_run_folder(folder):
    """It is named as what it is."""
    folder.path.symlink_to("nowhere")
    with pytest.raises(InputError, match="is a link to what is not there; mend it, or give another --out"):
        folder.open(config(folder), {"data_sha256": "a" * 64}, may_resume=True)
