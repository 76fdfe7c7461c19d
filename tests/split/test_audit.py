"""The audit: overlaps and distances known beforehand, by hand or by looking at every pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.warp import transform

from swath.split.audit import audit
from swath.split.ground import Ground, Nearest

MakeGround = Callable[..., Ground]
SharedPairs = Callable[[Ground, np.ndarray], list[tuple[int, int]]]
SIDE_M = 640.0
EAST, NORTH = 500_000.0, 5_300_000.0


def measure(ground: Ground, parts: list[str], buffer_m: float = 0.0, **more: Any) -> dict[str, Any]:
    return audit(ground, np.array(parts, dtype="<U6"), buffer_m=buffer_m, **more)


def at(make_ground: MakeGround, *offsets: tuple[float, float], **more: Any) -> Ground:
    """Patches with their corners so many metres east and south of one point."""
    return make_ground([EAST + x for x, _ in offsets], [NORTH - y for _, y in offsets], **more)


def pairs_of(ground: Ground, first: list[int], second: list[int]) -> list[tuple[int, int, float]]:
    return [
        (int(a), int(b), float(shared))
        for found in ground.overlaps(np.array(first), np.array(second))
        for a, b, shared in zip(found.first, found.second, found.overlap_m2, strict=True)
    ]


# ---- known layouts


def test_an_overlap_is_measured_in_square_metres(make_ground: MakeGround) -> None:
    ground = at(make_ground, (0, 0), (600, 540), (0, 5000), (9000, 0))
    found = measure(ground, ["train", "test", "val", "train"])
    assert found["overlap_m2"] == 40 * 100 and found["overlapping_pairs"] == 1
    assert found["least_distance_m"] == 0.0 and found["passed"] is False
    assert found["problems"] == ["train patch p0 and test patch p1 share 4000 m² (1 such pairs)"]


def test_the_first_problem_names_the_worst_pair(make_ground: MakeGround) -> None:
    ground = at(make_ground, (0, 0), (600, 0), (0, 630), (20_000, 0))
    found = measure(ground, ["test", "train", "train", "val"])
    assert found["overlapping_pairs"] == 2
    assert found["overlap_m2"] == 40 * 640 + 640 * 10
    assert found["problems"] == ["train patch p1 and test patch p0 share 25600 m² (2 such pairs)"]


def test_overlaps_within_a_part_and_with_the_unused_do_not_count(make_ground: MakeGround) -> None:
    ground = at(make_ground, (0, 0), (10, 10), (5, 5), (5000, 0), (0, 9000))
    found = measure(ground, ["train", "train", "unused", "val", "test"])
    assert found["passed"] is True and found["problems"] == []
    assert found["overlap_m2"] == 0.0 and found["overlapping_pairs"] == 0
    assert {part: facts["patches"] for part, facts in found["parts"].items()} == {
        "train": 2, "val": 1, "test": 1, "unused": 1
    }  # fmt: skip


@pytest.mark.parametrize("couple", [("train", "val"), ("train", "test"), ("val", "test")])
def test_every_couple_of_parts_is_compared(
    make_ground: MakeGround, couple: tuple[str, str]
) -> None:
    third = ({"train", "val", "test"} - set(couple)).pop()
    ground = at(make_ground, (0, 0), (600, 0), (20_000, 20_000))
    found = measure(ground, [*couple, third])
    assert found["problems"] == [
        f"{couple[0]} patch p0 and {couple[1]} patch p1 share 25600 m² (1 such pairs)"
    ]


@pytest.mark.parametrize(
    ("offset", "distance"), [((1040, 940), 500), ((-640, 0), 0), ((0, 1000), 360)]
)
def test_the_least_distance_is_between_edges(
    make_ground: MakeGround, offset: tuple[float, float], distance: float
) -> None:
    ground = at(make_ground, (0, 0), offset, (50_000, 0))
    found = measure(ground, ["train", "test", "val"])
    assert found["least_distance_m"] == distance
    assert found["passed"] is True, "without a buffer, parts may touch"


def test_the_nearest_patch_need_not_have_the_nearest_centre(make_ground: MakeGround) -> None:
    # Beside it, 1,400 m away by the centres and 760 m by the edges; cornerwise 1,428 m and 523 m.
    ground = at(make_ground, (0, 0), (1400, 0), (1010, 1010), (50_000, 0))
    for parts in (["train", "test", "test", "val"], ["test", "train", "train", "val"]):
        found = measure(ground, parts)
        assert found["least_distance_m"] == pytest.approx(np.hypot(370, 370))
    assert ground.conflicts(np.array([0]), np.array([1, 2]), 600.0).tolist() == [0]


def test_a_distance_below_the_buffer_is_a_problem_and_the_buffer_itself_is_none(
    make_ground: MakeGround,
) -> None:
    ground = at(make_ground, (0, 0), (1040, 940), (50_000, 0), (0, -700))
    parts = ["train", "test", "val", "train"]
    assert measure(ground, parts, 500.0)["passed"] is True
    found = measure(ground, parts, 500.5)
    assert found["problems"] == [
        "train patch p0 and test patch p1 are 500 m apart, "
        "less than the buffer of 500.5 m (1 train patches are that close)"
    ]
    assert found["overlapping_pairs"] == 0 and found["buffer_m"] == 500.5


def test_the_same_ground_in_two_scenes_is_found(make_ground: MakeGround) -> None:
    ground = at(make_ground, (0, 0), (0, 0), (20_000, 0), scene=[0, 1, 0])
    found = measure(ground, ["train", "test", "val"])
    assert found["overlap_m2"] == 640 * 640


def test_patches_of_different_sizes_are_measured_each_in_its_own(make_ground: MakeGround) -> None:
    # A large patch whose centre is 4 km away reaches over the small one.
    ground = at(make_ground, (0, 0), (400, -2000), (90_000, 0), side=np.array([640, 8000, 640.0]))
    found = measure(ground, ["train", "test", "val"])
    assert found["overlap_m2"] == 240 * 640 and found["overlapping_pairs"] == 1


def test_a_sliver_of_rounding_is_no_overlap(make_ground: MakeGround) -> None:
    for depth, pairs in ((1e-4, 0), (1e-2, 1)):
        ground = at(make_ground, (0, 0), (640 - depth, 0), (20_000, 0))
        assert measure(ground, ["train", "test", "val"])["overlapping_pairs"] == pairs


def test_a_part_without_a_class_is_named_and_a_class_of_no_patch_is_noted(
    make_ground: MakeGround,
) -> None:
    contents = np.array([[1, 4, 0], [3, 0, 0], [1, 1, 0], [2, 5, 0]])
    ground = at(make_ground, (0, 0), (5000, 0), (9000, 0), (20_000, 0), contents=contents)
    found = measure(ground, ["train", "val", "test", "unused"])
    assert found["problems"] == ["part val has nothing of c1"] and not found["passed"]
    assert found["notes"] == ["no patch has c2"]
    assert found["parts"]["val"]["classes"] == {"c0": 3, "c1": 0, "c2": 0}
    lenient = measure(ground, ["train", "val", "test", "unused"], may_lack=("val", "test"))
    assert lenient["passed"] and "part val has nothing of c1" in lenient["notes"]


def test_parts_without_a_patch_have_no_distance(make_ground: MakeGround) -> None:
    found = measure(at(make_ground, (0, 0), (10, 0)), ["train", "train"])
    assert found["least_distance_m"] is None and found["overlapping_pairs"] == 0
    assert found["problems"] == ["part val has no patch", "part test has no patch"]


def test_an_acquisition_in_two_parts_is_a_problem_only_where_the_scheme_says_so(
    make_ground: MakeGround,
) -> None:
    ground = at(make_ground, (0, 0), (5000, 0), (9000, 0), (20_000, 0), scene=[3, 4, 5, 4])
    parts = ["train", "val", "test", "test"]
    assert measure(ground, parts)["passed"]
    found = measure(ground, parts, by_acquisition=True)
    assert found["problems"] == ["1 acquisitions lie in two parts, first scene 4"]
    assert measure(ground, ["train", "unused", "test", "val"], by_acquisition=True)["passed"]


# ---- without a place


def test_without_a_georeference_nothing_is_shown(make_ground: MakeGround) -> None:
    ground = make_ground([np.nan] * 3, [np.nan] * 3, epsg=0)
    found = measure(ground, ["train", "val", "test"])
    assert found["passed"] is False and found["least_distance_m"] is None
    assert found["problems"] == [
        "patches have no georeference: independence of the parts cannot be shown"
    ]
    assert measure(
        at(make_ground, (0, 0), (5000, 0), (9000, 0), (0, 0), epsg=[32632, 32632, 32632, 0]),
        ["train", "val", "test", "unused"],
    )["passed"], "what is not used need not have a place"


def test_a_local_plane_is_measured_in_metres(make_ground: MakeGround) -> None:
    ground = make_ground([0, 40, 200], [0, 0, 0], 50.0, epsg=-1)
    found = measure(ground, ["train", "test", "val"])
    assert found["overlap_m2"] == 10 * 50 and found["overlapping_pairs"] == 1
    assert measure(ground, ["train", "train", "test"])["least_distance_m"] == 110.0


def test_two_local_planes_cannot_be_compared(make_ground: MakeGround) -> None:
    ground = make_ground([0, 0, 200, 900, 1800], [0] * 5, 50.0, epsg=[-1, -2, -1, -1, -2])
    found = measure(ground, ["train", "test", "val", "train", "unused"])
    assert found["overlapping_pairs"] == 0
    assert found["problems"] == [
        "train patch p0 and test patch p1 have no common georeference: independence cannot be shown"
    ]
    mixed = measure(ground, ["train", "train", "val", "test", "unused"])
    assert mixed["problems"] == [
        "train patch p1 and val patch p2 have no common georeference: independence cannot be shown"
    ]
    last = measure(ground, ["train", "unused", "val", "test", "test"])
    assert last["problems"][0].startswith("train patch p0 and test patch p4 have no common")
    assert measure(ground, ["train", "unused", "val", "test", "unused"])["passed"]


def test_a_local_plane_and_the_earth_cannot_be_compared(make_ground: MakeGround) -> None:
    ground = make_ground([0, EAST, EAST + 5000], [0] + [NORTH] * 2, epsg=[-1, 32632, 32632])
    found = measure(ground, ["train", "val", "test"])
    assert found["least_distance_m"] == 5000 - 640
    assert found["problems"][0].startswith("train patch p0 and val patch p1 have no common")


# ---- degrees


@pytest.mark.parametrize("lat", [0.0, 37.5, -64.0, 78.0])
def test_neighbours_on_a_grid_of_degrees_touch_and_do_not_overlap(
    make_ground: MakeGround, lat: float
) -> None:
    side = 64 * 0.0000898315
    number = np.arange(20)
    west, north = np.meshgrid(-7.123 + side * number, lat + side * number)
    ground = make_ground(west.ravel(), north.ravel(), side, epsg=4326)
    parts = np.where(np.indices((20, 20)).sum(0).ravel() % 2, "train", "test")
    parts[-1] = "val"
    found = measure(ground, parts.tolist())
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] == 0.0
    # Set in by a hundredth of a side in both directions, each shares a strip with four neighbours.
    smaller = ground.places.assign(east=ground.places["east"] + side / 100)
    leaking = measure(Ground(smaller, ground.contents, ground.classes), parts.tolist())
    assert leaking["overlapping_pairs"] == 20 * 19


@pytest.mark.parametrize(("lat", "degree_m"), [(0.0, 111_319.49), (60.0, 55_800.0)])
def test_distances_in_degrees_are_metres_on_the_ground(
    make_ground: MakeGround, lat: float, degree_m: float
) -> None:
    # A degree of longitude on WGS84 at 0° and 60°.
    ground = make_ground([10.0, 10.1, 12.0], [lat + 0.005] * 3, 0.01, epsg=4326)
    found = measure(ground, ["train", "test", "val"])
    assert found["least_distance_m"] == pytest.approx(0.09 * degree_m, rel=2e-4)


def test_the_date_line_is_no_seam_in_degrees(make_ground: MakeGround) -> None:
    ground = make_ground([179.995, -180.0, -179.998, 170.0], [-17.0] * 4, 0.005, epsg=4326)
    found = measure(ground, ["train", "test", "unused", "val"])
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] == 0.0
    found = measure(ground, ["train", "unused", "test", "val"])
    assert found["least_distance_m"] == pytest.approx(0.002 * 106_500, rel=1e-3)
    over = make_ground([179.998, -180.0, 170.0], [-17.0] * 3, 0.005, epsg=4326)
    assert measure(over, ["train", "test", "val"])["overlapping_pairs"] == 1


def test_large_patches_that_touch_at_the_date_line_do_not_overlap(make_ground: MakeGround) -> None:
    # Not row by row: in a UTM zone the line between them bends, by metres over 50 km.
    ground = make_ground([179.5, -180.0, 0.0], [-17.0, -17.2, 0.0], 0.5, epsg=4326)
    found = measure(ground, ["train", "test", "val"])
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] == 0.0


def test_the_date_line_is_no_seam_in_web_mercator(make_ground: MakeGround) -> None:
    edge = 20_037_508.342789244
    ground = make_ground([edge - 600, -edge, 0], [1e6] * 3, epsg=3857)
    found = measure(ground, ["train", "test", "val"])
    assert found["overlapping_pairs"] == 1
    assert found["overlap_m2"] == pytest.approx(40 * 640 * 0.9757, rel=0.01)


def test_web_mercator_is_measured_on_the_ground(make_ground: MakeGround) -> None:
    north = 8_399_737.89  # 60° north, where a unit of it is 0.501 m
    ground = make_ground([0, 10_640, 200_000], [north] * 3, epsg=3857)
    found = measure(ground, ["train", "test", "val"])
    assert found["least_distance_m"] == pytest.approx(10_000 * 0.5013, rel=2e-3)
    assert measure(ground, ["train", "test", "val"], 6000.0)["passed"] is False


# ---- zones


def in_zones(
    make_ground: MakeGround, *corners: tuple[float, float, int], south_m: float = 0.0
) -> Ground:
    """Patches whose upper-left corners lie at (lon, lat) in the zone given, in metres.

    The last lies `south_m` further south.
    """
    found = [
        tuple(axis[0] for axis in transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat]))
        for lon, lat, epsg in corners
    ]
    north = [y for _, y in found]
    north[-1] -= south_m
    return make_ground([x for x, _ in found], north, epsg=[zone for _, _, zone in corners])


ZONES = {
    "6° east": (6.0, 48.0, 32631, 32632),
    "6° west, south": (-6.0, -33.0, 32729, 32730),
    "72° north": (12.0, 72.0, 32632, 32633),
    "82° north": (-30.0, 82.0, 32625, 32626),
    "the date line": (180.0, -17.0, 32760, 32701),
}


def across(make_ground: MakeGround, border: str, east_m: float) -> Ground:
    """A patch with its centre 50 m west of a border, and one `east_m` further east."""
    lon, lat, west, east = ZONES[border]
    degrees = np.array([-370.0, east_m - 370.0]) / (111_320 * np.cos(np.radians(lat)))
    lons = (lon + degrees + 180) % 360 - 180
    return in_zones(make_ground, (lons[0], lat, west), (lons[1], lat, east))


@pytest.mark.parametrize("border", ZONES)
def test_patches_of_two_zones_that_overlap_are_found(make_ground: MakeGround, border: str) -> None:
    ground = across(make_ground, border, 100.0)
    shared = [pairs_of(ground, [a], [b])[0][2] for a, b in ((0, 1), (1, 0))]
    # 540 m x 640 m, less the corners: the zones are turned against each other, by up to 6° here.
    assert 0.72 * SIDE_M**2 < shared[0] < 0.85 * SIDE_M**2
    assert shared[1] == pytest.approx(shared[0], rel=3e-3), "each zone has its own scale"
    found = measure(ground, ["train", "test"])
    assert found["passed"] is False and found["least_distance_m"] == 0.0


@pytest.mark.parametrize("border", ZONES)
def test_patches_of_two_zones_that_are_close_are_found(
    make_ground: MakeGround, border: str
) -> None:
    ground = across(make_ground, border, 2400.0)
    first, second = np.array([0]), np.array([1])
    nearest = ground.nearest(first, second)
    # 1,760 m between upright patches; a turned one comes nearer with its corner, by 67 m at most.
    assert nearest and nearest[:2] == (0, 1) and 1685 < nearest.distance_m < 1770
    assert ground.conflicts(first, second, 2000.0).tolist() == [0]
    assert ground.conflicts(first, second, 1500.0).tolist() == []


def test_the_least_distance_looks_across_zones(make_ground: MakeGround) -> None:
    # One part is 30 km away in the same zone, and 8 km away in the next one.
    ground = in_zones(make_ground, (6.0, 48.3, 32631), (6.0, 48.0, 32631), (6.0, 48.0, 32632),
                      south_m=8640.0)  # fmt: skip

    def least(first: list[int], second: list[int]) -> float:
        found = ground.nearest(np.array(first), np.array(second))
        assert found
        return found.distance_m

    assert 32_000 < least([0], [1]) < 33_000
    assert 7900 < least([0, 1], [2]) < 8010
    assert 7900 < least([1], [0, 2]) < 8010, "the nearest patch lies in the other zone"


def test_the_same_numbers_in_distant_zones_are_not_the_same_ground(
    make_ground: MakeGround,
) -> None:
    ground = make_ground([EAST] * 2, [NORTH] * 2, epsg=[32632, 32635])
    found = measure(ground, ["train", "test"], 5000.0)
    assert found["overlapping_pairs"] == 0 and found["problems"] == ["part val has no patch"]
    # 18° of longitude at 47.85° north, along the great circle.
    assert found["least_distance_m"] == pytest.approx(1_341_000, rel=5e-3)


def test_a_scene_in_degrees_and_one_in_utm_share_ground(make_ground: MakeGround) -> None:
    lon, lat = transform("EPSG:32632", "EPSG:4326", [EAST], [NORTH])
    side = 0.01
    ground = make_ground(
        [EAST, lon[0], lon[0] + 0.02],
        [NORTH, lat[0], lat[0]],
        np.array([SIDE_M, side, side]),
        epsg=[32632, 4326, 4326],
    )
    ((a, b, shared),) = pairs_of(ground, [0], [1, 2])
    # The patch of 0.01° is 747 m wide and 1,112 m high here, and turned by hardly anything.
    assert (a, b) == (0, 1) and shared == pytest.approx(SIDE_M**2, rel=1e-3)
    ((a, b, again),) = pairs_of(ground, [1, 2], [0])
    assert (a, b) == (1, 0) and again == pytest.approx(shared, rel=1e-9)


# ---- every pair


def every_pair(
    ground: Ground, first: list[int], second: list[int]
) -> list[tuple[int, int, float, float]]:
    """(first, second, overlap in m², distance in m) of all pairs, one after the other."""
    found = []
    x, y = ground.places["west"].to_numpy(), ground.places["north"].to_numpy()
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
    plane=st.booleans(),
)
def test_pairs_and_distances_are_those_of_looking_at_every_pair(
    make_ground: MakeGround,
    offsets: list[tuple[float, float]],
    share: float,
    reach_m: float,
    plane: bool,
) -> None:
    ground = at(make_ground, *offsets, epsg=-1 if plane else 32632)
    border = min(max(1, round(share * len(offsets))), len(offsets) - 1)
    first, second = list(range(border)), list(range(border, len(offsets)))
    pairs = every_pair(ground, first, second)
    expected = sorted(pair[:3] for pair in pairs if pair[2] > 0)
    assert sorted(pairs_of(ground, first, second)) == [pytest.approx(pair) for pair in expected]
    close = {a for a, _, overlap, distance in pairs if overlap > 0 or distance < reach_m}
    assert ground.conflicts(np.array(first), np.array(second), reach_m).tolist() == sorted(close)
    nearest = ground.nearest(np.array(first), np.array(second))
    assert nearest and nearest.distance_m == pytest.approx(min(pair[3] for pair in pairs))
    assert nearest.distance_m == pytest.approx(
        next(d for a, b, _, d in pairs if (a, b) == nearest[:2])
    ), "the pair named has that distance"

    found = measure(ground, ["train"] * border + ["test"] * len(second), reach_m)
    assert found["overlap_m2"] == pytest.approx(sum(pair[2] for pair in pairs))
    assert found["overlapping_pairs"] == len(expected)
    assert (found["problems"] == ["part val has no patch"]) == (not close)


def test_many_pairs_are_measured_in_portions(
    make_ground: MakeGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swath.split.ground._AT_ONCE", 500)
    x, y = np.meshgrid(np.arange(40) * 320.0, np.arange(40) * 320.0)
    ground = make_ground(EAST + x.ravel(), NORTH - y.ravel())
    even, odd = (np.flatnonzero(np.arange(1600) % 2 == rest) for rest in (0, 1))
    portions = list(ground.overlaps(even, odd))
    assert len(portions) > 10
    # Beside and above: 39 x 40 pairs of neighbours in a row, and on each diagonal 39 x 39.
    pairs = {(int(a), int(b)) for found in portions for a, b in zip(*found[:2], strict=True)}
    assert len(pairs) == sum(len(found.first) for found in portions) == 39 * 40 + 2 * 39 * 39


def test_nothing_to_compare_is_none(make_ground: MakeGround) -> None:
    ground = at(make_ground, (0, 0), (5000, 0))
    nobody = np.array([], dtype=np.int64)
    assert ground.nearest(nobody, np.array([0])) is None
    assert ground.conflicts(np.array([0]), nobody, 100.0).tolist() == []
    assert ground.nearest(np.array([0]), np.array([1])) == Nearest(0, 1, 5000 - 640)


CORNERS = {
    "zones": ((6.0, 48.0), (32631, 32632, 4326, 3857)),
    "date line": ((180.0, -17.0), (32760, 32701, 4326)),
    "north": ((15.0, 79.0), (32633, 32634, 4326, 3995)),
}


@given(
    where=st.sampled_from(sorted(CORNERS)),
    drawn=st.lists(
        st.tuples(st.integers(0, 24), st.integers(0, 24), st.integers(0, 3), st.integers(0, 2)),
        min_size=2,
        max_size=25,
    ),
)
def test_overlaps_between_any_crs_are_those_of_looking_at_every_pair(
    make_ground: MakeGround,
    shared_pairs: SharedPairs,
    where: str,
    drawn: list[tuple[int, int, int, int]],
) -> None:
    ground = scattered(make_ground, where, drawn)
    parts = np.array(["train", "val", "test"], dtype="<U6")[[part for *_, part in drawn]]
    found = {
        tuple(sorted((int(a), int(b))))
        for one, other in (("train", "val"), ("train", "test"), ("val", "test"))
        for pairs in ground.overlaps(np.flatnonzero(parts == one), np.flatnonzero(parts == other))
        for a, b, shared in zip(*pairs[:3], strict=True)
        if shared > 1e-3 * SIDE_M**2
    }
    shared = set(shared_pairs(ground, parts))
    # What is between the two tolerances may be in one and not in the other.
    assert found <= shared
    weak = shared - found
    assert all(pairs_of(ground, [a], [b])[0][2] < 2e-3 * SIDE_M**2 for a, b in weak)


def scattered(
    make_ground: MakeGround, where: str, drawn: list[tuple[int, int, int, int]], **more: Any
) -> Ground:
    """Patches of about 640 m on a grid of 160 m around a place, in the CRSs that meet there."""
    (lon, lat), codes = CORNERS[where]
    west, north, sides, epsg = [], [], [], []
    for column, row, crs, _ in drawn:
        code = codes[crs % len(codes)]
        unit = {4326: 1 / 111_320, 3857: 1 / np.cos(np.radians(lat))}.get(code, 1.0)
        (x,), (y,) = transform("EPSG:4326", f"EPSG:{code}", [lon], [lat])
        east = x + (column - 12) * 160 * unit
        west.append((east + 180) % 360 - 180 if code == 4326 else east)
        north.append(y - (row - 12) * 160 * unit)
        sides.append(SIDE_M * unit)
        epsg.append(code)
    return make_ground(west, north, np.array(sides), epsg=epsg, **more)
