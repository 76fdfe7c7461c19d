"""Windows, corners and footprints: the arithmetic of patches on the ground. Knows no files.

Map coordinates are metres in the scene's CRS, x to the east and y to the north; a patch is named
by the map coordinates of its upper-left corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def window_corners(
    height_px: int, width_px: int, size_px: int, stride_px: int
) -> NDArray[np.int64]:
    """Upper-left (row, column) of every whole window of a scene, row by row, as (window, 2).

    Windows that would reach over the lower or right edge are left out.
    """
    rows = np.arange(0, height_px - size_px + 1, stride_px)
    columns = np.arange(0, width_px - size_px + 1, stride_px)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def rectangle_gaps(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Gaps along x and y between pairs of rectangles (pair, 4) as (west, south, east, north), m.

    Negative where they overlap along that axis.
    """
    gap_x = np.maximum(first[:, 0] - second[:, 2], second[:, 0] - first[:, 2])
    gap_y = np.maximum(first[:, 1] - second[:, 3], second[:, 1] - first[:, 3])
    return gap_x, gap_y


def rectangle_distances(first: Floats, second: Floats) -> Floats:
    """Distance in metres between pairs of rectangles; 0 where they touch or overlap."""
    gap_x, gap_y = rectangle_gaps(first, second)
    return np.hypot(np.maximum(gap_x, 0), np.maximum(gap_y, 0))


def rectangle_overlaps(first: Floats, second: Floats) -> Floats:
    """Area in m² that pairs of rectangles share."""
    width = np.minimum(first[:, 2], second[:, 2]) - np.maximum(first[:, 0], second[:, 0])
    height = np.minimum(first[:, 3], second[:, 3]) - np.maximum(first[:, 1], second[:, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)
