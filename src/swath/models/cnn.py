"""A compact residual network for patches of about 64 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swath.registry import Count, Share, registered


@registered("model")
def cnn(
    bands: int,
    classes: int,
    *,
    width: Count = 32,
    blocks: Count = 2,
    dropout: Share = 0.2,
) -> nn.Module:
    """A residual network for one label a patch: (batch, band, y, x) -> (batch, class).

    A strided stem, then three stages of residual blocks of width, 2·width and 4·width channels,
    global average pooling and a linear classifier. Batch normalisation in place of biases.

    Args:
        bands: number of input bands.
        classes: number of classes.
        width: channels of the first stage.
        blocks: residual blocks a stage.
        dropout: share of the pooled features that is dropped in training.

    Source:
        He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016
        (doi:10.1109/CVPR.2016.90), figure 2 and section 4.2, with fewer stages.
    """
    layers: list[nn.Module] = [convolution(bands, width, stride=2), nn.ReLU(inplace=True)]
    channels = width
    for stage in range(3):
        for block in range(blocks):
            out = width * 2**stage
            layers.append(_Residual(channels, out, stride=2 if stage and not block else 1))
            channels = out
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels, classes),
    )


def convolution(inputs: int, outputs: int, *, stride: int = 1, side: int = 3) -> nn.Sequential:
    """A convolution that keeps the side, but for its stride, and the normalisation after it."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Residual(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, stride=stride),
            nn.ReLU(inplace=True),
            convolution(outputs, outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same else convolution(inputs, outputs, stride=stride, side=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))
