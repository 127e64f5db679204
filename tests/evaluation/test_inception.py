"""FID's Inception in its two published forms, against clean-fid's module of the same network."""

import warnings

import numpy as np
import pytest
import torch
import torchvision
from cleanfid import inception_pytorch as theirs
from torch import nn

from pctool.errors import InputError
from pctool.evaluation import features, inception
from pctool.evaluation.inception_net import FIDInception
from pctool.evaluation.weights_files import INCEPTION, INCEPTION_SCRIPT

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)


@pytest.fixture(scope="module")
def net():
    """He initialisation, without which all features would be 0 to rounding."""
    torch.manual_seed(0)
    net = FIDInception()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def state_dict(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(net.state_dict(), path)
    return path


def of_clean_fid(net):
    """clean-fid's patched torchvision network with our weights, up to its pooled features."""
    other = torchvision.models.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    other.Mixed_5b, other.Mixed_5c, other.Mixed_5d = (
        theirs.FIDInceptionA(*a) for a in ((192, 32), (256, 64), (288, 64))
    )
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(other, name, theirs.FIDInceptionC(768, width))
    other.Mixed_7b, other.Mixed_7c = theirs.FIDInceptionE_1(1280), theirs.FIDInceptionE_2(2048)
    other.load_state_dict(net.state_dict())
    other.fc = nn.Identity()
    return other.eval()


def test_the_network_equals_clean_fid_s_module(net):
    """The same weights give the same features, so that pools, padding and the last block are TensorFlow's."""
    x = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        found, expected = net(x), of_clean_fid(net)(x)
    assert found.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_probabilities_are_of_the_last_layer_without_bias(net, state_dict):
    """Features go through `fc` without its bias, then a softmax, as in the original Inception score."""
    extractor = features.load("inception", state_dict)
    found, probabilities = extractor(IMAGES)
    logits = torch.from_numpy(found).double() @ net.fc.weight.double().T
    np.testing.assert_allclose(probabilities, logits.softmax(1).numpy(), atol=1e-6)
    assert extractor.has_probabilities
    assert (extractor.name, found.shape) == ("inception", (2, 2048))


def test_resizers_are_of_inception_alone(state_dict):
    """The legacy resizer gives other features of the same network, and no other network takes it."""
    extractor = features.load("inception", state_dict)
    legacy = extractor.with_resizer("legacy")
    assert (extractor.resizer, legacy.resizer, legacy.sha256) == ("clean", "legacy", extractor.sha256)
    assert np.abs(extractor(IMAGES)[0] - legacy(IMAGES)[0]).max() > 1e-3
    with pytest.raises(InputError, match="--resizer legacy goes with --extractor inception"):
        features.load("fashion-cnn").with_resizer("legacy")


def test_unknown_weights_are_named(state_dict):
    """Weights that are neither published file are used, and a note gives their hash."""
    extractor = features.load("inception", state_dict)
    assert extractor.sha256 in extractor.note


def test_a_name_that_promises_another_hash(state_dict, tmp_path):
    """A file under the published name with other bytes is damaged: InputError."""
    path = tmp_path / INCEPTION.name
    path.write_bytes(state_dict.read_bytes())
    with pytest.raises(InputError, match="damaged: its name promises SHA-256 6726825d"):
        features.load("inception", path)


def test_other_state_dicts(tmp_path):
    """Another network's state dict and a tensor are InputErrors of one line that name both forms."""
    path = tmp_path / "w.pth"
    for content in (nn.Linear(2, 2).state_dict(), torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(InputError, match=rf"does not fit Inception.*{INCEPTION_SCRIPT.name}") as error:
            features.load("inception", path)
        assert "\n" not in str(error.value)


def test_torchscript_gives_no_warning(tmp_path):
    """Loading the TorchScript form warns nobody, although torch announces the end of torch.jit."""
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.ModuleDict({"layers": nn.Sequential(nn.AvgPool2d(100), nn.Flatten())})["layers"]).save(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(InputError, match="no 'layers'"):
            inception.scorer(path.read_bytes(), path, torch.device("cpu"))
    assert caught == []
