"""Step 3: which regions a network draws without hidden units, and with linear and other ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.spatial import ConvexHull
from torch import nn

from swath.data.drawings import on_islands
from swath.ladder import plane
from swath.ladder.lesson import (
    Floats,
    Given,
    Lesson,
    Table,
    Trained,
    at_least,
    at_most,
    equals,
    picture,
)
from swath.registry import Count, Whole, registered

SIDE = 201
"""cells along the square from -1 to 1 in which regions are measured"""
LINEAR_EPOCHS = 20
LEAST = 40
"""cells of a part of a region that is more than a speck"""


@registered("lesson")
def boundaries(given: Given, *, linear: Count = 3, units: Count = 8, seed: Whole = 0) -> Lesson:
    """A convex and a non-convex island, by networks of several depths.

    Args:
        given: points of two islands in the square, and the network that finds them.
        linear: hidden layers of the deep linear network.
        units: of each of them.
        seed: of the weights at the start and of the order.
    """

    def trained(hidden: list[int], activation: str) -> Trained:
        params: dict[str, Any] = {"model.hidden": hidden, "model.activation": activation}
        if not hidden or activation == "linear":  # a line is soon found
            params["trainer.epochs"] = LINEAR_EPOCHS
        return given.trained(params, seed=seed)

    section = given.sections["model"]
    none, few = trained([], section["activation"]), trained([3], section["activation"])
    deep = trained([units] * linear, "linear")
    whole = trained(section["hidden"], section["activation"])
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, SIDE)] * 2), axis=-1).reshape(-1, 2, 1, 1)
    answers, alone = deep.answer(at), _collapsed(given, deep.network)(at)
    apart = float(np.abs(answers - alone).max() / np.abs(answers).max())
    truth = _parts(on_islands(at[:, :, 0, 0]))
    parts = _parts(whole.classes(at) == 1)
    shapes = sorted((_convexity(part) for part in parts), reverse=True) or [0.0]
    known = sorted((_convexity(part) for part in truth), reverse=True)
    right = {name: given.accuracy(each) for name, each in (("none", none), ("all", whole))}
    lines = f"{linear} linear hidden layers"
    claims = [
        at_most("no hidden layer: distance of the boundary from a line", _bent(none), 1e-4),
        at_most(f"{lines}: distance of the boundary from a line", _bent(deep), 1e-4),
        at_most(f"{lines}: answers against those of one layer, relative", apart, 1e-5),
        equals("hidden layers: parts of the region", len(parts), len(truth)),
        at_least("hidden layers: convexity of the triangle", shapes[0], 0.9),
        at_most("hidden layers: convexity of the angle", shapes[-1], 0.9),
        at_least("hidden layers: accuracy", right["all"], 0.95),
        at_most("no hidden layer: accuracy", right["none"], 0.75),
    ]
    panels = [
        ("no hidden layer", none), (f"{linear} linear layers", deep),
        ("3 hidden units", few), ("all hidden layers", whole),
    ]  # fmt: skip
    drawn = [(name, each.answer) for name, each in panels]
    return Lesson(
        question="Which regions can a network draw?",
        told=[
            "Without a hidden layer the answer depends on wᵀx + b alone, and the boundary is a "
            "line. Linear layers one after another are one: W₂(W₁x + b₁) + b₂ = (W₂W₁)x + (W₂b₁ + "
            "b₂), so the boundary stays a line at any depth. The lesson multiplies the trained "
            "weights and compares the answers.",
            "With an activation each hidden unit draws a line of its own. A unit behind them that "
            "asks for all of them cuts out a convex region; one that asks for any of several such "
            "regions joins them to one that is not convex, or not even connected. The islands here "
            "are a triangle and an angle: two parts, one convex and one not.",
            "Convexity is measured as a region's area over that of its convex hull: 1 for what is "
            f"convex. That of the angle, as it was drawn, is {known[-1]:.3f}.",
        ],
        claims=claims,
        pictures=[
            picture(
                "From a line to islands",
                "All points, what each network answers between them, and its boundary.",
                lambda: plane.boundaries(
                    given.values, given.labels, drawn, columns=4
                ),
            )
        ],
        tables=[
            Table(
                "Parts of the region that each network calls an island",
                ["Network", "parts", "convexity of each", "accuracy"],
                [
                    [
                        name, str(len(of)), ", ".join(f"{_convexity(part):.3f}" for part in of),
                        f"{given.accuracy(each):.1%}",
                    ]
                    for name, each in panels
                    for of in [_parts(each.classes(at) == 1)]
                ],
            )
        ],
        sources=[
            "Lippmann: An introduction to computing with neural nets. IEEE ASSP Magazine 4 (2), "
            "1987. doi:10.1109/MASSP.1987.1165576",
            "Cybenko: Approximation by superpositions of a sigmoidal function. Mathematics of "
            "Control, Signals and Systems 2, 1989. doi:10.1007/BF02551274",
        ],
    )  # fmt: skip


def _collapsed(given: Given, network: nn.Module) -> Callable[[Floats], Floats]:
    """The one linear layer that linear layers are, with stored values (patch, band, y, x)."""
    bands = given.patches.image.shape[1]
    weight, bias = np.eye(bands), np.zeros(bands)
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            own, shift = (each.detach().double().numpy() for each in (layer.weight, layer.bias))
            weight, bias = own @ weight, own @ bias + shift

    def answer(values: Floats) -> Floats:
        found: Floats = given.normalised(values)[:, :, 0, 0] @ weight.T + bias
        return found

    return answer


def _bent(trained: Trained) -> float:
    """How far a boundary is from the line that fits it best: root mean square.

    Its points are where the answer changes sign, by halving, along lines through the square; two
    or more are needed.
    """
    side = np.linspace(-1, 1, SIDE)
    ends = [np.stack([side, 0 * side + end], 1) for end in (-1.0, 1.0)]
    ends = [np.concatenate([end, end[:, ::-1]])[:, :, None, None] for end in ends]
    low, high = ends
    apart = trained.classes(low) != trained.classes(high)
    low, high = low[apart], high[apart]
    first = trained.classes(low)
    for _ in range(40):
        middle = (low + high) / 2
        same = (trained.classes(middle) == first)[:, None, None, None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    at = low[:, :, 0, 0]
    if len(at) < 3:
        return float("inf")
    return float(np.linalg.svd(at - at.mean(axis=0))[1][-1] / np.sqrt(len(at)))


def _parts(inside: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected parts (y, x) of a region of the square, without specks."""
    numbers, count = label(inside.reshape(SIDE, SIDE))
    parts = [numbers == number + 1 for number in range(count)]
    return [part for part in parts if part.sum() >= LEAST]


def _convexity(part: NDArray[np.bool_]) -> float:
    """Area of a part (y, x), over that of the convex hull of its cells."""
    corners = [np.argwhere(part) + np.array([dy, dx]) for dy in (0, 1) for dx in (0, 1)]
    return float(part.sum() / ConvexHull(np.concatenate(corners)).volume)
