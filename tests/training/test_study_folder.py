"""A study's folder: written whole and once, read back, and handed to train."""

import tomllib
from pathlib import Path

import pytest

from pctool.errors import InputError, WriteError
from pctool.training import studies, study_folder
from pctool.training.config import resolve
from pctool.training.study_folder import StudyFile

CHOICES = [
    {"dataset": "fashion-mnist", "method": "sn"},
    {"dataset": "cifar10", "method": "fpc", "degree": 3},
    {"dataset": "cifar10", "method": "fpc", "poly": (1.5, -0.5)},
    {"dataset": "cifar10", "arch": "cnn", "method": "apc", "taus": (2.0, 3.0, 4.0, 5.0)},
    {"dataset": "cifar10", "method": "apc", "ladder": ((5.0, (1.5, -0.5)),)},
    {"dataset": "cifar10", "method": "svd", "d_iters": 5, "data_dir": "/data/\U0001f408"},
]


def made(names=("0000-a-s0", "0001-b-s0")):
    """A study and its tasks' texts."""
    return StudyFile(name="mine", seeds=(0,), tasks=names), [f"# {name}\nsteps = 3\n" for name in names]


def write(folder, names=("0000-a-s0", "0001-b-s0"), force=False):
    study, texts = made(names)
    return study_folder.write(folder, study, texts, force=force)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_task_resolves_to_what_the_grid_resolves_to(choice):
    """The text holds every setting that decides the result: as a preset it gives the same configuration."""
    (task,) = studies.tasks(studies.Grid(axes=((choice,),)), (3,), {"steps": 7, "keep": 5})
    config = resolve({**task.settings, "out": "x"})
    table = tomllib.loads(study_folder.task_text("mine", task, config))
    assert resolve({"out": "x"}, table) == config
    assert {"seed", "steps", "lr_d", "batch_size", "width_d", "keep"} <= set(table)
    assert not {"out", "device", "threads", "log_every"} & set(table)


def test_a_folder_of_images_is_written_with_its_whole_path(tmp_path, monkeypatch):
    """A job may start elsewhere; the identity, which has the folder's name alone, stays."""
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path)
    (task,) = studies.tasks(studies.Grid(axes=(({"dataset": "faces", "resolution": 32},),)), (0,), {})
    config = resolve(task.settings)
    before, table = config.identity(), tomllib.loads(study_folder.task_text("mine", task, config))
    assert table["dataset"] == str(tmp_path / "faces")
    monkeypatch.chdir("/")
    assert resolve({}, table).identity() == before


def test_every_path_is_written_whole(tmp_path, monkeypatch):
    """Data, weights and the checkpoint to start from are found wherever the job starts."""
    monkeypatch.chdir(tmp_path)
    given = {"data_dir": "data", "eval_weights": "w.pth", "eval_every": 1, "fork": "runs/a/checkpoints/best.pt"}
    (task,) = studies.tasks(studies.Grid(axes=(({"method": "sn"},),)), (0,), given)
    table = tomllib.loads(study_folder.task_text("mine", task, resolve({**task.settings, "out": "x"})))
    assert {key: table[key] for key in ("data_dir", "eval_weights", "fork")} == {
        key: str(tmp_path / given[key]) for key in ("data_dir", "eval_weights", "fork")
    }
    assert "out" not in table


def test_auto_precision_is_left_to_the_machine_that_trains():
    """What the machine that writes would choose is not written."""
    (task,) = studies.tasks(studies.Grid(axes=(({"method": "sn"},),)), (0,), {"precision": "auto"})
    assert 'precision = "auto"' in study_folder.task_text("mine", task, resolve(task.settings))


def test_written_twice_is_written_once(tmp_path):
    """The same content again changes no file, and is no error."""
    write(tmp_path / "s")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    write(tmp_path / "s")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    assert set(contents(tmp_path / "s")) == {
        "study.json",
        "array.sbatch",
        "tasks/0000-a-s0.toml",
        "tasks/0001-b-s0.toml",
    }
    assert (tmp_path / "s" / "logs").is_dir()


@pytest.mark.parametrize("names", [("0000-a-s0",), ("0000-a-s0", "0001-c-s0"), ("0000-a-s0", "0001-b-s0", "0002-c-s0")])
def test_another_study_needs_force(tmp_path, names):
    """Fewer, other or more tasks: nothing is touched without force; with it the tasks are exactly the new ones."""
    write(tmp_path)
    run = tmp_path / "runs" / "0001-b-s0" / "config.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"(exists with other content|is no task of this study); add --force"):
        write(tmp_path, names)
    assert contents(tmp_path) == before
    write(tmp_path, names, force=True)
    assert tuple(sorted(path.stem for path in (tmp_path / "tasks").iterdir())) == names
    assert study_folder.read_study(tmp_path).tasks == names
    assert run.exists()


def test_a_folder_of_something_else_is_refused(tmp_path):
    """A folder with other files, and a file in the folder's place, are left as they are."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is no study"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(WriteError, match=r"thesis\.tex"):
        write(tmp_path / "thesis.tex")


def test_study_json_is_written_last(tmp_path, monkeypatch):
    """A process that dies in between leaves a folder that is no study, and the same command completes it."""
    written = []
    real = study_folder.files.write_bytes

    def dying(path, data):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, data)

    monkeypatch.setattr(study_folder.files, "write_bytes", dying)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s")
    assert "study.json" not in written
    with pytest.raises(InputError, match="is no study"):
        study_folder.read_study(tmp_path / "s")
    monkeypatch.undo()
    write(tmp_path / "s")
    assert len(study_folder.read_study(tmp_path / "s").tasks) == 2


def test_the_array_has_every_task(tmp_path):
    """The script counts the tasks from 0 and names the folder as shell and SLURM read it: quoted, % doubled."""
    text = study_folder.array_script(tmp_path / "a b%c", made()[0])
    assert "#SBATCH --array=0-1\n" in text
    assert "#SBATCH --job-name=mine\n" in text
    assert f"study='{tmp_path}/a b%c'\n" in text
    assert f"#SBATCH --output='{tmp_path}/a b%%c/logs/%a.out'\n" in text
    assert "@" not in text.replace("$@", "").replace("USR2@180", "")
    with pytest.raises(InputError, match="cannot name"):
        study_folder.array_script(tmp_path / "a\nb", made()[0])


def test_the_example_is_what_the_command_writes():
    """examples/slurm/array.sbatch is the script of table1 with three seeds."""
    tasks = studies.tasks(studies.read_grid("table1"), range(3), {})
    study = StudyFile(name="table1", seeds=(0, 1, 2), tasks=tuple(task.name for task in tasks))
    example = Path(__file__).parent.parent.parent / "examples" / "slurm" / "array.sbatch"
    assert example.read_text() == study_folder.array_script(Path("/scratch/me/table1"), study)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "pctool-study", "version": 2, "name": "a", "seeds": [], "tasks": []}']
)
def test_a_damaged_study_is_refused(tmp_path, text):
    """What is not a study.json of this version is named in one line."""
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match=r"study\.json cannot be used"):
        study_folder.read_study(tmp_path)


def test_a_task_outside_of_the_folder_is_refused(tmp_path):
    """A study of somebody else cannot make a run write into another place."""
    write(tmp_path)
    text = (tmp_path / "study.json").read_text()
    for name in ("../../x", "\\u0000"):
        (tmp_path / "study.json").write_text(text.replace("0001-b-s0", name))
        with pytest.raises(InputError, match="a task has the name of no folder"):
            study_folder.pick(tmp_path, 1)


def test_a_task_is_a_preset_and_a_run_folder(tmp_path):
    """The number counts from 0 in the study's order."""
    write(tmp_path)
    expected = (str(tmp_path / "tasks" / "0001-b-s0.toml"), tmp_path / "runs" / "0001-b-s0")
    assert study_folder.pick(tmp_path, 1) == expected
    study_folder.check_given({"data_dir": "--data-dir", "device": "PCTOOL_DEVICE", "save_every": "--save-every"})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (2, "--task 2 is not there: .* has the tasks 0 to 1"),
        (-1, "--task -1 is not there"),
        (None, "--task is missing"),
    ],
)
def test_a_task_that_is_not_there(tmp_path, task, message):
    """Is refused with those there are."""
    write(tmp_path)
    with pytest.raises(InputError, match=message):
        study_folder.pick(tmp_path, task)


@pytest.mark.parametrize(
    "given", [{"lr_d": "--lr-d"}, {"steps": "PCTOOL_STEPS"}, {"out": "--out"}, {"preset": "--preset"}]
)
def test_what_would_make_it_another_run(given):
    """Is refused by the name it was given by."""
    with pytest.raises(InputError, match=f"{next(iter(given.values()))} is decided by the study"):
        study_folder.check_given(given)


def test_a_task_needs_its_study():
    """--task alone says what is missing."""
    with pytest.raises(InputError, match="--task goes with --study"):
        study_folder.pick(None, 0)
