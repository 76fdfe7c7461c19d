"""Veracity: what is checked of every scene while its pixels pass by, and what makes it unfit.

The checks cost no pass of their own: each strip of rows is tallied when it is read for cutting.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from swath.data.card import Card


class Tally:
    """Counts over the pixels of a scene, channel by channel, in one pass.

    Args:
        card: what is no data, saturated and plausible.
        channels: names of the channels in the order of `add`.
    """

    def __init__(self, card: Card, channels: Sequence[str]) -> None:
        self.card, self.channels = card, tuple(channels)
        count = len(self.channels)
        self.pixels, self.absent, self.nan, self.saturated, self.implausible = (
            np.zeros(count, np.int64) for _ in range(5)
        )
        self.least, self.most = np.full(count, np.inf), np.full(count, -np.inf)
        self.clear = self.ground = 0
        # One a channel: how many rows are read at a time must not tell.
        self._digests = [xxhash.xxh3_128() for _ in self.channels]

    def add(self, pixels: NDArray[Any], first: int) -> NDArray[np.bool_] | None:
        """Count a strip (channel, y, x) whose first channel is number `first`.

        Returns:
            Where the ground was seen (y, x): a finite number in every channel, not no-data in all
            of them; None where everything was.
        """
        seen_anywhere: NDArray[np.bool_] | None = None
        nan_anywhere: NDArray[np.bool_] | None = None
        every_channel_lacks = True
        floating = np.issubdtype(pixels.dtype, np.floating)
        nodata = self._nodata(pixels.dtype)
        for number, channel in enumerate(pixels, start=first):
            self._digests[number].update(np.ascontiguousarray(channel).data)
            self.pixels[number] += channel.size
            present = channel
            nan = ~np.isfinite(channel) if floating else None
            if nan is not None and nan.any():
                self.nan[number] += np.count_nonzero(nan)
                nan_anywhere = nan if nan_anywhere is None else nan_anywhere | nan
                present = channel[~nan]
            absent = 0
            if nodata is not None:
                absent = present.size - np.count_nonzero(
                    present if nodata == 0 else present != nodata
                )
                if absent:
                    self.absent[number] += absent
                    present = present[present != nodata]
            if not absent:
                every_channel_lacks = False
            elif every_channel_lacks:
                seen = channel != nodata
                seen_anywhere = seen if seen_anywhere is None else seen_anywhere | seen
            if present.size:
                low, high = float(present.min()), float(present.max())
                self.least[number] = min(self.least[number], low)
                self.most[number] = max(self.most[number], high)
                self._beyond(number, present, low, high)
        seen_all = None if not every_channel_lacks else seen_anywhere
        if nan_anywhere is not None:
            seen_all = ~nan_anywhere if seen_all is None else seen_all & ~nan_anywhere
        return seen_all

    def _nodata(self, dtype: np.dtype[Any]) -> Any:
        """The card's no-data as a value of a layer; None where the layer cannot hold it."""
        if self.card.nodata is None or np.issubdtype(dtype, np.floating):
            return self.card.nodata
        known = np.iinfo(dtype)
        return int(self.card.nodata) if known.min <= self.card.nodata <= known.max else None

    def _beyond(self, number: int, present: NDArray[Any], low: float, high: float) -> None:
        """Count what is saturated or implausible; mostly the extremes show that nothing is."""
        ceiling = self.card.saturated
        if ceiling is not None and high >= ceiling:
            self.saturated[number] += np.count_nonzero(present >= ceiling)
        if self.card.valid_range is not None:
            floor, top = self.card.valid_range
            if low < floor or high > top:
                outside = (present < floor) | (present > top)
                if ceiling is not None:
                    outside &= present < ceiling
                self.implausible[number] += np.count_nonzero(outside)

    def add_clear(self, clear: NDArray[np.bool_]) -> None:
        """Count where the mask sees the ground."""
        self.clear += int(np.count_nonzero(clear))
        self.ground += clear.size

    def _digest(self) -> str:
        """Of the pixels, whatever the order of the channels: two files may hold them otherwise."""
        known = sorted(zip(self.channels, self._digests, strict=True), key=lambda of: of[0])
        return xxhash.xxh3_128(
            "".join(f"{n} {d.hexdigest()}\n" for n, d in known).encode()
        ).hexdigest()

    def row(self) -> dict[str, Any]:
        """The scene's line in the table of checks; shares over all channels, worst band named."""
        pixels = max(int(self.pixels.sum()), 1)
        finite = np.isfinite(self.least)
        constant = finite & (self.least == self.most)
        return {
            "pixels": int(self.pixels.sum()),
            "nodata": float((self.absent.sum() + self.nan.sum()) / pixels),
            "nan": float(self.nan.sum() / pixels),
            "saturated": float(self.saturated.sum() / pixels),
            "implausible": float(self.implausible.sum() / pixels),
            "clouds": 1 - self.clear / self.ground if self.ground else None,
            "least": float(self.least[finite].min()) if finite.any() else None,
            "most": float(self.most[finite].max()) if finite.any() else None,
            "constant": [n for n, flat in zip(self.channels, constant, strict=True) if flat],
            "empty": [n for n, some in zip(self.channels, finite, strict=True) if not some],
            "digest": self._digest(),
        }


def faults(
    row: dict[str, Any],
    *,
    max_nodata: float,
    max_clouds: float,
    max_saturated: float,
    max_implausible: float,
    constant_bands: bool,
) -> list[str]:
    """Why a scene is unfit, by its line in the table of checks; empty where it is fit.

    Args:
        row: as `Tally.row` gives it.
        max_nodata: largest share of no-data pixels, NaN and infinite ones included.
        max_clouds: largest share of pixels that the mask hides.
        max_saturated: largest share of saturated pixels.
        max_implausible: largest share of pixels outside the card's `valid_range`.
        constant_bands: whether a band of one single value is accepted.
    """
    found = []
    if row["nodata"] == 1:
        found.append("has no data at all")
    elif row["empty"]:
        found.append(f"has no data in {', '.join(row['empty'][:5])}")
    if row["constant"] and not constant_bands:
        found.append(f"is constant in {', '.join(row['constant'][:5])}")
    limits = {
        "nodata": max_nodata, "clouds": max_clouds,
        "saturated": max_saturated, "implausible": max_implausible,
    }  # fmt: skip
    words = {
        "nodata": "no-data", "clouds": "clouded",
        "saturated": "saturated", "implausible": "implausible",
    }  # fmt: skip
    for key, limit in limits.items():
        if row[key] is not None and row[key] > limit and not (key == "nodata" and row[key] == 1):
            found.append(f"{row[key]:.1%} of its pixels are {words[key]}, more than {limit:.1%}")
    return found
