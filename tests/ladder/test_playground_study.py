"""Step 5: what a study finds on four shapes, and what a line can do there."""

from __future__ import annotations

from typing import Any

import pytest
from lessons import Worked, found

from swath.ladder.playground import _curve

ALONE = "no hidden layer: accuracy on all points"
BEST = "the best trial: accuracy on points it has not seen"


@pytest.mark.parametrize(
    ("name", "line", "best"),
    [
        ("playground", 0.75, 0.95),
        ("playground_circle", 0.7, 0.98),
        ("playground_xor", 0.75, 0.98),
        ("playground_gauss", 1.0, 0.98),
    ],
)
def test_a_study_finds_what_a_line_cannot(
    worked: Worked, name: str, line: float, best: float
) -> None:
    claims = found(worked(name))
    assert 0.45 < claims[ALONE] <= line
    assert claims[BEST] >= best
    if name == "playground_gauss":
        assert claims[ALONE] >= 0.98


def trial(*accuracies: list[float] | None) -> dict[str, Any]:
    """As trials.json has one, with what it has reached at each rung."""
    return {"rungs": [{"scores": a and a[-1:], "curve": a or []} for a in accuracies]}


def test_a_trial_has_the_curve_of_the_last_rung_that_it_has_ended() -> None:
    assert _curve(trial([0.5, 0.6], [0.5, 0.6, 0.7])) == [0.5, 0.6, 0.7]
    assert _curve(trial([0.5, 0.6], None)) == [0.5, 0.6]
    assert _curve(trial(None)) == []
