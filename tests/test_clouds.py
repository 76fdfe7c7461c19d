from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from swath.clouds import KEYS, google_precommand, guard, mend_kubernetes, passed
from swath.errors import RunError


@pytest.mark.parametrize("executor", ["aws-batch", "googlebatch"])
def test_a_secret_that_would_stand_in_a_job_is_refused_by_its_name(executor: str) -> None:
    guard(executor, ["AWS_ENDPOINT_URL_S3", "SNAKEMAKE_STORAGE_S3_REGION"])
    with pytest.raises(RunError) as refused:
        guard(executor, ["AWS_REGION", "SNAKEMAKE_STORAGE_S3_SECRET_KEY", "WANDB_API_KEY"])
    told = f"{executor}: SNAKEMAKE_STORAGE_S3_SECRET_KEY, WANDB_API_KEY: whoever may look at"
    assert str(refused.value).startswith(told)


def test_kubernetes_has_a_secret_for_secrets_and_a_command_has_none() -> None:
    guard("kubernetes", KEYS)
    with pytest.raises(RunError, match="slurm: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SE"):
        guard("slurm", KEYS, by_command=True)


def test_what_is_set_is_passed_and_keys_where_they_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_REGION", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", *KEYS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    assert passed(secrets=False) == ["AWS_ENDPOINT_URL_S3"]
    assert passed(secrets=True) == ["AWS_ENDPOINT_URL_S3", "AWS_SECRET_ACCESS_KEY"]


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("sh -c 'exit 85'", 85)])
def test_a_job_on_google_ends_as_its_command_does(tmp_path: Path, command: str, code: int) -> None:
    # What the plugin makes of it: written by a shell that expands, and followed by other commands.
    script = f"cat <<EOF > job.sh\n{google_precommand('projects/p/secrets/s')} && {command}\n"
    script += "echo others >> $PWD/others\nEOF\nbash job.sh"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == code
    assert (tmp_path / "others").exists() == (code == 0)
    (config,) = tmp_path.glob("tmp.*/aws")
    process = "credential_process=python -m swath.clouds projects/p/secrets/s\n"
    assert config.read_text() == f"[default]\n{process}"


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client, made whole again after the test."""
    client = pytest.importorskip("kubernetes.client", reason="the extra kubernetes is absent")
    config = importlib.import_module("kubernetes.config")
    monkeypatch.setattr(config, "load_incluster_config", config.load_incluster_config)
    for name in ("read_namespaced_pod_log", "create_namespaced_secret"):
        monkeypatch.setattr(client.CoreV1Api, name, getattr(client.CoreV1Api, name))
    return client


def test_the_log_of_a_failed_pod_is_read_or_done_without(
    kubernetes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read(self: Any, name: str, namespace: str, **more: Any) -> str:
        asked.append(more)
        if name == "gone":
            raise kubernetes.ApiException(404, "Not Found")
        return "its log"

    api = kubernetes.CoreV1Api
    monkeypatch.setattr(api, "read_namespaced_pod_log", read)
    mend_kubernetes(RuntimeError)
    log = api.read_namespaced_pod_log(None, "there", "lab", container="c", previous=True)
    assert log == "its log"
    assert asked == [{"container": "c"}], "no pod is started again, so there is none before"
    told = api.read_namespaced_pod_log(None, "gone", "lab", previous=True)
    assert told == "swath: there is no log of it (404 Not Found)"


def test_what_kubernetes_refuses_is_one_line(
    kubernetes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, namespace: str, secret: Any) -> None:
        raise kubernetes.ApiException(secret)

    api = kubernetes.CoreV1Api
    monkeypatch.setattr(api, "create_namespaced_secret", refuse)
    mend_kubernetes(RuntimeError)
    with pytest.raises(RuntimeError, match=r"^swath: namespace lab: Kubernetes has no such"):
        api.create_namespaced_secret(None, "lab", 404)
    with pytest.raises(kubernetes.ApiException):  # which the plugin expects, when it comes again
        api.create_namespaced_secret(None, "lab", 409)


def test_no_cluster_is_one_line(kubernetes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise importlib.import_module("kubernetes.config").ConfigException("no configuration")

    config = importlib.import_module("kubernetes.config")
    monkeypatch.setattr(config, "load_incluster_config", absent)
    monkeypatch.setenv("KUBECONFIG", "nowhere")
    mend_kubernetes(RuntimeError)
    with pytest.raises(RuntimeError, match=r"^swath: nowhere: no cluster is configured"):
        config.load_incluster_config()
