"""The tables of docs/fit-poly.md are what the code computes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "fit_poly_tables.py"


@pytest.mark.slow
def test_the_documented_tables_are_current():
    """Computed again, every figure on the page is the same."""
    result = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr or "run python tools/fit_poly_tables.py"
