"""Fewer patches of the training part, as lessons ask for them."""

from __future__ import annotations

import numpy as np
import pytest

from swath.errors import ConfigError
from swath.ladder.training import drawn

PARTS = np.array(["train"] * 30 + ["val"] * 5 + ["test"] * 5)


def test_so_many_are_left_and_more_hold_the_fewer() -> None:
    few, more, other = drawn(PARTS, 8, 0), drawn(PARTS, 16, 0), drawn(PARTS, 8, 1)
    assert ((few == "train").sum(), (more == "train").sum()) == (8, 16)
    assert (few[30:] == PARTS[30:]).all() and (few == "unused").sum() == 22
    assert (more[few == "train"] == "train").all()
    assert (other != few).any()
    assert (drawn(PARTS, 30, 0) == PARTS).all()


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="31 patches are asked for, the part train has 30"):
        drawn(PARTS, 31, 0)
