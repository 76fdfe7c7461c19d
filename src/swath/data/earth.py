"""Places of patches on the Earth, and the square blocks of the ground in which they lie.

A split by blocks, the bootstrap and the scores by region all take their blocks from here, so that
those of one size are the same squares of the ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from swath.data.grid import METRES_A_DEGREE, degrees_in_metres
from swath.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EQUATOR_M, _ECCENTRICITY_2 = 6_378_137.0, 6.694379990141e-3  # WGS84: semi-major axis, e²


@dataclass(frozen=True)
class Blocks:
    """The square block of the ground in which the upper-left corner of each patch lies.

    Blocks are counted from the origin of the map. Where the map is in degrees, rows of blocks
    follow the parallels and each is divided by its own length. Elsewhere a unit is as long as it is
    on the ground at most of the patches: far from the equator, a metre of web Mercator is much
    less. A local plane has blocks of its own. Patches without a place are a block each.
    """

    side_m: float
    keys: Ints
    """(patch, 3): epsg, and column and row of the block, to the east and south."""
    scale: Mapping[int, Floats]
    """Metres on the ground for a unit along x and y, of each CRS that is not in degrees."""

    @classmethod
    def of(cls, places: pd.DataFrame, side_m: float) -> Blocks:
        """Blocks of a patch set, all of it: what a unit is long follows from all patches.

        Args:
            places: epsg, and west, south, east and north (units of the CRS; m in local planes).
            side_m: side of a block.
        """
        epsg = places["epsg"].to_numpy(np.int64)
        rectangles = places[["west", "south", "east", "north"]].to_numpy(np.float64)
        west, north = rectangles[:, 0].copy(), rectangles[:, 3].copy()
        scale = {}
        for code in np.unique(epsg[epsg != 0]):
            at = epsg == code
            if code > 0 and crs_of(int(code)).is_geographic:
                west[at], north[at] = degrees_in_metres(west[at], north[at], side_m)
            else:
                along = np.median(sizes(epsg[at], rectangles[at])[0], axis=0)
                west[at], north[at] = west[at] * along[0], north[at] * along[1]
                scale[int(code)] = along
        # A patch lies below its northern edge: one that hangs from a border is in the block below.
        column, row = np.floor(west / side_m), np.floor(-north / side_m)
        nowhere = epsg == 0
        column[nowhere], row[nowhere] = np.flatnonzero(nowhere), 0
        return cls(side_m, np.stack([epsg, column, row], axis=1).astype(np.int64), scale)

    def __getitem__(self, which: Ints) -> Blocks:
        return replace(self, keys=self.keys[which])

    @property
    def numbers(self) -> Ints:
        """The number of each patch's block, from 0 in the order of `keys`."""
        numbers: Ints = np.unique(self.keys, axis=0, return_inverse=True)[1].ravel()
        return numbers

    def centres(self) -> tuple[Floats, Floats]:
        """Longitude and latitude (WGS84) of the centre of each patch's block; NaN if nowhere."""
        lon, lat = np.full(len(self.keys), np.nan), np.full(len(self.keys), np.nan)
        for code in np.unique(self.keys[self.keys[:, 0] > 0, 0]):
            at = self.keys[:, 0] == code
            x = (self.keys[at, 1] + 0.5) * self.side_m
            y = -(self.keys[at, 2] + 0.5) * self.side_m
            if int(code) in self.scale:
                along_x, along_y = self.scale[int(code)]
                x, y = x / along_x, y / along_y
            else:
                # As long as in `degrees_in_metres`: along the parallel in the middle of the row.
                y = y / METRES_A_DEGREE
                x = x / (METRES_A_DEGREE * np.cos(np.radians(np.clip(y, -89, 89))))
            lon[at], lat[at] = transform(crs_of(int(code)), "EPSG:4326", x, y)
        return lon, lat


def sizes(epsg: Ints, rectangles: Floats) -> tuple[Floats, Floats]:
    """How long the units of patches are on the ground, and how far the patches reach.

    Args:
        epsg: CRS of each patch.
        rectangles: (patch, 4): west, south, east, north in units of it.

    Returns:
        (patch, 2): metres on the ground for a unit along x and y, 1 where the map keeps lengths to
        a hundredth, as UTM does, whose metres are taken as they are; and half the diagonal, m.
    """
    width, height = rectangles[:, 2] - rectangles[:, 0], rectangles[:, 3] - rectangles[:, 1]
    scale = np.ones((len(epsg), 2))
    reach = np.hypot(width, height) / 2
    for code in np.unique(epsg):
        if code <= 0 or is_utm(code):
            continue
        at = np.flatnonzero(epsg == code)
        corners = corners_of(rectangles[at]).reshape(-1, 2)
        lon, lat = transformed(crs_of(int(code)), crs_of(4326), corners).T
        nw, ne, se, sw = in_space(lon, lat).reshape(-1, 4, 3).transpose(1, 0, 2)
        along_x = (_length(ne - nw) + _length(se - sw)) / 2 / width[at]
        along_y = (_length(nw - sw) + _length(ne - se)) / 2 / height[at]
        reach[at] = np.maximum(_length(nw - se), _length(ne - sw)) / 2
        found = np.stack([along_x, along_y], axis=1)
        if np.abs(found - 1).max() > 0.01:
            scale[at] = found
    return scale, reach


def in_space(lon: Floats, lat: Floats) -> Floats:
    """(point, 3): earth-centred coordinates in m of points on the WGS84 ellipsoid, in degrees.

    The chord between two points is shorter than the way along the ground by 1e-5 at 100 km.
    """
    east, north = np.radians(lon), np.radians(lat)
    normal = _EQUATOR_M / np.sqrt(1 - _ECCENTRICITY_2 * np.sin(north) ** 2)
    across = normal * np.cos(north)
    upward = normal * (1 - _ECCENTRICITY_2) * np.sin(north)
    return np.stack([across * np.cos(east), across * np.sin(east), upward], axis=-1)


def corners_of(rectangles: Floats) -> Floats:
    """(patch, 4, 2): north-west, north-east, south-east and south-west corner of rectangles."""
    west, south, east, north = rectangles.T
    return np.stack(
        [np.stack([west, east, east, west], 1), np.stack([north, north, south, south], 1)], axis=-1
    )


def transformed(source: CRS, target: CRS, points: Floats) -> Floats:
    """(point, 2): points as (x, y) of one CRS in another."""
    if source == target:
        return points
    return np.array(transform(source, target, points[:, 0], points[:, 1])).T.reshape(-1, 2)


def crs_of(code: int) -> CRS:
    """The CRS of an EPSG code.

    Raises:
        DataError: the registry has none of that code.
    """
    try:
        return CRS.from_epsg(code)
    except CRSError:
        raise DataError(
            "is no known CRS", where=f"EPSG:{code}", mend="give the scene a CRS of the registry"
        ) from None


def is_utm(code: Ints) -> NDArray[np.bool_]:
    """Which EPSG codes are zones of UTM on WGS84."""
    code = np.asarray(code)
    return ((code > 32_600) & (code <= 32_660)) | ((code > 32_700) & (code <= 32_760))


def _length(vectors: Floats) -> Floats:
    return np.linalg.norm(vectors, axis=1)
