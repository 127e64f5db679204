"""`pctool doctor`."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pctool.cli import doctor
from pctool.cli.main import run


def checks(capsys) -> dict[str, dict[str, str]]:
    assert run(["doctor", "--json"]) == 0
    return {row["check"]: row for row in json.loads(capsys.readouterr().out)["checks"]}


def test_doctor_says_what_is_here_and_what_is_missing(capsys):
    """The built-in data counts as usable, CIFAR-10 and Inception are named as absent with what to do."""
    rows = checks(capsys)
    assert rows["fashion-mnist test"]["found"] == "built in"
    assert rows["cifar10 train"]["found"] == "absent"
    assert "pctool data" in rows["cifar10 train"]["means"]
    assert rows["Inception"]["found"] == "no weights"
    assert "pctool data fetch inception" in rows["Inception"]["means"]
    assert rows["fashion-cnn"]["found"] == "built in"
    assert rows["torch"]["found"] == importlib.metadata.version("torch")
    assert all(row["means"] for row in rows.values())
    assert run(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out


def test_it_looks_for_every_dependency():
    """What pyproject.toml asks for, but for what the command itself cannot run without; and the one extra."""
    project = tomllib.loads((Path(doctor.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", each)[0] for each in project["dependencies"]}
    assert set(doctor._PACKAGES) == needed - {"typer", "rich", "platformdirs"} | {"tensorboard"}


@pytest.mark.parametrize(("missing", "check"), [("torch", "CPU and GPU"), ("numpy", "data sets")])
def test_it_outlives_a_missing_package(missing, check):
    """Without torch or NumPy, and with pctool run from its source: exit 0, each row says what is missing, no traceback.

    Simulated in a process of its own, where the import fails and no version is recorded.
    """
    code = (
        "import sys, importlib.metadata as m; version = m.version\n"
        f"sys.modules[{missing!r}] = None\n"
        "def version_of(name):\n"
        f"    if name in ({missing!r}, 'pctool'): raise m.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "m.version = version_of\n"
        "from pctool.cli.main import run; sys.exit(run(['doctor', '--json']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr  # torch itself may warn there that NumPy is missing
    rows = {row["check"]: row for row in json.loads(result.stdout)["checks"]}
    assert rows[missing]["found"] == "missing"
    assert f"'pip install {missing}'" in rows[missing]["means"]
    assert rows["pctool"]["found"] == "not installed"
    assert rows[check]["found"] == "cannot be told"
    assert missing in rows[check]["means"]
    assert rows["h5py"]["found"] == importlib.metadata.version("h5py")


def test_a_library_that_does_not_load_and_a_bad_folder_are_rows(tmp_path, monkeypatch, capsys):
    """An OSError of the loader and a file as data folder are told in their rows; all other rows stay."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path / "file"))

    def broken():
        raise OSError("libcudart.so.12:\n cannot open shared object file")

    monkeypatch.setattr(doctor, "_device", broken)
    rows = checks(capsys)
    assert rows["CPU and GPU"]["means"].startswith("libcudart.so.12: cannot open shared object file")
    assert rows["data"]["found"] == rows["data sets"]["found"] == "cannot be used"
    assert "is a file" in rows["data"]["means"]
    assert rows["Inception"]["found"] == "no weights"


ROWS = [
    ("torch", "2.11.0", "networks"),
    ("cifar10 train", "absent", "it is not here: get it with 'pctool data fetch cifar10' or from FID's own authors"),
]


@pytest.mark.parametrize("width", [24, 44, 60, 96])
def test_long_advice_wraps_between_words(width):
    """No line is longer than the terminal unless it is one word or quoted command; no word is lost or cut."""
    lines = doctor._lines(ROWS, width)
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(row) for row in ROWS)
    quoted = "'pctool data fetch cifar10'"
    assert sum(quoted in line for line in lines) == 1
    for line in lines:
        assert len(line) <= width or line.strip() == quoted


def test_a_wide_terminal_and_a_pipe_have_a_line_a_row():
    """Columns where they fit, and always in a pipe, so that grep finds a whole row."""
    wide = doctor._lines(ROWS, 200)
    assert wide == doctor._lines(ROWS, None)
    assert wide[0] == "torch          2.11.0  networks"
    assert [len(line.splitlines()) for line in wide] == [1, 1]
