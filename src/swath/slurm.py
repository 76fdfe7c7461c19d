"""What a Slurm cluster says for itself: whether it can ever run a job, and which it has.

Slurm takes some requests that none of its nodes can meet and lets them wait for ever, and
Snakemake's plugin knows nothing of the jobs of a main process that was killed. So both is asked
before anything is submitted.
"""

from __future__ import annotations

import getpass
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from swath.errors import RunError, nearest

JOB_NAME = "swath_"
"""With what the names of its jobs begin (`slurm-jobname-prefix` of the profile)."""


def check(asked: Mapping[str, int | str], where: str) -> None:
    """Refuse what this cluster will never run; for what is not asked for it has its own answer.

    Args:
        asked: `slurm_account`, `slurm_partition` (or several with commas between), `gpu`,
            `gpu_model`, `nodes`, `runtime` in minutes.
        where: who asks, for the error.

    Raises:
        RunError: with what there is instead.
    """
    account = str(asked.get("slurm_account", ""))
    own = "sacctmgr", "-nP", "list", "user", getpass.getuser(), "-s", "format=account"
    accounts = _lines(*own, needed=False) if account else []
    if accounts and account.lower() not in map(str.lower, accounts):
        what = f"you have no account {account!r}"
        raise RunError(what, where=where, mend=nearest(account, accounts))
    names = str(asked.get("slurm_partition", ""))
    there = _lines("sinfo", "-h", "-o", "%R")
    for name in filter(None, names.split(",")):
        if name not in there:
            what = f"there is no partition {name!r}"
            raise RunError(what, where=where, mend=nearest(name, there))
    at = f"partition {names}" if names else "the cluster"
    among = ["-p", names] if names else []
    # A line for each kind of node.
    kinds = [line.split("|") for line in _lines("sinfo", "-h", *among, "-o", "%l|%D|%G")]
    runtime = _number(asked, "runtime")
    longest = max((_minutes(limit) for limit, _, _ in kinds), default=runtime)
    if runtime > longest:
        raise RunError(
            f"a job asks for {runtime} minutes, {at} allows {longest:.0f}",
            where=where,
            mend="set a shorter runtime: a training goes on in the next job",
        )
    model, nodes = str(asked.get("gpu_model", "")), max(1, _number(asked, "nodes"))
    gpus = -(-_number(asked, "gpu") // nodes)
    fit = sum(int(count) for _, count, gres in kinds if not gpus or _gpus(gres, model) >= gpus)
    if fit < nodes:
        of = f" with {gpus} GPUs" + f" of model {model!r}" * bool(model) if gpus else ""
        have = " ".join(sorted({gres for _, _, gres in kinds if _gpus(gres)})) or "no GPUs"
        raise RunError(
            f"a job asks for {nodes} nodes{of}, {at} has {fit}",
            where=where,
            mend=f"its nodes have {have}" if gpus else "ask for fewer",
        )


def wait_for_jobs(folder: Path, say: Callable[[str], None], every_s: float = 10.0) -> None:
    """Wait for the jobs in a folder that a Snakemake which was killed has left in the queue.

    They are not cancelled, since they keep their place in it and what they finish counts.

    Args:
        folder: where Snakemake was started.
        say: is told what is waited for, once.
        every_s: seconds between two looks.
    """
    told = False
    while left := _jobs_in(folder):
        if not told:
            numbers = " ".join(left)
            say(
                f"waiting for jobs of an earlier start, which Slurm still has: {numbers} "
                f"(or end them: scancel {numbers})"
            )
            told = True
        time.sleep(every_s)


def without_environment(logs: Path, since: float) -> list[str]:
    """A line for each job whose node did not see this environment.

    Snakemake can say nothing of it, since it did not start there; Slurm's log of the job can.

    Args:
        logs: folder of Slurm's logs (.snakemake/slurm_logs).
        since: seconds since 1970; older logs are of earlier starts.
    """
    python = re.escape(sys.executable)
    missing = re.compile(rf"{python}: (?:not found|No such file or directory)$", re.MULTILINE)
    found = []
    for log in sorted(logs.rglob("*.log")):
        if log.stat().st_mtime >= since and missing.search(log.read_text(errors="replace")):
            node = " ".join(_lines("sacct", "-nPXj", log.stem, "-o", "nodelist", needed=False))
            found.append(
                f"job {log.stem}: node {node or '?'} does not see {sys.executable}; have the "
                f"environment where all nodes do, or add --exclude={node or 'NODE'} by slurm_extra"
            )
    return found


def _jobs_in(folder: Path) -> list[str]:
    """Numbers of Snakemake's jobs in a folder, those of an array once."""
    lines = _lines("squeue", "-h", "-u", getpass.getuser(), "-o", "%F|%j|%Z")
    jobs = [line.split("|", 2) for line in lines]
    return sorted(
        {number for number, name, at in jobs if name.startswith(JOB_NAME) and Path(at) == folder},
        key=int,
    )


def _lines(*command: str, needed: bool = True) -> list[str]:
    """What a command of Slurm says; of one that is not needed, nothing where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        raise RunError(
            "there is no such program here",
            where=command[0],
            mend="start on a login node of the cluster",
        ) from None
    except subprocess.TimeoutExpired:
        raise RunError("no answer in a minute", where=command[0], mend="try again later") from None
    if done.returncode and needed:
        raise RunError(done.stderr.strip() or "failed", where=command[0], mend="try again later")
    return [] if done.returncode else done.stdout.split("\n")[:-1]


def _number(asked: Mapping[str, int | str], name: str) -> int:
    """A number that is asked for; an expression is for Snakemake to evaluate, job by job."""
    value = str(asked.get(name, 0))
    return int(value) if value.isdecimal() else 0


def _minutes(limit: str) -> float:
    """A time limit as Slurm writes it: [days-][[hours:]minutes:]seconds, or none."""
    if limit in ("infinite", "n/a"):
        return float("inf")
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return 1440 * int(days or 0) + seconds / 60


def _gpus(gres: str, model: str = "") -> int:
    """GPUs of a node, by its generic resources: `gpu:a100:4(S:0-1),gpu:2`."""
    found = re.findall(r"(?:^|,)gpu(?::([^:,()]+))??:(\d+)", gres)
    return sum(int(count) for name, count in found if not model or name.lower() == model.lower())
