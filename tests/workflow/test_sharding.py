"""Shards through the workflow: what is cut again, and that their number changes no result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from swath.data.landscape import draw_scenes

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
RESULTS = "results/embedded"
GIVEN = (
    "sweep=none data.drawing=null patches.size_px=32 patches.shard_mb=1 split=random "
    "split.allow_leaks=true"
)


class Project:
    """A folder with its own workflow/ and conf/, cut up to the statistics of its split."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def splits(self, *words: str, given: str = "", fails: bool = False) -> str:
        """Run Snakemake to the splits; what it told."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SWATH_"))}
        done = subprocess.run(
            [str(BIN / "snakemake"), "splits", "--cores", "2", *words, "--config",
             f"set={GIVEN} {given}"],
            cwd=self.folder, env={**plain, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        told = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, told
        return told

    def json(self, file: str) -> Any:
        """The value of a file of the experiment's results."""
        return json.loads((self.folder / RESULTS / file).read_text())

    def shards(self) -> dict[str, dict[Path, int]]:
        """Each shard's files with the times at which they were written."""
        return {
            manifest.parent.name: {
                path: path.stat().st_mtime_ns
                for path in manifest.parent.rglob("*") if path.is_file()
            }
            for manifest in (self.folder / RESULTS / "patches").glob("*/manifest.json")
        }  # fmt: skip


def jobs(told: str, rule: str) -> int:
    """How often a rule was run."""
    return len(re.findall(rf"^(?:local)?(?:rule|checkpoint) {rule}:$", told, re.M))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[..., None]) -> Project:
    """Two scenes of one's own, each a shard; a third is put by. Look, and change nothing."""
    folder = tmp_path_factory.mktemp("sharded")
    lay_out(folder)
    draw_scenes(folder / "data/embedded", seed=3, scenes=3, size_px=256)
    third = sorted((folder / "data/embedded").iterdir())[2]
    third.rename(folder / "third")
    (folder / "third" / "name").write_text(third.name)
    project = Project(folder)
    told = project.splits()
    assert [jobs(told, rule) for rule in ("scenes", "patches", "index", "measure")] == [1, 2, 1, 2]
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project, to be changed."""
    return Project(Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)))


def test_an_added_scene_cuts_its_own_shard_alone(project: Project) -> None:
    before = project.shards()
    put_by = project.folder / "third"
    added = project.folder / "data/embedded" / (put_by / "name").read_text()
    (put_by / "name").unlink()
    put_by.rename(added)
    told = project.splits()
    assert [jobs(told, rule) for rule in ("fetch", "scenes", "patches", "index")] == [1, 1, 1, 1]
    after = project.shards()
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert project.json("patches/manifest.json")["facts"]["scenes"][2] == added.name
    # And taken out again: nothing is cut, and its shard is deleted.
    shutil.rmtree(added)
    told = project.splits()
    assert jobs(told, "patches") == 0
    assert project.shards() == before


def test_where_scenes_come_from_does_not_cut_them_again(project: Project) -> None:
    before = project.shards()
    elsewhere = project.folder / "elsewhere"
    shutil.copytree(project.folder / "data/embedded", elsewhere)
    (elsewhere / "manifest.json").unlink()
    shutil.rmtree(project.folder / "data/embedded")
    told = project.splits(given=f"data.folder={elsewhere}")
    assert jobs(told, "fetch") == 1 and jobs(told, "patches") == 0
    assert project.shards() == before


def test_a_list_of_scenes_that_was_only_touched_cuts_nothing(project: Project) -> None:
    before = project.shards()
    os.utime(project.folder / RESULTS / "scenes.json")
    told = project.splits()
    assert jobs(told, "patches") == 0 and project.shards() == before


def test_a_lost_shard_is_cut_again_alone(project: Project) -> None:
    before = project.shards()
    lost, kept = sorted(before)
    statistics = project.json("splits/random/statistics.json")
    shutil.rmtree(project.folder / RESULTS / "patches" / lost)
    told = project.splits("--forcerun", "index")
    assert jobs(told, "patches") == 1
    assert project.shards()[kept] == before[kept]
    assert project.json("splits/random/statistics.json") == statistics


def test_one_shard_and_two_have_the_same_statistics(project: Project) -> None:
    two = project.json("splits/random/statistics.json")["folds"][0]
    index = project.json("patches/manifest.json")
    told = project.splits(given="patches.shard_mb=1024")
    assert jobs(told, "patches") == 1 and len(project.shards()) == 1
    one = project.json("splits/random/statistics.json")["folds"][0]
    assert one["pixels"] == two["pixels"] and one["patches"] == two["patches"] > 20
    for key in ("mean", "std"):
        np.testing.assert_allclose(one[key], two[key], rtol=1e-9)
    assert one["quantiles"] == two["quantiles"]
    joined = project.json("patches/manifest.json")
    assert joined["checks"] == index["checks"] and joined["kept"] == index["kept"]


def test_floats_take_a_second_round_and_have_the_same_statistics(project: Project) -> None:
    integers = project.json("splits/random/statistics.json")["folds"][0]
    for file in (project.folder / "data/embedded").glob("*/*_[12]0m.tif"):
        with rasterio.open(file) as opened:
            pixels, profile, names = opened.read(), opened.profile, opened.descriptions
        with rasterio.open(file, "w", **{**profile, "dtype": "float32"}) as written:
            written.write(pixels.astype(np.float32))
            written.descriptions = names
    told = project.splits()
    assert [jobs(told, rule) for rule in ("measure", "totals", "statistics")] == [4, 1, 1]
    floats = project.json("splits/random/statistics.json")["folds"][0]
    for key in ("mean", "std"):
        np.testing.assert_allclose(floats.pop(key), integers.pop(key), rtol=1e-9)
    assert floats == integers


def test_a_damaged_scene_is_set_aside_by_name_or_stops_the_workflow(project: Project) -> None:
    data = project.folder / "data/embedded"
    name = sorted(path.name for path in data.iterdir() if path.is_dir())[0]
    file = data / name / f"{name}_10m.tif"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    stamp = file.stat()
    file.write_bytes(damaged)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    reason = f"data/embedded/{name}/{name}_10m.tif: was changed after it was written"
    told = project.splits("--forcerun", "patches")
    assert f"set aside: {name}: {reason}" in told
    index = project.json("patches/manifest.json")
    assert {c["scene"]: c["faults"] for c in index["checks"]}[name] == [reason]
    assert len(index["facts"]["scenes"]) == 1 and index["kept"] > 20
    told = project.splits(given="quality.broken=fatal", fails=True)
    (line,) = {line.split("error: ")[1] for line in told.splitlines() if " error: " in line}
    assert line == f"{name}: {reason}; mend the scene, or set quality.broken=skip"
    assert "Traceback" not in told
