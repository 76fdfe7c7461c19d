"""The perceptron: the least model, and what any other has to beat."""

from __future__ import annotations

from torch import nn

from swath.registry import registered


@registered("model")
def perceptron(bands: int, classes: int) -> nn.Module:
    """A linear map of a pixel's bands: (batch, band, y, x) -> (batch, class, y, x).

    Source:
        Rosenblatt: The perceptron, Psychological Review 65 (6), 1958 (doi:10.1037/h0042519), with
        one unit a class and a softmax in place of the threshold.
    """
    return nn.Conv2d(bands, classes, kernel_size=1)
