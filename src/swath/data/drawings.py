"""Datasets that are drawn from a seed instead of being fetched: synthetic, and said to be so.

To add one, write a function here, marked `@registered("drawing")`. It gets an empty folder's path
and writes the dataset's files below it, in a form that a layout reads; its keyword arguments are
the settings of `data.drawing` in a card.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swath.files import write_text
from swath.registry import Count, NonNegative, Whole, registered

Points = NDArray[np.float64]
"""(point, 2)"""
Labels = NDArray[np.int64]


@registered("drawing")
def landscape(folder: Path, *, seed: Whole = 0, scenes: Count = 4, size_px: Count = 768) -> None:
    """Scenes of a landscape in nine classes (`swath.data.landscape`).

    Args:
        folder: one below it for each scene.
        seed: of the landscape.
        scenes: how many.
        size_px: side of each, even and at least 128.
    """
    from swath.data.landscape import draw_scenes

    draw_scenes(folder, seed=seed, scenes=scenes, size_px=size_px)


@registered("drawing")
def points(
    folder: Path,
    *,
    shape: Literal["xor", "circle", "gauss", "spiral"],
    count: Count = 400,
    noise: NonNegative = 0.0,
    seed: Whole = 0,
) -> None:
    """Points of the plane in two classes, as the table `points.csv`: x1, x2, label.

    Args:
        folder: where the table is written.
        shape: `xor` has a class where the signs of both coordinates are the same, the other where
            they are not; `circle` a disc within a ring; `gauss` two normal distributions; `spiral`
            two arms, each one and three quarters of a turn.
        count: points in all, half of each class; of `xor` a multiple of 4.
        noise: standard deviation of what is added to both coordinates; all shapes lie in [-1, 1]
            but for the tails of `gauss`.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    at, label = _SHAPES[shape](rng, count)
    at = at + noise * rng.standard_normal(at.shape)
    order = rng.permutation(len(label))
    rows = [f"{x:.6f},{y:.6f},{k}" for (x, y), k in zip(at[order], label[order], strict=True)]
    folder.mkdir(parents=True)
    write_text(folder / "points.csv", "\n".join(rows) + "\n")


def _xor(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    """Each draw stands for the four corners of a rectangle around the origin.

    A line has at most three corners of a rectangle on their right sides, so that no linear
    classifier has more than three quarters of such points right, whichever are drawn.
    """
    corner = rng.uniform(0.2, 1.0, (-(-count // 4), 2))
    signs = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]])
    at = (corner[:, None] * signs).reshape(-1, 2)
    return at, np.tile([0, 0, 1, 1], len(corner))


def _circle(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    label = np.arange(count) % 2
    # The root makes points as dense everywhere.
    radius = np.sqrt(np.where(label, rng.uniform(0.7**2, 1, count), rng.uniform(0, 0.5**2, count)))
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), label


def _gauss(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    label = np.arange(count) % 2
    return (label * 1.0 - 0.5)[:, None] + 0.18 * rng.standard_normal((count, 2)), label


def _spiral(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    label = np.arange(count) % 2
    along = np.sqrt(rng.uniform(0.01, 1, count))
    angle = 3.5 * np.pi * along + np.pi * label
    return np.stack([along * np.sin(angle), along * np.cos(angle)], 1), label


_SHAPES: dict[str, Callable[[np.random.Generator, int], tuple[Points, Labels]]] = {
    "xor": _xor, "circle": _circle, "gauss": _gauss, "spiral": _spiral,
}  # fmt: skip
