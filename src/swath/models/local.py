"""Local connection without sharing: a convolution whose filters differ from place to place."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

Padding = Literal["zeros", "circular"]


class LocallyConnected2d(LazyModuleMixin, nn.Module):
    """(batch, channel, y, x) -> (batch, output, y, x), with weights of its own at each place.

    It sees what a convolution of the same kernel sees, and keeps the side as that does with
    `padding="same"`. How many places there are is learnt from the first image; from then on it
    takes images of that side alone. At S places it has S·(C·k² + 1)·F parameters, where a
    convolution has (C·k² + 1)·F.

    Args:
        inputs: channels C of the image.
        outputs: channels F of the answer.
        kernel_px: side k of the window.
        padding: what lies beyond the border: zeros, or the opposite side of the image.

    Source:
        LeCun: Generalization and Network Design Strategies, Technical Report CRG-TR-89-4,
        University of Toronto, 1989, networks 3 to 5.
    """

    cls_to_become = None
    weight: UninitializedParameter
    """(place, channel · kernel y · kernel x, output)"""
    bias: UninitializedParameter
    """(place · output)"""

    def __init__(
        self, inputs: int, outputs: int, kernel_px: int, *, padding: Padding = "zeros"
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.kernel_px, self.padding = (
            inputs, outputs, kernel_px, padding,
        )  # fmt: skip
        self.weight = UninitializedParameter()
        self.bias = UninitializedParameter()

    def initialize_parameters(self, image: Tensor, *_: Any) -> None:
        """Draw the weights for the places of an image, as torch draws those of a convolution."""
        if not self.has_uninitialized_params():
            return
        seen = self.inputs * self.kernel_px**2
        places = image.shape[-2] * image.shape[-1]
        # Training tries the network on an empty patch in inference mode; weights that were made
        # there could not be trained.
        with torch.inference_mode(False), torch.no_grad():
            self.weight.materialize((places, seen, self.outputs))
            self.bias.materialize((places * self.outputs,))
            for values in (self.weight, self.bias):
                values.uniform_(-1 / math.sqrt(seen), 1 / math.sqrt(seen))

    def forward(self, image: Tensor) -> Tensor:
        """The answer at each place, from the window around it."""
        before = (self.kernel_px - 1) // 2
        after = self.kernel_px - 1 - before
        mode = "constant" if self.padding == "zeros" else "circular"
        padded = F.pad(image, (before, after, before, after), mode=mode)
        windows = F.unfold(padded, self.kernel_px)  # (batch, channel · kernel y · kernel x, place)
        answer = torch.einsum("bcp,pcf->bfp", windows, self.weight)
        answer = answer + self.bias.view(-1, self.outputs).T
        return answer.unflatten(2, image.shape[-2:])
