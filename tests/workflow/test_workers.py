"""A study that workers share, of which one is killed: Snakemake tries it again, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GIVEN = (
    "sweep=small sweep.mode=async sweep.workers=2 sweep.trials=6 sweep.epochs=4 "
    "sweep.final.seeds=[0] "
    "data.drawing.scenes=2 data.drawing.size_px=256 patches.size_px=32 split=random "
    "split.allow_leaks=true trainer.precision=fp32"
)


def test_a_study_outlives_a_worker_that_is_killed(
    tmp_path: Path, lay_out: Callable[..., None]
) -> None:
    lay_out(tmp_path)
    study = tmp_path / "results/embedded/study"
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SWATH_"))}
    running = subprocess.Popen(
        [Path(sys.executable).with_name("snakemake"), "--cores", "2",
         "results/embedded/study/final.json", "--config", f"set={GIVEN}"],
        cwd=tmp_path, env={**plain, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=(tmp_path / "told").open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    told = (tmp_path / "told").read_text
    try:
        limit = time.monotonic() + 120
        while not (found := list(tmp_path.glob("state/studies/embedded/*/leases/2"))):
            assert running.poll() is None and time.monotonic() < limit, told()
            time.sleep(0.01)
        (lease,) = found
        held = json.loads(lease.read_text())
        os.kill(held["process"], signal.SIGKILL)
        assert running.wait(180) == 0, told()
    finally:
        running.kill()
        running.wait()
    assert told().count("Trying to restart job") == 1
    journal = [json.loads(line) for line in (lease.parents[1] / "journal.log").open()]
    # Whoever took the trial over noted that its worker had died with it.
    (died,) = (entry for entry in journal if "died" in entry.get("user_attr", {}))
    assert died["trial_id"] == 2
    collected = json.loads((study / "trials.json").read_text())
    assert collected["mode"] == "async" and len(collected["trials"]) == 6
    for number, trial in enumerate(collected["trials"]):
        assert trial["number"] == number and trial["params"].keys() == {"optim.lr", "model.width"}
        assert [row["epochs"] for row in trial["rungs"]] == [4, 8][: len(trial["rungs"])]
        assert trial["state"] == ("complete" if len(trial["rungs"]) == 2 else "stopped")
        assert all(len(row["curve"]) == row["epochs"] for row in trial["rungs"])
    best = collected["trials"][collected["best"]]["rungs"][-1]
    last = [t["rungs"][-1]["scores"] for t in collected["trials"] if t["state"] == "complete"]
    assert best["scores"] == max(last)
    assert json.loads((study / "final.json").read_text())
    assert (study / "winner.yaml").is_file()
    assert not [path for path in lease.parent.iterdir() if path.name.isdigit()]
