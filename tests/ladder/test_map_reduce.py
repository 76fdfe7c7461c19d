"""Step 15: map, shuffle, reduce, by the workflow's verbs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lessons import Worked, found

from swath.data.landscape import CLASSES
from swath.errors import DataError
from swath.ladder.counting import counts, descriptions, reduce_part, reducer_of, words_of


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("map_reduce"))


def test_parts_tell_what_all_at_once_tells(claims: dict[str, float]) -> None:
    assert claims["words that are counted otherwise than at once"] == 0
    assert claims["words in all"] == sum(len(words_of(text)) for text in descriptions().values())
    assert claims["pixels in all"] > 100_000
    text = "mean and standard deviation of a class in a band: largest relative difference to "
    assert claims[text + "those at once"] < 1e-9


def test_the_output_lies_in_parts_and_its_mark_is_the_last(claims: dict[str, float]) -> None:
    assert claims["keys that are in several parts"] == 0
    assert claims["parts of the output"] == 2
    assert claims["map jobs whose pairs each reduce job has taken"] == 3
    assert claims["seconds by which the mark is younger than the last part"] >= 0
    assert claims["share of the keys in the largest part"] <= 0.75


def test_every_class_of_the_landscape_is_described() -> None:
    assert tuple(descriptions()) == CLASSES


def test_sums_do_not_depend_on_who_has_counted() -> None:
    rng = np.random.default_rng(0)
    pairs = [(f"key{n % 17}", [int(n), 1]) for n in rng.integers(0, 1000, 400)]

    def reduced(maps: int, reduces: int) -> dict[str, list[int]]:
        mapped = [
            [[p for p in pairs[m::maps] if reducer_of(p[0], reduces) == r] for r in range(reduces)]
            for m in range(maps)
        ]
        parts = [reduce_part(mapped, part)["sums"] for part in range(reduces)]
        assert sum(map(len, parts)) == 17, "each key is in one part"
        return {key: sums for part in parts for key, sums in part.items()}

    assert reduced(1, 1) == reduced(5, 3) == reduced(7, 2)


def test_parts_without_their_mark_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "part-00000.json").write_text(json.dumps({"sums": {}, "taken": []}))
    with pytest.raises(DataError, match="has no _SUCCESS: not all of its parts have been written"):
        counts(tmp_path)


def test_more_map_jobs_than_scenes_are_refused_in_one_line(tmp_path: Path, worked: Worked) -> None:
    with pytest.raises(DataError, match=r"has 3 scenes for 4 map jobs; lower lesson\.maps"):
        worked("map_reduce", "lesson.maps=4")
