"""The baseline: repeatable, of the right shape, and fair."""

from __future__ import annotations

import numpy as np
import pytest

from swath.data.card import UNLABELLED
from swath.learn import baseline
from swath.learn.baseline import predict_baseline

TRAIN, TEST = np.arange(24), np.arange(24, 36)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "TREES", 20)
    monkeypatch.setattr(baseline, "TREES_BY_PIXEL", 10)


@pytest.mark.parametrize("labels, shape", [("patch", (12,)), ("pixel", (12, 16, 16))])
def test_it_tells_apart_what_the_bands_tell_apart(patch_set, labels, shape) -> None:
    patches = patch_set(36, labels=labels)
    name, (predicted, confidence) = predict_baseline(patches, TRAIN, TEST, seed=0)
    assert "random forest" in name
    assert predicted.shape == confidence.shape == shape
    assert predicted.dtype == np.uint8 and confidence.dtype == np.float16
    assert (predicted == patches.label.gather(TEST)).mean() > 0.95
    assert (confidence > 1 / 3 - 0.01).all() and (confidence <= 1).all()


@pytest.mark.parametrize("labels", ["patch", "pixel"])
def test_a_seed_gives_the_same_answer(patch_set, labels) -> None:
    patches = patch_set(36, labels=labels)
    answers = [predict_baseline(patches, TRAIN, TEST, seed=4)[1] for _ in range(2)]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unlabelled_pixels_are_not_learnt(patch_set) -> None:
    patches = patch_set(36, labels="pixel")
    for chunk in patches.label.chunks:
        chunk[:, :8] = UNLABELLED
    _, (predicted, _) = predict_baseline(patches, TRAIN, TEST, seed=0)
    assert predicted.max() < 3


def test_a_class_absent_from_training_keeps_the_numbers_of_the_others(patch_set) -> None:
    patches = patch_set(36)
    labels = patches.label.gather(np.arange(36))
    train = TRAIN[labels[TRAIN] != 0]
    _, (predicted, _) = predict_baseline(patches, train, TEST, seed=0)
    assert set(np.unique(predicted)) <= {1, 2}
    known = labels[TEST] != 0
    assert (predicted[known] == labels[TEST][known]).all()


def test_every_training_patch_has_its_say(patch_set, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches are in the order of the scenes: a class of the last scene must be learnt, too."""
    monkeypatch.setattr(baseline, "SAMPLES", 2000)
    patches = patch_set(36, labels="pixel")
    for n in range(36):
        label = patches.label.chunks[n // 10][n % 10]
        image = patches.image.chunks[n // 10][n % 10]
        label[:] = 2 if n >= 18 else 0
        image[2] = 3000 if n >= 18 else 1000
    _, (predicted, _) = predict_baseline(patches, TRAIN, TEST, seed=0)
    assert (predicted == 2).all()
