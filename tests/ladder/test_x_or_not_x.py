"""Step 9: full and local connection, and shared weights."""

from __future__ import annotations

import numpy as np
import pytest
from lessons import Worked, found

from swath.ladder.x_or_not_x import moved


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("x_or_not_x"))


def test_parameters_are_those_of_the_formulas(claims: dict[str, float]) -> None:
    head = (16 + 1) * 16 + (16 + 1) * 2
    first, second = (9 + 1) * 8, (8 * 9 + 1) * 16
    assert claims["fully connected: parameters"] == (400 + 1) * 64 + (64 + 1) * 2
    assert claims["locally connected: parameters"] == 400 * first + 100 * second + head
    assert claims["convolutional: parameters"] == first + second + head


def test_sharing_is_local_connection_with_equal_filters(claims: dict[str, float]) -> None:
    text = "local filters with the same weights everywhere: difference from a convolution"
    assert claims[text] == 0


def test_all_three_learn_what_lies_in_the_centre(claims: dict[str, float]) -> None:
    for name in ("fully connected", "locally connected", "convolutional"):
        assert claims[f"{name}: accuracy in the centre, as learnt"] > 0.9


def test_only_shared_weights_know_it_elsewhere(claims: dict[str, float]) -> None:
    assert claims["convolutional: accuracy at all shifts"] > 0.9
    assert claims["convolutional: answers that stay the same"] > 0.9
    text = "largest change of a logit by a shift of 4 px, the step of the poolings"
    assert claims[f"convolutional: {text}"] < 1e-3
    for name in ("fully connected", "locally connected"):
        assert claims[f"{name}: accuracy at all shifts"] < 0.8
        assert claims[f"{name}: answers that stay the same"] < 0.8
        assert claims[f"{name}: {text}"] > 1


def test_what_leaves_an_image_comes_in_at_the_other_side() -> None:
    image = np.arange(12.0).reshape(1, 1, 3, 4)
    assert moved(image, 1, -1)[0, 0].tolist() == [[9, 10, 11, 8], [1, 2, 3, 0], [5, 6, 7, 4]]
