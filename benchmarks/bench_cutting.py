"""Cutting a Sentinel-2-like scene into patches: swath, its peers, and the physical limit.

    .venv/bin/python benchmarks/bench_cutting.py [--size 10980] [--rounds 5] [--files band]

A scene of 4 bands at 10 m and 6 at 20 m, uint16, in deflated tiles of 512 px, is drawn into a
temporary folder and cut into patches of 1.2 km: 120 px at 10 m, 60 px at 20 m, each band on its own
grid. It compresses to about 1/1.5, as the real Sentinel-2 patches of BigEarthNet do (1/1.25 to
1/1.54). The limit decodes each tile once, with both cores, and writes as many bytes once, to the
disk (fsync), as swath does.

The ways take turns, each in a process of its own, after what it does once (imports, opening files)
has been done. The bars are judged by the peers as their documentation shows them; what a patient
user would gain by tuning them stands below each. Peers (`benchmarks/peers`, in .venv-bench: `make
bench` makes it) are too slow for the whole scene: they cut stretches of eight rows of patches,
spread over it, and their times are scaled by the number of patches. Every way has to show the right
pixels of some patches. GDAL's cache of decoded tiles is alike for all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from peers.scene import (
    BANDS,
    CACHE_MB,
    draw,
    files_of,
    fingerprint,
    measured,
    patches_along,
    side_px,
    size_of,
    window_of,
    witnesses,
)
from rasterio.windows import Window

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / ".venv-bench/bin/python"
MEMORY_MB = 2048

Result = dict[str, Any]
# Each way as it is called in the tables.
CUTTING = {
    "limit": "limit: decode each tile, write as many bytes",
    "swath": "swath",
    "geotiff-profile": "rasterio, a GeoTIFF a patch, scene's profile",
    "geotiff": "... not compressed, in strips",
}
READING = {
    "decode": "limit: decode each tile",
    "swath-reading": "swath",
    "windows": "rasterio, a windowed read a patch",
    "xbatcher-dask": "xbatcher, lazy with dask, chunks=True",
    "xbatcher-tiles": "... chunks of one tile",
    "xbatcher": "... without dask, a variable a band",
    "torchgeo": "torchgeo, grid sampler",
    "torchgeo-1": "... torch with one thread",
}


# ---- the ways in swath's own environment ----------------------------------------------------


def decode(scene: Path, out: Path | None = None) -> Result:
    """Decode each tile once in two threads; with `out`, write what was decoded."""
    halves = []
    for path in (path for paths in files_of(scene).values() for path in paths):
        with rasterio.open(path) as file:
            tiles = [(w.col_off, w.row_off, w.width, w.height) for _, w in file.block_windows(1)]
        middle = len(tiles) // 2
        halves += [(path, 0, tiles[:middle]), (path, 1, tiles[middle:])]

    def through(half: tuple[Path, int, list[tuple[int, ...]]]) -> int:
        path, number, tiles = half
        done = 0
        with (
            rasterio.open(path) as file,
            open(os.devnull if out is None else out / f"{path.stem}_{number}", "wb") as written,
        ):
            memory = np.empty(file.count * 512 * 512, np.uint16)
            for tile in tiles:
                window = Window(*tile)
                pixels = memory[: file.count * window.width * window.height]
                pixels = pixels.reshape(file.count, window.height, window.width)
                file.read(window=window, out=pixels)
                if out is not None:
                    written.write(pixels)
                done += pixels.nbytes
            if out is not None:
                # Else the kernel writes them later, on nobody's account; swath waits for the disk.
                written.flush()
                os.fsync(written.fileno())
        return done

    with measured() as result, ThreadPoolExecutor(2) as pool:
        total = sum(pool.map(through, halves))
    px = size_of(scene)
    assert total == 2 * sum(len(of) * (px * 10 // gsd) ** 2 for gsd, of in BANDS.items())
    if out is not None:
        assert total == sum(path.stat().st_size for path in out.iterdir())
    return dict(result)


def swath(scene: Path, out: Path, most: int) -> Result:
    """Cut as the stage `patches` does, with all its checks and digests."""
    import zarr

    from swath.data.patches import cut

    card, opened, cutting = _swath_scene(scene)
    limits: dict[str, Any] = {
        f"max_{fault}": 1.0 for fault in ("nodata", "clouds", "saturated", "implausible")
    }
    with measured() as result:
        manifest = cut(
            card, iter([(scene.name, opened)]), out / "cut", cutting,
            limits=limits | {"constant_bands": False}, made_by={},
        )  # fmt: skip
    along = patches_along(size_of(scene))
    assert manifest["kept"] == along**2
    arrays = [
        zarr.open_array(out / "cut/set.zarr" / name, mode="r") for name in ("image", "image_x2")
    ]
    seen = {
        f"{row},{column}": [fingerprint(array[row * along + column]) for array in arrays]
        for row, column in witnesses(size_of(scene), most)
    }
    return result | {"patches": along**2, "seen": seen}


def swath_reading(scene: Path, most: int) -> Result:
    """Swath's patches as they stream by, counted and checked, and not written."""
    from swath.data import patches
    from swath.data.quality import Tally

    card, opened, cutting = _swath_scene(scene)
    along = patches_along(size_of(scene))
    wanted = {
        row * along + column: f"{row},{column}" for row, column in witnesses(size_of(scene), most)
    }
    seen, count = {}, 0
    with measured() as result:
        tally = Tally(card, patches._channels(opened))
        table = patches._table(opened, cutting)
        for block in patches._cut_scene(opened, table, cutting, tally, card):
            count += len(block.rows)
            for number in wanted.keys() & set(block.rows.tolist()):
                at = number - int(block.rows[0])
                seen[wanted[number]] = [fingerprint(image[at]) for image in block.images]
    return result | {"patches": count, "seen": seen}


def _swath_scene(scene: Path) -> tuple[Any, Any, Any]:
    from swath.data.card import Card
    from swath.data.layouts import open_source
    from swath.data.patches import Cutting

    card = Card(
        name="bench", title="A drawn scene", licence="-", citation="-", synthetic=True,
        layout={"name": "scene_folders", "images": ["*_10m.tif", "*_20m.tif"]},
        bands=[{"name": name, "gsd_m": float(g)} for g, of in BANDS.items() for name in of],
        rgb=["B04", "B03", "B02"], scale=10_000.0, nodata=0.0,
        classes={"any": "#000000"}, labels="pixel",
    )  # fmt: skip
    opened = open_source(card, scene.parent).open(scene.name)
    return card, opened, Cutting(size_px=side_px(10), native_gsd=True, min_valid=0.0)


def one_way(way: str, scene: Path, out: Path, most: int) -> Result:
    """One way, in this process."""
    ways: dict[str, Callable[[], Result]] = {
        "limit": lambda: decode(scene, out),
        "decode": lambda: decode(scene),
        "swath": lambda: swath(scene, out, most),
        "swath-reading": lambda: swath_reading(scene, most),
    }
    return ways[way]()


# ---- rounds and tables ----------------------------------------------------------------------


def start(way: str, scene: Path, most: int, truth: dict[str, list[int]]) -> Result:
    """One way in a process of its own, its pixels compared with the truth, scaled to all patches.

    Raises:
        SystemExit: the process failed, or showed other pixels.
    """
    out = scene.parent.parent / "out"
    out.mkdir()
    if way in ("limit", "decode", "swath", "swath-reading"):
        command = [sys.executable, __file__, "--way", way, "--out", str(out)]
        command += ["--scene", str(scene), "--stretches", str(most)]
    else:
        command = [str(PEERS), "-m", "peers.cutting", way, str(scene), str(most), str(out)]
    alike = {"GDAL_CACHEMAX": str(CACHE_MB)} | (
        {} if way == "torchgeo" else {"OMP_NUM_THREADS": "1"}
    )
    os.sync()  # what the way before has left to be written
    done = subprocess.run(
        command, cwd=HERE, env=os.environ | alike, capture_output=True, text=True, check=False
    )
    shutil.rmtree(out)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr}")
    result: Result = json.loads(done.stdout)
    if result.get("seen", truth) != truth:  # the limits have tiles, not patches
        raise SystemExit(f"{way} shows other pixels: {result['seen']}, not {truth}")
    every = patches_along(size_of(scene)) ** 2
    scaled = every / result.get("patches", every)
    return {
        "cpu_s": result["cpu_s"] * scaled,
        "wall_s": result["wall_s"] * scaled,
        "peak_mb": result["peak_mb"],
        "share": 1 / scaled,
    }


def true_pixels(scene: Path, most: int) -> dict[str, list[int]]:
    """Checksums of the witnesses, by plain reads."""
    found: dict[str, list[int]] = {}
    for row, column in witnesses(size_of(scene), most):
        of_patch = []
        for gsd, paths in files_of(scene).items():
            parts = []
            for path in paths:
                with rasterio.open(path) as file:
                    parts.append(file.read(window=window_of(row, column, gsd)))
            of_patch.append(fingerprint(np.concatenate(parts)))
        found[f"{row},{column}"] = of_patch
    return found


def show(title: str, ways: dict[str, str], medians: dict[str, Result]) -> None:
    """Print a table: medians, and the ratio of CPU time to the first way."""
    ways = {way: name for way, name in ways.items() if way in medians}
    if not ways:
        return
    first = medians[next(iter(ways))]["cpu_s"]
    print(
        f"\n{title:46s} {'CPU s':>8s} {'wall s':>8s} {'x limit':>8s} {'peak MB':>8s}  measured on"
    )
    for way, name in ways.items():
        row = medians[way]
        on = "all" if row["share"] == 1 else f"{row['share']:.2%} of the patches, scaled"
        print(
            f"  {name:44s} {row['cpu_s']:8.1f} {row['wall_s']:8.1f} {row['cpu_s'] / first:8.2f}"
            f" {row['peak_mb']:8.0f}  {on}"
        )


def judge(medians: dict[str, Result]) -> None:
    """Print each bar, the measured ratio of CPU times, and whether it is met."""
    bars = [
        ("cutting: swath / limit", "swath", "limit", "at most", 1.5),
        ("cutting: a GeoTIFF a patch / swath", "geotiff-profile", "swath", "at least", 20),
        ("  not compressed / swath", "geotiff", "swath", "", 20),
        ("reading: lazy xbatcher / swath", "xbatcher-dask", "swath-reading", "at least", 25),
        ("  chunks of one tile / swath", "xbatcher-tiles", "swath-reading", "", 25),
        ("  without dask / swath", "xbatcher", "swath-reading", "", 25),
        ("reading: torchgeo / swath", "torchgeo", "swath-reading", "at least", 15),
        ("  with one thread / swath", "torchgeo-1", "swath-reading", "", 15),
    ]
    print()
    for name, over, under, word, bar in bars:
        if not {over, under} <= set(medians):
            continue
        ratio = medians[over]["cpu_s"] / medians[under]["cpu_s"]
        met = ratio <= bar if word == "at most" else ratio >= bar
        verdict = f"{word} {bar:4g}  {'met' if met else 'NOT met'}" if word else "tuned by hand"
        print(f"{name:38s} {ratio:7.2f}  {verdict}")
    if "swath" not in medians:
        return
    peak = medians["swath"]["peak_mb"]
    met = "met" if peak <= MEMORY_MB else "NOT met"
    print(f"{'peak memory of swath, MB':38s} {peak:7.0f}  at most {MEMORY_MB:4d}  {met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=10_980, help="side of the scene, px at 10 m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stretches", type=int, default=1, help="of eight rows, for the peers")
    parser.add_argument("--files", choices=("band", "gsd"), default="band", help="a file for each")
    every = [*CUTTING, *READING]
    parser.add_argument("--ways", nargs="+", choices=every, default=every, help="these alone")
    for private in ("--way", "--scene", "--out"):
        parser.add_argument(private, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(one_way(asked.way, Path(asked.scene), Path(asked.out), asked.stretches)))
        return
    if not PEERS.exists():
        raise SystemExit("bench_cutting: .venv-bench is absent: run `make bench`")
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scenes/scene"
        draw(scene, asked.size, a_file_each=asked.files)
        kept = sum(path.stat().st_size for path in scene.iterdir())
        pixels = sum(len(of) * (asked.size * 10 // gsd) ** 2 for gsd, of in BANDS.items())
        files = len(list(scene.iterdir()))
        print(
            f"{asked.size} x {asked.size} px, {2 * pixels / 1e6:.0f} MB of pixels in {files} files"
            f" of {kept / 1e6:.0f} MB (1/{2 * pixels / kept:.2f});"
            f" {patches_along(asked.size) ** 2} patches; medians of {asked.rounds} rounds"
        )
        truth = true_pixels(scene, asked.stretches)
        results: dict[str, list[Result]] = {way: [] for way in asked.ways}
        for _ in range(asked.rounds):
            for way, of_way in results.items():
                of_way.append(start(way, scene, asked.stretches, truth))
    medians = {
        way: {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        for way, rows in results.items()
    }
    show("cutting, all written", CUTTING, medians)
    show("reading alone", READING, medians)
    judge(medians)


if __name__ == "__main__":
    main()
