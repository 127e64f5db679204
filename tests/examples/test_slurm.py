"""The scripts for SLURM, run by bash with stand-ins for srun, scontrol and pctool on PATH."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pctool.cli.main import run
from pctool.training import study_folder

SCRIPTS = Path(__file__).parent.parent.parent / "examples" / "slurm"
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

# srun starts its command as a child, passes signals on, and ends with its code, as SLURM's does.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$LOG"
while [[ $1 == --* ]]; do shift; done
"$@" &
child=$! caught=yes
trap 'caught=yes; kill -s USR2 "$child"' USR2
trap 'caught=yes; kill -s TERM "$child"' TERM
while [ -n "$caught" ]; do caught='' code=0; wait "$child" || code=$?; done
exit "$code"
"""
SCONTROL = '#!/usr/bin/env bash\necho "scontrol $*" >>"$LOG"\n'
# pctool leaves exit.json in its run folder as the contract has it; END says how it ends.
PCTOOL = """#!/usr/bin/env bash
echo "pctool $*" >>"$LOG"
mkdir -p "$RUN"
left() { echo "{\\"code\\": 75, \\"requeue\\": $1}" | sed 's/,/,\\n /' >"$RUN/exit.json"; exit 75; }
[ "$END" = early ] || trap 'left true' USR2
trap 'left false' TERM
touch "$RUN/listening"
case $END in
    signal | early) for _ in {1..600}; do sleep 0.05; done ;;
    limit) left true ;;
    *) echo '{"code": 0, "requeue": false}' >"$RUN/exit.json"; exit "$END" ;;
esac
"""


class Job:
    """A job script under the stand-ins."""

    def __init__(self, folder: Path, script: Path, arguments: list[str], run_folder: Path) -> None:
        self.log, self.run_folder = folder / "log", run_folder
        self.command = ["bash", str(script), *arguments]
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("pctool", PCTOOL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "LOG": str(self.log),
            "RUN": str(run_folder),
            "SLURM_JOB_ID": "901",
            "SLURM_ARRAY_JOB_ID": "900",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_CPUS_PER_TASK": "6",
        }

    def end(self, how: str, signals: tuple[int, ...] = ()) -> int:
        """Runs it to its end; `signals` come once the run listens."""
        self.log.unlink(missing_ok=True)
        (self.run_folder / "listening").unlink(missing_ok=True)
        process = subprocess.Popen(self.command, env={**self.environment, "END": how})
        for number in signals:
            deadline = time.monotonic() + 20
            while not (self.run_folder / "listening").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
        return process.wait(timeout=30)

    def said(self, program: str) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]


@pytest.fixture(params=["train", "array"])
def job(request, tmp_path):
    """Both job scripts, each with what it hands to pctool and the job that it requeues."""
    if request.param == "train":
        made = Job(tmp_path, SCRIPTS / "train.sbatch", [str(tmp_path / "r u n"), "--method", "apc"], tmp_path / "r u n")
        made.expects = f"train --out {tmp_path / 'r u n'} --method apc", "requeue 901"
        return made
    folder = tmp_path / "a study"
    names = ("0000-a-s0", "0001-b-s0")
    study = study_folder.StudyFile(name="mine", seeds=(0,), tasks=names)
    study_folder.write(folder, study, ["steps = 3\n"] * 2, force=False)
    made = Job(tmp_path, folder / "array.sbatch", [], folder / "runs" / names[1])
    made.expects = f"train --study {folder} --task 1", "requeue 900_1"
    return made


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.iterdir()))
def test_scripts_are_clean(script):
    """shellcheck finds nothing, style included."""
    result = subprocess.run([SHELLCHECK, SCRIPTS / script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6])
def test_an_end_is_the_jobs_end(job, code):
    """A run that is done, diverged or failed is not requeued; SLURM sees its code."""
    assert job.end(str(code)) == code
    assert job.said("pctool") == [job.expects[0]]
    assert job.said("srun")[0].startswith("--cpus-per-task=6 pctool train ")
    assert job.said("scontrol") == []


def test_usr2_saves_and_requeues(job):
    """The signal before the time limit reaches the run; what it saved is continued by the same job."""
    assert job.end("signal", (signal.SIGUSR2,)) == 0
    assert job.said("scontrol") == [job.expects[1]]


def test_a_run_that_stops_by_itself_is_requeued(job):
    """Code 75 with requeue in exit.json and no signal to the script: a time limit that the run saw."""
    assert job.end("limit") == 0
    assert job.said("scontrol") == [job.expects[1]]


def test_usr2_before_the_run_listens_requeues(job):
    """A process killed by the signal while it starts has lost nothing."""
    assert job.end("early", (signal.SIGUSR2,)) == 0
    assert job.said("scontrol") == [job.expects[1]]


def test_a_cancelled_job_stays_cancelled(job):
    """TERM saves as well, and asks for no requeue: SLURM itself requeues what it preempted."""
    assert job.end("signal", (signal.SIGTERM,)) == 75
    assert job.said("scontrol") == []


def test_an_earlier_requeue_does_not_count(job):
    """A run that fails after one that was requeued is not requeued for the older exit.json."""
    assert job.end("signal", (signal.SIGUSR2,)) == 0
    assert job.end("3") == 3
    assert job.said("scontrol") == []


@pytest.mark.slow
def test_a_study_is_interrupted_requeued_and_done(tmp_path):
    """The real thing: an array's task stopped by USR2 and run again ends with all its steps, logged once each."""
    grid, folder = tmp_path / "g.toml", tmp_path / "s"
    settings = (
        "threads = 1\nmax_images = 20\nwidth_g = 8\nwidth_d = 8\nbatch_size = 4\nlog_every = 1\nsample_every = 0\n"
    )
    grid.write_text(f'axes = [[{{method = "none"}}, {{method = "sn"}}]]\n[settings]\nsteps = 120\n{settings}')
    assert run(["study", str(grid), "--out", str(folder)]) == 0
    run_folder = folder / "runs" / "0001-sn-s0"
    job = Job(tmp_path, folder / "array.sbatch", [], run_folder)
    (tmp_path / "bin" / "pctool").write_text(f'#!/bin/sh\nexec {sys.executable} -m pctool "$@"\n')
    process = subprocess.Popen(job.command, env=job.environment)
    deadline = time.monotonic() + 60
    while not (run_folder / "stats.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=60) == 0
    assert job.said("scontrol") == ["requeue 900_1"]
    assert 0 < json.loads((run_folder / "exit.json").read_text())["step"] < 120
    assert subprocess.run(job.command, env=job.environment, check=False).returncode == 0
    assert len(job.said("scontrol")) == 1
    steps = [json.loads(line)["step"] for line in (run_folder / "stats.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 121))


@pytest.fixture
def local(tmp_path):
    """Runs node-local.sh; returns its code, the PCTOOL_DATA_DIR of its command, and what it said."""
    shared = tmp_path / "shared"
    (shared / "cifar10").mkdir(parents=True)
    (shared / "cifar10" / "train.npy").write_bytes(b"images")
    disk = tmp_path / "disk"
    disk.mkdir()

    def call(*command, **environment):
        given = {**os.environ, "PCTOOL_DATA_DIR": str(shared), "TMPDIR": str(disk), **environment}
        given.pop("SLURM_TMPDIR", None)
        arguments = ["bash", str(SCRIPTS / "node-local.sh"), "cifar10", *(command or ("printenv", "PCTOOL_DATA_DIR"))]
        result = subprocess.run(arguments, env=given, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout.strip(), result.stderr

    call.shared, call.disk = shared, disk
    return call


def test_data_are_copied_once_and_read_there(local):
    """The command sees a whole copy on the node's disk, that only its owner can enter; a second one copies nothing."""
    code, place, err = local()
    assert (code, err) == (0, "")
    copy = Path(place) / "cifar10" / "train.npy"
    assert copy.is_relative_to(local.disk)
    assert copy.read_bytes() == b"images"
    assert Path(place).stat().st_mode & 0o777 == 0o700
    (local.shared / "cifar10" / "train.npy").unlink()
    assert local()[:2] == (0, place)
    assert copy.read_bytes() == b"images"


def test_a_copy_that_was_cut_short_is_made_again(local):
    """What a killed job left half-copied is not used."""
    _, place, _ = local()
    half = Path(place) / "cifar10.part"
    (Path(place) / "cifar10").rename(half)
    (half / "train.npy").write_bytes(b"ima")
    assert local()[1] == place
    assert (Path(place) / "cifar10" / "train.npy").read_bytes() == b"images"
    assert not half.exists()


def test_tasks_that_start_together_share_one_copy(local, tmp_path):
    """Eight at once: cp runs once, and all read a whole copy."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "cp").write_text(f'#!/bin/sh\necho x >>{tmp_path / "copies"}\nsleep 0.3\nexec {shutil.which("cp")} "$@"\n')
    (slow / "cp").chmod(0o755)
    environment = {
        **os.environ,
        "PCTOOL_DATA_DIR": str(local.shared),
        "TMPDIR": str(local.disk),
        "PATH": f"{slow}{os.pathsep}{os.environ['PATH']}",
    }
    command = ["bash", SCRIPTS / "node-local.sh", "cifar10", "sh", "-c", 'cat "$PCTOOL_DATA_DIR/cifar10/train.npy"']
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(8)]
    assert [process.communicate(timeout=30)[0] for process in processes] == [b"images"] * 8
    assert (tmp_path / "copies").read_text() == "x\n"


def test_without_a_copy_the_shared_data_are_read(local, tmp_path):
    """No room, or a folder that cannot be made: one note, and the command runs with what there is."""
    file = tmp_path / "file"
    file.touch()
    code, place, err = local(TMPDIR=str(file))
    assert (code, place) == (0, str(local.shared))
    assert "no copy of cifar10" in err
    shutil.rmtree(local.shared / "cifar10")
    code, place, err = local()
    assert (code, place) == (0, str(local.shared))
    assert not list(local.disk.rglob("*.part"))


def test_the_commands_code_and_arguments_are_its_own(local):
    """It is replaced by the command: the code comes back and no argument is split."""
    assert local("sh", "-c", 'echo "$1"; exit 75', "sh", "a  b")[:2] == (75, "a  b")
