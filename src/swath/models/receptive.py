"""The arithmetic of windows: how large a layer's answer is, and how far a unit sees."""

from __future__ import annotations

from collections.abc import Iterable


def output_side(
    side: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """The side of a convolution's or pooling's answer to an image of some side, all in pixels.

    Source:
        Dumoulin, Visin: A guide to convolution arithmetic for deep learning, 2016
        (arXiv:1603.07285), relationship 15.
    """
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> int:
    """The side of the square of pixels that a unit after some layers sees.

    Args:
        layers: kernel, stride and dilation of each convolution or pooling, from the first on.

    Source:
        Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks, Distill,
        2019 (doi:10.23915/distill.00021), equation 2.
    """
    seen, step = 1, 1
    for kernel, stride, dilation in layers:
        seen += (kernel - 1) * dilation * step
        step *= stride
    return seen
