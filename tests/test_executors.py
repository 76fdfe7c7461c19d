from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from swath.errors import RunError
from swath.executors import BARE, NAMES, Asked, spelled

PROFILES = Path(__file__).parents[1] / "workflow/profiles"
TRAINS = Asked(8000, 1380, trains=True, goes_on=True)
COUNTS = Asked(4000, 60)


def of(asked: Asked = TRAINS, executor: str = "slurm", **more: Any) -> dict[str, Any]:
    found = spelled(asked, executor=executor, **{"site": {}, "given": {}, **more})
    assert set(found) <= set(NAMES)
    return found


def test_a_job_without_a_network_asks_for_no_gpu() -> None:
    asked = of(COUNTS, site={"site_gpu": 2, "site_gpu_model": "a100"})
    assert {name: asked[name] for name in asked if name in BARE} == {"mem_mb": 4000, "runtime": 60}
    assert "gpu" not in asked and "gpu_model" not in asked


def test_memory_grows_by_half_of_the_first_request() -> None:
    assert [of(attempt=n)["mem_mb"] for n in (1, 2, 3)] == [8000, 12000, 16000]


def test_time_grows_up_to_what_the_site_allows() -> None:
    site = {"runtime": 150}
    assert [of(COUNTS, site=site, attempt=n)["runtime"] for n in (1, 2, 3)] == [60, 120, 150]


def test_what_goes_on_from_a_checkpoint_takes_the_time_that_there_is() -> None:
    assert [of(site={"runtime": 700}, attempt=n)["runtime"] for n in (1, 2)] == [700, 700]
    assert of()["runtime"] == 1380


@pytest.mark.parametrize(
    ("device", "site", "given", "count"),
    [
        ("auto", {}, {}, 0),
        ("auto", {"site_gpu": 2}, {}, 2),
        ("auto", {"site_gpu": 2}, {"gpu": 0}, 0),
        ("auto", {}, {"gpu": 4}, 4),
        ("cpu", {"site_gpu": 2}, {}, 0),
        ("gpu", {"site_gpu": 0}, {}, 1),
    ],
)
def test_gpus(device: str, site: dict[str, Any], given: dict[str, Any], count: int) -> None:
    asked = of(device=device, site=site, given=given)
    assert asked.get("gpu", 0) == asked["devices"] == count


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ("slurm", {"gpu": 1, "gpu_model": "a100"}),
        ("local", {"gpu": 1, "gpu_model": "a100"}),
        ("kubernetes", {"gpu": 1, "gpu_manufacturer": "nvidia", "scale": 0}),
        ("aws-batch", {"_gpus": 1}),
        ("googlebatch", {"nvidia_gpu": "a100"}),
    ],
)
def test_each_executor_is_told_in_its_words(executor: str, words: dict[str, Any]) -> None:
    asked = of(executor=executor, site={"site_gpu": 1, "site_gpu_model": "a100"})
    assert {name: asked.get(name) for name in words} == words
    others = {"gpu_manufacturer", "scale", "_gpus", "nvidia_gpu"} - set(words)
    assert not others & set(asked)


def test_kubernetes_is_not_told_of_no_gpu() -> None:
    assert "gpu" not in of(executor="kubernetes"), "its plugin takes gpu=0 for a request"


def test_google_grants_several_gpus_of_one_kind_alone() -> None:
    assert of(executor="googlebatch", site={"site_gpu": 2})["nvidia_gpu"] == 2
    with pytest.raises(RunError, match="gpu=2 gpu_model=a100: its plugin asks for several"):
        of(executor="googlebatch", site={"site_gpu": 2, "site_gpu_model": "a100"})


def test_several_nodes_are_started_by_srun() -> None:
    asked = of(given={"nodes": 2, "gpu": 4}, threads=6)
    assert asked["launch"] == ("srun --nodes=2 --ntasks=4 --cpus-per-task=6 --kill-on-bad-exit=1 ")
    assert [asked[name] for name in ("nodes", "mpi", "tasks", "tasks_per_gpu")] == [2, "srun", 4, 1]
    assert asked["devices"] == 0, "each process is given its own by Slurm"
    without = of(given={"nodes": 2})
    assert without["tasks"] == 2 and "tasks_per_gpu" not in without
    assert of(given={"nodes": 2}, site={"site_gpu": 1})["gpu"] == 2, "one for each node"


@pytest.mark.parametrize("executor", ["kubernetes", "aws-batch", "googlebatch"])
def test_several_nodes_elsewhere_are_refused(executor: str) -> None:
    with pytest.raises(RunError, match=f"nodes=2: {executor} starts each job on one node; set"):
        of(executor=executor, given={"nodes": 2})


# ---- the profiles -------------------------------------------------------------------------------


def read(profile: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """What Snakemake makes of a profile: its YAML processed as `snakemake --profile` does."""
    code = "import sys, yte; yte.process_yaml(sys.stdin, sys.stdout, require_use_yte=True)"
    text = (PROFILES / profile / "config.yaml").read_text()
    return subprocess.run(
        [sys.executable, "-c", code], input=text, env=environ, capture_output=True, text=True
    )


def test_a_profile_without_its_site_says_which_value_is_missing() -> None:
    done = read("slurm", SWATH_SLURM_ACCOUNT="lab")
    assert done.returncode == 2
    assert done.stderr == (
        "swath: SWATH_SLURM_PARTITION is not set: the partition of the jobs (sinfo); export it, "
        "empty for none (docs/executors.md)\n"
    )


def test_a_site_is_told_to_every_job() -> None:
    done = read("slurm", SWATH_SLURM_ACCOUNT="lab", SWATH_SLURM_PARTITION="", SWATH_GPU="2")
    told = yaml.safe_load(done.stdout)["default-resources"]
    assert told["slurm_account"] == "lab" and not told["slurm_partition"]
    assert told["site_gpu"] == 2 and told["runtime"] == 1380
