"""Blocks of the ground: squares in metres of the ground, whatever the map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from swath.data.earth import Blocks

METRES = 360 / (2 * np.pi * 6_378_137)
"""Degrees of the equator in a metre."""
UTM = 32632


def patches(west: Any, north: Any, epsg: Any, side: float) -> pd.DataFrame:
    """Patches by their upper-left corners and side in units of the map."""
    found = pd.DataFrame({"west": west, "north": north, "epsg": epsg})
    return found.assign(south=found["north"] - side, east=found["west"] + side)


def square_in_degrees(lat: float, side_m: float, step_m: float) -> tuple[pd.DataFrame, Any, Any]:
    """Patches every so many metres of a square on a map in degrees, and how far north and east."""
    north, east = np.mgrid[0:side_m:step_m, 0:side_m:step_m].reshape(2, -1)
    at = lat + north * METRES
    west = -3 + east * METRES / np.cos(np.radians(at))
    return patches(west, at, 4326, step_m * METRES), north, east


@pytest.mark.parametrize("lat", [-56.0, 0.0, 47.5, 69.0])
def test_blocks_are_squares_of_the_ground_wherever_they_lie(lat: float) -> None:
    """Counted over a region of 100 km: so many blocks, so many patches in each."""
    side, step = 10_000.0, 500.0
    where, north, east = square_in_degrees(lat, 100_000, step)
    numbers = Blocks.of(where, side).numbers
    sizes = np.bincount(numbers)
    assert np.median(sizes) == pytest.approx((side / step) ** 2, rel=0.06)
    for block in np.flatnonzero(sizes > 0.9 * sizes.max())[:20]:
        mine = numbers == block
        assert np.ptp(north[mine]) <= side and np.ptp(east[mine]) <= 1.05 * side


@pytest.mark.parametrize("lat", [-47.5, 0.0, 60.0])
def test_blocks_of_web_mercator_are_as_large_as_those_of_the_ground(lat: float) -> None:
    """A metre of EPSG:3857 is half a metre of the ground at 60°."""
    side, step, stretch = 10_000.0, 500.0, 1 / np.cos(np.radians(lat))
    north, east = np.mgrid[0:60_000:step, 0:60_000:step].reshape(2, -1) * stretch
    middle = 6_378_137 * np.arctanh(np.sin(np.radians(lat)))
    where = patches(east, middle + north - 30_000 * stretch, 3857, step * stretch)
    blocks = Blocks.of(where, side)
    whole = np.bincount(blocks.numbers).max()
    assert whole == pytest.approx((side / step) ** 2, rel=0.06)
    # Its centre is where its patches are.
    block = int(np.bincount(blocks.numbers).argmax())
    mine = blocks.numbers == block
    lon = np.degrees((where["west"] + where["east"])[mine].mean() / 2 / 6_378_137)
    assert blocks.centres()[0][mine][0] == pytest.approx(lon, abs=step * stretch * METRES)


def test_a_part_has_the_blocks_of_the_whole() -> None:
    """In web Mercator a block's size follows from all patches, not from those that are judged."""
    north = np.arange(4e6, 9e6, 20_000.0)
    blocks = Blocks.of(patches(0.0, north, 3857, 1000.0), 50_000.0)
    part = blocks[np.flatnonzero(north > 8e6)]
    np.testing.assert_array_equal(part.keys, blocks.keys[north > 8e6])
    np.testing.assert_array_equal(part.centres()[1], blocks.centres()[1][north > 8e6])


@pytest.mark.parametrize("epsg, unit", [(UTM, 1.0), (2263, 0.3048), (-1, 1.0)])
def test_blocks_are_squares_of_the_map_in_metres(epsg: int, unit: float) -> None:
    where = patches(
        np.array([0.0, 999.0, 1001.0, 1.0, 1.0]) / unit,
        np.array([0.0, -999.0, 0.0, 1.0, 0.0]) / unit,
        [epsg, epsg, epsg, epsg, epsg - 1 if epsg < 0 else 32633],
        10 / unit,
    )
    numbers = Blocks.of(where, 1000.0).numbers
    assert numbers[0] == numbers[1]
    assert len(set(numbers.tolist())) == 4 and numbers.max() == 3


def test_a_patch_that_hangs_from_a_border_is_in_the_block_below() -> None:
    where = patches(0.0, [2000.0, 1500.0, 1000.0], UTM, 10.0)
    first, second, third = Blocks.of(where, 1000.0).numbers
    assert first == second != third


def test_patches_without_a_place_are_a_block_each() -> None:
    mixed = patches(np.arange(11) * 640.0, 0.0, [UTM] * 3 + [0] * 5 + [-1] * 3, 640.0)
    numbers = Blocks.of(mixed, 1e6).numbers
    assert len(set(numbers[:3])) == len(set(numbers[8:])) == 1
    assert len(set(numbers.tolist())) == 1 + 5 + 1 and numbers.max() == 6


@pytest.mark.parametrize(
    "epsg, west, north, lon, lat",
    [
        # 500 km east is the zone's middle meridian, 9°; 25 m more of both is the block's centre.
        (UTM, 500_000.0, 0.0, 9 + 25 * METRES, -25 * METRES),
        (4326, 0.0, 0.0, 25 * METRES, -25 * METRES),
        (-1, 0.0, 0.0, np.nan, np.nan),
    ],
)
def test_a_block_knows_its_centre(epsg, west, north, lon, lat) -> None:
    blocks = Blocks.of(patches([west], [north], epsg, 10.0), 50.0)
    np.testing.assert_allclose(blocks.centres(), [[lon], [lat]], atol=5e-6)
    assert blocks.keys.tolist() == [[epsg, west // 50, 0]]


@pytest.mark.parametrize("lat", [-56.0, 47.5])
def test_the_centre_of_a_block_in_degrees_lies_amid_its_patches(lat: float) -> None:
    side, step = 10_000.0, 250.0
    where, _, _ = square_in_degrees(lat, 60_000, step)
    blocks = Blocks.of(where, side)
    of_each = where.assign(lon=blocks.centres()[0], lat=blocks.centres()[1])
    means = of_each.groupby(blocks.numbers).mean()
    inner = np.bincount(blocks.numbers) > 0.9 * (side / step) ** 2
    assert inner.sum() >= 9
    means = means[inner]
    np.testing.assert_allclose(means["lat"], means["north"], atol=2 * step * METRES)
    np.testing.assert_allclose(means["lon"], means["west"], atol=4 * step * METRES)
