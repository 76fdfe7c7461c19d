"""How far likeness reaches on the ground, and the size of blocks that follows from it.

Patches that lie closer together than the range of spatial autocorrelation are not independent, so
blocks are at least about as large (Roberts et al. 2017, Cross-validation strategies for data with
temporal, spatial, hierarchical, or phylogenetic structure, Ecography 40, 913-929).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from swath.data.earth import Floats
from swath.errors import DataError
from swath.split.ground import Ground

ENOUGH = 30
"""Pairs that a class of distances must have to count."""
_PAIRS = 150_000_000  # looked at in all: seconds on one core
_ANCHORS = 200, 2000  # the fewest and the most patches from which distances are taken
_FARTHEST_M = 5e7  # more is another plane
_BLOCKS_ACROSS = 8  # a region that is cut into fewer has not blocks enough for the parts


@dataclass(frozen=True)
class Autocorrelation:
    """The correlogram of what lies in the patches, its range, and the blocks proposed."""

    distance_m: Floats
    """(class of distance,): mean distance of its pairs of patches."""
    likeness: Floats
    """(class of distance,): Moran's I of the class composition."""
    level: float
    range_m: float
    """Where Moran's I first falls below `level`."""
    block_m: float
    """The side of blocks proposed: the range in whole patches, if the region has room for it."""
    reached: bool
    """Whether Moran's I falls below `level` within half of the region."""

    def line(self) -> str:
        """What was found, in one line."""
        at = f"{self.range_m:,.0f} m" if self.reached else f"more than {self.range_m:,.0f} m"
        text = f"range of spatial autocorrelation (Moran's I below {self.level:g}): {at}"
        short = "; the region has no room for larger ones" if self.block_m < self.range_m else ""
        return f"{text}; proposed blocks: {self.block_m:,.0f} m{short}"


def autocorrelation(ground: Ground, *, level: float = 0.1, seed: int = 0) -> Autocorrelation:
    """The range of spatial autocorrelation of the class composition of the patches.

    Moran's I of the shares of all classes together, in classes of distance that widen by a quarter
    each (Moran 1950, Biometrika 37, 17-23; correlogram: Legendre and Legendre 2012, Numerical
    Ecology, section 13.1): the mean product of two patches' deviations from the mean composition,
    summed over the classes, over its mean at distance 0. Distances are taken from a sample of
    patches to all others.

    Raises:
        DataError: fewer than two patches have a place and labels, or all hold the same.
    """
    amounts = ground.contents.sum(axis=1)
    which = np.flatnonzero(ground.placed & (amounts > 0))
    composition = ground.contents[which] / np.maximum(amounts[which], 1)[:, None]
    deviation = composition - composition.mean(axis=0) if len(which) else composition
    variance = float((deviation**2).sum(axis=1).mean()) if len(which) else 0.0
    if len(which) < 2 or variance < 1e-12:
        raise DataError(
            "the patches have no places, or all hold the same: no range of autocorrelation",
            where="split.blocks.size_m",
            mend="give the size of blocks",
        )
    # Classes without a patch, and all but the sample's share of the work, are left out.
    deviation = deviation[:, deviation.any(axis=0)].astype(np.float32)
    points = ground.points[which]
    sides = ground.rectangles[which, 2:] - ground.rectangles[which, :2]
    side_m = float(np.median((sides * ground.scale[which]).max(axis=1)))
    generator = np.random.default_rng(seed)
    fewest, most = _ANCHORS
    anchors = min(len(which), most, max(fewest, _PAIRS // len(which)))
    edges = side_m / 2 * 1.25 ** np.arange(math.ceil(math.log(_FARTHEST_M / side_m, 1.25)))
    count, product, length = (np.zeros(len(edges) + 1) for _ in range(3))
    for anchor in generator.choice(len(which), anchors, replace=False):
        away = np.sqrt(((points - points[anchor]) ** 2).sum(axis=1))
        bins = np.searchsorted(edges, away)
        # The patch itself, and others of the same ground, say nothing about distance.
        bins[away < side_m / 2] = 0
        count += np.bincount(bins, minlength=len(count))
        product += np.bincount(bins, deviation @ deviation[anchor], len(count))
        length += np.bincount(bins, away, len(count))
    extent = _extent(length, count)
    kept = (count >= ENOUGH) & (np.arange(len(count)) > 0) & (np.arange(len(count)) < len(edges))
    distance = length[kept] / count[kept]
    likeness = product[kept] / count[kept] / variance
    near = distance <= max(extent / 2, side_m * 2)
    range_m, reached = _first_below(distance[near], likeness[near], level, side_m)
    patches = max(1, math.ceil(min(range_m, extent / _BLOCKS_ACROSS) / side_m - 1e-6))
    return Autocorrelation(distance, likeness, level, range_m, patches * side_m, reached)


def _extent(length: Floats, count: Floats) -> float:
    """The largest distance between patches, by the last class of distance that has any."""
    filled = np.flatnonzero(count[1:-1]) + 1
    return float(length[filled[-1]] / count[filled[-1]]) if len(filled) else 0.0


def _first_below(
    distance: Floats, likeness: Floats, level: float, side_m: float
) -> tuple[float, bool]:
    """Where the correlogram first falls below the level, between two classes of distance."""
    below = np.flatnonzero(likeness < level)
    if not len(below):
        return (float(distance[-1]) if len(distance) else side_m), False
    at = int(below[0])
    # Before the first class lies the patch itself, which is like itself.
    x0, y0 = (0.0, 1.0) if not at else (distance[at - 1], likeness[at - 1])
    return float(x0 + (distance[at] - x0) * (y0 - level) / (y0 - likeness[at])), True
