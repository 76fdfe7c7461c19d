"""Step 13: signals and gradients by layer, and optimizers in a ravine, as theory has them."""

from __future__ import annotations

import pytest
from lessons import Worked, found


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("depth"))


@pytest.mark.parametrize(
    ("case", "factor"),
    [
        ("small with relu", 256 * 1e-4 / 2),
        ("xavier with relu", 1 / 2),
        ("he with relu", 1),
        ("xavier with linear", 1),
    ],
)
def test_the_variance_of_the_weights_says_what_a_layer_leaves(
    claims: dict[str, float], case: str, factor: float
) -> None:
    assert claims[f"signal, {case}: factor by layer"] == pytest.approx(factor, rel=0.1)


def test_of_torchs_own_weights_the_biases_are_left(claims: dict[str, float]) -> None:
    assert claims["signal, default with relu: n times what is left"] == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(
    ("case", "factor"), [("relu", 1 / 6), ("relu, residual", 7 / 6), ("relu, he", 1)]
)
def test_adding_the_input_adds_one_to_the_factor_of_the_gradient(
    claims: dict[str, float], case: str, factor: float
) -> None:
    text = f"gradient, {case}: factor by layer, from the last to the first"
    assert claims[text] == pytest.approx(factor, rel=0.1)


def test_a_sigmoid_lets_a_gradient_vanish(claims: dict[str, float]) -> None:
    text = "gradient, sigmoid: factor by layer, from the last to the first"
    assert 1 / 60 < claims[text] <= 1.1 / 48


def test_momentum_makes_the_root_of_a_ravine(claims: dict[str, float]) -> None:
    factor = "ravine, {}: factor by step"
    assert claims[factor.format("plain")] == pytest.approx(99 / 101, abs=1e-6)
    assert claims[factor.format("momentum")] == pytest.approx(9 / 11, abs=0.015)
    assert claims[factor.format("Nesterov")] == pytest.approx(0.9, abs=0.015)


def test_adaptive_rates_do_not_see_how_high_a_loss_is(claims: dict[str, float]) -> None:
    for name, first in (("rmsprop", 3.0), ("adam", 0.3)):
        change = f"ravine, {name}: change of the path by a loss 1000 times as high"
        assert claims[change] <= 1e-5
        for axis in (1, 2):
            step = claims[f"ravine, {name}: first step of w{axis}"]
            assert step == pytest.approx(first, abs=1e-6)
