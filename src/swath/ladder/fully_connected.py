"""Step 7: fully connected networks on images: posteriors, parameters, over-fitting."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from swath.ladder.images import in_colour, probabilities, tiles
from swath.ladder.lesson import Given, Lesson, Trained, at_least, at_most, equals, picture
from swath.learn.networks import sized
from swath.registry import Count, Positive, registered
from swath.report.figures import ACCENT, SECOND, WIDTH

Floats = NDArray[np.float64]
SIDES = (8, 16, 32, 64, 128)


@registered("lesson")
def fully_connected(
    given: Given, *, seeds: Count = 2, fully_lr: Positive = 0.003, patches: Count = 4
) -> Lesson:
    """Patches of land, by a convolutional network and a fully connected one of about its size.

    Args:
        given: patches with a label each, and a convolutional network.
        seeds: trainings of each network, whose mean counts.
        fully_lr: largest learning rate of the fully connected network.
        patches: of the test part, whose probabilities are drawn.
    """
    bands, side = given.values.shape[1:3]
    kinds = given.patches.classes
    convolved = [given.trained(seed=seed) for seed in range(seeds)]
    size = counted(convolved[0].network)
    # A hidden unit has a weight for each value and each class, and a threshold of its own.
    hidden = max(1, round((size - len(kinds)) / (bands * side**2 + 1 + len(kinds))))
    model = {"name": "mlp", "hidden": [hidden], "normalise": False, "dropout": 0.0}
    keys = {f"model.{key}": value for key, value in model.items()} | {"optim.lr": fully_lr}
    connected = [given.trained(keys, seed=seed) for seed in range(seeds)]

    test = given.values[given.parts == "test"]
    logits = connected[0].answer(test)
    shifted = posteriors(logits + 7.0)
    sure = posteriors(logits)
    grown = {n: counted(sized(model, (bands, n, n), len(kinds))) for n in SIDES}
    same = {n: counted(sized(given.sections["model"], (bands, n, n), len(kinds))) for n in SIDES}
    first = {n: grown[n] - (1 + len(kinds)) * hidden - len(kinds) for n in SIDES}
    learnt, known = (_accuracies(given, networks) for networks in (connected, convolved))
    claims = [
        at_most("posteriors: largest distance of a patch's sum from 1",
                float(abs(sure.sum(axis=1) - 1).max()), 1e-12),
        at_most("posteriors: largest change if 7 is added to all logits",
                float(abs(shifted - sure).max()), 1e-12),
        *(equals(f"parameters of {hidden} hidden units on {n} × {n} pixels", grown[n],
                 (bands * n**2 + 1) * hidden + (hidden + 1) * len(kinds)) for n in SIDES),
        equals("weights on images, as a multiple of those for half the side",
               first[SIDES[-1]] / first[SIDES[-2]], 4),
        equals("the convolutional network: sizes that it has on all these sides",
               len(set(same.values())), 1),
        equals("size of the fully connected network, as a share of the convolutional one's",
               counted(connected[0].network) / size, 1, within=0.1),
        at_least("fully connected: accuracy on the patches that it learnt from", learnt[0], 0.8),
        at_least("fully connected: what it loses on other patches", learnt[0] - learnt[1], 0.25),
        at_least("convolutional: accuracy on other patches, above the fully connected one's",
                 known[1] - learnt[1], 0.1),
        at_least("fully connected: what it loses, above what the convolutional one does",
                 (learnt[0] - learnt[1]) - (known[0] - known[1]), 0.1),
    ]  # fmt: skip
    shown = in_colour(given.values, given.patches.facts["rgb"])
    return Lesson(
        question="Why not connect every pixel to every unit?",
        told=[
            "The network answers with a number for each class; the softmax, exp(zₖ) / Σ exp(zⱼ), "
            "makes them posterior probabilities. They sum to one, and know differences of the "
            "numbers alone.",
            "A fully connected unit has a weight for each pixel and band. With the image's side "
            "its weights grow by the square; those of a convolution do not.",
            f"Both networks have about {size} parameters. The fully connected one has to learn "
            "for each place anew what a wood looks like, and can learn the few patches by heart "
            f"instead: it has {learnt[0]:.0%} of them right, and {learnt[1]:.0%} of those that it "
            f"has not seen. The convolutional one has {known[0]:.0%} and {known[1]:.0%}.",
        ],
        claims=claims,
        pictures=[
            picture(
                "The patches",
                f"One of each kind, {side} × {side} pixels.",
                lambda: tiles([shown[given.labels == k][0] for k in range(len(kinds))],
                              kinds, columns=4),
            ),
            picture(
                "How a network grows with the image",
                f"Parameters of {hidden} fully connected hidden units, and of the convolutional "
                "network, which has a mean over all places behind its convolutions.",
                lambda: _growth(grown, same),
            ),
            picture(
                "Over-fitting",
                "The loss of the patches that are learnt from falls in both networks. That of "
                "others rises again where the network learns by heart.",
                lambda: _curves({"fully connected": connected[0], "convolutional": convolved[0]}),
            ),
            picture(
                "Posteriors",
                "Of patches of the test part, by the convolutional network; the true class is in "
                "the other colour.",
                lambda: probabilities(*_some(given, convolved[0], shown, patches), kinds),
            ),
        ],
        sources=[
            "Bridle: Probabilistic interpretation of feedforward classification network outputs. "
            "Neurocomputing, NATO ASI Series F68, 1990. doi:10.1007/978-3-642-76153-9_28",
            "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document "
            "recognition. Proceedings of the IEEE 86 (11), 1998. doi:10.1109/5.726791",
        ],
    )  # fmt: skip


def posteriors(logits: Floats) -> Floats:
    """The softmax of logits (patch, class)."""
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = grown / grown.sum(axis=1, keepdims=True)
    return shares


def counted(network: nn.Module) -> int:
    """The number of a network's parameters."""
    return sum(values.numel() for values in network.parameters())


def _accuracies(given: Given, networks: list[Trained]) -> tuple[float, float]:
    """Of the patches that were learnt from, and of those of the test part; means of networks."""
    right = np.mean([net.classes(given.values) == given.labels for net in networks], axis=0)
    train, test = (float(right[given.parts == part].mean()) for part in ("train", "test"))
    return train, test


def _some(
    given: Given, trained: Trained, shown: Floats, count: int
) -> tuple[list[Floats], Floats, list[int]]:
    """Some patches of the test part, evenly from all classes: image, posteriors, class."""
    test = np.flatnonzero(given.parts == "test")
    test = test[np.argsort(given.labels[test], kind="stable")]
    which = test[np.linspace(0, len(test) - 1, count).astype(int)]
    answers = posteriors(trained.answer(given.values[which]))
    return list(shown[which]), answers, given.labels[which].tolist()


def _growth(grown: dict[int, int], same: dict[int, int]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots()
    for sizes, colour, name in (
        (grown, SECOND, "fully connected"), (same, ACCENT, "convolutional"),
    ):  # fmt: skip
        axes.loglog(list(sizes), list(sizes.values()), "o-", color=colour, markersize=4, label=name)
    axes.set_xticks(list(grown), [str(side) for side in grown])
    axes.minorticks_off()
    axes.set(xlabel="side of the image, px", ylabel="parameters")
    axes.legend()
    return figure


def _curves(networks: dict[str, Trained]) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.0 * len(networks)), layout="constrained")
    row = figure.subplots(len(networks), 1, sharex=True, sharey=True)
    for axes, (name, one) in zip(row, networks.items(), strict=True):
        for column, colour, label in (
            ("train/loss", ACCENT, "learnt from"), ("val/loss", SECOND, "others"),
        ):  # fmt: skip
            axes.plot(one.history["epoch"], one.history[column], color=colour, label=label)
        axes.set(ylabel="cross-entropy", title=name)
    row[0].set_ylim(bottom=0)
    row[0].legend()
    row[-1].set_xlabel("epoch")
    return figure
