"""Step 1: Rosenblatt's rule is descent on a loss, and converges where a plane parts the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import nn

from swath.errors import RunError
from swath.ladder.lesson import (
    Floats,
    Given,
    Lesson,
    Picture,
    Table,
    Trained,
    at_most,
    equals,
    picture,
)
from swath.ladder.plane import LINE, boundaries
from swath.learn.batches import Batches
from swath.registry import Whole, registered
from swath.report.figures import ACCENT, INK, MUTED, SECOND, THIRD, WIDTH

SIGMOID = {"task.loss": "cross_entropy", "optim.lr": 0.5, "trainer.batch_size": 8}
HALVINGS = 40
"""of a segment on which a boundary is sought: as fine as numbers of 64 bits are"""


@registered("lesson")
def perceptron(given: Given, *, seed: Whole = 0) -> Lesson:
    """A perceptron of two classes, with w by epoch, and the same unit with a sigmoid.

    Args:
        given: two classes that a plane parts; a step of the trainer sees one patch.
        seed: of the weights at the start and of the order.
    """
    epochs = range(given.sections["trainer"]["epochs"] + 1)
    networks = given.followed(epochs, seed=seed)
    smooth = given.trained(SIGMOID, seed=seed)
    found = np.stack([_unit(each.network) for each in networks])
    step = 2 * given.sections["optim"]["lr"]  # of the difference of two rows, of which both move
    by_hand, updates = _by_rule(given, found[0], step, epochs[1:], seed)
    of_zero = sum(_by_rule(given, 0 * found[0], step, epochs[1:], seed)[1])
    x, t = next(_seen(given, epochs[:1], seed))
    norm, towards = float(np.linalg.norm(x, axis=1).max()), _widest(t[:, None] * x)
    margin = float((t[:, None] * x @ towards).min())
    most = _bound(0 * found[0], towards, margin, norm)
    errors = [int((t * (x @ w) <= 0).sum()) for w in found]
    at, smoothly = (_on_boundary(given, one) for one in (networks[-1], smooth))
    normal = found[-1, :-1] / np.array(given.statistics["std"])
    along = np.diff(at, axis=0)
    cosines = along @ normal / np.linalg.norm(along, axis=1) / np.linalg.norm(normal)
    claims = [
        at_most(
            "weights by epoch, trained against Rosenblatt's rule: largest difference",
            float(np.abs(found - by_hand).max()),
            1e-5,
        ),
        equals("errors on the training part after the last epoch", errors[-1], 0),
        equals(
            "largest change of a weight in the last epoch",
            float(np.abs(found[-1] - found[-2]).max()),
            0,
        ),
        at_most(
            "updates from this start", sum(updates), _bound(found[0] / step, towards, margin, norm)
        ),
        at_most("updates from weights of zero", of_zero, most),
        at_most("largest cosine between w and the boundary", float(np.abs(cosines).max()), 1e-4),
        at_most("boundary with a sigmoid: distance from a plane, in cm", _bent(smoothly), 1e-5),
    ]
    bands = given.patches.facts["bands"]
    return Lesson(
        question="Does a perceptron learn to tell two kinds of iris apart, and does it ever end?",
        told=[
            "A perceptron answers h(x) = sign(wᵀx), here −1 for setosa and +1 for virginica; x "
            "has a 1 at its end, whose weight is the bias. Rosenblatt's rule looks at one flower "
            "at a time: if it is on the wrong side, w ← w + ηtx, with its class t = ±1; if not, "
            "nothing. That is stochastic gradient descent on max(0, −t·wᵀx), whose gradient is "
            "−tx or 0, and so the trainer of every other experiment does it.",
            "The boundary is where wᵀx = 0: two points of it differ by a d with wᵀd = 0, so w is "
            "perpendicular to it. If a plane parts the classes by a margin γ and no x is longer "
            f"than R, there are at most (R/γ)² updates from w = 0 (Novikoff); here {most:.1f}. "
            "From another start the same proof gives another number, which is among the claims.",
            "A sigmoid after wᵀx makes a probability of it, which the cross-entropy can train. "
            "It rises with wᵀx, so it is ½ where wᵀx is 0: the boundary stays flat.",
        ],
        claims=claims,
        pictures=[
            *([_plane(given, networks, found, smooth)] if len(bands) == 2 else []),
            picture(
                "Until nothing changes",
                "First, flowers of the training part that made an update in each epoch; then, the "
                "weights after it, of features in standard deviations from their mean.",
                lambda: [_updates(updates), _weights(found, [*bands, "bias"])],
            ),
        ],
        tables=[
            Table(
                "w by epoch, of normalised features, and the training part's errors",
                ["Epoch", *bands, "bias", "updates", "errors"],
                [
                    [str(n), *(f"{value:.4f}" for value in w), str(made), str(wrong)]
                    for n, (w, made, wrong) in enumerate(
                        zip(found, [0, *updates], errors, strict=True)
                    )
                ],
            )
        ],
        sources=[
            "Rosenblatt: The perceptron. Psychological Review 65 (6), 1958. doi:10.1037/h0042519",
            "Novikoff: On convergence proofs on perceptrons. Symposium on the Mathematical Theory "
            "of Automata 12, 1962.",
            "Fisher: The use of multiple measurements in taxonomic problems. Annals of Eugenics 7 "
            "(2), 1936. doi:10.1111/j.1469-1809.1936.tb02137.x",
        ],
    )  # fmt: skip


def _unit(network: nn.Module) -> Floats:
    """w and the bias at its end: by how much the second class is answered more than the first."""
    weight, bias = (each.detach().double().numpy() for each in network.parameters())
    unit: Floats = np.append(weight[1] - weight[0], bias[1] - bias[0])
    return unit


def _seen(given: Given, epochs: Sequence[int], seed: int) -> Iterator[tuple[Floats, Floats]]:
    """What the trainer sees in each epoch, in its order: x (patch, feature and 1), t (patch)."""
    training = np.flatnonzero(given.parts == "train")
    numbers = {key: given.statistics[key] for key in ("mean", "std")}
    batches = Batches(given.patches, training, batch_size=len(training), seed=seed, **numbers)
    for epoch in epochs:
        batches.start(epoch)
        image, label = next(iter(batches))
        x = image.double().numpy().reshape(len(training), -1)
        yield np.column_stack([x, np.ones(len(x))]), 2.0 * label.numpy() - 1


def _by_rule(
    given: Given, start: Floats, step: float, epochs: Sequence[int], seed: int
) -> tuple[Floats, list[int]]:
    """Rosenblatt's rule by hand: w at the start and after each epoch, and the updates in each."""
    w, found, updates = start.copy(), [start], []
    for x, t in _seen(given, [epoch - 1 for epoch in epochs], seed):
        wrong = 0
        for one, sign in zip(x, t, strict=True):
            if sign * (w @ one) <= 0:
                w, wrong = w + step * sign * one, wrong + 1
        found.append(w)
        updates.append(wrong)
    return np.stack(found), updates


def _widest(signed: Floats) -> Floats:
    """The unit vector u whose least uᵀ(tx) is the largest; signed is tx by patch."""
    found = minimize(
        lambda w: w @ w, signed.mean(axis=0), jac=lambda w: 2 * w, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda w: signed @ w - 1, "jac": lambda w: signed},
    ).x  # fmt: skip
    unit: Floats = found / np.linalg.norm(found)
    return unit


def _bound(start: Floats, towards: Floats, margin: float, norm: float) -> float:
    """The most updates k that Novikoff's two inequalities leave, of a rule that adds tx.

    startᵀu + kγ ≤ wᵀu ≤ |w| ≤ √(|start|² + kR²); from a start of 0 that is k ≤ (R/γ)².
    """
    if margin <= 0:
        return float("inf")
    along = start @ towards
    half = along / margin - (norm / margin) ** 2 / 2
    return float(-half + np.sqrt(half**2 + (start @ start - along**2) / margin**2))


def _on_boundary(given: Given, trained: Trained) -> Floats:
    """Points of a boundary (point, feature), each between a flower of either class, by halving."""
    values, classes = given.values, trained.classes(given.values)
    count = int(min(np.bincount(classes, minlength=2)))
    if count < 2:
        raise RunError(
            "has no boundary between the patches", where="lesson", mend="train it longer"
        )
    low, high = (values[classes == k][:count] for k in (0, 1))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        there = trained.classes(middle)[:, None, None, None] == 1
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    at: Floats = low.reshape(count, -1)
    return at


def _bent(at: Floats) -> float:
    """How far points are from the plane that fits them best: root mean square."""
    return float(np.linalg.svd(at - at.mean(axis=0))[1][-1] / np.sqrt(len(at)))


def _plane(given: Given, networks: Sequence[Trained], found: Floats, smooth: Trained) -> Picture:
    """The boundary after some epochs, with w upon it, and that of the sigmoid."""
    shown = [*range(min(4, len(networks) - 1)), len(networks) - 1]
    std, mean = (np.array(given.statistics[key]) for key in ("std", "mean"))

    x1, x2 = (f"{name} [cm]" for name in given.patches.facts["bands"])

    def hard(trained: Trained) -> Callable[[Floats], Floats]:
        return lambda values: 1e9 * trained.answer(values)

    def draw() -> Figure:
        panels = [("start" if not n else f"epoch {n}", hard(networks[n])) for n in shown]
        figure = boundaries(
            given.values, given.labels, [*panels, ("with a sigmoid", smooth.answer)], names=(x1, x2)
        )
        for axes, w in zip(figure.axes, [*found[shown], _unit(smooth.network)], strict=False):
            normal = w[:2] / std
            # The foot of the middle of all flowers on the boundary, if it is within the picture.
            foot = mean - normal * w[2] / (normal @ normal)
            tip = foot + normal / np.linalg.norm(normal)
            axes.set_aspect("equal")
            axes.annotate("", tip, foot, arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 1.4})
        figure.set_size_inches(1.5 * WIDTH, 1.5 * WIDTH)  # as high as equal scales have them
        figure.tight_layout()
        return figure

    return picture(
        "The boundary by epoch",
        "All flowers, setosa blue and virginica ochre, what the perceptron answers between them, "
        "and w as an arrow of 1 cm upon the boundary. Last, the same unit with a sigmoid: its "
        "probability changes smoothly, its boundary is as straight.",
        draw,
    )


def _updates(updates: list[int]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.4))
    axes = figure.subplots()
    axes.bar(range(1, len(updates) + 1), updates, color=ACCENT, width=0.7)
    axes.set(title="Updates", xlabel="epoch", xticks=range(1, len(updates) + 1))
    axes.grid(visible=False, axis="x")
    figure.tight_layout()
    return figure


def _weights(found: Floats, names: list[str]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.4))
    axes = figure.subplots()
    for number, name in enumerate(names):
        colour = (ACCENT, SECOND, THIRD, MUTED, INK)[number % 5]
        axes.plot(found[:, number], "o-", ms=3, color=colour, label=name)
    axes.set(title="Weights", xlabel="epoch")
    axes.legend()
    figure.tight_layout()
    return figure
