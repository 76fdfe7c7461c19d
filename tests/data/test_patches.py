"""Patch sets: every patch is its window of the scene, and the store opens anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from swath.data import patches
from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.patches import cut
from swath.data.patchset import PatchSet, band_statistics, class_counts, open_patches
from swath.errors import DataError

if TYPE_CHECKING:
    from conftest import TinyArchive

SIDE_PX = 128


def cut_into(
    store: Path, card: Card, folder: Path, **changes: Any
) -> tuple[PatchSet, dict[str, int]]:
    """Cut a dataset, with every patch kept unless `changes` says otherwise, and open it."""
    how = {"size_px": 32, "stride_px": 16, "min_valid": 0.0, "fraction": 1.0}
    how |= {"made_by": {"data_version": "v1"}} | changes
    counts = cut(card, open_source(card, folder), store, **how)
    return open_patches(store), counts


def opened_by_xarray(store: Path) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_zarr(store, consolidated=False)


@pytest.fixture(scope="module")
def truth(tiny_scenes: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image (band, y, x) and labels (y, x) of each scene, read by rasterio alone."""
    found = []
    for scene in sorted(tiny_scenes.iterdir()):
        read = {}
        for product in ("10m", "20m", "classes", "mask"):
            with rasterio.open(scene / f"{scene.name}_{product}.tif") as file:
                read[product] = file.read()
        fine, coarse = read["10m"], read["20m"].repeat(2, axis=1).repeat(2, axis=2)
        image = np.concatenate([fine[:3], coarse[:3], fine[3:], coarse[3:]])
        labels = np.where(read["mask"][0] == 0, read["classes"][0], 255)
        found.append((image, labels.astype(np.uint8)))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_card: Card, tiny_scenes: Path) -> Path:
    """A set of 98 overlapping patches in chunks of 10."""
    store = tmp_path_factory.mktemp("set") / "set.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CHUNK_BYTES", 10 * 10 * 32 * 32 * 2)
        cut_into(store, tiny_card, tiny_scenes)
    return store


@pytest.fixture(scope="module")
def tiny_set(store: Path) -> PatchSet:
    return open_patches(store)


# ---- cutting


@settings(max_examples=15)
@given(size=st.integers(5, SIDE_PX), stride=st.integers(11, SIDE_PX))
def test_every_patch_is_its_window_and_its_corner_is_its_place(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_card: Card,
    tiny_scenes: Path,
    truth: list[tuple[np.ndarray, np.ndarray]],
    size: int,
    stride: int,
) -> None:
    store = tmp_path_factory.mktemp("round") / "set.zarr"
    opened, counts = cut_into(store, tiny_card, tiny_scenes, size_px=size, stride_px=stride)
    per_axis = (SIDE_PX - size) // stride + 1
    assert counts == {"kept": 2 * per_axis**2, "left_out": 0} and len(opened) == counts["kept"]
    everything = np.arange(len(opened))
    images, labels = opened.image.gather(everything), opened.label.gather(everything)
    for scene, folder in enumerate(sorted(tiny_scenes.iterdir())):
        with rasterio.open(folder / f"{folder.name}_10m.tif") as file:
            to_pixel = ~file.transform
        whole_image, whole_labels = truth[scene]
        for place in opened.places[opened.places["scene"] == scene].itertuples():
            assert to_pixel @ (place.easting, place.northing) == (place.col, place.row)
            window = np.s_[..., place.row : place.row + size, place.col : place.col + size]
            np.testing.assert_array_equal(images[place.Index], whole_image[window])
            np.testing.assert_array_equal(labels[place.Index], whole_labels[window])
    corners = opened.places[["scene", "row", "col"]]
    assert not corners.duplicated().any()
    assert (corners[["row", "col"]] % stride == 0).all(axis=None)


def test_too_few_valid_pixels_leave_a_patch_out(
    tmp_path: Path,
    tiny_card: Card,
    tiny_scenes: Path,
    tiny_set: PatchSet,
    truth: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    shares = [
        (truth[p.scene][1][p.row : p.row + 32, p.col : p.col + 32] != 255).mean()
        for p in tiny_set.places.itertuples()
    ]
    expected = tiny_set.places["name"][np.array(shares) >= 0.9].tolist()
    opened, counts = cut_into(tmp_path / "set.zarr", tiny_card, tiny_scenes, min_valid=0.9)
    assert opened.places["name"].tolist() == expected
    assert counts == {"kept": len(expected), "left_out": 98 - len(expected)}
    assert 10 < counts["left_out"] < 90
    valid = opened.label.gather(np.arange(len(opened))) != 255
    assert valid.mean(axis=(1, 2)).min() >= 0.9


def test_a_share_that_is_just_reached_is_kept(
    tmp_path: Path, tiny_card: Card, write_raster: Callable[..., Path]
) -> None:
    labels = np.zeros((1, 8, 16), np.uint8)
    labels[0, :4, :8] = 255  # one half of the first patch
    labels[0, :4, 8:] = labels[0, 4, 8] = 255  # and one pixel more of the second
    folder = tmp_path / "scenes"
    write_raster(folder / "a" / "a_10m.tif", np.ones((1, 8, 16), np.uint16), ["B04"])
    write_raster(folder / "a" / "a_classes.tif", labels, ["class"])
    band = next(band for band in tiny_card.bands if band.name == "B04")
    layout = {"name": "scene_folders", "images": ["*_10m.tif"], "labels": "*_classes.tif"}
    card = tiny_card.model_copy(update={"bands": [band], "rgb": ["B04"] * 3, "layout": layout})
    store = tmp_path / "set.zarr"
    opened, counts = cut_into(store, card, folder, size_px=8, stride_px=None, min_valid=0.5)
    assert counts == {"kept": 1, "left_out": 1}
    assert opened.places["name"].tolist() == ["a_0_0"]


def test_nothing_valid_is_told_in_one_line_and_keeps_the_old_set(
    tmp_path: Path, tiny_card: Card, tiny_scenes: Path
) -> None:
    store = tmp_path / "set.zarr"
    cut_into(store, tiny_card, tiny_scenes)
    # The swath's border crosses both scenes, so no patch of their size is all valid.
    with pytest.raises(DataError) as told:
        cut_into(store, tiny_card, tiny_scenes, size_px=128, stride_px=None, min_valid=1.0)
    assert str(told.value) == ("embedded: no patch has 100% valid pixels; lower patches.min_valid")
    assert len(open_patches(store)) == 98


def test_a_set_is_replaced_whole(tmp_path: Path, tiny_card: Card, tiny_scenes: Path) -> None:
    store = tmp_path / "set.zarr"
    cut_into(store, tiny_card, tiny_scenes)
    opened, _ = cut_into(store, tiny_card, tiny_scenes, size_px=64, stride_px=None)
    assert len(opened) == 8 and opened.image.shape == (8, 10, 64, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zarr"]


def test_a_fraction_is_drawn_alike_from_each_class_and_always_the_same(
    tmp_path: Path, make_archive: Callable[..., TinyArchive]
) -> None:
    twin = make_archive({"Crop": 40, "Forest": 20, "River": 8})
    as_published = {"size_px": None, "stride_px": None}
    first, counts = cut_into(
        tmp_path / "1.zarr", twin.card, twin.folder, fraction=0.25, **as_published
    )
    second, _ = cut_into(tmp_path / "2.zarr", twin.card, twin.folder, fraction=0.25, **as_published)
    assert class_counts(first, np.arange(len(first))).tolist() == [10, 5, 2]
    assert counts == {"kept": 17, "left_out": 0}
    assert first.places["name"].tolist() == second.places["name"].tolist()
    assert first.places["name"].tolist() != [f"Crop/Crop_{n}.png" for n in range(1, 18)]
    for name, image in zip(first.places["name"], first.image.gather(np.arange(17)), strict=True):
        np.testing.assert_array_equal(image, twin.pixels[name].transpose(2, 0, 1))


def test_a_fraction_of_windows_holds_the_right_pixels(
    tmp_path: Path,
    tiny_card: Card,
    tiny_scenes: Path,
    truth: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    opened, counts = cut_into(tmp_path / "set.zarr", tiny_card, tiny_scenes, fraction=0.3)
    assert counts["kept"] == round(98 * 0.3)
    images = opened.image.gather(np.arange(len(opened)))
    for place, image in zip(opened.places.itertuples(), images, strict=True):
        window = np.s_[:, place.row : place.row + 32, place.col : place.col + 32]
        np.testing.assert_array_equal(image, truth[place.scene][0][window])


# ---- the store


def test_the_store_opens_with_xarray_and_has_all_coordinates(store: Path) -> None:
    with opened_by_xarray(store) as dataset:
        assert dataset["image"].dims == ("patch", "band", "y", "x")
        assert dataset["image"].shape == (98, 10, 32, 32)
        assert dataset["image"].dtype == np.uint16
        assert dataset["label"].dims == ("patch", "y", "x")
        assert dataset["label"].dtype == np.uint8
        of_patch = {name for name, c in dataset.coords.items() if c.dims == ("patch",)}
        assert {
            "scene", "row", "col", "easting", "northing", "epsg", "lon", "lat", "time", "name"
        } <= of_patch  # fmt: skip
        bands = "B02 B03 B04 B05 B06 B07 B08 B8A B11 B12"
        assert " ".join(dataset["band"].values) == bands
        assert dataset["wavelength_nm"].sel(band="B08") == 832.8
        assert dataset["time"].values[[0, -1]].astype("datetime64[s]").astype(str).tolist() == [
            "2026-06-04T10:20:31", "2026-06-29T10:20:31"
        ]  # fmt: skip
        assert dataset["name"].values[50] == "S2SYN_20260629_02_0_16"


def test_the_attributes_say_what_the_set_is(store: Path, tiny_card: Card) -> None:
    with opened_by_xarray(store) as dataset:
        attributes = dataset.attrs
    assert attributes["dataset"] == "embedded" and attributes["synthetic"] is True
    assert attributes["title"] == tiny_card.title
    assert attributes["classes"] == list(tiny_card.classes)
    assert attributes["colours"] == list(tiny_card.classes.values())
    assert attributes["scenes"] == ["S2SYN_20260604_01", "S2SYN_20260629_02"]
    assert (attributes["gsd_m"], attributes["size_px"], attributes["scale"]) == (10, 32, 10_000)
    assert attributes["rgb"] == [2, 1, 0] and attributes["nodata"] == 0
    assert attributes["labels"] == "pixel" and attributes["data_version"] == "v1"


def test_degrees_are_those_of_the_centres(tiny_set: PatchSet) -> None:
    places = tiny_set.places
    x, y = places["easting"] + 160, places["northing"] - 160
    lon, lat = transform("EPSG:32632", "EPSG:4326", x.tolist(), y.tolist())
    np.testing.assert_allclose(places["lon"], lon, rtol=0, atol=1e-9)
    np.testing.assert_allclose(places["lat"], lat, rtol=0, atol=1e-9)
    # By hand: 100 km east of the central meridian of 9° are 1.338° at this latitude.
    assert abs(places["lon"][0] - 10.338) < 0.02 and abs(places["lat"][0] - 47.845) < 0.01


def test_without_a_georeference_degrees_are_unknown(
    tmp_path: Path, tiny_archive: TinyArchive
) -> None:
    card = tiny_archive.card.model_copy(
        update={"layout": {"name": "class_folders", "archive": "tiny.zip"}}
    )
    opened, _ = cut_into(
        tmp_path / "set.zarr", card, tiny_archive.folder, size_px=None, stride_px=None
    )
    assert opened.places[["easting", "northing", "lon", "lat"]].isna().all(axis=None)
    assert (opened.places["epsg"] == 0).all()


def test_published_patches_have_a_label_each(tmp_path: Path, tiny_archive: TinyArchive) -> None:
    store = tmp_path / "set.zarr"
    opened, counts = cut_into(
        store, tiny_archive.card, tiny_archive.folder, size_px=None, stride_px=None
    )
    assert counts == {"kept": 20, "left_out": 0}
    assert opened.image.shape == (20, 3, 8, 8) and opened.side_m == 80
    assert opened.label.gather(np.arange(20)).tolist() == [0] * 12 + [1] * 5 + [2] * 3
    with opened_by_xarray(store) as dataset:
        assert dataset["label"].dims == ("patch",) and dataset["image"].dtype == np.uint8
        np.testing.assert_array_equal(
            dataset["easting"], tiny_archive.places["ul_easting"].to_numpy()
        )


# ---- the map


@settings(max_examples=25)
@given(which=st.lists(st.integers(0, 97), min_size=0, max_size=40))
def test_gathering_over_chunks_is_plain_reading(
    store: Path, tiny_set: PatchSet, which: list[int]
) -> None:
    assert len(tiny_set.image.chunks) == 10 and len(tiny_set.image.chunks[-1]) == 8
    asked = np.array(which, dtype=np.int64)
    with opened_by_xarray(store) as dataset:
        np.testing.assert_array_equal(tiny_set.image.gather(asked), dataset["image"].values[asked])
        np.testing.assert_array_equal(tiny_set.label.gather(asked), dataset["label"].values[asked])


def test_one_chunk_and_many_hold_the_same(
    tmp_path: Path, tiny_card: Card, tiny_scenes: Path, tiny_set: PatchSet
) -> None:
    single, _ = cut_into(tmp_path / "set.zarr", tiny_card, tiny_scenes)
    assert len(single.image.chunks) == 1
    everything = np.arange(98)
    np.testing.assert_array_equal(
        single.image.gather(everything), tiny_set.image.gather(everything)
    )


def test_a_chunk_is_the_plain_memory_of_its_patches(store: Path, tiny_set: PatchSet) -> None:
    raw = np.fromfile(store / "image" / "c" / "3" / "0" / "0" / "0", "<u2")
    np.testing.assert_array_equal(
        raw.reshape(10, 10, 32, 32), tiny_set.image.gather(np.arange(30, 40))
    )


def test_a_chunk_of_zeros_is_written(
    tmp_path: Path,
    make_archive: Callable[..., TinyArchive],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patches, "CHUNK_BYTES", 2 * 3 * 8 * 8)
    twin = make_archive({"Crop": 4, "Forest": 2, "River": 1}, black=("Crop", "Forest"))
    store = tmp_path / "set.zarr"
    opened, _ = cut_into(store, twin.card, twin.folder, size_px=None, stride_px=None)
    files = [store / "image" / "c" / str(number) / "0" / "0" / "0" for number in range(4)]
    assert [file.stat().st_size for file in files] == [2 * 3 * 8 * 8] * 4
    images = opened.image.gather(np.arange(7))
    assert not images[:6].any()
    np.testing.assert_array_equal(images[6], twin.pixels["River/River_1.png"].transpose(2, 0, 1))


def test_a_compressed_store_is_refused(tmp_path: Path, store: Path) -> None:
    compressed = tmp_path / "compressed.zarr"
    with opened_by_xarray(store) as dataset, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = dataset.drop_encoding().load()
        plain.to_zarr(compressed, zarr_format=3, consolidated=False)
    told = "compressed.zarr: the array 'image' is compressed and cannot be mapped; cut it again"
    with pytest.raises(DataError, match=told):
        open_patches(compressed)


def test_what_is_no_set_and_what_lacks_a_chunk_is_told(
    tmp_path: Path, tiny_card: Card, tiny_scenes: Path
) -> None:
    with pytest.raises(DataError, match=r"none\.zarr: is not a patch set; run the stage"):
        open_patches(tmp_path / "none.zarr")
    store = tmp_path / "set.zarr"
    cut_into(store, tiny_card, tiny_scenes)
    (store / "label" / "c" / "0" / "0" / "0").unlink()
    with pytest.raises(DataError, match=r"label/c/0/0/0: a chunk is absent"):
        open_patches(store)


# ---- counts and statistics


def test_labelled_pixels_are_counted_by_class(tiny_set: PatchSet) -> None:
    which = np.array([3, 50, 97, 4])
    labels = tiny_set.label.gather(which)
    expected = [int((labels == number).sum()) for number in range(9)]
    assert class_counts(tiny_set, which).tolist() == expected
    assert sum(expected) == int((labels != 255).sum()) < labels.size
    assert class_counts(tiny_set, np.array([], np.int64)).tolist() == [0] * 9


def test_statistics_are_those_of_the_valid_pixels(tiny_set: PatchSet) -> None:
    which = np.array([90, 0, 13, 97, 20, 14, 6])
    pixels = tiny_set.image.gather(which).astype(np.float64)
    pixels[pixels == 0] = np.nan
    assert 0.05 < np.isnan(pixels).mean() < 0.9, "these patches lie on the border of the swath"
    found = band_statistics(tiny_set, which)
    np.testing.assert_allclose(found["mean"], np.nanmean(pixels, axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(found["std"], np.nanstd(pixels, axis=(0, 2, 3)), rtol=1e-9)
    assert found["patches"] == 7


def test_statistics_leave_out_a_nodata_value_other_than_zero(
    tmp_path: Path, make_archive: Callable[..., TinyArchive]
) -> None:
    twin = make_archive(nodata=200)
    opened, _ = cut_into(
        tmp_path / "set.zarr", twin.card, twin.folder, size_px=None, stride_px=None
    )
    pixels = np.stack(list(twin.pixels.values())).astype(np.float64)
    pixels[pixels == 200] = np.nan
    assert np.isnan(pixels).any(axis=(0, 1, 2)).all()
    found = band_statistics(opened, np.arange(20))
    np.testing.assert_allclose(found["mean"], np.nanmean(pixels, axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found["std"], np.nanstd(pixels, axis=(0, 1, 2)), rtol=1e-9)


def test_statistics_without_nodata_take_every_pixel(
    tmp_path: Path, make_archive: Callable[..., TinyArchive]
) -> None:
    # More patches than are summed at once, and black ones among them.
    twin = make_archive({"Crop": 300, "Forest": 260, "River": 40}, black=("River",))
    opened, _ = cut_into(
        tmp_path / "set.zarr", twin.card, twin.folder, size_px=None, stride_px=None
    )
    which = np.random.default_rng(3).permutation(600)[:590]
    names = opened.places["name"].to_numpy()[which]
    pixels = np.stack([twin.pixels[name] for name in names]).astype(np.float64)
    found = band_statistics(opened, which)
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found["std"], pixels.std(axis=(0, 1, 2)), rtol=1e-9)
    counts = [sum(name.startswith(known) for name in names) for known in ("Cr", "Fo", "Ri")]
    assert class_counts(opened, which).tolist() == counts
