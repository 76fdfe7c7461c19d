"""Step 11: the chain rule by hand, by autograd and by differences, and one weight's descent."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from swath.ladder.lesson import Floats, Lesson, Table, at_most, equals, picture
from swath.learn.networks import build
from swath.learn.optim import sgd
from swath.registry import Count, Positive, registered
from swath.report.figures import ACCENT, INK, MUTED, SECOND, THIRD, WIDTH

Gradients = list[Floats]
"""Of a layer's weights (unit, input) and biases (unit), layer after layer."""
CLOSE = 1e-12
APART = 1e-6
"""from a weight to those between which a difference is taken"""


@registered("lesson")
def backpropagation(
    *,
    inputs: Count = 3,
    hidden: Count = 4,
    outputs: Count = 2,
    patches: Count = 8,
    x: Positive = 1.5,
    target: float = 0.5,
    start: float = 0.8,
    rate: Positive = 0.1,
    steps: Count = 5,
) -> Lesson:
    """Gradients of the mean squared error, and what descent does with them.

    Args:
        inputs: of the network whose gradients are compared.
        hidden: its hidden units, with tanh.
        outputs: its outputs.
        patches: in the batch, drawn.
        x: the input of the network of one weight.
        target: what it should answer.
        start: its weight at the start.
        rate: of the descent.
        steps: of the descent.
    """
    torch.manual_seed(0)
    model = {"name": "mlp", "hidden": [hidden], "activation": "tanh", "normalise": False}
    network = build({**model, "dropout": 0.0}, inputs, outputs)
    image, wanted = torch.randn(patches, inputs, 1, 1), torch.randn(patches, outputs).double()
    with torch.no_grad():
        network(image)  # the first batch says how many values a patch has
    network, image = network.double(), image.double()
    F.mse_loss(network(image), wanted).backward()
    auto = [weight.grad.numpy() for weight in network.parameters() if weight.grad is not None]
    hand = _by_hand(network, image, wanted)
    apart = [
        float(max(np.abs(a - b).max() for a, b in zip(hand, other, strict=True)))
        for other in (auto, _by_differences(network, image, wanted))
    ]
    walked, exact = _walk(x, target, start, rate, steps), _exact(x, target, start, rate, steps)
    slope, shift = 2 * x * x, 2 * x * target
    factor = abs(1 - rate * slope)
    best = target / x
    claims = [
        at_most("gradients by hand against autograd: largest difference", apart[0], CLOSE),
        at_most("gradients by hand against differences: largest difference", apart[1], 1e-7),
        *(
            equals(f"w after {n} steps", walked[n], float(exact[n]), within=CLOSE)
            for n in range(steps + 1)
        ),
        equals(
            "share of the way to the least error that is left after the last step",
            abs(walked[-1] - best) / abs(start - best) if start != best else 0.0,
            factor**steps if start != best else 0.0,
            within=CLOSE,
        ),
    ]
    return Lesson(
        question="How does an error at a network's end tell a weight at its beginning what to do?",
        told=[
            "The error is the mean of squares, E = (1/N) Σ (ŷ − y)². Forward, each layer keeps "
            "what it was given; backward, each multiplies the derivative that comes from above by "
            "its own (the chain rule), from the last to the first; then each weight steps against "
            "its derivative. Of a layer z = Wa + b with δ = ∂E/∂z that is ∂E/∂W = δaᵀ, ∂E/∂b = δ, "
            "and Wᵀδ for the layer below, times the derivative 1 − tanh² of its activation.",
            "The lesson does this in numpy for a network of the platform and compares it with "
            "PyTorch's autograd, and with E at both sides of each weight.",
            f"The least network has one weight: ŷ = wx. With x = {x:g} and y = {target:g} its "
            f"derivative is 2x(wx − y) = {slope:g}w − {shift:g}, so that descent is "
            f"w ← w − {rate:g}·({slope:g}w − {shift:g}). Each step leaves {factor:g} of the way to "
            f"w = y/x = {best:.6g}; where it is 1 or more, nothing converges.",
        ],
        claims=claims,
        pictures=[
            picture(
                "Three phases of one step",
                "The network of one weight. Above each arrow what goes along it: forward the "
                "values, backward the derivatives of E with respect to them, each that above it "
                "times the derivative of what is between; last, the weight's step.",
                lambda: _phases(x, target, start, rate),
            ),
            picture(
                "Descent of one weight",
                f"First, E by w, and {steps} steps; then, w by step; dashed, where E is least.",
                lambda: [_parabola(x, target, walked), _by_step(walked, best)],
            ),
        ],
        tables=[
            Table(
                "The sequence, as torch computes it in 64 bits",
                ["Step", "w", "E", "∂E/∂w"],
                [
                    [str(n), f"{w:.12g}", f"{off**2:.6g}", f"{2 * x * off:.6g}"]
                    for n, w, off in ((n, w, w * x - target) for n, w in enumerate(walked))
                ],
            )
        ],
        sources=[
            "Rumelhart, Hinton, Williams: Learning representations by back-propagating errors. "
            "Nature 323, 1986. doi:10.1038/323533a0",
            "Linnainmaa: Taylor expansion of the accumulated rounding error. BIT 16, 1976. "
            "doi:10.1007/BF01931367",
        ],
    )  # fmt: skip


def _by_hand(network: nn.Module, image: Tensor, wanted: Tensor) -> Gradients:
    """The chain rule, written out: of the mean squared error of two layers with tanh between."""
    w1, b1, w2, b2 = (weight.detach().numpy() for weight in network.parameters())
    a0 = image.flatten(1).numpy()
    # Forward: what each layer is given is kept.
    a1 = np.tanh(a0 @ w1.T + b1)
    answer = a1 @ w2.T + b2
    # Backward: δ is the derivative with respect to what a layer has before its activation.
    delta2 = 2 * (answer - wanted.numpy()) / answer.size
    delta1 = delta2 @ w2 * (1 - a1**2)
    return [delta1.T @ a0, delta1.sum(axis=0), delta2.T @ a1, delta2.sum(axis=0)]


@torch.no_grad()
def _by_differences(network: nn.Module, image: Tensor, wanted: Tensor) -> Gradients:
    """(E(w + h) − E(w − h)) / 2h for each weight w by itself."""
    found = []
    for weight in network.parameters():
        flat, slopes = weight.view(-1), np.empty(weight.numel())
        for n in range(len(flat)):
            before, errors = flat[n].item(), []
            for there in (before + APART, before - APART):
                flat[n] = there
                errors.append(F.mse_loss(network(image), wanted).item())
            flat[n] = before
            slopes[n] = (errors[0] - errors[1]) / (2 * APART)
        found.append(slopes.reshape(weight.shape))
    return found


def _walk(x: float, target: float, start: float, rate: float, steps: int) -> list[float]:
    """A weight by step, by autograd and the platform's plain descent."""
    weight = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    descent = sgd([{"params": [weight]}], rate, momentum=0.0)
    found = [weight.item()]
    for _ in range(steps):
        descent.zero_grad()
        F.mse_loss(weight * x, torch.tensor([target], dtype=torch.float64)).backward()
        descent.step()
        found.append(weight.item())
    return found


def _exact(x: float, target: float, start: float, rate: float, steps: int) -> list[Fraction]:
    """w ← w − rate·2x(wx − target) in fractions of the decimals that a person reads."""
    a, y, w, pace = (Fraction(str(value)) for value in (x, target, start, rate))
    found = [w]
    for _ in range(steps):
        w -= pace * 2 * a * (w * a - y)
        found.append(w)
    return found


def _phases(x: float, target: float, w: float, rate: float) -> list[Figure]:
    """A drawing of each phase, with the numbers of the first step."""
    off = w * x - target
    slope = 2 * off * x
    forward = [f"x = {x:g}", f"wx = {w * x:.4g}", f"wx − y = {off:.4g}", f"E = {off**2:.4g}"]
    backward = [
        f"∂E/∂w\n= {2 * off:.4g}x = {slope:.4g}", f"∂E/∂ŷ\n= {2 * off:.4g}·1",
        f"∂E/∂(ŷ−y)\n= 2·{off:.4g}", "∂E/∂E\n= 1",
    ]  # fmt: skip
    return [
        _chain("1 Forward", forward, w, ACCENT, ahead=True),
        _chain("2 Backward", backward, w, THIRD, ahead=False),
        _update(w, rate, slope),
    ]


def _chain(title: str, words: list[str], w: float, colour: str, *, ahead: bool) -> Figure:
    """Three operations in a row, with what is on the arrows before, between and behind them."""
    figure = Figure(figsize=(WIDTH, 1.4))
    axes = _bare(figure, title)
    for at, name in ((2, f"· {w:g}"), (4, "− y"), (6, "( )²")):
        _box(axes, at, name)
    for number, text in enumerate(words):
        left, right = 2 * number + 0.5, 2 * number + 1.5
        _arrow(axes, (left, right) if ahead else (right, left), colour)
        axes.text(2 * number + 1, 0.62, text, ha="center", va="bottom", fontsize=7.5, color=colour)
    axes.set_xlim(0.1, 7.9)
    return figure


def _update(w: float, rate: float, slope: float) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.1))
    axes = _bare(figure, "3 Update")
    for at, name in ((2, f"w = {w:g}"), (6, f"w = {w - rate * slope:.6g}")):
        _box(axes, at, name, wide=0.9)
    _arrow(axes, (3.0, 5.0), SECOND)
    axes.text(
        4, 0.3, f"− {rate:g} · {slope:.4g}", ha="center", va="bottom", fontsize=9, color=SECOND
    )
    axes.set_xlim(0.1, 7.9)
    return figure


def _bare(figure: Figure, title: str) -> Axes:
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.8))
    axes.set(ylim=(-0.8, 1.6), title=title)
    axes.set_axis_off()
    return axes


def _box(axes: Axes, at: float, name: str, wide: float = 0.45) -> None:
    frame = {"boxstyle": f"round,pad={wide}", "fc": "none", "ec": MUTED, "lw": 1.0}
    axes.text(at, 0, name, ha="center", va="center", fontsize=8.5, color=INK, bbox=frame)


def _arrow(axes: Axes, ends: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.4}
    axes.annotate("", (ends[1], 0), (ends[0], 0), arrowprops=style)


def _parabola(x: float, target: float, walked: list[float]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.6))
    axes = figure.subplots()
    best = target / x
    reach = 1.15 * max(abs(w - best) for w in walked) or 1.0
    w = np.linspace(best - reach, best + reach, 200)
    axes.plot(w, (w * x - target) ** 2, color=MUTED)
    axes.plot(walked, [(w * x - target) ** 2 for w in walked], "o-", color=SECOND, ms=4)
    axes.set(title="Error", xlabel="w", ylabel="E")
    figure.tight_layout()
    return figure


def _by_step(walked: list[float], best: float) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.6))
    axes = figure.subplots()
    axes.axhline(best, color=MUTED, ls="--", lw=1)
    axes.plot(walked, "o-", color=SECOND, ms=4)
    axes.set(title="Weight", xlabel="step", ylabel="w", xticks=range(len(walked)))
    figure.tight_layout()
    return figure
