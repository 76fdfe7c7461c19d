"""From predictions to numbers: pure functions over confusion matrices.

The learner does not mark its own examination: it writes what it predicts, and this module alone
turns that into the figures that are reported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rasterio.crs import CRS

from swath.data.card import UNLABELLED
from swath.data.grid import degrees_in_metres

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


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


def summary(confusion: NDArray[Any]) -> dict[str, Floats]:
    """Overall figures of confusion matrices (…, true, predicted), each of shape (…).

    overall_accuracy is the share of right labels, average_accuracy the mean recall over classes,
    kappa Cohen's kappa (Cohen 1960, doi:10.1177/001316446002000104), macro_f1 the mean F1, miou the
    mean intersection over union. Classes that occur in neither truth nor prediction do not count.
    """
    counts = confusion.astype(np.float64)
    total = counts.sum(axis=(-2, -1))
    by_class = per_class(counts)
    agreed = np.trace(counts, axis1=-2, axis2=-1) / total
    chance = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / total**2
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (agreed - chance) / (1 - chance)
    return {
        "overall_accuracy": agreed,
        "average_accuracy": _mean(by_class["recall"]),
        "kappa": kappa,
        "macro_f1": _mean(by_class["f1"]),
        "miou": _mean(by_class["iou"]),
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


def _mean(values: Floats) -> Floats:
    counted = ~np.isnan(values)
    mean: Floats = np.where(counted, values, 0).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
    return mean


def block_numbers(places: pd.DataFrame, block_m: float) -> NDArray[np.int64]:
    """Number of the square block of the ground in which each patch's upper-left corner lies.

    Blocks are squares of the map, as those of a split by blocks are, so that of the same size both
    have the same borders. Where the map is in degrees, rows of blocks follow the parallels and each
    is divided by its own length. A local plane has blocks of its own. Patches without a place are a
    block each.

    Args:
        places: epsg, west and north (units of the CRS; m in local planes) of each patch.
        block_m: side of a block.
    """
    epsg = places["epsg"].to_numpy(np.int64)
    west, north = (places[side].to_numpy(np.float64, copy=True) for side in ("west", "north"))
    for code in np.unique(epsg[epsg > 0]):
        at, crs = epsg == code, CRS.from_epsg(int(code))
        if crs.is_geographic:
            west[at], north[at] = degrees_in_metres(west[at], north[at], block_m)
        else:
            metres = crs.linear_units_factor[1]
            west[at], north[at] = west[at] * metres, north[at] * metres
    # A patch lies below its northern edge: one that hangs from a border is in the block below.
    column, row = np.floor(west / block_m), np.floor(-north / block_m)
    nowhere = epsg == 0
    column[nowhere], row[nowhere] = np.flatnonzero(nowhere), 0
    key = np.stack([epsg, column, row], axis=1)
    numbers: NDArray[np.int64] = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    return numbers


def score(
    by_patch: Counts,
    places: pd.DataFrame,
    classes: list[str],
    *,
    block_m: float,
    draws: int,
    seed: int = 0,
) -> dict[str, Any]:
    """All reported figures of a part, with 95 % intervals from a bootstrap over spatial blocks.

    Neighbouring patches are alike, so they are drawn together: resampling single patches would
    give intervals that are too narrow.

    Args:
        by_patch: confusion matrices (patch, true, predicted).
        places: the same patches' places, as `block_numbers` takes them.
        classes: class names.
        block_m: side of a block.
        draws: number of bootstrap samples.
        seed: of the draws.

    Source:
        Percentile interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13.
    """
    numbers = block_numbers(places, block_m)
    blocks = int(numbers.max()) + 1
    by_block = np.zeros((blocks, *by_patch.shape[1:]), np.int64)
    np.add.at(by_block, numbers, by_patch)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(blocks, np.full(blocks, 1 / blocks), size=draws)
    drawn = np.einsum("db,btp->dtp", weights.astype(np.float64), by_block.astype(np.float64))
    drawn = drawn[drawn.sum(axis=(1, 2)) > 0]
    confusion = by_patch.sum(axis=0)
    whole, resampled = summary(confusion), summary(drawn)
    by_class = per_class(confusion)
    return {
        **{
            name: {
                "value": _number(value),
                "low": _quantile(resampled[name], 0.025) if blocks > 1 else None,
                "high": _quantile(resampled[name], 0.975) if blocks > 1 else None,
            }
            for name, value in whole.items()
        },
        "classes": classes,
        "per_class": [
            {
                "class": name,
                "support": int(confusion[k].sum()),
                **{figure: _number(values[k]) for figure, values in by_class.items()},
            }
            for k, name in enumerate(classes)
        ],
        "confusion": confusion.tolist(),
        "bootstrap": {"draws": draws, "blocks": blocks, "block_m": block_m},
    }


def _quantile(values: Floats, share: float) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, share)) if len(known) else None


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)
