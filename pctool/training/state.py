"""Everything that changes while a run trains, and its way into a checkpoint and back.

What is random at a step is a function of (seed, purpose, step), drawn from a generator seeded for it; no
generator's state has to be kept, and a resumed run draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import copy
import json
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pctool.core.export import MODEL_KEYS
from pctool.core.layers.preconditioner import Preconditioner
from pctool.core.models import DIM_Z, build_discriminator, build_generator
from pctool.core.seeds import mix
from pctool.core.snapshot import snapshot
from pctool.data.datasets import DATASETS
from pctool.errors import InputError, NonFiniteError
from pctool.training import ema
from pctool.training.config import TrainConfig
from pctool.training.global_batch_norm import with_global_batch_norm
from pctool.training.ranks import Ranks

# The settings that networks are made of.


@dataclass(frozen=True)
class Draws:
    """What is new to a step: z of each update of G and of D, D's real images, G's weight in its average, a scalar."""

    z_g: list[Tensor]
    z_d: list[Tensor]
    real: list[Tensor]
    ema_weight: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, in one order."""
        return [*self.z_g, *self.z_d, *self.real, self.ema_weight]


class TrainingState:
    """G, D, G_ema, both optimizers, D's preconditioner, the step reached and the seconds spent."""

    def __init__(self, config: TrainConfig, ranks: Ranks = Ranks()) -> None:  # noqa: B008  # frozen
        self.config, self.ranks = config, ranks
        self.device = torch.device(config.device)
        torch.manual_seed(mix(config.seed, "weights"))
        sizes = (config.arch, config.resolution, config.channels)
        self.G = self._placed(build_generator(*sizes, config.width_g, config.variant))
        self.D = self._placed(build_discriminator(*sizes, config.width_d, config.variant))
        if ranks.size > 1:
            with_global_batch_norm(self.G)
        self.G_ema = copy.deepcopy(self.G).eval().requires_grad_(False)
        self.preconditioner = Preconditioner(
            self.D,
            config.method,
            polynomial=config.polynomial(),
            ladder=config.apc_ladder(),
            history=config.apc_history,
            n_power_iterations=config.n_power_iterations,
            skip_linear=config.skip_linear,
            precision=config.layer_precision,
            images=(2 * config.batch_size // ranks.size, config.channels, config.resolution, config.resolution),
            generator=torch.Generator().manual_seed(mix(config.seed, "power-iteration")),
        )
        self.optim_g, self.optim_d = self._adam(self.G, config.lr_g), self._adam(self.D, config.lr_d)
        aside = self.device.type == "cuda" and config.method != "svd"  # whose penalty would wait for it
        self.side_stream = torch.cuda.Stream() if aside else None
        self.step = 0
        self.seconds = 0.0
        self.logged_strengths: dict[str, int] = {}

    def _placed(self, network: nn.Module) -> nn.Module:
        # channels_last: 1.4 times faster convolutions on CPUs, and what GPUs' matrix units want.
        return network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _adam(self, network: nn.Module, rate: float) -> torch.optim.Adam:
        # The rate is a tensor, so that a recorded step sees it change; a fused step can be skipped on the device.
        lr, betas = torch.tensor(rate, device=self.device), (self.config.beta1, self.config.beta2)
        cuda = self.device.type == "cuda"
        return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=True, capturable=cuda)

    def draw(self, step: int, reals: Iterator[Tensor]) -> Draws:
        """What is random at a step, with the next batches as its real images."""
        config, share = self.config, self.ranks.share
        z_g = [share(self.latent(config.batch_size_g, "z-g", step, i)) for i in range(config.g_iters)]
        z_d = [share(self.latent(config.batch_size, "z-d", step, i)) for i in range(config.d_iters)]
        real = [self.dequantise(next(reals), "dequantise", step, i) for i in range(config.d_iters)]
        weight = torch.full((), 1 - ema.ramped_decay(config.ema_decay, step), device=self.device)
        return Draws(z_g, z_d, real, weight)

    def latent(self, count: int, *purpose: str | int) -> Tensor:
        """z [count, 128] ~ N(0, I), float32, a function of (seed, purpose)."""
        return torch.randn(count, DIM_Z, generator=self._generator(*purpose), device=self.device)

    def dequantise(self, pixels: Tensor, *purpose: str | int) -> Tensor:
        """uint8 [n, C, H, W] -> float32 in [-1, 1]: x / 128 - 1 + U(0, 1/128), as SN-GAN's public code."""
        shape = (self.ranks.size * len(pixels), *pixels.shape[1:])  # the global batch's, of which this rank's share
        noise = self.ranks.share(torch.rand(shape, generator=self._generator(*purpose), device=self.device))
        return ((pixels + noise) / 128 - 1).contiguous(memory_format=torch.channels_last)

    def _generator(self, *purpose: str | int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(mix(self.config.seed, *purpose))

    def learning_rates(self, step: int) -> tuple[float, float]:
        """G's and D's at a step: constant to `decay_start`, then linearly to 0 at `steps`."""
        start, total = self.config.decay_start(), self.config.steps
        factor = 1.0 if step < start else (total - step) / (total - start)
        return self.config.lr_g * factor, self.config.lr_d * factor

    def set_learning_rates(self) -> None:
        """Tells the optimizers this step's."""
        for optimizer, rate in zip((self.optim_g, self.optim_d), self.learning_rates(self.step), strict=True):
            optimizer.param_groups[0]["lr"].fill_(rate)

    def checkpoint(self) -> dict[str, Any]:
        """What the next step depends on, as plain values and copies of tensors in main memory.

        Raises NonFiniteError rather than save a NaN.
        """
        content = {
            "step": self.step,
            "seconds": self.seconds,
            "config": self.config.model_dump_json(),
            "G": self.G.state_dict(),
            "D": self.D.state_dict(),
            "G_ema": self.G_ema.state_dict(),
            "optim_g": self.optim_g.state_dict(),
            "optim_d": self.optim_d.state_dict(),
            "preconditioner": self.preconditioner.state(),
            "logged_strengths": self.logged_strengths,
        }
        values = {name: value for name, value in _tensors(content) if value.is_floating_point() and value.numel()}
        largest = torch._foreach_norm(list(values.values()), math.inf)  # of each tensor: a GPU is waited for once
        finite = torch.isfinite(torch.stack([number.to(self.device, torch.float32) for number in largest])).tolist()
        if not all(finite):
            name = list(values)[finite.index(False)]
            raise NonFiniteError(f"step {self.step}: {name} is not finite; nothing was saved")
        copied: dict[str, Any] = snapshot(content)
        return copied

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Takes over `checkpoint()` of a run with networks of these shapes; InputError for any other."""
        try:
            self.G.load_state_dict(checkpoint["G"])
            self.D.load_state_dict(checkpoint["D"])
            self.G_ema.load_state_dict(checkpoint["G_ema"])
            for optimizer, name in ((self.optim_g, "optim_g"), (self.optim_d, "optim_d")):
                _load_moments(optimizer, checkpoint[name]["state"], begun=checkpoint["step"] > 0)
            self.preconditioner.load_state(checkpoint["preconditioner"])
            self.step, self.seconds = checkpoint["step"], float(checkpoint["seconds"])
            if not 0 <= self.seconds < math.inf:
                raise ValueError(f"{self.seconds} seconds")
            self.logged_strengths = dict(checkpoint["logged_strengths"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
            lines = str(error).splitlines()[:2]  # torch's first names the network, its second the tensor
            reason = textwrap.shorten(" ".join(lines), 200, placeholder=" ...").rstrip(".")
            raise InputError(
                f"the checkpoint does not fit this configuration ({reason}); give the settings that it was trained "
                "with, or another checkpoint"
            ) from None

    def resume(self, checkpoint: dict[str, Any]) -> None:
        """Takes over `checkpoint()` of this run; InputError where it says that it is another run's."""
        try:
            earlier = TrainConfig.model_validate_json(checkpoint["config"])
        except (KeyError, ValueError):
            raise InputError("the checkpoint does not say what run it is of; use the one before it") from None
        before, now = earlier.identity(), self.config.identity()
        aside = {"steps"}
        if not {earlier.dataset, self.config.dataset} & set(DATASETS):
            aside.add("dataset")  # folders, which may have moved since: the run folder goes by name and content
        changed = [f"{key}: {before[key]} -> {now[key]}" for key in now if before[key] != now[key] and key not in aside]
        if changed:
            raise InputError(f"the checkpoint is of another run ({'; '.join(changed)}); put this run's own there")
        if self.preconditioner.layers and checkpoint.get("preconditioner") == {}:  # a fork may take one of `none`
            raise InputError("the checkpoint lacks the state of D's preconditioner; use the one before it")
        self.load(checkpoint)

    def fork(self, checkpoint: dict[str, Any]) -> None:
        """Takes over another run's checkpoint: networks, optimisers and step; this run's own method and settings.

        InputError for networks of another shape.
        """
        before, now = json.loads(checkpoint.get("config", "{}")), self.config.model_dump(mode="json")
        try:
            self.load(checkpoint)
        except InputError:
            other = [
                f"{key}: {before[key]} -> {now[key]}" for key in MODEL_KEYS if before.get(key, now[key]) != now[key]
            ]
            if not other:
                raise
            said = f"the checkpoint is of other networks ({'; '.join(other)}); give its settings, or another checkpoint"
            raise InputError(said) from None
        self.logged_strengths = {}
        if any(before.get(key) != now[key] for key in ("method", "taus", "ladder", "apc_history")):
            self.preconditioner.update_strengths()


def _load_moments(optimizer: torch.optim.Adam, moments: dict[int, dict[str, Tensor]], *, begun: bool) -> None:
    """Takes over Adam's moments; rates and betas stay those of the configuration.

    Raises ValueError where a parameter's are missing or of another shape, which Adam itself takes for a fresh start,
    or breaks on at its next step. Before the first step of a run there are none at all.
    """
    for i, parameter in enumerate(optimizer.param_groups[0]["params"]) if moments or begun else ():
        shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
        if {name: value.shape for name, value in moments.get(i, {}).items()} != shapes:
            raise ValueError(f"Adam's moments of parameter {i} are missing or of another shape")
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor within, by its path."""
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
