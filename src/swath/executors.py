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

from swath.errors import RunError

Resource = int | str

BARE = ("mem_mb", "runtime", "scale")
"""What `spelled` may give a job without a network."""
NAMES = (
    *BARE, "gpu", "gpu_model", "nodes", "devices", "launch",
    "mpi", "tasks", "tasks_per_gpu", "gpu_manufacturer", "_gpus", "nvidia_gpu",
)  # fmt: skip
"""All that `spelled` may give. `devices` and `launch` are for the job itself: how many GPUs its
process takes, and by what its processes are started."""


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
        site: what the site has for a job: `runtime`, its longest; `site_gpu` and `site_gpu_model`
            for one with a network.
        given: what a person has set for this rule.
        attempt: counted from 1.
        threads: of each process.
        device: trainer.device; `cpu` asks for no GPU, `gpu` always for one.

    Raises:
        RunError: several nodes where the executor starts a job on one.
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
    if executor == "kubernetes":
        # Without it requests have no limits, and a GPU is granted to a limit alone.
        found["scale"] = 0
        if gpu:
            found["gpu_manufacturer"] = "nvidia"
    if gpu and executor == "aws-batch":
        found["_gpus"] = gpu
    if gpu and executor == "googlebatch":
        model = found.get("gpu_model", "")
        if model and gpu > 1:
            raise RunError(
                "its plugin asks for several GPUs of no other kind than nvidia-tesla-t4",
                where=f"gpu={gpu} gpu_model={model}",
                mend="leave gpu_model out, or set gpu=1",
            )
        found["nvidia_gpu"] = model or gpu
    return found


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
    if value is None:
        print(
            f"swath: {variable} is not set: {what}; export it, empty for none (docs/executors.md)",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(2)
    return value
