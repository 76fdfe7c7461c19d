"""What planning a thousand scenes, a study of 200 trials and five folds takes, and how much it is.

    .venv/bin/python benchmarks/bench_scale.py [--scenes 1000] [--rounds 5]

Nothing is cut or trained: a manifest and the list of shards of so many scenes, each of the size of
a Sentinel-2 tile and a shard of its own, are written as `fetch` and `scenes` would, and the real
workflow is asked by `snakemake -n` what it would do with them. Prints the wall time (median) and
the most memory of that process, jobs by rule, and how many files those would leave. The bars are
30 s and 2 GB.
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
FILES = {"10m": 4 * 2, "20m": 6 * 2 / 4, "classes": 1, "mask": 1}
"""The files of a scene, and their bytes by pixel of 10 m: four bands, and six at half the side."""


def lay_out(folder: Path, scenes: int) -> None:
    """Write what `fetch` and `scenes` leave behind."""
    shards: list[dict[str, Any]] = []
    for number in range(scenes):
        scene = f"scene{number:05d}"
        files = {
            f"{scene}/{scene}_{name}.tif": {
                "size": int(TILE_PX**2 * each), "sha256": f"{number:064x}",
            }
            for name, each in FILES.items()
        }  # fmt: skip
        part = {"name": scene, "rows": None}
        size = sum(file["size"] for file in files.values())
        shards.append({"name": f"{number:010x}", "bytes": size, "parts": [part], "files": files})
    every = {name: file for shard in shards for name, file in shard["files"].items()}
    manifest = {"dataset": "embedded", "proofs": {}, "version": "0" * 64, "files": every}
    write_json(folder / "data/embedded/manifest.json", manifest)
    listed = {"dataset": "embedded", "data_version": "0" * 64, "shards": shards, "set_aside": []}
    write_json(folder / "results/embedded/scenes.json", {**listed, "rounds": 1})


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


def jobs_in(text: str) -> Iterator[tuple[str, int]]:
    """Rules and numbers of the table that a dry run ends with."""
    table = text.rpartition("Job stats:")[2].partition("total")[0]
    for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE):
        yield rule, int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, given.scenes)
        rounds = [planned(folder, "-n", "--quiet", "rules") for _ in range(given.rounds)]
        jobs = dict(jobs_in(rounds[-1][3]))
        outputs = len(planned(folder, "--summary")[3].splitlines())
    took, cpu, most = (statistics.median(each[n] for each in rounds) for n in (0, 1, 2))
    total = sum(jobs.values())
    print(f"{given.scenes} scenes, 200 trials, {FOLDS} folds: planned in {took:.1f} s (bar: 30 s)")
    print(f"of a CPU {cpu:.1f} s; {most:,.0f} MB (bar: 2,048 MB); medians of {given.rounds}")
    for rule, count in sorted(jobs.items(), key=lambda item: -item[1])[:8]:
        print(f"{count:7,d} {rule}")
    print(
        f"{total:7,d} jobs, which declare {outputs:,d} files; each job leaves a log and its times"
    )
    size = given.scenes * TILE_PX**2 * sum(FILES.values())
    print(f"{size / 1e12:.2f} TB of scenes, uncompressed")


if __name__ == "__main__":
    main()
