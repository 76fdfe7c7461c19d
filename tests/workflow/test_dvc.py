"""DVC as a person uses it: `dvc repro` asks Snakemake, and what is done stays done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
PRUNED = """
data:
  drawing: {scenes: 2, size_px: 256}
patches: {size_px: 32}
split:
  blocks: {size_m: 640.0}
model: {width: 4}
"""


def run(folder: Path, *command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[..., None]) -> Path:
    """A checkout whose pruned default experiment Snakemake has run to its report."""
    folder = tmp_path_factory.mktemp("checkout")
    lay_out(folder, "src", "dvc.yaml", ".dvcignore")
    experiment = folder / "conf/experiment/embedded.yaml"
    text = experiment.read_text().replace("override /sweep: small", "override /sweep: none")
    text = text.replace("epochs: 30", "epochs: 1")
    assert "epochs: 1" in text
    experiment.write_text(text + PRUNED)
    run(folder, "dvc", "init", "--no-scm", "-q")
    run(folder, "dvc", "config", "core.analytics", "false")
    run(folder, "snakemake")
    return folder


def test_repro_after_snakemake_recomputes_nothing(finished: Path) -> None:
    report = finished / "results/embedded/report.html"
    model = finished / "results/embedded/runs/blocks-fold0-seed0/best.ckpt"
    before = report.stat().st_mtime_ns, model.stat().st_mtime_ns
    told = run(finished, "dvc", "repro")
    assert told.count("Nothing to be done") == 3
    assert (report.stat().st_mtime_ns, model.stat().st_mtime_ns) == before
    assert "Data and pipelines are up to date" in run(finished, "dvc", "repro")


def test_metrics_are_those_of_the_run(finished: Path) -> None:
    shown = json.loads(run(finished, "dvc", "metrics", "show", "--json"))
    found = shown[""]["data"]["results/embedded/metrics.json"]["data"]["blocks"]
    scores = finished / "results/embedded/runs/blocks-fold0-seed0/scores.json"
    value = json.loads(scores.read_text())["overall_accuracy"]["value"]
    assert found["model"]["overall_accuracy"] == value


def test_data_are_versioned_and_a_change_is_seen(finished: Path) -> None:
    run(finished, "dvc", "add", "-q", "data")
    assert "path: data" in (finished / "data.dvc").read_text()
    assert "up to date" in run(finished, "dvc", "status", "data.dvc")
    (finished / "data/embedded/new.txt").write_text("new")
    assert "modified" in run(finished, "dvc", "status", "data.dvc")
