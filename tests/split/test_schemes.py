"""Schemes: right shares, the same for a seed, and apart on the ground where they say so."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from swath import registry
from swath.errors import ConfigError, DataError
from swath.split.audit import audit
from swath.split.schemes import blocks, longitude, random, stratified

MakePlaces = Callable[..., pd.DataFrame]

SCHEMES = list(registry.entries("scheme"))
SPATIAL = {
    "blocks": {"size_m": 5000.0},
    "longitude": {},
}
"""Schemes that need a georeference, with the settings that have no default."""
SIDE_M = 640.0


def settings_of(scheme: str) -> dict[str, Any]:
    """A scheme's defaults, and values for the settings that have none."""
    known = registry.entry("scheme", scheme).settings
    defaults = {name: default for name, (_, default) in known.items() if default is not ...}
    return defaults | SPATIAL.get(scheme, {})


def deal(scheme: str, places: pd.DataFrame, **changes: Any) -> np.ndarray:
    return registry.load("scheme", scheme)(places, SIDE_M, **settings_of(scheme) | changes)


def share(parts: np.ndarray, part: str) -> float:
    return float((parts == part).mean())


def measure(places: pd.DataFrame, parts: np.ndarray, buffer_m: float) -> dict[str, Any]:
    """The audit, with the class counts of the parts."""
    classes = sorted(places["label"].unique())
    counts = {
        part: {f"c{c}": int(((parts == part) & (places["label"] == c)).sum()) for c in classes}
        for part in ("train", "val", "test", "unused")
    }
    return audit(places, parts, counts, side_m=SIDE_M, buffer_m=buffer_m)


def apart(places: pd.DataFrame, parts: np.ndarray) -> tuple[float, float]:
    """Summed overlap and least distance of patches of different parts, pair by pair."""
    overlap, least = 0.0, np.inf
    x, y = places["easting"].to_numpy(), places["northing"].to_numpy()
    used = np.flatnonzero(parts != "unused")
    for number, a in enumerate(used):
        for b in used[number + 1 :]:
            if parts[a] == parts[b]:
                continue
            gap_x, gap_y = abs(x[a] - x[b]) - SIDE_M, abs(y[a] - y[b]) - SIDE_M
            if gap_x < 0 and gap_y < 0:
                overlap += gap_x * gap_y
            least = min(least, np.hypot(max(gap_x, 0), max(gap_y, 0)))
    return overlap, least


@pytest.fixture(scope="module")
def region(make_places: MakePlaces) -> pd.DataFrame:
    """4,000 patches on 100 x 100 km, in four classes of unequal frequency."""
    rng = np.random.default_rng(4)
    label = rng.choice(4, 4000, p=[0.4, 0.3, 0.2, 0.1])
    east, north = rng.uniform(300_000, 400_000, 4000), rng.uniform(5_200_000, 5_300_000, 4000)
    return make_places(east, north, SIDE_M, label=label)


# ---- every scheme


def test_the_tests_know_every_setting_without_a_default() -> None:
    for scheme in SCHEMES:
        known = registry.entry("scheme", scheme).settings
        assert set(settings_of(scheme)) == set(known), f"give {scheme} its settings in SPATIAL"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shares_are_as_asked_for(region: pd.DataFrame, scheme: str) -> None:
    wanted = settings_of(scheme)
    parts = deal(scheme, region)
    assert set(parts) == {"train", "val", "test"}
    assert share(parts, "val") == pytest.approx(wanted["val"], abs=0.02)
    assert share(parts, "test") == pytest.approx(wanted["test"], abs=0.02)
    parts = deal(scheme, region, val=0.3, test=0.1)
    assert share(parts, "val") == pytest.approx(0.3, abs=0.02)
    assert share(parts, "test") == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_decides_the_parts(region: pd.DataFrame, scheme: str) -> None:
    first = deal(scheme, region)
    np.testing.assert_array_equal(first, deal(scheme, region))
    if "seed" in settings_of(scheme):
        np.testing.assert_array_equal(deal(scheme, region, seed=7), deal(scheme, region, seed=7))
        assert (first != deal(scheme, region, seed=7)).mean() > 0.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_share_means_no_patch(region: pd.DataFrame, scheme: str) -> None:
    assert set(deal(scheme, region, val=0.0)) == {"train", "test"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_buffer_leaves_the_rarer_parts_whole(region: pd.DataFrame, scheme: str) -> None:
    without, buffered = deal(scheme, region), deal(scheme, region, buffer_m=400.0)
    assert 0 < (buffered == "unused").sum() < len(region)
    used = buffered != "unused"
    np.testing.assert_array_equal(buffered[used], without[used])
    np.testing.assert_array_equal(buffered == "test", without == "test")
    found = measure(region, buffered, 400.0)
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] >= 400.0


@pytest.mark.parametrize("scheme", sorted(SPATIAL))
def test_a_spatial_scheme_without_georeference_is_told_in_one_line(
    region: pd.DataFrame, scheme: str
) -> None:
    nowhere = region.assign(easting=np.nan, northing=np.nan, lon=np.nan, lat=np.nan, epsg=0)
    with pytest.raises(DataError) as refused:
        deal(scheme, nowhere)
    assert str(refused.value) == (
        f"split.{scheme}: the patches have no georeference; choose split=stratified, "
        "or name a table of places in the dataset's layout"
    )


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - set(SPATIAL)))
def test_other_schemes_need_no_georeference(region: pd.DataFrame, scheme: str) -> None:
    nowhere = region.assign(easting=np.nan, northing=np.nan, lon=np.nan, lat=np.nan, epsg=0)
    np.testing.assert_array_equal(deal(scheme, nowhere), deal(scheme, region))


# ---- random and stratified


def test_random_deals_exact_numbers(region: pd.DataFrame) -> None:
    parts = random(region, SIDE_M, val=0.1, test=0.25, seed=1)
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [2600, 400, 1000]


def test_stratified_keeps_the_share_of_each_class(region: pd.DataFrame) -> None:
    parts = stratified(region, SIDE_M, val=0.08, test=0.2)
    for label, group in region.groupby("label"):
        of_class = parts[group.index]
        for part, wanted in (("val", 0.08), ("test", 0.2)):
            # Rounded to whole patches within the class.
            assert (of_class == part).sum() == round(wanted * len(group)), (label, part)


def test_random_and_stratified_leak_and_the_audit_says_so(region: pd.DataFrame) -> None:
    for scheme in ("random", "stratified"):
        found = measure(region, deal(scheme, region), 0.0)
        assert not found["passed"] and found["overlapping_pairs"] > 100


# ---- blocks and longitude on the ground


def layouts(make_places: MakePlaces) -> st.SearchStrategy[pd.DataFrame]:
    """Random patches on a grid of a quarter of their side, so that many overlap or touch."""
    place = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2))
    return st.lists(place, min_size=8, max_size=60, unique_by=lambda p: p[:2]).map(
        lambda found: make_places(
            [500_000 + 160.0 * x for x, _, _ in found],
            [5_300_000 - 160.0 * y for _, y, _ in found],
            SIDE_M,
            label=[label for _, _, label in found],
        )
    )


BUFFER_M = st.sampled_from([0.5, 100.0, 160.0, 1000.0, 2500.0])


@given(data=st.data(), buffer_m=BUFFER_M, size_m=st.sampled_from([700.0, 2000.0, 3210.0]))
def test_buffered_blocks_are_apart(
    make_places: MakePlaces, data: st.DataObject, buffer_m: float, size_m: float
) -> None:
    places = data.draw(layouts(make_places))
    try:
        parts = blocks(places, SIDE_M, size_m=size_m, val=0.2, test=0.2, seed=3, buffer_m=buffer_m)
    except ConfigError:
        assume(False)
    is_apart(places, parts, buffer_m)


@given(data=st.data(), buffer_m=BUFFER_M)
def test_buffered_longitudes_are_apart(
    make_places: MakePlaces, data: st.DataObject, buffer_m: float
) -> None:
    places = data.draw(layouts(make_places))
    is_apart(places, longitude(places, SIDE_M, buffer_m=buffer_m), buffer_m)


def is_apart(places: pd.DataFrame, parts: np.ndarray, buffer_m: float) -> None:
    """The parts are as far from each other as the audit, and counting pairs, say."""
    overlap, least = apart(places, parts)
    assert overlap == 0 and least >= buffer_m
    found = measure(places, parts, buffer_m)
    assert found["overlap_m2"] == 0 and found["overlapping_pairs"] == 0
    assert found["least_distance_m"] == (pytest.approx(least) if np.isfinite(least) else None)
    assert not [p for p in found["problems"] if "apart" in p or "share" in p]


@given(shift=st.integers(-40, 40), buffer_m=st.sampled_from([50.0, 1000.0]))
def test_a_buffer_holds_across_the_border_of_two_zones(
    make_places: MakePlaces, shift: int, buffer_m: float
) -> None:
    # A strip of patches in each zone; 6° east is at 723 km in zone 31 and 277 km in zone 32.
    x = np.arange(20) * 480.0
    west = [(720_000 + at, 5_300_000.0, 32631) for at in x]
    east = [(270_000 + at, 5_300_000.0 + shift * 40, 32632) for at in x]
    easting, northing, epsg = zip(*west, *east, strict=True)
    places = make_places(easting, northing, SIDE_M, epsg=list(epsg))
    parts = random(places, SIDE_M, val=0.2, test=0.3, seed=shift + 40, buffer_m=buffer_m)
    found = measure(places, parts, buffer_m)
    assert found["overlapping_pairs"] == 0
    assert found["least_distance_m"] is None or found["least_distance_m"] >= buffer_m


def test_a_block_is_dealt_whole_by_the_corners_of_its_patches(region: pd.DataFrame) -> None:
    parts = blocks(region, SIDE_M, size_m=5000.0)
    block = [
        np.floor(region["easting"] / 5000.0).astype(int),
        np.floor(-region["northing"] / 5000.0).astype(int),
    ]
    in_block = pd.Series(parts).groupby(block).nunique()
    assert len(in_block) == 400 and (in_block == 1).all()


def test_blocks_on_the_grid_of_the_patches_need_no_buffer(make_places: MakePlaces) -> None:
    x, y = np.meshgrid(np.arange(30) * SIDE_M, np.arange(30) * SIDE_M)
    places = make_places(320_000 + x.ravel(), 5_120_000 - y.ravel(), SIDE_M)
    found = measure(places, blocks(places, SIDE_M, size_m=3 * SIDE_M), 0.0)
    assert found["passed"] and found["least_distance_m"] == 0.0


def test_blocks_cut_through_overlapping_patches_leak_without_a_buffer(
    make_places: MakePlaces,
) -> None:
    x, y = np.meshgrid(np.arange(40) * SIDE_M / 2, np.arange(40) * SIDE_M / 2)
    places = make_places(320_000 + x.ravel(), 5_120_000 - y.ravel(), SIDE_M)
    leaking = measure(places, blocks(places, SIDE_M, size_m=3 * SIDE_M), 0.0)
    assert not leaking["passed"] and leaking["overlapping_pairs"] > 10
    mended = blocks(places, SIDE_M, size_m=3 * SIDE_M, buffer_m=1.0)
    assert measure(places, mended, 1.0)["passed"]


def test_blocks_give_each_part_its_share_of_classes_that_lie_in_clusters(
    make_places: MakePlaces,
) -> None:
    rng = np.random.default_rng(5)
    towns = rng.uniform(0, 100_000, (120, 2))
    at = np.repeat(towns, 25, axis=0) + rng.normal(0, 800, (3000, 2))
    label = np.repeat(rng.choice(3, 120, p=[0.5, 0.35, 0.15]), 25)
    places = make_places(300_000 + at[:, 0], 5_300_000 - at[:, 1], SIDE_M, label=label)
    parts = blocks(places, SIDE_M, size_m=5000.0, val=0.15, test=0.2)
    for _, group in places.groupby("label"):
        of_class = parts[group.index]
        assert share(of_class, "val") == pytest.approx(0.15, abs=0.06)
        assert share(of_class, "test") == pytest.approx(0.2, abs=0.06)


def test_blocks_as_large_as_the_region_are_refused_in_one_line(region: pd.DataFrame) -> None:
    with pytest.raises(ConfigError) as refused:
        blocks(region.assign(easting=300_000.0, northing=5_250_000.0), SIDE_M, size_m=1e6)
    assert str(refused.value) == (
        "split.blocks.size_m: 1 blocks of 1e+06 m are too few for the parts; give smaller blocks"
    )


def test_longitude_trains_in_the_west_and_tests_in_the_east(region: pd.DataFrame) -> None:
    parts = longitude(region, SIDE_M, val=0.1, test=0.3)
    lon = region["lon"]
    assert lon[parts == "train"].max() < lon[parts == "val"].min()
    assert lon[parts == "val"].max() < lon[parts == "test"].min()
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [2400, 400, 1200]


# ---- real places


@pytest.fixture(scope="module")
def eurosat(real_data: Path, make_places: MakePlaces) -> pd.DataFrame:
    """The places of the 27,000 patches of EuroSAT."""
    with gzip.open(real_data / "eurosat" / "EuroSAT_georef.csv.gz", "rt") as file:
        table = pd.read_csv(file)
    return make_places(
        table["ul_easting"],
        table["ul_northing"],
        SIDE_M,
        epsg=table["utm_epsg"].to_numpy(),
        label=pd.factorize(table["class"], sort=True)[0],
    ).assign(name=table["path"])


def test_the_stratified_split_of_the_literature_leaks_on_eurosat(eurosat: pd.DataFrame) -> None:
    parts = stratified(eurosat, SIDE_M, val=0.08, test=0.2)
    assert [(parts == part).sum() for part in ("train", "val", "test")] == [19_440, 2_160, 5_400]
    found = measure(eurosat, parts, 0.0)
    assert not found["passed"] and found["overlapping_pairs"] > 100
    assert found["least_distance_m"] == 0.0
    assert " share " in found["problems"][0] and ".jpg" in found["problems"][0]


def test_eurosat_by_longitude_is_two_kilometres_apart(eurosat: pd.DataFrame) -> None:
    parts = longitude(eurosat, SIDE_M, buffer_m=2000.0)
    found = measure(eurosat, parts, 2000.0)
    assert found["passed"] and found["problems"] == []
    assert found["overlapping_pairs"] == 0 and found["least_distance_m"] >= 2000.0
    assert found["parts"]["unused"]["patches"] < 2700, "the buffer costs less than a tenth"
    assert (parts == "test").sum() == 5400
