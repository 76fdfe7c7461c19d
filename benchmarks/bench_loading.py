"""Loading shuffled batches of patches: swath's loader, a bare copy, and the usual other ways.

    .venv/bin/python benchmarks/bench_loading.py [--patches 8192] [--files 2000] [--rounds 5]

Batches of 128 patches of 64 x 64 px x 13 bands, uint16, become float32. The ways take turns in each
round and the table has medians, of CPU time (all threads) and of wall time. The limit is a bare
copy-and-cast of as many bytes, of one batch again and again, so that its source is in the cache.
All is in the page cache, except for the ways "from the disk", before which its files are put out of
it. A GeoTIFF a patch is read by a torch DataLoader with two workers that have started before.
For a set larger than memory run it within a control group, e.g.
`systemd-run --scope -p MemoryMax=2G ... --patches 40960 --larger`, which leaves out all but that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import torch
import zarr

from swath.data.mapped import Mapped
from swath.data.patchset import PatchSet
from swath.learn.batches import Batches

BATCH = 128
SHAPE = (13, 64, 64)
CHUNK = 1260  # patches in 128 MiB, as swath writes them
SYMMETRIES = {"flip": True, "turn": True}


@dataclass
class Way:
    """One way to load an epoch of so many patches."""

    name: str
    patches: int
    load: Callable[[], Any]
    before: Callable[[], None] = lambda: None


@dataclass
class Store:
    """The patches in the files of swath's chunks."""

    files: list[Path]
    patches: int

    def opened(self, nodata: int | None = None) -> PatchSet:
        """The set as the training opens it."""
        chunks = []
        for number, file in enumerate(self.files):
            length = min(CHUNK, self.patches - number * CHUNK)
            chunks.append(np.memmap(file, "uint16", "r", shape=(length, *SHAPE)))
        label = np.zeros(self.patches, np.uint8)
        return PatchSet(
            Mapped(tuple(chunks), (self.patches, *SHAPE)),
            Mapped((label,), label.shape),
            pd.DataFrame(index=range(self.patches)),
            np.ones((self.patches, 1), np.int64),
            {"nodata": nodata, "classes": ["any"], "labels": "patch"},
        )

    def forget(self) -> None:
        """Put the files out of the page cache."""
        for file in self.files:
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def write(folder: Path, patches: int) -> Store:
    """The memory of swath's chunks, without Zarr's metadata."""
    generator = np.random.default_rng(0)
    files = []
    for first in range(0, patches, CHUNK):
        files.append(folder / f"chunk{first}")
        with files[-1].open("wb") as file:
            for begin in range(first, min(first + CHUNK, patches), 64):
                count = min(64, first + CHUNK - begin, patches - begin)
                file.write(generator.integers(1, 10_000, (count, *SHAPE), np.uint16).tobytes())
    return Store(files, patches)


def batches(patches: PatchSet, **given: Any) -> Batches:
    """The loader of the training."""
    which = np.arange(len(patches))
    statistics = {"mean": [5000.0] * SHAPE[0], "std": [2900.0] * SHAPE[0]}
    return Batches(patches, which, batch_size=BATCH, seed=0, **statistics, **given)


def through(batches_of_epoch: Callable[[], Iterable[Any]]) -> Callable[[], None]:
    """Goes through an epoch and keeps nothing."""

    def load() -> None:
        for _ in batches_of_epoch():
            pass

    return load


class Files(torch.utils.data.Dataset[torch.Tensor]):
    """A GeoTIFF a patch."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with rasterio.open(self.files[number]) as file:
            return torch.from_numpy(file.read().astype(np.float32))


def geotiffs(folder: Path, store: Store, count: int) -> list[Path]:
    """The first patches, each written as a GeoTIFF with rasterio's defaults."""
    folder.mkdir()
    files = [folder / f"{number}.tif" for number in range(count)]
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 13, "height": 64, "width": 64}
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 6e5, 0, -10, 5.3e6)}
    for file, patch in zip(files, store.opened().image.views(np.arange(count)), strict=True):
        with rasterio.open(file, "w", **profile, **place) as opened:
            opened.write(patch)
    return files


def ways(folder: Path, store: Store, files: int) -> list[Way]:
    """What takes turns."""
    patches = store.patches
    source = np.ones((BATCH, *SHAPE), np.uint16)
    image = store.opened().image
    order = np.split(np.random.default_rng(1).permutation(patches), range(BATCH, patches, BATCH))
    few = order[: max(1, len(order) // 16)]  # a sixteenth is enough to see it
    small = zarr.create_array(
        folder / "small", shape=(len(few) * BATCH, *SHAPE), chunks=(1, *SHAPE), dtype="uint16",
        compressors=None,
    )  # fmt: skip
    small[:] = image.gather(np.arange(small.shape[0]))
    shuffled = np.random.default_rng(1).permutation(small.shape[0]).reshape(-1, BATCH)
    geotiff_loader = torch.utils.data.DataLoader(
        Files(geotiffs(folder / "files", store, files)),
        batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True,
    )  # fmt: skip

    # Files of their own: pages that somebody has mapped are not put out of the cache.
    (folder / "cold").mkdir()
    cold = write(folder / "cold", patches)

    def swath(nodata: int | None = None, **given: Any) -> Callable[[], None]:
        loader = batches(store.opened(nodata), **given)
        return through(lambda: loader)

    def first_epoch(**given: Any) -> tuple[Callable[[], None], Callable[[], None]]:
        return through(lambda: batches(cold.opened(), **given)), cold.forget

    return [
        Way("bare copy and cast", patches, through(lambda: (cast(source) for _ in order))),
        Way("gathered and cast", patches, through(lambda: (cast(image.gather(b)) for b in order))),
        Way("swath, normalised", patches, swath()),
        Way("swath, with no-data", patches, swath(nodata=0)),
        Way("swath, in blocks", patches, swath(shuffle="blocks")),
        Way("swath, flipped and turned", patches, swath(augment=SYMMETRIES)),
        Way("swath, from the disk", patches, *first_epoch()),
        Way("swath, in blocks from the disk", patches, *first_epoch(shuffle="blocks")),
        Way("Zarr, a chunk a patch", small.shape[0], through(
            lambda: (cast(np.stack([small[i] for i in b])) for b in shuffled))),
        Way("GeoTIFF a patch, 2 workers", files, through(lambda: geotiff_loader)),
    ]  # fmt: skip


def cast(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32)


def measured(some: list[Way], rounds: int) -> dict[str, tuple[float, float]]:
    """Median CPU and wall time a patch in µs; a first round, which counts not, warms all up."""
    times: dict[str, list[tuple[float, float]]] = {way.name: [] for way in some}
    for _ in range(rounds + 1):
        for way in some:
            way.before()
            cpu, wall = time.process_time(), time.perf_counter()
            way.load()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            times[way.name].append((spent[0] * 1e6 / way.patches, spent[1] * 1e6 / way.patches))
    return {
        name: tuple(map(statistics.median, zip(*each[1:], strict=True)))  # type: ignore[misc]
        for name, each in times.items()
    }


def bar(what: str, reached: float, wanted: float, at_least: bool) -> None:
    met = reached >= wanted if at_least else reached <= wanted
    sign = "at least" if at_least else "at most"
    print(f"{what:52s} {reached:6.2f} ({sign} {wanted:g}): {'met' if met else 'NOT MET'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--patches", type=int, default=8192)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--larger", action="store_true", help="only: larger than memory")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Use `@` matmul")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "warm").mkdir()
        store = write(Path(name) / "warm", arguments.patches)
        if arguments.larger:
            store.forget()
            both = {kind: batches(store.opened(), shuffle=kind) for kind in ("blocks", "full")}
            some = [
                Way(f"swath, {kind}", arguments.patches, through(lambda loader=loader: loader))
                for kind, loader in both.items()
            ]
        else:
            some = ways(Path(name), store, arguments.files)
        found = measured(some, arguments.rounds)
    limit = next(iter(found.values()))[0]
    print(f"{'way':32s} {'CPU µs/patch':>12s} {'x limit':>8s} {'patches/s':>10s}")
    for way, (cpu, wall) in found.items():
        # The workers' CPU time is not this process's.
        shown = ("-", "-") if "workers" in way else (f"{cpu:.1f}", f"{cpu / limit:.2f}")
        print(f"{way:32s} {shown[0]:>12s} {shown[1]:>8s} {1e6 / wall:10.0f}")
    if not arguments.larger:
        print()
        for way in ("gathered and cast", "swath, normalised", "swath, with no-data"):
            bar(f"CPU time: {way} / bare copy", found[way][0] / limit, 2.5, at_least=False)
        ratio = found["GeoTIFF a patch, 2 workers"][1] / found["swath, normalised"][1]
        bar("rate: swath, normalised / GeoTIFF a patch", ratio, 30, at_least=True)


if __name__ == "__main__":
    main()
