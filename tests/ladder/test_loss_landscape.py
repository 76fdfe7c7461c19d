"""Step 12: surfaces that a rescaling does not change, minima, and rates against curvatures."""

from __future__ import annotations

import pytest
from lessons import Worked, found


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("loss_landscape"))


def test_a_filter_normalised_surface_is_that_of_the_function(claims: dict[str, float]) -> None:
    change = "the same network, rescaled: change of its "
    assert claims[f"{change}filter-normalised surface"] <= 1e-9
    assert claims[f"{change}surface in plain directions"] >= 0.5


def test_the_way_lies_in_two_directions(claims: dict[str, float]) -> None:
    assert claims["share of the way in its two principal directions"] >= 0.9
    # 2 of 42: 2 x 8 + 8 weights and biases of the first layer, 8 x 2 + 2 of the second
    by_chance = claims["share of the way in two random directions"]
    assert by_chance == pytest.approx(2 / 42, rel=0.05)


def test_descents_end_in_minima_of_different_height(claims: dict[str, float]) -> None:
    assert claims["minima: largest gradient"] <= 1e-5
    assert claims["minima: least curvature"] >= -1e-9
    assert claims["minima: loss of the worst over that of the best"] >= 1.2


def test_the_largest_curvature_says_how_long_a_step_may_be(claims: dict[str, float]) -> None:
    growth = "at the best minimum, a rate of {} · 2/λ: growth by a step"
    assert claims[growth.format(0.95)] == pytest.approx(0.9, abs=0.01)
    assert claims[growth.format(1.05)] == pytest.approx(1.1, abs=0.01)
    after = "quadratic, {}: distance after 20 steps"
    # Both directions shrink to 9/11 of themselves a step, and begin at (10, 1).
    best = claims[after.format("right (2/(λ₁ + λ₂))")]
    assert best == pytest.approx((9 / 11) ** 20 * 101**0.5)
    assert claims[after.format("too large (1.05 · 2/λ)")] == pytest.approx(
        ((10 * 0.79**20) ** 2 + 1.1**40) ** 0.5
    )
    assert best < 0.03 * claims[after.format("too small (0.1 · 2/λ)")]


def test_one_rate_of_three_is_right_on_the_network(claims: dict[str, float]) -> None:
    assert claims["too small, 0.003: last loss over that of 1"] >= 10
    assert claims["too large, 10: last loss over that of 1"] >= 10
    assert claims["too large, 10: largest loss over the first one"] >= 2
