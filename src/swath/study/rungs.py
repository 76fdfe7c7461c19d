"""Successive halving whose shape is known before it runs: slots, budgets, promotion.

Rung r has trials·eta⁻ʳ slots; slot k of rung r trains the k-th promoted trial up to the rung's
budget, from where the rung below left it. So the whole study is a fixed plan of jobs.

Source:
    Jamieson and Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization,
    AISTATS 2016, algorithm 1; with the sizes of rungs fixed beforehand.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def slots(trials: int, eta: int, rungs: int) -> list[int]:
    """Number of trials on each rung; at least one on the last."""
    return [max(1, trials // eta**rung) for rung in range(rungs)]


def budgets(epochs: int, eta: int, rungs: int) -> list[int]:
    """Epochs, counted from the start, that a trial has trained at the end of each rung."""
    return [epochs * eta**rung for rung in range(rungs)]


def shards(count: int, per_job: int) -> list[range]:
    """Slots dealt to jobs, each of which trains its slots in one warm process."""
    return [range(start, min(start + per_job, count)) for start in range(0, count, per_job)]


def ranked(rows: list[Row]) -> list[Row]:
    """Rows of a rung from best to worst; a failed trial is last, and ties go to the older one."""
    return sorted(
        rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["number"])
    )


def promoted(rows: list[Row], count: int) -> list[int]:
    """Numbers of the trials that the next rung trains, best first."""
    return [row["number"] for row in ranked(rows)][:count]


def collect(proposal: dict[str, Any], rungs: list[list[Row]]) -> dict[str, Any]:
    """The whole study: each trial with its parameters, its score by rung, and the best of all."""
    trials = []
    for number, params in enumerate(proposal["trials"]):
        rows = [row for rung in rungs for row in rung if row["number"] == number]
        last = rows[-1]
        done = last["rung"] == len(rungs) - 1
        state = "failed" if last["reason"] else "complete" if done else "stopped"
        trials.append(
            {
                "number": number,
                "params": params,
                "rungs": [
                    {key: row[key] for key in ("rung", "epochs", "score", "seconds", "run_id")}
                    for row in rows
                ],
                "state": state,
                "reason": last["reason"],
            }
        )
    return {
        "objective": rungs[0][0]["objective"],
        "direction": "maximize",
        "trials": trials,
        "best": ranked(rungs[-1])[0]["number"],
    }
