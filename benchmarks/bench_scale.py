"""What planning a thousand scenes, a study of 200 trials and five folds takes, and how much it is.

    .venv/bin/python benchmarks/bench_scale.py [--scenes 1000] [--together 1] [--floats]

Nothing is cut or trained: a manifest and the list of shards of so many scenes, each of the size of
a Sentinel-2 tile, are written as `fetch` and `scenes` would, and the real workflow is asked by
`snakemake -n` what it would do with them. Prints the time on the clock and of the CPU, and the most
memory of that process (medians), jobs by rule, how many files those would leave, and the longest
command line. The bars are 30 s and 2 GB.

Then the workflow is started, 16 jobs at a time, with a `swath` that sleeps, and the time of the CPU
is read that the main process takes meanwhile: at most 5 % of a core.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swath.files import write_json

ROOT = Path(__file__).parent.parent
FOLDS = 5
GIVEN = (
    f"split.blocks.folds={FOLDS} runs.folds=[{','.join(map(str, range(FOLDS)))}] sweep=none "
    "'sweep.space={optim.lr: {float: [0.001, 0.01], log: true}}' sweep.trials=200 sweep.rungs=4 "
    f"sweep.final.best=3 sweep.final.folds=[{','.join(map(str, range(FOLDS)))}]"
)
TILE_PX = 10980
"""Side of a Sentinel-2 tile in pixels of 10 m."""
AT_ONCE = 16
SETTLED_S = 20.0
"""After the last of the jobs has begun: for its first 15 s Snakemake looks at a job twice a second,
to tell its memory, and from then on each half minute."""
FILES = {"10m": 4 * 2, "20m": 6 * 2 / 4, "classes": 1, "mask": 1}
"""The files of a scene, and their bytes by pixel of 10 m: four bands, and six at half the side."""


def lay_out(folder: Path, scenes: int, together: int, floats: bool) -> None:
    """Write what `fetch` and `scenes` leave behind: some scenes a shard."""
    every: dict[str, dict[str, Any]] = {}
    shards: list[dict[str, Any]] = []
    for first in range(0, scenes, together):
        names = [f"scene{number:05d}" for number in range(first, min(first + together, scenes))]
        files = {
            f"{name}/{name}_{part}.tif": {"size": int(TILE_PX**2 * each), "sha256": f"{first:064x}"}
            for name in names
            for part, each in FILES.items()
        }
        parts = [{"name": name, "rows": None} for name in names]
        size = sum(file["size"] for file in files.values())
        shards.append({"name": f"{first:010x}", "bytes": size, "parts": parts, "files": files})
        every |= files
    manifest = {"dataset": "embedded", "proofs": {}, "version": "0" * 64, "files": every}
    write_json(folder / "data/embedded/manifest.json", manifest)
    listed = {"dataset": "embedded", "data_version": "0" * 64, "shards": shards, "set_aside": []}
    write_json(folder / "results/embedded/scenes.json", {**listed, "rounds": 1 + floats})


def planned(folder: Path, *words: str) -> tuple[float, float, float, str]:
    """Seconds, those of the CPU, megabytes and output of a call of Snakemake that runs nothing."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]
    with tempfile.TemporaryFile("w+") as told:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [*command, *words, "--config", f"set={GIVEN}"], cwd=folder, stdout=told, stderr=told
        )
        _, status, used = os.wait4(process.pid, 0)
        spent = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        text = told.read()
    if process.returncode:
        sys.exit(text)
    return spent, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text


def commands_in(folder: Path) -> list[str]:
    """The command line of every job."""
    told = planned(folder, "-n", "--printshellcmds")[3]
    return re.findall(r"^Shell command: (.*)$", told, re.MULTILINE)


def jobs_in(text: str) -> Iterator[tuple[str, int]]:
    """Rules and numbers of the table that a dry run ends with."""
    table = text.rpartition("Job stats:")[2].partition("\ntotal ")[0]
    for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE):
        yield rule, int(count)


def waiting(folder: Path, seconds: float) -> tuple[int, float]:
    """Jobs that run, and the share of a core that the main process takes while they do.

    The workflow finds `swath` beside the Python that runs it: here one that sleeps.
    """
    programs = folder / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    (programs / "swath").write_text(f"#!/bin/sh\ntouch {programs}/running.$$\nexec sleep 3600\n")
    (programs / "swath").chmod(0o755)
    process = subprocess.Popen(
        [programs / "python", "-m", "snakemake", "--snakefile", ROOT / "workflow/Snakefile",
         "--cores", str(AT_ONCE), "--quiet", "all", "--config", f"set={GIVEN}"],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while len(list(programs.glob("running.*"))) < AT_ONCE:
            if process.poll() is not None:
                sys.exit(f"the workflow ended with {process.returncode} before its jobs ran")
            time.sleep(1)
        time.sleep(SETTLED_S)
        began, spent = time.perf_counter(), cpu_s(process.pid)
        time.sleep(seconds)
        share = (cpu_s(process.pid) - spent) / (time.perf_counter() - began)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return AT_ONCE, share


def cpu_s(process: int) -> float:
    """Seconds of the CPU that a process, without its children, has taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--together", type=int, default=1, help="scenes of a shard")
    parser.add_argument("--floats", action="store_true", help="pixels that need a second round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--wait", type=float, default=60.0, help="seconds of the waiting; 0: none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, given.scenes, given.together, given.floats)
        rounds = [planned(folder, "-n", "--quiet", "rules") for _ in range(given.rounds)]
        jobs = dict(jobs_in(rounds[-1][3]))
        outputs = len(planned(folder, "--summary")[3].splitlines())
        longest = max(map(len, commands_in(folder)))
        waits = waiting(folder, given.wait) if given.wait else None
    took, cpu, most = (statistics.median(each[n] for each in rounds) for n in (0, 1, 2))
    total = sum(jobs.values())
    print(f"{given.scenes} scenes, 200 trials, {FOLDS} folds: planned in {took:.1f} s (bar: 30 s)")
    print(f"of a CPU {cpu:.1f} s; {most:,.0f} MB (bar: 2,048 MB); medians of {given.rounds}")
    for rule, count in sorted(jobs.items(), key=lambda item: -item[1])[:8]:
        print(f"{count:7,d} {rule}")
    print(
        f"{total:7,d} jobs, which declare {outputs:,d} files; each job leaves a log and its times"
    )
    print(f"the longest command has {longest:,d} bytes (Linux takes 131,072)")
    size = given.scenes * TILE_PX**2 * sum(FILES.values())
    print(f"{size / 1e12:.2f} TB of scenes, uncompressed")
    if waits:
        print(
            f"while {waits[0]} jobs run the main process takes {waits[1]:.2%} of a core (bar: 5 %)"
        )


if __name__ == "__main__":
    main()
