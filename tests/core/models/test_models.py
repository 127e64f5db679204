"""The networks, against sizes worked out by hand from SN-GAN's tables and references written another way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pctool.core.models import RESOLUTIONS, build_discriminator, build_generator, default_widths
from pctool.core.models.blocks import DownBlock, UpBlock

# By hand from SN-GAN's Tables 3 to 6 and the authors' sizes for LSUN, with weights and biases, RGB, published widths.
# An up block a -> b has BN 2a, 3x3 9ab + b, BN 2b, 3x3 9bb + b, 1x1 ab + b; a down block 3x3 9aa + a, 3x3 9ab + b,
# 1x1 ab + b; D's first block 3x3 9cb + b, 3x3 9bb + b, 1x1 cb + b; without a shortcut the 1x1 is missing.
UP_512_256, UP_256_128, UP_128_64 = 1_902_848, 476_288, 119_360
UP_1024_512, UP_1024_1024 = 7_606_784, 19_930_112
FIRST_64, DOWN_64_128, DOWN_128_256, DOWN_256_512 = 38_976, 119_104, 475_776, 1_901_824
DOWN_512_1024, DOWN_1024_1024, FLAT_1024_1024 = 7_604_736, 19_926_016, 18_876_416
CNN_G = 2_097_408 + 512 + 524_416 + 256 + 131_136 + 128 + 1_731
CNN_D = 1_792 + 65_600 + 73_856 + 262_272 + 295_168 + 1_048_832 + 1_180_160
DCGAN_G_64 = 524_416 + 256 + 131_136 + 128 + 32_800 + 64 + 8_208 + 32 + 2_320 + 32 + 435  # all behind 256 channels
DCGAN_D_64 = 1_568 + 32_832 + 131_200 + 524_544  # the convolutions up to 256 channels
# The last convolution of G is 1x1 in `authors`, 3x3 in `sngan`: from 64 channels 64 * 3 + 3 or 64 * 27 + 3.
PARAMETERS = {
    ("resnet", 32, "G", "authors"): 528_384 + 3 * 1_246_976 + 512 + 771,
    ("resnet", 32, "G", "sngan"): 528_384 + 3 * 1_246_976 + 512 + 6_915,
    ("resnet", 32, "D", "authors"): 151_680 + 311_680 + 2 * 295_168 + 128,
    ("resnet", 32, "D", "sngan"): 151_680 + 311_680 + 2 * 295_168 + 128,
    ("resnet", 48, "G", "authors"): 2_377_728 + UP_512_256 + UP_256_128 + UP_128_64 + 128 + 195,
    ("resnet", 48, "G", "sngan"): 2_377_728 + UP_512_256 + UP_256_128 + UP_128_64 + 128 + 1_731,
    ("resnet", 48, "D", "authors"): FIRST_64 + DOWN_64_128 + DOWN_128_256 + DOWN_256_512 + DOWN_512_1024 + 1_024,
    ("resnet", 48, "D", "sngan"): FIRST_64 + DOWN_64_128 + DOWN_128_256 + DOWN_256_512 + DOWN_512_1024 + 1_024,
    ("resnet", 64, "G", "authors"): 2_113_536 + UP_1024_512 + UP_512_256 + UP_256_128 + UP_128_64 + 128 + 195,
    ("resnet", 64, "D", "authors"): FIRST_64 + DOWN_64_128 + DOWN_128_256 + DOWN_256_512 + DOWN_512_1024 + 1_024,
    ("resnet", 128, "G", "sngan"): (
        2_113_536 + UP_1024_1024 + UP_1024_512 + UP_512_256 + UP_256_128 + UP_128_64 + 128 + 1_731
    ),
    ("resnet", 128, "D", "sngan"): (
        FIRST_64 + DOWN_64_128 + DOWN_128_256 + DOWN_256_512 + DOWN_512_1024 + FLAT_1024_1024 + 1_024
    ),
    ("resnet", 256, "G", "authors"): (
        2_113_536 + 2 * UP_1024_1024 + UP_1024_512 + UP_512_256 + UP_256_128 + UP_128_64 + 128 + 195
    ),
    ("resnet", 256, "D", "authors"): (
        FIRST_64 + DOWN_64_128 + DOWN_128_256 + DOWN_256_512 + DOWN_512_1024 + DOWN_1024_1024 + FLAT_1024_1024 + 1_024
    ),
    ("cnn", 32, "G", "authors"): 1_056_768 + CNN_G,
    ("cnn", 32, "D", "authors"): CNN_D + 512 * 4 * 4,
    ("cnn", 48, "G", "authors"): 2_377_728 + CNN_G,
    ("cnn", 48, "D", "authors"): CNN_D + 512 * 6 * 6,
    ("cnn", 64, "G", "authors"): 4_227_072 + CNN_G,
    ("cnn", 64, "D", "authors"): CNN_D + 512 * 8 * 8,
    # dense, its BN (4 * 4 * width means and scales), deconvolutions with BN, a convolution with BN, one to the image
    ("dcgan", 64, "G", "authors"): 528_384 + 8_192 + DCGAN_G_64,
    ("dcgan", 128, "G", "authors"): 1_056_768 + 16_384 + 2_097_408 + 512 + DCGAN_G_64,
    ("dcgan", 256, "G", "authors"): 2_113_536 + 32_768 + 8_389_120 + 1_024 + 2_097_408 + 512 + DCGAN_G_64,
    ("dcgan", 64, "D", "authors"): DCGAN_D_64 + 256 * 16,
    ("dcgan", 128, "D", "authors"): DCGAN_D_64 + 2_097_664 + 512 * 16,
    ("dcgan", 256, "D", "authors"): DCGAN_D_64 + 2_097_664 + 8_389_632 + 1024 * 16,
}
PUBLISHED_WIDTHS = {("resnet", 32): (256, 128), ("dcgan", 64): (256, 256), ("dcgan", 256): (1024, 1024)}
EVERY = [(arch, resolution) for arch, resolutions in RESOLUTIONS.items() for resolution in resolutions]


def test_the_resolutions_there_are():
    """resnet at 32 to 256, cnn at 32, 48 and 64, dcgan at 64, 128 and 256; each with its published width."""
    assert RESOLUTIONS == {"resnet": (32, 48, 64, 128, 256), "cnn": (32, 48, 64), "dcgan": (64, 128, 256)}
    for (arch, resolution), widths in PUBLISHED_WIDTHS.items():
        assert default_widths(arch, resolution) == widths
    assert default_widths("resnet", 48) == (64, 64)  # the authors' STL-10 run
    assert default_widths("dcgan", 128) == (512, 512)  # the authors' LSUN run
    assert {key[:2] for key in PARAMETERS} == set(EVERY)


@pytest.mark.parametrize(("arch", "resolution", "network", "variant"), PARAMETERS)
def test_parameter_counts_at_the_published_widths(arch, resolution, network, variant):
    """RGB and published widths: each network has the number of parameters counted by hand (on the meta device)."""
    width = default_widths(arch, resolution)["GD".index(network)]
    build = build_generator if network == "G" else build_discriminator
    with torch.device("meta"):
        built = build(arch, resolution, 3, width, variant)
    assert sum(p.numel() for p in built.parameters()) == PARAMETERS[arch, resolution, network, variant]


@pytest.mark.parametrize("variant", ["authors", "sngan"])
@pytest.mark.parametrize(("arch", "resolution"), EVERY)
def test_generator_and_discriminator_fit_at_every_resolution(arch, resolution, variant):
    """At the published widths G gives the resolution asked for, and D takes it (shapes on the meta device)."""
    widths = default_widths(arch, resolution)
    with torch.device("meta"):
        images = build_generator(arch, resolution, 3, widths[0], variant)(torch.randn(2, 128))
        logits = build_discriminator(arch, resolution, 3, widths[1], variant)(images)
    assert images.shape == (2, 3, resolution, resolution)
    assert logits.shape == (2,)


def by_hand(D: nn.Module, x: torch.Tensor, halving: list[bool], leak: float) -> torch.Tensor:
    """The residual discriminator in the papers' order, from the weights alone: pool last, whatever commutes."""
    weights = D.state_dict()

    def conv(name: str, h: torch.Tensor) -> torch.Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(h, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    for i, halves in enumerate(halving):
        h = conv(f"blocks.{i}.conv1", x if i == 0 else F.leaky_relu(x, leak))
        h = conv(f"blocks.{i}.conv2", F.leaky_relu(h, leak) if i else F.relu(h))  # in [F] the first has its default
        h = h + (conv(f"blocks.{i}.shortcut", x) if f"blocks.{i}.shortcut.weight" in weights else x)
        x = F.avg_pool2d(h, 2) if halves else h
    return F.leaky_relu(x, leak).sum((2, 3)) @ weights["linear.weight"][0]


@pytest.mark.parametrize(
    ("resolution", "variant", "leak", "halving"),
    [
        (48, "authors", 0.1, [True] * 5),
        (48, "sngan", 0.0, [True] * 4 + [False]),
        (64, "authors", 0.1, [True] * 4 + [False]),
        (32, "sngan", 0.0, [True, True, False, False]),
    ],
)
def test_the_residual_discriminator_is_the_one_of_the_papers(resolution, variant, leak, halving):
    """D equals its blocks written out: the first without pre-activation, in -> in -> out where the width grows."""
    torch.manual_seed(0)
    D = build_discriminator("resnet", resolution, 3, 8, variant).double()
    with torch.no_grad():
        for name, value in D.named_parameters():
            if name.endswith("bias"):
                value.normal_()  # those that are 0 at the start would hide what they are added to
    x = torch.randn(2, 3, resolution, resolution, dtype=torch.float64)
    torch.testing.assert_close(D(x), by_hand(D, x, halving, leak), rtol=1e-10, atol=1e-10)
    for i, block in enumerate(D.blocks):
        (middle, n_in), (n_out, again) = block.conv1.weight.shape[:2], block.conv2.weight.shape[:2]
        assert middle == again == (n_out if i == 0 else n_in)
        assert block.conv1.weight.shape[2:] == block.conv2.weight.shape[2:] == (3, 3)
    if resolution != 32:
        assert [block.conv2.weight.shape[0] for block in D.blocks] == [8, 16, 32, 64, 128]


def test_the_lsun_discriminator_starts_orthogonal():
    """dcgan's D: rows (or columns) of every weight are orthonormal; G is as in the other networks."""
    torch.manual_seed(0)
    D = build_discriminator("dcgan", 64, 3, 32, "authors").double()
    for name, value in D.named_parameters():
        if name.endswith("bias"):
            continue
        W = value.flatten(1)
        gram = W @ W.T if len(W) <= W.shape[1] else W.T @ W
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-5)


def test_dcgan_is_the_authors_lsun_net():
    """G: dense, BN over each of its outputs, deconvolutions with BN and ReLU, 3x3 with BN and ReLU, 3x3, tanh."""
    torch.manual_seed(0)
    G = build_generator("dcgan", 64, 3, 32, "authors").double()
    z = torch.randn(4, 128, dtype=torch.float64)
    weights = dict(G.state_dict())
    h = F.linear(z, weights["dense.weight"], weights["dense.bias"])
    h = ((h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()).view(4, 32, 4, 4)
    for i in (0, 3, 6, 9, 12):
        if i < 12:
            h = F.conv_transpose2d(h, weights[f"stages.{i}.weight"], weights[f"stages.{i}.bias"], 2, 1)
        else:
            h = F.conv2d(h, weights[f"stages.{i}.weight"], weights[f"stages.{i}.bias"], padding=1)
        variance, mean = torch.var_mean(h, (0, 2, 3), unbiased=False, keepdim=True)
        h = F.relu((h - mean) / (variance + 1e-5).sqrt())
    expected = torch.tanh(F.conv2d(h, weights["to_image.weight"], weights["to_image.bias"], padding=1))
    torch.testing.assert_close(G(z), expected, rtol=1e-9, atol=1e-9)


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
        up = UpBlock(4, 6, variant, 4).double().eval()
        h = F.interpolate(F.relu(up.norm1(x)), scale_factor=2, mode=mode)
        h = F.conv2d(h, up.conv1.weight, up.conv1.bias, padding=1)
        h = up.conv2(F.relu(up.norm2(h)))
        torch.testing.assert_close(up(x), h + up.shortcut(F.interpolate(x, scale_factor=2, mode=mode)))


def test_shortcut_only_where_a_block_changes_size_or_width():
    """The last two blocks of the 32 px discriminator add their input as it is."""
    D = build_discriminator("resnet", 32, 3, 16, "authors")
    kinds = [isinstance(block.shortcut, nn.Conv2d) for block in D.blocks]
    assert kinds == [True, True, False, False]


@pytest.mark.parametrize(
    ("build", "variant", "name", "std"),
    [
        (build_discriminator, "authors", "blocks.1.conv1", (2 / (64 * 9 + 64 * 9)) ** 0.5),
        (build_discriminator, "sngan", "blocks.1.conv1", 2**0.5 * (2 / (64 * 9 + 64 * 9)) ** 0.5),
        (build_discriminator, "sngan", "blocks.1.shortcut", (2 / (64 + 64)) ** 0.5),
        (build_generator, "sngan", "blocks.1.conv1", 2**0.5 * (2 / (64 * 9 + 64 * 9)) ** 0.5),
        (build_generator, "sngan", "to_image", (2 / (64 * 9 + 3 * 9)) ** 0.5),
    ],
)
def test_initial_scale(build, variant, name, std):
    """Xavier uniform: D's of [F] with gain 1; [M]'s with sqrt 2 in blocks, 1 in shortcuts and G's last, biases 0.

    Biases of [F] are PyTorch's own, from within 1 / sqrt(fan in).
    """
    torch.manual_seed(0)
    module = build("resnet", 32, 3, 64, variant).get_submodule(name)
    weight, bias = module.weight.detach(), module.bias.detach()
    assert float(weight.std()) == pytest.approx(std, rel=0.05)
    bound = std * 3**0.5
    assert bound * 0.98 < float(weight.abs().max()) <= bound * (1 + 1e-6)
    within = 0 if variant == "sngan" else weight[0].numel() ** -0.5
    assert within * 0.8 <= float(bias.abs().max()) <= within


def test_the_authors_generator_starts_as_theirs():
    """Xavier normal, but for transposed convolutions, which their code leaves as PyTorch draws them, as all biases."""
    torch.manual_seed(0)
    G = build_generator("cnn", 32, 3, 256, "authors")
    deconvolution, normal = G.stages[0].weight.detach(), G.dense.weight.detach()
    bound = (128 * 16) ** -0.5  # of kaiming_uniform with a = sqrt(5), PyTorch's own
    assert bound * 0.98 < float(deconvolution.abs().max()) <= bound
    assert float(normal.std()) == pytest.approx((2 / (128 + 256 * 16)) ** 0.5, rel=0.05)
    assert float(normal.abs().max()) > 4 * float(normal.std())  # no uniform numbers
    assert G.stages[0].bias.any()


def test_variants_differ_where_the_sources_do():
    """D's activation: leaky ReLU 0.1 lets a negative input through in `authors`, ReLU does not in `sngan`."""
    torch.manual_seed(0)
    leaks = {variant: build_discriminator("resnet", 32, 1, 16, variant).leak for variant in ("authors", "sngan")}
    assert leaks == {"authors": 0.1, "sngan": 0.0}
