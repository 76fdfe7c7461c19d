"""A scene: one acquisition on the ground, as grids, layers of bands, labels and masks.

A layer is the bands of one ground sampling distance; a scene has one or several, and knows the
finest grid that they share. Everything is read in windows, so that memory does not grow with the
scene. Layouts (`swath.data.layouts`) build scenes from what lies on the disk.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject
from rasterio.windows import Window

from swath.data.card import UNLABELLED
from swath.data.grid import METRES_A_DEGREE
from swath.errors import DataError

Pixels = NDArray[Any]

# Each tile is decoded once, so what GDAL keeps of them need not grow with the machine's memory.
os.environ.setdefault("GDAL_CACHEMAX", "128")

_KEPT = ("uint8", "int8", "uint16", "int16", "float32")
"""Types that patch sets hold and statistics count."""


def kept_type(dtype: Any) -> str:
    """The type in which values are kept: their own, or float32 in place of wider ones."""
    return str(dtype) if str(dtype) in _KEPT else "float32"


@dataclass(frozen=True)
class Grid:
    """A north-up raster on the ground."""

    height: int
    width: int
    west: float
    north: float
    """Map coordinates of the upper-left corner."""
    step_x: float
    step_y: float
    """Sides of a pixel in map units: metres, or degrees where the CRS is geographic."""
    epsg: int
    """EPSG code of the CRS; 0 where the place is unknown; negative for a plane of the scene's own,
    in metres."""

    @property
    def gsd_m(self) -> float:
        """Side of a pixel on the ground; for degrees, the mean of both sides at the centre."""
        if self.epsg <= 0 or not CRS.from_epsg(self.epsg).is_geographic:
            return self.step_x
        latitude = self.north - self.height * self.step_y / 2
        return METRES_A_DEGREE * (self.step_x * math.cos(math.radians(latitude)) + self.step_y) / 2

    @property
    def transform(self) -> Affine:
        """Pixel (column, row) to map coordinates."""
        return Affine(self.step_x, 0.0, self.west, 0.0, -self.step_y, self.north)

    def factor_of(self, finer: Grid) -> int | None:
        """Whole pixels of `finer` along a side of one of these, where both share their corner.

        None where they do not fit: another CRS, another corner, or no whole number.
        """
        ratio_x, ratio_y = self.step_x / finer.step_x, self.step_y / finer.step_y
        factor = round(ratio_x)
        close = 1e-3 * finer.step_x
        fits = (
            self.epsg == finer.epsg
            and factor >= 1
            and abs(ratio_x - factor) < 1e-6 * factor
            and abs(ratio_y - factor) < 1e-6 * factor
            and abs(self.west - finer.west) < close
            and abs(self.north - finer.north) < close
        )
        return factor if fits else None


class Layer(Protocol):
    """Bands of one ground sampling distance, read by windows in their own pixels."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the order in which they are read."""

    @property
    def grid(self) -> Grid:
        """The grid of its pixels."""

    @property
    def dtype(self) -> str:
        """Type of the stored values."""

    @property
    def block_rows(self) -> int:
        """Rows that are decoded together: reading fewer at a time decodes them again."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it reads."""

    def read(self, row: int, height: int, col: int, width: int) -> Pixels:
        """The window (channel, y, x); channels are the bands, date after date.

        Raises:
            DataError: the file cannot be read there.
        """


class Labels(Protocol):
    """Class or value of each pixel on the finest grid."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it reads."""

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[Any]:
        """Class numbers (y, x) of a window, `UNLABELLED` where there is none; or numbers, float32,
        NaN where there is none."""


class Mask(Protocol):
    """Which pixels of the finest grid are to be used."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it reads."""

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[np.bool_]:
        """True (y, x) where the ground is seen: no cloud, no shadow, inside the swath."""


@dataclass(frozen=True)
class Scene:
    """One acquisition, or several of one place, on the finest of its grids."""

    name: str
    layers: tuple[Layer, ...]
    """The bands by GSD, the finest first."""
    bands: tuple[str, ...]
    """Names of the bands in the order of the dataset's card."""
    times: tuple[datetime | None, ...] = (None,)
    """Acquisition times, UTC; several where the scene is a series."""
    labels: Labels | None = None
    mask: Mask | None = None
    documents: tuple[Path, ...] = ()
    """Files beside the pixels that say what they mean, such as a product's metadata."""

    @property
    def grid(self) -> Grid:
        """The finest grid."""
        return self.layers[0].grid

    @property
    def factors(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """Bands of each layer, and pixels of the finest grid along one of theirs."""
        return tuple((layer.bands, layer.grid.factor_of(self.grid) or 1) for layer in self.layers)

    @property
    def dtype(self) -> str:
        """The type that holds the values of all layers."""
        return kept_type(np.result_type(*(layer.dtype for layer in self.layers)))

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        parts: list[Any] = [*self.layers, self.labels, self.mask]
        read = (f for part in parts if part is not None for f in part.files)
        return tuple(dict.fromkeys((*read, *self.documents)))

    @property
    def bytes(self) -> int:
        """Size of its pixels in memory."""
        return sum(
            len(layer.bands) * len(self.times) * layer.grid.height * layer.grid.width
            * np.dtype(layer.dtype).itemsize
            for layer in self.layers
        )  # fmt: skip

    def on_finest(self, resampling: str) -> tuple[Layer, ...]:
        """The layers, coarser ones brought to the finest grid."""
        return tuple(
            layer if layer.grid == self.grid else Resampled(layer, self.grid, resampling)
            for layer in self.layers
        )

    def read(self, row: int, col: int, height: int, width: int, resampling: str) -> Pixels:
        """The image (channel, y, x) of a window on the finest grid; bands in the card's order."""
        layers = self.on_finest(resampling)
        parts = [layer.read(row, height, col, width) for layer in layers]
        return in_order(parts, [layer.bands for layer in layers], self.bands, len(self.times))

    def read_labels(self, row: int, col: int, height: int, width: int) -> NDArray[Any]:
        """The labels (y, x) of a window, without one under clouds and outside the swath."""
        if self.labels is None:
            return np.full((height, width), UNLABELLED, np.uint8)
        labels = self.labels.read(row, height, col, width)
        if self.mask is not None:
            labels[~self.mask.read(row, height, col, width)] = unlabelled(labels.dtype)
        return labels


def in_order(
    parts: Sequence[Pixels], bands: Sequence[tuple[str, ...]], wanted: Sequence[str], dates: int
) -> Pixels:
    """Channels of several layers as one array, date after date, bands in the order of `wanted`.

    Args:
        parts: an array (date · band, …) of each layer.
        bands: the bands of each layer.
        wanted: all bands.
        dates: number of dates.
    """
    if len(parts) == 1 and tuple(bands[0]) == tuple(wanted):
        return parts[0]
    shape = parts[0].shape[1:]
    where = {name: (k, i) for k, names in enumerate(bands) for i, name in enumerate(names)}
    dtype = np.result_type(*parts)
    out = np.empty((dates * len(wanted), *shape), dtype)
    for date in range(dates):
        for number, name in enumerate(wanted):
            part, at = where[name]
            out[date * len(wanted) + number] = parts[part][date * len(bands[part]) + at]
    return out


def resampled(image: Pixels, factor: int, resampling: str) -> Pixels:
    """An image (…, y, x) with `factor` times as many pixels along both sides."""
    if factor == 1:
        return image
    if resampling == "nearest":
        return image.repeat(factor, axis=-2).repeat(factor, axis=-1)
    height, width = image.shape[-2:]
    flat = image.reshape(-1, height, width)
    # An origin other than 0: GDAL takes the plain transform for none at all, and warps nothing.
    out = np.empty((len(flat), height * factor, width * factor), image.dtype)
    reproject(
        flat, out, resampling=Resampling[resampling], src_crs="EPSG:32631", dst_crs="EPSG:32631",
        src_transform=Affine(factor, 0, 0, 0, -factor, height * factor),
        dst_transform=Affine(1, 0, 0, 0, -1, height * factor),
    )  # fmt: skip
    return out.reshape(*image.shape[:-2], *out.shape[1:])


# ---- layers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rasters:
    """Raster files of one grid that GDAL reads: GeoTIFF, JPEG 2000, and their like."""

    bands: tuple[str, ...]
    grid: Grid
    dtype: str
    block_rows: int
    where: tuple[tuple[Path, int], ...]
    """File and number, from 1, of each channel: date after date, band after band."""
    offset: int = 0
    """Subtracted from every value (Sentinel-2 baseline 04.00 adds 1,000); no-data stays 0."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, each once."""
        return tuple(dict.fromkeys(path for path, _ in self.where))

    def read(
        self, row: int, height: int, col: int, width: int, out: Pixels | None = None
    ) -> Pixels:
        """The window (channel, y, x), in `out` if it is given."""
        return self.read_as(Window(col, row, width, height), (height, width), "nearest", out)

    def read_as(
        self, window: Window, shape: tuple[int, int], resampling: str, out: Pixels | None = None
    ) -> Pixels:
        """A window in own pixels, brought to `shape` by GDAL; in `out` if it is given."""
        if out is None:
            out = np.empty((len(self.where), *shape), self.dtype)
        for path, channels, numbers in _by_file(self.where):
            with _readable(path, f"in rows from {int(window.row_off)}"):
                file = _opened(path)
                # One call a file; where its channels lie together, straight into the result.
                together = channels == list(range(channels[0], channels[0] + len(channels)))
                into = out[channels[0] : channels[-1] + 1] if together else None
                pixels = file.read(
                    numbers, window=window, out=into,
                    **({} if together else {"out_shape": (len(numbers), *shape)}),
                    resampling=Resampling[resampling],
                )  # fmt: skip
                if not together:
                    out[channels] = pixels
        if self.offset:
            seen = out != 0
            # What would fall to 0 or below stays 1: seen, and as dark as can be.
            np.subtract(np.maximum(out, self.offset + 1), self.offset, out=out, where=seen)
        return out


def _by_file(where: tuple[tuple[Path, int], ...]) -> Iterator[tuple[Path, list[int], list[int]]]:
    """For each file: the channels that it gives, and their numbers in it."""
    for path in dict.fromkeys(path for path, _ in where):
        channels = [channel for channel, (of, _) in enumerate(where) if of == path]
        yield path, channels, [where[channel][1] for channel in channels]


def _opened(path: Path) -> rasterio.io.DatasetReader:
    """A file kept open, as long as it stays the same: a scene is read in hundreds of windows."""
    facts = path.stat()
    return _open(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=64)
def _open(path: Path, *_: int) -> rasterio.io.DatasetReader:
    """Tiles are decoded in threads."""
    threads = {"NUM_THREADS": "ALL_CPUS"} if path.suffix.lower() in (".tif", ".tiff") else {}
    return rasterio.open(path, **threads)


@contextmanager
def _readable(path: Path, where: str = "") -> Iterator[None]:
    # In threads of its own GDAL 3.10 loses what is wrong with a JPEG 2000 tile, and gives zeros.
    try:
        with rasterio.Env(GDAL_NUM_THREADS="1"):
            yield
    except (RasterioError, OSError) as broken:
        _open.cache_clear()
        raise DataError(
            f"cannot be read {where} ({_reason(broken)})".replace("  ", " "),
            where=path,
            mend="fetch it again",
        ) from None


def _reason(broken: BaseException) -> str:
    """The last cause, which says most."""
    while broken.__cause__ is not None:
        broken = broken.__cause__
    return str(broken).splitlines()[0] if str(broken) else type(broken).__name__


@dataclass(frozen=True)
class Array:
    """Bands that lie in anything that is sliced like an array: HDF5, Zarr, a MATLAB cube."""

    bands: tuple[str, ...]
    grid: Grid
    values: Any
    """Sliced lazily; its axes are named by `axes`."""
    axes: str
    """Order of the axes, of t (date), b (band), y, x; the first two may be absent."""
    path: Path
    block_rows: int = 1
    chosen: tuple[int, ...] | None = None
    """Numbers of the bands along b; None takes them all."""

    @property
    def dtype(self) -> str:
        """Type in which the values are kept."""
        return kept_type(self.values.dtype)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that holds it."""
        return (self.path,)

    def read(self, row: int, height: int, col: int, width: int) -> Pixels:
        """The window (channel, y, x)."""
        cut = {"y": slice(row, row + height), "x": slice(col, col + width)}
        try:
            window = np.asarray(
                self.values[tuple(cut.get(axis, slice(None)) for axis in self.axes)]
            )
        except (OSError, ValueError, RuntimeError) as broken:
            raise DataError(
                f"cannot be read in rows from {row} ({_reason(broken)})",
                where=self.path,
                mend="fetch it again",
            ) from None
        absent = [axis for axis in "tb" if axis not in self.axes]
        window = window.reshape((1,) * len(absent) + window.shape)
        order = absent + list(self.axes)
        window = window.transpose([order.index(axis) for axis in "tbyx"])
        if self.chosen is not None:
            window = window[:, list(self.chosen)]
        return window.reshape(-1, *window.shape[2:]).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class Resampled:
    """A coarser layer on the finest grid."""

    layer: Layer
    grid: Grid
    resampling: str

    @property
    def bands(self) -> tuple[str, ...]:
        """As the layer's."""
        return self.layer.bands

    @property
    def dtype(self) -> str:
        """As the layer's."""
        return self.layer.dtype

    @property
    def files(self) -> tuple[Path, ...]:
        """As the layer's."""
        return self.layer.files

    @property
    def factor(self) -> int:
        """Pixels of the finest grid along one of the layer's."""
        factor = self.layer.grid.factor_of(self.grid)
        assert factor is not None  # layouts warp what does not fit (`Warped`)
        return factor

    @property
    def block_rows(self) -> int:
        """As many rows as the layer's blocks become."""
        return self.layer.block_rows * self.factor

    def read(self, row: int, height: int, col: int, width: int) -> Pixels:
        """The window (channel, y, x) on the finest grid."""
        factor = self.factor
        # Neighbours take part in all but the nearest: three pixels around, as far as cubic reaches.
        margin = 0 if self.resampling == "nearest" else 3
        coarse_grid = self.layer.grid
        top, left = max(row // factor - margin, 0), max(col // factor - margin, 0)
        bottom = min(-(-(row + height) // factor) + margin, coarse_grid.height)
        right = min(-(-(col + width) // factor) + margin, coarse_grid.width)
        tall, wide = bottom - top, right - left
        if self.resampling != "nearest" and isinstance(self.layer, Rasters):
            # By GDAL while it decodes. Whole pixels: it would repeat the edge of a part of one.
            shape = (tall * factor, wide * factor)
            fine = self.layer.read_as(Window(left, top, wide, tall), shape, self.resampling)
        else:
            fine = resampled(self.layer.read(top, tall, left, wide), factor, self.resampling)
        at_y, at_x = row - top * factor, col - left * factor
        return fine[:, at_y : at_y + height, at_x : at_x + width]


@dataclass(frozen=True)
class Warped:
    """A raster file of another CRS or grid, brought to the scene's grid."""

    bands: tuple[str, ...]
    grid: Grid
    path: Path
    numbers: tuple[int, ...]
    dtype: str
    resampling: str
    nodata: float | None = None
    block_rows: int = 512

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self, row: int, height: int, col: int, width: int) -> Pixels:
        """The window (channel, y, x) on the scene's grid; no-data outside the file."""
        with (
            _readable(self.path, f"in rows from {row}"),
            WarpedVRT(
                _opened(self.path), crs=f"EPSG:{self.grid.epsg}", transform=self.grid.transform,
                width=self.grid.width, height=self.grid.height,
                resampling=Resampling[self.resampling], src_nodata=self.nodata, nodata=self.nodata,
            ) as warped,
        ):  # fmt: skip
            pixels: Pixels = warped.read(
                list(self.numbers), window=Window(col, row, width, height), out_dtype=self.dtype
            )
            return pixels


# ---- labels and masks -----------------------------------------------------------------------


@dataclass(frozen=True)
class CodedLabels:
    """A layer of class codes, of which each stands for a class."""

    layer: Layer
    codes: tuple[int, ...]
    """The code of each class, in the order of the card; all others are unlabelled."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the layer."""
        return self.layer.files

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[np.uint8]:
        """Class numbers (y, x)."""
        raw = self.layer.read(row, height, col, width)[0]
        if self.codes == tuple(range(len(self.codes))) and raw.dtype == np.uint8:
            return np.where(raw < len(self.codes), raw, UNLABELLED).astype(np.uint8)
        labels = np.full(raw.shape, UNLABELLED, np.uint8)
        for number, code in enumerate(self.codes):
            labels[raw == code] = number
        return labels


@dataclass(frozen=True)
class ValueLabels:
    """A layer of numbers, which are the labels themselves."""

    layer: Layer
    nodata: float | None
    """The number that stands for none; NaN and the infinite always do."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the layer."""
        return self.layer.files

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[np.float32]:
        """Numbers (y, x), NaN where there is none."""
        values = self.layer.read(row, height, col, width)[0].astype(np.float32)
        absent = ~np.isfinite(values)
        if self.nodata is not None:
            absent |= values == np.float32(self.nodata)
        values[absent] = np.nan
        return values


def unlabelled(dtype: Any) -> float:
    """What stands for no label: NaN among numbers, `UNLABELLED` among classes."""
    return np.nan if np.dtype(dtype).kind == "f" else UNLABELLED


def is_labelled(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where there is a label."""
    known: NDArray[np.bool_] = (
        np.isfinite(labels) if labels.dtype.kind == "f" else labels != UNLABELLED
    )
    return known


@dataclass(frozen=True)
class PolygonLabels:
    """Polygons, each of a class, drawn onto the grid."""

    shapes: tuple[tuple[Any, int], ...]
    """GeoJSON-like geometries in the grid's CRS, with their class numbers; later ones lie above."""
    grid: Grid
    all_touched: bool
    """Whether a pixel that a polygon only touches belongs to it; else its centre decides."""
    files: tuple[Path, ...]

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[np.uint8]:
        """Class numbers (y, x)."""
        drawn: NDArray[np.uint8] = rasterize(
            self.shapes,
            out_shape=(height, width),
            fill=UNLABELLED,
            transform=self.grid.transform @ Affine.translation(col, row),
            all_touched=self.all_touched,
            dtype="uint8",
        )
        return drawn


@dataclass(frozen=True)
class CodedMask:
    """A layer of codes, of which some mean that the ground is seen."""

    layer: Layer
    clear: tuple[int, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the layer."""
        return self.layer.files

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[np.bool_]:
        """True (y, x) where the code is one of the clear ones."""
        return np.isin(self.layer.read(row, height, col, width)[0], self.clear)


@dataclass(frozen=True)
class BrightClouds:
    """A declared test: what is brighter than all the given values is cloud."""

    scene: Scene
    above: tuple[tuple[str, float], ...]
    """Band and stored value."""
    resampling: str

    @property
    def files(self) -> tuple[Path, ...]:
        """The scene's files; it reads no others."""
        return ()

    def read(self, row: int, height: int, col: int, width: int) -> NDArray[np.bool_]:
        """True (y, x) where at least one band is dark enough; a series is clear at every date."""
        image = self.scene.read(row, col, height, width, self.resampling)
        dates = image.reshape(len(self.scene.times), len(self.scene.bands), height, width)
        bright = [dates[:, self.scene.bands.index(band)] > value for band, value in self.above]
        clear: NDArray[np.bool_] = ~np.logical_and.reduce(bright).any(axis=0)
        return clear


# ---- what a raster file says of itself ------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """The header of a raster file."""

    path: Path
    grid: Grid
    count: int
    descriptions: tuple[str | None, ...]
    dtype: str
    block_rows: int
    time: datetime | None
    nodata: float | None


def raster_facts(path: Path, *, placed: bool = True) -> Facts:
    """The header of a raster file.

    Args:
        path: the file.
        placed: whether it must have a CRS.

    Raises:
        DataError: it cannot be read, has no pixels, no CRS, or is not north-up.
    """
    with _readable(path), rasterio.open(path) as file:
        if not file.width or not file.height or not file.count:
            raise DataError("has no pixels", where=path, mend="fetch it again")
        epsg = file.crs.to_epsg() if file.crs else None
        if placed and epsg is None:
            raise DataError(
                "has no CRS" if not file.crs else "has a CRS without an EPSG code",
                where=path,
                mend="write one, e.g. with gdal_edit -a_srs EPSG:32632",
            )
        at = file.transform
        if placed and (at.b or at.d or at.a <= 0 or at.e >= 0):
            raise DataError(
                "is not north-up (no transform, or rotated)",
                where=path,
                mend="warp it, e.g. with gdalwarp",
            )
        stamp = file.tags().get("ACQUISITION_TIME")
        try:
            time = utc(stamp) if stamp else None
        except ValueError:
            raise DataError(
                f"has no ISO time in its tag ACQUISITION_TIME, but '{stamp}'", where=path,
                mend="write it as 2026-06-04T10:20:31Z",
            ) from None  # fmt: skip
        return Facts(
            path=path,
            grid=Grid(
                int(file.height), int(file.width), float(at.c), float(at.f), float(at.a),
                float(-at.e), int(epsg or 0),
            ),
            count=int(file.count),
            descriptions=tuple(file.descriptions),
            dtype=kept_type(np.result_type(*file.dtypes)),
            block_rows=int(file.block_shapes[0][0]),
            time=time,
            nodata=file.nodata,
        )  # fmt: skip


def utc(stamp: str) -> datetime:
    """An ISO time as UTC without a zone."""
    time = datetime.fromisoformat(stamp)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def with_mask(scene: Scene, mask: Mask | None) -> Scene:
    """The scene with a mask, or as it is."""
    return scene if mask is None else replace(scene, mask=mask)
