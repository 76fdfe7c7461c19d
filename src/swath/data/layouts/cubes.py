"""Cubes of imaging spectrometers as MATLAB files, in which most benchmark scenes are shared.

A cube is one scene without a georeference: its rows and columns are a local plane of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray
from scipy.io.matlab import MatReadError

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.layouts.scene_folders import class_codes
from swath.data.scene import Array, CodedLabels, Grid, Scene
from swath.errors import DataError, nearest
from swath.files import DAMAGED_ZIP
from swath.registry import registered

# A damaged file makes SciPy raise whatever its bytes happen to mean.
_DAMAGED = (*DAMAGED_ZIP, MatReadError, LookupError, TypeError, ArithmeticError)
_VERSION_7_3 = b"MATLAB 7.3"
_ROWS_AT_ONCE = 64
"""Of an HDF5 array that lies in one piece."""


@registered("layout")
def matlab_cubes(
    folder: Path,
    card: Card,
    *,
    cube: str,
    variable: str | None = None,
    truth: str | None = None,
    truth_variable: str | None = None,
    codes: list[int] | None = None,
) -> Source:
    """One scene: a cube in a `.mat` file, and its ground truth in another.

    A cube is (y, x, band); or (band, pixel), the pixels column by column as MATLAB counts them,
    with the numbers of rows and columns in `nRow` and `nCol` of the same file. Files of version 7.3
    are read in windows, older ones as a whole.

    Args:
        folder: the dataset's folder.
        card: its card; the cube has its bands, in its order.
        cube: file with the cube.
        variable: its name in the file; the largest array unless given.
        truth: file with the ground truth: codes (y, x), or abundances (class, pixel), of which
            the largest is the label.
        truth_variable: its name in the file; the largest array unless given.
        codes: code of each class, in the order of the card; 1, 2, 3, … unless given. All other
            codes are unlabelled.

    Raises:
        DataError: a file cannot be read, or its arrays have not the shape that the card and the
            cube ask for.
    """

    def opened(name: str) -> Scene:
        path = folder / cube
        values, axes, block_rows = _cube(path, variable, len(card.bands))
        height, width = (values.shape[axes.index(axis)] for axis in "yx")
        # No CRS: a plane in metres whose upper-left corner is (0, 0).
        gsd_m = card.bands[0].gsd_m
        grid = Grid(height, width, 0.0, 0.0, gsd_m, gsd_m, -1)
        bands = tuple(band.name for band in card.bands)
        layer = Array(bands, grid, values, axes, path, block_rows)
        if truth is None:
            return Scene(name, (layer,), bands)
        labels = _labels(folder / truth, truth_variable, card, grid, codes)
        return Scene(name, (layer,), bands, labels=labels)

    return Source((card.name,), opened)


def _cube(path: Path, variable: str | None, bands: int) -> tuple[Any, str, int]:
    """A cube, its axes, and the rows that are read together."""
    arrays, reverse = _arrays(path)
    name, values = _chosen(path, arrays, variable)
    shape = values.shape[::-1] if reverse else values.shape
    if len(shape) == 2 and "nRow" in arrays and "nCol" in arrays:
        rows, columns = (int(np.squeeze(arrays[size])) for size in ("nRow", "nCol"))
        found, pixels = shape
        if pixels != rows * columns:
            raise DataError(
                f"'{name}' has {pixels} pixels, not nRow × nCol = {rows} × {columns}",
                where=path, mend="fetch it again",
            )  # fmt: skip
        flat = np.asarray(values).T if reverse else values
        values, axes = flat.reshape(found, columns, rows), "bxy"
    elif len(shape) == 3:
        axes = "bxy" if reverse else "yxb"
        found = shape[2]
    else:
        raise DataError(
            f"'{name}' is {' x '.join(map(str, shape))}, no cube (y, x, band)",
            where=path, mend=f"give layout.variable, one of {', '.join(sorted(arrays))}",
        )  # fmt: skip
    if found != bands:
        raise DataError(
            f"'{name}' has {found} bands, the card {bands}", where=path, mend="mend the card"
        )
    chunks = getattr(values, "chunks", None)
    block_rows = chunks[axes.index("y")] if chunks else _ROWS_AT_ONCE
    return values, axes, block_rows


def _labels(
    path: Path, variable: str | None, card: Card, grid: Grid, codes: list[int] | None
) -> CodedLabels:
    """The ground truth of a cube."""
    arrays, reverse = _arrays(path)
    name, values = _chosen(path, arrays, variable)
    truth: NDArray[Any] = np.asarray(values).T if reverse else values
    numbers = class_codes(codes, card, first=1)
    if truth.shape == (len(card.classes), grid.height * grid.width):
        largest = truth.argmax(axis=0).reshape(grid.width, grid.height).T
        truth = np.asarray(numbers)[largest]
    elif truth.shape != (grid.height, grid.width):
        raise DataError(
            f"'{name}' is {' x '.join(map(str, truth.shape))}, neither one code nor"
            f" {len(card.classes)} abundances for each of {grid.height} x {grid.width} pixels",
            where=path, mend="mend the layout, or the card's classes",
        )  # fmt: skip
    return CodedLabels(Array(("code",), grid, truth, "yx", path), numbers)


# ---- MATLAB files ---------------------------------------------------------------------------


def _arrays(path: Path) -> tuple[dict[str, Any], bool]:
    """The arrays of numbers in a file, by name, and whether it has their axes in reverse order.

    Version 7.3 is HDF5, of which windows are read; it writes MATLAB's axes in reverse.
    """
    try:
        with path.open("rb") as file:
            hdf5 = file.read(len(_VERSION_7_3)) == _VERSION_7_3
        found = h5py.File(path) if hdf5 else scipy.io.loadmat(path)
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, mend="fetch the data") from None
    except _DAMAGED as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="fetch it again") from None
    kind = h5py.Dataset if hdf5 else np.ndarray
    arrays = {
        name: array
        for name, array in found.items()
        if isinstance(array, kind) and array.dtype.kind in "biuf"
    }
    return arrays, hdf5


def _chosen(path: Path, arrays: dict[str, Any], name: str | None) -> tuple[str, Any]:
    if not arrays:
        raise DataError("holds no array of numbers", where=path, mend="mend the layout")
    if name is None:
        name = max(arrays, key=lambda each: arrays[each].size)
    if name not in arrays:
        raise DataError(f"has no array '{name}'", where=path, mend=nearest(name, arrays))
    return name, arrays[name]
