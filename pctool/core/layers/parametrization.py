"""The preconditioning layer as a `torch.nn.utils.parametrize` parametrization: state beside one weight.

One power iteration per training forward, as stock `spectral_norm`, and the kernel of `core/linalg.py`. Under APC
it counts the training forwards by itself, compiled or not.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pctool.core.layers.extra_state import packed, unpacked
from pctool.core.layers.strength import AdaptiveStrength
from pctool.core.linalg import (
    coefficient_rows,
    precondition_batch,
)
from pctool.core.polynomial import IDENTITY, MAX_COEFFS, OddPolynomial
from pctool.core.power_iteration import initial_vectors, power_iteration
from pctool.core.products import Precision

# Compiled code cannot hold Python objects: it counts its forwards through an operator that finds them here.
_alive: weakref.WeakValueDictionary[int, Preconditioned] = weakref.WeakValueDictionary()
_keys = itertools.count()


class Preconditioned(nn.Module):
    """Raw weight -> g(SN(W)): power-iteration vectors, the polynomial, and APC's state.

    `dim` is the output channels' dimension, as in stock `spectral_norm`; the matrix has it first.
    """

    _u: Tensor
    _v: Tensor
    _coeffs: Tensor
    _common: Tensor

    def __init__(
        self,
        weight: Tensor,
        dim: int,
        polynomial: OddPolynomial,
        *,
        strength: AdaptiveStrength | None = None,
        update_every: int = 1000,
        n_power_iterations: int = 1,
        precision: Precision = "fp32",
        vectors: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.fixed, self.strength = polynomial, strength
        self.update_every = update_every
        self.n_power_iterations = n_power_iterations
        self.precision: Precision = precision
        self.n_layers = 0  # whose weight this is: more than one where they share it
        self.forwards = 0  # training forwards so far; under APC, what a measurement falls due by
        W = self.matrix(weight.detach())
        u, v = vectors if vectors is not None else initial_vectors(W)
        self.register_buffer("_u", u.to(W).clone())
        self.register_buffer("_v", v.to(W).clone())
        self.register_buffer("_coeffs", coefficient_rows([IDENTITY.coeffs], W), persistent=False)
        common = torch.zeros_like(self.get_extra_state(), dtype=torch.int64, device=W.device)
        self.register_buffer("_common", common, persistent=False)
        self._enter()
        if strength is not None:
            self.update_strength(weight)
        self._refresh()
        self._publish()

    def _enter(self) -> None:
        self.key = next(_keys)
        _alive[self.key] = self

    @property
    def polynomial(self) -> OddPolynomial:
        """What stands behind the spectral norm now."""
        return self.strength.polynomial if self.strength else self.fixed

    @property
    def degree(self) -> int:
        """The degree in use, in an averaged model that of the coefficients it was given; 1 for the norm alone."""
        self._adopt()
        return self.polynomial.degree

    def _refresh(self) -> None:
        rows = coefficient_rows([self.polynomial.coeffs], self._u)
        if (rows.dtype, rows.device) == (self._coeffs.dtype, self._coeffs.device):
            self._coeffs.copy_(rows)
        else:  # u and v are others, by `load_state_dict(assign=True)`
            self._coeffs = rows
            self._common = torch.zeros_like(self._common, device=rows.device)

    def _publish(self) -> None:
        """Puts the state into a buffer too: what data-parallel training copies from its first process is buffers.

        float64 as the bits of int64, which no `.to(dtype)` rounds.
        """
        self._common.copy_(self.get_extra_state().view(torch.int64))
        self._published = True

    def _agree(self) -> None:
        """At the first forward of several processes: the state that the first one published.

        Processes that built other weights before theirs were copied have measured other ones.
        """
        if not self._published or not (dist.is_available() and dist.is_initialized()):
            return
        self._published = False
        state = self._common.cpu().view(torch.float64)
        if unpacked(state) != unpacked(self.get_extra_state()):
            self.set_extra_state(state)
            self._published = False

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    def forward(self, weight: Tensor) -> Tensor:
        """g(SN(W)) in the weight's own shape and dtype; in training mode after `n_power_iterations`."""
        W = self.matrix(weight)
        compiling = torch.compiler.is_compiling()
        if not compiling:
            self._agree()
        # A forward within a backward pass is gradient checkpointing's second: it repeats what the first one did.
        if self.training and (compiling or torch._C._current_graph_task_id() == -1):
            if self.strength is not None:
                # To Dynamo of 2.11 whatever it compiles is exported.
                if torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling():
                    raise ValueError("an exported program cannot count its training forwards; export in eval()")
                if compiling:
                    torch.ops.pctool.count_forward(W.detach(), self._coeffs, self.key)
                else:
                    self.count_forward(W.detach())
            u, v = power_iteration(W, self._u, self._v, self.n_power_iterations)
            self._u.copy_(u)
            self._v.copy_(v)
        # Copies, since a second forward changes the buffers before the first one's backward (GANs do this).
        u, v = self._u.clone(), self._v.clone()
        # Compiled, an adaptive layer takes all five coefficients as values: any strength, one compilation. In eval mode
        # too: an average of a model has its coefficients copied into the buffer, and knows of no change of strength.
        any_strength = self.strength is not None and (compiling or not self.training)
        n_coeffs = MAX_COEFFS if any_strength else len(self.polynomial.coeffs)
        (W_hat,) = precondition_batch([W], [u], [v], self._coeffs, n_coeffs=n_coeffs, precision=self.precision)
        moved = weight.movedim(self.dim, 0).shape
        return W_hat.reshape(moved).movedim(0, self.dim)

    def count_forward(self, W: Tensor) -> None:
        """One training forward of the matrix W: APC's measurements start and apply as they fall due."""
        assert self.strength is not None
        self._agree()
        self.forwards += 1
        if self.strength.follow(W, self.forwards, self.update_every):
            self._refresh()

    def update_strength(self, weight: Tensor) -> None:
        """APC: measures the raw weight and chooses the polynomial now."""
        if self.strength is None:
            return
        self.strength.measure(self.matrix(weight.detach()))
        self.strength.apply()
        self._refresh()
        self._publish()

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"degree={self.degree}"

    def train(self, mode: bool = True) -> Preconditioned:
        """As any module's; where it begins to train, with the coefficients that an average was given."""
        if mode:  # `update_bn` runs an averaged model so
            self._adopt()
        super().train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Preconditioned:
        self._adopt()
        super()._apply(fn, recurse)
        # Coefficients never in half precision, and never rounded by a way through it.
        self._coeffs = coefficient_rows([self.polynomial.coeffs], self._u)
        return self

    def get_extra_state(self) -> Tensor:
        """Coefficients, APC's measurements and the count of training forwards (`extra_state.packed`), on the CPU."""
        if self.strength is None:
            return packed({"coeffs": self.fixed.coeffs, "history": [], "pending": None, "forwards": self.forwards}, 0)
        self._adopt()
        return packed({**self.strength.state(), "forwards": self.forwards}, self.strength.longest)

    def _adopt(self) -> None:
        """Takes over coefficients that were copied into the buffer alone, as those of an averaged model are."""
        if self.strength is None or self._coeffs.is_meta:
            return
        if torch.equal(coefficient_rows([self.polynomial.coeffs], self._coeffs), self._coeffs):
            return
        coeffs = self._coeffs[0].tolist()
        while len(coeffs) > 1 and coeffs[-1] == 0:
            coeffs.pop()
        known = (IDENTITY, *self.strength.ladder.polynomials)
        same = [g for g in known if torch.equal(coefficient_rows([g.coeffs], self._coeffs), self._coeffs)]
        self.strength.polynomial = same[0] if same else OddPolynomial(tuple(coeffs))

    def set_extra_state(self, state: Tensor) -> None:
        """Takes over `get_extra_state()`: the coefficients too, since they belong to the weights."""
        found = unpacked(state)
        self.forwards = found["forwards"]
        if self.strength:
            self.strength.load_state(found)
        else:
            self.fixed = OddPolynomial(tuple(found["coeffs"]))
        self._refresh()
        self._publish()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What `layer.weight = weight` makes the raw weight, as under stock `spectral_norm`."""
        return weight

    def __getstate__(self) -> dict[str, Any]:
        if self.strength:  # a measurement under way cannot be copied, its value can
            self.strength.load_state(self.strength.state())
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._enter()


# Counted in Python: a CUDA graph of compiled code has to leave it out.
@torch.library.custom_op("pctool::count_forward", mutates_args=("coeffs",), tags=(torch.Tag.cudagraph_unsafe,))
def _count_forward(W: Tensor, coeffs: Tensor, key: int) -> None:
    layer = _alive[key]
    layer.count_forward(W)
    coeffs.copy_(layer._coeffs)


def weight_parametrizations(layer: nn.Module) -> Any:
    """What `parametrize` keeps for `weight` (the original and the list of parametrizations); None without."""
    return layer.parametrizations["weight"] if parametrize.is_parametrized(layer, "weight") else None  # type: ignore[index]


def preconditioning(layer: nn.Module) -> Preconditioned | None:
    """A layer's own parametrization, None where it is not preconditioned."""
    parts = weight_parametrizations(layer)
    return parts[0] if parts is not None and isinstance(parts[0], Preconditioned) else None
