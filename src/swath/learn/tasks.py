"""Tasks: what is predicted, and the loss that is made small.

A task turns a network's answer (batch, class[, y, x]) and the labels into a loss. Labels are
numbers of classes (batch[, y, x]), of which 255 counts for nothing, or shares of the classes
(batch, class), as mixing makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from swath.data.card import UNLABELLED
from swath.registry import Share, registered


@dataclass(frozen=True)
class Task:
    """A task: its loss, and which kind of label it learns."""

    labels: Literal["patch", "pixel"]
    loss: Callable[[Tensor, Tensor], Tensor]


@registered("task")
def classification(*, label_smoothing: Share = 0.0) -> Task:
    """One label a patch, by cross-entropy."""
    return Task("patch", _cross_entropy(label_smoothing))


@registered("task")
def segmentation(*, label_smoothing: Share = 0.0) -> Task:
    """One label a pixel, by cross-entropy over the labelled pixels."""
    return Task("pixel", _cross_entropy(label_smoothing))


def _cross_entropy(label_smoothing: float) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(answer: Tensor, label: Tensor) -> Tensor:
        if label.is_floating_point():
            return F.cross_entropy(answer.float(), label, label_smoothing=label_smoothing)
        return F.cross_entropy(
            answer.float(), label, ignore_index=UNLABELLED, label_smoothing=label_smoothing
        )

    return loss
