"""What every test runs under: one thread (two cores are shared best that way), data and caches of its own."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """No test reads or writes the user's data, caches or runs."""
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "cache"))
