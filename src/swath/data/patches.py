"""The cutting of scenes into patches: one Zarr v3 store a shard, which `swath.data.patchset` opens.

Each tile of a scene is decoded once: rows stream by, are tallied (`swath.data.quality`), and are
copied into patches as soon as they are complete. The store is written in large uncompressed chunks
of whole patches, so that each chunk's file is the plain memory of an array (patch, band, y, x):
xarray reads it as Zarr, the loader maps it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import xarray as xr
import xxhash
import zarr
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points

from swath.data import quality
from swath.data.card import UNLABELLED, Card
from swath.data.grid import window_corners
from swath.data.published import Published
from swath.data.scene import (
    Layer,
    Pixels,
    Rasters,
    Scene,
    in_order,
    is_labelled,
    kept_type,
    unlabelled,
)
from swath.errors import DataError
from swath.files import files_below, whole_folder, write_manifest

log = logging.getLogger(__name__)

CHUNK_BYTES = 128 << 20
"""Large enough that a set has few files; small enough to be read at once."""
STRIP_BYTES = 64 << 20
"""Rows of a layer that are read together; more where one row of tiles is larger."""
SEGMENT_BYTES = 192 << 20
"""A layer whose row of tiles or patches is larger than this is cut segment by segment."""
WRITE_BYTES = 1 << 20
"""What is handed to the kernel at once: Linux 6.18 writes 10 MB at a time ten times slower (on
ext4), since it looks for as large pieces of memory to keep them in."""
PLACES = ["scene", "row", "col", "west", "south", "east", "north", "epsg", "time", "name"]
"""What is kept of a piece's table."""
SEGMENT_ALIGNED_PX = 512
"""Columns at which such a scene is divided: the width of the usual tile."""


@dataclass(frozen=True)
class Cutting:
    """How scenes are cut; `swath.settings.Patches` explains each."""

    size_px: int | None
    stride_px: int | None = None
    padding: str = "none"
    native_gsd: bool = False
    resampling: str = "nearest"
    min_valid: float = 0.5
    fraction: float = 1.0

    @property
    def stride(self) -> int:
        """Distance of neighbouring patches."""
        assert self.size_px is not None
        return self.stride_px or self.size_px


@dataclass
class Block:
    """Patches that were cut together."""

    rows: NDArray[np.int64]
    """Their rows in the piece's table."""
    images: list[Pixels]
    """One array (patch, channel, y, x) a group of bands."""
    labels: NDArray[Any]
    """(patch), (patch, class) or (patch, y, x)."""
    valid: NDArray[np.float64]
    """Share of the pixels of each patch that are seen, clear and, by pixel, labelled."""


@dataclass(frozen=True)
class Group:
    """Bands that are stored as one array, since they have one grid."""

    name: str
    bands: tuple[str, ...]
    factor: int
    """Pixels of the finest grid along a side of one of its pixels."""
    size_px: int


def cut(
    card: Card,
    pieces: Iterator[tuple[str, Scene | Published | DataError]],
    folder: Path,
    cutting: Cutting,
    *,
    limits: dict[str, Any],
    made_by: dict[str, Any],
) -> dict[str, Any]:
    """Cut scenes, or patches as they were published, into the shard `folder`.

    Args:
        card: facts of the dataset.
        pieces: what is cut, by name, opened one after another; an error stands for what could not
            be opened.
        folder: the shard's folder; `set.zarr`, `places.parquet`, `contents.npy` and
            `manifest.json` are written there, replacing what was there.
        cutting: how it is cut.
        limits: what makes a scene unfit (`swath.data.quality.faults`).
        made_by: attributes that say what made the shard.

    Returns:
        The manifest: kept and left_out patches, the checks of each scene, files with digests.

    Raises:
        DataError: a piece does not fit the others or the settings. What is wrong with the pixels
            of a scene sets that scene aside and is told in its checks.
    """
    with whole_folder(folder) as part:
        store: _Store | None = None
        tables: list[pd.DataFrame] = []
        checks: list[dict[str, Any]] = []
        for name, piece in pieces:
            if isinstance(piece, DataError):
                checks.append({"scene": name, "patches": 0, "faults": [piece.fault]})
                continue
            if store is None:
                _check_nodata(card, piece)
                store = _Store(part / "set.zarr", card, groups_of(piece, cutting), piece)
            store.check_kind(name, piece, groups_of(piece, cutting))
            table, check = _cut_piece(name, piece, store, card, cutting, limits)
            tables.append(table)
            checks.append(check)
        facts = {"checks": checks} | made_by
        arrays: dict[str, Any] = {}
        digests: dict[str, str] = {}
        if store is not None:
            places = pd.concat(tables, ignore_index=True)
            arrays, digests, facts["facts"] = store.finish(places, cutting)
        return write_manifest(
            part / "manifest.json", files_below(part), known=digests, arrays=arrays,
            kept=store.count if store else 0,
            left_out=sum(check.get("left_out", 0) for check in checks), **facts,
        )  # fmt: skip


def _cut_piece(
    name: str,
    piece: Scene | Published,
    store: _Store,
    card: Card,
    cutting: Cutting,
    limits: dict[str, Any],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Append the patches of a piece to the store; their places, and what the checks found.

    A piece that is unfit leaves nothing in the store.
    """
    start = store.count
    tally = quality.Tally(card, _channels(piece))
    kept: list[pd.DataFrame] = []
    candidates = 0
    try:
        table = _subset(_table(piece, cutting), cutting.fraction)
        candidates = len(table)
        blocks = (
            _cut_scene(piece, table, cutting, tally, card)
            if isinstance(piece, Scene)
            else _cut_published(piece, table, cutting, tally)
        )
        for block in blocks:
            good = block.valid >= cutting.min_valid
            kept.append(table.iloc[block.rows[good]])
            store.append(block, good)
        row = tally.row()
        wrong = quality.faults(row, **limits)
    except DataError as broken:
        row, wrong = {}, [broken.fault]
    check = {"scene": name, "patches": store.count - start, "faults": wrong} | row
    if wrong:
        log.warning("%s is set aside: %s", name, "; ".join(wrong))
        store.rollback(start)
        return pd.DataFrame(columns=PLACES), check | {"patches": 0}
    left_out = candidates - (store.count - start)
    places = pd.concat(kept) if kept else pd.DataFrame(columns=PLACES)
    return places, check | {"left_out": left_out}


def _check_nodata(card: Card, piece: Scene | Published) -> None:
    """Refuse a card whose no-data is none of the values.

    Raises:
        DataError: it is not.
    """
    dtype = np.dtype(kept_type(piece.dtype))
    if card.nodata is not None and dtype.kind != "f":
        known = np.iinfo(dtype)
        if not known.min <= card.nodata <= known.max or card.nodata % 1:
            raise DataError(
                f"the no-data value {card.nodata:g} of the card is no {dtype}", where=piece.name,
                mend="mend `nodata` in the card",
            )  # fmt: skip


def groups_of(piece: Scene | Published, cutting: Cutting) -> tuple[Group, ...]:
    """The arrays that hold a piece's bands: one, or one for each GSD.

    Raises:
        DataError: the size or stride is no whole number of a coarser layer's pixels.
    """
    size = cutting.size_px or (piece.size_px if isinstance(piece, Published) else None)
    if size is None:
        raise DataError(
            "whole scenes have no patch size of their own",
            where="patches.size_px",
            mend="give it, e.g. patches.size_px=64",
        )
    factors = piece.factors
    if not cutting.native_gsd or len(factors) == 1:
        return (Group("image", piece.bands, 1, size),)
    found = []
    for bands, factor in factors:
        if size % factor or (isinstance(piece, Scene) and cutting.stride % factor):
            raise DataError(
                f"{size} px, stride {cutting.stride} px are no whole pixels of the bands"
                f" {', '.join(bands[:3])} ({factor} times as large)",
                where="patches.size_px",
                mend="give multiples of all of them, or patches.native_gsd=false",
            )
        name = "image" if factor == 1 else f"image_x{factor}"
        found.append(Group(name, bands, factor, size // factor))
    return tuple(found)


def _dates(piece: Scene | Published) -> int:
    return len(piece.times) if isinstance(piece, Scene) else 1


def _channels(piece: Scene | Published) -> list[str]:
    """Names of the channels in the order of the layers; with their date where there are several."""
    dates = _dates(piece)
    return [
        f"{band}@{date}" if dates > 1 else band
        for bands, _ in piece.factors
        for date in range(dates)
        for band in bands
    ]


# ---- tables: which patches there can be -----------------------------------------------------


def _table(piece: Scene | Published, cutting: Cutting) -> pd.DataFrame:
    """One row a possible patch, with its place."""
    if isinstance(piece, Published):
        if cutting.stride_px is not None:
            raise DataError(
                "patches are published one by one and have no stride",
                where="patches.stride_px",
                mend="take it out",
            )
        return piece.places
    grid, size = piece.grid, cutting.size_px
    assert size is not None
    if cutting.padding in ("none", "shift") and size > min(grid.height, grid.width):
        raise DataError(
            f"{grid.height} x {grid.width} px hold no patch of {size} px",
            where=piece.name,
            mend="give a smaller patches.size_px, or patches.padding=nodata",
        )
    whole = math.lcm(*(factor for _, factor in piece.factors)) if cutting.native_gsd else 1
    if cutting.padding == "shift" and (grid.height % whole or grid.width % whole):
        raise DataError(
            f"{grid.height} x {grid.width} px are no whole pixels of its coarser bands"
            f" ({whole} px), between which patches moved inward would begin",
            where=piece.name,
            mend="set patches.padding=nodata, or patches.native_gsd=false",
        )
    corners = window_corners(grid.height, grid.width, size, cutting.stride, cutting.padding)
    rows, columns = corners[:, 0], corners[:, 1]
    west, north = grid.west + columns * grid.step_x, grid.north - rows * grid.step_y
    return pd.DataFrame(
        {
            "scene": piece.name,
            "row": rows,
            "col": columns,
            "west": west,
            "south": north - size * grid.step_y,
            "east": west + size * grid.step_x,
            "north": north,
            "epsg": grid.epsg,
            "time": piece.times[0],
            "name": [f"{piece.name}_{r}_{c}" for r, c in corners],
        }
    )


def _subset(table: pd.DataFrame, fraction: float) -> pd.DataFrame:
    if fraction == 1:
        return table
    # Not a seed of the experiment: the same tenth for all who ask for a tenth.
    groups = table.groupby("label") if "label" in table else [(0, table)]
    chosen = [g.sample(frac=fraction, random_state=0) for _, g in groups]
    return table.loc[pd.concat(chosen).index.sort_values()].reset_index(drop=True)


# ---- scenes, streamed -----------------------------------------------------------------------


def _cut_scene(
    scene: Scene, table: pd.DataFrame, cutting: Cutting, tally: quality.Tally, card: Card
) -> Iterator[Block]:
    """The patches of a scene, row of patches by row of patches.

    A scene whose rows are too long for the memory is cut in segments of columns. Every pixel is
    tallied once, also where no patch reaches.
    """
    assert cutting.size_px is not None
    layers = scene.layers if cutting.native_gsd else scene.on_finest(cutting.resampling)
    groups = groups_of(scene, cutting)
    fill = card.nodata if card.nodata is not None else 0
    for left, right in _segments(scene, layers, cutting):
        inside = table[(table["col"] >= left) & (table["col"] < right)]
        reach = (
            min(int(inside["col"].max()) + cutting.size_px, scene.grid.width)
            if len(inside)
            else right
        )
        reach = max(reach, right)
        clouds = _Clouds(scene, left, reach, right, tally) if scene.mask is not None else None
        streams, first = [], 0
        for layer in layers:
            factor = layer.grid.factor_of(scene.grid) or 1
            streams.append(
                _Stream(layer, left // factor, -(-reach // factor), -(-right // factor), tally,
                        first, factor)
            )  # fmt: skip
            first += len(layer.bands) * len(scene.times)
        for row, members in inside.groupby("row", sort=True):
            yield _row_of_patches(
                scene, streams, clouds, groups, members, int(row), left, cutting, fill
            )
        for stream in streams:
            stream.finish()
        if clouds is not None:
            clouds.finish()


def _segments(scene: Scene, layers: Sequence[Layer], cutting: Cutting) -> list[tuple[int, int]]:
    """Columns [from, to) of the finest grid that are cut one after another."""
    dates, size = len(scene.times), cutting.size_px or 1
    # A row of patches is held together, and so is a row of tiles.
    row_bytes = max(
        max(layer.block_rows, size * scene.grid.step_y / layer.grid.step_y) * layer.grid.width
        * len(layer.bands) * dates * np.dtype(layer.dtype).itemsize
        for layer in layers
    )  # fmt: skip
    width = scene.grid.width
    if row_bytes <= SEGMENT_BYTES:
        return [(0, width)]
    aligned = SEGMENT_ALIGNED_PX * math.lcm(*(factor for _, factor in scene.factors))
    each = max(1, int(width * SEGMENT_BYTES / row_bytes) // aligned) * aligned
    return [(start, min(start + each, width)) for start in range(0, width, each)]


class _Stream:
    """Rows of a layer between two columns, in order, each read and tallied once.

    Args:
        layer: what is read.
        left: first column, in the layer's pixels.
        right: column after the last that patches reach.
        counted: column from which on the next segment tallies.
        tally: what counts the pixels.
        first: number of the layer's first channel there.
        factor: pixels of the finest grid along one of the layer's.
    """

    def __init__(
        self, layer: Layer, left: int, right: int, counted: int, tally: quality.Tally, first: int,
        factor: int,
    ) -> None:  # fmt: skip
        self.layer, self.left, self.right, self.counted = layer, left, right, counted
        self.tally, self.first, self.factor = tally, first, factor
        self.height = layer.grid.height
        self.right = min(right, layer.grid.width)
        self.strips: deque[tuple[int, Pixels, NDArray[np.bool_] | None]] = deque()
        self.end = 0
        width = max(self.right - left, 1)
        row_bytes = len(layer.bands) * width * np.dtype(layer.dtype).itemsize
        blocks = max(1, STRIP_BYTES // max(1, row_bytes * layer.block_rows))
        self.rows_at_once = layer.block_rows * blocks
        # Memory to read into again: the kernel zeroes what is fresh before it is overwritten.
        self.spare: list[Pixels] = []

    def between(self, start: int, stop: int) -> list[tuple[int, Pixels, NDArray[np.bool_] | None]]:
        """The rows [start, stop) as parts: offset, pixels (channel, y, x), where ground is seen."""
        while self.strips and self.strips[0][0] + self.strips[0][1].shape[1] <= start:
            self._drop()
        while self.end < min(stop, self.height):
            self._read()
        parts = []
        for top, pixels, seen in self.strips:
            a, b = max(start, top), min(stop, top + pixels.shape[1])
            if a < b:
                parts.append(
                    (a - start, pixels[:, a - top : b - top],
                     None if seen is None else seen[a - top : b - top])
                )  # fmt: skip
        return parts

    def finish(self) -> None:
        """Read what no patch has asked for: a scene is whole only if its last tile can be read."""
        while self.end < self.height:
            while self.strips:
                self._drop()
            self._read()

    def _read(self) -> None:
        height = min(self.rows_at_once, self.height - self.end)
        window = (self.end, height, self.left, self.right - self.left)
        if isinstance(self.layer, Rasters):
            pixels = self.layer.read(*window, out=self._memory(height))
        else:
            pixels = self.layer.read(*window)
        mine = self.counted - self.left
        if mine >= pixels.shape[2]:
            seen = self.tally.add(pixels, self.first)
        else:
            self.tally.add(pixels[:, :, :mine], self.first)
            # The columns beyond are the next segment's to count.
            seen = quality.Tally(self.tally.card, self.tally.channels).add(pixels, self.first)
        self.strips.append((self.end, pixels, seen))
        self.end += height

    def _drop(self) -> None:
        """Let go of the first strip."""
        _, pixels, _ = self.strips.popleft()
        if isinstance(self.layer, Rasters):
            self.spare.append(pixels)

    def _memory(self, height: int) -> Pixels | None:
        """A dropped strip, cut to so many rows (only the last has fewer); None if there is none."""
        if not self.spare:
            return None
        pixels = self.spare.pop()
        shape = (pixels.shape[0], height, pixels.shape[2])
        return pixels.reshape(-1)[: math.prod(shape)].reshape(shape)


class _Clouds:
    """The mask of a scene between two columns, of which each row is tallied once.

    Args:
        scene: with a mask.
        left: first column.
        right: column after the last that is read.
        counted: column from which on the next segment tallies.
        tally: what counts the pixels.
    """

    def __init__(
        self, scene: Scene, left: int, right: int, counted: int, tally: quality.Tally
    ) -> None:
        self.mask, self.height = scene.mask, scene.grid.height
        self.left, self.right, self.counted, self.tally = left, right, counted, tally
        self.end = 0

    def between(self, row: int, height: int) -> NDArray[np.bool_]:
        """Where the ground is seen (y, x) in so many rows."""
        self._count_to(row)
        return self._read(row, height)

    def finish(self) -> None:
        """Tally the rows below the last patch."""
        self._count_to(self.height)

    def _count_to(self, row: int) -> None:
        while self.end < row:
            self._read(self.end, min(row - self.end, SEGMENT_ALIGNED_PX))

    def _read(self, row: int, height: int) -> NDArray[np.bool_]:
        assert self.mask is not None
        clear = self.mask.read(row, height, self.left, self.right - self.left)
        self.tally.add_clear(clear[max(self.end - row, 0) :, : self.counted - self.left])
        self.end = max(self.end, row + height)
        return clear


def _row_of_patches(
    scene: Scene,
    streams: list[_Stream],
    clouds: _Clouds | None,
    groups: tuple[Group, ...],
    members: pd.DataFrame,
    row: int,
    left: int,
    cutting: Cutting,
    fill: float,
) -> Block:
    size = cutting.size_px
    assert size is not None
    columns = members["col"].to_numpy()
    count, dates = len(columns), len(scene.times)
    seen = np.ones((count, size, size), bool)
    images = []
    for stream in streams:
        factor = stream.factor
        side = size // factor
        channels = len(stream.layer.bands) * dates
        image = np.empty((count, channels, side, side), scene.dtype)
        parts = stream.between(row // factor, row // factor + side)
        for number, col in enumerate(columns):
            at = (col - left) // factor
            for offset, pixels, ground in parts:
                window = pixels[:, :, at : at + side]
                image[number, :, offset : offset + window.shape[1], : window.shape[2]] = window
                if ground is not None:
                    part = ground[:, at : at + side].repeat(factor, 0).repeat(factor, 1)
                    top = offset * factor
                    seen[number, top : top + part.shape[0], : part.shape[1]] &= part
        images.append(image)
    height = min(size, scene.grid.height - row)
    _pad(images, seen, columns, height, scene, streams, cutting, fill)
    width = min(int(columns.max()) + size, scene.grid.width) - left
    truth = scene.labels.read(row, height, left, width) if scene.labels else None
    kind = np.dtype(np.uint8) if truth is None else truth.dtype
    labels = np.full((count, size, size), unlabelled(kind), kind)
    if clouds is not None or truth is not None:
        clear = clouds.between(row, height) if clouds is not None else None
        for number, col in enumerate(columns - left):
            here = np.s_[number, :height, : min(size, width - col)]
            if truth is not None:
                labels[here] = truth[:, col : col + size]
            if clear is not None:
                seen[here] &= clear[:, col : col + size]
    labels[~seen] = unlabelled(kind)
    valid = seen if truth is None else seen & is_labelled(labels)
    if not cutting.native_gsd or len(groups) == 1:
        parts_ = [image.swapaxes(0, 1) for image in images]
        together = in_order(parts_, [s.layer.bands for s in streams], scene.bands, dates)
        images = [np.ascontiguousarray(together.swapaxes(0, 1))]
    return Block(members.index.to_numpy(), images, labels, valid.mean(axis=(1, 2)))


def _pad(
    images: list[Pixels],
    seen: NDArray[np.bool_],
    columns: NDArray[np.int64],
    height: int,
    scene: Scene,
    streams: list[_Stream],
    cutting: Cutting,
    fill: float,
) -> None:
    """Fill what lies beyond the lower and right edge: with no-data, or mirrored."""
    size = seen.shape[1]
    for number, col in enumerate(columns):
        width = min(size, scene.grid.width - int(col))
        if height == size and width == size:
            continue
        seen[number, height:] = seen[number, :, width:] = False
        for image, stream in zip(images, streams, strict=True):
            tall, wide = -(-height // stream.factor), -(-width // stream.factor)
            side = image.shape[2]
            if cutting.padding == "reflect":
                beyond = ((0, 0), (0, side - tall), (0, side - wide))
                image[number] = np.pad(image[number, :, :tall, :wide], beyond, mode="symmetric")
            else:
                image[number, :, tall:] = fill
                image[number, :, :, wide:] = fill


# ---- patches as they were published ---------------------------------------------------------


def _cut_published(
    piece: Published, table: pd.DataFrame, cutting: Cutting, tally: quality.Tally
) -> Iterator[Block]:
    """Published patches, read some hundreds at a time."""
    if cutting.size_px not in (None, piece.size_px):
        raise DataError(
            f"its patches have {piece.size_px} px, not {cutting.size_px}",
            where=piece.name,
            mend="set patches.size_px=null: they are taken as they were published",
        )
    for start in range(0, len(table), piece.at_once):
        part = table.iloc[start : start + piece.at_once]
        images, labels = piece.read(part)
        seen = np.ones((len(part), piece.size_px, piece.size_px), bool)
        first = 0
        for image, (bands, factor) in zip(images, piece.factors, strict=True):
            # A strip for the tally: the patches one above another.
            strip = np.moveaxis(image, 0, 1).reshape(image.shape[1], -1, image.shape[3])
            ground = tally.add(strip, first)
            if ground is not None:
                ground = ground.reshape(len(part), *image.shape[2:])
                seen &= ground.repeat(factor, 1).repeat(factor, 2)
            first += len(bands)
        if labels.ndim == 3:
            labels = np.where(seen, labels, labels.dtype.type(unlabelled(labels.dtype)))
        valid = seen & is_labelled(labels) if labels.ndim == 3 else seen
        if not cutting.native_gsd or len(piece.factors) == 1:
            images = [piece.on_finest(images, cutting.resampling)]
        yield Block(np.arange(start, start + len(part)), images, labels, valid.mean(axis=(1, 2)))


# ---- the store ------------------------------------------------------------------------------


@dataclass
class _Array:
    """An array that grows patch by patch, in raw chunk files that Zarr reads."""

    folder: Path
    shape: tuple[int, ...]
    """Of one patch."""
    dtype: np.dtype[Any]
    chunk: int
    count: int = 0
    file: IO[bytes] | None = None
    digest: Any = None
    digests: dict[int, str] = field(default_factory=dict)

    @property
    def patch_bytes(self) -> int:
        """Size of one patch."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def path(self, number: int) -> Path:
        """The file of a chunk."""
        return self.folder.joinpath("c", str(number), *("0" for _ in self.shape))

    def append(self, block: NDArray[Any]) -> None:
        """Append patches (patch, …)."""
        block = np.ascontiguousarray(block, self.dtype)
        while len(block):
            number, filled = divmod(self.count, self.chunk)
            if self.file is None:
                path = self.path(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                self.file = path.open("ab")
                if self.digest is None:
                    self.digest = xxhash.xxh3_128()
            now = block[: self.chunk - filled]
            raw = now.reshape(-1).view(np.uint8).data
            for start in range(0, len(raw), WRITE_BYTES):
                piece = raw[start : start + WRITE_BYTES]
                self.file.write(piece)
                self.digest.update(piece)
            self.count += len(now)
            block = block[len(now) :]
            if self.count % self.chunk == 0:
                self._close(number)

    def _close(self, number: int) -> None:
        if self.file is not None:
            self.file.close()
        self.digests[number] = self.digest.hexdigest()
        self.file = self.digest = None

    def rollback(self, count: int) -> None:
        """Forget all patches from number `count` on."""
        if count == self.count:
            return
        if self.file is not None:
            self.file.close()
        number, filled = divmod(count, self.chunk)
        for later in range(number, -(-self.count // self.chunk)):
            self.digests.pop(later, None)
            if later > number or not filled:
                self.path(later).unlink()
        self.file = self.digest = None
        self.count = count
        if filled:
            with self.path(number).open("r+b") as file:
                file.truncate(filled * self.patch_bytes)
            self.digest = xxhash.xxh3_128(self.path(number).read_bytes())

    def finish(self) -> None:
        """Complete the last chunk: the only one is cut to its size, others are filled with 0."""
        number, filled = divmod(self.count, self.chunk)
        if not filled:
            return
        if self.file is not None:
            self.file.close()  # what is still buffered comes before what fills the chunk
        if number == 0:
            self.chunk = self.count
        else:
            lacking = (self.chunk - filled) * self.patch_bytes
            with self.path(number).open("r+b") as file:
                file.truncate(self.chunk * self.patch_bytes)
            zeros = memoryview(bytes(WRITE_BYTES))
            for start in range(0, lacking, WRITE_BYTES):
                self.digest.update(zeros[: lacking - start])
        self._close(number)


class _Store:
    """A shard in the making."""

    def __init__(
        self, path: Path, card: Card, groups: tuple[Group, ...], piece: Scene | Published
    ) -> None:
        self.path, self.card, self.groups = path, card, groups
        self.dates, self.dtype = _dates(piece), kept_type(piece.dtype)
        self.gsd_m = piece.grid.gsd_m if isinstance(piece, Scene) else piece.gsd_m
        self.contents: list[NDArray[np.int64]] = []
        self.count = 0
        size = groups[0].size_px * groups[0].factor
        shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        for group in groups:
            bands = (self.dates, len(group.bands)) if self.dates > 1 else (len(group.bands),)
            shapes[group.name] = ((*bands, group.size_px, group.size_px), self.dtype)
        label = {"patch": (), "several": (len(card.classes),), "pixel": (size, size)}[card.labels]
        shapes["label"] = (label, "float32" if card.target else "uint8")
        self.arrays = {}
        for name, (shape, dtype) in shapes.items():
            patch_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            chunk = max(1, CHUNK_BYTES // patch_bytes)
            self.arrays[name] = _Array(path / name, shape, np.dtype(dtype), chunk)

    def check_kind(self, name: str, piece: Scene | Published, groups: tuple[Group, ...]) -> None:
        """Refuse a piece whose patches the arrays cannot hold as they are.

        Raises:
            DataError: bands of other GSDs, other dates or another type than the pieces before.
        """
        if groups != self.groups:
            unlike = "bands of other GSDs than the scenes before it"
        elif _dates(piece) != self.dates:
            unlike = f"{_dates(piece)} dates, the scenes before it have {self.dates}"
        elif kept_type(piece.dtype) != self.dtype:
            unlike = f"values of {piece.dtype}, the scenes before it of {self.dtype}"
        else:
            return
        raise DataError(f"has {unlike}", where=name, mend="make a dataset of each kind")

    def append(self, block: Block, good: NDArray[np.bool_]) -> None:
        """Append the good patches of a block."""
        if not good.any():
            return
        if block.labels.shape[1:] != self.arrays["label"].shape:
            raise DataError(
                f"has labels of the shape {block.labels.shape[1:]} for a patch, the card says"
                f" {self.card.labels}",
                where=self.card.name, mend="mend `labels` in the card: patch, several or pixel",
            )  # fmt: skip
        everything = bool(good.all())
        labels = block.labels if everything else block.labels[good]
        if (kind := self.arrays["label"].dtype) != labels.dtype:
            if is_labelled(labels).any():
                raise DataError(
                    f"has labels of {labels.dtype}, those of a target are float32",
                    where=self.card.name,
                    mend="take a layout that gives numbers: a raster beside the scene, a table",
                )
            labels = np.full(labels.shape, unlabelled(kind), kind)
        for group, image in zip(self.groups, block.images, strict=True):
            kept = image if everything else image[good]
            array = self.arrays[group.name]
            array.append(kept.reshape(len(kept), *array.shape))
        self.arrays["label"].append(labels)
        self.contents.append(contents_of(labels, len(self.card.classes)))
        self.count += len(labels)

    def rollback(self, count: int) -> None:
        """Forget all patches from number `count` on."""
        for array in self.arrays.values():
            array.rollback(count)
        known = np.concatenate(self.contents)[:count] if self.contents else None
        self.contents = [] if known is None else [known]
        self.count = count

    def finish(
        self, places: pd.DataFrame, cutting: Cutting
    ) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
        """Write Zarr's metadata, coordinates and tables.

        Returns:
            shape, chunk and dtype of each array; digests of the chunk files by path relative to the
            shard; and the attributes.
        """
        folder = self.path.parent
        group = zarr.open_group(self.path, mode="a", zarr_format=3)
        listed: dict[str, Any] = {}
        digests: dict[str, str] = {}
        for name, array in self.arrays.items():
            array.finish()
            shape = (array.count, *array.shape)
            chunk = max(1, min(array.chunk, array.count))
            group.create_array(
                name, shape=shape, chunks=(chunk, *array.shape), dtype=array.dtype,
                compressors=None, dimension_names=self._dimensions(name),
                config={"write_empty_chunks": True},
            )  # fmt: skip
            listed[name] = {"shape": list(shape), "chunk": chunk, "dtype": str(array.dtype)}
            for number, digest in array.digests.items():
                digests[str(array.path(number).relative_to(folder))] = digest
        scenes = list(dict.fromkeys(places["scene"]))
        places = _placed(places, scenes, self.gsd_m)
        attributes = _attributes(self.card, self.groups, scenes, self.gsd_m, self.dates, cutting)
        _write_coordinates(self.path, places, self.card, attributes)
        places.to_parquet(folder / "places.parquet", index=False)
        contents = (
            np.concatenate(self.contents)
            if self.contents
            else np.empty((0, len(self.card.classes)), np.int64)
        )
        np.save(folder / "contents.npy", contents)
        return listed, digests, attributes

    def _dimensions(self, name: str) -> list[str]:
        if name == "label":
            extra = {"patch": [], "several": ["class"], "pixel": ["y", "x"]}[self.card.labels]
            return ["patch", *extra]
        suffix = name.removeprefix("image")  # coarser bands have dimensions of their own
        bands = [f"band{suffix}", f"y{suffix}", f"x{suffix}"]
        return ["patch", "time_step", *bands] if self.dates > 1 else ["patch", *bands]


def contents_of(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Labelled pixels of each class (patch, class); 0 or 1 for labels of whole patches."""
    if labels.dtype.kind == "f":  # all that there is to be had is the target
        return np.isfinite(labels.reshape(len(labels), -1)).sum(axis=1, dtype=np.int64)[:, None]
    if labels.ndim == 2:
        return labels.astype(np.int64)
    flat = labels.reshape(len(labels), -1)
    counts = np.zeros((len(flat), classes), np.int64)
    if (flat != UNLABELLED).any():
        for number in range(classes):  # comparing bytes is ten times faster than counting all
            counts[:, number] = np.count_nonzero(flat == number, axis=1)
    return counts


def _attributes(
    card: Card,
    groups: tuple[Group, ...],
    scenes: list[str],
    gsd_m: float,
    dates: int,
    cutting: Cutting,
) -> dict[str, Any]:
    names = [band.name for band in card.bands]
    return {
        "dataset": card.name,
        "title": card.title,
        "synthetic": card.synthetic,
        "classes": list(card.classes),
        "colours": list(card.classes.values()),
        "scenes": scenes,
        "gsd_m": gsd_m,
        "size_px": groups[0].size_px * groups[0].factor,
        "bands": names,
        "dates": dates,
        "groups": {g.name: {"bands": list(g.bands), "factor": g.factor} for g in groups},
        "resampling": cutting.resampling,
        "scale": card.scale,
        "nodata": card.nodata,
        "rgb": [names.index(band) for band in card.rgb],
        "labels": card.labels,
        "licence": card.licence,
        "citation": card.citation,
        **({"target": card.target.model_dump()} if card.target else {}),
    }


def _placed(places: pd.DataFrame, scenes: list[str], gsd_m: float) -> pd.DataFrame:
    """The table of places as it is kept: scenes by number, centres in degrees."""
    number = {name: at for at, name in enumerate(scenes)}
    placed = pd.DataFrame(
        {
            "scene": places["scene"].map(number).astype(np.int32),
            "row": places["row"].astype(np.int32),
            "col": places["col"].astype(np.int32),
            **{
                side: places[side].astype(np.float64) for side in ("west", "south", "east", "north")
            },
            "epsg": places["epsg"].astype(np.int32),
            "time": pd.to_datetime(places["time"]).astype("datetime64[s]"),
            "name": places["name"].astype(str),
        }
    )
    # Rows and columns of a scene without a place still tell which of its patches overlap.
    local = placed["epsg"] < 0
    placed.loc[local, "epsg"] = -1 - placed.loc[local, "scene"]
    placed["lon"], placed["lat"] = _degrees(placed)
    return placed


def _degrees(places: pd.DataFrame) -> tuple[NDArray[np.float64], ...]:
    """Longitude and latitude of the patches' centres; NaN without a georeference."""
    lon, lat = np.full(len(places), np.nan), np.full(len(places), np.nan)
    x = ((places["west"] + places["east"]) / 2).to_numpy()
    y = ((places["south"] + places["north"]) / 2).to_numpy()
    for epsg, group in places.groupby("epsg"):
        if epsg > 0:
            at = group.index.to_numpy()
            lon[at], lat[at] = transform_points(f"EPSG:{epsg}", "EPSG:4326", x[at], y[at])
    return lon, lat


def _write_coordinates(
    store: Path, places: pd.DataFrame, card: Card, attributes: dict[str, Any]
) -> None:
    """Places and bands as coordinates, for whoever opens the store with xarray."""
    coords: dict[str, Any] = {
        str(name): ("patch", column.to_numpy(dtype=object).astype(str) if name == "name" else
                    column.to_numpy())
        for name, column in places.items()
    }  # fmt: skip
    wavelengths = {band.name: band.wavelength_nm for band in card.bands}
    for name, group in attributes["groups"].items():
        suffix = name.removeprefix("image")
        bands = group["bands"]
        nm = [np.nan if wavelengths[band] is None else wavelengths[band] for band in bands]
        coords[f"band{suffix}"] = (f"band{suffix}", bands)
        coords[f"wavelength_nm{suffix}"] = (f"band{suffix}", nm)
    dataset = xr.Dataset(coords=coords, attrs=attributes)
    with warnings.catch_warnings():
        # Zarr's fixed-length strings await their specification; every reader of today has them.
        warnings.simplefilter("ignore")
        dataset.to_zarr(store, mode="a", zarr_format=3, consolidated=False)
