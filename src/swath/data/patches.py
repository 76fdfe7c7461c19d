"""The cutting of a dataset into a patch set: one Zarr v3 store, which `swath.data.patchset` opens.

The store is written in large uncompressed chunks of whole patches, so that each chunk's file is
the plain memory of an array (patch, band, y, x): xarray reads it as Zarr, the loader maps it.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points

from swath.data.card import UNLABELLED, Card
from swath.data.layouts import Source
from swath.errors import DataError

CHUNK_BYTES = 128 << 20
"""Large enough that a set has few files; small enough to be held while it is written."""


def cut(
    card: Card,
    source: Source,
    store: Path,
    *,
    size_px: int | None,
    stride_px: int | None,
    min_valid: float,
    fraction: float,
    made_by: dict[str, Any],
) -> dict[str, int]:
    """Cut a dataset into the patch set `store`, replacing what is there.

    Args:
        card: facts of the dataset.
        source: the dataset on disk.
        store: path of the Zarr store to write.
        size_px: side of a patch; None where patches come as published.
        stride_px: distance of neighbouring patches; None is the side.
        min_valid: least share of labelled pixels of a patch, for labels by pixel.
        fraction: share of the patches that is kept, alike in each class.
        made_by: attributes that say what made the set (data version, configuration).

    Returns:
        Counts of patches: `kept` and `left_out` (too few valid pixels).

    Raises:
        DataError: nothing is left to keep, or the source cannot be read.
    """
    table = _subset(source.table(size_px, stride_px), fraction)
    side = size_px or source.native_px
    assert side is not None  # `table` has refused scenes without a size
    part = store.with_name(f".{store.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    by_pixel = card.labels == "pixel"
    group = zarr.open_group(part, mode="w", zarr_format=3)
    shape = (len(table), len(card.bands), side, side)
    image = _array(group, "image", shape, source.dtype, ["patch", "band", "y", "x"])
    label_dims = ["patch", "y", "x"] if by_pixel else ["patch"]
    label_shape = (len(table), side, side) if by_pixel else (len(table),)
    label = _array(group, "label", label_shape, "uint8", label_dims)

    kept: list[NDArray[np.int64]] = []
    writer_image, writer_label = _Writer(image), _Writer(label)
    for rows, images, labels in source.blocks(table, side):
        if by_pixel:
            valid = (labels != UNLABELLED).mean(axis=(1, 2)) >= min_valid
            rows, images, labels = rows[valid], images[valid], labels[valid]
        writer_image.add(images)
        writer_label.add(labels)
        kept.append(rows)
    count = writer_image.finish()
    writer_label.finish()
    if not count:
        raise DataError(
            f"no patch has {min_valid:.0%} valid pixels",
            where=card.name,
            mend="lower patches.min_valid",
        )
    places = table.loc[np.concatenate(kept)].reset_index(drop=True)
    _write_coordinates(part, places, card, _attributes(card, source, side) | made_by)
    shutil.rmtree(store, ignore_errors=True)
    part.rename(store)
    return {"kept": count, "left_out": len(table) - count}


class _Writer:
    """Appends blocks of patches to an array, writing whole chunks."""

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array, self.waiting, self.written = array, [], 0  # type: ignore[var-annotated]

    def add(self, block: NDArray[np.generic]) -> None:
        self.waiting.append(block)
        chunk = self.array.chunks[0]
        while sum(map(len, self.waiting)) >= chunk:
            ready = np.concatenate(self.waiting)
            self._write(ready[:chunk])
            self.waiting = [ready[chunk:]]

    def finish(self) -> int:
        """Write the rest and cut the array to what was written; gives the number of patches."""
        if self.waiting:
            self._write(np.concatenate(self.waiting))
        self.array.resize((self.written, *self.array.shape[1:]))
        return self.written

    def _write(self, block: NDArray[np.generic]) -> None:
        if len(block):
            self.array[self.written : self.written + len(block)] = block
            self.written += len(block)


def _array(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str, dims: list[str]
) -> zarr.Array[Any]:
    patch_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    chunk = min(max(1, CHUNK_BYTES // patch_bytes), max(1, shape[0]))
    return group.create_array(
        name,
        shape=shape,
        chunks=(chunk, *shape[1:]),
        dtype=dtype,
        compressors=None,
        dimension_names=dims,
        # A chunk of fill values would have no file, and so nothing to map.
        config={"write_empty_chunks": True},
    )


def _subset(table: pd.DataFrame, fraction: float) -> pd.DataFrame:
    if fraction == 1:
        return table
    # Not a seed of the experiment: the same tenth for all who ask for a tenth.
    groups = table.groupby("label") if "label" in table else [(0, table)]
    chosen = [g.sample(frac=fraction, random_state=0) for _, g in groups]
    return table.loc[pd.concat(chosen).index.sort_values()].reset_index(drop=True)


def _attributes(card: Card, source: Source, side: int) -> dict[str, Any]:
    names = [band.name for band in card.bands]
    return {
        "dataset": card.name,
        "title": card.title,
        "synthetic": card.synthetic,
        "classes": list(card.classes),
        "colours": list(card.classes.values()),
        "scenes": source.scenes,
        "gsd_m": source.gsd_m,
        "size_px": side,
        "scale": card.scale,
        "nodata": card.nodata,
        "rgb": [names.index(band) for band in card.rgb],
        "labels": card.labels,
        "licence": card.licence,
        "citation": card.citation,
    }


def _write_coordinates(
    store: Path, places: pd.DataFrame, card: Card, attributes: dict[str, Any]
) -> None:
    lon, lat = _degrees(places, attributes["gsd_m"] * attributes["size_px"])
    columns = {
        "scene": places["scene"].to_numpy(np.int32),
        "row": places["row"].to_numpy(np.int32),
        "col": places["col"].to_numpy(np.int32),
        "easting": places["easting"].to_numpy(np.float64),
        "northing": places["northing"].to_numpy(np.float64),
        "epsg": places["epsg"].to_numpy(np.int32),
        "lon": lon,
        "lat": lat,
        "time": pd.to_datetime(places["time"]).to_numpy("datetime64[s]"),
        "name": places["name"].to_numpy(dtype=object).astype(str),
    }
    dataset = xr.Dataset(
        coords={
            **{name: ("patch", values) for name, values in columns.items()},
            "band": ("band", [band.name for band in card.bands]),
            "wavelength_nm": ("band", [band.wavelength_nm for band in card.bands]),
        },
        attrs=attributes,
    )
    with warnings.catch_warnings():
        # Zarr's fixed-length strings await their specification; every reader of today has them.
        warnings.simplefilter("ignore")
        dataset.to_zarr(store, mode="a", zarr_format=3, consolidated=False)


def _degrees(places: pd.DataFrame, side_m: float) -> tuple[NDArray[np.float64], ...]:
    """Longitude and latitude of the patches' centres; NaN without a georeference."""
    lon, lat = np.full(len(places), np.nan), np.full(len(places), np.nan)
    for epsg, group in places.groupby("epsg"):
        if epsg:
            x = group["easting"].to_numpy() + side_m / 2
            y = group["northing"].to_numpy() - side_m / 2
            at = group.index.to_numpy()
            lon[at], lat[at] = transform_points(f"EPSG:{epsg}", "EPSG:4326", x, y)
    return lon, lat
