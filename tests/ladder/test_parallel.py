"""Step 14: several processes against Amdahl's line."""

from __future__ import annotations

import pytest
from lessons import Worked, found

from swath.ladder.parallel import amdahl, serial_share

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def claims(worked: Worked) -> dict[str, float]:
    return found(worked("parallel"))


def test_several_processes_make_what_one_makes(claims: dict[str, float]) -> None:
    assert claims["shards that several processes have cut otherwise than one"] == 0
    text = "weights after training by several processes: largest difference to those by one"
    assert 0 < claims[text] < 1e-3, "sums in another order, and so not to the bit"


def test_tasks_that_are_dealt_follow_amdahl(claims: dict[str, float]) -> None:
    text = "a work of which 5 % is serial, dealt to {} processes one task after another: speed-up"
    speedups = [claims[text.format(n)] for n in (5, 19, 95)]
    assert speedups == pytest.approx([100 / 24, 10, 100 / 6])
    assert claims["the same by any number of processes: speed-up"] == pytest.approx(20, abs=1e-4)


def test_a_speedup_tells_the_serial_share() -> None:
    assert amdahl(0.25, 4) == pytest.approx(1 / (0.25 + 0.75 / 4))
    for share in (0.0, 0.1, 0.7, 1.0):
        assert serial_share(amdahl(share, 8), 8) == pytest.approx(share)
