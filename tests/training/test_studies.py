"""Grids of runs: what is shipped is the paper's tables, and a grid makes the tasks it says."""

import itertools
import textwrap
import tomllib
from pathlib import Path

import pytest

from pctool.data import catalog
from pctool.errors import InputError
from pctool.training import recipes, studies
from pctool.training.config import TrainConfig, resolve
from pctool.training.study_folder import task_text

GRID = """
# Mine.
axes = [[{ dataset = "fashion-mnist" }, { dataset = "cifar10" }], [{ method = "sn" }, { method = "fpc", degree = 3 }]]
[settings]
arch = "cnn"
"""
# The rows of the paper's Tables 1 and 2.
TABLE_1 = {
    (dataset, None, method, degree)
    for dataset in ("cifar10", "stl10")
    for method, degree in (("sn", None), ("fpc", 3), ("fpc", 7), ("apc", None))
}
TABLE_2 = {
    (dataset, resolution, method, degree)
    for dataset, resolution in (
        ("lsun-bedroom", 128),
        ("lsun-bedroom", 256),
        ("lsun-living-room", 256),
        ("lsun-tower", 256),
    )
    for method, degree in (("sn", None), ("svd", None), ("fpc", 3), ("apc", None))
}


@pytest.fixture
def own(tmp_path):
    """Writes a grid file and returns its name."""

    def written(text: str = GRID) -> str:
        path = tmp_path / "own.toml"
        path.write_text(text)
        return str(path)

    return written


@pytest.mark.parametrize(("name", "rows", "arch"), [("table1", TABLE_1, "resnet"), ("table2", TABLE_2, "dcgan")])
def test_the_shipped_studies_are_the_papers_tables(name, rows, arch):
    """Every row of the table once a seed, with its networks and (1,1) updates, and nothing else decided."""
    tasks = studies.tasks(studies.read_grid(name), (0, 1, 2), {})
    keys = ("dataset", "resolution", "method", "degree")
    found = [(task.settings["seed"], *(task.settings.get(key) for key in keys)) for task in tasks]
    assert len(found) == len(set(found)) == 3 * len(rows)
    assert set(found) == {(seed, *row) for seed in (0, 1, 2) for row in rows}
    assert all((task.settings["arch"], task.settings["d_iters"]) == (arch, 1) for task in tasks)
    assert set(tasks[0].settings) <= {*keys, "seed", "arch", "d_iters", "eval_every"}
    assert recipes.headers(studies.folder_of_grids())[name].startswith(f"Table {name[-1]} of the paper")


@pytest.mark.parametrize("name", recipes.headers(studies.folder_of_grids()))
def test_the_shipped_studies_set_what_train_knows(name):
    """Each key is a setting of train; a task of a known data set resolves to what it says, and so does its file."""
    for task in studies.tasks(studies.read_grid(name), (5,), {}):
        assert set(task.settings) <= set(TrainConfig.model_fields)
        if task.settings["dataset"] in catalog.DATASETS:
            config = resolve(task.settings)
            assert {key: getattr(config, key) for key in task.settings} == task.settings
            assert resolve({}, tomllib.loads(task_text(name, task, config))) == config


def test_tasks_are_the_product_with_the_seeds_slowest(own):
    """Numbers rise, the first tasks are the whole grid with the first seed, and --set goes over the grid's settings."""
    tasks = studies.tasks(studies.read_grid(own()), (4, 2), {"steps": 9, "arch": "resnet"})
    assert [task.number for task in tasks] == list(range(8))
    expected = itertools.product((4, 2), ("fashion-mnist", "cifar10"), ("sn", "fpc"))
    assert [(t.settings["seed"], t.settings["dataset"], t.settings["method"]) for t in tasks] == list(expected)
    assert all((task.settings["steps"], task.settings["arch"]) == (9, "resnet") for task in tasks)
    assert [task.name for task in tasks][1::4] == ["0001-fashion-mnist-fpc-3-s4", "0005-fashion-mnist-fpc-3-s2"]


def test_names_of_tasks_are_plain():
    """Whatever a choice holds, a file name made of letters that a shell takes as they are, with the key of a number."""
    choices = ({"dataset": "/my data/cats & dogs.zip", "resolution": 64, "lr_d": 1e-4, "skip_linear": False},)
    (task,) = studies.tasks(studies.Grid(axes=(choices,)), (0,), {})
    assert task.name == "0000-cats-dogs-64-lr_d0.0001-skip_linearFalse-s0"


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:3", (0, 1, 2)), ("7:8", (7,)), ("5", (5,)), ("3,1,2", (3, 1, 2)), ("0", (0,))]
)
def test_seeds(text, seeds):
    """A range without its end, or a list in its order."""
    assert studies.parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3:3", "3:1", "0:9999999", ":3", "1,1", "1,", "-1", "0:3:1", "9" * 30])
def test_what_are_no_seeds(text):
    """Empty and absurd ranges, equal seeds, and anything else: one line that shows how to write them."""
    with pytest.raises(InputError, match=r"such as 0:3"):
        studies.parse_seeds(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes = 3", r"axes.*docs/cluster.md"),
        ("axes = [[]]", "an axis or a choice is empty"),
        ("axes = [[{}]]", "an axis or a choice is empty"),
        ("axes = []\nother = 1", "other"),
        ("axes = [[{seed = 1}]]", "sets seed, which the study decides"),
        ('axes = []\n[settings]\nout = "x"', "sets out, which the study decides"),
        ('axes = [[{method = "sn"}], [{method = "apc"}]]', "sets method in two places"),
        ('axes = [[{method = "sn"}]]\n[settings]\nmethod = "apc"', "sets method in two places"),
        ("axes = [", "is not TOML"),
    ],
)
def test_what_is_no_grid(own, text, message):
    """A file that would make other tasks than its author thinks is refused with the reason."""
    with pytest.raises(InputError, match=message):
        studies.read_grid(own(text))


def test_unknown_studies(tmp_path):
    """An unknown name is answered with those there are and a close one, a missing file with its path."""
    with pytest.raises(InputError, match=r"neither a shipped one nor a .toml file; did you mean table1"):
        studies.read_grid("tabel1")
    with pytest.raises(InputError, match=r"cannot read .*absent\.toml"):
        studies.read_grid(str(tmp_path / "absent.toml"))


def test_tasks_that_cannot_be_meant(own):
    """Setting what the study compares or decides, the same choice twice, and too many tasks are refused."""
    grid = studies.read_grid(own())
    for key in ("method", "seed", "out"):
        with pytest.raises(InputError, match=f"--set {key}"):
            studies.tasks(grid, (0,), {key: "x"})
    with pytest.raises(InputError, match="twice"):
        studies.tasks(studies.read_grid(own('axes = [[{method = "sn"}, {method = "sn"}]]')), (0,), {})
    with pytest.raises(InputError, match="more than 4000 tasks"):
        studies.tasks(grid, range(1001), {})


def test_the_documented_grid_is_one(own):
    """The example of docs/cluster.md makes the tasks that its axes say, each of which resolves."""
    page = (Path(__file__).parent.parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
    start = page.index("    axes = [")
    text = textwrap.dedent(page[start : page.index("\n## ", start)])
    tasks = studies.tasks(studies.read_grid(own(text)), (0,), {})
    assert len({task.name for task in tasks}) == 1 * 3 * 2
    assert all(resolve(task.settings).steps == 50_000 for task in tasks)
