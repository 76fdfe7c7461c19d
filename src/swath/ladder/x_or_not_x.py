"""Step 9: an X wherever it is: full and local connection, and shared weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from swath.ladder.images import tiles
from swath.ladder.lesson import Claim, Given, Lesson, Trained, at_least, at_most, equals, picture
from swath.models.local import LocallyConnected2d
from swath.registry import Count, Positive, registered
from swath.report.figures import ACCENT, SECOND, THIRD, WIDTH

Floats = NDArray[np.float64]
FULL, LOCAL, SHARED = "fully connected", "locally connected", "convolutional"
COLOURS = {FULL: SECOND, LOCAL: THIRD, SHARED: ACCENT}


@registered("lesson")
def x_or_not_x(
    given: Given, *, units: Count = 64, fully_lr: Positive = 0.003, shift_px: Count = 4
) -> Lesson:
    """Figures in the centre are learnt, and asked for where they were never seen.

    Args:
        given: binary images, X or not, with room around the figures; a convolutional network.
        units: of the hidden layer of the fully connected network.
        fully_lr: its largest learning rate.
        shift_px: how far the figures of the test part are moved, along each axis and both ways.
    """
    side, bands = given.values.shape[-1], given.values.shape[1]
    kinds, model = len(given.patches.classes), given.sections["model"]
    fully = {"name": "mlp", "hidden": [units], "normalise": False, "dropout": 0.0}
    networks = {
        FULL: given.trained(_keys(fully) | {"optim.lr": fully_lr}),
        LOCAL: given.trained({"model.sharing": False}),
        SHARED: given.trained(),
    }
    size = {name: sum(p.numel() for p in one.network.parameters())
            for name, one in networks.items()}  # fmt: skip
    wanted = {
        FULL: (bands * side**2 + 1) * units + (units + 1) * kinds,
        LOCAL: _size(model, bands, kinds, side, shared=False),
        SHARED: _size(model, bands, kinds, side, shared=True),
    }
    steps = range(-shift_px, shift_px + 1)
    moves = [(dy, dx) for dy in steps for dx in steps]
    test, labels = (each[given.parts == "test"] for each in (given.values, given.labels))
    answers = {name: np.stack([one.classes(moved(test, *move)) for move in moves])
               for name, one in networks.items()}  # fmt: skip
    middle = moves.index((0, 0))
    seen = {name: float((each[middle] == labels).mean()) for name, each in answers.items()}
    right = {name: float((each == labels).mean()) for name, each in answers.items()}
    kept = {name: float((each == each[middle]).mean()) for name, each in answers.items()}
    step = model["pool_px"] ** len(model["widths"])
    claims = [
        *(equals(f"{name}: parameters", size[name], wanted[name]) for name in networks),
        equals("local filters with the same weights everywhere: difference from a convolution",
               _copied(model, test[:8]), 0),
        *(at_least(f"{name}: accuracy in the centre, as learnt", seen[name], 0.9)
          for name in networks),
        at_least(f"{SHARED}: accuracy at all shifts", right[SHARED], 0.9),
        *(at_most(f"{name}: accuracy at all shifts", right[name], 0.8) for name in (FULL, LOCAL)),
        at_least(f"{SHARED}: answers that stay the same", kept[SHARED], 0.9),
        *(at_most(f"{name}: answers that stay the same", kept[name], 0.8)
          for name in (FULL, LOCAL)),
        *_invariance(networks, test, step),
    ]  # fmt: skip
    one = test[labels == 0][0, 0]
    return Lesson(
        question="How does a network know an X where it has never seen one?",
        told=[
            f"All three networks learnt {int((given.parts == 'train').sum())} figures in the "
            "centre of the image, shrunk, turned and bent. Then those of the test part are moved "
            f"by up to {shift_px} pixels.",
            "A fully connected unit knows pixels by their place. A locally connected one sees a "
            "small window, but has a filter of its own at each place: where nothing was learnt, "
            "it knows nothing. A convolution has the same filter everywhere, so that its map "
            "moves with the figure, and the maximum over all places does not move at all.",
            "Sharing also saves parameters: S places with a filter each have S times the "
            f"parameters of one filter for all. Here they are {size[LOCAL]:,} and "
            f"{size[SHARED]:,}; the fully connected network has {size[FULL]:,}.",
        ],
        claims=claims,
        pictures=[
            picture(
                "X or not X",
                "Figures of the test part: an X above, others below.",
                lambda: tiles([test[labels == k][n, 0] for k in (0, 1) for n in range(6)],
                              columns=6, cmap="Blues", vmin=0, vmax=1.4),
            ),
            picture(
                "An X on its way",
                "The same X, and what the networks say to it: ✓ an X, ✗ none; fully connected, "
                "locally connected, convolutional.",
                lambda: _on_its_way(networks, one, shift_px),
            ),
            picture(
                "Invariance to translation",
                "The share of right answers, by how far the figures were moved (the longer of "
                "both axes); half is chance.",
                lambda: _by_distance(answers, labels, moves),
            ),
        ],
        sources=[
            "LeCun: Generalization and network design strategies. Technical Report CRG-TR-89-4, "
            "University of Toronto, 1989.",
            "Fukushima: Neocognitron. Biological Cybernetics 36, 1980. doi:10.1007/BF00344251",
        ],
    )  # fmt: skip


def moved(images: Floats, dy: int, dx: int) -> Floats:
    """Images (image, band, y, x) whose content is moved; it comes back in at the other side."""
    return np.roll(images, (dy, dx), axis=(2, 3))


def _keys(model: dict[str, Any]) -> dict[str, Any]:
    return {f"model.{key}": value for key, value in model.items()}


def _size(model: dict[str, Any], bands: int, classes: int, side: int, *, shared: bool) -> int:
    """Parameters of the network by its layers: a filter for all places, or one for each."""
    total, inputs = 0, bands
    for outputs in model["widths"]:
        one = (inputs * model["kernel_px"] ** 2 + 1) * outputs
        total += one if shared else side**2 * one
        inputs, side = outputs, -(-side // model["pool_px"])
    inputs *= side**2 if model["places"] == "kept" else 1
    for outputs in (*model["hidden"], classes):
        total += (inputs + 1) * outputs
        inputs = outputs
    return total


def _copied(model: dict[str, Any], images: Floats) -> float:
    """How far a locally connected layer of equal filters is off a convolution, at most."""
    torch.manual_seed(0)
    kernel, padding = model["kernel_px"], model["padding"]
    shared = nn.Conv2d(images.shape[1], 4, kernel, padding="same", padding_mode=padding).double()
    local = LocallyConnected2d(images.shape[1], 4, kernel, padding=padding).double()
    image = torch.as_tensor(images)
    with torch.inference_mode():
        local(image)
        places = local.weight.shape[0]
        local.weight.copy_(shared.weight.flatten(1).T.expand(places, -1, -1))
        local.bias.copy_(shared.bias.repeat(places))  # type: ignore[union-attr]
        return round(float((local(image) - shared(image)).abs().max()), 12)


def _invariance(networks: dict[str, Trained], images: Floats, step: int) -> list[Claim]:
    """How much the logits change when images are moved by the step of all poolings."""
    change = {
        name: float(abs(one.answer(moved(images, step, -step)) - one.answer(images)).max())
        for name, one in networks.items()
    }
    text = f"largest change of a logit by a shift of {step} px, the step of the poolings"
    return [
        at_most(f"{SHARED}: {text}", change[SHARED], 1e-3),
        *(at_least(f"{name}: {text}", change[name], 1.0) for name in (FULL, LOCAL)),
    ]


def _on_its_way(networks: dict[str, Trained], image: Floats, reach: int) -> Figure:
    places = [(0, 0), (0, reach), (reach, reach), (-reach, 0), (-reach, -reach), (reach, -reach)]
    images = [moved(image[None, None], *place) for place in places]
    said = [
        " ".join("✗" if one.classes(each)[0] else "✓" for one in networks.values())
        for each in images
    ]
    return tiles([each[0, 0] for each in images], said, columns=3, cmap="Blues", vmin=0, vmax=1.4)


def _by_distance(
    answers: dict[str, NDArray[np.int64]], labels: NDArray[np.int64], moves: list[tuple[int, int]]
) -> Figure:
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    far = np.abs(moves).max(axis=1)
    for name, each in answers.items():
        right = (each == labels).mean(axis=1)
        means = [100 * right[far == distance].mean() for distance in range(far.max() + 1)]
        axes.plot(means, "o-", color=COLOURS[name], markersize=4, label=name)
    axes.set(ylim=(0, 104), xlabel="shift, px", ylabel="right answers, %")
    axes.set_xticks(range(far.max() + 1))
    axes.legend(loc="lower left")
    return figure
