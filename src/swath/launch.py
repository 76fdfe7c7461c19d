"""Processes that train one run together: which of them this one is, and starting the others.

Who starts several processes tells each its place in the environment: torchrun and its like by RANK
and WORLD_SIZE, Slurm's `srun` by SLURM_PROCID and SLURM_STEP_NUM_TASKS. A Slurm job whose step has
one task is as a laptop is. Where nobody has started the others, the first does so itself, on its
own machine. What they say to each other is `swath.learn.together`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from swath.errors import RunError, StoppedError, SwathError

log = logging.getLogger(__name__)

MEET = "SWATH_MEET"
"""Names the file by which the processes that swath has started find each other."""
GRACE_S = 10.0
"""How long the others may take to end by themselves once one has."""


@dataclass(frozen=True)
class Place:
    """Which process this is of those that train together."""

    rank: int = 0
    size: int = 1
    local: int = 0
    """Its rank among those of its machine."""
    by: str = ""
    """Who has started them: torchrun, srun, swath; empty of one alone."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, and tells."""
        return self.rank == 0


def place(environ: Mapping[str, str] = os.environ) -> Place:
    """The place that the environment gives this process; alone, where it names no others."""
    if (size := _number(environ, "WORLD_SIZE", 1)) > 1 and "RANK" in environ:
        by = "swath" if MEET in environ else "torchrun"
        return Place(_number(environ, "RANK"), size, _number(environ, "LOCAL_RANK"), by)
    # SLURM_NTASKS is what a job has room for, also where one process alone was started in it.
    if (size := _number(environ, "SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environ:
        rank, local = _number(environ, "SLURM_PROCID"), _number(environ, "SLURM_LOCALID")
        return Place(rank, size, local, "srun")
    return Place()


def _number(environ: Mapping[str, str], name: str, absent: int = 0) -> int:
    """A number of the environment; one that is empty is absent."""
    value = environ.get(name) or str(absent)
    if not value.isdecimal():
        raise RunError(f"{value!r} is no number", where=name, mend="unset it")
    return int(value)


def place_of(wanted: int | None, possible: int, environ: Mapping[str, str] = os.environ) -> Place:
    """The place of this process among as many as are wanted.

    Args:
        wanted: processes in all; None takes those that were started, or else as many as possible.
        possible: processes that this machine has devices for.
        environ: the environment.

    Raises:
        RunError: another number was started.
    """
    here = place(environ)
    if here.size == 1:
        size = possible if wanted is None else wanted
        return Place(size=size, by="swath" if size > 1 else "")
    if wanted not in (None, here.size):
        asked = "1 process was" if wanted == 1 else f"{wanted} processes were"
        raise RunError(
            f"{asked} asked for, {here.by} has started {here.size}",
            where="--processes",
            mend=f"give --processes {here.size}, or have {here.by} start {wanted}",
        )
    return here


@contextmanager
def with_others(here: Place, command: Sequence[str]) -> Iterator[None]:
    """The other processes run beside the block, and end with it, however it ends.

    Starts them where nobody has: each runs the command with its place in the environment. Their
    standard input is a pipe that nothing is written to: its end is the end of this process, which
    they do not outlive (see `end_with_the_first`).

    Raises:
        RunError: one of them has ended before the block did.
    """
    if here.size == 1 or not here.first or here.by != "swath":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="swath-") as folder:
        os.environ[MEET] = str(Path(folder) / "meet")
        if sys.platform == "linux":  # they talk to nobody outside this machine
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        size = str(here.size)
        children = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size},
            )
            for rank in map(str, range(1, here.size))
        ]
        over = threading.Event()
        threading.Thread(target=_watch, args=(children, over), daemon=True).start()
        try:
            yield
            _wait(children)
        except StoppedError:
            _wait(children)  # stopped as this one is
            raise
        except Exception as failed:
            if ended := _first_that_failed(children):
                raise RunError(f"{ended}; what it said is above", mend=GOES_ON) from failed
            raise
        finally:
            over.set()
            for child in children:
                child.kill()
                child.wait()
            del os.environ[MEET]


GOES_ON = "started again, the run goes on from its last checkpoint"


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)


def _first_that_failed(children: Sequence[subprocess.Popen[bytes]]) -> str:
    """What became of the first that ended of itself, and not as one that was stopped."""
    # It is heard of by its closed connections before it is gone. Those that have met what this one
    # has wait longer before they end.
    limit = time.monotonic() + 1.0
    for number, child in enumerate(children, start=2):
        with suppress(subprocess.TimeoutExpired):
            if (code := child.wait(max(0.0, limit - time.monotonic()))) not in (
                0,
                StoppedError.exit_code,
            ):
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"process {number} of {len(children) + 1} has ended with {how}"
    return ""


def _watch(children: Sequence[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """End this process where another has failed and it has not heard of it: it would hang."""
    failed = ""
    while not failed and not over.wait(0.5):
        if any(child.poll() is not None for child in children):
            failed = _first_that_failed(children)
    if failed and not over.wait(GRACE_S):
        for child in children:
            child.kill()
        log.error("error: %s; what it said is above; %s", failed, GOES_ON)
        logging.shutdown()
        os._exit(SwathError.exit_code)


def end_with_the_first() -> None:
    """Let this process end where that which has started it does, killed or not."""
    if place().first or MEET not in os.environ:
        return

    def listen() -> None:
        while os.read(0, 1):
            pass
        os._exit(SwathError.exit_code)

    threading.Thread(target=listen, daemon=True).start()
