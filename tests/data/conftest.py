"""What the tests of the data package share."""

import pytest

from . import small_cifar


@pytest.fixture
def cifar(monkeypatch):
    """A small CIFAR-10 in the real one's place in the catalogue."""
    small = small_cifar.make()
    small.install(monkeypatch)
    return small
