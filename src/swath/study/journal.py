"""A study as an Optuna journal: shared by workers of the asynchronous mode, and read by dashboards.

A journal is a file of one line a change, which any number of processes append to under a lock. A
process that is killed in the middle of a line leaves a part of one, with which Optuna 5.0 opens the
file once and never again: `Journal` cuts it off under the lock, before it reads or appends.

A trial that is trained has a lease, a file that its worker touches every few seconds. Whoever asks
for work first takes over a trial whose lease has run out, and goes on with it from its state.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from swath.study.space import Params, Space, frozen_params, sampler_of, suggest

BEAT_S = 5.0
"""How often the lease of a trial is renewed."""
LEASE_S = 60.0
"""How old a lease may be; a worker on the same machine is looked for by its process besides."""
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
        space: see `swath.study.space`.
        sampler: random, tpe, gp or nsga2.
        seed: of the sampler.
        sought: the objectives.
        budgets: epochs by rung.
        eta: of each rung, one in eta goes on.
        pruner: asha, hyperband, median or none.
        trials: how many the study has.
        startup: trials that are drawn at random.
        minutes: wall time from the study's begin on, after which no trial begins.

    Raises:
        DataError: the journal is broken, or holds another study.
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
        self.trials, self.minutes = trials, minutes
        self.worker, self.leases = worker, folder / "leases"
        self.leases.mkdir(parents=True, exist_ok=True)
        self.turn = folder / "turn.lock"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = optuna.create_study(
                storage=JournalStorage(Journal(folder / "journal.log")),
                # Each worker draws for itself.
                sampler=sampler_of(sampler, seed=_own(seed, worker), startup=startup),
                pruner=_pruner(pruner, budgets, eta, startup),
                study_name="study",
                directions=[s.direction for s in sought],
                load_if_exists=True,
            )
        with _locked(self.turn):
            if "began" not in self.study.user_attrs:
                self.study.set_user_attr("began", time.time())

    def next(self) -> Ticket | None:
        """A trial to train: one whose worker has died, or else a new one; None where all are done.

        Waits while others train: their trials may yet be left behind.
        """
        while True:
            with _locked(self.turn):
                found = self.study.get_trials(deepcopy=False)
                running = [t for t in found if t.state == TrialState.RUNNING]
                left = next((t for t in running if self._is_left(t)), None)
                if left is not None:
                    self._take(left.number)
                    if (ticket := self._again(left)) is None:
                        continue
                    return ticket
                if len(found) < self.trials and not self._is_over():
                    handle = self.study.ask()
                    self._take(handle.number)
                    break
                if not running:
                    return None
            time.sleep(0.2 if len(found) < 2 else 1.0)
        return self._ticket(handle, 0)

    def report(self, ticket: Ticket, row: Row) -> bool:
        """Tell what a trial has reached on a rung; gives whether it is to go on.

        Args:
            ticket: the trial.
            row: of the rung; without scores it has failed.
        """
        handle = ticket.handle
        handle.set_user_attr(f"rung{row['rung']}", row)
        if row["scores"] is None:
            self.study.tell(handle, state=TrialState.FAIL)
            return False
        if row["rung"] == len(self.budgets) - 1:
            self.study.tell(handle, row["scores"])
            return False
        if len(self.sought) == 1:
            handle.report(row["scores"][0], step=row["epochs"])
            if handle.should_prune():
                self.study.tell(handle, state=TrialState.PRUNED)
                return False
        return True

    def give_back(self, ticket: Ticket) -> None:
        """Leave a trial to whoever asks next."""
        (self.leases / str(ticket.number)).unlink(missing_ok=True)

    @contextmanager
    def holding(self, ticket: Ticket) -> Iterator[None]:
        """Renew a trial's lease while the block runs."""
        lease, done = self.leases / str(ticket.number), threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_S):
                if lease.is_file():
                    os.utime(lease)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def collected(self) -> tuple[list[Params], list[Row]]:
        """The parameters of each trial in order of its number, and all rows."""
        found = self.study.get_trials(deepcopy=False)
        rows = [
            row
            for trial in found
            for key, row in trial.user_attrs.items()
            if key.startswith("rung")
        ]
        return [dict(trial.user_attrs.get("params", {})) for trial in found], rows

    # ---- leases ----

    def _take(self, number: int) -> None:
        lease = {"worker": self.worker, "host": os.uname().nodename, "process": os.getpid()}
        write_text(self.leases / str(number), json.dumps(lease), synced=False)

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Whether nobody trains it any more."""
        lease = self.leases / str(trial.number)
        try:
            told = json.loads(lease.read_text())
            age_s = self._now() - lease.stat().st_mtime
        except (FileNotFoundError, ValueError):
            return True
        if told["host"] == os.uname().nodename:
            if told["process"] == os.getpid():
                return True
            if not Path(f"/proc/{told['process']}").exists() and Path("/proc/self").exists():
                return True
        return told["worker"] == self.worker or age_s > LEASE_S

    def _now(self) -> float:
        """The time by the clock of the file system, which may be another machine's."""
        clock = self.leases / f".{self.worker}"
        clock.touch()
        os.utime(clock)
        return clock.stat().st_mtime

    def _again(self, left: FrozenTrial) -> Ticket | None:
        """A trial that was left; given up where it was so too often without getting further."""
        handle = optuna.Trial(self.study, left._trial_id)
        reached = sum(key.startswith("rung") for key in left.user_attrs)
        lives = left.user_attrs.get("lives", {})
        died = lives.get(str(reached), 0) + 1
        handle.set_user_attr("lives", {str(reached): died})
        ticket = self._ticket(handle, reached)
        if reached and len(self.sought) == 1:
            # It may have been stopped, or ended, just when its worker died.
            row = left.user_attrs[f"rung{reached - 1}"]
            if not self.report(ticket, row):
                return None
        if died >= LIVES:
            epochs = self.budgets[min(reached, len(self.budgets) - 1)]
            row = {
                "number": left.number, "rung": reached, "epochs": epochs, "scores": None,
                "seconds": None, "run_id": "", "curve": [],
                "reason": f"killed {died} times: perhaps for want of memory",
            }  # fmt: skip
            self.report(ticket, row)
            return None
        return ticket

    def _ticket(self, handle: optuna.Trial, reached: int) -> Ticket:
        params = suggest(handle, self.space)
        handle.set_user_attr("params", params)
        return Ticket(handle.number, params, reached, handle)

    def _is_over(self) -> bool:
        began = self.study.user_attrs["began"]
        return self.minutes is not None and time.time() > began + 60 * self.minutes


def work(shared: Shared, train: Callable[[int, Params, int], Row], stopped: type[Exception]) -> int:
    """Train trials of a shared study until there are none; gives how many.

    Args:
        shared: the study.
        train: from a trial's number, its parameters and a rung to its row.
        stopped: what `train` raises when this process is asked to stop.
    """
    done = 0
    while (ticket := shared.next()) is not None:
        with shared.holding(ticket):
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


def _own(seed: int, worker: str) -> int:
    return (seed * 1_000_003 + sum(worker.encode())) % 2**31


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
        given: dict[str, Any] = {
            "params": params,
            "distributions": kinds,
            "user_attrs": {
                "swath": trial["state"],
                "reason": trial["reason"],
                "run_id": trial["rungs"][-1]["run_id"] if trial["rungs"] else None,
                "seconds": scored[-1]["seconds"] if scored else None,
            },
        }
        if one:
            given["intermediate_values"] = {row["epochs"]: row["scores"][0] for row in scored}
        if trial["state"] == "complete":
            made.add_trial(create_trial(values=scored[-1]["scores"], **given))
        else:
            stopped = trial["state"] == "stopped" and scored
            state = TrialState.PRUNED if stopped else TrialState.FAIL
            made.add_trial(create_trial(state=state, **given))
    for lock in path.parent.glob(f"{path.name}*.lock"):
        lock.unlink(missing_ok=True)
