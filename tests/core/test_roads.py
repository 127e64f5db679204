"""The roads to one effective weight: alone, in a batch, compiled, and as a parametrization of a layer."""

import pytest
import torch
from torch import nn

from pctool.core import linalg
from pctool.core.layers.parametrization import weight_parametrizations
from pctool.core.layers.plugin import precondition
from pctool.core.polynomial import PUBLISHED

COMPILED = torch.compile(linalg.precondition, fullgraph=True)  # two graphs, wide and tall, for all degrees


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
def test_all_roads_give_the_same_weight_and_gradient(compiler, degree):
    """Of a tall matrix beside a wide one of the same smaller side, in float64 to 1e-12."""
    torch.manual_seed(degree)
    layers = [precondition(nn.Linear(*sides, dtype=torch.float64), PUBLISHED[degree]) for sides in ((9, 14), (31, 9))]
    own = [weight_parametrizations(layer.eval())[0] for layer in layers]
    weights = [weight_parametrizations(layer).original for layer in layers]
    us, vs = [part._u for part in own], [part._v for part in own]
    Gs = [torch.randn_like(W) for W in weights]
    coeffs, rows = PUBLISHED[degree].coeffs, linalg.coefficient_rows([PUBLISHED[degree].coeffs] * 2, weights[0])
    roads = {
        "alone": [linalg.precondition(W, u, v, coeffs) for W, u, v in zip(weights, us, vs, strict=True)],
        "batch": linalg.precondition_batch(weights, us, vs, rows),
        "compiled": [COMPILED(W, u, v, rows[0]) for W, u, v in zip(weights, us, vs, strict=True)],
        "parametrized": [layer.weight for layer in layers],
    }
    found = {name: [*values, *torch.autograd.grad(values, weights, Gs)] for name, values in roads.items()}
    for values in found.values():
        for value, expected in zip(values, found["alone"], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
