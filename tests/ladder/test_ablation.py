"""Step 13: what each invention gains over seeds, and the empirical against the true loss."""

from __future__ import annotations

import numpy as np
import pytest
from lessons import Worked, found
from scipy import stats

from swath.errors import ConfigError
from swath.ladder.ablation import _entropy, _gain
from swath.ladder.lesson import Study


def rows(losses: dict[int, list[float]]) -> Study:
    trials = [{"number": n, "params": {"model.dropout": n / 2}} for n in losses]
    final = [
        {"number": n, "seed": seed, "scores": [loss]}
        for n, each in losses.items()
        for seed, loss in enumerate(each)
    ]
    return Study(trials, final)


GAIN = {"name": "dropout", "better": {"model.dropout": 0.5}, "worse": {"model.dropout": 0.0}}


def test_a_gain_is_the_mean_of_the_differences_by_seed() -> None:
    study = rows({0: [1.0, 2.0, 3.0], 1: [0.5, 1.9, 2.1]})
    mean, half = _gain(study, GAIN)
    differences = [0.5, 0.1, 0.9]
    assert mean == pytest.approx(0.5)
    low, high = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem(differences))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_what_no_trial_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no trial has"):
        _gain(rows({0: [1.0, 2.0]}), GAIN)
    with pytest.raises(ConfigError, match="one seed has no interval"):
        _gain(rows({0: [1.0], 1: [0.5]}), GAIN)


def test_the_true_loss_is_the_cross_entropy() -> None:
    logits, labels = np.array([[0.0, 0.0], [0.0, np.log(3)]]), np.array([0, 1])
    assert _entropy(logits, labels) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)


def test_each_invention_lets_a_deep_network_get_down(worked: Worked) -> None:
    claims = found(worked("ablation_training"))
    gained = {text.partition(": loss")[0]: value for text, value in claims.items()}
    assert len(gained) == 8
    # From a loss of log 2, of a network that knows nothing.
    for name in ("He's weights", "skip connections", "batch normalisation", "RMSProp", "Adam"):
        assert np.log(2) + 0.01 > gained[name] > 0.5
    assert gained["ReLU instead of sigmoid"] > 0.6
    assert gained["Nesterov's momentum"] > 0.1 and gained["momentum"] > 0.1


def test_the_true_loss_is_held_down_and_meets_the_empirical_one(worked: Worked) -> None:
    claims = found(worked("ablation_generalisation"))
    for name in ("dropout", "weight decay", "augmentation by noise"):
        assert 0.005 < claims[f"{name}: loss without it less loss with it"] < 0.2
    assert claims["true loss over empirical loss with 13 points"] > 10
    # Eight times the points: between their root and themselves, and some chance.
    assert 8**0.5 < claims["gap with 13 points over that with 104"] < 30
