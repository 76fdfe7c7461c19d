"""Regions of the ground drawn as polygons, and the patches that lie wholly within one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from swath.data.earth import Ints, corners_of, crs_of, transformed
from swath.errors import DataError, nearest
from swath.split.ground import Ground


@dataclass(frozen=True)
class Regions:
    """Named regions in one CRS."""

    names: list[str]
    shapes: NDArray[Any]
    """(region,) polygons."""
    crs: CRS


def read_regions(path: Path, attribute: str) -> Regions:
    """The regions of a GeoJSON, GeoPackage or Shapefile; polygons of one name are one region.

    Raises:
        DataError: the file cannot be read, or has no such attribute, no CRS or no polygon.
    """
    try:
        known = [str(field) for field in pyogrio.read_info(path)["fields"]]
        if attribute not in known:
            mend = nearest(attribute, known)
            raise DataError(f"has no attribute '{attribute}'", where=path, mend=mend)
        facts, _, shapes, (values,) = pyogrio.raw.read(path, columns=[attribute])
        if not facts["crs"]:
            raise DataError("has no CRS", where=path, mend="give it one, e.g. by ogr2ogr -a_srs")
        crs, shapes = CRS.from_user_input(facts["crs"]), shapely.from_wkb(shapes)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="check the file") from None
    surface = np.isin(shapely.get_type_id(shapes), [3, 6])  # Polygon, MultiPolygon
    if not surface.any():
        raise DataError("holds no polygon", where=path, mend="draw the regions as polygons")
    values = np.array([str(value) for value in values])
    names = sorted(set(values[surface]))
    # Rings that cross themselves are common in files drawn by hand.
    shapes = shapely.make_valid(shapes[surface])
    merged = [shapely.union_all(shapes[values[surface] == name]) for name in names]
    return Regions(names, np.array(merged, dtype=object), crs)


def within(ground: Ground, regions: Regions) -> Ints:
    """(patch,): the region in which a patch wholly lies; -1 where in none, or in several."""
    found = np.full(len(ground), -1)
    times = np.zeros(len(ground), np.int64)
    shapely.prepare(regions.shapes)
    for code in np.unique(ground.epsg):
        at = np.flatnonzero(ground.epsg == code)
        points = corners_of(ground.rectangles[at]).reshape(-1, 2)
        corners = transformed(crs_of(int(code)), regions.crs, points).reshape(-1, 4, 2)
        # What a projection cannot show is infinite, and lies in no region.
        shown = np.isfinite(corners).all(axis=(1, 2))
        tree = shapely.STRtree(shapely.polygons(corners[shown]))
        region, patch = tree.query(regions.shapes, predicate="covers")
        patch = at[shown][patch]
        found[patch] = region
        np.add.at(times, patch, 1)
    found[times > 1] = -1
    return found
