"""Step 10: filters, feature maps and class probabilities of a convolutional network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from swath.errors import ConfigError
from swath.ladder.convolution import by_hand
from swath.ladder.fully_connected import posteriors
from swath.ladder.images import in_colour, probabilities, tiles
from swath.ladder.lesson import (
    Claim,
    Given,
    Lesson,
    Picture,
    Table,
    Trained,
    at_least,
    at_most,
    equals,
    picture,
)
from swath.models.receptive import receptive_field
from swath.registry import Count, Positive, Whole, registered

Floats = NDArray[np.float64]
Shape = tuple[int, ...]
SHOWN = 16
"""channels of a layer, and filters of one, that are drawn"""


@registered("lesson")
def cnn(
    given: Given, *, shown: Whole = 0, patches: Count = 4, perceptron_lr: Positive = 0.003
) -> Lesson:
    """What each layer of a trained network has learnt to look for, and what it finds.

    Args:
        given: patches with a label each, and a network `plain_cnn` that shares its weights.
        shown: number of the patch of the test part whose feature maps are drawn; counted anew from
            the first after the last.
        patches: of the test part, whose probabilities are drawn.
        perceptron_lr: largest learning rate of the perceptron that it is compared with.

    Raises:
        ConfigError: the network has no convolutions of this kind.
    """
    model, kinds = given.sections["model"], given.patches.classes
    if not (model.get("sharing") and model["widths"]):
        raise ConfigError(
            "has no filters that are shared by all places", where="model",
            mend="set model=plain_cnn, and of it sharing=true and some widths",
        )  # fmt: skip
    values, labels = given.values, given.labels
    trained = given.trained()
    plain = {"model.name": "mlp", "model.hidden": [], "model.normalise": False}
    perceptron = given.trained(plain | {"optim.lr": perceptron_lr})
    test = np.flatnonzero(given.parts == "test")
    one = test[shown % len(test)]
    found = _layers(trained, given, values[one : one + 1])
    expected = _shapes(model, values.shape[1], values.shape[-1], len(kinds))

    def right(network: Trained, images: Floats) -> float:
        return float((network.classes(images) == labels[test]).mean())

    accuracy = right(trained, values[test])
    counts = np.bincount(labels[test], minlength=len(kinds))
    shares = posteriors(trained.answer(values[test]))
    claims = [
        *(equals(f"{name}: values of its answer", float(np.prod(answer.shape)),
                 float(np.prod(shape)))
          for (name, answer), shape in zip(found, expected, strict=True)),
        equals("shapes of answers that the formula does not give",
               float(sum(answer.shape != shape
                         for (_, answer), shape in zip(found, expected, strict=True))), 0),
        at_most("first feature maps: a plain loop's largest difference",
                _difference(trained, given, values[one]), 1e-4),
        at_most("class probabilities: largest distance of a patch's sum from 1",
                float(abs(shares.sum(axis=1) - 1).max()), 1e-12),
        at_least("accuracy on the test part, above that of the most frequent class",
                 accuracy - float(counts.max() / counts.sum()), 0.3),
        at_least("accuracy above that of a perceptron of all pixels",
                 accuracy - right(perceptron, values[test]), 0.05),
        *_without_places(trained, values[test], labels[test], accuracy),
    ]  # fmt: skip
    colours = in_colour(values, given.patches.facts["rgb"])
    which = test[np.argsort(labels[test], kind="stable")]
    which = which[np.linspace(0, len(which) - 1, patches).astype(int)]
    return Lesson(
        question="What does a convolutional network look for, and what does it find?",
        told=[
            "Filters of the first layer see a few pixels in all bands: light against dark, "
            "infrared against red. Those of the second combine what the first have found. Pooling "
            "keeps the largest of each square of values, so that maps become smaller and a unit "
            f"sees more of the patch: {receptive_field(_windows(model))} pixels after the last.",
            "The fully connected layers then weigh what was found, and a softmax makes "
            f"probabilities of it: {accuracy:.0%} of the test part are right, "
            f"{right(perceptron, values[test]):.0%} with a perceptron of all pixels.",
            "A shuffled patch has the same pixels, the same mean of every band, but no shapes. "
            "What the network loses by it is what it knows of neighbours.",
        ],
        claims=claims,
        pictures=[
            *_filters(trained, given.patches.facts["bands"]),
            picture(
                "The patch",
                f"A patch of {kinds[labels[one]]}, whose feature maps follow.",
                lambda: tiles([colours[one]], columns=1, width=1.6),
            ),
            *(_maps(name, answer[0]) for name, answer in found
              if answer.ndim == 4 and not name.startswith("activation")),
            picture(
                "Class probabilities",
                "Of patches of the test part; the true class is in the other colour.",
                lambda: probabilities(list(colours[which]), posteriors(
                    trained.answer(values[which])), labels[which].tolist(), kinds),
            ),
        ],
        tables=[
            Table("The answer of each layer to one patch",
                  ["layer", "by the formula", "found"],
                  [[name, _by(shape[1:]), _by(answer.shape[1:])]
                   for (name, answer), shape in zip(found, expected, strict=True)]),
        ],
        sources=[
            "Zeiler, Fergus: Visualizing and understanding convolutional networks. ECCV 2014. "
            "doi:10.1007/978-3-319-10590-1_53",
            "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document "
            "recognition. Proceedings of the IEEE 86 (11), 1998. doi:10.1109/5.726791",
        ],
    )  # fmt: skip


def shuffled(images: Floats, seed: int = 0) -> Floats:
    """Images (image, band, y, x) whose pixels have changed places, each with all its bands."""
    rng = np.random.default_rng(seed)
    flat = images.reshape(*images.shape[:2], -1)
    order = np.argsort(rng.random((len(images), 1, flat.shape[-1])), axis=-1)
    return np.take_along_axis(flat, order, axis=-1).reshape(images.shape)


def _without_places(
    trained: Trained, images: Floats, labels: NDArray[np.int64], accuracy: float
) -> list[Claim]:
    mixed = shuffled(images)
    kept = abs(mixed.mean(axis=(2, 3)) - images.mean(axis=(2, 3))).max() / images.mean()
    answers = trained.classes(mixed)
    lost = accuracy - float((answers == labels).mean())
    changed = float((answers != trained.classes(images)).mean())
    return [
        equals("shuffled pixels: change of a patch's means, as a share", round(float(kept), 12), 0),
        at_least("shuffled pixels: answers that change", changed, 0.1),
        at_least("shuffled pixels: accuracy that is lost", lost, 0.03),
    ]


def _named(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that compute something, each by its kind and number."""
    kinds = {nn.Conv2d: "convolution", nn.MaxPool2d: "pooling", nn.Linear: "fully connected"}
    seen: dict[str, int] = {}
    named = []
    for layer in network.modules():
        name = next((name for kind, name in kinds.items() if isinstance(layer, kind)), None)
        if name:
            seen[name] = seen.get(name, 0) + 1
            named.append((f"{name} {seen[name]}", layer))
    return named


def _layers(trained: Trained, given: Given, image: Floats) -> list[tuple[str, Floats]]:
    """What each layer answers to an image (1, band, y, x)."""
    answers: list[tuple[str, Floats]] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, answer, name=name: answers.append((name, answer.double().numpy()))
        )
        for name, layer in _named(trained.network)
    ]
    trained.answer(image)
    for hook in hooks:
        hook.remove()
    return answers


def _shapes(model: dict[str, Any], bands: int, side: int, classes: int) -> list[Shape]:
    """The shapes of these answers by the settings of the model."""
    shapes: list[Shape] = []
    inputs = bands
    for inputs in model["widths"]:
        shapes.append((1, inputs, side, side))
        side = -(-side // model["pool_px"])
        shapes.append((1, inputs, side, side))
    return [*shapes, *((1, units) for units in (*model["hidden"], classes))]


def _windows(model: dict[str, Any]) -> list[tuple[int, int, int]]:
    pool = model["pool_px"]
    return [(model["kernel_px"], 1, 1), (pool, pool, 1)] * len(model["widths"])


def _weights(trained: Trained) -> list[Floats]:
    """The filters of each convolution, (filter, channel, y, x)."""
    return [
        layer.weight.detach().double().numpy()
        for _, layer in _named(trained.network)
        if isinstance(layer, nn.Conv2d)
    ]


def _difference(trained: Trained, given: Given, image: Floats) -> float:
    """How far a plain loop over the first filters is off the network's first answer, at most."""
    first = next(layer for layer in trained.network.modules() if isinstance(layer, nn.Conv2d))
    assert first.bias is not None
    weight, bias = (each.detach().double().numpy() for each in (first.weight, first.bias))
    with torch.inference_mode():
        normalised = torch.as_tensor(given.normalised(image[None]), dtype=torch.float32)
        answer = first(normalised)[0].double().numpy()
    before = (weight.shape[-1] - 1) // 2
    after = weight.shape[-1] - 1 - before
    mode = "constant" if first.padding_mode == "zeros" else "wrap"
    padded = np.pad(
        normalised[0].double().numpy(), ((0, 0), (before, after), (before, after)), mode=mode
    )  # type: ignore[call-overload]
    looped = np.stack([
        sum(by_hand(band, kernel) for band, kernel in zip(padded, each, strict=True)) + threshold
        for each, threshold in zip(weight, bias, strict=True)
    ])  # fmt: skip
    return float(abs(looped - answer).max())


def _filters(trained: Trained, bands: list[str]) -> list[Picture]:
    """The filters of every convolution; blue is negative, red positive."""
    pictures = []
    for number, weight in enumerate(_weights(trained), start=1):
        of = bands if number == 1 else [f"map {c + 1}" for c in range(weight.shape[1])]
        across = min(len(of), 8)
        chosen = weight[: SHOWN // 2, :across]
        most = float(abs(chosen).max())
        images = list(chosen.reshape(-1, *chosen.shape[2:]))
        titles = [name if row == 0 else "" for row in range(len(chosen)) for name in of[:across]]
        pictures.append(
            picture(
                f"Filters of convolution {number}",
                f"A row a filter ({len(chosen)} of {len(weight)}), a column "
                f"{'a band' if number == 1 else 'a map of the layer before'} ({across} of "
                f"{weight.shape[1]}). Red weights are positive, blue ones negative.",
                lambda images=images, titles=titles, across=across, most=most: tiles(  # type: ignore[misc]
                    images, titles, columns=across, width=0.45 * across, cmap="RdBu_r",
                    vmin=-most, vmax=most,
                ),
            )
        )  # fmt: skip
    return pictures


def _maps(name: str, answer: Floats) -> Picture:
    images = [(each - each.min()) / max(np.ptp(each), 1e-9) for each in answer[:SHOWN]]
    return picture(
        f"Maps after {name}",
        f"{len(images)} of {len(answer)} maps of {_by(answer.shape[1:])} values, each from its "
        "least (dark) to its largest (light).",
        lambda: tiles(images, columns=min(8, len(images)), cmap="viridis", vmin=0, vmax=1),
    )


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape))
