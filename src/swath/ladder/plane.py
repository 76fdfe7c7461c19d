"""Pictures of the plane: points of two classes, and what a network answers everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swath.report.figures import WIDTH

Floats = NDArray[np.float64]

FIELD = LinearSegmentedColormap.from_list("field", ["#8fc1d6", "#f4f1ea", "#e6c98a"])
"""From the first class to the second; its middle is where neither is likelier."""
COLOURS = ("#0a5f80", "#a87510")
LINE, EDGE = "#22303b", "#fdfdfd"
"""Not those of the page, which follow its light or dark mode: the field is light in both."""
STEPS = 81


def field(
    answer: Callable[[Floats], Floats], low: Floats, high: Floats
) -> tuple[Floats, Floats, Floats]:
    """The probability of the second class on a grid over the plane.

    Args:
        answer: stored values (point, 2, 1, 1) -> logits (point, 2).
        low: of x1 and x2.
        high: of x1 and x2.

    Returns:
        x1 (STEPS), x2 (STEPS), probability (x2, x1).
    """
    x1, x2 = (np.linspace(low[axis], high[axis], STEPS) for axis in (0, 1))
    grid = np.stack(np.meshgrid(x1, x2), axis=-1).reshape(-1, 2, 1, 1)
    logits = answer(grid)
    likely = 1 / (1 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -500, 500)))
    return x1, x2, likely.reshape(STEPS, STEPS)


def boundaries(
    values: Floats,
    labels: NDArray[np.int64],
    answers: Sequence[tuple[str, Callable[[Floats], Floats]]],
    *,
    columns: int = 3,
    names: tuple[str, str] = ("x1", "x2"),
) -> Figure:
    """Small multiples of the plane: a network's answers, its boundary, and the points.

    Args:
        values: stored values of the points, (point, 2, 1, 1).
        labels: 0 or 1 for each.
        answers: title and network of each panel.
        columns: panels side by side.
        names: of the two axes.
    """
    at = values.reshape(-1, 2)
    margin = 0.12 * np.ptp(at, axis=0)
    low, high = at.min(axis=0) - margin, at.max(axis=0) + margin
    rows = -(-len(answers) // columns)
    columns = min(columns, len(answers))
    figure = Figure(figsize=(0.62 * WIDTH * columns, (0.62 * WIDTH + 0.25) * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(answers) :]:
        axes.set_visible(False)
    for number, (axes, (title, answer)) in enumerate(zip(grid.flat, answers, strict=False)):
        x1, x2, likely = field(answer, low, high)
        axes.contourf(x1, x2, likely, np.linspace(0, 1, 11), cmap=FIELD, zorder=0)
        if likely.min() < 0.5 < likely.max():
            axes.contour(x1, x2, likely, [0.5], colors=[LINE], linewidths=1.2)
        for label, colour in enumerate(COLOURS):
            own = at[labels == label]
            axes.scatter(
                own[:, 0], own[:, 1], s=9, color=colour, edgecolors=EDGE, linewidths=0.3, zorder=3
            )
        axes.set(title=title, aspect="auto")
        axes.grid(visible=False)
        if number >= len(answers) - columns:
            axes.set_xlabel(names[0])
        if number % columns == 0:
            axes.set_ylabel(names[1])
    figure.tight_layout()
    return figure
