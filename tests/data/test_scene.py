"""Scenes, grids and layers: any window is that of the whole, whatever it is read from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import Affine

from swath.data.scene import (
    Array,
    Grid,
    Rasters,
    Resampled,
    Scene,
    in_order,
    raster_facts,
    resampled,
)
from swath.errors import DataError

FINE = Grid(36, 48, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
METHODS = ["nearest", "bilinear", "cubic", "average"]


def coarser(factor: int) -> Grid:
    return Grid(36 // factor, 48 // factor, 600_000.0, 5_300_000.0, 10.0 * factor, 10.0 * factor,
                32632)  # fmt: skip


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes (band, y, x) on a grid as a deflated, tiled GeoTIFF."""
    folder = tmp_path_factory.mktemp("rasters")

    def make(name: str, values: np.ndarray, grid: Grid, **profile: Any) -> Path:
        form = {
            "driver": "GTiff", "count": len(values), "height": values.shape[1],
            "width": values.shape[2], "dtype": values.dtype, "crs": f"EPSG:{grid.epsg}",
            "transform": Affine(grid.step_x, 0, grid.west, 0, -grid.step_y, grid.north),
            "tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate",
        }  # fmt: skip
        with rasterio.open(folder / name, "w", **(form | profile)) as file:
            file.write(values)
        return folder / name

    return make


# ---- grids


def test_the_gsd_of_degrees_is_their_length_on_the_ground() -> None:
    assert FINE.gsd_m == 10.0
    step = 1 / 11_132
    at_equator = Grid(100, 100, 0.0, 50 * step, step, step, 4326)
    assert at_equator.gsd_m == pytest.approx(10.0)
    # 60° north, a degree of longitude is half as long.
    north = Grid(100, 100, 0.0, 60 + 50 * step, step, step, 4326)
    assert north.gsd_m == pytest.approx(7.5)
    assert Grid(5, 5, 0.0, 0.0, 3.7, 3.7, 0).gsd_m == 3.7


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({}, 1), ({"step_x": 20.0, "step_y": 20.0}, 2), ({"step_x": 60.0, "step_y": 60.0}, 6),
        ({"step_x": 20.0}, None), ({"step_x": 15.0, "step_y": 15.0}, None),
        ({"step_x": 5.0, "step_y": 5.0}, None), ({"west": 600_001.0}, None),
        ({"north": 5_299_990.0}, None), ({"epsg": 32633}, None), ({"west": 600_000.001}, 1),
    ],
)  # fmt: skip
def test_grids_fit_where_corner_crs_and_whole_pixels_do(
    change: dict[str, Any], factor: int | None
) -> None:
    values = {name: getattr(FINE, name) for name in Grid.__dataclass_fields__}
    assert Grid(**(values | change)).factor_of(FINE) == factor


# ---- layers


@given(
    factor=st.sampled_from([1, 2, 3, 6]), method=st.sampled_from(METHODS),
    row=st.integers(0, 35), col=st.integers(0, 47), height=st.integers(1, 36),
    width=st.integers(1, 48), kind=st.sampled_from(["raster", "array"]),
)  # fmt: skip
def test_any_window_of_a_resampled_layer_is_that_of_the_whole(
    write: Callable[..., Path], factor: int, method: str, row: int, col: int, height: int,
    width: int, kind: str,
) -> None:  # fmt: skip
    grid = coarser(factor)
    rng = np.random.default_rng(factor)
    values = rng.integers(1, 9000, (2, grid.height, grid.width)).astype(np.uint16)
    layer: Any = Array(("a", "b"), grid, values, "byx", Path("cube"))
    if kind == "raster":
        path = write(f"x{factor}.tif", values, grid)
        layer = Rasters(("a", "b"), grid, "uint16", 16, ((path, 1), (path, 2)))
    height, width = min(height, 36 - row), min(width, 48 - col)
    fine = Resampled(layer, FINE, method)
    whole = fine.read(0, 36, 0, 48)
    assert whole.shape == (2, 36, 48)
    if method == "nearest":
        np.testing.assert_array_equal(whole, np.kron(values, np.ones((factor, factor), np.uint16)))
    window = fine.read(row, height, col, width)
    np.testing.assert_array_equal(window, whole[:, row : row + height, col : col + width])


def test_between_two_centres_the_bilinear_value_is_the_weighted_mean() -> None:
    values = np.array([[[10.0, 20.0], [30.0, 50.0]]], np.float32)
    fine = resampled(values, 2, "bilinear")[0]
    assert fine[0].tolist() == [10.0, 12.5, 17.5, 20.0]  # the edge repeats
    assert fine[1, 1] == 0.75 * (0.75 * 10 + 0.25 * 20) + 0.25 * (0.75 * 30 + 0.25 * 50)
    dated = resampled(np.stack([values, values + 1]), 2, "bilinear")
    assert dated.shape == (2, 1, 4, 4)
    np.testing.assert_array_equal(dated[1, 0], fine + 1)


@pytest.mark.parametrize("axes", ["tbyx", "yxb", "byx", "xyb", "yx", "tyx", "yxbt"])
def test_the_axes_of_an_array_may_lie_in_any_order(axes: str) -> None:
    sizes = {"t": 3, "b": 4, "y": 6, "x": 7}
    full = np.arange(math.prod(sizes.values())).reshape(3, 4, 6, 7).astype(np.uint16)
    full = full[: 3 if "t" in axes else 1, : 4 if "b" in axes else 1]
    absent = tuple("tbyx".index(axis) for axis in "tb" if axis not in axes)
    present = [axis for axis in "tbyx" if axis in axes]
    values = full.squeeze(absent).transpose([present.index(axis) for axis in axes])
    grid = Grid(6, 7, 0.0, 0.0, 1.0, 1.0, 0)
    names = tuple(f"b{number}" for number in range(full.shape[1]))
    read = Array(names, grid, values, axes, Path("cube")).read(1, 4, 2, 3)
    np.testing.assert_array_equal(read, full[:, :, 1:5, 2:5].reshape(-1, 4, 3))
    if "b" in axes:
        some = Array(names, grid, values, axes, Path("cube"), chosen=(2, 0)).read(1, 4, 2, 3)
        np.testing.assert_array_equal(some, full[:, [2, 0], 1:5, 2:5].reshape(-1, 4, 3))


def test_an_offset_is_taken_off_and_no_data_stays(write: Callable[..., Path]) -> None:
    values = np.array([[[0, 1000, 1001, 500], [2500, 65535, 999, 1002]]], np.uint16)
    grid = Grid(2, 4, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
    path = write("offset.tif", values, grid, tiled=False)
    layer = Rasters(("a",), grid, "uint16", 2, ((path, 1),), offset=1000)
    # What would fall to 0 or below is seen, and as dark as can be.
    assert layer.read(0, 2, 0, 4).tolist() == [[[0, 1, 1, 1], [1500, 64535, 1, 2]]]


def test_channels_of_many_files_come_date_after_date(write: Callable[..., Path]) -> None:
    values = np.arange(6 * 16 * 16, dtype=np.uint16).reshape(6, 16, 16)
    grid = Grid(16, 16, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
    first, second = (write(f"date{k}.tif", values[3 * k : 3 * k + 3], grid) for k in (0, 1))
    where = ((first, 3), (second, 1), (first, 1), (second, 2))
    layer = Rasters(("a", "b"), grid, "uint16", 16, where)
    read = layer.read(2, 5, 3, 4)
    np.testing.assert_array_equal(read, values[[2, 3, 0, 4], 2:7, 3:7])
    assert layer.files == (first, second)


def test_in_order_puts_bands_of_each_date_as_the_card_has_them() -> None:
    first, second = np.arange(4).reshape(4, 1, 1), np.arange(10, 12).reshape(2, 1, 1)
    ordered = in_order([first, second], [("a", "c"), ("b",)], ("c", "b", "a"), 2)
    assert ordered.ravel().tolist() == [1, 10, 0, 3, 11, 2]


# ---- files that cannot be read


def test_a_file_that_breaks_off_is_told_with_its_row(write: Callable[..., Path]) -> None:
    values = np.random.default_rng(0).integers(0, 60_000, (1, 64, 64)).astype(np.uint16)
    grid = Grid(64, 64, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
    path = write("whole.tif", values, grid)
    layer = Rasters(("a",), grid, "uint16", 16, ((path, 1),))
    np.testing.assert_array_equal(layer.read(48, 16, 0, 64), values[:, 48:])
    path.write_bytes(path.read_bytes()[:-500])
    np.testing.assert_array_equal(layer.read(0, 16, 0, 64), values[:, :16])
    with pytest.raises(DataError) as told:
        layer.read(48, 16, 0, 64)
    assert str(told.value).startswith(f"{path}: cannot be read in rows from 48 (")
    assert str(told.value).endswith("; fetch it again") and "\n" not in str(told.value)
    path.unlink()
    with pytest.raises(DataError, match=r"whole\.tif: cannot be read in rows from 0"):
        layer.read(0, 16, 0, 64)


def test_a_file_that_was_replaced_is_read_anew(write: Callable[..., Path]) -> None:
    grid = Grid(16, 16, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
    for value in (3, 4):
        path = write("again.tif", np.full((1, 16, 16), value, np.uint16), grid)
        layer = Rasters(("a",), grid, "uint16", 16, ((path, 1),))
        assert (layer.read(0, 16, 0, 16) == value).all()


def test_a_one_pixel_raster_has_facts_and_can_be_read(write: Callable[..., Path]) -> None:
    grid = Grid(1, 1, 600_000.0, 5_300_000.0, 10.0, 10.0, 32632)
    path = write("pixel.tif", np.array([[[7]]], np.uint8), grid, tiled=False, nodata=255)
    facts = raster_facts(path)
    assert (facts.grid, facts.count, facts.dtype, facts.nodata) == (grid, 1, "uint8", 255.0)
    scene = Scene("pixel", (Rasters(("a",), grid, "uint8", 1, ((path, 1),)),), ("a",))
    assert scene.read(0, 0, 1, 1, "nearest").tolist() == [[[7]]]
    assert (scene.bytes, scene.dtype, scene.files) == (1, "uint8", (path,))
