"""What is left of runs in state/, and which of it no result needs any more.

A run keeps its last checkpoint when it has ended. Once its results are complete, nothing reads it
but a change that leaves the run the same and its results not: another `trainer.tta`, a study of
more trials or rungs, or results that were deleted: then the run trains again. Nothing is told about
a run from its own folder: it is needed for as long as no finished result names it.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from swath.errors import RunError
from swath.files import files_below, read_json

Standing = Literal["finished", "study", "unnamed", "in use"]
"""`finished`: its results are complete. `study`: a trial of a study that is not. `unnamed`: no
result names it, so it is unfinished, or of a configuration, data or code that have changed since.
`in use`: a process holds it, or it cannot be told."""


@dataclass(frozen=True)
class Leftover:
    """The folder of one run."""

    folder: Path
    of: str
    """The result that names it."""
    standing: Standing
    size: int
    """Bytes of its files."""
    written: float
    """When the last of them was, in seconds since 1970; 0 where there is none."""


def leftovers(runs: Path, results: Path) -> list[Leftover]:
    """The folder of every run, with what the results say of it; by standing, the latest first.

    Args:
        runs: folder of the runs' states, by run id.
        results: folder of the experiments.

    Raises:
        DataError: a result cannot be read.
    """
    finished, needed = _named(results)
    found = []
    for folder in sorted(path for path in runs.glob("*") if path.is_dir()):
        files = [path.stat() for path in files_below(folder)]
        standing: Standing = "unnamed"
        if folder.name in needed:
            standing = "study"
        elif folder.name in finished:
            standing = "finished"
        with _held(folder / "lock") as free:
            standing = standing if free else "in use"
        found.append(
            Leftover(
                folder,
                needed.get(folder.name) or finished.get(folder.name, ""),
                standing,
                sum(file.st_size for file in files),
                max((file.st_mtime for file in files), default=0.0),
            )
        )
    return sorted(found, key=lambda left: (left.standing, -left.written))


def delete(some: list[Leftover], workflow: Path) -> list[Leftover]:
    """Delete folders of runs; gives those that were, which leaves out what was taken meanwhile.

    Args:
        some: the folders.
        workflow: the lock of the workflow of this project.

    Raises:
        RunError: a workflow is running: what it will ask for next is not known here.
    """
    deleted = []
    with _held(workflow) as idle:
        if not idle:
            raise RunError(
                f"a workflow is running here (process {workflow.read_text().strip()})",
                where=workflow,
                mend="wait for its end",
            )
        for left in some:
            with _held(left.folder / "lock") as free:
                if free:
                    shutil.rmtree(left.folder)
                    deleted.append(left)
    return deleted


def _named(results: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The runs that finished results name, and those that unfinished studies need: id -> result."""
    finished: dict[str, str] = {}
    needed: dict[str, str] = {}
    for facts in sorted(
        [*results.glob("**/runs/*/run.json"), *results.glob("**/winner/*/run.json")]
    ):
        # Written last: model and metrics are there.
        finished[read_json(facts)["run_id"]] = str(facts.parent.relative_to(results))
    for study in sorted(path for path in results.glob("**/study") if path.is_dir()):
        jobs = sorted([*study.glob("**/shard*.json"), *study.glob("worker*.json")])
        # The last that is written of it, where there is a final.
        end = study / ("final.json" if (study / "final").is_dir() else "trials.json")
        latest = max((path.stat().st_mtime for path in jobs), default=0.0)
        complete = end.is_file() and end.stat().st_mtime >= latest
        for row in (row for path in jobs for row in _rows(path)):
            name = f"{study.relative_to(results)}/trial{row['number']}"
            (finished if complete else needed)[row["run_id"]] = name
    return finished, needed


def _rows(job: Path) -> list[dict[str, Any]]:
    """The rows of a job of a study, or of all that a worker knows."""
    found: Any = read_json(job)
    rows: list[dict[str, Any]] = found["rows"] if isinstance(found, dict) else found
    return rows


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Hold a lock while the block runs; gives whether it was free. One that is absent is."""
    if not lock.is_file():
        yield True
        return
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system that cannot tell
            yield False
        else:
            yield True
