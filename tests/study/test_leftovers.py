"""Folders of runs: which of them a result still needs, and that no other is ever deleted."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from swath.errors import RunError
from swath.study.leftovers import Leftover, delete, leftovers


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Runs r1 and r2, of which r1 is finished; trials t1 and t2 of a study, and its end."""
    for number, run in enumerate(("r1", "r2", "t1", "t2"), 1):
        state = tmp_path / "state/runs" / run
        state.mkdir(parents=True)
        (state / "last.ckpt").write_bytes(bytes(100 * number))
        (state / "lock").write_text("process 1 on a machine")
        os.utime(state / "last.ckpt", (number, number))
        os.utime(state / "lock", (0, 0))
    write(tmp_path / "results/a/b/runs/blocks-fold0-seed0/run.json", {"run_id": "r1"}, 1)
    study = tmp_path / "results/a/b/study"
    write(study / "rung0/shard0.json", [{"number": 0, "run_id": "t1"}], 1)
    write(study / "rung0/shard1.json", [{"number": 1, "run_id": "t2"}], 3)
    write(study / "trials.json", {}, 4)
    return tmp_path


def write(path: Path, value: object, when: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    os.utime(path, (when, when))


def found(project: Path) -> dict[str, Leftover]:
    return {
        left.folder.name: left for left in leftovers(project / "state/runs", project / "results")
    }


def standings(project: Path) -> dict[str, str]:
    return {name: left.standing for name, left in found(project).items()}


def test_what_results_say_of_each_run(project: Path) -> None:
    assert standings(project) == {
        "r1": "finished", "r2": "unnamed", "t1": "finished", "t2": "finished",
    }  # fmt: skip
    assert {name: left.of for name, left in found(project).items()} == {
        "r1": "a/b/runs/blocks-fold0-seed0", "r2": "",
        "t1": "a/b/study/trial0", "t2": "a/b/study/trial1",
    }  # fmt: skip
    assert [left.folder.name for left in found(project).values()] == ["t2", "t1", "r1", "r2"]
    assert found(project)["t2"].size == 400 + len("process 1 on a machine")
    assert found(project)["t2"].written == 4


def test_a_study_without_an_end_needs_its_trials(project: Path) -> None:
    (project / "results/a/b/study/trials.json").unlink()
    assert standings(project)["t1"] == standings(project)["t2"] == "study"


def test_a_study_that_was_widened_needs_its_trials_again(project: Path) -> None:
    """Its end is older than a shard that has trained since."""
    os.utime(project / "results/a/b/study/rung0/shard1.json", (9, 9))
    assert standings(project)["t1"] == "study"


def test_a_trial_of_two_studies_is_needed_while_one_goes_on(project: Path) -> None:
    write(project / "results/c/study/rung0/shard0.json", [{"number": 7, "run_id": "t1"}], 1)
    assert standings(project) | {"t1": "study"} == standings(project)
    assert found(project)["t1"].of == "c/study/trial7"


def test_a_run_that_is_trained_is_left_alone(project: Path) -> None:
    before = list(found(project).values())
    with (project / "state/runs/r1/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert standings(project)["r1"] == "in use"
        deleted = delete(before, project / "state/workflow.lock")
    assert {left.folder.name for left in deleted} == {"r2", "t1", "t2"}
    assert [path.name for path in (project / "state/runs").iterdir()] == ["r1"]
    assert (project / "state/runs/r1/last.ckpt").stat().st_size == 100


def test_nothing_is_deleted_beside_a_workflow(project: Path) -> None:
    lock = project / "state/workflow.lock"
    lock.write_text("4711")
    some = list(found(project).values())
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"workflow.lock: a workflow is running here .*4711"):
            delete(some, lock)
    assert len(found(project)) == 4
    assert len(delete(some, lock)) == 4, "the lock of one that has ended holds nothing up"
    assert found(project) == {}
