"""Where data and caches live."""

from pathlib import Path

import platformdirs
import pytest

from pctool.errors import InputError
from pctool.places import cache_dir, data_dir


def test_given_over_environment_over_platform(tmp_path, monkeypatch):
    """What is given wins, then the variable; an empty variable counts as none; the two places do not mix."""
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path / "d"))
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "c"))
    assert data_dir(tmp_path / "given") == tmp_path / "given"
    assert (data_dir(), cache_dir()) == (tmp_path / "d", tmp_path / "c")
    for empty in ("", None):
        for name in ("PCTOOL_DATA_DIR", "PCTOOL_CACHE_DIR"):
            monkeypatch.delenv(name) if empty is None else monkeypatch.setenv(name, empty)
        assert data_dir() == Path(platformdirs.user_data_dir("pctool", appauthor=False))
        assert cache_dir() == Path(platformdirs.user_cache_dir("pctool", appauthor=False))


def test_a_tilde_is_the_users_folder(tmp_path, monkeypatch):
    """In a variable no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PCTOOL_CACHE_DIR", "~/c")
    assert cache_dir() == tmp_path / "c"
    monkeypatch.setenv("PCTOOL_CACHE_DIR", "~nobody-of-that-name/c")  # as a shell has it
    assert cache_dir() == Path("~nobody-of-that-name/c")


@pytest.mark.parametrize("answer", ["error", "~/.cache/pctool"])
def test_a_user_without_a_home_folder(tmp_path, monkeypatch, answer):
    """A container's user whom the system does not know: one line that names the variable, which then serves."""

    def nowhere(name, **options):
        if answer == "error":
            raise RuntimeError("could not determine the home directory")
        return answer

    for name in ("user_data_dir", "user_cache_dir"):
        monkeypatch.setattr(platformdirs, name, nowhere)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for variable, place in (("PCTOOL_DATA_DIR", data_dir), ("PCTOOL_CACHE_DIR", cache_dir)):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(InputError, match=f"there is no home folder .*; name one by {variable}$"):
            place()
        monkeypatch.setenv(variable, str(tmp_path))
        assert place() == tmp_path


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_file_is_no_data_folder(tmp_path, monkeypatch, by):
    """A file is refused by name, however it was given; a folder that is not there yet is fine."""
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(file))
    with pytest.raises(InputError, match=r"file is a file; name a folder by --data-dir or PCTOOL_DATA_DIR$"):
        data_dir(file if by == "flag" else None)
    assert data_dir(tmp_path / "later") == tmp_path / "later"
