"""Trials: what they reach is told with its cost and curve, and what goes wrong is their result."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swath.data.patchset import PatchSet
from swath.errors import StoppedError
from swath.learn.train import train
from swath.learn.trials import Slot, elsewhere, train_slot, train_slots, unable, was_killed


@pytest.fixture
def slot(statistics, sections) -> Callable[..., Slot]:
    """Makes a slot of a trial on 24 patches, of which 6 validate."""
    parts = np.array(["train"] * 16 + ["val"] * 6 + ["test"] * 2)

    def make(number: int = 3, epochs: int = 2, **changed: Any) -> Slot:
        run_id = f"run{number}"
        given = sections(**changed)
        return Slot(number, "bench", run_id, epochs, 0, given, parts, statistics, {"rung": 1})

    return make


@pytest.fixture
def patches(patch_set) -> PatchSet:
    return patch_set(24, labels="pixel")


def test_a_row_tells_scores_cost_and_curve(slot, patches, statistics, tmp_path: Path) -> None:
    names = ["val/accuracy", "val/loss", "parameters", "seconds"]
    row = train_slot(slot(), patches, tmp_path, sought=names, code="c")
    assert list(row) == [
        "number", "rung", "epochs", "scores", "seconds", "run_id", "curve", "reason",
    ]  # fmt: skip
    assert (row["number"], row["rung"], row["epochs"], row["reason"]) == (3, 1, 2, None)
    straight = train(
        patches, slot().parts, statistics, tmp_path / "straight", seed=0, until_epoch=2, code="c",
        **slot().sections,
    )  # fmt: skip
    assert row["curve"] == list(straight.history["val/accuracy"]) and len(row["curve"]) == 2
    accuracy, loss, parameters, seconds = row["scores"]
    assert accuracy == max(row["curve"]) and parameters == straight.facts["parameters"]
    # The other scores are of the epoch whose network would be kept, too.
    assert loss == straight.history["val/loss"][straight.best_epoch]
    assert seconds == row["seconds"] > 0
    assert json.loads((tmp_path / "run3/trial.json").read_text()) == {
        "study": "bench", "number": 3, "epochs": 2, "rung": 1,
    }  # fmt: skip
    assert not was_killed(slot(), tmp_path)


def test_with_the_last_network_kept_the_last_score_counts(slot, patches, tmp_path: Path) -> None:
    kept = slot(epochs=4, trainer__keep="last", optim__lr=3.0)
    row = train_slot(kept, patches, tmp_path, sought=["val/loss"], code="c")
    assert row["scores"] == row["curve"][-1:]
    assert row["scores"] != [min(row["curve"])], "or this shows nothing"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"optim__lr": 1e25, "optim__schedule": "constant"}, "val/loss is nan at step 1"),
        ({"trainer__augment": {"crop_px": 99}}, "a crop of 99 px is larger than a patch"),
        ({"model": "cnn"}, "the task learns"),
    ],
)
def test_a_failure_is_a_result(slot, patches, tmp_path: Path, changed, reason) -> None:
    row = train_slot(slot(**changed), patches, tmp_path, sought=["val/loss"], code="c")
    assert row["scores"] is None and row["seconds"] is None
    assert reason in row["reason"] and "\n" not in row["reason"]


def test_being_stopped_is_no_result(slot, patches, tmp_path: Path, stop_after) -> None:
    stop_after(3)
    with pytest.raises(StoppedError):
        train_slot(slot(), patches, tmp_path, sought=["val/loss"], code="c")
    assert not was_killed(slot(), tmp_path), "it had time to say that it stops"
    stop_after(0)
    assert train_slot(slot(), patches, tmp_path, sought=["val/loss"], code="c")["scores"]


# ---- several ----------------------------------------------------------------------------------


def rows_of(slots: list[Slot], state: Path, **given: Any) -> list[dict[str, Any]]:
    def one(slot: Slot) -> dict[str, Any]:
        return unable(slot, "trained here")

    given = {"one": one, "alone": None, "closes": None, "skipped": "over"} | given
    return train_slots(slots, state, **given)


def test_after_the_time_is_over_only_what_was_begun_goes_on(slot, tmp_path: Path) -> None:
    slots = [slot(number) for number in range(3)]
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1/progress.json").write_text("{}")
    past = time.time() - 1
    reasons = [row["reason"] for row in rows_of(slots, tmp_path, closes=past)]
    assert reasons == ["over", "trained here", "over"]
    reasons = {row["reason"] for row in rows_of(slots, tmp_path, closes=time.time() + 60)}
    assert reasons == {"trained here"}


def test_one_that_has_killed_its_process_is_trained_apart(slot, tmp_path: Path) -> None:
    slots = [slot(number) for number in range(4)]
    for number in (1, 2, 3):
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}/begun").touch()
    ends: dict[int, Any] = {
        1: [unable(slots[1], "trained apart")], 2: -int(signal.SIGKILL), 3: 7,
    }  # fmt: skip
    rows = rows_of(slots, tmp_path, alone=lambda slot: ends[slot.number])
    assert [row["reason"] for row in rows] == [
        "trained here", "trained apart",
        "killed twice, by SIGKILL: perhaps for want of memory",
        "its process ended with exit code 7",
    ]  # fmt: skip
    # At the first attempt nobody is suspected: whoever was killed may have been so by a person.
    assert {row["reason"] for row in rows_of(slots, tmp_path)} == {"trained here"}


def test_processes_side_by_side_give_their_rows_or_how_they_ended(tmp_path: Path) -> None:
    outs = [tmp_path / f"{n}.json" for n in range(3)]
    scripts = [
        f"import os; open({str(outs[0])!r}, 'w').write('[' + os.environ['OMP_NUM_THREADS'] + ']')",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import sys; sys.exit(3)",
    ]
    outs[1].write_text("[1]")  # left by an earlier attempt
    found = elsewhere([[sys.executable, "-c", script] for script in scripts], outs)
    share = max(1, len(os.sched_getaffinity(0)) // 3)
    assert found == [[share], -int(signal.SIGKILL), 3]


def test_a_stop_is_passed_on_and_told(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    script = (
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(85))\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(60)"
    )

    def ask() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    before = signal.getsignal(signal.SIGTERM)
    started = time.monotonic()
    with pytest.raises(StoppedError):
        elsewhere([[sys.executable, "-c", script]], [tmp_path / "out.json"])
    assert time.monotonic() - started < 30
    assert signal.getsignal(signal.SIGTERM) == before
