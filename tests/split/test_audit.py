"""The audit: overlaps and distances known beforehand, by hand or by looking at every pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.warp import transform

from swath.split.audit import audit, close_pairs, footprints, least_distance

MakePlaces = Callable[..., pd.DataFrame]
SIDE_M = 640.0
EAST, NORTH = 500_000.0, 5_300_000.0


def counted(**changes: int) -> dict[str, dict[str, int]]:
    """Class counts of the parts, all of them there unless changed."""
    parts = ("train", "val", "test", "unused")
    return {part: {"Crop": 5, "Forest": changes.get(part, 5)} for part in parts}


def measure(
    places: pd.DataFrame, parts: list[str], buffer_m: float = 0.0, **changes: int
) -> dict[str, Any]:
    return audit(places, np.array(parts), counted(**changes), side_m=SIDE_M, buffer_m=buffer_m)


def at(make_places: MakePlaces, *offsets: tuple[float, float]) -> pd.DataFrame:
    """Patches with their corners so many metres east and south of one point."""
    return make_places([EAST + x for x, _ in offsets], [NORTH - y for _, y in offsets], SIDE_M)


# ---- known layouts


def test_footprints_reach_east_and_south_of_the_corner(make_places: MakePlaces) -> None:
    places = at(make_places, (0, 0))
    assert footprints(places, SIDE_M).tolist() == [[EAST, NORTH - 640, EAST + 640, NORTH]]


def test_an_overlap_is_measured_in_square_metres(make_places: MakePlaces) -> None:
    places = at(make_places, (0, 0), (600, 540), (0, 5000), (9000, 0))
    found = measure(places, ["train", "test", "val", "train"])
    assert found["overlap_m2"] == 40 * 100 and found["overlapping_pairs"] == 1
    assert found["least_distance_m"] == 0.0 and found["passed"] is False
    assert found["problems"] == ["train patch p0 and test patch p1 share 4000 m² (1 such pairs)"]


def test_the_first_problem_names_the_worst_pair(make_places: MakePlaces) -> None:
    places = at(make_places, (0, 0), (600, 0), (0, 630), (20_000, 0))
    found = measure(places, ["test", "train", "train", "val"])
    assert found["overlapping_pairs"] == 2
    assert found["overlap_m2"] == 40 * 640 + 640 * 10
    assert found["problems"] == ["train patch p1 and test patch p0 share 25600 m² (2 such pairs)"]


def test_overlaps_within_a_part_and_with_the_unused_do_not_count(make_places: MakePlaces) -> None:
    places = at(make_places, (0, 0), (10, 10), (5, 5), (5000, 0), (0, 9000))
    found = measure(places, ["train", "train", "unused", "val", "test"])
    assert found["passed"] is True and found["problems"] == []
    assert found["overlap_m2"] == 0.0 and found["overlapping_pairs"] == 0
    assert {part: facts["patches"] for part, facts in found["parts"].items()} == {
        "train": 2, "val": 1, "test": 1, "unused": 1
    }  # fmt: skip


@pytest.mark.parametrize("couple", [("train", "val"), ("train", "test"), ("val", "test")])
def test_every_couple_of_parts_is_compared(
    make_places: MakePlaces, couple: tuple[str, str]
) -> None:
    third = ({"train", "val", "test"} - set(couple)).pop()
    places = at(make_places, (0, 0), (600, 0), (20_000, 20_000))
    found = measure(places, [*couple, third])
    assert found["problems"] == [
        f"{couple[0]} patch p0 and {couple[1]} patch p1 share 25600 m² (1 such pairs)"
    ]


@pytest.mark.parametrize(
    ("offset", "distance"), [((1040, 940), 500), ((-640, 0), 0), ((0, 1000), 360)]
)
def test_the_least_distance_is_between_edges(
    make_places: MakePlaces, offset: tuple[float, float], distance: float
) -> None:
    places = at(make_places, (0, 0), offset, (50_000, 0))
    found = measure(places, ["train", "test", "val"])
    assert found["least_distance_m"] == distance
    assert found["passed"] is True, "without a buffer, parts may touch"


def test_a_distance_below_the_buffer_is_a_problem_and_the_buffer_itself_is_none(
    make_places: MakePlaces,
) -> None:
    places = at(make_places, (0, 0), (1040, 940), (50_000, 0))
    parts = ["train", "test", "val"]
    assert measure(places, parts, 500.0)["passed"] is True
    found = measure(places, parts, 500.5)
    assert found["problems"] == [
        "train patch p0 and test patch p1 are 500 m apart, "
        "less than the buffer of 500.5 m (1 such pairs)"
    ]
    assert found["overlapping_pairs"] == 0 and found["buffer_m"] == 500.5


def test_the_same_ground_in_two_scenes_is_found(make_places: MakePlaces) -> None:
    places = at(make_places, (0, 0), (0, 0), (20_000, 0)).assign(scene=[0, 1, 0])
    found = measure(places, ["train", "test", "val"])
    assert found["overlap_m2"] == 640 * 640


def test_a_missing_class_is_named_with_its_part(make_places: MakePlaces) -> None:
    places = at(make_places, (0, 0), (5000, 0), (10_000, 0))
    found = measure(places, ["train", "val", "test"], val=0)
    assert found["problems"] == ["part val has nothing of Forest"]
    assert found["parts"]["val"]["classes"] == {"Crop": 5, "Forest": 0}
    assert measure(places, ["train", "val", "test"], unused=0)["passed"] is True


def test_without_a_georeference_nothing_is_shown(make_places: MakePlaces) -> None:
    places = make_places([np.nan] * 3, [np.nan] * 3, SIDE_M, epsg=0)
    found = measure(places, ["train", "val", "test"])
    assert found["passed"] is False and found["least_distance_m"] is None
    assert found["problems"] == [
        "patches have no georeference: independence of the parts cannot be shown"
    ]


def test_parts_without_a_patch_have_no_distance(make_places: MakePlaces) -> None:
    found = measure(at(make_places, (0, 0), (10, 0)), ["train", "train"], test=0, val=0)
    assert found["least_distance_m"] is None and found["overlapping_pairs"] == 0
    assert found["problems"] == [
        "part val has nothing of Forest", "part test has nothing of Forest"
    ]  # fmt: skip


# ---- zones


def in_zones(
    make_places: MakePlaces,
    *at_: tuple[float, float, int],
    south_m: float = 0.0,
) -> pd.DataFrame:
    """Patches whose upper-left corners lie at (lon, lat) in the zone given, in metres.

    The last lies `south_m` further south.
    """
    corners = [
        tuple(axis[0] for axis in transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat]))
        for lon, lat, epsg in at_
    ]
    northing = [y for _, y in corners]
    northing[-1] -= south_m
    epsg = [zone for _, _, zone in at_]
    return make_places([x for x, _ in corners], northing, SIDE_M, epsg=epsg)


ZONES = {
    "6° east": (6.0, 48.0, 32631, 32632),
    "6° west, south": (-6.0, -33.0, 32729, 32730),
    "72° north": (12.0, 72.0, 32632, 32633),
    "82° north": (-30.0, 82.0, 32625, 32626),
    "the date line": (180.0, -17.0, 32760, 32701),
}


def across(make_places: MakePlaces, border: str, east_m: float) -> pd.DataFrame:
    """A patch with its centre 50 m west of a border, and one `east_m` further east."""
    lon, lat, west, east = ZONES[border]
    degrees = np.array([-370.0, east_m - 370.0]) / (111_320 * np.cos(np.radians(lat)))
    lons = (lon + degrees + 180) % 360 - 180
    return in_zones(make_places, (lons[0], lat, west), (lons[1], lat, east))


@pytest.mark.parametrize("border", ZONES)
def test_patches_of_two_zones_that_overlap_are_found(make_places: MakePlaces, border: str) -> None:
    places = across(make_places, border, 100.0)
    for first, second in ((0, 1), (1, 0)):
        pairs = close_pairs(places, SIDE_M, np.array([first]), np.array([second]), 0.0)
        assert len(pairs) == 1
        # 540 m x 640 m, but the zones are turned against each other, by up to 6° here.
        assert 0.72 * SIDE_M**2 < pairs["overlap_m2"][0] < 0.95 * SIDE_M**2
    found = measure(places, ["train", "test"], val=5)
    assert found["passed"] is False and found["least_distance_m"] == 0.0


@pytest.mark.parametrize("border", ZONES)
def test_patches_of_two_zones_that_are_close_are_found(
    make_places: MakePlaces, border: str
) -> None:
    places = across(make_places, border, 2400.0)
    pairs = close_pairs(places, SIDE_M, np.array([0]), np.array([1]), 2000.0)
    assert len(pairs) == 1
    # 1,760 m; the box around the turned patch can only make it smaller.
    assert 1640 < pairs["distance_m"][0] < 1770
    assert close_pairs(places, SIDE_M, np.array([0]), np.array([1]), 1500.0).empty


def test_the_least_distance_looks_across_zones(make_places: MakePlaces) -> None:
    # One part is 30 km away in the same zone, and 8 km away in the next one.
    places = in_zones(make_places, (6.0, 48.3, 32631), (6.0, 48.0, 32631), (6.0, 48.0, 32632),
                      south_m=8640.0)  # fmt: skip
    in_zone = least_distance(places, SIDE_M, np.array([0]), np.array([1]))
    assert 32_000 < in_zone < 33_000
    beyond = least_distance(places, SIDE_M, np.array([0, 1]), np.array([2]))
    assert 7900 < beyond < 8010
    both = least_distance(places, SIDE_M, np.array([1]), np.array([0, 2]))
    assert 7900 < both < 8010, "the nearest patch lies in the other zone"


def test_the_same_numbers_in_distant_zones_are_not_the_same_ground(
    make_places: MakePlaces,
) -> None:
    places = make_places([EAST] * 2, [NORTH] * 2, SIDE_M, epsg=[32632, 32635])
    assert close_pairs(places, SIDE_M, np.array([0]), np.array([1]), 5000.0).empty
    assert measure(places, ["train", "test"])["passed"] is True


# ---- every pair


def every_pair(
    places: pd.DataFrame, first: list[int], second: list[int]
) -> list[tuple[int, int, float, float]]:
    """(first, second, overlap in m², distance in m) of all pairs, one after the other."""
    found = []
    x, y = places["easting"].to_numpy(), places["northing"].to_numpy()
    for a in first:
        for b in second:
            gap_x, gap_y = abs(x[a] - x[b]) - SIDE_M, abs(y[a] - y[b]) - SIDE_M
            overlap = gap_x * gap_y if gap_x < 0 and gap_y < 0 else 0.0
            found.append((a, b, overlap, float(np.hypot(max(gap_x, 0), max(gap_y, 0)))))
    return found


OFFSET = st.tuples(st.integers(0, 9000), st.integers(0, 9000)) | st.tuples(
    st.integers(0, 14).map(lambda n: n * 640), st.integers(0, 14).map(lambda n: n * 320)
)


@given(
    offsets=st.lists(OFFSET, min_size=2, max_size=60),
    share=st.floats(0.1, 0.9),
    reach_m=st.sampled_from([0.0, 1.0, 160.0, 1000.0, 3000.0]),
)
def test_pairs_and_distances_are_those_of_looking_at_every_pair(
    make_places: MakePlaces,
    offsets: list[tuple[float, float]],
    share: float,
    reach_m: float,
) -> None:
    places = at(make_places, *offsets)
    border = min(max(1, round(share * len(offsets))), len(offsets) - 1)
    first, second = list(range(border)), list(range(border, len(offsets)))
    pairs = every_pair(places, first, second)
    expected = sorted(pair for pair in pairs if pair[2] > 0 or pair[3] < reach_m)
    found = close_pairs(places, SIDE_M, np.array(first), np.array(second), reach_m)
    np.testing.assert_allclose(
        found.sort_values(["first", "second"]).to_numpy(float),
        np.array(expected, float).reshape(-1, 4),
    )
    least = least_distance(places, SIDE_M, np.array(first), np.array(second))
    assert least == pytest.approx(min(pair[3] for pair in pairs))

    parts = ["train"] * border + ["test"] * len(second)
    result = measure(places, parts, reach_m)
    assert result["overlap_m2"] == pytest.approx(sum(pair[2] for pair in pairs))
    assert result["overlapping_pairs"] == sum(pair[2] > 0 for pair in pairs)
    assert result["passed"] == (not expected)
