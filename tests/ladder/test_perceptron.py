"""Step 1: Rosenblatt's rule by the trainer, and what is known of where it ends."""

from __future__ import annotations

import numpy as np
import pytest
from lessons import Worked, found

from swath.ladder.perceptron import _bound, _widest


@pytest.mark.parametrize(
    "overrides", [(), ("data=iris_pair", "lesson.seed=1")], ids=["two", "four"]
)
def test_what_is_known_of_rosenblatt_s_rule(worked: Worked, overrides: tuple[str, ...]) -> None:
    lesson = worked("perceptron", *overrides)
    claims = found(lesson)
    rule = "weights by epoch, trained against Rosenblatt's rule: largest difference"
    assert claims[rule] <= 1e-5
    assert claims["errors on the training part after the last epoch"] == 0
    assert claims["largest change of a weight in the last epoch"] == 0
    assert claims["largest cosine between w and the boundary"] <= 1e-4
    assert claims["boundary with a sigmoid: distance from a plane, in cm"] <= 1e-5
    table = [[float(cell) for cell in row] for row in lesson["tables"][0]["rows"]]
    updates, errors = ([row[column] for row in table] for column in (-2, -1))
    assert claims["updates from this start"] == sum(updates) > 20
    assert 0 < claims["updates from weights of zero"] < 40
    assert errors[0] > 30 and updates[1] > 10, "it has something to learn"
    assert len(lesson["pictures"]) == (1 if overrides else 2)


def test_novikoff_s_bounds_are_those_of_the_data(worked: Worked) -> None:
    claims = worked("perceptron")["claims"]
    bounds = {c["text"]: float(c["expected"][2:]) for c in claims if "updates" in c["text"]}
    assert bounds["updates from weights of zero"] == pytest.approx(20.9, abs=0.1)
    assert bounds["updates from this start"] == pytest.approx(175.8, abs=0.1)


def test_the_margin_and_the_bound_are_those_of_a_case_by_hand() -> None:
    """(1, 1) and (-1, 1) of one side: u is (0, 1), γ = 1, R² = 2, so 2 updates from zero."""
    signed = np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, 5.0]])
    towards = _widest(signed)
    np.testing.assert_allclose(towards, [0, 1], atol=1e-6)
    assert _bound(np.zeros(2), towards, 1.0, np.sqrt(2)) == pytest.approx(2.0)
    # Three steps the wrong way: -3 + k ≤ √(9 + 2k), so k ≤ 8.
    assert _bound(np.array([0.0, -3.0]), towards, 1.0, np.sqrt(2)) == pytest.approx(8.0)
