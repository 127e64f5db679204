"""Deliberate mistakes in the kernel and around it: each must make the tests fail that claim to watch it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MUTATIONS = {
    "transposed Gram matrix": (
        "core/products.py",
        "        return mul(X, Y.mT, precision)",
        "        return mul(X.mT, Y, precision)[:, : X.shape[1], : X.shape[1]]",
        "core/test_linalg.py",
    ),
    "no gradient through sigma": (
        "core/linalg.py",
        "dW.addcmul_((-c / sigma)",
        "dW.addcmul_((0 * c / sigma)",
        "core/test_linalg.py",
    ),
    "the wrong rows of the Gram matrix mirrored": (
        "core/products.py",
        "= strip[STRIP:].t()",
        "= strip[: n - top - STRIP].t()",
        "core/test_linalg.py",
    ),
    "u and v swapped": (
        "core/linalg.py",
        "left, right = (v, u) if tall else (u, v)",
        "left, right = (u, v) if tall else (v, u)",
        "core/test_linalg.py",
    ),
    "the gradient's L without its S^3 term": (
        "core/linalg.py",
        "L = L.addcmul_(symmetric(T, rounded(S, precision), precision), a[3])",
        "L = L + 0 * T",
        "core/test_linalg.py",
    ),
    "a factor without its own gradient": (
        "core/linalg.py",
        "M = (G if factor else mul(H, B.mT, precision)) / sigma",
        "M = (0 * G if factor else mul(H, B.mT, precision)) / sigma",
        "core/test_linalg.py",
    ),
    "one application's outer products where there were two": (
        "core/outer_products.py",
        "!= versions",
        "is None",
        "core/test_outer_products.py",
    ),
    "outer products that cancel only when they are rounded": (
        "core/outer_products.py",
        "return basis.t(), matmul(R, right)",
        "return left, right",
        "core/test_outer_products.py",
    ),
    "no outer products in a network": (
        "core/models/factored.py",
        "apply_factor(rows, self.factor)",
        "torch.nn.functional.linear(rows, self.factor)",
        "core/models/test_factored.py",
    ),
    "the factor on too many layers": (
        "core/models/factored.py",
        "2 * positions <= longer",
        "positions <= longer",
        "core/models/test_factored.py",
    ),
    "a0 rounded": (
        "core/linalg.py",
        "torch.addcmul(product, X, a0)",
        "torch.addcmul(product, X, a0.bfloat16().to(X.dtype))",
        "core/test_linalg.py",
    ),
    "stale weight after D's update": (
        "training/loop.py",
        "W_hat = pre.weights() if i else W_hat",
        "W_hat = {name: x.detach().requires_grad_() for name, x in W_hat.items()} if i else W_hat",
        "training/test_session.py",
    ),
    "stale u and v after D's update": (
        "training/loop.py",
        "        pre.advance()\n",
        "",
        "training/test_loop.py",
    ),
    "strength applied to no weight": (
        "core/layers/preconditioner.py",
        "if any(changes):\n            self._plan()",
        "if any(changes):\n            pass",
        "training/test_loop.py",
    ),
    "a step that is not finite applied": (
        "training/loop.py",
        "optimizer.found_inf = descents[-1].broken",
        "optimizer.found_inf = None",
        "training/test_session.py",
    ),
    "wrong fraction": (
        "core/spectra.py",
        "fraction: float = 0.1",
        "fraction: float = 0.2",
        "core/layers/test_strength.py",
    ),
    "a tie takes the stronger polynomial": (
        "core/layers/strength.py",
        "modified_kappa > tau",
        "modified_kappa >= tau",
        "core/layers/test_strength.py",
    ),
    "u and v not copied before they change": (
        "core/layers/parametrization.py",
        "u, v = self._u.clone(), self._v.clone()",
        "u, v = self._u, self._v",
        "core/layers/test_parametrization.py",
    ),
}


@pytest.fixture
def copy_of_the_project(tmp_path):
    for part in ("pctool", "presets", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run_tests(folder, *files):
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", *(f"tests/{file}" for file in files)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_without_a_mistake_they_pass(copy_of_the_project):
    """So that what fails below fails over the mistake."""
    result = run_tests(copy_of_the_project, *sorted({watcher for *_, watcher in MUTATIONS.values()}))
    assert result.returncode == 0, result.stdout[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_tests_catch(name, copy_of_the_project):
    """The mutated package fails the test file that watches the place."""
    file, right, wrong, watcher = MUTATIONS[name]
    place = copy_of_the_project / "pctool" / file
    source = place.read_text()
    assert source.count(right) == 1, f"{file} no longer has the line that this mutation changes"
    place.write_text(source.replace(right, wrong))
    result = run_tests(copy_of_the_project, watcher)
    assert result.returncode == 1, f"the mutation survived:\n{result.stdout[-2000:]}"
