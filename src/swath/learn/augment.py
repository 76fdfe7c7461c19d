"""Augmentation of whole batches, on whatever device they lie.

What is drawn comes from the generator that is given and from the host alone, so a batch is
augmented alike on every device. Images are normalised before: 0 is the mean of a band, so no-data
and a dropped band say nothing, also where they are mixed with another patch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from swath.data.card import UNLABELLED

Batch = tuple[Tensor, Tensor]


def augmented(
    image: Tensor,
    label: Tensor,
    generator: np.random.Generator,
    *,
    classes: int,
    flip: bool = False,
    turn: bool = False,
    crop_px: int | None = None,
    band_dropout: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Batch:
    """A batch augmented: cropped, flipped and turned, mixed, and robbed of bands, in this order.

    Args:
        image: (patch, band, y, x), normalised; its memory may be used.
        label: (patch,), (patch, class) or (patch, y, x); moves with the image where by pixel.
        generator: of all that is drawn.
        classes: number of classes, for labels mixed.
        flip: flips along both axes, each with probability one half.
        turn: quarter turns likewise, by an exchange of the axes.
        crop_px: side of the part that is cut out of each patch, each at its own place.
        band_dropout: probability of each band of each patch to be set to its mean; one stays.
        mixup: α of Zhang et al. 2018 (arXiv:1710.09412), for labels by patch; 0 mixes none.
        cutmix: α of Yun et al. 2019 (arXiv:1905.04899); 0 mixes none. If both are given, a draw
            decides by batch.

    Returns:
        Image and label; a label by patch is float32 (patch, class) where batches are mixed.
    """
    if crop_px is not None:
        image, label = cropped(image, label, crop_px, generator)
    if flip or turn:
        image, label = moved(image, label, flip, turn, generator)
    if mixup or cutmix:
        image, label = mixed(image, label, classes, mixup, cutmix, generator)
    if band_dropout:
        image.masked_fill_(_to(dropped(image.shape[:2], band_dropout, generator), image), 0.0)
    return image, label


def cropped(image: Tensor, label: Tensor, side_px: int, generator: np.random.Generator) -> Batch:
    """A square of each patch, uniformly drawn among those within it."""
    patches = torch.arange(len(image), device=image.device)
    top, left = (
        _to(generator.integers(0, side - side_px + 1, len(image)), image)
        for side in image.shape[-2:]
    )

    def at(x: Tensor) -> Tensor:
        windows = x.unfold(-2, side_px, 1).unfold(-2, side_px, 1)  # (…, top, left, y, x): a view
        return windows[patches, ..., top, left, :, :]

    return at(image), at(label) if label.ndim == 3 else label


def moved(
    image: Tensor, label: Tensor, flip: bool, turn: bool, generator: np.random.Generator
) -> Batch:
    """Some patches flipped or turned, and their labels by pixel with them.

    Flips along both axes and an exchange of the axes give, in half of the cases each, all eight
    symmetries of a square: land has no up, and the shadow of the sun is the price.
    """
    # Bit 0: x is flipped, 1: y is flipped, 2: the axes are exchanged after it.
    ways = generator.integers(0, 8, len(image)) & (3 * flip | 4 * turn)
    move = _one_by_one if image.device.type == "cpu" else _in_groups
    for x in (image, label) if label.ndim == 3 else (image,):
        move(x, ways)
    return image, label


def _one_by_one(x: Tensor, ways: NDArray[np.int64]) -> None:
    """For a CPU: each patch while it is in the cache. numpy, as threads cost more than they do."""
    for patch, way in zip(x.numpy(), ways.tolist(), strict=True):
        if way:
            moved = patch[..., :: -1 if way & 2 else 1, :: -1 if way & 1 else 1]
            patch[...] = moved.swapaxes(-1, -2) if way & 4 else moved


def _in_groups(x: Tensor, ways: NDArray[np.int64]) -> None:
    """For a GPU: all patches that move alike at once."""
    for way in range(1, 8):
        which = np.flatnonzero(ways == way)
        if len(which):
            chosen = _to(which, x)
            moved = x[chosen].flip([-1 - bit for bit in (0, 1) if way >> bit & 1])
            x[chosen] = moved.transpose(-1, -2) if way & 4 else moved


def mixed(
    image: Tensor,
    label: Tensor,
    classes: int,
    mixup: float,
    cutmix: float,
    generator: np.random.Generator,
) -> Batch:
    """Each patch mixed with another of the batch, and its label likewise."""
    others = _to(generator.permutation(len(image)), image)
    paste = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if paste else mixup
    share = float(generator.beta(alpha, alpha))
    if paste:
        rows, columns = box(image.shape[-2], image.shape[-1], share, generator)
        for x in (image, label) if label.ndim == 3 else (image,):
            inside = x[..., rows, columns]
            inside.copy_(inside[others])
        if label.ndim == 3:
            return image, label
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - pasted / (image.shape[-2] * image.shape[-1])
    else:
        other = image[others]
        image = image.mul_(share).add_(other, alpha=1 - share)
    soft = one_hot(label, classes) if label.ndim == 1 else label
    return image, share * soft + (1 - share) * soft[others]


def box(
    height: int, width: int, share: float, generator: np.random.Generator
) -> tuple[slice, slice]:
    """The rows and columns that cutmix pastes: 1 - share of the area, cut at the patch's edge.

    Source:
        Yun et al. 2019, equation 2: a side of √(1 - share) of the patch's, its centre uniform.
    """
    sides = []
    for whole in (height, width):
        half = whole * np.sqrt(1 - share) / 2
        centre = generator.uniform(0, whole)
        sides.append(slice(max(0, round(centre - half)), min(whole, round(centre + half))))
    return sides[0], sides[1]


def dropped(
    shape: tuple[int, ...], probability: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Which bands are dropped, (patch, band, 1, 1): each by its own draw, of each patch not all."""
    draws = generator.random(shape)
    gone = draws < probability
    gone[np.arange(len(gone)), draws.argmax(axis=1)] = False
    return gone[:, :, None, None]


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Labels (patch,) as shares (patch, class); an unlabelled patch has none."""
    known = label != UNLABELLED
    return F.one_hot(label.where(known, 0), classes).float() * known[:, None]


def _to(drawn: NDArray[np.generic], image: Tensor) -> Tensor:
    return torch.from_numpy(drawn).to(image.device)
