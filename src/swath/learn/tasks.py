"""Tasks: what is learnt, the loss that is made small, and what an epoch is judged by.

A loss takes a network's answer (batch, class[, y, x]), the labels and a weight for each class.
Labels are numbers of classes (batch[, y, x]), of which 255 counts for nothing, or shares of the
classes (batch, class), as mixing makes them; those of several classes a patch are 0 or 1 by class.
Where a number is learnt, the network's one channel answers it in standard deviations from the mean
of the training part, and a label that is NaN counts for nothing.
All losses are weighted means, so the scale of the weights does not matter, and what is unlabelled
changes nothing: a batch without any label costs 0, with a gradient of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities.data import dim_zero_cat

from swath.data.card import UNLABELLED
from swath.errors import RunError
from swath.learn.networks import in_unit
from swath.registry import NonNegative, Positive, Share, registered

TINY = torch.finfo(torch.float32).tiny
BASE = 1e-6
"""Least base of a focusing power: below an exponent of 1 its slope at 0 is infinite."""

Contents = NDArray[np.int64]
Floats = NDArray[np.float64]
Cost = Callable[[Tensor, Tensor, Tensor], Tensor]


class Loss(nn.Module):
    """A loss and the weights of its classes, which go to a device once, with the network."""

    weights: Tensor

    def __init__(self, cost: Cost, weights: Tensor) -> None:
        super().__init__()
        self.cost = cost
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, answer: Tensor, label: Tensor) -> Tensor:
        """The mean loss in float32, whatever precision the network answers in."""
        return self.cost(answer.float(), label, self.weights.to(answer.device))


@dataclass(frozen=True)
class Task:
    """A task: the kind of label that it learns, its loss, and how it measures itself."""

    labels: Literal["patch", "several", "pixel", "number"]
    """`number` may belong to a patch or a pixel."""
    loss: Loss
    metrics: MetricCollection
    """What an epoch's validation reports as val/<name>, from `decide` and the labels."""
    monitor: str
    """The one of them that decides about the best epoch; the larger the better."""
    decide: Callable[[Tensor], Tensor]
    """From answers to what the metrics judge: classes, a probability for each of several, or
    numbers."""
    scale: tuple[float, float] | None = None
    """Mean and standard deviation of the numbers of the training part, where numbers are learnt."""


@registered("task")
def classification(
    contents: Contents,
    classes: Sequence[str],
    *,
    loss: Literal["cross_entropy", "focal", "perceptron"] = "cross_entropy",
    label_smoothing: Share = 0.0,
    gamma: NonNegative = 2.0,
    class_weights: Literal["none", "balanced", "effective"] = "none",
    beta: Share = 0.9999,
    monitor: Literal["accuracy", "macro_f1"] = "accuracy",
) -> Task:
    """One label a patch, the class of the scene that it shows.

    Args:
        contents: what the training part holds of each class, (patch, class).
        classes: class names.
        loss: see `cross_entropy`, `focal` and `perceptron`.
        label_smoothing: share of each label that is spread evenly over all classes; not for the
            perceptron's.
        gamma: focusing exponent of the focal loss.
        class_weights: see `weights_of`.
        beta: of `effective` weights.
        monitor: what decides about the best epoch.
    """
    weights = weights_of(contents, classes, class_weights, beta)
    cost = _single(loss, label_smoothing, gamma)
    return Task("patch", Loss(cost, weights), _metrics(classes), f"val/{monitor}", _class)


@registered("task")
def segmentation(
    contents: Contents,
    classes: Sequence[str],
    *,
    loss: Literal[
        "cross_entropy", "focal", "perceptron", "dice", "cross_entropy_dice"
    ] = "cross_entropy",
    label_smoothing: Share = 0.0,
    gamma: NonNegative = 2.0,
    class_weights: Literal["none", "balanced", "effective"] = "none",
    beta: Share = 0.9999,
    monitor: Literal["accuracy", "macro_f1", "miou"] = "accuracy",
) -> Task:
    """One label a pixel; what is unlabelled counts for nothing.

    Args:
        contents: labelled pixels of each class in the training part, (patch, class).
        classes: class names.
        loss: see `cross_entropy`, `focal`, `perceptron` and `dice`; `cross_entropy_dice` is the sum
            of two.
        label_smoothing: share of each label that is spread evenly over all classes; not for the
            perceptron's and Dice.
        gamma: focusing exponent of the focal loss.
        class_weights: see `weights_of`.
        beta: of `effective` weights.
        monitor: what decides about the best epoch.
    """
    weights = weights_of(contents, classes, class_weights, beta)
    cost = _single(loss, label_smoothing, gamma)
    metrics = _metrics(classes, miou=MulticlassJaccardIndex(len(classes), **_IGNORING))
    return Task("pixel", Loss(cost, weights), metrics, f"val/{monitor}", _class)


@registered("task")
def multilabel(
    contents: Contents,
    classes: Sequence[str],
    *,
    loss: Literal["binary_cross_entropy", "focal", "asymmetric"] = "binary_cross_entropy",
    gamma: NonNegative = 2.0,
    gamma_positive: NonNegative = 0.0,
    gamma_negative: NonNegative = 4.0,
    margin: Share = 0.05,
    class_weights: Literal["none", "balanced", "effective"] = "none",
    beta: Share = 0.9999,
    monitor: Literal["accuracy", "f1_micro", "macro_f1", "map"] = "map",
) -> Task:
    """Several labels a patch: whether each class is there, by itself.

    `accuracy` is the share of right decisions (patch, class) at a probability of 1/2, `map` the
    mean over the classes of their average precision.

    Args:
        contents: whether a patch of the training part has a class, (patch, class).
        classes: class names.
        loss: each a case of `asymmetric`.
        gamma: focusing exponent of the focal loss.
        gamma_positive: focusing exponent of the asymmetric loss where a class is there.
        gamma_negative: likewise where it is not.
        margin: probability below which the asymmetric loss lets an absent class pass.
        class_weights: see `weights_of`; they weigh all that is decided of a class.
        beta: of `effective` weights.
        monitor: what decides about the best epoch.
    """
    shape = {
        "binary_cross_entropy": (0.0, 0.0, 0.0),
        "focal": (gamma, gamma, 0.0),
        "asymmetric": (gamma_positive, gamma_negative, margin),
    }[loss]
    count = len(classes)
    metrics: dict[str, Metric] = {
        "accuracy": MultilabelAccuracy(count, average="micro", **_IGNORING),
        "f1_micro": MultilabelF1Score(count, average="micro", **_IGNORING),
        "macro_f1": MultilabelF1Score(count, average="macro", **_IGNORING),
        "map": _MeanAveragePrecision(count, **_IGNORING),
    }
    return Task(
        "several",
        Loss(
            lambda answer, label, weights: asymmetric(answer, label, weights, *shape),
            weights_of(contents, classes, class_weights, beta),
        ),
        _collection(metrics),
        f"val/{monitor}",
        lambda answer: answer.float().sigmoid(),
    )


@registered("task")
def regression(
    contents: Floats,
    classes: Sequence[str],
    *,
    loss: Literal["mse", "mae", "huber"] = "mse",
    delta: Positive = 1.0,
    monitor: Literal["r2"] = "r2",
) -> Task:
    """A number a patch or a pixel.

    `rmse`, `mae` and `bias` (the mean of what was predicted too high) are in the target's unit;
    `r2` is the share of the variance of the validation part that is explained, and can be below 0.
    On one validation part the best r2 is the least rmse.

    Args:
        contents: number, sum and sum of squares of each training patch's labels (patch, 3).
        classes: the target's name.
        loss: of the difference in standard deviations: its square, its size, or, up to `delta` half
            the square and beyond it a line (Huber 1964, doi:10.1214/aoms/1177703732).
        delta: see `huber`, in standard deviations.
        monitor: what decides about the best epoch.

    Raises:
        RunError: the training part has no label, or one and the same everywhere.
    """
    count, total, squares = contents.sum(axis=0)
    mean = total / max(count, 1)
    deviation = float(np.sqrt(max(squares / max(count, 1) - mean**2, 0.0)))
    if deviation <= BASE * abs(mean) or not count:
        raise RunError(
            f"the training part has nothing but {mean:g} of {classes[0]}" if count else
            f"the training part has no label of {classes[0]}",
            where="task regression", mend="split otherwise, or mend the labels",
        )  # fmt: skip
    costs: dict[str, Callable[[Tensor], Tensor]] = {
        "mse": torch.square,
        "mae": torch.abs,
        "huber": lambda off: F.huber_loss(
            off, torch.zeros_like(off), reduction="none", delta=delta
        ),
    }
    scale = (float(mean), deviation)
    metrics: dict[str, Metric] = {name: _Deviation(name) for name in ("rmse", "mae", "bias", "r2")}
    return Task(
        "number",
        Loss(lambda answer, label, at: deviating(answer, label, at, costs[loss]),
             torch.tensor(scale)),
        _collection(metrics),
        f"val/{monitor}",
        lambda answer: in_unit(answer, scale),
        scale,
    )  # fmt: skip


def deviating(
    answer: Tensor, label: Tensor, scale: Tensor, cost: Callable[[Tensor], Tensor]
) -> Tensor:
    """The mean cost of the differences in standard deviations.

    Args:
        answer: (batch, 1[, y, x]), standardised.
        label: numbers (batch[, y, x]), NaN where there is none.
        scale: mean and standard deviation of the numbers.
        cost: of a difference.
    """
    known = label.isfinite()
    wanted = (label.where(known, scale[0]) - scale[0]) / scale[1]
    off = torch.where(known, answer.squeeze(1) - wanted, 0.0)
    return cost(off).sum() / known.sum().clamp(min=1)


def weights_of(contents: Contents, classes: Sequence[str], kind: str, beta: float) -> Tensor:
    """A weight for each class, float32 with a mean of 1, from what the training part holds.

    `balanced` is the inverse of a class's count n (King and Zeng 2001, doi:10.1093/oxfordjournals.
    pan.a004868, as in scikit-learn), `effective` the inverse of its effective number of samples
    (1 - βⁿ) / (1 - β), which is n for β = 1; `none` weighs all alike. Of labels by pixel, pixels
    are counted.

    Args:
        contents: labelled pixels of each class, or 0 and 1, (patch, class).
        classes: class names.
        kind: none, balanced or effective.
        beta: β of `effective`.

    Raises:
        RunError: a class that the training part does not have.

    Source:
        Cui, Jia, Lin, Song, Belongie: Class-Balanced Loss Based on Effective Number of Samples,
        CVPR 2019 (arXiv:1901.05555), equations 2 and 3.
    """
    if kind == "none":
        return torch.ones(len(classes))
    counts = contents.sum(axis=0).astype(np.float64)
    if absent := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise RunError(
            f"the training part has nothing of {', '.join(absent)}, which has no weight then",
            where=f"task.class_weights={kind}",
            mend="split otherwise, or set it to none",
        )
    exact = kind == "balanced" or beta == 1
    inverse = 1 / counts if exact else (1 - beta) / (1 - beta**counts)
    return torch.from_numpy(inverse / inverse.mean()).float()


# ---- one label a patch or pixel -------------------------------------------------------------


def _single(loss: str, label_smoothing: float, gamma: float) -> Cost:
    """The loss of that name with its settings."""

    def plain(answer: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        return cross_entropy(answer, label, weights, label_smoothing)

    def focused(answer: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        return focal(answer, label, weights, gamma, label_smoothing)

    def both(answer: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        return plain(answer, label, weights) + dice(answer, label, weights)

    costs: dict[str, Cost] = {
        "cross_entropy": plain, "focal": focused, "perceptron": perceptron, "dice": dice,
        "cross_entropy_dice": both,
    }  # fmt: skip
    return costs[loss]


def cross_entropy(
    answer: Tensor, label: Tensor, weights: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """-Σ w·q·ln p / Σ w·y: q is the label y, of which a share is spread evenly over the classes.

    Args:
        answer: logits (batch, class[, y, x]).
        label: numbers of classes, or shares of them.
        weights: w of each class.
        label_smoothing: the share that is spread.

    Source:
        Szegedy et al.: Rethinking the Inception Architecture, CVPR 2016 (arXiv:1512.00567), section
        7; weighted as `torch.nn.functional.cross_entropy` does with numbers of classes.
    """
    if label.is_floating_point():
        return focal(answer, label, weights, 0.0, label_smoothing)
    # What `focal` gives at γ = 0, in one pass that holds no shares in memory.
    total = F.cross_entropy(
        answer, label, weights,
        ignore_index=UNLABELLED, reduction="sum", label_smoothing=label_smoothing,
    )  # fmt: skip
    known = label != UNLABELLED
    return total / (weights[label.where(known, 0)] * known).sum().clamp(min=TINY)


def focal(
    answer: Tensor, label: Tensor, weights: Tensor, gamma: float, label_smoothing: float = 0.0
) -> Tensor:
    """-Σ w·q·(1 - p)^γ·ln p / Σ w·y: easy answers count less, and γ = 0 is the cross-entropy.

    Args:
        answer: logits (batch, class[, y, x]).
        label: numbers of classes, or shares of them.
        weights: w of each class.
        gamma: γ.
        label_smoothing: share of a label that is spread evenly over the classes.

    Source:
        Lin, Goyal, Girshick, He, Dollár: Focal Loss for Dense Object Detection, ICCV 2017
        (arXiv:1708.02002), equation 5, over a softmax, as a mean.
    """
    y = _shares(label, answer.shape[1])
    q = (1 - label_smoothing) * y + label_smoothing * y.mean(dim=1, keepdim=True)
    w = _along_classes(weights, answer)
    cost = -answer.log_softmax(dim=1)
    if gamma:
        cost = cost * (-torch.expm1(-cost)).clamp(min=BASE) ** gamma
    return (w * q * cost).sum() / (w * y).sum().clamp(min=TINY)


def perceptron(answer: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Σ w·y·max(0, r - z) / Σ w·y: r is the largest logit of the classes beside z's own.

    What is answered rightly costs nothing and moves nothing; a tie is an error. Of two classes,
    plain descent with one patch a step is Rosenblatt's rule: the difference of the two rows of
    weights moves by twice the rate times ±x.

    Args:
        answer: logits (batch, class[, y, x]).
        label: numbers of classes, or shares of them.
        weights: w of each class.

    Source:
        Rosenblatt: The perceptron, Psychological Review 65 (6), 1958 (doi:10.1037/h0042519); of
        several classes as in Crammer, Singer: Ultraconservative Online Algorithms for Multiclass
        Problems, JMLR 3, 2003, without a margin.
    """
    y = _shares(label, answer.shape[1])
    w = _along_classes(weights, answer)
    largest, which = answer.topk(2, dim=1)
    numbers = _along_classes(torch.arange(answer.shape[1], device=answer.device), answer)
    rest = torch.where(numbers == which[:, :1], largest[:, 1:], largest[:, :1])
    # At 0 the derivative of `clamp` is 1, that of `relu` 0: with it a tie would stay one.
    return (w * y * (rest - answer).clamp(min=0)).sum() / (w * y).sum().clamp(min=TINY)


def dice(answer: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """1 - the mean over the classes of 2·Σ p·y / (Σ p² + Σ y²), sums over the labelled pixels.

    Sums go over the whole batch; a class that it does not have has no part in the mean.

    Args:
        answer: logits (batch, class[, y, x]).
        label: numbers of classes, or shares of them.
        weights: of each class in the mean.

    Source:
        Milletari, Navab, Ahmadi: V-Net, 3DV 2016 (arXiv:1606.04797), section 3, class by class.
    """
    y = _shares(label, answer.shape[1])
    p = answer.softmax(dim=1) * y.sum(dim=1, keepdim=True)
    inside = [n for n in range(y.ndim) if n != 1]
    overlap, sizes = (p * y).sum(inside), (p.square() + y.square()).sum(inside)
    w = weights * (y.sum(inside) > 0)
    return (w * (1 - 2 * overlap / sizes.clamp(min=BASE))).sum() / w.sum().clamp(min=TINY)


def _shares(label: Tensor, classes: int) -> Tensor:
    """Labels as shares of the classes (batch, class[, y, x]); where unlabelled, all are 0."""
    if label.is_floating_point():
        return label
    known = label != UNLABELLED
    return F.one_hot(label.where(known, 0), classes).movedim(-1, 1).float() * known.unsqueeze(1)


def _along_classes(weights: Tensor, answer: Tensor) -> Tensor:
    return weights.view(-1, *(1 for _ in answer.shape[2:]))


# ---- several labels a patch -----------------------------------------------------------------


def asymmetric(
    answer: Tensor,
    label: Tensor,
    weights: Tensor,
    gamma_positive: float,
    gamma_negative: float,
    margin: float,
) -> Tensor:
    """-Σ w·(y·(1 - p)^γ₊·ln p + (1 - y)·pₘ^γ₋·ln(1 - pₘ)) / Σ w, where pₘ = max(p - m, 0).

    With equal exponents and no margin it is the binary focal loss, and with exponents of 0 the
    binary cross-entropy.

    Args:
        answer: logits (batch, class).
        label: y, 0 or 1 by class, or what mixing makes of them; 255 counts for nothing.
        weights: w of each class.
        gamma_positive: γ₊.
        gamma_negative: γ₋.
        margin: m.

    Source:
        Ridnik et al.: Asymmetric Loss For Multi-Label Classification, ICCV 2021 (arXiv:2009.14119),
        equations 4 to 7, as a mean.
    """
    known = label <= 1
    y = label.where(known, 0.0)
    p, q = answer.sigmoid(), (-answer).sigmoid()
    there, absent = -F.logsigmoid(answer), -F.logsigmoid(-answer)
    if margin:
        absent = -(q + margin).clamp(max=1.0).log()
    if gamma_positive:
        there = there * q.clamp(min=BASE) ** gamma_positive
    if gamma_negative:
        absent = absent * (p - margin).clamp(min=BASE) ** gamma_negative
    w = weights * known
    return (w * (y * there + (1 - y) * absent)).sum() / w.sum().clamp(min=TINY)


# ---- what an epoch is judged by -------------------------------------------------------------


class _MeanAveragePrecision(MultilabelAveragePrecision):
    """Over the classes that occur; torchmetrics would count 0 for those that do not."""

    def compute(self) -> Tensor:  # type: ignore[override]
        answers, labels = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        there = (labels == 1).any(dim=0)
        if not there.any():
            return torch.zeros(())
        return multilabel_average_precision(
            answers[:, there], labels[:, there], int(there.sum()), **_IGNORING
        )


class _Deviation(Metric):
    """How far numbers are off: `rmse`, `mae`, `bias` or `r2`, from sums that batches add to."""

    higher_is_better = None
    full_state_update = False
    sums: Tensor

    def __init__(self, figure: str) -> None:
        super().__init__()
        self.figure = figure
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, label: Tensor) -> None:
        """Add numbers and labels (batch[, y, x]); NaN is no label."""
        known = label.isfinite()
        truth = label[known].double()
        off = values[known].double() - truth
        parts = (torch.ones_like(off), off, off.abs(), off.square(), truth, truth.square())
        self.sums += torch.stack([part.sum() for part in parts])

    def compute(self) -> Tensor:
        """The figure of all since the last reset."""
        count, off, size, squares, truth, spread = self.sums
        count = count.clamp(min=1)
        return {
            "rmse": (squares / count).sqrt(),
            "mae": size / count,
            "bias": off / count,
            "r2": 1 - squares / (spread - truth.square() / count).clamp(min=TINY),
        }[self.figure]


# The arguments are ours: to check them at each step would make a GPU wait.
_IGNORING: dict[str, Any] = {"ignore_index": UNLABELLED, "validate_args": False}


def _metrics(classes: Sequence[str], **more: Metric) -> MetricCollection:
    count = len(classes)
    return _collection(
        {
            "accuracy": MulticlassAccuracy(count, average="micro", **_IGNORING),
            "macro_f1": MulticlassF1Score(count, average="macro", **_IGNORING),
            **more,
        }
    )


def _collection(metrics: dict[str, Metric]) -> MetricCollection:
    return MetricCollection(dict(metrics), prefix="val/")


def _class(answer: Tensor) -> Tensor:
    return answer.argmax(dim=1)
