"""Step 11: gradients by hand, and the descent of one weight to the digit."""

from __future__ import annotations

from pathlib import Path

import pytest
from lessons import Worked, found

from swath import plan
from swath.errors import ConfigError

PRINTED = ["0.8", "0.59", "0.4745", "0.410975", "0.37603625", "0.3568199375"]


@pytest.mark.parametrize("overrides", [(), ("lesson.hidden=9", "lesson.outputs=1")])
def test_gradients_by_hand_are_those_of_autograd_and_of_differences(
    worked: Worked, overrides: tuple[str, ...]
) -> None:
    claims = found(worked("backpropagation", *overrides))
    assert claims["gradients by hand against autograd: largest difference"] <= 1e-12
    assert claims["gradients by hand against differences: largest difference"] <= 1e-7


def test_one_weight_descends_by_the_numbers_of_the_lecture(worked: Worked) -> None:
    lesson = worked("backpropagation")
    claims = found(lesson)
    table = [row[1] for row in lesson["tables"][0]["rows"]]
    assert table == PRINTED
    assert [f"{claims[f'w after {n} steps']:.10g}" for n in range(6)] == PRINTED
    assert [c["expected"].split()[0] for c in lesson["claims"][2:8]] == PRINTED
    left = claims["share of the way to the least error that is left after the last step"]
    assert left == pytest.approx(0.55**5, abs=1e-12)


def test_another_rate_leaves_another_share(worked: Worked) -> None:
    """1 - 4.5 · 2/9 is 0; above 4/9 what is left grows."""
    text = "share of the way to the least error that is left after the last step"
    best = found(worked("backpropagation", "lesson.rate=0.2222222222222222", "lesson.steps=1"))
    assert best[text] == pytest.approx(0, abs=1e-12)
    assert found(worked("backpropagation", "lesson.rate=0.5"))[text] == pytest.approx(1.25**5)


def test_a_rate_that_is_not_positive_is_refused(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"lesson\.rate"):
        plan.compose(repository / "conf", "ladder/backpropagation", ("lesson.rate=0",))
