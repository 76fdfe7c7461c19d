"""Losses: of numbers of classes and of shares of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from swath.learn.tasks import classification, segmentation

ANSWER = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
LABEL = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_that_are_all_or_nothing_cost_what_numbers_cost(smoothing) -> None:
    loss = classification(label_smoothing=smoothing).loss
    torch.testing.assert_close(loss(ANSWER, F.one_hot(LABEL, 3).float()), loss(ANSWER, LABEL))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_labels_cost_the_mixture_of_what_their_parts_cost(smoothing) -> None:
    """Zhang et al. 2018: λ · loss(a) + (1 - λ) · loss(b)."""
    loss = classification(label_smoothing=smoothing).loss
    other = LABEL.roll(1)
    soft = 0.3 * F.one_hot(LABEL, 3) + 0.7 * F.one_hot(other, 3)
    expected = 0.3 * loss(ANSWER, LABEL) + 0.7 * loss(ANSWER, other)
    torch.testing.assert_close(loss(ANSWER, soft), expected)


def test_unlabelled_pixels_cost_nothing() -> None:
    loss = segmentation().loss
    answer = ANSWER[:, :, None, None].expand(6, 3, 1, 2)
    label = torch.stack([LABEL, torch.full((6,), 255)], dim=1)[:, None]
    torch.testing.assert_close(loss(answer, label), F.cross_entropy(ANSWER, LABEL))
