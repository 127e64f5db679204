"""A convolution that takes its effective weight in two factors where that is cheaper than their product."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pctool.core.models import resampling
from pctool.core.outer_products import apply_factor
from pctool.core.products import without_autocast


class FactoredConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with the weight Q W or W Q: W its own, `factor` Q, square and symmetric, empty for none.

    Q is on W's smaller side: [out, out] and applied to the output, or, of a 1 x 1 convolution to more channels,
    [in, in] and applied to the input. Q (W * x) costs 2 out^2 FLOP for each position of the output, Q W as many for
    each column of W, m = in k k: with fewer positions than columns the product is better not made. Q is applied in its
    own dtype, W's, whatever autocast says. It is given by `torch.func.functional_call`, and is no part of the state.
    """

    factor: Tensor

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(n_in, n_out, kernel, stride, padding)
        self.register_buffer("factor", torch.empty(0), persistent=False)

    @property
    def is_tall(self) -> bool:
        """Whether the matrix has more rows than columns, so that Q stands on its right."""
        return self.out_channels > self.weight[0].numel()

    def forward(self, x: Tensor, halve: bool = False) -> Tensor:
        """x [batch, in, height, width] -> [batch, out, ...]; `halve`: the means of 2 x 2 pixels, with which Q commutes.

        Halving is for 3 x 3 weights with padding 1.
        """
        convolve = resampling.convolve_and_halve if halve else self._conv_forward
        if self.factor.numel() and self.is_tall:
            x = self.apply_factor(x, None)
        elif self.factor.numel():
            return self.apply_factor(convolve(x, self.weight, None), self.bias)
        if self.bias is not None and x.is_cpu and not torch.is_autocast_enabled("cpu"):
            # oneDNN adds up a bias's gradient in turn, which loses digits where real and fake images nearly cancel.
            return convolve(x, self.weight, None).add_(self.bias.view(-1, 1, 1))
        return convolve(x, self.weight, self.bias)

    def apply_factor(self, y: Tensor, bias: Tensor | None) -> Tensor:
        """Q on the channels of y [batch, channels, height, width], and the bias."""
        with without_autocast(y.device):
            pixels = y.permute(0, 2, 3, 1)
            # As one matrix: with four dimensions that do not lie so, the product can take three times as long.
            rows = pixels.reshape(-1, pixels.shape[-1]).to(self.factor.dtype)
            mapped = apply_factor(rows, self.factor).view(pixels.shape)
            return (mapped if bias is None else mapped + bias).permute(0, 3, 1, 2)


def factored_layers(network: nn.Module, images: tuple[int, ...]) -> set[str]:
    """The convolutions of D that are cheaper in two factors for a batch of such images [n, channels, height, width].

    Those whose output, pooled, has at most half as many positions as the matrix has entries m along its longer side,
    where that is the inputs', or the outputs' of a 1 x 1 convolution: an update of D and one of G by half its batch
    then save 6 n^2 m FLOP, n the smaller side, and spend at most 4. The positions are found by a pass without data.
    """
    found: set[str] = set()
    tensors = (*network.parameters(), *network.buffers())
    shapes = {id(x): torch.empty_like(x, device="meta", dtype=torch.float32) for x in tensors}
    twin = copy.deepcopy(network, shapes)  # of the modules alone: what is in `shapes` counts as copied
    for name, module in twin.named_modules():
        if isinstance(module, FactoredConv2d):

            def look(module: FactoredConv2d, x: object, y: Tensor, name: str = name) -> None:
                positions, longer = y.numel() // y.shape[1], max(module.weight.flatten(1).shape)
                if (not module.is_tall or module.kernel_size == (1, 1)) and 2 * positions <= longer:
                    found.add(name)

            module.register_forward_hook(look)
    with torch.no_grad():
        twin(torch.empty(images, device="meta", dtype=torch.float32))
    return found
