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

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NoReturn

from swath.errors import RunError

Resource = int | str

WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kubernetes": (("scale",), ("gpu_manufacturer", "machine_type")),
    "aws-batch": ((), ("_gpus",)),
    "googlebatch": (
        ("googlebatch_cpu_milli", "googlebatch_memory", "googlebatch_max_run_duration"),
        ("nvidia_gpu", "googlebatch_machine_type"),
    ),
}
"""What the plugin of a cloud wants to be told besides, or by other names: of each job, and of one
with a network."""

AWS_MEMORY = {
    1: range(2048, 8193, 1024),
    2: range(4096, 16385, 1024),
    4: range(8192, 30721, 1024),
    8: range(16384, 61441, 4096),
    16: range(32768, 122881, 8192),
}
"""Processors of a job on AWS Batch -> the MiB that its plugin grants with them. Anything else it
lowers to the least of them, or refuses."""


@dataclass(frozen=True)
class Asked:
    """What a rule asks for where nobody has said otherwise."""

    mem_mb: int
    runtime: int
    """Minutes."""
    trains: bool = False
    """Whether a network works in it, which a GPU helps."""
    spreads: bool = False
    """Whether it may run on several nodes."""
    goes_on: bool = False
    """Whether it stops at a checkpoint before its time is over and goes on from there: then it
    needs no more time at the next attempt, and takes as much as there is at once."""


def names_of(asked: Asked) -> list[str]:
    """What `spelled` may give a job of a rule.

    `devices` and `launch` are for the job itself: how many GPUs its process takes, and by what its
    processes are started. Snakemake asks for each of them by itself, before it says which executor
    is used, and so for thousands of jobs: those of a plugin that is not installed are left out.
    """
    found = ["mem_mb", "runtime"]
    if asked.trains:
        found += ["gpu", "gpu_model", "devices"]
    if asked.spreads:
        found += ["nodes", "launch", "mpi", "tasks", "tasks_per_gpu"]
    for executor, (of_each, of_network) in WORDS.items():
        if find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}"):
            found += [*of_each, *(of_network if asked.trains else ())]
    return found


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
    """The resources of a job, by the names of `names_of`; what is absent is not asked for.

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
        "launch": "",
        "devices": 0 if nodes > 1 else gpu,
    }
    if gpu:
        found["gpu"] = gpu
        if model := given.get("gpu_model", site.get("site_gpu_model", "")):
            found["gpu_model"] = model
    if nodes > 1:
        found |= {"nodes": nodes, "mpi": "srun", "tasks": tasks}
        if gpu:
            found["tasks_per_gpu"] = 1
        # The processes are started by srun, a GPU for each. It knows nothing of the job's request,
        # of which Snakemake's plugin leaves it no word.
        found["launch"] = (
            f"srun --nodes={nodes} --ntasks={tasks} --cpus-per-task={threads} --kill-on-bad-exit=1 "
        )
    if executor in CLOUDS:
        _refuse(found, executor)
        machine = site.get("site_gpu_machine") if gpu else None
        found |= CLOUDS[executor](found, given, threads, attempt, machine)
    return found


def _refuse(found: Mapping[str, Resource], executor: str) -> None:
    """Refuse what a cloud's plugin cannot ask for, and would leave out."""
    if "nodes" in found:
        raise RunError(
            f"{executor} starts each job on one node",
            where=f"nodes={found['nodes']}",
            mend="set nodes=1, or train on several with --profile workflow/profiles/slurm",
        )
    if "gpu_model" in found and executor != "googlebatch":
        raise RunError(
            "its plugin asks for no kind of GPU",
            where=f"gpu_model={found['gpu_model']}",
            mend="name the machines that have it by SWATH_GPU_MACHINE (Kubernetes), "
            "or a queue of such machines (AWS Batch)",
        )


Found = Mapping[str, Resource]


def _kubernetes(
    found: Found, given: Found, threads: int, attempt: int, machine: Resource | None
) -> dict[str, Resource]:
    # Without `scale` requests have no limits, and a GPU is granted to a limit alone.
    words: dict[str, Resource] = {"scale": 0}
    if "gpu" in found:
        words["gpu_manufacturer"] = "nvidia"
    if machine:
        words["machine_type"] = machine
    return words


def _aws_batch(
    found: Found, given: Found, threads: int, attempt: int, machine: Resource | None
) -> dict[str, Resource]:
    words: dict[str, Resource] = {
        "mem_mb": _aws_memory(_number(given, "mem_mb", found), threads, given, attempt)
    }
    if "gpu" in found:
        words["_gpus"] = found["gpu"]
    return words


def _googlebatch(
    found: Found, given: Found, threads: int, attempt: int, machine: Resource | None
) -> dict[str, Resource]:
    words: dict[str, Resource] = {
        "googlebatch_cpu_milli": 1000 * threads,
        "googlebatch_memory": _number(given, "mem_mb", found),
        "googlebatch_max_run_duration": f"{60 * _number(given, 'runtime', found)}s",
    }
    if machine:
        words["googlebatch_machine_type"] = machine
    if "gpu" in found:
        gpu, model = int(found["gpu"]), found.get("gpu_model", "")
        if model and gpu > 1:
            raise RunError(
                "its plugin asks for several GPUs of no other kind than nvidia-tesla-t4",
                where=f"gpu={gpu} gpu_model={model}",
                mend="leave gpu_model out, or set gpu=1",
            )
        words["nvidia_gpu"] = model or gpu
    return words


CLOUDS = {"kubernetes": _kubernetes, "aws-batch": _aws_batch, "googlebatch": _googlebatch}
"""Executor -> what gives the values of its `WORDS`."""


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
