"""Step 13: signals and gradients through many layers, and optimizers in a ravine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from swath import registry
from swath.ladder.lesson import Claim, Lesson, Picture, at_most, equals, picture
from swath.registry import Count, Positive, registered
from swath.report.figures import ACCENT, INK, MUTED, SECOND, THIRD, WIDTH

Floats = NDArray[np.float64]

LINES = ((ACCENT, "-"), (SECOND, "-"), (THIRD, "-"), (INK, "--"), (MUTED, "-."))
RATE = 0.3
"""Of those that divide the gradient by its size."""
ADAPTIVE: dict[str, dict[str, Any]] = {"rmsprop": {"alpha": 0.99}, "adam": {}}


@registered("lesson")
def depth(
    *, layers: Count = 20, width: Count = 256, examples: Count = 256, condition: Positive = 100.0
) -> Lesson:
    """What goes through a deep network that nobody has trained, and how optimizers descend.

    Args:
        layers: hidden layers.
        width: units of each, and values of an example.
        examples: drawn from the standard normal distribution.
        condition: of the ravine, its largest curvature over its smallest.
    """
    begun, claims = _signals(layers, width, examples)
    back, more = _gradients(layers, width, examples)
    claims += more
    ravine, more = _optimizers(condition)
    return Lesson(
        question="Why did deep networks not learn, and what made them?",
        told=[
            "A layer of n inputs multiplies the variance of its signal by n·Var(w), and a ReLU "
            "halves its square. Weights that are too small or too large therefore let it vanish or "
            f"explode, exponentially with depth: over {layers} layers. Xavier's 1/n keeps it in a "
            "linear network, He's 2/n behind ReLUs. Torch's own 1/(3n) leaves a sixth by layer, "
            "until nothing but the biases is seen.",
            "On its way back the gradient is multiplied by the same n·Var(w), and by the squared "
            "derivative of the activation, at most 1/16 for a sigmoid. Adding a layer's input to "
            "its answer adds 1 to that factor: whatever the layer does, the gradient passes by it.",
            "In a ravine plain descent is bound by its steepest side. For curvatures that differ "
            "by κ, its best factor a step is (κ − 1)/(κ + 1); momentum makes √κ of that κ, and "
            "Nesterov's has 1 − 1/√κ. RMSProp and Adam divide each gradient by its own size: a "
            "loss that is a thousand times as high changes nothing.",
        ],
        claims=claims + more,
        pictures=[begun, back, *ravine],
        sources=[
            "Glorot, Bengio: Understanding the difficulty of training deep feedforward neural "
            "networks. AISTATS 2010.",
            "He, Zhang, Ren, Sun: Delving Deep into Rectifiers. ICCV 2015. arXiv:1502.01852",
            "He, Zhang, Ren, Sun: Deep Residual Learning. CVPR 2016. arXiv:1512.03385",
            "Polyak: Some methods of speeding up the convergence of iteration methods. USSR "
            "Computational Mathematics and Mathematical Physics 4, 1964.",
            "Lessard, Recht, Packard: Analysis and Design of Optimization Algorithms. SIAM Journal "
            "on Optimization 26, 2016. arXiv:1408.3595, table 1",
            "Kingma, Ba: Adam. ICLR 2015. arXiv:1412.6980",
        ],
    )


def _signals(layers: int, width: int, examples: int) -> tuple[Picture, list[Claim]]:
    """The mean square of what leaves each layer, before its activation."""
    cases: dict[tuple[str, str], float | None] = {
        ("small", "relu"): width * 1e-4 / 2,
        ("default", "relu"): None,
        ("xavier", "relu"): 1 / 2,
        ("he", "relu"): 1.0,
        ("xavier", "linear"): 1.0,
    }
    found, claims = {}, []
    for (init, activation), factor in cases.items():
        sizes = _through(layers, width, examples, init=init, activation=activation)[0]
        found[f"{init}, {activation}"] = sizes
        text = f"signal, {init} with {activation}: "
        if factor is None:
            # 1/6 of the signal goes on, and biases of variance 1/(3n) are added: s = s/6 + 1/(3n).
            left = float(sizes[-1]) * width
            claims.append(equals(f"{text}n times what is left", left, 0.4, within=0.06))
        else:
            claims.append(
                equals(f"{text}factor by layer", _factor(sizes), factor, within=0.1 * factor)
            )

    def draw() -> Figure:
        return _by_layer(found, "mean square of the signal")

    caption = f"Before training, {width} units a layer, for ways in which weights begin."
    return picture("The signal by layer", caption, draw), claims


def _gradients(layers: int, width: int, examples: int) -> tuple[Picture, list[Claim]]:
    """The squared gradient with respect to what enters each layer."""
    cases: dict[str, tuple[dict[str, Any], float | None]] = {
        "sigmoid": ({"activation": "sigmoid"}, None),
        "relu": ({"activation": "relu"}, 1 / 6),
        "relu, residual": ({"activation": "relu", "residual": True}, 7 / 6),
        "relu, he": ({"activation": "relu", "init": "he"}, 1.0),
    }
    found, claims = {}, []
    for name, (settings, factor) in cases.items():
        sizes = _through(layers, width, examples, **settings)[1]
        found[name] = sizes
        by_layer = _factor(sizes[::-1])
        text = f"gradient, {name}: factor by layer, from the last to the first"
        if factor is None:  # the derivative is 1/4 where it is largest
            claims.append(at_most(text, by_layer, 1.1 / 48))
        else:
            claims.append(equals(text, by_layer, factor, within=0.1 * factor))

    def draw() -> Figure:
        return _by_layer(found, "squared gradient")

    caption = (
        "Of the loss with respect to what enters each hidden layer, in the mean; the weights are "
        "torch's own but for He's."
    )
    return picture("The gradient by layer", caption, draw), claims


def _through(layers: int, width: int, examples: int, **settings: Any) -> tuple[Floats, Floats]:
    """Mean squares of the answers of each hidden layer's weights, and of gradients at its input."""
    torch.manual_seed(0)
    given = torch.randn(examples, width, 1, 1)
    network = registry.load("model", "mlp")(
        width, 10, hidden=[width] * layers, normalise=False, dropout=0.0, **settings
    )
    network(given)  # tells the first layer how many inputs it has
    network = network.double()
    seen: list[tuple[Tensor, Tensor]] = []
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in linear[:-1]:
        layer.register_forward_hook(lambda _, x, y: seen.append((x[0], y)))
    shown = given.double().requires_grad_(True)
    loss = F.cross_entropy(network(shown), torch.arange(examples) % 10)
    # A layer's input feeds its skip connection as well, so this is the whole gradient there.
    slopes = torch.autograd.grad(loss, [x for x, _ in seen])
    answers, slopes_ = (
        np.array([float(each.detach().square().mean()) for each in some])
        for some in ([y for _, y in seen], slopes)
    )
    return answers, slopes_


def _factor(sizes: Floats) -> float:
    """By which each is larger than the one before, in the geometric mean."""
    return float((sizes[-1] / sizes[0]) ** (1 / (len(sizes) - 1)))


def _optimizers(condition: float) -> tuple[list[Picture], list[Claim]]:
    """Paths of the platform's optimizers on a ravine and on Rosenbrock's function."""
    root = condition**0.5
    scale = torch.tensor([1.0, condition], dtype=torch.float64)

    def ravine(at: Tensor) -> Tensor:
        return (scale * at.square()).sum() / 2

    best: dict[str, tuple[dict[str, Any], float]] = {
        "plain": (
            {"lr": 2 / (1 + condition), "momentum": 0.0},
            (condition - 1) / (condition + 1),
        ),
        "momentum": (
            {"lr": 4 / (1 + root) ** 2, "momentum": ((root - 1) / (root + 1)) ** 2,
             "nesterov": False},
            (root - 1) / (root + 1),
        ),
        "Nesterov": (
            {"lr": 1 / condition, "momentum": (root - 1) / (root + 1), "nesterov": True},
            1 - 1 / root,
        ),
    }  # fmt: skip
    paths, claims = {}, []
    for name, (settings, factor) in best.items():
        paths[name] = _path(ravine, "sgd", [-10.0, 1.0], 200, **settings)
        away = np.linalg.norm(paths[name], axis=1)
        claims.append(
            equals(f"ravine, {name}: factor by step", _factor(away[100:151]), factor, within=0.015)
        )
    for name, settings in ADAPTIVE.items():
        rate = {"lr": RATE, **settings}
        paths[name] = _path(ravine, name, [-10.0, 1.0], 200, **rate)
        higher = _path(lambda at: 1000 * ravine(at), name, [-10.0, 1.0], 200, **rate)
        claims.append(
            at_most(f"ravine, {name}: change of the path by a loss 1000 times as high",
                    float(np.abs(higher - paths[name]).max()), 1e-5)
        )  # fmt: skip
        first = np.abs(paths[name][1] - paths[name][0])
        expected = RATE / (1 - settings["alpha"]) ** 0.5 if "alpha" in settings else RATE
        for axis, step in enumerate(first, 1):
            claims.append(
                equals(f"ravine, {name}: first step of w{axis}", round(float(step), 6), expected,
                       within=1e-6)
            )  # fmt: skip
    gentle: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("sgd", {"lr": 0.018, "momentum": 0.0}),
        "momentum": ("sgd", {"lr": 0.003, "momentum": 0.9, "nesterov": False}),
        "Nesterov": ("sgd", {"lr": 0.006, "momentum": 0.9, "nesterov": True}),
        "rmsprop": ("rmsprop", {"lr": 0.05}),
        "adam": ("adam", {"lr": 0.4}),
    }

    def draw() -> list[Figure]:
        left, axes = _panel("A ravine, 60 steps", "w1", "w2")
        _ground(axes, ravine, (-11.0, 3.0), (-1.6, 1.6))
        right, other = _panel("Rosenbrock's function, 300 steps", "w1", "w2")
        _ground(other, _rosenbrock, (-2.0, 1.8), (-0.8, 2.4))
        for (name, (kind, settings)), (colour, dash) in zip(gentle.items(), LINES, strict=True):
            line: dict[str, Any] = {
                "color": colour,
                "linewidth": 1.2,
                "label": name,
                "linestyle": dash,
            }
            axes.plot(*_path(ravine, kind, [-10.0, 1.0], 60, **settings).T, **line)
            slower = {**settings, "lr": settings["lr"] / (10 if kind == "sgd" else 4)}
            other.plot(*_path(_rosenbrock, kind, [-1.5, 1.5], 300, **slower).T, **line)
        axes.plot(0, 0, "*", color=INK, markersize=9)
        other.plot(1, 1, "*", color=INK, markersize=9)
        left.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return [left, right]

    def fall() -> Figure:
        figure, axes = _panel("", "step", "distance from the minimum of the ravine")
        for (name, path), (colour, dash) in zip(paths.items(), LINES, strict=True):
            axes.plot(np.linalg.norm(path, axis=1)[:121], dash, color=colour, label=name)
        axes.set(yscale="log", ylim=(1e-9, 30))
        axes.legend(loc="lower left")
        return figure

    return [
        picture("Optimizers on two functions", "Stars are the minima.", draw),
        picture(
            "How fast they come down",
            f"On a ravine whose curvatures differ by {condition:g}. The first three have their "
            f"best rates and momenta, RMSProp and Adam a rate of {RATE:g}.",
            fall,
        ),
    ], claims


def _rosenbrock(at: Tensor) -> Tensor:
    """Minimum 0 at (1, 1), in a curved valley (Rosenbrock 1960, doi:10.1093/comjnl/3.3.175)."""
    return (1 - at[0]) ** 2 + 100 * (at[1] - at[0] ** 2) ** 2


def _path(
    loss: Callable[[Tensor], Tensor], name: str, start: list[float], steps: int, **settings: Any
) -> Floats:
    """The weights before and after each step of one of the platform's optimizers, (step, 2)."""
    at = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    solver = registry.load("optim", name)([{"params": [at]}], settings.pop("lr"), **settings)
    found = [start]
    for _ in range(steps):
        solver.zero_grad()
        loss(at).backward()
        solver.step()
        found.append(at.tolist())
    return np.array(found)


def _by_layer(found: dict[str, Floats], what: str) -> Figure:
    figure, axes = _panel("", "hidden layer", what)
    for (name, sizes), (colour, dash) in zip(found.items(), LINES, strict=False):
        axes.plot(np.arange(1, len(sizes) + 1), sizes, dash, color=colour, label=name)
    axes.set_yscale("log")
    axes.legend()
    return figure


def _panel(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(1.3 * WIDTH, WIDTH), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _ground(
    axes: Axes,
    loss: Callable[[Tensor], Tensor],
    wide: tuple[float, float],
    high: tuple[float, float],
) -> None:
    """Contours of a function of two weights."""
    x, y = np.linspace(*wide, 80), np.linspace(*high, 80)
    grid = torch.as_tensor(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    heights = torch.vmap(loss)(grid).reshape(80, 80).numpy()
    levels = np.geomspace(heights.max() / 3000, heights.max(), 9)
    axes.contour(x, y, heights, levels, colors=[MUTED], linewidths=0.4)
    axes.set(xlim=wide, ylim=high)
