"""Trials of a study, trained one after another in this process, which stays warm.

A process that has imported torch and Lightning once begins a trial within milliseconds. What goes
wrong with a trial is its result: it has no scores, and a reason.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swath import store
from swath.data.patchset import PatchSet
from swath.errors import StoppedError, StoreError, SwathError
from swath.files import read_json, write_json
from swath.learn.train import Outcome, train

log = logging.getLogger(__name__)

Row = dict[str, Any]
"""number, epochs, scores, seconds, run_id, curve, reason, and what its slot knows besides."""

TRIAL = "trial.json"
"""In a run's folder, for those who look on: of which study, trial and rung it is."""
BEGUN = "begun"
"""File in a run's folder while a trial of it is trained; one that is left was killed."""


@dataclass(frozen=True, eq=False)  # each is one of its kind, and holds arrays
class Slot:
    """One training of a trial, up to an epoch."""

    number: int
    """Of the trial."""
    study: str
    """Its name."""
    run_id: str
    """Names the folder of its state."""
    epochs: int
    seed: int
    sections: dict[str, Any]
    """model, task, optim and trainer, complete."""
    parts: NDArray[np.str_]
    """The part of each patch."""
    statistics: dict[str, Any]
    """Of the bands, over the training part."""
    known: dict[str, Any]
    """What its row says besides: rung, or fold and seed."""


def train_slot(
    slot: Slot,
    patches: PatchSet,
    state: Path,
    *,
    sought: Sequence[str],
    code: str,
    deadline: float | None = None,
    measured: Path | None = None,
) -> Row:
    """Train a trial to the end of its slot, from wherever it is, and tell how good it is.

    Args:
        slot: the trial.
        patches: the patch set.
        state: folder of the runs.
        sought: objectives: columns of the history, of the epoch whose network would be kept;
            `parameters` or `seconds`.
        code: fingerprint of the code.
        deadline: when this process will be ended, in seconds since 1970.
        measured: see `swath.learn.train.train`.

    Raises:
        StoppedError: a signal or the deadline came first.
    """
    row = _row(slot)
    begun = state / slot.run_id / BEGUN
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.touch()
    store.keep(begun)
    of = {"study": slot.study, "number": slot.number, "epochs": slot.epochs} | slot.known
    write_json(begun.with_name(TRIAL), of, synced=False)
    try:
        outcome = train(
            patches, slot.parts, slot.statistics, state / slot.run_id, seed=slot.seed,
            until_epoch=slot.epochs, deadline=deadline, code=code, measured=measured,
            **slot.sections,
        )  # fmt: skip
        row |= _reached(outcome, sought)
    except (StoppedError, StoreError):
        raise
    except (SwathError, RuntimeError, ValueError, MemoryError) as failed:  # is a result, too
        reason = (str(failed).strip() or type(failed).__name__).splitlines()[0]
        row["reason"] = reason.removeprefix(f"{begun.parent}: ")
    finally:
        begun.unlink(missing_ok=True)
        store.forget(begun)
    scores = zip(sought, row["scores"] or (), strict=False)
    told = row["reason"] or ", ".join(f"{name} {score:.4g}" for name, score in scores)
    log.info("trial %d, %d epochs: %s", slot.number, slot.epochs, told)
    return row


def was_killed(slot: Slot, state: Path) -> bool:
    """Whether an earlier process died while it trained this trial."""
    store.bring(state / slot.run_id / BEGUN)
    return (state / slot.run_id / BEGUN).is_file()


def unable(slot: Slot, reason: str) -> Row:
    """The row of a trial that cannot be trained, with why."""
    return {**_row(slot), "reason": reason}


def has_begun(slot: Slot, state: Path) -> bool:
    """Whether any of it was trained before."""
    store.bring(state / slot.run_id / "progress.json")
    return (state / slot.run_id / "progress.json").is_file()


def _row(slot: Slot) -> Row:
    return {
        "number": slot.number, **slot.known, "epochs": slot.epochs, "scores": None,
        "seconds": None, "run_id": slot.run_id, "curve": [], "reason": None,
    }  # fmt: skip


def _reached(outcome: Outcome, sought: Sequence[str]) -> dict[str, Any]:
    """Scores, cost and curve of what a trial has reached."""
    best = outcome.rows[outcome.best_epoch]
    own = {name: outcome.facts[name] for name in ("parameters", "seconds")}  # of the whole run
    scores = [float(own[name] if name in own else best[name]) for name in sought]
    for name, score in zip(sought, scores, strict=True):
        if not math.isfinite(score):
            raise ValueError(f"{name} is {score}")
    curve = [float(row[sought[0]]) for row in outcome.rows if sought[0] in row]
    return {"scores": scores, "seconds": outcome.facts["seconds"], "curve": curve}


# ---- in processes of their own ----------------------------------------------------------------


def elsewhere(commands: Sequence[Sequence[str]], outs: Sequence[Path]) -> list[list[Row] | int]:
    """Run processes side by side; for each the rows that it has written, or how it ended.

    Args:
        commands: of the processes.
        outs: the file that each writes.

    Raises:
        StoppedError: this process or one of them was asked to stop.
    """
    share = str(max(1, len(os.sched_getaffinity(0)) // len(commands)))
    env = {**os.environ, "OMP_NUM_THREADS": share} if len(commands) > 1 else None
    for out in outs:
        out.unlink(missing_ok=True)
    started = [subprocess.Popen(command, env=env) for command in commands]
    with _passing_on(started):
        ends = [process.wait() for process in started]
    if StoppedError.exit_code in ends:
        raise StoppedError("stopped", where="trials", mend="started again they go on from there")
    return [
        read_json(out) if not end and out.is_file() else end
        for out, end in zip(outs, ends, strict=True)
    ]


@contextlib.contextmanager
def _passing_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Signals that ask this process to stop ask those that it has started."""

    def pass_on(number: int, _: Any) -> None:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, pass_on) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_slots(
    slots: Sequence[Slot],
    state: Path,
    *,
    one: Callable[[Slot], Row],
    alone: Callable[[Slot], list[Row] | int] | None,
    closes: float | None,
    skipped: str,
) -> list[Row]:
    """Train slots one after another.

    Args:
        slots: the trials.
        state: folder of the runs.
        one: trains one in this process.
        alone: trains one in a process of its own: for one in which an earlier process has died, so
            that it takes no other with it if it does so again. None trains all here.
        closes: when the study's time is over, in seconds since 1970; none is begun later.
        skipped: reason of those that are not.
    """
    rows = []
    for slot in slots:
        if closes is not None and time.time() > closes and not has_begun(slot, state):
            rows.append(unable(slot, skipped))
        elif alone is not None and was_killed(slot, state):
            end = alone(slot)
            rows += [unable(slot, _killed_by(end))] if isinstance(end, int) else end
        else:
            rows.append(one(slot))
    return rows


def _killed_by(end: int) -> str:
    """Why a process of its own has left no row."""
    if end >= 0:
        return f"its process ended with exit code {end}"
    return f"killed twice, by {signal.Signals(-end).name}: perhaps for want of memory"
