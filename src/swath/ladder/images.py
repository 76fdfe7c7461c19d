"""Pictures of images: patches, feature maps and filters side by side, and class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from swath.report.figures import ACCENT, MUTED, SECOND, WIDTH

Floats = NDArray[np.float64]


def in_colour(values: Floats, rgb: Sequence[int]) -> Floats:
    """Patches as one sees them: (patch, band, y, x) -> (patch, y, x, 3) from 0 to 1.

    Args:
        values: stored values.
        rgb: numbers of the bands for red, green and blue, each of which is stretched between its
            2nd and 98th percentile over all patches.
    """
    chosen = values[:, list(rgb)]
    low, high = np.percentile(chosen, [2, 98], axis=(0, 2, 3), keepdims=True)
    stretched: Floats = ((chosen - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    return stretched.transpose(0, 2, 3, 1)


def tiles(
    images: Sequence[Floats],
    titles: Sequence[str] = (),
    *,
    columns: int,
    heading: str = "",
    width: float = WIDTH,
    **shown: Any,
) -> Figure:
    """Images (y, x) or (y, x, 3) in rows, each with its title.

    Args:
        images: all of the same shape.
        titles: of each; a row without them leaves no room for them.
        columns: images in a row.
        heading: of all of them.
        width: in inches.
        shown: goes on to `imshow`, as `cmap`, `vmin`, `vmax`.
    """
    rows = -(-len(images) // columns)
    tall, wide = images[0].shape[:2]
    each = width / columns
    titled = sum(any(titles[row * columns : (row + 1) * columns]) for row in range(rows))
    height = rows * each * tall / wide + 0.2 * titled + (0.3 if heading else 0.0)
    spacing = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(width, height), layout=spacing)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, image in enumerate(images):
        axes = grid.flat[number]
        axes.imshow(image, interpolation="none", **shown)
        if titles:
            axes.set_title(titles[number], fontsize=8, fontweight="normal", pad=2)
    if heading:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=9, fontweight="bold")
    return figure


def probabilities(
    images: Sequence[Floats], answers: Floats, truths: Sequence[int], classes: Sequence[str]
) -> Figure:
    """Patches (y, x, 3), one below another, and beside each the probability of every class.

    Args:
        images: the patches.
        answers: (patch, class), each row of which sums to one.
        truths: the true class of each, which is drawn in another colour.
        classes: their names.
    """
    tall = 0.17 * len(classes) + 0.25
    figure = Figure(figsize=(WIDTH, tall * len(images) + 0.3), layout="constrained")
    grid = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 1.5))
    for (left, right), image, answer, truth in zip(grid, images, answers, truths, strict=True):
        left.imshow(image, interpolation="none")
        left.set_axis_off()
        left.set_title(f"true: {classes[truth]}", fontsize=8, fontweight="normal", pad=2)
        colours = [SECOND if number == truth else ACCENT for number in range(len(classes))]
        right.barh(classes, answer, color=colours, height=0.7)
        right.set(xlim=(0, 1), ylim=(len(classes) - 0.4, -0.6))
        right.tick_params(axis="y", labelsize=7, labelcolor=MUTED)
        right.grid(visible=False, axis="y")
    for right in grid[:-1, 1]:
        right.set_xticklabels([])
    grid[-1, 1].set_xlabel("probability")
    return figure
