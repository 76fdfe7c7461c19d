"""Cutting: every patch is its window of the scene, whatever the shapes; what is unfit is named."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from rasterio.warp import transform
from rasterio.windows import Window

from swath.data import patches
from swath.data.card import UNLABELLED
from swath.data.scene import Grid, Rasters, Scene
from swath.errors import DataError
from swath.files import read_json

if TYPE_CHECKING:
    from conftest import CutSet

Make = Callable[..., Any]
DTYPES = ["uint8", "uint16", "int16", "float32"]


# ---- the brute force: whole scenes in memory, pixel by pixel


def starts(length: int, size: int, stride: int, padding: str) -> list[int]:
    """First pixels of the windows along a side, in words: walk on until the edge."""
    if padding in ("none", "shift"):
        found = [at for at in range(0, length, stride) if at + size <= length]
        if padding == "shift" and found and found[-1] + size < length:
            found.append(length - size)
        return found
    found = [0]
    while found[-1] + size < length and found[-1] + stride < length:
        found.append(found[-1] + stride)
    return found


def window(whole: np.ndarray, row: int, col: int, size: int, beyond: float | str) -> np.ndarray:
    """A window of (…, y, x), filled beyond the edge with a value, or mirrored."""
    out = np.empty((*whole.shape[:-2], size, size), whole.dtype)
    height, width = (min(size, n - at) for n, at in zip(whole.shape[-2:], (row, col), strict=True))
    for y in range(size):
        for x in range(size):
            inside = y < height and x < width
            if inside or beyond == "mirror":
                # Mirrored again and again where the patch is several times as large.
                of_y, of_x = y % (2 * height), x % (2 * width)
                of_y, of_x = min(of_y, 2 * height - 1 - of_y), min(of_x, 2 * width - 1 - of_x)
                out[..., y, x] = whole[..., row + of_y, col + of_x]
            else:
                out[..., y, x] = beyond
    return out


def enlarged(values: np.ndarray, factor: int, height: int, width: int) -> np.ndarray:
    """A coarse layer on the finest grid: each pixel as a block of its value."""
    return np.kron(values, np.ones((factor, factor), values.dtype))[..., :height, :width]


class Case(NamedTuple):
    """A drawn scene and all that is known of it."""

    layers: list[tuple[tuple[str, ...], np.ndarray, int]]
    labels: np.ndarray | None
    hidden: np.ndarray | None
    block_rows: list[int]
    height: int
    width: int

    def __repr__(self) -> str:
        shapes = [(names, values.shape, factor) for names, values, factor in self.layers]
        return f"Case({self.height} x {self.width}, {shapes}, rows {self.block_rows})"

    def finest(self, bands: list[str]) -> np.ndarray:
        """(channel, y, x), date after date, bands in the order asked for."""
        fine = {
            band: enlarged(values[:, number], factor, self.height, self.width)
            for names, values, factor in self.layers
            for number, band in enumerate(names)
        }
        dates = len(self.layers[0][1])
        return np.stack([fine[band][date] for date in range(dates) for band in bands])

    def usable(self, nodata: float | None) -> np.ndarray:
        """Where the ground is seen, clear and labelled (y, x)."""
        good = np.ones((self.height, self.width), bool)
        for _, values, factor in self.layers:
            flat = values.reshape(-1, *values.shape[2:])
            seen = ~np.isnan(flat.astype(float)).any(axis=0)
            if nodata is not None:
                seen &= ~(flat == nodata).all(axis=0)
            good &= enlarged(seen.astype(np.uint8), factor, self.height, self.width) == 1
        if self.hidden is not None:
            good &= ~self.hidden
        if self.labels is not None:
            good &= self.labels < 3
        return good

    def truth(self, nodata: float | None) -> np.ndarray:
        """Labels (y, x) as they must be stored: none where the ground is not seen."""
        if self.labels is None:
            return np.full((self.height, self.width), UNLABELLED, np.uint8)
        return np.where(self.usable(nodata), self.labels, UNLABELLED).astype(np.uint8)


FACTORS = [(1,), (1, 2), (1, 2, 6), (1, 2, 3)]
SHAPES = st.tuples(st.integers(1, 31), st.integers(1, 31))


@st.composite
def cases(
    draw: st.DrawFn, factors: tuple[int, ...], dates: int, dtype: str, number: int = 0
) -> Case:
    """A scene of some shape; with no-data, NaN, labels and a mask, or without."""
    height, width = draw(SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    holes = draw(st.sampled_from([0.0, 0.1, 0.6]))
    layers = []
    for layer, factor in enumerate(factors):
        count = draw(st.integers(1, 2))
        shape = (dates, count, -(-height // factor), -(-width // factor))
        values = rng.integers(1, 120, shape).astype(dtype)
        if dtype == "int16":
            values *= -100
        empty = rng.random((1, 1, *shape[2:])) < holes  # in all channels, and in some of them
        values[(rng.random(shape) < holes / 4) | empty] = 0
        if dtype == "float32":
            values[rng.random(shape) < holes / 4] = np.nan
        values[..., 0, 0] = 7 + number  # no channel without any data, no two scenes alike
        layers.append((tuple(f"f{layer}b{band}" for band in range(count)), values, factor))
    labels = hidden = None
    if draw(st.booleans()):
        labels = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (height, width))
    if draw(st.booleans()):
        hidden = rng.random((height, width)) < 0.2
    rows = [draw(st.integers(1, 6)) for _ in factors]
    return Case(layers, labels, hidden, rows, height, width)


@st.composite
def cuttings(draw: st.DrawFn) -> dict[str, Any]:
    """All that is chosen about a cutting, and how often strips, segments and chunks end."""
    factors = draw(st.sampled_from(FACTORS))
    native = draw(st.booleans()) and len(factors) > 1
    unit = math.lcm(*factors) if native else 1
    padding = st.sampled_from(["nodata", "reflect"] + ([] if native else ["none", "shift"]))
    return {
        "factors": factors,
        "native": native,
        "size": unit * draw(st.integers(1, 12 // unit)),
        "stride": unit * draw(st.integers(1, 14 // unit)),
        "padding": draw(padding),
        "min_valid": draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        "dates": draw(st.sampled_from([1, 1, 2, 3])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "nodata": draw(st.sampled_from([0.0, None])),
        "STRIP_BYTES": draw(st.sampled_from([1, 200, 10**6])),
        "SEGMENT_BYTES": draw(st.sampled_from([1, 300, 10**9])),
        "SEGMENT_ALIGNED_PX": draw(st.sampled_from([1, 5, 8])),
        "CHUNK_BYTES": draw(st.sampled_from([500, 3000, 10**8])),
        "WRITE_BYTES": draw(st.sampled_from([7, 1000, 10**6])),
    }


@settings(max_examples=40, phases=[Phase.generate])
@given(how=cuttings(), data=st.data())
def test_a_cut_set_is_what_pixel_by_pixel_reading_gives(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], how: dict[str, Any],
    data: st.DataObject,
) -> None:  # fmt: skip
    size, stride, padding, nodata = how["size"], how["stride"], how["padding"], how["nodata"]
    drawn = [
        data.draw(cases(how["factors"], how["dates"], how["dtype"], number))
        for number in range(data.draw(st.integers(1, 3)))
    ]
    # The scenes of a set have the same bands.
    first = [names for names, _, _ in drawn[0].layers]
    drawn = [case for case in drawn if [names for names, _, _ in case.layers] == first]
    bands = data.draw(st.permutations([band for names in first for band in names]))
    card = make_card(bands, nodata=nodata)
    scenes = [
        make_scene(
            case.layers, f"scene{number}", bands=bands, labels=case.labels, hidden=case.hidden,
            block_rows=case.block_rows, times=[None] * how["dates"],
            corner=(600_000.0 + 1e4 * number, 5e6),
        )
        for number, case in enumerate(drawn)
    ]  # fmt: skip
    fill = 0 if nodata is None else nodata
    beyond = "mirror" if padding == "reflect" else fill
    expected: list[tuple[Any, ...]] = []
    left_out = unfit = 0
    for number, case in enumerate(drawn):
        whole, truth, usable = case.finest(bands), case.truth(nodata), case.usable(nodata)
        rows = starts(case.height, size, stride, padding)
        columns = starts(case.width, size, stride, padding)
        unfit += not rows or not columns
        for row in rows:
            for col in columns:
                share = window(usable, row, col, size, 0).mean()
                if share < how["min_valid"]:
                    left_out += 1
                    continue
                if how["native"]:
                    image = [
                        window(np.concatenate(values), row // factor, col // factor, size // factor,
                               beyond)
                        for _, values, factor in case.layers
                    ]  # fmt: skip
                else:
                    image = [window(whole, row, col, size, beyond)]
                label = window(truth, row, col, size, UNLABELLED)
                expected.append((number, row, col, image, label))
    with pytest.MonkeyPatch.context() as patch:
        for name in how:
            if name.isupper():
                patch.setattr(patches, name, how[name])
        shards = [scenes[:2], scenes[2:]] if len(scenes) > 2 else [scenes]
        settings_ = {
            "stride_px": stride, "padding": padding, "native_gsd": how["native"],
            "min_valid": how["min_valid"],
        }  # fmt: skip
        if not expected:
            with pytest.raises(DataError, match="no patch is left"):
                cut_set(card, shards, size, **settings_)
            return
        found = cut_set(card, shards, size, **settings_)
    opened = found.patches
    # Scene by scene; within one, by segments of columns, row by row.
    of_name = {f"scene{number}_{row}_{col}": at for at, (number, row, col, *_) in
               enumerate(expected)}  # fmt: skip
    names = opened.places["name"].tolist()
    assert sorted(names) == sorted(of_name)
    if how["SEGMENT_BYTES"] > 1000:
        assert names == list(of_name)
    expected = [expected[of_name[name]] for name in names]
    assert (found.index["kept"], found.index["left_out"]) == (len(names), left_out)
    assert sum(bool(check["faults"]) for check in found.index["checks"]) == unfit
    stored = opened.image.groups if how["native"] else (opened.image,)
    everything = np.arange(len(opened))
    for group, array in enumerate(stored):
        images = np.stack([image[group] for _, _, _, image, _ in expected])
        assert array.dtype == np.dtype(how["dtype"])
        np.testing.assert_array_equal(array.gather(everything), images)
    np.testing.assert_array_equal(found.labels(), np.stack([label for *_, label in expected]))
    np.testing.assert_array_equal(
        opened.contents,
        [[int((label == number).sum()) for number in range(3)] for *_, label in expected],
    )
    places = opened.places
    kept_scenes = [opened.facts["scenes"][number] for number in places["scene"]]
    assert kept_scenes == [f"scene{number}" for number, *_ in expected]
    assert places["row"].tolist() == [row for _, row, *_ in expected]
    assert places["col"].tolist() == [col for _, _, col, *_ in expected]
    # Back to the pixel from the ground.
    west = np.array([600_000.0 + 1e4 * number for number, *_ in expected])
    np.testing.assert_array_equal((places["west"] - west) / 10, places["col"])
    np.testing.assert_array_equal((5e6 - places["north"]) / 10, places["row"])
    np.testing.assert_array_equal(places["east"] - places["west"], 10.0 * size)
    np.testing.assert_array_equal(places["north"] - places["south"], 10.0 * size)


# ---- other resamplings


@settings(max_examples=12, phases=[Phase.generate])
@given(
    shape=st.tuples(st.integers(12, 40), st.integers(12, 40)),
    factor=st.sampled_from([2, 3, 6]),
    resampling=st.sampled_from(["bilinear", "cubic", "average", "nearest"]),
    stride=st.integers(3, 12),
    rows=st.integers(1, 5),
    strip=st.sampled_from([1, 10**6]),
)
def test_a_resampled_patch_is_its_window_of_the_resampled_scene(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], shape: tuple[int, int],
    factor: int, resampling: str, stride: int, rows: int, strip: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(0)
    fine = rng.integers(1, 5000, (1, 1, *shape)).astype(np.uint16)
    coarse_shape = [-(-side // factor) for side in shape]
    coarse = rng.integers(1, 5000, (1, 2, *coarse_shape)).astype(np.uint16)
    scene = make_scene([(["b"], fine, 1), (["a", "c"], coarse, factor)], bands=["a", "b", "c"],
                       block_rows=rows)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "STRIP_BYTES", strip)
        found = cut_set(
            make_card(["a", "b", "c"]), [[scene]], 12, stride_px=stride, resampling=resampling
        )
    whole = scene.read(0, 0, *shape, resampling)
    np.testing.assert_array_equal(whole[1], fine[0, 0])
    for place, image in zip(found.patches.places.itertuples(), found.images(), strict=True):
        asked = scene.read(place.row, place.col, 12, 12, resampling)
        np.testing.assert_array_equal(image, asked)
        np.testing.assert_array_equal(
            image, whole[:, place.row : place.row + 12, place.col : place.col + 12]
        )


@pytest.fixture(scope="module")
def rasters(
    tmp_path_factory: pytest.TempPathFactory, write_raster: Callable[..., Path]
) -> tuple[Callable[[int], Scene], list[np.ndarray]]:
    """A scene of GeoTIFFs, a file a band, with so many rows in a block; its pixels by layer."""
    folder, rng = tmp_path_factory.mktemp("rasters"), np.random.default_rng(4)
    fine = rng.integers(1, 900, (2, 37, 29)).astype(np.uint16)
    coarse = rng.integers(1, 900, (1, 19, 15)).astype(np.uint16)
    paths = [
        write_raster(folder / f"{name}.tif", values[None], [name], gsd_m=gsd_m)
        for name, values, gsd_m in
        [("a", fine[0], 10.0), ("b", fine[1], 10.0), ("c", coarse[0], 20.0)]
    ]  # fmt: skip
    corner = (600_000.0, 5_300_040.0)
    grids = [Grid(37, 29, *corner, 10.0, 10.0, 32632), Grid(19, 15, *corner, 20.0, 20.0, 32632)]

    def scene(block_rows: int) -> Scene:
        layers = (
            Rasters(("a", "b"), grids[0], "uint16", block_rows, ((paths[0], 1), (paths[1], 1))),
            Rasters(("c",), grids[1], "uint16", block_rows, ((paths[2], 1),)),
        )
        return Scene("one", layers, ("a", "b", "c"))

    return scene, [fine, coarse]


@settings(max_examples=20, phases=[Phase.generate])
@given(
    size=st.sampled_from([2, 6, 10]),
    stride=st.sampled_from([2, 4, 10, 14]),
    rows=st.integers(1, 16),
    strip=st.sampled_from([1, 500, 10**6]),
    segment=st.sampled_from([1, 10**9]),
)
def test_rows_are_read_into_the_memory_of_rows_that_no_patch_needs_any_more(
    make_card: Make, cut_set: Callable[..., CutSet],
    rasters: tuple[Callable[[int], Scene], list[np.ndarray]],
    size: int, stride: int, rows: int, strip: int, segment: int,
) -> None:  # fmt: skip
    scene, pixels = rasters
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "STRIP_BYTES", strip)
        patch.setattr(patches, "SEGMENT_BYTES", segment)
        patch.setattr(patches, "SEGMENT_ALIGNED_PX", 8)
        card = make_card(["a", "b", "c"])
        found = cut_set(card, [[scene(rows)]], size, stride_px=stride, native_gsd=True,
                        padding="nodata")  # fmt: skip
        at_once = cut_set(card, [[scene(37)]], 6, native_gsd=True)
    opened = found.patches
    assert len(opened) == len(starts(37, size, stride, "nodata")) * len(
        starts(29, size, stride, "nodata")
    )
    corners = list(zip(opened.places["row"], opened.places["col"], strict=True))
    for array, whole, factor in zip(opened.image.groups, pixels, (1, 2), strict=True):
        expected = [
            window(whole, row // factor, col // factor, size // factor, 0) for row, col in corners
        ]
        np.testing.assert_array_equal(array.gather(np.arange(len(opened))), expected)
    assert found.index["checks"][0]["digest"] == at_once.index["checks"][0]["digest"]


@pytest.mark.parametrize(("factors", "size", "stride"), [((1, 2), 8, 4), ((1, 2, 6), 12, 6)])
def test_bands_in_their_own_pixels_are_gathered_on_the_finest_grid(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], factors: tuple[int, ...],
    size: int, stride: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(1)
    layers = [
        ([f"b{factor}", f"c{factor}"],
         rng.integers(1, 900, (2, 2, 36 // factor, 48 // factor)).astype(np.uint16), factor)
        for factor in factors
    ]  # fmt: skip
    bands = [band for names, _, _ in reversed(layers) for band in names]
    times = [datetime(2020, 6, 1), datetime(2020, 7, 1)]
    scene = make_scene(layers, bands=bands, times=times)
    found = cut_set(make_card(bands), [[scene]], size, stride_px=stride, native_gsd=True)
    same = cut_set(make_card(bands), [[scene]], size, stride_px=stride)
    assert [array.shape[-1] for array in found.patches.image.groups] == [size // f for f in factors]
    np.testing.assert_array_equal(found.images(), same.images())
    assert found.patches.image.shape == same.patches.image.shape
    assert found.patches.facts["bands"] == [f"{band}@{date}" for date in (0, 1) for band in bands]
    some = np.array([7, 0, 7, 3])
    np.testing.assert_array_equal(found.patches.image.gather(some), same.images()[some])
    for place, image in zip(found.patches.places.itertuples(), found.images(), strict=True):
        asked = scene.read(place.row, place.col, size, size, "nearest")
        np.testing.assert_array_equal(image, asked)
        assert place.time == times[0]
    with opened_by_xarray(found) as dataset:
        assert dataset["image"].dims == ("patch", "time_step", "band", "y", "x")
        assert dataset[f"image_x{factors[1]}"].dims == (
            "patch", "time_step", "band_x2", "y_x2", "x_x2"
        )  # fmt: skip
        assert dataset["band"].values.tolist() == ["b1", "c1"]
        assert dataset["band_x2"].values.tolist() == ["b2", "c2"]


def test_segments_begin_between_the_pixels_of_all_layers(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    rng = np.random.default_rng(9)
    layers = [
        ([f"b{factor}"],
         rng.integers(1, 9000, (1, 1, 12 // factor, 60 // factor)).astype(np.uint16), factor)
        for factor in (1, 2, 3)
    ]  # fmt: skip
    scene, card = make_scene(layers), make_card(["b1", "b2", "b3"])
    whole = cut_set(card, [[scene]], 6, native_gsd=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "SEGMENT_BYTES", 1)
        patch.setattr(patches, "SEGMENT_ALIGNED_PX", 5)
        found = cut_set(card, [[scene]], 6, native_gsd=True)
    order = found.patches.places.sort_values(["row", "col"]).index.to_numpy()
    assert order.tolist() != list(range(20)), "there was one segment"
    np.testing.assert_array_equal(found.images()[order], whole.images())
    # Only the digest follows the order in which the pixels pass by.
    told = [f.index["checks"][0] | {"digest": ""} for f in (found, whole)]
    assert told[0] == told[1]


def opened_by_xarray(found: CutSet, shard: str = "s0") -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xr.open_zarr(found.folder / shard / "set.zarr", consolidated=False)


# ---- on the ground


@pytest.mark.parametrize(
    ("epsg", "corner", "step"),
    [(32632, (600_000.0, 5_300_040.0), 10.0), (4326, (-77.3, 43.1), 8.983152841195215e-05)],
    ids=["UTM", "degrees"],
)
def test_coordinates_lead_back_to_the_pixel_through_xarray_too(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], epsg: int,
    corner: tuple[float, float], step: float,
) -> None:  # fmt: skip
    values = np.arange(1, 1 + 50 * 70, dtype=np.uint16).reshape(1, 1, 50, 70)
    scene = make_scene([(["red"], values, 1)], epsg=epsg, corner=corner, step=step,
                       times=[datetime(2021, 3, 4, 5, 6, 7)])  # fmt: skip
    found = cut_set(make_card(), [[scene]], 16, stride_px=7)
    with opened_by_xarray(found) as dataset:
        tables = [found.patches.places, dataset.coords.to_dataset().to_dataframe()]
    to_pixel = ~scene.grid.transform
    for places in tables:
        assert len(places) == 5 * 8
        for place in places.itertuples():
            col, row = to_pixel @ (place.west, place.north)
            assert (round(col, 6), round(row, 6)) == (place.col, place.row)
            assert place.row * 70 + place.col + 1 == values[0, 0, round(row), round(col)]
            col, row = to_pixel @ (place.east, place.south)
            assert (round(col, 6), round(row, 6)) == (place.col + 16, place.row + 16)
        assert set(places["epsg"]) == {epsg}
        x, y = (places["west"] + places["east"]) / 2, (places["south"] + places["north"]) / 2
        lon, lat = transform(f"EPSG:{epsg}", "EPSG:4326", x.tolist(), y.tolist())
        np.testing.assert_allclose(places["lon"], lon, rtol=0, atol=1e-12)
        np.testing.assert_allclose(places["lat"], lat, rtol=0, atol=1e-12)
        assert set(places["time"].astype(str)) == {"2021-03-04 05:06:07"}
    # By hand: 100 km east of the central meridian of 9° are 1.338° at this latitude.
    place = found.patches.places.iloc[0]
    assert abs(place["lon"] - (10.338 if epsg == 32632 else -77.3)) < 0.02


def test_places_without_a_georeference_are_a_plane_of_each_scene(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    values = np.arange(1, 1 + 8 * 12, dtype=np.uint16).reshape(1, 1, 8, 12)
    scenes = [
        make_scene([(["red"], values + 100 * number, 1)], name, epsg=-1, corner=(0.0, 0.0))
        for number, name in enumerate(("b", "a", "c"))
    ]
    places = cut_set(make_card(), [scenes[:2], scenes[2:]], 4).patches.places
    assert places["epsg"].tolist() == [-1] * 6 + [-2] * 6 + [-3] * 6
    assert places["scene"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert places["west"].tolist() == [0.0, 40.0, 80.0] * 6
    assert places["north"].tolist()[:6] == [0.0] * 3 + [-40.0] * 3
    assert places[["lon", "lat"]].isna().all(axis=None)


def test_the_store_says_what_it_is(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    values = np.arange(1, 1 + 2 * 8 * 12, dtype=np.uint16).reshape(1, 2, 8, 12)
    scene = make_scene([(["red", "nir"], values, 1)], labels=np.zeros((8, 12), np.uint8))
    card = make_card(["nir", "red"])
    scene = make_scene([(["red", "nir"], values, 1)], bands=["nir", "red"],
                       labels=np.zeros((8, 12), np.uint8))  # fmt: skip
    found = cut_set(card, [[scene]], 4)
    with opened_by_xarray(found) as dataset:
        assert dataset["image"].dims == ("patch", "band", "y", "x")
        assert dataset["image"].shape == (6, 2, 4, 4) and dataset["image"].dtype == np.uint16
        assert dataset["label"].dims == ("patch", "y", "x") and dataset["label"].dtype == np.uint8
        of_patch = {str(name) for name, c in dataset.coords.items() if c.dims == ("patch",)}
        assert of_patch == {
            "scene", "row", "col", "west", "south", "east", "north", "epsg", "lon", "lat", "time",
            "name",
        }  # fmt: skip
        assert dataset["band"].values.tolist() == ["nir", "red"]
        assert dataset["wavelength_nm"].sel(band="red") == 500.0
        assert dataset["name"].values[4] == "one_4_4"
        np.testing.assert_array_equal(dataset["image"].values, found.images())
        told = dataset.attrs
    assert (told["dataset"], told["title"], told["synthetic"]) == ("drawn", card.title, True)
    assert told["classes"] == ["Water", "Forest", "Town"]
    assert (told["gsd_m"], told["size_px"], told["scale"], told["nodata"]) == (10, 4, 10_000, 0)
    assert (told["labels"], told["rgb"], told["scenes"]) == ("pixel", [0, 0, 0], ["one"])
    assert found.patches.contents.tolist() == [[16, 0, 0]] * 6


# ---- what is unfit is set aside, and leaves nothing behind


class Failing:
    """A layer that breaks off at a row, as a truncated file does."""

    def __init__(self, layer: Any, row: int) -> None:
        self.layer, self.broken = layer, row

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def read(self, row: int, height: int, col: int, width: int) -> np.ndarray:
        if row + height > self.broken:
            raise DataError(f"cannot be read in rows from {row}", where="two.tif", mend="again")
        return self.layer.read(row, height, col, width)


def files_of(found: CutSet) -> dict[str, bytes]:
    """Every file of the shard but its manifest, whose checks tell of the broken scene."""
    shard = found.folder / "s0"
    return {
        str(path.relative_to(shard)): path.read_bytes()
        for path in sorted(shard.rglob("*"))
        if path.is_file() and path != shard / "manifest.json"
    }


@settings(max_examples=8, phases=[Phase.generate])
@given(
    heights=st.tuples(st.integers(4, 20), st.integers(9, 20), st.integers(4, 20)),
    at=st.integers(0, 3),
    chunk=st.sampled_from([100, 300, 700, 10**8]),
    native=st.booleans(),
)
def test_a_scene_that_breaks_at_its_last_tile_leaves_the_store_as_if_it_had_not_been_there(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet],
    heights: tuple[int, int, int], at: int, chunk: int, native: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(2)

    def scene(number: int, height: int) -> Scene:
        height += height % 2
        fine = rng.integers(1, 9000, (1, 1, height, 12)).astype(np.uint16)
        coarse = rng.integers(1, 9000, (1, 1, height // 2, 6)).astype(np.uint16)
        labels = rng.integers(0, 3, (height, 12)).astype(np.uint8)
        return make_scene([(["red"], fine, 1), (["edge"], coarse, 2)], f"scene{number}",
                          labels=labels)  # fmt: skip

    whole = [scene(number, height) for number, height in enumerate(heights)]
    middle = whole[1]
    layers = (Failing(middle.layers[0], middle.grid.height), middle.layers[1])
    # The very last row of tiles: all patches have been written by then.
    broken = Scene(middle.name, layers, middle.bands, labels=middle.labels)
    broken.layers[0].broken = middle.grid.height - 1
    order = [whole[0], whole[2]]
    order.insert(min(at, 2), broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CHUNK_BYTES", chunk)
        patch.setattr(patches, "STRIP_BYTES", 1)
        card = make_card(["red", "edge"])
        found = cut_set(card, [order], 4, native_gsd=native)
        without = cut_set(card, [[whole[0], whole[2]]], 4, native_gsd=native)
    assert files_of(found) == files_of(without)
    listed = [
        dict(manifest["files"])
        for manifest in (read_json(f.folder / "s0/manifest.json") for f in (found, without))
    ]
    assert listed[0] == listed[1]
    told = {check["scene"]: check for check in found.index["checks"]}
    row = middle.grid.height - 1
    assert told["scene1"] == {
        "scene": "scene1", "patches": 0, "faults": [f"two.tif: cannot be read in rows from {row}"]
    }  # fmt: skip
    assert told["scene0"]["faults"] == told["scene2"]["faults"] == []
    assert found.patches.facts["scenes"] == ["scene0", "scene2"]


def test_a_scene_smaller_than_a_patch_is_set_aside_and_the_others_are_kept(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    small = make_scene([(["red"], np.ones((1, 1, 7, 30), np.uint16), 1)], "small")
    pixel = make_scene([(["red"], np.full((1, 1, 1, 1), 9, np.uint16), 1)], "pixel")
    large = make_scene([(["red"], np.full((1, 1, 8, 8), 3, np.uint16), 1)], "large")
    found = cut_set(make_card(), [[small, large, pixel]], 8)
    assert [check["faults"] for check in found.index["checks"]] == [
        ["small: 7 x 30 px hold no patch of 8 px"], [], ["pixel: 1 x 1 px hold no patch of 8 px"]
    ]  # fmt: skip
    assert found.patches.places["name"].tolist() == ["large_0_0"]
    # Filled up, they are patches.
    found = cut_set(make_card(), [[small, large, pixel]], 8, padding="nodata")
    assert found.index["kept"] == 4 + 1 + 1
    assert found.images()[-1].tolist() == [[[9] + [0] * 7] + [[0] * 8] * 7]
    with pytest.raises(DataError) as told:
        cut_set(make_card(), [[small, pixel]], 8)
    assert str(told.value) == (
        "drawn: no patch is left: small: 7 x 30 px hold no patch of 8 px; "
        "lower patches.min_valid, or mend the data"
    )
    with pytest.raises(DataError) as told:
        cut_set(make_card(), [[large, small]], 8, broken="fatal")
    assert str(told.value) == (
        "small: small: 7 x 30 px hold no patch of 8 px; mend the scene, or set quality.broken=skip"
    )


@pytest.mark.parametrize("value", [0, np.nan, np.inf], ids=["no data", "NaN", "infinite"])
def test_a_chip_without_any_data_is_set_aside(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], value: float
) -> None:
    empty = make_scene([(["vv"], np.full((1, 1, 8, 8), value, np.float32), 1)], "empty")
    good = make_scene([(["vv"], np.full((1, 1, 8, 8), -12.5, np.float32), 1)], "good")
    found = cut_set(make_card(["vv"]), [[empty, good]], 4)
    assert found.index["checks"][0]["faults"] == ["has no data at all"]
    assert found.patches.places["name"].tolist() == [
        f"good_{r}_{c}" for r in (0, 4) for c in (0, 4)
    ]
    assert (found.images() == -12.5).all()
    with pytest.raises(DataError, match=r"^empty: has no data at all; mend the scene"):
        cut_set(make_card(["vv"]), [[empty, good]], 4, broken="fatal")


def test_scenes_of_other_kinds_are_refused_by_name(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    def scene(name: str, dtype: str = "uint16", dates: int = 1, factor: int = 1) -> Scene:
        rng = np.random.default_rng(len(name))
        layers = [(["red"], rng.integers(1, 99, (dates, 1, 8, 8)).astype(dtype), 1)]
        shape = (dates, 1, 8 // factor, 8 // factor)
        layers += [(["edge"], rng.integers(1, 99, shape).astype(dtype), factor)]
        return make_scene(layers, name, times=[None] * dates)

    card = make_card(["red", "edge"])

    def told(*scenes: Scene, **how: Any) -> str:
        with pytest.raises(DataError) as refused:
            cut_set(card, [list(scenes)], 4, **how)
        return str(refused.value)

    first = scene("first")
    mend = "make a dataset of each kind"
    assert told(first, scene("float", "float32")) == (
        f"float: has values of float32, the scenes before it of uint16; {mend}"
    )
    assert told(first, scene("series", dates=3)) == (
        f"series: has 3 dates, the scenes before it have 1; {mend}"
    )
    assert told(first, scene("coarse", factor=2), native_gsd=True) == (
        f"coarse: has bands of other GSDs than the scenes before it; {mend}"
    )
    with pytest.raises(DataError) as refused:  # in two shards, it is found when they are joined
        cut_set(card, [[first], [scene("float", "float32")]], 4)
    assert str(refused.value) == (
        f"float: has patches of another kind than the scenes of first; {mend}"
    )
    assert told(scene("coarse", factor=2), native_gsd=True, stride_px=3) == (
        "patches.size_px: 4 px, stride 3 px are no whole pixels of the bands edge (2 times as "
        "large); give multiples of all of them, or patches.native_gsd=false"
    )
    card = make_card(["red", "edge"], nodata=-9999)
    assert told(first) == (
        "first: the no-data value -9999 of the card is no uint16; mend `nodata` in the card"
    )


def test_values_of_wide_or_mixed_types_are_kept_as_float32(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    values = np.arange(-8, 8).reshape(1, 1, 4, 4)
    fine, height = values.astype(np.uint16), values.astype(np.int16)
    mixed = make_scene([(["red"], fine, 1), (["height"], height, 1)], "mixed")
    wide = make_scene([(["red"], values * 1000, 1), (["height"], values / 3, 1)], "wide")
    found = cut_set(make_card(["red", "height"]), [[mixed, wide]], 4)
    assert found.patches.image.dtype == np.float32
    np.testing.assert_array_equal(
        found.images(),
        np.stack([np.stack([fine[0, 0], height[0, 0]]), np.stack([values[0, 0] * 1000.0,
                  values[0, 0] / 3])]).astype(np.float32),
    )  # fmt: skip


def test_patches_moved_inward_must_begin_between_coarse_pixels(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    rng = np.random.default_rng(3)

    def scene(height: int, name: str) -> Scene:
        fine = rng.integers(1, 99, (1, 1, height, 10)).astype(np.uint8)
        coarse = rng.integers(1, 99, (1, 1, -(-height // 2), 5)).astype(np.uint8)
        return make_scene([(["red"], fine, 1), (["edge"], coarse, 2)], name)

    card = make_card(["red", "edge"])
    scenes = [scene(9, "odd"), scene(10, "even")]
    found = cut_set(card, [scenes], 4, native_gsd=True, padding="shift")
    assert found.index["checks"][0]["faults"] == [
        "odd: 9 x 10 px are no whole pixels of its coarser bands (2 px), between which patches"
        " moved inward would begin"
    ]
    assert found.patches.places["row"].unique().tolist() == [0, 4, 6]
    for place, image in zip(found.patches.places.itertuples(), found.images(), strict=True):
        asked = scenes[1].read(place.row, place.col, 4, 4, "nearest")
        np.testing.assert_array_equal(image, asked)
    assert cut_set(card, [scenes], 4, padding="shift").index["kept"] == 2 * 9


@pytest.mark.parametrize("labels", ["patch", "several"])
def test_labels_of_another_kind_than_the_card_says_are_told(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], labels: str
) -> None:
    values = np.arange(1, 65, dtype=np.uint16).reshape(1, 1, 8, 8)
    scene = make_scene([(["red"], values, 1)], labels=np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=rf"for a patch, the card says {labels}; lower patches"):
        cut_set(make_card(labels=labels), [[scene]], 4)


def test_a_fraction_is_the_same_patches_every_time(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    values = np.arange(1, 1 + 64 * 64, dtype=np.uint16).reshape(1, 1, 64, 64)
    scene = make_scene([(["red"], values, 1)])
    found, again = (cut_set(make_card(), [[scene]], 8, stride_px=4, fraction=0.3) for _ in "ab")
    assert found.index["kept"] == round(15 * 15 * 0.3) and found.index["left_out"] == 0
    assert found.patches.places["name"].tolist() == again.patches.places["name"].tolist()
    for place, image in zip(found.patches.places.itertuples(), found.images(), strict=True):
        window_ = values[0, :, place.row : place.row + 8, place.col : place.col + 8]
        np.testing.assert_array_equal(image, window_)


def test_a_share_that_is_just_reached_is_kept(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    labels = np.zeros((8, 16), np.uint8)
    labels[:4, :8] = 255  # one half of the first patch
    labels[:4, 8:] = labels[4, 8] = 255  # and one pixel more of the second
    values = np.arange(1, 129, dtype=np.uint16).reshape(1, 1, 8, 16)
    scene = make_scene([(["red"], values, 1)], labels=labels)
    found = cut_set(make_card(), [[scene]], 8, min_valid=0.5)
    assert (found.index["kept"], found.index["left_out"]) == (1, 1)
    assert found.patches.places["name"].tolist() == ["one_0_0"]
    with pytest.raises(DataError) as told:
        cut_set(make_card(), [[scene]], 8, min_valid=0.6)
    assert str(told.value) == (
        "drawn: no patch is left: 2 have too few valid pixels; "
        "lower patches.min_valid, or mend the data"
    )


# ---- the memory


CUTTING = """
import sys
from pathlib import Path
import yaml
from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.patches import Cutting, cut
folder = Path(sys.argv[1])
card = Card.model_validate(yaml.safe_load((folder / "card.yaml").read_text()))
limits = {"max_nodata": 1.0, "max_clouds": 1.0, "max_saturated": 1.0, "max_implausible": 1.0}
scene = open_source(card, folder).open(sys.argv[2])
found = cut(card, iter([(scene.name, scene)]), folder / "out" / scene.name, Cutting(512),
            limits=limits | {"constant_bands": True}, made_by={})
# Not ru_maxrss: a new process inherits its parent's.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(found["kept"], int(peak.split()[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height_of_a_scene(tmp_path: Path, make_card: Make) -> None:
    bands = ["b1", "b2", "b3", "b4"]
    layout = {"name": "scene_folders", "images": ["*.tif"], "bands_by": "order"}
    card = make_card(bands, layout=layout).model_dump()
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    rng = np.random.default_rng(8)
    row = rng.integers(1, 4000, (4, 512, 6000)).astype(np.uint16)
    peaks = {}
    for name, height in (("low", 3000), ("high", 6000)):
        (tmp_path / name).mkdir()
        with rasterio.open(
            tmp_path / name / "image.tif", "w", driver="GTiff", count=4, height=height, width=6000,
            dtype="uint16", crs="EPSG:32632", transform=Affine(10, 0, 6e5, 0, -10, 5e6), tiled=True,
            blockxsize=512, blockysize=512, compress="deflate", zlevel=1,
        ) as file:  # fmt: skip
            for top in range(0, height, 512):
                rows = min(512, height - top)
                file.write(row[:, :rows], window=Window(0, top, 6000, rows))
        done = subprocess.run(
            [sys.executable, "-c", CUTTING, str(tmp_path), name],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        kept, peaks[name] = map(int, done.stdout.split())
        assert kept == (height // 512) * (6000 // 512)
        shutil.rmtree(tmp_path / "out")
    assert peaks["high"] < 900, peaks
    assert peaks["high"] < 1.2 * peaks["low"], peaks
