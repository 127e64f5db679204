"""The same on every device: the kernel's precisions, and training. `pytest -m gpu -n 0` runs what needs a GPU."""

import pytest
import torch

from pctool.core import linalg
from pctool.core.polynomial import PUBLISHED
from pctool.core.products import available
from tests.training.test_session import run, stats

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("degree", [3, 5, 7, 9])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("tf32", 5e-3), ("bf16", 4e-2)])
def test_singular_values_and_gradients_against_float64(device, degree, precision, tolerance):
    """Of W_hat, 48 x 200 with kappa 100, against float64 on the CPU, within what the precision allows; and
    the kernel leaves the process's own setting for products as it was."""
    torch.manual_seed(0)
    Q, Z = torch.linalg.qr(torch.randn(48, 48).double()).Q, torch.linalg.qr(torch.randn(200, 48).double()).Q
    W = (Q * torch.logspace(0, -2, 48, dtype=torch.float64)) @ Z.T
    u, v = linalg.power_iteration(W, *linalg.initial_vectors(W), 50)
    G, coeffs = torch.randn_like(W), PUBLISHED[degree].coeffs

    def values_and_gradient(device, dtype, precision):
        M = W.to(device, dtype, copy=True).requires_grad_()
        W_hat = linalg.precondition(M, u.to(M), v.to(M), coeffs, precision=precision)
        W_hat.backward(G.to(device, dtype))
        return torch.linalg.svdvals(W_hat.detach().double()).cpu(), M.grad.double().cpu()

    if available(precision, W.float().to(device)) != precision:
        pytest.skip(f"no {precision} on this {device}")
    exact, gradient = values_and_gradient("cpu", torch.float64, "fp32")
    before = torch.get_float32_matmul_precision()
    found, rough = values_and_gradient(device, torch.float32, precision)
    assert torch.get_float32_matmul_precision() == before
    assert ((found - exact).abs() / exact).max() < tolerance
    assert (rough - gradient).norm() < tolerance * gradient.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["sn", "fpc", "apc", "svd"])
def test_training_on_a_gpu_follows_the_cpu(tmp_path, method, compiled):
    """The losses of ten steps in float32 are the CPU's, to what sums in another order make of them."""
    for device in ("cpu", "cuda"):
        own = {"compile": compiled and device == "cuda", "device": device, "precision": "fp32", "steps": 10}
        run(tmp_path / device, method=method, **own)
    for there, here in zip(stats(tmp_path / "cuda"), stats(tmp_path / "cpu"), strict=True):
        assert there["loss_d"] == pytest.approx(here["loss_d"], abs=1e-2)
        assert there["loss_g"] == pytest.approx(here["loss_g"], abs=1e-2)
