"""Extractors against the networks they wrap and against clean-fid."""

import warnings

import numpy as np
import pytest
import torch
import torchvision
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import nn

from pctool.errors import InputError, MissingError
from pctool.evaluation import features, inception, torchvision_nets
from pctool.evaluation.weights_files import INCEPTION_SCRIPT


class FakeInception(nn.Module):
    """The interface of NVIDIA's scripted Inception, with random weights and hardly a computation."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(74), nn.Conv2d(3, 128, 1), nn.ReLU(), nn.Flatten())
        self.output = nn.Linear(128 * 16, 1008)

    def forward(self, img, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False):
        found = self.layers((img - 128) / 128)
        if return_features:
            return found
        logits = nn.functional.linear(found, self.output.weight, None if no_output_bias else self.output.bias)
        return logits.softmax(1)


class WithoutOutput(nn.Module):
    """A scripted network that gives features alone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(100), nn.Flatten())

    def forward(self, x):
        return self.layers(x)


def script(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; Inception's published file is of its kind
        torch.jit.script(module).save(path)
    return path


def pictures(n, channels=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), np.uint8)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    return script(FakeInception(), tmp_path / INCEPTION_SCRIPT.name)


def test_inception_equals_clean_fid(weights):
    """Resizer and features are clean-fid's own, and the probabilities those of the scripted forward without bias."""
    extractor = features.load("inception", weights)
    images = pictures(5)
    found, probabilities = extractor(images)
    resize = build_resizer("clean")
    x = torch.from_numpy(np.stack([resize(image) for image in images.transpose(0, 2, 3, 1)])).permute(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionV3W(str(weights.parent), download=False)
    with torch.inference_mode():
        np.testing.assert_allclose(found, theirs(x).numpy(), atol=1e-5)
        np.testing.assert_allclose(probabilities, theirs.base(x, no_output_bias=True).numpy(), atol=1e-6)
    assert extractor.has_probabilities
    assert extractor.resizer == "clean"


def test_inception_without_output_has_no_probabilities(tmp_path):
    """A scripted network without `output` gives features and no probabilities."""
    extractor = features.load("inception", script(WithoutOutput(), tmp_path / "net.pt"))
    found, probabilities = extractor(pictures(2))
    assert found.shape == (2, 12)
    assert probabilities is None
    assert not extractor.has_probabilities


def test_inception_is_found_in_the_cache(weights, monkeypatch, tmp_path):
    """Without --weights the file in the cache is used; where there is none, the error says where to put it."""
    monkeypatch.setenv("PCTOOL_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(MissingError, match=r"cache/weights/weights-inception-2015-12-05-6726825d.pth.*fetch inception"):
        features.load("inception")
    INCEPTION_SCRIPT.path.parent.mkdir(parents=True)
    weights.rename(INCEPTION_SCRIPT.path)
    assert inception.default_path() == INCEPTION_SCRIPT.path
    assert features.load("inception").name == "inception"


def test_files_that_are_no_weights(tmp_path):
    """Text, another TorchScript and a missing file are InputErrors of one line."""
    text = tmp_path / "w.pt"
    text.write_text("not weights")
    other = script(nn.Sequential(nn.Flatten()), tmp_path / "other.pt")
    for name, path in (("inception", text), ("inception", other), ("inception", tmp_path), ("mobilenet_v2", text)):
        with pytest.raises(InputError, match="give") as error:
            features.load(name, path)
        assert "\n" not in str(error.value)


def saved(net, path, rename=lambda key: key):
    torch.save({rename(key): value for key, value in net.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v2"])
def test_torchvision_features_are_the_last_layer_s_input(name, tmp_path):
    """The last linear layer applied to the features gives the network's own answer to the official transforms."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None).eval()
    extractor = features.load(name, saved(net, tmp_path / "w.pth"))
    images = pictures(11)
    found, probabilities = extractor(images)
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    resize = build_resizer_of(224)
    x = torch.from_numpy(np.stack([resize(image) for image in images.transpose(0, 2, 3, 1)])).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.inference_mode():
        logits = net((x - mean) / std)
        np.testing.assert_allclose(linear(torch.from_numpy(found)).numpy(), logits.numpy(), atol=1e-4)
        np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), atol=1e-5)
    assert "none of torchvision's official weights" in extractor.note


def build_resizer_of(size):
    from cleanfid.resize import make_resizer

    return make_resizer("PIL", False, "bicubic", (size, size))


def test_densenet_s_published_names(tmp_path):
    """DenseNet's files with the old names of its layers load as today's."""
    net = torchvision.models.densenet121(weights=None)
    old = saved(
        net,
        tmp_path / "old.pth",
        lambda key: key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in key else key,
    )
    assert any("norm.1." in key for key in torch.load(old))
    assert features.load("densenet121", old)(pictures(1))[0].shape == (1, 1024)


@pytest.mark.parametrize(
    ("name", "sha256", "size"),
    [("mobilenet_v2", "b0353104" + 56 * "0", 224), ("inception_v3", "0cc3c7bd" + 56 * "0", 299)],
)
def test_official_weights_are_known_by_their_hash(name, sha256, size, tmp_path):
    """Known hashes get their own crop size and no note, whatever the file is called; unknown ones get a note."""
    path = tmp_path / "w.pth"
    assert torchvision_nets.recipe(name, path, sha256).size == size
    assert torchvision_nets.recipe(name, path, sha256).note is None
    assert "official" in torchvision_nets.recipe(name, path, 64 * "0").note


def test_a_name_that_promises_another_hash(tmp_path):
    """A file whose name carries a hash that is not its content's is damaged: InputError."""
    path = tmp_path / "mobilenet_v2-b0353104.pth"
    path.write_bytes(b"cut short")
    with pytest.raises(InputError, match="damaged"):
        features.load("mobilenet_v2", path)


def test_weights_of_another_network(tmp_path):
    """A state dict that does not fit, a list, and a network without a linear layer are InputErrors."""
    path = saved(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not fit mobilenet_v2"):
        features.load("mobilenet_v2", path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="does not fit mobilenet_v2"):
        features.load("mobilenet_v2", path)
    net = torchvision.models.squeezenet1_1(weights=None)
    with pytest.raises(InputError, match="no linear layer"):
        features.load("squeezenet1_1", saved(net, path))


def test_names():
    """An unknown extractor is an InputError with close matches; a torchvision one without its file a MissingError."""
    with pytest.raises(InputError, match="did you mean mobilenet_v2"):
        features.load("mobilenetv2")
    with pytest.raises(InputError, match="did you mean inception"):
        features.load("Inception")
    with pytest.raises(MissingError, match=r"get them with 'pctool data fetch mobilenet_v2'$"):
        features.load("mobilenet_v2")
    with pytest.raises(InputError, match="its own weights"):
        features.load("fashion-cnn", inception.default_path())


def test_colour_and_size_limits():
    """fashion-cnn refuses colour and other sizes and names what to use instead."""
    extractor = features.load("fashion-cnn")
    with pytest.raises(InputError, match=r"grey.*32x32 colour.*use --extractor inception"):
        extractor(pictures(1))
    with pytest.raises(InputError, match="28x28 grey"):
        extractor(pictures(1, 1, 28))


def test_grey_images_are_repeated(weights):
    """A grey image scores as the colour image with three equal channels."""
    extractor = features.load("inception", weights)
    grey = pictures(3, channels=1)
    np.testing.assert_array_equal(extractor(grey)[0], extractor(grey.repeat(3, 1))[0])


def test_batches_on_the_cpu_are_split_without_a_trace(weights, monkeypatch):
    """However a batch is cut for the caches, features and their order are the same."""
    extractor = features.load("inception", weights)
    images = pictures(5)
    whole = extractor(images)
    monkeypatch.setattr(features, "CHUNK_PIXELS", 2 * 299 * 299)
    for a, b in zip(whole, extractor(images), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_default():
    """fashion-mnist is scored by its own classifier, everything else by Inception."""
    assert features.default_for("fashion-mnist") == "fashion-cnn"
    assert features.default_for("cifar10") == "inception"
