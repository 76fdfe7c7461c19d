"""The command line of a study: its verbs, in the order in which the workflow runs them."""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from swath import store
from swath.errors import ConfigError, RunError, StoppedError
from swath.options import (
    AGAIN,
    Code,
    Config,
    Minutes,
    Out,
    Patches,
    SplitFolder,
    State,
    deadline_of,
    digest_of,
    identity_of,
    open_set,
    parts_of,
    statistics_of,
)

if TYPE_CHECKING:
    from swath.study.rungs import Objective

app = typer.Typer()
log = logging.getLogger("swath")

Proposals = Annotated[
    list[Path] | None, typer.Option(help="proposal.json (repeat for each generation, in order).")
]
Results = Annotated[
    list[Path] | None, typer.Option("--result", help="Results of a job (repeat for each).")
]
Slots = Annotated[str, typer.Option(help="Which of all slots: FIRST:END, from 0.")]
Tried = Annotated[int, typer.Option(help="How often this job was begun; 1 is for the first time.")]
Inside = Annotated[
    str, typer.Option(hidden=True, help="Started by the job's own process: beside others, alone.")
]


@app.command()
def propose(
    config: Config,
    out: Out,
    state: State,
    generation: Annotated[int, typer.Option(help="Of the study's trials, from 0.")] = 0,
    proposal: Proposals = None,
    result: Results = None,
) -> None:
    """Draw the trials of a generation of a study, from all that is known.

    Reads: sweep.yaml, task.yaml, proposals and results of the earlier generations; what was
    proposed before the study grew (STATE/proposed.json), which stays where it still fits.
    Writes: proposal.json, the parameters of each trial, and when the study began.
    """
    from swath.files import read_json, write_json
    from swath.plan import hash_of, read_sections
    from swath.study import rungs, space

    sections = read_sections("propose", config)
    sweep, task = sections["sweep"], sections["task"]
    known = _known(sweep, proposal or [], result or [])
    # Another sampler or seed asks for other trials; a wider range or more of them do not.
    ledger = state / "proposed.json"
    store.bring(ledger)
    asks = hash_of(sweep["sampler"], sweep["seed"], sweep["generation"])
    told = read_json(ledger) if ledger.is_file() else {}
    before = told.get("trials", []) if told.get("asks") == asks else []
    first = rungs.first_of(sweep, generation)
    size = rungs.generations(sweep)[generation]
    trials = space.propose(
        sweep["space"], sampler=sweep["sampler"], trials=size, seed=sweep["seed"],
        generation=generation, known=known, before=before[first : first + size],
        directions=[s.direction for s in rungs.objectives(sweep, task["monitor"])],
    )  # fmt: skip
    write_json(
        ledger, {"asks": asks, "trials": [*before[:first], *trials, *before[first + size :]]}
    )
    store.keep(ledger)
    began = read_json(proposal[0])["began"] if proposal else time.time()
    write_json(out, {"began": began, "trials": trials})


@app.command()
def trials(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    proposal: Annotated[Path, typer.Option(help="proposal.json of the generation.")],
    generation: Annotated[int, typer.Option(help="Of the study's trials, from 0.")],
    rung: Annotated[int, typer.Option(help="Rung of the halving, from 0.")],
    slots: Slots,
    code: Code,
    state: State,
    out: Annotated[Path, typer.Option(help="Result of the job, a JSON file.")],
    below: Annotated[
        list[Path] | None, typer.Option(help="Results of the rung below (repeat for each).")
    ] = None,
    minutes: Minutes = None,
    attempt: Tried = 1,
    inside: Inside = "",
) -> None:
    """Train some slots of a rung, one after another in this process.

    Reads: sweep.yaml and the sections of a run, proposal.json, results of the rung below; when its
    job ends (--minutes, SLURM_JOB_END_TIME).
    Writes: one row a trial: number, rung, epochs, scores of the epoch whose network would be kept,
    seconds, run_id, the first objective by epoch, reason of a failure.
    Stops as `train` does; started again it goes on in the trial at which it was.
    """
    from swath.files import read_json
    from swath.study import rungs

    sweep, sections, sought = _read("trials", config)
    proposed = read_json(proposal)
    first = rungs.first_of(sweep, generation)
    epochs = rungs.budgets(sweep)
    earlier = [row for path in below or [] for row in read_json(path)]
    which = _slots(slots)
    order = rungs.promoted(earlier, max(which) + 1, sought) if rung else []
    numbers = [order[slot] if rung else first + slot for slot in which]
    asked = [
        _Asked(
            number,
            epochs[rung],
            0,
            sweep["seed"],
            _with_budget(sections, sweep, proposed["trials"][number - first])[1],
            {"rung": rung},
        )
        for number in numbers
    ]
    closes = proposed["began"] + 60 * sweep["minutes"] if sweep["minutes"] else None
    _train_asked(
        asked, config.parent.name, [s.name for s in sought], patches, split, state, out, code=code,
        minutes=minutes, attempt=attempt, inside=inside, which=which, closes=closes,
        side_by_side=sweep["side_by_side"],
    )  # fmt: skip


@app.command()
def worker(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    name: Annotated[str, typer.Option(help="Name of this worker.")],
    code: Code,
    state: State,
    studies: Annotated[Path, typer.Option(help="Folder of the study's state.")],
    out: Annotated[Path, typer.Option(help="What the study has come to, a JSON file.")],
    minutes: Minutes = None,
) -> None:
    """Train trials of an asynchronous study until there are none.

    Reads: sweep.yaml and the sections of a run, the patch set, the split.
    Writes: the parameters and rows of all trials; while it runs, STUDIES/IDENTITY/journal.log,
    which it shares with the other workers.
    A trial whose worker has died is gone on with by another. Stops as `train` does.
    """
    from swath.files import write_json
    from swath.learn.train import check_device
    from swath.learn.trials import Slot, train_slot
    from swath.plan import hash_of, without
    from swath.study import journal, rungs

    sweep, sections, sought = _read("worker", config)
    check_device(sections["trainer"], processes=1)
    epochs = rungs.budgets(sweep)
    opened, version = open_set(patches)
    parts, statistics, dealt_by = parts_of(split, 0), statistics_of(split, 0), digest_of(split)
    # Trials of other data, code or settings are none of this study's; a wider range or more trials
    # go on with those that there are.
    grows = (
        "trials", "minutes", "workers", "space", "final", "trials_per_job", "side_by_side",
        "threads",
    )  # fmt: skip
    kinds = {key: without(d, "low", "high", "step") for key, d in sweep["space"].items()}
    asks = [without(sweep, *grows), kinds, sections, version, dealt_by, code]
    shared = journal.Shared(
        studies / hash_of(*asks), name, space=sweep["space"], sampler=sweep["sampler"],
        seed=sweep["seed"], sought=sought, budgets=epochs, eta=sweep["eta"],
        pruner=sweep["pruner"], trials=sweep["trials"], startup=sweep["generation"],
        minutes=sweep["minutes"],
    )  # fmt: skip

    def train_trial(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        given = _with_budget(sections, sweep, params)[1]
        identity = identity_of(given, version, dealt_by, code, 0, sweep["seed"])
        slot = Slot(
            number,
            config.parent.name,
            identity,
            epochs[rung],
            sweep["seed"],
            given,
            parts,
            statistics,
            {"rung": rung},
        )
        return train_slot(
            slot, opened, state, sought=[s.name for s in sought], code=code,
            deadline=deadline_of(minutes), measured=state.parent / "measured",
        )  # fmt: skip

    done = journal.work(shared, train_trial, StoppedError)
    params, rows = shared.collected()
    log.info("%s has trained %d of %d trials", name, done, len(params))
    write_json(out, {"trials": params, "rows": rows})


@app.command()
def best(
    config: Config,
    name: Annotated[str, typer.Option(help="Name of the study.")],
    out: Annotated[Path, typer.Option(help="trials.json to write.")],
    proposal: Proposals = None,
    result: Results = None,
    worker: Annotated[
        list[Path] | None, typer.Option(help="What a worker has written (repeat for each).")
    ] = None,
) -> None:
    """Collect a study: every trial by rung, and the best.

    Reads: sweep.yaml and the sections of a run, the proposals, the jobs' results.
    Writes: trials.json; beside it best.yaml, the best as a configuration that is ready for
    conf/experiment, and journal.log, the study for `optuna-dashboard`.
    """
    from swath.files import read_json, whole, write_json, write_text
    from swath.plan import as_experiment
    from swath.study import journal, rungs

    sweep, sections, sought = _read("best", config)
    rows = [row for path in result or [] for row in read_json(path)]
    proposals = [read_json(path)["trials"] for path in proposal or []]
    if worker:  # who has ended last knows all
        whole_study = max((read_json(path) for path in worker), key=lambda w: len(w["rows"]))
        proposals, rows = [whole_study["trials"]], whole_study["rows"]
    study = {
        "study": name, "mode": sweep["mode"], "sampler": sweep["sampler"],
        **rungs.collect(proposals, rows, sought, sweep["rungs"] - 1),
    }  # fmt: skip
    write_json(out, study)
    with whole(out.parent / "journal.log") as part:
        journal.export(study, sweep["space"], part)
    won = study["best"]
    if won is None:
        reason = next((t["reason"] for t in study["trials"] if t["reason"]), rungs.SKIPPED)
        log.warning("every trial failed: %s", reason)
        text = f"# Every trial of the study of {name} failed.\n"
    else:
        log.info("best trial: %d %s", won, study["trials"][won]["params"])
        what = f"The best of the study of {name}: trial {won}."
        text = as_experiment(
            name, what, *_with_budget(sections, sweep, study["trials"][won]["params"])
        )
    write_text(out.parent / "best.yaml", text)


@app.command()
def final(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    study: Annotated[Path, typer.Option(help="trials.json.")],
    slots: Slots,
    code: Code,
    state: State,
    out: Annotated[Path, typer.Option(help="Result of the job, a JSON file.")],
    minutes: Minutes = None,
    attempt: Tried = 1,
    inside: Inside = "",
) -> None:
    """Train some runs of a study's final: its best trials over seeds and folds.

    Reads: sweep.yaml and the sections of a run, trials.json. Writes: one row a run; where fewer
    trials than asked for have not failed, fewer.
    Stops as `train` does; started again it goes on in the run at which it was.
    """
    from swath.files import read_json
    from swath.study import rungs

    sweep, sections, _ = _read("final", config)
    collected = read_json(study)
    sought = [s["name"] for s in collected["objectives"]]
    epochs = rungs.budgets(sweep)[-1]
    which = _slots(slots)
    runs = [
        (number, fold, seed)
        for number in _candidates(collected, sweep)
        for fold in sweep["final"]["folds"]
        for seed in sweep["final"]["seeds"]
    ]
    which = [slot for slot in which if slot < len(runs)]
    asked = []
    for number, fold, seed in (runs[slot] for slot in which):
        own = _with_budget(sections, sweep, collected["trials"][number]["params"])[1]
        asked.append(_Asked(number, epochs, fold, seed, own, {"fold": fold, "seed": seed}))
    _train_asked(
        asked, config.parent.name, sought, patches, split, state, out, code=code, minutes=minutes,
        attempt=attempt, inside=inside, which=which, side_by_side=sweep["side_by_side"],
    )  # fmt: skip


@app.command()
def elect(
    config: Config,
    study: Annotated[Path, typer.Option(help="trials.json.")],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    result: Results = None,
) -> None:
    """Choose the winner of a study by the validation parts alone.

    Reads: sweep.yaml and the sections of a run, trials.json, the results of the final.
    Writes: elected.json with the mean of each candidate, winner.yaml, a configuration that is ready
    for conf/experiment, and winner/config/, the sections with which the winner is trained.
    """
    from swath.files import read_json, write_json, write_text
    from swath.plan import as_experiment, write_section
    from swath.study import rungs

    sweep, sections, _ = _read("elect", config)
    collected = read_json(study)
    sought = [rungs.Objective(**s) for s in collected["objectives"]]
    rows = [row for path in result or [] for row in read_json(path)]
    candidates, winner = rungs.elect(_candidates(collected, sweep), rows, sought)
    if winner is None:
        reasons = [t["reason"] for t in collected["trials"]] + [row["reason"] for row in rows]
        why = next((reason for reason in reasons if reason), "none")
        raise RunError(
            f"nothing has won: every run failed ({why})", where=study, mend="mend the space"
        )
    params, won = _with_budget(sections, sweep, collected["trials"][winner]["params"])
    for name, values in won.items():
        write_section(out / "winner" / "config" / f"{name}.yaml", values)
    what = f"The winner of the final of the study of {collected['study']}: trial {winner}."
    write_text(out / "winner.yaml", as_experiment(collected["study"], what, params, won))
    write_json(out / "elected.json", {"candidates": candidates, "winner": winner})
    log.info("the winner is trial %d %s", winner, collected["trials"][winner]["params"])


@app.command()
def conclude(
    elected: Annotated[Path, typer.Option(help="elected.json.")],
    out: Annotated[Path, typer.Option(help="final.json to write.")],
    scores: Annotated[
        list[Path], typer.Option(help="Scores of the winner's runs (repeat for each).")
    ],
) -> None:
    """Say what the winner of a study reaches on the test part, which nothing has seen before.

    Reads: elected.json, scores.json of each of the winner's runs. Writes: final.json.
    """
    from swath.files import read_json, write_json
    from swath.study.results import HEADLINES

    runs = []
    for path in scores:
        found = read_json(path)
        headline = next(name for name in HEADLINES if name in found)
        figure = {key: found[headline].get(key) for key in ("value", "low", "high")}
        runs.append({"fold": found["fold"], "seed": found["seed"], "headline": headline, **figure})
    test = {"split": read_json(scores[0])["split"], "runs": runs}
    write_json(out, {**read_json(elected), "test": test})


@app.command(name="track_study")
def track_study(
    config: Config,
    study: Annotated[Path, typer.Option(help="trials.json.")],
    spool: Annotated[Path, typer.Option(help="Folder of W&B's files.")],
    out: Annotated[Path, typer.Option(help="tracking.json to write.")],
) -> None:
    """Log the trials of a study to Weights & Biases as a group; what goes wrong stops nothing.

    Reads: tracking.yaml, trials.json. Writes: tracking.json, the spool.
    """
    from swath.files import read_json, write_json
    from swath.plan import read_sections
    from swath.report.tracking import track_study as tell

    settings = read_sections("track_study", config)["tracking"]
    told = tell(read_json(study), spool, **settings)
    store.keep(spool)
    write_json(out, told)


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="The experiment whose study it is.")],
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    state: State = Path("state"),
) -> None:
    """Print how a study stands, while it runs or after.

    Reads: what results/NAME and STATE/runs hold of it. Writes: nothing; prints.
    Example: swath study eurosat_small
    """
    from swath.plan import read_section
    from swath.study.standing import standing

    config = results / name / "config"
    sweep, task = (read_section(config / f"{key}.yaml") for key in ("sweep", "task"))
    print("\n".join(standing(results / name, state, sweep, task["monitor"])))


# ---- trials of a study ----------------------------------------------------------------------


def _read(stage: str, config: Path) -> tuple[dict[str, Any], dict[str, Any], list[Objective]]:
    """The sweep that a stage reads, the sections of a run, and what is sought."""
    from swath.plan import read_sections
    from swath.study.rungs import objectives

    sections = read_sections(stage, config)
    sweep = sections.pop("sweep")
    return sweep, sections, objectives(sweep, sections["task"]["monitor"])


class _Asked(NamedTuple):
    """A training that a study asks for."""

    number: int
    epochs: int
    fold: int
    seed: int
    sections: dict[str, Any]
    known: dict[str, Any]


def _train_asked(
    asked: list[_Asked],
    name: str,
    sought: list[str],
    patches: Path,
    split: Path,
    state: Path,
    out: Path,
    *,
    code: str,
    minutes: float | None,
    attempt: int,
    inside: str,
    which: list[int],
    closes: float | None = None,
    side_by_side: int = 1,
) -> None:
    """Train what is asked for, and write a row for each.

    A job that was begun again after it died trains the one at which that was in a process of its
    own, which takes no other with it. Some side by side are processes of the same verb.
    """
    from swath.files import write_json
    from swath.learn.train import check_device
    from swath.learn.trials import Slot, elsewhere, train_slot, train_slots
    from swath.study.rungs import SKIPPED

    together = min(side_by_side, len(asked))
    if together > 1 and not inside:
        write_json(out, _side_by_side(which, together, out))
        return
    # What no trial could do is no trial's result.
    for device in {each.sections["trainer"]["device"] for each in asked}:
        check_device({"device": device, "batch_size": 1}, processes=1)
    opened, version = open_set(patches)
    folds = {
        fold: (parts_of(split, fold), statistics_of(split, fold))
        for fold in {each.fold for each in asked}
    }
    dealt_by = digest_of(split)
    slots = [
        Slot(
            each.number,
            name,
            identity_of(each.sections, version, dealt_by, code, each.fold, each.seed),
            each.epochs,
            each.seed,
            each.sections,
            *folds[each.fold],
            each.known,
        )
        for each in asked
    ]

    def alone(slot: Slot) -> list[dict[str, Any]] | int:
        part = out.with_name(f"{out.stem}.{slot.run_id}.json")
        command = _same("alone", out=part, slots=[which[slots.index(slot)]])
        try:
            (ended,) = elsewhere([command], [part])
        finally:
            part.unlink(missing_ok=True)
        return ended

    rows = train_slots(
        slots,
        state,
        one=partial(
            train_slot, patches=opened, state=state, sought=sought, code=code,
            deadline=deadline_of(minutes), measured=state.parent / "measured",
        ),
        alone=alone if attempt > 1 and inside != "alone" else None,
        closes=closes,
        skipped=SKIPPED,
    )  # fmt: skip
    write_json(out, rows)


def _side_by_side(which: list[int], together: int, out: Path) -> list[dict[str, Any]]:
    """The rows of slots that are trained by so many processes of this verb at once."""
    from swath.learn.trials import elsewhere

    dealt = [which[k::together] for k in range(together)]
    parts = [out.with_name(f"{out.stem}.{k}.json") for k in range(together)]
    pairs = zip(dealt, parts, strict=True)
    found = elsewhere([_same("beside", out=part, slots=some) for some, part in pairs], parts)
    by_slot: dict[int, dict[str, Any]] = {}
    for some, ended in zip(dealt, found, strict=True):
        if isinstance(ended, int):
            raise RunError(
                f"a process ended with exit code {ended}", where=out, mend="start it again"
            )
        by_slot |= dict(zip(some, ended, strict=True))
    # What has no room beside others may have it by itself.
    again = [slot for slot in which if "memory" in (by_slot[slot]["reason"] or "")]
    if again:
        (ended,) = elsewhere([_same("beside", out=parts[0], slots=again)], parts[:1])
        if not isinstance(ended, int):
            by_slot |= dict(zip(again, ended, strict=True))
    for part in parts:
        part.unlink(missing_ok=True)
    return [by_slot[slot] for slot in which]


def _same(inside: str, out: Path, slots: list[int]) -> list[str]:
    """The command of this process, for some of its slots, and how it then is started."""
    given = sys.argv[1:]
    replaced = {"--out", "--slots", "--log", "--inside"}
    kept = [w for n, w in enumerate(given) if not {w, *given[max(0, n - 1) : n]} & replaced]
    more = ["--inside", inside, "--out", str(out), "--slots", ",".join(map(str, slots))]
    return [sys.executable, "-P", "-c", AGAIN, *kept, *more]


def _slots(given: str) -> list[int]:
    """Numbers of slots, from FIRST:END or a list."""
    try:
        if ":" in given:
            first, end = map(int, given.split(":"))
            return list(range(first, end))
        return [int(number) for number in given.split(",")]
    except ValueError:
        raise ConfigError(f"'{given}' is none", where="--slots", mend="give FIRST:END") from None


def _candidates(collected: dict[str, Any], sweep: dict[str, Any]) -> list[int]:
    """The trials of the final, best first; without a final, the best is the only one."""
    found: list[int] = collected["order"][: max(1, sweep["final"]["best"])]
    return found


def _with_budget(
    sections: dict[str, Any], sweep: dict[str, Any], params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial's values, with the whole budget, and the sections of its run."""
    from swath.plan import with_params
    from swath.study.rungs import budgets

    epochs = budgets(sweep)[-1]
    values = {"trainer.epochs": epochs, **params}
    return values, with_params(sections, values)


def _known(sweep: dict[str, Any], proposals: list[Path], results: list[Path]) -> list[Any]:
    """All trials of earlier generations, as the sampler learns from them."""
    from swath.files import read_json
    from swath.study.space import Known

    rows = [row for path in results for row in read_json(path)]
    known, number = [], 0
    for generation, path in enumerate(proposals):
        for params in read_json(path)["trials"]:
            mine = [row for row in rows if row["number"] == number]
            scores = {row["epochs"]: row["scores"] for row in mine if row["scores"] is not None}
            failed = any(row["scores"] is None for row in mine)
            complete = any(row["rung"] == sweep["rungs"] - 1 for row in mine) and not failed
            known.append(Known(params, {} if failed else scores, complete, generation))
            number += 1
    return known
