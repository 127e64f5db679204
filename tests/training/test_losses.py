"""Both losses against their published formulas written out."""

import math

import pytest
import torch

from pctool.training import losses

REAL = torch.tensor([0.5, 2.0, -3.0], dtype=torch.float64)
FAKE = torch.tensor([-0.2, -4.0, 1.0], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_hinge():
    """D: mean max(0, 1 - real) + mean max(0, 1 + fake); G: -mean fake."""
    assert float(losses.hinge_d(REAL, FAKE)) == pytest.approx((0.5 + 0 + 4) / 3 + (0.8 + 0 + 2) / 3, rel=1e-12)
    assert float(losses.hinge_g(FAKE)) == pytest.approx(3.2 / 3, rel=1e-12)


def test_log():
    """D: -mean log s(real) - mean log(1 - s(fake)); G: -mean log s(fake)."""
    real = [-math.log(sigmoid(x)) for x in REAL.tolist()]
    fake = [-math.log(1 - sigmoid(x)) for x in FAKE.tolist()]
    assert float(losses.log_d(REAL, FAKE)) == pytest.approx((sum(real) + sum(fake)) / 3, rel=1e-12)
    generator = [-math.log(sigmoid(x)) for x in FAKE.tolist()]
    assert float(losses.log_g(FAKE)) == pytest.approx(sum(generator) / 3, rel=1e-12)


@pytest.mark.parametrize("name", ["hinge", "log"])
def test_signs(name):
    """D's loss falls as real logits rise and fake ones fall; G's falls as fake logits rise."""
    real, fake = (torch.zeros(4, requires_grad=True) for _ in range(2))
    losses.LOSSES[name].d(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    losses.LOSSES[name].g(fake).backward()
    assert (fake.grad < 0).all()
