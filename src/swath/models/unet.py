"""U-Net: a label for each pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.registry import Count, Share, registered


@registered("model")
def unet(
    bands: int, classes: int, *, width: Count = 16, depth: Count = 3, dropout: Share = 0.0
) -> nn.Module:
    """U-Net: (batch, band, y, x) -> (batch, class, y, x), for a window of any sides.

    Sides that are no multiples of 2^depth are padded with zeros inside, and cut again.

    Args:
        bands: number of input bands.
        classes: number of classes.
        width: channels at full resolution; doubled at each halving.
        depth: number of halvings.
        dropout: share of the channels at the lowest resolution that is dropped in training, where
            the paper has its dropout.

    Source:
        Ronneberger, Fischer, Brox: U-Net, MICCAI 2015 (doi:10.1007/978-3-319-24574-4_28), figure 1;
        with padded convolutions and batch normalisation, so that the output has the input's size.
    """
    return _UNet(bands, classes, width, depth, dropout)


class _UNet(nn.Module):
    def __init__(self, bands: int, classes: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _double(inputs, outputs)
            for inputs, outputs in zip([bands, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.rise = nn.ModuleList(
            nn.ConvTranspose2d(w * 2, w, kernel_size=2, stride=2) for w in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(_double(w * 2, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        step = 2 ** len(self.rise)
        x = F.pad(x, (0, -width % step, 0, -height % step))
        passed = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            passed.append(x)
        x = self.dropout(x)
        for rise, block, across in zip(self.rise, self.up, reversed(passed[:-1]), strict=True):
            x = block(torch.cat([rise(x), across], dim=1))
        y: Tensor = self.head(x)
        return y[..., :height, :width]


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
