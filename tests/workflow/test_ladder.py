"""The ladder where not all of its lessons can be had: the others go on, and the page names it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

QUICK = """# @package _global_
defaults:
  - iris
lesson: {title: Good, least: 0.0, noise: 50}
trainer: {epochs: 1}
"""
ODD = QUICK.replace("Good", "Odd") + "data: {name: odd, layout: {header: 0}}\n"


def test_a_lesson_that_fails_leaves_the_others_their_page(
    tmp_path: Path, lay_out: Callable[..., None]
) -> None:
    lay_out(tmp_path)
    lessons = tmp_path / "conf/experiment/ladder"
    pipeline, landsat = (lessons / f"{name}.yaml" for name in ("pipeline", "pipeline_statlog"))
    kept = {path.name: path.read_text() for path in (pipeline, landsat)}
    shutil.rmtree(lessons)
    lessons.mkdir()
    # The experiment itself is no lesson of this ladder.
    (lessons.parent / "iris.yaml").write_text(kept["pipeline.yaml"])
    (lessons / "good.yaml").write_text(QUICK)
    (lessons / "odd.yaml").write_text(ODD)
    (lessons / "landsat.yaml").write_text(kept["pipeline_statlog.yaml"])
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SWATH_"))}
    done = subprocess.run(
        [Path(sys.executable).with_name("snakemake"), "--verbose", "--cores=1", "ladder"],
        cwd=tmp_path, env={**plain, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode != 0
    # The jobs that wait for the core are weighed when one has ended, not again and again.
    assert done.stderr.count("Ready jobs:") <= 2 * done.stderr.count("Finished jobid")
    page = (tmp_path / "results/ladder/report.html").read_text()
    assert 'id="ladder-good"' in page and 'id="ladder-odd"' not in page
    assert "ladder/odd is missing: flowers: nothing is fit to be cut; data/odd/iris.csv" in page
    assert "ladder/landsat is missing: Statlog Landsat Satellite comes from a mirror alone" in page
    assert "The lessons that there are: results/ladder/report.html" in done.stdout
