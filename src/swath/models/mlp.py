"""Multilayer perceptrons: on whole patches, and on each pixel's bands."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from swath.models.activations import activated
from swath.registry import Activation, Count, Share, registered


@registered("model")
def mlp(
    bands: int,
    classes: int,
    *,
    hidden: list[Count] = [256, 128],  # noqa: B006
    activation: Activation = "relu",
    normalise: bool = True,
    dropout: Share = 0.2,
    init: Literal["default", "small", "xavier", "he"] = "default",
    residual: bool = False,
) -> nn.Module:
    """A multilayer perceptron on all values of a patch: (batch, band, y, x) -> (batch, class).

    Takes patches of any side, and from the first one on of that side alone: how many values they
    have is learnt from it.

    Args:
        bands: number of input bands.
        classes: number of classes.
        hidden: units of each hidden layer; none makes it a perceptron of the patch.
        activation: what follows each hidden layer.
        normalise: whether hidden layers are normalised over the batch, before their activation.
        dropout: share of each hidden layer that is dropped in training.
        init: how weights begin, by `begin`.
        residual: whether what a hidden layer makes is added to its input, where it has as many
            units as the layer before.

    Source:
        Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature
        323, 1986 (doi:10.1038/323533a0);
        Ioffe, Szegedy: Batch Normalization, ICML 2015 (arXiv:1502.03167);
        Srivastava et al.: Dropout, JMLR 15, 2014;
        He, Zhang, Ren, Sun: Deep Residual Learning, CVPR 2016 (arXiv:1512.03385), equation 1.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 0
    for units in hidden:
        layer: list[nn.Module] = [_linear(inputs, units, init)]
        if normalise:
            layer.append(nn.BatchNorm1d(units))
        layer += [activated(activation), nn.Dropout(dropout)]
        layers += [_Added(*layer)] if residual and inputs == units else layer
        inputs = units
    layers.append(_linear(inputs, classes, init))
    return nn.Sequential(*layers)


def begin(layer: nn.Linear, init: str) -> None:
    """Draw the weights with which a layer begins, where its inputs are known.

    `default` leaves those of torch: uniform in ±1/√n for n inputs, a variance of 1/(3n). `small`
    draws from a normal distribution of deviation 0.01, as was usual before; `xavier` with the
    variance 2/(n + m) for m outputs, which keeps that of a linear layer's answers and gradients;
    `he` with 2/n, since a ReLU lets half of it through. Biases then begin at 0.

    Source:
        Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks,
        AISTATS 2010, equation 12;
        He, Zhang, Ren, Sun: Delving Deep into Rectifiers, ICCV 2015 (arXiv:1502.01852), equation
        10; torch.nn.Linear.
    """
    if init == "default":
        return
    n, m = layer.in_features, layer.out_features
    deviation = {"small": 0.01, "xavier": (2 / (n + m)) ** 0.5, "he": (2 / n) ** 0.5}[init]
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)


def _linear(inputs: int, outputs: int, init: str) -> nn.Module:
    """A layer that has begun; where its inputs are not known yet, it does so by itself."""
    if not inputs:
        return FirstLinear(outputs, init)
    layer = nn.Linear(inputs, outputs)
    begin(layer, init)
    return layer


@registered("model")
def spectral_mlp(
    bands: int,
    classes: int,
    *,
    hidden: list[Count] = [128, 64],  # noqa: B006
    activation: Activation = "relu",
    normalise: bool = True,
    dropout: Share = 0.2,
) -> nn.Module:
    """A multilayer perceptron on each pixel's bands: (batch, band, y, x) -> (batch, class, y, x).

    The same weights for every pixel (convolutions of 1 x 1), so any window will do.

    Args:
        bands: number of input bands.
        classes: number of classes.
        hidden: units of each hidden layer; none makes it the perceptron.
        activation: what follows each hidden layer.
        normalise: whether hidden layers are normalised over the pixels of the batch, before their
            activation.
        dropout: share of each pixel's hidden units that is dropped in training.

    Source:
        Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature
        323, 1986 (doi:10.1038/323533a0), with the additions of `mlp`.
    """
    layers: list[nn.Module] = []
    inputs = bands
    for units in hidden:
        layers.append(nn.Conv2d(inputs, units, 1))
        if normalise:
            layers.append(nn.BatchNorm2d(units))
        layers += [activated(activation), nn.Dropout(dropout)]
        inputs = units
    return nn.Sequential(*layers, nn.Conv2d(inputs, classes, 1))


class FirstLinear(nn.LazyLinear):
    """A linear layer that learns the number of its inputs from the first patch, or its weights."""

    def __init__(self, outputs: int, init: str = "default") -> None:
        super().__init__(outputs)
        self.init = init

    def initialize_parameters(self, *given: Any) -> None:
        """Draw the weights for so many inputs as the first patch has."""
        # Training tries the network on an empty patch in inference mode; weights that were made
        # there could not be trained.
        with torch.inference_mode(False):
            was_unknown = self.has_uninitialized_params()
            super().initialize_parameters(*given)
            if was_unknown:
                begin(self, self.init)


class _Added(nn.Sequential):
    """Layers whose answer is added to what they are given."""

    def forward(self, given: Tensor) -> Tensor:
        """(batch, unit) -> (batch, unit)"""
        made: Tensor = super().forward(given)
        return given + made
