"""Step 7: posteriors, parameters that grow with the image, and over-fitting."""

from __future__ import annotations

import numpy as np
import pytest
from lessons import Worked, found

from swath.ladder.fully_connected import posteriors
from swath.ladder.images import in_colour


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("fully_connected"))


def test_posteriors_sum_to_one(claims: dict[str, float]) -> None:
    assert claims["posteriors: largest distance of a patch's sum from 1"] <= 1e-12
    assert claims["posteriors: largest change if 7 is added to all logits"] <= 1e-12


def test_parameters_grow_with_the_square_of_the_side(claims: dict[str, float]) -> None:
    for side in (8, 16, 32, 64, 128):
        expected = 4 * side**2 * 6 + 6 + 6 * 8 + 8
        assert claims[f"parameters of 6 hidden units on {side} × {side} pixels"] == expected
    assert claims["weights on images, as a multiple of those for half the side"] == 4
    assert claims["the convolutional network: sizes that it has on all these sides"] == 1


def test_the_fully_connected_network_learns_by_heart(claims: dict[str, float]) -> None:
    size = claims["size of the fully connected network, as a share of the convolutional one's"]
    assert 0.9 < size < 1.1
    learnt = claims["fully connected: accuracy on the patches that it learnt from"]
    lost = claims["fully connected: what it loses on other patches"]
    assert learnt > 0.8 and lost > 0.25
    assert learnt - lost > 2 / 8, "twice what chance has right of eight kinds"
    better = "convolutional: accuracy on other patches, above the fully connected one's"
    assert claims[better] > 0.1
    assert claims["fully connected: what it loses, above what the convolutional one does"] > 0.1


def test_posteriors_are_the_softmax_and_do_not_overflow() -> None:
    np.testing.assert_allclose(posteriors(np.log([[1.0, 2.0, 5.0]])), [[1 / 8, 2 / 8, 5 / 8]])
    np.testing.assert_allclose(posteriors(np.array([[2000.0, 0.0]])), [[1, 0]])


def test_colours_are_stretched_band_by_band() -> None:
    values = np.random.default_rng(0).normal([[[[100]], [[5]], [[0]]]], 1, (6, 3, 4, 4))
    shown = in_colour(values, (2, 1, 0))
    assert shown.shape == (6, 4, 4, 3) and shown.min() == 0 and shown.max() == 1
    brighter = np.argsort(values[:, 0].ravel())[len(values.ravel()) // 6]
    assert shown[..., 2].ravel()[brighter] == pytest.approx(0.5, abs=0.15)
