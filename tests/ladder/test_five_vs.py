"""Step 16: the five Vs, each with its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from lessons import Worked, found

from swath.errors import ConfigError
from swath.ladder.planted import SHARED, drawn_image, write_scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("five_vs"))


def test_memory_does_not_grow_with_the_swath(claims: dict[str, float]) -> None:
    ratio = claims["volume: a swath 3 times as long, peak memory of cutting it: ratio"]
    assert 0.7 < ratio <= 1.5
    assert claims["volume: peak memory as a share of the longest swath's pixels"] <= 0.5


def test_a_new_acquisition_is_cut_alone(claims: dict[str, float]) -> None:
    assert claims["velocity: shards of before that are cut again"] == 0
    assert claims["velocity: shards that are cut for a new acquisition"] == 1


def test_one_code_cuts_every_sensor(claims: dict[str, float]) -> None:
    assert claims["variety: sensors whose patches are not what was written"] == 0
    assert claims["variety: ratio of the coarsest to the finest GSD"] > 3000


def test_planted_faults_are_found_and_nothing_else(claims: dict[str, float]) -> None:
    assert claims["veracity: precision"] == 1
    assert claims["veracity: recall of faults above the limit"] == 1
    recall = claims["veracity: recall of all faults, of which some are below it"]
    assert recall == 13 / 16, "three spoil half a per cent, where one is allowed"


def test_the_map_is_worth_something(claims: dict[str, float]) -> None:
    assert claims["value: accuracy of the map of a scene that was never seen"] >= 0.5
    assert claims["value: accuracy above that of the most frequent class"] >= 0.2
    assert claims["value: classes of the truth that the map has"] >= 6


def test_a_sensor_without_bands_is_refused_in_one_line(worked: Worked) -> None:
    with pytest.raises(ConfigError, match=r"lesson\.sensors\.radar: is no GSD in metres and"):
        worked("five_vs", "lesson.sensors={radar: [10.0]}")


def test_faults_spoil_the_share_that_they_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = drawn_image(rng, 3, 40, 40)
    assert image.min() > 0 and image.max() < 1
    for spoil in SHARED.values():
        changed = spoil(rng, image, 0.1) != image
        assert changed.all(axis=0).sum() == 160 and changed.any(axis=0).sum() == 160
    path = write_scene(tmp_path, "long", image, 0.5, times=3)
    with rasterio.open(path) as file:
        assert file.shape == (120, 40) and file.transform.a == 0.5
        assert np.array_equal(file.read()[:, 80:], image)
