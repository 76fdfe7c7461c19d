"""What a job costs beside its work, on this machine and on Slurm, with the profiles' settings.

    make slurm-up
    .venv/bin/python benchmarks/bench_executors.py [--jobs 5] [--seconds 60]

A chain of jobs that do nothing, on this machine: how long from one to the next; each of swath's
jobs imports what it needs besides. The same chain through `--profile workflow/profiles/slurm`: how
long each waits for Slurm, how long Snakemake takes in it to start (twice), and until the main
process hears of its end, which asks ever more rarely. Then a job that sleeps, and what the main
process uses of a core meanwhile; the bar is 5 %. A cluster that others use adds its queue.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import psutil

PROFILES = Path(__file__).parent.parent / "workflow/profiles"
SLURM = ("--profile", str(PROFILES / "slurm"), "--latency-wait", "10")
WORKFLOW = """
rule all:
    input: "job{jobs}"
rule first:
    output: "job0"
    localrule: True
    shell: "date +%s.%N > {{output}}"
rule job:
    input: lambda w: f"job{{int(w.number) - 1}}"
    output: "job{{number}}"
    wildcard_constraints: number="[1-9][0-9]*"
    resources: mem_mb=1000, runtime=10
    shell: "sleep {seconds}; date +%s.%N > {{output}}"
"""


def started(folder: Path, jobs: int, seconds: int, *executor: str) -> subprocess.Popen[bytes]:
    """The main process of a chain of jobs; `executor` are the options that choose one."""
    folder.mkdir()
    (folder / "Snakefile").write_text(WORKFLOW.format(jobs=jobs, seconds=seconds))
    site = {"SWATH_SLURM_ACCOUNT": "", "SWATH_SLURM_PARTITION": "", "SWATH_GPU": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *executor],
        cwd=folder, env={**site, **os.environ}, stdout=subprocess.DEVNULL,
        stderr=(folder / "said").open("w"),
    )  # fmt: skip


def here(folder: Path, jobs: int) -> list[float]:
    """For each job on this machine: seconds since the one before it was done."""
    options = ("--profile", str(PROFILES / "default"), "--cores", "1")
    assert started(folder, jobs, 0, *options).wait() == 0, (folder / "said").read_text()
    done = [float((folder / f"job{number}").read_text()) for number in range(jobs + 1)]
    return [after - before for before, after in pairwise(done)]


def seconds(text: str) -> float:
    """A time as sacct writes it."""
    return datetime.fromisoformat(text).timestamp()


def chain(folder: Path, jobs: int) -> list[tuple[float, float, float]]:
    """For each job: seconds in the queue, in the job, and until Snakemake has heard of its end."""
    assert started(folder, jobs, 0, *SLURM).wait() == 0, (folder / "said").read_text()
    said = (folder / "said").read_text()
    heard = {
        number: datetime.strptime(when, "%a %b %d %H:%M:%S %Y").timestamp()
        for when, number in re.findall(r"\[([^]]+)\]\nFinished jobid: (\d+)", said)
    }
    found = []
    for own, job in re.findall(r"Job (\d+) has been submitted with SLURM jobid (\d+)", said):
        command = ["sacct", "-nPXj", job, "-o", "submit,start,end"]
        row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        submit, start, end = map(seconds, row.split("|"))
        found.append((start - submit, end - start, heard[own] - end))
    return found


def share(folder: Path, slept_s: int) -> float:
    """Of a core, by the main process and what it asks Slurm with, while a job sleeps."""
    main = started(folder, 1, slept_s, *SLURM)
    while "has been submitted" not in (folder / "said").read_text():
        time.sleep(0.2)
    process = psutil.Process(main.pid)
    used, began = sum(process.cpu_times()[:4]), time.monotonic()
    time.sleep(slept_s)
    spent = (sum(process.cpu_times()[:4]) - used) / (time.monotonic() - began)
    assert main.wait() == 0, (folder / "said").read_text()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        between = here(Path(folder) / "here", asked.jobs)
    print(
        f"on this machine a job costs {statistics.median(between):.2f} s beside its work "
        f"(median of {len(between)})"
    )
    if subprocess.run(["sh", "-c", "sinfo -h"], capture_output=True).returncode:
        print("Slurm left out: there is none here (make slurm-up)")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = chain(Path(folder) / "chain", asked.jobs)
        queue, job, heard = (statistics.median(column) for column in zip(*found, strict=True))
        spent = share(Path(folder) / "sleeping", asked.seconds)
    print(
        f"on Slurm a job costs {queue + job + heard:.0f} s beside its work: "
        f"{queue:.0f} s until it starts, {job:.0f} s in it for two starts of Snakemake, "
        f"{heard:.0f} s until its end is heard of (medians of {len(found)})"
    )
    print(f"the main process uses {100 * spent:.2f} % of a core while a job runs (bar: 5 %)")


if __name__ == "__main__":
    main()
