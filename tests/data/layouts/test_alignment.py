"""Bands, dates and labels of other grids: brought together pixel by pixel, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from opening import opened, refused
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform

from swath.data.card import UNLABELLED, Card
from swath.errors import DataError

MakeCard = Callable[..., Card]
Write = Callable[..., Path]
WEST, NORTH = 600_000.0, 5_300_000.0
RNG = np.random.default_rng(2)


@pytest.fixture
def place(tmp_path: Path, write_raster: Write) -> Callable[..., Path]:
    """Writes a band (y, x) of the scene S1 into the folder, on the corner (WEST, NORTH)."""

    def write(name: str, pixels: np.ndarray, **where: Any) -> Path:
        where = {"corner": (WEST, NORTH)} | where
        return write_raster(tmp_path / "S1" / f"{name}.tif", pixels[None], [""], **where)

    return write


def card_of(make_card: MakeCard, bands: str = "AB", **changes: Any) -> Card:
    layout = {"name": "scene_folders", "images": ["*.tif"], "bands_by": "file"}
    nodata = changes.pop("nodata", None)
    return make_card(layout | changes, dict.fromkeys(bands, 10.0), nodata=nodata)


def numbers(side: int) -> np.ndarray:
    return RNG.integers(1, 9000, (side, side)).astype(np.uint16)


# ---- images


@pytest.mark.parametrize("align", ["nearest", "bilinear"])
def test_another_zone_is_warped_to_the_finest_grid(
    align: str, place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    fine, other = numbers(40), numbers(60)
    place("x_A", fine)
    (x,), (y,) = transform("EPSG:32632", "EPSG:32633", [WEST + 200], [NORTH - 200])
    corner = (round(x) - 600.0, round(y) + 600.0)
    place("x_B", other, epsg=32633, gsd_m=20.0, corner=corner)
    scene = opened(card_of(make_card, align=align), tmp_path)
    assert (scene.grid.epsg, scene.grid.west, scene.grid.north) == (32632, WEST, NORTH)
    expected = np.empty((40, 40), np.uint16)
    reproject(
        other, expected, src_crs=CRS.from_epsg(32633), dst_crs=CRS.from_epsg(32632),
        src_transform=Affine(20, 0, corner[0], 0, -20, corner[1]),
        dst_transform=Affine(10, 0, WEST, 0, -10, NORTH), resampling=Resampling[align],
    )  # fmt: skip
    assert (expected > 0).all()
    np.testing.assert_array_equal(scene.read(0, 0, 40, 40, "nearest")[0], fine)
    np.testing.assert_array_equal(scene.read(0, 0, 40, 40, "nearest")[1], expected)
    # A window is the part of the whole.
    np.testing.assert_array_equal(scene.read(7, 11, 9, 6, "nearest")[1], expected[7:16, 11:17])


def test_half_a_pixel_is_the_mean_of_two(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    ramp = np.tile(100 * np.arange(21, dtype=np.uint16), (20, 1))
    place("x_A", numbers(20))
    place("x_B", ramp, corner=(WEST - 5.0, NORTH))
    image = opened(card_of(make_card, align="bilinear"), tmp_path).read(0, 0, 20, 20, "nearest")
    np.testing.assert_array_equal(image[1, 4], 100 * np.arange(20) + 50)


def test_what_is_half_covered_has_no_data_on_the_rest(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    east = numbers(20)
    place("x_A", numbers(20))
    half = place("x_B", east, corner=(WEST + 100.0, NORTH))
    assert refused(card_of(make_card), tmp_path) == (
        f"{half}: covers only 50% of x_A.tif, and there is no no-data value;"
        " give nodata in the card"
    )
    image = opened(card_of(make_card, nodata=0.0), tmp_path).read(0, 0, 20, 20, "nearest")
    assert (image[1, :, :10] == 0).all()
    np.testing.assert_array_equal(image[1, :, 10:], east[:, :10])


def test_what_cannot_be_aligned_names_both_files(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    place("x_A", numbers(20))
    other = place("x_B", numbers(20), corner=(WEST + 5000.0, NORTH))
    assert refused(card_of(make_card), tmp_path).startswith(
        f"{other}: does not lie on the ground of x_A.tif"
    )
    place("x_B", numbers(20), corner=(WEST + 3.0, NORTH))
    told = refused(card_of(make_card, align="refuse"), tmp_path)
    assert told.startswith(f"{other}: differs from x_A.tif in CRS or grid; bring both to one grid")
    place("x_B", numbers(20), epsg=None)
    assert refused(card_of(make_card), tmp_path).startswith(f"{other}: has no CRS; write one")


# ---- dates


def test_files_of_several_dates_are_a_series(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard, cut_set: Callable[..., Any]
) -> None:
    values = {}
    for date in ("20260801", "20260412T101010"):  # not in their order
        for band in "AB":
            values[date, band] = numbers(20 if band == "A" else 10)
            gsd = 10.0 if band == "A" else 20.0
            place(f"x_{date}_{band}", values[date, band], gsd_m=gsd)
    scene = opened(card_of(make_card, images=["x_{date}_*.tif"]), tmp_path)
    assert scene.times == (datetime(2026, 4, 12, 10, 10, 10), datetime(2026, 8, 1))
    expected = np.stack(
        [
            values[date, band] if band == "A" else values[date, band].repeat(2, 0).repeat(2, 1)
            for date in ("20260412T101010", "20260801")
            for band in "AB"
        ]
    )
    np.testing.assert_array_equal(scene.read(0, 0, 20, 20, "nearest"), expected)
    layout = {"name": "scene_folders", "images": ["x_{date}_*.tif"], "bands_by": "file"}
    card = make_card(layout, {"A": 10.0, "B": 20.0})
    for native in (False, True):
        cut = cut_set(card, tmp_path, size_px=20, native_gsd=native)
        assert cut.patches.image.shape == (1, 4, 20, 20)
        np.testing.assert_array_equal(cut.patches.image.gather(np.array([0]))[0], expected)


def test_a_series_with_a_gap_is_refused(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    for name in ("x_20260401_B", "x_20260801_A", "x_20260801_B"):
        place(name, numbers(10))
    assert (
        "S1: has no A of 2026-04-01 00:00:00, but of other dates; complete the series"
        in refused(card_of(make_card), tmp_path)
    )
    with pytest.raises(DataError, match="has no band C; it has A, B"):
        opened(card_of(make_card, bands="ABC"), tmp_path)


def test_one_acquisition_may_tell_several_times(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    bands = {"x_20260801_A": numbers(10), "height_20000211_B": numbers(10)}
    for name, pixels in bands.items():
        place(name, pixels)
    scene = opened(card_of(make_card), tmp_path)
    assert len(scene.times) == 1
    np.testing.assert_array_equal(
        scene.read(0, 0, 10, 10, "nearest"), np.stack(list(bands.values()))
    )


# ---- labels


def test_a_class_raster_of_another_zone_is_taken_by_the_nearest(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard, write_raster: Write
) -> None:
    place("x_A", numbers(40))
    (x,), (y,) = transform("EPSG:32632", "EPSG:32633", [WEST + 200], [NORTH - 200])
    codes = RNG.integers(0, 3, (20, 20)).astype(np.uint8)
    corner = (round(x) - 100.0, round(y) + 100.0)
    write_raster(tmp_path / "truth.tif", codes[None], ["c"], epsg=32633, gsd_m=10.0, corner=corner)
    scene = opened(card_of(make_card, bands="A", labels="/truth.tif"), tmp_path)
    expected = np.full((40, 40), UNLABELLED, np.uint8)
    reproject(
        codes, expected, src_crs=CRS.from_epsg(32633), dst_crs=CRS.from_epsg(32632),
        src_transform=Affine(10, 0, corner[0], 0, -10, corner[1]), src_nodata=UNLABELLED,
        dst_transform=Affine(10, 0, WEST, 0, -10, NORTH), dst_nodata=UNLABELLED,
        resampling=Resampling.nearest,
    )  # fmt: skip
    labels = scene.read_labels(0, 0, 40, 40)
    # 20 x 20 px lie in the middle of 40 x 40: about a quarter is labelled.
    assert 360 < (labels != UNLABELLED).sum() < 440
    np.testing.assert_array_equal(labels, expected)


def write_polygons(path: Path, shapes: list[Any], values: list[Any], epsg: int) -> None:
    column = np.array(values, dtype=object if isinstance(values[0], str) else None)
    pyogrio.raw.write(
        path, shapely.to_wkb(shapes), [column], ["kind"],
        geometry_type="Polygon", crs=f"EPSG:{epsg}", driver="GPKG",
    )  # fmt: skip


@pytest.mark.parametrize(("all_touched", "pixels"), [(False, 2 * 2), (True, 4 * 4)])
def test_polygons_have_the_pixels_counted_by_hand(
    all_touched: bool, pixels: int, place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    place("x_A", numbers(10))
    # From 7 m to 33 m: it holds the centres 15 and 25, and touches pixels 0 to 3.
    square = shapely.box(WEST + 7, NORTH - 33, WEST + 33, NORTH - 7)
    far = shapely.box(WEST - 900, NORTH, WEST - 800, NORTH + 100)
    write_polygons(tmp_path / "S1" / "p.gpkg", [square, far], ["B", "C"], 32632)
    scene = opened(
        card_of(make_card, bands="A", labels="p.gpkg", all_touched=all_touched), tmp_path
    )
    labels = scene.read_labels(0, 0, 10, 10)
    assert (labels == 1).sum() == pixels
    assert (labels != UNLABELLED).sum() == pixels
    first = 0 if all_touched else 1
    assert (labels[first:3, first:3] == 1).all()


def test_polygons_in_degrees_and_by_code_are_drawn_in_metres(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    place("x_A", numbers(10))
    ring = np.array([(20.0, -20.0), (80.0, -20.0), (80.0, -60.0), (20.0, -60.0)])
    lon, lat = transform("EPSG:32632", "EPSG:4326", WEST + ring[:, 0], NORTH + ring[:, 1])
    shape = shapely.Polygon(np.c_[lon, lat])
    write_polygons(tmp_path / "S1" / "p.gpkg", [shape], [7], 4326)
    scene = opened(card_of(make_card, bands="A", labels="p.gpkg", codes=[5, 6, 7]), tmp_path)
    labels = scene.read_labels(0, 0, 10, 10)
    assert (labels[2:6, 2:8] == 2).all() and (labels == 2).sum() == 4 * 6


def test_polygons_elsewhere_are_refused(
    place: Callable[..., Path], tmp_path: Path, make_card: MakeCard
) -> None:
    place("x_A", numbers(10))
    path = tmp_path / "S1" / "p.gpkg"
    write_polygons(path, [shapely.box(WEST + 900, NORTH, WEST + 999, NORTH + 99)], ["A"], 32632)
    told = refused(card_of(make_card, bands="A", labels="p.gpkg"), tmp_path)
    assert told == f"{path}: no polygon lies on the scene; mend its CRS"
    write_polygons(path, [shapely.box(WEST, NORTH - 50, WEST + 50, NORTH)], ["Forest"], 32632)
    told = refused(card_of(make_card, bands="A", labels="p.gpkg"), tmp_path)
    assert "'kind' holds no class of the card; it has Forest" in told
