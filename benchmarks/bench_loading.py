"""Loading shuffled batches of patches: from the memory map, through Zarr, and a bare copy.

    .venv/bin/python benchmarks/bench_loading.py [--patches 8192] [--runs 5]

Batches of 128 patches of 64 x 64 px x 13 bands, uint16, become float32. The ways take turns in each
round; the table gives medians of CPU time and their ratio to the bare copy-and-cast of as many
bytes, which is the physical limit.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from swath.data.patches import CHUNK_BYTES
from swath.data.patchset import Mapped

BATCH = 128
SHAPE = (13, 64, 64)


def make(folder: Path, patches: int) -> tuple[Mapped, zarr.Array]:
    """A store as swath writes it, mapped, and the same data in chunks of one patch."""
    size = min(patches, CHUNK_BYTES // (2 * int(np.prod(SHAPE))))
    large = zarr.create_array(
        folder / "large", shape=(patches, *SHAPE), chunks=(size, *SHAPE), dtype="uint16",
        compressors=None, config={"write_empty_chunks": True},
    )  # fmt: skip
    small = zarr.create_array(
        folder / "small", shape=(patches, *SHAPE), chunks=(1, *SHAPE), dtype="uint16",
        compressors=None,
    )  # fmt: skip
    generator = np.random.default_rng(0)
    for start in range(0, patches, size):
        block = generator.integers(0, 10_000, (min(size, patches - start), *SHAPE), np.uint16)
        large[start : start + len(block)] = block
        small[start : start + len(block)] = block
    files = sorted((folder / "large/c").glob("*/0/0/0"), key=lambda p: int(p.parts[-4]))
    chunks = tuple(np.memmap(file, "uint16", "r", shape=(size, *SHAPE)) for file in files)
    return Mapped(chunks, large.shape), small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    order = np.random.default_rng(1).permutation(arguments.patches)
    batches = np.split(order, range(BATCH, len(order), BATCH))
    with tempfile.TemporaryDirectory() as folder:
        mapped, small = make(Path(folder), arguments.patches)
        source = np.zeros((BATCH, *SHAPE), np.uint16)
        few = batches[: max(1, len(batches) // 16)]  # a sixteenth is enough to see it

        ways: dict[str, tuple[Callable[[np.ndarray], object], list[np.ndarray]]] = {
            "bare copy and cast": (lambda b: source[: len(b)].astype(np.float32), batches),
            "swath, gathered from the map": (
                lambda b: mapped.gather(b).astype(np.float32),
                batches,
            ),
            "Zarr, a chunk a patch": (
                lambda b: np.stack([small[i] for i in b]).astype(np.float32),
                few,
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.runs + 1):
            for name, (load, chosen) in ways.items():
                started = time.process_time()
                for batch in chosen:
                    load(batch)
                count = sum(map(len, chosen))
                times[name].append((time.process_time() - started) / count)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    bare = medians["bare copy and cast"]
    for name, each in medians.items():
        print(
            f"{name:30s} {1 / each:9.0f} patches/s of CPU time   {each / bare:6.1f} x the bare copy"
        )


if __name__ == "__main__":
    main()
