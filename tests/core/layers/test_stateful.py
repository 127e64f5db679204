"""The plug-in under random sequences of what people do to a model, beside a plain float64 reference.

The reference keeps, for every raw weight, its bits, u, v, the polynomial, APC's measurements and the count of training
evaluations, and predicts each operation from the documented rules (docs/layer.md, docs/method.md): its own power
iteration, polynomial by plain matrix powers, gradient by autograd with u and v constant, condition numbers by NumPy's
SVD. After each operation the model it was done to is compared with the prediction, to rounding; all others, and what
should not have moved, bit for bit.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import pctool
from pctool.core.layers.parametrization import Preconditioned, preconditioning

TAUS = (1.5, 2.0, 4.0, 8.0)  # so that strengths differ between layers this small
LR = 0.02
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
HALVES = (torch.float16, torch.bfloat16)

# name: layer, an input of two items
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (2, 6)),
    "tall": (lambda: nn.Linear(3, 8), (2, 3)),
    "one": (lambda: nn.Linear(1, 1), (2, 1)),
    "row": (lambda: nn.Linear(5, 1), (2, 5)),
    "column": (lambda: nn.Linear(1, 5, bias=False), (2, 1)),
    "many": (lambda: nn.Linear(12, 11), (2, 12)),
    "conv1d": (lambda: nn.Conv1d(6, 11, 2), (2, 6, 3)),  # ceil(10 %) of 11 are two
    "conv2d": (lambda: nn.Conv2d(2, 5, 2), (2, 2, 3, 3)),
    "pointwise": (lambda: nn.Conv2d(1, 1, 1), (2, 1, 2, 2)),
    "standing": (lambda: nn.Conv2d(3, 7, 1, bias=False), (2, 3, 2, 2)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 2, 3, 2)),
    "grouped": (lambda: nn.Conv2d(4, 6, 2, groups=2), (2, 4, 3, 3)),
    "transposed1d": (lambda: nn.ConvTranspose1d(3, 4, 2), (2, 3, 3)),
    "transposed2d": (lambda: nn.ConvTranspose2d(2, 4, 2), (2, 2, 2, 3)),
    "transposed3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 2, 2, 2)),
    "grouped-transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), (2, 4, 2, 2)),
}


class Net(nn.Module):
    """Layers beside each other, each with its own input; the second of a pair of names that are equal is tied."""

    def __init__(self, kinds: list[str], dtypes: list[torch.dtype]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i, (kind, dtype) in enumerate(zip(kinds, dtypes, strict=True)):
            layer = KINDS[kind][0]().to(dtype)
            if kind in kinds[:i]:
                layer.weight = self.layers[kinds.index(kind)].weight
                layer.to(layer.weight.dtype)
            self.layers.append(layer)

    def forward(self, inputs: list[Tensor], way: str = "") -> list[Tensor]:
        if way.startswith("checkpoint"):
            again = way == "checkpoint, reentrant"
            return [checkpoint(f, x, use_reentrant=again) for f, x in zip(self.layers, inputs, strict=True)]
        return [layer(x) for layer, x in zip(self.layers, inputs, strict=True)]


# ---------------------------------------------------------------------------------------------------- the reference


def modified_kappa(W: Tensor) -> float:
    s = np.linalg.svd(W.double().numpy(), compute_uv=False)
    lowest = np.sort(s)[: -(-len(s) // 10)].mean()
    return math.inf if lowest <= len(s) * 2.0**-52 * s[0] else float(s[0] / lowest)


@dataclass
class Evaluation:
    """One use of a weight: what it was, and the constants of the formula."""

    W: Tensor  # float64, the layer's own shape; a leaf with a gradient
    dim: int
    u: Tensor
    v: Tensor
    coeffs: tuple[float, ...]

    def value(self) -> Tensor:
        moved = self.W.movedim(self.dim, 0)
        M = moved.flatten(1)
        A = M / (self.u @ M @ self.v)
        small = A @ A.t() if len(A) <= A.shape[1] else A.t() @ A  # by which side makes no difference
        power, P = torch.eye(len(small), dtype=torch.float64), torch.zeros_like(small)
        for a in self.coeffs:
            P = P + a * power
            power = power @ small
        return ((P @ A) if len(A) <= A.shape[1] else (A @ P)).reshape(moved.shape).movedim(0, self.dim)

    def amplification(self) -> tuple[float, float, float]:
        """By how much rounding grows: of sigma, of W_hat, of the gradient in W for one of W_hat with norm 1."""
        M = self.W.detach().movedim(self.dim, 0).flatten(1)
        sigma, norm = abs(float(self.u @ M @ self.v)), float(torch.linalg.matrix_norm(M))
        x = norm / sigma
        bound = sum((2 * i + 1) * abs(a) * x ** (2 * i) for i, a in enumerate(self.coeffs))
        return x, x * x * bound, x * x * bound / sigma


@dataclass
class Cell:
    """One raw weight and what stands beside it."""

    dim: int
    W: Tensor
    u: Tensor
    v: Tensor
    coeffs: tuple[float, ...]
    adaptive: bool
    every: int
    n_iterations: int
    history: list[float] = field(default_factory=list)
    pending: float | None = None
    forwards: int = 0
    training: bool = True
    trained: bool = True
    growth: float = 1.0  # of rounding in u and v since they were bits
    moved: bool = False  # since then

    def matrix(self) -> Tensor:
        return self.W.double().movedim(self.dim, 0).flatten(1)

    def clone(self) -> Cell:
        return replace(self, W=self.W.clone(), u=self.u.clone(), v=self.v.clone(), history=list(self.history))

    def measure(self) -> None:
        self.pending = modified_kappa(self.matrix())

    def apply(self) -> None:
        if self.pending is None:
            return
        self.history, self.pending = [*self.history, self.pending][-5:], None
        mean = math.fsum(self.history) / len(self.history)
        degree = 1 + 2 * sum(mean > tau for tau in TAUS)
        self.coeffs = (1.0,) if degree == 1 else pctool.PUBLISHED[degree].coeffs

    def evaluate(self) -> Evaluation:
        """One use of the weight: in training mode counted, and iterated before."""
        if self.training:
            if self.adaptive:
                self.forwards += 1
                if self.forwards % self.every == 0:
                    self.measure()
                if self.forwards % self.every == self.every // 10:
                    self.apply()
            M, u, v, self.moved = self.matrix(), self.u.double(), self.v.double(), True
            for _ in range(self.n_iterations):
                u, left = torch.nn.functional.normalize(M @ v, dim=0), (M @ v).norm() / v.norm()
                v, right = torch.nn.functional.normalize(M.t() @ u, dim=0), (M.t() @ u).norm()
                self.growth *= float((M.norm() / left).clamp(max=1e6) * (M.norm() / right).clamp(max=1e6))
            self.u, self.v = u.to(self.u.dtype), v.to(self.v.dtype)
        u, v = (x.double() / (x.double().norm() if x.dtype in HALVES else 1) for x in (self.u, self.v))
        return Evaluation(self.W.double().clone().requires_grad_(), self.dim, u, v, self.coeffs)


def rows_of(cell: Cell) -> Tensor:
    """The coefficients as the buffer has them."""
    dtype = torch.promote_types(cell.W.dtype, torch.float32)
    return torch.tensor([[*cell.coeffs, *[0.0] * (5 - len(cell.coeffs))]], dtype=dtype)


# ------------------------------------------------------------------------------------------------------- the subjects


@dataclass(frozen=True)
class Settings:
    method: str
    degree: int
    every: int
    n_iterations: int
    skip_linear: bool

    def apply(self, net: nn.Module) -> nn.Module:
        return pctool.precondition_(
            net,
            self.method,  # type: ignore[arg-type]
            degree=self.degree if self.method == "fpc" else 7,
            taus=TAUS if self.method == "apc" else pctool.Ladder().taus,
            update_every=self.every,
            n_power_iterations=self.n_iterations,
            skip_linear=self.skip_linear,
        )


SETTINGS = st.builds(
    Settings,
    st.sampled_from(["sn", "fpc", "apc", "apc"]),
    st.sampled_from([3, 5, 7, 9]),
    st.sampled_from([1, 2, 10]),
    st.integers(1, 3),
    st.booleans(),
)


class Subject:
    """A model under `precondition_`, its reference, and an optimiser that lives as long as its parameters."""

    def __init__(self, net: Net, kinds: list[str], how: Settings) -> None:
        self.net, self.kinds, self.how = net, kinds, how
        self.plain = [KINDS[kind][0]().double().requires_grad_(False) for kind in kinds]
        self.owner = [kinds.index(kind) for kind in kinds]  # the layer whose weight each layer uses
        self.cells = {i: self._begun(i) for i in sorted(set(self.owner))}
        self.optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def _begun(self, i: int) -> Cell:
        """The reference of a layer that was preconditioned just now; checks u, v and the first strength."""
        own, raw, how = self.own(i), self.raw(i), self.how
        linear = [j for j, layer in enumerate(self.net.layers) if isinstance(layer, nn.Linear)]
        skipped = how.skip_linear and bool(linear) and i == linear[-1]
        transposed = isinstance(self.net.layers[i], nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        coeffs = pctool.PUBLISHED[how.degree].coeffs if how.method == "fpc" and not skipped else (1.0,)
        adaptive = how.method == "apc" and not skipped
        u, v = own._u.clone(), own._v.clone()
        cell = Cell(int(transposed), bits(raw), u, v, coeffs, adaptive, how.every, how.n_iterations)
        cell.training, cell.trained = own.training, raw.requires_grad
        M, tolerance = cell.matrix(), TOLERANCE[raw.dtype]
        again = torch.nn.functional.normalize(M.t() @ u.double(), dim=0)
        assert abs(float(u.double().norm()) - 1) < tolerance
        assert (again - v.double()).abs().max() < tolerance * float(M.norm() / (M.t() @ u.double()).norm())
        assert float(u.double() @ M @ v.double()) > 0.7 * float(torch.linalg.matrix_norm(M, 2))
        if adaptive:
            cell.measure()
            cell.apply()
            self._take_measurements(cell, own)
        return cell

    def own(self, i: int) -> Preconditioned:
        found = preconditioning(self.net.layers[i])
        assert found is not None
        return found

    def raw(self, i: int) -> nn.Parameter:
        return self.net.layers[i].parametrizations.weight.original  # type: ignore[union-attr,index]

    def cell(self, i: int) -> Cell:
        return self.cells[self.owner[i]]

    def twin(self, net: Net, how: Settings | None = None) -> Subject:
        """Another model with a copy of this reference."""
        other = copy.copy(self)
        other.net, other.how = net, how or self.how
        other.cells = {i: cell.clone() for i, cell in self.cells.items()}
        other.optimizer = torch.optim.SGD(net.parameters(), lr=LR)
        return other

    def fresh(self, how: Settings, dtypes: bool = True) -> Net:
        """Another model of the same shape and preconditioned, with other weights; in train()."""
        net = Net(self.kinds, [torch.float32] * len(self.kinds))
        for i, layer in enumerate(net.layers):
            if dtypes:
                layer.to(self.cell(i).W.dtype)
        how.apply(net)
        return net

    def inputs(self, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = [torch.randn(KINDS[kind][1], generator=generator, dtype=torch.float64) for kind in self.kinds]
        return [x.to(self.cell(i).W.dtype) for i, x in enumerate(found)]

    def reference(self, inputs: list[Tensor]) -> tuple[list[Tensor], list[Evaluation], list[Tensor]]:
        """Outputs of one forward in float64, the evaluations behind them, and the effective weights."""
        evaluations = [self.cell(i).evaluate() for i in range(len(self.kinds))]
        values = [each.value() for each in evaluations]
        return self.outputs(inputs, values), evaluations, values

    def outputs(self, inputs: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        found = []
        for plain, layer, x, value in zip(self.plain, self.net.layers, inputs, values, strict=True):
            bias = {} if layer.bias is None else {"bias": layer.bias.detach().double()}
            found.append(functional_call(plain, {"weight": value, **bias}, (x.double(),)))
        return found

    # ------------------------------------------------------------------------------------------------ comparisons

    def close(self, i: int, ours: Tensor, theirs: Tensor, scale: float, coarse: bool = False) -> None:
        tolerance = max(TOLERANCE[self.cell(i).W.dtype], TOLERANCE[torch.bfloat16] if coarse else 0)
        error = float((ours.detach().double() - theirs.detach()).abs().max())
        assert error <= tolerance * max(scale, 1e-30), (self.kinds[i], error, tolerance * scale)

    def settle(self) -> None:
        """After an operation that trains: u, v and what is measured are as predicted; the reference takes the bits."""
        for i, cell in self.cells.items():
            own = self.own(i)
            for ours, theirs in ((own._u, cell.u), (own._v, cell.v)):
                assert ours.dtype == theirs.dtype == cell.W.dtype
                error = float((ours.double() - theirs.double()).abs().max())
                assert error <= (TOLERANCE[cell.W.dtype] * cell.growth if cell.moved else 0), (self.kinds[i], error)
            cell.u, cell.v, cell.growth, cell.moved = own._u.clone(), own._v.clone(), 1.0, False
            self._take_measurements(cell, own)

    def _take_measurements(self, cell: Cell, own: Preconditioned) -> None:
        if not cell.adaptive:
            assert own.strength is None
            return
        assert own.strength is not None
        ours, theirs = [*own.strength.history], [*cell.history]
        if cell.pending is not None:
            ours, theirs = [*ours, own.strength.state()["pending"]], [*theirs, cell.pending]
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a == b or min(a, b) > 1e7 or abs(a - b) <= 1e-9 * b * b, (ours, theirs)
        cell.history = list(own.strength.history)
        cell.pending = None if cell.pending is None else ours[-1]

    def verify(self) -> None:
        """The model is, bit for bit, where the reference is; without asking what could move it (`state_dict` does)."""
        for i in range(len(self.kinds)):
            cell, own, raw = self.cell(i), self.own(i), self.raw(i)
            assert own is self.own(self.owner[i])
            assert raw is self.raw(self.owner[i])
            assert isinstance(raw, nn.Parameter)
            assert raw.requires_grad == cell.trained
            for ours, theirs in ((raw, cell.W), (own._u, cell.u), (own._v, cell.v)):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)
            assert own.polynomial.coeffs == cell.coeffs
            assert own._coeffs.dtype == torch.promote_types(raw.dtype, torch.float32)
            assert torch.equal(own._coeffs, rows_of(cell))
            assert own.training == cell.training
            assert own.forwards == cell.forwards
            assert own.n_power_iterations == cell.n_iterations
            assert (own.strength is not None) == cell.adaptive
            if own.strength is not None:
                assert own.strength.history == cell.history
                assert (own.strength._pending is not None) == (cell.pending is not None)

    def check_eval(self, seed: int) -> list[Tensor]:
        """In eval() the model applies the formula to its state, and moves nothing."""
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()
        inputs = self.inputs(seed)
        outputs = self.net(inputs)
        theirs = self.twin(self.net)
        for cell in theirs.cells.values():
            cell.training = False
        expected, evaluations, values = theirs.reference(inputs)
        for i, (ours, want, each) in enumerate(zip(outputs, expected, evaluations, strict=True)):
            scale = each.amplification()[1]
            self.close(i, self.net.layers[i].weight, values[i], scale)
            self.close(i, ours, want, scale * float(inputs[i].double().norm()) + float(want.detach().norm()))
        for module, mode in modes:
            module.training = mode
        return outputs


def bits(x: Tensor) -> Tensor:
    return x.detach().clone()


def weighing(outputs: list[Tensor], seed: int) -> list[Tensor]:
    """The loss's gradient in each output."""
    generator = torch.Generator().manual_seed(seed + 10**6)
    return [torch.randn(y.shape, generator=generator, dtype=torch.float64) / math.sqrt(y.numel()) for y in outputs]


def loss_of(outputs: list[Tensor], seed: int) -> Tensor:
    return torch.stack(
        [(y.to(torch.float64) * C).sum() for y, C in zip(outputs, weighing(outputs, seed), strict=True)]
    ).sum()


def penalty_of(inputs: list[Tensor], loss: Tensor) -> Tensor:
    """A gradient penalty: second order in the inputs, first in the weights."""
    slopes = torch.autograd.grad(loss, inputs, create_graph=True)
    return torch.stack([slope.double().square().sum() for slope in slopes]).sum()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


TRANSPORTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "as it is": dict,
    "copied": copy.deepcopy,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "torch": lambda state: _through_torch(state),  # noqa: PLW0108  # below
    "safetensors": lambda state: safetensors.torch.load(
        safetensors.torch.save({name: x.clone().contiguous() for name, x in state.items()})
    ),
}


def _through_torch(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


CONTEXTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "cached": parametrize.cached,
}
BETWEEN: dict[str, Callable[[Subject], Any]] = {
    "": lambda subject: None,
    "singular_values": lambda subject: pctool.singular_values(subject.net),
    "state_dict": lambda subject: subject.net.state_dict(),
    "deepcopy": lambda subject: copy.deepcopy(subject.net),
    "eval forward": lambda subject: subject.check_eval(0),
    "update_strengths_": lambda subject: strengthen(subject),  # noqa: PLW0108  # below
}

SEEDS = st.integers(0, 10**5)
DTYPES = st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16])


def strengthen(subject: Subject) -> None:
    """`update_strengths_`, and the reference along."""
    degrees = pctool.update_strengths_(subject.net)
    for i, cell in subject.cells.items():
        if cell.adaptive:
            cell.measure()
            cell.apply()
            subject._take_measurements(cell, subject.own(i))
    assert list(degrees.values()) == [2 * len(subject.cell(i).coeffs) - 1 for i in range(len(subject.kinds))]


# --------------------------------------------------------------------------------------------------------- the machine


class PlugIn(RuleBasedStateMachine):
    """A few models, each with its reference. `which` picks one."""

    subjects: list[Subject]

    @initialize(
        kinds=st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=3),
        dtypes=st.lists(DTYPES, min_size=3, max_size=3),
        how=SETTINGS,
        seed=SEEDS,
        training=st.booleans(),
    )
    def begin(self, kinds: list[str], dtypes: list[torch.dtype], how: Settings, seed: int, training: bool) -> None:
        torch.manual_seed(seed)
        net = Net(kinds, dtypes[: len(kinds)]).train(training)
        parameters = dict(net.named_parameters())
        how.apply(net)
        assert {id(x) for x in net.parameters()} == {id(x) for x in parameters.values()}
        self.subjects = [Subject(net, kinds, how)]

    def pick(self, which: int) -> Subject:
        return self.subjects[which % len(self.subjects)]

    def add(self, subject: Subject, which: int) -> None:
        """One model more, in place of another where there are three."""
        if len(self.subjects) == 3:
            self.subjects[which % 3] = subject
        else:
            self.subjects.append(subject)

    @invariant()
    def every_model_is_where_its_reference_is(self) -> None:
        for subject in getattr(self, "subjects", []):
            subject.verify()

    @rule(which=st.integers(0, 2), seed=SEEDS, context=st.sampled_from([*CONTEXTS]), n=st.sampled_from([1, 1, 2, 10]))
    def forward(self, which: int, seed: int, context: str, n: int) -> None:
        """Forwards in the modes that the layers are in."""
        subject = self.pick(which)
        inputs = subject.inputs(seed)
        expected, coarse = None, context == "autocast"
        with CONTEXTS[context]():
            for _ in range(n):
                if expected is None or context != "cached":
                    expected, evaluations, _ = subject.reference(inputs)
                outputs = subject.net(inputs)
                for i, (ours, want, each) in enumerate(zip(outputs, expected, evaluations, strict=True)):
                    growth = subject.cell(i).growth ** 0.5
                    scale = each.amplification()[1] * growth * float(inputs[i].double().norm())
                    subject.close(i, ours, want, scale + float(want.detach().norm()), coarse)
                if context == "cached":
                    pctool.singular_values(subject.net)
        subject.settle()

    @rule(which=st.integers(0, 2), seed=SEEDS)
    def eval_forward(self, which: int, seed: int) -> None:
        self.pick(which).check_eval(seed)

    @rule(
        which=st.integers(0, 2),
        seed=SEEDS,
        n=st.integers(1, 3),
        way=st.sampled_from(["", "", "cached", "checkpoint", "checkpoint, reentrant", "autocast", "penalty", "twice"]),
        between=st.sampled_from([*BETWEEN]),
        to_none=st.booleans(),
    )
    def step(self, which: int, seed: int, n: int, way: str, between: str, to_none: bool) -> None:  # noqa: PLR0912, PLR0915
        """`n` forwards, then one backward and a step of SGD; something else happens between forward and backward."""
        subject, coarse = self.pick(which), way == "autocast"
        if way in ("penalty", "twice") and any(cell.W.dtype in HALVES for cell in subject.cells.values()):
            way = ""
        if way.startswith("checkpoint") and len(subject.cells) < len(subject.kinds):
            way = ""  # of a weight that is used twice both second evaluations would have the last one's u and v
        if way.startswith("checkpoint"):
            n = 1  # as those of several forwards
            between = "" if between == "update_strengths_" else between  # the second evaluation would have it
        if way == "cached" and between == "eval forward":
            between = ""  # which would get what is cached
        subject.optimizer.zero_grad(set_to_none=to_none)
        before = {id(x): bits(x) for x in subject.net.parameters()}
        ours = theirs = torch.zeros((), dtype=torch.float64)
        evaluations, values = list[Evaluation](), list[Tensor]()
        bare = list[Tensor]()
        with CONTEXTS[way]() if way in CONTEXTS else contextlib.nullcontext():
            for k in range(n):
                inputs = [x.requires_grad_() for x in subject.inputs(seed + k)]
                copies = [x.detach().double().requires_grad_() for x in inputs]
                if k == 0 or way != "cached":
                    _, some, effective = subject.reference(copies)
                    evaluations, values = evaluations + some, values + effective
                outputs = subject.outputs(copies, effective)
                their_loss, our_loss = loss_of(outputs, seed), loss_of(subject.net(inputs, way), seed)
                if way == "penalty":
                    our_loss, their_loss = penalty_of(inputs, our_loss), penalty_of(copies, their_loss)
                bare += [x.detach().double() for x in inputs]
                ours, theirs = ours + our_loss, theirs + their_loss
            with torch.autocast("cpu", enabled=False):
                BETWEEN[between](subject)
        raws = [subject.raw(i) for i in subject.cells]
        if theirs.requires_grad and way == "twice" and all(raw.requires_grad for raw in raws):
            self._differentiate_twice(subject, ours, theirs, evaluations, seed)
            subject.settle()
            return
        if ours.requires_grad:
            gradients = torch.autograd.grad(theirs, values, retain_graph=True, allow_unused=True)
            theirs.backward()
            ours.backward()
        for i, cell in subject.cells.items():
            raw = subject.raw(i)
            if not cell.trained:
                assert raw.grad is None or not raw.grad.any()
                continue
            members = [k for k in range(len(evaluations)) if subject.owner[k % len(subject.kinds)] == i]
            expected = sum(evaluations[k].W.grad for k in members)
            scale = sum(
                evaluations[k].amplification()[2] * float(gradients[k].norm() + bare[k].norm()) for k in members
            )
            assert raw.grad is not None
            assert raw.grad.dtype == raw.dtype
            subject.close(i, raw.grad, expected, scale * cell.growth**0.5, coarse)
        subject.settle()
        subject.verify()  # the backward moves nothing
        subject.optimizer.step()
        for x in subject.net.parameters():
            want = before[id(x)] if x.grad is None else before[id(x)].add(x.grad, alpha=-LR)
            assert torch.equal(x, want)
        for i, cell in subject.cells.items():
            cell.W = bits(subject.raw(i))

    @staticmethod
    def _differentiate_twice(
        subject: Subject, ours: Tensor, theirs: Tensor, evaluations: list[Evaluation], seed: int
    ) -> None:
        """The gradient in W differentiated once more, along a random direction."""
        raws = {i: subject.raw(i) for i in subject.cells}
        generator = torch.Generator().manual_seed(seed)
        along = {i: torch.randn(raw.shape, generator=generator, dtype=torch.float64) for i, raw in raws.items()}
        first = torch.autograd.grad(ours, [*raws.values()], create_graph=True)
        slope = torch.stack([(g.double() * R).sum() for g, R in zip(first, along.values(), strict=True)]).sum()
        seconds = torch.autograd.grad(slope, [*raws.values()], allow_unused=True)
        leaves = [each.W for each in evaluations]
        owners = [subject.owner[k % len(subject.kinds)] for k in range(len(leaves))]
        first = torch.autograd.grad(theirs, leaves, create_graph=True)
        slope = torch.stack([(g * along[i]).sum() for g, i in zip(first, owners, strict=True)]).sum()
        wanted = torch.autograd.grad(slope, leaves, allow_unused=True)
        for (i, raw), second in zip(raws.items(), seconds, strict=True):
            parts = [(w, e) for w, e, owner in zip(wanted, evaluations, owners, strict=True) if owner == i]
            want = sum(torch.zeros_like(e.W) if w is None else w for w, e in parts)
            scale = sum(20 * e.amplification()[0] ** 2 * e.amplification()[2] ** 1 for _, e in parts)
            sigma = min(abs(float(e.W.detach().norm())) / e.amplification()[0] for _, e in parts)
            size = float(along[i].norm()) * sum(float(x.norm()) for x in subject.inputs(seed)) * 10
            subject.close(i, torch.zeros_like(raw) if second is None else second, want, scale * size / sigma)

    @rule(which=st.integers(0, 2))
    def deepcopy(self, which: int) -> None:
        subject = self.pick(which)
        subject.optimizer.zero_grad()
        self.add(subject.twin(copy.deepcopy(subject.net)), which + 1)

    @rule(
        which=st.integers(0, 2),
        transport=st.sampled_from([*TRANSPORTS]),
        assign=st.booleans(),
        other=st.none() | SETTINGS,
        seed=SEEDS,
        waiting=st.booleans(),
    )
    def restore(
        self, which: int, transport: str, assign: bool, other: Settings | None, seed: int, waiting: bool
    ) -> None:
        """A strict round trip into a fresh model; under the same settings the next forwards are the same bits."""
        subject = self.pick(which)
        counts = [cell.forwards for cell in subject.cells.values() if cell.adaptive and cell.every == 10]
        if waiting and counts:  # with a measurement that is not applied yet
            self.mode(which, None, True)
            self.forward(which, seed, "", 10 - counts[0] % 10)
        tied = len(subject.cells) < len(subject.kinds)
        assign = assign and not tied  # torch unties what it assigns
        if assign and transport == "as it is":
            transport = "copied"
        how = subject.how if other is None else replace(other, n_iterations=subject.how.n_iterations)
        net = subject.fresh(how, dtypes=not assign)
        net.load_state_dict(TRANSPORTS[transport](subject.net.state_dict()), strict=True, assign=assign)
        twin = subject.twin(net, how)
        linear = [j for j, layer in enumerate(net.layers) if isinstance(layer, nn.Linear)]
        for i, cell in twin.cells.items():
            skipped = how.skip_linear and bool(linear) and i == linear[-1]
            cell.adaptive, cell.every = how.method == "apc" and not skipped, how.every
            cell.training = cell.trained = True
            if not cell.adaptive:
                cell.history, cell.pending = [], None
        twin.verify()
        # In other strides, as channels_last has, and by another method products are rounded otherwise.
        same = other is None and all(subject.raw(i).stride() == twin.raw(i).stride() for i in subject.cells)
        ours, theirs = subject.check_eval(seed), twin.check_eval(seed)
        assert not same or all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        if other is None:
            subject.net.train()
            for cell in subject.cells.values():
                cell.training = True
            inputs = subject.inputs(seed)
            for each in (subject, twin):
                each.reference(inputs)
            ours, theirs = subject.net(inputs), twin.net(inputs)
            assert not same or all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
            subject.settle()
            twin.settle()
            for i, cell in subject.cells.items():
                other_cell = twin.cells[i]
                assert not same or torch.equal(cell.u, other_cell.u)
                assert not same or torch.equal(cell.v, other_cell.v)
                assert not same or (cell.history, cell.pending) == (other_cell.history, other_cell.pending)
                assert cell.forwards == other_cell.forwards
        self.add(twin, which + 1)

    @rule(which=st.integers(0, 2), seed=SEEDS)
    def exchange(self, which: int, seed: int) -> None:
        """Into the trainer's form and back: all but the count of forwards."""
        subject = self.pick(which)
        weights, preconditioner = pctool.from_plugin(subject.net.state_dict())
        assert weights.keys() == Net(subject.kinds, [torch.float32] * len(subject.kinds)).state_dict().keys()
        net = subject.fresh(subject.how)
        net.load_state_dict(pctool.to_plugin(weights, preconditioner), strict=True)
        twin = subject.twin(net)
        for cell in twin.cells.values():
            cell.forwards, cell.training, cell.trained = 0, True, True
        twin.verify()
        subject.check_eval(seed)
        twin.check_eval(seed)
        self.add(twin, which + 1)

    @rule(which=st.integers(0, 2), dtype=DTYPES)
    def to_dtype(self, which: int, dtype: torch.dtype) -> None:
        subject = self.pick(which)
        subject.optimizer.zero_grad()
        subject.net.to(dtype)
        for cell in subject.cells.values():
            cell.W, cell.u, cell.v = cell.W.to(dtype), cell.u.to(dtype), cell.v.to(dtype)

    @rule(which=st.integers(0, 2), channels_last=st.booleans())
    def memory_format(self, which: int, channels_last: bool) -> None:
        """Of the layers that have kernels of two dimensions."""
        subject = self.pick(which)
        subject.optimizer.zero_grad()
        for layer in subject.net.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    @rule(which=st.integers(0, 2), index=st.integers(0, 2), seed=SEEDS, kappa=st.sampled_from([1.0, 3.0, 9.0, 1e3]))
    def assign_weight(self, which: int, index: int, seed: int, kappa: float) -> None:
        """`layer.weight = W` sets the raw weight, of a matrix with a chosen condition number."""
        subject = self.pick(which)
        i = index % len(subject.kinds)
        cell = subject.cell(i)
        moved = cell.W.movedim(cell.dim, 0)
        generator = torch.Generator().manual_seed(seed)
        M = torch.randn(moved.flatten(1).shape, generator=generator, dtype=torch.float64)
        U, s, V = torch.linalg.svd(M, full_matrices=False)
        s = torch.logspace(0, -math.log10(kappa), len(s), dtype=torch.float64)
        W = ((U * s) @ V).reshape(moved.shape).movedim(0, cell.dim).to(cell.W.dtype)
        subject.net.layers[i].weight = W
        cell.W = bits(W)
        self.mode(which, i, True)  # u and v are of another matrix, which a polynomial takes ill: iterate them first
        self.forward(which, seed, "", 2)

    @rule(which=st.integers(0, 2), index=st.integers(0, 2), trained=st.booleans())
    def freeze(self, which: int, index: int, trained: bool) -> None:
        subject = self.pick(which)
        i = index % len(subject.kinds)
        subject.raw(i).requires_grad_(trained)
        subject.cell(i).trained = trained

    @rule(which=st.integers(0, 2), index=st.none() | st.integers(0, 2), training=st.booleans())
    def mode(self, which: int, index: int | None, training: bool) -> None:
        """train() or eval() of the model or of one layer."""
        subject = self.pick(which)
        chosen = range(len(subject.kinds)) if index is None else [index % len(subject.kinds)]
        (subject.net if index is None else subject.net.layers[chosen[0]]).train(training)
        for i in chosen:
            subject.cell(i).training = training

    @rule(which=st.integers(0, 2))
    def update_strengths(self, which: int) -> None:
        strengthen(self.pick(which))

    @rule(which=st.integers(0, 2))
    def singular_values(self, which: int) -> None:
        """Those of the weights that eval() applies."""
        subject = self.pick(which)
        found = pctool.singular_values(subject.net)
        modes = [cell.training for cell in subject.cells.values()]
        for cell in subject.cells.values():
            cell.training = False
        for i, values in enumerate(found.values()):
            each = subject.cell(i).evaluate()
            matrix = each.value().detach().movedim(each.dim, 0).flatten(1).numpy()
            expected = np.linalg.svd(matrix, compute_uv=False)
            assert values.dtype == np.float64
            subject.close(i, torch.from_numpy(values), torch.from_numpy(expected), each.amplification()[1])
        for cell, mode in zip(subject.cells.values(), modes, strict=True):
            cell.training = mode

    @rule(which=st.integers(0, 2), seed=SEEDS, how=SETTINGS, plain_step=st.booleans())
    def renew(self, which: int, seed: int, how: Settings, plain_step: bool) -> None:
        """The effective weights baked in, in the same parameters; then `precondition_` with other settings."""
        subject = self.pick(which)
        inputs, expected, net = subject.inputs(seed), subject.check_eval(seed), subject.net
        raws = {i: subject.raw(i) for i in range(len(subject.kinds))}
        modes = [layer.training for layer in net.layers]
        net.eval()
        effective = [bits(layer.weight) for layer in net.layers]
        for layer, mode in zip(net.layers, modes, strict=True):
            layer.train(mode)
        subject.optimizer.zero_grad()
        pctool.remove_precondition_(net)
        assert net.state_dict().keys() == Net(subject.kinds, [torch.float32] * len(subject.kinds)).state_dict().keys()
        for i, layer in enumerate(net.layers):
            assert layer.weight is raws[i]
            assert torch.equal(layer.weight, effective[i])
        for i, (ours, theirs) in enumerate(zip(net(inputs), expected, strict=True)):  # other strides, other rounding
            scale = float(effective[i].double().norm() * inputs[i].double().norm() + theirs.detach().double().norm())
            subject.close(i, ours, theirs.detach().double(), scale)
        for other in self.subjects:
            if other is not subject:  # a copy shares its layers' classes, until something is done to it
                other.check_eval(seed)
        if plain_step and any(raw.requires_grad for raw in raws.values()):
            loss_of(net(inputs), seed).backward()
            subject.optimizer.step()
            subject.optimizer.zero_grad()
        how.apply(net)
        renewed = Subject(net, subject.kinds, how)
        renewed.optimizer = subject.optimizer
        self.subjects[self.subjects.index(subject)] = renewed

    @rule(which=st.integers(0, 2), seed=SEEDS, n=st.integers(1, 3))
    def average(self, which: int, seed: int, n: int) -> None:
        """An `AveragedModel` applies the model's polynomials, u and v to the mean of its weights, in eval()."""
        subject = self.pick(which)
        subject.optimizer.zero_grad()
        mean = AveragedModel(subject.net)
        wanted: dict[int, Tensor] = {}
        for k in range(n):
            self.step(which, seed + k, 1, "", "update_strengths_" if k else "", True)
            mean.update_parameters(subject.net)
            for i, cell in subject.cells.items():
                last = wanted.get(i, cell.W.double())
                wanted[i] = last + (cell.W.double() - last) / (k + 1)
        module = mean.module
        twin = subject.twin(module)
        for i, cell in twin.cells.items():
            twin.close(i, twin.raw(i), wanted[i], float(wanted[i].norm()))
            cell.W = bits(twin.raw(i))
        expected = twin.check_eval(seed)
        other = subject.fresh(subject.how)
        other.load_state_dict(module.state_dict(), strict=True)
        for i, (ours, theirs) in enumerate(zip(other.eval()(twin.inputs(seed)), expected, strict=True)):
            size = float(other.layers[i].weight.detach().double().norm() * twin.inputs(seed)[i].double().norm())
            twin.close(i, ours, theirs.detach().double(), size + float(theirs.detach().double().norm()))

    @rule(which=st.integers(0, 2), seed=SEEDS, scale=st.sampled_from([0.5, 2.0, -1.0]), buffers=st.booleans())
    def functional(self, which: int, seed: int, scale: float, buffers: bool) -> None:
        """`functional_call` with other raw weights: those are evaluated and get the gradient, u and v move on."""
        subject = self.pick(which)
        others, kept = dict[str, Tensor](), dict[int, Tensor]()
        for i, cell in subject.cells.items():
            generator = torch.Generator().manual_seed(seed + i)
            noise = torch.randn(cell.W.shape, generator=generator, dtype=torch.float64)
            noise *= float(cell.W.double().std(correction=0))
            W = (scale * (cell.W.double() + 0.3 * noise)).to(cell.W.dtype)
            others[f"layers.{i}.parametrizations.weight.original"] = W.requires_grad_()
            kept[i], cell.W = cell.W, bits(W)
        state = dict[str, Tensor]()
        tied = len(subject.cells) < len(subject.kinds)  # torch leaves a shared module's buffers exchanged
        # Under APC the strength would move on in the module, its coefficients in the buffer that was given.
        buffers = buffers and not tied and not any(cell.adaptive for cell in subject.cells.values())
        if buffers:
            state = {name: bits(x) for name, x in subject.net.named_buffers()}
        before = {i: (cell.u, cell.v) for i, cell in subject.cells.items()}
        inputs = subject.inputs(seed)
        expected, evaluations, values = subject.reference(inputs)
        outputs = functional_call(subject.net, {**others, **state}, (inputs,))
        theirs = loss_of(expected, seed)
        gradients = torch.autograd.grad(theirs, values, retain_graph=True)
        theirs.backward()
        loss_of(outputs, seed).backward()
        for i, cell in subject.cells.items():
            members = [k for k in range(len(evaluations)) if subject.owner[k] == i]
            want = sum(evaluations[k].W.grad for k in members)
            size = sum(
                evaluations[k].amplification()[2] * float(gradients[k].norm() + inputs[k].double().norm())
                for k in members
            )
            ours = others[f"layers.{i}.parametrizations.weight.original"].grad
            assert ours is not None
            subject.close(i, ours, want, size * cell.growth**0.5)
            if buffers and cell.training:
                cell.u, cell.v, cell.growth, cell.moved = (
                    *before[i],
                    1.0,
                    False,
                )  # the buffers that were given have moved on
        if not buffers:
            subject.settle()
        else:
            for i, cell in subject.cells.items():
                subject._take_measurements(cell, subject.own(i))
        for i, cell in subject.cells.items():
            cell.W = kept[i]
        subject.net.zero_grad()

    @rule(which=st.integers(0, 2), seed=SEEDS)
    def transform(self, which: int, seed: int) -> None:
        """`torch.func.grad` in eval()."""
        subject = self.pick(which)
        if any(cell.W.dtype in HALVES for cell in subject.cells.values()):
            return
        modes = [(module, module.training) for module in subject.net.modules()]
        subject.net.eval()
        theirs = subject.twin(subject.net)
        for cell in theirs.cells.values():
            cell.training = False
        inputs = subject.inputs(seed)
        expected, evaluations, values = theirs.reference(inputs)
        loss = loss_of(expected, seed)
        gradients = torch.autograd.grad(loss, values, retain_graph=True)
        loss.backward()
        raws = {f"layers.{i}.parametrizations.weight.original": subject.raw(i).detach() for i in subject.cells}
        found = torch.func.grad(lambda p: loss_of(functional_call(subject.net, p, (inputs,)), seed))(raws)
        for i, ours in zip(subject.cells, found.values(), strict=True):
            members = [k for k in range(len(evaluations)) if subject.owner[k] == i]
            want = sum(evaluations[k].W.grad for k in members)
            size = sum(evaluations[k].amplification()[2] * float(gradients[k].norm()) for k in members)
            subject.close(i, ours, want, size)
        for module, mode in modes:
            module.training = mode


PlugIn.TestCase.settings = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    stateful_step_count=12,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # shrinking takes minutes: add Phase.shrink to look into a failure
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestPlugIn = PlugIn.TestCase
