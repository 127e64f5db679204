"""What every test runs under: one thread (two cores are shared best that way), data and caches of its own."""

import shutil

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def compiler():
    """torch.compile needs a C++ compiler on CPUs, which PyTorch does not bring."""
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("there is no C++ compiler, without which torch.compile cannot work")


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """No test reads or writes the user's data, caches or runs, or takes both cores for one process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes that tests start
    monkeypatch.setenv("PCTOOL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "cache"))
