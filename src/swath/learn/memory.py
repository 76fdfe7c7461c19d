"""Out of memory: known by what is raised, and answered with the batch size that has room."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from swath.errors import RunError


@contextmanager
def enough_memory(batch_size: int, step: Callable[[int], None]) -> Iterator[None]:
    """Turn what is raised for want of memory into one line that names the batch size that fits.

    Args:
        batch_size: of the block that is watched.
        step: trains a step with another batch size, and keeps nothing.

    Raises:
        RunError: the block ran out of memory.
    """
    try:
        yield
    except Exception as failed:
        if not _may_be_want_of_memory(failed):
            raise
        # The frames that failed hold the very tensors for which there was no room.
        traceback.clear_frames(failed.__traceback__)
        size = _largest_that_fits(batch_size, step)
        if not size and not isinstance(failed, torch.OutOfMemoryError | MemoryError):
            raise
        raise RunError(
            f"{_where()} has too little memory for batches of {batch_size}"
            + (f"; {size} fit" if size else ", and for one patch"),
            where=f"trainer.batch_size={batch_size}",
            mend=f"set trainer.batch_size={size}" if size else "take a smaller model or patches",
        ) from None


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Turn what is raised for want of memory into one line, where nothing is trained.

    Args:
        what: that which there is no room for.

    Raises:
        RunError: the block ran out of memory.
    """
    try:
        yield
    except Exception as failed:
        if not _may_be_want_of_memory(failed):
            raise
        raise RunError(
            f"has too little memory for {what}",
            where=_where(),
            mend="run it where there is more; CUDA_VISIBLE_DEVICES= leaves a GPU alone",
        ) from None


def _where() -> str:
    """Whose memory it is."""
    return torch.cuda.get_device_name() if torch.cuda.is_initialized() else "this machine"


def _largest_that_fits(batch_size: int, step: Callable[[int], None]) -> int:
    """The first of batch_size / 2, / 4, … with which a step has room; 0 where none has."""
    while batch_size := batch_size // 2:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        try:
            step(batch_size)
        except Exception as failed:
            if not _may_be_want_of_memory(failed):
                raise
            traceback.clear_frames(failed.__traceback__)
        else:
            return batch_size
    return 0


SAYS_SO = ("DefaultCPUAllocator: can't allocate", "could not create a primitive", "ALLOC_FAILED")
"""What torch, oneDNN and CUDA's libraries say; oneDNN the same where it cannot compute at all."""


def _may_be_want_of_memory(failed: Exception) -> bool:
    if isinstance(failed, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(failed, RuntimeError) and any(words in str(failed) for words in SAYS_SO)
