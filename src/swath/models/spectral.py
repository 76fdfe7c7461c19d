"""Networks for hyperspectral cubes: a label for each pixel, from 4 to 500 bands, of any window."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.registry import Count, Share, registered

PIXELS_AT_ONCE = 1 << 12
"""Pixels whose spectra `spectral_1d` convolves at a time when it is not trained: 3 MB of float32
for each filter at 220 bands, where a window of 320 px would take 80 MB."""


@registered("model")
def spectral_1d(
    bands: int,
    classes: int,
    *,
    filters: Count = 20,
    hidden: Count = 100,
    dropout: Share = 0.0,
) -> nn.Module:
    """Convolutions along each pixel's spectrum: (batch, band, y, x) -> (batch, class, y, x).

    One convolution over about a ninth of the bands, the maxima of at most 40 stretches, a hidden
    layer and a linear classifier, with the same weights for every pixel. Training holds all pixels
    of a batch, at 220 bands about 32 kB each: choose small patches.

    Args:
        bands: number of input bands.
        classes: number of classes.
        filters: filters of the convolution.
        hidden: units of the hidden layer.
        dropout: share of the hidden units that is dropped in training.

    Source:
        Hu, Huang, Wei, Zhang, Li: Deep Convolutional Neural Networks for Hyperspectral Image
        Classification, Journal of Sensors 2015 (doi:10.1155/2015/258619), section 3 (20 filters of
        about bands / 9, 30 to 40 stretches, 100 units); with rectifiers in place of tanh, batch
        normalisation, and filters of at least 3 bands.
    """
    return _OnSpectra(bands, classes, filters, hidden, dropout)


@registered("model")
def spectral_2d(
    bands: int,
    classes: int,
    *,
    width: Count = 64,
    blocks: Count = 2,
    dropout: Share = 0.1,
) -> nn.Module:
    """Pixels in their surroundings, by 2-D filters: (batch, band, y, x) -> (batch, class, y, x).

    A convolution of 1 x 1 mixes all bands to `width` channels; residual blocks of two convolutions
    of 3 x 3 at full resolution each see 2 px farther; another of 1 x 1 classifies.

    Args:
        bands: number of input bands.
        classes: number of classes.
        width: channels that the bands are reduced to.
        blocks: residual blocks.
        dropout: share of the channels of each pixel that is dropped before the classifier.

    Source:
        Makantasis, Karantzalos, Doulamis, Doulamis: Deep supervised learning for hyperspectral data
        classification through convolutional neural networks, IGARSS 2015
        (doi:10.1109/IGARSS.2015.7326945), who reduce by principal components; here the reduction
        is learnt, convolutions are padded so that each pixel is answered, and blocks are residual.
    """
    return nn.Sequential(
        nn.Conv2d(bands, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *(_Residual(width) for _ in range(blocks)),
        nn.Dropout(dropout),
        nn.Conv2d(width, classes, 1),
    )


@registered("model")
def hybrid_3d(
    bands: int,
    classes: int,
    *,
    reduced: Count = 15,
    width: Count = 8,
    hidden: Count = 128,
    dropout: Share = 0.4,
) -> nn.Module:
    """Each pixel by 3-D, then 2-D convolutions: (batch, band, y, x) -> (batch, class, y, x).

    A convolution of 1 x 1 reduces the bands; three convolutions of 3 x 3 px by 7, 5 and 3 of the
    reduced bands follow (of fewer where fewer are left), then one over space alone, and two layers
    on each pixel. The largest layers have 248 values a pixel, however many bands there are.

    Args:
        bands: number of input bands.
        classes: number of classes.
        reduced: bands after the reduction; where there are fewer, all stay.
        width: filters of the first 3-D convolution; the next have 2 and 4 times as many, the 2-D
            convolution 8 times.
        hidden: units of the first layer on each pixel; the second has half as many.
        dropout: share of the units of these two that is dropped in training.

    Source:
        Roy, Krishna, Dubey, Chaudhuri: HybridSN, IEEE GRSL 17 (2), 2020
        (doi:10.1109/LGRS.2019.2918719, arXiv:1902.06701), table I; with a learnt reduction in place
        of principal components, convolutions padded in space so that each pixel of a window is
        answered and not its centre alone, batch normalisation, and fewer hidden units.
    """
    return _Hybrid(bands, classes, min(reduced, bands), width, hidden, dropout)


class _OnSpectra(nn.Module):
    def __init__(self, bands: int, classes: int, filters: int, hidden: int, dropout: float) -> None:
        super().__init__()
        kernel = min(bands, max(3, math.ceil(bands / 9)))
        left = bands - kernel + 1
        stretch = math.ceil(left / 40)
        self.layers = nn.Sequential(
            nn.Conv1d(1, filters, kernel, bias=False),
            nn.BatchNorm1d(filters),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(stretch, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(filters * math.ceil(left / stretch), hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, bands, height, width = x.shape
        spectra = x.permute(0, 2, 3, 1).reshape(-1, 1, bands)
        # In training, statistics are those of all pixels together; else each is answered alone.
        pieces = [spectra] if self.training else spectra.split(PIXELS_AT_ONCE)
        answer = torch.cat([self.layers(piece) for piece in pieces])
        return answer.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """Two convolutions of 3 x 3 and their input: (batch, channel, y, x) -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class _Hybrid(nn.Module):
    def __init__(
        self, bands: int, classes: int, reduced: int, width: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(bands, reduced, 1)
        volumes: list[nn.Module] = []
        inputs, depth = 1, reduced
        for outputs, kernel in ((width, 7), (2 * width, 5), (4 * width, 3)):
            kernel = min(kernel, depth)
            volumes += [
                Convolution3d(inputs, outputs, kernel),
                nn.BatchNorm3d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs, depth = outputs, depth - kernel + 1
        self.volumes = nn.Sequential(*volumes)
        self.planes = nn.Sequential(
            nn.Conv2d(inputs * depth, 8 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.ReLU(inplace=True),
            nn.Conv2d(8 * width, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, max(1, hidden // 2), 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(max(1, hidden // 2), classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        volume = self.volumes(self.reduce(x).unsqueeze(1))  # (batch, channel, reduced band, y, x)
        answer: Tensor = self.planes(volume.flatten(1, 2))
        return answer


class Convolution3d(nn.Module):
    """(batch, channel, band, y, x) -> the same with `kernel` - 1 bands fewer; padded in space.

    Its weights are (output, input · kernel, 3, 3): `Module.to(memory_format=channels_last)` refuses
    any of five dimensions, as those of `nn.Conv3d`.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.inputs, self.kernel = inputs, kernel
        self.weight = nn.Parameter(torch.empty(outputs, inputs * kernel, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Conv3d begins

    def forward(self, x: Tensor) -> Tensor:
        """The volume, filtered."""
        weight = self.weight.unflatten(1, (self.inputs, self.kernel))
        return F.conv3d(x, weight, padding=(0, 1, 1))
