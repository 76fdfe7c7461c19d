"""Step 3: lines without hidden units and with linear ones; islands with others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lessons import Worked, found

from swath.data.drawings import on_islands, points
from swath.ladder.boundaries import SIDE, _convexity, _parts


def test_what_regions_are_by_the_hidden_layers(worked: Worked) -> None:
    lesson = worked("boundaries")
    claims = found(lesson)
    assert claims["no hidden layer: distance of the boundary from a line"] <= 1e-4
    assert claims["3 linear hidden layers: distance of the boundary from a line"] <= 1e-4
    assert claims["3 linear hidden layers: answers against those of one layer, relative"] <= 1e-5
    assert claims["hidden layers: parts of the region"] == 2
    assert claims["hidden layers: convexity of the triangle"] >= 0.9
    assert claims["hidden layers: convexity of the angle"] <= 0.9
    assert claims["hidden layers: accuracy"] >= 0.95
    assert 0.5 < claims["no hidden layer: accuracy"] <= 0.75
    assert [row[1] for row in lesson["tables"][0]["rows"]][:2] == ["1", "1"], "a line has one side"


def grid() -> np.ndarray:
    side = np.linspace(-1, 1, SIDE)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def test_the_islands_are_a_triangle_and_an_angle() -> None:
    """Areas 0.8 · 0.8 / 2, and 0.85² - 0.6²; the angle's hull lacks half of the notch."""
    angle, triangle = _parts(on_islands(grid()))
    cell = (2 / (SIDE - 1)) ** 2
    assert triangle.sum() * cell == pytest.approx(0.32, abs=0.02)
    assert angle.sum() * cell == pytest.approx(0.3625, abs=0.02)
    assert _convexity(triangle) == pytest.approx(1, abs=0.04)
    assert _convexity(angle) == pytest.approx(0.3625 / (0.3625 + 0.18), abs=0.03)


def test_a_ring_is_one_part_and_not_convex_and_a_speck_is_none() -> None:
    radius = np.hypot(*grid().T)
    (disc,) = _parts(radius < 0.5)
    assert _convexity(disc) == pytest.approx(1, abs=0.03)
    (ring,) = _parts((radius < 0.5) & (radius > 0.25))
    assert _convexity(ring) == pytest.approx(0.75, abs=0.03)
    assert _parts(radius < 0.02) == []


def test_islands_are_drawn_as_they_are_told_apart(tmp_path: Path) -> None:
    points(tmp_path / "drawn", shape="islands", count=200, seed=3)
    rows = np.loadtxt(tmp_path / "drawn/points.csv", delimiter=",")
    assert rows[:, 2].sum() == 100 and np.abs(rows[:, :2]).max() <= 1
    assert np.array_equal(on_islands(rows[:, :2]), rows[:, 2] == 1)
