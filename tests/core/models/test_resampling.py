"""Changes of resolution in the residual networks, against PyTorch's own operations one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pctool.core.models.resampling import (
    average_pool,
    bilinear_matrix,
    convolve_and_halve,
    double_and_convolve,
    double_by_images,
    double_by_weights,
    enlarged,
    halve_by_images,
    halve_by_weights,
)


def convolve_then_halve(x, weight, bias):
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


def double_then_convolve(x, weight, bias):
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


def pool_by_us(x, weight, bias):
    return average_pool(F.conv2d(x, weight, bias))


def pool_by_pytorch(x, weight, bias):
    return F.avg_pool2d(F.conv2d(x, weight, bias), 2)


# What a CPU takes and what a GPU takes, against the two operations.
PAIRS = [
    (halve_by_images, convolve_then_halve),
    (halve_by_weights, convolve_then_halve),
    (double_by_images, double_then_convolve),
    (double_by_weights, double_then_convolve),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 6), (1, 3, 2, 2), (2, 3, 3, 3), (2, 3, 2, 3)])
@pytest.mark.parametrize(("at_once", "in_turn"), PAIRS)
def test_one_convolution_is_two_operations(at_once, in_turn, shape, bias):
    """Value, gradients of input, weight and bias, and those of a gradient penalty, borders and odd sides included."""
    generator = torch.Generator().manual_seed(0)
    x, weight, b = (
        torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_()
        for size in (shape, (5, 3, 3, 3), (5,))
    )
    wanted = (x, weight, b) if bias else (x, weight)
    found = []
    for operation in (at_once, in_turn):
        y = operation(x, weight, b if bias else None)
        slopes = torch.autograd.grad(y.pow(3).sum(), wanted, create_graph=True)
        penalties = torch.autograd.grad(slopes[0].square().sum(), (x, weight))
        found.append((y, *slopes, *penalties))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("at_once", "in_turn"), PAIRS)
def test_one_convolution_is_about_as_rough_in_bf16(at_once, in_turn):
    """Under autocast, channels_last, against float64: at most twice the two operations' error, itself below 0.5 %.

    So are the gradients of input and weight.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 32, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(16, 32, 3, 3, generator=generator).requires_grad_()
    bias = torch.randn(16, generator=generator)
    exact = in_turn(x.double(), weight.double(), bias.double())
    G = torch.randn(exact.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    slopes = torch.autograd.grad(exact, (x, weight), G.double())
    errors = []
    for operation in (at_once, in_turn):
        with torch.autocast("cpu", torch.bfloat16):
            y = operation(x, weight, bias)
        assert y.dtype == torch.bfloat16
        assert y.is_contiguous(memory_format=torch.channels_last)
        found = (y, *torch.autograd.grad(y, (x, weight), G.bfloat16()))
        errors.append([((a - b).norm() / b.norm()).item() for a, b in zip(found, (exact, *slopes), strict=True)])
    for ours, theirs in zip(*errors, strict=True):
        assert ours < 2 * theirs < 0.01


@pytest.mark.parametrize("operation", [convolve_and_halve, double_and_convolve])
def test_another_kernel_is_refused(operation):
    """A 5 x 5 weight is a ValueError with its shape."""
    with pytest.raises(ValueError, match=r"the weight is \(5, 3, 5, 5\), not \[out, in, 3, 3\]"):
        operation(torch.randn(2, 3, 8, 8), torch.randn(5, 3, 5, 5), None)


def test_a_cpu_takes_its_own_forms():
    """There `convolve_and_halve` and `double_and_convolve` are the forms meant for it, to the bit."""
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3)
    assert torch.equal(convolve_and_halve(x, weight, None), halve_by_images(x, weight, None))
    assert torch.equal(double_and_convolve(x, weight, None), double_by_images(x, weight, None))


class Called(TorchDispatchMode):
    """Keeps the names of the operations that are called within it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("operation", [operation for operation, _ in PAIRS])
def test_no_gradient_is_pytorchs_of_a_pooling(operation):
    """PyTorch 2.11's, of a padded one, is wrong on GPUs in channels_last, which no CPU shows; and all are slow."""
    x, weight = torch.randn(2, 3, 8, 8).requires_grad_(), torch.randn(5, 3, 3, 3).requires_grad_()
    with Called() as called:
        (slope,) = torch.autograd.grad(operation(x, weight, None).pow(3).sum(), x, create_graph=True)
        slope.square().sum().backward()
    assert "avg_pool2d.default" in called.names
    assert "avg_pool2d_backward.default" not in called.names


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by PyTorch's own forward mode
@pytest.mark.parametrize(("at_once", "in_turn"), [*PAIRS, (pool_by_us, pool_by_pytorch)])
def test_changes_of_resolution_under_transforms(at_once, in_turn):
    """`torch.func`'s gradients, one by one for each image and in forward mode, are PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 3, 6, 6), (5, 3, 3, 3), (5, 3, 3, 3)
    x, weight, along = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    found = []
    for operation in (at_once, in_turn):

        def loss(W, image, operation=operation):
            return operation(image[None], W, None).pow(3).sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
        found.append((each, *torch.func.jvp(lambda W, f=loss: f(W, x[0]), (weight,), (along,))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("format_", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 6), (1, 4, 2, 2), (2, 5, 3, 3)])
def test_the_average_is_pytorchs(shape, format_):
    """Value, gradient, and the gradient of a gradient penalty are those of `F.avg_pool2d`; odd sides lose a row."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=format_).requires_grad_()
    found = []
    for pool in (average_pool, lambda x: F.avg_pool2d(x, 2)):
        y = pool(x)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (penalty,) = torch.autograd.grad(slope.square().sum(), x)
        assert y.is_contiguous(memory_format=format_)
        assert slope.is_contiguous(memory_format=format_)
        found.append((y, slope, penalty))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("side", [4, 6, 16, 24])
def test_the_matrix_enlarges_as_pytorch(side):
    """Value and gradient of `F.interpolate` to rounding in float64; in bf16 the matrix is exact, so that the result is
    that of float32 rounded once."""
    x = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    matrix = bilinear_matrix(side)
    ours, theirs = enlarged(x, matrix.double()), F.interpolate(x, scale_factor=2, mode="bilinear")
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    G = torch.randn_like(theirs)
    (a,), (b,) = torch.autograd.grad(ours, x, G), torch.autograd.grad(theirs, x, G)
    torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    low = x.detach().bfloat16()
    rounded = F.interpolate(low.float(), scale_factor=2, mode="bilinear").bfloat16()
    torch.testing.assert_close(enlarged(low, matrix), rounded, rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(matrix.double().sum(1), torch.ones(4 * side * side, dtype=torch.float64), rtol=0, atol=0)
