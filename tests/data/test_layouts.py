"""Readers: pixels, labels and places as they lie on the disk, and what is wrong in one line."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swath.data.card import UNLABELLED, Band, Card
from swath.data.layouts import SceneFolder, open_source, scene_folders
from swath.errors import DataError

if TYPE_CHECKING:
    from conftest import TinyArchive

Write = Callable[..., Path]


def refused(card: Card, folder: Path) -> str:
    with pytest.raises(DataError) as told:
        open_source(card, folder)
    assert "\n" not in str(told.value)
    return str(told.value)


# ---- whole scenes, drawn


@pytest.fixture(scope="module")
def drawn(tiny_card: Card, tiny_scenes: Path) -> SceneFolder:
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


def test_drawn_scenes_are_found_with_their_facts(drawn: SceneFolder) -> None:
    assert drawn.scenes == ["S2SYN_20260604_01", "S2SYN_20260629_02"]
    assert (drawn.gsd_m, drawn.dtype, drawn.native_px) == (10.0, "uint16", None)
    first, second = drawn.opened
    assert (first.west, first.north, first.epsg) == (600_000.0, 5_300_040.0, 32632)
    assert second.west == 600_000 + (128 + 200) * 10
    assert first.time == datetime(2026, 6, 4, 10, 20, 31)


def test_bands_of_both_gsds_are_stacked_in_the_order_of_the_card(
    drawn: SceneFolder, tiny_scenes: Path
) -> None:
    for scene in drawn.opened:
        np.testing.assert_array_equal(
            scene.read(0, 0, 128, 128), whole_image(tiny_scenes, scene.name)
        )


@given(
    row=st.integers(0, 120),
    col=st.integers(0, 120),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
)
def test_a_coarse_pixel_is_its_block_of_fine_ones_in_any_window(
    drawn: SceneFolder, tiny_scenes: Path, row: int, col: int, height: int, width: int
) -> None:
    window = np.s_[:, row : row + height, col : col + width]
    read = drawn.opened[0].read(row, col, height, width)
    np.testing.assert_array_equal(read, whole_image(tiny_scenes, drawn.scenes[0])[window])


def test_clouds_and_the_outside_are_unlabelled(drawn: SceneFolder, tiny_scenes: Path) -> None:
    hidden = 0
    for scene in drawn.opened:
        classes = raster(tiny_scenes, scene.name, "classes")[0]
        mask = raster(tiny_scenes, scene.name, "mask")[0]
        labels = scene.read_labels(0, 0, 128, 128)
        assert (labels[mask != 0] == UNLABELLED).all()
        np.testing.assert_array_equal(labels[mask == 0], classes[mask == 0])
        hidden += int(((mask == 1) & (classes != UNLABELLED)).sum())
    assert hidden > 100, "the drawing has clouds over labelled ground"


def test_the_table_lists_every_window_with_its_corner(drawn: SceneFolder) -> None:
    table = drawn.table(32, 16)
    assert len(table) == 2 * 7 * 7
    one = table.iloc[49 + 7 * 2 + 3]
    assert (one["scene"], one["row"], one["col"]) == (1, 32, 48)
    assert one["easting"] == 603_280 + 480 and one["northing"] == 5_300_040 - 320
    assert one["name"] == "S2SYN_20260629_02_32_48" and one["epsg"] == 32632
    assert table["name"].is_unique
    assert len(drawn.table(64, None)) == 2 * 2 * 2


def test_blocks_follow_the_table_and_hold_each_patch_once(
    drawn: SceneFolder, tiny_scenes: Path
) -> None:
    table = drawn.table(48, 40)
    rows = np.concatenate([block[0] for block in drawn.blocks(table, 48)])
    assert rows.tolist() == list(range(len(table)))
    few = table.iloc[[0, 3, 5, 7]].reset_index(drop=True)
    images = np.concatenate([block[1] for block in drawn.blocks(few, 48)])
    for place, image in zip(few.itertuples(), images, strict=True):
        whole = whole_image(tiny_scenes, drawn.scenes[place.scene])
        window = whole[:, place.row : place.row + 48, place.col : place.col + 48]
        np.testing.assert_array_equal(image, window)


def test_a_patch_must_have_a_size_and_fit_into_its_scene(drawn: SceneFolder) -> None:
    with pytest.raises(DataError, match=r"^patches\.size_px: whole scenes have no patch size"):
        drawn.table(None, None)
    told = "S2SYN_20260604_01: 128 x 128 px hold no patch of 129 px"
    with pytest.raises(DataError, match=told):
        drawn.table(129, None)


# ---- whole scenes, made by hand

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
def make_scene(tmp_path: Path, write_raster: Write) -> Callable[..., Path]:
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


def test_hand_made_bands_are_in_place(card: Card, make_scene: Callable[..., Path]) -> None:
    source = open_source(card, make_scene())
    image = source.opened[0].read(0, 0, 16, 16)
    np.testing.assert_array_equal(image[0], FINE[0])
    np.testing.assert_array_equal(image[1], np.kron(COARSE[0], np.ones((2, 2), np.uint16)))
    np.testing.assert_array_equal(image[2], FINE[1])


def test_scenes_may_lie_in_different_zones(card: Card, make_scene: Callable[..., Path]) -> None:
    make_scene("one")
    folder = make_scene("two", everywhere={"epsg": 32733, "corner": (300_000.0, 9_000_000.0)})
    table = open_source(card, folder).table(8, None)
    assert table.groupby("scene")["epsg"].first().tolist() == [32632, 32733]
    assert table.groupby("scene")["northing"].max().tolist() == [5_300_040, 9_000_000]


def test_every_value_of_the_mask_but_zero_hides_a_label(
    card: Card, make_scene: Callable[..., Path]
) -> None:
    mask = MASK.copy()
    mask[0, 2:5, 7] = (1, 2, 255)
    labels = open_source(card, make_scene(mask={"bands": mask})).opened[0].read_labels(0, 0, 16, 16)
    assert labels[2:5, 7].tolist() == [UNLABELLED] * 3
    assert (labels == UNLABELLED).sum() == 3
    np.testing.assert_array_equal(labels[mask[0] == 0], LABELS[mask == 0])


def test_without_labels_all_is_unlabelled(card: Card, make_scene: Callable[..., Path]) -> None:
    source = scene_folders(make_scene(), card, images=["*_10m.tif", "*_20m.tif"])
    assert (source.opened[0].read_labels(0, 0, 4, 4) == UNLABELLED).all()


def test_a_missing_band_is_named_with_what_there_is(
    card: Card, make_scene: Callable[..., Path]
) -> None:
    folder = make_scene(fine={"names": ("blue", "rot")})
    assert refused(card, folder) == f"{folder / 'one'}: has no band red; it has blue, rot, edge"


@pytest.mark.parametrize(
    "change",
    [{"epsg": 32633}, {"corner": (600_010.0, 5_300_040.0)}],
    ids=["CRS", "corner"],
)
def test_images_of_one_scene_share_their_grid(
    card: Card, make_scene: Callable[..., Path], change: dict[str, Any]
) -> None:
    told = refused(card, make_scene(coarse=change))
    assert told.endswith(
        "one_20m.tif: differs from one_10m.tif in CRS or corner; bring both to one grid"
    )


@pytest.mark.parametrize("product", ["classes", "mask"])
@pytest.mark.parametrize(
    "change",
    [
        {"epsg": 32633},
        {"corner": (600_010.0, 5_300_040.0)},
        {"gsd_m": 20.0, "bands": np.zeros((1, 8, 8), np.uint8)},
        {"bands": np.zeros((1, 12, 16), np.uint8)},
    ],
    ids=["CRS", "corner", "GSD", "shape"],
)
def test_labels_and_mask_lie_on_the_grid_of_the_image(
    card: Card, make_scene: Callable[..., Path], product: str, change: dict[str, Any]
) -> None:
    assert f"one_{product}.tif" in refused(card, make_scene(**{product: change}))


def test_a_coarse_image_that_ends_early_is_refused(
    card: Card, make_scene: Callable[..., Path]
) -> None:
    assert "one_20m.tif" in refused(card, make_scene(coarse={"bands": COARSE[:, :7, :7]}))


def test_an_image_without_a_crs_is_refused(card: Card, make_scene: Callable[..., Path]) -> None:
    told = refused(card, make_scene(fine={"epsg": None}))
    assert told.endswith("one_10m.tif: has no CRS; write one, e.g. with gdal_edit")


def test_a_pattern_must_match_one_file(
    card: Card, make_scene: Callable[..., Path], write_raster: Write
) -> None:
    folder = make_scene()
    write_raster(folder / "one" / "again_10m.tif", FINE, ("blue", "red"))
    assert f"{folder / 'one'}: 2 files match '*_10m.tif', not one" in refused(card, folder)
    for file in (folder / "one").glob("*_10m.tif"):
        file.unlink()
    assert f"{folder / 'one'}: 0 files match '*_10m.tif', not one" in refused(card, folder)


def test_scenes_of_different_gsd_are_refused(card: Card, make_scene: Callable[..., Path]) -> None:
    make_scene("one")
    folder = make_scene(
        "two",
        fine={"gsd_m": 5.0},
        coarse={"gsd_m": 10.0},
        classes={"gsd_m": 5.0},
        mask={"gsd_m": 5.0},
    )
    assert f"{folder}: scenes differ in GSD" in refused(card, folder)


def test_a_folder_without_scenes_and_a_broken_image_are_refused(
    card: Card, make_scene: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no folder of a scene" in refused(card, tmp_path / "empty")
    folder = make_scene()
    (folder / "one" / "one_20m.tif").write_bytes(b"II*\0 and no more")
    assert re.search(r"one_20m\.tif: cannot be read .*fetch it again$", refused(card, folder))


@pytest.mark.parametrize(
    ("stamp", "time"),
    [
        ("2026-06-04T10:20:31Z", datetime(2026, 6, 4, 10, 20, 31)),
        ("2026-06-04T23:20:31-05:00", datetime(2026, 6, 5, 4, 20, 31)),
        (None, None),
    ],
)
def test_the_time_of_acquisition_is_in_utc(
    card: Card, make_scene: Callable[..., Path], stamp: str | None, time: datetime | None
) -> None:
    folder = make_scene()
    if stamp:
        with rasterio.open(folder / "one" / "one_10m.tif", "r+") as file:
            file.update_tags(ACQUISITION_TIME=stamp)
    assert open_source(card, folder).opened[0].time == time


# ---- patches as they were published


def rewrite(twin: TinyArchive, **changes: bytes | None) -> None:
    """Pack the archive anew, deflated, with members changed, added or (None) left out."""
    with zipfile.ZipFile(twin.archive) as opened:
        members: dict[str, bytes | None] = {n: opened.read(n) for n in opened.namelist()}
    with zipfile.ZipFile(twin.archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in (members | changes).items():
            if content is not None:
                opened.writestr(name, content)


def image(*shape: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(shape, 7, np.uint8)).save(stream, "png")
    return stream.getvalue()


def read_all(twin: TinyArchive, card: Card | None = None) -> tuple[list[str], np.ndarray, Any]:
    source = open_source(card or twin.card, twin.folder)
    table = source.table(None, None)
    blocks = list(source.blocks(table, source.native_px))
    images, labels = (np.concatenate([block[i] for block in blocks]) for i in (1, 2))
    return table["name"].tolist(), images, labels


def test_patches_come_in_the_order_of_classes_and_numbers(tiny_archive: TinyArchive) -> None:
    names, images, labels = read_all(tiny_archive)
    assert names[:3] == ["Crop/Crop_1.png", "Crop/Crop_2.png", "Crop/Crop_3.png"]
    assert names[9:13] == [
        "Crop/Crop_10.png", "Crop/Crop_11.png", "Crop/Crop_12.png", "Forest/Forest_1.png"
    ]  # fmt: skip
    assert labels.tolist() == [0] * 12 + [1] * 5 + [2] * 3
    assert images.shape == (20, 3, 8, 8)
    for name, pixels in zip(names, images, strict=True):
        np.testing.assert_array_equal(pixels, tiny_archive.pixels[name].transpose(2, 0, 1))


def test_labels_follow_the_card_and_not_the_alphabet(tiny_archive: TinyArchive) -> None:
    turned = dict(reversed(tiny_archive.card.classes.items()))
    card = tiny_archive.card.model_copy(update={"classes": turned})
    names, _, labels = read_all(tiny_archive, card)
    assert names[0] == "River/River_1.png" and labels.tolist() == [0] * 3 + [1] * 5 + [2] * 12


def test_each_patch_has_the_place_of_its_name(tiny_archive: TinyArchive) -> None:
    table = open_source(tiny_archive.card, tiny_archive.folder).table(None, None)
    known = tiny_archive.places.set_index("path")
    for place in table.itertuples():
        assert place.easting == known.loc[place.name, "ul_easting"]
        assert place.northing == known.loc[place.name, "ul_northing"]
    assert set(table["epsg"]) == {32632}


def test_without_a_georeference_places_are_unknown(tiny_archive: TinyArchive) -> None:
    card = tiny_archive.card.model_copy(
        update={"layout": {"name": "class_folders", "archive": "tiny.zip"}}
    )
    table = open_source(card, tiny_archive.folder).table(None, None)
    assert table["easting"].isna().all() and (table["epsg"] == 0).all() and len(table) == 20


def test_a_patch_without_a_place_is_named(tiny_archive: TinyArchive) -> None:
    places = tiny_archive.places.query("path != 'Forest/Forest_4.png'")
    path = tiny_archive.folder / "places.csv"
    places.to_csv(path, index=False)
    layout = tiny_archive.card.layout | {"georeference": "places.csv"}
    card = tiny_archive.card.model_copy(update={"layout": layout})
    assert refused(card, tiny_archive.folder) == (
        f"{path}: has no place for 1 patches, the first is Forest/Forest_4.png; fetch it again"
    )


@pytest.mark.parametrize("shape", [(8, 9, 3), (8, 8), (8, 8, 4)])
def test_an_image_of_another_shape_is_named(
    tiny_archive: TinyArchive, shape: tuple[int, ...]
) -> None:
    rewrite(tiny_archive, **{"Tiny/River/River_2.png": image(*shape)})
    with pytest.raises(DataError) as told:
        read_all(tiny_archive)
    assert str(told.value) == (f"Tiny/River/River_2.png: is {shape}, not (8, 8, 3); fetch it again")


def test_an_image_that_is_none_is_named(tiny_archive: TinyArchive) -> None:
    rewrite(tiny_archive, **{"Tiny/River/River_2.png": image(8, 8, 3)[:40]})
    with pytest.raises(DataError, match=r"^Tiny/River/River_2\.png: cannot be decoded"):
        read_all(tiny_archive)


def test_a_truncated_archive_is_refused(tiny_archive: TinyArchive) -> None:
    tiny_archive.archive.write_bytes(tiny_archive.archive.read_bytes()[:-100])
    told = refused(tiny_archive.card, tiny_archive.folder)
    assert re.search(r"tiny\.zip: cannot be read \(.*\); fetch it again$", told)


def test_a_damaged_member_is_named_in_one_line(tiny_archive: TinyArchive) -> None:
    rewrite(tiny_archive, **{"Tiny/River/River_3.png": image(8, 8, 3)})
    with zipfile.ZipFile(tiny_archive.archive) as opened:
        start = opened.getinfo("Tiny/River/River_3.png").header_offset + 30
    damaged = bytearray(tiny_archive.archive.read_bytes())
    first = start + len("Tiny/River/River_3.png")
    for at in (first, first + 12, first + 30):
        changed = damaged.copy()
        changed[at] ^= 0xFF
        tiny_archive.archive.write_bytes(changed)
        with pytest.raises(DataError, match=r"^Tiny/River/River_3\.png: cannot be decoded"):
            read_all(tiny_archive)


def test_an_archive_with_no_image_of_a_class_is_refused_in_one_line(
    tiny_archive: TinyArchive,
) -> None:
    card = tiny_archive.card.model_copy(
        update={"classes": {"Sea": "#0000aa", "Sand": "#aaaa00"}, "counts": {}}
    )
    assert "tiny.zip" in refused(card, tiny_archive.folder)


def test_images_whose_names_have_no_number_are_read(tiny_archive: TinyArchive) -> None:
    rewrite(
        tiny_archive,
        **{"Tiny/River/River_2.png": None, "Tiny/River/Danube.png": image(8, 8, 3)},
    )
    card = tiny_archive.card.model_copy(
        update={"layout": {"name": "class_folders", "archive": "tiny.zip"}}
    )
    names, images, _ = read_all(tiny_archive, card)
    at = names.index("River/Danube.png")
    assert at >= 17 and (images[at] == 7).all() and len(names) == 20


def test_published_patches_have_no_stride_and_no_other_size(tiny_archive: TinyArchive) -> None:
    source = open_source(tiny_archive.card, tiny_archive.folder)
    with pytest.raises(DataError, match=r"^patches\.stride_px: .*have no stride"):
        source.table(None, 4)
    with pytest.raises(DataError, match=r"is \(8, 8, 3\), not \(16, 16, 3\)"):
        list(source.blocks(source.table(16, None), 16))
