"""Successive halving: the plan of a study is fixed before it runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.study.rungs import budgets, collect, promoted, ranked, shards, slots

counts = st.integers(1, 200)
etas = st.integers(2, 5)
depths = st.integers(1, 6)


def row(number: int, score: float | None, rung: int = 0, reason: str | None = None) -> dict:
    return {
        "number": number, "rung": rung, "epochs": 2 ** (rung + 1), "score": score,
        "seconds": 1.0, "run_id": f"r{number}", "reason": reason, "objective": "val/map",
    }  # fmt: skip


def test_a_study_of_eight() -> None:
    assert slots(8, 2, 4) == [8, 4, 2, 1]
    assert budgets(3, 2, 4) == [3, 6, 12, 24]
    assert shards(8, 3) == [range(0, 3), range(3, 6), range(6, 8)]


@given(counts, etas, depths)
def test_rungs_get_narrower_and_are_never_empty(trials, eta, rungs) -> None:
    wide = slots(trials, eta, rungs)
    assert len(wide) == rungs and wide[0] == trials and wide[-1] >= 1
    assert wide == sorted(wide, reverse=True)


@given(counts, etas, depths)
def test_budgets_grow_by_eta(epochs, eta, rungs) -> None:
    found = budgets(epochs, eta, rungs)
    assert found[0] == epochs
    assert all(b == eta * a for a, b in pairwise(found))


@given(counts, counts)
def test_every_slot_is_in_exactly_one_job(count, per_job) -> None:
    assert [slot for job in shards(count, per_job) for slot in job] == list(range(count))
    assert all(1 <= len(job) <= per_job for job in shards(count, per_job))


def test_the_best_go_on_and_ties_go_to_the_older() -> None:
    rows = [row(0, 0.5), row(1, 0.9), row(2, 0.5), row(3, 0.0)]
    assert promoted(rows, 3) == [1, 0, 2]


def test_a_failed_trial_is_last_even_behind_a_score_of_nothing() -> None:
    rows = [row(0, None, reason="diverged"), row(1, 0.0), row(2, 0.3), row(3, -7.0)]
    assert [r["number"] for r in ranked(rows)] == [2, 1, 3, 0]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30))
def test_ranking_keeps_every_trial_whatever_the_order_of_its_shards(scores) -> None:
    rows = [row(n, s, reason=None if s is not None else "x") for n, s in enumerate(scores)]
    forward = promoted(rows, len(rows))
    assert forward == promoted(rows[::-1], len(rows))
    assert sorted(forward) == list(range(len(rows)))


def test_a_study_is_collected_with_its_states() -> None:
    first = [row(0, 0.2), row(1, 0.6), row(2, None, reason="loss is nan"), row(3, 0.4)]
    second = [row(1, 0.7, rung=1), row(3, 0.8, rung=1)]
    proposal = {"trials": [{"optim.lr": 0.1 * (n + 1)} for n in range(4)]}
    study = collect(proposal, [first, second])
    assert study["best"] == 3
    assert [t["state"] for t in study["trials"]] == ["stopped", "complete", "failed", "complete"]
    assert study["trials"][2]["reason"] == "loss is nan"
    assert [r["score"] for r in study["trials"][1]["rungs"]] == [0.6, 0.7]
    assert study["trials"][1]["params"] == proposal["trials"][1]
    assert (study["objective"], study["direction"]) == ("val/map", "maximize")


def test_a_trial_that_fails_on_a_higher_rung_is_failed() -> None:
    rungs = [[row(0, 0.9), row(1, 0.8)], [row(0, None, rung=1, reason="gone")]]
    study = collect({"trials": [{}, {}]}, rungs)
    assert study["trials"][0]["state"] == "failed"


@pytest.mark.parametrize("rungs", [1, 2])
def test_a_study_in_which_all_fail_is_collected(rungs) -> None:
    rows = [[row(0, None, rung=r, reason="x")] for r in range(rungs)]
    assert collect({"trials": [{}]}, rows)["trials"][0]["state"] == "failed"
