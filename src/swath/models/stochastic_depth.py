"""Stochastic depth: residual branches that are left out in training, for a patch at a time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class StochasticDepth(nn.Module):
    """A residual branch, left out for a share of the patches of a batch; (batch, …) -> the same.

    In training each patch's branch is dropped with probability `rate` and else divided by
    1 - rate, so that its expectation is the branch itself, which evaluation answers.

    Source:
        Huang, Sun, Liu, Sedra, Weinberger: Deep Networks with Stochastic Depth, ECCV 2016
        (arXiv:1603.09382), section 3; for each patch, where they drop for a whole batch, and with
        the branch scaled in training, where they scale it in testing (equation 5).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """The branch (batch, …), 0 or divided by 1 - rate for each patch."""
        if not self.training or not self.rate:
            return branch
        one_a_patch = branch.new_ones(len(branch), *(1,) * (branch.ndim - 1))
        return branch * F.dropout(one_a_patch, self.rate)

    def extra_repr(self) -> str:
        """The rate, as the network is printed."""
        return f"rate={self.rate:g}"


def rates(last: float, blocks: int) -> list[float]:
    """The rate of each block: a straight line from 0 at the input to `last` at the last block.

    Source:
        arXiv:1603.09382, equation 4.
    """
    return [last * number / blocks for number in range(1, blocks + 1)]
