"""An extractor without weights, for tests that work the scores out by hand."""

import torch

from pctool.evaluation.features import Extractor


def network(x):
    """Pixels as features; the softmax of the first four as classes."""
    flat = x.flatten(1)
    return flat / 255, flat[:, :4].softmax(1)


def flat(name="flat", probabilities=True, note=None):
    """`network` as an extractor of grey 3 x 3 images, under any name, with or without its classes."""
    net = network if probabilities else lambda x: (network(x)[0], None)
    return Extractor(name, "0" * 64, 1, 3, "none", probabilities, torch.device("cpu"), net, note)
