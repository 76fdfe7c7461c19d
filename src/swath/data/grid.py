"""Windows, corners and footprints: the arithmetic of patches on the ground. Knows no files.

Map coordinates are metres in the scene's CRS, x to the east and y to the north; a patch is named
by the map coordinates of its upper-left corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

METRES_A_DEGREE = 111_320.0
"""Of longitude at the equator (WGS84); blocks and sampling distances need no better."""


def degrees_in_metres(
    west: NDArray[np.float64], north: NDArray[np.float64], row_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees as metres: along the meridian, and along the parallel in the middle of its row.

    Args:
        west: longitudes.
        north: latitudes.
        row_m: height of a row, in all of which a degree of longitude is equally long.
    """
    north_m = north * METRES_A_DEGREE
    middle = (np.floor(north_m / row_m) + 0.5) * row_m / METRES_A_DEGREE
    return west * (METRES_A_DEGREE * np.cos(np.radians(np.clip(middle, -89, 89)))), north_m


def window_corners(
    height_px: int, width_px: int, size_px: int, stride_px: int, padding: str = "none"
) -> NDArray[np.int64]:
    """Upper-left (row, column) of the windows of a scene, row by row, as (window, 2).

    Args:
        height_px: rows of the scene.
        width_px: columns of the scene.
        size_px: side of a window.
        stride_px: distance of neighbouring windows.
        padding: what becomes of windows that would reach over the lower or right edge: `none`
            leaves them out, `shift` moves the last one inward so that every pixel is covered,
            anything else lets them reach over.
    """
    sides = []
    for length in (height_px, width_px):
        starts = np.arange(0, length - size_px + 1, stride_px)
        if padding == "shift" and length >= size_px and starts[-1] + size_px < length:
            starts = np.append(starts, length - size_px)
        elif padding not in ("none", "shift"):
            # One more while the last ends before the edge.
            count = max(0, -(-(length - size_px) // stride_px)) + 1
            starts = np.arange(count) * stride_px
            starts = starts[starts < length]  # a stride beyond the size may step over the edge
        sides.append(starts)
    return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
