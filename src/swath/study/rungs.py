"""Successive halving whose shape is known before it runs: slots, budgets, promotion.

A study has generations, of which all but one belong to samplers that learn; each is a halving of
its own. Rung r of a generation of n trials has n·eta⁻ʳ slots; slot k of rung r trains the k-th
promoted trial up to the rung's budget, from where the rung below left it. So the whole study is a
fixed plan of jobs. Needs neither torch nor Optuna, since the workflow plans with it.

Source:
    Jamieson and Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization,
    AISTATS 2016, algorithm 1; with the sizes of rungs fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from swath.study.space import ADAPTIVE, Direction

Row = dict[str, Any]
"""Of one trial on one rung: number, rung, epochs, scores, seconds, run_id, curve, reason."""

JOB_S = 120.0
"""Training that a job is given where it is known how long an epoch takes: its start takes 5 s."""
PER_JOB = 4
"""Trials of the first rung that a job is given where it is not known."""
MOST_PER_JOB = 1000


@dataclass(frozen=True)
class Objective:
    """What a study seeks: a column of a run's history, its `parameters` or its `seconds`."""

    name: str
    direction: Direction

    @property
    def sign(self) -> int:
        """By what to multiply a score so that more is better."""
        return 1 if self.direction == "maximize" else -1

    def worth(self, score: float) -> float:
        """The score so that more is better."""
        return self.sign * score


# ---- the shape --------------------------------------------------------------------------------


def generations(sweep: dict[str, Any]) -> list[int]:
    """How many trials each generation of a study has."""
    trials: int = sweep["trials"]
    if sweep["sampler"] not in ADAPTIVE:
        return [trials] if trials else []
    size = sweep["generation"]
    return [min(size, trials - first) for first in range(0, trials, size)]


def first_of(sweep: dict[str, Any], generation: int) -> int:
    """The number of a generation's first trial."""
    return sum(generations(sweep)[:generation])


def slots(trials: int, eta: int, rungs: int) -> list[int]:
    """Number of trials on each rung."""
    return [trials // eta**rung for rung in range(rungs)]


def budgets(sweep: dict[str, Any]) -> list[int]:
    """Epochs, counted from the start, that a trial has trained at the end of each rung."""
    return [sweep["epochs"] * sweep["eta"] ** rung for rung in range(sweep["rungs"])]


def shards(count: int, per_job: int) -> list[range]:
    """Slots dealt to jobs, each of which trains its slots in one warm process."""
    return [range(start, min(start + per_job, count)) for start in range(0, count, per_job)]


def per_job(sweep: dict[str, Any], rung: int, epoch_s: float | None = None) -> int:
    """How many slots of a rung a job is given.

    Args:
        sweep: the section.
        rung: whose epochs count.
        epoch_s: what an epoch of a trial took before; None is not known.
    """
    given = sweep["trials_per_job"]
    if given != "auto":
        return int(given)
    if epoch_s is None:
        # Jobs that take about as long on each rung.
        return max(1, PER_JOB // sweep["eta"] ** rung)
    epochs = budgets(sweep)
    own = epochs[rung] - (epochs[rung - 1] if rung else 0)
    return max(1, min(MOST_PER_JOB, int(JOB_S / max(1e-3, own * epoch_s))))


def dealt(
    sweep: dict[str, Any], generation: int, rung: int, epoch_s: float | None = None
) -> list[range]:
    """The slots of each job of a rung of a generation."""
    count = slots(generations(sweep)[generation], sweep["eta"], sweep["rungs"])[rung]
    return shards(count, per_job(sweep, rung, epoch_s))


def seconds_an_epoch(study: dict[str, Any]) -> float | None:
    """What an epoch of a trial took in a collected study: the median; None if nothing trained."""
    rates = sorted(
        row["seconds"] / row["epochs"]
        for trial in study["trials"]
        for row in trial["rungs"]
        if row["seconds"]
    )
    return rates[len(rates) // 2] if rates else None


# ---- what is sought ---------------------------------------------------------------------------


def objectives(sweep: dict[str, Any], monitor: str) -> list[Objective]:
    """What a study seeks.

    Args:
        sweep: the section; where it names nothing, `val/<monitor>` is sought.
        monitor: task.monitor.
    """
    named = sweep["objective"] or f"val/{monitor}"
    names = [named] if isinstance(named, str) else list(named)
    given = sweep["direction"]
    ways: list[Any] = (
        [given] * len(names) if given is None or isinstance(given, str) else list(given)
    )
    return [Objective(n, way or direction_of(n)) for n, way in zip(names, ways, strict=True)]


def direction_of(name: str) -> Direction:
    """Which way a measure is better where nobody says."""
    measure = name.rpartition("/")[2]
    small = ("loss", "rmse", "mae", "parameters", "seconds")
    return "minimize" if measure in small else "maximize"


def ranked(rows: Sequence[Row], sought: Sequence[Objective]) -> list[Row]:
    """Rows from best to worst; a failed trial is last, and ties go to the older one.

    Several objectives rank by fronts of what no other beats, and within a front by crowding
    distance (Deb et al. 2002, sections III.A and III.B).
    """
    good = [row for row in rows if row["scores"] is not None]
    bad = sorted((row for row in rows if row["scores"] is None), key=lambda row: row["number"])
    worth = _worth(good, sought)
    if len(sought) == 1:
        return sorted(good, key=lambda row: (-worth[row["number"]][0], row["number"])) + bad
    found: list[Row] = []
    left = good
    while left:
        numbers = _front({row["number"]: worth[row["number"]] for row in left})
        room = _crowding({number: worth[number] for number in numbers})
        here = [row for row in left if row["number"] in numbers]
        found += sorted(here, key=lambda row: (-room[row["number"]], row["number"]))
        left = [row for row in left if row["number"] not in numbers]
    return found + bad


def promoted(rows: Sequence[Row], count: int, sought: Sequence[Objective]) -> list[int]:
    """Numbers of the trials that the next rung trains, best first."""
    return [row["number"] for row in ranked(rows, sought)][:count]


def _worth(scored: Sequence[Row], sought: Sequence[Objective]) -> dict[int, list[float]]:
    """By number, what each row is worth in each objective."""
    return {
        row["number"]: [s.worth(x) for s, x in zip(sought, row["scores"], strict=True)]
        for row in scored
    }


def _front(worth: dict[int, list[float]]) -> set[int]:
    """Numbers of those that no other beats: as good in all, and better in one."""
    return {
        number
        for number, own in worth.items()
        if not any(
            all(o >= w for o, w in zip(other, own, strict=True)) and other != own
            for other in worth.values()
        )
    }


def _crowding(worth: dict[int, list[float]]) -> dict[int, float]:
    """How much room each has on its front; the ends have all."""
    room = dict.fromkeys(worth, 0.0)
    for which in range(len(next(iter(worth.values())))):
        line = sorted(worth, key=lambda number: (worth[number][which], number))
        span = worth[line[-1]][which] - worth[line[0]][which]
        room[line[0]] = room[line[-1]] = math.inf
        for before, number, after in zip(line, line[1:], line[2:], strict=False):
            if span:
                room[number] += (worth[after][which] - worth[before][which]) / span
    return room


# ---- the whole study --------------------------------------------------------------------------

SKIPPED = "the study's time was over"


def collect(
    proposals: Sequence[Sequence[dict[str, Any]]],
    rows: Sequence[Row],
    sought: Sequence[Objective],
    last_rung: int,
) -> dict[str, Any]:
    """The whole study: each trial with its parameters, its scores by rung, and the best of all.

    Args:
        proposals: the parameters of each trial, by generation.
        rows: of all rungs of all generations.
        sought: the objectives.
        last_rung: number of the last rung, which the best has reached if any has.

    Returns:
        objectives, trials, front (what no other beats on the highest rung), best (None where all
        failed), and the order of all that have not failed: the highest rung first.
    """
    trials = []
    params = [(g, each) for g, proposed in enumerate(proposals) for each in proposed]
    by_number: dict[int, list[Row]] = {number: [] for number in range(len(params))}
    for row in sorted(rows, key=lambda row: row["rung"]):
        by_number[row["number"]].append(row)
    ends = []
    for number, (generation, own) in enumerate(params):
        mine = by_number[number]
        reason = mine[-1]["reason"] if mine else SKIPPED
        scored = [row for row in mine if row["scores"] is not None]
        done = bool(scored) and scored[-1]["rung"] == last_rung
        state = "complete" if done else "stopped"
        if reason:
            state = "skipped" if reason == SKIPPED else "failed"
        shown = ("rung", "epochs", "scores", "seconds", "run_id", "curve")
        trials.append(
            {
                "number": number,
                "generation": generation,
                "params": own,
                "rungs": [{key: row[key] for key in shown} for row in mine],
                "state": state,
                "reason": reason,
            }
        )
        # Whoever fails on a rung is judged by none below it.
        if scored and (not reason or reason == SKIPPED):
            ends.append(scored[-1])
    top = max((row["rung"] for row in ends), default=0)
    finalists = [row for row in ends if row["rung"] == top]
    order = [
        row["number"]
        for rung in range(top, -1, -1)
        for row in ranked([row for row in ends if row["rung"] == rung], sought)
    ]
    worth = _worth(finalists, sought)
    front = sorted(_front(worth))
    best = max(front, key=lambda n: (worth[n][0], -n)) if front else None
    return {
        "objectives": [{"name": s.name, "direction": s.direction} for s in sought],
        "trials": trials,
        "front": [best] if len(sought) == 1 and front else front,
        "best": best,
        "order": order,
    }


def elect(
    order: Sequence[int], rows: Sequence[Row], sought: Sequence[Objective]
) -> tuple[list[dict[str, Any]], int | None]:
    """The candidates of a final, each with its mean over seeds and folds, and who wins.

    The first objective decides; a candidate of which a run failed wins only where all have one.

    Args:
        order: the candidates, best first.
        rows: number, fold, seed, scores, seconds, run_id and reason of each run.
        sought: the objectives.
    """
    candidates: list[dict[str, Any]] = []
    for rank, number in enumerate(order):
        runs = [row for row in rows if row["number"] == number]
        scores = [row["scores"] for row in runs if row["scores"] is not None]
        means = [sum(column) / len(column) for column in zip(*scores, strict=True)]
        spread = [
            math.sqrt(sum((x - mean) ** 2 for x in column) / (len(column) - 1))
            if len(column) > 1
            else 0.0
            for column, mean in zip(zip(*scores, strict=True), means, strict=True)
        ]
        shown = ("fold", "seed", "scores", "seconds", "run_id", "reason")
        candidates.append(
            {
                "number": number,
                "rank": rank,
                "mean": means or None,
                "sd": spread or None,
                "runs": [{key: row[key] for key in shown} for row in runs],
            }
        )
    able = [c for c in candidates if c["mean"]]
    whole = [c for c in able if all(run["scores"] is not None for run in c["runs"])]
    winner = max(
        whole or able,
        key=lambda c: (sought[0].worth(c["mean"][0]), -c["rank"]),
        default=None,
    )
    return candidates, winner["number"] if winner else None
