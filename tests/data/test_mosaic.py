"""Maps of several scenes as one raster, which GDAL opens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from swath.data.card import UNLABELLED
from swath.data.mosaic import write_mosaics

COLOURS = {0: (200, 10, 20, 255), 1: (1, 2, 3, 255), UNLABELLED: (0, 0, 0, 0)}


def class_map(
    path: Path, values: np.ndarray, west: float, north: float, *, step: float = 10.0,
    epsg: int | None = 32632,
) -> Path:  # fmt: skip
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, height=values.shape[0],
        width=values.shape[1], nodata=UNLABELLED, transform=from_origin(west, north, step, step),
        **({"crs": f"EPSG:{epsg}"} if epsg else {}),
    ) as file:  # fmt: skip
        file.write(values.astype(np.uint8), 1)
        file.write_colormap(1, COLOURS)
        file.update_tags(1, **{"0": "Water"})
    return path


def test_a_mosaic_shows_every_map_in_its_place(tmp_path: Path) -> None:
    first = np.array([[0, 1], [1, UNLABELLED]])
    second = np.array([[UNLABELLED, 0, 0], [0, 0, 0]])
    paths = [
        class_map(tmp_path / "a.tif", first, 500_000, 5_000_000),
        # One column over the first, and 10 m further south.
        class_map(tmp_path / "b.tif", second, 500_010, 4_999_990),
    ]
    (written,) = write_mosaics(paths, tmp_path, "classes")
    assert written.name == "EPSG32632_classes.vrt"
    with rasterio.open(written) as file:
        assert (file.crs.to_epsg(), file.nodata) == (32632, UNLABELLED)
        assert file.transform == from_origin(500_000, 5_000_000, 10, 10)
        np.testing.assert_array_equal(
            file.read(1), [[0, 1, 255, 255], [1, 255, 0, 0], [255, 0, 0, 0]]
        )
        assert {value: file.colormap(1)[value] for value in COLOURS} == COLOURS
        assert file.tags(1)["0"] == "Water"


def test_each_map_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, opened, real = np.zeros((2, 2)), [], rasterio.open
    paths = [
        class_map(tmp_path / f"{name}.tif", values, 500_000 + 20 * k, 5_000_000)
        for k, name in enumerate("abc")
    ]
    monkeypatch.setattr(rasterio, "open", lambda path: opened.append(path) or real(path))
    write_mosaics(paths, tmp_path, "classes")
    assert opened == paths


def test_each_crs_has_a_mosaic_and_none_has_none(tmp_path: Path) -> None:
    values = np.zeros((2, 2))
    paths = [
        class_map(tmp_path / "a.tif", values, 500_000, 5_000_000),
        class_map(tmp_path / "b.tif", values, 7.0, 50.0, step=0.0001, epsg=4326),
        class_map(tmp_path / "c.tif", values, 0, 0, epsg=None),
    ]
    names = sorted(path.name for path in write_mosaics(paths, tmp_path, "classes"))
    assert names == ["EPSG32632_classes.vrt", "EPSG4326_classes.vrt"]
    with rasterio.open(tmp_path / "EPSG4326_classes.vrt") as file:
        assert file.transform == from_origin(7.0, 50.0, 0.0001, 0.0001)


def test_a_coarser_map_is_repeated(tmp_path: Path) -> None:
    paths = [
        class_map(tmp_path / "a.tif", np.array([[0, 1]]), 500_000, 5_000_000, step=20),
        class_map(tmp_path / "b.tif", np.array([[0]]), 500_040, 5_000_000),
    ]
    (written,) = write_mosaics(paths, tmp_path, "classes")
    with rasterio.open(written) as file:
        np.testing.assert_array_equal(file.read(1), [[0, 0, 1, 1, 0], [0, 0, 1, 1, 255]])


def test_a_folder_of_maps_may_be_moved(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    path = class_map(tmp_path / "here/a.tif", np.array([[1]]), 500_000, 5_000_000)
    (written,) = write_mosaics([path], path.parent, "classes")
    (tmp_path / "here").rename(tmp_path / "there")
    with rasterio.open(tmp_path / "there" / written.name) as file:
        assert file.read(1)[0, 0] == 1


def test_numbers_keep_their_unit_and_have_nan_where_there_are_none(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "height": 1, "width": 2}
    place = {"crs": "EPSG:32632", "nodata": np.nan}
    for name, west, values in (("a", 500_000, [1.5, np.nan]), ("b", 500_020, [np.nan, -2.25])):
        transform = from_origin(west, 5_000_000, 10, 10)
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", **profile, **place, transform=transform
        ) as file:
            file.write(np.array([values], np.float32), 1)
            file.descriptions, file.units = ("height",), ("m",)
    (written,) = write_mosaics([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path, "numbers")
    with rasterio.open(written) as file:
        assert (file.dtypes, file.descriptions, file.units) == (("float32",), ("height",), ("m",))
        assert np.isnan(file.nodata)
        np.testing.assert_array_equal(file.read(1), [[1.5, np.nan, np.nan, -2.25]])
