"""Another repository that has swath as a module: its own Snakefile and conf/, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PRUNED = """
data: {drawing: {scenes: 2, size_px: 256}}
patches: {size_px: 32}
split: {blocks: {size_m: 640.0}}
trainer: {epochs: 1, precision: fp32}
model: {width: 4}
"""


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake there as a person does, with no program of the environment on the path."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SWATH_"))}
    return subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "--cores", "2", *words],
        cwd=folder, env={**plain, "OMP_NUM_THREADS": "1", "PATH": os.defpath},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with the files of the documentation, the experiment pruned."""
    folder = tmp_path_factory.mktemp("another")
    text = (repository / "docs/extending.md").read_text().split("\n## From another repository\n")[1]
    snakefile, experiment = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.DOTALL)
    (folder / "Snakefile").write_text(snakefile.replace("/path/to/swath", str(repository)))
    (folder / "conf/experiment").mkdir(parents=True)
    pruned = experiment.split("\ntrainer:")[0] + PRUNED
    (folder / "conf/experiment/mine.yaml").write_text(pruned)
    return folder


def test_its_rules_go_on_with_the_results(another: Path) -> None:
    done = snakemake(another)
    assert done.returncode == 0, done.stdout + done.stderr
    found = sorted(path.name for path in another.iterdir() if path.name != ".snakemake")
    assert found == ["Snakefile", "conf", "data", "results", "state", "summary.json"]
    assert json.loads((another / "summary.json").read_text()) == json.loads(
        (another / "results/mine/metrics.json").read_text()
    )
    run = json.loads((another / "results/mine/runs/blocks-fold0-seed0/run.json").read_text())
    assert (run["epochs"], run["parameters"]) == (1, 30833), "what its own conf/ says"
    again = snakemake(another)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_folder_that_is_not_there_is_one_line(another: Path) -> None:
    (another / "conf").rename(another / "away")
    try:
        done = snakemake(another, "-n")
    finally:
        (another / "away").rename(another / "conf")
    assert done.returncode == 2
    line = "swath: --config conf=conf: there is no such folder; name one's own conf/"
    assert line in done.stderr.splitlines()
