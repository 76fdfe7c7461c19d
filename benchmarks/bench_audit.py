"""Dealing and auditing a split of 500,000 patches: seconds and peak memory.

    .venv/bin/python benchmarks/bench_audit.py [--patches 500000] [--runs 5]

Patches of 64 px at 10 m lie side by side, or overlap each other by three quarters of their side
(stride 16 px), so that each shares ground with up to 48 others. Each case runs in a process of its
own, whose peak memory is its own; the cases take turns in each round, and the table gives medians.
The bar is 60 s and 4 GB for the audit on two cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from rasterio.warp import transform

from swath import registry
from swath.split.audit import audit
from swath.split.ground import Ground

SIDE_M = 640.0
CASES: dict[str, tuple[str, dict[str, Any], str, float]] = {
    # name -> scheme, its settings, where, stride in patches
    "random": ("random", {}, "one zone", 1.0),
    "blocks of 5 km": ("blocks", {"size_m": 5000.0}, "one zone", 1.0),
    "longitude": ("longitude", {}, "one zone", 1.0),
    "random, stride 1/4": ("random", {}, "one zone", 0.25),
    "blocks of 5 km, stride 1/4": ("blocks", {"size_m": 5000.0}, "one zone", 0.25),
    "blocks of 5 km, stride 1/4, degrees": ("blocks", {"size_m": 5000.0}, "degrees", 0.25),
    "random, stride 1/4, two zones": ("random", {}, "two zones", 0.25),
    "blocks of 5 km, stride 1/4, two zones": ("blocks", {"size_m": 5e3}, "two zones", 0.25),
}


def lay(patches: int, where: str, stride: float) -> Ground:
    """A square of ground at 6° east and 48° north, full of patches."""
    count = round(patches**0.5)
    step = np.arange(count) * stride * SIDE_M
    x, y = (axis.ravel() for axis in np.meshgrid(step, step))
    epsg = np.full(len(x), 32632)
    side = SIDE_M
    corner = 277_000.0, 5_320_000.0
    if where == "degrees":
        side, x, y = side / 111_320, x / 111_320, y / 111_320
        epsg[:], corner = 4326, (6.0, 48.0)
    if where == "two zones":  # the same ground in both, row by row
        epsg[::2] = 32631
        x = np.where(epsg == 32631, x + 446_000, x)
    west, north = corner[0] + x, corner[1] - y
    lon, lat = np.empty(len(x)), np.empty(len(x))
    for code in np.unique(epsg):
        at = epsg == code
        centre = west[at] + side / 2, north[at] - side / 2
        lon[at], lat[at] = transform(f"EPSG:{code}", "EPSG:4326", *centre)
    places = pd.DataFrame(
        {"west": west, "south": north - side, "east": west + side, "north": north, "epsg": epsg}
    ).assign(lon=lon, lat=lat, scene=0, row=0, col=0, time=np.datetime64("NaT", "s"), name="p")
    label = np.random.default_rng(0).integers(0, 10, len(x))
    return Ground(places, np.eye(10, dtype=np.int64)[label], [f"c{n}" for n in range(10)])


def one(case: str, patches: int) -> None:
    """Run one case and print what it took."""
    scheme, settings, where, stride = CASES[case]
    ground = lay(patches, where, stride)
    started = time.perf_counter()
    (parts,) = registry.load("scheme", scheme)(ground, **settings)
    dealt = time.perf_counter()
    # The audit starts from nothing, as where the split is somebody else's.
    found = audit(
        Ground(ground.places, ground.contents, ground.classes),
        parts,
        buffer_m=settings.get("buffer_m", 0.0),
    )
    print(
        json.dumps(
            {
                "deal": dealt - started,
                "audit": time.perf_counter() - dealt,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
                "pairs": found["overlapping_pairs"],
                "least": found["least_distance_m"],
                "unused": int((parts == "unused").sum()),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=500_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--case", help="run this one here, and print what it took")
    arguments = parser.parse_args()
    if arguments.case:
        one(arguments.case, arguments.patches)
        return
    taken: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(arguments.runs):
        for case, runs in taken.items():
            command = [sys.executable, __file__, "--patches", str(arguments.patches)]
            done = subprocess.run(
                [*command, "--case", case], check=True, capture_output=True, text=True
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    print("| split | deal, s | audit, s | peak, GB | overlapping pairs | left out |")
    print("|---|---|---|---|---|---|")
    worst = {"audit": 0.0, "peak": 0.0}
    for case, runs in taken.items():
        deal, seconds, peak = (
            statistics.median(run[key] for run in runs) for key in ("deal", "audit", "peak")
        )
        worst = {"audit": max(worst["audit"], seconds), "peak": max(worst["peak"], peak)}
        first = runs[0]
        print(
            f"| {case} | {deal:.1f} | {seconds:.1f} | {peak:.2f} | {first['pairs']:,.0f} "
            f"| {first['unused']:,.0f} |"
        )
    print()
    for what, key, unit, most in (
        ("slowest audit", "audit", "s", 60),
        ("most memory", "peak", "GB", 4),
    ):
        met = "met" if worst[key] <= most else "NOT met"
        print(f"{what}: {worst[key]:.1f} {unit}, at most {most} {unit}: {met}")


if __name__ == "__main__":
    main()
