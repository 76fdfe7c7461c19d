"""What all ways of cutting share: the synthetic scene, the sampled patches, the measuring.

Runs in swath's environment and in that of its peers, so it needs only numpy and rasterio.
"""

from __future__ import annotations

import os
import resource
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

PATCH_M = 1200  # 120 px of 10 m, 60 px of 20 m
TILE_PX = 512
BANDS = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12")}
WEST, NORTH, EPSG = 300_000.0, 5_000_040.0, 32631
PERIOD_PX = 2048
STRETCH = 8  # rows of patches
CACHE_MB = 512  # GDAL's cache of decoded tiles, alike for all ways


def files_of(folder: Path) -> dict[int, list[Path]]:
    """The files of the scene: for each GSD one of all its bands, or one a band, in their order."""
    found = {}
    for gsd, bands in BANDS.items():
        whole = folder / f"scene_{gsd}m.tif"
        each = [folder / f"scene_{band}_{gsd}m.tif" for band in bands]
        found[gsd] = [whole] if whole.exists() else each
    return found


def side_px(gsd: int) -> int:
    """Side of a patch in pixels."""
    return PATCH_M // gsd


def patches_along(size: int) -> int:
    """Whole patches along a side of the scene of `size` px at 10 m."""
    return size * 10 // PATCH_M


def size_of(folder: Path) -> int:
    """Side of the scene, px at 10 m."""
    with rasterio.open(files_of(folder)[10][0]) as file:
        return int(file.width)


def draw(folder: Path, size: int, *, a_file_each: str) -> None:
    """Draw the scene: power-law texture and sensor noise, uint16, deflated with predictor 2.

    The texture is periodic, which deflate cannot see: a tile is smaller than a period. A band
    mixes two textures, as the bands of a landscape resemble each other. The noise has a sigma of 9
    digital numbers, about what is asked of Sentinel-2 (a signal-to-noise ratio of 50 to 174 at the
    reference radiances; ESA, Sentinel-2 User Handbook, 2015, table 1). The scale of the texture is
    chosen for the ratio of compression that real Sentinel-2 has.

    Args:
        folder: is made, and gets the files.
        size: side, px at 10 m.
        a_file_each: `band`, as SAFE folders and STAC catalogues give them; `gsd` for one file of
            all bands of a GSD, pixel-interleaved, as GDAL's COG driver writes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    textures = [_texture(generator) for _ in range(2)]
    for gsd, bands in BANDS.items():
        shares = [(number + 1) / len(bands) for number in range(len(bands))]
        if a_file_each == "gsd":
            of_band = dict(zip(bands, shares, strict=True))
            _draw_file(folder / f"scene_{gsd}m.tif", size, gsd, of_band, textures)
        else:
            for band, share in zip(bands, shares, strict=True):
                path = folder / f"scene_{band}_{gsd}m.tif"
                _draw_file(path, size, gsd, {band: share}, textures)


def _draw_file(
    path: Path, size: int, gsd: int, shares: dict[str, float], textures: list[np.ndarray]
) -> None:
    px = size * 10 // gsd
    generator = np.random.default_rng(zlib.crc32(path.name.encode()))
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": px, "height": px, "count": len(shares), "dtype": "uint16",
        "crs": f"EPSG:{EPSG}", "transform": rasterio.Affine(gsd, 0, WEST, 0, -gsd, NORTH),
        "tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "compress": "deflate",
        "predictor": 2, "interleave": "pixel", "num_threads": 2,
    }  # fmt: skip
    columns = np.arange(px) * gsd // 10 % PERIOD_PX
    with rasterio.open(path, "w", **profile) as file:
        file.descriptions = tuple(shares)
        for top in range(0, px, TILE_PX):
            rows = np.arange(top, min(top + TILE_PX, px)) * gsd // 10 % PERIOD_PX
            first, second = (texture[np.ix_(rows, columns)] for texture in textures)
            for number, share in enumerate(shares.values()):
                strip = 1500 + 150 * (share * first + (1 - share) * second)
                strip += 9 * generator.standard_normal(strip.shape, np.float32)
                window = Window(0, top, px, len(rows))
                file.write(strip.clip(1, 10_000).astype(np.uint16), number + 1, window=window)


def _texture(generator: np.random.Generator) -> np.ndarray:
    """A periodic surface (y, x) whose power falls with the square of frequency; variance 1."""
    y, x = np.fft.fftfreq(PERIOD_PX)[:, None], np.fft.rfftfreq(PERIOD_PX)[None]
    amplitude = 1 / np.maximum(np.hypot(y, x), 1 / PERIOD_PX)
    noise = np.fft.rfft2(generator.standard_normal((PERIOD_PX, PERIOD_PX)))
    surface = np.fft.irfft2(noise * amplitude)
    return ((surface - surface.mean()) / surface.std()).astype(np.float32)


def stretches(size: int, most: int) -> list[range]:
    """Rows of patches for the ways that are too slow for all: `most` stretches, spread evenly.

    The eight rows of a stretch lie in one row of tiles at 20 m and in two at 10 m, and cover at
    least 94 % of them, so that a sampled way decodes hardly more for a patch than one over all.
    """
    side = side_px(20)
    fitting = []
    for tiles in range(size // 2 // TILE_PX):
        first = -(-tiles * TILE_PX // side)
        if (first + STRETCH) * side <= (tiles + 1) * TILE_PX:
            fitting.append(range(first, first + STRETCH))
    chosen = np.linspace(0, len(fitting) - 1, min(most, len(fitting))).round().astype(int)
    return [fitting[number] for number in chosen]


def witnesses(size: int, most: int) -> list[tuple[int, int]]:
    """Patches (row, column), counted in patches, whose pixels every way has to show."""
    last = patches_along(size) - 1
    return [
        pair
        for rows in stretches(size, most)
        for pair in ((rows[0], 0), (rows[3], last // 2), (rows[-1], last))
    ]


def fingerprint(pixels: np.ndarray) -> int:
    """Checksum of the pixels (band, y, x), of any type that holds what uint16 holds."""
    return zlib.crc32(np.ascontiguousarray(pixels, dtype=np.uint16))


def window_of(row: int, column: int, gsd: int) -> Window:
    """The window of a patch in the files of a GSD."""
    side = side_px(gsd)
    return Window(column * side, row * side, side, side)


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """CPU time (user and system, of threads and children), wall time, and peak memory in MB.

    Memory is the largest resident set of the process: start and imports are in it, and not in the
    times.
    """
    found: dict[str, float] = {}
    cpu, wall = _cpu_s(), time.perf_counter()
    yield found
    found["cpu_s"], found["wall_s"] = _cpu_s() - cpu, time.perf_counter() - wall
    found["peak_mb"] = _peak_mb()


def _cpu_s() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _peak_mb() -> float:
    # On Linux not by ru_maxrss: a new process inherits its parent's.
    if os.path.exists("/proc/self/status"):
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    else:
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024
