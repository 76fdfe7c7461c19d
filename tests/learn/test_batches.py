"""Batches: normalised, complete, repeatable, and augmented in step with their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from swath.learn.batches import Batches, Normalise, augmented

MEAN, STD = [1100.0, 1150.0, 1160.0, 1000.0], [240.0, 250.0, 260.0, 50.0]


def numbered(patch_set, count=23):
    """A set in which every pixel of patch n is n + 1, so that a batch tells what is in it."""
    made = patch_set(count, nodata=None)
    for n in range(count):
        made.image.chunks[n // 10][n % 10] = n + 1
    return made


def order_of(batches: Batches) -> list[int]:
    return [round(float(v)) - 1 for image, _ in batches for v in image[:, 0, 0, 0]]


def batches_of(patches, **given):
    which = given.pop("which", np.arange(len(patches)))
    neutral = {"batch_size": 5, "mean": [0.0] * 4, "std": [1.0] * 4}
    return Batches(patches, which, **(neutral | given))


def test_pixels_are_normalised_by_band_and_no_data_becomes_the_mean(patch_set) -> None:
    patches = patch_set(4)
    patches.image.chunks[0][1, 2, 3, 4] = 0
    image, label = next(iter(batches_of(patches, mean=MEAN, std=STD)))
    stored = patches.image.gather(np.arange(4)).astype(np.float64)
    expected = (stored - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    expected[stored == 0] = 0.0
    assert image.dtype == torch.float32 and label.dtype == torch.int64
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
    assert image[1, 2, 3, 4] == 0
    np.testing.assert_array_equal(label.numpy(), patches.label.gather(np.arange(4)))


def test_without_a_no_data_value_nothing_is_filled() -> None:
    image = Normalise([10.0], [2.0], None)(np.zeros((1, 1, 2, 2), np.uint8))
    assert (image == -5).all()


def test_a_band_that_never_varies_gives_finite_numbers() -> None:
    assert torch.isfinite(Normalise([7.0], [0.0], None)(np.full((1, 1, 2, 2), 7, np.uint8))).all()


def test_stored_pixels_are_left_as_they_are(patch_set) -> None:
    patches = patch_set(6, chunk=6)
    before = patches.image.chunks[0].copy()
    for _ in batches_of(patches, mean=MEAN, std=STD, seed=0, augment=("flip", "turn")):
        pass
    np.testing.assert_array_equal(patches.image.chunks[0], before)


@pytest.mark.parametrize("count", [1, 5, 23])
def test_every_patch_comes_exactly_once_an_epoch(patch_set, count) -> None:
    batches = batches_of(numbered(patch_set, count), seed=3)
    for _ in range(3):
        assert sorted(order_of(batches)) == list(range(count))
    assert len(list(batches)) == len(batches) == -(-count // 5)


def test_only_the_patches_of_the_part_come(patch_set) -> None:
    which = np.array([2, 3, 11, 22])
    assert sorted(order_of(batches_of(numbered(patch_set), which=which, seed=0))) == which.tolist()


def test_the_order_differs_by_epoch_and_is_given_by_seed_and_epoch(patch_set) -> None:
    patches = numbered(patch_set)
    first, again = batches_of(patches, seed=7), batches_of(patches, seed=7)
    orders = [order_of(first) for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert [order_of(again) for _ in range(3)] == orders
    late = batches_of(patches, seed=7)
    late.epoch = 2  # as a run that goes on sets it
    assert order_of(late) == orders[2]
    assert order_of(batches_of(patches, seed=8)) != orders[0]


def test_without_a_seed_the_order_is_the_given_one_and_nothing_is_augmented(patch_set) -> None:
    patches = patch_set(12)
    batches = batches_of(patches, augment=("flip", "turn"))
    image = torch.cat([image for image, _ in batches])
    np.testing.assert_array_equal(image.numpy(), patches.image.gather(np.arange(12)))


def symmetries(square: np.ndarray) -> list[bytes]:
    turned = [np.rot90(square, k) for k in range(4)]
    return [np.ascontiguousarray(x).tobytes() for t in turned for x in (t, t[:, ::-1])]


def test_augmentation_moves_label_and_image_alike_and_gives_all_eight_symmetries() -> None:
    square = np.arange(16, dtype=np.int64).reshape(4, 4)
    image = torch.from_numpy(np.broadcast_to(square, (400, 1, 4, 4)).astype(np.float32).copy())
    label = torch.from_numpy(np.broadcast_to(square, (400, 4, 4)).copy())
    image, label = augmented(image, label, ("flip", "turn"), np.random.default_rng(0))
    assert torch.equal(image[:, 0].to(torch.int64), label)
    counts = [sum(one.numpy().tobytes() == way for one in label) for way in symmetries(square)]
    assert sum(counts) == 400
    assert min(counts) > 25  # 50 of each are expected; fewer than 26 has a chance below 10⁻⁴


def test_flips_alone_never_turn() -> None:
    square = np.arange(16, dtype=np.int64).reshape(4, 4)
    image = torch.zeros(200, 1, 4, 4)
    label = torch.from_numpy(np.broadcast_to(square, (200, 4, 4)).copy())
    _, label = augmented(image, label, ("flip",), np.random.default_rng(0))
    seen = {one.numpy().tobytes() for one in label}
    flips = [square, square[::-1], square[:, ::-1], square[::-1, ::-1]]
    assert seen == {np.ascontiguousarray(x).tobytes() for x in flips}


def test_augmentation_is_the_same_for_the_same_seed_epoch_and_batch(patch_set) -> None:
    patches = patch_set(12, labels="pixel")
    ways = {"seed": 5, "augment": ("flip", "turn")}
    once, twice = batches_of(patches, **ways), batches_of(patches, **ways)
    for (a, la), (b, lb) in zip(once, twice, strict=True):
        assert torch.equal(a, b) and torch.equal(la, lb)


def test_a_label_derived_from_the_image_stays_so_through_the_loader(patch_set) -> None:
    patches = patch_set(12, labels="pixel")
    for image, label in batches_of(patches, seed=1, augment=("flip", "turn")):
        assert torch.equal(image[:, :3].argmax(1), label)
