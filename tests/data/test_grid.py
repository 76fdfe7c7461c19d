"""Windows and rectangles: counted, covered, measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from swath.data.grid import (
    rectangle_distances,
    rectangle_gaps,
    rectangle_overlaps,
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


def test_a_stride_of_half_the_size_covers_the_inside_four_times() -> None:
    times = np.zeros((64, 64), int)
    for row, column in window_corners(64, 64, 16, 8):
        times[row : row + 16, column : column + 16] += 1
    assert np.unique(times[8:-8, 8:-8]).tolist() == [4]
    assert times[0, 0] == 1 and times[0, 30] == 2


# west, south, east, north; the second of each pair, and what is known of it
FIRST = (0.0, 0.0, 10.0, 10.0)
PAIRS = [
    ((4.0, 3.0, 14.0, 13.0), 42.0, 0.0),
    ((10.0, 0.0, 20.0, 10.0), 0.0, 0.0),
    ((10.0, 10.0, 20.0, 20.0), 0.0, 0.0),
    ((13.0, 14.0, 20.0, 20.0), 0.0, 5.0),
    ((-9.0, 2.0, -2.0, 4.0), 0.0, 2.0),
    ((2.0, 30.0, 4.0, 31.0), 0.0, 20.0),
    ((2.0, 2.0, 4.0, 5.0), 6.0, 0.0),
    (FIRST, 100.0, 0.0),
]


def test_rectangles_share_and_part_as_drawn_by_hand() -> None:
    second = np.array([other for other, _, _ in PAIRS])
    first = np.repeat([FIRST], len(second), axis=0)
    for a, b in ((first, second), (second, first)):
        np.testing.assert_array_equal(rectangle_overlaps(a, b), [area for _, area, _ in PAIRS])
        np.testing.assert_array_equal(rectangle_distances(a, b), [m for _, _, m in PAIRS])


def test_gaps_are_negative_where_rectangles_overlap_along_an_axis() -> None:
    gap_x, gap_y = rectangle_gaps(np.array([FIRST]), np.array([(13.0, 4.0, 20.0, 20.0)]))
    assert (gap_x.tolist(), gap_y.tolist()) == ([3.0], [-6.0])
