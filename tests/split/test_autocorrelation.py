"""The range of spatial autocorrelation: known for fields that are drawn with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from swath.errors import DataError
from swath.split.autocorrelation import autocorrelation
from swath.split.ground import Ground

MakeGround = Callable[..., Ground]
SIDE_M = 640.0


def fields(
    make_ground: MakeGround, width: int, *, size: int = 96, epsg: int = 32632, side: float = SIDE_M
) -> Ground:
    """Squares of `width` patches, each wholly of one of four classes at random."""
    rng = np.random.default_rng(width)
    count = -(-size // width)
    label = np.kron(rng.integers(0, 4, (count, count)), np.ones((width, width), int))
    x, y = np.meshgrid(np.arange(size) * side, np.arange(size) * side)
    corner = (12.0, 48.0) if epsg == 4326 else (400_000.0, 5_400_000.0)
    return make_ground(
        corner[0] + x.ravel(), corner[1] - y.ravel(), side, epsg=epsg,
        label=label[:size, :size].ravel(),
    )  # fmt: skip


@pytest.mark.parametrize("width", [4, 8, 12])
def test_likeness_reaches_as_far_as_the_fields_do(make_ground: MakeGround, width: int) -> None:
    found = autocorrelation(fields(make_ground, width))
    # For squares of side a, Moran's I at distance d is the share of pairs that lie in one square,
    # averaged over all directions: 1 - 4d/(pi a) + d²/(pi a²) (d < a), 0.1 at d = 0.94 a.
    assert found.reached
    assert found.range_m == pytest.approx(0.94 * width * SIDE_M, rel=0.08)
    assert found.block_m % SIDE_M == 0
    assert found.range_m <= found.block_m < found.range_m + SIDE_M
    d = found.distance_m / (width * SIDE_M)
    near = d < 1
    expected = 1 - 4 * d / np.pi + d**2 / np.pi
    np.testing.assert_allclose(found.likeness[near], expected[near], atol=0.06)
    assert np.abs(found.likeness[(d > 2) & (d < 6)]).max() < 0.06


def test_a_lower_level_reaches_farther(make_ground: MakeGround) -> None:
    ground = fields(make_ground, 8)
    ranges = [autocorrelation(ground, level=level).range_m for level in (0.5, 0.2, 0.1)]
    assert ranges == sorted(ranges) and ranges[0] == pytest.approx(0.425 * 8 * SIDE_M, rel=0.2)


def test_degrees_and_planes_give_the_same_range(make_ground: MakeGround) -> None:
    metres = autocorrelation(fields(make_ground, 8))
    plane = autocorrelation(fields(make_ground, 8, epsg=-1))
    assert plane.range_m == pytest.approx(metres.range_m, rel=0.02)
    # At 48° north a degree is 111.2 km high and 74.6 km wide: squares of degrees are 2:3.
    degrees = autocorrelation(fields(make_ground, 8, epsg=4326, side=SIDE_M / 111_200))
    assert 0.65 * metres.range_m < degrees.range_m < metres.range_m


def test_a_region_without_room_gets_smaller_blocks_and_is_told(make_ground: MakeGround) -> None:
    x, y = np.meshgrid(np.arange(40), np.arange(40))
    label = (x > 19).astype(int).ravel()  # one half is forest
    ground = make_ground(4e5 + x.ravel() * SIDE_M, 5e6 - y.ravel() * SIDE_M, label=label)
    found = autocorrelation(ground)
    # The diagonal is 35 km, of which an eighth is 7 patches.
    assert found.block_m == 7 * SIDE_M < found.range_m
    assert "the region has no room for larger ones" in found.line()


def test_chance_has_no_range_but_the_patch_itself(make_ground: MakeGround) -> None:
    found = autocorrelation(fields(make_ground, 1, size=64))
    assert found.range_m <= SIDE_M * 1.2 and found.block_m <= 2 * SIDE_M
    assert found.line() == (
        f"range of spatial autocorrelation (Moran's I below 0.1): {found.range_m:,.0f} m; "
        f"proposed blocks: {found.block_m:,.0f} m"
    )


def test_pixels_and_several_labels_count_by_their_share(make_ground: MakeGround) -> None:
    single = fields(make_ground, 8)
    pixels = Ground(single.places, single.contents * 4096, single.classes)
    assert autocorrelation(pixels).range_m == autocorrelation(single).range_m


@pytest.mark.parametrize("label", [0, 1])
def test_patches_that_are_all_alike_are_told(make_ground: MakeGround, label: int) -> None:
    ground = make_ground(np.arange(50) * SIDE_M, [5e6] * 50, label=label)
    with pytest.raises(DataError) as refused:
        autocorrelation(ground)
    assert str(refused.value) == (
        "split.blocks.size_m: the patches have no places, or all hold the same: "
        "no range of autocorrelation; give the size of blocks"
    )


def test_eurosat_is_alike_over_a_hundred_kilometres(eurosat: Ground) -> None:
    found = autocorrelation(eurosat)
    assert 100_000 < found.range_m < 160_000
    near = found.likeness[found.distance_m < 2000]
    assert near.min() > 0.65, "neighbours are of one class far more often than not"
