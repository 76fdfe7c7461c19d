"""Augmentation: in step with the labels, fair in what it draws, silent where nothing was seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from swath.data.card import UNLABELLED
from swath.learn import augment
from swath.learn.augment import (
    _in_groups,
    _one_by_one,
    box,
    draw,
    dropped,
    mixed,
    one_hot,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def augmented(image, label, generator, *, classes, **ways) -> augment.Batch:
    """A whole batch, drawn and augmented."""
    drawn = draw(image.shape, generator, **ways)
    rows = np.arange(len(image))
    return augment.augmented(image, label, drawn, rows, len(rows), classes=classes)


def numbered(count: int, side: int, bands: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose pixels tell where they were, and labels by pixel that say the same."""
    square = torch.arange(side * side).reshape(side, side)
    label = square.expand(count, side, side).clone()
    return label[:, None].expand(count, bands, side, side).float().clone(), label


def symmetries(square: np.ndarray) -> list[bytes]:
    turned = [np.rot90(square, k) for k in range(4)]
    return [np.ascontiguousarray(x).tobytes() for t in turned for x in (t, t[:, ::-1])]


def test_flips_and_turns_move_label_and_image_alike_and_give_all_eight_symmetries() -> None:
    image, label = augmented(*numbered(400, 4), rng(), classes=3, flip=True, turn=True)
    assert torch.equal(image[:, 0].long(), label)
    square = np.arange(16).reshape(4, 4)
    counts = [sum(one.numpy().tobytes() == way for one in label) for way in symmetries(square)]
    assert sum(counts) == 400
    assert min(counts) > 25  # 50 of each are expected; fewer than 26 has a chance below 10⁻⁴


def test_flips_alone_never_turn() -> None:
    _, label = augmented(*numbered(200, 4), rng(), classes=3, flip=True)
    square = np.arange(16).reshape(4, 4)
    flips = [square, square[::-1], square[:, ::-1], square[::-1, ::-1]]
    seen = {one.numpy().tobytes() for one in label}
    assert seen == {np.ascontiguousarray(x).tobytes() for x in flips}


def test_a_gpu_moves_patches_in_groups_as_a_cpu_does_one_by_one() -> None:
    ways = np.arange(16) % 8
    one, other = (numbered(16, 5, 2)[0] for _ in range(2))
    augment._one_by_one(one, ways)
    augment._in_groups(other, ways)
    assert torch.equal(one, other)
    assert len({patch.numpy().tobytes() for patch in one}) == 8


def test_labels_by_patch_stay_when_patches_move() -> None:
    image, _ = numbered(8, 4)
    _, label = augmented(image, torch.arange(8), rng(), classes=8, flip=True, turn=True, crop_px=2)
    assert label.tolist() == list(range(8))


@given(side=st.integers(1, 9), crop=st.integers(1, 9), seed=st.integers(0, 9))
def test_a_crop_is_a_square_of_the_patch_and_of_its_label(side, crop, seed) -> None:
    crop = min(side, crop)
    image, label = augmented(*numbered(5, side, 2), rng(seed), classes=3, crop_px=crop)
    assert image.shape == (5, 2, crop, crop) and torch.equal(image[:, 1].long(), label)
    square = np.arange(side * side).reshape(side, side)
    for one in label.numpy():
        top, left = divmod(int(one[0, 0]), side)
        np.testing.assert_array_equal(one, square[top : top + crop, left : left + crop])


def test_crops_lie_everywhere_and_differ_within_a_batch() -> None:
    _, label = augmented(*numbered(900, 4), rng(), classes=3, crop_px=2)
    corners, counts = label[:, 0, 0].unique(return_counts=True)
    assert corners.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert counts.min() > 60  # 100 are expected of each


def test_noise_is_as_strong_as_it_is_asked_to_be_and_leaves_labels() -> None:
    image, label = augmented(
        torch.ones(200, 3, 8, 8), torch.arange(200), rng(), classes=200, noise=0.25
    )
    assert label.tolist() == list(range(200))
    # 38,400 draws: the mean is known to 0.0013, the deviation to 0.0009.
    assert float(image.mean()) == pytest.approx(1.0, abs=0.006)
    assert float(image.std()) == pytest.approx(0.25, abs=0.005)
    beside = torch.corrcoef(torch.stack([image[..., 1:].flatten(), image[..., :-1].flatten()]))
    assert abs(float(beside[0, 1])) < 0.03


def test_bands_are_dropped_to_their_mean_and_never_all() -> None:
    image, _ = augmented(
        torch.ones(500, 4, 2, 2), torch.zeros(500).long(), rng(), classes=3, band_dropout=0.5
    )
    kept = image[:, :, 0, 0]
    assert torch.equal(image, kept[:, :, None, None].expand_as(image))
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.sum(1).min() == 1
    # One of 2⁴ patches would lose all and keeps one of four: 0.5 + 1/64 are kept.
    assert float(kept.mean()) == pytest.approx(0.5 + 1 / 64, abs=0.04)


@pytest.mark.parametrize("probability, kept", [(0.0, 4), (1.0, 1)])
def test_the_ends_of_band_dropout(probability, kept) -> None:
    gone = dropped((50, 4), probability, rng())
    assert ((~gone).sum(axis=1) == kept).all()


# ---- mixing -----------------------------------------------------------------------------------


def by_class(count: int = 12, classes: int = 3, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which channel k is 1 where the class is k: what is mixed can be read off."""
    label = torch.arange(count) % classes
    return F.one_hot(label, classes).float()[:, :, None, None].repeat(1, 1, side, side), label


def test_mixup_blends_image_and_label_by_the_same_share() -> None:
    image, soft = augmented(*by_class(), rng(1), classes=3, mixup=1.0)
    assert soft.dtype == torch.float32 and soft.shape == (12, 3)
    torch.testing.assert_close(image, soft[:, :, None, None].expand_as(image))
    torch.testing.assert_close(soft.sum(1), torch.ones(12))
    assert ((soft > 0).sum(1) == 2).any()


def test_cutmix_pastes_a_box_and_weighs_the_label_by_its_area() -> None:
    for seed in range(8):
        image, soft = augmented(*by_class(), rng(seed), classes=3, cutmix=1.0)
        assert set(image.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(soft, image.mean(dim=(2, 3)))


def test_cutmix_pastes_the_labels_of_pixels() -> None:
    image, by_patch = by_class()
    label = by_patch[:, None, None].expand(12, 8, 8).clone()
    changed = False
    for seed in range(8):
        mixed, pasted = augmented(image.clone(), label.clone(), rng(seed), classes=3, cutmix=1.0)
        assert pasted.dtype == torch.int64 and torch.equal(mixed.argmax(1), pasted)
        changed |= not torch.equal(pasted, label)
    assert changed


@pytest.mark.parametrize("share", [0.002, 0.5, 0.998])
def test_what_is_not_known_of_several_labels_is_not_known_of_a_mixture(share: float) -> None:
    image, label = torch.ones(2, 1, 4, 4), torch.tensor([[UNLABELLED, 1, 0.0], [0, 0, 0.0]])
    _, soft = mixed(image, label, torch.tensor([1, 0]), share, None, 3)
    assert (soft[:, 0] == UNLABELLED).all()
    torch.testing.assert_close(soft[:, 1:], torch.tensor([[share, 0.0], [1 - share, 0.0]]))


def test_several_labels_a_patch_are_mixed_too() -> None:
    image, label = by_class()
    several = F.one_hot(label, 3).float()
    several[0] = 1
    _, soft = augmented(image.clone(), several.clone(), rng(1), classes=3, mixup=1.0)
    _, single = augmented(image.clone(), label, rng(1), classes=3, mixup=1.0)
    assert float(soft.sum() - single.sum()) == pytest.approx(2.0, abs=1e-5)


def test_both_kinds_of_mixing_take_turns() -> None:
    blended = 0
    for seed in range(60):
        image, _ = augmented(*by_class(), rng(seed), classes=3, mixup=1.0, cutmix=1.0)
        blended += not set(image.unique().tolist()) <= {0.0, 1.0}
    assert 15 < blended < 45


def test_no_data_adds_nothing_to_what_it_is_mixed_with() -> None:
    """Where all patches but one have no data, a pixel is that one's share or nothing."""
    image = torch.zeros(6, 2, 4, 4)
    image[2] = 5.0
    mixed, soft = augmented(image, torch.arange(6), rng(3), classes=6, mixup=1.0)
    torch.testing.assert_close(mixed[:, 0, 0, 0], 5 * soft[:, 2])


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.floats(0, 1),
    seed=st.integers(0, 20),
)
def test_a_box_lies_in_the_patch(height, width, share, seed) -> None:
    rows, columns = box(height, width, share, rng(seed))
    assert 0 <= rows.start <= rows.stop <= height and 0 <= columns.start <= columns.stop <= width
    assert rows.stop - rows.start <= height * np.sqrt(1 - share) + 1


def test_an_unlabelled_patch_is_of_no_class() -> None:
    assert one_hot(torch.tensor([1, UNLABELLED]), 3).tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("side", [7, 8])
def test_what_a_gpu_moves_in_groups_is_moved_as_one_by_one(side: int) -> None:
    """The GPU's own way to move patches, which needs no GPU to be run."""
    image = torch.arange(16 * 3 * side * side, dtype=torch.float32).reshape(16, 3, side, side)
    ways = np.tile(np.arange(8), 2)
    in_groups, one_by_one = image.clone(), image.clone()
    _in_groups(in_groups, ways)
    _one_by_one(one_by_one, ways)
    torch.testing.assert_close(in_groups, one_by_one, rtol=0, atol=0)
    assert torch.equal(in_groups[[0, 8]], image[[0, 8]])
    assert not (in_groups == image).flatten(1).all(dim=1)[1:8].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_augments_as_a_cpu_does() -> None:
    ways = {"flip": True, "turn": True, "crop_px": 6, "band_dropout": 0.3, "mixup": 0.4}
    here = augmented(*by_class(), rng(5), classes=3, **ways)
    there = augmented(*(x.cuda() for x in by_class()), rng(5), classes=3, **ways)
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one, other.cpu())
