"""The workflow on a real Slurm: `make slurm-up`, then `make test-slurm`.

Each test has a project folder of its own, so they run beside each other. A training is held (by
SIGSTOP) where a test needs it to be running still: so no test depends on how fast the machine is.
The two that take longest stand first and third: each is the first of a worker's two.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

SHARED = Path("/var/lib/swath-slurm/shared")
"""What the node of the partition bare does not see."""
pytestmark = [pytest.mark.slow, pytest.mark.slurm]

BIN = Path(sys.executable).parent
LIMIT_S = 1200.0
DATA = (
    "data.drawing.scenes=1 data.drawing.size_px=256 patches.size_px=32 split=random "
    "split.allow_leaks=true model.width=4 trainer.precision=fp32 trainer.compile=false "
    "trainer.batch_size=8"
)
# A checkpoint after nearly each step: a training that is not held ends in seconds.
LONG = f"{DATA} trainer.epochs=40 trainer.checkpoint_minutes=0.001 sweep=none"
RUN = "results/embedded/runs/random-fold0-seed0"
SITE = {"SWATH_SLURM_ACCOUNT": "tests", "SWATH_SLURM_PARTITION": "work", "SWATH_GPU": "0"}
# Status checks as often as the jobs here are short.
SHORTLY = (
    "--slurm-init-seconds-before-status-checks=4 --seconds-between-status-checks=4 "
    "--latency-wait=15 --set-threads train=1"
)  # fmt: skip
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("SWATH_", "WANDB_", "SLURM_"))
}
Found = TypeVar("Found")


@pytest.fixture(scope="session", autouse=True)
def cluster() -> None:
    """Without one these tests are skipped, and say why."""
    try:
        said = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        pytest.skip("there is no Slurm on this machine: make slurm-up")
    if "bare" not in said.stdout:
        pytest.skip("the Slurm of this machine is not that of tests/servers/slurm.py")


def until(found: Callable[[], Found], what: str, every_s: float = 0.05) -> Found:
    """Wait until something is there, and give it."""
    end = time.monotonic() + LIMIT_S
    while not (there := found()):
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(every_s)
    return there


@dataclass
class Project:
    """A folder with the workflow, in which Snakemake is started on Slurm."""

    folder: Path
    site: dict[str, str] = field(default_factory=lambda: dict(SITE))

    def start(
        self, target: str = f"{RUN}/run.json", given: str = LONG, *options: str,
        python: Path = BIN / "python",
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start Snakemake as a user does, with what it says in the file `said`."""
        return subprocess.Popen(
            [
                python, "-m", "snakemake", *target.split(), "--profile", "workflow/profiles/slurm",
                *SHORTLY.split(), *options, "--config", f"set={given}",
            ],
            cwd=self.folder, text=True, start_new_session=True,
            stdout=(self.folder / "said").open("w"), stderr=subprocess.STDOUT,
            env={**PLAIN, **self.site, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    @property
    def log(self) -> str:
        """What the training has logged, over all attempts."""
        return (self.folder / "results/embedded/log/train-random-fold0-seed0.log").read_text()

    @property
    def said(self) -> str:
        """What the last Snakemake has said so far."""
        return (self.folder / "said").read_text()

    def ended(self, main: subprocess.Popen[str], code: int = 0) -> str:
        """What Snakemake has said in all, once it has ended as it should."""
        try:
            assert main.wait(LIMIT_S) == code, self.said[-6000:]
        finally:
            self.stop(main)
        return self.said

    def stop(self, main: subprocess.Popen[str]) -> None:
        """End a Snakemake that a test has left running."""
        if main.poll() is None:
            os.killpg(main.pid, signal.SIGKILL)
            main.wait()

    def jobs(self, rule: str = ".*") -> list[dict[str, str]]:
        """What accounting says of this folder's jobs, in their order; a requeued one twice."""
        names = ("JobID", "State", "ReqTRES", "AllocTRES", "Comment", "WorkDir")
        rows = accounted("-XD", "-S", "now-3hours", names=names)
        rows = [row for row in rows if row["WorkDir"] == str(self.folder)]
        # Of a job that Slurm has queued again the comment stands in its first row alone.
        comments: dict[str, str] = {}
        for row in rows:
            row["Comment"] = comments.setdefault(row["JobID"], row["Comment"])
        return [row for row in rows if re.match(rf"rule_{rule}(_wildcards_|$)", row["Comment"])]

    def states(self, rule: str = "train") -> list[str]:
        """How the jobs of a rule have ended; whoever has cancelled one is left out."""
        return [row["State"].split()[0] for row in self.jobs(rule)]

    def trains(self, from_checkpoint: bool = False) -> int:
        """The process that trains, or 0; one that has a checkpoint, where that is wanted."""
        for lock in self.folder.glob("state/runs/*/lock"):
            whose = re.match(r"process (\d+) on ", lock.read_text())
            if whose and (not from_checkpoint or (lock.parent / "last.ckpt").exists()):
                return int(whose[1])
        return 0

    def held(self) -> int:
        """The process that trains, stopped where it has a checkpoint, like one that hangs."""
        pid = until(lambda: self.trains(from_checkpoint=True), "a training with a checkpoint")
        os.kill(pid, signal.SIGSTOP)
        return pid

    def run(self) -> dict[str, object]:
        """What the run says of itself."""
        found: dict[str, object] = json.loads((self.folder / RUN / "run.json").read_text())
        return found


def went_on(log: str) -> list[tuple[int, int]]:
    """Where attempts went on: the epoch, from 1, and its steps that were done."""
    found = re.findall(r"goes on in epoch (\d+), after (\d+) of", log)
    return [(int(epoch), int(steps)) for epoch, steps in found]


def accounted(*which: str, names: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of accounting."""
    said = subprocess.run(
        ["sacct", "-Pn", *which, "-o", ",".join(names)], capture_output=True, text=True, check=True
    ).stdout
    return [dict(zip(names, line.split("|"), strict=True)) for line in said.splitlines()]


def asked(row: dict[str, str]) -> dict[str, str]:
    """What a job has asked for: cpu, mem, node, gres/gpu."""
    return dict(each.split("=", 1) for each in row["ReqTRES"].split(","))


@pytest.fixture
def empty(tmp_path: Path, lay_out: Callable[..., None]) -> Iterator[Project]:
    """A project in which nothing has run."""
    lay_out(tmp_path)
    yield from using(tmp_path)


@pytest.fixture
def project(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, lay_out: Callable[..., None]
) -> Iterator[Project]:
    """A project whose data are cut and split: once, here, for all workers of the tests."""
    base = tmp_path_factory.getbasetemp().parent / "slurm-prepared"
    with base.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not (base / "done").exists():
            shutil.rmtree(base, ignore_errors=True)
            base.mkdir()
            lay_out(base)
            subprocess.run(
                [BIN / "snakemake", "--cores", "2", "splits", "--config", f"set={LONG}"],
                cwd=base, env={**PLAIN, "OMP_NUM_THREADS": "1"}, check=True, timeout=LIMIT_S,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            (base / "done").touch()
    folder = tmp_path / "project"
    shutil.copytree(base, folder, symlinks=True)
    yield from using(folder)


def using(folder: Path) -> Iterator[Project]:
    """A project, whose jobs a test that failed does not leave behind."""
    made = Project(folder)
    yield made
    rows = accounted("-XS", "now-3hours", names=("JobID", "State", "WorkDir"))
    left = [row for row in rows if row["State"] in ("PENDING", "RUNNING")]
    for row in left:
        if row["WorkDir"] == str(folder):
            subprocess.run(["scancel", row["JobID"]], check=False)


# ---- what comes to its end ------------------------------------------------------------------


def test_the_experiment_and_a_sweep_by_job_arrays(empty: Project) -> None:
    """From nothing to the report; accounting says what each job asked for and was given."""
    empty.site["SWATH_GPU"] = "1"
    sweep = "sweep.trials=4 sweep.rungs=2 sweep.epochs=2 sweep.trials_per_job=2"
    given = f"{DATA} trainer.epochs=3 {sweep} sweep.final={{best:0}}"
    empty.ended(empty.start("all", given))
    assert (empty.folder / "results/embedded/report.html").stat().st_size > 100_000
    assert set(empty.states(".*")) == {"COMPLETED"}
    (train,) = empty.jobs("train")
    assert asked(train) == {
        "billing": "1", "cpu": "1", "gres/gpu": "1", "mem": "8000M", "node": "1",
    }  # fmt: skip
    assert "gres/gpu=1" in train["AllocTRES"]
    (patches,) = empty.jobs("patches")
    assert asked(patches) == {"billing": "1", "cpu": "1", "mem": "2000M", "node": "1"}
    first = [row["JobID"] for row in empty.jobs("trials") if "_" in row["JobID"]]
    number = first[0].partition("_")[0]
    assert first == [f"{number}_1", f"{number}_2"], "the two jobs of the first rung are one array"
    study = json.loads((empty.folder / "results/embedded/study/trials.json").read_text())
    assert len(study["trials"]) == 4
    done = empty.ended(empty.start("all", given))
    assert "Nothing to be done" in done


def test_nothing_listens_beyond_the_loopback(project: Project) -> None:
    """Neither the daemons nor what they start."""
    main = project.start()
    training = project.held()
    said = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    named = [
        line.split() for line in said.splitlines() if re.search('"(slurm|srun|mariadb|munge)', line)
    ]
    assert {"slurmctld", "slurmdbd", "slurmd", "srun"} <= {
        re.search('"([a-z]+)', line[5])[1] for line in named
    }
    assert all(line[3].startswith(("127.0.0.1:", "[::1]:")) for line in named), named
    os.kill(training, signal.SIGCONT)
    project.ended(main)


def test_a_training_over_its_time_limit_goes_on(project: Project) -> None:
    """First it stops by itself before its time is over, then Slurm has to end it."""
    rules = project.folder / "workflow/rules/learn.smk"
    text = rules.read_text()
    told = "--minutes {resources.runtime}"
    limit = '        limit=lambda w, attempt: "0.75" if attempt == 1 else "60",\n'
    rules.write_text(
        text.replace(told, "--minutes {resources.limit}", 1).replace(
            '        processes="auto",\n', f'        processes="auto",\n{limit}', 1
        )
    )
    runtime = "train:runtime=1 if attempt == 2 else 60"
    main = project.start(f"{RUN}/run.json", LONG, "--set-resources", runtime)
    stopped = project.held()
    over = psutil.Process(stopped).create_time() + 46
    time.sleep(max(0.0, over - time.time()))
    os.kill(stopped, signal.SIGCONT)
    held = {stopped}

    def ended_by_slurm() -> bool:
        """Meanwhile the second is held, too, as soon as it trains."""
        if (pid := project.trains()) and pid not in held:
            held.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return "TIMEOUT" in project.states()

    used, seconds = cpu_of(main.pid), time.monotonic()
    until(ended_by_slurm, "the end of its time", every_s=3.0)
    share = (cpu_of(main.pid) - used) / (time.monotonic() - seconds)
    said = project.ended(main)
    assert project.states() == ["FAILED", "TIMEOUT", "COMPLETED"]
    assert said.count("Trying to restart job") == 2
    run = project.run()
    assert run["attempts"] == len(held) + 1 and run["epochs"] == 40
    print(f"snakemake: {100 * share:.1f} % of a core while a job runs")
    assert share < 0.05


def cpu_of(pid: int) -> float:
    """Seconds of a core that a process and those that it has waited for have used."""
    return sum(psutil.Process(pid).cpu_times()[:4])


def test_two_nodes_train_one_run(project: Project) -> None:
    """A process on each of two nodes, as srun starts them."""
    # The names of these nodes are no addresses, and they are to meet on the loopback.
    project.site |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    project.ended(
        project.start(
            f"{RUN}/run.json", LONG.replace("epochs=40", "epochs=3"),
            "--set-resources", "train:nodes=2",
        )
    )  # fmt: skip
    (train,) = project.jobs("train")
    assert asked(train)["node"] == "2" and asked(train)["cpu"] == "2"
    steps = accounted("-j", train["JobID"], names=("JobID", "NTasks", "NNodes"))
    assert {"JobID": f"{train['JobID']}.0", "NTasks": "2", "NNodes": "2"} in steps
    run = project.run()
    assert run["processes"] == 2 and run["attempts"] == 1 and run["epochs"] == 3


# ---- what Slurm ends, and Snakemake starts again --------------------------------------------


def test_a_preempted_training_goes_on_from_its_checkpoint(project: Project) -> None:
    project.site["SWATH_SLURM_PARTITION"] = "bare"
    main = project.start()
    project.held()
    urgent = ["sbatch", "--parsable", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap"]
    subprocess.run([*urgent, "sleep 1"], check=True, capture_output=True)
    project.ended(main)
    jobs = project.jobs("train")
    assert project.states() == ["PREEMPTED", "COMPLETED"]
    assert jobs[0]["JobID"] == jobs[1]["JobID"], "Slurm queues it again"
    run = project.run()
    assert run["attempts"] == 2 and run["epochs"] == 40
    assert len(went_on(project.log)) == 1 and min(went_on(project.log)) > (1, 0)


def test_a_job_over_its_memory_is_given_more(project: Project) -> None:
    rules = project.folder / "workflow/rules/learn.smk"
    text = rules.read_text()
    assert "asks(8000, 1380" in text
    rules.write_text(text.replace("asks(8000, 1380", "asks(640, 1380", 1))
    project.ended(project.start())
    states, jobs = project.states(), project.jobs("train")
    assert set(states[:-1]) == {"FAILED"} and states[-1] == "COMPLETED", states
    killed = accounted("-j", jobs[0]["JobID"], names=("JobID", "State", "ExitCode"))
    assert {
        "JobID": f"{jobs[0]['JobID']}.0",
        "State": "CANCELLED by 0",
        "ExitCode": "0:9",
    } in killed
    assert [asked(row)["mem"] for row in jobs] == ["640M", "960M", "1280M", "1600M"][: len(jobs)]
    assert project.run()["epochs"] == 40


def test_a_snakemake_that_was_killed_finds_its_jobs(project: Project) -> None:
    """What they do counts: the second start waits for them, and does only what is left."""
    main = project.start(f"{RUN}/scores.json")
    training = project.held()
    project.stop(main)
    (number,) = re.findall(r"has been submitted with SLURM jobid (\d+)", project.said)
    again = project.start(f"{RUN}/scores.json")
    said = f"waiting for jobs of an earlier start, which Slurm still has: {number}"
    until(lambda: said in project.said, "word of the jobs that it waits for")
    os.kill(training, signal.SIGCONT)
    project.ended(again)
    assert project.states() == ["COMPLETED"], "trained once"
    assert project.states("infer") == project.states("evaluate") == ["COMPLETED"]
    assert project.run()["attempts"] == 1


# ---- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "options", "line"),
    [
        (
            {"SWATH_SLURM_ACCOUNT": None},
            (),
            "SWATH_SLURM_ACCOUNT is not set: the account that pays",
        ),
        ({"SWATH_SLURM_ACCOUNT": "test"}, (), "you have no account 'test'; did you mean 'tests'?"),
        ({"SWATH_SLURM_PARTITION": "wrk"}, (), "there is no partition 'wrk'; did you mean 'work'?"),
        (
            {"SWATH_GPU_MODEL": "a100", "SWATH_GPU": "1"},
            (),
            "a job asks for 1 nodes with 1 GPUs of model 'a100', partition work has 0; its nodes "
            "have gpu:1",
        ),
        (
            {},
            ("--set-resources", "train:gpu=3"),
            "--set-resources train: a job asks for 1 nodes with 3 GPUs, partition work has 0",
        ),
        (
            {},
            ("--set-resources", "train:runtime=2000"),
            "a job asks for 2000 minutes, partition work allows 1440; set a shorter runtime",
        ),
    ],
)
def test_what_slurm_can_never_do_is_refused_at_once(
    project: Project, site: dict[str, str | None], options: tuple[str, ...], line: str
) -> None:
    values = {**project.site, **site}
    project.site = {name: value for name, value in values.items() if value is not None}
    said = project.ended(project.start(f"{RUN}/run.json", LONG, *options), code=2)
    (told,) = [each for each in said.splitlines() if each.startswith("swath: ")]
    assert line in told and "Traceback" not in said
    assert not project.jobs()


def test_others_go_on_beside_a_node_without_the_environment(project: Project) -> None:
    """A second start, where the node has it, does only what is left."""
    environment = SHARED / f"environment-{os.getpid()}"
    environment.symlink_to(sys.prefix)
    targets = f"{RUN}/run.json results/embedded/baselines/random-fold0/scores.json"
    try:
        main = project.start(
            targets, LONG, "--set-resources", "train:slurm_partition=bare", "--retries", "0",
            python=environment / "bin/python",
        )  # fmt: skip
        said = project.ended(main, code=1)
    finally:
        environment.unlink()
    (number, *_) = [row["JobID"] for row in project.jobs("train")]
    assert f"swath: job {number}: node n3 does not see {environment}/bin/python; have" in said
    assert set(project.states()) == {"FAILED"}
    assert project.states("baseline") == project.states("evaluate_baseline") == ["COMPLETED"]
    again = project.ended(project.start(targets))
    assert project.states()[-1] == "COMPLETED"
    assert len(project.jobs("baseline")) == 1 and "rule baseline" not in again
