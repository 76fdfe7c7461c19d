"""Kubernetes, AWS Batch and Google Batch: the real plugins run workflows on loopback servers.

`make test-clouds ARGS=-s` prints what a job costs beside its work.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clouds import KEY, PLUGINS, SECRET, Site, site

pytestmark = [pytest.mark.slow, pytest.mark.clouds]

PRUNED = (
    "sweep=none data.drawing.scenes=2 data.drawing.size_px=256 patches.size_px=32 "
    "trainer.epochs=2 trainer.precision=bf16 model.width=4 split.blocks.size_m=640"
)
# With what start.smk does for the plugins.
TOY = """
import sys
from snakemake.exceptions import WorkflowError
from swath import clouds
if workflow.is_main_process and "snakemake_executor_plugin_kubernetes" in sys.modules:
    clouds.mend_kubernetes(WorkflowError)

rule all:
    localrule: True
    input: "results/two.txt", "results/other.txt"
rule one:
    output: "results/one.txt"
    resources: tries=lambda w, attempt: attempt
    shell: "echo attempt {resources.tries}; [ {resources.tries} = 2 ] && echo one > {output}"
rule two:
    input: "results/one.txt"
    output: "results/two.txt"
    shell: "cat {input} > {output} && echo two >> {output}"
rule other:
    output: "results/other.txt"
    shell: "exit 3"
"""


@pytest.fixture
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """The cloud that the test is parametrized by."""
    if not importlib.util.find_spec(f"snakemake_executor_plugin_{PLUGINS[request.param]}"):
        pytest.skip(f"the extra {request.param} is not installed")
    with site(request.param, tmp_path) as made:
        yield made


def on(*profiles: str) -> Any:
    return pytest.mark.parametrize("cloud", profiles or list(PLUGINS), indirect=True)


def read(cloud: Site, name: str) -> str:
    return cloud.bucket.Object(f"swath/{name}").get()["Body"].read().decode()


def names(cloud: Site) -> set[str]:
    return {each.key.removeprefix("swath/") for each in cloud.bucket.objects.all()}


@on()
def test_a_job_that_fails_is_tried_again_and_the_others_go_on(cloud: Site) -> None:
    (cloud.folder / "Snakefile").write_text(TOY)
    done = cloud.snakemake("--keep-going")
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert read(cloud, "results/two.txt") == "one\ntwo\n"
    assert "results/other.txt" not in names(cloud)
    # Twice again each, as the profiles say; `one` needed it once.
    assert told.count("Error in rule other") == 3 and told.count("Error in rule one") == 1, told
    if cloud.profile == "kubernetes":
        logs = (cloud.folder / ".snakemake/auxiliary/kubernetes-logs").glob("*.log")
        assert sum("\nattempt 1\n" in path.read_text() for path in logs) == 1


@on()
def test_the_embedded_experiment(cloud: Site, lay_out: Callable[..., None]) -> None:
    lay_out(cloud.folder)
    done = cloud.snakemake("--config", f"set={PRUNED}", SWATH_GPU="0")
    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads(read(cloud, "results/embedded/runs/blocks-fold0-seed0/scores.json"))
    assert scores and "results/embedded/report.html" in names(cloud)
    assert any(name.startswith("state/runs/") for name in names(cloud))
    jobs = cloud.api.machines.ran
    folders = {ran.folder for ran in jobs}
    assert len(folders) >= 13, "a job of each rule, in a folder of its own"
    assert not any(ran.process.returncode for ran in jobs)
    for secret in (KEY, SECRET):
        assert not cloud.shown(secret) and secret not in done.stdout + done.stderr
    if cloud.profile == "kubernetes":
        assert cloud.api.secrets == {} and cloud.api.jobs == {}
    if cloud.profile == "aws-batch":
        assert cloud.api.definitions == {}
    # Beside the work of a job: Snakemake twice, its sources, its inputs and outputs.
    work = [
        float(read(cloud, name).splitlines()[1].split("\t")[0])
        for name in names(cloud)
        if "/benchmarks/" in name and not name.endswith(("fetch.tsv", "scenes.tsv", "track.tsv"))
    ]
    took = sum(ran.took for ran in jobs) / len(folders)
    print(
        f"\n{cloud.profile}: {len(folders)} jobs of {took:.1f} s in the mean, "
        f"of which {statistics.mean(work):.1f} s are work"
    )


REFUSED = [
    ("kubernetes", {"KUBECONFIG": "wrong"}, "swath: namespace lab: Kubernetes refuses the cred"),
    ("kubernetes", {"SWATH_NAMESPACE": "no"}, "swath: namespace no: Kubernetes has no such name"),
    ("kubernetes", {"KUBECONFIG": "/nowhere"}, "swath: /nowhere: no cluster is configured ("),
    ("aws-batch", {"AWS_ACCESS_KEY_ID": "EXPIRED"}, "security token included in the request is ex"),
    (
        "aws-batch",
        {"SWATH_AWS_QUEUE": "no"},
        "calling the SubmitJob operation: JobQueue no not fou",
    ),
    ("google-batch", {"GOOGLE_APPLICATION_CREDENTIALS": "/no"}, "Error: File /no was not found."),
    # Here the plugin prints a traceback, too.
    ("google-batch", {"SWATH_GOOGLE_PROJECT": "no"}, "'batch.jobs.create' denied on 'projects/no/"),
]


@pytest.mark.parametrize(("cloud", "env", "line"), REFUSED, indirect=["cloud"])
def test_what_a_cloud_refuses_is_said_in_a_line(
    cloud: Site, env: dict[str, str], line: str, tmp_path: Path
) -> None:
    (cloud.folder / "Snakefile").write_text(TOY)
    if env.get("KUBECONFIG") == "wrong":
        env = {"KUBECONFIG": str(tmp_path / "wrong")}
        (tmp_path / "wrong").write_text(json.dumps(cloud.api.kubeconfig("wrong")))
    done = cloud.snakemake(**env)
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert [each for each in told.splitlines() if line in each], told
    assert ("Traceback" in told) == ("SWATH_GOOGLE_PROJECT" in env), told
    assert not cloud.api.machines.ran
