"""Every experiment, pruned to a minute, runs end to end by the real Snakemake to its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swath import plan

REPOSITORY = Path(__file__).resolve().parents[1]
PRUNED = {
    "embedded": (
        "data.drawing.scenes=2 data.drawing.size_px=256 split.blocks.size_m=640 patches.size_px=32 "
        "trainer.epochs=1 trainer.precision=bf16 model.width=4 sweep.trials=2 sweep.epochs=1 "
        "sweep.final.best=0"
    ),
    "eurosat": "patches.fraction=0.02 trainer.epochs=1 trainer.precision=bf16 model.width=8",
    "eurosat_resnet": (
        "split=stratified patches.fraction=0.02 trainer.epochs=1 trainer.precision=bf16 "
        "runs.seeds=[0]"
    ),
    "statlog": "patches.fraction=0.1 trainer.epochs=1 model.width=8 runs.seeds=[0]",
    "rachel_carson": "trainer.epochs=1 trainer.precision=bf16",
    "sen1floods11_sample": (
        "patches.fraction=0.5 trainer.epochs=1 trainer.precision=bf16 model.width=4"
    ),
    "bigearthnet_sample": "trainer.epochs=1 trainer.precision=bf16",
    "plane": "trainer.epochs=2",
}
# It is eurosat with other numbers and a study, and .ci/run runs it as it is.
ELSEWHERE = ["eurosat_small"]
# Whose data are not drawn, and have to be at hand.
REAL = (
    "bigearthnet_sample", "eurosat", "eurosat_resnet", "statlog", "rachel_carson",
    "sen1floods11_sample",
)  # fmt: skip


def test_every_experiment_has_its_pruned_form() -> None:
    known = plan.tree(REPOSITORY / "conf").choices("experiment")
    # Those of the ladder run as they are in tests/ladder.
    assert sorted([*PRUNED, *ELSEWHERE]) == [n for n in known if not n.startswith("ladder/")]


def test_the_lessons_of_the_ladder_can_be_run_together() -> None:
    tree = plan.tree(REPOSITORY / "conf")
    names = [name for name in tree.choices("experiment") if name.startswith("ladder/")]
    lessons = [plan.compose(tree, name) for name in names]
    assert plan.datasets(lessons)
    assert {each.sections["lesson"]["step"] for each in lessons} == set(range(1, 17))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRUNED)
def test_it_runs_to_its_report(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    env["OMP_NUM_THREADS"] = "1"
    if name in REAL:
        env["SWATH_MIRROR"] = str(request.getfixturevalue("real_data"))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("snakemake"),
            "--snakefile", REPOSITORY / "workflow/Snakefile",
            "--workflow-profile", REPOSITORY / "workflow/profiles/default",
            "--directory", tmp_path,
            "--config", f"experiment={name}", f"set={PRUNED[name]}",
        ],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results" / name
    assert f"results/{name}/report.html" in done.stdout + done.stderr
    assert "</html>" in (results / "report.html").read_text()
    experiment = plan.compose(REPOSITORY / "conf", name, PRUNED[name])
    for run in experiment.runs:
        scores = json.loads((results / "runs" / run.name / "scores.json").read_text())
        assert 0 <= scores["overall_accuracy"]["value"] <= 1
        assert (results / "runs" / run.name / "best.ckpt").is_file()
        assert (results / "baselines" / f"{run.split}-fold{run.fold}" / "scores.json").is_file()
    assert (results / "study/trials.json").is_file() == experiment.has_study
    assert (results / "maps").is_dir() == experiment.has_scenes
    assert not [p for p in tmp_path.rglob("*") if ".part" in p.name]
