"""Successive halving: the plan of a study is fixed before it runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath import settings
from swath.study.rungs import (
    SKIPPED,
    Objective,
    budgets,
    collect,
    dealt,
    direction_of,
    elect,
    first_of,
    generations,
    objectives,
    per_job,
    promoted,
    ranked,
    seconds_an_epoch,
    shards,
    slots,
)

counts = st.integers(1, 200)
etas = st.integers(2, 5)
depths = st.integers(1, 6)
MAP = [Objective("val/map", "maximize")]
BOTH = [Objective("val/map", "maximize"), Objective("parameters", "minimize")]


def row(number: int, score: float | None, rung: int = 0, reason: str | None = None) -> dict:
    return {
        "number": number, "rung": rung, "epochs": 2 ** (rung + 1),
        "scores": None if score is None else [score], "seconds": 1.0, "run_id": f"r{number}",
        "curve": [], "reason": reason,
    }  # fmt: skip


def sweep(**given) -> dict:
    return settings.check("sweep", given)


def test_a_study_of_eight() -> None:
    assert slots(8, 2, 4) == [8, 4, 2, 1]
    assert budgets({"epochs": 3, "eta": 2, "rungs": 4}) == [3, 6, 12, 24]
    assert shards(8, 3) == [range(0, 3), range(3, 6), range(6, 8)]


@given(counts, etas, depths)
def test_rungs_get_narrower(trials, eta, rungs) -> None:
    wide = slots(trials, eta, rungs)
    assert len(wide) == rungs and wide[0] == trials
    assert all(b == a // eta for a, b in pairwise(wide))


@given(counts, etas, depths)
def test_budgets_grow_by_eta(epochs, eta, rungs) -> None:
    found = budgets({"epochs": epochs, "eta": eta, "rungs": rungs})
    assert found[0] == epochs
    assert all(b == eta * a for a, b in pairwise(found))


@given(counts, counts)
def test_every_slot_is_in_exactly_one_job(count, per) -> None:
    assert [slot for job in shards(count, per) for slot in job] == list(range(count))
    assert all(1 <= len(job) <= per for job in shards(count, per))


def test_only_samplers_that_learn_have_generations() -> None:
    assert generations(sweep(trials=20)) == [20]
    assert generations(sweep(trials=20, sampler="tpe")) == [8, 8, 4]
    assert generations(sweep()) == []
    assert [first_of(sweep(trials=20, sampler="gp", generation=6), g) for g in (0, 1, 3)] == [
        0, 6, 18,
    ]  # fmt: skip


def test_jobs_are_sized_by_what_an_epoch_took() -> None:
    given = sweep(trials=64, rungs=3, eta=2, epochs=4)
    # Not known: fewer trials where each takes longer.
    assert [per_job(given, rung) for rung in range(3)] == [4, 2, 1]
    # 120 s of training a job: 4, 4 and 8 epochs more on each rung, of 2 s each.
    assert [per_job(given, rung, 2.0) for rung in range(3)] == [15, 15, 7]
    assert [per_job(given | {"trials_per_job": 5}, rung, 2.0) for rung in range(3)] == [5, 5, 5]
    assert dealt(given, 0, 1, 2.0) == [range(0, 15), range(15, 30), range(30, 32)]
    study = {"trials": [{"rungs": [{"seconds": s, "epochs": 4}]} for s in (8.0, None, 20.0, 4.0)]}
    assert seconds_an_epoch(study) == 2.0
    assert seconds_an_epoch({"trials": []}) is None


def test_what_is_sought_and_which_way() -> None:
    assert objectives(sweep(), "miou") == [Objective("val/miou", "maximize")]
    assert objectives(sweep(objective="val/loss"), "miou") == [Objective("val/loss", "minimize")]
    both = sweep(objective=["val/accuracy", "parameters"])
    assert [o.direction for o in objectives(both, "x")] == ["maximize", "minimize"]
    given = sweep(objective=["val/accuracy", "seconds"], direction=["minimize", "maximize"])
    assert [o.direction for o in objectives(given, "x")] == ["minimize", "maximize"]
    assert direction_of("val/rmse") == "minimize" and direction_of("val/r2") == "maximize"


def test_the_best_go_on_and_ties_go_to_the_older() -> None:
    rows = [row(0, 0.5), row(1, 0.9), row(2, 0.5), row(3, 0.0)]
    assert promoted(rows, 3, MAP) == [1, 0, 2]
    assert promoted(rows, 2, [Objective("val/loss", "minimize")]) == [3, 0]


def test_a_failed_trial_is_last_even_behind_a_score_of_nothing() -> None:
    rows = [row(0, None, reason="diverged"), row(1, 0.0), row(2, 0.3), row(3, -7.0)]
    assert [r["number"] for r in ranked(rows, MAP)] == [2, 1, 3, 0]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30))
def test_ranking_keeps_every_trial_whatever_the_order_of_its_shards(scores) -> None:
    rows = [row(n, s, reason=None if s is not None else "x") for n, s in enumerate(scores)]
    forward = promoted(rows, len(rows), MAP)
    assert forward == promoted(rows[::-1], len(rows), MAP)
    assert sorted(forward) == list(range(len(rows)))


def test_several_objectives_rank_by_fronts_and_by_the_room_on_them() -> None:
    """Nothing beats 0, 1, 2 and 4, of which 1 has the least room; 3 is beaten by 1 alone."""
    points = [(0.9, 900), (0.8, 400), (0.5, 100), (0.79, 500), (0.78, 390)]
    rows = [row(n, 0.0) | {"scores": list(point)} for n, point in enumerate(points)]
    order = [r["number"] for r in ranked(rows, BOTH)]
    assert set(order[:2]) == {0, 2}  # the ends have all the room
    assert order[2:] == [4, 1, 3]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25))
def test_nobody_is_ranked_before_who_beats_him(points) -> None:
    rows = [row(n, 0.0) | {"scores": [float(x) for x in point]} for n, point in enumerate(points)]
    order = [r["number"] for r in ranked(rows, BOTH)]
    assert sorted(order) == list(range(len(points)))
    for place, number in enumerate(order):
        score, size = points[number]
        for better in order[place + 1 :]:
            s, p = points[better]
            assert not (s >= score and p <= size and (s, p) != (score, size))


def test_a_study_is_collected_with_its_states() -> None:
    first = [row(0, 0.2), row(1, 0.6), row(2, None, reason="loss is nan"), row(3, 0.4)]
    second = [row(1, 0.7, rung=1), row(3, 0.8, rung=1)]
    params = [{"optim.lr": 0.1 * (n + 1)} for n in range(4)]
    study = collect([params], [*first, *second], MAP, 1)
    assert (study["best"], study["front"], study["order"]) == (3, [3], [3, 1, 0])
    assert [t["state"] for t in study["trials"]] == ["stopped", "complete", "failed", "complete"]
    assert study["trials"][2]["reason"] == "loss is nan"
    assert [r["scores"] for r in study["trials"][1]["rungs"]] == [[0.6], [0.7]]
    assert study["trials"][1]["params"] == params[1]
    assert study["objectives"] == [{"name": "val/map", "direction": "maximize"}]


def test_the_best_is_of_all_generations() -> None:
    rows = [row(0, 0.2), row(1, 0.9), row(1, 0.5, rung=1), row(2, 0.3), row(2, 0.6, rung=1)]
    study = collect([[{}, {}], [{}]], rows, MAP, 1)
    assert study["best"] == 2
    assert [t["generation"] for t in study["trials"]] == [0, 0, 1]


def test_a_trial_that_fails_on_a_higher_rung_is_failed_and_does_not_win() -> None:
    rows = [row(0, 0.9), row(1, 0.8), row(0, None, rung=1, reason="gone")]
    study = collect([[{}, {}]], rows, MAP, 1)
    assert study["trials"][0]["state"] == "failed"
    assert study["best"] == 1


def test_where_time_was_over_the_best_is_of_the_highest_rung_that_was_reached() -> None:
    rows = [row(0, 0.9), row(1, 0.8), row(0, None, rung=1, reason=SKIPPED)]
    study = collect([[{}, {}, {}]], rows, MAP, 1)
    assert [t["state"] for t in study["trials"]] == ["skipped", "stopped", "skipped"]
    assert study["best"] == 0 and study["trials"][2]["reason"] == SKIPPED


@pytest.mark.parametrize("rungs", [1, 2])
def test_a_study_in_which_all_fail_is_collected(rungs) -> None:
    rows = [row(0, None, rung=r, reason="x") for r in range(rungs)]
    study = collect([[{}]], rows, MAP, rungs - 1)
    assert study["trials"][0]["state"] == "failed"
    assert (study["best"], study["front"], study["order"]) == (None, [], [])


def test_the_winner_of_a_final_has_the_best_mean() -> None:
    def run(number: int, seed: int, score: float | None) -> dict:
        reason = None if score is not None else "diverged"
        return row(number, score, reason=reason) | {"fold": 0, "seed": seed}

    rows = [run(5, 0, 0.9), run(5, 1, 0.5), run(2, 0, 0.8), run(2, 1, 0.8)]
    candidates, winner = elect([5, 2], rows, MAP)
    assert winner == 2
    assert [c["number"] for c in candidates] == [5, 2]
    assert candidates[0]["mean"] == pytest.approx([0.7])
    assert candidates[0]["sd"] == pytest.approx([0.2828427])
    # One that fails with a seed does not win over one that fails with none.
    rows = [run(5, 0, 0.9), run(5, 1, None), run(2, 0, 0.8), run(2, 1, 0.8)]
    assert elect([5, 2], rows, MAP)[1] == 2
    assert elect([5], rows[1:2], MAP)[1] is None
