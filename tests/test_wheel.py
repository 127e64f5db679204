"""What `pip install` gets: the wheel holds everything the package needs, and works without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from this tree by the backend that pyproject.toml names."""
    return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))))


def relative(folder: Path) -> set[str]:
    """The files of a folder but for what Python leaves there."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_presets_data_and_modules_are_inside(wheel):
    """Every preset and study, the built-in images and classifier, every module; and nothing that is not the package."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "pctool = pctool.__main__:main" in archive.read(entry).decode()
    expected = {f"pctool/{name}" for name in relative(ROOT / "pctool")}
    expected |= {f"pctool/presets/{name}" for name in relative(ROOT / "presets")}
    assert "pctool/presets/demo.toml" in expected
    assert "pctool/data/assets/fashion-mnist-test.xz" in expected
    assert inside == expected


@pytest.mark.slow
def test_it_works_without_the_repository(wheel, tmp_path):
    """Unpacked elsewhere it lists all presets and reads the built-in images."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")

    code = """
import sys, pctool.cli.main as main
print(main.__file__)
main.run(["train", "--preset", "list"])
main.run(["data", "verify", "fashion-mnist"])
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    place, *presets, _, images = result.stdout.splitlines()
    assert place.startswith(str(tmp_path / "site"))
    assert {line.partition(": ")[0] for line in presets} == {path.stem for path in (ROOT / "presets").glob("*.toml")}
    assert "built in" in images
