"""Step 6: the classical pipeline, on Iris and on Statlog Landsat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lessons import Worked, found

from swath.learn.shallow import hand_made, pipeline


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("pipeline"))


def test_iris_is_nearly_linear(claims: dict[str, float]) -> None:
    assert claims["logistic regression on raw values: accuracy"] >= 0.9
    assert claims["a network on raw values: accuracy"] >= 0.9
    assert claims["the network minus the best shallow learner: accuracy"] >= -0.05


def test_units_matter_to_neighbours_that_are_not_standardised_and_to_no_tree(
    claims: dict[str, float],
) -> None:
    changed = "k nearest neighbours, unit of a band changed by 1024: answers that change"
    assert claims[changed] >= 0.05
    assert claims["the same, standardised: answers that change"] == 0
    assert claims["random forest, standardised or not: answers that differ"] <= 0.01


def test_what_is_fitted_on_all_patches_tells_more_than_is_true(claims: dict[str, float]) -> None:
    inside = claims["noise, features selected within the pipeline: accuracy"]
    assert inside < 0.49, "a third is chance"
    assert claims["noise, features selected beforehand on all: seems better by"] >= 0.15
    scaler = "statistics of the platform against a scaler fitted on the training part: largest "
    assert claims[scaler + "difference in standard deviations"] < 1e-5
    assert claims["the same against one fitted on all patches"] > 1e-3


def test_the_neighbours_of_landsat_err_as_was_published(
    worked: Worked, real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_MIRROR", str(real_data))
    claims = found(worked("pipeline_statlog"))
    error = claims["k nearest neighbours on raw values, not standardised: error as published"]
    assert error == pytest.approx(0.095, abs=0.005)
    assert claims["a network on raw values: accuracy"] >= 0.8


def test_features_are_those_of_the_formulae() -> None:
    image = np.arange(1.0, 19.0).reshape(1, 2, 3, 3)
    centre, mean, std, ndvi = np.split(hand_made(image)[0], [2, 4, 6])
    assert centre.tolist() == [5, 14] and mean.tolist() == [5, 14]
    assert std == pytest.approx([np.sqrt(60 / 9)] * 2)
    assert ndvi == pytest.approx([(14 - 5) / (14 + 5)])
    assert hand_made(np.zeros((1, 2, 1, 1))).tolist() == [[0, 0, 0]], "and 0 / 0 is no NaN"


def test_a_pipeline_is_fitted_on_what_it_is_given() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(7, 3, (80, 4)) * [1, 10, 100, 1000]
    labels = (values[:, 2] > 700).astype(int)
    fitted = pipeline("svm", reduction="select", keep=1).fit(values, labels)
    assert fitted["standardise"].mean_ == pytest.approx(values.mean(axis=0))
    assert fitted["reduce"].get_support().tolist() == [False, False, True, False]
    assert fitted.score(values, labels) > 0.9
