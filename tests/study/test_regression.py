"""How far numbers are off, against hand and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from swath.data.earth import Blocks
from swath.study.regression import by_group, score, summary, sums
from swath.study.scores import Bootstrap


def drawn(seed: int = 0, patches: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(300, 40, (patches, 4, 4)).astype(np.float32)
    predicted = truth + rng.normal(3, 10, truth.shape) + rng.normal(0, 8, (patches, 1, 1))
    return truth, predicted.astype(np.float32)


def row_of(count: int, side_m: float) -> Blocks:
    """Blocks of patches in a row from west to east."""
    west = 512_000.0 + np.arange(count) * 640.0
    places = {"west": west, "south": 4_999_360.0, "east": west + 640, "north": 5_000_000.0}
    return Blocks.of(pd.DataFrame(places | {"epsg": 32632}), side_m)


def test_figures_worked_out_by_hand() -> None:
    truth = np.array([[1.0, 3.0], [np.nan, 5.0]])
    found = summary(sums(truth, np.array([[2.0, 3.0], [9.0, 3.0]])).sum(axis=0))
    # Differences of 1, 0, -2; the variance of 1, 3, 5 is 8 in all.
    assert found["rmse"] == pytest.approx(np.sqrt(5 / 3))
    assert found["mae"] == pytest.approx(1.0)
    assert found["bias"] == pytest.approx(-1 / 3)
    assert found["r2"] == pytest.approx(1 - 5 / 8)


def test_the_figures_of_scikit_learn_with_an_interval_around_them() -> None:
    truth, predicted = drawn()
    got = score(sums(truth, predicted), Bootstrap.of(row_of(60, 6400.0), draws=300))
    t, p = truth.ravel(), predicted.ravel()
    assert got["rmse"]["value"] == pytest.approx(metrics.root_mean_squared_error(t, p), rel=1e-5)
    assert got["mae"]["value"] == pytest.approx(metrics.mean_absolute_error(t, p), rel=1e-5)
    assert got["r2"]["value"] == pytest.approx(metrics.r2_score(t, p), rel=1e-5)
    assert got["bias"]["value"] == pytest.approx((p - t).mean(), rel=1e-4)
    assert got["bootstrap"]["blocks"] == 6
    for name in ("rmse", "mae", "bias", "r2"):
        assert got[name]["low"] < got[name]["value"] < got[name]["high"], name


def test_what_cannot_be_told_is_null() -> None:
    truth = np.full(5, 7.0)
    got = score(sums(truth, truth + 1), Bootstrap.of(row_of(5, 640.0), draws=10))
    assert got["r2"]["value"] is None and got["rmse"]["value"] == 1
    json.dumps(got, allow_nan=False)


def test_groups_have_the_figures_of_their_patches_alone() -> None:
    truth, predicted = drawn(1)
    truth[40:] = np.nan
    groups = pd.Series(["a"] * 10 + ["b"] * 30 + ["dark"] * 20)
    table = by_group(sums(truth, predicted), groups).set_index("group")
    assert table.index.tolist() == ["a", "b"] and table["labels"].tolist() == [160, 480]
    off = predicted[:10].astype(float) - truth[:10]
    assert table.loc["a", "bias"] == pytest.approx(off.mean())
    assert table.loc["a", "rmse"] == pytest.approx(np.sqrt((off**2).mean()))
