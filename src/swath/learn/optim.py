"""Optimizers by name, the schedule of the learning rate, averaged weights, and when to stop.

An optimizer is one function of the parameters, lr and weight decay; its keyword arguments are the
settings that it alone has. Those that all share are `swath.settings.Optim`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from swath import registry
from swath.registry import Decay, registered

Groups = list[dict[str, Any]]
"""Parameters in groups, each with its own weight decay."""

ONECYCLE_WARMUP = 0.2


@registered("optim")
def adamw(groups: Groups, lr: float, *, beta1: Decay = 0.9, beta2: Decay = 0.999) -> Optimizer:
    """Adam whose weight decay is apart from the gradient.

    Source:
        Loshchilov, Hutter: Decoupled Weight Decay Regularization, ICLR 2019 (arXiv:1711.05101).
    """
    return AdamW(groups, lr=lr, betas=(beta1, beta2))


@registered("optim")
def adam(groups: Groups, lr: float, *, beta1: Decay = 0.9, beta2: Decay = 0.999) -> Optimizer:
    """Adam; weight decay is a part of the gradient.

    Source:
        Kingma, Ba: Adam, ICLR 2015 (arXiv:1412.6980).
    """
    return Adam(groups, lr=lr, betas=(beta1, beta2))


@registered("optim")
def sgd(groups: Groups, lr: float, *, momentum: Decay = 0.9, nesterov: bool = True) -> Optimizer:
    """Stochastic gradient descent with momentum, by default Nesterov's.

    Source:
        Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in deep
        learning, ICML 2013, equations 1 to 4.
    """
    # Without momentum Nesterov's is plain descent, which torch would refuse.
    return SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0)


@registered("optim")
def rmsprop(
    groups: Groups, lr: float, *, alpha: Decay = 0.99, momentum: Decay = 0.0, centered: bool = False
) -> Optimizer:
    """RMSProp: the gradient by the root of its mean square, or by its deviation if centered.

    Source:
        Tieleman, Hinton: Lecture 6.5, COURSERA Neural Networks for Machine Learning, 2012;
        centered as in Graves 2013 (arXiv:1308.0850), equations 38 to 41.
    """
    return RMSprop(groups, lr=lr, alpha=alpha, momentum=momentum, centered=centered)


def prepare(network: nn.Module, section: dict[str, Any], steps: int) -> tuple[Optimizer, LambdaLR]:
    """The optimizer that a section names, and its schedule over so many of its steps.

    Weight decay is for matrices and kernels alone: not for biases and normalisation.
    """
    own = registry.entry("optim", section["name"]).settings
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": section["weight_decay"]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    made: Optimizer = registry.load("optim", section["name"])(
        groups, section["lr"], **{key: section[key] for key in own}
    )
    cycles = (section["cycles"], section["growth"])
    factor = schedule(section["schedule"], section["warmup"], section["min_lr"], steps, cycles)
    return made, LambdaLR(made, factor)


def schedule(
    name: str,
    warmup: float | None,
    min_lr: float,
    steps: int,
    cycles: tuple[int, int] = (1, 2),
) -> Callable[[int], float]:
    """Share of the largest learning rate at each step.

    All rise in a straight line through the warm-up; then `onecycle` and `cosine` fall by half a
    cosine, `restarts` does so in each of its cycles, and `constant` stays.

    Args:
        name: onecycle, cosine, restarts or constant.
        warmup: share of the steps in which the rate rises; None is 0.2 for onecycle, else 0.
        min_lr: share of the largest rate that is left at the end of a cosine.
        steps: steps of the optimizer in all.
        cycles: how many restarts has, and how many times as long a run is at the end of each as at
            that of the one before.

    Source:
        Loshchilov, Hutter: SGDR, ICLR 2017 (arXiv:1608.03983), equation 5. There a cycle is so many
        times as long as the one before; here the run is, as it is with the rungs of a study.
    """
    if warmup is None:
        warmup = ONECYCLE_WARMUP if name == "onecycle" else 0.0
    rise = round(warmup * steps)
    if name == "onecycle":
        rise = max(1, rise)
    count, growth = cycles if name == "restarts" else (1, 1)
    ends = [round(steps / growth**later) for later in reversed(range(count))]

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        if name == "constant":
            return 1.0
        end = next((end for end in ends if step < end), steps)
        begin = max([rise, *(earlier for earlier in ends if earlier < end)])
        fall = min(1.0, (step - begin) / max(1, end - begin))
        return min_lr + (1 - min_lr) * 0.5 * (1 + math.cos(math.pi * fall))

    return factor


class Averaged(nn.Module):
    """A network whose weights are the exponential moving average of another's.

    After n earlier updates the decay is min(decay, (1 + n) / (10 + n)), so that the first weights
    are soon forgotten. Statistics of batch normalisation are averaged as the weights are: those
    of the last weights alone would not be what the averaged network sees in its layers. What is
    counted in whole numbers is copied.

    Args:
        network: the network that is trained.
        decay: share of the average that an update keeps.

    Source:
        Polyak, Juditsky 1992 (doi:10.1137/0330046) for averaging; the decay of the first updates as
        in TensorFlow's `ExponentialMovingAverage`.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, earlier: int) -> None:
        """Take in the weights of `network`, after so many earlier updates."""
        keep = min(self.decay, (1 + earlier) / (10 + earlier))
        mine, theirs = (list(_state(of)) for of in (self.network, network))
        real = [n for n, value in enumerate(mine) if value.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in real], [theirs[n] for n in real], 1 - keep)
        for n in set(range(len(mine))) - set(real):
            mine[n].copy_(theirs[n])


def _state(network: nn.Module) -> Sequence[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def has_stalled(values: Sequence[float], patience: int | None) -> bool:
    """Whether none of the last `patience` epochs was better than the best before them.

    Args:
        values: by epoch; the larger the better, and the first of equal ones is the best.
        patience: epochs; None never stops.
    """
    if patience is None or not len(values):
        return False
    best = max(range(len(values)), key=lambda epoch: values[epoch])
    return len(values) - 1 - best >= patience
