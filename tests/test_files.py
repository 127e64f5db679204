"""Files are whole or absent."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from pctool import files
from pctool.errors import WriteError


def test_write_replaces_whole(tmp_path):
    """A second write replaces the first, and no temporary file stays."""
    path = tmp_path / "deep" / "file"
    files.write_bytes(path, b"one")
    files.write_text(path, "zwei")
    assert path.read_bytes() == b"zwei"
    assert os.listdir(path.parent) == ["file"]


def test_full_disk_leaves_the_old_file_and_names_path_and_bytes(tmp_path):
    """When the disk takes no more, the old content stays, nothing lies beside it, and the message says so."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import sys; from pathlib import Path; from pctool import errors, files\n"
        "try: files.write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except errors.WriteError as error: print(error); sys.exit(5)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        ),
    )
    assert result.returncode == 5
    assert str(path) in result.stdout
    assert "100,000 bytes" in result.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_any_other_error_leaves_the_old_file_too(tmp_path):
    """An exception inside the block propagates, and what was there is untouched."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with files.write_beside(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be_is_a_write_error(tmp_path):
    """A path below a regular file cannot be written: WriteError, not a traceback."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="file/below"):
        files.write_bytes(tmp_path / "file" / "below", b"x")


def test_a_line_that_fits_only_in_part_is_taken_back(tmp_path):
    """When the disk takes half a line, the log is cut back to its last whole one and the write is an error."""
    path = tmp_path / "log"
    path.write_text("a\n")
    code = (
        "import sys; from pathlib import Path; from pctool import errors, files\n"
        "try: files.append_line(Path(sys.argv[1]), 'b' * 100)\n"
        "except errors.WriteError: sys.exit(5)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        check=False,
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)),
        ),
    )
    assert result.returncode == 5
    assert path.read_text() == "a\n"


def test_lines_are_appended_whole(tmp_path):
    """append_line adds one line to what is there; one that a crash cut short is ended first."""
    path = tmp_path / "log"
    files.append_line(path, "a")
    files.append_line(path, "b")
    assert path.read_text() == "a\nb\n"
    path.write_text("a\nb")
    files.append_line(path, "c")
    assert path.read_text() == "a\nb\nc\n"
