"""Precedence, recipes and identity of a run's configuration."""

import json
from pathlib import Path

import pytest

from pctool.errors import InputError
from pctool.training import recipes
from pctool.training.config import resolve


def test_nothing_given_is_apc_on_the_builtin_data():
    """`pctool train` without a flag: fashion-mnist, apc, resnet, hinge, (1,1), seed 0, fp32."""
    config = resolve({})
    assert (config.dataset, config.method, config.arch, config.loss) == ("fashion-mnist", "apc", "resnet", "hinge")
    assert (config.d_iters, config.degree, config.seed, config.variant) == (1, 7, 0, "authors")
    assert (config.precision, config.ema_decay, config.taus) == ("fp32", 0.9999, (5, 10, 20, 30))
    assert config.out == Path("runs/fashion-mnist-resnet-apc-d1-s0")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [  # the authors' public code for the ResNet rows, SN-GAN's settings A and B for the CNN
        (
            {"d_iters": 1},
            {"beta1": 0.5, "beta2": 0.999, "steps": 200_000, "lr_d": 2e-4, "width_g": 256, "width_d": 128},
        ),
        ({"d_iters": 5}, {"beta1": 0.0, "beta2": 0.9, "steps": 100_000, "loss": "hinge", "batch_size": 64}),
        ({"arch": "cnn", "d_iters": 1}, {"beta1": 0.5, "beta2": 0.999, "lr_g": 1e-4, "loss": "log", "steps": 100_000}),
        ({"arch": "cnn", "d_iters": 5}, {"beta1": 0.5, "beta2": 0.9, "lr_g": 1e-4, "loss": "log", "decay_from": None}),
    ],
)
def test_cifar10_recipes(flags, expected):
    """What is left open follows (dataset, arch, d_iters)."""
    values = resolve({"dataset": "cifar10", **flags}).model_dump()
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [  # the authors' public code, and what is nearest to it
        ({"dataset": "stl10"}, {"steps": 200_000, "decay_from": 0.75, "loss": "hinge", "beta1": 0.5, "resolution": 48}),
        ({"dataset": "stl10", "d_iters": 5}, {"steps": 100_000, "decay_from": 0.5, "beta1": 0.0, "beta2": 0.9}),
        ({"dataset": "stl10", "arch": "cnn"}, {"steps": 100_000, "loss": "log", "lr_g": 1e-4, "width_g": 512}),
        (
            {"dataset": "lsun-tower"},
            {"arch": "dcgan", "resolution": 256, "width_d": 1024, "loss": "log", "decay_from": 0.25, "lr_g": 2e-4},
        ),
        ({"dataset": "lsun-tower", "resolution": 128}, {"arch": "dcgan", "width_g": 512, "crop": "centre"}),
        ({"dataset": "lsun-bedroom", "arch": "resnet"}, {"resolution": 128, "width_g": 64, "loss": "hinge"}),
        ({"dataset": "lsun-bedroom", "d_iters": 5}, {"beta1": 0.0, "beta2": 0.9, "steps": 200_000}),
    ],
)
def test_recipes_of_the_larger_sets(flags, expected):
    """STL-10 and LSUN alone are the authors' runs; the networks follow the data set and the resolution."""
    values = resolve(flags).model_dump()
    assert {key: values[key] for key in expected} == expected


def test_split_resolution_and_crop_are_resolved():
    """What the data set has by default is written into the configuration, so that the identity is complete."""
    assert (resolve({}).split, resolve({}).crop, resolve({}).resolution) == ("test", None, 32)
    stl10 = resolve({"dataset": "stl10"})
    assert (stl10.split, stl10.crop, stl10.channels) == ("unlabeled", "resize", 3)
    for flags in ({"split": "all"}, {"resolution": 64}):
        other = resolve({"dataset": "stl10", **flags})
        assert other.identity() != stl10.identity()
        assert other.out != stl10.out
    bedroom = resolve({"dataset": "lsun-bedroom"})
    assert resolve({"dataset": "lsun-bedroom", "crop": "centre"}).identity() == bedroom.identity()
    assert resolve({"dataset": "lsun-bedroom", "crop": "resize"}).identity() != bedroom.identity()


def test_where_the_images_are_decoded_is_no_identity():
    """The cache's limit, the workers and the folder that a path lies in may change when a run is continued."""
    plain = resolve({"dataset": "lsun-tower"})
    moved = resolve({"dataset": "lsun-tower", "cache_limit": 0.0, "data_workers": 3})
    assert moved.identity() == plain.identity()
    here, there = (resolve({"dataset": f"{place}/faces.zip", "resolution": 64}) for place in ("a", "/scratch/b"))
    assert here.identity() == there.identity()
    assert here.out == there.out == Path("runs/faces64-resnet-apc-d1-s0")
    assert resolve({"dataset": "a/faces.zip", "resolution": 128}).out == Path("runs/faces128-resnet-apc-d1-s0")


def test_learning_rate_decay_starts_where_the_recipe_says():
    """CIFAR-10 (1,1) decays from step 100,000 of 200,000; a shorter run from the same share; a step stays a step."""
    assert resolve({"dataset": "cifar10"}).decay_start() == 100_000
    assert resolve({"dataset": "cifar10", "steps": 200}).decay_start() == 100
    assert resolve({"dataset": "cifar10", "decay_from": 150.0, "steps": 200}).decay_start() == 150
    assert resolve({"arch": "cnn", "steps": 200}).decay_start() == 200


def test_flag_over_preset_over_recipe():
    """A preset replaces the recipe's value, a flag replaces the preset's."""
    preset = {"d_iters": 5, "lr_g": 0.01, "lr_d": 0.01}
    config = resolve({"lr_g": 0.02}, preset)
    assert (config.lr_g, config.lr_d, config.beta2) == (0.02, 0.01, 0.9)


@pytest.mark.parametrize(("fast", "precision", "steps"), [(True, "bf16", 7), (False, "fp32", 3)])
def test_auto_precision_is_resolved_and_presets_may_depend_on_it(monkeypatch, fast, precision, steps):
    """auto is bf16 where that is fast, else fp32 with the preset's `[without_bf16]` table; flags win over both."""
    monkeypatch.setattr("pctool.training.config.has_fast_bf16", lambda device: fast)
    preset = {"precision": "auto", "steps": 7, "without_bf16": {"steps": 3}}
    config = resolve({}, preset)
    assert (config.precision, config.steps) == (precision, steps)
    assert resolve({"steps": 9}, preset).steps == 9


@pytest.mark.parametrize("out", ["named", None])
def test_auto_precision_is_what_the_run_began_with(tmp_path, monkeypatch, out):
    """A job that is queued again may land on another machine: the folder is the same there, and so is the run."""
    monkeypatch.chdir(tmp_path)
    flags = {"precision": "auto", **({"out": Path(out)} if out else {})}
    preset = {"without_bf16": {"steps": 3}, "steps": 7}
    begun = {}
    for fast in (True, False):
        monkeypatch.setattr("pctool.training.config.has_fast_bf16", lambda device, fast=fast: fast)
        begun[fast] = resolve(flags, preset)
    assert begun[True].out == begun[False].out
    assert begun[True].identity() != begun[False].identity()
    begun[True].out.mkdir(parents=True)
    for config in begun.values():
        (config.out / "config.json").write_text(json.dumps({"config": config.model_dump(mode="json")}))
        for fast in (True, False):
            monkeypatch.setattr("pctool.training.config.has_fast_bf16", lambda device, fast=fast: fast)
            assert resolve(flags, preset).identity() == config.identity()
    exact = begun[True].model_copy(update={"precision": "tf32"})
    (exact.out / "config.json").write_text(json.dumps({"config": exact.model_dump(mode="json")}))
    assert resolve(flags, preset).identity() == exact.identity()


def test_a_circle_of_links_is_a_name(tmp_path):
    """What cannot be resolved is refused where it is read, not where it is named."""
    (tmp_path / "loop").symlink_to("loop")
    assert resolve({"dataset": str(tmp_path / "loop"), "resolution": 32}).identity()["dataset"] == "loop"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset": "cifra10"}, "cifar10"),
        ({"method": "fpc", "degree": 4}, "--degree: 4 is not allowed"),
        ({"steps": 0}, "--steps: 0 is not allowed"),
        ({"lr_g": float("nan")}, "--lr-g: nan"),
        ({"width_d": 4}, "--width-d: 4"),
        ({"batch_size": 2**20 + 1}, "--batch-size: 1048577 is not allowed"),
        ({"n_power_iterations": 1001}, "--n-power-iterations: 1001 is not allowed"),
        ({"taus": (10.0, 5.0, 20.0, 30.0)}, "rise"),
        ({"taus": (5.0, 10.0)}, "^--taus: four rising numbers above 0 are needed, for example 5,10,20,30$"),
        ({"taus": (5.0, -10.0, 20.0, 30.0)}, "^--taus: four rising numbers"),
        ({"method": "acp"}, "^--method: 'acp' is not allowed; allowed: .*; did you mean apc"),
        ({"method": "fpc", "poly": (1.5, -0.5), "degree": 5}, "--poly and --degree contradict"),
        ({"ladder": ((5.0, (1.5, -0.5)),), "taus": (5.0, 10.0, 20.0, 30.0)}, "--ladder and --taus contradict"),
        ({"time_limit": "0"}, "^--time-limit: '0' is not allowed; minutes above 0 are, and 'auto'$"),
        ({"time_limit": "1h"}, "^--time-limit: '1h' is not allowed; minutes above 0 are, and 'auto'$"),
        ({"stop_on_collapse": True, "spectrum_every": 0}, "--stop-on-collapse looks at the recorded spectrum"),
        ({"method": "fpc", "poly": 3}, "^--poly: 3 is not allowed"),
        ({"method": "fpc", "poly": ("x",)}, "^--poly: 'x' is not allowed"),
        ({"batch_sise": 3}, "unknown setting 'batch_sise'.*; did you mean batch_size?"),
        ({"fork": Path("a.pt")}, "--fork starts a new run: name its folder with --out"),
        ({"channels": 3}, "channels follow from the data set"),
        ({"dataset": "cifar10", "resolution": 64}, "cifar10 has no resolution 64: allowed are 32"),
        ({"dataset": "a/faces"}, "add --resolution"),
        ({"dataset": "a/fa\0ces", "resolution": 64}, "unknown data set"),
        ({"dataset": "a/faces", "resolution": 64, "split": "train"}, "--split is for data sets"),
        ({"dataset": "stl10", "split": "val"}, "no split 'val': allowed are unlabeled, train, test, all"),
        ({"dataset": "stl10", "crop": "centre"}, "stl10 has no crop 'centre'"),
        ({"dataset": "stl10", "arch": "dcgan"}, "no networks at 48 px, but at 64, 128, 256; at 48 px .*resnet, cnn$"),
        ({"dataset": "lsun-tower", "variant": "sngan"}, "arch dcgan has one source"),
        ({"dataset": "lsun-tower", "arch": "cnn"}, "arch cnn has no networks at 256 px"),
        ({"cache_limit": -1.0}, "--cache-limit: -1.0"),
        ({"arch": "mlp"}, "--arch: 'mlp'"),
    ],
)
def test_bad_values_get_one_line(flags, message):
    """Each wrong value is one line that names it."""
    with pytest.raises(InputError, match=message) as caught:
        resolve(flags)
    assert "\n" not in str(caught.value)


def test_default_folder_names_what_departs_from_the_recipe():
    """Equal settings share a folder, others get another; steps and operational settings do not count."""
    plain = resolve({}).out
    assert resolve({"steps": 20_000, "log_every": 7}).out == plain
    assert resolve({"lr_g": 2e-4}).out == plain
    assert resolve({"lr_g": 3e-4}).out != plain
    assert resolve({"lr_g": 3e-4}).out != resolve({"lr_g": 4e-4}).out
    assert resolve({"method": "fpc", "degree": 3, "seed": 5}).out == Path("runs/fashion-mnist-resnet-fpc3-d1-s5")


def test_a_polynomial_file_brings_its_degree():
    """With --poly the configuration states the file's degree, not the default's."""
    assert resolve({"method": "fpc", "poly": (3.0, -5.0, 4.0, -1.0, 0.0)}).degree == 9


def test_what_the_method_does_not_use_makes_no_other_run():
    """A preset's thresholds under sn, a degree under apc, power iterations under none: identity and folder are those
    of the run without them; where the method uses them they count."""
    taus = (2.0, 2.5, 3.0, 4.0)
    extras = {"taus": taus, "degree": 3, "n_power_iterations": 2, "skip_linear": False, "layer_precision": "bf16"}
    used = {"none": (), "svd": (), "sn": ("n_power_iterations",)}
    used["fpc"] = ("degree", "n_power_iterations", "skip_linear", "layer_precision")
    used["apc"] = ("taus", "n_power_iterations", "skip_linear", "layer_precision")
    for method, counted in used.items():
        plain, extra = resolve({"method": method}), resolve({"method": method}, extras)
        differing = {key for key, value in extra.identity().items() if value != plain.identity()[key]}
        assert differing == set(counted)
        assert (extra.out == plain.out) == (not counted)
    assert resolve({"method": "sn"}, {"method": "fpc", "poly": (1.5, -0.5)}).poly is None


@pytest.mark.parametrize("name", recipes.headers(recipes.presets_folder()))
def test_every_shipped_preset_resolves(name):
    """Each preset has only settings there are, with a header that says what it is."""
    resolve({}, recipes.read_preset(name))
    assert (recipes.presets_folder() / f"{name}.toml").read_text().startswith("# ")


def test_bad_presets_get_one_line(tmp_path):
    """An unknown preset names the shipped ones; a broken file and an unknown key are named."""
    with pytest.raises(InputError, match="did you mean demo"):
        recipes.read_preset("dmeo")
    for text in ("steps = ", f"seed = {'1' * 5000}", f"steps = {'[' * 2000}{']' * 2000}"):
        (tmp_path / "x.toml").write_text(text)
        with pytest.raises(InputError, match="not TOML"):
            recipes.read_preset(str(tmp_path / "x.toml"))
    with pytest.raises(InputError, match="unknown setting 'stepz'"):
        resolve({}, {"stepz": 4})


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_the_table_without_bf16_is_checked_on_every_machine(monkeypatch, fast, precision):
    """An unknown key or a bad value in `[without_bf16]` is refused where the table is not used, too."""
    monkeypatch.setattr("pctool.training.config.has_fast_bf16", lambda device: fast)
    for table, message in (({"stepz": 3}, "unknown setting 'stepz'"), ({"steps": 0}, "--steps: 0 is not allowed")):
        with pytest.raises(InputError, match=message):
            resolve({}, {"precision": precision, "without_bf16": table})
