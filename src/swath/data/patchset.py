"""A patch set opened for work: mapped into memory, gathered.

A patch set is an index (`manifest.json`, places, contents) over shards; each chunk of a shard is
the plain memory of an array (patch, band, y, x), as `swath.data.patches` writes it.
"""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath import store
from swath.data.card import UNLABELLED
from swath.data.mapped import Coming, Mapped
from swath.data.scene import in_order, resampled
from swath.errors import DataError
from swath.files import prove, read_json

PROVEN_BYTES = 16 << 30
"""Sets up to this size are proven byte by byte whenever they are opened; of larger ones the sizes
of the files, since the stage `measure` has read and proven each shard before."""
TABLES: dict[str, Callable[..., Any]] = {
    "places.parquet": pd.read_parquet,
    "contents.npy": np.load,
}
"""Tables of a patch set and of a shard, and what reads them."""
_SPARE_FILES = 1024
"""Files that a process may hold open beside the maps."""


@dataclass(frozen=True)
class Several:
    """Bands of several GSDs, each mapped in its own pixels, gathered on the finest grid."""

    groups: tuple[Mapped, ...]
    bands: tuple[tuple[str, ...], ...]
    factors: tuple[int, ...]
    wanted: tuple[str, ...]
    dates: int
    resampling: str

    def __len__(self) -> int:
        return len(self.groups[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """(patch, channel, y, x) on the finest grid."""
        return (len(self), self.dates * len(self.wanted), *self.groups[0].shape[-2:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type."""
        return self.groups[0].dtype

    def gather(self, patches: NDArray[np.int64]) -> NDArray[Any]:
        """The patches of these numbers, in this order, with all bands on the finest grid."""
        parts = [
            resampled(group.gather(patches), factor, self.resampling).swapaxes(0, 1)
            for group, factor in zip(self.groups, self.factors, strict=True)
        ]
        together = in_order(parts, self.bands, self.wanted, self.dates)
        return np.ascontiguousarray(together.swapaxes(0, 1))

    def announce(self, patches: NDArray[np.int64]) -> None:
        """Ask the system to begin to read these patches from the disk; returns at once."""
        for group in self.groups:
            group.announce(patches)


@dataclass(frozen=True)
class PatchSet:
    """A patch set opened for work: mapped images and labels, places, contents and facts."""

    image: Mapped | Several
    """(patch, channel, y, x); the channels are the bands, date after date."""
    label: Mapped
    """(patch), (patch, class) or (patch, y, x)."""
    places: pd.DataFrame
    """One row a patch: scene, row, col, west, south, east, north (map units of the CRS), epsg
    (negative: no CRS, but pixels of one scene, in metres), lon, lat (of the centre), time, name."""
    contents: NDArray[np.int64]
    """(patch, class): labelled pixels of each class; 0 or 1 for labels of whole patches."""
    facts: dict[str, Any]
    shards: tuple[tuple[str, int, int], ...] = ()
    """Name of each shard, its first patch, and the one after its last."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the label values."""
        return list(self.facts["classes"])

    @property
    def main_label(self) -> NDArray[np.uint8]:
        """The most frequent class of each patch; `UNLABELLED` where it has none."""
        label = self.contents.argmax(axis=1).astype(np.uint8)
        label[self.contents.sum(axis=1) == 0] = UNLABELLED
        return label

    def of_shard(self, name: str) -> NDArray[np.int64]:
        """Numbers of the patches of a shard."""
        for shard, first, stop in self.shards:
            if shard == name:
                return np.arange(first, stop)
        return np.empty(0, np.int64)


def open_patches(index: Path, *, shard: str | None = None) -> PatchSet:
    """Open a patch set by its index, `manifest.json`.

    Args:
        index: the index.
        shard: the only shard that is going to be read, and so to be proven byte by byte; without
            it, all are, up to `PROVEN_BYTES`.

    Raises:
        DataError: it is absent, or a file of it is absent, cut off or (where proven) changed.
    """
    manifest = read_json(index)
    if "shards" not in manifest:
        raise DataError("is not the index of a patch set", where=index, mend="cut the patches")
    folder = index.parent
    store.bring(
        *(folder / name for name in TABLES),
        *(folder / listed["name"] / "manifest.json" for listed in manifest["shards"]),
    )
    places, contents = _tables(folder)
    if not len(places) == len(contents) == manifest["kept"]:
        raise DataError(
            f"lists {manifest['kept']} patches, its tables {len(places)}",
            where=index,
            mend="run the stage `patches` again",
        )
    stored = places.pop("stored").to_numpy()
    _allow_open(
        sum(
            -(-array["shape"][0] // array["chunk"])
            for of_shard in manifest["shards"]
            for array in of_shard["arrays"].values()
        )
    )
    total = sum(_bytes(listed["arrays"]) for listed in manifest["shards"])
    chunks: dict[str, list[NDArray[Any] | Coming]] = {}
    shards, ends = [], 0
    for listed in manifest["shards"]:
        name, arrays = listed["name"], listed["arrays"]
        proven = total <= PROVEN_BYTES if shard is None else name == shard
        for array, files in _map_shard(folder / name, arrays, proven).items():
            chunks.setdefault(array, []).extend(files)
        first, ends = ends, ends + next(iter(arrays.values()))["shape"][0]
        numbers = np.flatnonzero((stored >= first) & (stored < ends))
        if len(numbers):
            shards.append((name, int(numbers[0]), int(numbers[-1]) + 1))
    if ends != len(stored):  # scenes that were found twice are stored and not listed
        chunks = {name: _listed(of, stored) for name, of in chunks.items()}
    mapped = {
        name: Mapped(tuple(of), (len(stored), *of[0].shape[1:])) for name, of in chunks.items()
    }
    facts = manifest["facts"]
    image: Mapped | Several = mapped["image"]
    if len(facts["groups"]) > 1:
        groups = facts["groups"]
        image = Several(
            groups=tuple(mapped[name] for name in groups),
            bands=tuple(tuple(group["bands"]) for group in groups.values()),
            factors=tuple(group["factor"] for group in groups.values()),
            wanted=tuple(facts["bands"]),
            dates=facts["dates"],
            resampling=facts["resampling"],
        )
    if facts["dates"] > 1:
        dated = [f"{band}@{date}" for date in range(facts["dates"]) for band in facts["bands"]]
        facts = facts | {"bands": dated}
    return PatchSet(image, mapped["label"], places, contents, facts, tuple(shards))


def _tables(folder: Path) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Places and contents of the patches."""
    found = []
    for name, read in TABLES.items():
        mend = "delete it and run the stage `index` again"
        if not (folder / name).is_file():
            raise DataError("there is no such file", where=folder / name, mend=mend)
        try:
            found.append(read(folder / name))
        except (OSError, ValueError, EOFError) as broken:
            raise DataError(f"is damaged ({broken})", where=folder / name, mend=mend) from None
    places, contents = found
    return places, contents


def _allow_open(files: int) -> None:
    """Each map holds its file open: let there be so many more, as far as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SPARE_FILES + files
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bytes(arrays: dict[str, Any]) -> int:
    return sum(
        int(np.prod(array["shape"], dtype=np.int64)) * np.dtype(array["dtype"]).itemsize
        for array in arrays.values()
    )


def _map_shard(
    folder: Path, arrays: dict[str, Any], digests: bool
) -> dict[str, list[NDArray[Any] | Coming]]:
    """The chunks of each array of a shard, mapped; dates and bands as one axis of channels.

    Those that are in an object store come, and are proven, when they are needed.
    """
    manifest = folder / "manifest.json"
    listed = read_json(manifest)["files"]
    found: dict[str, list[NDArray[Any] | Coming]] = {}

    def chunk(
        file: Path, dtype: np.dtype[Any], shape: tuple[int, ...], length: int, digests: bool
    ) -> NDArray[Any]:
        store.bring(file)
        _prove(file, manifest, listed[str(file.relative_to(folder))], digests)
        return np.memmap(file, dtype, "r", shape=shape)[:length]

    for name, array in arrays.items():
        count, *patch = array["shape"]
        size, dtype = array["chunk"], np.dtype(array["dtype"])
        found[name] = []
        for number in range(-(-count // size)):
            file = folder.joinpath("set.zarr", name, "c", str(number), *("0" for _ in patch))
            length = min(size, count - number * size)
            one = (patch[0] * patch[1], *patch[2:]) if len(patch) == 4 else tuple(patch)
            mapped = functools.partial(chunk, file, dtype, (size, *one), length)
            found[name].append(
                Coming((length, *one), dtype, functools.partial(mapped, True))
                if store.is_used()
                else mapped(digests)
            )
    return found


def _prove(file: Path, manifest: Path, entry: dict[str, Any], digests: bool) -> None:
    mend = "delete the shard's folder and cut it again"
    if not file.is_file():
        raise DataError("a chunk is absent", where=file, mend=mend)
    prove(file, entry, by=manifest, digests=digests, mend=mend)


def _listed(
    chunks: list[NDArray[Any] | Coming], stored: NDArray[np.int64]
) -> list[NDArray[Any] | Coming]:
    """The runs of chunks that the index lists; still views of the map."""
    runs: list[NDArray[Any] | Coming] = []
    first = 0
    for chunk in chunks:
        inside = stored[(stored >= first) & (stored < first + len(chunk))] - first
        for run in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1):
            if len(run):
                runs.append(chunk[run[0] : run[-1] + 1])
        first += len(chunk)
    return runs
