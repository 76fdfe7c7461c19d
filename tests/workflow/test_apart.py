"""The workflow where jobs share no file system: each in a folder of its own, a bucket between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import watching

pytestmark = [pytest.mark.slow, pytest.mark.s3]
for plugin in ("snakemake_storage_plugin_s3", "snakemake_executor_plugin_cluster_generic"):
    pytest.importorskip(plugin, reason="make test-s3 installs it")

BIN = Path(sys.executable).parent
APART = Path(__file__).resolve().parents[1] / "servers/apart.sh"
PRUNED = (
    "sweep=none data.drawing.scenes=2 data.drawing.size_px=256 patches.size_px=32 "
    "trainer.precision=fp32 trainer.device=cpu model.width=4 split.blocks.size_m=640 "
    "trainer.epochs=60 trainer.checkpoint_minutes=0.01"
)
Done = subprocess.CompletedProcess[str]


class Site:
    """A project folder, a bucket, and a cluster whose machines share nothing else."""

    def __init__(self, folder: Path, s3, lay_out: Callable[..., None]) -> None:
        self.s3, self.jobs, self.bucket = s3, folder / "jobs", "apart"
        s3.client().create_bucket(Bucket=self.bucket)
        self.project = folder / "project"
        self.project.mkdir()
        lay_out(self.project)
        self.told: list[str] = []
        """What the main processes have said."""
        self.seen: set[str] = set()
        """Commands of all processes meanwhile."""
        self.first: Done

    def start(self, *words: str, settings: str = PRUNED, **env: str) -> subprocess.Popen[str]:
        """Snakemake's main process."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SWATH_"))}
        return subprocess.Popen(
            [BIN / "snakemake", *words, "--executor", "cluster-generic",
             *(f"--cluster-generic-{verb}-cmd={APART} {verb}" for verb in ("submit", "status")),
             "--default-storage-provider=s3", f"--default-storage-prefix=s3://{self.bucket}/me",
             "--shared-fs-usage=none", "--job-deploy-sources", "--jobs=2",
             "--seconds-between-status-checks=1", "--config", f"set={settings}"],
            cwd=self.project, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=plain | self.s3.env | {
                "PATH": f"{BIN}:{plain['PATH']}", "OMP_NUM_THREADS": "1", "APART": str(self.jobs),
                **env,
            },
        )  # fmt: skip

    def run(self, *words: str, **more: str) -> Done:
        """The same to its end, while the commands of all processes are looked at."""
        started = self.start(*words, **more)
        try:
            with watching.commands(self.seen, every_s=0.05):
                out, _ = started.communicate(timeout=1200)
        finally:
            started.kill()
        self.told.append(out)
        return Done(started.args, started.returncode, out)

    def of(self, rule: str) -> list[Path]:
        """The folders of the jobs of a rule, in the order of their start."""
        found = self.jobs.glob(f"snakejob.{rule}.*")
        return sorted(found, key=lambda job: (job / "jobscript").stat().st_mtime)

    def read(self, name: str) -> bytes:
        return self.s3.body(self.bucket, f"me/{name}")


def ran(done: Done) -> list[str]:
    """The rules that ran, or would run."""
    found = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):$", done.stdout, re.MULTILINE)
    return sorted(set(found))


def kill_the_training(site: Site, over: threading.Event) -> None:
    """SIGKILL to the first job that trains, with all its processes, once its state is kept."""
    while not over.wait(0.2):
        kept = [k for k in site.s3.keys(site.bucket, "me/state/runs/") if k.endswith("last.ckpt")]
        if kept and (jobs := site.of("train")):
            os.killpg(int((jobs[0] / "pid").read_text()), signal.SIGKILL)
            return


@pytest.fixture(scope="module")
def site(s3, tmp_path_factory, lay_out) -> Iterator[Site]:
    """After a start in which the baseline's machine had a wrong key and a training was killed."""
    site = Site(tmp_path_factory.mktemp("apart"), s3, lay_out)
    over = threading.Event()
    killing = threading.Thread(target=kill_the_training, args=(site, over), daemon=True)
    killing.start()
    site.first = site.run("all", APART_REFUSED="baseline")
    over.set()
    killing.join()
    yield site


def test_a_refused_job_fails_alone_and_the_others_go_on(site: Site) -> None:
    first = site.first
    assert first.returncode == 1
    assert "results/embedded/maps/blocks-fold0-seed0/maps.json" in "".join(keys := names(site))
    assert "results/embedded/runs/blocks-fold0-seed0/scores.json" in keys
    assert "results/embedded/report.html" not in keys
    assert not [key for key in keys if "/baselines/" in key]
    (job,) = site.of("baseline")
    told = (job / "log").read_text()
    assert "Traceback" not in told and "SignatureDoesNotMatch" in told


def names(site: Site) -> list[str]:
    return [key.removeprefix("me/") for key in site.s3.keys(site.bucket)]


def test_a_training_killed_on_one_machine_goes_on_on_another(site: Site) -> None:
    first, second = site.of("train")
    assert (first / "rc").read_text().strip() == "137"
    assert (second / "rc").read_text().strip() == "0"
    assert re.search(r"goes on in epoch \d+, .* as attempt 2", (second / "log").read_text())
    run = json.loads(site.read("results/embedded/runs/blocks-fold0-seed0/run.json"))
    assert run["attempts"] == 2 and run["epochs"] == 60


def test_a_second_start_does_what_is_left_and_a_third_nothing(site: Site) -> None:
    second = site.run("all")
    assert second.returncode == 0, second.stdout
    assert ran(second) == ["all", "baseline", "evaluate_baseline", "report"]
    assert "The report: s3://apart/me/results/embedded/report.html" in second.stdout
    assert b"Confusion" in site.read("results/embedded/report.html")
    third = site.run("all")
    assert third.returncode == 0 and "Nothing to be done" in third.stdout


def test_another_machine_finds_all_of_it(site: Site, lay_out, tmp_path: Path) -> None:
    lay_out(tmp_path)
    there, site.project = site.project, tmp_path
    try:
        done = site.run("-n")
    finally:
        site.project = there
    assert "Nothing to be done" in done.stdout
    shutil.rmtree(tmp_path)


def test_a_job_pulls_the_scenes_of_its_shard_and_leaves_its_folder_alone(site: Site) -> None:
    """Two scenes are one shard here, so the set is whole; a score reads labels and no image."""
    (job,) = [j for j in site.of("evaluate") if "baseline" not in j.name]
    copy = job / "machine/.snakemake/storage/s3/apart/me/results/embedded/patches"
    files = {p.parent.parent.name for p in copy.glob("*/set.zarr/*/c/**/*") if p.is_file()}
    assert not [name for name in files if "image" in name]
    assert not list((site.project / "results/embedded").glob("runs"))


def test_the_maps_are_those_of_one_machine(site: Site, lay_out, tmp_path: Path) -> None:
    """The same experiment without a store: the same weights, maps and scores."""
    lay_out(tmp_path)
    done = subprocess.run(
        [BIN / "snakemake", "--config", f"set={PRUNED}", "--", "scores",
         "results/embedded/maps/blocks-fold0-seed0/maps.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = "results/embedded/runs/blocks-fold0-seed0"
    assert json.loads((tmp_path / run / "scores.json").read_text()) == json.loads(
        site.read(f"{run}/scores.json")
    )
    maps = "results/embedded/maps/blocks-fold0-seed0"
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in (tmp_path / maps).glob("*_classes.tif"):
        (kept / path.name).write_bytes(site.read(f"{maps}/{path.name}"))
        with rasterio.open(path) as one, rasterio.open(kept / path.name) as other:
            np.testing.assert_array_equal(one.read(), other.read())
    assert len(list(kept.iterdir())) == 2
    here, there = (json.loads(text) for text in (
        (tmp_path / maps / "maps.json").read_text(), site.read(f"{maps}/maps.json")
    ))  # fmt: skip
    assert [s["classes"] for s in here["scenes"]] == [s["classes"] for s in there["scenes"]]


def test_a_changed_setting_reruns_what_follows_from_it(site: Site) -> None:
    done = site.run("-n", settings=f"{PRUNED} maps.compress=deflate")
    assert ran(done) == ["all", "map", "mosaic", "report"], done.stdout


def test_no_secret_is_anywhere(site: Site) -> None:
    secret = site.s3.secret
    texts = ["\n".join(site.told), *site.seen]
    for folder in (site.project, site.jobs):
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_size < 1 << 24:
                texts.append(path.read_bytes().decode(errors="replace"))
    texts += [site.s3.body(site.bucket, k).decode(errors="replace") for k in site.s3.keys("apart")]
    assert len(texts) > 500 and any("--mode" in text for text in site.seen)
    assert not [text[:200] for text in texts if secret in text]


def refused(site: Site, **env: str) -> str:
    """The one line of a start that ends before anything is submitted."""
    jobs = len(list(site.jobs.iterdir()))
    done = site.run("all", "--forceall", **env)
    assert done.returncode == 2 and len(list(site.jobs.iterdir())) == jobs
    assert "Traceback" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("swath: ")]
    return line


def test_the_main_process_says_in_one_line_that_its_key_is_wrong(site: Site) -> None:
    line = refused(site, AWS_SECRET_ACCESS_KEY="x")
    assert "the store refuses the signature: the secret key is wrong; mend AWS_" in line


def test_a_key_that_would_stand_in_commands_is_refused(site: Site) -> None:
    line = refused(
        site,
        SNAKEMAKE_STORAGE_S3_ACCESS_KEY=site.s3.env["AWS_ACCESS_KEY_ID"],
        SNAKEMAKE_STORAGE_S3_SECRET_KEY=site.s3.secret,
    )
    assert "SNAKEMAKE_STORAGE_S3_SECRET_KEY: whoever may look at the jobs would read it" in line
