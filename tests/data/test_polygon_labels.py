"""Polygons: brought to the scene's CRS, named by their attribute, drawn as GDAL draws them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform_geom

from swath.data.polygons import read_polygons
from swath.data.scene import Grid, PolygonLabels
from swath.errors import DataError

GRID = Grid(20, 30, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
CLASSES = ["Water", "Forest", "Town"]


def box(row: float, col: float, height: float, width: float) -> dict[str, Any]:
    """A rectangle by pixels of the grid."""
    west, north = 600_000 + 10 * col, 5_300_000 - 10 * row
    east, south = west + 10 * width, north - 10 * height
    return {
        "type": "Polygon",
        "coordinates": [[[west, north], [east, north], [east, south], [west, south],
                         [west, north]]],
    }  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes shapes with their attributes as GeoJSON, in some CRS."""

    def make(shapes: list[tuple[dict[str, Any], dict[str, Any]]], epsg: int | None = 32632) -> Path:
        collection: dict[str, Any] = {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": values, "geometry": shape}
                for shape, values in shapes
            ],
        }
        if epsg:
            name = f"urn:ogc:def:crs:EPSG::{epsg}"
            collection["crs"] = {"type": "name", "properties": {"name": name}}
        path = tmp_path / "labels.geojson"
        path.write_text(json.dumps(collection))
        return path

    return make


def drawn(path: Path, **how: Any) -> np.ndarray:
    """The labels of the whole grid."""
    touched = how.pop("all_touched", False)
    settings = {"codes": None, "attribute": None} | how
    shapes = read_polygons(path, GRID, CLASSES, **settings)
    return PolygonLabels(shapes, GRID, touched, (path,)).read(0, 20, 0, 30)


def test_later_polygons_lie_above_and_the_rest_is_unlabelled(write: Callable[..., Path]) -> None:
    path = write([
        (box(2, 3, 6, 8), {"class": "Forest"}),
        (box(4, 5, 2, 2), {"class": "Water"}),
        (box(0, 0, 1, 1), {"class": "unheard of"}),
        (box(9, 9, 1, 1), {"class": None}),
    ])  # fmt: skip
    expected = np.full((20, 30), 255, np.uint8)
    expected[2:8, 3:11] = 1
    expected[4:6, 5:7] = 0
    np.testing.assert_array_equal(drawn(path), expected)


def test_numbers_are_classes_by_their_codes(write: Callable[..., Path]) -> None:
    shapes = [
        (box(k, k, 1, 1), {"number": 9, "MC_ID": code}) for k, code in enumerate((30, 10, 20))
    ]
    path = write([*shapes, (box(5, 5, 1, 1), {"number": 9, "MC_ID": None})])
    labels = drawn(path, codes=[10, 20, 30], attribute="MC_ID")
    assert [labels[k, k] for k in range(3)] == [2, 0, 1] and (labels != 255).sum() == 3


def test_all_touched_takes_what_a_polygon_only_touches(write: Callable[..., Path]) -> None:
    path = write([(box(2.3, 3.3, 2, 2), {"class": "Town"})])  # centres of 2 x 2 pixels
    assert (drawn(path) == 2).sum() == 4
    labels = drawn(path, all_touched=True)
    assert (labels[2:5, 3:6] == 2).all() and (labels == 2).sum() == 9


def test_polygons_of_another_crs_are_brought_to_the_scene(write: Callable[..., Path]) -> None:
    source, target = CRS.from_epsg(32632), CRS.from_epsg(4326)
    shape = transform_geom(source, target, box(2, 3, 6, 8))
    labels = drawn(write([(shape, {"class": "Forest"})], epsg=4326))
    assert (labels[2:8, 3:11] == 1).all() and (labels != 255).sum() == 48


@given(
    corners=st.lists(
        st.tuples(st.floats(-3, 23), st.floats(-3, 33)), min_size=3, max_size=6, unique=True
    ),
    row=st.integers(0, 19), col=st.integers(0, 29), height=st.integers(1, 9),
    width=st.integers(1, 9),
)  # fmt: skip
def test_a_window_is_that_of_the_whole_drawing(
    corners: list[tuple[float, float]], row: int, col: int, height: int, width: int
) -> None:
    ring = [[600_000 + 10 * c, 5_300_000 - 10 * r] for r, c in [*corners, corners[0]]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    height, width = min(height, 20 - row), min(width, 30 - col)
    labels = PolygonLabels(((shape, 1),), GRID, False, ())
    whole = labels.read(0, 20, 0, 30)
    np.testing.assert_array_equal(
        labels.read(row, height, col, width), whole[row : row + height, col : col + width]
    )


@pytest.mark.parametrize(
    ("values", "how", "told"),
    [
        ({"class": "Sea"}, {}, "'class' holds no class of the card; it has Sea: name the classes "
         "so, or give layout.codes"),
        ({"class": "Water", "id": 3}, {}, "has several attributes; give layout.attribute, one of "
         "class, id"),
        ({"class": "Water"}, {"attribute": "klass"}, "has no attribute 'klass'; did you mean "
         "'class'?"),
        ({"id": 5}, {"codes": [1, 2, 3]}, "'id' holds no class of the card; it has 5: name the "
         "classes so, or give layout.codes"),
    ],
)  # fmt: skip
def test_attributes_that_name_no_class_are_told(
    write: Callable[..., Path], values: dict[str, Any], how: dict[str, Any], told: str
) -> None:
    path = write([(box(0, 0, 2, 2), values)])
    with pytest.raises(DataError) as refused:
        drawn(path, **how)
    assert str(refused.value) == f"{path}: {told}"


def test_polygons_outside_the_scene_and_files_that_are_none_are_told(
    write: Callable[..., Path],
) -> None:
    path = write([(box(90, 0, 2, 2), {"class": "Water"})])
    with pytest.raises(DataError) as refused:
        drawn(path)
    assert str(refused.value) == f"{path}: no polygon lies on the scene; mend its CRS"
    path.write_text("{")
    with pytest.raises(DataError, match=r"labels\.geojson: cannot be read \(.*\); mend it"):
        drawn(path)
