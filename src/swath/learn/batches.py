"""Batches for training: gathered from the memory map, normalised and augmented a batch at a time.

There are no worker processes: one indexed copy out of the map takes less time than handing a batch
from one process to another. Order and augmentation depend on the seed, the epoch and the batch
alone, so a run that goes on after a kill sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.data.patchset import PatchSet

Batch = tuple[Tensor, Tensor]


class Batches:
    """The batches of one part of a split, epoch by epoch.

    Args:
        patches: the patch set.
        which: numbers of the patches of the part.
        batch_size: patches a batch; the last may be smaller.
        mean: mean of each band over the training part, in stored units.
        std: standard deviation likewise.
        seed: of the order and the augmentation; None keeps the given order.
        augment: `flip` (both axes) and `turn` (quarter turns), each with probability one half.
    """

    def __init__(
        self,
        patches: PatchSet,
        which: NDArray[np.int64],
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int | None = None,
        augment: Sequence[str] = (),
    ) -> None:
        self.patches, self.which, self.batch_size = patches, which, batch_size
        self.seed, self.augment = seed, tuple(augment)
        self.epoch = 0
        self.normalise = Normalise(mean, std, patches.facts["nodata"])

    def __len__(self) -> int:
        return -(-len(self.which) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self.which
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        for number in range(len(self)):
            chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
            image = self.normalise(self.patches.image.gather(chosen))
            label = torch.from_numpy(self.patches.label.gather(chosen).astype(np.int64))
            if self.seed is not None and self.augment:
                generator = np.random.default_rng((self.seed, self.epoch, number))
                image, label = augmented(image, label, self.augment, generator)
            yield image, label
        self.epoch += 1


class Normalise:
    """(x - mean) / std by band, as float32; no-data becomes the mean, which says nothing."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], nodata: float | None) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self.scale = 1 / torch.tensor(std, dtype=torch.float32).clamp(min=1e-6)[:, None, None]
        self.nodata = nodata

    def __call__(self, pixels: NDArray[np.generic]) -> Tensor:
        """Stored pixels (…, band, y, x) as the network sees them."""
        image = torch.from_numpy(pixels.astype(np.float32))
        absent = None if self.nodata is None else image == self.nodata
        image.sub_(self.mean).mul_(self.scale)
        return image if absent is None else image.masked_fill_(absent, 0.0)


def augmented(
    image: Tensor, label: Tensor, ways: Sequence[str], generator: np.random.Generator
) -> Batch:
    """The batch with some patches flipped or turned, and their labels by pixel with them.

    Flips along both axes and an exchange of the axes give, in half of the cases each, all eight
    symmetries of a square: land has no up, and the shadow of the sun is the price.
    """
    operations = []
    if "flip" in ways:
        operations += [lambda x: x.flip(-1), lambda x: x.flip(-2)]
    if "turn" in ways:
        operations += [lambda x: x.transpose(-1, -2)]
    for operation in operations:
        chosen = torch.from_numpy(generator.random(len(image)) < 0.5)
        image[chosen] = operation(image[chosen])
        if label.ndim > 1:
            label[chosen] = operation(label[chosen])
    return image, label
