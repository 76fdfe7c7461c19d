"""Scenes as raster files: found by patterns, read in windows, labelled by rasters or polygons."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from opening import opened, refused

from swath.data.card import UNLABELLED, Band, Card, Target
from swath.data.layouts import Source, open_source
from swath.data.layouts.scene_folders import scene_folders
from swath.data.scene import Scene
from swath.errors import DataError

Write = Callable[..., Path]


# ---- scenes that swath draws


@pytest.fixture(scope="module")
def drawn(tiny_card: Card, tiny_scenes: Path) -> Source:
    return open_source(tiny_card, tiny_scenes)


def raster(folder: Path, scene: str, product: str) -> np.ndarray:
    with rasterio.open(folder / scene / f"{scene}_{product}.tif") as file:
        return file.read()


def whole_image(folder: Path, scene: str) -> np.ndarray:
    """The image (band, y, x) in the order of the card, each 20 m pixel as 2 x 2 of 10 m."""
    fine, coarse = (raster(folder, scene, product) for product in ("10m", "20m"))
    b02, b03, b04, b08 = fine
    b05, b06, b07, b8a, b11, b12 = coarse.repeat(2, axis=1).repeat(2, axis=2)
    return np.stack([b02, b03, b04, b05, b06, b07, b08, b8a, b11, b12])


def test_drawn_scenes_are_found_with_their_facts(drawn: Source) -> None:
    assert drawn.names == ("S2SYN_20260604_01", "S2SYN_20260629_02")
    first, second = (drawn.open(name) for name in drawn.names)
    assert isinstance(first, Scene) and isinstance(second, Scene)
    assert (first.grid.gsd_m, first.dtype, first.grid.epsg) == (10.0, "uint16", 32632)
    assert (first.grid.west, first.grid.north) == (600_000.0, 5_300_040.0)
    assert second.grid.west == 600_000 + (128 + 200) * 10
    assert first.times == (datetime(2026, 6, 4, 10, 20, 31),)
    assert first.factors == ((("B02", "B03", "B04", "B08"), 1),
                             (("B05", "B06", "B07", "B8A", "B11", "B12"), 2))  # fmt: skip
    assert first.bytes == 2 * (4 * 128 * 128 + 6 * 64 * 64)
    assert [file.name.removeprefix("S2SYN_20260604_01_") for file in first.files] == [
        "10m.tif", "20m.tif", "classes.tif", "mask.tif"
    ]  # fmt: skip


@given(
    row=st.integers(0, 120),
    col=st.integers(0, 120),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
)
def test_any_window_is_that_of_the_whole_scene(
    drawn: Source, tiny_scenes: Path, row: int, col: int, height: int, width: int
) -> None:
    window = np.s_[:, row : row + height, col : col + width]
    scene = drawn.open(drawn.names[0])
    assert isinstance(scene, Scene)
    read = scene.read(row, col, height, width, "nearest")
    np.testing.assert_array_equal(read, whole_image(tiny_scenes, drawn.names[0])[window])
    for resampling in ("bilinear", "cubic"):
        whole = scene.read(0, 0, 128, 128, resampling)[window]
        np.testing.assert_array_equal(scene.read(row, col, height, width, resampling), whole)


def test_clouds_and_the_outside_are_unlabelled(drawn: Source, tiny_scenes: Path) -> None:
    hidden = 0
    for name in drawn.names:
        scene = drawn.open(name)
        assert isinstance(scene, Scene)
        classes = raster(tiny_scenes, name, "classes")[0]
        mask = raster(tiny_scenes, name, "mask")[0]
        labels = scene.read_labels(0, 0, 128, 128)
        assert (labels[mask != 0] == UNLABELLED).all()
        np.testing.assert_array_equal(labels[mask == 0], classes[mask == 0])
        hidden += int(((mask == 1) & (classes != UNLABELLED)).sum())
    assert hidden > 100, "the drawing has clouds over labelled ground"


# ---- scenes made by hand

FINE = np.arange(2 * 16 * 16, dtype=np.uint16).reshape(2, 16, 16)
COARSE = np.arange(8 * 8, dtype=np.uint16).reshape(1, 8, 8) + 1000
LABELS = (np.arange(16 * 16, dtype=np.uint8) % 3).reshape(1, 16, 16)
MASK = np.zeros((1, 16, 16), np.uint8)


@pytest.fixture
def card(tiny_card: Card) -> Card:
    """The card of hand-made scenes: the coarse band stands between the fine ones."""
    bands = [
        Band(name=name, wavelength_nm=500.0, gsd_m=gsd_m)
        for name, gsd_m in (("blue", 10.0), ("edge", 20.0), ("red", 10.0))
    ]
    return tiny_card.model_copy(update={"bands": bands, "rgb": ["red", "edge", "blue"]})


@pytest.fixture
def make_folder(tmp_path: Path, write_raster: Write) -> Callable[..., Path]:
    """Writes a scene; `fine`, `coarse`, `classes` and `mask` change one raster of it."""

    def make(
        name: str = "one", everywhere: dict[str, Any] | None = None, **changes: dict[str, Any]
    ) -> Path:
        products: dict[str, tuple[str, dict[str, Any]]] = {
            "fine": ("10m", {"bands": FINE, "names": ("blue", "red")}),
            "coarse": ("20m", {"bands": COARSE, "names": ("edge",), "gsd_m": 20.0}),
            "classes": ("classes", {"bands": LABELS, "names": ("class",)}),
            "mask": ("mask", {"bands": MASK, "names": ("mask",)}),
        }
        for product, (suffix, settings) in products.items():
            path = tmp_path / "scenes" / name / f"{name}_{suffix}.tif"
            write_raster(path, **settings | (everywhere or {}) | changes.get(product, {}))
        return tmp_path / "scenes"

    return make


def test_hand_made_bands_are_in_place(card: Card, make_folder: Callable[..., Path]) -> None:
    scene = opened(card, make_folder())
    image = scene.read(0, 0, 16, 16, "nearest")
    np.testing.assert_array_equal(image[0], FINE[0])
    np.testing.assert_array_equal(image[1], np.kron(COARSE[0], np.ones((2, 2), np.uint16)))
    np.testing.assert_array_equal(image[2], FINE[1])
    # Bilinear: a quarter of the way from one centre to the next; the edge repeats.
    smooth = scene.read(0, 0, 16, 16, "bilinear")[1].astype(float)
    assert smooth[0, :4].tolist() == [1000, 1000, 1001, 1001]
    assert smooth[4, 4] == pytest.approx(1000 + 1.75 + 8 * 1.75, abs=0.51)


@pytest.mark.parametrize("larger", ["blue", "red"])
def test_of_files_that_reach_beyond_each_other_what_all_have_is_read(
    tmp_path: Path, card: Card, write_raster: Write, larger: str
) -> None:
    folder = tmp_path / "scenes"
    wide = {band: 18 if band == larger else 16 for band in ("blue", "red")}
    for number, (band, side) in enumerate(wide.items()):
        values = np.zeros((1, side, side), np.uint16)
        values[0, :16, :16] = FINE[number]
        write_raster(folder / "one" / f"one_{band}.tif", values, (band,))
    write_raster(folder / "one/one_edge.tif", np.pad(COARSE, ((0, 0), (0, 2), (0, 2))), ("edge",),
                 gsd_m=20.0)  # fmt: skip
    scene = scene_folders(folder, card, images=["*.tif"]).open("one")
    assert isinstance(scene, Scene)
    # The finest grid is that of the first file; a shorter one is filled up with no-data.
    assert scene.grid.height in (16, 18)
    image = scene.read(0, 0, scene.grid.height, scene.grid.width, "nearest")
    np.testing.assert_array_equal(image[[0, 2], :16, :16], FINE)
    np.testing.assert_array_equal(
        image[1, :16, :16], np.kron(COARSE[0], np.ones((2, 2), np.uint16))
    )


def test_scenes_may_lie_in_different_zones(card: Card, make_folder: Callable[..., Path]) -> None:
    make_folder("one")
    folder = make_folder("two", everywhere={"epsg": 32733, "corner": (300_000.0, 9_000_000.0)})
    grids = [opened(card, folder, name).grid for name in ("one", "two")]
    assert [(grid.epsg, grid.north) for grid in grids] == [(32632, 5_300_040), (32733, 9_000_000)]


def test_every_value_of_the_mask_but_the_clear_ones_hides_a_label(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    mask = MASK.copy()
    mask[0, 2:5, 7] = (1, 2, 255)
    folder = make_folder(mask={"bands": mask})
    labels = opened(card, folder).read_labels(0, 0, 16, 16)
    assert labels[2:5, 7].tolist() == [UNLABELLED] * 3
    assert (labels == UNLABELLED).sum() == 3
    np.testing.assert_array_equal(labels[mask[0] == 0], LABELS[mask == 0])
    layout = card.layout | {"clear": [0, 2]}
    labels = opened(card.model_copy(update={"layout": layout}), folder).read_labels(0, 0, 16, 16)
    assert labels[2:5, 7].tolist() == [UNLABELLED, LABELS[0, 3, 7], UNLABELLED]


def test_codes_name_the_classes_in_the_order_of_the_card(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    codes = np.zeros((1, 16, 16), np.int16)
    codes[0, 0, :5] = (-3, 700, 7, 8, 0)
    folder = make_folder(classes={"bands": codes})
    few = card.model_copy(
        update={
            "classes": {"sea": "#000000", "sand": "#ffffff"},
            "layout": card.layout | {"codes": [700, -3]},
        }
    )
    labels = opened(few, folder).read_labels(0, 0, 1, 5)
    assert labels[0].tolist() == [1, 0, UNLABELLED, UNLABELLED, UNLABELLED]
    wrong = few.model_copy(update={"layout": card.layout | {"codes": [1, 2, 3]}})
    assert refused(wrong, folder) == (
        "data.layout.codes: 3 codes are given for 2 classes; "
        "give one for each class of the card, in its order"
    )


NUMBERS = np.linspace(-2, 7, 16 * 16, dtype=np.float32).reshape(1, 16, 16)
HEIGHT = {"target": Target(name="height", unit="m"), "classes": {"height": "#0b6183"}}


def test_labels_of_a_target_are_the_numbers_of_a_raster(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    values, mask = NUMBERS.copy(), MASK.copy()
    values[0, 2, 3], values[0, 4, 4], mask[0, 8, 9] = np.nan, np.inf, 1
    folder = make_folder(classes={"bands": values}, mask={"bands": mask})
    target = card.model_copy(update=HEIGHT)
    labels = opened(target, folder).read_labels(0, 0, 16, 16)
    expected = NUMBERS[0].copy()
    expected[[2, 4, 8], [3, 4, 9]] = np.nan
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, expected)
    raster = folder / "one" / "one_classes.tif"
    with rasterio.open(raster, "r+") as file:
        file.nodata = float(NUMBERS[0, 5, 5])
    labels = opened(target, folder).read_labels(5, 4, 1, 2)
    assert np.isnan(labels[0, 1]) and labels[0, 0] == NUMBERS[0, 5, 4]


def test_numbers_that_cover_a_part_leave_the_rest_unlabelled(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    part = np.full((1, 4, 5), 255, np.float32)  # a number like any other
    folder = make_folder(classes={"bands": part, "corner": (600_030.0, 5_300_020.0)})
    labels = opened(card.model_copy(update=HEIGHT), folder).read_labels(0, 0, 16, 16)
    assert (labels[2:6, 3:8] == 255).all() and np.isfinite(labels).sum() == 20


def test_a_target_of_classes_is_refused(card: Card, make_folder: Callable[..., Path]) -> None:
    said = refused(card.model_copy(update=HEIGHT), make_folder())
    assert "one_classes.tif: holds uint8, and a target's numbers are float32" in said


def test_what_is_brighter_than_declared_in_all_bands_is_cloud(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    layout = {
        "name": "scene_folders", "images": ["*_10m.tif", "*_20m.tif"], "labels": "*_classes.tif",
        "cloud_above": {"blue": 100, "red": 400, "edge": 1010},
    }  # fmt: skip
    scene = opened(card.model_copy(update={"layout": layout}), make_folder())
    image = scene.read(0, 0, 16, 16, "nearest")
    cloud = (image[0] > 100) & (image[2] > 400) & (image[1] > 1010)
    assert 0 < cloud.sum() < 256 and scene.mask is not None
    np.testing.assert_array_equal(scene.mask.read(0, 16, 0, 16), ~cloud)
    labels = scene.read_labels(0, 0, 16, 16)
    np.testing.assert_array_equal(labels, np.where(cloud, UNLABELLED, LABELS[0]))


def test_without_labels_all_is_unlabelled(card: Card, make_folder: Callable[..., Path]) -> None:
    source = scene_folders(make_folder(), card, images=["*_10m.tif", "*_20m.tif"])
    scene = source.open("one")
    assert isinstance(scene, Scene) and (scene.read_labels(0, 0, 4, 4) == UNLABELLED).all()


# ---- how bands, scenes and dates are told apart


def test_bands_are_named_by_description_file_or_order(
    tmp_path: Path, card: Card, write_raster: Write
) -> None:
    folder = tmp_path / "scenes"
    third = np.concatenate([FINE, FINE[:1] + 7000])
    write_raster(folder / "all" / "x.tif", third, ("red", "blue", "edge"))
    write_raster(folder / "plain" / "x.tif", third, ("", "", ""))
    for number, band in enumerate(("edge", "blue", "red")):
        write_raster(folder / "files" / f"T1_{band.upper()}_10m.tif", third[number : number + 1],
                     ("",))  # fmt: skip
    expected = {"all": [1, 2, 0], "plain": [0, 1, 2], "files": [1, 0, 2]}
    source = scene_folders(folder, card, images=["*.tif"])
    assert source.names == ("all", "files", "plain")
    for name, order in expected.items():
        scene = source.open(name)
        assert isinstance(scene, Scene)
        np.testing.assert_array_equal(scene.read(0, 0, 16, 16, "nearest"), third[order])
    by_order = scene_folders(folder, card, images=["x.tif"], bands_by="order").open("all")
    assert isinstance(by_order, Scene)
    np.testing.assert_array_equal(by_order.read(0, 0, 16, 16, "nearest"), third)


def test_scenes_are_found_by_the_place_of_their_name(
    tmp_path: Path, card: Card, write_raster: Write
) -> None:
    folder = tmp_path / "chips"
    for name in ("Spain_1[a]", "Spain_2"):
        write_raster(folder / "S1" / f"{name}_S1Hand.tif", FINE[[0, 0, 1]], ("blue", "edge", "red"))
        write_raster(folder / "labels" / f"{name}_LabelHand.tif", LABELS, ("",))
    source = scene_folders(
        folder, card, images=["S1/{scene}_S1Hand.tif"], labels="labels/{scene}_LabelHand.tif"
    )
    assert source.names == ("Spain_1[a]", "Spain_2")
    scene = source.open("Spain_1[a]")
    assert isinstance(scene, Scene)
    assert [file.name for file in scene.files] == [
        "Spain_1[a]_S1Hand.tif", "Spain_1[a]_LabelHand.tif"
    ]  # fmt: skip


def test_files_of_several_dates_are_a_series_in_their_order(
    tmp_path: Path, card: Card, write_raster: Write
) -> None:
    folder = tmp_path / "scenes"
    for number, stamp in enumerate(("20200801", "20200603T103031", "20200702")):
        write_raster(
            folder / "one" / f"x_{stamp}.tif", FINE[[0, 0, 1]] + 1000 * number,
            ("blue", "edge", "red"),
        )  # fmt: skip
    scene = scene_folders(folder, card, images=["x_{date}.tif"]).open("one")
    assert isinstance(scene, Scene)
    assert scene.times == (
        datetime(2020, 6, 3, 10, 30, 31), datetime(2020, 7, 2), datetime(2020, 8, 1)
    )  # fmt: skip
    image = scene.read(3, 2, 5, 7, "nearest")
    assert image.shape == (9, 5, 7)
    for date, number in enumerate((1, 2, 0)):
        expected = FINE[[0, 0, 1], 3:8, 2:9] + 1000 * number
        np.testing.assert_array_equal(image[3 * date : 3 * date + 3], expected)


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("2026-06-04T10:20:31Z", datetime(2026, 6, 4, 10, 20, 31)),
        ("2026-06-04T23:20:31-05:00", datetime(2026, 6, 5, 4, 20, 31)),
        (None, None),
    ],
)
def test_the_time_of_acquisition_is_in_utc(
    card: Card, make_folder: Callable[..., Path], stamp: str | None, time: datetime | None
) -> None:
    folder = make_folder()
    if stamp:
        with rasterio.open(folder / "one" / "one_10m.tif", "r+") as file:
            file.update_tags(ACQUISITION_TIME=stamp)
    assert opened(card, folder).times == (time,)


def test_a_time_that_is_none_is_told(card: Card, make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    with rasterio.open(folder / "one" / "one_10m.tif", "r+") as file:
        file.update_tags(ACQUISITION_TIME="4 June")
    assert refused(card, folder) == (
        f"{folder / 'one/one_10m.tif'}: has no ISO time in its tag ACQUISITION_TIME, but '4 June'; "
        "write it as 2026-06-04T10:20:31Z"
    )


# ---- what is refused


def test_a_missing_band_is_named_with_what_there_is(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(fine={"names": ("blue", "rot")})
    assert refused(card, folder) == f"{folder / 'one'}: has no band red; it has blue, edge, rot"


def test_an_image_without_a_crs_is_refused(card: Card, make_folder: Callable[..., Path]) -> None:
    told = refused(card, make_folder(fine={"epsg": None}))
    assert told.endswith(
        "one_10m.tif: has no CRS; write one, e.g. with gdal_edit -a_srs EPSG:32632"
    )


@pytest.mark.parametrize("product", ["classes", "mask"])
def test_labels_and_mask_outside_the_scene_are_refused(
    card: Card, make_folder: Callable[..., Path], product: str
) -> None:
    folder = make_folder(**{product: {"corner": (700_000.0, 5_300_040.0)}})
    assert refused(card, folder) == (
        f"{folder / 'one' / f'one_{product}.tif'}: does not lie on the ground of the scene; "
        "mend it, or its CRS"
    )


def test_labels_that_cover_a_part_leave_the_rest_unlabelled(
    card: Card, make_folder: Callable[..., Path]
) -> None:
    part = np.full((1, 4, 5), 1, np.uint8)
    folder = make_folder(classes={"bands": part, "corner": (600_030.0, 5_300_020.0)})
    labels = opened(card, folder).read_labels(0, 0, 16, 16)
    assert (labels[2:6, 3:8] == 1).all() and (labels != UNLABELLED).sum() == 20


def test_one_file_of_labels_must_match(
    card: Card, make_folder: Callable[..., Path], write_raster: Write
) -> None:
    folder = make_folder()
    write_raster(folder / "one" / "again_classes.tif", LABELS, ("class",))
    mend = "not one; mend the layout"
    assert refused(card, folder) == f"{folder / 'one'}: 2 files match '*_classes.tif', {mend}"
    for file in (folder / "one").glob("*_classes.tif"):
        file.unlink()
    assert refused(card, folder) == f"{folder / 'one'}: 0 files match '*_classes.tif', {mend}"
    (folder / "one/one_20m.tif").unlink()
    assert refused(card, folder) == (
        f"{folder / 'one'}: no file matches '*_20m.tif'; mend the layout"
    )


def test_a_folder_without_scenes_and_a_broken_image_are_refused(
    card: Card, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as told:
        open_source(card, tmp_path / "empty")
    assert str(told.value) == (
        f"{tmp_path / 'empty'}: no scene has files like *_10m.tif; mend the card, or fetch"
    )
    folder = make_folder()
    for content in (b"", b"II*\0 and no more"):
        (folder / "one" / "one_20m.tif").write_bytes(content)
        told_line = refused(card, folder)
        assert re.search(r"one_20m\.tif: cannot be read \(.*\); fetch it again$", told_line)
