"""The audit of a split: proof that its parts are independent on the ground.

A patch of the test part that overlaps, or nearly touches, one of the training part lets a model
remember instead of recognise. The audit measures, exactly, how close the parts come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.warp import transform_bounds
from scipy.spatial import cKDTree

from swath.data.grid import Floats, rectangle_distances, rectangle_overlaps

PARTS = ("train", "val", "test")
TOLERANCE_M2 = 1e-3
"""Overlaps below this are rounding of coordinates, not ground."""
ACROSS_M = 100_000.0
"""Patches of two CRSs farther apart than this are not measured: a CRS is not made for more."""


def footprints(places: pd.DataFrame, side_m: float) -> Floats:
    """Rectangles (patch, 4) as (west, south, east, north) in each patch's own CRS, m."""
    west, north = places["easting"].to_numpy(float), places["northing"].to_numpy(float)
    return np.stack([west, north - side_m, west + side_m, north], axis=1)


def close_pairs(
    places: pd.DataFrame,
    side_m: float,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    reach_m: float,
) -> pd.DataFrame:
    """Pairs of a patch of `first` and one of `second` that overlap or lie within `reach_m`.

    Returns:
        Columns first, second (patch numbers), overlap_m2 and distance_m. Patches in different
        CRSs are compared in the CRS of the first, by the box around the second's corners.
    """
    found = []
    for a, b, rect_a, rect_b in _comparable(places, side_m, first, second, lambda: reach_m):
        radius = (_largest_side(rect_a) + _largest_side(rect_b)) / 2 + reach_m
        near = cKDTree(_centres(rect_a)).query_ball_point(_centres(rect_b), radius, p=np.inf)
        at_b = np.repeat(np.arange(len(b)), [len(n) for n in near])
        at_a = np.array([i for n in near for i in n], dtype=np.int64)
        overlap = rectangle_overlaps(rect_a[at_a], rect_b[at_b])
        distance = rectangle_distances(rect_a[at_a], rect_b[at_b])
        # Patches that only touch are pairs only where a distance is asked for.
        keep = (overlap > TOLERANCE_M2) | (distance < reach_m)
        found.append(
            pd.DataFrame(
                {
                    "first": a[at_a[keep]],
                    "second": b[at_b[keep]],
                    "overlap_m2": overlap[keep],
                    "distance_m": distance[keep],
                }
            )
        )
    columns = ["first", "second", "overlap_m2", "distance_m"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def least_distance(
    places: pd.DataFrame, side_m: float, first: NDArray[np.int64], second: NDArray[np.int64]
) -> float:
    """The least distance in metres between a patch of `first` and one of `second`.

    Infinite where they are in different CRSs and farther apart than `ACROSS_M`.
    """
    least = np.inf
    # The reach is what has been found so far, so it is read as the pairs come.
    compared = _comparable(places, side_m, first, second, lambda: least)
    for _, _, rect_a, rect_b in compared:
        tree = cKDTree(_centres(rect_a))
        # The nearest centre bounds the answer from above; then all that could beat it are measured.
        _, at = tree.query(_centres(rect_b), p=np.inf)
        bound = min(least, float(rectangle_distances(rect_a[at], rect_b).min()))
        radius = (_largest_side(rect_a) + _largest_side(rect_b)) / 2 + bound
        near = tree.query_ball_point(_centres(rect_b), radius, p=np.inf)
        for number, candidates in enumerate(near):
            if candidates:
                other = np.repeat(rect_b[number : number + 1], len(candidates), axis=0)
                bound = min(bound, float(rectangle_distances(rect_a[candidates], other).min()))
        least = min(least, bound)
    return least


def audit(
    places: pd.DataFrame,
    parts: NDArray[np.str_],
    class_counts: dict[str, dict[str, int]],
    *,
    side_m: float,
    buffer_m: float,
) -> dict[str, Any]:
    """Measure how independent the parts of a split are.

    Args:
        places: one row a patch with easting, northing (upper-left corner, m), epsg and name.
        parts: the part of each patch: train, val, test or unused.
        class_counts: labels of each class in each part.
        side_m: side of a patch.
        buffer_m: the least distance between parts that was asked for.

    Returns:
        passed, overlap_m2 and overlapping_pairs over all pairs of parts, least_distance_m (None
        where there is nothing to compare), buffer_m, parts, and problems (one line each; the first
        of a kind names the pair of patches that proves it).
    """
    problems: list[str] = []
    members = {part: np.flatnonzero(parts == part) for part in PARTS}
    couples = list(combinations(PARTS, 2))
    pairs = {
        (a, b): close_pairs(places, side_m, members[a], members[b], buffer_m) for a, b in couples
    }
    georeferenced = bool(places["epsg"].to_numpy().all())
    if not georeferenced:
        problems.append("patches have no georeference: independence of the parts cannot be shown")
    for couple, close in pairs.items():
        overlapping = close[close["overlap_m2"] > TOLERANCE_M2]
        if len(overlapping):
            worst = overlapping.loc[overlapping["overlap_m2"].idxmax()]
            problems.append(
                f"{_pair(places, couple, worst)} share {worst['overlap_m2']:.0f} m² "
                f"({len(overlapping)} such pairs)"
            )
        too_close = close[close["overlap_m2"] <= TOLERANCE_M2]
        if len(too_close):
            worst = too_close.loc[too_close["distance_m"].idxmin()]
            problems.append(
                f"{_pair(places, couple, worst)} are {worst['distance_m']:.0f} m apart, "
                f"less than the buffer of {buffer_m:g} m ({len(too_close)} such pairs)"
            )
    for part in PARTS:
        absent = [name for name, count in class_counts[part].items() if not count]
        if absent:
            problems.append(f"part {part} has nothing of {', '.join(absent)}")
    all_pairs = pd.concat(pairs.values())
    least = min(least_distance(places, side_m, members[a], members[b]) for a, b in couples)
    return {
        "passed": not problems,
        "overlap_m2": float(all_pairs["overlap_m2"].sum()),
        "overlapping_pairs": int((all_pairs["overlap_m2"] > TOLERANCE_M2).sum()),
        "least_distance_m": float(least) if np.isfinite(least) else None,
        "buffer_m": buffer_m,
        "parts": {
            part: {"patches": int((parts == part).sum()), "classes": class_counts[part]}
            for part in (*PARTS, "unused")
        },
        "problems": problems,
    }


def _pair(places: pd.DataFrame, couple: tuple[str, str], row: pd.Series[Any]) -> str:
    names = (places["name"].iloc[int(row[side])] for side in ("first", "second"))
    return " and ".join(f"{part} patch {name}" for part, name in zip(couple, names, strict=True))


def _comparable(
    places: pd.DataFrame,
    side_m: float,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    reach_m: Callable[[], float],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]]:
    """Patches of both sides, rectangles in one CRS, for each pair of CRSs that may meet.

    Pairs of one CRS come first, so that `reach_m` may shrink to what they have shown.
    """
    rectangles = footprints(places, side_m)
    epsg = places["epsg"].to_numpy()
    lon, lat = places["lon"].to_numpy(float), places["lat"].to_numpy(float)
    couples = product(np.unique(epsg[first]), np.unique(epsg[second]))
    for crs_a, crs_b in sorted(couples, key=lambda couple: couple[0] != couple[1]):
        a, b = first[epsg[first] == crs_a], second[epsg[second] == crs_b]
        if not crs_a or not crs_b:
            continue
        if crs_a == crs_b:
            yield a, b, rectangles[a], rectangles[b]
            continue
        # One degree of latitude is about 111 km, one of longitude that by the cosine of latitude.
        margin = 1.05 * (min(reach_m(), ACROSS_M) + 2 * side_m) / 111_000
        cosine = max(np.cos(np.radians(np.abs(lat[a]).max() + margin)), 0.01)
        # Degrees from the first patch: a zone that ends at the date line has no seam there.
        east_a, east_b = ((lon[at] - lon[a[0]] + 180) % 360 - 180 for at in (a, b))
        b = b[
            (east_b > east_a.min() - margin / cosine) & (east_b < east_a.max() + margin / cosine)
            & (lat[b] > lat[a].min() - margin) & (lat[b] < lat[a].max() + margin)
        ]  # fmt: skip
        if len(b):
            moved = [transform_bounds(f"EPSG:{crs_b}", f"EPSG:{crs_a}", *rectangles[i]) for i in b]
            yield a, b, rectangles[a], np.array(moved)


def _centres(rectangles: Floats) -> Floats:
    return (rectangles[:, :2] + rectangles[:, 2:]) / 2


def _largest_side(rectangles: Floats) -> float:
    return float((rectangles[:, 2:] - rectangles[:, :2]).max())
