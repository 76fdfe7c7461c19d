"""How a study stands, told by the files that it has left so far.

Finished jobs have written their rows; what the others have done is known by the states of their
runs, which name their trial.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from swath.errors import DataError
from swath.files import read_json
from swath.study import rungs
from swath.study.rungs import Objective, Row

TRIAL = "trial.json"
"""In a run's folder: of which study and trial it is, and up to which epoch it is being trained."""
MOST = 20
"""Trials that are listed."""


def standing(results: Path, state: Path, sweep: dict[str, Any], monitor: str) -> list[str]:
    """Lines that say how far a study is, and which trials lead.

    Args:
        results: folder of the experiment.
        state: folder of what survives a killed job.
        sweep: the section.
        monitor: task.monitor.

    Raises:
        DataError: the experiment has no study, or it has not begun.
    """
    study = results / "study"
    proposals = [read_json(path)["trials"] for path in _by_number(study.glob("generation*/*.json"))]
    jobs = [read_json(path) for path in _by_number(study.glob("generation*/rung*/shard*.json"))]
    rows = [row for job in jobs for row in job]
    if sweep["mode"] == "async":
        from swath.study.journal import known_so_far  # imports Optuna

        shared, rows = known_so_far(state / "studies" / results.name)
        proposals = [shared] if shared else []
    sought = rungs.objectives(sweep, monitor)
    now = _training(results.name, state / "runs", rows, sought[0])
    if not proposals and not now:
        raise DataError("no study has begun here", where=study, mend="run snakemake, or look later")
    goals = ", ".join(f"{s.name} ({s.direction})" for s in sought)
    lines = [f"study {results.name}: {sweep['mode']}, {sweep['sampler']}, {goals}"]
    lines += _rungs_of(sweep, rows, now)
    params = [each for proposed in proposals for each in proposed]
    lines += _leaders(params, rows, now, sought)
    failed = [row for row in rows if row["scores"] is None]
    for row in failed[:3]:
        lines.append(f"trial {row['number']} failed at {row['epochs']} epochs: {row['reason']}")
    if len(failed) > 3:
        lines.append(f"and {len(failed) - 3} more failed")
    for file, what in (("final.json", "the final is over"), ("trials.json", "all trials are over")):
        if (study / file).is_file():
            lines.append(what)
            break
    return lines


def _training(name: str, runs: Path, rows: list[Row], first: Objective) -> dict[int, Row]:
    """Trials that have got further than their rows, by number: epochs, of how many, the best."""
    found: dict[int, Row] = {}
    in_order = sorted(rows, key=lambda row: row["epochs"])
    told_to = {row["run_id"]: row["epochs"] for row in in_order}
    for path in runs.glob(f"*/{TRIAL}"):
        try:
            told = read_json(path)
            progress = read_json(path.with_name("progress.json"))
        except DataError:
            continue  # it is being written
        if "rung" not in told:
            continue  # a run of the final
        if told["study"] != name or told["epochs"] <= told_to.get(path.parent.name, 0):
            continue
        scores = [row[first.name] for row in progress["history"] if first.name in row]
        best = max(scores, key=first.worth, default=math.nan)
        found[told["number"]] = {
            "epochs": len(progress["history"]), "of": told["epochs"], "score": best,
            "runs": path.with_name("begun").is_file(),
        }  # fmt: skip
    return found


def _rungs_of(sweep: dict[str, Any], rows: list[Row], now: dict[int, Row]) -> list[str]:
    """A line a rung: how many trials have passed it, of how many."""
    budgets = rungs.budgets(sweep)
    wide = [0] * sweep["rungs"]
    for size in rungs.generations(sweep):
        for rung, count in enumerate(rungs.slots(size, sweep["eta"], sweep["rungs"])):
            wide[rung] += count
    lines = []
    for rung, epochs in enumerate(budgets):
        passed = sum(row["rung"] == rung for row in rows)
        training = sum(each["of"] == epochs and each["runs"] for each in now.values())
        of = f" of {wide[rung]}" if sweep["mode"] == "static" else ""
        lines.append(f"rung {rung}, {epochs} epochs: {passed}{of} trials, {training} training")
    return lines


def _leaders(
    params: list[dict[str, Any]], rows: list[Row], now: dict[int, Row], sought: list[Objective]
) -> list[str]:
    """A table of the trials, those that got furthest first and of these the best."""
    last: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row["rung"]):
        if row["scores"] is not None:
            last[row["number"]] = row
    table = [
        (number, row["epochs"], row["scores"][0], "") for number, row in last.items()
        if number not in now
    ] + [
        (number, row["epochs"], row["score"], f"training to {row['of']}" if row["runs"] else "")
        for number, row in now.items()
    ]  # fmt: skip
    table.sort(key=lambda t: (-t[1], -sought[0].worth(t[2]) if t[2] == t[2] else math.inf, t[0]))
    lines = [f"{'trial':>5s} {'epochs':>6s} {sought[0].name:>14s}  settings"] if table else []
    for number, epochs, score, doing in table[:MOST]:
        own = params[number] if number < len(params) else {}
        words = [f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in own.items()]
        words += [doing] if doing else []
        lines.append(f"{number:5d} {epochs:6d} {score:14.4f}  {' '.join(words)}")
    if len(table) > MOST:
        lines.append(f"and {len(table) - MOST} more")
    return lines


def _by_number(paths: Any) -> list[Path]:
    """Files in the order of the numbers in their paths."""
    return sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])
