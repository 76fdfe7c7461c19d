"""Regions: files of polygons as they come, and which patches lie wholly in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.warp import transform

from swath.errors import ConfigError, DataError
from swath.split.audit import audit
from swath.split.ground import Ground
from swath.split.polygons import read_regions, within
from swath.split.schemes import regions

MakeGround = Callable[..., Ground]
SIDE_M = 640.0
WEST, NORTH = 500_000.0, 5_310_000.0
BOX, POINT = shapely.box(0, 0, 1, 1), shapely.Point(0, 0)


def draw(
    path: Path, shapes: dict[str, shapely.Geometry], *, crs: str | None = "EPSG:32632"
) -> Path:
    """Write named polygons as the format that the suffix says."""
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(list(shapes.values()), dtype=object)),
        [np.array(list(shapes), dtype=object)],
        ["land"],
        geometry_type="Unknown" if path.suffix != ".shp" else "Polygon",
        crs=crs,
    )
    return path


@pytest.fixture
def lands(tmp_path: Path) -> Path:
    """Four lands side by side, 2.4 km wide and 6.4 km high; the last is cut off in the north."""
    shapes = {
        name: shapely.box(WEST + 2400 * n, NORTH - 6400, WEST + 2400 * (n + 1), NORTH)
        for n, name in enumerate("ABC")
    }
    shapes["D"] = shapely.box(WEST + 7200, NORTH - 6400, WEST + 9600, NORTH - 1000)
    return draw(tmp_path / "lands.gpkg", shapes)


@pytest.fixture
def ground(make_ground: MakeGround) -> Ground:
    """15 x 10 patches over the four lands."""
    x, y = np.meshgrid(np.arange(15) * SIDE_M, np.arange(10) * SIDE_M)
    label = np.arange(150) % 2
    return make_ground(WEST + x.ravel(), NORTH - y.ravel(), label=label)


def test_patches_lie_wholly_in_a_region_or_in_none(lands: Path, ground: Ground) -> None:
    found = within(ground, read_regions(lands, "land")).reshape(10, 15)
    # Of 15 patches in a row, the 4th, 8th and 12th lie on a border: 3.75 go into a land.
    row = [0, 0, 0, -1, 1, 1, 1, -1, 2, 2, 2, -1, 3, 3, 3]
    assert found[5].tolist() == row and found[9].tolist() == row
    # The first two rows reach over the north of D.
    assert found[0].tolist() == found[1].tolist() == [*row[:12], -1, -1, -1]


@pytest.mark.parametrize("suffix", [".geojson", ".shp", ".gpkg"])
def test_a_region_in_degrees_holds_the_same_patches(
    tmp_path: Path, lands: Path, ground: Ground, suffix: str
) -> None:
    known = read_regions(lands, "land")
    degrees = [
        shapely.transform(
            # Straight lines bend on the way: with a point every 64 m they stay where they are.
            shapely.segmentize(shape.buffer(0.1), 64.0),
            lambda points: np.array(transform("EPSG:32632", "EPSG:4326", *points.T)).T,
        )
        for shape in known.shapes
    ]
    path = draw(tmp_path / f"degrees{suffix}", dict(zip("ABCD", degrees, strict=True)),
                crs="EPSG:4326")  # fmt: skip
    np.testing.assert_array_equal(within(ground, read_regions(path, "land")), within(ground, known))


def test_polygons_of_one_name_are_one_region(tmp_path: Path, ground: Ground) -> None:
    # Two halves of a land: a patch across the line between them lies wholly in the land.
    collection = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": "EPSG:32632"}},
        "features": [
            {
                "type": "Feature",
                "properties": {"land": land, "code": 5},
                "geometry": shapely.geometry.mapping(shapely.box(WEST + w, 0, WEST + e, 9e6)),
            }
            for land, w, e in (("A", 0, 1000), ("A", 1000, 2400), ("B", 2400, 9600))
        ],
    }
    path = tmp_path / "halves.geojson"
    path.write_text(json.dumps(collection))
    found = read_regions(path, "land")
    assert found.names == ["A", "B"]
    assert within(ground, found).reshape(10, 15)[0, :5].tolist() == [0, 0, 0, -1, 1]
    assert read_regions(path, "code").names == ["5"], "numbers are names too"


def test_a_patch_in_two_regions_is_in_none(tmp_path: Path, ground: Ground) -> None:
    shapes = {
        "A": shapely.box(WEST, 0, WEST + 6400, 9e6),
        "B": shapely.box(WEST + 3200, 0, WEST + 9600, 9e6),
    }
    found = within(ground, read_regions(draw(tmp_path / "two.gpkg", shapes), "land"))
    assert found.reshape(10, 15)[0].tolist() == [0] * 5 + [-1] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("attribute", "crs", "shape", "line"),
    [
        ("lands", "EPSG:32632", BOX, "has no attribute 'lands'; did you mean 'land'?"),
        ("land", None, BOX, "has no CRS; give it one, e.g. by ogr2ogr -a_srs"),
        ("land", "EPSG:32632", POINT, "holds no polygon; draw the regions as polygons"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_bad_polygons_are_told_in_one_line(
    tmp_path: Path, attribute: str, crs: str | None, shape: shapely.Geometry, line: str
) -> None:
    path = draw(tmp_path / "bad.gpkg", {"A": shape}, crs=crs)
    with pytest.raises(DataError) as refused:
        read_regions(path, attribute)
    assert str(refused.value) == f"{path}: {line}"


def test_a_file_of_something_else_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "lands.geojson"
    for content in (None, "{"):
        if content:
            path.write_text(content)
        with pytest.raises(DataError) as refused:
            read_regions(path, "land")
        assert str(refused.value).startswith(f"{path}: cannot be read (")
        assert "\n" not in str(refused.value)


# ---- the scheme


def test_named_regions_validate_and_test_and_the_rest_trains(lands: Path, ground: Ground) -> None:
    (parts,) = regions(ground, file=str(lands), attribute="land", val=["B"], test=["D"])
    assert parts.reshape(10, 15)[5].tolist() == [
        *["train"] * 3, "unused", *["val"] * 3, "unused", *["train"] * 3, "unused", *["test"] * 3
    ]  # fmt: skip
    found = audit(ground, parts, buffer_m=0.0)
    assert found["passed"] and found["least_distance_m"] == 640.0


def test_the_file_may_lie_with_the_data(lands: Path, ground: Ground) -> None:
    beside = Ground(ground.places, ground.contents, ground.classes, lands.parent)
    (parts,) = regions(beside, file="lands.gpkg", attribute="land", test=["A"])
    assert (parts == "test").sum() == 30 and "val" not in parts


def test_in_folds_each_region_tests_once(lands: Path, ground: Ground) -> None:
    parts = regions(ground, file=str(lands), attribute="land", folds=4)
    region = within(ground, read_regions(lands, "land"))
    assert ((parts == "test").sum(axis=0) == (region >= 0)).all()
    for fold in parts:
        assert len(np.unique(region[fold == "test"])) == len(np.unique(region[fold == "val"])) == 1
        assert len(np.unique(region[fold == "train"])) == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"test": ["E"]}, "split.regions: there is no region 'E'; there is A, B, C, D"),
        ({}, "split.regions.test: names no region to test on, or one twice; "
             "name some of A, B, C, D, or give folds"),
        ({"val": ["A"], "test": ["A"]}, "split.regions.test: names no region to test on, or one "
                                        "twice; name some of A, B, C, D, or give folds"),
        ({"test": ["A"], "folds": 3}, "split.regions: regions are named, and folds asked for; "
                                      "choose one"),
        ({"folds": 5}, "split.regions.folds: 4 regions with patches are too few for 5 folds; "
                       "give fewer folds"),
    ],
)  # fmt: skip
def test_regions_that_will_not_do_are_told_in_one_line(
    lands: Path, ground: Ground, settings: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        regions(ground, file=str(lands), attribute="land", **settings)  # type: ignore[arg-type]
    assert str(refused.value) == line


def test_real_patches_by_land(tmp_path: Path, eurosat: Ground) -> None:
    shapes = {"west": shapely.box(-30, 30, 9.7, 72), "east": shapely.box(9.7, 30, 50, 72)}
    path = draw(tmp_path / "europe.geojson", shapes, crs="EPSG:4326")
    (parts,) = regions(eurosat, file=str(path), attribute="land", test=["east"], buffer_m=1000.0)
    west = eurosat.places["lon"].to_numpy() < 9.7
    assert west[parts == "train"].all() and not west[parts == "test"].any()
    assert (parts == "unused").sum() < 100 and audit(eurosat, parts, buffer_m=1000.0)[
        "problems"
    ] == ["part val has no patch"]
