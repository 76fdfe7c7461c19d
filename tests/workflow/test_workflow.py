"""The workflow as a person meets it: what reruns, what heals, what is refused in one line."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
PRUNED = (
    "sweep=none data.drawing.scenes=2 data.drawing.size_px=256 patches.size_px=32 "
    "trainer.epochs=2 trainer.precision=bf16 model.width=4"
)
BLOCKS = f"{PRUNED} split.blocks.size_m=640"
RUN = "results/embedded/runs/blocks-fold0-seed0"
Done = subprocess.CompletedProcess[str]


class Project:
    """A folder with its own workflow/ and conf/; the package is the installed one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def _command(self, words: tuple[str, ...], given: str) -> list[str]:
        return [str(BIN / "snakemake"), *words, "--config", f"set={given}"]

    def snakemake(
        self, *words: str, given: str = BLOCKS, env: dict[str, str] | None = None
    ) -> Done:
        """Run Snakemake as a person does, to its end."""
        return self.run(*self._command(words, given), env=env)

    def swath(self, *words: str) -> Done:
        """Run a verb to its end."""
        return self.run(str(BIN / "swath"), *words)

    def run(self, *words: str, env: dict[str, str] | None = None) -> Done:
        """Run a command in the folder."""
        return subprocess.run(
            words, cwd=self.folder, env=self._env(env), capture_output=True, text=True, timeout=300
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own, with its output joined."""
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=self._env(None),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def start_snakemake(self, *words: str, given: str) -> subprocess.Popen[str]:
        """Start Snakemake."""
        return self.start(*self._command(words, given))

    def _env(self, env: dict[str, str] | None) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SWATH_"))}
        return {**plain, "OMP_NUM_THREADS": "1", **(env or {})}

    def read(self, file: str) -> str:
        """The text of a file."""
        return (self.folder / file).read_text()


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read a started command's output up to the line that matches."""
    assert process.stdout
    told = ""
    limit = time.monotonic() + 120
    for line in process.stdout:
        told += line
        if re.search(pattern, line):
            return told
        assert time.monotonic() < limit, told
    raise AssertionError(f"ended without '{pattern}':\n{told}")


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a started command and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[..., None]) -> Project:
    """A project whose pruned experiment has been run to its report. Look, and change nothing."""
    folder = tmp_path_factory.mktemp("project")
    lay_out(folder)
    project = Project(folder)
    done = project.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished project, to be changed; ends what was started in it."""
    copied = Project(Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)))
    yield copied
    for process in copied.started:
        if process.poll() is None:
            kill(process)


MANIFEST = "results/embedded/patches/manifest.json"
SECTIONS = "results/embedded/config"


def planned(done: Done) -> dict[str, int]:
    """Rule -> number of jobs, from a dry run."""
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total", done.stdout, re.M | re.S)
    if not table:
        assert "Nothing to be done" in done.stdout + done.stderr
        return {}
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)", table[1], re.M)}


def one_line(done: Done, *words: str) -> str:
    """Refused: the one line that Snakefile says, no traceback."""
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("swath:")]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in told[0]
    return told[0]


def error_of(done: Done) -> str:
    """The one line with which a verb failed inside the workflow."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    told = {line for line in (done.stderr + done.stdout).splitlines() if " error: " in line}
    assert len({line.split(" error: ")[1] for line in told}) == 1, done.stderr
    return told.pop()


# ---- what reruns ------------------------------------------------------------------------------


def test_the_experiment_ends_with_its_report(finished: Project) -> None:
    page = finished.read("results/embedded/report.html")
    assert "</html>" in page
    assert sorted(p.name for p in finished.folder.iterdir() if not p.name.startswith(".")) == [
        "conf", "constraints.txt", "data", "environment.yml", "results", "state", "workflow",
    ]  # fmt: skip
    assert not [p for p in finished.folder.rglob("*") if ".part" in p.name]


def test_a_second_start_has_nothing_to_do(finished: Project) -> None:
    done = finished.snakemake()
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr


def test_a_new_learning_rate_retrains_and_cuts_nothing_again(project: Project) -> None:
    rules = planned(project.snakemake("-n", given=f"{BLOCKS} optim.lr=0.02"))
    assert {"train", "infer", "evaluate", "map", "mosaic", "track", "report"} <= set(rules)
    assert not {"fetch", "patches", "split", "baseline", "evaluate_baseline"} & set(rules)


def test_a_dry_run_leaves_nothing_to_do_behind_it(project: Project) -> None:
    project.snakemake("-n", given=f"{BLOCKS} optim.lr=0.02")
    assert planned(project.snakemake("-n")) == {}


def test_another_size_of_patches_fetches_nothing_again(project: Project) -> None:
    given = BLOCKS.replace("patches.size_px=32", "patches.size_px=16")
    rules = planned(project.snakemake("-n", given=given))
    assert {"patches", "split", "train", "report"} <= set(rules)
    assert "fetch" not in rules


def test_another_tracker_touches_no_training(project: Project) -> None:
    rules = planned(project.snakemake("-n", given=f"{BLOCKS} tracking=disabled"))
    assert {"track", "report"} <= set(rules) <= {"track", "report", "all"}


def test_a_comment_in_the_configuration_reruns_nothing(project: Project) -> None:
    for file in (project.folder / "conf").rglob("*.yaml"):
        file.write_text(file.read_text() + "\n# A remark.\n")
    assert planned(project.snakemake("-n")) == {}


def test_a_result_that_is_lost_is_made_again_and_nothing_else(project: Project) -> None:
    (project.folder / RUN / "scores.json").unlink()
    assert planned(project.snakemake("-n", f"{RUN}/scores.json")) == {"evaluate": 1}


def test_a_dry_run_imports_nothing_heavy(finished: Project) -> None:
    python = sys.executable
    done = finished.run(
        python, "-X", "importtime", "-m", "snakemake", "-n", "--config", f"set={BLOCKS}"
    )
    assert done.returncode == 0
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert "swath.plan" in imported
    heavy = {"torch", "pytorch_lightning", "xarray", "zarr", "sklearn", "matplotlib", "wandb"}
    assert not heavy & imported


# ---- kills and second starts ------------------------------------------------------------------


def test_a_killed_workflow_heals_by_a_plain_start(project: Project) -> None:
    given = BLOCKS.replace("trainer.epochs=2", "trainer.epochs=60")
    states = project.folder / "state/runs"
    before = set(states.glob("*/last.ckpt"))
    running = project.start_snakemake(given=given)
    wait_for(running, r"epoch 2 of 60")
    while set(states.glob("*/last.ckpt")) == before:  # less than a second is not saved
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGSTOP)  # so that it does not end meanwhile
    second = project.snakemake(given=given)
    one_line(second, "running here already", str(running.pid), "--directory")
    kill(running)
    assert not (project.folder / RUN / "run.json").is_file()

    done = project.snakemake(given=given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1 of 60" not in done.stderr + done.stdout, "it went on, and did not begin again"
    assert (project.folder / "results/embedded/report.html").is_file()
    assert json.loads(project.read(f"{RUN}/run.json"))["attempts"] == 2
    assert planned(project.snakemake("-n", given=given)) == {}


@pytest.fixture
def occupied(project: Project) -> Project:
    """A project in which a workflow is running, as far as a lock can tell."""
    with (project.folder / "state/workflow.lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield project


def test_a_second_start_is_refused_and_changes_nothing(occupied: Project) -> None:
    before = occupied.read(f"{SECTIONS}/optim.yaml")
    one_line(occupied.snakemake(given=f"{BLOCKS} optim.lr=0.02"), "running here already")
    assert occupied.read(f"{SECTIONS}/optim.yaml") == before


def test_a_dry_run_beside_a_running_workflow_leaves_it_its_configuration(occupied: Project) -> None:
    """Its jobs still to come read the section files: another learning rate must not reach them."""
    before = occupied.read(f"{SECTIONS}/optim.yaml")
    occupied.snakemake("-n", given=f"{BLOCKS} optim.lr=0.02")
    assert occupied.read(f"{SECTIONS}/optim.yaml") == before


def training(project: Project, name: str, epochs: int = 12) -> list[str]:
    """The words that train into a state and a folder of their own."""
    config = project.folder / SECTIONS
    section = config / "trainer.yaml"
    section.write_text(re.sub(r"epochs: \d+", f"epochs: {epochs}", section.read_text()))
    return [
        "train", "--config", str(config), "--patches", MANIFEST,
        "--split", "results/embedded/splits/blocks", "--fold", "0", "--seed", "0", "--code", "c",
        "--state", f"state/{name}", "--out", f"out/{name}",
    ]  # fmt: skip


def test_a_killed_training_goes_on_to_the_same_weights(project: Project) -> None:
    straight = project.swath(*training(project, "straight"))
    assert straight.returncode == 0, straight.stderr
    words = training(project, "killed")
    running = project.start(str(BIN / "swath"), *words)
    wait_for(running, r"epoch 1 of")
    kill(running)
    assert not (project.folder / "out/killed").exists()
    again = project.swath(*words)
    assert again.returncode == 0, again.stderr
    runs = [json.loads(project.read(f"out/{name}/run.json")) for name in ("straight", "killed")]
    assert [run["attempts"] for run in runs] == [1, 2]
    assert runs[0]["run_id"] == runs[1]["run_id"]
    assert runs[0]["best_epoch"] == runs[1]["best_epoch"]
    for file, key in (("best.ckpt", "weights"), ("last.ckpt", "state_dict")):
        one, other = (
            torch.load(project.folder / f"state/{name}" / run["run_id"] / file, weights_only=True)
            for name, run in zip(("straight", "killed"), runs, strict=True)
        )
        for name in one[key]:
            assert torch.equal(one[key][name], other[key][name]), (file, name)
    loaded = [torch.load(project.folder / f"out/{n}/best.ckpt") for n in ("straight", "killed")]
    assert loaded[0]["facts"] == loaded[1]["facts"]


# ---- refusals ---------------------------------------------------------------------------------


def test_an_unknown_experiment_is_one_line(finished: Project) -> None:
    done = finished.run(str(BIN / "snakemake"), "--config", "experiment=embeded")
    one_line(done, "'embeded'", "did you mean 'embedded'")


@pytest.mark.parametrize(
    "given, words",
    [
        ("optim.lrr=1", ('set="optim.lrr=1"', "unknown key", "'optim.lr'")),
        ("model=unett", ("'unett'", "'unet'")),
        ("optim.lr=fast", ("optim.lr", "'fast'")),
        ("optim", ("key=value",)),
    ],
)
def test_a_mistaken_override_is_one_line(
    finished: Project, given: str, words: tuple[str, ...]
) -> None:
    before = finished.read(f"{SECTIONS}/optim.yaml")
    one_line(finished.snakemake(given=f"{BLOCKS} {given}"), *words)
    assert finished.read(f"{SECTIONS}/optim.yaml") == before


def test_an_unknown_key_of_the_call_is_one_line(finished: Project) -> None:
    done = finished.run(str(BIN / "snakemake"), "--config", "experimnt=embedded")
    one_line(done, "experimnt", "experiment")


def test_a_split_that_leaks_stops_before_training_and_goes_on_stamped(project: Project) -> None:
    given = f"{PRUNED} split=random patches.stride_px=16"
    run = RUN.replace("blocks", "random")
    done = project.snakemake(f"{run}/run.json", given=given)
    line = error_of(done)
    assert re.search(r"patch \S+_\d+_\d+ and (test|val) patch \S+_\d+_\d+ share \d+ m²", line)
    assert "split.allow_leaks=true" in line
    assert not (project.folder / run).exists()
    assert not (project.folder / "results/embedded/splits/random/split.parquet").exists()

    # An earlier run of the state could not be mistaken for this one: it trains anew.
    allowed = f"{given} split.allow_leaks=true trainer.epochs=1"
    done = project.snakemake(f"{run}/run.json", given=allowed)
    assert done.returncode == 0, done.stderr
    audit = json.loads(project.read("results/embedded/splits/random/audit.json"))
    assert audit["stamped"] and not audit["passed"] and audit["overlapping_pairs"] > 0


def test_a_model_that_was_cut_off_is_refused(project: Project) -> None:
    model = project.folder / RUN / "best.ckpt"
    model.write_bytes(model.read_bytes()[:2000])
    line = error_of(project.snakemake(f"{RUN}/predictions.npz"))
    assert "best.ckpt" in line and "not a model" in line
    assert not (project.folder / RUN / "predictions.npz").exists()


def test_a_patch_set_that_was_tampered_with_is_refused(project: Project) -> None:
    (store,) = (project.folder / "results/embedded/patches").glob("*/set.zarr/image/c")
    chunk = next(p for p in sorted(store.rglob("*")) if p.is_file())
    with chunk.open("r+b") as file:
        file.seek(2000)
        file.write(b"\xff\xff\xff\xff")
    line = error_of(project.snakemake(f"{RUN}/run.json", given=f"{BLOCKS} optim.lr=0.02"))
    assert str(chunk.relative_to(project.folder)) in line and "changed" in line


# ---- the tracker ------------------------------------------------------------------------------

TOLD = f"{RUN}/tracking.json"


def test_offline_runs_are_spooled(finished: Project) -> None:
    assert json.loads(finished.read(TOLD)) == {"state": "logged", "mode": "offline"}
    identity = json.loads(finished.read(f"{RUN}/run.json"))["run_id"]
    assert list((finished.folder / "state/wandb").rglob(f"run-{identity}.wandb"))


def test_a_tracker_that_is_off_is_left_alone(project: Project) -> None:
    done = project.snakemake(TOLD, given=f"{BLOCKS} tracking=disabled")
    assert done.returncode == 0, done.stderr
    assert json.loads(project.read(TOLD))["state"] == "disabled"


def test_a_spool_that_cannot_be_written_stops_nothing(project: Project) -> None:
    wandb = project.folder / "state/wandb"
    wandb.rename(wandb.with_name("elsewhere"))
    wandb.write_text("in the way")
    given = f"{BLOCKS} tracking.project=another"
    done = project.snakemake(given=given, env={"WANDB_DIR": "/proc/nowhere"})
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(project.read(TOLD))
    assert told["state"] == "failed" and told["reason"]
    assert (project.folder / "results/embedded/report.html").is_file()


def test_a_server_that_does_not_answer_stops_nothing(project: Project) -> None:
    env = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    done = project.snakemake(TOLD, given=f"{BLOCKS} tracking=online", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(project.read(TOLD))
    assert told["state"] == "failed" and told["reason"]


def test_without_a_key_the_tracker_goes_offline(project: Project) -> None:
    env = {"HOME": str(project.folder), "NETRC": str(project.folder / "absent")}
    done = project.snakemake(TOLD, given=f"{BLOCKS} tracking=online", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(project.read(TOLD)) == {"state": "logged", "mode": "offline"}
