"""The same on every device: the kernel's precisions, and training. `pytest -m gpu -n 0 -W default` runs
what needs a GPU (there torch warns of its own ways).
"""

import functools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from pctool.core import linalg
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.models import DIM_Z, build_discriminator, build_generator
from pctool.core.models.resampling import convolve_and_halve, double_and_convolve
from pctool.core.polynomial import PUBLISHED
from pctool.core.power_iteration import initial_vectors, power_iteration
from pctool.core.products import available
from pctool.core.snapshot import snapshot
from pctool.errors import NonFiniteError
from pctool.evaluation.features import Extractor
from pctool.training import session
from pctool.training.config import resolve
from pctool.training.state import TrainingState
from tests.training.test_session import Watcher, run, stats

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
    u, v = power_iteration(W, *initial_vectors(W), 50)
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
@pytest.mark.parametrize(
    ("resizer", "side", "size"),
    [("none", 12, 12), ("clean", 12, 30), ("clean", 40, 30), ("legacy", 12, 30), ("clean", 513, 30)],
)
def test_an_extractor_on_a_gpu_sees_the_images_of_the_cpu(resizer, side, size):
    """What reaches the network, from 0 to 255: grey images, enlarged, reduced, and too large for the GPU."""
    images = np.random.default_rng(0).integers(0, 256, (5, 1, side, side), np.uint8)
    seen = [
        Extractor("pixels", "", 3, size, resizer, False, torch.device(device), lambda x: (x.flatten(1), None))(images)[
            0
        ]
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*seen, rtol=0, atol=1e-4)


@pytest.mark.gpu
def test_a_snapshot_is_whole_before_anything_changes():
    """Copies equal their tensors in value and layout though these are overwritten at once, behind work that lasts."""
    generator = torch.Generator().manual_seed(0)
    kept = [torch.randn(shape, generator=generator) for shape in [(), (3,), (64, 32, 3, 3), (2048, 2049)]]
    kept[2] = kept[2].contiguous(memory_format=torch.channels_last)
    tensors = [value.cuda() for value in kept]
    slow = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        slow = slow @ slow
    copies = snapshot({"a": tensors})["a"]
    for tensor in tensors:
        tensor.zero_()
    for copy, value in zip(copies, kept, strict=True):
        assert torch.equal(copy, value)
        assert copy.stride() == value.stride()


@pytest.mark.gpu
@pytest.mark.parametrize("place", [0, 12345, -1])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_gpus_nan_is_never_saved(tmp_path, place, bad):
    """Wherever it stands in a tensor."""
    state = TrainingState(resolve({"out": tmp_path, "device": "cuda", "width_g": 64, "width_d": 64}))
    weight = state.D.get_parameter("blocks.1.conv2.weight").data
    weight.permute(0, 2, 3, 1).view(-1)[place] = bad
    with pytest.raises(NonFiniteError, match=r"D\.blocks\.1\.conv2\.weight is not finite; nothing was saved"):
        state.checkpoint()


@pytest.mark.gpu
@pytest.mark.parametrize("format_", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("operation", [convolve_and_halve, double_and_convolve])
def test_a_change_of_resolution_has_its_gradients_on_a_gpu(operation, format_):
    """Value and gradients of input and weight in float64, against the CPU (PyTorch 2.11 has a padded avg_pool2d whose
    gradient is wrong on GPUs in channels_last)."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=generator) for n in (2, 5))
    found = []
    for device in ("cpu", "cuda"):
        inputs = [
            value.to(device).contiguous(memory_format=format_).requires_grad_() for value in (x, weight[..., :3, :3])
        ]
        y = operation(*inputs, None)
        found.append([value.cpu() for value in (y, *torch.autograd.grad(y.pow(3).sum(), inputs))])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-10)


def gradients(device, arch, resolution, variant):
    """In float64 and channels_last, of a loss through G and, under FPC with layers in two factors, D."""
    torch.manual_seed(0)
    networks = [build(arch, resolution, 3, 16, variant).double() for build in (build_generator, build_discriminator)]
    G, D = (network.to(device=device, memory_format=torch.channels_last) for network in networks)
    images, generator = (4, 3, resolution, resolution), torch.Generator().manual_seed(0)
    pre = Preconditioner(D, "fpc", polynomial=PUBLISHED[7], images=images, generator=generator)
    real, z = (torch.randn(shape, dtype=torch.float64).to(device) for shape in ((2, *images[1:]), (2, DIM_Z)))
    both = torch.cat([real.contiguous(memory_format=torch.channels_last), G(z)])
    functional_call(D, pre.weights(), (both,)).square().sum().backward()
    return {name: p.grad.cpu() for network in (G, D) for name, p in network.named_parameters()}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("arch", "resolution", "variant"),
    [
        ("resnet", 32, "authors"),
        ("resnet", 32, "sngan"),
        ("resnet", 48, "authors"),
        ("cnn", 32, "authors"),
        ("dcgan", 64, "authors"),
    ],
)
def test_gradients_on_a_gpu_are_the_cpus(arch, resolution, variant):
    """Of every parameter of G and D, to rounding in float64: a kernel that is wrong there shows here."""
    here, there = (gradients(device, arch, resolution, variant) for device in ("cpu", "cuda"))
    largest = max(value.abs().max().item() for value in here.values())
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=1e-8, atol=1e-10 * largest, msg=name)


def drawn_on_the_cpu(method):
    """A method of TrainingState that draws as on the CPU, and gives the result where its state is."""

    def drawn(state, given, *purpose):
        on_cpu = SimpleNamespace(device=torch.device("cpu"), ranks=state.ranks, config=state.config)
        on_cpu._generator = functools.partial(TrainingState._generator, on_cpu)
        return method(on_cpu, given.cpu() if isinstance(given, torch.Tensor) else given, *purpose).to(state.device)

    return drawn


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("method", "compiled"), [("sn", False), ("fpc", False), ("apc", False), ("svd", False), ("apc", True)]
)
def test_training_on_a_gpu_follows_the_cpu(tmp_path, monkeypatch, method, compiled):
    """The losses of ten steps in float32 are the CPU's, given its random numbers (each device has its own), to what
    sums in another order make of them."""
    monkeypatch.setattr(TrainingState, "latent", drawn_on_the_cpu(TrainingState.latent))
    monkeypatch.setattr(TrainingState, "dequantise", drawn_on_the_cpu(TrainingState.dequantise))
    for device in ("cpu", "cuda"):
        own = {"compile": compiled and device == "cuda", "device": device, "precision": "fp32", "steps": 10}
        run(tmp_path / device, method=method, **own)
    for there, here in zip(stats(tmp_path / "cuda"), stats(tmp_path / "cpu"), strict=True):
        assert there["loss_d"] == pytest.approx(here["loss_d"], abs=1e-2)
        assert there["loss_g"] == pytest.approx(here["loss_g"], abs=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["none", "sn", "fpc", "apc", "svd"])
@pytest.mark.parametrize(("arch", "steps"), [("cnn", 16), ("resnet", 3)])
def test_a_recorded_step_is_the_step(tmp_path, monkeypatch, method, arch, steps):
    """(2,2) with strengths that change on the way (the cnn's), layers in two factors, and rates that fall: each step,
    recorded and not, has the same losses, to what sums in another order make of them, and the same strengths. So few of
    the resnet, and at its usual rate: on a CPU, rounding its gradients at 1e-4 moves these losses by up to 8e-3, at
    2e-7 that of step 14 by up to 0.4, and with D's rate at 0.01 rounding at 1e-6 the first by 0.08."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    flags = {"steps": steps, "d_iters": 2, "g_iters": 2, "device": "cuda", "arch": arch, "width_d": 64}
    flags |= {"apc_every": 3, "taus": (1.5, 1.6, 1.8, 2.0)} if method == "apc" else {}
    flags |= {"lr_d": 1e-2} if (method, arch) == ("apc", "cnn") else {}
    found = []
    for graphs in (True, False):
        run(tmp_path / f"{graphs}", cuda_graphs=graphs, method=method, **flags)
        found.append(stats(tmp_path / f"{graphs}"))
    for recorded, plain in zip(*found, strict=True):
        assert recorded["loss_d"] == pytest.approx(plain["loss_d"], abs=1e-2)
        assert recorded["loss_g"] == pytest.approx(plain["loss_g"], abs=1e-2)
        assert recorded.get("strengths") == plain.get("strengths")
    changes = sum("strengths" in line for line in found[0])
    assert changes > 1 or (method, arch) != ("apc", "cnn"), "the thresholds were to force a change"


@pytest.mark.gpu
def test_a_recorded_run_continues(tmp_path):
    """Stopped and begun again it goes on where it was: strengths, and losses to what other orders of sums do."""
    flags = {"steps": 12, "device": "cuda", "apc_every": 3, "taus": (1.5, 1.6, 1.8, 2.0)}
    run(tmp_path / "whole", **flags)
    assert not run(tmp_path / "parts", Watcher(7), **flags).finished
    run(tmp_path / "parts", **flags)
    for whole, parts in zip(stats(tmp_path / "whole"), stats(tmp_path / "parts"), strict=True):
        assert parts["loss_d"] == pytest.approx(whole["loss_d"], abs=1e-2)
        assert parts.get("strengths") == whole.get("strengths")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["linear.weight", "blocks.1.conv1.weight"])
def test_a_step_applies_nothing_that_is_not_finite(tmp_path, monkeypatch, name, device):
    """A NaN in D's weights before step 6, recorded or not: the run ends there, naming it, with everything else of D and
    G as it was."""
    states, kept, build = [], {}, session.TrainingState
    monkeypatch.setattr(session, "TrainingState", lambda *a: states.append(build(*a)) or states[-1])

    def parameters():
        return {(net, key): p for net in "GD" for key, p in getattr(states[0], net).named_parameters()}

    class Poison(Watcher):
        def step(self, report):
            if report.step == 6:
                weight = parameters()["D", name].data
                weight[(0,) * weight.dim()] = float("nan")
                kept.update({key: value.clone() for key, value in parameters().items()})

    with pytest.raises(NonFiniteError, match=rf"step 6: the loss of G is nan: D\.{re.escape(name)} is not finite"):
        run(tmp_path / "run", Poison(), steps=10, device=device, method="fpc", spectrum_every=0)
    for key, value in parameters().items():
        assert torch.equal(value.nan_to_num(7.0), kept[key].nan_to_num(7.0)), key
