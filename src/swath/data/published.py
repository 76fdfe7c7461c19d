"""Patches as they were published, one by one: pictures in a zip, rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.data.scene import Pixels, in_order, resampled

Read = Callable[[pd.DataFrame], tuple[list[Pixels], NDArray[Any]]]


@dataclass(frozen=True)
class Published:
    """Patches of one size with their places and labels, read some at a time."""

    name: str
    places: pd.DataFrame
    """One row a patch: scene (name of its acquisition), row, col, west, south, east, north, epsg,
    time, name, label where it has one; and what `read` needs."""
    bands: tuple[str, ...]
    """All bands in the order of the card."""
    factors: tuple[tuple[tuple[str, ...], int], ...]
    """Bands of each GSD, and pixels of the finest along one of theirs; the finest first."""
    size_px: int
    """Side of a patch in pixels of the finest bands."""
    gsd_m: float
    dtype: str
    files: tuple[Path, ...]
    read: Read
    """From rows of `places`: images (patch, band, y, x) of each GSD; labels (patch),
    (patch, class) or (patch, y, x)."""
    at_once: int = 500

    @property
    def bytes(self) -> int:
        """Size of the pixels in memory."""
        pixels = sum(len(b) * (self.size_px // factor) ** 2 for b, factor in self.factors)
        return len(self.places) * pixels * np.dtype(self.dtype).itemsize

    def between(self, start: int, stop: int) -> Published:
        """The patches of these rows alone."""
        return replace(self, places=self.places.iloc[start:stop].reset_index(drop=True))

    def on_finest(self, images: Sequence[Pixels], resampling: str) -> Pixels:
        """Images of each GSD as one (patch, band, y, x), bands in the card's order."""
        fine = [
            resampled(image, factor, resampling)
            for image, (_, factor) in zip(images, self.factors, strict=True)
        ]
        parts = [image.swapaxes(0, 1) for image in fine]
        together = in_order(parts, [bands for bands, _ in self.factors], self.bands, 1)
        return np.ascontiguousarray(together.swapaxes(0, 1))
