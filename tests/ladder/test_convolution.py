"""Step 8: what a convolution computes, and how far it sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lessons import Worked, found

from swath.errors import ConfigError
from swath.ladder.convolution import by_hand, convolution, convolved, wrapped


@pytest.fixture(scope="module")
def lesson(worked: Worked) -> dict[str, Any]:
    return worked("convolution")


@pytest.fixture(scope="module")
def claims(lesson: dict[str, Any]) -> dict[str, float]:
    return found(lesson)


def test_the_lectures_feature_map(claims: dict[str, float]) -> None:
    assert claims["the lecture's feature map begins with"] == 4
    assert claims["its values that are not the lecture's"] == 0
    assert claims["a plain loop and the platform's convolution: largest difference"] == 0
    assert claims["a convolution is this sum with its filter turned: largest difference"] == 0


def test_filters_on_a_satellite_patch(claims: dict[str, float]) -> None:
    for name, total in (("sharpen", 1), ("edge", 0), ("strong edge", 0)):
        assert claims[f"{name}: mean of the answer, as a share of the image's"] == total
    assert claims["edge: answer on borders of classes, as a multiple of that within them"] > 1.3
    assert claims["strong edge: likewise"] > 1.3
    assert 1.5 < claims["strong edge: mean answer, as a multiple of edge's"] < 4


def test_padding_and_sides(lesson: dict[str, Any], claims: dict[str, float]) -> None:
    assert claims["sides of answers that the formula does not give"] == 0
    assert claims["a padding of (k − 1)/2 keeps the side: kernels of 1, 3, 5, 7 that do not"] == 0
    rows = lesson["tables"][0]["rows"]
    assert ["32 px", "3", "1", "1", "32", "32"] in rows
    assert ["32 px", "5", "0", "2", "14", "14"] in rows


def test_receptive_fields(claims: dict[str, float]) -> None:
    assert {
        text.removeprefix("receptive field of "): value
        for text, value in claims.items()
        if text.startswith("receptive field")
    } == {
        "3 × 3, twice": 5,
        "3 × 3, five times": 11,
        "3 × 3 and pooling by 2, twice": 10,
        "3 × 3, dilated by 1, 2 and 4": 15,
        "7 × 7 with stride 2, then 3 × 3": 11,
    }
    assert claims[
        "weights of two 3 × 3 filters, as a share of one 5 × 5 that sees as much"
    ] == pytest.approx(0.72)


def test_a_plain_loop_is_the_platforms_convolution() -> None:
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((7, 9)), rng.standard_normal((2, 3))
    np.testing.assert_allclose(by_hand(image, kernel), convolved(image, kernel), atol=1e-12)
    assert by_hand(image, kernel)[2, 3] == pytest.approx((image[2:4, 3:6] * kernel).sum())


def test_an_image_that_goes_on_at_its_opposite_side() -> None:
    image = np.arange(12.0).reshape(3, 4)
    left = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(wrapped(image, left), np.roll(image, 1, axis=1))


@pytest.mark.parametrize("side", [2, 129])
def test_a_piece_that_cannot_be_cut(side: int) -> None:
    with pytest.raises(ConfigError, match=r"lesson.patch_px.*give 16 to 128"):
        convolution(patch_px=side)
