from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swath.devices import gpus_here, take
from swath.errors import RunError

TAKES = """
import sys, pathlib
from swath.devices import take
print(*take(int(sys.argv[1]), locks=pathlib.Path(sys.argv[2]), wait_s=0.05), flush=True)
sys.stdin.read()
"""


class Job:
    """A process that takes GPUs and holds them until it is ended."""

    def __init__(self, count: int, locks: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKES, str(count), str(locks)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def took(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().split()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which this user may use three GPUs, and no Slurm."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 2,5")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_the_environment_names_them() -> None:
    assert gpus_here() == ["0", "2", "5"]
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_jobs_beside_each_other_take_different_ones(tmp_path: Path) -> None:
    jobs = [Job(1, tmp_path) for _ in range(3)]
    try:
        assert sorted(name for job in jobs for name in job.took()) == ["0", "2", "5"]
    finally:
        for job in jobs:
            job.kill()


def test_who_finds_none_free_waits_for_one_that_a_killed_job_held(tmp_path: Path) -> None:
    both, one = Job(2, tmp_path), Job(1, tmp_path)
    waits = None
    try:
        held, other = both.took(), one.took()
        assert len({*held, *other}) == 3
        waits = Job(2, tmp_path)
        with pytest.raises(subprocess.TimeoutExpired):
            waits.process.wait(0.5)
        one.kill()  # one is free now: not enough
        with pytest.raises(subprocess.TimeoutExpired):
            waits.process.wait(0.5)
        both.kill()
        assert len(waits.took()) == 2
    finally:
        for job in (both, one, waits):
            if job:
                job.kill()


def test_more_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--gpus: 4 GPUs are asked for, this machine has 3; ask"):
        take(4, locks=tmp_path)


def test_what_slurm_has_dealt_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert take(1, locks=tmp_path) == [] and not list(tmp_path.iterdir())
