"""From predictions to numbers where a patch has several labels: each class is decided by itself.

Truth and predictions are (patch, class), 0 or 1; a truth of 255 is not known and counts for
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.data.card import UNLABELLED
from swath.study.scores import (
    Bootstrap,
    Floats,
    calibration_error,
    mean_of_known,
    per_class,
    reliability,
)

CHUNK = 1 << 22
"""Weights (draw, label) that are ranked together."""

Weighted = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Decisions:
    """What is so of the classes of each patch, what was said, and how probable that they are
    there: each (patch, class)."""

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    probability: NDArray[np.floating]

    def __getitem__(self, some: Any) -> Decisions:
        return Decisions(self.truth[some], self.predicted[some], self.probability[some])

    def confusions(self) -> NDArray[np.int64]:
        """Counts by patch and class, (patch, class, true, said): absent and there."""
        states = np.arange(2)
        true = self.truth[..., None] == states
        said = self.predicted[..., None] == states
        counts: NDArray[np.int64] = (true[..., :, None] & said[..., None, :]).astype(np.int64)
        return counts

    def reliability(self) -> Floats:
        """(patch, bin, 3): the labels by their probability, those that are there, and the sum of
        the probabilities; see `swath.study.scores.reliability`."""
        return reliability(self.truth, np.ones_like(self.truth), self.probability)


def average_precision(there: NDArray[np.bool_], probability: NDArray[np.floating]) -> Weighted:
    """A function from weights (draw, label) to the average precision of each draw.

    The sum of precision · step of recall over the thresholds, of which equal probabilities share
    one: the area below the steps of the precision-recall curve. NaN where nothing is there.

    Args:
        there: whether what each label says is so.
        probability: that it is so.

    Source:
        Su, Yuan, Zhu: A Relationship between the Average Precision and the Area Under the ROC
        Curve, ICTIR 2015 (doi:10.1145/2808194.2809481); as scikit-learn computes it.
    """
    order = np.argsort(-probability, kind="stable")
    last = np.flatnonzero(np.diff(probability[order], append=np.nan))
    right = there[order]

    def weighted(weights: Floats) -> Floats:
        ranked = weights[:, order]
        said = np.cumsum(ranked, axis=1)[:, last]
        found = np.cumsum(ranked * right, axis=1)[:, last]
        steps = np.diff(found, axis=1, prepend=0)
        total = found[:, -1] if len(last) else np.zeros(len(weights))
        # Where nothing has been said yet nothing is found, and the step is 0.
        area = (steps * found / np.maximum(said, np.finfo(float).tiny)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            precision: Floats = area / total
        return precision

    return weighted


def _ranked(of: Decisions) -> tuple[Weighted, Weighted]:
    """Functions from weights of the patches (draw, patch) to average precisions: (draw, class), and
    (draw) of all labels in one ranking."""
    known = of.truth != UNLABELLED
    there = of.truth == 1
    rows = [np.flatnonzero(mine) for mine in known.T]
    by_class = [
        average_precision(there[row, k], of.probability[row, k]) for k, row in enumerate(rows)
    ]
    together = average_precision(there[known], of.probability[known])
    patch = np.nonzero(known)[0]
    return (
        lambda weights: np.stack(
            [each(weights[:, row]) for each, row in zip(by_class, rows, strict=True)], axis=-1
        ),
        lambda weights: together(weights[:, patch]),
    )


def _figures(of: Decisions) -> Callable[[Floats], dict[str, Floats]]:
    """A function from weights of the patches (draw, patch) to the figures of each draw."""
    counts, sums = of.confusions().astype(np.float64), of.reliability()
    by_class, together = _ranked(of)
    known = of.truth != UNLABELLED
    whole = known.any(axis=1)
    exact = whole & ((of.truth == of.predicted) | ~known).all(axis=1)

    def weighted(weights: Floats) -> dict[str, Floats]:
        drawn = np.tensordot(weights, counts, 1)
        pooled = drawn.sum(axis=1)
        right = np.trace(pooled, axis1=-2, axis2=-1)
        with np.errstate(invalid="ignore"):
            return {
                "macro_ap": mean_of_known(by_class(weights)),
                "micro_ap": together(weights),
                "macro_f1": mean_of_known(per_class(drawn)["f1"][..., 1]),
                "micro_f1": per_class(pooled)["f1"][..., 1],
                "subset_accuracy": weights @ exact / (weights @ whole),
                "overall_accuracy": right / pooled.sum(axis=(-2, -1)),
                "calibration_error": calibration_error(np.tensordot(weights, sums, 1)),
            }

    return weighted


def by_group(of: Decisions, groups: pd.Series) -> pd.DataFrame:
    """Figures of each group of patches, e.g. of each scene; those with labels alone.

    Args:
        of: truth and predictions.
        groups: the group of each patch.

    Returns:
        A row a group, in order: group, patches, labels (patch and class), and the figures of
        `score`.
    """
    rows = []
    for name, members in groups.reset_index(drop=True).groupby(groups.to_numpy()).groups.items():
        mine = of[members.to_numpy()]
        if labels := int((mine.truth != UNLABELLED).sum()):
            found = _figures(mine)(np.ones((1, len(members))))
            figures = {figure: float(values[0]) for figure, values in found.items()}
            rows.append({"group": name, "patches": len(members), "labels": labels} | figures)
    return pd.DataFrame(rows)


def score(of: Decisions, classes: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """All reported figures of a part, with 95 % intervals.

    macro_ap is the mean over the classes of their average precision (mAP), micro_ap that of all
    labels in one ranking; macro_f1 the mean F1, micro_f1 that of all labels together;
    subset_accuracy the share of patches whose classes are all right, overall_accuracy that of the
    right labels; calibration_error compares probabilities with how often a class is there. Classes
    that do not occur have no average precision, and no F1 if they are not predicted either.

    Args:
        of: truth and predictions.
        classes: class names.
        bootstrap: over the same patches.

    Source:
        The measures: Sumbul et al., BigEarthNet-MM, IEEE GRSM 9 (3), 2021
        (doi:10.1109/MGRS.2021.3089174).
    """
    figures = _figures(of)
    together = max(1, CHUNK // max(1, of.truth.size))
    # Ranks are not sums of what each block adds: each patch has its block's weight.
    parts = [
        figures(bootstrap.weights[start : start + together, bootstrap.block])
        for start in range(0, len(bootstrap.weights), together)
    ]
    alike = np.ones((1, len(of.truth)))
    confusion = of.confusions().sum(axis=0)
    by_class = {name: values[:, 1] for name, values in per_class(confusion).items()}
    return bootstrap.scores(
        {name: values[0] for name, values in figures(alike).items()},
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        classes=classes,
        support=confusion[:, 1].sum(axis=1),
        by_class=by_class | {"average_precision": _ranked(of)[0](alike)[0]},
        confusion=confusion,
        reliability=of.reliability().sum(axis=0),
    )
