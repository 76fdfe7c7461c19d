"""What jobs ask of the machines that run them, in one vocabulary, spelled as each executor has it.

A rule says `mem_mb`, `runtime` (minutes), `gpu`, `gpu_model` and `nodes`; its threads are the
processors. What a site has stands among the `default-resources` of its profile, its GPUs under
names of their own: a `gpu` there would be every job's. A person overrides a rule by
`--set-resources RULE:gpu=2`. Snakemake's plugins want the same in words of their own.

Source:
    The documentation of snakemake-executor-plugin-slurm 2.8.0, -kubernetes 0.5.1,
    -aws-batch 0.2.1 and -googlebatch 0.5.1.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from swath.errors import RunError

Resource = int | str

BARE = (
    "mem_mb", "runtime", "scale",
    "googlebatch_cpu_milli", "googlebatch_memory", "googlebatch_max_run_duration",
)  # fmt: skip
"""What `spelled` may give a job without a network."""
NAMES = (
    *BARE, "gpu", "gpu_model", "nodes", "devices", "launch", "mpi", "tasks", "tasks_per_gpu",
    "gpu_manufacturer", "machine_type", "_gpus", "nvidia_gpu", "googlebatch_machine_type",
)  # fmt: skip
"""All that `spelled` may give. `devices` and `launch` are for the job itself: how many GPUs its
process takes, and by what its processes are started."""

AWS_MEMORY = {
    1: range(2048, 8193, 1024),
    2: range(4096, 16385, 1024),
    4: range(8192, 30721, 1024),
    8: range(16384, 61441, 4096),
    16: range(32768, 122881, 8192),
}
"""Processors of a job on AWS Batch -> the MiB that its plugin grants with them. Anything else it
lowers to the least of them, or refuses."""
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


@dataclass(frozen=True)
class Asked:
    """What a rule asks for where nobody has said otherwise."""

    mem_mb: int
    runtime: int
    """Minutes."""
    trains: bool = False
    """Whether a network works in it, which a GPU helps."""
    goes_on: bool = False
    """Whether it stops at a checkpoint before its time is over and goes on from there: then it
    needs no more time at the next attempt, and takes as much as there is at once."""


def spelled(
    asked: Asked,
    *,
    executor: str,
    site: Mapping[str, Resource],
    given: Mapping[str, Resource],
    attempt: int = 1,
    threads: int = 1,
    device: str = "auto",
) -> dict[str, Resource]:
    """The resources of a job, by the names of `NAMES`; what is absent is not asked for.

    Memory grows by half of the first request with each attempt, since a job that was short of it
    is killed; time grows with the attempts up to what the site allows.

    Args:
        asked: what its rule asks for.
        executor: whose words are wanted: slurm, kubernetes, aws-batch, googlebatch, or any other.
        site: what the site has for a job: `runtime`, its longest; for one with a network
            `site_gpu`, `site_gpu_model`, and `site_gpu_machine`, the type of a cloud's machines
            that have them.
        given: what a person has set for this rule.
        attempt: counted from 1.
        threads: of each process.
        device: trainer.device; `cpu` asks for no GPU, `gpu` always for one.

    Raises:
        RunError: what the executor cannot ask for: several nodes, a kind of GPU, such a memory.
    """
    limit = int(site.get("runtime", asked.runtime))
    runtime = limit if asked.goes_on else min(asked.runtime * attempt, max(limit, asked.runtime))
    gpu = 0
    if asked.trains and device != "cpu":
        gpu = int(given.get("gpu", site.get("site_gpu", 0) or (device == "gpu")))
    nodes = int(given.get("nodes", 1))
    tasks = max(gpu, nodes)
    if gpu:
        gpu = tasks  # one at least for each node
    found: dict[str, Resource] = {
        "mem_mb": asked.mem_mb * (1 + attempt) // 2,
        "runtime": runtime,
        # Of several nodes the processes are started by srun, a GPU for each.
        # It knows nothing of the job's request, of which Snakemake's plugin leaves it no word.
        "launch": f"srun --nodes={nodes} --ntasks={tasks} --cpus-per-task={threads} "
        "--kill-on-bad-exit=1 "
        if nodes > 1
        else "",
        "devices": 0 if nodes > 1 else gpu,
    }
    if gpu:
        found["gpu"] = gpu
        if model := given.get("gpu_model", site.get("site_gpu_model", "")):
            found["gpu_model"] = model
    if nodes > 1:
        if executor in ("kubernetes", "aws-batch", "googlebatch"):
            raise RunError(
                f"{executor} starts each job on one node",
                where=f"nodes={nodes}",
                mend="set nodes=1, or train on several with --profile workflow/profiles/slurm",
            )
        found |= {"nodes": nodes, "mpi": "srun", "tasks": tasks}
        if gpu:
            found["tasks_per_gpu"] = 1
    machine = site.get("site_gpu_machine") if gpu else None
    if gpu and executor in ("kubernetes", "aws-batch") and "gpu_model" in found:
        raise RunError(
            "its plugin asks for no kind of GPU",
            where=f"gpu_model={found['gpu_model']}",
            mend="name the machines that have it by SWATH_GPU_MACHINE (Kubernetes), "
            "or a queue of such machines (AWS Batch)",
        )
    if executor == "kubernetes":
        # Without it requests have no limits, and a GPU is granted to a limit alone.
        found["scale"] = 0
        if gpu:
            found["gpu_manufacturer"] = "nvidia"
        if machine:
            found["machine_type"] = machine
    if executor == "aws-batch":
        found["mem_mb"] = _aws_memory(_number(given, "mem_mb", found), threads, given, attempt)
        if gpu:
            found["_gpus"] = gpu
    if executor == "googlebatch":
        found |= {
            "googlebatch_cpu_milli": 1000 * threads,
            "googlebatch_memory": _number(given, "mem_mb", found),
            "googlebatch_max_run_duration": f"{60 * _number(given, 'runtime', found)}s",
        }
        if machine:
            found["googlebatch_machine_type"] = machine
        model = found.get("gpu_model", "")
        if model and gpu > 1:
            raise RunError(
                "its plugin asks for several GPUs of no other kind than nvidia-tesla-t4",
                where=f"gpu={gpu} gpu_model={model}",
                mend="leave gpu_model out, or set gpu=1",
            )
        if gpu:
            found["nvidia_gpu"] = model or gpu
    return found


def _number(given: Mapping[str, Resource], name: str, found: Mapping[str, Resource]) -> int:
    """A number that the plugin is told beside the resource of that name, which a person may set."""
    value = given.get(name, found[name])
    try:
        return int(value)
    except ValueError:
        raise RunError(
            "has to be a plain number, of MB or minutes", where=f"{name}={value}"
        ) from None


def _aws_memory(mem_mb: int, threads: int, given: Mapping[str, Resource], attempt: int) -> int:
    """The least that AWS Batch's plugin grants with these processors and that is enough.

    Later attempts get the most that there is, if they ask for more.
    """
    if threads not in AWS_MEMORY:
        raise RunError(
            "AWS Batch's plugin grants 1, 2, 4, 8 or 16 processors",
            where=f"threads={threads}",
            mend="--set-threads RULE=4, or SWATH_THREADS",
        )
    granted = AWS_MEMORY[threads]
    enough = next((each for each in granted if each >= mem_mb), None)
    if (enough is None and attempt == 1) or ("mem_mb" in given and mem_mb not in granted):
        raise RunError(
            f"AWS Batch's plugin grants {granted[0]} to {granted[-1]} MB by steps of "
            f"{granted.step} with {threads} processors",
            where=f"mem_mb={mem_mb}",
            mend="ask for one of these, or for more processors (--set-threads RULE=8)",
        )
    return granted[-1] if enough is None else enough


# ---- secrets ----------------------------------------------------------------------------------


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
        rf"printf '[default]\ncredential_process=python -m swath.executors {secret}\n' > aws && "
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


# ---- the profiles -----------------------------------------------------------------------------


def site(variable: str, what: str, absent: str | None = None) -> str:
    """A value that only the site knows, from the environment; for the profiles.

    An empty one counts: it says that the site needs none. One that is absent and has no default
    ends the program with one line, since Snakemake would wrap an exception in its own and add its
    whole usage.

    Args:
        variable: of the environment.
        what: it is, and where to find it.
        absent: what to take where it is not set; None demands it.
    """
    value = os.environ.get(variable, absent)
    return _demanded(variable, what, ", empty for none") if value is None else value


def needed(variable: str, what: str) -> str:
    """The same of a value that no site can do without."""
    return os.environ.get(variable) or _demanded(variable, what)


def _demanded(variable: str, what: str, or_none: str = "") -> NoReturn:
    told = f"swath: {variable} is not set: {what}; export it{or_none} (docs/executors.md)"
    print(told, file=sys.stderr, flush=True)
    sys.exit(2)


if __name__ == "__main__":  # boto3 calls it for the keys of a bucket (`google_precommand`)
    try:
        print(google_secret(sys.argv[1]))
    except RunError as refused:
        sys.exit(f"swath: {refused}")
