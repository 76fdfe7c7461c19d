"""A study that workers share in a journal: nothing is lost, whoever is killed whenever."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage

from swath import settings
from swath.errors import DataError, StoppedError
from swath.study import journal
from swath.study.journal import Journal, Shared, work
from swath.study.rungs import Objective, collect

FORK = multiprocessing.get_context("fork")
SPACE = {"optim.lr": {"float": [0.0, 1.0]}, "model.hidden": {"choice": [[8], [8, 8]]}}
UP = [Objective("val/accuracy", "maximize")]


def space_of(space: dict[str, Any]) -> dict[str, Any]:
    return settings.check("sweep", {"space": space})["space"]


def shared(folder: Path, worker: str = "worker0", **given: Any) -> Shared:
    asked = {
        "space": SPACE, "sampler": "random", "seed": 0, "sought": UP, "budgets": [1, 2, 4],
        "eta": 2, "pruner": "none", "trials": 4, "startup": 4,
    } | given  # fmt: skip
    return Shared(folder, worker, **asked | {"space": space_of(asked["space"])})


def row_of(number: int, rung: int, *scores: float, reason: str | None = None) -> dict[str, Any]:
    return {
        "number": number, "rung": rung, "epochs": 2**rung, "scores": list(scores) or None,
        "seconds": 0.1, "run_id": f"run{number}", "curve": list(scores), "reason": reason,
    }  # fmt: skip


def learning_rate(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
    """A training that scores its learning rate."""
    return row_of(number, rung, params["optim.lr"])


def nothing(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
    raise AssertionError("there is nothing to train")


def states(folder: Path) -> list[str]:
    """How the trials of a journal stand, by its own account."""
    study = optuna.load_study(
        study_name="study", storage=JournalStorage(Journal(folder / "journal.log"))
    )
    return [trial.state.name for trial in study.get_trials()]


class Workers:
    """Processes that train what a test's function says, and note in a file what they begin."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.started: list[BaseProcess] = []

    def start(self, name: str, train: Callable[..., dict[str, Any]], **given: Any) -> BaseProcess:
        def run() -> None:
            def noted(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
                self.note("begins", number, rung, params)
                row = train(number, params, rung)
                self.note("ends", number, rung, params)
                return row

            work(shared(self.folder, name, **given), noted, StoppedError)

        process = FORK.Process(target=run)
        process.start()
        self.started.append(process)
        return process

    def note(self, *what: Any) -> None:
        with self.notes.open("a") as file:
            file.write(json.dumps([*what, os.getpid()]) + "\n")

    def told(self) -> list[list[Any]]:
        lines = self.notes.read_text().splitlines() if self.notes.is_file() else []
        return [json.loads(line) for line in lines]

    def begun(self, number: int, rung: int) -> list[list[Any]]:
        return [t for t in self.told() if t[:3] == ["begins", number, rung]]

    def wait_for(self, number: int, rung: int, times: int = 1) -> int:
        """Wait until a rung of a trial has been begun so often; gives the process that did."""
        limit = time.monotonic() + 20
        while len(found := self.begun(number, rung)) < times:
            assert time.monotonic() < limit, self.told()
            time.sleep(0.01)
        return found[-1][-1]

    def end(self) -> None:
        """Wait for all that were not killed; each has ended well."""
        for process in self.started:
            process.join(30)
            assert process.exitcode in (0, -signal.SIGKILL), (process.exitcode, self.told())


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(journal, "BEAT_S", 0.1)
    monkeypatch.setattr(journal, "WAIT_S", 0.05)
    made = Workers(tmp_path)
    yield made
    for process in made.started:
        if process.is_alive():
            process.kill()
        process.join()


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


# ---- the file ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The journal of a study of two trials."""
    folder = tmp_path_factory.mktemp("written")
    work(shared(folder, trials=2, budgets=[1]), learning_rate, StoppedError)
    return (folder / "journal.log").read_bytes()


def test_a_journal_cut_off_at_any_byte_of_its_end_keeps_its_whole_lines(
    written: bytes, tmp_path: Path
) -> None:
    """Its last line ends the last trial, which is trained again where that is missing."""
    whole = written.splitlines(keepends=True)
    before = len(written) - len(whole[-1])
    for cut in range(before, len(written) + 1):
        file = tmp_path / "journal.log"
        file.write_bytes(written[:cut])
        study = optuna.load_study(study_name="study", storage=JournalStorage(Journal(file)))
        kept = written if cut == len(written) else written[:before]
        assert file.read_bytes() == kept
        ended = "COMPLETE" if cut == len(written) else "RUNNING"
        assert [t.state.name for t in study.get_trials()] == ["COMPLETE", ended]


def test_an_end_that_tears_while_a_journal_is_open_is_cut_off_before_it_grows(
    written: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "journal.log"
    file.write_bytes(written)
    opened = Journal(file)
    study = optuna.load_study(study_name="study", storage=JournalStorage(opened))
    with file.open("ab") as torn:
        torn.write(b'{"op_code":2,"worker_id":"another","study')
    study.set_user_attr("more", "x" * 9000)  # longer than a block of what is searched for a line
    with file.open("ab") as torn:
        torn.write(b'{"half a line that is longer than a block": "' + b"y" * 9000)
    study.set_user_attr("more", 2)
    assert study.user_attrs["more"] == 2
    again = optuna.load_study(study_name="study", storage=JournalStorage(Journal(file)))
    assert again.user_attrs["more"] == 2
    assert len(file.read_bytes().splitlines()) == len(written.splitlines()) + 2


@pytest.mark.parametrize("wrong", [b"\x00" * 20 + b"\n", b'{"op_code": \n', b"\xff\xfe{}\n"])
def test_a_broken_line_is_dropped_at_the_end_and_refused_within(
    written: bytes, tmp_path: Path, wrong: bytes
) -> None:
    file = tmp_path / "journal.log"
    file.write_bytes(written + wrong)
    Journal(file)
    assert file.read_bytes() == written
    lines = written.splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:3], wrong, *lines[3:]]))
    with pytest.raises(DataError, match=r"journal\.log: line 4 is no entry") as refused:
        Journal(file)
    assert "trials go on from their states" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_processes_that_append_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """While one of a crowd tears the end off again and again, as if it were killed in a line."""
    file = tmp_path / "journal.log"
    Journal(file)

    def append(name: int) -> None:
        own = Journal(file)
        for count in range(50):
            own.append_logs([{"who": name, "count": count}, {"who": name, "count": count, "b": 1}])

    def tear() -> None:
        for _ in range(50):
            with journal._locked(file.with_suffix(".lock")), file.open("ab") as torn:
                torn.write(b'{"who": 9, "co')
            time.sleep(0.002)

    crowd = [FORK.Process(target=append, args=(n,)) for n in range(4)] + [FORK.Process(target=tear)]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join(30)
        assert process.exitcode == 0
    found = list(Journal(file).read_logs(0))
    assert len(found) == 400
    for name in range(4):
        assert [f["count"] for f in found if f["who"] == name and "b" not in f] == list(range(50))


# ---- one worker -------------------------------------------------------------------------------


def of_numbers(scores: list[float]) -> Callable[..., dict[str, Any]]:
    """A training whose scores are those of its trial's number, on each rung."""
    return lambda number, _, rung: row_of(number, rung, scores[number])


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(
    ("pruner", "epochs"),
    [
        # Of a rung's first two the better goes on, of four the two best, of six three.
        ("asha", [4, 1, 4, 1, 2, 4]),
        # All go on until two are complete; later ones stop that are worse than the median of these.
        ("median", [4, 4, 4, 1, 4, 4]),
        ("none", [4, 4, 4, 4, 4, 4]),
    ],
)
def test_a_pruner_stops_what_it_should(
    tmp_path: Path, pruner: str, epochs: list[int], direction: str
) -> None:
    sign = 1 if direction == "maximize" else -1
    scores = [sign * x for x in (0.5, 0.4, 0.9, 0.1, 0.6, 0.95)]
    study = shared(tmp_path, pruner=pruner, trials=6, startup=2, sought=[Objective("x", direction)])
    assert work(study, of_numbers(scores), StoppedError) == 6
    params, rows = study.collected()
    trials = collect([params], rows, study.sought, 2)["trials"]
    assert [trial["rungs"][-1]["epochs"] for trial in trials] == epochs
    ends = ["COMPLETE" if e == 4 else "PRUNED" for e in epochs]
    assert states(tmp_path) == ends
    assert [t["state"] for t in trials] == ["complete" if e == 4 else "stopped" for e in epochs]


def test_hyperband_spares_the_trials_of_its_later_brackets(tmp_path: Path) -> None:
    """Each trial is worse than all before: what is judged stops where it is judged first."""
    study = shared(tmp_path, pruner="hyperband", trials=24)
    work(study, of_numbers([-float(n) for n in range(24)]), StoppedError)
    params, rows = study.collected()
    reached = Counter(t["rungs"][-1]["epochs"] for t in collect([params], rows, UP, 2)["trials"])
    # Of 24 trials Optuna's hash of their numbers gives 5, 12 and 7 to the brackets that judge from
    # 1, 2 and 4 epochs on; the first of a bracket goes on, and 4 epochs are all.
    assert reached == {1: 4, 2: 11, 4: 1 + 1 + 7}


def test_several_objectives_are_all_trained_to_the_end(tmp_path: Path) -> None:
    both = [Objective("val/accuracy", "maximize"), Objective("parameters", "minimize")]
    study = shared(tmp_path, sought=both, sampler="nsga2", startup=2, trials=6)

    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        return row_of(number, rung, params["optim.lr"], params["optim.lr"] ** 2)

    assert work(study, train, StoppedError) == 6
    params, rows = study.collected()
    assert len(rows) == 18 and len(collect([params], rows, both, 2)["front"]) == 6
    assert study.study.metric_names == ["val/accuracy", "parameters"]


def test_a_failure_is_a_result(tmp_path: Path) -> None:
    study = shared(tmp_path, pruner="asha")

    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        if (number == 1 and rung == 1) or number == 2:
            return row_of(number, rung, reason="loss is nan")
        return row_of(number, rung, float(number))

    work(study, train, StoppedError)
    params, rows = study.collected()
    trials = collect([params], rows, UP, 2)["trials"]
    assert [t["state"] for t in trials] == ["complete", "failed", "failed", "complete"]
    assert [t["reason"] for t in trials] == [None, "loss is nan", "loss is nan", None]
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_worker_that_begins_anew_draws_nothing_twice(tmp_path: Path, sampler: str) -> None:
    """And more trials go on with those that there are."""
    for trials in (1, 2, 4):
        study = shared(tmp_path, trials=trials, sampler=sampler, startup=2)
        work(study, learning_rate, StoppedError)
    params, rows = study.collected()
    assert len({p["optim.lr"] for p in params}) == 4 and len(rows) == 12
    straight = shared(tmp_path / "straight", "worker12", sampler=sampler, startup=2)
    work(straight, learning_rate, StoppedError)
    assert straight.collected()[0] == params


def test_a_wider_range_goes_on_and_a_narrower_one_leaves_out_what_lies_outside(
    tmp_path: Path,
) -> None:
    first = shared(tmp_path)
    work(first, learning_rate, StoppedError)
    before = first.collected()[0]
    wide = shared(tmp_path, trials=6, space=SPACE | {"optim.lr": {"float": [0.0, 9.0]}})
    assert work(wide, learning_rate, StoppedError) == 2
    after = wide.collected()[0]
    assert after[:4] == before and all(p["optim.lr"] > 1 for p in after[4:])
    middle = sorted(p["optim.lr"] for p in before)[2]
    narrow = shared(tmp_path, space=SPACE | {"optim.lr": {"float": [0.0, middle]}})
    assert work(narrow, learning_rate, StoppedError) == 1
    params, rows = narrow.collected()
    assert params[:3] == [p for p in before if p["optim.lr"] <= middle]
    assert len(params) == 4 and all(p["optim.lr"] <= middle for p in params)
    scores = {row["number"]: row["scores"][0] for row in rows}
    assert scores == {n: p["optim.lr"] for n, p in enumerate(params)}
    fewer = shared(tmp_path, trials=2)
    assert work(fewer, nothing, StoppedError) == 0 and fewer.collected()[0] == before[:2]


def test_no_trial_begins_when_the_time_is_over_unless_more_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1e9
    monkeypatch.setattr(time, "time", lambda: now)

    def slow(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        nonlocal now
        now += 40
        return row_of(number, rung, 1.0)

    given = {"minutes": 1, "budgets": [1]}
    assert work(shared(tmp_path, **given), slow, StoppedError) == 2
    assert work(shared(tmp_path, "worker1", **given), nothing, StoppedError) == 0
    now += 86400
    assert work(shared(tmp_path, **given), nothing, StoppedError) == 0
    assert work(shared(tmp_path, **given | {"trials": 3}), slow, StoppedError) == 1
    assert states(tmp_path) == ["COMPLETE"] * 3


# ---- workers that are killed ------------------------------------------------------------------


def test_workers_share_a_study_and_no_trial_is_trained_twice(workers: Workers) -> None:
    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        time.sleep(0.01)
        return learning_rate(number, params, rung)

    for n in range(4):
        workers.start(f"worker{n}", train, trials=30, pruner="asha")
    workers.end()
    assert len(states(workers.folder)) == 30 and "RUNNING" not in states(workers.folder)
    begun = Counter((number, rung) for what, number, rung, *_ in workers.told() if what == "begins")
    assert set(begun.values()) == {1}
    assert len({told[-1] for told in workers.told()}) > 1
    params, rows = shared(workers.folder, trials=30).collected()
    assert len(rows) == len(begun) and len({p["optim.lr"] for p in params}) == 30
    assert not [p for p in (workers.folder / "leases").iterdir() if p.name.isdigit()]


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_trial_whose_worker_is_killed_goes_on_from_the_rung_it_had_reached(
    workers: Workers, rung: int
) -> None:
    def hangs(number: int, params: dict[str, Any], at: int) -> dict[str, Any]:
        if (number, at) == (1, rung):
            time.sleep(60)
        return learning_rate(number, params, at)

    first = workers.start("worker0", hangs)
    workers.wait_for(1, rung)
    second = workers.start("worker1", learning_rate)
    limit = time.monotonic() + 20
    while Counter(states(workers.folder)) != {"COMPLETE": 3, "RUNNING": 1}:
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.2)
    # It waits for a trial that is being trained and takes it from nobody.
    assert second.is_alive() and len(workers.begun(1, rung)) == 1
    kill(first)
    workers.end()
    assert states(workers.folder) == ["COMPLETE"] * 4
    begun = [told for told in workers.told() if told[:2] == ["begins", 1]]
    assert [told[2] for told in begun] == [*range(rung + 1), *range(rung, 3)]
    assert len({json.dumps(told[3]) for told in begun}) == 1
    assert begun[rung][-1] == first.pid and begun[rung + 1][-1] == second.pid
    params, rows = shared(workers.folder).collected()
    assert len(rows) == 12 and begun[0][3] == params[1]


def test_a_trial_that_kills_every_worker_is_given_up(workers: Workers) -> None:
    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        if number == 1 and rung == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return learning_rate(number, params, rung)

    for _ in range(4):  # as Snakemake tries again
        workers.start("worker0", train).join(30)
    assert [p.exitcode for p in workers.started] == [-9, -9, -9, 0]
    study = shared(workers.folder)
    params, rows = study.collected()
    trials = collect([params], rows, UP, 2)["trials"]
    assert [t["state"] for t in trials] == ["complete", "failed", "complete", "complete"]
    assert trials[1]["reason"] == "killed 3 times: perhaps for want of memory"
    assert [row["scores"] is None for row in trials[1]["rungs"]] == [False, True]
    assert states(workers.folder) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_a_worker_that_is_stopped_gives_its_trial_back_however_often(workers: Workers) -> None:
    """On another machine, where nobody would know that its process is gone."""

    def stops(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        if rung == 1:
            raise StoppedError("stopped")
        return learning_rate(number, params, rung)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_machine", lambda: "another machine")
        for _ in range(5):
            with pytest.raises(StoppedError):
                work(shared(workers.folder), stops, StoppedError)
    began = time.monotonic()
    assert work(shared(workers.folder), learning_rate, StoppedError) == 4
    assert time.monotonic() - began < 5 and states(workers.folder) == ["COMPLETE"] * 4
    assert len(shared(workers.folder).collected()[1]) == 12


def test_a_lease_of_another_machine_runs_out_by_the_clock_of_the_file_system(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LEASE_S", 60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_machine", lambda: "another machine")
        away = shared(workers.folder, "away", trials=1)
        ticket = away.next()
        assert ticket is not None
    own = shared(workers.folder, trials=1)
    lease = workers.folder / "leases/0"
    here = time.time
    # This machine's own clock is an hour ahead, and is not asked.
    monkeypatch.setattr(time, "time", lambda: here() + 3600)
    assert not own._is_left(0)
    os.utime(lease, (here() - 90, here() - 90))
    assert own._is_left(0)
    assert work(own, learning_rate, StoppedError) == 1
    # Whoever comes back has lost it, and says no more about it.
    monkeypatch.setattr(journal, "_machine", lambda: "another machine")
    assert away.report(ticket, row_of(0, 0, 99.0)) is False
    assert [row["scores"][0] for row in own.collected()[1]] == [ticket.params["optim.lr"]] * 3


def test_a_trial_that_was_left_is_judged_once_by_rung(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The median that it has passed has risen since, and is asked again on the next rung."""
    given = {"pruner": "median", "startup": 2, "trials": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_machine", lambda: "another machine")
        away = shared(workers.folder, "away", **given)
        ticket = away.next()
        assert ticket is not None and away.report(ticket, row_of(0, 0, 0.1))
    own = shared(workers.folder, **given)
    for number in (1, 2):
        other = own.next()
        assert other is not None and other.number == number
        for rung in range(3):
            own.report(other, row_of(number, rung, 0.9))
    monkeypatch.setattr(journal, "LEASE_S", -1.0)
    again = own.next()
    assert again is not None and (again.number, again.reached) == (0, 1)
    assert again.params == ticket.params
    assert own.report(again, row_of(0, 1, 0.1)) is False
    assert states(workers.folder) == ["PRUNED", "COMPLETE", "COMPLETE"]


def test_a_lease_is_renewed_while_its_worker_lives(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LEASE_S", 1.5)

    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        time.sleep(3 if number == 0 and rung == 0 else 0)
        return learning_rate(number, params, rung)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "_machine", lambda: "another machine")
        workers.start("worker0", train, trials=2)
        workers.wait_for(0, 0)
    workers.start("worker1", train, trials=2)
    workers.end()
    assert len(workers.begun(0, 0)) == 1 and states(workers.folder) == ["COMPLETE"] * 2


def test_a_process_that_has_only_the_same_number_is_not_the_worker(workers: Workers) -> None:
    """And one that has slept with its whole machine is, however old its lease."""
    process = workers.start("worker0", lambda *_: time.sleep(60), trials=1)
    workers.wait_for(0, 0)
    os.kill(process.pid or 0, signal.SIGSTOP)
    lease = workers.folder / "leases/0"
    time.sleep(0.15)
    os.utime(lease, (0, 0))
    other = shared(workers.folder, "worker1", trials=1)
    assert not other._is_left(0)
    told = json.loads(lease.read_text())
    lease.write_text(json.dumps(told | {"started": "1"}))
    assert other._is_left(0)


class KilledAt(Exception):
    """Stands for a kill after so many writes: nothing of the process goes on."""


@pytest.mark.parametrize("sought", [UP, [*UP, Objective("parameters", "minimize")]])
@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_a_worker_may_be_killed_after_any_entry_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruner: str, sought: list[Objective]
) -> None:
    """The study ends as it would have: with the same scores and decisions."""
    one = len(sought) == 1
    given = {"pruner": pruner if one else "none", "startup": 1, "trials": 3, "sought": sought}
    scores = [0.5, 0.2, 0.7]

    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        if number == 1 and rung == 1 and not one:
            return row_of(number, rung, reason="loss is nan")
        return row_of(number, rung, *[scores[number]] * len(sought))

    straight = shared(tmp_path / "straight", **given)
    work(straight, train, StoppedError)
    expected, ends = straight.collected(), states(tmp_path / "straight")
    assert ends == ["COMPLETE", "PRUNED" if one else "FAIL", "COMPLETE"]
    entries = len((tmp_path / "straight/journal.log").read_text().splitlines())
    append = Journal.append_logs
    for cut in range(5, entries):
        folder, count = tmp_path / str(cut), 0

        def killed(self: Journal, logs: list[Any], limit: int = cut) -> None:
            nonlocal count
            if count == limit:
                raise KilledAt
            count += 1
            append(self, logs)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append_logs", killed)
            with pytest.raises(KilledAt):
                work(shared(folder, **given), train, StoppedError)
        again = shared(folder, "worker1", **given)
        work(again, train, StoppedError)
        params, rows = again.collected()
        assert rows == expected[1], cut
        # Of a draw that was broken off only what it had not come to is drawn otherwise.
        assert [p["optim.lr"] for p in params] == [p["optim.lr"] for p in expected[0]], cut
        assert states(folder) == ends, cut


def test_workers_that_are_killed_at_random_lose_nothing(workers: Workers) -> None:
    """Three at a time, one of which is killed every tenth of a second or so."""

    def train(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        time.sleep(0.01)
        return learning_rate(number, params, rung)

    given = {"trials": 40, "pruner": "asha"}
    running = [workers.start(f"worker{n}", train, **given) for n in range(3)]
    for turn in range(20):
        time.sleep(0.07 + 0.013 * (turn % 5))
        which = turn % 3
        kill(running[which])
        running[which] = workers.start(f"worker{which}", train, **given)
    workers.end()
    params, rows = shared(workers.folder, trials=40).collected()
    assert len(params) == 40 and "RUNNING" not in states(workers.folder)
    assert len({(row["number"], row["rung"]) for row in rows}) == len(rows)
    scores = {row["number"]: row["scores"][0] for row in rows if row["scores"]}
    assert scores == {n: p["optim.lr"] for n, p in enumerate(params)}
    # One after another: whoever begins a trial that another has begun finds that one dead.
    at: dict[int, int] = {}
    dead = {p.pid for p in workers.started if p.exitcode == -signal.SIGKILL}
    for what, number, _rung, _params, process in workers.told():
        if what == "begins":
            before = at.get(number, process)
            assert before == process or before in dead, number
            at[number] = process


# ---- for dashboards ---------------------------------------------------------------------------


@contextmanager
def dashboard(file: Path) -> Iterator[Callable[[str], Any]]:
    """optuna-dashboard on a journal; what its API answers."""
    pytest.importorskip("optuna_dashboard", reason="needs the extra dashboard")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    main = "import sys, optuna_dashboard._cli as cli; sys.exit(cli.main())"
    running = subprocess.Popen([sys.executable, "-c", main, "--quiet", "--port", port, file])

    def ask(path: str) -> Any:
        for _ in range(200):
            url = f"http://127.0.0.1:{port}/api/{path}"
            with suppress(urllib.error.URLError), urllib.request.urlopen(url) as answer:
                return json.load(answer)
            assert running.poll() is None
            time.sleep(0.1)
        raise AssertionError("it does not answer")

    try:
        yield ask
    finally:
        running.kill()
        running.wait()


def exported(folder: Path, sought: list[Objective]) -> Path:
    """The journal of a study of a complete trial, a stopped one and a failed one."""
    momentum = {"float": [0.1, 0.9], "when": {"model.hidden": [[8]]}}
    space = space_of(SPACE | {"optim.momentum": momentum})
    params = [
        {"optim.lr": 0.5, "model.hidden": [8], "optim.momentum": 0.3},
        {"optim.lr": 0.25, "model.hidden": [8, 8]},
        {"optim.lr": 1.0, "model.hidden": [8, 8]},
    ]
    scores = [[0.5, 100.0], [0.7, 90.0], [0.4, 50.0]]
    where = [(0, 0), (0, 1), (1, 0)]
    rows = [row_of(*at, *each[: len(sought)]) for at, each in zip(where, scores, strict=True)] + [
        row_of(2, 0, reason="loss is nan")
    ]
    study = {"study": "embedded", **collect([params], rows, sought, 1)}
    journal.export(study, space, folder / "journal.log")
    return folder / "journal.log"


BOTH = [*UP, Objective("parameters", "minimize")]


@pytest.mark.parametrize("sought", [UP, BOTH])
def test_an_exported_study_is_one_of_optuna(tmp_path: Path, sought: list[Objective]) -> None:
    file = exported(tmp_path, sought)
    assert [path.name for path in tmp_path.iterdir()] == ["journal.log"]
    study = optuna.load_study(study_name="embedded", storage=JournalStorage(Journal(file)))
    assert study.metric_names == [s.name for s in sought]
    assert [d.name.lower() for d in study.directions] == [s.direction for s in sought]
    complete, stopped, failed = study.trials
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert complete.values == [0.7, 90.0][: len(sought)]
    assert complete.intermediate_values == ({1: 0.5, 2: 0.7} if sought == UP else {})
    assert complete.params == {"optim.lr": 0.5, "model.hidden": "[8]", "optim.momentum": 0.3}
    assert complete.duration == timedelta(seconds=0.1)
    assert stopped.params == {"optim.lr": 0.25, "model.hidden": "[8, 8]"}
    assert failed.user_attrs == {"swath": "failed", "reason": "loss is nan", "run_id": "run2"}


def test_a_dashboard_opens_an_exported_study(tmp_path: Path) -> None:
    with dashboard(exported(tmp_path, BOTH)) as ask:
        (summary,) = ask("studies")["study_summaries"]
        assert summary["study_name"] == "embedded"
        assert summary["directions"] == ["maximize", "minimize"]
        study = ask(f"studies/{summary['study_id']}?after=0")
    assert study["objective_names"] == ["val/accuracy", "parameters"]
    assert [t["state"] for t in study["trials"]] == ["Complete", "Pruned", "Fail"]
    first = study["trials"][0]
    assert first["values"] == [0.7, 90.0]
    values = {p["name"]: p["param_external_value"] for p in first["params"]}
    assert values == {"optim.lr": "0.5", "model.hidden": "[8]", "optim.momentum": "0.3"}


def test_a_dashboard_opens_a_study_that_is_running(tmp_path: Path) -> None:
    study = shared(tmp_path, trials=2)
    ticket = study.next()
    assert ticket is not None and study.report(ticket, row_of(0, 0, 0.5))
    with dashboard(tmp_path / "journal.log") as ask:
        shown = ask("studies/0?after=0")
        assert [t["state"] for t in shown["trials"]] == ["Running"]
        assert shown["trials"][0]["intermediate_values"] == [{"step": 1, "value": 0.5}]
        assert shown["objective_names"] == ["val/accuracy"]
        for rung in (1, 2):
            study.report(ticket, row_of(0, rung, 0.75))
        limit = time.monotonic() + 20
        while (shown := ask("studies/0?after=0"))["trials"][0]["state"] != "Complete":
            assert time.monotonic() < limit
            time.sleep(0.5)
    assert shown["trials"][0]["values"] == [0.75]
