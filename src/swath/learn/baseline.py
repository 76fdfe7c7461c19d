"""The baseline: what a random forest reaches without a network. A network that does no better
has learnt nothing worth its trouble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from swath.data.card import UNLABELLED
from swath.data.patchset import PatchSet

TREES = 200
TREES_BY_PIXEL = 50
SAMPLES = 40_000
"""Pixels that a forest by pixel is grown on."""

Answer = tuple[NDArray[np.uint8], NDArray[np.float16]]


def predict_baseline(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], *, seed: int
) -> tuple[str, Answer]:
    """A name of the baseline, and its most likely class and probability for the patches `which`.

    For labels of patches, a forest on statistics of each band's values and gradients; for labels
    of pixels, a forest on the pixel's own bands.

    Source:
        Breiman: Random Forests, Machine Learning 45, 2001 (doi:10.1023/A:1010933404324), as in
        scikit-learn.
    """
    if patches.facts["labels"] == "patch":
        return "random forest on band statistics", _by_patch(patches, train, which, seed)
    return "random forest on the pixel's bands", _by_pixel(patches, train, which, seed)


def _by_patch(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], seed: int
) -> Answer:
    forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=-1)
    forest.fit(_statistics(patches, train), patches.label.gather(train))
    shares = forest.predict_proba(_statistics(patches, which))
    return (
        forest.classes_[shares.argmax(axis=1)].astype(np.uint8),
        shares.max(axis=1).astype(np.float16),
    )


def _statistics(patches: PatchSet, which: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean, deviation, quantiles and mean gradient of each band: (patch, 8 · band)."""
    blocks = []
    for start in range(0, len(which), 512):
        image = patches.image.gather(which[start : start + 512]).astype(np.float32)
        flat = image.reshape(*image.shape[:2], -1)
        gradient = [np.abs(np.diff(image, axis=axis)).mean(axis=(2, 3)) for axis in (2, 3)]
        quantiles = np.quantile(flat, [0.05, 0.25, 0.75, 0.95], axis=2)
        blocks.append(np.concatenate([flat.mean(2), flat.std(2), *quantiles, *gradient], axis=1))
    return np.concatenate(blocks).astype(np.float32)


def _by_pixel(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], seed: int
) -> Answer:
    generator = np.random.default_rng(seed)
    samples, labels = [], []
    per_patch = max(1, 2 * SAMPLES // len(train))  # twice as many: some pixels are unlabelled
    for number in train:
        image = patches.image.gather(np.array([number]))[0]
        label = patches.label.gather(np.array([number]))[0].ravel()
        at = generator.integers(0, label.size, per_patch)
        at = at[label[at] != UNLABELLED]
        samples.append(image.reshape(len(image), -1)[:, at].T)
        labels.append(label[at])
    forest = RandomForestClassifier(TREES_BY_PIXEL, max_depth=16, random_state=seed, n_jobs=-1)
    pixels, truth = np.concatenate(samples), np.concatenate(labels)
    chosen = generator.permutation(len(truth))[:SAMPLES]
    forest.fit(pixels[chosen], truth[chosen])
    predicted, confidence = [], []
    for number in which:
        image = patches.image.gather(np.array([number]))[0]
        shares = forest.predict_proba(image.reshape(len(image), -1).T)
        predicted.append(forest.classes_[shares.argmax(axis=1)].reshape(image.shape[1:]))
        confidence.append(shares.max(axis=1).reshape(image.shape[1:]))
    return np.stack(predicted).astype(np.uint8), np.stack(confidence).astype(np.float16)
