"""The networks, against sizes worked out by hand from SN-GAN's tables and references written another way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pctool.core.models import build_discriminator, build_generator, default_widths
from pctool.core.models.blocks import DownBlock, UpBlock

# By hand, with weights and biases: SN-GAN Tables 3 and 4; 1x1 instead of 3x3 in the authors' last G convolution.
PARAMETERS = {
    ("resnet", "G", "authors"): 528_384 + 3 * 1_246_976 + 512 + 771,
    ("resnet", "G", "sngan"): 528_384 + 3 * 1_246_976 + 512 + 6_915,
    ("resnet", "D", "authors"): 151_680 + 311_680 + 2 * 295_168 + 128,
    ("resnet", "D", "sngan"): 151_680 + 311_680 + 2 * 295_168 + 128,
    ("cnn", "G", "authors"): 1_056_768 + 2_097_408 + 512 + 524_416 + 256 + 131_136 + 128 + 1_731,
    ("cnn", "D", "authors"): 1_792 + 65_600 + 73_856 + 262_272 + 295_168 + 1_048_832 + 1_180_160 + 8_192,
}


@pytest.mark.parametrize(("arch", "network", "variant"), PARAMETERS)
def test_parameter_counts_at_the_published_widths(arch, network, variant):
    """At 32 px, RGB and published widths each network has the number of parameters counted by hand."""
    width = default_widths(arch, 32)["GD".index(network)]
    build = build_generator if network == "G" else build_discriminator
    built = build(arch, 32, 3, width, variant)
    assert sum(p.numel() for p in built.parameters()) == PARAMETERS[arch, network, variant]


@pytest.mark.parametrize("variant", ["authors", "sngan"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", ["resnet", "cnn"])
def test_shapes_and_ranges(arch, channels, variant):
    """G maps z to images in [-1, 1], D images to one logit each."""
    torch.manual_seed(0)
    G = build_generator(arch, 32, channels, 16, variant)
    D = build_discriminator(arch, 32, channels, 16, variant)
    images = G(torch.randn(3, 128))
    assert images.shape == (3, channels, 32, 32)
    assert images.abs().max() <= 1
    assert D(images).shape == (3,)


def test_scores_do_not_depend_on_the_rest_of_the_batch():
    """D scores real and fake in one batch as it does apart: it has no batch statistics."""
    torch.manual_seed(0)
    for arch in ("resnet", "cnn"):
        D = build_discriminator(arch, 32, 1, 16, "authors").double()
        x = torch.randn(6, 1, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(torch.cat([D(x[:2]), D(x[2:])]), D(x), rtol=1e-12, atol=1e-12)


def test_cheap_order_of_pooling_and_shortcut_is_the_published_one():
    """Pooling before D's 1x1 shortcut, and G's shortcut before upsampling, give what the papers' order gives."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    down = DownBlock(4, 6, down=True, first=False, leak=0.1).double()
    h = down.conv2(F.leaky_relu(down.conv1(F.leaky_relu(x, 0.1)), 0.1))
    torch.testing.assert_close(down(x), F.avg_pool2d(h + down.shortcut(x), 2))
    for variant, mode in (("authors", "bilinear"), ("sngan", "nearest")):
        up = UpBlock(4, 6, variant).double().eval()
        h = up.conv1(F.interpolate(F.relu(up.norm1(x)), scale_factor=2, mode=mode))
        h = up.conv2(F.relu(up.norm2(h)))
        torch.testing.assert_close(up(x), h + up.shortcut(F.interpolate(x, scale_factor=2, mode=mode)))


def test_shortcut_only_where_a_block_changes_size_or_width():
    """The last two blocks of the 32 px discriminator add their input as it is."""
    D = build_discriminator("resnet", 32, 3, 16, "authors")
    kinds = [type(block.shortcut) for block in D.blocks]
    assert kinds == [nn.Conv2d, nn.Conv2d, nn.Identity, nn.Identity]


@pytest.mark.parametrize(
    ("variant", "name", "std"),
    [
        ("authors", "blocks.1.conv1", (2 / (64 * 9 + 64 * 9)) ** 0.5),
        ("sngan", "blocks.1.conv1", 2**0.5 * (2 / (64 * 9 + 64 * 9)) ** 0.5),
        ("sngan", "blocks.1.shortcut", (2 / (64 + 64)) ** 0.5),
    ],
)
def test_initial_scale_of_the_discriminator(variant, name, std):
    """Xavier uniform with gain 1 (authors); gain sqrt 2 for convolutions and 1 for shortcuts (SN-GAN); biases 0."""
    torch.manual_seed(0)
    module = build_discriminator("resnet", 32, 3, 64, variant).get_submodule(name)
    weight = module.weight.detach()
    assert float(weight.std()) == pytest.approx(std, rel=0.05)
    bound = std * 3**0.5
    assert bound * 0.98 < float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert not module.bias.any()


def test_variants_differ_where_the_sources_do():
    """D's activation: leaky ReLU 0.1 lets a negative input through in `authors`, ReLU does not in `sngan`."""
    torch.manual_seed(0)
    leaks = {variant: build_discriminator("resnet", 32, 1, 16, variant).leak for variant in ("authors", "sngan")}
    assert leaks == {"authors": 0.1, "sngan": 0.0}
