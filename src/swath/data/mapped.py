"""Arrays of patches in mapped files: gathered by number, or looked at one by one without a copy.

A patch set lies in chunks, each the plain memory of an array (patch, …) and mapped from its file.
Chunks may differ in length, since each shard of a set ends with a shorter one.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAP_BYTES = 1 << 20
"""Pages between two patches that are read with them rather than left out."""


@dataclass
class Coming:
    """A chunk whose file is in an object store until the first of its patches is looked at."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bring: Callable[[], NDArray[Any]]
    """Brings the file, proves it and maps it."""
    _chunk: NDArray[Any] | None = None
    _once: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        with self._once:
            if self._chunk is None:
                self._chunk = np.asarray(self.bring())
        found: NDArray[Any] = self._chunk[rows]
        return found


@dataclass(frozen=True)
class Mapped:
    """A chunked array of patches, mapped into memory."""

    chunks: tuple[NDArray[Any] | Coming, ...]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type."""
        return self.chunks[0].dtype

    def gather(self, patches: NDArray[np.int64]) -> NDArray[Any]:
        """The patches of these numbers, in this order: one indexed copy a chunk."""
        if len(self.chunks) == 1:
            gathered: NDArray[Any] = self._plain[0][patches]
            return gathered
        out = np.empty((len(patches), *self.shape[1:]), self.dtype)
        chunks, rows = self._at(patches)
        for number in np.unique(chunks):
            here = chunks == number
            out[here] = self._plain[number][rows[here]]
        return out

    def views(self, patches: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """The patches of these numbers, in this order, each as it lies in the map: not a copy."""
        chunks, rows = self._at(patches)
        for chunk, row in zip(chunks.tolist(), rows.tolist(), strict=True):
            yield self._plain[chunk][row]

    def announce(self, patches: NDArray[np.int64]) -> None:
        """Let the system begin to read these patches from the disk; returns before it has."""
        chunks, rows = self._at(np.sort(patches))
        # Near ones in one request, which costs less than two without the pages between them.
        near = max(1, GAP_BYTES // max(1, math.prod(self.shape[1:]) * self.dtype.itemsize))
        breaks = np.flatnonzero((np.diff(chunks) != 0) | (np.diff(rows) > near)) + 1
        for of_chunk, run in zip(np.split(chunks, breaks), np.split(rows, breaks), strict=True):
            if len(run) and isinstance(opened := self.chunks[of_chunk[0]], np.memmap):
                _will_need(opened, int(run[0]), int(run[-1]) + 1)

    @cached_property
    def _plain(self) -> list[NDArray[Any] | Coming]:
        """The chunks as plain arrays: each view of an np.memmap would cost 1 µs more."""
        return [c if isinstance(c, Coming) else np.asarray(c) for c in self.chunks]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Number of the first patch of each chunk."""
        return np.cumsum([0, *map(len, self.chunks[:-1])])

    def _at(self, patches: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Chunk and row in it of each patch."""
        chunks = np.searchsorted(self._starts, patches, side="right") - 1
        return chunks, patches - self._starts[chunks]


def _will_need(mapped: np.memmap[Any, Any], first: int, last: int) -> None:
    pages: mmap.mmap = mapped._mmap  # type: ignore[attr-defined]
    # A map begins at a page of its file, the array somewhat after that.
    before = mapped.offset % mmap.ALLOCATIONGRANULARITY
    begin = (before + mapped.strides[0] * first) // mmap.PAGESIZE * mmap.PAGESIZE
    end = min(len(pages), before + mapped.strides[0] * last)
    pages.madvise(mmap.MADV_WILLNEED, begin, end - begin)
