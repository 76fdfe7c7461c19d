"""Step 4: what activations are, where they saturate, and what that does to a deep network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from swath.ladder.lesson import (
    Claim,
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
from swath.models.activations import activated
from swath.registry import Activation, Positive, Whole, registered
from swath.report.figures import ACCENT, INK, MUTED, SECOND, THIRD, WIDTH

NAMES: list[Activation] = ["sigmoid", "tanh", "relu", "softplus", "leaky_relu", "elu"]
COLOURS: dict[str, str] = dict(
    zip(NAMES, [THIRD, SECOND, ACCENT, MUTED, INK, "#4f9d69"], strict=True)
)
SLOPE, ALPHA = 0.01, 1.0
"""of leaky ReLU and of ELU below 0"""

Function = Callable[[Floats], Any]


def _sigmoid(z: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-z))
    return found


# Function and derivative, as they are published.
FORMULAS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: 1.0 * (z > 0)),
    "softplus": (lambda z: np.log1p(np.exp(z)), _sigmoid),
    "leaky_relu": (
        lambda z: np.where(z > 0, z, SLOPE * z),
        lambda z: np.where(z > 0, 1, SLOPE),
    ),
    "elu": (
        lambda z: np.where(z > 0, z, ALPHA * np.expm1(z)),
        lambda z: np.where(z > 0, 1, ALPHA * np.exp(z)),
    ),
}
STEEPEST: dict[str, float] = {**dict.fromkeys(FORMULAS, 1.0), "sigmoid": 0.25}
"""the largest derivative of each"""


@registered("lesson")
def activations(given: Given, *, far: Positive = 5.0, seed: Whole = 0) -> Lesson:
    """Six activations: function, derivative, saturation, and what they do to a training.

    Args:
        given: two classes of points that no line parts, and a network of several hidden layers.
        far: where it is looked at whether they saturate, in units of z.
        seed: of the weights at the start and of the order.
    """
    z = np.linspace(-8, 8, 161)
    curves: dict[str, tuple[Floats, Floats]] = {name: _curves(name, z) for name in NAMES}
    at: dict[str, Floats] = {name: _curves(name, np.array([-far, 0.0, far]))[1] for name in NAMES}
    minus = float(_curves("elu", np.array([-1.0]))[0][0])
    depth = len(given.sections["model"]["hidden"])
    starts = {name: given.followed([0], _with(name), seed=seed)[0] for name in NAMES}
    signals: dict[str, Floats] = {name: _signals(given, starts[name]) for name in NAMES}
    trained = {name: given.trained(_with(name), seed=seed) for name in NAMES}
    histories: dict[str, Floats] = {
        name: each.history["train/loss"].to_numpy(np.float64) for name, each in trained.items()
    }
    losses = {name: float(each[-1]) for name, each in histories.items()}
    right = {name: given.accuracy(trained[name]) for name in NAMES}
    published = ALPHA * (math.exp(-1) - 1)
    shares = {name: each / each[-1] for name, each in signals.items()}
    reach = {name: float(each[0]) for name, each in shares.items()}
    claims = [claim for name in NAMES for claim in _of_function(name, curves[name], z, far, at)]
    claims += [
        equals("elu at z = −1", minus, published, within=1e-12),
        at_least(
            "elu at z = −1: distance from the lecture's α(e^z − 1)z",
            abs(minus + published), 1.0,
        ),
        *(
            at_most(
                f"{name}: share of the signal that reaches the first layer",
                reach[name], _most(starts[name], STEEPEST[name]),
            )
            for name in NAMES
        ),
        *(
            at_least(f"{name}: accuracy", right[name], 0.9)
            for name in ("tanh", "relu", "leaky_relu", "elu")
        ),
        equals(
            "sigmoid: loss at the end, which is that of guessing",
            losses["sigmoid"], float(np.log(2)), within=0.05,
        ),
    ]  # fmt: skip
    return Lesson(
        question="Why do deep networks use ReLU, and not the sigmoid that came first?",
        told=[
            "Without an activation any depth is one linear map. What an activation does to "
            "learning is said by its derivative, which multiplies the signal on its way back "
            f"through each layer. The sigmoid's is ¼ at most, and {at['sigmoid'][2]:.4f} at |z| = "
            f"{far:g}: it saturates on both sides. tanh is as steep as 1, and saturates as well. "
            "ReLU, leaky ReLU, softplus and ELU do not above 0, and below it leaky ReLU keeps a "
            "slope.",
            "ELU is α(e^z − 1) below 0, as published. The lecture prints α(e^z − 1)z, which would "
            "be positive there and have no slope at 0; the published one is used here.",
            f"In a network of {depth} hidden layers the signal δ = ∂E/∂z of a layer is g′(z)·Wᵀδ "
            "of the one above, so the first is at most the product of all (max g′)·|W| of the "
            "last. At the start the sigmoid's has all but vanished, and the loss stays at ln 2, "
            "where two classes are guessed. Of softplus, whose slope at 0 is ½, more is left, and "
            "less than of those with a slope of 1.",
        ],
        claims=claims,
        pictures=[
            picture(
                "Six activations",
                "Function (solid) and derivative (dashed).",
                lambda: _multiples(z, curves),
            ),
            picture(
                "The signal on its way back, and what is learnt",
                "First, the length of ∂E/∂z over all points at each hidden layer before the "
                "training, as a share of that at the last one; then, the loss on the training part "
                "by epoch (dotted: ln 2).",
                lambda: [
                    _lines(shares, "Signal", "hidden layer"),
                    _lines(histories, "Loss", "epoch"),
                ],
            ),
        ],
        tables=[
            Table(
                "Derivatives, and what is learnt",
                ["", f"g′(−{far:g})", "g′(0)", f"g′({far:g})", "signal", "loss", "accuracy"],
                [
                    [
                        name, *(f"{slope:.4g}" for slope in at[name]), f"{reach[name]:.3g}",
                        f"{losses[name]:.3f}", f"{right[name]:.1%}",
                    ]
                    for name in NAMES
                ],
            )
        ],
        sources=[
            "Nair, Hinton: Rectified linear units improve restricted Boltzmann machines. ICML "
            "2010.",
            "Dugas et al.: Incorporating second-order functional knowledge. NIPS 2000 (softplus).",
            "Maas, Hannun, Ng: Rectifier nonlinearities improve neural network acoustic models. "
            "ICML 2013 (leaky ReLU).",
            "Clevert, Unterthiner, Hochreiter: ELU. ICLR 2016. arXiv:1511.07289, equation 15",
            "Hochreiter: Untersuchungen zu dynamischen neuronalen Netzen. TU München, 1991.",
        ],
    )  # fmt: skip


def _of_function(
    name: str, found: tuple[Floats, Floats], z: Floats, far: float, at: dict[str, Floats]
) -> list[Claim]:
    """What theory says of one activation and its derivative."""
    apart = [np.abs(a - f(z)).max() for a, f in zip(found, FORMULAS[name], strict=True)]
    ends = FORMULAS[name][1](np.array([-far, far])).tolist()
    slopes = [float(at[name][0]), float(at[name][2])]
    return [
        at_most(f"{name}: distance from its formula and derivative", float(max(apart)), 1e-12),
        equals(
            f"{name}: largest derivative", float(found[1].max()), STEEPEST[name], within=1e-3
        ),
        *(
            equals(f"{name}: derivative at z = {side}{far:g}", slope, end, within=1e-9)
            for side, slope, end in zip(("−", ""), slopes, ends, strict=True)
        ),
    ]  # fmt: skip


def _with(name: str) -> dict[str, str]:
    return {"model.activation": name}


def _curves(name: Activation, z: Floats) -> tuple[Floats, Floats]:
    """An activation of the platform and its derivative by autograd, at each z."""
    there = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    value = activated(name)(there)
    (slope,) = torch.autograd.grad(value.sum(), there)
    return value.detach().numpy(), slope.numpy()


def _linear(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def _signals(given: Given, trained: Trained) -> Floats:
    """Length of ∂E/∂z over all points at each hidden layer, E being the cross-entropy."""
    a = torch.tensor(given.normalised(given.values)).flatten(1).float()
    kept = []
    for layer in trained.network:
        a = layer(a)
        if isinstance(layer, nn.Linear):
            a.retain_grad()
            kept.append(a)
    F.cross_entropy(a, torch.tensor(given.labels)).backward()
    return np.array([float(z.grad.norm()) for z in kept[:-1] if z.grad is not None])


def _most(trained: Trained, steepest: float) -> float:
    """The largest share of the last hidden layer's signal that can be left at the first."""
    between = _linear(trained.network)[1:-1]
    return float(
        np.prod([steepest * torch.linalg.matrix_norm(b.weight, 2).item() for b in between])
    )


def _multiples(z: Floats, curves: dict[str, tuple[Floats, Floats]]) -> list[Figure]:
    drawn = []
    for name, (value, slope) in curves.items():
        figure = Figure(figsize=(0.62 * WIDTH, 0.55 * WIDTH))
        axes = figure.subplots()
        shown = np.abs(z) <= 5
        axes.plot(z[shown], value[shown], color=COLOURS[name])
        axes.plot(z[shown], slope[shown], color=COLOURS[name], ls="--", lw=1.2)
        axes.set(title=name, xlabel="z", ylim=(-1.3, 2.3), xticks=[-5, 0, 5])
        figure.tight_layout()
        drawn.append(figure)
    return drawn


def _lines(values: dict[str, Floats], title: str, along: str) -> Figure:
    """A line an activation; of losses with that of guessing, of signals by magnitude."""
    figure = Figure(figsize=(WIDTH, 2.9))
    axes = figure.subplots()
    for name, line in values.items():
        axes.plot(np.arange(1, len(line) + 1), line, color=COLOURS[name], label=name)
    axes.set(title=title, xlabel=along)
    if title == "Loss":
        axes.axhline(np.log(2), color=MUTED, ls=":", lw=1)
    else:
        axes.set_yscale("log")
        axes.set_xticks(range(1, max(map(len, values.values())) + 1))
    axes.legend(ncols=2)
    figure.tight_layout()
    return figure
