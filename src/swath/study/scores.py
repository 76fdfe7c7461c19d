"""From predictions to numbers: pure functions over confusion matrices.

The learner does not mark its own examination: it writes what it predicts, and this module alone
turns that into the figures that are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.data.card import UNLABELLED
from swath.data.earth import Blocks

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 15
"""Of confidence, as in Guo et al. 2017."""


def confusions(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Counts:
    """Confusion matrix of each patch, (patch, true class, predicted class), as counts.

    Args:
        truth: labels (patch) or (patch, y, x); 255 counts for nothing.
        predicted: predictions of the same shape.
        classes: number of classes.
    """
    patches = len(truth)
    truth, predicted = truth.reshape(patches, -1), predicted.reshape(patches, -1)
    patch, pixel = np.nonzero(truth != UNLABELLED)
    true, said = truth[patch, pixel].astype(np.int64), predicted[patch, pixel].astype(np.int64)
    cell = (patch * classes + true) * classes + said
    counts = np.bincount(cell, minlength=patches * classes**2)
    return counts.reshape(patches, classes, classes)


def reliability(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], confidence: NDArray[np.floating]
) -> Floats:
    """How often, how rightly and how surely each patch is answered, (patch, bin, 3).

    For each of `BINS` bins of confidence, all of one width: the labels, those of them that were
    answered rightly, and the sum of the confidences.

    Args:
        truth: labels (patch) or (patch, y, x); 255 counts for nothing.
        predicted: predictions of the same shape.
        confidence: probability of what was predicted, likewise.
    """
    patches = len(truth)
    patch, pixel = np.nonzero(truth.reshape(patches, -1) != UNLABELLED)
    sure = confidence.reshape(patches, -1)[patch, pixel].astype(np.float64)
    right = (truth == predicted).reshape(patches, -1)[patch, pixel]
    # A bin has its upper border, as theirs have.
    cell = patch * BINS + np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    sums = [np.bincount(cell, of, minlength=patches * BINS) for of in (None, right, sure)]
    return np.stack(sums, axis=-1).astype(np.float64).reshape(patches, BINS, 3)


def calibration_error(sums: Floats) -> Floats:
    """Expected calibration error (…) of sums (…, bin, 3) as `reliability` gives them.

    The distance of accuracy and mean confidence, averaged over the labels: 0 where of the answers
    that are 80 % sure 80 % are right.

    Source:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017
        (arXiv:1706.04599), equation 3.
    """
    off = np.abs(sums[..., 1] - sums[..., 2]).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        error: Floats = off / sums[..., 0].sum(axis=-1)
    return error


def summary(confusion: NDArray[Any]) -> dict[str, Floats]:
    """Overall figures of confusion matrices (…, true, predicted), each of shape (…).

    overall_accuracy is the share of right labels, average_accuracy the mean recall over classes,
    kappa Cohen's kappa (Cohen 1960, doi:10.1177/001316446002000104), macro_f1 the mean F1, miou the
    mean intersection over union. Classes that occur in neither truth nor prediction do not count.
    NaN without a label.
    """
    counts = confusion.astype(np.float64)
    total = counts.sum(axis=(-2, -1))
    by_class = per_class(counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        agreed = np.trace(counts, axis1=-2, axis2=-1) / total
        chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / total**2
        kappa = (agreed - chance) / (1 - chance)
    return {
        "overall_accuracy": agreed,
        "average_accuracy": mean_of_known(by_class["recall"]),
        "kappa": kappa,
        "macro_f1": mean_of_known(by_class["f1"]),
        "miou": mean_of_known(by_class["iou"]),
    }


def per_class(confusion: NDArray[Any]) -> dict[str, Floats]:
    """precision, recall, f1 and iou (…, class); NaN where a class gives none."""
    counts = confusion.astype(np.float64)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, said = counts.sum(axis=-1), counts.sum(axis=-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": right / said,
            "recall": right / true,
            "f1": 2 * right / (true + said),
            "iou": right / (true + said - right),
        }


def mean_of_known(by_class: Floats) -> Floats:
    """Mean over the classes (…, class) that have a figure; NaN where none has."""
    known = ~np.isnan(by_class)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(known, by_class, 0).sum(axis=-1) / known.sum(axis=-1)
    return mean


def by_group(by_patch: Counts, sums: Floats, groups: pd.Series) -> pd.DataFrame:
    """Overall figures of each group of patches, e.g. of each scene; those with labels alone.

    Args:
        by_patch: confusion matrices (patch, true, predicted).
        sums: (patch, bin, 3) as `reliability` gives them.
        groups: the group of each patch.

    Returns:
        A row a group, in order: group, patches, labels, then the figures of `summary` and the
        calibration_error.
    """
    table, counts, bins = grouped(groups, by_patch, sums)
    table["labels"] = counts.sum(axis=(1, 2))
    known = (table["labels"] > 0).to_numpy()
    figures = summary(counts[known]) | {"calibration_error": calibration_error(bins[known])}
    return table[known].reset_index(drop=True).assign(**figures)


def by_region(of_groups: Callable[[pd.Series], pd.DataFrame], blocks: Blocks) -> pd.DataFrame:
    """Overall figures of each square block of the ground, those of `Bootstrap`.

    Args:
        of_groups: figures by the group of each patch, as `by_group` gives them.
        blocks: of the patches; those without a place are left out.

    Returns:
        A row a block with labels: epsg, column and row (of blocks, from the origin of the map to
        the east and south), lon and lat of its centre (°, WGS84; NaN in a local plane), patches,
        labels, then the figures.
    """
    numbers = blocks.numbers
    table = of_groups(pd.Series(np.where(blocks.keys[:, 0] != 0, numbers, -1)))
    table = table[table["group"] >= 0].reset_index(drop=True)
    first = np.unique(numbers, return_index=True)[1]
    of_each = blocks[first[table.pop("group").to_numpy(np.int64)]]
    lon, lat = of_each.centres()
    where = dict(zip(("epsg", "column", "row"), of_each.keys.T, strict=True))
    return pd.concat([pd.DataFrame(where | {"lon": lon, "lat": lat}), table], axis=1)


def grouped(groups: pd.Series, *by_patch: NDArray[Any]) -> tuple[Any, ...]:
    """A row a group (group, patches), and what its patches add up to of each array (patch, …)."""
    names, number = np.unique(groups, return_inverse=True)
    table = pd.DataFrame({"group": names, "patches": np.bincount(number)})
    return table, *(_summed(each, number, len(names)) for each in by_patch)


def _summed(by_patch: NDArray[Any], number: NDArray[np.int64], groups: int) -> NDArray[Any]:
    total = np.zeros((groups, *by_patch.shape[1:]), by_patch.dtype)
    np.add.at(total, number, by_patch)
    return total


@dataclass(frozen=True)
class Bootstrap:
    """Samples of the square blocks of the ground, from which 95 % intervals follow.

    Neighbouring patches are alike, so they are drawn together: resampling single patches would
    give intervals that are too narrow.

    Source:
        Percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """

    block_m: float
    """Side of a block."""
    block: NDArray[np.int64]
    """That of each patch."""
    weights: Floats
    """How often each block is in each sample, (draw, block)."""

    @classmethod
    def of(cls, blocks: Blocks, *, draws: int, seed: int = 0) -> Bootstrap:
        """Draw from the blocks in which patches lie.

        Args:
            blocks: of the patches.
            draws: number of samples.
            seed: of the draws.
        """
        block = blocks.numbers
        count = int(block.max()) + 1
        share = np.full(count, 1 / count)
        weights = np.random.default_rng(seed).multinomial(count, share, size=draws)
        return cls(blocks.side_m, block, weights.astype(np.float64))

    def summed(self, by_patch: NDArray[Any]) -> Floats:
        """What each sample adds up to, (draw, …), from what each patch adds, (patch, …)."""
        by_block = _summed(by_patch.astype(np.float64), self.block, self.weights.shape[1])
        total: Floats = np.einsum("db,b...->d...", self.weights, by_block)
        return total

    def scores(
        self,
        whole: Mapping[str, Any],
        resampled: Mapping[str, Floats],
        *,
        classes: Sequence[str] = (),
        support: Sequence[int] | Counts = (),
        by_class: Mapping[str, Floats] | None = None,
        confusion: Counts | None = None,
        reliability: Floats | None = None,
    ) -> dict[str, Any]:
        """Figures with their intervals, and what stands beside them, as JSON has them.

        Args:
            whole: figures of all patches.
            resampled: of each sample, (draw).
            classes: class names; none where labels are numbers.
            support: labels of each class.
            by_class: figures of each class, (class).
            confusion: see `score`.
            reliability: see `reliability`, summed over the patches.
        """
        draws, blocks = self.weights.shape
        return {
            **{
                name: {
                    "value": _number(value),
                    "low": _quantile(resampled[name], 0.025) if blocks > 1 else None,
                    "high": _quantile(resampled[name], 0.975) if blocks > 1 else None,
                }
                for name, value in whole.items()
            },
            "classes": list(classes),
            "per_class": [
                {
                    "class": name,
                    "support": int(count),
                    **{figure: _number(of[k]) for figure, of in (by_class or {}).items()},
                }
                for k, (name, count) in enumerate(zip(classes, support, strict=True))
            ],
            "confusion": [] if confusion is None else confusion.tolist(),
            "reliability": [] if reliability is None else reliability.tolist(),
            "bootstrap": {"draws": draws, "blocks": blocks, "block_m": self.block_m},
        }


def score(
    by_patch: Counts, sums: Floats, classes: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """All reported figures of a part, with 95 % intervals.

    Args:
        by_patch: confusion matrices (patch, true, predicted).
        sums: (patch, bin, 3) as `reliability` gives them.
        classes: class names.
        bootstrap: over the same patches.
    """
    drawn, drawn_sums = bootstrap.summed(by_patch), bootstrap.summed(sums)
    labelled = drawn.sum(axis=(1, 2)) > 0
    confusion, bins = by_patch.sum(axis=0), sums.sum(axis=0)
    return bootstrap.scores(
        summary(confusion) | {"calibration_error": calibration_error(bins)},
        summary(drawn[labelled]) | {"calibration_error": calibration_error(drawn_sums[labelled])},
        classes=classes,
        support=confusion.sum(axis=1),
        by_class=per_class(confusion),
        confusion=confusion,
        reliability=bins,
    )


def _quantile(values: Floats, share: float) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if len(known) else None


def _number(value: Any) -> float | None:
    """A figure as JSON has it, which knows no NaN."""
    return None if np.isnan(value) else float(value)
