"""The baseline: repeatable, of the right shape, and fair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from swath.data.card import UNLABELLED
from swath.data.mapped import Mapped
from swath.data.patchset import PatchSet, Several
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


@pytest.mark.parametrize("labels, shape", [("patch", (12,)), ("pixel", (12, 16, 16))])
def test_numbers_are_found_by_patch_and_pixel(patch_set, numbers, labels, shape) -> None:
    patches = numbers(patch_set(36, labels=labels))
    patches.label.chunks[0][3] = np.nan  # what is not known teaches nothing
    _, (predicted, confidence) = predict_baseline(patches, TRAIN, TEST, seed=0)
    assert confidence is None and predicted.dtype == np.float32 and predicted.shape == shape
    off = predicted - patches.label.gather(TEST)
    assert np.sqrt((off**2).mean()) < 2.5, "of numbers that lie 10 apart"


def test_several_labels_a_patch_are_each_found(patch_set, several) -> None:
    patches = several(patch_set(36))
    _, (predicted, probability) = predict_baseline(patches, TRAIN, TEST, seed=0)
    truth = patches.label.gather(TEST)
    assert predicted.shape == probability.shape == (12, 3)
    assert (predicted == truth).mean() > 0.95
    np.testing.assert_array_equal(predicted, probability > 0.5)
    assert probability[truth == 1].min() > probability[truth == 0].max()


def test_a_class_that_every_patch_has_or_none_is_said_so(patch_set, several) -> None:
    patches = several(patch_set(36))
    for chunk in patches.label.chunks:
        chunk[:, 0], chunk[:, 1] = 1, 0
        chunk[3] = UNLABELLED  # a patch of which nobody knows the classes teaches nothing
    _, (_, probability) = predict_baseline(patches, TRAIN, TEST, seed=0)
    assert (probability[:, 0] == 1).all() and (probability[:, 1] == 0).all()
    only = replace(patches, label=Mapped((patches.contents[:, 2:].astype(np.uint8),), (36, 1)))
    _, (_, alone) = predict_baseline(only, TRAIN, TEST, seed=0)
    assert alone.shape == (12, 1) and 0 < alone.mean() < 1


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


@pytest.mark.parametrize("labels", ["patch", "pixel"])
@pytest.mark.parametrize("dtype, absent", [("float32", np.nan), ("float32", np.inf), ("uint16", 0)])
def test_pixels_without_data_are_missing_and_harm_nobody(patch_set, labels, dtype, absent) -> None:
    patches = patch_set(36, labels=labels, dtype=dtype)
    for chunk in patches.image.chunks:
        chunk[..., :5, :] = absent
        chunk[0] = absent  # patches that nobody saw
    known = np.setdiff1d(TEST, [30])
    _, (predicted, confidence) = predict_baseline(patches, TRAIN, known, seed=0)
    truth = patches.label.gather(known)
    rows = ... if labels == "patch" else np.s_[:, 5:]
    assert (predicted[rows] == truth[rows]).mean() > 0.95
    assert not np.isnan(confidence).any()
    assert predict_baseline(patches, TRAIN, np.array([30]), seed=0)[1][0].max() < 3


def test_statistics_of_a_patch_worked_out_by_hand() -> None:
    image = np.array([[[[1, 3], [np.nan, 5]]], [[[np.nan] * 2] * 2]], np.float32)
    found = baseline._statistics_of(image)
    # Filled with the mean 3: [[1, 3], [3, 5]].
    quantiles = np.quantile([1, 3, 3, 5], [0.05, 0.25, 0.75, 0.95])
    np.testing.assert_allclose(found[0], [3, np.sqrt(2), *quantiles, 2, 2], rtol=1e-6)
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_patches_of_few_pixels_are_told_apart(patch_set, side) -> None:
    patches = patch_set(36, side)
    _, (predicted, _) = predict_baseline(patches, TRAIN, TEST, seed=0)
    assert (predicted == patches.label.gather(TEST)).all()


@pytest.mark.parametrize("labels", ["patch", "pixel"])
def test_how_many_are_looked_at_together_changes_nothing(patch_set, labels, monkeypatch) -> None:
    patches = patch_set(36, labels=labels)
    whole = predict_baseline(patches, TRAIN, TEST, seed=0)[1]
    monkeypatch.setattr(baseline, "BATCH_VALUES", 5000)  # four patches
    for one, other in zip(whole, predict_baseline(patches, TRAIN, TEST, seed=0)[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_bands_of_several_gsds_are_gathered_on_one_grid(patch_set) -> None:
    patches = patch_set(36, side=16)
    fine = patches.image.gather(np.arange(36))
    groups = [fine[:, :3], fine[:, 3:, ::2, ::2]]
    several = Several(
        groups=tuple(Mapped((group,), group.shape) for group in groups),
        bands=(("red", "green", "blue"), ("nir",)),
        factors=(1, 2),
        wanted=("red", "green", "blue", "nir"),
        dates=1,
        resampling="nearest",
    )
    mixed = replace(patches, image=several)
    _, (predicted, _) = predict_baseline(mixed, TRAIN, TEST, seed=0)
    assert (predicted == patches.label.gather(TEST)).all()
    assert baseline._statistics(mixed, TEST).shape == (12, 8 * 4)


def test_hundreds_of_bands_are_looked_at_a_few_patches_at_a_time(monkeypatch) -> None:
    seen = []

    class Watched(Mapped):
        def gather(self, patches):
            seen.append(len(patches))
            return super().gather(patches)

    image = np.random.default_rng(0).integers(0, 9, (40, 500, 12, 12)).astype(np.uint8)
    label = (np.arange(40) % 2).astype(np.uint8)
    image[label == 1, :100] += 5
    patches = PatchSet(
        Watched((image,), image.shape), Mapped((label,), label.shape), pd.DataFrame(),
        np.eye(2, dtype=np.int64)[label], {"labels": "patch", "nodata": None},
    )  # fmt: skip
    monkeypatch.setattr(baseline, "BATCH_VALUES", 500 * 12 * 12 * 7)
    _, (predicted, _) = predict_baseline(patches, np.arange(30), np.arange(30, 40), seed=0)
    assert max(seen) == 7 and sum(seen) == 40
    assert (predicted == label[30:]).all()
