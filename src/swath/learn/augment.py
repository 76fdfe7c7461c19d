"""Augmentation of whole batches, on whatever device they lie.

What is drawn comes from the generator that is given and from the host alone, for a whole batch: it
is augmented alike on every device, and by processes that each have a share of it. Images are
normalised before: 0 is the mean of a band, so no-data and a dropped band say nothing, also where
they are mixed with another patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from swath.data.card import UNLABELLED

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Drawn:
    """What is drawn for a whole batch, before a patch of it is loaded; None is left out."""

    corners: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    """Upper and left edge of each patch's crop."""
    crop_px: int = 0
    ways: NDArray[np.int64] | None = None
    """How each patch is moved; bit 0: x is flipped, 1: y is, 2: the axes are exchanged after it."""
    others: NDArray[np.int64] | None = None
    """Which patch of the batch each is mixed with."""
    share: float = 1.0
    """What a patch keeps of itself then."""
    pasted: tuple[slice, slice] | None = None
    """Rows and columns that the other gives; None blends all of both."""
    noise: NDArray[np.float32] | None = None
    """What is added to each pixel, (patch, band, y, x)."""
    gone: NDArray[np.bool_] | None = None
    """Which bands are dropped, (patch, band, 1, 1)."""

    def rows(self, own: slice, patches: int) -> NDArray[np.int64]:
        """The patches that are needed for some of the batch: these, then whom they are mixed with.

        Args:
            own: those wanted, of the batch.
            patches: in the batch.
        """
        rows = np.arange(patches)[own]
        if self.others is None:
            return rows
        return np.concatenate([rows, np.setdiff1d(self.others[own], rows)])


def draw(
    shape: Sequence[int],
    generator: np.random.Generator,
    *,
    flip: bool = False,
    turn: bool = False,
    crop_px: int | None = None,
    band_dropout: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    noise: float = 0.0,
) -> Drawn:
    """How a batch is augmented: cropped, flipped and turned, mixed, given noise, robbed of bands,
    in this order.

    Flips along both axes and an exchange of the axes give, in half of the cases each, all eight
    symmetries of a square: land has no up, and the shadow of the sun is the price.

    Args:
        shape: of the batch, (patch, band, y, x).
        generator: of all that is drawn.
        flip: flips along both axes, each with probability one half.
        turn: quarter turns likewise, by an exchange of the axes.
        crop_px: side of the part that is cut out of each patch, uniformly drawn for each.
        band_dropout: probability of each band of each patch to be set to its mean; one stays.
        mixup: α of Zhang et al. 2018 (arXiv:1710.09412), for labels by patch; 0 mixes none.
        cutmix: α of Yun et al. 2019 (arXiv:1905.04899); 0 mixes none. If both are given, a draw
            decides by batch.
        noise: standard deviation of what is added to every pixel, in those of its band.
    """
    patches, bands, height, width = shape
    found: dict[str, Any] = {}
    if crop_px is not None:
        top, left = (generator.integers(0, px - crop_px + 1, patches) for px in (height, width))
        found |= {"corners": (top, left), "crop_px": crop_px}
        height = width = crop_px
    if flip or turn:
        found["ways"] = generator.integers(0, 8, patches) & (3 * flip | 4 * turn)
    if mixup or cutmix:
        found["others"] = generator.permutation(patches)
        paste = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
        alpha = cutmix if paste else mixup
        found["share"] = float(generator.beta(alpha, alpha))
        if paste:
            rows, columns = found["pasted"] = box(height, width, found["share"], generator)
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            found["share"] = 1 - area / (height * width)
    if noise:
        shape = (patches, bands, height, width)
        found["noise"] = np.float32(noise) * generator.standard_normal(shape, np.float32)
    if band_dropout:
        found["gone"] = dropped((patches, bands), band_dropout, generator)
    return Drawn(**found)


def augmented(
    image: Tensor, label: Tensor, drawn: Drawn, rows: NDArray[np.int64], own: int, *, classes: int
) -> Batch:
    """Patches of a batch, augmented as it was drawn.

    Args:
        image: (patch, band, y, x), normalised; its memory may be used.
        label: (patch,), (patch, class) or (patch, y, x); moves with the image where by pixel.
        drawn: what was drawn for the whole batch.
        rows: which of the batch these patches are.
        own: how many of them are wanted; the rest are those with which they are mixed.
        classes: number of classes, for labels mixed.

    Returns:
        Image and label; a label by patch is float32 (patch, class) where batches are mixed.
    """
    if drawn.corners is not None:
        top, left = drawn.corners
        image, label = cropped(image, label, drawn.crop_px, top[rows], left[rows])
    if drawn.ways is not None:
        move = _one_by_one if image.device.type == "cpu" else _in_groups
        for x in (image, label) if label.ndim == 3 else (image,):
            move(x, drawn.ways[rows])
    if drawn.others is not None:
        at = np.empty(len(drawn.others), np.int64)
        at[rows] = np.arange(len(rows))
        others = _to(at[drawn.others[rows[:own]]], image)
        image, label = mixed(image, label, others, drawn.share, drawn.pasted, classes)
    if drawn.noise is not None:
        image.add_(_to(drawn.noise[rows[:own]], image))
    if drawn.gone is not None:
        image.masked_fill_(_to(drawn.gone[rows[:own]], image), 0.0)
    return image, label


def cropped(
    image: Tensor,
    label: Tensor,
    side_px: int,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
) -> Batch:
    """A square of each patch, at its own place."""
    patches = torch.arange(len(image), device=image.device)
    above, before = _to(top, image), _to(left, image)

    def at(x: Tensor) -> Tensor:
        windows = x.unfold(-2, side_px, 1).unfold(-2, side_px, 1)  # (…, top, left, y, x): a view
        return windows[patches, ..., above, before, :, :]

    return at(image), at(label) if label.ndim == 3 else label


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
    others: Tensor,
    share: float,
    pasted: tuple[slice, slice] | None,
    classes: int,
) -> Batch:
    """The first patches, each mixed with another, and their labels likewise.

    Args:
        image: (patch, band, y, x).
        label: as in `augmented`.
        others: with whom each of the first patches is mixed.
        share: what each keeps of itself.
        pasted: rows and columns that the other gives; None blends.
        classes: number of classes.
    """
    own = len(others)
    if pasted:
        for x in (image, label) if label.ndim == 3 else (image,):
            inside = x[..., pasted[0], pasted[1]]
            inside[:own] = inside[others]
        if label.ndim == 3:
            return image[:own], label[:own]
    else:
        other = image[others]
        image = image[:own].mul_(share).add_(other, alpha=1 - share)
    soft = one_hot(label, classes) if label.ndim == 1 else label
    mixed = share * soft[:own] + (1 - share) * soft[others]
    if label.ndim > 1:  # of several labels, one that is not known makes no part of one
        unknown = (soft[:own] == UNLABELLED) | (soft[others] == UNLABELLED)
        mixed = mixed.masked_fill(unknown, float(UNLABELLED))
    return image[:own], mixed


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
