"""What the processes of a run say to each other, so that together they learn as one would.

Each has a share of every batch and passes it through its own copy of the network. The answers of
all are gathered, so every process has the loss of the whole batch, whichever loss it is, and
measures the same; each gradient has its own patches' part, and the sum of them is the batch's.
(Torch's DistributedDataParallel takes the mean of the processes' gradients instead. It differs from
that where shares are uneven, labels lack, classes are weighted, or a loss is no mean over patches,
as Dice.) From there all go on alike: weights, average, schedule, history and early stopping are the
same on each, and the first alone writes them.

What is drawn inside a network, as for dropout, each draws for its own share. All else equals one
process up to the rounding of sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment  # type: ignore[attr-defined]
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from swath.errors import RunError
from swath.launch import GOES_ON, MEET, Place
from swath.learn.batches import share

TIMEOUT = timedelta(minutes=10)
"""How long one waits for the others: as long as the slowest checkpoint takes, and a choice of the
precision."""


class Together:
    """The processes that train one run; alone, each of these is what it would be without them.

    Args:
        place: which of them this is.
    """

    def __init__(self, place: Place) -> None:
        self.rank, self.size, self.first = place.rank, place.size, place.first
        self.local = place.local
        self.dividing = False
        """Whether a network is being passed a share of a batch, and not a whole one."""

    def divides(self, patches: int) -> bool:
        """Whether each has its share of a batch of so many patches, or all of them have it all."""
        return 1 < self.size <= patches

    @contextmanager
    def passing(self, patches: int) -> Iterator[None]:
        """A batch of so many patches, of all processes, passes the network."""
        self.dividing = self.divides(patches)
        try:
            yield
        finally:
            self.dividing = False

    def gathered(self, mine: Tensor, patches: int) -> Tensor:
        """The rows of a whole batch, in its order, from every process's share.

        Args:
            mine: (patch, …) of this process; they alone carry a gradient.
            patches: in the batch.
        """
        if not self.divides(patches):
            return mine
        shares = [share(patches, rank, self.size) for rank in range(self.size)]
        most = max(own.stop - own.start for own in shares)
        sent = mine.new_zeros((most, *mine.shape[1:]))
        sent[: len(mine)] = mine.detach()
        parts = [torch.empty_like(sent) for _ in shares]
        self._say(lambda: distributed.all_gather(parts, sent))
        parts = [part[: own.stop - own.start] for part, own in zip(parts, shares, strict=True)]
        parts[self.rank] = mine
        return torch.cat(parts)

    def part(self, loss: Tensor, patches: int) -> Tensor:
        """This process's part of a loss that all have: a batch that all have whole counts once."""
        return loss if self.size == 1 or self.divides(patches) else loss / self.size

    def add_gradients(self, network: nn.Module) -> None:
        """Sum the gradients of all processes, in one buffer; where one has none, it is 0."""
        if self.size == 1:
            return
        trained = [p for p in network.parameters() if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        buffer = torch.cat([grad.flatten() for grad in grads])
        self._say(lambda: distributed.all_reduce(buffer))
        ends = buffer.split([grad.numel() for grad in grads])
        for weight, grad, summed in zip(trained, grads, ends, strict=True):
            weight.grad = grad.copy_(summed.view_as(grad))

    def summed(self, mine: Tensor) -> Tensor:
        """The sum over all processes, through which gradients pass."""
        found: Tensor = _Summed.apply(mine, self)
        return found

    def any(self, mine: bool) -> bool:
        """Whether it is so for any of them."""
        if self.size == 1:
            return mine
        flag = torch.tensor(int(mine))
        self._say(lambda: distributed.all_reduce(flag, distributed.ReduceOp.MAX))
        return bool(flag)

    def told(self, mine: Any) -> list[Any]:
        """What each of them says, by rank."""
        if self.size == 1:
            return [mine]
        said = [None] * self.size
        self._say(lambda: distributed.all_gather_object(said, mine))
        return said

    def agree(self, what: str, mine: Any) -> None:
        """Refuse to go on where a process has something else than the first.

        Raises:
            RunError: naming both.
        """
        said = self.told(mine)
        for rank, each in enumerate(said):
            if each != said[0]:
                raise RunError(
                    f"process {rank + 1} of {self.size} has {what} {each}, the first has {said[0]}",
                    mend="start all with the same files and command",
                )

    def as_the_first(self, network: nn.Module) -> None:
        """Give all the weights and buffers of the first."""
        if self.size > 1:
            for value in network.state_dict().values():
                whole = value.contiguous()
                self._say(partial(distributed.broadcast, whole, 0))
                value.copy_(whole)

    def normalise_batches(self, network: nn.Module) -> None:
        """Let its batch normalisation see whole batches, and not this process's share of them.

        Raises:
            RunError: a layer is of a kind that is not known.
        """
        if self.size == 1:
            return
        for name, layer in network.named_modules():
            if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
                layer.__class__ = _WholeBatchNorm
                layer.process_group = None
                layer.together = self
            elif isinstance(layer, _BatchNorm):
                raise RunError(
                    f"{type(layer).__name__} cannot normalise a batch that processes share",
                    where=f"layer {name}",
                    mend="give --processes 1, or another model",
                )

    def _say(self, what: Callable[[], Any]) -> None:
        try:
            what()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as lost:
            raise RunError(
                f"process {self.rank + 1} of {self.size} has lost the others "
                f"({str(lost).splitlines()[0]})",
                mend=f"see what they said; {GOES_ON}",
            ) from lost


class _Summed(torch.autograd.Function):
    """A sum over processes: what each adds counts in the sums of all, so its gradient is theirs."""

    @staticmethod
    def forward(context: Any, mine: Tensor, together: Together) -> Tensor:
        context.together = together
        total = mine.clone()
        together._say(lambda: distributed.all_reduce(total))
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        context.together._say(lambda: distributed.all_reduce(total))
        return total, None


class _WholeBatchNorm(nn.SyncBatchNorm):
    """Batch normalisation by the statistics of the whole batch; torch's own knows GPUs alone."""

    together: Together

    def forward(self, image: Tensor) -> Tensor:
        """The image normalised, (patch, channel, …)."""
        if not (self.training and self.together.dividing):
            return _BatchNorm.forward(self, image)
        if image.is_cuda:
            return super().forward(image)
        x = image.float()
        along = [n for n in range(x.ndim) if n != 1]
        shape = [-1 if n == 1 else 1 for n in range(x.ndim)]
        count = x.new_tensor([x.numel() // x.shape[1]])
        both = self.together.summed(torch.cat([x.sum(along), count]))
        mean, count = both[:-1] / both[-1], both[-1].detach()
        centred = x - mean.view(shape)
        variance = self.together.summed(centred.square().sum(along)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        x = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(image.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Take a batch's statistics into the running ones, as `nn.BatchNorm2d` does."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked += 1
        step = self.momentum
        if step is None:
            step = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(variance, step)


@contextmanager
def joined(place: Place, device: str, run: Sequence[Any]) -> Iterator[Together]:
    """The processes of a run, joined; a run of one process joins nobody.

    Args:
        place: which of them this is.
        device: cpu or gpu; GPUs speak by NCCL, processors by Gloo.
        run: what it is known by, in which all have to agree.

    Raises:
        RunError: not as many came as were asked for, or they train different runs.
    """
    together = Together(place)
    if place.size == 1:
        yield together
        return
    if place.by == "srun":
        nodes = os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1")
        address = SLURMEnvironment.resolve_root_node_address(nodes)
        os.environ.setdefault("MASTER_ADDR", address)
        # All know it without asking; steps that run at once in a job have each its own.
        number = 31 * int(os.environ.get("SLURM_JOB_ID", 0))
        number += int(os.environ.get("SLURM_STEP_ID", 0))
        os.environ.setdefault("MASTER_PORT", str(15_000 + number % 15_000))
    try:
        distributed.init_process_group(
            backend="cpu:gloo,cuda:nccl" if device == "gpu" else "gloo",
            init_method=f"file://{os.environ[MEET]}" if place.by == "swath" else "env://",
            rank=place.rank,
            world_size=place.size,
            timeout=TIMEOUT,
        )
    except (RuntimeError, ValueError) as failed:
        raise RunError(
            f"process {place.rank + 1} of {place.size}, started by {place.by}, has not found the "
            f"others ({str(failed).splitlines()[0]})",
            mend="see whether all were started, and can reach MASTER_ADDR at MASTER_PORT",
        ) from failed
    try:
        came = torch.ones(1, device="cuda" if device == "gpu" else "cpu")
        together._say(lambda: distributed.all_reduce(came))
        if int(came) != place.size:
            raise RunError(
                f"{place.size} processes were asked for, {int(came)} train",
                where="--processes",
                mend="see how they were started",
            )
        together.agree("the run", list(run))
        yield together
    finally:
        distributed.destroy_process_group()
