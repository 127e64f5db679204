"""Matrix products as the kernel wants them: precise or rough, whatever autocast and the process allow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "tf32", "bf16"]

# Rows from which half of a float32 product, and a little more, outweighs a copy of the result; and how many of them are
# computed, and mirrored, at a time. On two cores a Gram matrix of 1024 x 4608 took 51 ms in place of 86 (in strips of
# 256 52, of 64 55), of 512 x 4608 14.3 in place of 18.1, of 256 x 1152 as long as usual.
MIRRORED = 512
STRIP = 128


def has_fast_bf16(device: str) -> bool:
    """Whether the device has units for bf16 products: GPUs that support it, CPUs with AMX or avx512_bf16."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


# Compiled code asks once. That is all torch.compiler.assume_constant_result does, besides importing torch's compiler,
# for which commands that compile nothing would wait 2 seconds.
has_fast_bf16._dynamo_marked_constant = True  # type: ignore[attr-defined]


def available(precision: Precision, W: Tensor) -> Precision:
    """What is asked for, or `fp32` where W's device lacks it, and for float64."""
    if W.dtype == torch.float64:
        return "fp32"
    there = W.is_cuda if precision == "tf32" else precision == "bf16" and has_fast_bf16(W.device.type)
    return precision if there else "fp32"


@contextlib.contextmanager
def products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Products of float32 as `precision` says, whatever autocast and the process allow, restored afterwards.

    Compiled code decides when it is compiled: there the process's own setting counts.
    """
    with torch.autocast(device.type, enabled=False):
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

    If Y is `rounded`, CPUs round the result too: no harm in a Gram matrix, which multiplies W, so that small singular
    values keep their digits, nor in a gradient.
    """
    if precision == "bf16" and X.is_cuda:
        return torch.bmm(X.bfloat16(), Y.bfloat16(), out_dtype=torch.float32)
    X = X.to(Y.dtype)
    return working(X @ Y if len(X) > 1 else torch.mm(X[0], Y[0]).unsqueeze(0))  # bmm copies what is transposed


def symmetric(X: Tensor, Y: Tensor, precision: Precision) -> Tensor:
    """X Y^T [layers, n, n] where that is symmetric; of a large one in float32 on CPUs one half mirrors the other."""
    n = X.shape[-2]
    if X.device.type != "cpu" or n < MIRRORED or precision == "bf16":
        return mul(X, Y.mT, precision)
    product = X.new_empty(*X.shape[:-1], n)
    for top in range(0, n, STRIP):
        bottom = min(top + STRIP, n)
        strip = mul(X[:, top:], Y[:, top:bottom].mT, precision)
        product[:, top:, top:bottom] = strip
        product[:, top:bottom, bottom:] = strip[:, bottom - top :].mT
    return product


def working(x: Tensor) -> Tensor:
    """x in the dtype the kernel works in: float32 at least."""
    wanted = torch.promote_types(x.dtype, torch.float32)
    # Not a `to` that does nothing: PyTorch 2.11, which compiles that into another output, loses the gradient.
    return x if x.dtype == wanted else x.to(wanted)
