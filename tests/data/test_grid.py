"""Windows and rectangles: counted, covered, measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swath.data.grid import (
    window_corners,
)

SIDE = st.integers(1, 40)


def test_the_corners_of_a_small_scene_are_these_row_by_row() -> None:
    corners = window_corners(7, 9, 4, 2)
    assert corners.tolist() == [[0, 0], [0, 2], [0, 4], [2, 0], [2, 2], [2, 4]]


def test_a_scene_smaller_than_a_patch_has_no_window() -> None:
    assert window_corners(63, 200, 64, 16).shape == (0, 2)
    assert window_corners(64, 64, 64, 16).tolist() == [[0, 0]]


@given(height=SIDE, width=SIDE, size=SIDE, stride=SIDE)
def test_every_whole_window_is_there_and_covers_as_often_as_the_stride_says(
    height: int, width: int, size: int, stride: int
) -> None:
    corners = window_corners(height, width, size, stride)

    def number(length: int) -> int:
        return (length - size) // stride + 1 if length >= size else 0

    assert len(corners) == number(height) * number(width)
    assert len({tuple(corner) for corner in corners}) == len(corners)

    times = np.zeros((height, width), int)
    for row, column in corners:
        window = times[row : row + size, column : column + size]
        assert window.shape == (size, size), "a window reaches over the edge"
        window += 1

    def covering(at: int, length: int) -> int:
        starts = range(0, length - size + 1, stride)
        return sum(start <= at < start + size for start in starts)

    expected = np.outer(
        [covering(row, height) for row in range(height)],
        [covering(column, width) for column in range(width)],
    )
    np.testing.assert_array_equal(times, expected)


@given(
    height=SIDE, width=SIDE, size=SIDE, stride=SIDE,
    padding=st.sampled_from(["none", "shift", "nodata", "reflect"]),
)  # fmt: skip
def test_padding_covers_what_it_promises(
    height: int, width: int, size: int, stride: int, padding: str
) -> None:
    corners = window_corners(height, width, size, stride, padding)
    assert len({tuple(corner) for corner in corners}) == len(corners)
    assert corners.tolist() == sorted(corners.tolist())
    times = np.zeros((height, width), int)
    for row, column in corners:
        assert row < height and column < width, "a window lies beyond the edge"
        window = times[row : row + size, column : column + size]
        whole = window.shape == (size, size)
        assert whole or padding in ("nodata", "reflect"), "a window reaches over the edge"
        window += 1
    if padding in ("none", "shift") and size > min(height, width):
        assert not len(corners)
    elif padding != "none" and stride <= size:
        assert times.min() >= 1
    # What lies before the last whole window is covered as without padding.
    plain = np.zeros_like(times)
    for row, column in window_corners(height, width, size, stride):
        plain[row : row + size, column : column + size] += 1
    assert (times >= plain).all()
    if padding == "none":
        np.testing.assert_array_equal(times, plain)
    elif padding != "shift":  # one more window at most, along each side
        rows, columns = np.unique(corners[:, 0]), np.unique(corners[:, 1])
        assert (np.diff(rows) == stride).all() and (np.diff(columns) == stride).all()
        for length, starts in ((height, rows), (width, columns)):
            assert len(starts) == 1 or starts[-2] + size < length, "the last was not needed"


def test_the_last_window_is_moved_inward_or_reaches_over() -> None:
    assert window_corners(10, 4, 4, 4, "shift")[:, 0].tolist() == [0, 4, 6]
    assert window_corners(8, 4, 4, 4, "shift")[:, 0].tolist() == [0, 4]
    assert window_corners(10, 4, 4, 4, "nodata")[:, 0].tolist() == [0, 4, 8]
    assert window_corners(3, 4, 4, 4, "reflect").tolist() == [[0, 0]]
    # Gaps between the windows: none begins beyond the edge.
    assert window_corners(10, 2, 2, 5, "nodata")[:, 0].tolist() == [0, 5]


def test_a_stride_of_half_the_size_covers_the_inside_four_times() -> None:
    times = np.zeros((64, 64), int)
    for row, column in window_corners(64, 64, 16, 8):
        times[row : row + 16, column : column + 16] += 1
    assert np.unique(times[8:-8, 8:-8]).tolist() == [4]
    assert times[0, 0] == 1 and times[0, 30] == 2
