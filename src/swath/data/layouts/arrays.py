"""Scenes as NetCDF, HDF5 or Zarr: variables with named dimensions, read in windows by xarray.

Values stay as they are stored: the card's scale and no-data must be those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.layouts.scene_folders import (
    Stacked,
    class_codes,
    labels_of,
    on_grid,
    only_match,
    scene_names,
    stamp_in,
)
from swath.data.scene import (
    Array,
    CodedLabels,
    CodedMask,
    Grid,
    Labels,
    Layer,
    Scene,
    ValueLabels,
    with_mask,
)
from swath.errors import DataError, nearest
from swath.registry import registered

_DIMENSIONS = {
    "t": ("time", "t", "date"),
    "b": ("band", "bands", "wavelength", "wavelengths", "channel", "b"),
    "y": ("y", "lat", "latitude", "northing", "row", "line"),
    "x": ("x", "lon", "longitude", "easting", "column", "sample"),
}
"""What the dimensions of date, band, y and x are called, in lower case."""
# What a damaged file makes of its readers has no common kind.
_DAMAGED = (OSError, ValueError, TypeError, LookupError, RuntimeError, ArithmeticError)
_STRIP_BYTES = 128 << 20
_STRIP_COLUMNS = 512
"""Rows of this many columns and bytes are read together at most, however large the chunks are."""
_ROWS_AT_ONCE = 64
"""Of an array that lies in one piece."""


@registered("layout")
def array_scenes(
    folder: Path,
    card: Card,
    *,
    images: str,
    variable: str | None = None,
    dimensions: dict[str, str] | None = None,
    epsg: int | None = None,
    labels: str | None = None,
    codes: list[int] | None = None,
    attribute: str | None = None,
    all_touched: bool = False,
    mask: str | None = None,
    clear: list[int] | None = None,
) -> Source:
    """Scenes of one NetCDF, HDF5 or Zarr store each; a dimension of time makes them series.

    Bands are variables of the names that the card has, or lie along a dimension of one variable.
    There they are found by name, where its coordinate has names; by wavelength, where the file and
    the card have them; else by order.

    Args:
        folder: the dataset's folder.
        card: its card; every band that it lists must be found.
        images: pattern of the stores, as `{scene}.nc` or `*.zarr`; see `scene_folders`.
        variable: the one that holds the bands, where there are several.
        dimensions: names of the dimensions t (date), b (band), y and x, where they are unusual.
        epsg: EPSG code of the CRS, where the store does not tell it; -1 is none: rows and columns
            of a scene are a plane of its own, with the card's ground sampling distance.
        labels: a variable of codes (y, x), or the pattern of a class raster or of polygons.
        codes: the value of each class, as in `scene_folders`.
        attribute: attribute of polygons that holds the class.
        all_touched: whether a polygon has every pixel that it touches.
        mask: a variable (y, x), or the pattern of a raster, that says where the ground is seen.
        clear: its values that mean so; 0 unless given.

    Raises:
        DataError: there is no scene; a store cannot be read, lacks a band or a CRS, is no regular
            grid, or has a scale or no-data value that differ from the card's.
    """
    names = scene_names(folder, [images])
    if not names:
        raise DataError(
            f"no scene has a store like {images}",
            where=folder,
            mend="mend the card, or fetch",
        )

    def opened(name: str) -> Scene:
        store = _Store(only_match(folder, name, images), card, dimensions or {})
        scene = store.scene(name, variable, epsg)
        truth: Labels | None
        if labels is not None and labels in store.data:
            layer = store.codes(labels, scene.grid)
            truth = (
                ValueLabels(layer, None)
                if card.target
                else CodedLabels(layer, class_codes(codes, card))
            )
        else:
            truth = labels_of(folder, name, labels, card, scene.grid, codes, attribute, all_touched)
        scene = replace(scene, labels=truth)
        if mask is None:
            return scene
        seen = (
            store.codes(mask, scene.grid)
            if mask in store.data
            else on_grid(only_match(folder, name, mask), scene.grid)
        )
        return with_mask(scene, CodedMask(seen, tuple(clear or [0])))

    return Source(tuple(names), opened)


@dataclass(frozen=True)
class _Lazy:
    """A variable that is read window by window, north-up."""

    variable: xr.Variable
    flipped: int | None
    """The axis along which it runs from south to north."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        dtype: np.dtype[Any] = self.variable.dtype
        return dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        """The part of a slice with bounds along y and x."""
        if self.flipped is None:
            return np.asarray(self.variable[key].values)
        y, size = key[self.flipped], self.variable.shape[self.flipped]
        turned = slice(size - y.stop, size - y.start)
        key = (*key[: self.flipped], turned, *key[self.flipped + 1 :])
        return np.flip(np.asarray(self.variable[key].values), self.flipped)


class _Store:
    """An opened store.

    Args:
        path: the file, or the folder of a Zarr store.
        card: the bands that must be found.
        dimensions: names of unusual dimensions.
    """

    def __init__(self, path: Path, card: Card, dimensions: dict[str, str]) -> None:
        self.path, self.card = path, card
        self.data = _open(path)
        unknown = [name for name in dimensions.values() if name not in self.data.dims]
        if unknown:
            raise self._wrong(
                f"has no dimension '{unknown[0]}'",
                nearest(unknown[0], map(str, self.data.dims)),
            )
        self.axes = {name: axis for axis, names in _DIMENSIONS.items() for name in names}
        self.axes |= {name.lower(): axis for axis, name in dimensions.items()}

    def _wrong(self, what: str, mend: str) -> DataError:
        return DataError(what, where=self.path, mend=mend)

    # ---- what it consists of

    def scene(self, name: str, variable: str | None, epsg: int | None) -> Scene:
        """The scene of the store, without labels."""
        bands = tuple(band.name for band in self.card.bands)
        chosen: tuple[int, ...] | None = None
        if variable is None and all(band in self.data.data_vars for band in bands):
            variables = list(bands)
        else:
            variables = [self._only(variable)]
            chosen = self._numbers(variables[0])
        first = self.data[variables[0]]
        grid, flipped = self._grid(variables[0], epsg)
        layers: list[Layer] = []
        for each in variables:
            if self.data[each].dims != first.dims or self.data[each].shape != first.shape:
                raise self._wrong(
                    f"'{each}' has other dimensions than '{variables[0]}'",
                    "give each ground sampling distance a store of its own",
                )
            self._check_values(each)
            of = bands if len(variables) == 1 else (each,)
            layers.append(self._layer(each, of, grid, flipped, chosen))
        times = self._times(name, variables[0])
        layer = layers[0] if len(layers) == 1 else Stacked(tuple(layers), len(times))
        return Scene(name, (layer,), bands, times)

    def codes(self, variable: str, grid: Grid) -> Layer:
        """A variable of codes (y, x) on the scene's grid.

        Raises:
            DataError: it is another grid.
        """
        own, flipped = self._grid(variable, grid.epsg)
        if own != grid or set(self._letters(variable)) != {"y", "x"}:
            raise self._wrong(
                f"'{variable}' is not (y, x) on the grid of the image",
                "write it to a file apart",
            )
        return self._layer(variable, ("code",), grid, flipped, None)

    def _layer(
        self,
        name: str,
        bands: tuple[str, ...],
        grid: Grid,
        flipped: bool,
        chosen: tuple[int, ...] | None,
    ) -> Array:
        axes, variable = self._letters(name), self.data[name].variable
        chunks = variable.encoding.get("shards") or variable.encoding.get("chunks")
        chunks = chunks or variable.encoding.get("chunksizes")
        rows = chunks[axes.index("y")] if chunks else _ROWS_AT_ONCE
        row_bytes = variable.dtype.itemsize * min(grid.width, _STRIP_COLUMNS)
        row_bytes *= variable.size // (grid.height * grid.width)
        if rows * row_bytes > _STRIP_BYTES:
            rows = max(1, _STRIP_BYTES // (row_bytes * -(-grid.width // _STRIP_COLUMNS)))
        lazy = _Lazy(variable, axes.index("y") if flipped else None)
        return Array(bands, grid, lazy, axes, self.path, rows, chosen)

    def _letters(self, name: str) -> str:
        """The axes of a variable, as `tbyx`.

        Raises:
            DataError: a dimension is unknown, or there is none along y or x.
        """
        found = [self.axes.get(str(d).lower(), "") for d in self.data[name].dims]
        letters = "".join(found)
        if "" in found or not {"y", "x"} <= set(found) or len(set(found)) < len(found):
            raise self._wrong(
                f"'{name}' has the dimensions {', '.join(map(str, self.data[name].dims))}",
                "say which is which, e.g. layout.dimensions={y: nrows, x: ncols}",
            )
        return letters

    def _only(self, variable: str | None) -> str:
        """The variable that holds the bands."""
        known = [str(name) for name in self.data.data_vars]
        if variable is not None:
            if variable not in known:
                raise self._wrong(f"has no variable '{variable}'", nearest(variable, known))
            return variable
        axes = {n: {self.axes.get(str(d).lower()) for d in self.data[n].dims} for n in known}
        cubes = [name for name in known if {"b", "y", "x"} <= axes[name]]
        if len(cubes) != 1:
            absent = next((b.name for b in self.card.bands if b.name not in known), "")
            raise self._wrong(
                f"has neither a variable {absent} nor one with all bands",
                f"it has {', '.join(known)}: give layout.variable or layout.dimensions",
            )
        return cubes[0]

    def _numbers(self, variable: str) -> tuple[int, ...] | None:
        """Numbers of the card's bands along the dimension of bands; None where it is these."""
        axes = self._letters(variable)
        wanted = [band.name for band in self.card.bands]
        if "b" not in axes:
            raise self._wrong(f"'{variable}' has no dimension of bands", "give layout.dimensions")
        dimension = self.data[variable].dims[axes.index("b")]
        count = self.data.sizes[dimension]
        along = [self.data[n] for n in self.data.variables if self.data[n].dims == (dimension,)]
        named = next((list(map(str, c.values)) for c in along if c.dtype.kind in "OUST"), None)
        nm = _wavelengths_nm(along)
        wanted_nm = [b.wavelength_nm for b in self.card.bands if b.wavelength_nm is not None]
        if named is not None:
            absent = [band for band in wanted if band not in named]
            if absent:
                raise self._wrong(f"has no band {absent[0]}", nearest(absent[0], named))
            numbers = tuple(named.index(band) for band in wanted)
        elif nm is not None and len(wanted_nm) == len(wanted):
            numbers = self._nearest(nm, wanted_nm)
        elif count != len(wanted):
            raise self._wrong(
                f"has {count} bands without names, the card {len(wanted)}",
                "mend the card",
            )
        else:
            return None
        return None if numbers == tuple(range(count)) else numbers

    def _nearest(self, nm: NDArray[np.float64], wanted_nm: list[float]) -> tuple[int, ...]:
        """The band of the store next to each wavelength, one step of its bands away at most."""
        step = float(np.median(np.abs(np.diff(nm)))) if len(nm) > 1 else 1.0
        numbers = [int(np.abs(nm - each).argmin()) for each in wanted_nm]
        for number, each, band in zip(numbers, wanted_nm, self.card.bands, strict=True):
            if abs(nm[number] - each) > step or numbers.count(number) > 1:
                raise self._wrong(
                    f"has no band of its own for {band.name} at {each:g} nm",
                    f"the nearest lies at {nm[number]:g} nm; mend the card",
                )
        return tuple(numbers)

    def _check_values(self, name: str) -> None:
        """Stored values must mean what the card says that they mean."""
        attributes = self.data[name].attrs
        fill = attributes.get("_FillValue", attributes.get("missing_value"))
        if fill is not None and not np.isnan(fill) and fill != self.card.nodata:
            raise self._wrong(
                f"'{name}' marks no data by {fill}, the card by {self.card.nodata}",
                f"set nodata: {fill} in the card",
            )
        if attributes.get("add_offset"):
            raise self._wrong(
                f"'{name}' is stored with an offset of {attributes['add_offset']}",
                "store its values without one",
            )
        factor = attributes.get("scale_factor")
        if factor and not np.isclose(factor * self.card.scale, 1, rtol=1e-5):
            raise self._wrong(
                f"'{name}' has the scale factor {factor}, the card the scale {self.card.scale}",
                f"set scale: {1 / factor:g} in the card",
            )

    # ---- place and time

    def _grid(self, name: str, epsg: int | None) -> tuple[Grid, bool]:
        """The grid of a variable, and whether it runs from south to north."""
        axes, dims = self._letters(name), self.data[name].dims
        y, x = (str(dims[axes.index(axis)]) for axis in "yx")
        height, width = self.data.sizes[y], self.data.sizes[x]
        if not height or not width:
            raise self._wrong("has no pixels", "fetch it again")
        code = self._epsg(name, y) if epsg is None else epsg
        if code < 0:
            gsd_m = self.card.bands[0].gsd_m
            return Grid(height, width, 0.0, 0.0, gsd_m, gsd_m, -1), False
        if y not in self.data.coords or x not in self.data.coords:
            west, step_x, north, step_y = self._transform(name)
        else:
            west, step_x = self._corner(x)
            north, step_y = self._corner(y)
        if step_x <= 0:
            raise self._wrong(f"'{x}' runs from east to west", "store it from west to east")
        if step_y > 0:
            north += height * step_y
        return Grid(height, width, west, north, step_x, abs(step_y), code), step_y > 0

    def _corner(self, name: str) -> tuple[float, float]:
        """Map coordinate where the first pixel begins, and the signed step to the next."""
        centres = self.data[name].values.astype(np.float64)
        if len(centres) < 2:
            raise self._wrong(f"'{name}' has one pixel alone: its side is unknown", "leave it out")
        step = (centres[-1] - centres[0]) / (len(centres) - 1)
        even = centres[0] + step * np.arange(len(centres))
        # A tenth of a pixel: coordinates are often stored as float32.
        if not step or np.abs(centres - even).max() > 0.1 * abs(step):
            raise self._wrong(f"'{name}' is not evenly spaced", "bring it to a regular grid")
        return float(centres[0] - step / 2), float(step)

    def _grid_mapping(self, name: str) -> dict[str, Any]:
        """Attributes of the variable that describes the CRS; CF conventions 1.11, section 5.6."""
        named = self.data[name].attrs.get("grid_mapping", "")
        for each in (str(named).split(":")[0], "spatial_ref", "crs"):
            if each in self.data.variables:
                return dict(self.data[each].attrs)
        return {}

    def _transform(self, name: str) -> tuple[float, float, float, float]:
        words = str(self._grid_mapping(name).get("GeoTransform", "")).split()
        if len(words) != 6:
            raise self._wrong(
                "has no coordinates along y and x", "store them, or set layout.epsg=-1"
            )
        west, step_x, skew, north, tilt, step_y = map(float, words)
        if skew or tilt:
            raise self._wrong("is not north-up", "warp it, e.g. with gdalwarp")
        return west, step_x, north, step_y

    def _epsg(self, name: str, y: str) -> int:
        told = chain(self._grid_mapping(name).items(), self.data[name].attrs.items(),
                     self.data.attrs.items())  # fmt: skip
        keys = ("crs_wkt", "spatial_ref", "epsg_code", "epsg", "proj:epsg", "crs")
        found = next((v for k, v in told if k in keys and v not in ("", None)), None)
        if found is None:
            units = str(self.data[y].attrs.get("units", "")) if y in self.data.coords else ""
            if units.startswith("degree"):
                return 4326  # CF 4.1: coordinates of latitude; without a CRS, WGS 84 is meant
            raise self._wrong("has no CRS", "give layout.epsg, -1 if there is none")
        try:
            text = str(found)
            code = (CRS.from_epsg(int(text)) if text.isdigit() else CRS.from_string(text)).to_epsg()
        except CRSError:
            code = None
        if code is None:
            raise self._wrong("has a CRS without an EPSG code", "give layout.epsg")
        return int(code)

    def _times(self, name: str, variable: str) -> tuple[datetime | None, ...]:
        """When each date was taken: by a coordinate, an attribute, or the name of the scene."""
        axes, data = self._letters(variable), self.data[variable]
        if "t" in axes:
            dimension = data.dims[axes.index("t")]
            if dimension not in self.data.coords:
                return (None,) * self.data.sizes[dimension]
            stamps = list(self.data[dimension].values)
        elif "time" in self.data.coords and self.data["time"].ndim == 0:
            stamps = [self.data["time"].values[()]]
        else:
            told = (self.data.attrs.get(k) for k in ("time_coverage_start", "datetime"))
            stamps = [next((t for t in told if t), None) or stamp_in(name)]
        try:
            times = pd.to_datetime(stamps, utc=True).tz_localize(None).floor("s")
        except (ValueError, TypeError) as broken:
            raise self._wrong(f"has times that are none ({broken})", "mend them") from None
        return tuple(None if pd.isna(time) else time.to_pydatetime() for time in times)


def _open(path: Path) -> xr.Dataset:
    """A store, of which nothing is read yet but names, attributes and coordinates."""
    engine: dict[str, Any] = {"engine": "scipy"}
    try:
        if path.is_dir():
            engine = {"engine": "zarr", "consolidated": False}
        else:
            with path.open("rb") as file:
                if file.read(4) == b"\x89HDF":
                    engine = {"engine": "h5netcdf", "phony_dims": "access"}
        return xr.open_dataset(
            path,
            **engine,
            chunks=None,
            cache=False,
            mask_and_scale=False,
            decode_timedelta=False,
        )
    except _DAMAGED as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise DataError(f"cannot be read ({reason})", where=path, mend="fetch it again") from None


def _wavelengths_nm(along: list[xr.DataArray]) -> NDArray[np.float64] | None:
    """Wavelengths among the variables along the dimension of bands."""
    for each in along:
        if "wave" in str(each.name).lower() and each.dtype.kind == "f":
            values = each.values.astype(np.float64)
            # No sensor of reflected light sees 100 nm or 100 µm.
            return values * 1000 if values.max() < 100 else values
    return None
