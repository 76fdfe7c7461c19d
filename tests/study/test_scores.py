"""Scores against figures computed by hand, and against scikit-learn."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from torchmetrics.classification import MulticlassCalibrationError

from swath.data.earth import Blocks
from swath.study.scores import (
    BINS,
    Bootstrap,
    by_group,
    by_region,
    calibration_error,
    confusions,
    per_class,
    reliability,
    score,
    summary,
)

FIGURES = ("overall_accuracy", "average_accuracy", "kappa", "macro_f1", "miou", "calibration_error")
UTM = 32632


def places(count: int, *, step_m: float = 640.0, epsg: int = UTM) -> pd.DataFrame:
    """Patches in a row from west to east."""
    west = 500_000.0 + np.arange(count) * step_m
    sides = {"west": west, "south": 4_999_360.0, "east": west + 640, "north": 5_000_000.0}
    return pd.DataFrame(sides | {"epsg": epsg})


def scored(truth, predicted, classes, where=None, *, block_m=10_000.0, draws=300, seed=0):
    names = [f"c{k}" for k in range(classes)]
    where = places(len(truth)) if where is None else where
    by_patch = confusions(truth, predicted, classes)
    sums = reliability(truth, predicted, 0.4 + 0.15 * (predicted % 4))
    bootstrap = Bootstrap.of(Blocks.of(where, block_m), draws=draws, seed=seed)
    return score(by_patch, sums, names, bootstrap)


def test_a_calibration_worked_out_by_hand() -> None:
    truth = np.array([[0, 0, 1], [1, 1, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    confidence = np.array([[0.9, 0.8, 1.0], [0.81, 0.0, 0.9]])
    sums = reliability(truth, predicted, confidence)
    # A bin has its upper border: 0.8 is in the twelfth, 0.81 in the thirteenth, 0 in the first.
    expected = np.zeros((2, BINS, 3))
    expected[0, 11], expected[0, 13], expected[0, 14] = (1, 0, 0.8), (1, 1, 0.9), (1, 1, 1.0)
    expected[1, 12], expected[1, 0] = (1, 1, 0.81), (1, 0, 0.0)
    np.testing.assert_allclose(sums, expected)
    # By patch |0 - 0.8| + |1 - 0.9| of three, |1 - 0.81| of two.
    assert calibration_error(sums) == pytest.approx([0.9 / 3, 0.19 / 2])
    assert calibration_error(sums.sum(axis=0)) == pytest.approx(1.09 / 5)


@pytest.mark.parametrize("sharp", [0.5, 1.0, 3.0])
def test_the_calibration_error_is_that_of_torchmetrics(sharp: float) -> None:
    rng = np.random.default_rng(5)
    logits = torch.from_numpy(sharp * rng.normal(size=(4000, 6)))
    truth = torch.multinomial(logits.softmax(1) ** 0.5, 1, generator=torch.manual_seed(0))[:, 0]
    theirs = MulticlassCalibrationError(6, n_bins=BINS, norm="l1")(logits.softmax(1), truth)
    sure, said = (found.numpy() for found in logits.softmax(1).max(dim=1))
    sums = reliability(truth.numpy().astype(np.uint8), said.astype(np.uint8), sure)
    assert calibration_error(sums.sum(axis=0)) == pytest.approx(float(theirs), abs=1e-6)


def test_groups_have_the_figures_of_their_patches_alone() -> None:
    rng = np.random.default_rng(6)
    truth, predicted = rng.integers(0, 3, (2, 60, 4)).astype(np.uint8)
    groups = pd.Series(np.array(["north", "south", "dark"])[rng.integers(0, 3, 60)])
    truth[groups == "dark"] = 255
    sure = rng.random((60, 4))
    by_patch, sums = confusions(truth, predicted, 3), reliability(truth, predicted, sure)
    table = by_group(by_patch, sums, groups).set_index("group")
    assert table.index.tolist() == ["north", "south"]
    for name, row in table.iterrows():
        mine = (groups == name).to_numpy()
        assert row["patches"] == mine.sum() and row["labels"] == 4 * mine.sum()
        right = truth[mine] == predicted[mine]
        assert row["overall_accuracy"] == pytest.approx(right.mean())
        whole = summary(by_patch[mine].sum(axis=0))
        assert row["miou"] == pytest.approx(float(whole["miou"]))
        assert row["calibration_error"] == calibration_error(sums[mine].sum(axis=0))


def test_a_confusion_worked_out_by_hand() -> None:
    # truth \ said    0   1
    #           0    40  10        n = 100, right = 75
    #           1    15  35        chance = (50·55 + 50·45) / 100² = 0.5
    confusion = np.array([[40, 10], [15, 35]])
    whole = {name: float(value) for name, value in summary(confusion).items()}
    assert whole["overall_accuracy"] == pytest.approx(0.75)
    assert whole["average_accuracy"] == pytest.approx((40 / 50 + 35 / 50) / 2)
    assert whole["kappa"] == pytest.approx(0.5)
    f1 = 80 / 105, 70 / 95
    assert whole["macro_f1"] == pytest.approx(sum(f1) / 2)
    assert whole["miou"] == pytest.approx((40 / 65 + 35 / 60) / 2)
    by_class = per_class(confusion)
    assert by_class["precision"] == pytest.approx([40 / 55, 35 / 45])
    assert by_class["recall"] == pytest.approx([0.8, 0.7])
    assert by_class["f1"] == pytest.approx(f1)
    assert by_class["iou"] == pytest.approx([40 / 65, 35 / 60])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(400,), (12, 8, 8)])
def test_the_figures_of_scikit_learn(seed, shape) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, 5, shape)).astype(np.uint8)
    got = scored(truth, predicted, 5, draws=10)
    t, p = truth.ravel(), predicted.ravel()
    np.testing.assert_array_equal(got["confusion"], metrics.confusion_matrix(t, p))
    assert got["overall_accuracy"]["value"] == pytest.approx(metrics.accuracy_score(t, p))
    assert got["average_accuracy"]["value"] == pytest.approx(metrics.balanced_accuracy_score(t, p))
    assert got["kappa"]["value"] == pytest.approx(metrics.cohen_kappa_score(t, p))
    assert got["macro_f1"]["value"] == pytest.approx(metrics.f1_score(t, p, average="macro"))
    assert got["miou"]["value"] == pytest.approx(metrics.jaccard_score(t, p, average="macro"))
    found = metrics.precision_recall_fscore_support(t, p)
    for name, values in zip(("precision", "recall", "f1", "support"), found, strict=True):
        assert [row[name] for row in got["per_class"]] == pytest.approx(list(values)), name


def test_confusions_are_by_patch_with_truth_in_rows() -> None:
    truth = np.array([[0, 0, 1], [2, 2, 255]], np.uint8)
    predicted = np.array([[0, 1, 1], [0, 2, 1]], np.uint8)
    got = confusions(truth, predicted, 3)
    assert got.shape == (2, 3, 3)
    np.testing.assert_array_equal(got[0], [[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(got[1], [[0, 0, 0], [0, 0, 0], [1, 0, 1]])


def test_unlabelled_pixels_count_for_nothing() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (6, 10)).astype(np.uint8)
    predicted = rng.integers(0, 3, (6, 10)).astype(np.uint8)
    hidden = truth.copy()
    hidden[:, 5:] = 255
    assert (
        scored(hidden, predicted, 3)["confusion"]
        == scored(truth[:, :5], predicted[:, :5], 3)["confusion"]
    )


def test_a_class_that_does_not_occur_has_no_figures_and_weighs_nothing() -> None:
    truth, predicted = np.array([0, 0, 1, 1], np.uint8), np.array([0, 1, 1, 1], np.uint8)
    got, without = scored(truth, predicted, 3), scored(truth, predicted, 2)
    absent = got["per_class"][2]
    assert absent["support"] == 0
    assert [absent[figure] for figure in ("precision", "recall", "f1", "iou")] == [None] * 4
    for figure in FIGURES:
        assert got[figure]["value"] == pytest.approx(without[figure]["value"])


def test_a_class_that_is_only_predicted_counts_against_f1_and_iou() -> None:
    truth, predicted = np.array([0, 0, 0, 0], np.uint8), np.array([0, 0, 0, 1], np.uint8)
    got = scored(truth, predicted, 2)
    assert got["per_class"][1]["recall"] is None
    assert got["per_class"][1]["precision"] == 0 and got["per_class"][1]["iou"] == 0
    assert got["average_accuracy"]["value"] == pytest.approx(0.75)
    assert got["miou"]["value"] == pytest.approx(0.375)


def test_a_figure_that_cannot_be_computed_is_null_and_not_nan() -> None:
    """JSON has no NaN: whoever reads scores.json strictly would refuse the file."""
    truth = np.zeros(8, np.uint8)
    got = scored(truth, truth, 2, block_m=640.0)
    assert got["overall_accuracy"]["value"] == 1
    json.dumps(got, allow_nan=False)
    assert got["kappa"]["value"] is None


@pytest.mark.parametrize("figure", FIGURES)
def test_the_interval_contains_the_value(figure) -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 600).astype(np.uint8)
    predicted = np.where(rng.random(600) < 0.7, truth, rng.integers(0, 4, 600)).astype(np.uint8)
    got = scored(truth, predicted, 4, block_m=6400.0)[figure]
    assert got["low"] <= got["value"] <= got["high"]
    assert got["low"] < got["high"]


def test_fewer_blocks_give_a_wider_interval() -> None:
    rng = np.random.default_rng(2)
    # Neighbours are right or wrong together, in runs of twenty.
    truth = np.zeros(400, np.uint8) + (np.arange(400) % 2).astype(np.uint8)
    wrong = (rng.random(20) < 0.4).repeat(20)
    predicted = np.where(wrong, 1 - truth, truth).astype(np.uint8)
    widths = []
    for block_m in (640.0, 12_800.0):
        got = scored(truth, predicted, 2, block_m=block_m)
        widths.append(got["overall_accuracy"]["high"] - got["overall_accuracy"]["low"])
    assert widths[1] > 1.5 * widths[0]


def test_one_block_has_no_interval() -> None:
    truth = np.array([0, 1, 0, 1], np.uint8)
    got = scored(truth, truth[::-1].copy(), 2, block_m=1e6)
    assert got["bootstrap"]["blocks"] == 1
    for figure in FIGURES:
        assert got[figure]["low"] is None and got[figure]["high"] is None


def test_a_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 3, (2, 100)).astype(np.uint8)
    assert scored(truth, predicted, 3) == scored(truth, predicted, 3)


def test_regions_have_the_figures_of_their_patches_alone() -> None:
    rng = np.random.default_rng(7)
    truth, predicted = rng.integers(0, 3, (2, 40)).astype(np.uint8)
    blocks = Blocks.of(pd.concat([places(30), places(10, epsg=0)], ignore_index=True), 6400.0)
    by_patch = confusions(truth, predicted, 3)
    sums = reliability(truth, predicted, np.full(40, 0.7))
    found = by_region(partial(by_group, by_patch, sums), blocks)
    numbers = blocks.numbers[:30]
    assert found["patches"].sum() == 30 and len(found) == len(np.unique(numbers)) > 3
    for (_, row), number in zip(found.iterrows(), np.unique(numbers), strict=True):
        mine = np.flatnonzero(numbers == number)
        assert row["overall_accuracy"] == pytest.approx((truth == predicted)[mine].mean())
    assert (
        len(by_region(partial(by_group, by_patch[30:], sums[30:]), blocks[np.arange(30, 40)])) == 0
    )
