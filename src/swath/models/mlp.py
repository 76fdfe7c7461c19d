"""Multilayer perceptrons: on whole patches, and on each pixel's bands."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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

    Source:
        Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, Nature
        323, 1986 (doi:10.1038/323533a0);
        Ioffe, Szegedy: Batch Normalization, ICML 2015 (arXiv:1502.03167);
        Srivastava et al.: Dropout, JMLR 15, 2014.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = 0
    for units in hidden:
        layers.append(nn.Linear(inputs, units) if inputs else FirstLinear(units))
        if normalise:
            layers.append(nn.BatchNorm1d(units))
        layers += [activated(activation), nn.Dropout(dropout)]
        inputs = units
    layers.append(nn.Linear(inputs, classes) if inputs else FirstLinear(classes))
    return nn.Sequential(*layers)


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

    def initialize_parameters(self, *given: Any) -> None:
        """Draw the weights for so many inputs as the first patch has."""
        # Training tries the network on an empty patch in inference mode; weights that were made
        # there could not be trained.
        with torch.inference_mode(False):
            super().initialize_parameters(*given)
