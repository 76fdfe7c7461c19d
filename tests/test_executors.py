from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from swath.clouds import KEYS
from swath.errors import RunError
from swath.executors import AWS_MEMORY, WORDS, Asked, names_of, spelled

PROFILES = Path(__file__).parents[1] / "workflow/profiles"
TRAINS = Asked(8000, 1380, trains=True, spreads=True, goes_on=True)
COUNTS = Asked(4000, 60)


def of(asked: Asked = TRAINS, executor: str = "slurm", **more: Any) -> dict[str, Any]:
    found = spelled(asked, executor=executor, **{"site": {}, "given": {}, **more})
    of_each, of_network = WORDS.get(executor, ((), ()))
    assert set(found) <= {*names_of(asked), "launch", "devices", *of_each, *of_network}
    return found


def test_a_job_has_the_words_of_the_plugins_that_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = {name: f"snakemake_executor_plugin_{name.replace('-', '_')}" for name in WORDS}
    for plugin in plugins.values():
        monkeypatch.setitem(sys.modules, plugin, None)
    spread = ["nodes", "launch", "mpi", "tasks", "tasks_per_gpu"]
    network = ["mem_mb", "runtime", "gpu", "gpu_model", "devices"]
    assert names_of(COUNTS) == ["mem_mb", "runtime"]
    assert names_of(Asked(1, 1, trains=True)) == network
    assert names_of(TRAINS) == network + spread
    monkeypatch.delitem(sys.modules, plugins["kubernetes"])
    (tmp_path / f"{plugins['kubernetes']}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert names_of(COUNTS) == ["mem_mb", "runtime", "scale"]
    assert names_of(TRAINS) == [*network, *spread, "scale", "gpu_manufacturer", "machine_type"]


def test_a_job_without_a_network_asks_for_no_gpu() -> None:
    asked = of(COUNTS, site={"site_gpu": 2, "site_gpu_model": "a100"})
    assert {name: asked[name] for name in names_of(COUNTS) if name in asked} == {
        "mem_mb": 4000,
        "runtime": 60,
    }
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
        ("kubernetes", {"gpu": 1, "gpu_manufacturer": "nvidia", "scale": 0, "machine_type": "g"}),
        ("aws-batch", {"_gpus": 1, "mem_mb": 8192}),
        (
            "googlebatch",
            {
                "nvidia_gpu": "a100",
                "googlebatch_machine_type": "g",
                "googlebatch_cpu_milli": 4000,
                "googlebatch_memory": 8000,
                "googlebatch_max_run_duration": "82800s",
            },
        ),
    ],
)
def test_each_executor_is_told_in_its_words(executor: str, words: dict[str, Any]) -> None:
    site: dict[str, Any] = {"site_gpu": 1, "site_gpu_machine": "g"}
    if executor not in ("kubernetes", "aws-batch"):
        site["site_gpu_model"] = "a100"
    asked = of(executor=executor, site=site, threads=4)
    assert {name: asked.get(name) for name in words} == words
    others = {name for both in WORDS.values() for of in both for name in of if name not in words}
    assert not others & set(asked)


@pytest.mark.parametrize("executor", ["kubernetes", "aws-batch", "googlebatch"])
def test_a_job_without_a_network_is_sent_to_no_machine_with_a_gpu(executor: str) -> None:
    asked = of(COUNTS, executor=executor, site={"site_gpu": 1, "site_gpu_machine": "g"}, threads=1)
    gpus = {"gpu", "gpu_manufacturer", "machine_type", "_gpus", "nvidia_gpu"}
    assert not (gpus | {"googlebatch_machine_type"}) & set(asked), "gpu=0 is a request, too"
    assert set(asked) <= {"mem_mb", "runtime", "devices", "launch", *WORDS[executor][0]}


def test_google_is_told_what_a_person_has_set() -> None:
    asked = of(executor="googlebatch", given={"mem_mb": "32000", "runtime": 90}, threads=8)
    assert asked["googlebatch_memory"] == 32000
    assert asked["googlebatch_max_run_duration"] == "5400s"
    assert asked["googlebatch_cpu_milli"] == 8000
    with pytest.raises(RunError, match="runtime=2h: has to be a plain number"):
        of(executor="googlebatch", given={"runtime": "2h"})


def test_google_grants_several_gpus_of_one_kind_alone() -> None:
    assert of(executor="googlebatch", site={"site_gpu": 2})["nvidia_gpu"] == 2
    with pytest.raises(RunError, match="gpu=2 gpu_model=a100: its plugin asks for several"):
        of(executor="googlebatch", site={"site_gpu": 2, "site_gpu_model": "a100"})


@pytest.mark.parametrize("executor", ["kubernetes", "aws-batch"])
def test_a_kind_of_gpu_that_a_plugin_would_not_ask_for_is_refused(executor: str) -> None:
    with pytest.raises(RunError, match="gpu_model=a100: its plugin asks for no kind of GPU"):
        of(executor=executor, site={"site_gpu": 1, "site_gpu_model": "a100"}, threads=4)


@pytest.mark.parametrize(
    ("mem_mb", "threads", "attempt", "granted"),
    [
        (1000, 1, 1, 2048),
        (4000, 1, 1, 4096),
        (8000, 4, 1, 8192),
        (8000, 4, 2, 12288),
        (8000, 1, 2, 8192),  # the most there is
        (8000, 16, 1, 32768),
        (20000, 8, 1, 20480),
    ],
)
def test_aws_grants_at_least_what_is_asked_for(
    mem_mb: int, threads: int, attempt: int, granted: int
) -> None:
    asked = of(Asked(mem_mb, 60), executor="aws-batch", threads=threads, attempt=attempt)
    assert asked["mem_mb"] == granted


@pytest.mark.parametrize(
    ("asked", "more", "told"),
    [
        (COUNTS, {"threads": 6}, "threads=6: AWS Batch's plugin grants 1, 2, 4, 8 or 16 proc"),
        (Asked(9000, 60), {"threads": 1}, "mem_mb=9000: .* 2048 to 8192 MB by steps of 1024"),
        # What a person has set is not rounded by us: the plugin would lower it to the least.
        (COUNTS, {"threads": 4, "given": {"mem_mb": "9000"}}, "mem_mb=9000: .* 8192 to 30720 MB"),
    ],
)
def test_what_aws_would_lower_in_silence_is_refused(
    asked: Asked, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(RunError, match=told):
        of(asked, executor="aws-batch", **more)


def test_aws_grants_what_its_plugin_knows() -> None:
    plugin = pytest.importorskip(
        "snakemake_executor_plugin_aws_batch.constant", reason="the extra aws-batch is absent"
    )
    ours = {(mem, cpus) for cpus, granted in AWS_MEMORY.items() for mem in granted}
    known = plugin.VALID_RESOURCES_MAPPING.items()
    assert ours == {(mem, cpus) for mem, each in known for cpus in each}


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
    package = {"PYTHONPATH": str(PROFILES.parents[1] / "src")}
    return subprocess.run(
        [sys.executable, "-c", code],
        input=text, env=package | environ, capture_output=True, text=True,
    )  # fmt: skip


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


CLOUDS = {
    "kubernetes": {"SWATH_NAMESPACE": "lab"},
    "aws-batch": {
        "SWATH_AWS_REGION": "eu-central-1",
        "SWATH_AWS_QUEUE": "gpu",
        "SWATH_AWS_ROLE": "arn:aws:iam::123456789012:role/swath",
    },
    "google-batch": {
        "SWATH_GOOGLE_PROJECT": "lab",
        "SWATH_GOOGLE_REGION": "europe-west3",
        "SWATH_GOOGLE_KEYS": "projects/lab/secrets/swath",
        "SWATH_SERVICE_ACCOUNT": "jobs@lab.iam.gserviceaccount.com",
    },
}


@pytest.mark.parametrize("profile", CLOUDS)
def test_a_cloud_is_told_its_site(profile: str) -> None:
    everywhere = {"SWATH_IMAGE": "registry/swath:1", "SWATH_BUCKET": "s3://lab/me"}
    keys = dict.fromkeys((*KEYS, "AWS_REGION"), "known")
    environ = {**everywhere, **CLOUDS[profile], **keys, "SWATH_GPU": "2"}
    done = read(profile, **environ)
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)
    assert told["container-image"] == "registry/swath:1"
    assert told["default-storage-prefix"] == "s3://lab/me"
    assert told["default-resources"]["site_gpu"] == 2
    secrets = [name for name in told["envvars"] if name in KEYS]
    assert secrets == (list(KEYS) if profile == "kubernetes" else [])
    assert "known" not in done.stdout
    if profile == "aws-batch":
        assert told["aws-batch-task-timeout"] == 60 * told["default-resources"]["runtime"] > 300
    for absent in (*everywhere, *CLOUDS[profile]):
        refused = read(profile, **{**environ, absent: ""})
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert refused.stderr.startswith(f"swath: {absent} is not set: ")
