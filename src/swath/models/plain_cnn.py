"""The convolutional network of the textbooks: convolution, pooling, fully connected layers."""

from __future__ import annotations

from typing import Literal

from torch import nn

from swath.models.activations import activated
from swath.models.local import LocallyConnected2d
from swath.models.mlp import FirstLinear
from swath.registry import Activation, Count, Share, registered


@registered("model")
def plain_cnn(
    bands: int,
    classes: int,
    *,
    widths: list[Count] = [16, 32],  # noqa: B006
    kernel_px: Count = 3,
    pool_px: Count = 2,
    sharing: bool = True,
    padding: Literal["zeros", "circular"] = "zeros",
    places: Literal["kept", "maximum", "mean"] = "kept",
    hidden: list[Count] = [64],  # noqa: B006
    activation: Activation = "relu",
    dropout: Share = 0.0,
) -> nn.Module:
    """Convolutions and fully connected layers: (batch, band, y, x) -> (batch, class).

    Convolution, activation and pooling in turn, then fully connected layers, for one label a patch.
    Takes patches of any side; where places are kept or weights are not shared, from the first one
    on of that side alone.

    Args:
        bands: number of input bands.
        classes: number of classes.
        widths: channels of each convolution, which keeps the side.
        kernel_px: side of its window.
        pool_px: side of the squares of whose values the largest is kept after it; 1 pools nothing.
        sharing: whether a convolution has the same weights at all places. Without it, it is a
            locally connected layer.
        padding: what convolutions see beyond the border: zeros, or the opposite side.
        places: what the fully connected layers are told of each map: all its places, or its maximum
            or mean over them.
        hidden: units of each hidden fully connected layer.
        activation: what follows each layer but the last.
        dropout: share of each hidden fully connected layer that is dropped in training.

    Source:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition,
        Proceedings of the IEEE 86 (11), 1998 (doi:10.1109/5.726791), section II, with maxima in
        place of weighted means.
    """
    layers: list[nn.Module] = []
    inputs = bands
    for outputs in widths:
        if sharing:
            layers.append(
                nn.Conv2d(inputs, outputs, kernel_px, padding="same", padding_mode=padding)
            )
        else:
            layers.append(LocallyConnected2d(inputs, outputs, kernel_px, padding=padding))
        layers += [activated(activation), nn.MaxPool2d(pool_px, ceil_mode=True)]
        inputs = outputs
    if places != "kept":
        layers.append(nn.AdaptiveMaxPool2d(1) if places == "maximum" else nn.AdaptiveAvgPool2d(1))
    layers.append(nn.Flatten())
    # Only kept places leave open how many values there are.
    units = 0 if places == "kept" else inputs
    for count in hidden:
        layers.append(nn.Linear(units, count) if units else FirstLinear(count))
        layers += [activated(activation), nn.Dropout(dropout)]
        units = count
    layers.append(nn.Linear(units, classes) if units else FirstLinear(classes))
    return nn.Sequential(*layers)
