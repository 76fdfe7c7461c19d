"""Statistics of the bands over the training part: a map over the shards, and a reduce.

Each shard is read once for all folds: its patches are grouped by the folds in which they train, and
sums of groups are added up. Everything is exact: moments by the parallel algorithm, quantiles by
counting values. A value's bits, made to sort as the value does, are at most 16 for integers, so
one count of each value is enough; for float32 the first 16 say in which bin a quantile lies, and a
second round counts the last 16 of what falls there.

Source:
    Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances,
    COMPSTAT 1982 (Stanford STAN-CS-79-773), for the moments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath.data.patchset import PatchSet

QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
"""Of the stored values; interpolated linearly between neighbours in order, as NumPy does."""
BATCH_BYTES = 64 << 20
_BINS = 1 << 16
_SIGN = np.uint32(1 << 31)


@dataclass(frozen=True)
class Sums:
    """What one shard tells of its training patches, for each group of folds."""

    folds: NDArray[np.bool_]
    """(group, fold): the folds in which the patches of a group train."""
    patches: NDArray[np.int64]
    """(group)"""
    pixels: NDArray[np.int64]
    """(group, channel), without no-data."""
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    """(group, channel): sum of squared deviations from the mean."""
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    counts: NDArray[np.int64]
    """(group, channel, bin): values by the first 16 bits of their order; in the second round, one
    row a wanted bin, (fold, channel, wanted, bin), by the last 16."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays by name, for a file."""
        return dict(vars(self))


def read_sums(path: Path) -> Sums:
    """The sums of a shard, as `measure` made them and a stage has written them."""
    with np.load(path) as saved:
        return Sums(**saved)


def rounds(dtype: np.dtype[Any]) -> int:
    """Rounds over the shards that exact quantiles need: one, or two for floats."""
    return 2 if np.issubdtype(dtype, np.floating) else 1


def measure(patches: PatchSet, which: NDArray[np.int64], training: NDArray[np.bool_]) -> Sums:
    """Read the patches `which` once and sum up those that train.

    Args:
        patches: the patch set.
        which: numbers of the patches, those of one shard.
        training: (fold, patch) over the whole set: whether it is in the training part.
    """
    mine = training[:, which].T
    folds, group_of = np.unique(mine, axis=0, return_inverse=True)
    group_of = group_of.reshape(-1)
    channels = patches.image.shape[1]
    shape = (len(folds), channels)
    pixels = np.zeros(shape, np.int64)
    mean, squares = np.zeros(shape), np.zeros(shape)
    least, most = np.full(shape, np.inf), np.full(shape, -np.inf)
    counts = np.zeros((*shape, _BINS), np.int64)
    members = np.bincount(group_of, minlength=len(folds)).astype(np.int64)
    for group in np.flatnonzero(folds.any(axis=1)):
        for channel, values in _values(patches, which[group_of == group]):
            if not len(values):
                continue
            counts[group, channel] += np.bincount(_order(values) >> 16, minlength=_BINS)
            at = (int(group), channel)
            added = values.astype(np.float64)
            _merge(pixels, mean, squares, at, len(added), added.mean(), added.var() * len(added))
            least[at] = min(least[at], added.min())
            most[at] = max(most[at], added.max())
    return Sums(folds, members, pixels, mean, squares, least, most, counts)


def refine(
    patches: PatchSet,
    which: NDArray[np.int64],
    training: NDArray[np.bool_],
    wanted: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The second round for floats: counts of the last 16 bits in the bins that hold quantiles.

    Args:
        patches: the patch set.
        which: numbers of the patches, those of one shard.
        training: (fold, patch), as for `measure`.
        wanted: (fold, channel, rank): the bin of the first 16 bits for each wanted rank.

    Returns:
        (fold, channel, rank, bin) counts.
    """
    counts = np.zeros((*wanted.shape, _BINS), np.int64)
    for fold, trains in enumerate(training[:, which]):
        for channel, values in _values(patches, which[trains]):
            order = _order(values)
            high = order >> 16
            for rank, bin_ in enumerate(wanted[fold, channel]):
                low = order[high == bin_] & 0xFFFF
                counts[fold, channel, rank] += np.bincount(low, minlength=_BINS)
    return counts


def _values(patches: PatchSet, which: NDArray[np.int64]) -> Iterable[tuple[int, NDArray[Any]]]:
    """Values of each channel without no-data, some patches at a time."""
    nodata = patches.facts["nodata"]
    size = int(np.prod(patches.image.shape[1:])) * patches.image.dtype.itemsize
    at_once = max(1, BATCH_BYTES // size)
    for start in range(0, len(which), at_once):
        block = patches.image.gather(which[start : start + at_once])
        for channel in range(block.shape[1]):
            values = block[:, channel].ravel()
            if np.issubdtype(values.dtype, np.floating):
                values = values[np.isfinite(values)]
            if nodata is not None:
                values = values[values != nodata]
            yield channel, values


def _order(values: NDArray[Any]) -> NDArray[np.int64]:
    """32 bits that sort as the values do; integers of up to 16 bits lie in the first 16."""
    if values.dtype.kind == "u":
        return values.astype(np.int64) << 16
    if values.dtype.kind == "i":
        return (values.astype(np.int64) + (1 << 15)) << 16
    # The bits of a float sort as it does; of a negative one, in reverse.
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    order: NDArray[np.int64] = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.int64)
    return order


def _value(order: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """The value of 32 such bits."""
    if dtype.kind == "u":
        return (order >> 16).astype(np.float64)
    if dtype.kind == "i":
        return ((order >> 16) - (1 << 15)).astype(np.float64)
    bits = order.astype(np.uint32)
    bits = np.where(bits & _SIGN, bits ^ _SIGN, ~bits)
    return bits.view(np.float32).astype(np.float64)


def _merge(
    pixels: NDArray[np.int64],
    mean: NDArray[np.float64],
    squares: NDArray[np.float64],
    at: tuple[int, int],
    count: int,
    own_mean: float,
    own_squares: float,
) -> None:
    """Add a sample to the moments at `at` (Chan et al. 1982, eq. 2.1)."""
    total = pixels[at] + count
    if not total:
        return
    delta = own_mean - mean[at]
    squares[at] += own_squares + delta**2 * pixels[at] * count / total
    mean[at] += delta * count / total
    pixels[at] = total


def add_up(shards: Iterable[Sums]) -> list[Sums]:
    """The sums of each fold: one `Sums` with a single group for every fold.

    One shard is in memory at a time: its counts take some tens of megabytes.
    """
    totals: list[Sums] = []
    for shard in shards:
        folds = shard.folds.shape[1]
        if not totals:
            totals = [_empty(fold, folds, shard) for fold in range(folds)]
        for fold, total in enumerate(totals):
            for group in np.flatnonzero(shard.folds[:, fold]):
                total.patches[0] += shard.patches[group]
                total.counts[0] += shard.counts[group]
                for channel in range(shard.pixels.shape[1]):
                    _merge(
                        total.pixels, total.mean, total.squares, (0, channel),
                        int(shard.pixels[group, channel]), float(shard.mean[group, channel]),
                        float(shard.squares[group, channel]),
                    )  # fmt: skip
                np.minimum(total.least[0], shard.least[group], out=total.least[0])
                np.maximum(total.most[0], shard.most[group], out=total.most[0])
    return totals


def together(totals: list[Sums]) -> Sums:
    """The sums of several folds as those of one shard, each fold a group."""
    return Sums(
        **{name: np.concatenate([vars(each)[name] for each in totals]) for name in vars(totals[0])}
    )


def _empty(fold: int, folds: int, like: Sums) -> Sums:
    channels = like.pixels.shape[1]
    return Sums(
        folds=np.eye(folds, dtype=bool)[fold : fold + 1],
        patches=np.zeros(1, np.int64),
        pixels=np.zeros((1, channels), np.int64),
        mean=np.zeros((1, channels)),
        squares=np.zeros((1, channels)),
        least=np.full((1, channels), np.inf),
        most=np.full((1, channels), -np.inf),
        counts=np.zeros((1, channels, _BINS), np.int64),
    )


def ranks(pixels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Neighbours in order of each quantile, (channel, 2 · quantile), and weights of the upper."""
    at = np.asarray(QUANTILES) * np.maximum(pixels - 1, 0)[:, None]
    lower = np.floor(at).astype(np.int64)
    upper = np.minimum(lower + 1, np.maximum(pixels - 1, 0)[:, None])
    return np.concatenate([lower, upper], axis=1), at - lower


def bins_of(total: Sums) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bin of the first 16 bits of each rank, (channel, rank), and how many lie before it."""
    wanted, _ = ranks(total.pixels[0])
    before = np.cumsum(total.counts[0], axis=1)
    bins = np.stack(
        [np.searchsorted(b, w, side="right") for b, w in zip(before, wanted, strict=True)]
    )
    bins = np.minimum(bins, _BINS - 1)
    start = np.take_along_axis(before - total.counts[0], bins, axis=1)
    return bins, wanted - start


def summary(
    total: Sums, dtype: np.dtype[Any], refined: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """Mean, standard deviation, extremes and quantiles of each channel, in stored units.

    Args:
        total: the sums of one fold.
        dtype: the stored type.
        refined: the second round's counts of the fold, (channel, rank, bin), for floats.
    """
    bins, inside = bins_of(total)
    low = np.zeros_like(bins)
    if refined is not None:
        after = np.cumsum(refined, axis=2)
        low = (after <= inside[:, :, None]).sum(axis=2)
    values = _value((bins << 16) | low, dtype)
    _, weight = ranks(total.pixels[0])
    half = len(QUANTILES)
    lower, upper = values[:, :half], values[:, half:]
    quantiles = lower + (upper - lower) * weight
    pixels = np.maximum(total.pixels[0], 1)
    seen = total.pixels[0] > 0
    return {
        "mean": np.where(seen, total.mean[0], 0.0).tolist(),
        "std": np.sqrt(total.squares[0] / pixels).tolist(),
        "least": np.where(seen, total.least[0], 0.0).tolist(),
        "most": np.where(seen, total.most[0], 0.0).tolist(),
        "quantiles": {
            str(q): np.where(seen, quantiles[:, at], 0.0).tolist() for at, q in enumerate(QUANTILES)
        },
        "pixels": total.pixels[0].tolist(),
        "patches": int(total.patches[0]),
    }
