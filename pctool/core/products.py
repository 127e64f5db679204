"""Matrix products as the kernel wants them: precise or rough, whatever autocast and the process allow."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# From MIRRORED rows on, half of a symmetric product is computed, and a little more, STRIP rows at a time, and mirrored:
# there that outweighs a copy of the result. On two cores without bf16 units a Gram matrix of 1024 x 4608 took 51 ms in
# place of 86 (in strips of 256 52, of 64 55), of 512 x 4608 14.3 in place of 18.1, of 256 x 1152 as long as usual; on
# two with avx512_bf16, in bf16, 6.1 in place of 9.8, and 1.8 in place of 2.4.
MIRRORED = 512
STRIP = 128
LARGE = 128**3  # multiplications from which a call of oneDNN's is no longer than one of MKL's


def _capabilities() -> Mapping[str, Any]:
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def has_fast_bf16(device: str) -> bool:
    """Whether the device has units for bf16 products: CUDA GPUs that support it, CPUs with AMX or avx512_bf16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(_capabilities().get(units) for units in ("amx_bf16", "avx512_bf16"))


# Compiled code asks once. That is all torch.compiler.assume_constant_result does, besides importing torch's compiler,
# for which commands that compile nothing would wait 2 seconds.
has_fast_bf16._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def has_slow_mkl() -> bool:
    """Whether this is a CPU of AMD's with AVX2: MKL is slower there than oneDNN in float32.

    It computes by AVX2, which takes twice as long as oneDNN's AVX-512, and a fifth longer than oneDNN's AVX2.
    """
    found = _capabilities()
    amd = str(found.get("cpu_name")).startswith("AMD")
    return amd and bool(found.get("avx2")) and torch.backends.mkldnn.is_available()


def check_precision(precision: str) -> None:
    """Raises ValueError unless it is one of `Precision`."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}: one of {', '.join(PRECISIONS)}")


def available(precision: Precision, W: Tensor) -> Precision:
    """What is asked for, or `fp32` where W's device lacks it, and for float64. ValueError for an unknown one."""
    check_precision(precision)
    if W.dtype == torch.float64:
        return "fp32"
    there = W.is_cuda if precision == "tf32" else precision == "bf16" and has_fast_bf16(W.device.type)
    return precision if there else "fp32"


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Where autocast does not count; the meta device has none."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Products of float32 as `precision` says, whatever autocast and the process allow, restored afterwards.

    Compiled code decides when it is compiled: there the process's own setting counts.
    """
    with without_autocast(device):
        if torch.compiler.is_compiling():
            yield
            return
        cuda = device.type == "cuda"
        backends: Any = torch.backends.cuda if cuda else torch.backends.mkldnn
        backend = backends.matmul
        wanted = "tf32" if cuda and precision == "tf32" else "bf16" if not cuda and precision == "bf16" else "ieee"
        before, backend.fp32_precision = backend.fp32_precision, wanted
        try:
            yield
        finally:
            backend.fp32_precision = before


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Convolutions and products in full float32: TF32, cuDNN's default for convolutions, moves the third digit."""
    gpu = device.type == "cuda"
    cudnn: Any = torch.backends.cudnn
    as_set = {"deterministic": cudnn.deterministic, "benchmark": cudnn.benchmark}
    convolutions = cudnn.flags(enabled=True, allow_tf32=False, **as_set) if gpu else contextlib.nullcontext()
    with convolutions, products(device, "fp32"):
        yield


def rounded(X: Tensor, precision: Precision) -> Tensor:
    """A large operand of `mul`, rounded once for several products."""
    return X.bfloat16() if precision == "bf16" else X


def mul(X: Tensor, Y: Tensor, precision: Precision) -> Tensor:
    """X Y [layers, ...] in float32 or better, as `products` says.

    If Y is `rounded`, CPUs round the result too: no harm in a Gram matrix and its polynomial, which multiply W, so that
    small singular values keep their digits, nor in a gradient.
    """
    if precision == "bf16" and X.is_cuda:
        return torch.bmm(X.bfloat16(), Y.bfloat16(), out_dtype=torch.float32)
    X = X.to(Y.dtype)
    return working(X @ Y if len(X) > 1 else matmul(X[0], Y[0]).unsqueeze(0))  # bmm copies what is transposed


def matmul(X: Tensor, Y: Tensor) -> Tensor:
    """X Y of two matrices, by the faster of PyTorch's libraries."""
    if not _is_for_onednn(X, Y):
        return torch.mm(X, Y)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(X, Y.t(), None, "none", [], "")
    return product


def _is_for_onednn(X: Tensor, Y: Tensor) -> bool:
    """Where that is the faster one. It has no rules for gradients or transforms, and where rows have gaps no speed."""
    if is_traced() or torch.is_grad_enabled() or X.dtype != torch.float32 or not X.is_cpu:
        return False
    dense = all(x.is_contiguous() or x.t().is_contiguous() for x in (X, Y))
    return dense and X.numel() * Y.shape[1] >= LARGE and has_slow_mkl() and bool(torch.backends.mkldnn.enabled)


def is_traced() -> bool:
    """Whether what is called is compiled, traced or transformed, and not just computed."""
    return torch.compiler.is_compiling() or torch._C._is_tracing() or is_transformed()


class Linear(torch.autograd.Function):
    """x weight^T by `matmul`, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """[p, n] for x [p, m] and weight [n, m]."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return matmul(x, weight.t())

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """dL/dx and dL/dweight for G = dL/dy, None where they are not asked for."""
        x, weight = ctx.saved_tensors
        dx = matmul(G, weight) if ctx.needs_input_grad[0] else None
        return dx, None if x is None else matmul(G.t(), x)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of a matrix x, by the faster of PyTorch's libraries."""
    exact = x.is_cpu and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not exact or is_traced() or not has_slow_mkl():
        return F.linear(x, weight, bias)
    y: Tensor = Linear.apply(x, weight)
    return y if bias is None else y + bias


def symmetric(X: Tensor, Y: Tensor, precision: Precision) -> Tensor:
    """X Y^T [layers, n, n] where that is symmetric; of one large matrix on CPUs one half mirrors the other."""
    n = X.shape[-2]
    if not X.is_cpu or n < MIRRORED or len(X) > 1:
        return mul(X, Y.mT, precision)
    rows = _without_gaps(X[0].to(Y.dtype))
    columns = (rows if Y is X else _without_gaps(Y[0])).t()
    product = rows.new_empty(n, n, dtype=torch.promote_types(rows.dtype, torch.float32))
    for top in range(0, n, STRIP):
        strip = matmul(rows[top:], columns[:, top : top + STRIP])
        product[top:, top : top + STRIP] = strip
        product[top : top + STRIP, top + STRIP :] = strip[STRIP:].t()
    return product.unsqueeze(0)


def _without_gaps(X: Tensor) -> Tensor:
    """The rows of X, whose strips are to be fast; of two dimensions a CPU copies a transpose by tiles."""
    return X if X.is_contiguous() else X.clone(memory_format=torch.contiguous_format)


def add_product_(Z: Tensor, X: Tensor, Y: Tensor, precision: Precision) -> Tensor:
    """Z + X Y of each layer, in Z's place."""
    if precision == "bf16" or (len(X) == 1 and _is_for_onednn(X[0], Y[0])):
        return Z.add_(mul(X, Y, precision))
    return Z.baddbmm_(X, Y)


def plus_transpose(X: Tensor) -> Tensor:
    """X + X^T of each layer [layers, n, n]."""
    if len(X) > 1 or not X.is_cpu:
        return X + X.mT
    copy = X[0].t().clone(memory_format=torch.contiguous_format)  # of two dimensions a CPU makes it tile by tile
    return copy.add_(X[0]).unsqueeze(0)


def is_transformed() -> bool:
    """Whether `torch.func`'s transforms are at work, which know no `torch.autograd.Function` like ours."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def working(x: Tensor) -> Tensor:
    """x in the dtype the kernel works in: float32 at least."""
    wanted = torch.promote_types(x.dtype, torch.float32)
    # Not a `to` that does nothing: PyTorch 2.11, which compiles that into another output, loses the gradient.
    return x if x.dtype == wanted else x.to(wanted)
