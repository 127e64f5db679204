"""The shipped presets: each runs, says what it is, and holds what was published."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import torch

from pctool.core.layers.preconditioner import Method
from pctool.core.models import DIM_Z, build_discriminator, build_generator
from pctool.training import recipes
from pctool.training.config import resolve

ROOT = Path(__file__).parent.parent.parent
NAMES = list(recipes.headers(recipes.presets_folder()))
# FID by row: the paper's Tables 1 and 2.
FIDS = {
    "cifar10-resnet": {"sn": 77.82, "fpc3": 20.09, "fpc7": 19.31, "apc": 19.53},
    "stl10-resnet": {"sn": 147.90, "fpc3": 33.99, "fpc7": 34.28, "apc": 34.08},
    "lsun-bedroom-128": {"sn": 53.48, "svd": 50.92, "fpc3": 51.05, "apc": 45.32},
    "lsun-bedroom-256": {"sn": 81.09, "svd": 36.89, "fpc3": 35.61, "apc": 31.17},
    "lsun-living-room-256": {"sn": 193.75, "svd": 32.79, "fpc3": 28.20, "apc": 28.29},
    "lsun-tower-256": {"sn": 33.10, "svd": 35.05, "fpc3": 30.81, "apc": 29.58},
}
ROWS = [
    (table, method) for table, rows in FIDS.items() for method in rows if method in (*get_args(Method), "fpc3", "fpc7")
]
# The first author's recipes: betas, steps, first step of the decay, loss, widths of G and D.
AUTHORS = {
    "cifar10-resnet": (0.5, 0.999, 200_000, 100_000, "hinge", 256, 128),
    "stl10-resnet": (0.5, 0.999, 200_000, 150_000, "hinge", 64, 64),
    "lsun-bedroom-128": (0.5, 0.999, 200_000, 50_000, "log", 512, 512),
    "lsun-bedroom-256": (0.5, 0.999, 200_000, 50_000, "log", 1024, 1024),
    "lsun-living-room-256": (0.5, 0.999, 200_000, 50_000, "log", 1024, 1024),
    "lsun-tower-256": (0.5, 0.999, 200_000, 50_000, "log", 1024, 1024),
}


def header(name: str) -> list[str]:
    """The comment at the top of a preset, a line each."""
    lines = (recipes.presets_folder() / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("#")]


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_resolves_and_its_networks_fit(name):
    """Every setting is one there is, and on the meta device D takes the images that G makes."""
    config = resolve({}, recipes.read_preset(name))
    sizes = (config.arch, config.resolution, config.channels)
    with torch.device("meta"):
        images = build_generator(*sizes, config.width_g, config.variant)(torch.randn(2, DIM_Z))
        logits = build_discriminator(*sizes, config.width_d, config.variant)(images)
    assert images.shape == (2, config.channels, config.resolution, config.resolution)
    assert logits.shape == (2,)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_says_what_it_is(name):
    """The header has a title, the command that runs it, and (demo excepted) the numbers to expect."""
    lines = header(name)
    assert f"Command: pctool train --preset {name}" in lines
    assert name == "demo" or any(line.startswith("Expected") for line in lines)


@pytest.mark.parametrize(("table", "method"), ROWS)
def test_every_row_of_the_papers_tables_has_its_preset(table, method):
    """The row's FID and kappa are in the header; the settings are the authors', and those of the plain command."""
    name = f"{table}-{method}"
    text = " ".join(header(name))
    assert f"FID {FIDS[table][method]:.2f}; kappa of D's effective weights: max" in text
    assert f"Table {2 if table.startswith('lsun') else 1}" in text
    config = resolve({}, recipes.read_preset(name))
    beta1, beta2, steps, decay_start, loss, width_g, width_d = AUTHORS[table]
    assert (config.beta1, config.beta2, config.steps, config.decay_start()) == (beta1, beta2, steps, decay_start)
    assert (config.loss, config.width_g, config.width_d) == (loss, width_g, width_d)
    assert (config.lr_g, config.lr_d, config.batch_size, config.batch_size_g) == (2e-4, 2e-4, 64, 64)
    assert (config.d_iters, config.variant) == (1, "authors")
    flags = {"dataset": config.dataset, "resolution": config.resolution, "method": config.method, "d_iters": 1}
    assert resolve({**flags, "degree": config.degree}).identity() == config.identity()


def test_the_presets_are_those_of_the_tool(monkeypatch):
    """tools/make_presets.py gives exactly the files that are shipped, demo.toml beside them."""
    spec = importlib.util.spec_from_file_location("make_presets", ROOT / "tools" / "make_presets.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_presets", tool)  # where its dataclass looks for its module
    spec.loader.exec_module(tool)
    made = {preset.name: preset.text() for preset in tool.presets()}
    assert {*made, "demo"} == set(NAMES)
    for name, text in made.items():
        assert (recipes.presets_folder() / f"{name}.toml").read_text(encoding="utf-8") == text
        assert max(map(len, text.splitlines())) <= 130


def test_the_paper_s_plain_commands():
    """`--dataset stl10` and `--dataset lsun-bedroom` alone are the paper's (1,1) experiments."""
    stl10 = resolve({"dataset": "stl10", "method": "apc", "d_iters": 1})
    assert stl10.identity() == resolve({}, recipes.read_preset("stl10-resnet-apc")).identity()
    bedroom = resolve({"dataset": "lsun-bedroom"})
    assert bedroom.identity() == resolve({}, recipes.read_preset("lsun-bedroom-128-apc")).identity()


@pytest.mark.parametrize(
    ("letter", "expected"),
    [  # SN-GAN, Table 1 of its paper: alpha, beta1, beta2, n_dis
        ("a", (1e-4, 0.5, 0.9, 5)),
        ("b", (1e-4, 0.5, 0.999, 1)),
        ("c", (2e-4, 0.5, 0.999, 1)),
        ("d", (1e-3, 0.5, 0.9, 5)),
        ("e", (1e-3, 0.5, 0.999, 5)),
        ("f", (1e-3, 0.9, 0.999, 5)),
    ],
)
def test_sngans_settings(letter, expected):
    """Settings A to F have SN-GAN's learning rate, betas and updates, with 100k steps of the log loss."""
    for dataset in ("cifar10", "stl10"):
        config = resolve({}, tomllib.loads((ROOT / f"presets/{dataset}-cnn-sngan-{letter}.toml").read_text()))
        assert (config.lr_g, config.beta1, config.beta2, config.d_iters) == expected
        assert config.lr_d == config.lr_g
        assert (config.steps, config.loss, config.variant, config.decay_from) == (100_000, "log", "sngan", None)


def test_sngans_residual_experiment():
    """SN-GAN's ResNet: (5,1), 50k steps that decay from the first, D batch 64, G batch 128."""
    config = resolve({}, recipes.read_preset("cifar10-resnet-sngan"))
    assert (config.d_iters, config.beta1, config.beta2, config.lr_d) == (5, 0.0, 0.9, 2e-4)
    assert (config.steps, config.decay_start()) == (50_000, 0)
    assert (config.batch_size, config.batch_size_g, config.width_g, config.width_d) == (64, 128, 256, 128)
