"""Figures of several labels a patch, against hand and scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics
from torchmetrics.classification import BinaryCalibrationError

from swath.data.earth import Blocks
from swath.study.scores import BINS, Bootstrap, mean_of_known, summary
from swath.study.several import Decisions, average_precision, by_group, score

FIGURES = (
    "macro_ap", "micro_ap", "macro_f1", "micro_f1", "subset_accuracy", "overall_accuracy",
    "calibration_error",
)  # fmt: skip


def drawn(seed: int, patches: int = 200, classes: int = 5, ties: bool = False) -> Decisions:
    """Classes of which some are rare, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((patches, classes)) < np.linspace(0.1, 0.7, classes)).astype(np.uint8)
    probability = np.clip(0.35 * truth + 0.65 * rng.random(truth.shape), 0, 1).astype(np.float32)
    if ties:
        probability = probability.round(1)
    return Decisions(truth, (probability > 0.5).astype(np.uint8), probability)


def row_of(count: int, side_m: float) -> Blocks:
    """Blocks of patches in a row from west to east."""
    west = 512_000.0 + np.arange(count) * 640.0
    places = {"west": west, "south": 4_999_360.0, "east": west + 640, "north": 5_000_000.0}
    return Blocks.of(pd.DataFrame(places | {"epsg": 32632}), side_m)


def scored(of: Decisions, *, block_m: float = 6400.0, draws: int = 200) -> dict[str, Any]:
    names = [f"c{k}" for k in range(of.truth.shape[1])]
    bootstrap = Bootstrap.of(row_of(len(of.truth), block_m), draws=draws)
    return score(of, names, bootstrap)


def test_where_no_class_has_a_figure_there_is_no_mean() -> None:
    found = mean_of_known(np.array([[np.nan, np.nan], [np.nan, 0.5]]))
    np.testing.assert_array_equal(found, [np.nan, 0.5])
    assert np.isnan(summary(np.zeros((2, 2), np.int64))["macro_f1"])


def test_an_average_precision_worked_out_by_hand() -> None:
    there = np.array([True, False, True, False])
    probability = np.array([0.9, 0.8, 0.7, 0.1])
    # Half of what is there at a precision of 1, the other half at 2/3.
    weights = np.array([[1.0, 1, 1, 1], [1, 0, 1, 1], [0, 1, 2, 1], [0, 1, 0, 5]])
    found = average_precision(there, probability)(weights)
    assert found[:3] == pytest.approx([(1 + 2 / 3) / 2, 1.0, 2 / 3])
    assert np.isnan(found[3])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_figures_of_scikit_learn(seed: int, ties: bool) -> None:
    of = drawn(seed, ties=ties)
    got = scored(of, draws=5)
    value = {name: got[name]["value"] for name in FIGURES}
    for average in ("macro", "micro"):
        ap = metrics.average_precision_score(of.truth, of.probability, average=average)
        assert value[f"{average}_ap"] == pytest.approx(ap)
        f1 = metrics.f1_score(of.truth, of.predicted, average=average)
        assert value[f"{average}_f1"] == pytest.approx(f1)
    assert value["subset_accuracy"] == metrics.accuracy_score(of.truth, of.predicted)
    loss = metrics.hamming_loss(of.truth, of.predicted)
    assert value["overall_accuracy"] == pytest.approx(1 - loss)
    theirs = BinaryCalibrationError(n_bins=BINS, norm="l1")
    expected = theirs(torch.from_numpy(of.probability), torch.from_numpy(of.truth).int())
    assert value["calibration_error"] == pytest.approx(float(expected), abs=1e-3 if ties else 1e-6)
    found = metrics.precision_recall_fscore_support(of.truth, of.predicted)
    for name, values in zip(("precision", "recall", "f1", "support"), found, strict=True):
        assert [row[name] for row in got["per_class"]] == pytest.approx(list(values)), name
    by_class = metrics.average_precision_score(of.truth, of.probability, average=None)
    assert [row["average_precision"] for row in got["per_class"]] == pytest.approx(list(by_class))
    matrices = metrics.multilabel_confusion_matrix(of.truth, of.predicted)
    np.testing.assert_array_equal(got["confusion"], matrices)


def test_an_interval_is_that_of_blocks_drawn_again_and_again() -> None:
    """The weights stand for copies of the patches: drawn by hand they give the same figures."""
    of, patches = drawn(7, patches=60), 60
    got = scored(of, draws=400)
    block = np.arange(patches) // 10
    rng = np.random.default_rng(0)
    times = rng.multinomial(6, np.full(6, 1 / 6), size=400)
    found = []
    for drawn_times in times:
        copies = np.repeat(np.arange(patches), drawn_times[block])
        there = of.truth[copies].any(axis=0)
        found.append(
            metrics.average_precision_score(
                of.truth[copies][:, there], of.probability[copies][:, there], average="macro"
            )
        )
    assert got["bootstrap"]["blocks"] == 6
    assert got["macro_ap"]["low"] == pytest.approx(np.quantile(found, 0.025))
    assert got["macro_ap"]["high"] == pytest.approx(np.quantile(found, 0.975))
    for name in FIGURES:
        assert got[name]["low"] < got[name]["value"] < got[name]["high"], name


def test_how_many_draws_are_ranked_together_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = drawn(3, patches=50)
    whole = scored(of, draws=11)
    monkeypatch.setattr("swath.study.several.CHUNK", 4 * of.truth.size)
    assert scored(of, draws=11) == whole


def test_what_is_not_known_counts_for_nothing() -> None:
    of = drawn(1, classes=3)
    truth = of.truth.copy()
    truth[:, 2] = 255
    hidden = Decisions(truth, of.predicted, of.probability)
    known = Decisions(of.truth[:, :2], of.predicted[:, :2], of.probability[:, :2])
    got, expected = scored(hidden), scored(known)
    for name in FIGURES:
        assert got[name] == pytest.approx(expected[name]), name
    absent = got["per_class"][2]
    assert absent == {
        "class": "c2", "support": 0, "precision": None, "recall": None, "f1": None, "iou": None,
        "average_precision": None,
    }  # fmt: skip
    json.dumps(got, allow_nan=False)


def test_one_block_has_no_interval() -> None:
    got = scored(drawn(2), block_m=1e6)
    assert got["bootstrap"]["blocks"] == 1
    assert {got[name]["low"] for name in FIGURES} == {None}


def test_groups_have_the_figures_of_their_patches_alone() -> None:
    of = drawn(4, patches=90)
    groups = pd.Series(np.array(["north", "south", "dark"])[np.arange(90) % 3], index=range(5, 95))
    truth = of.truth.copy()
    truth[(groups == "dark").to_numpy()] = 255
    table = by_group(Decisions(truth, of.predicted, of.probability), groups).set_index("group")
    assert table.index.tolist() == ["north", "south"]
    for name, row in table.iterrows():
        mine = of[(groups == name).to_numpy()]
        assert row["patches"] == 30 and row["labels"] == 150
        expected = scored(mine, draws=2)
        for figure in FIGURES:
            assert row[figure] == pytest.approx(expected[figure]["value"]), figure
