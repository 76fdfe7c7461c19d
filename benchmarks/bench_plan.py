"""How long `snakemake -n` takes to plan the default experiment, beside an empty workflow.

    .venv/bin/python benchmarks/bench_plan.py [--runs 5]

Both are started in turn, in one run, after one start of each that does not count. The difference of
the medians is what swath adds: composing and checking the configuration, fingerprinting the code,
building the graph of jobs. The bar is 2 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def seconds(*arguments: str, cwd: Path) -> float:
    """Wall time of one dry run."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", *arguments]
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty"
        empty.mkdir()
        (empty / "Snakefile").write_text("rule all:\n    output: 'done'\n    shell: 'touch done'\n")
        swath = Path(folder) / "swath"
        swath.mkdir()
        here = ["--snakefile", str(ROOT / "workflow/Snakefile")]
        times: dict[str, list[float]] = {"empty": [], "swath": []}
        for _ in range(runs + 1):
            times["empty"].append(seconds("--cores", "1", cwd=empty))
            times["swath"].append(seconds(*here, cwd=swath))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(
        f"empty workflow {medians['empty']:.2f} s, the default experiment {medians['swath']:.2f} s"
    )
    print(f"swath adds {medians['swath'] - medians['empty']:.2f} s (medians of {runs}; bar: 2 s)")


if __name__ == "__main__":
    main()
