"""Test-time augmentation: answers averaged over the symmetries of a square."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class SymmetryAveraged(nn.Module):
    """A network that is asked eight times: flipped, turned, and both.

    Land has no up: all eight pictures are of the same class, and where a network is wrong about one
    of them the others outvote it. The answers are averaged before the softmax, those by pixel after
    they are moved back. The cost is eight times that of the network.

    Args:
        network: (batch, band, y, x) -> (batch, class) or (batch, class, y, x), of any two sides
            that it takes in the other order as well.

    Source:
        Simonyan, Zisserman: Very Deep Convolutional Networks, ICLR 2015 (arXiv:1409.1556), section
        3.2, who average over an image and its mirror image; here over the dihedral group D4.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The mean answer, in float32."""
        last = image.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        total: Tensor | None = None
        for axes, exchanged in itertools.product(((), (-1,), (-2,), (-2, -1)), (False, True)):
            moved = image.flip(axes)
            moved = moved.transpose(-2, -1) if exchanged else moved
            answer = self.network(moved.contiguous(memory_format=layout)).float()
            if answer.ndim == 4:
                answer = (answer.transpose(-2, -1) if exchanged else answer).flip(axes)
            total = answer if total is None else total + answer
        assert total is not None
        return total / 8
