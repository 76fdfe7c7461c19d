"""Search spaces: the same seed gives the same trials, within their ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from swath import settings
from swath.errors import ConfigError
from swath.study.space import Known, grid, holds, is_there, ordered, propose

SAMPLERS = ("random", "sobol", "tpe", "gp", "nsga2")


def space_of(**dimensions) -> dict:
    given = {key.replace("__", "."): dimension for key, dimension in dimensions.items()}
    return settings.check("sweep", {"space": given})["space"]


SPACE = space_of(
    optim__lr={"float": [1e-4, 1e-1], "log": True},
    optim__warmup={"float": [0.0, 0.5]},
    optim__min_lr={"float": [0.0, 0.5], "step": 0.1},
    model__width={"int": [4, 64], "log": True},
    model__blocks={"int": [2, 8], "step": 3},
    trainer__batch_size={"choice": [8, 16, 32]},
    model__hidden={"choice": [[16], [16, 16]]},
)
CONDITIONAL = space_of(
    optim__momentum={"float": [0.5, 0.9], "step": 0.1, "when": {"optim.name": "sgd"}},
    optim__name={"choice": ["adamw", "sgd", "adam"]},
    optim__nesterov={"choice": [True, False], "when": {"optim.name": ["sgd"]}},
)


def test_the_short_form_is_the_long_one() -> None:
    long = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
    assert space_of(optim__lr=long)["optim.lr"] == SPACE["optim.lr"]
    with pytest.raises(ConfigError, match=r"should be a range \[low, high\]"):
        space_of(optim__lr={"float": [1]})


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
        assert holds(SPACE, trial)
        assert 1e-4 <= trial["optim.lr"] <= 1e-1
        assert 0 <= trial["optim.warmup"] <= 0.5
        assert trial["optim.min_lr"] * 10 == pytest.approx(round(trial["optim.min_lr"] * 10))
        assert type(trial["model.width"]) is int and 4 <= trial["model.width"] <= 64
    assert {t["trainer.batch_size"] for t in trials} == {8, 16, 32}
    assert {t["model.blocks"] for t in trials} == {2, 5, 8}
    assert {len(t["model.hidden"]) for t in trials} == {1, 2}


@pytest.mark.parametrize("sampler", ("random", "sobol"))
def test_a_logarithmic_dimension_gives_each_decade_its_share(sampler) -> None:
    trials = propose(SPACE, sampler=sampler, trials=240, seed=0)
    decades = [math.floor(math.log10(t["optim.lr"])) for t in trials]
    assert np.bincount(np.array(decades) + 4, minlength=3)[:3].min() > 50


@pytest.mark.parametrize("sampler", ("random", "sobol"))
def test_a_longer_study_begins_with_the_trials_of_a_shorter_one(sampler) -> None:
    """So that widening a study trains only what is new."""
    few, many = (propose(SPACE, sampler=sampler, trials=n, seed=0) for n in (4, 8))
    assert many[:4] == few


def test_a_wider_range_keeps_what_lies_in_it_and_a_narrower_one_what_still_does() -> None:
    narrow = space_of(optim__lr={"float": [0.01, 0.02]})
    wide = space_of(optim__lr={"float": [0.001, 0.1]})
    before = propose(narrow, sampler="random", trials=4, seed=0)
    after = propose(wide, sampler="random", trials=8, seed=0, before=before)
    assert after[:4] == before and len(after) == 8
    assert any(not holds(narrow, params) for params in after[4:])
    back = propose(narrow, sampler="random", trials=8, seed=0, before=after)
    assert all(holds(narrow, params) for params in back)
    assert back[:4] == before


def test_sobol_fills_the_range_evenly() -> None:
    space = {"optim.warmup": SPACE["optim.warmup"]}
    trials = propose(space, sampler="sobol", trials=16, seed=0)
    cells = sorted(int(t["optim.warmup"] / 0.5 * 16) for t in trials)
    # 2^m points of a scrambled Sobol sequence: one in each of 2^m cells (up to the last digit).
    assert len(set(cells)) >= 15


def test_no_trials_is_an_empty_proposal() -> None:
    assert propose(SPACE, sampler="random", trials=0, seed=0) == []


# ---- conditional parts and grids --------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_conditional_part_is_there_where_its_condition_holds(sampler) -> None:
    trials = propose(CONDITIONAL, sampler=sampler, trials=30, seed=0)
    assert {t["optim.name"] for t in trials} == {"adamw", "sgd", "adam"}
    for trial in trials:
        assert ("optim.momentum" in trial) == (trial["optim.name"] == "sgd")
        assert ("optim.nesterov" in trial) == (trial["optim.name"] == "sgd")
        assert holds(CONDITIONAL, trial)


def test_a_grid_has_every_point_once() -> None:
    points = grid(CONDITIONAL)
    assert len(points) == 2 + 5 * 2
    assert {p["optim.momentum"] for p in points if "optim.momentum" in p} == {
        0.5, 0.6, 0.7, 0.8, 0.9,
    }  # fmt: skip
    assert propose(CONDITIONAL, sampler="grid", trials=12, seed=0) == points
    assert [p["model.blocks"] for p in grid({"model.blocks": SPACE["model.blocks"]})] == [2, 5, 8]
    with pytest.raises(ConfigError, match=r"sweep\.space\.optim\.lr: is a range without a step"):
        grid({"optim.lr": SPACE["optim.lr"]})


def test_what_depends_comes_after_that_on_which_it_depends() -> None:
    assert ordered(CONDITIONAL)[0] == "optim.name"
    assert not is_there(CONDITIONAL["optim.momentum"], {})
    circle = space_of(
        a__x={"int": [1, 2], "when": {"a.y": 1}}, a__y={"int": [1, 2], "when": {"a.x": 1}}
    )
    with pytest.raises(ConfigError, match="depend on each other"):
        ordered(circle)
    with pytest.raises(ConfigError, match=r"when: there is no dimension a\.z"):
        ordered(space_of(a__x={"int": [1, 2], "when": {"a.z": 1}}))


# ---- samplers that learn ----------------------------------------------------------------------


def learnt(sampler: str, *, directions=("maximize",), rungs=False, seed=0) -> list[float]:
    """The learning rates of a fourth generation, where the best is 0.01."""
    space = space_of(optim__lr={"float": [1e-5, 1.0], "log": True}, model__width={"int": [1, 64]})
    known: list[Known] = []
    for generation in range(4):
        drawn = propose(
            space, sampler=sampler, trials=10, seed=seed, generation=generation, known=known,
            directions=directions,
        )  # fmt: skip
        far = [abs(math.log10(params["optim.lr"]) + 2) for params in drawn]
        for params, off in zip(drawn, far, strict=True):
            score = -off if directions[0] == "maximize" else off
            scores = {2: [score] if len(directions) == 1 else [score, float(params["model.width"])]}
            complete = not rungs or off <= np.median(far)
            if rungs and complete:
                scores[4] = [score + 0.1]
            known.append(Known(params, scores, complete, generation))
    return [trial.params["optim.lr"] for trial in known[-10:]]


@pytest.mark.parametrize(
    ("sampler", "direction", "rungs"),
    [
        ("tpe", "maximize", False), ("tpe", "minimize", True), ("tpe", "maximize", True),
        ("gp", "minimize", True),
    ],
)  # fmt: skip
def test_it_goes_where_scores_are_good(sampler, direction, rungs) -> None:
    off = [abs(math.log10(lr) + 2) for lr in learnt(sampler, directions=(direction,), rungs=rungs)]
    # At random the mean distance of a learning rate from 0.01 is 1.3 decades.
    assert np.median(off) < 0.6


def test_the_genetic_sampler_breeds_from_the_front() -> None:
    rates = learnt("nsga2", directions=("maximize", "minimize"))
    again = learnt("nsga2", directions=("maximize", "minimize"))
    assert rates == again
    # At random the mean distance is 1.3 decades, as above.
    assert np.mean([abs(math.log10(lr) + 2) for lr in rates]) < 1.0


def test_trials_that_failed_or_left_the_space_are_no_guide() -> None:
    space = space_of(optim__lr={"float": [0.01, 0.02]})
    known = [
        Known({"optim.lr": 0.5}, {1: [9.0]}, True, 0),
        Known({"optim.lr": 0.015}, {}, False, 0),
    ]
    for sampler in ("tpe", "gp", "nsga2"):
        drawn = propose(space, sampler=sampler, trials=3, seed=0, generation=1, known=known)
        assert all(holds(space, params) for params in drawn)
