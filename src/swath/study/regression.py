"""From predictions to numbers where the labels are numbers themselves: how far they are off.

Everything follows from six sums by patch, so that blocks can be drawn again and groups be told
apart by adding them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.study.scores import Bootstrap, Floats, grouped


def sums(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> Floats:
    """Sums of each patch, (patch, 6), over what is labelled: number, difference, its size, its
    square, truth, its square.

    Args:
        truth: labels (patch) or (patch, y, x); NaN counts for nothing.
        predicted: predictions of the same shape.
    """
    true = truth.reshape(len(truth), -1).astype(np.float64)
    known = np.isfinite(true)
    off = np.where(known, predicted.reshape(true.shape) - true, 0.0)
    true = np.where(known, true, 0.0)
    parts = (known, off, np.abs(off), off**2, true, true**2)
    return np.stack([part.sum(axis=1) for part in parts], axis=-1).astype(np.float64)


def summary(total: Floats) -> dict[str, Floats]:
    """Overall figures of sums (…, 6), each of shape (…); NaN without a label.

    rmse is the root of the mean squared difference, mae its mean size, bias its mean (above 0: too
    high), all in the target's unit; r2 is the share of the variance that is explained,
    1 - Σ(p - t)² / Σ(t - mean)², below 0 where the mean would have been better.
    """
    count, off, size, squares, true, spread = np.moveaxis(total, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = spread - true**2 / count
        return {
            "rmse": np.sqrt(squares / count),
            "mae": size / count,
            "bias": off / count,
            "r2": np.where(variance > 1e-12 * spread, 1 - squares / variance, np.nan),
        }


def by_group(by_patch: Floats, groups: pd.Series) -> pd.DataFrame:
    """Figures of each group of patches, e.g. of each scene; those with labels alone.

    Args:
        by_patch: sums (patch, 6).
        groups: the group of each patch.

    Returns:
        A row a group, in order: group, patches, labels, then the figures of `summary`.
    """
    table, total = grouped(groups, by_patch)
    table["labels"] = total[:, 0].astype(np.int64)
    known = total[:, 0] > 0
    return table[known].reset_index(drop=True).assign(**summary(total[known]))


def score(by_patch: Floats, bootstrap: Bootstrap) -> dict[str, Any]:
    """All reported figures of a part, with 95 % intervals.

    Args:
        by_patch: sums (patch, 6).
        bootstrap: over the same patches.
    """
    return bootstrap.scores(summary(by_patch.sum(axis=0)), summary(bootstrap.summed(by_patch)))
