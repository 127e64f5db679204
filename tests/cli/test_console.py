"""What commands print, on a terminal and elsewhere."""

import io
import json
import os
import re
import subprocess
import sys

import pytest

from pctool.cli import console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_progress_without_a_known_total(monkeypatch, capsys):
    """Where nobody knows the total, what is done and how fast is said, and no more."""
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0)
    with console.progress("fetch", 0, "bytes") as advance:
        advance(5000)
    assert re.fullmatch(r"fetch: 5,000 bytes, [0-9,]+ bytes/s\n", capsys.readouterr().err)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.progress("fetch", 0, "bytes") as advance:
        advance(5000)


def test_names_that_are_not_utf8_are_escaped(monkeypatch, tmp_path):
    """A file's name may have any bytes: on stdout what the encoding lacks is escaped, and no traceback comes of it."""
    path = tmp_path / "out"
    with path.open("w", encoding="utf-8") as plain:
        monkeypatch.setattr(sys, "stdout", plain)
        console.outlive_readers()
        console.output().print("fo\udcff", markup=False)
        sys.stdout.flush()
        sys.stdout.detach()
    assert path.read_bytes() == b"fo\\udcff\n"


def test_an_answer_in_a_pipe_is_plain_and_unbroken(capsys):
    """Outside of a terminal neither a line's end nor a colour is added, however long the line."""
    line = "a path/" * 60
    console.output().print(f"[bold]{line}[/bold]")
    assert capsys.readouterr().out == f"{line}\n"


def test_notes_go_to_stderr(capsys):
    """stdout stays the command's answer."""
    console.note("working")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "working\n")


def test_a_full_disk_behind_stderr_ends_nothing():
    """A job's log that takes no more is no reason to lose a run, nor its exit code."""
    code = "import sys; from pctool.cli.console import note; note('a'); note('b'); sys.exit(3)"
    with open("/dev/full", "w") as full:
        assert subprocess.run([sys.executable, "-c", code], check=False, stderr=full).returncode == 3


@pytest.mark.parametrize("unbuffered", [True, False])
def test_a_patient_output_writes_as_stdout_did(monkeypatch, unbuffered):
    """Encoding, and under `python -u` every word at once; what a reader that has gone does not take is dropped."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb", buffering=0 if unbuffered else -1) as raw:
        plain = io.TextIOWrapper(raw, encoding="latin-1", write_through=unbuffered)
        monkeypatch.setattr(sys, "stdout", plain)
        console.outlive_readers()
        print("ä", end="")
        assert not console.reader_has_gone()
        if not unbuffered:
            sys.stdout.flush()
        assert os.read(reader, 10) == b"\xe4"
        os.close(reader)
        print("nobody reads this")
        sys.stdout.flush()
        assert console.reader_has_gone()
        print("nor this", flush=True)
        sys.stdout.detach()
        plain.detach()


def test_json_is_strict(capsys):
    """One object that any JSON reader takes; NaN and infinity are errors before a character is out."""
    console.print_json({"kappa": 1e-300, "name": "é"})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"kappa": 1e-300, "name": "é"}
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            console.print_json({"kappa": bad})
    assert capsys.readouterr().out == ""


def test_progress_without_a_terminal_is_a_line_every_ten_seconds(monkeypatch, capsys):
    """A step of 25 images each 4 s, of 250 in all: lines at 12 s and 24 s, with what is left at the speed so far."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("eval", 250, "images") as advance:
        for _ in range(7):
            now[0] += 4.0
            advance(25)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "eval: 75/250 images, 6 images/s, 28 s left\neval: 150/250 images, 6 images/s, 16 s left\n"


def test_progress_that_has_not_moved_divides_by_nothing(monkeypatch, capsys):
    """A line is due, but nothing is done yet: no remaining time is known, and none is told."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("eval", 9, "images") as advance:
        now[0] = 11.0
        advance(0)
    assert capsys.readouterr().err == "eval: 0/9 images\n"


def test_progress_on_a_terminal_is_a_bar_on_stderr_that_goes_away(monkeypatch, capsys):
    """The bar counts on stderr, leaves stdout alone, and is erased at the end."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress("eval", 40, "images") as advance:
        advance(15)
        advance(25)
    shown = terminal.getvalue()
    assert "40/40" in shown
    assert "images" in shown
    assert shown.endswith("\x1b[2K")  # erase line
    assert capsys.readouterr().out == ""
