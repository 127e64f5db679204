"""Matrix products by either of PyTorch's libraries, against float64; both are tried on every CPU."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from pctool.core import linalg, products
from pctool.core.models.factored import FactoredConv2d
from pctool.core.polynomial import PUBLISHED
from pctool.core.power_iteration import initial_vectors


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request):
    """The library that this CPU is said to be faster with; yields how often oneDNN's product was called."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    onednn, calls = torch.ops.mkldnn._linear_pointwise, []

    def watched(*args):
        calls.append(args)
        return onednn(*args)

    slow_mkl = mock.patch.object(products, "has_slow_mkl", return_value=request.param == "oneDNN")
    with slow_mkl, mock.patch.object(torch.ops.mkldnn, "_linear_pointwise", watched):
        yield request.param, calls


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def near(found: torch.Tensor, exact: torch.Tensor, limit: float) -> None:
    assert found.shape == exact.shape
    assert (found.double() - exact).norm() <= limit * exact.norm()


@pytest.mark.parametrize("left", ["rows", "columns"])
@pytest.mark.parametrize("right", ["rows", "columns"])
def test_a_product_is_exact_however_its_matrices_lie(library, left, right):
    """To float32 rounding, result in rows, by the library that is faster."""
    name, calls = library
    X, Y = random(128, 256), random(256, 192, seed=1)
    a, b = (x.float() if how == "rows" else x.t().float().t() for x, how in ((X, left), (Y, right)))
    with torch.no_grad():
        product = products.matmul(a, b)
    near(product, X @ Y, 1e-6)
    assert product.is_contiguous()
    assert len(calls) == (name == "oneDNN")


WHOLE = random(130, 256).float(), random(256, 256, seed=1).float()
NOT_FOR_ONEDNN = {
    "few products": (WHOLE[0][:60], WHOLE[1][:, :128].contiguous()),
    "gaps between rows": (WHOLE[0], WHOLE[1][:, :200]),
    "float64": (WHOLE[0].double(), WHOLE[1].double()),
    "gradients": WHOLE,
}


@pytest.mark.parametrize("what", NOT_FOR_ONEDNN)
def test_what_is_not_for_onednn_is_for_mkl(library, what):
    """Small ones, matrices with gaps between their rows, float64, and what autograd follows."""
    X, Y = NOT_FOR_ONEDNN[what]
    with torch.set_grad_enabled(what == "gradients"):
        near(products.matmul(X, Y), X.double() @ Y.double(), 1e-6)
    assert library[1] == []


def test_linear_has_the_gradients_of_pytorchs(library):
    """Value, gradients of rows, weight and bias, and those of a gradient penalty, to float32 rounding of float64's."""
    exact = [random(160, 128), random(192, 128, seed=1), random(192, seed=2)]
    found = []
    for operation, tensors in ((products.linear, [x.float() for x in exact]), (F.linear, exact)):
        x, weight, bias = (tensor.requires_grad_() for tensor in tensors)
        y = operation(x, weight, bias)
        slopes = torch.autograd.grad(y.square().sum(), (x, weight, bias), retain_graph=True)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        penalties = torch.autograd.grad(slope.square().sum(), (x, weight))
        found.append((y, *slopes, slope, *penalties))
    for ours, theirs in zip(*found, strict=True):
        near(ours, theirs, 1e-5)
    assert bool(library[1]) == (library[0] == "oneDNN")


@pytest.mark.parametrize("shape", [(512, 640), (640, 512), (130, 1030)])
def test_the_weight_is_the_same_by_each_library(library, shape):
    """Value and gradient of g(SN(W)), mirrored Gram matrix included, against float64."""
    W = random(*shape)
    u, v = initial_vectors(W)
    G = random(*shape, seed=1)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaf = W.to(dtype).requires_grad_()
        value = linalg.precondition(leaf, u.to(dtype), v.to(dtype), PUBLISHED[7].coeffs)
        found.append((value, *torch.autograd.grad(value, leaf, G.to(dtype))))
    for ours, theirs in zip(*found, strict=True):
        near(ours, theirs, 1e-5)
    assert bool(library[1]) == (library[0] == "oneDNN")


def test_a_factor_is_applied_by_each_library(library):
    """`FactoredConv2d` with Q, against the weight Q W, gradients by image, weight and Q included."""
    layer = FactoredConv2d(16, 128, 3, padding=1)
    tensors = random(2, 16, 9, 9), random(128, 16, 3, 3, seed=1), random(128, 128, seed=2)
    found = []
    for dtype in (torch.float32, torch.float64):
        x, W, Q = (tensor.to(dtype).requires_grad_() for tensor in tensors)
        Q_symmetric = Q + Q.t()
        if dtype == torch.float32:
            y = torch.func.functional_call(layer, {"weight": W, "factor": Q_symmetric, "bias": torch.zeros(128)}, (x,))
        else:
            y = F.conv2d(x, (Q_symmetric @ W.flatten(1)).view(W.shape), padding=1)
        found.append((y, *torch.autograd.grad(y.square().sum(), (x, W, Q))))
    for ours, theirs in zip(*found, strict=True):
        near(ours, theirs, 1e-5)
    assert bool(library[1]) == (library[0] == "oneDNN")


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_without_onednn_all_is_mkls(library):
    """`torch.backends.mkldnn.flags(enabled=False)` is heeded."""
    with torch.backends.mkldnn.flags(enabled=False), torch.no_grad():
        near(products.matmul(*WHOLE), WHOLE[0].double() @ WHOLE[1].double(), 1e-6)
    assert library[1] == []


@pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated", "ignore::torch.jit.TracerWarning")
def test_transforms_and_traces_are_right_by_each_library(library):
    """oneDNN's product has no rules for them: forward mode, vmap and `torch.jit.trace` leave it alone."""
    W = random(256, 512).float()
    u, v = initial_vectors(W)

    def weight(W):
        return linalg.precondition(W, u, v, PUBLISHED[7].coeffs)

    step = 1e-4 * random(256, 512, seed=1)
    shifted, as_is = (
        linalg.precondition(X, u.double(), v.double(), PUBLISHED[7].coeffs) for X in (W.double() + step, W.double())
    )
    exact = (shifted - as_is) / 1e-4
    with torch.no_grad():
        value, tangent = torch.func.jvp(weight, (W,), ((step / 1e-4).float(),))
        batch = torch.func.vmap(weight)(torch.stack([W, W / 2]))
    near(tangent, exact, 0.02)
    near(value, weight(W).double(), 1e-5)
    near(batch[0], batch[1].double(), 1e-5)  # the norm divides the scale away
    layer = FactoredConv2d(16, 128, 3, padding=1)
    layer.factor = random(128, 128).float()
    traced = torch.jit.trace(layer, random(2, 16, 9, 9).float())
    near(traced(random(2, 16, 9, 9, seed=1).float()), layer(random(2, 16, 9, 9, seed=1).float()).double(), 1e-5)


@pytest.mark.parametrize("n", [64, 600])
def test_a_symmetric_product_in_bf16(n):
    """Of rounded matrices, to 1 %, exactly symmetric; one half mirrored or not."""
    X = random(1, n, 200)
    product = products.symmetric(X.bfloat16(), X.bfloat16(), "bf16")
    assert product.dtype == torch.float32
    near(product, X @ X.mT, 0.01)
    near(product, product.mT.double(), 1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_product_is_added(library, precision):
    """Z + X Y in Z's place."""
    X, Y, Z = random(1, 128, 256), random(1, 256, 192, seed=1), random(1, 128, 192, seed=2)
    z = Z.float()
    with torch.no_grad():
        found = products.add_product_(z, X.float(), Y.float() if precision == "fp32" else Y.bfloat16(), precision)
    assert found is z
    near(z, Z + X @ Y, 1e-6 if precision == "fp32" else 0.01)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 5), (3, 4, 4)])
def test_plus_transpose_leaves_its_argument(shape):
    """X + X^T, exactly; X stays."""
    X = random(*shape)
    kept = X.clone()
    assert torch.equal(products.plus_transpose(X), kept + kept.mT)
    assert torch.equal(X, kept)


def test_amd_has_a_slow_mkl():
    """There and nowhere else, and not where PyTorch cannot say."""
    amd, intel = {"cpu_name": "AMD EPYC"}, {"cpu_name": "Intel(R) Xeon(R)"}
    for found, expected in (
        ({**amd, "avx2": True}, True),
        ({**amd, "avx2": False}, False),
        ({**intel, "avx2": True}, False),
        ({}, False),
    ):
        available = mock.patch.object(torch.backends.mkldnn, "is_available", return_value=True)
        with available, mock.patch.object(products, "_capabilities", return_value=found):
            assert products.has_slow_mkl.__wrapped__() is expected
