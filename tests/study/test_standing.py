"""How a running study stands, by the files that it has left so far."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swath import settings
from swath.errors import DataError
from swath.study.journal import Shared
from swath.study.rungs import Objective
from swath.study.standing import standing

SWEEP = settings.check(
    "sweep",
    {
        "trials": 4, "rungs": 2, "epochs": 2,
        "space": {"optim.lr": {"float": [0.001, 0.01]}, "model.width": {"choice": [8, 16]}},
    },
)  # fmt: skip


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def row(number: int, score: float | None, epochs: int = 2, reason: str | None = None) -> dict:
    return {
        "number": number, "rung": 0 if epochs == 2 else 1, "epochs": epochs,
        "scores": None if score is None else [score], "seconds": 1.0, "run_id": f"r{number}",
        "curve": [], "reason": reason,
    }  # fmt: skip


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Two trials have ended, one trains and one waits for its process."""
    study = tmp_path / "results/bench/study/generation0"
    trials = [{"optim.lr": 0.001 * (n + 1), "model.width": 8} for n in range(4)]
    write(study / "proposal.json", {"began": 0, "trials": trials})
    write(study / "rung0/shard0.json", [row(0, 0.25), row(1, None, reason="the loss is nan")])
    for number, (name, scores) in enumerate([("bench", [0.3, 0.5]), ("other", [0.9])], 2):
        state = tmp_path / f"state/runs/r{number}"
        write(state / "trial.json", {"study": name, "number": number, "epochs": 2, "rung": 0})
        write(state / "progress.json", {"history": [{"val/miou": score} for score in scores]})
    (tmp_path / "state/runs/r2/begun").touch()
    # A run of an earlier final: no trial of this study is so far.
    write(tmp_path / "state/runs/f/trial.json", {"study": "bench", "number": 0, "epochs": 4})
    write(tmp_path / "state/runs/f/progress.json", {"history": [{"val/miou": 0.9}]})
    return tmp_path


def test_it_says_how_far_it_is_and_who_leads(begun: Path) -> None:
    lines = standing(begun / "results/bench", begun / "state", SWEEP, "miou")
    assert lines == [
        "study bench: static, random, val/miou (maximize)",
        "rung 0, 2 epochs: 2 of 4 trials, 1 training",
        "rung 1, 4 epochs: 0 of 2 trials, 0 training",
        "trial epochs       val/miou  settings",
        "    2      2         0.5000  optim.lr=0.003 model.width=8 training to 2",
        "    0      2         0.2500  optim.lr=0.001 model.width=8",
        "trial 1 failed at 2 epochs: the loss is nan",
    ]


def test_the_end_is_told(begun: Path) -> None:
    study = begun / "results/bench/study"
    write(study / "generation0/rung1/shard0.json", [row(2, 0.7, 4)])
    write(study / "trials.json", {})
    lines = standing(begun / "results/bench", begun / "state", SWEEP, "miou")
    assert lines[2] == "rung 1, 4 epochs: 1 of 2 trials, 0 training"
    assert lines[4].split() == ["2", "4", "0.7000", "optim.lr=0.003", "model.width=8"]
    assert lines[-1] == "all trials are over"
    write(study / "final.json", {})
    lines = standing(begun / "results/bench", begun / "state", SWEEP, "miou")
    assert lines[-1] == "the final is over"


def test_the_journal_is_asked_where_workers_share_it(begun: Path) -> None:
    sweep = SWEEP | {"mode": "async"}
    shared = Shared(
        begun / "state/studies/bench/0123", "worker0", space=sweep["space"], sampler="random",
        seed=0, sought=[Objective("val/miou", "maximize")], budgets=[2, 4], eta=2, pruner="none",
        trials=1, startup=1,
    )  # fmt: skip
    ticket = shared.next()
    assert ticket is not None and shared.report(ticket, row(0, 0.625))
    lines = standing(begun / "results/bench", begun / "state", sweep, "miou")
    assert "rung 0, 2 epochs: 1 trials, 1 training" in lines
    own = f"optim.lr={ticket.params['optim.lr']:.3g} model.width={ticket.params['model.width']}"
    assert f"    0      2         0.6250  {own}" in lines


def test_what_has_not_begun_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no study has begun here; run snakemake, or look later"):
        standing(tmp_path / "results/bench", tmp_path / "state", SWEEP, "miou")
