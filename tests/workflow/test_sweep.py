"""A study by the real Snakemake: killed and continued, with trials that fail, and grown.

`SWATH_KILLS=20` kills it twenty times; the suite does so a few times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SWATH_KILLS", "2"))
BIN = Path(sys.executable).parent
DATA = (
    "data.drawing.scenes=1 data.drawing.size_px=256 patches.size_px=32 split=random "
    "split.allow_leaks=true model.width=4 trainer.precision=fp32 trainer.batch_size=8"
)
SWEEP = (
    "sweep.trials=6 sweep.rungs=3 sweep.epochs=2 sweep.trials_per_job=4 "
    "sweep.final={best:2,seeds:[1]}"
)
STUDY = Path("results/embedded/study")
SPACE = (
    "'sweep.space={optim.lr: {float: [0.0005, 0.01], log: true}, model.width: {choice: [4, 6]}}'"
)
LIMIT_S = 240


def started(
    folder: Path, given: str = f"{DATA} {SPACE} {SWEEP}", target: str = "elected.json"
) -> subprocess.Popen[str]:
    """The workflow up to a file of the study, in a process group of its own."""
    return subprocess.Popen(
        [BIN / "snakemake", "--cores", "2", str(STUDY / target), "--config", f"set={given}"],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, start_new_session=True,
        stdout=(folder / "log").open("a"), stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(folder: Path, **given: str) -> dict[str, Any]:
    """Run the workflow to its end; gives the collected study."""
    process = started(folder, **given)
    assert process.wait(LIMIT_S) == 0, (folder / "log").read_text()[-5000:]
    return json.loads((folder / STUDY / "trials.json").read_text())


def result(study: dict[str, Any]) -> dict[str, Any]:
    """A study without what the clock has a say in."""
    plain = json.loads(json.dumps(study))
    for trial in plain["trials"]:
        for rung in trial["rungs"]:
            del rung["seconds"]
    return plain


def final(folder: Path, file: str = "elected.json") -> dict[str, Any]:
    """A study's final, without what the clock has a say in."""
    found: dict[str, Any] = json.loads((folder / STUDY / file).read_text())
    for candidate in found["candidates"]:
        for run in candidate["runs"]:
            del run["seconds"]
    return found


def epochs_trained(folder: Path) -> int:
    """Epochs that all attempts have trained, by what they told."""
    return len(re.findall(r"epoch \d+ of \d+: train/loss", (folder / "log").read_text()))


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[..., None]
) -> Callable[[str], Path]:
    """Copies of a folder whose data are cut and split."""
    base = tmp_path_factory.mktemp("study") / "base"
    base.mkdir()
    lay_out(base)
    done = subprocess.run(
        [BIN / "snakemake", "splits", "--config", f"set={DATA} {SPACE} {SWEEP}"],
        cwd=base, capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    def copy(name: str) -> Path:
        return Path(shutil.copytree(base, base.parent / name, symlinks=True))

    return copy


@pytest.fixture(scope="module")
def undisturbed(prepared: Callable[[str], Path]) -> Path:
    """The folder of a study that nothing has disturbed."""
    folder = prepared("undisturbed")
    finished(folder, target="final.json")
    return folder


@pytest.fixture
def widening(undisturbed: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it, to go on with."""
    yield Path(shutil.copytree(undisturbed, tmp_path / "wider", symlinks=True))


def test_the_plan_is_what_was_run(undisturbed: Path) -> None:
    study = json.loads((undisturbed / STUDY / "trials.json").read_text())
    reached = [len(trial["rungs"]) for trial in study["trials"]]
    assert sorted(reached) == [1, 1, 1, 2, 2, 3]
    for trial in study["trials"]:
        assert [r["epochs"] for r in trial["rungs"]] == [2, 4, 8][: len(trial["rungs"])]
        assert [len(r["curve"]) for r in trial["rungs"]] == [2, 4, 8][: len(trial["rungs"])]
        assert all(r["scores"] == [max(r["curve"])] for r in trial["rungs"])
    assert reached[study["best"]] == 3


def test_the_final_sees_the_test_part_once_by_its_winner(undisturbed: Path) -> None:
    found = final(undisturbed, "final.json")
    assert [len(c["runs"]) for c in found["candidates"]] == [1, 1]
    means = {c["number"]: c["mean"][0] for c in found["candidates"]}
    assert found["winner"] == max(means, key=lambda number: means[number])
    assert [run["seed"] for run in found["test"]["runs"]] == [1]
    winner = undisturbed / STUDY / "winner"
    own = next(c for c in found["candidates"] if c["number"] == found["winner"])
    for run in own["runs"]:
        facts = json.loads((winner / f"random-fold0-seed{run['seed']}" / "run.json").read_text())
        # The run of the final is the one that is judged: nothing was trained for it again.
        assert facts["run_id"] == run["run_id"] and facts["epochs"] == 8


def test_the_winner_is_ready_to_be_run(undisturbed: Path, repository: Path) -> None:
    from swath import plan

    shutil.copy(undisturbed / STUDY / "winner.yaml", undisturbed / "conf/experiment/won.yaml")
    composed = plan.compose(undisturbed / "conf", "won", DATA)
    study = json.loads((undisturbed / STUDY / "trials.json").read_text())
    params = study["trials"][final(undisturbed)["winner"]]["params"]
    assert composed.sections["optim"]["lr"] == params["optim.lr"]
    assert not composed.has_study and composed.sections["trainer"]["epochs"] == 8


def test_a_killed_study_ends_as_if_nothing_had_been(
    undisturbed: Path, prepared: Callable[[str], Path]
) -> None:
    """All its processes, at random moments, as often as `KILLS` says."""
    folder, dice, killed = prepared("killed"), random.Random(0), 0
    while killed < KILLS:
        process = started(folder)
        # Its start takes some seconds, in which there is little to be lost.
        try:
            assert process.wait(6 + dice.uniform(0, 12)) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    study = finished(folder)
    plain = json.loads((undisturbed / STUDY / "trials.json").read_text())
    assert killed and result(study) == result(plain)
    assert final(folder) == final(undisturbed)
    # A kill costs what was trained since the last checkpoint, of which there is one a second or an
    # epoch, in each of the two jobs that may run.
    at_most = killed * 2 * max(1, epochs_in_a_second(undisturbed))
    assert epochs_trained(folder) <= epochs_trained(undisturbed) + at_most


def epochs_in_a_second(folder: Path) -> int:
    """How many epochs of a trial fit into what one checkpoint may be away from the next."""
    study = json.loads((folder / STUDY / "trials.json").read_text())
    rows = [row for trial in study["trials"] for row in trial["rungs"]]
    return 1 + int(1.5 * max(row["epochs"] / row["seconds"] for row in rows))


def test_a_study_that_grows_trains_only_what_is_new(widening: Path) -> None:
    before = json.loads((widening / STUDY / "trials.json").read_text())
    (widening / "log").write_text("")
    wider = SPACE.replace("[0.0005, 0.01]", "[0.0002, 0.02]")
    more = SWEEP.replace("trials=6", "trials=8 sweep.side_by_side=2")
    after = finished(widening, given=f"{DATA} {wider} {more}", target="trials.json")
    assert [t["params"] for t in after["trials"][:6]] == [t["params"] for t in before["trials"]]
    known = {(row["run_id"], row["epochs"]) for t in before["trials"] for row in t["rungs"]}
    rows = [row for t in after["trials"] for row in t["rungs"]]
    new = [row for row in rows if (row["run_id"], row["epochs"]) not in known]
    # 8, 4 and 2 slots; those of 2 epochs are of the two new trials alone.
    assert len(rows) == 14 and [r["epochs"] for r in new].count(2) == 2
    trials_epochs = sum(row["epochs"] // (1 if row["epochs"] == 2 else 2) for row in new)
    assert epochs_trained(widening) >= trials_epochs
    old = {
        r["run_id"]: r["scores"] for t in before["trials"] for r in t["rungs"] if r["epochs"] == 2
    }
    assert all(
        r["scores"] == old[r["run_id"]] for r in rows if r["epochs"] == 2 and r["run_id"] in old
    )


def test_trials_that_fail_and_that_kill_their_process_are_results(
    prepared: Callable[[str], Path],
) -> None:
    """Trial 1 diverges; whenever trial 2 begins, its process is killed, as for want of memory."""
    folder, done = prepared("failing"), threading.Event()
    space = "'sweep.space={optim.lr: {choice: [0.004, 1e25, 0.005, 0.006]}}'"
    given = (
        f"sweep=none {DATA} {space} sweep.sampler=grid sweep.rungs=2 sweep.epochs=1 "
        "sweep.trials_per_job=4 optim.schedule=constant"
    )
    killed: set[str] = set()

    def kill() -> None:
        while not done.is_set():
            for begun in folder.glob("state/runs/*/begun"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    holder = re.match(r"process (\d+) on", begun.with_name("lock").read_text())
                    told = json.loads(begun.with_name("trial.json").read_text())
                    if told["number"] == 2 and holder and holder[1] not in killed:
                        os.kill(int(holder[1]), signal.SIGKILL)
                        killed.add(holder[1])
            time.sleep(0.002)

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        study = finished(folder, given=given, target="trials.json")
    finally:
        done.set()
        watcher.join()
    states = [trial["state"] for trial in study["trials"]]
    assert states[1] == "failed" and "the loss is" in study["trials"][1]["reason"]
    assert states[2] == "failed"
    assert study["trials"][2]["reason"].startswith("killed twice, by SIGKILL")
    assert states[0] != "failed" != states[3] and study["best"] in (0, 3)
    assert len(killed) == 2
