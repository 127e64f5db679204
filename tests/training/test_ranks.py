"""Two processes as one run, on CPUs by gloo."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from pctool.core.models import build_discriminator
from pctool.core.models.factored import factored_layers
from pctool.errors import InputError
from pctool.training import lifeline, ranks, session
from pctool.training.config import resolve
from pctool.training.ranks import Ranks, shared_settings

from . import forked

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ALONE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}


def flat(value, name=""):
    """Every tensor of a checkpoint by its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}/{key}")


def stats(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def test_two_ranks_equal_one_process(tmp_path):
    """After 10 steps in float64 at the same global batch every weight, buffer and vector of two ranks is within 1e-10
    of one process's (but for the biases that batch norm cancels, and the means it keeps of
    them), the same bits on both. Only rank 0 writes."""
    forked.run("two_ranks", (1, [tmp_path / "one", 10, "apc"]), (2, [tmp_path / "two", 10, "apc"]))
    one, first, second = (
        dict(flat(torch.load(tmp_path / name, weights_only=True))) for name in ("one.rank0", "two.rank0", "two.rank1")
    )
    compared = 0
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        # A norm follows every convolution of G's blocks: its bias has mere rounding as gradient, which Adam enlarges.
        cancelled = name.startswith("/G") and ("/blocks" in name and ".bias" in name and "norm" not in name)
        if not name.startswith("/optim") and not cancelled and "running_mean" not in name:
            torch.testing.assert_close(first[name], value, rtol=0, atol=1e-10, msg=name)
            compared += 1
    assert compared > 80
    degrees = [line["strengths"] for line in stats(tmp_path / "two") if "strengths" in line]
    assert len(degrees) > 1, "the thresholds were to force a change"


@pytest.mark.slow
def test_two_ranks_of_dcgan_keep_one_batch_norm(tmp_path):
    """Its G norms vectors too, and D's last convolution is in two factors: after 3 steps D's weights are one process's
    to 1e-10; both ranks have the same bits."""
    D = build_discriminator("dcgan", 64, 3, 64, "authors")
    assert set(factored_layers(D, (16, 3, 64, 64))) == set(factored_layers(D, (8, 3, 64, 64))) == {"stages.6"}
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (50, 64, 64, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    forked.run("two_ranks", (1, [tmp_path / "one", 3, "dcgan"]), (2, [tmp_path / "two", 3, "dcgan"]))
    one, first, second = (
        dict(flat(torch.load(tmp_path / name, weights_only=True))) for name in ("one.rank0", "two.rank0", "two.rank1")
    )
    assert [name for name in one if not torch.equal(first[name], second[name])] == []
    for name in [name for name in one if name.startswith("/D/")]:
        torch.testing.assert_close(first[name], one[name], rtol=0, atol=1e-10, msg=name)


@pytest.mark.slow
def test_one_steps_gradient_of_d_is_one_processs_in_float32(tmp_path):
    """After a whole step (G's update with batch norm, then D's) of 8 images in float32, D's gradient as two ranks
    average it differs from one process's by 1e-6 in norm, and no parameter's by more than 3e-6 of its own norm:
    measured 1e-7 to 8e-7, and up to 2.1e-6 for a small shortcut, of whose gradient the spectral norm takes most away.
    So with PyTorch's own convolutions and with oneDNN's, which would add up a bias's gradient in turn (1.1e-6).
    The median of three seeds counts: an input of ReLU that is 0 but for rounding makes the gradient another one.
    """
    forked.run("step_gradients", (1, [tmp_path / "one"]), (2, [tmp_path / "two"]))
    one, first, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one.rank0", "two.rank0", "two.rank1")
    )
    errors: dict[str, list[tuple[float, float]]] = {"pytorch": [], "onednn": []}
    for key, expected in one.items():
        assert [name for name in expected if not torch.equal(first[key][name], second[key][name])] == []
        norms = torch.tensor([value.double().norm() for value in expected.values()])
        apart = torch.tensor([(first[key][name].double() - value.double()).norm() for name, value in expected.items()])
        assert len(norms) > 20
        assert norms.min() > 0
        errors[key.split("/")[0]].append((float(apart.norm() / norms.norm()), float((apart / norms).max())))
    for found in errors.values():
        assert (np.median(found, axis=0) <= (1e-6, 3e-6)).all(), errors


@pytest.mark.slow
def test_an_interrupted_run_of_two_ranks_continues_bit_for_bit(tmp_path):
    """A signal that only one rank got stops both after the same step; the same command ends with the same bits and
    logs as the uninterrupted run."""
    parts = [tmp_path / "parts", 10, "apc"]
    forked.run("two_ranks", (2, [tmp_path / "whole", 10, "apc"]), (2, [*parts, "interrupt"]))
    assert torch.load(tmp_path / "parts.rank1", weights_only=True)["step"] == 3
    forked.run("two_ranks", (2, parts))
    whole, parts = (
        dict(flat(torch.load(tmp_path / f"{name}.rank0", weights_only=True))) for name in ("whole", "parts")
    )
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert stats(tmp_path / "parts") == stats(tmp_path / "whole")


def test_the_command_runs_under_torchrun_and_a_dead_rank_ends_the_job(tmp_path):
    """`torchrun -m pctool train` trains; SIGKILL of one worker ends the launcher and the other within 10 seconds."""
    out = tmp_path / "run"
    small = "--max-images 50 --width-g 8 --width-d 8 --batch-size 4 --log-every 1 --spectrum-every 0 --sample-every 0"
    command = [*TORCHRUN, "-m", "pctool", "train", *small.split(), "--steps", "100000", "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ, **ALONE}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "stats.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = next(pid for pid in children if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    os.kill(int(victim), 9)
    process.communicate(timeout=10)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def srun(*arguments: object) -> list[subprocess.Popen]:
    """Two processes of `pctool train` as srun starts them; unlike `srun --kill-on-bad-exit=1` it leaves them alone.

    `{rank}` in an argument is the process's number, as a shell would put in $SLURM_PROCID.
    """
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "pctool", "train", *(str(argument).format(rank=rank) for argument in arguments)],
            env={**os.environ, **ALONE, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]


@pytest.mark.parametrize(
    ("victim", "sign", "also"),
    [
        pytest.param(0, "stats.jsonl", ["--eval-every", 0], id="first-trains", marks=pytest.mark.slow),
        pytest.param(1, "stats.jsonl", ["--eval-every", 0], id="second-trains", marks=pytest.mark.slow),
        # the last thing before an evaluation
        pytest.param(1, "checkpoints/00000001.pt", ["--eval-every", 1], id="second-scores", marks=pytest.mark.slow),
        pytest.param(0, "checkpoints/00000001.pt", ["--eval-every", 1], id="first-scores", marks=pytest.mark.slow),
    ],
)
def test_a_dead_rank_ends_the_other_under_srun(tmp_path, request, victim, sign, also):
    """SIGKILL of either process in mid-training, or while both score: the other ends by itself within 10 seconds,
    with one line, no traceback and code 1; of the first exit.json says why."""
    out = tmp_path / "run"
    processes = training(request, out, sign, "--steps", 1 if also[1] else 100_000, *also)
    assert not (out / "metrics.jsonl").exists()
    survivor = processes[1 - victim]
    processes[victim].kill()
    said = survivor.communicate(timeout=10)[1]
    assert survivor.returncode == 1
    last = said.splitlines()[-1]
    assert "Traceback" not in said
    assert f"process {victim} of 2 has died" in last
    if victim == 1:
        ended = json.loads((out / "exit.json").read_text())
        assert (ended["code"], ended["reason"].split(",")[0]) == (1, "PctoolError: process 1 of 2 has died")


def training(request, out: Path, sign: str, *also: object) -> list[subprocess.Popen]:
    """Two processes of a small run that have got as far as a file in `out`; killed at the test's end."""
    small = "--max-images 50 --width-g 8 --width-d 8 --batch-size 4 --log-every 1 --spectrum-every 0 --sample-every 0"
    processes = srun(*small.split(), "--save-every", 1, "--out", out, *also)
    for process in processes:
        request.addfinalizer(process.communicate)
        request.addfinalizer(process.kill)
    deadline = time.monotonic() + 300
    while not (out / sign).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_frozen_rank_ends_the_other_within_a_minute(tmp_path, request, victim):
    """SIGSTOP closes no connection: the other process ends by itself all the same, 60 seconds after the last word."""
    processes = training(request, tmp_path / "run", "stats.jsonl", "--steps", 100_000)
    processes[victim].send_signal(signal.SIGSTOP)
    survivor = processes[1 - victim]
    said = survivor.communicate(timeout=60 + lifeline.GRACE + 5)[1]
    assert survivor.returncode == 1
    assert f"process {victim} of 2 has been silent for 60 s" in said.splitlines()[-1]
    if victim == 1:  # the other one waited in a collective, as it would with NCCL for one that has died
        ended = json.loads((tmp_path / "run/exit.json").read_text())
        assert (ended["code"], ended["step"] > 0) == (1, True)
        assert ended["reason"].startswith("PctoolError: process 1 of 2 has been silent for 60 s")


@pytest.mark.slow
def test_a_job_that_is_suspended_goes_on(tmp_path, request):
    """All processes stopped for longer than one may be silent, and resumed: none is missed."""
    out = tmp_path / "run"
    processes = training(request, out, "stats.jsonl", "--steps", 100_000)
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(75)
    before = (out / "stats.jsonl").stat().st_size
    for process in processes:
        process.send_signal(signal.SIGCONT)
    time.sleep(15)  # more than a beat
    assert [process.poll() for process in processes] == [None, None]
    assert (out / "stats.jsonl").stat().st_size > before


def refused(*arguments: object) -> list[tuple[int, str]]:
    """Code and words of two processes that srun would start with these arguments."""
    processes = srun(*arguments)
    words = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, said) for process, said in zip(processes, words, strict=True)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--stepz", 1], 2, "--stepz"),
        pytest.param(["--dataset", "cifra10"], 2, "cifar10", marks=pytest.mark.slow),
        pytest.param(
            *(["--batch-size", 5, "--steps", 1], 2, "--batch-size 5 does not divide among 2 processes"),
            marks=pytest.mark.slow,
        ),
        (["--dataset", "cifar10"], 4, "cifar10 is not here"),
    ],
)
def test_a_refusal_is_said_once(tmp_path, arguments, code, words):
    """Whether a usage error, a setting, or what the processes find out together: the first says it in one line, all
    end with its code, and there is no run folder."""
    first, second = refused("--out", tmp_path / "run", *arguments)
    assert (first[0], first[1].count("\n")) == (code, 1)
    assert words in first[1]
    assert second == (code, "")
    assert not (tmp_path / "run").exists()


def test_independent_runs_in_one_step_are_refused(tmp_path):
    """Processes that a shell gave a seed and a folder each are no one run: one line names both, and there is neither
    folder."""
    first, second = refused("--steps", 1, "--width-g", 8, "--out", tmp_path / "run{rank}", "--seed", "{rank}")
    assert (first[0], first[1].count("\n")) == (2, 1)
    assert f"process 1 of 2 has seed 1, out {tmp_path}/run1 where process 0 has seed 0, out {tmp_path}/run0" in first[1]
    assert "srun -n 1" in first[1]
    assert second == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_what_must_be_the_same_and_what_need_not(tmp_path, monkeypatch):
    """Settings that decide the result or when the processes meet, and the folder; not where a node has its data."""
    for node in ("a", "b"):
        (tmp_path / node / "faces").mkdir(parents=True)
    common = {"resolution": 32, "steps": 5, "out": tmp_path / "run"}
    a = resolve({**common, "dataset": str(tmp_path / "a" / "faces"), "data_dir": "/a", "data_workers": 2})
    b = resolve({**common, "dataset": str(tmp_path / "b" / "faces"), "data_dir": "/b", "log_every": 3})
    assert shared_settings(a) == shared_settings(b)
    for key, value in (("eval_every", 7), ("lr_d", 0.5), ("out", tmp_path / "other")):
        found_on = [shared_settings(a), shared_settings(b.model_copy(update={key: value}))]
        monkeypatch.setattr(dist, "all_gather_object", lambda found, own, of=found_on: found.__setitem__(slice(2), of))
        for rank in (0, 1):
            with pytest.raises(
                InputError, match=f"process 1 of 2 has {key} {value} where process 0 has {key} "
            ) as caught:
                Ranks(rank, 2).check_same(found_on[rank])
            assert caught.value.said == (rank == 1)


def test_the_settings_and_the_images_are_compared(tmp_path, monkeypatch):
    """The settings before anything is loaded, the images' hash before the folder is taken."""
    asked = []
    monkeypatch.setattr(Ranks, "check_same", lambda ranks, values: asked.append((values, (tmp_path / "run").exists())))
    config = resolve(
        {
            "max_images": 4,
            "batch_size": 2,
            "width_g": 8,
            "width_d": 8,
            "steps": 1,
            "device": "cpu",
            "out": tmp_path / "run",
        }
    )
    with session.opened(config) as opened:
        pass
    assert asked == [(shared_settings(config), False), ({"data_sha256": opened.dataset.sha256}, False)]


def test_one_process_pays_nothing():
    """Alone every operation is the identity."""
    alone, batch = Ranks(), torch.arange(6.0)
    assert alone.share(batch) is batch
    assert alone.any(True, torch.device("cpu"))
    assert alone.means(torch.tensor(1.0), torch.tensor(2.0)) == [1, 2]
    assert alone.from_first("x") == "x"
    assert alone.gathered(lambda: "x") == ["x"]
    assert alone.part(7, 3) == range(7)


@pytest.mark.parametrize(("n", "unit", "size"), [(10_000, 250, 4), (10_000, 250, 7), (1100, 250, 2), (80, 250, 3)])
def test_parts_are_whole_units_in_turn(n, unit, size):
    """The ranks' parts follow each other to n and begin at a multiple of the unit; the first has some, and none has
    over a unit more than another."""
    parts = [Ranks(rank, size).part(n, unit) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(n))
    assert all(part.start % unit == 0 for part in parts if len(part))
    units = [-(-len(part) // unit) for part in parts]
    assert units[0] > 0
    assert max(units) - min(units) <= 1


def test_a_failed_process_waits_for_no_group_that_does_not_end(monkeypatch):
    """NCCL's end waits for whoever is stuck in a collective: what failed is to be said before the watch ends all."""
    asked, ends = threading.Event(), threading.Event()
    monkeypatch.setattr(ranks, "PARTING", 0.2)
    monkeypatch.setattr(ranks.dist, "destroy_process_group", lambda: (asked.set(), ends.wait(10)))
    assert not ranks._left_group(failed=True)
    assert asked.is_set()
    ends.set()
    assert ranks._left_group(failed=True)
    assert ranks._left_group(failed=False)
    assert ranks.PARTING < lifeline.GRACE
