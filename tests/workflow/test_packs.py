"""The real packs that no experiment trains on go from their archive to audited splits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
PACKS = {
    "bigearthnet_sample": (
        "patches=published patches.native_gsd=true split=official "
        "split.official.file=bigearthnet_v1_splits.zip split.allow_leaks=true"
    ),
    "samson": "patches.size_px=5 split=blocks split.blocks.size_m=15 split.blocks.buffer_m=2",
}


def splits(name: str, folder: Path, real_data: Path) -> dict[str, Any]:
    """The audit of a pack's split and the index of its patches, made by the real workflow."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("snakemake"), "splits",
            "--snakefile", REPOSITORY / "workflow/Snakefile",
            "--workflow-profile", REPOSITORY / "workflow/profiles/default",
            "--directory", folder,
            "--config", f"set=data={name} {PACKS[name]} sweep=none",
        ],
        cwd=REPOSITORY, env=os.environ | {"SWATH_MIRROR": str(real_data), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = folder / "results/embedded"
    (audit,) = results.glob("splits/*/audit.json")
    (statistics,) = results.glob("splits/*/statistics.json")
    return {
        "audit": json.loads(audit.read_text()),
        "statistics": json.loads(statistics.read_text())["folds"][0],
        "index": json.loads((results / "patches/manifest.json").read_text()),
    }


def test_bigearthnet_by_its_official_lists(tmp_path: Path, real_data: Path) -> None:
    found = splits("bigearthnet_sample", tmp_path, real_data)
    parts = {part: facts["patches"] for part, facts in found["audit"]["parts"].items()}
    assert parts == {"train": 7, "val": 3, "test": 3, "unused": 1}
    assert found["audit"]["overlapping_pairs"] == 0
    facts = found["index"]["facts"]
    assert [group["factor"] for group in facts["groups"].values()] == [1, 2, 6]
    assert facts["labels"] == "several" and len(found["statistics"]["mean"]) == 12


def test_samson_by_blocks_of_its_own_plane(tmp_path: Path, real_data: Path) -> None:
    found = splits("samson", tmp_path, real_data)
    assert found["audit"]["passed"] and found["audit"]["least_distance_m"] >= 2
    assert found["index"]["kept"] == 19 * 19
    assert len(found["statistics"]["mean"]) == 156
    assert set(found["audit"]["parts"]["train"]["classes"]) == {"Rock", "Tree", "Water"}
