"""Datasets that are drawn from a seed instead of being fetched: synthetic, and said to be so.

To add one, write a function here, marked `@registered("drawing")`. It gets an empty folder's path
and writes the dataset's files below it, in a form that a layout reads; its keyword arguments are
the settings of `data.drawing` in a card.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swath.errors import ConfigError
from swath.files import whole, write_text
from swath.registry import Count, NonNegative, Positive, Share, Whole, registered

Points = NDArray[np.float64]
"""(point, 2)"""
Labels = NDArray[np.int64]
Stroke = NDArray[np.float64]
"""A line through some points, (point, 2)."""


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
def landscape_patches(
    folder: Path,
    *,
    seed: Whole = 0,
    scenes: Count = 2,
    size_px: Count = 640,
    patch_px: Count = 16,
    per_class: Count = 60,
) -> None:
    """Patches of a landscape, each of one kind of land, as EuroSAT's: `patches.zip`.

    A folder a kind, and in it GeoTIFFs of B02, B03, B04 and B08 (reflectance x 10^4) that lie on a
    grid without overlap. Only what is of one kind alone is taken: seven tenths of Vegetation,
    Trees, Bare Soil or Soil, six tenths of Buildings and Blocks (Town), 5 % of Tower (Estate), a
    fifth of Roads (Road), or a tenth of Light Train (Rail).

    Args:
        folder: where the archive is written.
        seed: of the landscapes, and of the choice of patches.
        scenes: landscapes that are drawn.
        size_px: side of each, even and at least 128.
        patch_px: side of a patch.
        per_class: patches of each kind.

    Raises:
        ConfigError: the landscapes hold fewer patches of a kind.
    """
    from swath.data.landscape import as_tiff, cut_patches

    chosen = np.random.default_rng([seed, scenes])
    kinds = cut_patches(seed=seed, scenes=scenes, size_px=size_px, patch_px=patch_px)
    folder.mkdir(parents=True)
    with whole(folder / "patches.zip") as part, zipfile.ZipFile(part, "w") as archive:
        for kind, patches in kinds.items():
            if len(patches) < per_class:
                raise ConfigError(
                    f"{per_class} patches of {kind} are wanted, the landscapes hold {len(patches)}",
                    where="data.drawing", mend="raise scenes or size_px, or lower per_class",
                )  # fmt: skip
            which = sorted(chosen.choice(len(patches), per_class, replace=False))
            for number, at in enumerate(which, start=1):
                # A date of its own, so that the same patches are the same archive.
                member = zipfile.ZipInfo(f"{kind}/{kind}_{number}.tif")
                archive.writestr(member, as_tiff(*patches[at]))


@registered("drawing")
def x_or_not_x(
    folder: Path,
    *,
    count: Count = 600,
    side_px: Count = 20,
    radius_px: Positive = 4.5,
    shift_px: NonNegative = 0.0,
    shrink: Share = 0.6,
    turn_deg: NonNegative = 15.0,
    bend: NonNegative = 0.1,
    seed: Whole = 0,
) -> None:
    """Binary images of an X and of other figures, as the table `figures.csv`.

    Half are an X, the others an O, a +, a / or a line of three points drawn at random. A row holds
    an image row by row (0 or 1), and 0 for an X, 1 for another figure.

    Args:
        folder: where the table is written.
        count: images in all.
        side_px: side of an image.
        radius_px: half the side of a figure that is not shrunk.
        shift_px: most by which a figure lies off the centre, along each axis.
        shrink: the least size of a figure, as a share of the whole one.
        turn_deg: most by which a figure is turned either way; from 45 on a + becomes an X.
        bend: standard deviation by which each point of a stroke is moved, as a share of the radius.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    others = (_ring, _plus, _slash, _scribble)
    rows = []
    for number in range(count):
        strokes = others[number // 2 % len(others)](rng) if number % 2 else _cross(rng)
        angle = np.radians(rng.uniform(-turn_deg, turn_deg))
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        size = radius_px * rng.uniform(shrink, 1)
        middle = (side_px - 1) / 2 + rng.uniform(-shift_px, shift_px, 2)
        placed = [
            (stroke + bend * rng.standard_normal(stroke.shape)) @ turned * size + middle
            for stroke in strokes
        ]
        image = _inked(placed, side_px)
        rows.append(",".join(map(str, [*image.ravel().astype(int), number % 2])))
    folder.mkdir(parents=True)
    write_text(folder / "figures.csv", "\n".join(rows) + "\n")


def _cross(rng: np.random.Generator) -> list[Stroke]:
    return [_line((-1, -1), (1, 1)), _line((-1, 1), (1, -1))]


def _ring(rng: np.random.Generator) -> list[Stroke]:
    angle = np.linspace(0, 2 * np.pi, 13)
    return [np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def _plus(rng: np.random.Generator) -> list[Stroke]:
    return [_line((-1, 0), (1, 0)), _line((0, -1), (0, 1))]


def _slash(rng: np.random.Generator) -> list[Stroke]:
    return [_line((-1, 1), (1, -1))]


def _scribble(rng: np.random.Generator) -> list[Stroke]:
    """Two lines that begin at one point, and so do not cross."""
    angle = rng.uniform(0, 2 * np.pi, 3)
    a, b, c = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.7, 1.3, (3, 1))
    return [_line(a, b), _line(a, c)]


def _line(start: Points | tuple[int, int], end: Points | tuple[int, int]) -> Stroke:
    """A straight stroke with a point in its middle, at which it may bend."""
    return np.linspace(np.asarray(start, float), np.asarray(end, float), 3)


def _inked(strokes: list[Stroke], side: int) -> NDArray[np.bool_]:
    """The pixels (y, x) whose centre is within 0.7 px of a stroke."""
    centres = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1)
    inked = np.zeros((side, side), bool)
    for stroke in strokes:
        for start, end in itertools.pairwise(stroke):
            along = end - start
            share = ((centres - start) @ along / max(along @ along, 1e-12)).clip(0, 1)
            off = centres - start - share[..., None] * along
            inked |= (off**2).sum(axis=-1) <= 0.7**2
    return inked


@registered("drawing")
def points(
    folder: Path,
    *,
    shape: Literal["xor", "circle", "gauss", "spiral", "islands"],
    count: Count = 400,
    noise: NonNegative = 0.0,
    seed: Whole = 0,
) -> None:
    """Points of the plane in two classes, as the table `points.csv`: x1, x2, label.

    Args:
        folder: where the table is written.
        shape: `xor` has a class where the signs of both coordinates are the same, the other where
            they are not; `circle` a disc within a ring; `gauss` two normal distributions; `spiral`
            two arms, each one and three quarters of a turn; `islands` a triangle and an angle (two
            bars at a right angle) in the square around them.
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


def _islands(rng: np.random.Generator, count: int) -> tuple[Points, Labels]:
    label = np.arange(count) % 2
    at = rng.uniform(-1, 1, (count, 2))
    while len(wrong := np.flatnonzero(on_islands(at) != label)):
        at[wrong] = rng.uniform(-1, 1, (len(wrong), 2))
    return at, label


def on_islands(at: Points) -> NDArray[np.bool_]:
    """Whether points lie in the triangle (convex) or the angle (not convex) of `islands`."""
    x, y = at.T
    triangle = (y > 0.1) & (y < 0.9 - 2 * np.abs(x + 0.5))
    square = (np.abs(x - 0.475) < 0.425) & (np.abs(y + 0.475) < 0.425)
    found: NDArray[np.bool_] = triangle | (square & ((x < 0.3) | (y < -0.65)))
    return found


_SHAPES: dict[str, Callable[[np.random.Generator, int], tuple[Points, Labels]]] = {
    "xor": _xor, "circle": _circle, "gauss": _gauss, "spiral": _spiral,
    "islands": _islands,
}  # fmt: skip
