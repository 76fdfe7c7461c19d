"""A modern residual network for small patches, trained from scratch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from swath.models.cnn import convolution
from swath.models.stochastic_depth import StochasticDepth, rates
from swath.registry import Count, Share, registered


@registered("model")
def resnet(
    bands: int,
    classes: int,
    *,
    width: Count = 64,
    blocks: list[Count] = [2, 2, 2, 2],  # noqa: B006
    stem_stride: Literal[1, 2] = 2,
    squeeze: Share = 0.0625,
    drop_path: Share = 0.1,
    dropout: Share = 0.2,
) -> nn.Module:
    """A residual network for one label a patch: (batch, band, y, x) -> (batch, class).

    Three convolutions of 3 x 3 px halve the side once (a patch of 64 px has no pixels to spare for
    the usual four-fold stem); then stages of residual blocks, each of half the side and twice the
    channels of the one before; global average pooling and a linear classifier. Any side will do,
    since a side of 1 px is halved to 1 px.

    Shortcuts that halve the side average 2 x 2 px before their 1 x 1 convolution, so that no pixel
    is skipped. The last normalisation of each block begins with scale 0: at the start every block
    is its shortcut, and a deep network trains as easily as a shallow one.

    Args:
        bands: number of input bands.
        classes: number of classes.
        width: channels of the first stage; the stem has half as many.
        blocks: residual blocks of each stage.
        stem_stride: by what the stem divides the side; 1 sees finer detail at four times the work.
        squeeze: width of the gates of squeeze-and-excitation, as share of the channels that they
            weigh; 0 has no gates.
        drop_path: share of the patches for which the last block is left out in training; less for
            the blocks before it.
        dropout: share of the pooled features that is dropped in training.

    Source:
        He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016
        (doi:10.1109/CVPR.2016.90), the 18-layer network of table 1;
        He et al.: Bag of Tricks for Image Classification, CVPR 2019 (arXiv:1812.01187), section
        4 (ResNet-D) and section 3.1 (scale 0), with stride 2 in the stem's second convolution and
        no pooling after it;
        Hu, Shen, Sun: Squeeze-and-Excitation Networks, CVPR 2018 (arXiv:1709.01507), figure 3;
        Huang et al.: Deep Networks with Stochastic Depth, ECCV 2016 (arXiv:1603.09382);
        He et al.: Delving Deep into Rectifiers, ICCV 2015 (arXiv:1502.01852), equation 14, for the
        weights at the start.
    """
    narrow = max(1, width // 2)
    layers: list[nn.Module] = [
        convolution(bands, narrow),
        nn.ReLU(inplace=True),
        convolution(narrow, narrow, stride=stem_stride),
        nn.ReLU(inplace=True),
        convolution(narrow, width),
        nn.ReLU(inplace=True),
    ]
    rate = iter(rates(drop_path, sum(blocks)))
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers.append(_Residual(channels, width * 2**stage, stride, squeeze, next(rate)))
            channels = width * 2**stage
    network = nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(channels, classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class _Residual(nn.Module):
    """Two convolutions with their gate, and a shortcut; halves a side n to ⌈n / 2⌉ if asked to."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, squeeze: float, drop_path: float
    ) -> None:
        super().__init__()
        last = convolution(outputs, outputs)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]
        self.body = nn.Sequential(
            convolution(inputs, outputs, stride=stride), nn.ReLU(inplace=True), last
        )
        if squeeze:
            self.body.append(Gate(outputs, squeeze))
        self.body.append(StochasticDepth(drop_path))
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(2, ceil_mode=True))
        if inputs != outputs:
            self.shortcut.append(convolution(inputs, outputs, side=1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Gate(nn.Module):
    """Squeeze and excitation: channels (batch, channel, y, x), each weighed by a share.

    The shares come from the means of all channels through two layers, the first of
    `squeeze` · channels, at least 4.

    Source:
        arXiv:1709.01507, equations 2 to 4.
    """

    def __init__(self, channels: int, squeeze: float) -> None:
        super().__init__()
        hidden = max(4, round(channels * squeeze))
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The channels, weighed."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
