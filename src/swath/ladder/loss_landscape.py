"""Step 12: what a descent goes down, where it ends, and how long its steps may be."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import vector_to_parameters

from swath import registry
from swath.errors import ConfigError
from swath.ladder.lesson import (
    Claim,
    Given,
    Lesson,
    Picture,
    Trained,
    at_least,
    at_most,
    equals,
    picture,
)  # fmt: skip
from swath.ladder.plane import boundaries
from swath.learn.surface import (
    Loss,
    curvatures,
    filter_normalised,
    loss_of,
    minimum,
    principal,
    slope,
    surface,
    weights_of,
)  # fmt: skip
from swath.registry import Count, Positive, registered
from swath.report.figures import ACCENT, INK, MUTED, PAPER, SECOND, THIRD, WIDTH

Floats = NDArray[np.float64]

CURVED = torch.tensor([1.0, 10.0], dtype=torch.float64)
"""Curvatures of the quadratic on which rates are tried, ½ Σ λ w²."""
START = torch.tensor([10.0, 1.0], dtype=torch.float64)
"""Where both of its directions are as steep."""
NAMES, COLOURS = ("too small", "right", "too large"), (SECOND, ACCENT, THIRD)
ALIKE = 0.03
"""Minima whose losses are no farther apart than this are drawn as one."""
HEIGHTS = LinearSegmentedColormap.from_list("heights", ["#6fb1cb", "#f4f1ea", "#dfb766"])
LINES, WRITING = "#ffffff", "#22303a"
"""On that ground, which is the same in light and dark mode."""
RATIO = 1.5
"""Of a contour's height to that of the one below it."""


@registered("lesson")
def loss_landscape(
    given: Given,
    *,
    starts: Count = 8,
    decay: Positive = 0.01,
    rates: list[Positive] = [0.003, 1.0, 10.0],  # noqa: B006
    rescaled: Positive = 4.0,
    steps: Count = 20,
) -> Lesson:
    """The loss of a small network on XOR as a function of its weights.

    Args:
        given: the points.
        starts: beginnings of a network of two hidden units, each followed to its minimum.
        decay: of that network's weights, without which its best minimum lies at infinity.
        rates: three learning rates from one start: too small, right and too large.
        rescaled: by what the first layer is multiplied, and the second divided.
        steps: of plain descent, on a quadratic and around a minimum.

    Raises:
        ConfigError: there are not three rates.
    """
    if len(rates) != 3:
        raise ConfigError(
            f"{len(rates)} rates are given", where="lesson.rates",
            mend="give three: too small, right and too large",
        )  # fmt: skip
    last = given.sections["trainer"]["epochs"]
    epochs = sorted({*range(0, min(12, last), 2), *range(12, last, 8), last})
    followed = given.followed(epochs, {"optim.lr": rates[1]})
    around, claims = _around(given, followed, rescaled)
    ends, more = _minima(given, starts, decay, steps)
    claims += more
    paths, more = _quadratic(steps)
    claims += more
    curves = [given.trained({"optim.lr": r}).history["train/loss"].to_numpy() for r in rates]
    claims += [
        at_least(f"{NAMES[n]}, {rates[n]:g}: last loss over that of {rates[1]:g}",
                 float(curves[n][-1] / curves[1][-1]), 10)
        for n in (0, 2)
    ]  # fmt: skip
    claims.append(
        at_least(
            f"too large, {rates[2]:g}: largest loss over the first one",
            float(curves[2].max() / curves[2][0]), 2,
        )
    )  # fmt: skip
    return Lesson(
        question="What does a descent go down, and where does it end?",
        told=[
            "All weights of a network are one point in a space of many dimensions, and the loss is "
            "a height above it. Two directions span a plane through the trained network, which can "
            "be drawn. Random directions alone mislead: with ReLU, a first layer "
            f"{rescaled:g} times as large and a second one as much smaller are the same network, "
            "yet the same step seems longer or shorter. A direction whose filters are as long as "
            "the network's own (Li et al.) shows the same surface for both.",
            "The way of a training is no random one: nearly all of it lies in the plane of its two "
            "principal directions, while two directions drawn among n dimensions hold 2/n of it.",
            "Where the gradient is zero and no curvature is negative a descent stays. A network of "
            "two hidden units has several such places, and the start decides which it ends in.",
            "Along a direction of curvature λ a step of rate η multiplies the distance by 1 − ηλ. "
            "So the largest curvature allows rates below 2/λ alone: above it the distance grows, "
            "on a quadratic and around the minimum of a network. The best rate for curvatures "
            "from λ₁ to λ₂ is 2/(λ₁ + λ₂).",
        ],
        claims=claims,
        pictures=[around, ends, _rates(paths, curves, rates)],
        sources=[
            "Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of Neural Nets. "
            "NeurIPS 2018. arXiv:1712.09913",
            "Goodfellow, Bengio, Courville: Deep Learning, sections 4.3 and 8.2. MIT Press, 2016.",
        ],
    )


def _around(given: Given, followed: list[Trained], rescaled: float) -> tuple[Picture, list[Claim]]:
    """The surface around the trained network, and the plane of its way."""
    network = followed[-1].network
    loss, centre = _loss(given, network), weights_of(network)
    out = np.linspace(-1, 1, 31)
    other = _rescaled(network, rescaled)
    random = torch.randn(2, len(centre), generator=_dice(0), dtype=torch.float64)
    normalised, plain = (
        [
            surface(_loss(given, each), weights_of(each), directions(each), out, out)
            for each in (network, other)
        ]
        for directions in (
            lambda each: torch.stack([filter_normalised(each, _dice(seed)) for seed in (1, 2)]),
            lambda _: random,
        )
    )
    path = torch.stack([weights_of(each.network) for each in followed])
    main, shares = principal(path)
    spread = path - path.mean(dim=0)
    pairs = torch.randn(4000, len(centre), 2, generator=_dice(3), dtype=torch.float64)
    blind = (spread @ torch.linalg.qr(pairs)[0]).square().sum((1, 2)) / spread.square().sum()
    way = ((path - centre) @ main.T).numpy()
    reach = [np.linspace(w.min() - 0.3 * np.ptp(w), w.max() + 0.3 * np.ptp(w), 41) for w in way.T]
    plane = surface(loss, centre, main, *reach)

    def draw() -> list[Figure]:
        left, axes = _panel("Filter-normalised directions", "first direction", "second direction")
        _heights(axes, out, out, normalised[0])
        axes.plot(0, 0, "o", color=THIRD, markeredgecolor=LINES)
        right, axes = _panel("The way down", "first principal direction", "second")
        _heights(axes, reach[0], reach[1], plane)
        axes.plot(*way.T, "o-", color=WRITING, markersize=4, linewidth=1.2, markeredgecolor=LINES)
        axes.plot(*way[-1], "o", color=THIRD, markeredgecolor=LINES)
        return [left, right]

    claims = [
        at_most("the same network, rescaled: change of its filter-normalised surface",
                float(np.abs(normalised[1] / normalised[0] - 1).max()), 1e-9),
        at_least("the same network, rescaled: change of its surface in plain directions",
                 float(np.abs(plain[1] / plain[0] - 1).max()), 0.5),
        at_least("share of the way in its two principal directions", float(shares.sum()), 0.9),
        equals("share of the way in two random directions", float(blind.mean()),
               2 / len(centre), within=0.1 / len(centre)),
    ]  # fmt: skip
    caption = (
        "Contours of the cross entropy on the training part, each higher than the last by a factor "
        f"of {RATIO:g}: in random directions around the trained network (red), and on the plane of "
        "its way, a dot every few epochs."
    )
    return picture("The ground around a network", caption, draw), claims


def _minima(given: Given, starts: int, decay: float, steps: int) -> tuple[Picture, list[Claim]]:
    """Where descents of a network of two units end, and how it is curved there."""
    form = {"model.hidden": [2], "model.activation": "tanh"}
    begun = [given.followed([0], form, seed=seed)[0] for seed in range(starts)]
    loss = _loss(given, begun[0].network, decay)
    ends = sorted(
        (minimum(loss, weights_of(b.network)) for b in begun), key=lambda w: float(loss(w))
    )
    heights = [float(loss(end)) for end in ends]
    kinds = [n for n in range(starts) if not n or heights[n] - heights[n - 1] > ALIKE]
    for trained, kind in zip(begun, kinds, strict=False):
        vector_to_parameters(ends[kind].float(), trained.network.parameters())
    panels = [(f"loss {heights[k]:.3f}", b.answer) for b, k in zip(begun, kinds, strict=False)]
    curved = [curvatures(loss, end) for end in ends]
    best, steepest = ends[0], curved[0][-1]
    _, directions = torch.linalg.eigh(torch.func.hessian(loss)(best))
    beside = best + 1e-4 * directions[:, -1]
    grown = {
        share: _descended(loss, beside, share * 2 / steepest, 5)[-2:] for share in (0.95, 1.05)
    }
    claims = [
        at_most("minima: largest gradient", max(slope(loss, end) for end in ends), 1e-5),
        at_least("minima: least curvature", float(min(c[0] for c in curved)), -1e-9),
        at_least("minima: loss of the worst over that of the best", heights[-1] / heights[0], 1.2),
    ] + [
        equals(f"at the best minimum, a rate of {share:g} · 2/λ: growth by a step",
               float((after - best).norm() / (before - best).norm()), abs(1 - 2 * share),
               within=0.01)
        for share, (before, after) in grown.items()
    ]  # fmt: skip
    along = np.linspace(-0.25, 1.25, 61)
    line = surface(loss, best, torch.stack([ends[-1] - best] * 2), along, np.zeros(1))[0]

    def draw() -> list[Figure]:
        figure, axes = _panel("Between two minima", "from the best (0) to the worst (1)", "loss")
        axes.plot(along, line, color=ACCENT)
        axes.plot([0, 1], [heights[0], heights[-1]], "o", color=INK, markeredgecolor=PAPER)
        return [boundaries(given.values, given.labels, panels), figure]

    caption = (
        f"From {starts} starts: one network of each loss that descents end at (with a decay of "
        f"{decay:g}), its answers and its boundary; and the loss on the straight line through two."
    )
    return picture("Minima of two hidden units", caption, draw), claims


def _quadratic(steps: int) -> tuple[list[Tensor], list[Claim]]:
    """Descents on a quadratic whose curvatures are known, at three rates."""
    low, high = (float(each) for each in CURVED)
    rates = {"0.1 · 2/λ": 0.2 / high, "2/(λ₁ + λ₂)": 2 / (low + high), "1.05 · 2/λ": 2.1 / high}

    def loss(at: Tensor) -> Tensor:
        return (CURVED * at.square()).sum() / 2

    paths, claims = [], []
    for name, (wording, rate) in zip(NAMES, rates.items(), strict=True):
        paths.append(torch.stack(_descended(loss, START, rate, steps)))
        expected = float((START * (1 - rate * CURVED) ** steps).norm())
        claims.append(
            equals(f"quadratic, {name} ({wording}): distance after {steps} steps",
                   float(paths[-1][-1].norm()), expected, within=1e-9)
        )  # fmt: skip
    return paths, claims


def _descended(loss: Loss, start: Tensor, rate: float, steps: int) -> list[Tensor]:
    """The weights before and after each step of plain descent, by the platform's optimizer."""
    at = start.clone().requires_grad_(True)
    solver = registry.load("optim", "sgd")([{"params": [at]}], rate, momentum=0.0, nesterov=False)
    found = [start]
    for _ in range(steps):
        solver.zero_grad()
        loss(at).backward()
        solver.step()
        found.append(at.detach().clone())
    return found


def _rates(paths: list[Tensor], curves: list[Any], rates: list[float]) -> Picture:
    """Three learning rates on the quadratic, and on the network."""

    def draw() -> list[Figure]:
        left, axes = _panel("A quadratic, λ = 1 and 10", "w1", "w2")
        x, y = np.linspace(-3, 11, 60), np.linspace(-5, 5, 60)
        heights = (x**2 * float(CURVED[0]) + y[:, None] ** 2 * float(CURVED[1])) / 2
        axes.contour(x, y, heights, np.geomspace(0.5, 200, 9), colors=MUTED, linewidths=0.5)
        right, curve = _panel("The network, from one start", "epoch", "training loss")
        for path, losses, rate, name, colour in zip(
            paths, curves, rates, NAMES, COLOURS, strict=True
        ):
            axes.plot(*path.numpy().T, "o-", color=colour, markersize=2.5, linewidth=1, label=name)
            curve.plot(np.arange(1, len(losses) + 1), losses, color=colour, label=f"rate {rate:g}")
        axes.set(xlim=(-3, 11), ylim=(-5, 5))
        axes.legend(loc="lower right")
        curve.set_yscale("log")
        curve.legend()
        return [left, right]

    caption = (
        "Plain descent at a rate that is too small, the right one, and one that is too large: on "
        "the quadratic its path, on the network its training loss."
    )
    return picture("Learning rates", caption, draw)


def _panel(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(1.2 * WIDTH, WIDTH), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _heights(axes: Axes, x: Floats, y: Floats, heights: Floats) -> None:
    low, high = (np.log(each) / np.log(RATIO) for each in (heights.min(), heights.max()))
    levels = RATIO ** np.arange(np.floor(low), np.ceil(high) + 1)
    axes.contourf(x, y, heights, levels, cmap=HEIGHTS, norm=LogNorm(levels[0], levels[-1]))
    drawn = axes.contour(x, y, heights, levels, colors=[LINES], linewidths=0.6)
    axes.clabel(drawn, levels[1::2], fmt="%.2g", fontsize=7, colors=[WRITING])
    axes.grid(visible=False)


def _loss(given: Given, network: nn.Module, decay: float = 0.0) -> Loss:
    """The cross entropy on the training part."""
    own = given.parts == "train"
    image = torch.as_tensor(given.normalised(given.values[own]))
    label = torch.as_tensor(given.labels[own])
    return loss_of(network, image, lambda answer: F.cross_entropy(answer, label), decay=decay)


def _rescaled(network: nn.Module, factor: float) -> nn.Module:
    """The same function by other weights, where a ReLU lies between two layers."""
    other = copy.deepcopy(network)
    first, second = (layer for layer in other.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        for own, by in ((first.weight, factor), (first.bias, factor), (second.weight, 1 / factor)):
            own.mul_(by)
    return other


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
