"""Writes presets/*.toml, one a published experiment: python tools/make_presets.py. `demo.toml` is written by hand.

The numbers are those of `pctool.report.paper`, the settings of its first author's public code, and SN-GAN's (arXiv
1802.05957).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pctool.report import paper

FOLDER = Path(__file__).parent.parent / "presets"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {  # as in the tables: title, settings
    "sn": ("SN", {"method": "sn"}),
    "svd": ("SVD with D-optimal regularisation", {"method": "svd"}),
    "fpc3": ("FPC, degree 3", {"method": "fpc", "degree": 3}),
    "fpc7": ("FPC, degree 7", {"method": "fpc", "degree": 7}),
    "apc": ("APC", {"method": "apc"}),
}
ONE_TO_ONE = {"d_iters": 1, "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999}
FIVE_TO_ONE = {"d_iters": 5, "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.0, "beta2": 0.9}
CIFAR10 = {"dataset": "cifar10", "arch": "resnet", "width_g": 256, "width_d": 128, "loss": "hinge", "batch_size": 64}
STL10 = {
    **{"dataset": "stl10", "resolution": 48, "arch": "resnet", "width_g": 64, "width_d": 64},
    **{"loss": "hinge", "batch_size": 64},
}
AUTHORS = "The settings are those of the authors' public code."

# title and settings by name
TABLE_1: dict[str, tuple[str, dict[str, Any]]] = {
    "cifar10-resnet": ("CIFAR-10, ResNet, (1,1)", {**CIFAR10, **ONE_TO_ONE, "steps": 200_000, "decay_from": 0.5}),
    "stl10-resnet": ("STL-10, ResNet, (1,1)", {**STL10, **ONE_TO_ONE, "steps": 200_000, "decay_from": 0.75}),
}


def _lsun(dataset: str, resolution: int, width: int) -> dict[str, Any]:
    return {
        **{"dataset": dataset, "resolution": resolution, "arch": "dcgan", "width_g": width, "width_d": width},
        **{"loss": "log", "batch_size": 64, **ONE_TO_ONE, "steps": 200_000, "decay_from": 0.25},
    }


TABLE_2: dict[str, tuple[str, dict[str, Any]]] = {
    "lsun-bedroom-128": ("LSUN bedroom, 128 px, (1,1)", _lsun("lsun-bedroom", 128, 512)),
    "lsun-bedroom-256": ("LSUN bedroom, 256 px, (1,1)", _lsun("lsun-bedroom", 256, 1024)),
    "lsun-living-room-256": ("LSUN living room, 256 px, (1,1)", _lsun("lsun-living-room", 256, 1024)),
    "lsun-tower-256": ("LSUN tower, 256 px, (1,1)", _lsun("lsun-tower", 256, 1024)),
}
# SN-GAN's settings of its plain networks, all with 100,000 steps: learning rate, betas, d_iters
CNN_SETTINGS = {
    "a": (1e-4, 0.5, 0.9, 5),
    "b": (1e-4, 0.5, 0.999, 1),
    "c": (2e-4, 0.5, 0.999, 1),
    "d": (1e-3, 0.5, 0.9, 5),
    "e": (1e-3, 0.5, 0.999, 5),
    "f": (1e-3, 0.9, 0.999, 5),
}

CNN_DATA: dict[str, tuple[str, dict[str, Any], str]] = {
    "cifar10": ("CIFAR-10", {"dataset": "cifar10"}, "FID 29.3, Inception score 7.42"),
    "stl10": ("STL-10", {"dataset": "stl10", "resolution": 48}, "FID 53.1, Inception score 8.28"),
}


@dataclass(frozen=True)
class Preset:
    """A file: its name, the sentences of its header, its settings."""

    name: str
    title: str
    expected: str
    source: str
    settings: dict[str, Any]

    def text(self) -> str:
        """The TOML file."""
        header = [self.title, f"Command: pctool train --preset {self.name}", self.expected, self.source]
        return "".join(f"# {line}\n" for line in header) + "".join(
            f"{key} = {json.dumps(value)}\n" for key, value in self.settings.items()
        )


def presets() -> list[Preset]:
    """Every preset but the demo's."""
    tables = [*_table(1, TABLE_1, paper.TABLE_1), *_table(2, TABLE_2, paper.TABLE_2)]
    return [*tables, *_five_to_one(), *_sngan()]


def _table(
    number: int,
    experiments: dict[str, tuple[str, dict[str, Any]]],
    printed: dict[tuple[str, int], dict[str, paper.PaperRow]],
) -> list[Preset]:
    found = []
    for name, (title, settings) in experiments.items():
        for method, row in printed[settings["dataset"], settings.get("resolution", 32)].items():
            expected = (
                f"Expected, of the paper's Table {number}: FID {row.fid:.2f}; kappa of D's effective weights: "
                f"max {row.max_kappa:.2f}, second {row.second_max_kappa:.2f}, mean {row.mean_kappa:.2f}."
            )
            heading = f"{title}, {METHODS[method][0]}: the paper's Table {number}."
            found.append(Preset(f"{name}-{method}", heading, expected, AUTHORS, {**settings, **METHODS[method][1]}))
    return found


def _five_to_one() -> list[Preset]:
    """The "good case" of SN-GAN, whose numbers are in an appendix of the paper that we have not."""
    settings = {**CIFAR10, **FIVE_TO_ONE, "steps": 100_000, "decay_from": 0.5}
    expected = (
        "Expected, as the paper says: with FPC and APC an FID similar to SN's or slightly better (no number here)."
    )
    return [
        Preset(
            f"cifar10-resnet-d5-{method}",
            f"CIFAR-10, ResNet, (5,1), {METHODS[method][0]}: the paper's Section 4, the good case of SN-GAN.",
            expected,
            AUTHORS,
            {**settings, **METHODS[method][1]},
        )
        for method in ("sn", "fpc3", "fpc7", "apc")
    ]


def _sngan() -> list[Preset]:
    """SN-GAN's own experiments, with its variant of the networks."""
    found = []
    source = "The settings are SN-GAN's (arXiv 1802.05957) and its public code's."
    resnet = {
        **FIVE_TO_ONE,
        "batch_size_g": 128,
        "steps": 50_000,
        "decay_from": 0.0,
        "variant": "sngan",
        "method": "sn",
    }
    for name, title, data, fid in (
        ("cifar10", "CIFAR-10", CIFAR10, "FID 21.7, Inception score 8.22"),
        ("stl10", "STL-10", STL10, "FID 40.1, Inception score 9.10"),
    ):
        expected = f"Expected, by SN-GAN's own protocol: {fid}; it states no kappa."
        heading = f"{title}, ResNet, (5,1), SN: SN-GAN's experiment."
        found.append(Preset(f"{name}-resnet-sngan", heading, expected, source, {**data, **resnet}))
    for letter, (rate, beta1, beta2, d_iters) in CNN_SETTINGS.items():
        for name, (title, data, fid) in CNN_DATA.items():
            which = "this one" if (name, letter) == ("stl10", "b") else "the best of its settings A to F"
            found.append(
                Preset(
                    f"{name}-cnn-sngan-{letter}",
                    f"{title}, CNN, ({d_iters},1), SN: SN-GAN's setting {letter.upper()}.",
                    f"Expected, by SN-GAN's own protocol for {which}: {fid}; it states no kappa.",
                    source,
                    {
                        **data,
                        **{"arch": "cnn", "variant": "sngan", "width_g": 512, "width_d": 512, "loss": "log"},
                        **{"batch_size": 64, "d_iters": d_iters, "lr_g": rate, "lr_d": rate},
                        **{"beta1": beta1, "beta2": beta2, "steps": 100_000, "method": "sn"},
                    },
                )
            )
    return found


def main() -> None:
    """Writes them all."""
    for preset in presets():
        (FOLDER / f"{preset.name}.toml").write_text(preset.text(), encoding="utf-8")
    print(f"{len(presets())} presets in {FOLDER}")


if __name__ == "__main__":
    main()
