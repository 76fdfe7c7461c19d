"""Search spaces: the same seed gives the same trials, within their ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from swath import settings
from swath.study.space import propose

SAMPLERS = ("random", "sobol")
SPACE = settings.check(
    "sweep",
    {
        "space": {
            "optim.lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
            "optim.warmup": {"type": "float", "low": 0.0, "high": 0.5},
            "model.width": {"type": "int", "low": 4, "high": 64, "log": True},
            "trainer.batch_size": {"type": "choice", "choices": [8, 16, 32]},
        }
    },
)["space"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_gives_the_same_trials_and_another_seed_others(sampler) -> None:
    drawn = [propose(SPACE, sampler=sampler, trials=8, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_values_are_within_their_ranges_and_of_their_types(sampler) -> None:
    trials = propose(SPACE, sampler=sampler, trials=40, seed=2)
    assert len(trials) == 40
    for trial in trials:
        assert list(trial) == list(SPACE)
        assert 1e-4 <= trial["optim.lr"] <= 1e-1
        assert 0 <= trial["optim.warmup"] <= 0.5
        assert type(trial["model.width"]) is int and 4 <= trial["model.width"] <= 64
        assert trial["trainer.batch_size"] in (8, 16, 32)
    assert {t["trainer.batch_size"] for t in trials} == {8, 16, 32}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_logarithmic_dimension_gives_each_decade_its_share(sampler) -> None:
    trials = propose(SPACE, sampler=sampler, trials=240, seed=0)
    decades = [math.floor(math.log10(t["optim.lr"])) for t in trials]
    assert np.bincount(np.array(decades) + 4, minlength=3)[:3].min() > 50


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_longer_study_begins_with_the_trials_of_a_shorter_one(sampler) -> None:
    """So that widening a study trains only what is new."""
    few, many = (propose(SPACE, sampler=sampler, trials=n, seed=0) for n in (4, 8))
    assert many[:4] == few


def test_sobol_fills_the_range_evenly() -> None:
    space = {"optim.warmup": SPACE["optim.warmup"]}
    trials = propose(space, sampler="sobol", trials=16, seed=0)
    cells = sorted(int(t["optim.warmup"] / 0.5 * 16) for t in trials)
    # 2^m points of a scrambled Sobol sequence: one in each of 2^m cells (up to the last digit).
    assert len(set(cells)) >= 15


def test_no_trials_is_an_empty_proposal() -> None:
    assert propose(SPACE, sampler="random", trials=0, seed=0) == []
