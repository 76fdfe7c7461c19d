"""Step 2: what one unit cannot do, and four can."""

from __future__ import annotations

import pytest
from lessons import Worked, found


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("xor"))


def test_one_unit_has_at_most_three_quarters_right_with_any_activation(
    claims: dict[str, float],
) -> None:
    alone = {text: value for text, value in claims.items() if text.startswith("one unit")}
    assert len(alone) == 7
    assert max(alone.values()) <= 0.75
    assert max(alone.values()) > 0.6, "and they did train"


def test_a_hidden_layer_has_all_of_it(claims: dict[str, float]) -> None:
    assert claims["a hidden layer of 4 units with tanh: accuracy"] == 1.0
