"""Schemes that deal patches to train, val and test.

A scheme is a function from the places of the patches to their parts. Each must leave every other
decision to its settings; whether the result may be trained on, the audit says.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.errors import ConfigError, DataError
from swath.registry import NonNegative, Positive, Share, Whole, registered
from swath.split.audit import close_pairs

Parts = NDArray[np.str_]


@registered("scheme")
def random(
    places: pd.DataFrame,
    side_m: float,
    *,
    val: Share = 0.1,
    test: Share = 0.2,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Patches dealt at random. Neighbours land in different parts, so scores are too good."""
    parts = _deal(np.arange(len(places)), val, test, np.random.default_rng(seed), len(places))
    return _with_buffer(parts, places, side_m, buffer_m)


@registered("scheme")
def stratified(
    places: pd.DataFrame,
    side_m: float,
    *,
    val: Share = 0.08,
    test: Share = 0.2,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Patches dealt at random within each class, as in much literature. Leaks like `random`."""
    generator = np.random.default_rng(seed)
    parts = np.full(len(places), "train", dtype="<U6")
    for _, group in places.groupby("label"):
        at = group.index.to_numpy()
        parts[at] = _deal(np.arange(len(at)), val, test, generator, len(at))
    return _with_buffer(parts, places, side_m, buffer_m)


@registered("scheme")
def blocks(
    places: pd.DataFrame,
    side_m: float,
    *,
    size_m: Positive,
    val: Share = 0.15,
    test: Share = 0.2,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Square blocks of the ground dealt whole, so that neighbours stay together.

    Blocks are dealt one by one to the part that lacks most of what it should have, in random
    order, by the class counts of the patches in them: parts come out alike in size and classes.
    A patch belongs to the block of its upper-left corner; what reaches into another part's block
    is left to the buffer.
    """
    _need_places(places, "blocks")
    key = pd.MultiIndex.from_arrays(
        [
            places["epsg"],
            np.floor(places["easting"] / size_m).astype(int),
            np.floor(-places["northing"] / size_m).astype(int),
        ]
    )
    number, _ = pd.factorize(key)
    content = pd.crosstab(number, places["label"]).to_numpy(float)
    shares = {"train": 1 - val - test, "val": val, "test": test}
    if len(content) < sum(share > 0 for share in shares.values()):
        raise ConfigError(
            f"{len(content)} blocks of {size_m:g} m are too few for the parts",
            where="split.blocks.size_m",
            mend="give smaller blocks",
        )
    parts = _deal_blocks(content, shares, np.random.default_rng(seed))[number]
    return _with_buffer(parts, places, side_m, buffer_m)


@registered("scheme")
def longitude(
    places: pd.DataFrame,
    side_m: float,
    *,
    val: Share = 0.2,
    test: Share = 0.2,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """The west trains, the middle validates, the east tests: another region altogether."""
    _need_places(places, "longitude")
    position = places["lon"].rank(method="first", pct=True).to_numpy()
    parts = np.full(len(places), "train", dtype="<U6")
    parts[position > 1 - val - test] = "val"
    parts[position > 1 - test] = "test"
    return _with_buffer(parts, places, side_m, buffer_m)


def _deal(
    at: NDArray[np.int64], val: float, test: float, generator: np.random.Generator, count: int
) -> Parts:
    parts = np.full(count, "train", dtype="<U6")
    order = generator.permutation(at)
    tests, vals = round(count * test), round(count * val)
    parts[order[:tests]] = "test"
    parts[order[tests : tests + vals]] = "val"
    return parts


def _deal_blocks(
    content: NDArray[np.float64], shares: dict[str, float], generator: np.random.Generator
) -> Parts:
    """The part of each block (block, class counts): each part gets its share of each class."""
    names = [name for name, share in shares.items() if share > 0]
    wanted = np.array([shares[name] for name in names])[:, None] * content.sum(axis=0)
    have = np.zeros_like(wanted)
    scale = np.maximum(content.sum(axis=0), 1)
    dealt = np.empty(len(content), dtype="<U6")
    # Rich blocks first, random among equals: the small ones then even out what is left.
    order = np.lexsort([generator.random(len(content)), -content.sum(axis=1)])
    for block in order:
        after = ((wanted - have - content[block]) / scale).clip(max=0).sum(axis=1)
        lack = ((wanted - have) / np.maximum(wanted, 1)).mean(axis=1)
        part = int(np.argmax(lack + after))
        have[part] += content[block]
        dealt[block] = names[part]
    return dealt


def _need_places(places: pd.DataFrame, scheme: str) -> None:
    if not places["epsg"].to_numpy().all():
        raise DataError(
            "the patches have no georeference",
            where=f"split.{scheme}",
            mend="choose split=stratified, or name a table of places in the dataset's layout",
        )


def _with_buffer(parts: Parts, places: pd.DataFrame, side_m: float, buffer_m: float) -> Parts:
    """Leave out what lies within the buffer of a rarer part: first train, then val."""
    if not buffer_m:
        return parts
    parts = parts.copy()
    for yielding, staying in (("train", "val"), ("train", "test"), ("val", "test")):
        first, second = np.flatnonzero(parts == yielding), np.flatnonzero(parts == staying)
        close = close_pairs(places, side_m, first, second, buffer_m)
        parts[close["first"].to_numpy(np.int64)] = "unused"
    return parts
