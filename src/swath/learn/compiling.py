"""The forward and backward pass of the training compiled by `torch.compile`, where that gains time.

Only training steps are compiled. What is validated, kept, mapped and exported is the plain network,
whose weights they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from swath.errors import RunError

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]

BACKEND = "inductor"
LEAST_S = 1800.0
"""Seconds that a run's steps take as they are, below which compiling is not even tried: it takes
about a minute, and on a CPU a step gains a quarter at the best."""
ATTEMPTS = 4
"""How often a run may have to compile: at its start, and in each attempt that goes on."""


def compiled(
    network: nn.Module,
    image: Tensor,
    *,
    precision: str,
    force: bool,
    required: bool,
    steps: int,
) -> Forward | None:
    """The forward pass of a network, compiled for batches as `image`; None where it does not pay.

    A step is timed as it is. Where all steps take at least `LEAST_S`, it is compiled and timed
    again, and that is taken if all steps gain more than it costs to compile in `ATTEMPTS` attempts.
    Where it cannot be compiled, it goes without.

    A batch of another shape, as the last of an epoch, goes through the plain network: compiling for
    it would take as long again.

    Args:
        network: in training mode, on the device and in the layout of the training. It is left as
            it was, and random numbers are, too.
        image: a batch, (batch, band, y, x).
        precision: bf16 or fp32.
        force: compile, whatever it costs and gains.
        required: whether it is an error that it cannot be compiled.
        steps: of the whole run.

    Raises:
        RunError: it is required, and cannot be.
    """
    with _untouched(network, image):
        # The first step of a device takes longer than any other.
        plain_s = min(step_s(network, network, image, precision) for _ in range(2))
        if not force and steps * plain_s < LEAST_S:
            return None
        fast = _function(network)
        start = time.perf_counter()
        try:
            step_s(fast, network, image, precision)
        except Exception as failed:
            reason = (str(failed).strip() or type(failed).__name__).splitlines()[0]
            if not required:
                log.info("a step is not compiled: %s", reason)
                return None
            raise RunError(
                f"torch.compile cannot compile here ({reason})",
                where="trainer.compile",
                mend="install a C++ compiler (on a GPU also triton), or set it to false",
            ) from None
        cost_s = time.perf_counter() - start
        if not force:
            both = [
                [step_s(way, network, image, precision) for way in (network, fast)]
                for _ in range(4)
            ]
            plain_s, fast_s = map(min, zip(*both, strict=True))
            log.info(
                "a step: %.1f ms, compiled in %.0f s: %.1f ms",
                plain_s * 1e3, cost_s, fast_s * 1e3,
            )  # fmt: skip
            if steps * (plain_s - fast_s) < ATTEMPTS * cost_s:
                return None
    return lambda batch: fast(batch) if batch.shape == image.shape else network(batch)


def step_s(forward: Forward, network: nn.Module, image: Tensor, precision: str) -> float:
    """Seconds for one forward and backward pass."""
    network.zero_grad(set_to_none=True)
    start = time.perf_counter()
    # The cache of autocast as Lightning has it; else the first step would be compiled once more.
    bf16 = precision == "bf16"
    with torch.autocast(image.device.type, torch.bfloat16, enabled=bf16, cache_enabled=not bf16):
        answer = forward(image)
    answer.float().square().mean().backward()
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _function(network: nn.Module) -> Forward:
    """The network as a function that is compiled when it is called.

    Not `network.compile()`, which in silence leaves out what torch itself defines, `nn.Sequential`
    too; and not `torch.compile(network)`, a module whose weights have other names.
    """
    # What earlier runs of this process have compiled counts towards a limit, beyond which torch
    # would go on without compiling.
    torch.compiler.reset()

    def forward(image: Tensor) -> Tensor:
        answer: Tensor = network(image)
        return answer

    return torch.compile(forward, dynamic=False, backend=BACKEND)


@contextmanager
def _untouched(network: nn.Module, image: Tensor) -> Iterator[None]:
    """Weights, statistics of normalisation and random numbers are after the block as before it."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.random.fork_rng([image.device] if image.is_cuda else []):
        try:
            yield
        finally:
            network.zero_grad(set_to_none=True)
            network.load_state_dict(before)
