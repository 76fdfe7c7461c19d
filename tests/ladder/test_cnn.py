"""Step 10: what a convolutional network has learnt, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
from lessons import Worked, found

from swath.ladder.cnn import shuffled


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("cnn"))


def test_each_layer_answers_in_the_shape_of_the_formula(claims: dict[str, float]) -> None:
    assert claims["shapes of answers that the formula does not give"] == 0
    sizes = {text.partition(":")[0]: size for text, size in claims.items() if "values of" in text}
    assert sizes == {
        "convolution 1": 16 * 16 * 16, "pooling 1": 16 * 8 * 8, "convolution 2": 32 * 8 * 8,
        "pooling 2": 32 * 4 * 4, "fully connected 1": 32, "fully connected 2": 8,
    }  # fmt: skip
    assert claims["first feature maps: a plain loop's largest difference"] < 1e-4


def test_its_probabilities_and_its_accuracy(claims: dict[str, float]) -> None:
    text = "class probabilities: largest distance of a patch's sum from 1"
    assert claims[text] <= 1e-12
    assert claims["accuracy on the test part, above that of the most frequent class"] > 0.3
    assert claims["accuracy above that of a perceptron of all pixels"] > 0.05


def test_it_knows_more_than_colours(claims: dict[str, float]) -> None:
    assert claims["shuffled pixels: change of a patch's means, as a share"] == 0
    assert claims["shuffled pixels: answers that change"] > 0.1
    assert claims["shuffled pixels: accuracy that is lost"] > 0.03


def test_shuffled_pixels_keep_their_bands_together() -> None:
    image = np.arange(9.0).reshape(1, 1, 3, 3)
    mixed = shuffled(np.concatenate([image, 10 * image], axis=1))
    assert sorted(mixed[0, 0].ravel()) == sorted(image.ravel())
    np.testing.assert_array_equal(mixed[:, 1], 10 * mixed[:, 0])
    assert (mixed[0, 0] != image[0, 0]).any()
