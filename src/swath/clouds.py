"""What the plugins of cloud executors lack: keys that nobody sees, and two mends.

Jobs in a cloud open the bucket by themselves: by a Secret of Kubernetes, a role of AWS, or Google's
Secret Manager. By value no key stands in a job. For the profiles and `workflow/rules/start.smk`.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from swath.errors import RunError

SECRET = re.compile("KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL")
"""Names of variables whose values nobody should see."""
KUBERNETES = {
    401: "refuses the credentials; renew them (kubectl auth whoami)",
    403: "lets these credentials create no secret there; ask for the role in docs/executors.md",
    404: "has no such namespace; mend SWATH_NAMESPACE (kubectl get namespaces)",
}
"""What it answers to the first that is asked of it, and what to do."""
STORE_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""What the jobs need to know of the store, and what opens it."""


def passed(*, secrets: bool) -> list[str]:
    """What the jobs are told of the store: those variables that are set; for the profiles."""
    return [each for each in STORE_VARIABLES + (KEYS if secrets else ()) if each in os.environ]


def guard(executor: str, variables: Iterable[str], *, by_command: bool = False) -> None:
    """Refuse what would show a secret in the jobs, or in the commands that start them.

    Args:
        executor: as Snakemake names it.
        variables: that its plugin passes on.
        by_command: whether it writes them into commands.

    Raises:
        RunError: one of them has a secret.
    """
    secrets = [each for each in variables if SECRET.search(each)]
    if secrets and (by_command or executor in ("aws-batch", "googlebatch")):
        raise RunError(
            "whoever may look at the jobs would read it there, by value",
            where=f"{executor}: {', '.join(secrets)}",
            mend="unset it, and have the jobs open the store by themselves (docs/executors.md)",
        )


def mend_kubernetes(error: type[Exception]) -> None:
    """Let Kubernetes' plugin read the log of a failed job, and say in one line what is refused.

    Version 0.5.1 asks for the log of the container before, which a pod that is never started again
    has not: the API answers 400, and the first job that failed would end the whole workflow. What
    the API refuses at the start, it prints as a traceback.

    Args:
        error: what Snakemake prints by its message alone.
    """
    from kubernetes import client, config

    inside = config.load_incluster_config
    read = client.CoreV1Api.read_namespaced_pod_log
    create = client.CoreV1Api.create_namespaced_secret

    def configured() -> None:
        try:
            inside()
        except config.ConfigException as absent:
            where = os.environ.get("KUBECONFIG", "~/.kube/config")
            what = f"{where}: no cluster is configured ({absent})"
            raise error(f"swath: {what}; start from where `kubectl get pods` works") from None

    def last(self: Any, *names: Any, previous: bool = False, **more: Any) -> Any:
        try:
            return read(self, *names, **more)
        except client.ApiException as failed:
            return f"swath: there is no log of it ({failed.status} {failed.reason})"

    def created(self: Any, namespace: str, *more: Any) -> Any:
        try:
            return create(self, namespace, *more)
        except client.ApiException as failed:
            if failed.status not in KUBERNETES:
                raise
            what = KUBERNETES[failed.status]
            raise error(f"swath: namespace {namespace}: Kubernetes {what}") from None

    config.load_incluster_config = configured
    client.CoreV1Api.read_namespaced_pod_log = last
    client.CoreV1Api.create_namespaced_secret = created


def google_precommand(secret: str) -> str:
    """What a job on Google Batch does before its own, since its plugin cannot be told.

    It ends at the first command that fails, where the plugin's script would go on to others and end
    well; works in a folder of its own, since the plugin's is root's; and has boto3 fetch the keys
    of the bucket when it needs them. The plugin's script expands a bare $ too early.
    """
    return (
        r"trap '(exit \$?) || exit' DEBUG && cd \$(mktemp -d) && "
        rf"printf '[default]\ncredential_process=python -m swath.clouds {secret}\n' > aws && "
        "export AWS_CONFIG_FILE=aws"
    )


def google_secret(name: str) -> str:
    """The latest version of a secret of Google's Secret Manager, as the job's account may read it.

    Source:
        https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access
    """
    from google import auth
    from google.auth.transport.requests import AuthorizedSession

    account, _ = auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    answer = AuthorizedSession(account).get(
        f"https://secretmanager.{account.universe_domain}/v1/{name}/versions/latest:access",
        timeout=30,
    )
    if not answer.ok:
        raise RunError(
            f"the Secret Manager answers {answer.status_code} {answer.reason}",
            where=name,
            mend="let the jobs' service account read it (roles/secretmanager.secretAccessor)",
        )
    return base64.b64decode(answer.json()["payload"]["data"]).decode()


if __name__ == "__main__":  # boto3 calls it for the keys of a bucket (`google_precommand`)
    try:
        print(google_secret(sys.argv[1]))
    except RunError as refused:
        sys.exit(f"swath: {refused}")
