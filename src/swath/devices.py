"""The GPUs of this machine, of which each process takes its own.

Where several jobs run on one machine beside each other, nobody else deals its GPUs to them: a
process takes those that no other holds. The lock is the kernel's, so it ends with the process,
however that ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from swath.errors import RunError

log = logging.getLogger(__name__)

_held: list[int] = []
"""Descriptors of the locks of this process, kept open to its end."""


def gpus_here(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The NVIDIA GPUs that a process on this machine may use, as CUDA_VISIBLE_DEVICES names them.

    Asks the driver, not torch, whose import takes seconds. For other makes say `--resources gpu=N`
    and `--default-resources site_gpu=1`.
    """
    if (named := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def take(count: int, *, locks: Path | None = None, wait_s: float = 2.0) -> list[str]:
    """Take so many GPUs for this process and those that it starts; waits until they are free.

    To be called before CUDA starts. Where Slurm has dealt devices to this job, they are its own.

    Args:
        count: of GPUs; 0 takes none and hides none.
        locks: folder of the locks, which all processes of the machine share.
        wait_s: seconds between two looks.

    Raises:
        RunError: the machine has fewer.
    """
    if not count or "SLURM_JOB_ID" in os.environ:
        return []
    here = gpus_here()
    if len(here) < count:
        raise RunError(
            f"{count} GPUs are asked for, this machine has {len(here)}",
            where="--gpus",
            mend="ask for fewer: snakemake --default-resources site_gpu=0 trains on processors",
        )
    locks = locks or Path(tempfile.gettempdir())
    told = False
    while True:
        taken = {name: held for name in here if (held := _lock(locks / f"swath-gpu-{name}.lock"))}
        for name in list(taken)[count:]:
            os.close(taken.pop(name))
        if len(taken) == count:
            _held.extend(taken.values())
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return list(taken)
        # Those who want several give back what they have, or two would wait for each other.
        for held in taken.values():
            os.close(held)
        if not told:
            log.info("waiting for %s of %s GPUs, which other runs hold", count, len(here))
            told = True
        time.sleep(wait_s)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock; None where another process does."""
    try:
        # Reading is enough for a lock; another user's file cannot be written.
        held = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        held = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
