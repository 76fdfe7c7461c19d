"""The importance of a study's parameters, on studies made so that it is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from swath.study.importance import LEAST_TRIALS, importance, logarithmic, numeric
from swath.study.results import Objective, Rung, Study, Trial

Params = dict[str, Any]


def study(decides: Callable[[Params], float], trials: int = 24, failed: int = 0) -> Study:
    """Trials drawn at random, their score decided by one parameter and a little chance."""
    rng, made = np.random.default_rng(0), []
    for number in range(trials):
        params: Params = {
            "optim.lr": float(10 ** rng.uniform(-4, -1)),
            "model.width": int(rng.choice([8, 16, 32, 64])),
            "model.name": str(rng.choice(["resnet", "unet"])),
            "model.depths": [[2, 2], [3, 3]][int(rng.integers(2))],
            "trainer.epochs": 4,
        }
        if params["model.name"] == "resnet":
            params["model.squeeze"] = bool(rng.integers(2))
            params["model.drop"] = float(rng.uniform(0, 0.5))
        score = decides(params) + float(rng.normal(0, 0.01))
        scores = () if number < failed else (score,)
        # A higher rung says the opposite: scores of another budget must not count.
        rungs = (Rung(0, 2, scores, 1.0), Rung(1, 4, (-score,), 2.0))
        made.append(Trial(number, params, rungs, "complete"))
    return Study("made", "static", "random", (Objective("val/f1", "maximize"),), tuple(made), (), 0)


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("optim.lr", lambda p: -abs(math.log10(p["optim.lr"]) + 2.5) / 5),
        ("model.width", lambda p: p["model.width"] / 64),
        ("model.depths", lambda p: 0.2 * (p["model.depths"] == [2, 2])),
        ("model.squeeze", lambda p: {True: 0.4, None: 0.2, False: 0.0}[p.get("model.squeeze")]),
        ("model.drop", lambda p: p.get("model.drop", 0.25)),
    ],
)
def test_the_parameter_that_decides_explains_most(
    name: str, decides: Callable[[Params], float]
) -> None:
    found = importance(study(decides))
    assert next(iter(found)) == name and found[name] > 0.35
    assert all(0 <= share <= 1 for share in found.values()) and sum(found.values()) <= 1.001
    assert "trainer.epochs" not in found, "what did not vary explains nothing"
    assert found == importance(study(decides)), "the same study gives the same shares"


def test_too_few_trials_that_scored_say_nothing() -> None:
    def by_width(params: Params) -> float:
        return float(params["model.width"])

    assert importance(study(by_width, trials=LEAST_TRIALS))
    assert importance(study(by_width, trials=LEAST_TRIALS, failed=1)) == {}
    assert importance(study(by_width, trials=LEAST_TRIALS + 1, failed=1))


def test_scores_that_are_all_one_have_no_variation_to_explain() -> None:
    made = study(lambda _: 0.5)
    for trial in made.trials:
        object.__setattr__(trial, "rungs", (Rung(0, 2, (0.5,), 1.0),))
    assert importance(made) == {}


def test_numbers_are_told_from_words() -> None:
    assert numeric([1, 2.5]) and not numeric([1, 1]) and not numeric([True, False])
    assert not numeric([1, None]) and not numeric([[8], [16]])
    assert logarithmic([0.001, 0.1]) and not logarithmic([0.0, 1.0]) and not logarithmic([8, 64])
