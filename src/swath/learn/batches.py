"""Batches for training: out of the memory map, normalised and augmented a batch at a time.

There are no worker processes: a copy out of the map takes less time than handing a batch from one
process to another. Order and augmentation depend on the seed, the epoch and the batch alone, so a
run that goes on after a kill sees what it would have seen, in the middle of an epoch, too.

On a CPU each patch is cast straight from the map into the batch and normalised while it is in the
cache. For a GPU the stored integers are moved, which are fewer bytes, and the rest is done there.

Where several processes train one run, each loads its share of every batch, and of the others' no
more than the patches with which its own are mixed.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swath.data.patchset import PatchSet
from swath.learn.augment import Batch, Drawn, augmented, draw

BLOCK_BYTES = 16 << 20
"""Patches read in one go, where a set is larger than memory: a disk is fast in long pieces."""
BUFFER_BYTES = 512 << 20
"""What is shuffled together then; twice as much has to fit in memory beside the training."""
CACHE_BYTES = 256 << 10
"""Pixels are normalised in pieces of this size (float32): they are still in a core's L2 cache."""
PLANE_BYTES = 64 << 10
"""A band of this size and more is worth a step of its own."""
ROOMS = 4
"""Batches whose memory is used again: the one in work, the next, and what a step holds of them."""

# Bands, and their mean and scale.
_Step = tuple[Any, NDArray[np.float32], NDArray[np.float32]]


class Batches:
    """The batches of one part of a split, epoch by epoch.

    Args:
        patches: the patch set.
        which: numbers of the patches of the part.
        batch_size: patches a batch; the last may be smaller.
        mean: mean of each band over the training part, in stored units.
        std: standard deviation likewise.
        seed: of the order and the augmentation; None keeps the given order.
        shuffle: `full` draws one permutation, `blocks` reads a set larger than memory in long
            pieces (see `block_shuffled`).
        augment: settings of `swath.learn.augment.draw`.
        device: where batches are wanted.
        rank: of this process, which has its share of each batch (see `share`).
        processes: that train together.
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
        shuffle: Literal["full", "blocks"] = "full",
        augment: Mapping[str, Any] | None = None,
        device: str = "cpu",
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.rank, self.processes = rank, processes
        self.patches, self.which, self.batch_size = patches, which, batch_size
        self.seed, self.shuffle, self.augment = seed, shuffle, augment
        self.device = torch.device(device)
        self.normalise = Normalise(mean, std, patches.facts["nodata"])
        self.epoch = self.first = 0
        # Patches seen to be without no-data pixels: later epochs need not look again.
        self._clean = np.zeros(len(patches), bool)
        self._cold = True
        self._rooms: list[tuple[NDArray[np.float32], weakref.ref[NDArray[np.float32]]]] = []

    def __len__(self) -> int:
        return -(-len(self.which) // self.batch_size)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin with this batch of this epoch."""
        self.epoch, self.first = epoch, batch

    def patches_of(self, batch: int) -> int:
        """Patches in a batch, of all processes."""
        return min(self.batch_size, len(self.which) - batch * self.batch_size)

    def members(self, epoch: int, batch: int) -> NDArray[np.int64]:
        """Numbers of the patches of a batch."""
        begun = batch * self.batch_size
        return self._order(epoch)[0][begun : begun + self.batch_size]

    def __iter__(self) -> Iterator[Batch]:
        order, reading, ahead = self._order(self.epoch)
        begun = self.first * self.batch_size
        for number in range(self.first, len(self)):
            at = number * self.batch_size
            if ahead:
                soon = reading[at + ahead if at > begun else at : at + ahead + self.batch_size]
                self._announce(soon)
            elif self._cold:
                # The set fits in memory: have all of it soon, in long pieces.
                self._announce(reading[4 * (at - begun) :][: 4 * self.batch_size])
            # Whoever counts the batches, as Lightning does, never comes back after the last.
            self._cold = self._cold and number + 1 < len(self)
            yield self._batch(order[at : at + self.batch_size], number)
        self.start(self.epoch + 1)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """The patches in an epoch's order, in the order of reading, and how far that is ahead."""
        if self.seed is None:
            return self.which, self.which, 0
        generator = np.random.default_rng((self.seed, epoch))
        if self.shuffle == "full":
            return generator.permutation(self.which), np.sort(self.which), 0
        patch_bytes = max(1, _bytes(self.patches, self.which[:1]))
        block, buffer = (max(1, size // patch_bytes) for size in (BLOCK_BYTES, BUFFER_BYTES))
        order, reading = block_shuffled(self.which, block, buffer, generator)
        return order, reading, buffer

    def _announce(self, soon: NDArray[np.int64]) -> None:
        if len(soon) and hasattr(self.patches.image, "announce"):
            self.patches.image.announce(soon)

    def _batch(self, chosen: NDArray[np.int64], number: int) -> Batch:
        drawn = Drawn()
        if self.seed is not None and self.augment is not None:
            generator = np.random.default_rng((self.seed, self.epoch, number))
            drawn = draw((len(chosen), *self.patches.image.shape[1:]), generator, **self.augment)
        own = share(len(chosen), self.rank, self.processes)
        rows = drawn.rows(own, len(chosen))
        image = self._image(chosen[rows])
        stored = torch.from_numpy(self.patches.label.gather(chosen[rows]))
        # Several labels a patch are shares of classes, as mixed labels are; a target is a number.
        shares = stored.ndim == 2 or stored.is_floating_point()
        label = stored.to(self.device, torch.float32 if shares else torch.int64)
        classes = len(self.patches.classes)
        return augmented(image, label, drawn, rows, own.stop - own.start, classes=classes)

    def _image(self, chosen: NDArray[np.int64]) -> Tensor:
        source = self.patches.image
        if self.device.type != "cpu":
            return self.normalise.there(torch.from_numpy(source.gather(chosen)), self.device)
        out = self._memory(len(chosen))
        clean = self._clean[chosen].tolist()
        several = max(1, CACHE_BYTES // out[:1].nbytes)
        if several == 1 and hasattr(source, "views"):
            for n, (stored, to) in enumerate(zip(source.views(chosen), out, strict=True)):
                clean[n] = self.normalise.into(stored, to, clean[n])
        else:
            for begin in range(0, len(chosen), several):
                some = slice(begin, begin + several)
                stored = source.gather(chosen[some])
                found = self.normalise.into(stored, out[some], all(clean[some]))
                clean[some] = [found] * len(stored)
        self._clean[chosen] = clean
        return torch.from_numpy(out)

    def _memory(self, patches: int) -> NDArray[np.float32]:
        """Room for a batch: that of an earlier one, once nobody holds it any more.

        The system would hand out new pages for each batch, which costs as much as the copy itself.
        """
        shape = (self.batch_size, *self.patches.image.shape[1:])
        free = [room for room, lent in self._rooms if lent() is None]
        if not free and len(self._rooms) >= ROOMS:
            return np.empty((patches, *shape[1:]), np.float32)
        room = free[0] if free else np.empty(shape, np.float32)
        # The tensor of the batch, and all that share its memory, keep this view alive.
        view = room[:patches]
        self._rooms = [both for both in self._rooms if both[0] is not room]
        self._rooms.append((room, weakref.ref(view)))
        return view


def share(patches: int, rank: int, processes: int) -> slice:
    """Which patches of a batch a process has; of fewer than there are processes each has all."""
    if patches < processes:
        return slice(0, patches)
    return slice(rank * patches // processes, (rank + 1) * patches // processes)


def block_shuffled(
    which: NDArray[np.int64], block: int, buffer: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order that is random, and yet reads neighbours together.

    Blocks of neighbouring patches come in random order; so many of them as a buffer takes are
    shuffled together.

    Args:
        which: numbers of the patches.
        block: patches a block.
        buffer: patches that are shuffled together.
        generator: of the order.

    Returns:
        The order, and the order in which the blocks are read, which is that before the shuffling
        within the buffer.
    """
    blocks = np.split(np.sort(which), range(block, len(which), block))
    reading = np.concatenate([blocks[n] for n in generator.permutation(len(blocks))])
    groups = np.split(reading, range(buffer, len(reading), buffer))
    return np.concatenate([generator.permutation(group) for group in groups]), reading


class Normalise:
    """(x - mean) / std by band, as float32; no-data becomes the mean, which says nothing.

    No-data are pixels of the value that is declared, and NaN always.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], nodata: float | None) -> None:
        self.mean = np.array(mean, np.float32)[:, None, None]
        self.scale = np.reciprocal(np.array(std, np.float32).clip(min=1e-6))[:, None, None]
        self.nodata = nodata
        self._steps: dict[tuple[int, int], list[_Step]] = {}

    def __call__(self, stored: NDArray[Any]) -> Tensor:
        """Stored pixels (…, band, y, x) as the network sees them."""
        image = torch.empty(stored.shape)
        self.into(stored, image.numpy())
        return image

    def into(self, stored: NDArray[Any], to: NDArray[np.float32], clean: bool = False) -> bool:
        """Write the pixels (…, band, y, x) as the network sees them.

        Args:
            stored: pixels as they are stored.
            to: where to write them.
            clean: whether they are known to be without no-data.

        Returns:
            Whether they are without no-data.
        """
        spotless = True
        plane = (to.shape[-2], to.shape[-1])
        if plane not in self._steps:
            self._steps[plane] = self._in_steps(plane)
        for bands, mean, scale in self._steps[plane]:
            pixels, target = stored[bands], to[bands]
            target[...] = pixels
            absent = None if clean else absent_pixels(pixels, self.nodata)
            target -= mean
            target *= scale
            if absent is not None:
                target[absent] = 0
                spotless = False
        return spotless

    def _in_steps(self, plane: tuple[int, int]) -> list[_Step]:
        """Bands that are normalised together, with mean and scale in the shape that is fastest."""
        plane_bytes = 4 * plane[0] * plane[1]
        together = 1 if plane_bytes >= PLANE_BYTES else max(1, CACHE_BYTES // max(1, plane_bytes))
        steps = []
        for first in range(0, len(self.mean), together):
            some = slice(first, first + together)
            mean, scale = self.mean[some], self.scale[some]
            if together > 1:
                # With one number for each band numpy would take twice as long.
                mean, scale = (np.tile(values, (1, *plane)) for values in (mean, scale))
            steps.append(((..., some, slice(None), slice(None)), mean, scale))
        return steps

    def there(self, stored: Tensor, device: torch.device) -> Tensor:
        """The same on another device, to which the stored pixels are moved."""
        if device.type == "cuda":
            stored = stored.pin_memory()
        image = stored.to(device, non_blocking=True).to(torch.float32)
        absent = ~image.isfinite()
        if self.nodata is not None:
            absent |= image == self.nodata
        image.sub_(torch.from_numpy(self.mean).to(device))
        image.mul_(torch.from_numpy(self.scale).to(device))
        return image.masked_fill_(absent, 0.0)


def absent_pixels(stored: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Where the stored pixels are no-data; None where none is."""
    real = stored.dtype.kind == "f"
    if not stored.size or (nodata is None and not real):
        return None
    # Mostly none is, and a sum or the least value tells so in little time.
    absent = None
    with np.errstate(over="ignore", invalid="ignore"):
        doubtful = real and not np.isfinite(np.add.reduce(stored, axis=None))
    if doubtful:
        absent = ~np.isfinite(stored)
    if nodata is not None and not np.minimum.reduce(stored, axis=None) > nodata:
        lacking = stored == nodata
        absent = lacking if absent is None else absent | lacking
    return absent if absent is not None and absent.any() else None


def suited_shuffle(patches: PatchSet, which: NDArray[np.int64]) -> Literal["full", "blocks"]:
    """`full` where these patches fit in half of the memory, else `blocks`."""
    return "full" if 2 * _bytes(patches, which) <= memory_bytes() else "blocks"


def _bytes(patches: PatchSet, which: NDArray[np.int64]) -> int:
    return len(which) * int(patches.image.gather(which[:1]).nbytes)


def memory_bytes(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Memory that this process may use: the machine's, or the least limit of its control groups.

    Batch systems and containers limit a job by control groups (version 1 or 2); what counts as
    used includes the cached pages of the files that it reads.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = cgroups / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            limit = root / group / name
            if limit.is_file() and (text := limit.read_text().strip()).isdigit():
                limits.append(int(text))
    return min(limits)
