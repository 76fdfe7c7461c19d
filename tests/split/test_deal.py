"""The stage `split` without its files: a table, and a verdict of every fold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from swath.split.deal import deal
from swath.split.ground import Ground

MakeGround = Callable[..., Ground]


@pytest.fixture
def ground(make_ground: MakeGround) -> Ground:
    """30 x 30 patches side by side, half of them overlapping, of two classes."""
    x, y = np.meshgrid(np.arange(30) * 320.0, np.arange(30) * 640.0)
    label = np.random.default_rng(0).integers(0, 2, 900)
    return make_ground(5e5 + x.ravel(), 5e6 - y.ravel(), label=label)


def test_the_table_has_every_patch_in_every_fold(ground: Ground) -> None:
    table, verdict = deal(ground, "wide", "blocks", {"size_m": 1920.0, "val": 0.2, "folds": 3})
    assert list(table) == ["patch", "fold", "part"] and len(table) == 2700
    assert table.groupby("fold")["patch"].apply(list).tolist() == [list(range(900))] * 3
    counts = table.groupby(["fold", "part"]).size().unstack(fill_value=0)
    for fold, found in enumerate(verdict["folds"]):
        for part, facts in found["parts"].items():
            assert facts["patches"] == counts.loc[fold].get(part, 0)
            assert sum(facts["classes"].values()) == facts["patches"]
    assert (counts["test"].sum(), len(verdict["folds"])) == (900, 3)


def test_a_clean_split_is_not_stamped(ground: Ground) -> None:
    table, verdict = deal(ground, "b", "blocks", {"size_m": 1920.0, "buffer_m": 100.0})
    assert verdict["passed"] is True and verdict["stamped"] is False
    assert verdict["split"] == "b" and verdict["scheme"] == "blocks"
    assert verdict["overlapping_pairs"] == 0 and verdict["least_distance_m"] >= 100.0
    assert verdict["buffer_m"] == 100.0 and verdict["problems"] == []
    assert json.loads(json.dumps(verdict)) == verdict, "the verdict is plain data"
    assert set(table["part"]) == {"train", "val", "test", "unused"}


def test_the_worst_fold_speaks_for_the_split(
    ground: Ground, caplog: pytest.LogCaptureFixture
) -> None:
    _, verdict = deal(ground, "r", "random", {"val": 0.1, "folds": 4})
    pairs = [fold["overlapping_pairs"] for fold in verdict["folds"]]
    assert len(set(pairs)) > 1 and verdict["overlapping_pairs"] == max(pairs)
    worst = verdict["folds"][int(np.argmax(pairs))]
    assert {key: verdict[key] for key in worst} == worst
    assert verdict["passed"] is False and verdict["stamped"] is True
    assert "audit of r, fold 0: train patch" in caplog.text


def test_a_leak_in_one_fold_stamps_the_split(make_ground: MakeGround) -> None:
    # One pair overlaps: in four folds its patches test in two, and so leak in two or more of them.
    ground = make_ground(np.append(np.arange(29) * 1000.0, 28_100), [5e6] * 30)
    _, verdict = deal(ground, "r", "random", {"val": 0.1, "folds": 5})
    passed = [fold["passed"] for fold in verdict["folds"]]
    assert 0 < sum(passed) < 5
    assert verdict["passed"] is False and verdict["stamped"] is True
    assert verdict["overlap_m2"] == 540 * 640 and len(verdict["problems"]) == 1


def test_what_few_shot_draws_from_sets_the_buffer(ground: Ground) -> None:
    settings = {"shots": 3, "of": {"scheme": "blocks", "size_m": 1920.0, "buffer_m": 300.0}}
    table, verdict = deal(ground, "few", "few_shot", settings)
    assert verdict["buffer_m"] == 300.0 and verdict["passed"], verdict["problems"]
    assert (table["part"] == "train").sum() == 6


def test_a_published_list_may_lack_a_class_in_test_but_not_in_train(
    make_ground: MakeGround, tmp_path: Path
) -> None:
    label = [0, 1, 0, 0, 0, 1]
    ground = make_ground(np.arange(6) * 1e3, [5e6] * 6, label=label, data=tmp_path)
    for test, train in (("p2", "p0 p1"), ("p1", "p0 p2")):
        lists = {"train": train.split(), "val": ["p3"], "test": [test]}
        (tmp_path / "lists.json").write_text(json.dumps(lists))
        _, verdict = deal(ground, "published", "official", {"file": "lists.json"})
        lacking = [line for line in verdict["problems"] if "nothing" in line]
        assert lacking == ([] if "p1" in train else ["part train has nothing of c1"])
        assert "part val has nothing of c1" in verdict["notes"]


def test_acquisitions_are_audited_where_time_deals(make_ground: MakeGround) -> None:
    when = np.datetime64("2018-01-01", "s") + np.arange(12) * np.timedelta64(86_400, "s")
    ground = make_ground(
        np.arange(12) * 1e3, [5e6] * 12, scene=np.arange(12) // 2, time=when, label=[0, 1] * 6
    )
    table, verdict = deal(ground, "t", "time", {"val": 0.3, "test": 0.3})
    assert verdict["passed"], verdict["problems"]
    by_scene = pd.Series(table["part"]).groupby(np.arange(12) // 2).nunique()
    assert (by_scene == 1).all() and verdict["parts"]["test"]["patches"] == 4
