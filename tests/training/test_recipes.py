"""Recipes and preset files. The values of CIFAR-10's recipes are tested in test_config.py, as resolved."""

import pytest

from pctool.errors import InputError
from pctool.training import recipes

EXPERIMENTS = [(d, a, i) for d in ("cifar10", "fashion-mnist", "other") for a in ("resnet", "cnn") for i in (1, 5)]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_whole_recipe_of_its_own(experiment):
    """No optimizer setting is left open, and what a caller does to a recipe does not reach the next one's."""
    first = recipes.recipe(*experiment)
    expected = dict(first)
    assert {"loss", "lr_g", "lr_d", "beta1", "beta2", "batch_size", "steps"} <= set(first)
    first.clear()
    assert recipes.recipe(*experiment) == expected


@pytest.mark.parametrize("arch", ["resnet", "cnn"])
@pytest.mark.parametrize("d_iters", [1, 5])
def test_what_nobody_published_takes_the_recipe_of_cifar10(arch, d_iters):
    """Another data set has CIFAR-10's recipe for its arch and d_iters; the built-in one only has a shorter ResNet's."""
    assert recipes.recipe("other", arch, d_iters) == recipes.recipe("cifar10", arch, d_iters)
    built_in, published = (recipes.recipe(name, arch, d_iters) for name in ("fashion-mnist", "cifar10"))
    differs = {key for key in {*built_in, *published} if built_in.get(key) != published.get(key)}
    assert differs == ({"width_g", "width_d", "steps"} if arch == "resnet" else set())


def test_a_preset_is_read_by_name_and_by_path(tmp_path):
    """The shipped file and a copy of it elsewhere hold the same table; names are the files' own, sorted."""
    shipped = recipes.presets_folder() / "demo.toml"
    (tmp_path / "copy.toml").write_bytes(shipped.read_bytes())
    assert recipes.read_preset("demo") == recipes.read_preset(str(tmp_path / "copy.toml"))
    names = list(recipes.headers(recipes.presets_folder()))
    assert names == sorted(names)
    assert {f"{name}.toml" for name in names} == {path.name for path in recipes.presets_folder().glob("*.*")}


@pytest.mark.parametrize("installed", [True, False])
def test_presets_inside_the_package_come_first(tmp_path, monkeypatch, installed):
    """A wheel has them in the package; a source tree beside it."""
    (tmp_path / "pctool").mkdir()
    (tmp_path / "presets").mkdir()
    if installed:
        (tmp_path / "pctool" / "presets").mkdir()
    monkeypatch.setattr(recipes.resources, "files", lambda package: tmp_path / package)
    assert recipes.presets_folder() == (tmp_path / "pctool" / "presets" if installed else tmp_path / "presets")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.toml", None, "cannot read .*absent.toml: No such file or directory"),
        ("folder.toml", "folder", "cannot read .*folder.toml: Is a directory"),
        ("latin.toml", b'out = "caf\xe9"', "latin.toml is not TOML"),
        ("twice.toml", b"steps = 1\nsteps = 2", "twice.toml is not TOML"),
        ("Demo", None, "unknown preset 'Demo': neither a shipped one nor a .toml file; did you mean demo"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, name, content, message):
    """A missing file, a folder, bytes that are not UTF-8, a key twice, another case of a name: each is named."""
    monkeypatch.chdir(tmp_path)
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        recipes.read_preset(name)
    assert "\n" not in str(caught.value)
