"""NetCDF, HDF5 and Zarr: a window is the slice of a variable, north-up, and no more is read."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from opening import opened, refused
from rasterio.crs import CRS
from rasterio.transform import from_origin

from swath.data.card import UNLABELLED, Card
from swath.data.layouts import open_source
from swath.data.scene import Scene
from swath.data.statistics import add_up, measure, summary

MakeCard = Callable[..., Card]
WEST, NORTH, GSD = 600_000.0, 5_000_200.0, 10.0
RNG = np.random.default_rng(0)
DATES = np.array(["2026-01-05T10:20:31", "2026-02-05", "2026-03-05"], "M8[ns]")


def series(*, ascending: bool = False) -> xr.Dataset:
    """Three dates of four bands, 20 x 30 px, in UTM 32."""
    y = NORTH - GSD * (np.arange(20) + 0.5)
    data = xr.Dataset(
        {"r": (("time", "band", "y", "x"), RNG.integers(1, 9000, (3, 4, 20, 30)).astype("u2"))},
        coords={
            "time": DATES,
            "band": ["B1", "B2", "B3", "B4"],
            "y": y,
            "x": WEST + GSD * (np.arange(30) + 0.5),
            "spatial_ref": ((), 0, {"crs_wkt": CRS.from_epsg(32632).to_wkt()}),
        },
    )
    data["r"].attrs["grid_mapping"] = "spatial_ref"
    return data.isel(y=slice(None, None, -1)) if ascending else data


def write(data: xr.Dataset, path: Path, chunks: tuple[int, ...] | None = (1, 2, 8, 16)) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what xarray and zarr say of text in Zarr 3
        if path.suffix == ".zarr":
            data.to_zarr(path, zarr_format=3, encoding={"r": {"chunks": chunks}} if chunks else {})
        else:
            encoding = {"r": {"chunksizes": chunks, "zlib": True}} if chunks else {}
            data.to_netcdf(path, engine="h5netcdf", encoding=encoding)


def card_of(make_card: MakeCard, bands: Any = ("B3", "B1"), **layout: Any) -> Card:
    if isinstance(bands, tuple):
        bands = dict.fromkeys(bands, GSD)
    return make_card({"name": "array_scenes", "images": "{scene}.nc"} | layout, bands)


# ---- what is read


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_a_window_is_the_slice_north_up(
    suffix: str, ascending: bool, tmp_path: Path, make_card: MakeCard
) -> None:
    data = series(ascending=ascending)
    write(data, tmp_path / f"S1.{suffix}")
    source = open_source(card_of(make_card, images=f"{{scene}}.{suffix}"), tmp_path)
    assert source.names == ("S1",)
    scene = source.open("S1")
    assert isinstance(scene, Scene)
    grid = scene.grid
    assert (grid.height, grid.width, grid.west, grid.north) == (20, 30, WEST, NORTH)
    assert (grid.gsd_m, grid.epsg) == (10.0, 32632)
    assert scene.times == (
        datetime(2026, 1, 5, 10, 20, 31),
        datetime(2026, 2, 5),
        datetime(2026, 3, 5),
    )
    assert scene.layers[0].block_rows == 8
    values = data["r"].sortby("y", ascending=False).values[:, [2, 0]]

    @given(st.integers(0, 19), st.integers(1, 20), st.integers(0, 29), st.integers(1, 30))
    def any_window(row: int, height: int, col: int, width: int) -> None:
        height, width = min(height, 20 - row), min(width, 30 - col)
        window = scene.read(row, col, height, width, "nearest")
        expected = values[:, :, row : row + height, col : col + width]
        np.testing.assert_array_equal(window, expected.reshape(6, height, width))

    any_window()


def test_a_series_becomes_a_dimension_of_the_patch_set(
    tmp_path: Path, make_card: MakeCard, cut_set: Callable[..., Any]
) -> None:
    data = series()
    folder = tmp_path / "data"
    folder.mkdir()
    write(data, folder / "S1.nc")
    cut = cut_set(card_of(make_card, ("B1", "B2", "B3", "B4")), folder, size_px=10)
    values = data["r"].values
    assert cut.patches.image.shape == (6, 12, 10, 10)
    assert cut.patches.facts["bands"][:5] == ["B1@0", "B2@0", "B3@0", "B4@0", "B1@1"]
    shuffled = np.array([4, 0, 3])
    gathered = cut.patches.image.gather(shuffled)
    for number, patch in enumerate(shuffled):
        row, col = divmod(int(patch), 3)
        window = values[:, :, row * 10 : row * 10 + 10, col * 10 : col * 10 + 10]
        np.testing.assert_array_equal(gathered[number], window.reshape(12, 10, 10))
    store = xr.open_zarr(cut.stores[0], consolidated=False)
    assert store["image"].dims == ("patch", "time_step", "band", "y", "x")
    assert store["image"].shape == (6, 3, 4, 10, 10)
    np.testing.assert_array_equal(store["image"][4, 2, 1], values[2, 1, 10:, 10:20])
    assert store["time"].values[0] == np.datetime64("2026-01-05T10:20:31")
    which, trains = np.arange(6), np.ones((1, 6), bool)
    told = summary(add_up([measure(cut.patches, which, trains)])[0], cut.patches.image.dtype)
    np.testing.assert_allclose(told["mean"], values.reshape(12, -1).mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(told["std"], values.reshape(12, -1).std(axis=1), rtol=1e-9)


def test_variables_may_be_bands_labels_and_mask(tmp_path: Path, make_card: MakeCard) -> None:
    y, x = 50.0 - 0.001 * np.arange(12), 7.0 + 0.001 * np.arange(9)
    bands = RNG.normal(0, 1, (2, 12, 9))
    truth = (np.arange(108).reshape(12, 9) % 4).astype(np.int32)
    clouds = np.zeros((12, 9), np.uint8)
    clouds[:, 0] = 3
    data = xr.Dataset(
        {
            "red": (("lat", "lon"), bands[0]), "nir": (("lat", "lon"), bands[1]),
            "cover": (("lat", "lon"), truth), "quality": (("lat", "lon"), clouds),
        },
        coords={"lat": ("lat", y, {"units": "degrees_north"}), "lon": ("lon", x)},
        attrs={"time_coverage_start": "2026-05-04T03:02:01.5Z"},
    )  # fmt: skip
    data.to_netcdf(tmp_path / "S1.nc", engine="h5netcdf")
    layout = {"labels": "cover", "codes": [3, 1, 2], "mask": "quality"}
    scene = opened(card_of(make_card, ("nir", "red"), **layout), tmp_path)
    # Degrees without a CRS are those of WGS 84; double precision is kept as float32.
    assert (scene.grid.epsg, scene.dtype) == (4326, "float32")
    assert scene.grid.west == pytest.approx(6.9995) and scene.grid.north == pytest.approx(50.0005)
    assert scene.times == (datetime(2026, 5, 4, 3, 2, 1),)
    np.testing.assert_array_equal(
        scene.read(2, 1, 5, 4, "nearest"), bands[::-1, 2:7, 1:5].astype(np.float32)
    )
    labels = scene.read_labels(0, 0, 12, 9)
    expected = np.array([UNLABELLED, 1, 2, 0])[truth]
    expected[:, 0] = UNLABELLED
    np.testing.assert_array_equal(labels, expected)


def test_labels_may_be_a_raster_beside_it(
    tmp_path: Path, make_card: MakeCard, write_raster: Callable[..., Path]
) -> None:
    write(series(), tmp_path / "S1.nc")
    # Coarser, on the same corner: each code covers 2 x 2 px.
    codes = RNG.integers(0, 3, (1, 10, 15)).astype(np.uint8)
    write_raster(tmp_path / "labels/S1.tif", codes, ["c"], gsd_m=20.0, corner=(WEST, NORTH))
    scene = opened(card_of(make_card, labels="labels/{scene}.tif"), tmp_path)
    np.testing.assert_array_equal(
        scene.read_labels(3, 5, 9, 8), codes[0].repeat(2, 0).repeat(2, 1)[3:12, 5:13]
    )


def test_bands_as_variables_may_be_a_series(tmp_path: Path, make_card: MakeCard) -> None:
    cube = series()
    apart = cube.drop_vars(["r", "band"]).assign(
        {
            name: cube["r"].sel(band=name, drop=True).transpose("y", "time", "x")
            for name in ("B1", "B4")
        }
    )
    apart.to_netcdf(tmp_path / "S1.nc", engine="h5netcdf")
    scene = opened(card_of(make_card, ("B4", "B1")), tmp_path)
    expected = cube["r"].values[:, [3, 0], 5:9, 2:8].reshape(6, 4, 6)
    np.testing.assert_array_equal(scene.read(5, 2, 4, 6, "nearest"), expected)


def test_a_plane_of_its_own_takes_no_labels_from_the_ground(
    tmp_path: Path, make_card: MakeCard, write_raster: Callable[..., Path]
) -> None:
    write(series(), tmp_path / "S1.nc")
    write_raster(tmp_path / "t.tif", np.ones((1, 20, 30), np.uint8), ["c"], corner=(WEST, NORTH))
    card = card_of(make_card, epsg=-1, labels="/t.tif")
    assert "t.tif: does not lie on the ground of the scene" in refused(card, tmp_path)
    (tmp_path / "p.geojson").write_text("{}")
    card = card_of(make_card, epsg=-1, labels="/p.geojson")
    assert "p.geojson: cannot be brought to a scene without a CRS" in refused(card, tmp_path)


@pytest.mark.parametrize("unit", ["nm", "um"])
def test_bands_are_found_by_wavelength(unit: str, tmp_path: Path, make_card: MakeCard) -> None:
    nm = np.linspace(400, 2500, 211)
    values = RNG.integers(0, 99, (8, 9, 211)).astype(np.int16)
    stored = nm.astype(np.float32) / (1 if unit == "nm" else 1000)
    data = xr.Dataset(
        {"reflectance": (("y", "x", "bands"), values)},
        coords={"wavelength": ("bands", stored), "y": -np.arange(8.0), "x": np.arange(9.0)},
        attrs={"epsg": 32632},
    )
    data.to_netcdf(tmp_path / "S1.nc", engine="h5netcdf")
    wanted = [
        {"name": name, "wavelength_nm": at, "gsd_m": 1.0}
        for name, at in (("swir", 2203.0), ("red", 661.0), ("blue", 490.0))
    ]
    scene = opened(card_of(make_card, wanted), tmp_path)
    expected = values[:, :, [180, 26, 9]].transpose(2, 0, 1)
    np.testing.assert_array_equal(scene.read(0, 0, 8, 9, "nearest"), expected)
    wanted[0]["wavelength_nm"] = 2600.0
    assert "has no band of its own for swir at 2600 nm; the nearest lies at 2500 nm" in refused(
        card_of(make_card, wanted), tmp_path
    )


def test_plain_hdf5_is_a_plane_of_its_own(tmp_path: Path, make_card: MakeCard) -> None:
    values = RNG.integers(0, 99, (7, 5, 3)).astype(np.uint8)
    with h5py.File(tmp_path / "S1.nc", "w") as file:
        file["cube"] = values
    layout = {
        "epsg": -1,
        "dimensions": {"y": "phony_dim_0", "x": "phony_dim_1", "b": "phony_dim_2"},
    }
    scene = opened(card_of(make_card, ("a", "b", "c"), **layout), tmp_path)
    assert (scene.grid.west, scene.grid.north, scene.grid.step_x, scene.grid.epsg) == (0, 0, 10, -1)
    np.testing.assert_array_equal(
        scene.read(2, 1, 4, 3, "nearest"), values[2:6, 1:4].transpose(2, 0, 1)
    )


def test_netcdf_3_and_a_transform_without_coordinates(tmp_path: Path, make_card: MakeCard) -> None:
    data = series().drop_vars(["band", "y", "x"]).isel(time=0)
    data["spatial_ref"].attrs["GeoTransform"] = "600000 10 0 5000200 0 -10"
    data["r"] = data["r"].astype(np.int16)
    data.to_netcdf(tmp_path / "S1.nc", engine="scipy", format="NETCDF3_64BIT")
    scene = opened(card_of(make_card, ("a", "b", "c", "d")), tmp_path)
    assert (scene.grid.west, scene.grid.north, scene.grid.step_y) == (WEST, NORTH, 10.0)
    assert scene.times == (datetime(2026, 1, 5, 10, 20, 31),)
    np.testing.assert_array_equal(scene.read(0, 0, 20, 30, "nearest"), data["r"].values)


# ---- what is wrong


def spoilt(**changes: Any) -> xr.Dataset:
    return series().isel(time=0, drop=True).assign_attrs(changes)


WRONG: dict[str, tuple[Callable[[], xr.Dataset], str]] = {
    "crs": (lambda: spoilt().drop_vars("spatial_ref"), "has no CRS; give layout.epsg"),
    "band": (lambda: spoilt().sel(band=["B1", "B2"]), "has no band B3; did you mean 'B2'?"),
    "irregular": (
        lambda: spoilt().assign_coords(x=np.arange(30.0) ** 2), "'x' is not evenly spaced"
    ),
    "reversed": (lambda: spoilt().isel(x=slice(None, None, -1)), "'x' runs from east to west"),
    "one pixel": (lambda: spoilt().isel(y=[0]), "'y' has one pixel alone: its side is unknown"),
    "nothing": (lambda: spoilt().isel(y=slice(0)), "has no pixels"),
    "dimension": (
        lambda: spoilt().rename(y="rise").drop_vars("rise"),
        "has neither a variable B3 nor one with all",
    ),
    "two cubes": (
        lambda: spoilt().assign(s=spoilt()["r"]), "it has r, s: give layout.variable"
    ),
    "no coordinates": (lambda: spoilt().drop_vars("x"), "has no coordinates along y and x"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line(what: str, tmp_path: Path, make_card: MakeCard) -> None:
    make, expected = WRONG[what]
    write(make(), tmp_path / "S1.nc", None)
    told = refused(card_of(make_card), tmp_path)
    assert told.startswith(f"{tmp_path}/S1.nc: ") and expected in told


def test_packed_values_must_be_as_the_card_says(tmp_path: Path, make_card: MakeCard) -> None:
    for attribute, value, expected in (
        ("_FillValue", np.uint16(65535), "marks no data by 65535, the card by None; set nodata"),
        (
            "scale_factor",
            0.01,
            "has the scale factor 0.01, the card the scale 10000.0; set scale: 100",
        ),
        ("add_offset", -0.1, "is stored with an offset of -0.1"),
    ):
        data = spoilt()
        data["r"].attrs[attribute] = value
        if attribute == "_FillValue":
            data["r"].encoding["_FillValue"] = data["r"].attrs.pop("_FillValue")
        (tmp_path / attribute).mkdir()
        write(data, tmp_path / attribute / "S1.nc", None)
        assert expected in refused(card_of(make_card), tmp_path / attribute)
    data = spoilt()
    data["r"].attrs["scale_factor"] = np.float32(0.0001)
    write(data, tmp_path / "S1.nc", None)
    assert opened(card_of(make_card), tmp_path).dtype == "uint16"


def test_a_damaged_store_is_told(
    tmp_path: Path, make_card: MakeCard, cut_set: Callable[..., Any]
) -> None:
    card = card_of(make_card)
    assert "no scene has a store like {scene}.nc" in refused(card, tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    write(spoilt(), folder / "good.nc", None)
    write(series().isel(time=1, drop=True), folder / "torn.nc", (2, 8, 16))
    raw = bytearray((folder / "torn.nc").read_bytes())
    with h5py.File(folder / "torn.nc") as file:
        at = file["r"].id.get_chunk_info(5).byte_offset
    raw[at : at + 40] = bytes(40)
    (folder / "torn.nc").write_bytes(raw)
    (folder / "short.nc").write_bytes(raw[:3000])
    (folder / "text.nc").write_text("no store")
    cut = cut_set(card, folder, size_px=10)
    assert cut.patches.facts["scenes"] == ["good"]
    assert set(cut.set_aside) == {"short", "text"}
    faults = {check["scene"]: check["faults"] for check in cut.index["checks"]}
    assert f"{folder}/torn.nc: cannot be read in rows from" in faults["torn"][0]


# ---- memory

CUT = """
import sys
from pathlib import Path
from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.patches import Cutting, cut

folder = Path(sys.argv[1])
card = Card.model_validate_json((folder / "card.json").read_text())
scene = open_source(card, folder).open("cube")
limits = dict(max_nodata=1.0, max_clouds=1.0, max_saturated=1.0, max_implausible=1.0)

def peak_kb():  # not ru_maxrss: a new process inherits its parent's
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1])

before = peak_kb()
told = cut(card, iter([("cube", scene)]), folder / "out", Cutting(64, stride_px=256, min_valid=0.0),
           limits=limits | {"constant_bands": True}, made_by={})
grown = (peak_kb() - before) * 1024
print(told["kept"], int(told["checks"][0]["most"]), scene.bytes, grown)
"""


def write_cube(folder: Path, kind: str, side: int) -> None:
    """500 bands of uint16 in the usual chunks; almost nothing of it differs from 0."""
    x = np.arange(side) * 5.0
    if kind == "zarr":
        group = zarr.open_group(folder / "cube.zarr", mode="w", attributes={"epsg": 32632})
        cube = group.create_array(
            "r", shape=(500, side, side), chunks=(100, 256, 256), dtype="u2",
            dimension_names=["band", "y", "x"],
        )  # fmt: skip
        cube[499, -1, -1] = 7
        for name, values in (("y", -x), ("x", x)):
            group.create_array(name, data=values, dimension_names=[name])
    elif kind == "nc":
        with h5netcdf.File(folder / "cube.nc", "w") as file:
            file.dimensions = {"band": 500, "y": side, "x": side}
            file.create_variable("y", ("y",), data=-x)
            file.create_variable("x", ("x",), data=x)
            cube = file.create_variable(
                "r", ("band", "y", "x"), "u2", chunks=(50, 256, 256), compression="gzip"
            )
            cube[499, -1, -1] = 7
            file.attrs["epsg"] = 32632
    else:
        profile = {
            "driver": "GTiff", "count": 500, "height": side, "width": side, "dtype": "uint16",
            "crs": "EPSG:32632", "transform": from_origin(0, 0, 5, 5), "tiled": True,
            "compress": "deflate", "sparse_ok": True, "interleave": "band",
        }  # fmt: skip
        with rasterio.open(folder / "cube.tif", "w", **profile) as file:
            file.write(
                np.full((1, 1), 7, np.uint16), 500, window=((side - 1, side), (side - 1, side))
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nc", "zarr", "tif"])
def test_a_cube_of_500_bands_is_streamed(kind: str, tmp_path: Path, make_card: MakeCard) -> None:
    side = 1024
    write_cube(tmp_path, kind, side)
    layout = {"name": "array_scenes", "images": f"{{scene}}.{kind}"}
    if kind == "tif":
        layout = {"name": "scene_folders", "images": ["{scene}.tif"], "bands_by": "order"}
    bands = [{"name": f"b{n:03d}", "gsd_m": 5.0} for n in range(500)]
    (tmp_path / "card.json").write_text(make_card(layout, bands).model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path)], capture_output=True, text=True, check=True,
        env=os.environ | {"GDAL_CACHEMAX": "64"},  # by itself GDAL keeps up to 256 MB of tiles
    )  # fmt: skip
    kept, most, size, grown = map(int, done.stdout.split())
    # The one value that is not 0 lies in the last pixel of the last band.
    assert (kept, most, size) == (16, 7, 500 * side * side * 2)
    assert grown < 0.45 * size, f"{grown >> 20} MB more, of {size >> 20} MB"
