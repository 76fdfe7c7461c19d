"""A lesson of the ladder, worked out by the workflow's own verbs in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from swath import plan
from swath.cli import app
from swath.study import rungs

Worked = Callable[..., dict[str, Any]]


def verb(verb_: str, /, *more: str, **options: Any) -> None:
    """Run a verb of swath in this process."""
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    done = CliRunner().invoke(app, [verb_, *words, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def prepared(composed: plan.Experiment, folder: Path) -> list[str]:
    """Data, patch set, split and statistics; gives what a verb is told of them."""
    config, data = folder / "config", folder / "data"
    listed, manifest = folder / "scenes.json", folder / "patches/manifest.json"
    name = composed.splits[-1]
    split = folder / "splits" / name
    verb("fetch", config=config, out=data, state=folder / "state/fetch")
    verb("scenes", config=config, data=data, out=listed)
    planned = json.loads(listed.read_text())
    shards = [shard["name"] for shard in planned["shards"]]
    for shard in shards:
        verb("patches", config=config, data=data, scenes=listed, shard=shard,
             out=folder / "patches" / shard)  # fmt: skip
    verb("index", config=config, scenes=listed, out=manifest)
    verb("split", config=config, data=data, patches=manifest, name=name, out=split)
    sums = split / "sums"
    for number in range(planned["rounds"]):
        below = [f"--below={sums / 'totals.npz'}"] if number else []
        for shard in shards:
            verb("measure", *below, patches=manifest, split=split, shard=shard,
                 out=sums / f"round{number}" / f"{shard}.npz")  # fmt: skip
        if not number:
            verb("totals", patches=manifest, sums=sums / "round0", out=sums / "totals.npz")
    refined = [f"--refined={sums / 'round1'}"] if planned["rounds"] > 1 else []
    verb("statistics", *refined, patches=manifest, sums=sums / "round0",
         out=split / "statistics.json")  # fmt: skip
    return [f"--patches={manifest}", f"--split={split}"]


def counted(composed: plan.Experiment, folder: Path) -> list[str]:
    """Maps, reduces and the mark; gives what the verb `lesson` is told of them."""
    config, data, lesson = folder / "config", folder / "data", composed.sections["lesson"]
    verb("fetch", config=config, out=data, state=folder / "state/fetch")
    mapped = []
    for part in range(lesson["maps"]):
        out = folder / f"mapped/part-{part:05d}.json"
        verb("map_part", config=config, data=data, part=part, out=out)
        mapped.append(f"--mapped={out}")
    for part in range(lesson["reduces"]):
        verb("reduce_part", *mapped, part=part, out=folder / f"reduced/part-{part:05d}.json")
    (folder / "reduced/_SUCCESS").touch()
    return [f"--counts={folder / 'reduced'}"]


def studied(composed: plan.Experiment, folder: Path) -> list[str]:
    """The study and its final; gives what the verb `lesson` is told of them."""
    sweep, study, config = composed.sections["sweep"], folder / "study", folder / "config"
    run = {"patches": folder / "patches/manifest.json", "code": "0", "state": folder / "state",
           "split": folder / "splits" / composed.splits[-1]}  # fmt: skip
    proposals, results = [], []
    for generation in range(len(rungs.generations(sweep))):
        proposal = study / f"generation{generation}/proposal.json"
        verb("propose", *proposals, *results, config=config, generation=generation,
             state=folder / "state/study", out=proposal)  # fmt: skip
        below: list[str] = []
        for rung in range(sweep["rungs"]):
            size = rungs.slots(rungs.generations(sweep)[generation], sweep["eta"], sweep["rungs"])
            out = proposal.parent / f"rung{rung}.json"
            verb("trials", *below, config=config, proposal=proposal, generation=generation,
                 rung=rung, slots=f"0:{size[rung]}", out=out, **run)  # fmt: skip
            below = [f"--below={out}"]
            results.append(f"--result={out}")
        proposals.append(f"--proposal={proposal}")
    trials = study / "trials.json"
    verb("best", *proposals, *results, config=config, name=folder.name, out=trials)
    final = sweep["final"]
    if not final["best"]:
        return [f"--study={trials}"]
    count = final["best"] * len(final["seeds"]) * len(final["folds"])
    verb("final", config=config, study=trials, slots=f"0:{count}", out=study / "final.json", **run)
    return [f"--study={trials}", f"--final={study / 'final.json'}"]


def found(lesson: dict[str, Any]) -> dict[str, float]:
    """What was found for each claim of a lesson, all of which have to hold."""
    assert [claim["text"] for claim in lesson["claims"] if not claim["holds"]] == []
    return {claim["text"]: claim["value"] for claim in lesson["claims"]}
