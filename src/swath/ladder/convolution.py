"""Step 8: convolution, by a plain loop and by the platform; padding and receptive field."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.signal import convolve2d
from torch.nn import functional as F

from swath.data.landscape import draw_class_map, draw_reflectance
from swath.errors import ConfigError
from swath.ladder.images import tiles
from swath.ladder.lesson import Claim, Lesson, Table, at_least, equals, picture
from swath.models.receptive import output_side, receptive_field
from swath.registry import Count, Whole, registered
from swath.report.figures import ACCENT, WIDTH

Floats = NDArray[np.float64]

# The lecture's example.
IMAGE = ("11100", "01110", "00111", "00110", "01100")
FILTER = ("101", "010", "101")
ANSWER = ((4, 3, 4), (2, 4, 3), (2, 3, 4))
FILTERS = {
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "edge": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    "strong edge": ((1, 1, 1), (1, -8, 1), (1, 1, 1)),
}
LANDSCAPE_PX = 128
"""side of what a patch is cut from: the least that can be drawn"""
# Kernel, stride and dilation of each layer.
STACKS: dict[str, list[tuple[int, int, int]]] = {
    "3 × 3, twice": [(3, 1, 1)] * 2,
    "3 × 3, five times": [(3, 1, 1)] * 5,
    "3 × 3 and pooling by 2, twice": [(3, 1, 1), (2, 2, 1)] * 2,
    "3 × 3, dilated by 1, 2 and 4": [(3, 1, 1), (3, 1, 2), (3, 1, 4)],
    "7 × 7 with stride 2, then 3 × 3": [(7, 2, 1), (3, 1, 1)],
}


@registered("lesson")
def convolution(*, seed: Whole = 0, patch_px: Count = 64) -> Lesson:
    """What a convolution computes, and what it does to an image of a satellite.

    Args:
        seed: of the landscape.
        patch_px: side of the piece of it that is filtered.

    Raises:
        ConfigError: the piece is smaller than a few filters, or larger than the landscape.
    """
    if not 16 <= patch_px <= LANDSCAPE_PX:
        raise ConfigError(
            f"{patch_px} is no side of a piece of {LANDSCAPE_PX} px", where="lesson.patch_px",
            mend=f"give 16 to {LANDSCAPE_PX}",
        )  # fmt: skip
    image, kernel = (_digits(rows) for rows in (IMAGE, FILTER))
    looped, found = by_hand(image, kernel), convolved(image, kernel)
    rng = np.random.default_rng(seed)
    ground = draw_class_map(rng, LANDSCAPE_PX)
    near_infrared = draw_reflectance(rng, ground)[0][-1] / 1e4
    classes, patch = (each[:patch_px, :patch_px] for each in (ground, near_infrared))
    filtered = {name: wrapped(patch, np.array(rows, float)) for name, rows in FILTERS.items()}
    border, inside = _borders(classes)
    crossing = {name: float(abs(each[border]).mean() / abs(each[inside]).mean())
                for name, each in filtered.items()}  # fmt: skip
    drawn = rng.standard_normal((9, 11)), rng.standard_normal((3, 3))
    turned = abs(convolve2d(*drawn, "valid") - by_hand(drawn[0], drawn[1][::-1, ::-1])).max()
    sides = _sides()
    claims = [
        equals("the lecture's feature map begins with", float(looped[0, 0]), 4),
        equals("its values that are not the lecture's", float((looped != ANSWER).sum()), 0),
        equals("a plain loop and the platform's convolution: largest difference",
               float(abs(looped - found).max()), 0),
        equals("a convolution is this sum with its filter turned: largest difference",
               round(float(turned), 12), 0),
        *_sums(patch, filtered),
        at_least("edge: answer on borders of classes, as a multiple of that within them",
                 crossing["edge"], 1.3),
        at_least("strong edge: likewise", crossing["strong edge"], 1.3),
        at_least("strong edge: mean answer, as a multiple of edge's",
                 float(abs(filtered["strong edge"]).mean() / abs(filtered["edge"]).mean()), 1.5),
        equals("sides of answers that the formula does not give",
               float(sum(said != got for *_, said, got in sides)), 0),
        equals("a padding of (k − 1)/2 keeps the side: kernels of 1, 3, 5, 7 that do not",
               float(sum(output_side(32, k, padding=k // 2) != 32 for k in (1, 3, 5, 7))), 0),
    ]  # fmt: skip
    seen = {name: _seen(layers) for name, layers in STACKS.items()}
    claims += [
        equals(f"receptive field of {name}", float(sum(seen[name] > 0)),
               receptive_field(layers), unit=" px")
        for name, layers in STACKS.items()
    ]  # fmt: skip
    claims.append(
        equals("weights of two 3 × 3 filters, as a share of one 5 × 5 that sees as much",
               2 * _weights(3) / _weights(5), 18 / 25)
    )  # fmt: skip
    return Lesson(
        question="What does a convolution compute, and how far does it see?",
        told=[
            "A filter is laid on the image at every place; what lies over each other is multiplied "
            "and added up: S(i, j) = Σ I(i + m, j + n) K(m, n). That is all. The same few weights "
            "answer everywhere, so that what is found in one place is found in any other.",
            "Strictly this is a cross-correlation; a convolution turns the filter by 180° before. "
            "Networks learn their filters, so that it makes no difference, and the lecture's "
            "filter is the same when turned.",
            "An image of side n gives one of ⌊(n + 2p − d(k − 1) − 1)/s⌋ + 1, with padding p, "
            "kernel k, dilation d and stride s. A unit after several layers sees "
            "1 + Σ (k − 1)·d·(product of the strides before it) pixels along each axis.",
        ],
        claims=claims,
        pictures=[
            picture(
                "The lecture's example",
                "The sum of the products under the filter, which lies first on the upper left.",
                lambda: _numbered({"image": image, "filter": kernel, "feature map": looped}),
            ),
            picture(
                "Filters on a drawn satellite patch",
                f"{patch_px} × {patch_px} pixels of 10 m in the near infrared (synthetic). Sharpen "
                "adds to a pixel by how much it differs from its neighbours; the edge filters "
                "give this difference alone, grey where there is none.",
                lambda: tiles(
                    [_stretched(each) for each in (patch, *filtered.values())],
                    ["near infrared", *filtered], columns=2, cmap="gray", vmin=0, vmax=1,
                ),
            ),
            picture(
                "Receptive fields",
                "How much the pixels of one row change a single unit: its gradient, with all "
                "weights 1, as a share of the largest. The field is where it is not 0.",
                lambda: _fields({name: seen[name] for name in list(STACKS)[1:4]}),
            ),
        ],
        tables=[
            Table(
                "The side of a convolution's answer, as torch gives it",
                ["image", "kernel", "padding", "stride", "by the formula", "found"],
                [[f"{n} px", str(k), str(p), str(s), str(said), str(got)]
                 for n, k, p, s, said, got in sides if n == 32 and k in (3, 5) and p < 3 and s < 3],
            )
        ],
        sources=[
            "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document "
            "recognition. Proceedings of the IEEE 86 (11), 1998. doi:10.1109/5.726791",
            "Dumoulin, Visin: A guide to convolution arithmetic for deep learning, 2016. "
            "arXiv:1603.07285",
        ],
    )  # fmt: skip


def by_hand(image: Floats, kernel: Floats) -> Floats:
    """The sum of the products under a kernel at each place where it lies within an image."""
    tall, wide = kernel.shape
    answer = np.zeros((image.shape[0] - tall + 1, image.shape[1] - wide + 1))
    for i, j in product(*map(range, answer.shape)):
        for m, n in product(range(tall), range(wide)):
            answer[i, j] += image[i + m, j + n] * kernel[m, n]
    return answer


def convolved(image: Floats, kernel: Floats) -> Floats:
    """The same by torch."""
    found: Floats = F.conv2d(torch.tensor(image)[None, None], torch.tensor(kernel)[None, None])[
        0, 0
    ].numpy()
    return found


def wrapped(image: Floats, kernel: Floats) -> Floats:
    """The answer at every place of an image that goes on at its opposite side."""
    return convolved(np.pad(image, kernel.shape[0] // 2, mode="wrap"), kernel)


def _digits(rows: tuple[str, ...]) -> Floats:
    return np.array([[float(digit) for digit in row] for row in rows])


def _sums(patch: Floats, filtered: dict[str, Floats]) -> list[Claim]:
    """On an image without borders, the mean of the answer is the mean times the sum of weights."""
    return [
        equals(f"{name}: mean of the answer, as a share of the image's",
               round(float(each.mean() / patch.mean()), 12) + 0.0,
               float(np.sum(FILTERS[name])))
        for name, each in filtered.items()
    ]  # fmt: skip


def _borders(classes: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels with a neighbour (up, down, left, right) of another class, and those without."""
    other = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            other |= np.roll(classes, step, axis) != classes
    return other, ~other


def _sides() -> list[tuple[int, int, int, int, int, int]]:
    """Side, kernel, padding, stride, then the answer's side by the formula and as torch has it."""
    rows = []
    for n, k, p, s in product((5, 16, 31, 32), (1, 2, 3, 5, 7), (0, 1, 2, 3), (1, 2, 3)):
        if k > n + 2 * p:
            continue
        got = F.conv2d(torch.zeros(1, 1, n, n), torch.zeros(1, 1, k, k), stride=s, padding=p)
        rows.append((n, k, p, s, output_side(n, k, padding=p, stride=s), got.shape[-1]))
    return rows


def _seen(layers: list[tuple[int, int, int]], side: int = 65) -> Floats:
    """How much each pixel of a row changes one unit after layers whose weights are all 1."""
    image = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    answer = image
    for kernel, stride, dilation in layers:
        ones = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
        answer = F.conv2d(answer, ones, stride=stride, dilation=dilation)
    middle = answer.shape[-1] // 2
    (gradient,) = torch.autograd.grad(answer[0, 0, middle, middle], image)
    row: Floats = gradient[0, 0].sum(dim=0).numpy()
    return row / row.max()


def _weights(side: int, channels: int = 8) -> int:
    """Weights of a convolution between as many channels."""
    return torch.nn.Conv2d(channels, channels, side, bias=False).weight.numel()


def _numbered(grids: dict[str, Floats]) -> Figure:
    """Grids of numbers side by side, their squares of one size."""
    figure = Figure(figsize=(WIDTH, 1.75), layout="constrained")
    wide = [values.shape[1] for values in grids.values()]
    row = figure.subplots(1, len(grids), width_ratios=wide)
    for axes, (title, values) in zip(row, grids.items(), strict=True):
        axes.imshow(values, cmap="Blues", vmin=0, vmax=6)
        axes.set_axis_off()
        axes.set_title(title)
        for (y, x), value in np.ndenumerate(values):
            # Black on pale blue: the colours of the squares do not follow the page's mode.
            axes.text(x, y, f"{value:g}", ha="center", va="center", color="#101010")
    return figure


def _stretched(values: Floats) -> Floats:
    """From 0 to 1; of an answer that has both signs alike, 0 becomes the middle."""
    low, high = np.percentile(values, [1, 99])
    if low < 0 < high and abs(values.mean()) < 1e-9:
        low, high = -max(-low, high), max(-low, high)
    stretched: Floats = ((values - low) / (high - low)).clip(0, 1)
    return stretched


def _fields(rows: dict[str, Floats]) -> list[Figure]:
    figures = []
    for name, row in rows.items():
        figure = Figure(figsize=(0.93 * WIDTH, 1.7), layout="constrained")
        axes = figure.subplots()
        reached = np.flatnonzero(row)
        axes.bar(np.arange(len(row)) - int(reached[0]), row, width=0.85, color=ACCENT)
        axes.set(xlim=(-3, len(reached) + 2), ylim=(0, 1.05), ylabel="gradient",
                 xlabel="pixel, from the first that is seen")  # fmt: skip
        axes.set_title(f"{name}: {len(reached)} px")
        figures.append(figure)
    return figures
