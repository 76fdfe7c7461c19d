"""The baseline: what a random forest reaches without a network. A network that does no better
has learnt nothing worth its trouble."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from swath.data.card import UNLABELLED
from swath.data.patchset import PatchSet
from swath.data.scene import is_labelled
from swath.learn.answers import Answer, decided, joined

TREES = 200
TREES_BY_PIXEL = 50
SAMPLES = 40_000
"""Pixels that a forest by pixel is grown on."""
BATCH_VALUES = 1 << 22
"""Values (patch, band, y, x) that are looked at together: 16 MB as float32."""

Floats = NDArray[np.float32]


def predict_baseline(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], *, seed: int
) -> tuple[str, Answer]:
    """A name of the baseline, and what it says of the patches `which`.

    For labels of patches, one or several, a forest on statistics of each band's values and
    gradients; for labels of pixels, a forest on the pixel's own bands. Values that are no data are
    missing, which the forest knows to handle.

    Source:
        Breiman: Random Forests, Machine Learning 45, 2001 (doi:10.1023/A:1010933404324), as in
        scikit-learn.
    """
    if patches.facts["labels"] == "pixel":
        return "random forest on the pixel's bands", _by_pixel(patches, train, which, seed)
    if patches.facts.get("target"):
        return "random forest on band statistics", _numbers(patches, train, which, seed)
    by_patch = _several if patches.facts["labels"] == "several" else _by_patch
    return "random forest on band statistics", by_patch(patches, train, which, seed)


def _images(
    patches: PatchSet, which: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Some patches at a time, with their images (patch, band, y, x); NaN where there is no data."""
    count = max(1, BATCH_VALUES // math.prod(patches.image.shape[1:]))
    nodata = patches.facts["nodata"]
    for start in range(0, len(which), count):
        numbers = which[start : start + count]
        stored = patches.image.gather(numbers)
        image = stored.astype(np.float32)
        if nodata is not None:
            image[stored == nodata] = np.nan
        image[np.isinf(image)] = np.nan
        yield numbers, image


def _by_patch(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], seed: int
) -> Answer:
    forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=-1)
    forest.fit(_statistics(patches, train), patches.label.gather(train))
    shares = forest.predict_proba(_statistics(patches, which))
    return Answer(
        forest.classes_[shares.argmax(axis=1)].astype(np.uint8),
        shares.max(axis=1).astype(np.float16),
    )


def _several(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], seed: int
) -> Answer:
    """One forest for all classes; it learns from the patches whose classes are all known."""
    label = patches.label.gather(train)
    known = (label != UNLABELLED).all(axis=1)
    forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=-1)
    # A single column would be taken for one label a patch: one that is never there stands beside.
    beside = np.zeros((known.sum(), 1), label.dtype)
    forest.fit(_statistics(patches, train[known]), np.hstack([label[known], beside]))
    shares = forest.predict_proba(_statistics(patches, which))[:-1]
    # A class that is always there, or never, has one share instead of two.
    probability = [
        share[:, seen == 1].sum(axis=1)
        for share, seen in zip(shares, forest.classes_[:-1], strict=True)
    ]
    return decided(np.stack(probability, axis=1).astype(np.float32))


def _numbers(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], seed: int
) -> Answer:
    label = patches.label.gather(train)
    known = np.isfinite(label)
    forest = RandomForestRegressor(TREES, random_state=seed, n_jobs=-1)
    forest.fit(_statistics(patches, train[known]), label[known])
    return Answer(forest.predict(_statistics(patches, which)).astype(np.float32), None)


def _statistics(patches: PatchSet, which: NDArray[np.int64]) -> Floats:
    """Mean, deviation, quantiles and mean gradient of each band: (patch, 8 · band)."""
    blocks = [_statistics_of(image) for _, image in _images(patches, which)]
    return np.concatenate(blocks).astype(np.float32)


def _statistics_of(image: Floats) -> Floats:
    absent = ~np.isfinite(image)
    if absent.any():
        # A pixel without data is given its band's mean in the patch: it says nothing there.
        known = np.maximum((~absent).sum(axis=(2, 3), keepdims=True), 1)
        mean = np.where(absent, 0, image).sum(axis=(2, 3), keepdims=True) / known
        mean[absent.all(axis=(2, 3))] = np.nan
        image = np.where(absent, mean, image)
    flat = image.reshape(*image.shape[:2], -1)
    quantiles = np.quantile(flat, [0.05, 0.25, 0.75, 0.95], axis=2)
    gradients = [
        np.abs(np.diff(image, axis=axis)).mean(axis=(2, 3))
        if image.shape[axis] > 1
        else np.zeros_like(flat[:, :, 0])
        for axis in (2, 3)
    ]
    found: Floats = np.concatenate([flat.mean(2), flat.std(2), *quantiles, *gradients], axis=1)
    return found


def _by_pixel(
    patches: PatchSet, train: NDArray[np.int64], which: NDArray[np.int64], seed: int
) -> Answer:
    generator = np.random.default_rng(seed)
    samples, labels = [], []
    per_patch = max(1, 2 * SAMPLES // len(train))  # twice as many: some pixels are unlabelled
    for numbers, image in _images(patches, train):
        label = patches.label.gather(numbers).reshape(len(numbers), -1)
        row = np.arange(len(numbers))[:, None]
        at = generator.integers(0, label.shape[1], (len(numbers), per_patch))
        known = is_labelled(label[row, at])
        pixels = image.reshape(*image.shape[:2], -1).swapaxes(1, 2)
        samples.append(pixels[row, at][known])
        labels.append(label[row, at][known])
    target = patches.facts.get("target")
    kind = RandomForestRegressor if target else RandomForestClassifier
    forest = kind(TREES_BY_PIXEL, max_depth=16, random_state=seed, n_jobs=-1)
    values, truth = np.concatenate(samples), np.concatenate(labels)
    chosen = generator.permutation(len(truth))[:SAMPLES]
    forest.fit(values[chosen], truth[chosen])
    answers = []
    for _, image in _images(patches, which):
        shape = (len(image), *image.shape[2:])
        pixels = np.moveaxis(image, 1, -1).reshape(-1, image.shape[1])
        if target:
            values = forest.predict(pixels).astype(np.float32)
            answers.append(Answer(values.reshape(shape), None))
            continue
        shares = forest.predict_proba(pixels)
        likeliest = forest.classes_[shares.argmax(axis=1)].astype(np.uint8)
        sure = shares.max(axis=1).astype(np.float16)
        answers.append(Answer(likeliest.reshape(shape), sure.reshape(shape)))
    return joined(answers)
