"""The jobs that the plugins of Kubernetes, AWS Batch and Google Batch make of every rule.

The real plugin builds and sends them, to a server that keeps what it is sent and runs nothing.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clouds import KEY, KNOWN, PLUGINS, SECRET, Site, site

# All jobs that are known are sent at once, whatever they wait for.
AT_ONCE = """
import sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):
    for job in self.workflow.dag.jobs:
        if not job.is_local:
            self._executor.run_job(job)
    self._executor.shutdown()
    return True

JobScheduler.schedule = schedule
main(sys.argv[1:])
"""
TRAINS = {"train", "infer", "map", "trials", "final", "train_winner", "infer_winner"}
GOES_ON = ("train", "trials", "final", "train_winner")
MEMORY = {"mosaic": 1000, "patches": 2000} | dict.fromkeys(GOES_ON, 8000)
"""MB, where they are not 4000."""
MINUTES = dict.fromkeys(("patches", "infer", "infer_winner", "baseline"), 240)
MINUTES |= dict.fromkeys((*GOES_ON, "map"), 1380)
"""Where they are not 60."""
THREADS = dict.fromkeys(("train", "infer", "map", "baseline", "train_winner", "infer_winner"), 4)
"""Of 16 that some ask for, the most that the profiles allow."""
RULES = TRAINS | set(MINUTES) | set(MEMORY) | {
    "index", "split", "measure", "statistics", "evaluate", "evaluate_baseline", "evaluate_winner",
    "report",
}  # fmt: skip


pytestmark = pytest.mark.slow


def begun(made: Site, lay_out: Callable[..., None]) -> None:
    """A project whose data are fetched and whose scenes are dealt."""
    lay_out(made.folder)
    made.bucket.put_object(Key="swath/data/embedded/manifest.json", Body=b"{}")
    time.sleep(1.1)  # whole seconds are all that an object's time has
    scenes = {"shards": [{"name": "ab12"}], "rounds": 1}
    made.bucket.put_object(
        Key="swath/results/embedded/scenes.json", Body=json.dumps(scenes).encode()
    )


def sent(made: Site, lay_out: Callable[..., None]) -> dict[str, Any]:
    """Rule -> its job as it was sent, of the default experiment with its study."""
    begun(made, lay_out)
    done = made.snakemake(program=("-c", AT_ONCE))
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {}
    for body in made.api.bodies:
        if found := re.search(r"--allowed-rules (\w+)", str(body)):
            jobs[found[1]] = body
    assert set(jobs) == RULES
    for secret in (KEY, SECRET):
        assert not made.shown(secret) and secret not in done.stdout + done.stderr
    return jobs


def made(profile: str) -> Any:
    """A cloud that keeps what it is sent and runs nothing."""
    if not importlib.util.find_spec(f"snakemake_executor_plugin_{PLUGINS[profile]}"):
        pytest.skip(f"the extra {profile} is not installed")
    return lambda root: site(profile, root, runs=False)


def test_kubernetes(tmp_path: Path, lay_out: Callable[..., None]) -> None:
    with made("kubernetes")(tmp_path) as cloud:
        jobs = sent(cloud, lay_out)
    secret = cloud.api.bodies[0]
    for rule, job in jobs.items():
        spec = job["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        asked, limits = (container["resources"][kind] for kind in ("requests", "limits"))
        # https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus: a GPU stands among the
        # limits; a request beside it must be equal.
        gpu = "1" if rule in TRAINS else None
        assert limits.get("nvidia.com/gpu") == asked.get("nvidia.com/gpu") == gpu, rule
        assert bool(spec.get("tolerations")) == bool(gpu), rule
        assert limits["memory"] == asked["memory"] == f"{MEMORY.get(rule, 4000)}M", rule
        assert limits["cpu"] == f"{THREADS.get(rule, 1)}000m", rule
        assert limits["ephemeral-storage"] == "20000M", rule
        assert container["image"] == KNOWN["SWATH_IMAGE"]
        assert spec["restartPolicy"] == "Never" and job["spec"]["backoffLimit"] == 0
        assert spec["serviceAccountName"] == "jobs"
        # By reference, to a key that is there.
        env = {each["name"]: each for each in container["env"]}
        assert env["AWS_SECRET_ACCESS_KEY"].keys() == {"name", "valueFrom"}
        for each in env.values():
            reference = each["valueFrom"]["secretKeyRef"]
            assert reference["name"] == secret["metadata"]["name"]
            assert reference["key"] in secret["data"]
    assert cloud.api.secrets == {}, "it lasts no longer than the workflow"


def test_aws_batch(tmp_path: Path, lay_out: Callable[..., None]) -> None:
    with made("aws-batch")(tmp_path) as cloud:
        jobs = sent(cloud, lay_out)
    for rule, definition in jobs.items():
        container = definition["containerProperties"]
        # https://docs.aws.amazon.com/batch/latest/APIReference/API_ResourceRequirement.html
        asked = {each["type"]: int(each["value"]) for each in container["resourceRequirements"]}
        threads, memory = THREADS.get(rule, 1), MEMORY.get(rule, 4000)
        assert asked.get("GPU", 0) == (rule in TRAINS), rule
        assert asked["VCPU"] == threads, rule
        # Rounded up to what is granted with so many processors.
        assert asked["MEMORY"] == max({1: 2048, 4: 8192}[threads], -(-memory // 1024) * 1024), rule
        assert definition["timeout"] == {"attemptDurationSeconds": 1380 * 60}, rule
        assert container["image"] == KNOWN["SWATH_IMAGE"]
        assert container["jobRoleArn"] == KNOWN["SWATH_AWS_ROLE"]
        assert {each["name"] for each in container["environment"]} == {
            "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "SNAKEMAKE_STORAGE_S3_REGION"
        }  # fmt: skip
    queues = [body["jobQueue"] for body in cloud.api.bodies if "jobQueue" in body]
    assert queues and set(queues) == {"gpu"}


def test_google_batch(tmp_path: Path, lay_out: Callable[..., None]) -> None:
    with made("google-batch")(tmp_path) as cloud:
        jobs = sent(cloud, lay_out)
    for rule, request in jobs.items():
        (group,) = request.job.task_groups
        task, (instances,) = group.task_spec, request.job.allocation_policy.instances
        # https://cloud.google.com/batch/docs/reference/rest/v1/projects.locations.jobs
        assert task.compute_resource.cpu_milli == 1000 * THREADS.get(rule, 1), rule
        assert task.compute_resource.memory_mib == MEMORY.get(rule, 4000), rule
        assert task.max_run_duration.total_seconds() == 60 * MINUTES.get(rule, 60), rule
        assert task.max_retry_count == 0, "Snakemake alone starts jobs again"
        gpus = [(each.type_, each.count) for each in instances.policy.accelerators]
        machine = instances.policy.machine_type
        if rule in TRAINS:
            assert (gpus, machine) == ([("nvidia-tesla-t4", 1)], "n1-standard-8"), rule
        else:
            assert (gpus, machine) == ([], "e2-standard-4"), rule
        assert instances.install_gpu_drivers == bool(gpus), rule
        assert instances.policy.boot_disk.size_gb == 100
        assert "batch-cos-stable-official" in instances.policy.boot_disk.image
        assert request.job.allocation_policy.service_account.email == "jobs"
        container = task.runnables[-1].container
        assert container.image_uri == KNOWN["SWATH_IMAGE"]
        assert set(task.runnables[-1].environment.variables) == {
            "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "SNAKEMAKE_STORAGE_S3_REGION"
        }  # fmt: skip
        assert KNOWN["SWATH_GOOGLE_KEYS"] in task.runnables[0].script.text


@pytest.mark.parametrize(
    ("profile", "more", "told"),
    [
        (
            "aws-batch",
            {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": KEY, "SNAKEMAKE_STORAGE_S3_SECRET_KEY": SECRET},
            "swath: aws-batch: SNAKEMAKE_STORAGE_S3_ACCESS_KEY, SNAKEMAKE_STORAGE_S3_SECRET_KEY: ",
        ),
        (
            "google-batch",
            {"SNAKEMAKE_STORAGE_S3_ACCESS_KEY": KEY, "SNAKEMAKE_STORAGE_S3_SECRET_KEY": SECRET},
            "swath: googlebatch: SNAKEMAKE_STORAGE_S3_ACCESS_KEY, SNAKEMAKE_STORAGE_S3_SECRET_KEY",
        ),
    ],
)
def test_a_job_that_would_show_a_secret_is_not_sent(
    profile: str, more: dict[str, str], told: str, tmp_path: Path, lay_out: Callable[..., None]
) -> None:
    with made(profile)(tmp_path) as cloud:
        begun(cloud, lay_out)
        done = cloud.snakemake("--config", "set=sweep=none", **more)
    said = done.stdout + done.stderr
    assert done.returncode == 2 and said.count(told) == 1, said
    assert "Traceback" not in said and SECRET not in said
    assert not cloud.api.bodies
