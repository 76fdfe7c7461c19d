"""Maps of whole scenes: overlapping windows, blended, streamed by strips, and gone on with.

A scene is read strip by strip in one thread, its windows are normalised in a second, and the
network has the rest. Rows that are finished lie in plain rasters in a state folder, with a note of
how far they go; at the end they become cloud-optimised GeoTIFFs on the scene's own grid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window
from torch import Tensor

from swath import store
from swath.data.scene import Grid, Pixels, Scene
from swath.errors import RunError
from swath.files import digest, read_json, whole, write_json
from swath.learn.batches import Normalise
from swath.learn.legend import Layers, Legend, Raster, legend_of
from swath.learn.predict import Precision, Trained, least_seconds, opened

log = logging.getLogger(__name__)

PICTURE_PX = 1500
"""Longest side of the picture that stands beside a map."""
MULTIPLE_PX = 32
"""Sides of windows are multiples of it: networks halve them up to five times."""
STRIP_BYTES = 128 << 20
"""Pixels of one strip as they are stored; wide scenes are read in lower strips."""
CANDIDATES = ((512, 1), (256, 4), (1024, 1), (1024, 4))
"""Side of the own part of a window, and windows a batch; the first is the default."""
CALIBRATION = 0.05
"""Largest share of the time of a scene that is spent on finding the fastest of them."""
CHUNK_BYTES = 1 << 20
"""Answers (float32) that are turned into map values together: they stay in the cache."""
ALIKE = (0.95, 1.05)
"""Bounds of the ratio of a scene's GSD to the model's, where both are in metres."""
ALIKE_DEGREES = (0.66, 1.5)
"""The same for a scene in degrees, whose GSD changes with the latitude."""
SAVE_S = 10.0
"""Seconds of work that a kill costs at most, beside the strip that was in work."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class SceneMap:
    """What a mapped scene has become, and what it took."""

    scene: str
    rasters: dict[str, Path]
    """classes, confidence, uncertainty, or numbers; probabilities, truth and image where there are
    such."""
    seconds: float
    forward_s: float
    """Of these, within the network."""
    pixels: int
    """Of the scene, that this attempt has mapped."""


def map_scene(
    model: Path,
    scene: Scene,
    folder: Path,
    *,
    colours: list[str],
    rgb: list[str],
    resampling: str,
    probabilities: bool,
    overlap_px: int,
    compress: Literal["zstd", "deflate"] = "zstd",
    step_px: int | None = None,
    trained: Trained | None = None,
    precision: Precision = "auto",
    window_px: int | None = None,
    state: Path | None = None,
    identity: str = "",
    save_s: float = SAVE_S,
) -> SceneMap:
    """Map a whole scene to cloud-optimised GeoTIFFs in `folder`, named by the scene.

    `classes` with their colours; `confidence`, the probability of that class in percent;
    `uncertainty`, the entropy of all classes' probabilities as a share of the largest possible;
    `truth` where the scene has labels; and `image`, three of its bands thinned to a picture.
    Pixels outside the swath are 255. Of a model of several labels there are `probabilities` alone,
    and of one of a target its `numbers`, in float32, NaN outside the swath. A model of one label a
    patch is moved over the scene in steps, and each step is a pixel of its map.

    Args:
        model: the trained network.
        scene: the scene; it must have the model's bands and ground sampling distance.
        folder: where the rasters are written.
        colours: `#rrggbb` of each class; none leaves the classes without.
        rgb: the bands of the picture.
        resampling: how coarser bands are brought to the finest grid.
        probabilities: whether the probability of every class is written, too.
        overlap_px: how far neighbouring windows overlap, over which one fades into the other.
        compress: how the bytes of the maps are packed.
        step_px: of a model of one label a patch; its patch's side unless given.
        trained: the network, where it is open already.
        precision: of the network, where it is not; `auto` is that of its training.
        window_px: side of the part of a window that is its own; the fastest unless given.
        state: where an attempt that was killed is gone on with; beside the maps unless given.
        identity: whatever else decides how the map looks, such as the code's fingerprint.
        save_s: seconds between two notes of how far the map is.

    Returns:
        What was written, by kind, and the time that it took.

    Raises:
        RunError: the scene has other bands or another GSD than the model.
        DataError: the scene cannot be read.

    Source:
        The overlapping raised cosines sum to one: Hann window, Harris: On the use of windows for
        harmonic analysis, Proceedings of the IEEE 66 (1), 1978 (doi:10.1109/PROC.1978.10837).
    """
    started = time.perf_counter()
    trained = trained or opened(model, precision)
    check_fits(trained.facts, scene)
    means = _Means(trained, scene, resampling)
    asked = [resampling, probabilities, overlap_px, compress, step_px, precision, window_px]
    own = _hash(
        [digest(model), scene.name, asked, colours, rgb, identity]
        + [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in scene.files]
    )
    place = (state or folder) / (own if state else f".{scene.name}.{own}")
    legend = legend_of(trained, colours, probabilities)
    patch_px = means.patch_px()
    step = step_px or patch_px or 1
    if patch_px:
        if step > patch_px:
            raise RunError(
                f"steps of {step} px are larger than the model's patches of {patch_px} px",
                where="maps.step_px",
                mend="take smaller ones",
            )
        grid = replace(
            scene.grid,
            height=-(-scene.grid.height // step),
            width=-(-scene.grid.width // step),
            step_x=scene.grid.step_x * step,
            step_y=scene.grid.step_y * step,
        )
    else:
        grid = scene.grid
    truth = scene.labels is not None and not patch_px
    sheets = _Sheets(place, scene, grid, legend, rgb, truth)
    clock = _Clock()
    try:
        progress = sheets.begin(
            lambda: {
                "precision": trained.precision,
                "windows": None if patch_px else asdict(_suited(means, overlap_px, window_px)),
            }
        )
        # What an earlier attempt has found to be the fastest stays, for the map to be of one piece.
        means = replace(means, trained=replace(trained, precision=progress["precision"]))
        first = progress["strips"]
        if patch_px:
            strips = _strips_of_steps(means, legend, grid, patch_px, step, first, clock)
        else:
            windows = Windows(**progress["windows"])
            strips = _strips(means, legend, windows, first, truth, clock)
        saved = time.perf_counter()
        with closing(strips):
            for strip in strips:
                sheets.write(strip)
                if time.perf_counter() - saved >= save_s:
                    sheets.save(strip.read.number + 1)
                    saved = time.perf_counter()
        written = sheets.finish(folder, compress)
    except BaseException as failed:
        sheets.close()
        # A kill leaves the state; where nobody keeps states, an error leaves nothing.
        if state is None and isinstance(failed, Exception):
            shutil.rmtree(place, ignore_errors=True)
        raise
    seconds = time.perf_counter() - started
    log.info(
        "mapped %s to %s: %.2f Mpx in %.1f s, %.2f Mpx/s, %.0f %% of the time in the network (%s)",
        scene.name, folder, clock.pixels / 1e6, seconds, clock.pixels / 1e6 / seconds,
        100 * clock.forward_s / seconds, progress["precision"],
    )  # fmt: skip
    return SceneMap(scene.name, written, seconds, clock.forward_s, clock.pixels)


@dataclass
class _Clock:
    """What the network has taken, and for how many pixels of the scene."""

    forward_s: float = 0.0
    pixels: int = 0


# ---- does the scene suit the model ----------------------------------------------------------


def bands_of(scene: Scene) -> list[str]:
    """The channels of a scene as models know them: bands, with the date's number in a series."""
    if len(scene.times) == 1:
        return list(scene.bands)
    return [f"{band}@{date}" for date in range(len(scene.times)) for band in scene.bands]


def check_fits(facts: dict[str, Any], scene: Scene) -> None:
    """Refuse a scene of other bands or another GSD than the model's.

    Raises:
        RunError: both sides are named.
    """
    bands = bands_of(scene)
    if bands != facts["bands"]:
        raise RunError(
            f"has the bands {', '.join(bands)}, the model {', '.join(facts['bands'])}",
            where=scene.name,
            mend="map scenes of the bands that the model was trained on",
        )
    gsd_m = facts["data"].get("gsd_m")
    if gsd_m is None or scene.grid.epsg <= 0:  # an older model, or a plane without a scale
        return
    least, most = ALIKE_DEGREES if _in_degrees(scene.grid) else ALIKE
    if not least < scene.grid.gsd_m / gsd_m < most:
        raise RunError(
            f"has a GSD of {scene.grid.gsd_m:.4g} m, the model one of {gsd_m:.4g} m",
            where=scene.name,
            mend=f"bring it to {gsd_m:.4g} m, e.g. with gdalwarp -tr",
        )


def _crs(grid: Grid) -> str | None:
    """The CRS of a grid; None where it has none."""
    return f"EPSG:{grid.epsg}" if grid.epsg > 0 else None


def _in_degrees(grid: Grid) -> bool:
    return bool(rasterio.crs.CRS.from_epsg(grid.epsg).is_geographic)


# ---- windows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Overlapping windows of one size that cover a scene evenly, in pixels of it.

    Each has a part of its own, `own_y` x `own_x`, and half of the overlap around it. The first
    begins half an overlap before the scene, and the last may end beyond it.
    """

    own_y: int
    own_x: int
    overlap: int
    batch: int

    @property
    def height(self) -> int:
        """Rows of a window."""
        return self.own_y + self.overlap

    @property
    def width(self) -> int:
        """Columns of a window."""
        return self.own_x + self.overlap

    def tops(self, height: int) -> list[int]:
        """First row of the windows of a scene of so many rows."""
        return [k * self.own_y - self.overlap // 2 for k in range(-(-height // self.own_y))]

    def lefts(self, width: int) -> list[int]:
        """First column of the windows of a scene of so many columns."""
        return [k * self.own_x - self.overlap // 2 for k in range(-(-width // self.own_x))]


def windows_for(
    height: int, width: int, own_px: int, batch: int, overlap_px: int, row_bytes: int = 1
) -> Windows:
    """Windows whose own parts are about `own_px` wide, divided so that little lies beyond the edge.

    Args:
        height: rows of the scene.
        width: its columns.
        own_px: side of the own part that is wanted; at least the overlap.
        batch: windows that the network is given together.
        overlap_px: rounded up to an even number.
        row_bytes: of the scene as stored; strips have at most `STRIP_BYTES`.
    """
    overlap = _rounded(overlap_px, 2)
    # Three windows must not meet in one place.
    own_x = max(own_px, overlap)
    own_y = max(min(own_px, STRIP_BYTES // row_bytes - overlap), overlap)

    def evenly(length: int, own: int) -> int:
        least = max(-(-length // max(1, round(length / own))), overlap)
        return _rounded(least + overlap, MULTIPLE_PX) - overlap

    own_y, own_x = evenly(height, own_y), evenly(width, own_x)
    return Windows(own_y, own_x, overlap, min(batch, -(-width // own_x)))


def _rounded(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class _Means:
    """A network, the scene that it maps, and how the one is made ready for the other."""

    trained: Trained
    scene: Scene
    resampling: str

    @property
    def normalise(self) -> Normalise:
        facts = self.trained.facts
        return Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channel, y, x) of the scene."""
        bands = len(self.trained.facts["bands"])
        return bands, self.scene.grid.height, self.scene.grid.width

    def patch_px(self) -> int | None:
        """Side of the patches of a network of one label a patch; None for one a pixel.

        Raises:
            RunError: it answers something else than its classes.
        """
        facts = self.trained.facts
        side_px = int(facts["data"].get("size_px", 64))
        with _threads(1):
            answer = self.trained(torch.zeros(1, self.shape[0], side_px, side_px))
        if answer.shape[1] != len(facts["classes"]) or answer.ndim not in (2, 4):
            raise RunError(
                f"answers {tuple(answer.shape)} to a patch and knows {len(facts['classes'])} "
                "classes",
                where=f"model {facts['model']['name']}",
                mend="map with a model of classes",
            )
        return side_px if answer.ndim == 2 else None


def _suited(means: _Means, overlap_px: int, window_px: int | None) -> Windows:
    """The windows that this device is fastest with, found by the clock where that pays."""
    bands, height, width = means.shape
    row_bytes = bands * width * np.dtype(means.scene.dtype).itemsize

    def plan(own_px: int, batch: int) -> Windows:
        return windows_for(height, width, own_px, batch, overlap_px, row_bytes)

    def scene_s(windows: Windows) -> float:
        image = torch.from_numpy(sample(windows))
        count = len(windows.tops(height)) * len(windows.lefts(width))
        return least_seconds(means.trained, image, passes=1) * count / windows.batch

    def sample(windows: Windows) -> NDArray[np.float32]:
        rows, columns = min(windows.height, height), min(windows.width, width)
        stored = means.scene.read(0, 0, rows, columns, means.resampling)
        one = means.normalise(_mirrored(stored, 0, 0, windows.height, windows.width)).numpy()
        return np.repeat(one[None], windows.batch, axis=0)

    if window_px:
        return plan(window_px, 1)
    first = plan(*CANDIDATES[0])
    # Two passes of a window, of so many.
    if 2 / (len(first.tops(height)) * len(first.lefts(width))) > CALIBRATION:
        return first
    start = time.perf_counter()
    seconds: dict[Windows, float] = {}
    for candidate in dict.fromkeys(plan(*candidate) for candidate in CANDIDATES):
        try:
            seconds[candidate] = scene_s(candidate)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        if seconds and time.perf_counter() - start > CALIBRATION * min(seconds.values()):
            break
    if not seconds:
        raise RunError(
            f"a window of {first.height} x {first.width} px does not fit in the device's memory",
            where=means.scene.name,
            mend="map where there is more of it",
        )
    chosen = min(seconds, key=lambda windows: seconds[windows])
    log.info(
        "windows: %s",
        ", ".join(f"{w.batch} x {w.height} x {w.width} px {s:.0f} s" for w, s in seconds.items()),
    )
    return chosen


# ---- reading ahead --------------------------------------------------------------------------


def _ahead(made: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """The items, each made in a thread while the one before is in use."""
    with closing(made), ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield item


@dataclass(frozen=True)
class _Placed:
    """Where windows begin on a scene, and which rows each row of them finishes."""

    tops: list[int]
    lefts: list[int]
    height: int
    width: int
    """Of a window."""
    batch: int
    own: list[tuple[int, int]]
    """For each of `tops`, a row of the scene and the one after the last."""


@dataclass(frozen=True)
class _Read:
    """A strip of the scene as it was read."""

    number: int
    top: int
    """Its first row."""
    pixels: Pixels
    """(channel, y, x)"""
    low: int
    """The first of the rows that are its own."""
    own: Pixels
    """These rows."""
    truth: NDArray[Any] | None
    """Their labels."""


def _read(means: _Means, placed: _Placed, first: int, labels: bool) -> Generator[_Read, None, None]:
    """The strips below rows of windows, from the one of that number on; no pixel is read twice."""
    scene, (_, height, width) = means.scene, means.shape
    strip: Pixels | None = None
    top = bottom = 0
    for number in range(first, len(placed.tops)):
        above = max(placed.tops[number], 0)
        below = min(placed.tops[number] + placed.height, height)
        if strip is None:
            strip = scene.read(above, 0, below - above, width, means.resampling)
        else:
            parts = [strip[:, above - top :]]
            if below > bottom:
                parts.append(scene.read(bottom, 0, below - bottom, width, means.resampling))
            strip = np.concatenate(parts, axis=1)
        top, bottom = above, below
        low, high = placed.own[number]
        # Labels are read here, too: a file that is open must not be read by two threads.
        truth = scene.read_labels(low, 0, high - low, width) if labels else None
        yield _Read(number, top, strip, low, strip[:, low - top : high - top], truth)


def _batches(
    means: _Means, placed: _Placed, first: int, labels: bool
) -> Generator[tuple[_Read, int, Tensor, NDArray[np.bool_] | None], None, None]:
    """The windows as the network sees them, some at a time, in memory that is used in turn.

    With them come their strip, the place of the first in its row, and with the last of a row where
    nothing was seen.
    """
    normalise, nodata = means.normalise, means.trained.facts["nodata"]
    shape = (placed.batch, means.shape[0], placed.height, placed.width)
    rooms = [np.empty(shape, np.float32) for _ in range(2)]
    for strip in _ahead(_read(means, placed, first, labels)):
        row = placed.tops[strip.number] - strip.top
        for at in range(0, len(placed.lefts), placed.batch):
            some = placed.lefts[at : at + placed.batch]
            room = rooms[0][: len(some)]
            for left, to in zip(some, room, strict=True):
                window = _mirrored(strip.pixels, row, left, placed.height, placed.width)
                normalise.into(window, to)
            last = at + len(some) == len(placed.lefts)
            outside = _outside(strip.own, nodata) if last else None
            yield strip, at, torch.from_numpy(room), outside
            rooms.reverse()


@contextmanager
def _answers(
    means: _Means, placed: _Placed, first: int, labels: bool, clock: _Clock
) -> Iterator[Iterator[tuple[_Read, int, Tensor, NDArray[np.bool_] | None]]]:
    """The network's answers to the windows, each worked out while the one before is in use.

    The network has all threads; what is done with its answers has one, since its many small steps
    would wait for each other's threads all the time.
    """
    threads = torch.get_num_threads()

    def answered() -> Generator[tuple[_Read, int, Tensor, NDArray[np.bool_] | None], None, None]:
        torch.set_num_threads(threads)  # of this thread, and of those to come
        with closing(_ahead(_batches(means, placed, first, labels))) as batches:
            for strip, at, image, outside in batches:
                start = time.perf_counter()
                try:
                    answer = means.trained(image)
                except RuntimeError as wrong:  # a side that it cannot halve, or too little memory
                    raise RunError(
                        f"does not take {len(image)} windows of {placed.height} x {placed.width} "
                        f"px ({str(wrong).splitlines()[0]})",
                        where=f"model {means.trained.facts['model']['name']}",
                        mend="map with another model, or where there is more memory",
                    ) from None
                clock.forward_s += time.perf_counter() - start
                yield strip, at, answer, outside

    with _threads(1), closing(_ahead(answered())) as ready:
        yield ready


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """What this thread does meanwhile, torch does with so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mirrored(strip: Pixels, row: int, col: int, height: int, width: int) -> Pixels:
    """A window (channel, y, x) of a strip, which is mirrored where the window reaches over it."""
    rows, columns = strip.shape[1:]
    inside = strip[:, max(row, 0) : row + height, max(col, 0) : col + width]
    above, left = max(-row, 0), max(-col, 0)
    below, right = max(row + height - rows, 0), max(col + width - columns, 0)
    if not (above or below or left or right):
        return inside
    return np.pad(inside, ((0, 0), (above, below), (left, right)), mode="symmetric")


def _outside(strip: Pixels, nodata: float | None) -> NDArray[np.bool_] | None:
    """Where nothing was seen (y, x): no-data in every channel, or NaN or infinity in any.

    None where everything was.
    """
    outside = np.zeros(strip.shape[1:], bool)
    if nodata is not None:
        lacking = strip[0] == nodata
        for channel in strip[1:]:
            if not lacking.any():
                break
            lacking &= channel == nodata
        outside |= lacking
    if np.issubdtype(strip.dtype, np.floating):
        outside |= ~np.isfinite(strip).all(axis=0)
    return outside if outside.any() else None


# ---- strips of a map ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Strip:
    """Finished rows of a map."""

    row: int
    """On the map's grid."""
    layers: Layers
    read: _Read
    """The scene below them."""


def _strips(
    means: _Means, legend: Legend, windows: Windows, first: int, labels: bool, clock: _Clock
) -> Generator[_Strip, None, None]:
    """The map by strips, each of a row of windows; those before `first` are done already.

    The lower rows of a strip fade into the next, so one more is begun with than is given.
    """
    _, height, width = means.shape
    tops, lefts = windows.tops(height), windows.lefts(width)
    own = [(max(0, top), height if top == tops[-1] else top + windows.own_y) for top in tops]
    placed = _Placed(tops, lefts, windows.height, windows.width, windows.batch, own)
    blend = _Blend(windows, placed, means.trained, legend)
    rasters, layers = legend.rasters(), Layers()
    with _answers(means, placed, max(0, first - 1), labels, clock) as ready:
        for strip, at, answers, outside in ready:
            low, high = own[strip.number]
            done = strip.number < first
            if at == 0:
                layers = {} if done else _empty(rasters, high - low, width)
            for n, answer in enumerate(answers):
                blend.add(answer, strip.number, at + n, layers)
            if at + len(answers) == len(lefts) and not done:
                _blank(layers, rasters, outside)
                clock.pixels += (high - low) * width
                yield _Strip(low, layers, strip)


def _strips_of_steps(
    means: _Means,
    legend: Legend,
    grid: Grid,
    patch_px: int,
    step: int,
    first: int,
    clock: _Clock,
    batch: int = 128,
) -> Generator[_Strip, None, None]:
    """The map of a model of one label a patch: a row of steps is a strip.

    Each step is seen with what lies around it, as far as a patch reaches.
    """
    _, height, width = means.shape
    margin = (patch_px - step) // 2
    tops = [row * step - margin for row in range(grid.height)]
    lefts = [column * step - margin for column in range(grid.width)]
    own = [(row * step, min((row + 1) * step, height)) for row in range(grid.height)]
    placed = _Placed(tops, lefts, patch_px, patch_px, min(batch, len(lefts)), own)
    rasters = legend.rasters()
    row: list[Tensor] = []
    with _answers(means, placed, first, False, clock) as ready:
        for strip, at, answers, outside in ready:
            row.append(answers)
            if at + len(answers) < len(lefts):
                continue
            layers = _empty(rasters, 1, len(lefts))
            answer = torch.cat(row).t()[:, None].contiguous()
            legend.fill(layers, (slice(0, 1), slice(0, len(lefts))), legend.blended(answer))
            row = []
            if outside is not None:
                edges = range(0, width, step)
                lost = np.add.reduceat(outside.mean(axis=0), edges) / np.diff([*edges, width])
                _blank(layers, rasters, (lost > 0.5)[None])
            clock.pixels += strip.own.shape[1] * width
            yield _Strip(strip.number, layers, strip)


def _empty(rasters: dict[str, Raster], rows: int, columns: int) -> Layers:
    """Room for the layers of a strip."""
    return {kind: raster.empty(rows, columns) for kind, raster in rasters.items()}


def _blank(layers: Layers, rasters: dict[str, Raster], outside: NDArray[np.bool_] | None) -> None:
    if outside is not None:
        for kind, layer in layers.items():
            layer[:, outside] = rasters[kind].nodata


class _Blend:
    """Windows come row by row, and leave as finished map values.

    Of two neighbours the one fades by half a cosine while the other rises, so that the weights of
    all windows sum to one everywhere. What the next window or the next strip is still to add to is
    kept: a margin of a window, and one over the width of the scene.
    """

    def __init__(self, windows: Windows, placed: _Placed, trained: Trained, legend: Legend) -> None:
        self.windows, self.placed, self.legend = windows, placed, legend
        device, classes = trained.device, len(trained.facts["classes"])
        overlap = windows.overlap
        at = (torch.arange(overlap, device=device) + 0.5) / max(overlap, 1)
        self.rise = 0.5 - 0.5 * torch.cos(math.pi * at)
        self.left = torch.empty((classes, windows.height, overlap), device=device)
        across = len(placed.lefts) * windows.own_x + overlap
        self.above = torch.empty((classes, overlap, across), device=device)
        self.chunk = max(1, CHUNK_BYTES // (4 * classes * windows.width))

    def add(self, answer: Tensor, number: int, place: int, layers: Layers) -> None:
        """Blend a window in, and fill in the map values that are finished by it.

        Args:
            answer: of the network (class, y, x).
            number: of the strip.
            place: of the window in it, from the left.
            layers: of the strip's finished rows; empty where they are not wanted.
        """
        windows, overlap = self.windows, self.windows.overlap
        top, left = self.placed.tops[number], self.placed.lefts[place]
        low, high = self.placed.own[number]
        is_first, is_last = place == 0, place + 1 == len(self.placed.lefts)
        is_lowest = number + 1 == len(self.placed.tops)
        for begin, end in self._chunks():
            # Class by class, in memory of its own.
            share = self.legend.blended(answer[:, begin:end].contiguous())
            if not is_first:
                share[..., :overlap] *= self.rise
                share[..., :overlap] += self.left[:, begin:end]
            if not is_last:
                self.left[:, begin:end] = share[..., windows.own_x :] * (1 - self.rise)
                share = share[..., : windows.own_x]
            # Columns of `above` are counted from where the first window begins.
            columns = slice(place * windows.own_x, place * windows.own_x + share.shape[2])
            if number and begin < overlap:
                share = share * self.rise[begin:end, None] + self.above[:, begin:end, columns]
            if not is_lowest and begin >= windows.own_y:
                rows = slice(begin - windows.own_y, end - windows.own_y)
                self.above[:, rows, columns] = share * (1 - self.rise[rows, None])
                continue
            if not layers:
                continue
            # The part that lies in the scene.
            width = next(iter(layers.values())).shape[2]
            rows = slice(max(low - top - begin, 0), max(min(end, high - top) - begin, 0))
            across = slice(max(-left, 0), min(share.shape[2], width - left))
            share = share[:, rows, across]
            if share.numel():
                into = (
                    slice(top + begin + rows.start - low, top + begin + rows.stop - low),
                    slice(left + across.start, left + across.stop),
                )
                self.legend.fill(layers, into, share)

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Rows that are treated together; none reaches over the bounds of an overlap."""
        windows = self.windows
        bounds = (0, windows.overlap, windows.own_y, windows.height)
        for begin, end in pairwise(bounds):
            for at in range(begin, end, self.chunk):
                yield at, min(at + self.chunk, end)


# ---- what is written ------------------------------------------------------------------------


@dataclass
class _Sheets:
    """The rasters of a map in the making: plain files, filled row by row, and how far they are.

    All of a plain file's bytes have their places from the start, so that a kill can spoil only rows
    that are not noted as done.
    """

    place: Path
    scene: Scene
    grid: Grid
    legend: Legend
    rgb: list[str]
    truth: bool
    open: dict[str, Any] = field(default_factory=dict)
    unsaved: dict[str, tuple[int, int]] = field(default_factory=dict)
    """First and last row (and one) of each raster since the last note."""

    @property
    def thin(self) -> int:
        """Every so many rows and columns of the scene are in the picture."""
        return max(1, -(-max(self.scene.grid.height, self.scene.grid.width) // PICTURE_PX))

    @property
    def note(self) -> Path:
        """How far the map is."""
        return self.place / "progress.json"

    def begin(self, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """How far an earlier attempt has come, and what it decided for."""
        self._restore()
        if self.note.is_file():
            self.progress: dict[str, Any] = read_json(self.note)
            log.info("%s goes on after strip %d", self.scene.name, self.progress["strips"])
        else:
            self.progress = decide() | {"strips": 0}
            self._lay_out()
            write_json(self.note, self.progress)
            store.keep(self.note)
        self._reopen()
        return self.progress

    def _rasters(self) -> dict[str, Raster]:
        """Those on the map's grid."""
        kinds = self.legend.rasters()
        return kinds | ({"truth": next(iter(kinds.values()))} if self.truth else {})

    def _profiles(self) -> dict[str, dict[str, Any]]:
        place = _georeference(self.grid)
        kinds = {kind: raster.profile | place for kind, raster in self._rasters().items()}
        thin, seen = self.thin, self.scene.grid
        picture = replace(
            seen, height=-(-seen.height // thin), width=-(-seen.width // thin),
            step_x=seen.step_x * thin, step_y=seen.step_y * thin,
        )  # fmt: skip
        kinds["image"] = {"count": len(self.rgb), "dtype": self.scene.dtype, "nodata": None}
        kinds["image"] |= _georeference(picture)
        return kinds

    def _lay_out(self) -> None:
        """Plain files of full size with all that they say of themselves."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        profiles, rasters = self._profiles(), self._rasters()
        needed = sum(
            p["count"] * p["height"] * p["width"] * np.dtype(p["dtype"]).itemsize
            for p in profiles.values()
        )
        if shutil.disk_usage(self.place).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.place))
        for kind, profile in profiles.items():
            path = self.place / f"{kind}.tif"
            profile |= {"driver": "GTiff", "interleave": "band", "bigtiff": "if_safer"}
            with rasterio.open(path, "w", **profile) as file:
                if kind in rasters:
                    rasters[kind].describe(file)
                else:
                    file.descriptions = tuple(self.rgb)

    def _reopen(self) -> None:
        self.open = {
            kind: rasterio.open(self.place / f"{kind}.tif", "r+") for kind in self._profiles()
        }

    def close(self) -> None:
        """Let go of the files."""
        while self.open:
            self.open.popitem()[1].close()

    def write(self, strip: _Strip) -> None:
        """Write finished rows."""
        layers, read = dict(strip.layers), strip.read
        if read.truth is not None:
            layers["truth"] = read.truth[None]
        for kind, layer in layers.items():
            self._write_rows(kind, strip.row, layer)
        chosen = [bands_of(self.scene).index(band) for band in self._rgb_channels()]
        start = -read.low % self.thin
        picture = read.own[chosen, start :: self.thin, :: self.thin]
        if picture.shape[1]:
            self._write_rows("image", (read.low + start) // self.thin, picture)

    def _write_rows(self, kind: str, row: int, pixels: Pixels) -> None:
        height, width = pixels.shape[1:]
        self.open[kind].write(pixels, window=Window(0, row, width, height))
        first, last = self.unsaved.get(kind, (row, row))
        self.unsaved[kind] = (min(first, row), max(last, row + height))

    def _rgb_channels(self) -> list[str]:
        """The bands of the picture; of a series, those of the first date."""
        known = bands_of(self.scene)
        return self.rgb if self.rgb[0] in known else [f"{band}@0" for band in self.rgb]

    def save(self, strips: int) -> None:
        """Note that so many strips are done, once they are on the disk."""
        kinds = list(self.open)
        self.close()
        for kind in kinds:
            with (self.place / f"{kind}.tif").open("rb") as file:
                os.fdatasync(file.fileno())
        self.progress["strips"] = strips
        write_json(self.note, self.progress)
        if self._keep(strips):
            store.keep(self.note)
            self.unsaved = {}
        self._reopen()

    def _keep(self, strips: int) -> bool:
        """Put the rows since the last note in the object store, where there is one."""
        if not store.is_used():
            return True
        rows = {f"{kind}-{first}": self._rows(kind, first, last)
                for kind, (first, last) in self.unsaved.items()}  # fmt: skip
        np.savez(path := self.place / f"rows-{strips}.npz", allow_pickle=False, **rows)
        kept = store.keep(path)
        path.unlink()
        return kept

    def _rows(self, kind: str, first: int, last: int) -> Pixels:
        with rasterio.open(self.place / f"{kind}.tif") as file:
            pixels: Pixels = file.read(window=Window(0, first, file.width, last - first))
            return pixels

    def _restore(self) -> None:
        """Put together what an attempt on another machine has left in the object store."""
        if not store.is_used() or self.note.is_file():
            return
        store.restore(self.place)
        if not self.note.is_file():
            return
        kept = sorted(self.place.glob("rows-*.npz"), key=lambda p: int(p.stem.split("-")[1]))
        done = read_json(self.note)
        parts = [dict(np.load(each)) for each in kept]
        self._lay_out()
        self._reopen()
        for part in parts:
            for name, pixels in part.items():
                kind, row = name.rsplit("-", 1)
                self._write_rows(kind, int(row), pixels)
        self.close()
        self.unsaved = {}
        write_json(self.note, done)

    def _copy(self, kind: str, path: Path, compress: str) -> None:
        """A cloud-optimised copy of one kind."""
        raster = self._rasters().get(kind)
        packing = raster.packing if raster else {"overview_resampling": "nearest"}
        # GDAL packs the overviews twice, at first for a file of its own that is deleted at once.
        with rasterio.Env(COG_TMP_COMPRESSION="NONE"), whole(path) as part:
            copy_raster(
                self.place / f"{kind}.tif", part, driver="COG", compress=compress, level=1,
                **packing,
            )  # fmt: skip

    def finish(self, folder: Path, compress: str) -> dict[str, Path]:
        """Cloud-optimised copies in `folder`, all or none; the plain files are deleted."""
        kinds = list(self.open)
        self.close()
        written = {kind: folder / f"{self.scene.name}_{kind}.tif" for kind in kinds}
        try:
            with ThreadPoolExecutor() as threads:
                copies = [
                    threads.submit(self._copy, kind, path, compress)
                    for kind, path in written.items()
                ]
                for copy in copies:
                    copy.result()
        except BaseException:
            for path in written.values():
                path.unlink(missing_ok=True)
            raise
        shutil.rmtree(self.place)
        store.forget(self.place)
        return written


def _georeference(grid: Grid) -> dict[str, Any]:
    """Size and place of a raster on a grid."""
    place = {"height": grid.height, "width": grid.width, "transform": grid.transform}
    crs = _crs(grid)
    return place | ({"crs": crs} if crs else {})


def _hash(things: Any) -> str:
    return hashlib.sha256(json.dumps(things).encode()).hexdigest()[:16]
