"""Schemes: right shares, the same for a seed, and apart on the ground whatever is drawn."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from rasterio.warp import transform
from scipy.spatial import cKDTree

from swath import registry
from swath.errors import ConfigError, DataError
from swath.split.audit import audit
from swath.split.ground import Ground
from swath.split.schemes import blocks, few_shot, longitude, random, stratified, time

MakeGround = Callable[..., Ground]
SharedPairs = Callable[[Ground, np.ndarray], list[tuple[int, int]]]
SCHEMES = list(registry.entries("scheme"))
BY_SHARES = ("random", "stratified", "blocks", "longitude", "time")
HONEST = ("random", "stratified")
"""Schemes that may leak."""
SIDE_M = 640.0


def deal(scheme: str, ground: Ground, **settings: Any) -> np.ndarray:
    return registry.load("scheme", scheme)(ground, **settings)


def share(parts: np.ndarray, part: str) -> float:
    return float((parts == part).mean())


def seen(ground: Ground, parts: np.ndarray, buffer_m: float = 0.0) -> dict[str, Any]:
    return audit(ground, parts, buffer_m=buffer_m)


def settings_of(scheme: str) -> dict[str, Any]:
    """What a scheme needs on the region below."""
    return {"blocks": {"size_m": 5000.0}}.get(scheme, {})


@pytest.fixture(scope="module")
def region(make_ground: MakeGround) -> Ground:
    """4,000 patches on 100 x 100 km, in four classes of unequal frequency, seen on 400 days."""
    rng = np.random.default_rng(4)
    label = rng.choice(4, 4000, p=[0.4, 0.3, 0.2, 0.1])
    west, north = rng.uniform(300_000, 400_000, 4000), rng.uniform(5_200_000, 5_300_000, 4000)
    scene = rng.integers(0, 400, 4000)
    when = np.datetime64("2018-01-01", "s") + scene * np.timedelta64(86_400, "s")
    return make_ground(west, north, label=label, scene=scene, time=when)


# ---- every scheme that deals by shares


@pytest.mark.parametrize("scheme", BY_SHARES)
def test_shares_are_as_asked_for(region: Ground, scheme: str) -> None:
    known = registry.entry("scheme", scheme).settings
    for wanted in ({k: known[k][1] for k in ("val", "test")}, {"val": 0.3, "test": 0.1}):
        (parts,) = deal(scheme, region, **settings_of(scheme) | wanted)
        assert {"train", "val", "test"} <= set(parts)
        # What is left out for lying too near is taken from train, and then from val.
        assert share(parts, "test") == pytest.approx(wanted["test"], abs=0.02)
        assert share(parts, "val") <= wanted["val"] + 0.02
        assert share(parts, "train") + share(parts, "unused") >= 1 - sum(wanted.values()) - 0.04
        if scheme in HONEST:
            assert share(parts, "val") == pytest.approx(wanted["val"], abs=0.001)


@pytest.mark.parametrize("scheme", BY_SHARES)
def test_a_seed_decides_the_parts(region: Ground, scheme: str) -> None:
    settings = settings_of(scheme)
    first = deal(scheme, region, **settings)
    np.testing.assert_array_equal(first, deal(scheme, region, **settings))
    if "seed" in registry.entry("scheme", scheme).settings:
        other = deal(scheme, region, **settings, seed=7)
        np.testing.assert_array_equal(other, deal(scheme, region, **settings, seed=7))
        assert (first != other).mean() > 0.1


@pytest.mark.parametrize("scheme", BY_SHARES)
def test_no_share_means_no_patch(region: Ground, scheme: str) -> None:
    assert "val" not in deal(scheme, region, **settings_of(scheme), val=0.0)


@pytest.mark.parametrize("scheme", BY_SHARES)
def test_shares_that_leave_nothing_to_train_on_are_refused(region: Ground, scheme: str) -> None:
    with pytest.raises(ConfigError) as refused:
        deal(scheme, region, **settings_of(scheme) | {"val": 0.5, "test": 0.5})
    assert str(refused.value) == (
        f"split.{scheme}: val and test take 1 of the patches; leave a share to train on"
    )


@pytest.mark.parametrize("scheme", [s for s in BY_SHARES if s != "time"])
def test_a_buffer_leaves_the_rarer_parts_whole(region: Ground, scheme: str) -> None:
    settings = settings_of(scheme)
    without, buffered = (deal(scheme, region, **settings, buffer_m=b)[0] for b in (0.0, 400.0))
    assert (without == "unused").sum() < (buffered == "unused").sum() < len(region)
    used = buffered != "unused"
    np.testing.assert_array_equal(buffered[used], without[used])
    np.testing.assert_array_equal(buffered == "test", without == "test")
    found = seen(region, buffered, 400.0)
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] >= 400.0


@pytest.mark.parametrize("val", [0.1, 0.0])
@pytest.mark.parametrize("scheme", BY_SHARES)
def test_in_folds_each_patch_tests_once_and_validates_in_the_fold_before(
    region: Ground, scheme: str, val: float
) -> None:
    parts = deal(scheme, region, **settings_of(scheme) | {"val": val, "folds": 4})
    assert parts.shape == (4, 4000)
    np.testing.assert_array_equal((parts == "test").sum(axis=0), 1)
    sizes = (parts == "test").sum(axis=1)
    assert sizes.sum() == 4000 and sizes.min() > 900
    if val:
        before = np.roll(parts, 1, axis=0)
        validated = before[parts == "test"]
        assert set(validated) <= {"val", "unused"} and (validated == "val").mean() > 0.6
    else:
        assert "val" not in parts


@pytest.mark.parametrize("scheme", BY_SHARES)
def test_two_folds_need_every_patch_to_train_and_test(region: Ground, scheme: str) -> None:
    settings = settings_of(scheme) | {"folds": 2}
    with pytest.raises(ConfigError, match="two folds, one to test and one to validate"):
        deal(scheme, region, **settings, val=0.1)
    parts = deal(scheme, region, **settings, val=0.0)
    np.testing.assert_array_equal((parts == "test").sum(axis=0), 1)


@pytest.mark.parametrize("scheme", ["blocks", "longitude", "regions"])
def test_a_spatial_scheme_without_georeference_is_told_in_one_line(
    make_ground: MakeGround, scheme: str
) -> None:
    nowhere = make_ground([np.nan] * 9, [np.nan] * 9, epsg=0)
    settings = {"file": "x", "attribute": "y"} if scheme == "regions" else {}
    with pytest.raises(DataError) as refused:
        deal(scheme, nowhere, **settings)
    assert str(refused.value) == (
        f"split.{scheme}: the patches have no georeference; choose split=stratified, "
        "or name a table of places in the dataset's layout"
    )


@pytest.mark.parametrize("scheme", ["longitude", "regions"])
def test_a_local_plane_has_no_longitude(make_ground: MakeGround, scheme: str) -> None:
    plane = make_ground(np.arange(9) * 640.0, [0] * 9, epsg=-1)
    settings = {"file": "x", "attribute": "y"} if scheme == "regions" else {}
    with pytest.raises(DataError, match="the patches lie on local planes"):
        deal(scheme, plane, **settings)


@pytest.mark.parametrize("scheme", HONEST)
def test_other_schemes_need_no_georeference(
    make_ground: MakeGround, region: Ground, scheme: str
) -> None:
    nowhere = Ground(region.places.assign(epsg=0, lon=np.nan), region.contents, region.classes)
    np.testing.assert_array_equal(deal(scheme, nowhere), deal(scheme, region))


# ---- random and stratified


def test_random_deals_exact_numbers(region: Ground) -> None:
    (parts,) = random(region, val=0.1, test=0.25, seed=1)
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [2600, 400, 1000]


def test_stratified_keeps_the_share_of_each_class(region: Ground) -> None:
    (parts,) = stratified(region, val=0.08, test=0.2)
    for has in region.contents.T.astype(bool):
        for part, wanted in (("val", 0.08), ("test", 0.2)):
            assert abs((parts[has] == part).sum() - wanted * has.sum()) <= 1, part


def test_stratified_folds_are_alike_in_each_class(region: Ground) -> None:
    parts = stratified(region, val=0.1, folds=5)
    for has in region.contents.T.astype(bool):
        counts = (parts[:, has] == "test").sum(axis=1)
        assert counts.max() - counts.min() <= 1


def test_stratified_by_pixels_goes_by_the_most_frequent_class(make_ground: MakeGround) -> None:
    rng = np.random.default_rng(2)
    contents = rng.multinomial(4096, [0.5, 0.3, 0.2], 600) + (rng.random((600, 3)) < 0.3) * 2000
    ground = make_ground(np.arange(600) * 700.0, [5e6] * 600, contents=contents)
    most = contents.argmax(axis=1)
    (parts,) = stratified(ground, val=0.1, test=0.3)
    for label in range(3):
        assert abs((parts[most == label] == "test").sum() - 0.3 * (most == label).sum()) <= 1


def test_stratified_with_several_labels_gives_rare_classes_their_share(
    make_ground: MakeGround,
) -> None:
    rng = np.random.default_rng(3)
    shares = np.array([0.97, 0.4, 0.3, 0.1, 0.02, 0.01])
    contents = (rng.random((3000, 6)) < shares).astype(np.int64)
    ground = make_ground(np.arange(3000) * 700.0, [5e6] * 3000, contents=contents)
    by_strata, by_chance = (
        np.array(
            [[(p[has] == part).mean() for part in ("val", "test")] for has in contents.T > 0]
        )
        for p in (stratified(ground, val=0.2, test=0.2)[0], random(ground, val=0.2, test=0.2)[0])
    )  # fmt: skip
    # A class of 30 patches: to within one patch of its share, where chance is off by several.
    assert np.abs(by_strata - 0.2).max() < 0.04 < np.abs(by_chance - 0.2).max()
    assert (stratified(ground, val=0.2, test=0.2)[0] == "test").mean() == pytest.approx(
        0.2, abs=0.02
    )
    assert (stratified(ground, folds=5) == "test").sum(axis=0).tolist() == [1] * 3000


def test_random_and_stratified_leak_and_the_audit_says_so(region: Ground) -> None:
    for scheme in HONEST:
        found = seen(region, deal(scheme, region)[0])
        assert not found["passed"] and found["overlapping_pairs"] > 100


# ---- blocks


def block_of(ground: Ground, size_m: float) -> list[pd.Series]:
    corner = ground.places
    return [np.floor(corner["west"] / size_m), np.floor(-corner["north"] / size_m)]


def test_a_block_is_dealt_whole_by_the_corners_of_its_patches(region: Ground) -> None:
    (parts,) = blocks(region, size_m=5000.0)
    used = pd.Series(parts).where(parts != "unused")
    in_block = used.groupby(block_of(region, 5000.0)).nunique()
    assert len(in_block) == 400 and (in_block <= 1).all()
    assert 0 < (parts == "unused").sum() < 800, "what reaches into another part's block"


def test_blocks_on_the_grid_of_the_patches_leave_nothing_out(make_ground: MakeGround) -> None:
    x, y = np.meshgrid(np.arange(30) * SIDE_M, np.arange(30) * SIDE_M)
    ground = make_ground(320_000 + x.ravel(), 5_120_000 - y.ravel())
    (parts,) = blocks(ground, size_m=3 * SIDE_M)
    found = seen(ground, parts)
    assert found["passed"] and found["least_distance_m"] == 0.0
    assert "unused" not in parts


def test_blocks_give_each_part_its_share_of_classes_that_lie_in_clusters(
    make_ground: MakeGround,
) -> None:
    rng = np.random.default_rng(5)
    towns = rng.uniform(0, 100_000, (120, 2))
    at = np.repeat(towns, 25, axis=0) + rng.normal(0, 800, (3000, 2))
    label = np.repeat(rng.choice(3, 120, p=[0.5, 0.35, 0.15]), 25)
    ground = make_ground(300_000 + at[:, 0], 5_300_000 - at[:, 1], 10.0, label=label)
    (parts,) = blocks(ground, size_m=5000.0, val=0.15, test=0.2)
    for has in ground.contents.T.astype(bool):
        assert share(parts[has], "val") == pytest.approx(0.15, abs=0.06)
        assert share(parts[has], "test") == pytest.approx(0.2, abs=0.06)


def test_blocks_in_degrees_have_their_size_in_metres(make_ground: MakeGround) -> None:
    step = 0.0005
    west, north = np.meshgrid(12.0 + step * np.arange(200), 60.0 + step * np.arange(100))
    ground = make_ground(west.ravel(), north.ravel(), step, epsg=4326)
    (parts,) = blocks(ground, size_m=1000.0)
    # 1,000 m are 0.008983° of latitude, and at 60° north 0.01797° of longitude: 18 and 36 patches.
    rows = parts.reshape(100, 200)
    down, along = (
        [n for line in lines for n in [len(list(run)) for _, run in itertools.groupby(line)][1:-1]]
        for lines in (rows.T, rows)
    )
    assert 17 <= min(down) <= 18 and 35 <= min(along) <= 37
    assert seen(ground, parts)["overlapping_pairs"] == 0


def test_blocks_on_a_local_plane(make_ground: MakeGround) -> None:
    x, y = np.meshgrid(np.arange(40) * 16.0, np.arange(40) * 16.0)
    ground = make_ground(x.ravel(), -y.ravel(), 32.0, epsg=-1)
    (parts,) = blocks(ground, size_m=160.0, val=0.2, test=0.2)
    found = seen(ground, parts)
    assert found["passed"] and found["least_distance_m"] == 0.0
    assert share(parts, "test") > 0.15


def test_blocks_without_a_size_are_as_large_as_likeness_reaches(make_ground: MakeGround) -> None:
    # Fields of 8 x 8 patches, each of one class.
    rng = np.random.default_rng(1)
    label = np.kron(rng.integers(0, 4, (16, 16)), np.ones((8, 8), int))
    x, y = np.meshgrid(np.arange(128) * SIDE_M, np.arange(128) * SIDE_M)
    ground = make_ground(320_000 + x.ravel(), 5_120_000 - y.ravel(), label=label.ravel())
    proposed = blocks(ground)
    sizes = [n for n in range(1, 17) if (blocks(ground, size_m=n * SIDE_M) == proposed).all()]
    assert len(sizes) == 1 and 5 <= sizes[0] <= 9


def test_blocks_as_large_as_the_region_are_refused_in_one_line(make_ground: MakeGround) -> None:
    ground = make_ground([300_000.0] * 5, [5_250_000.0] * 5)
    with pytest.raises(ConfigError) as refused:
        blocks(ground, size_m=1e6)
    assert str(refused.value) == (
        "split.blocks.size_m: 1 blocks of 1e+06 m are too few for the parts; give smaller blocks"
    )


# ---- longitude


def test_longitude_trains_in_the_west_and_tests_in_the_east(region: Ground) -> None:
    (parts,) = longitude(region, val=0.1, test=0.3)
    lon = region.places["lon"]
    assert lon[parts == "train"].max() < lon[parts == "val"].min()
    assert lon[parts == "val"].max() < lon[parts == "test"].min()
    assert (parts == "test").sum() == 1200 and (parts == "val").sum() <= 400


@pytest.mark.parametrize("middle", [180.0, 0.0, 90.0])
def test_the_west_begins_after_the_widest_gap(make_ground: MakeGround, middle: float) -> None:
    lon = middle + np.array([-3.0, -2, -1, -0.5, 0.1, 1, 1.5, 2, 2.5, 3])
    lon = (lon + 180) % 360 - 180
    ground = make_ground(lon, [-17.0] * 10, 0.01, epsg=4326)
    (parts,) = longitude(ground, val=0.2, test=0.3)
    assert parts.tolist() == ["train"] * 5 + ["val"] * 2 + ["test"] * 3


def test_folds_by_longitude_are_strips(region: Ground) -> None:
    parts = longitude(region, val=0.0, folds=3)
    lon = region.places["lon"]
    assert lon[parts[0] == "test"].max() < lon[parts[1] == "test"].min()
    assert lon[parts[1] == "test"].max() < lon[parts[2] == "test"].min()


# ---- time


def days(*numbers: int) -> np.ndarray:
    return np.datetime64("2018-01-01", "s") + np.array(numbers) * np.timedelta64(86_400, "s")


def test_time_trains_on_what_was_first_and_keeps_days_whole(region: Ground) -> None:
    (parts,) = time(region, val=0.2, test=0.2)
    when = region.places["time"]
    assert when[parts == "train"].max() < when[parts == "val"].min()
    assert when[parts == "val"].max() < when[parts == "test"].min()
    found = audit(region, parts, buffer_m=0.0, by_acquisition=True)
    assert found["passed"], found["problems"]


def test_few_dates_reach_every_part(make_ground: MakeGround) -> None:
    when = days(*[0] * 90, *[3] * 5, *[5] * 5)
    ground = make_ground(np.arange(100) * 700.0, [5e6] * 100, time=when, scene=np.arange(100))
    (parts,) = time(ground, val=0.2, test=0.2)
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [90, 5, 5]
    assert (time(ground, val=0.2, folds=3) == "test").sum(axis=1).tolist() == [90, 5, 5]
    with pytest.raises(ConfigError) as refused:
        time(ground, folds=4)
    assert str(refused.value) == (
        "split.time: 3 acquisition times are too few for 4 parts; "
        "add scenes of other dates, or choose another scheme"
    )


def test_time_by_dates(make_ground: MakeGround) -> None:
    when = days(0, 40, 59, 60, 80, 400)
    ground = make_ground(np.arange(6) * 700.0, [5e6] * 6, time=when, scene=np.arange(6))
    (parts,) = time(ground, val_from="2018-03-01", test_from="2019-01-01")
    assert parts.tolist() == ["train"] * 2 + ["val"] * 3 + ["test"]
    (parts,) = time(ground, test_from="2018-03-02T00:00:00")
    assert parts.tolist() == ["train"] * 3 + ["test"] * 3
    with pytest.raises(ConfigError) as refused:
        time(ground, test_from="soon")
    assert str(refused.value) == ("split.time.test_from: 'soon' is no date; write it as 2018-06-30")
    with pytest.raises(ConfigError, match="dates without test_from, or with folds"):
        time(ground, val_from="2018-03-01")


def test_a_scene_goes_by_the_first_of_its_times(make_ground: MakeGround) -> None:
    ground = make_ground(
        np.arange(4) * 700.0, [5e6] * 4, time=days(0, 50, 90, 99), scene=[0, 1, 1, 2]
    )
    (parts,) = time(ground, test_from="2018-03-01", val_from="2018-02-15")
    assert parts.tolist() == ["train", "val", "val", "test"]


def test_the_same_ground_at_two_dates_is_left_out_of_train(make_ground: MakeGround) -> None:
    ground = make_ground([0, 0, 5000, 9000], [5e6] * 4, time=days(0, 50, 0, 20), scene=[0, 2, 0, 1])
    (parts,) = time(ground, val_from="2018-01-15", test_from="2018-02-01")
    assert parts.tolist() == ["unused", "test", "train", "val"]


def test_patches_without_a_time_are_told(make_ground: MakeGround) -> None:
    with pytest.raises(DataError) as refused:
        time(make_ground([0, 5000], [5e6] * 2))
    assert str(refused.value) == (
        "split.time: 2 patches have no acquisition time; "
        "choose another scheme, or give the scenes their times"
    )


# ---- few-shot


def test_few_shot_draws_as_many_of_each_class(region: Ground) -> None:
    of = {"scheme": "longitude", "buffer_m": 500.0}
    (parts,), (base,) = few_shot(region, shots=5, of=of), longitude(region, buffer_m=500.0)
    train = parts == "train"
    assert region.contents[train].sum(axis=0).tolist() == [5, 5, 5, 5]
    assert (base[train] == "train").all()
    rest = base != "train"
    np.testing.assert_array_equal(parts[rest], base[rest])
    assert set(parts[~train & ~rest]) == {"unused"}
    assert (few_shot(region, shots=5, of=of, seed=1)[0] != parts).sum() > 20


def test_few_shot_takes_all_of_a_class_with_fewer(make_ground: MakeGround) -> None:
    label = np.array([0] * 50 + [1] * 10)
    ground = make_ground(np.arange(60) * 700.0, [5e6] * 60, label=label)
    of = {"scheme": "stratified", "val": 0.2, "test": 0.2, "folds": 3}
    parts = few_shot(ground, shots=7, of=of)
    # In three folds, a third tests and a third validates: 3 or 4 of the rare class are left.
    assert parts.shape == (3, 60)
    for fold in parts:
        counts = ground.contents[fold == "train"].sum(axis=0)
        assert counts[0] == 7 and counts[1] in (3, 4)


def test_few_shot_with_several_labels_reaches_every_class(make_ground: MakeGround) -> None:
    rng = np.random.default_rng(3)
    contents = (rng.random((500, 5)) < [0.6, 0.5, 0.3, 0.1, 0.05]).astype(np.int64)
    ground = make_ground(np.arange(500) * 700.0, [5e6] * 500, contents=contents)
    (parts,) = few_shot(ground, shots=4, of={"scheme": "random"})
    counts = contents[parts == "train"].sum(axis=0)
    assert counts.min() >= 4 and (parts == "train").sum() <= 20


@pytest.mark.parametrize(
    ("of", "line"),
    [
        ({}, "split.few_shot.of.scheme: no scheme is named; give scheme"),
        (
            {"scheme": "block"},
            "split.few_shot.of.scheme: no scheme is named 'block'; did you mean 'blocks'?",
        ),
        (
            {"scheme": "blocks", "size": 3},
            "split.few_shot.of.size: unknown key; did you mean 'size_m'?",
        ),
        (
            {"scheme": "blocks", "size_m": -3.0},
            "split.few_shot.of.size_m: -3.0 will not do; it should be greater than 0",
        ),
        (
            {"scheme": "regions", "file": "x"},
            "split.few_shot.of.attribute: has no value; give it one",
        ),
    ],
)
def test_what_few_shot_draws_from_is_checked(region: Ground, of: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        few_shot(region, shots=1, of=of)
    assert str(refused.value) == line


# ---- whatever is drawn

CORNERS = {
    "zones": ((6.0, 48.0), (32631, 32632, 4326, 3857)),
    "date line": ((180.0, -17.0), (32760, 32701, 4326)),
    "plane": ((0.0, 0.0), (-1,)),
}
DRAWN = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 3), st.integers(0, 3)),
    min_size=6,
    max_size=30,
)


def lists_of(folder: Path, drawn: list[tuple[int, int, int, int]]) -> dict[str, Any]:
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number, (*_, kind) in enumerate(drawn):
        parts[("train", "val", "test", "train")[kind]].append(f"p{number}")
    (folder / "parts.json").write_text(json.dumps(parts))
    return {"file": "parts.json"}


def squares(folder: Path, lon: float, lat: float) -> dict[str, Any]:
    """Three regions that meet in the middle of what is drawn."""
    strips = {"a": (-1.0, -0.005), "b": (-0.005, 0.01), "c": (0.01, 1.0)}
    features = [
        {
            "type": "Feature",
            "properties": {"name": name},
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[lon + x, lat + y] for x, y in ((w, -1), (e, -1), (e, 1), (w, 1), (w, -1))]
                ],
            },
        }
        for name, (w, e) in strips.items()
    ]
    collection = {"type": "FeatureCollection", "features": features}
    (folder / "strips.geojson").write_text(json.dumps(collection))
    return {"file": "strips.geojson", "attribute": "name"}


@examples(max_examples=100)
@given(
    where=st.sampled_from(sorted(CORNERS)),
    drawn=DRAWN,
    scheme=st.sampled_from(sorted(set(SCHEMES) - set(HONEST))),
    folds=st.sampled_from([1, 3]),
    buffer_m=st.sampled_from([0.0, 0.0, 160.0, 700.0]),
    size_m=st.sampled_from([700.0, 2000.0, 3210.0]),
)
@pytest.mark.parametrize("several", [False, True])
def test_no_scheme_ever_yields_an_overlap(
    make_ground: MakeGround,
    shared_pairs: SharedPairs,
    tmp_path_factory: pytest.TempPathFactory,
    several: bool,
    where: str,
    drawn: list[tuple[int, int, int, int]],
    scheme: str,
    folds: int,
    buffer_m: float,
    size_m: float,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    ground = scattered(make_ground, where, drawn, data=folder, several=several)
    settings: dict[str, Any] = {"buffer_m": buffer_m, "folds": folds}
    of_blocks = {"size_m": size_m}
    settings |= {
        "blocks": of_blocks,
        "official": lists_of(folder, drawn) if scheme == "official" else {},
        "regions": squares(folder, *CORNERS[where][0])
        | ({"val": ["b"], "test": ["c"]} if folds == 1 else {}),
    }.get(scheme, {})
    if scheme == "official":
        del settings["folds"]
    if scheme == "few_shot":
        settings = {"shots": 2, "of": {"scheme": "blocks", **settings, **of_blocks}}
    try:
        parts = deal(scheme, ground, **settings)
    except (ConfigError, DataError):
        assume(False)
    for fold in parts:
        assert shared_pairs(ground, fold) == []
        found = seen(ground, fold, buffer_m)
        assert found["overlap_m2"] == 0 and found["overlapping_pairs"] == 0
        assert not [p for p in found["problems"] if "apart" in p or "share" in p]
        least = found["least_distance_m"]
        assert least is None or least >= buffer_m - 1e-3
        if scheme == "time":
            used = fold != "unused"
            scene = pd.Series(fold[used]).groupby(ground.places["scene"].to_numpy()[used])
            assert (scene.nunique() == 1).all()


def scattered(
    make_ground: MakeGround,
    where: str,
    drawn: list[tuple[int, int, int, int]],
    *,
    data: Path,
    several: bool,
) -> Ground:
    """Patches on a quarter of their side around a place, in the CRSs that meet there, at 4 dates.

    Each has sides of 640 m, or 1,280 m where `several` sizes are asked for.
    """
    (lon, lat), codes = CORNERS[where]
    rows = []
    for column, row, crs, kind in drawn:
        code = codes[crs % len(codes)]
        unit = {4326: 1 / 111_320, 3857: 1 / np.cos(np.radians(lat))}.get(code, 1.0)
        x, y = 0.0, 0.0
        if code > 0:
            (x,), (y,) = transform("EPSG:4326", f"EPSG:{code}", [lon], [lat])
        east = x + (column - 20) * 160 * unit
        west = (east + 180) % 360 - 180 if code == 4326 else east
        side = SIDE_M * unit * (2 if several and kind == 1 else 1)
        rows.append((west, y - (row - 20) * 160 * unit, side, code, kind))
    west, north, side, epsg, kind = map(np.array, zip(*rows, strict=True))
    return make_ground(
        west, north, side, epsg=epsg.astype(int), label=kind.astype(int), data=data,
        scene=kind.astype(int), time=days(*kind.astype(int)),
    )  # fmt: skip


# ---- real places


def test_the_stratified_split_of_the_literature_leaks_on_eurosat(eurosat: Ground) -> None:
    (parts,) = stratified(eurosat, val=0.08, test=0.2)
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [19_440, 2_160, 5_400]
    found = seen(eurosat, parts)
    assert not found["passed"] and found["least_distance_m"] == 0.0
    assert found["overlapping_pairs"] == 310
    assert found["overlap_m2"] == pytest.approx(23.98e6, rel=1e-3)
    assert " share " in found["problems"][0] and ".jpg" in found["problems"][0]


def test_patches_of_eurosat_that_overlap_and_that_are_close(eurosat: Ground) -> None:
    everything = np.arange(len(eurosat))
    pairs = {
        (int(a), int(b))
        for found in eurosat.overlaps(everything, everything)
        for a, b in zip(*found[:2], strict=True)
        if a < b
    }
    # Counted by comparing each patch with all others of its zone.
    assert len(pairs) == 754 and len({patch for pair in pairs for patch in pair}) == 1322
    away = cKDTree(eurosat.points).query(eurosat.points, k=2)[0][:, 1]
    assert (away < 905).sum() == 13_960


def test_eurosat_by_longitude_is_two_kilometres_apart(eurosat: Ground) -> None:
    (parts,) = longitude(eurosat, buffer_m=2000.0)
    found = seen(eurosat, parts, 2000.0)
    assert found["passed"] and found["problems"] == []
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] >= 2000.0
    assert found["parts"]["unused"]["patches"] < 2700, "the buffer costs less than a tenth"
    assert (parts == "test").sum() == 5400


def test_blocks_on_eurosat_leave_out_what_reaches_over(eurosat: Ground) -> None:
    (parts,) = blocks(eurosat, size_m=1920.0)
    found = seen(eurosat, parts)
    assert found["passed"] and 0 < (parts == "unused").sum() < 300
