"""A scene by its path alone: a file, a folder of files; its bands named, or in the order asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from swath.data.single import single_scene
from swath.errors import DataError

WANTED = ["red", "green", "nir"]
FACTS = {"gsd_m": 10.0, "scale": 10_000.0}
Write = Callable[..., Path]


def pixels(bands: int) -> np.ndarray:
    return np.arange(bands * 24, dtype=np.uint16).reshape(bands, 4, 6)


def read(path: Path, wanted: list[str] = WANTED) -> np.ndarray:
    scene = single_scene(path, wanted, FACTS)
    assert list(scene.bands) == wanted
    return scene.read(0, 0, scene.grid.height, scene.grid.width, "nearest")


def test_bands_are_found_by_their_descriptions(tmp_path: Path, write_raster: Write) -> None:
    path = write_raster(tmp_path / "a.tif", pixels(4), ["nir", "blue", "green", "red"])
    np.testing.assert_array_equal(read(path), pixels(4)[[3, 2, 0]])


def test_bands_without_names_are_taken_in_order_which_is_told(
    tmp_path: Path, write_raster: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_raster(tmp_path / "a.tif", pixels(3), ["", "", ""])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read(path), pixels(3))
    assert "names no bands: taken as red, green, nir" in caplog.text


@pytest.mark.parametrize(
    "names, mend",
    [(["B08", "B11", "B12"], "it has B08, B11, B12"), (["", ""], "bands without names")],
)
def test_other_bands_are_refused_even_if_there_are_as_many(
    tmp_path: Path, write_raster: Write, names: list[str], mend: str
) -> None:
    path = write_raster(tmp_path / "a.tif", pixels(len(names)), names)
    with pytest.raises(DataError, match="has no band red") as told:
        read(path)
    assert mend in str(told.value) and "\n" not in str(told.value)


def test_a_folder_has_a_file_for_each_band(tmp_path: Path, write_raster: Write) -> None:
    for number, band in enumerate(("nir", "green", "red")):
        write_raster(tmp_path / "S2_x" / f"S2_x_{band}.tif", pixels(3)[number][None], [""])
    scene = single_scene(tmp_path / "S2_x", WANTED, FACTS)
    assert scene.name == "S2_x" and scene.grid.gsd_m == 10
    np.testing.assert_array_equal(read(tmp_path / "S2_x"), pixels(3)[[2, 1, 0]])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_without_a_crs_is_taken_which_is_told(
    tmp_path: Path, write_raster: Write, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_raster(tmp_path / "a.tif", pixels(3), WANTED, epsg=None)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read(path), pixels(3))
    assert "has no CRS" in caplog.text
    assert single_scene(path, WANTED, FACTS).grid.epsg == 0


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such scene"):
        read(tmp_path / "absent.tif")
    with pytest.raises(DataError, match="holds no raster"):
        read(tmp_path)
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(DataError, match=r"text\.tif: cannot be read"):
        read(tmp_path / "text.tif")
