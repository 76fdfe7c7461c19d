"""Step 4: activations are their formulas, and the sigmoid's signal vanishes with depth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lessons import Worked, found

from swath.ladder.activations import FORMULAS, NAMES


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("activations"))


@pytest.mark.parametrize("name", NAMES)
def test_an_activation_is_its_published_formula(claims: dict[str, float], name: str) -> None:
    assert claims[f"{name}: distance from its formula and derivative"] <= 1e-12
    steepest = 0.25 if name == "sigmoid" else 1.0
    assert claims[f"{name}: largest derivative"] == pytest.approx(steepest, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_formulas_fit_their_derivatives(name: str) -> None:
    value, slope = FORMULAS[name]
    z, step = np.array([-3.1, -0.7, 0.4, 2.9]), 1e-6
    difference = (value(z + step) - value(z - step)) / (2 * step)
    np.testing.assert_allclose(slope(z), difference, atol=1e-8)


def test_what_saturates_has_next_to_no_derivative_far_from_zero(claims: dict[str, float]) -> None:
    at = {n: [claims[f"{n}: derivative at z = {side}5"] for side in ("−", "")] for n in NAMES}
    assert at["sigmoid"] == pytest.approx([0.00664806] * 2, abs=1e-8)
    assert at["tanh"] == pytest.approx([1 / math.cosh(5) ** 2] * 2, abs=1e-9)
    assert at["relu"] == [0, 1]
    assert at["softplus"] == pytest.approx([0.00669285, 0.99330715], abs=1e-8)
    assert at["leaky_relu"] == pytest.approx([0.01, 1])
    assert at["elu"] == pytest.approx([math.exp(-5), 1])


def test_elu_is_the_published_one_and_not_the_lecture_s(claims: dict[str, float]) -> None:
    assert claims["elu at z = −1"] == pytest.approx(-0.6321205588, abs=1e-9)
    text = "elu at z = −1: distance from the lecture's α(e^z − 1)z"
    assert claims[text] == pytest.approx(1.2642411)


def test_the_signal_of_the_sigmoid_vanishes_and_it_learns_nothing(claims: dict[str, float]) -> None:
    share = {n: claims[f"{n}: share of the signal that reaches the first layer"] for n in NAMES}
    assert share["sigmoid"] < 0.01 < 10 * share["sigmoid"] < min(share["relu"], share["tanh"])
    assert claims["sigmoid: loss at the end, which is that of guessing"] == pytest.approx(
        math.log(2), abs=0.05
    )
    assert min(claims[f"{n}: accuracy"] for n in ("tanh", "relu", "leaky_relu", "elu")) >= 0.9
