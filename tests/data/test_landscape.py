"""The embedded scenes: repeatable, complete, and laid out as the readers expect."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from swath.data import landscape
from swath.data.landscape import BANDS_10M, BANDS_20M, CLASSES, draw_scenes
from swath.errors import SwathError

SIZE_PX = 256
PRODUCTS = ("10m", "20m", "classes", "mask")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_scenes(tmp_path_factory.mktemp("drawn"), seed=5, scenes=4, size_px=SIZE_PX)


def read(scene: Path, product: str) -> np.ndarray:
    with rasterio.open(scene / f"{scene.name}_{product}.tif") as file:
        return file.read()


def pixels(scene: Path) -> str:
    sha = hashlib.sha256()
    for product in PRODUCTS:
        sha.update(read(scene, product).tobytes())
    return sha.hexdigest()


def test_a_seed_gives_the_same_files_and_another_seed_others(
    scenes: list[Path], tmp_path: Path
) -> None:
    (again,) = draw_scenes(tmp_path / "a", seed=5, scenes=1, size_px=SIZE_PX)
    (other,) = draw_scenes(tmp_path / "b", seed=6, scenes=1, size_px=SIZE_PX)
    # One scene instead of four: more scenes leave the earlier ones as they were.
    assert again.name == scenes[0].name
    assert pixels(again) == pixels(scenes[0])
    assert pixels(other) != pixels(scenes[0])
    for file in sorted(again.iterdir()):
        assert file.read_bytes() == (scenes[0] / file.name).read_bytes()


def test_scenes_differ_in_place_day_and_content(scenes: list[Path]) -> None:
    assert len({scene.name[6:14] for scene in scenes}) == 4
    assert all("20260604" <= scene.name[6:14] <= "20260930" for scene in scenes)
    assert len({pixels(scene) for scene in scenes}) == 4
    bounds = []
    for scene in scenes:
        with rasterio.open(scene / f"{scene.name}_10m.tif") as file:
            bounds.append(file.bounds)
    for number, a in enumerate(bounds):
        for b in bounds[:number]:
            assert a.left >= b.right or b.left >= a.right or a.bottom >= b.top or b.bottom >= a.top


def test_every_class_is_in_every_scene(scenes: list[Path]) -> None:
    for scene in scenes:
        classes = read(scene, "classes")
        seen = classes[classes != landscape.UNLABELLED]
        shares = np.bincount(seen, minlength=len(CLASSES)) / seen.size
        assert len(shares) == len(CLASSES)
        assert (shares >= landscape.LEAST_SHARE).all()


@pytest.mark.parametrize("seed", range(5))
def test_even_the_smallest_map_holds_all_classes(seed: int) -> None:
    classes = landscape.draw_class_map(np.random.default_rng(seed), 128)
    assert classes.shape == (128, 128)
    assert classes.dtype == np.uint8
    assert set(np.unique(classes)) == set(range(len(CLASSES)))


def test_rail_and_roads_hang_together() -> None:
    classes = landscape.draw_class_map(np.random.default_rng(1), 384)
    rail = classes == landscape.TRAIN
    assert ndimage.label(rail, np.ones((3, 3)))[1] == 1
    # Roads cross the rail, which is drawn over them.
    way, _ = ndimage.label(rail | (classes == landscape.ROADS), np.ones((3, 3)))
    assert np.bincount(way[way > 0]).max() > 0.9 * (way > 0).sum()


def test_files_are_cloud_optimised_and_say_what_they_hold(scenes: list[Path]) -> None:
    bands = {"10m": BANDS_10M, "20m": BANDS_20M, "classes": ("class",), "mask": ("mask",)}
    nodata = {"10m": 0, "20m": 0, "classes": 255, "mask": None}
    for product in PRODUCTS:
        with rasterio.open(scenes[0] / f"{scenes[0].name}_{product}.tif") as file:
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert file.compression.name == "deflate"
            assert file.block_shapes[0] == (256, 256)
            assert file.descriptions == bands[product]
            assert file.nodata == nodata[product]
            assert file.tags()["ACQUISITION_TIME"] == "2026-06-04T10:20:31Z"
            assert file.dtypes[0] == ("uint16" if product in ("10m", "20m") else "uint8")
            if product == "classes":
                colours = file.colormap(1)
                assert colours[landscape.TREES][:3] == (0x1A, 0x78, 0x37)


def test_both_resolutions_share_crs_corner_and_extent(scenes: list[Path]) -> None:
    scene = scenes[1]
    with (
        rasterio.open(scene / f"{scene.name}_10m.tif") as ten_m,
        rasterio.open(scene / f"{scene.name}_20m.tif") as twenty_m,
        rasterio.open(scene / f"{scene.name}_classes.tif") as classes,
    ):
        assert ten_m.crs == twenty_m.crs == classes.crs == rasterio.CRS.from_epsg(32632)
        assert ten_m.bounds == twenty_m.bounds == classes.bounds
        assert (ten_m.res, twenty_m.res) == ((10, 10), (20, 20))
        assert ten_m.shape == (SIZE_PX, SIZE_PX)
        assert twenty_m.shape == (SIZE_PX // 2, SIZE_PX // 2)
        pitch_m = (SIZE_PX + landscape.SCENE_GAP_PX) * 10
        assert (ten_m.transform.c, ten_m.transform.f) == (600000 + pitch_m, 5300040)


def test_no_data_is_the_same_in_all_files(scenes: list[Path]) -> None:
    cut = 0
    for scene in scenes:
        outside = read(scene, "mask")[0] == landscape.OUTSIDE
        cut += outside.any()
        assert ((read(scene, "10m") == 0) == outside).all()
        assert ((read(scene, "20m") == 0) == outside[::2, ::2]).all()
        assert ((read(scene, "classes")[0] == landscape.UNLABELLED) == outside).all()
        assert outside.mean() < 0.2
    assert 0 < cut < len(scenes)


def test_clouds_are_bright_and_cover_a_small_part(scenes: list[Path]) -> None:
    for scene in scenes:
        mask, blue = read(scene, "mask")[0], read(scene, "10m")[0]
        share = (mask == landscape.CLOUDY).sum() / (mask != landscape.OUTSIDE).sum()
        assert 0.03 <= share <= 0.10
        assert blue[mask == landscape.CLOUDY].max() > 4500 > blue[mask == landscape.CLEAR].max()


def test_coarse_bands_are_means_of_the_same_surface() -> None:
    classes = np.full((128, 128), landscape.BARE_SOIL, dtype=np.uint8)
    classes[:, 64:] = landscape.TREES
    ten_m, twenty_m = landscape.draw_reflectance(np.random.default_rng(0), classes)
    assert ten_m.shape == (4, 128, 128)
    assert twenty_m.shape == (6, 64, 64)
    assert ten_m.dtype == twenty_m.dtype == np.uint16
    assert ten_m.min() >= 1
    near_infrared = ten_m[3].reshape(64, 2, 64, 2).mean(axis=(1, 3))
    narrow = twenty_m[BANDS_20M.index("B8A")]
    assert np.corrcoef(near_infrared.ravel(), narrow.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"scenes": 1, "size_px": 126}, "size_px"),
        ({"scenes": 1, "size_px": 257}, "size_px"),
        ({"scenes": 0, "size_px": 256}, "scenes"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(
    settings: dict[str, int], where: str, tmp_path: Path
) -> None:
    with pytest.raises(SwathError, match=where) as refusal:
        draw_scenes(tmp_path, seed=1, **settings)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
