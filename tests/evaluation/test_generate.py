"""Sampling: seeds, batch norm, bytes."""

import numpy as np
import pytest
import torch
from torch import nn

from pctool.errors import NonFiniteError
from pctool.evaluation.generate import generate, to_uint8

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """A generator with a batch norm whose running averages differ from any batch's."""

    dim_z = 6

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(6, 3 * 16), nn.BatchNorm2d(3)
        self.norm.running_mean += 0.3

    def forward(self, z):
        return torch.tanh(self.norm(self.linear(z).view(-1, 3, 4, 4)))


def draw(G, n, **options):
    settings = {"seed": 1, "batch_size": 8, "device": CPU, **options}
    return np.concatenate(list(generate(G, n, **settings)))


def test_bytes_round_to_nearest():
    """-1, 0, 1 become 0, 128, 255 (127.5 rounds to even), and what lies outside is clamped."""
    x = torch.tensor([-1.0, 0.0, 1.0, -1.2, 1.2, 2 / 255 - 1, 2.98 / 255 - 1])
    assert to_uint8(x).tolist() == [0, 128, 255, 0, 255, 1, 1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_images_are_an_error(bad):
    """NaN would be a black pixel: it is a NonFiniteError instead."""
    with pytest.raises(NonFiniteError):
        to_uint8(torch.tensor([0.0, bad]))


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
def test_image_i_depends_on_seed_and_i(batch_size):
    """With running statistics neither the batch size nor the number of images changes an image by more than a level."""
    G = Tiny()
    expected, found = draw(G, 30).astype(int), draw(G, 23, batch_size=batch_size).astype(int)
    assert found.shape == (23, 3, 4, 4)
    assert np.abs(found - expected[:23]).max() <= 1
    assert (found == expected[:23]).mean() > 0.99


def test_seeds_differ():
    """Another seed gives other images, the same seed the same bits."""
    G = Tiny()
    assert (draw(G, 10) == draw(G, 10)).all()
    assert (draw(G, 10) != draw(G, 10, seed=2)).mean() > 0.5


def test_z_is_standard_normal():
    """The z that G sees have mean 0 and variance 1 and are uncorrelated."""
    seen = []

    class Spy(Tiny):
        def forward(self, z):
            seen.append(z.clone())
            return super().forward(z)

    draw(Spy(), 20_000, batch_size=5_000)
    z = torch.cat(seen).double().numpy()
    assert z.shape == (20_000, 6)
    assert np.abs(z.mean(0)).max() < 0.035  # five standard errors
    assert np.abs(np.cov(z, rowvar=False) - np.eye(6)).max() < 0.05


def test_batch_statistics():
    """With bn="batch" every full batch, the last one too, is normalised by its own statistics; G keeps its averages."""
    G = Tiny().eval()
    before = {key: value.clone() for key, value in G.state_dict().items()}
    found = draw(G, 20, bn="batch", batch_size=16)
    G.train()
    rng = np.random.default_rng(1)
    first, second = (torch.from_numpy(rng.standard_normal((16, 6), dtype=np.float32)) for _ in range(2))
    G.load_state_dict(before)
    with torch.no_grad():
        expected = np.concatenate([to_uint8(G(first)), to_uint8(G(second))])[:20]
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found.astype(int) - draw(G.eval(), 20, batch_size=16)).max() > 5


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_the_generator_is_left_as_it_was(bn):
    """Sampling changes neither G's mode nor any of its tensors."""
    G = Tiny().train()
    before = {key: value.clone() for key, value in G.state_dict().items()}
    draw(G, 10, bn=bn)
    assert G.training
    assert all(torch.equal(before[key], value) for key, value in G.state_dict().items())


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_a_part_is_the_same_batches(bn):
    """The batches that begin in a part are those of the whole, bit for bit, and parts in turn are the whole."""
    G = Tiny()
    whole = draw(G, 30, bn=bn)
    parts = [draw(G, 30, bn=bn, part=part) for part in (range(8), range(8, 24), range(24, 30))]
    assert [len(part) for part in parts] == [8, 16, 6]
    assert (np.concatenate(parts) == whole).all()
    assert list(generate(G, 30, seed=1, batch_size=8, device=CPU, part=range(30, 30))) == []
