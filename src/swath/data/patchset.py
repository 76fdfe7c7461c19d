"""A patch set opened for work: mapped into memory, gathered, counted.

Each chunk of the store is the plain memory of an array (patch, band, y, x), as `swath.data.patches`
writes it, so its file is mapped and a shuffled batch is one indexed copy a chunk.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from swath.errors import DataError


@dataclass(frozen=True)
class Mapped:
    """A chunked array of patches, mapped into memory."""

    chunks: tuple[NDArray[Any], ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def gather(self, patches: NDArray[np.int64]) -> NDArray[Any]:
        """The patches of these numbers, in this order: one indexed copy a chunk."""
        if len(self.chunks) == 1:
            gathered: NDArray[Any] = self.chunks[0][patches]
            return gathered
        size = len(self.chunks[0])
        out = np.empty((len(patches), *self.shape[1:]), self.chunks[0].dtype)
        which = patches // size
        for number in np.unique(which):
            here = which == number
            out[here] = self.chunks[number][patches[here] - number * size]
        return out


@dataclass(frozen=True)
class PatchSet:
    """A patch set opened for work: mapped images and labels, places, and attributes."""

    image: Mapped
    label: Mapped
    places: pd.DataFrame
    """One row a patch: scene, row, col, easting, northing, epsg, lon, lat, time, name."""
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the label values."""
        return list(self.facts["classes"])

    @property
    def side_m(self) -> float:
        """Side of a patch on the ground."""
        return float(self.facts["gsd_m"] * self.facts["size_px"])


def open_patches(store: Path) -> PatchSet:
    """Open a patch set that `cut` wrote.

    Raises:
        DataError: the store is absent or was not written as mappable chunks.
    """
    if not (store / "zarr.json").is_file():
        raise DataError("is not a patch set", where=store, mend="run the stage `patches`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with xr.open_zarr(store, consolidated=False, chunks=None) as dataset:
            patch_coords = [n for n, c in dataset.coords.items() if c.dims == ("patch",)]
            places = pd.DataFrame({str(n): dataset[n].to_numpy() for n in patch_coords})
            facts = dict(dataset.attrs)
            bands = [str(band) for band in dataset["band"].to_numpy()]
    image, label = (_map(store, name) for name in ("image", "label"))
    return PatchSet(image, label, places, facts | {"bands": bands})


def _map(store: Path, name: str) -> Mapped:
    array = zarr.open_array(store / name, mode="r")
    if array.compressors or array.shards:
        raise DataError(
            f"the array '{name}' is compressed and cannot be mapped",
            where=store,
            mend="cut it again",
        )
    size = array.chunks[0]
    rest = "/0" * (array.ndim - 1)
    count = -(-array.shape[0] // size)
    files = [store / name / f"c/{number}{rest}" for number in range(count)]
    chunks = []
    for number, file in enumerate(files):
        if not file.is_file():
            raise DataError(
                "a chunk is absent", where=file, mend="delete the patch set and cut it again"
            )
        mapped = np.memmap(file, array.dtype, "r", shape=array.chunks)
        chunks.append(mapped[: min(size, array.shape[0] - number * size)])
    return Mapped(tuple(chunks), array.shape)


def class_counts(patches: PatchSet, which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of labels (patches, or labelled pixels) of each class among the patches `which`."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(which), 4096):
        labels = patches.label.gather(which[start : start + 4096])
        counts += np.bincount(labels.ravel(), minlength=256)
    return counts[: len(patches.classes)]


def labels_of_patches(patches: PatchSet) -> NDArray[np.uint8]:
    """The label of each patch: its own, or the most frequent one of its labelled pixels."""
    everything = np.arange(len(patches))
    if patches.facts["labels"] == "patch":
        own: NDArray[np.uint8] = patches.label.gather(everything)
        return own
    classes = len(patches.classes)
    found = []
    for start in range(0, len(patches), 512):
        labels = patches.label.gather(everything[start : start + 512])
        labels = labels.reshape(len(labels), -1)
        found.append(np.stack([(labels == k).sum(1) for k in range(classes)], 1).argmax(1))
    return np.concatenate(found).astype(np.uint8)


def band_statistics(patches: PatchSet, which: NDArray[np.int64]) -> dict[str, Any]:
    """Mean and standard deviation of each band over the patches `which`, without no-data pixels."""
    bands = patches.image.shape[1]
    total, squares, pixels = np.zeros(bands), np.zeros(bands), np.zeros(bands)
    nodata = patches.facts["nodata"]
    for start in range(0, len(which), 512):
        block = patches.image.gather(np.sort(which[start : start + 512])).astype(np.float64)
        good = np.ones_like(block, bool) if nodata is None else block != nodata
        block[~good] = 0
        total += block.sum(axis=(0, 2, 3))
        squares += (block**2).sum(axis=(0, 2, 3))
        pixels += good.sum(axis=(0, 2, 3))
    mean = total / np.maximum(pixels, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(pixels, 1) - mean**2, 0))
    return {"mean": mean.tolist(), "std": std.tolist(), "patches": len(which)}
