"""Where patches lie on the ground, and how close they come: the measure that splits and audit use.

All patches, whatever their CRS, stand in one tree of points in space (WGS84, earth-centred), which
has no seam at the borders of zones or at the date line. It proposes pairs; each is then measured
exactly, as rectangles of one CRS or as polygons in the UTM zone of the pair.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from swath.data.earth import Floats, Ints, corners_of, crs_of, in_space, is_utm, sizes, transformed

SLIVER = 1e-6
"""Of the smaller patch: an overlap below this share is rounding of coordinates, not ground."""
ROUNDING_M = 1e-3
"""A distance this little short of a buffer is rounding of coordinates too."""
FAR_M = 100_000.0
"""Farther apart than this, a distance is told to within a patch: a CRS is not made for more."""

_MEAN_M = 6_371_008.8  # mean radius of the Earth (Moritz 2000, Geodetic Reference System 1980)
_ANOTHER_M = 1e8  # between local planes in the tree, so that none can be near another
_DISTORTION = 1.02  # lengths on a map of ours differ from those on the ground by 1 % at most
_AT_ONCE = 1_000_000  # pairs measured at once: a few hundred MB


class Pairs(NamedTuple):
    """Pairs of patches by number, with what they share (m²) and how far apart they are (m)."""

    first: Ints
    second: Ints
    overlap_m2: Floats
    distance_m: Floats


class Nearest(NamedTuple):
    """The two patches of two parts that come closest."""

    first: int
    second: int
    distance_m: float


@dataclass(frozen=True)
class Ground:
    """What a scheme may know: the places of the patches, and what lies in them."""

    places: pd.DataFrame
    """One row a patch: scene, row, col, west, south, east, north, epsg, lon, lat, time, name."""
    contents: Ints
    """(patch, class): labelled pixels of each class, or 0 and 1."""
    classes: list[str]
    data: Path | None = None
    """Folder of the dataset, where official lists lie."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def placed(self) -> NDArray[np.bool_]:
        """Which patches have a place, on the Earth or on a local plane."""
        found: NDArray[np.bool_] = self.epsg != 0
        return found

    @cached_property
    def epsg(self) -> Ints:
        """EPSG code of each patch; 0 is no place, a negative one a local plane in metres."""
        return self.places["epsg"].to_numpy(np.int64)

    @cached_property
    def rectangles(self) -> Floats:
        """(patch, 4): west, south, east, north in units of the patch's own CRS."""
        return self.places[["west", "south", "east", "north"]].to_numpy(float)

    @cached_property
    def points(self) -> Floats:
        """(patch, 3): centres in space, m; a local plane lies far from everything else."""
        lon, lat = (self.places[axis].to_numpy(float) for axis in ("lon", "lat"))
        points = in_space(lon, lat)
        plane = self.epsg < 0
        here = self.rectangles[plane]
        points[plane, 0] = (here[:, 0] + here[:, 2]) / 2
        points[plane, 1] = (here[:, 1] + here[:, 3]) / 2
        points[plane, 2] = -self.epsg[plane] * _ANOTHER_M
        return points

    @cached_property
    def scale(self) -> Floats:
        """(patch, 2): metres on the ground for a unit of the CRS, along x and y.

        1 where the map keeps lengths to a hundredth, as UTM does: its metres are taken as they are.
        """
        return self._sizes[0]

    @cached_property
    def reach(self) -> Floats:
        """Half the diagonal of each patch, m."""
        return self._sizes[1]

    @cached_property
    def _sizes(self) -> tuple[Floats, Floats]:
        return sizes(self.epsg, self.rectangles)

    # ---- how close two parts come

    def overlaps(self, first: Ints, second: Ints) -> Iterator[Pairs]:
        """Pairs of a patch of `first` and one of `second` that share ground, in portions."""
        for a, b in self._candidates(first, second, 0.0):
            overlap, distance = self.measure(a, b)
            keep = overlap > 0
            yield Pairs(a[keep], b[keep], overlap[keep], distance[keep])

    def conflicts(self, first: Ints, second: Ints, buffer_m: float) -> Ints:
        """The patches of `first` that share ground with `second`, or lie closer than `buffer_m`."""
        first, second = self._with_place(first), self._with_place(second)
        if not len(first) or not len(second):
            return first[:0]
        # Most are decided by the patch whose centre is nearest; the others need all that are near.
        away, nearest = cKDTree(self.points[second]).query(self.points[first], workers=-1)
        near = away <= self._radius(first, second, buffer_m)
        decided = np.zeros(len(first), bool)
        decided[near] = self._clash(first[near], second[nearest[near]], buffer_m)
        open_ = first[near & ~decided]
        found = [first[decided]]
        for a, b in self._candidates(open_, second, buffer_m):
            found.append(np.unique(a[self._clash(a, b, buffer_m)]))
        return np.unique(np.concatenate(found))

    def nearest(self, first: Ints, second: Ints) -> Nearest | None:
        """The two patches that come closest, one of each side; None where none can be compared.

        Exact below `FAR_M`; beyond, the distance of the two nearest centres along the ground, less
        what the patches may take up of it.
        """
        first, second = self._with_place(first), self._with_place(second)
        if not len(first) or not len(second):
            return None
        away, at = cKDTree(self.points[first]).query(self.points[second], workers=-1)
        least = int(np.argmin(away))
        if away[least] > _ANOTHER_M / 2:
            return None
        a, b = first[at], second
        if away[least] > FAR_M:
            pair = int(a[least]), int(b[least])
            ground = 2 * _MEAN_M * np.arcsin(min(away[least] / 2 / _MEAN_M, 1.0))
            return Nearest(*pair, float(max(ground - self.reach[list(pair)].sum(), 0.0)))
        near = away <= FAR_M + self._radius(first, second, 0.0)
        a, b, away = a[near], b[near], away[near]
        distance = self.measure(a, b)[1]
        least = int(np.argmin(distance))
        best = Nearest(int(a[least]), int(b[least]), float(distance[least]))
        # Centres farther apart than this cannot belong to a closer pair.
        bound = self._radius(first, second, best.distance_m)
        for others, ones in self._candidates(b[away <= bound], first, best.distance_m):
            distance = self.measure(ones, others)[1]
            if len(distance) and distance.min() < best.distance_m:
                least = int(np.argmin(distance))
                best = Nearest(int(ones[least]), int(others[least]), float(distance[least]))
        return best

    def measure(self, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Overlap in m² (0 for a sliver) and distance in m of pairs of patches, one by one.

        Patches of one CRS are rectangles of it; its units count as what they are on the ground
        there, so that neighbours on one grid of degrees touch and do not overlap. Patches of two
        CRSs are quadrilaterals in the UTM zone of the first that is in one, or else in the zone in
        which the first lies.
        """
        a, b = self.rectangles[first], self.rectangles[second]
        scale = (self.scale[first] + self.scale[second]) / 2
        turn = np.where(np.abs(b[:, 0] - a[:, 0]) > 180, self._turn[first], 0.0)
        shift = (turn * np.sign(a[:, 0] - b[:, 0]))[:, None] * np.array([1.0, 0.0, 1.0, 0.0])
        b = b + shift
        gap = np.maximum(a[:, :2] - b[:, 2:], b[:, :2] - a[:, 2:]) * scale
        inside = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
        overlap = (np.maximum(inside, 0) * scale).prod(axis=1)
        distance = np.hypot(*np.maximum(gap, 0).T)
        # Only patches that are near are measured: far apart on the map, they meet at its edge.
        other = (self.epsg[first] != self.epsg[second]) | (
            (distance > 10 * FAR_M) & (self.epsg[first] > 0)
        )
        if other.any():
            overlap[other], distance[other] = self._across(first[other], second[other])
        smaller = np.minimum(self._area[first], self._area[second])
        return np.where(overlap > SLIVER * smaller, overlap, 0.0), distance

    @cached_property
    def _turn(self) -> Floats:
        """A turn around the Earth in units of each patch's CRS: 360 where these are degrees."""
        geographic = [c for c in np.unique(self.epsg) if c > 0 and crs_of(int(c)).is_geographic]
        return np.where(np.isin(self.epsg, geographic), 360.0, 0.0)

    @cached_property
    def _area(self) -> Floats:
        sides = self.rectangles[:, 2:] - self.rectangles[:, :2]
        area: Floats = (sides * self.scale).prod(axis=1)
        return area

    def _across(self, first: Ints, second: Ints) -> tuple[Floats, Floats]:
        """Overlap and distance of pairs in two CRSs, as quadrilaterals in one."""
        codes = self.epsg[first], self.epsg[second]
        zone = np.where(is_utm(codes[1]), codes[1], self._zone(first))
        zone = np.where(is_utm(codes[0]), codes[0], zone)
        a, b = self._drawn_in(first, zone), self._drawn_in(second, zone)
        overlap, distance = np.zeros(len(first)), shapely.distance(a, b)
        with ThreadPoolExecutor() as pool:  # GEOS works without Python's lock
            shares = np.array_split(np.flatnonzero(distance == 0), os.cpu_count() or 1)
            common = pool.map(lambda at: shapely.intersection(a[at], b[at]), shares)
            for at, shapes in zip(shares, common, strict=True):
                overlap[at] = shapely.area(shapes)
        return overlap, distance

    def _zone(self, which: Ints) -> Ints:
        """EPSG code of the UTM zone in which each of these patches lies."""
        lon, lat = (self.places[axis].to_numpy(float)[which] for axis in ("lon", "lat"))
        number = np.floor((lon + 180) / 6).astype(np.int64) % 60 + 1
        return np.where(lat < 0, 32_700, 32_600) + number

    def _drawn_in(self, which: Ints, zone: Ints) -> NDArray[Any]:
        """(patch,): quadrilaterals of these patches, each in the CRS given for it."""
        keys, at = np.unique(which * 100_000 + zone, return_inverse=True)
        patches, wanted = keys // 100_000, keys % 100_000
        corners = corners_of(self.rectangles[patches])
        for source, target in set(zip(self.epsg[patches], wanted, strict=True)):
            if source != target:
                here = (self.epsg[patches] == source) & (wanted == target)
                moved = transformed(
                    crs_of(int(source)), crs_of(int(target)), corners[here].reshape(-1, 2)
                )
                corners[here] = moved.reshape(-1, 4, 2)
        drawn: NDArray[Any] = shapely.polygons(corners)[at]
        return drawn

    def _with_place(self, which: Ints) -> Ints:
        return which[self.placed[which]]

    def _radius(self, first: Ints, second: Ints, reach_m: float) -> float:
        """Centres farther apart than this belong to patches farther apart than `reach_m`."""
        reach = self.reach[first].max(initial=0) + self.reach[second].max(initial=0) + reach_m
        return float(min(_DISTORTION * reach, _ANOTHER_M / 2))

    def _clash(self, first: Ints, second: Ints, buffer_m: float) -> NDArray[np.bool_]:
        overlap, distance = self.measure(first, second)
        return (overlap > 0) | (distance < buffer_m - ROUNDING_M)

    def _candidates(self, first: Ints, second: Ints, reach_m: float) -> Iterator[tuple[Ints, Ints]]:
        """All pairs that could lie within `reach_m`, in portions of about `_AT_ONCE`."""
        first, second = self._with_place(first), self._with_place(second)
        if not len(first) or not len(second):
            return
        radius = self._radius(first, second, reach_m)
        tree = cKDTree(self.points[second])
        # In the order of a tree's leaves neighbours come together, so that portions stay compact.
        order = first[cKDTree(self.points[first], leafsize=64).indices]
        count = tree.query_ball_point(
            self.points[order], radius, return_length=True, workers=-1
        ).cumsum()
        borders = np.searchsorted(count, np.arange(_AT_ONCE, count[-1], _AT_ONCE))
        for portion in np.split(order, np.unique(borders)):
            if len(portion):
                near = cKDTree(self.points[portion]).sparse_distance_matrix(
                    tree, radius, output_type="ndarray"
                )
                yield portion[near["i"]], second[near["j"]]
