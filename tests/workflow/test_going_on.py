"""A training that does not fit its job's time goes on in the next try, by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
GIVEN = (
    "sweep=none data.drawing.scenes=1 data.drawing.size_px=256 patches.size_px=32 "
    "split=random split.allow_leaks=true model.width=4 trainer.precision=fp32 trainer.epochs=100 "
    "trainer.batch_size=8"
)
RUN = "results/embedded/runs/random-fold0-seed0"


def test_a_training_over_its_time_limit_goes_on_by_itself(
    tmp_path: Path, lay_out: Callable[..., None]
) -> None:
    """Nine seconds, most of which its start takes, and then as long as it needs."""
    lay_out(tmp_path)
    rules = tmp_path / "workflow/rules/learn.smk"
    text = rules.read_text()
    announced = "--minutes {resources.runtime}"
    asked = "**asks(8000, 1380, trains=True, spreads=True, goes_on=True),\n"
    assert announced in text and asked in text
    text = text.replace(announced, "--minutes {resources.limit}").replace(
        asked, asked + '        limit=lambda w, attempt: "0.15" if attempt == 1 else "9",\n', 1
    )
    rules.write_text(text)

    def started(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    # Snakemake gives a job's cores to OpenMP, whose sums differ in the last bit by their number.
    told = started(
        str(BIN / "snakemake"), "--cores", "1", f"{RUN}/run.json", "--config", f"set={GIVEN}"
    )
    assert "stopped by its time limit" in told and "non-zero exit status 85" in told
    assert told.count("Trying to restart job") == 1
    run = json.loads((tmp_path / RUN / "run.json").read_text())
    assert run["attempts"] == 2 and run["epochs"] == 100
    started(
        str(BIN / "swath"), "train", "--config", "results/embedded/config", "--patches",
        "results/embedded/patches/manifest.json", "--split", "results/embedded/splits/random",
        "--fold", "0", "--seed", "0", "--code", run["code"], "--state", "straight", "--out", "out",
    )  # fmt: skip
    states = tmp_path / "state/runs", tmp_path / "straight"
    one, other = (
        torch.load(state / run["run_id"] / "last.ckpt", weights_only=True)["state_dict"]
        for state in states
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_mistake_of_another_rule_is_made_once() -> None:
    """Only what goes on is tried again."""
    found = {}
    for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for block in re.split(r"^(?=rule |checkpoint )", file.read_text(), flags=re.M):
            if named := re.match(r"(?:rule|checkpoint) (\w+):", block):
                found[named[1]] = "retries:" in block
    assert {name for name, tried_again in found.items() if tried_again} == {
        "train", "trials", "worker", "final",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code", "ends"),
    [("embedded", 0, "Finished jobid"), ("statlog", 1, "Error in rule fetch")],
)
def test_a_workflow_outlives_the_reader_of_its_output(
    tmp_path: Path, lay_out: Callable[..., None], name: str, code: int, ends: str
) -> None:
    """Its job ends well, or fails for want of a mirror, when nobody reads any more what it says."""
    lay_out(tmp_path)
    told = subprocess.Popen(
        [BIN / "snakemake", f"data/{name}/manifest.json", "--config", f"experiment={name}"],
        cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "SWATH_MIRROR"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert told.stdout is not None
        assert any(line.startswith(("rule fetch", "localrule fetch")) for line in told.stdout)
        told.stdout.close()
        assert told.wait(timeout=240) == code
    finally:
        told.kill()
    assert (tmp_path / f"data/{name}/manifest.json").is_file() == (code == 0)
    assert ends in next((tmp_path / ".snakemake/log").glob("*.log")).read_text()
