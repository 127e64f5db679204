"""The boundary: every kind of error is one line and its exit code; help and reference are as documented."""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import unittest.mock
from pathlib import Path

import pytest
import typer

from pctool import errors
from pctool.cli import main
from pctool.cli.exit_codes import exit_code
from pctool.core.checkpoint import DamagedError

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError, 2),
        (errors.NonFiniteError, 3),
        (errors.MissingError, 4),
        (errors.WriteError, 5),
        (errors.PartialError, 6),
        (errors.SavedInterrupt, 75),
        (DamagedError, 2),  # a kind of InputError
    ],
)
def test_each_error_has_the_contracts_exit_code(error, code, monkeypatch, capsys):
    """An error a user can mend ends as one line on stderr and its code; nothing on stdout."""
    app = typer.Typer()

    @app.command()
    def broken() -> None:
        raise error("what it was,\n  what to do")

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == code
    captured = capsys.readouterr()
    assert captured.err == "pctool: what it was, what to do\n"
    assert captured.out == ""


def test_every_error_class_has_a_code():
    """No PctoolError falls through to the code of a bug."""
    codes = [error.code for error in errors.PctoolError.__subclasses__()]
    assert sorted(codes) == sorted({2, 3, 4, 5, 6, 75})
    assert exit_code(errors.PctoolError()) == 1  # another process died
    assert exit_code(None) == 0
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(RuntimeError()) == 1


@pytest.mark.parametrize("words", [["data", "list"], ["train", "--preset", "list"], ["train", "--help"]])
def test_a_reader_that_has_gone_is_no_error(words):
    """`pctool ... | head -1`: what nobody reads is dropped, and the command ends as it would have."""
    command = [sys.executable, "-m", "pctool", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


def test_an_impatient_ctrl_c_does_not_change_the_code(monkeypatch):
    """Once a command's code is decided an interrupt while the process ends is ignored."""
    monkeypatch.setattr(main, "run", lambda: 75)
    monkeypatch.setattr(main, "outlive_readers", lambda: None)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert (ended.value.code, signal.getsignal(signal.SIGINT)) == (75, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_bug_is_a_traceback_and_exit_code_1():
    """What is not the user's to mend is not dressed up."""
    code = (
        "import sys, typer; from pctool.cli import main\n"
        "main.app = typer.Typer()\n"
        "@main.app.command()\n"
        "def broken() -> None: raise RuntimeError('a bug')\n"
        "sys.argv = ['pctool']; main.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "RuntimeError: a bug" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tarin"], "tarin"),
        (["train", "--stepz", "3"], "--stepz"),
        (["train", "--steps", "three"], "'--steps'"),
        (["train", "--method", "pc1"], "pc1"),
        (
            ["train", "--method", "acp"],
            "'--method': 'acp' is not one of 'none', 'sn', 'fpc', 'apc', 'svd'; did you mean apc?",
        ),
        (["fit-poly", "--degree", "x"], "'pctool fit-poly --help'"),
    ],
)
def test_usage_errors_are_one_line(arguments, words, capsys):
    """An unknown command, option or choice, or a value that does not parse: exit 2 and one line that names it."""
    assert main.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert captured.out == ""


def test_the_version_is_a_line(capsys):
    """`pctool --version`: the name and the installed version."""
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pctool")


def test_interrupt_is_130(monkeypatch, capsys):
    """Ctrl-C where there is nothing to save ends with 130."""
    app = typer.Typer()

    @app.command()
    def slow() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == 130
    assert capsys.readouterr().err == "pctool: interrupted\n"


def test_an_over_long_name_is_one_line(capsys):
    """A name that no file system takes: exit 2 and one line, not a traceback."""
    assert main.run(["spectrum", "x" * 300]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(errno.EACCES, 2), (errno.ELOOP, 2), (errno.EROFS, 5)])
def test_a_forbidden_place_is_one_line_that_names_it(number, code, monkeypatch, capsys):
    """What the system refuses where no module had a better word: the contract's code, the place and the reason."""

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number), "some/place")

    monkeypatch.setattr(main, "app", refuse)
    assert main.run([]) == exit_code(OSError(number, "")) == code  # exit.json says the same
    assert capsys.readouterr().err.startswith(f"pctool: some/place: {os.strerror(number)}: ")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
        ModuleNotFoundError("No module named 'lmdb'", name="lmdb"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(error, monkeypatch, capsys):
    """A package that is not here, or a library without memory to load, ends with 4 and its name; exit.json says so."""
    monkeypatch.setattr(main, "app", unittest.mock.Mock(side_effect=error))
    assert main.run([]) == exit_code(error) == 4
    assert capsys.readouterr().err.startswith(f"pctool: {error}; ")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'x' from 'pctool.core'", name="pctool.core", path="pctool/core/__init__.py"),
        ModuleNotFoundError("No module named 'pctool.cor'", name="pctool.cor"),
    ],
)
def test_a_broken_import_is_a_bug(error, monkeypatch):
    """Of our own modules: a traceback, and exit code 1."""
    monkeypatch.setattr(main, "app", unittest.mock.Mock(side_effect=error))
    with pytest.raises(ImportError):
        main.run([])
    assert exit_code(error) == 1


def test_a_deleted_current_folder_is_one_line(tmp_path, monkeypatch, capsys):
    """As after a cleaned scratch folder: 2, whatever the command."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main.run(["fit-poly", "--cutoff", "0.4", "--degree", "7"]) == 2
    assert capsys.readouterr().err == "pctool: the current folder was deleted; change to another\n"


def test_a_path_from_the_home_folder_is_one(tmp_path, monkeypatch, capsys):
    """`--out=~/g.json`, where the shell leaves the tilde, means what `--out ~/g.json` does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main.run(["fit-poly", "--cutoff", "0.4", "--degree", "7", "--out=~/g.json"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["g.json"]
    monkeypatch.setenv("PCTOOL_POLY", "~/g.json")
    assert main.run(["train", "--method", "fpc", "--dataset", "fashion-mnist", "--dry-run"]) == 0


def test_a_backend_of_a_notebook_is_no_matter(tmp_path, monkeypatch, capsys):
    """MPLBACKEND as Jupyter exports it names a package that is not here: figures are drawn all the same."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-m", "pctool", "fit-poly", "--cutoff", "0.4", "--degree", "7", "--plot", "g.png"]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert (tmp_path / "g.png").stat().st_size


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="needs a POSIX shell")
def test_closed_streams_are_no_error(tmp_path):
    """As some schedulers start jobs; and no file of the run gets the number of a closed stream."""
    flags = "--dataset fashion-mnist --d-iters 1 --steps 1 --width-g 8 --width-d 8 --max-images 64 --out r"
    command = f"{sys.executable} -m pctool train {flags} <&- >&- 2>&-"
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "r" / "exit.json").read_text())["code"] == 0


def test_python_dash_m_is_the_same_program():
    """`python -m pctool --help` names the commands of the contract."""
    result = subprocess.run([sys.executable, "-m", "pctool", "--help"], capture_output=True, text=True, check=True)
    assert all(name in result.stdout for name in ("fit-poly", "train", "spectrum", "eval", "data", "doctor"))


@pytest.mark.parametrize("page", ["cli", "api"])
def test_the_reference_is_up_to_date(page):
    """docs/cli.md and docs/api.md are what tools/make_*_reference.py make of commands and docstrings today."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / f"tools/make_{page}_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / f"docs/{page}.md").read_text(encoding="utf-8") == module.reference()


def test_every_module_has_its_line_in_the_readme():
    """README lists every module of the package."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = [path for path in (ROOT / "pctool").rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    missing = [str(path.relative_to(ROOT)) for path in modules if str(path.relative_to(ROOT / "pctool")) not in readme]
    assert not missing
