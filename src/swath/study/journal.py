"""A study as an Optuna journal: shared by workers of the asynchronous mode, and read by dashboards.

A journal is a file of one line a change, which any number of processes append to under a lock. A
process that is killed in the middle of a line leaves a part of one, with which Optuna 5.0 opens the
file once and never again: `Journal` cuts it off under the lock, before it reads or appends.

A trial that is trained has a lease, a file that its worker touches every few seconds. Whoever asks
for work first takes over a trial whose lease has run out, and goes on with it from its state.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from swath.errors import DataError
from swath.files import write_text
from swath.study.rungs import Objective, Row
from swath.study.space import Params, Space, frozen_params, holds, sampler_of, suggest

BEAT_S = 5.0
"""How often the lease of a trial is renewed."""
LEASE_S = 60.0
"""How old a lease may be whose worker is on another machine; on this one its process is known."""
WAIT_S = 0.5
"""How often a worker that has nothing to train looks whether a trial was left."""
LIVES = 3
"""How many workers may die with a trial that gets no further before it is given up."""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock that the kernel frees with its process; Optuna's own outlives it for 30 s."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Journal(JournalFileBackend):
    """A journal file whose broken end is cut off before anything reads or appends.

    Args:
        path: of the journal; beside it lies its lock.

    Raises:
        DataError: there is a line within that is none.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.path, self.lock = path, path.with_suffix(".lock")
        super().__init__(str(path))
        with _locked(self.lock):
            self._cut_off()
            self._prove()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines; whoever was killed before in the middle of one has not."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with _locked(self.lock):
            self._cut_off()
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())

    def _cut_off(self) -> None:
        """Cut a part of a line off the end."""
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end = size
            while end:
                start = max(0, end - 4096)
                file.seek(start)
                block = file.read(end - start)
                if (last := block.rfind(b"\n")) >= 0:
                    end = start + last + 1
                    break
                end = start
            if end < size:
                file.truncate(end)

    def _prove(self) -> None:
        """Drop a last line that is whole and no JSON; refuse one in the middle."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines):
            try:
                json.loads(line)
            except ValueError:
                if number == len(lines) - 1:
                    with self.path.open("r+b") as file:
                        file.truncate(sum(map(len, lines[:-1])))
                    return
                raise DataError(
                    f"line {number + 1} is no entry of a journal",
                    where=self.path,
                    mend="delete the file: trials go on from their states all the same",
                ) from None


# ---- the study that workers share -------------------------------------------------------------


@dataclass(frozen=True)
class Ticket:
    """A trial that a worker has to train."""

    number: int
    params: Params
    reached: int
    """How many rungs it has behind it."""
    handle: optuna.Trial


class Shared:
    """A study in a journal that several workers train.

    Args:
        folder: of the study; holds the journal and the leases.
        worker: the name of this worker.
        space: see `swath.study.space`. Trials of the journal that lie outside are not counted.
        sampler: random, tpe, gp or nsga2.
        seed: of the sampler.
        sought: the objectives.
        budgets: epochs by rung.
        eta: of each rung, one in eta goes on.
        pruner: asha, hyperband, median or none.
        trials: how many the study has.
        startup: trials that are drawn at random.
        minutes: wall time after which no trial begins, from when the study was first asked for
            with these trials, space and minutes.

    Raises:
        DataError: the journal is broken.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        *,
        space: Space,
        sampler: str,
        seed: int,
        sought: Sequence[Objective],
        budgets: Sequence[int],
        eta: int,
        pruner: str,
        trials: int,
        startup: int,
        minutes: float | None = None,
    ) -> None:
        self.space, self.budgets, self.sought = space, budgets, sought
        self.sampler, self.seed, self.startup = sampler, seed, startup
        self.trials, self.minutes = trials, minutes
        self.worker, self.leases = worker, folder / "leases"
        self.leases.mkdir(parents=True, exist_ok=True)
        self.turn = folder / "turn.lock"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        asked = json.loads(json.dumps({"trials": trials, "minutes": minutes, "space": space}))
        with _locked(self.turn), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                storage=JournalStorage(Journal(folder / "journal.log")),
                pruner=_pruner(pruner, budgets, eta, startup),
                study_name="study",
                directions=[s.direction for s in sought],
                load_if_exists=True,
            )
            if self.study.metric_names is None:
                self.study.set_metric_names([s.name for s in sought])
            # A study that grows, perhaps days later, has its time once more; a worker that is
            # started again has not.
            if self.study.user_attrs.get("asked") != asked:
                self.study.set_user_attr("began", time.time())
                self.study.set_user_attr("asked", asked)

    def next(self) -> Ticket | None:
        """A trial to train: one whose worker has died, or else a new one; None where all are done.

        Waits while others train: their trials may yet be left behind.
        """
        while True:
            with _locked(self.turn):
                found = self._trials()
                running = [t for t in found if t.state == TrialState.RUNNING]
                left = next((t for t in running if self._is_left(t.number)), None)
                if left is not None:
                    if (ticket := self._again(left)) is not None:
                        return ticket
                    continue
                if len(found) < self.trials and not self._is_over():
                    handle = self.study.ask()
                    self._take(handle.number)
                    break
                if not running:
                    return None
            time.sleep(WAIT_S)
        with self.holding(handle.number):  # some samplers take their time
            return self._ticket(handle, 0)

    def report(self, ticket: Ticket, row: Row) -> bool:
        """Tell what a trial has reached on a rung; gives whether it is to go on.

        Args:
            ticket: the trial.
            row: of the rung; without scores it has failed.
        """
        with _locked(self.turn):
            if not self._holds(ticket.number):
                return False  # this machine was away for so long that another took it over
            ticket.handle.set_user_attr(f"rung{row['rung']}", row)
            return self._judge(ticket.handle, row)

    def give_back(self, ticket: Ticket) -> None:
        """Leave a trial to whoever asks next."""
        with _locked(self.turn):
            if self._holds(ticket.number):
                (self.leases / str(ticket.number)).unlink()

    @contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """Renew a trial's lease while the block runs."""
        lease, done = self.leases / str(number), threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_S):
                # A file system that is away for a moment ends no lease.
                with suppress(OSError):
                    if self._holds(number):
                        os.utime(lease)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def collected(self) -> tuple[list[Params], list[Row]]:
        """The parameters of each trial, and all rows with the number of its place among them."""
        found = self._trials()
        rows = [
            {**row, "number": number} for number, trial in enumerate(found) for row in _rows(trial)
        ]
        return [dict(trial.user_attrs.get("params", {})) for trial in found], rows

    # ---- trials ----

    def _trials(self) -> list[FrozenTrial]:
        """As many as are asked for, of those in the space; that of one being drawn is not known."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if "params" not in trial.user_attrs or holds(self.space, trial.user_attrs["params"])
        ][: self.trials]

    def _again(self, left: FrozenTrial) -> Ticket | None:
        """A trial that was left; None where it has ended, or its workers died too often."""
        killed = (self.leases / str(left.number)).exists()  # it was not given back
        self._take(left.number)
        handle = optuna.Trial(self.study, left._trial_id)
        rows = _rows(left)
        reached = len(rows)
        # It may have been killed after its row was there and before that was judged.
        if reached and not self._judge(handle, rows[-1]):
            return None
        if killed:
            died = left.user_attrs.get("died", {}).get(str(reached), 0) + 1
            handle.set_user_attr("died", {str(reached): died})
            if died >= LIVES:
                row: Row = {
                    "number": left.number, "rung": reached, "epochs": self.budgets[reached],
                    "scores": None, "seconds": None, "run_id": "", "curve": [],
                    "reason": f"killed {died} times: perhaps for want of memory",
                }  # fmt: skip
                handle.set_user_attr(f"rung{reached}", row)
                self._judge(handle, row)
                return None
        return self._ticket(handle, reached)

    def _ticket(self, handle: optuna.Trial, reached: int) -> Ticket:
        # A draw depends on the trial's number alone, not on who makes it: a worker that begins
        # anew would draw once more what it has drawn before.
        own = int(np.random.SeedSequence([self.seed, handle.number]).generate_state(1)[0] >> 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = sampler_of(self.sampler, seed=own, startup=self.startup)
            params = suggest(handle, self.space)
        handle.set_user_attr("params", params)
        return Ticket(handle.number, params, reached, handle)

    def _judge(self, handle: optuna.Trial, row: Row) -> bool:
        """Whether a trial goes on after this row, which the journal has; ends it if not."""
        if row["scores"] is None:
            self.study.tell(handle, state=TrialState.FAIL)
        elif row["rung"] == len(self.budgets) - 1:
            self.study.tell(handle, row["scores"])
        elif len(self.sought) == 1 and self._is_pruned(handle, row):
            self.study.tell(handle, state=TrialState.PRUNED)
        else:
            return True
        (self.leases / str(handle.number)).unlink(missing_ok=True)
        return False

    def _is_pruned(self, handle: optuna.Trial, row: Row) -> bool:
        """What the pruner says of a row; of one that has passed before it is not asked again."""
        trial = copy.copy(handle.storage.get_trial(handle._trial_id))
        passed = trial.user_attrs.get("passed", {"rung": -1, "known": []})
        if passed["rung"] >= row["rung"]:
            return False
        if row["epochs"] not in trial.intermediate_values:
            handle.report(row["scores"][0], step=row["epochs"])
            trial = copy.copy(handle.storage.get_trial(handle._trial_id))
        # Optuna notes that a rung is completed before anyone knows whether the trial goes on, and
        # takes the note for a yes: whoever was killed in between has it and is asked all the same.
        trial.system_attrs = {
            key: value
            for key, value in trial.system_attrs.items()
            if not key.startswith("completed_rung_") or key in passed["known"]
        }
        if self.study.pruner.prune(self.study, trial):
            return True
        known = sorted(handle.storage.get_trial(handle._trial_id).system_attrs)
        handle.set_user_attr("passed", {"rung": row["rung"], "known": known})
        return False

    def _is_over(self) -> bool:
        began = self.study.user_attrs["began"]
        return self.minutes is not None and time.time() > began + 60 * self.minutes

    # ---- leases ----

    def _take(self, number: int) -> None:
        write_text(self.leases / str(number), json.dumps(self._me()), synced=False)

    def _me(self) -> dict[str, Any]:
        process = os.getpid()
        return {
            "worker": self.worker, "machine": _machine(), "process": process,
            "started": _started(process),
        }  # fmt: skip

    def _holds(self, number: int) -> bool:
        """Whether this worker has the trial."""
        try:
            return bool(json.loads((self.leases / str(number)).read_text()) == self._me())
        except FileNotFoundError:
            return False

    def _is_left(self, number: int) -> bool:
        """Whether nobody trains the trial any more."""
        lease = self.leases / str(number)
        try:
            told = json.loads(lease.read_text())
            touched = lease.stat().st_mtime
        except (FileNotFoundError, ValueError):
            return True
        if told["machine"] and told["machine"] == _machine():
            # Known for sure, also after the whole machine has slept and every lease is old.
            alive = _started(told["process"])
            return alive is None or alive != told["started"] or told["process"] == os.getpid()
        return self._now() - touched > LEASE_S

    def _now(self) -> float:
        """The time by the clock of the file system, which may be another machine's."""
        clock = self.leases / f".{self.worker}"
        clock.touch()
        os.utime(clock)
        return clock.stat().st_mtime


def known_so_far(studies: Path) -> tuple[list[Params], list[Row]]:
    """Parameters and rows of the trials of the latest of an experiment's studies, to look at.

    Args:
        studies: folder of the studies' states; none has begun where it holds no journal.
    """
    found = sorted(studies.glob("*/journal.log"), key=lambda path: path.stat().st_mtime)
    if not found:
        return [], []
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="study", storage=JournalStorage(Journal(found[-1])))
    trials = study.get_trials(deepcopy=False)
    params = [dict(trial.user_attrs.get("params", {})) for trial in trials]
    return params, [row for trial in trials for row in _rows(trial)]


def work(shared: Shared, train: Callable[[int, Params, int], Row], stopped: type[Exception]) -> int:
    """Train trials of a shared study until there are none; gives how many.

    Args:
        shared: the study.
        train: from a trial's number, its parameters and a rung to its row.
        stopped: what `train` raises when this process is asked to stop.
    """
    done = 0
    while (ticket := shared.next()) is not None:
        with shared.holding(ticket.number):
            for rung in range(ticket.reached, len(shared.budgets)):
                try:
                    row = train(ticket.number, ticket.params, rung)
                except stopped:
                    shared.give_back(ticket)
                    raise
                if not shared.report(ticket, row):
                    break
        done += 1
    return done


def _rows(trial: FrozenTrial) -> list[Row]:
    """What a trial has reached, by rung."""
    found = [row for key, row in trial.user_attrs.items() if key.startswith("rung")]
    return sorted(found, key=lambda row: row["rung"])


def _machine() -> str:
    """Those processes of which this one can tell whether they live: of its system and container.

    Machines may bear the same name, and containers of one machine number their processes each for
    itself. Empty where a system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{os.uname().nodename} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """When a process started, since its number may be given again; None if it lives no more."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _pruner(name: str, budgets: Sequence[int], eta: int, startup: int) -> BasePruner:
    """Optuna's pruner of that name; steps are epochs."""
    if name == "asha":
        return SuccessiveHalvingPruner(min_resource=budgets[0], reduction_factor=eta)
    if name == "hyperband":
        return HyperbandPruner(
            min_resource=budgets[0], max_resource=budgets[-1], reduction_factor=eta
        )
    if name == "median":
        return MedianPruner(n_startup_trials=startup)
    return NopPruner()


# ---- for dashboards ---------------------------------------------------------------------------


def export(study: dict[str, Any], space: Space, path: Path) -> None:
    """Write a collected study as a journal of its own, which `optuna-dashboard` opens.

    Args:
        study: as `swath.study.rungs.collect` gives it, with the name of the study.
        space: of the study.
        path: of the journal.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.unlink(missing_ok=True)
    made = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=study["study"],
        directions=[s["direction"] for s in study["objectives"]],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names([s["name"] for s in study["objectives"]])
    one = len(study["objectives"]) == 1
    for trial in study["trials"]:
        params, kinds = frozen_params(space, trial["params"])
        scored = [row for row in trial["rungs"] if row["scores"] is not None]
        about = {
            "swath": trial["state"],
            "reason": trial["reason"],
            "run_id": trial["rungs"][-1]["run_id"] if trial["rungs"] else None,
            "seconds": scored[-1]["seconds"] if scored else None,
        }
        given: dict[str, Any] = {
            "params": params,
            "distributions": kinds,
            # A column with a null in it cannot be sorted.
            "user_attrs": {key: value for key, value in about.items() if value is not None},
        }
        if one:
            given["intermediate_values"] = {row["epochs"]: row["scores"][0] for row in scored}
        if trial["state"] == "complete":
            told = create_trial(values=scored[-1]["scores"], **given)
        else:
            stopped = trial["state"] == "stopped" and scored
            state = TrialState.PRUNED if stopped else TrialState.FAIL
            told = create_trial(state=state, **given)
        if told.datetime_complete and about["seconds"] is not None:
            # What the time line draws; nobody knows any more when it was.
            told.datetime_start = told.datetime_complete - timedelta(seconds=about["seconds"])
        made.add_trial(told)
    for lock in path.parent.glob(f"{path.name}*.lock"):
        lock.unlink(missing_ok=True)
