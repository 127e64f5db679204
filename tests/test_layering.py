"""The house rules, checked from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import pctool

PACKAGE = Path(__file__).parent.parent / "pctool"
BASE = {"errors", "files", "picture_files", "places", "published"}  # what everything may use
MAY_IMPORT = {
    "core": set(),
    "data": {"core"},
    "fitting": {"core"},
    "spectrum": {"core"},
    "evaluation": {"core"},
    "training": {"core", "data", "spectrum", "evaluation"},
    "report": {"core", "data", "spectrum", "evaluation", "training"},
    "cli": {"core", "data", "fitting", "spectrum", "evaluation", "training", "report"},
}


def imports(path: Path) -> set[str]:
    """The parts of pctool that a module imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "pctool" else [node.module]
            )
        found |= {name.split(".")[1] for name in names if name and name.startswith("pctool.")}
    return found


def test_every_folder_has_its_rule():
    """A new folder of the package is not left out of the rules."""
    assert set(MAY_IMPORT) == {path.parent.name for path in PACKAGE.glob("*/*.py")}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_go_downward_only(part):
    """training may use data, spectrum and evaluation; these and fitting only core; core nothing above it."""
    modules = list((PACKAGE / part).rglob("*.py"))
    assert len(modules) > 1
    for module in modules:
        beyond = imports(module) - MAY_IMPORT[part] - BASE - {part}
        assert not beyond, f"{module.relative_to(PACKAGE)} imports {beyond}"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "fit-poly",
        "train",
        "spectrum",
        "eval",
        "data",
        "data import",
        "data prepare",
        "doctor",
        "report",
        "export",
        "study",
        "study write",
    ],
)
def test_help_imports_nothing_heavy(command):
    """No --help imports torch, cvxpy, matplotlib, scipy or h5py, and each shows an example."""
    code = (
        "import sys; from pctool.cli.main import run\n"
        f"assert run({[*command.split(), '--help']!r}) == 0\n"
        "heavy = {'torch', 'cvxpy', 'matplotlib', 'scipy', 'h5py'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Example: pctool" in result.stdout


def test_measuring_and_scoring_do_not_wait_for_torchs_compiler(tmp_path):
    """It takes seconds to import. Where something is compiled or optimised, torch imports it itself, and torchvision
    does where one of its networks scores."""
    torch.save({"a.weight": torch.eye(3)}, tmp_path / "a.pt")
    for i, shade in enumerate((0, 60, 120, 180)):
        Image.new("L", (32, 32), shade).save(tmp_path / f"{i}.png")
    scored = ["eval", str(tmp_path), "--against", str(tmp_path), "--extractor", "fashion-cnn", "--json"]
    for command in (["spectrum", str(tmp_path / "a.pt"), "--out", str(tmp_path / "a.h5"), "--json"], scored):
        code = (
            "import sys; from pctool.cli.main import run\n"
            f"assert run({command!r}) == 0\n"
            "assert 'torch' in sys.modules; sys.exit('torch._dynamo' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_a_spectrum_file_is_shown_without_torch(tmp_path):
    """Which takes two seconds to import; what measures needs it."""
    torch.save({"a.weight": torch.eye(3)}, tmp_path / "a.pt")
    measured, shown = (
        f"from pctool.cli.main import run\nassert run({command!r}) == 0\n"
        for command in (
            ["spectrum", str(tmp_path / "a.pt"), "--out", str(tmp_path / "a.h5"), "--json"],
            ["spectrum", str(tmp_path / "a.h5"), "--plot", str(tmp_path), "--json"],
        )
    )
    subprocess.run([sys.executable, "-c", measured], check=True)
    subprocess.run([sys.executable, "-c", f"{shown}import sys; sys.exit('torch' in sys.modules)"], check=True)


def test_import_pctool_is_quick():
    """`import pctool` loads neither torch nor NumPy; its names do when first used."""
    code = (
        "import sys, pctool; assert not {'torch', 'numpy'} & set(sys.modules); "
        "assert pctool.PUBLISHED[3].degree == 3; assert pctool.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_checkers_see_what_pctool_offers():
    """The names that type checkers read in pctool/__init__.py come from where they are loaded from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {node.names[0].asname: node.module for node in guarded.body if isinstance(node, ast.ImportFrom)}
    assert seen == pctool._HOMES
    assert (PACKAGE / "py.typed").exists()
