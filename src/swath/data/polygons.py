"""Polygons from vector files: labels of the ground, by an attribute that names their class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from rasterio.crs import CRS
from rasterio.warp import transform_geom

from swath.data.scene import Grid
from swath.errors import DataError, nearest


def read_polygons(
    path: Path, grid: Grid, classes: list[str], codes: list[int] | None, attribute: str | None
) -> tuple[tuple[Any, int], ...]:
    """Geometries in a grid's CRS with their class numbers, in the order of the file.

    Args:
        path: a vector file that GDAL reads.
        grid: where they are drawn.
        classes: names of the classes.
        codes: the attribute's value for each class, where it holds numbers.
        attribute: name of the attribute; None where the file has but one.

    Raises:
        DataError: the file cannot be read or has no CRS; there is no such attribute; it holds no
            class; no polygon lies on the scene.
    """
    try:
        facts, _, shapes, columns = pyogrio.raw.read(path)
    except (pyogrio.errors.DataSourceError, OSError) as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="mend it") from None
    fields = [str(field) for field in facts["fields"]]
    attribute = attribute or (fields[0] if len(fields) == 1 else None)
    if attribute not in fields:
        raise DataError(
            f"has no attribute '{attribute}'" if attribute else "has several attributes",
            where=path,
            mend=nearest(attribute or "", fields) if attribute else
            f"give layout.attribute, one of {', '.join(fields)}",
        )  # fmt: skip
    if not facts["crs"]:
        raise DataError("has no CRS", where=path, mend="write one, e.g. with ogr2ogr -a_srs")
    values = columns[fields.index(attribute)]
    known: dict[Any, int] = {name: number for number, name in enumerate(classes)}
    known |= {float(code): number for number, code in enumerate(codes or [])}
    numbers = [known.get(_plain(value)) for value in values]
    if all(number is None for number in numbers):
        some = sorted({str(value) for value in values})[:5]
        raise DataError(
            f"'{attribute}' holds no class of the card",
            where=path,
            mend=f"it has {', '.join(some)}: name the classes so, or give layout.codes",
        )
    target = CRS.from_epsg(grid.epsg)
    source = CRS.from_user_input(facts["crs"])
    south, east = grid.north - grid.height * grid.step_y, grid.west + grid.width * grid.step_x
    ground = shapely.box(grid.west, south, east, grid.north)
    found = []
    for wkb, number in zip(shapes, numbers, strict=True):
        if number is None or wkb is None:
            continue
        moved = transform_geom(source, target, shapely.geometry.mapping(shapely.from_wkb(wkb)))
        if shapely.geometry.shape(moved).intersects(ground):
            found.append((moved, number))
    if not found:
        raise DataError("no polygon lies on the scene", where=path, mend="mend its CRS")
    return tuple(found)


def _plain(value: Any) -> Any:
    """A value as it is looked up: numbers of all types alike, text, dates and None as they are."""
    return float(value) if isinstance(value, int | float | np.number) else value
