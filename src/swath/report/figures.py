"""The figures of the report, one function each.

To add a figure, write a function here, marked `@registered("figure")` and `@section("…")` with
the section of the page it belongs to (`page.SECTIONS`). It stands on the page in the order of
this module. Its docstring's first line is the title and the rest is the caption. What it asks for
says how often it is drawn:

    draw(results)         once
    draw(results, split)  for each split that something was trained on (of the sections on the
                          data and the splits themselves: for each)
    draw(results, scene)  for each predicted scene

It gives back matplotlib Figures, which the page lays side by side where there is room (one
below another on a telephone), or nothing where the experiment has nothing to show. Colours below
are variables of the page's style sheet, so that they follow the reader's light or dark mode.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import rasterio
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation
from rasterio.crs import CRS
from rasterio.enums import Resampling

from swath.data.card import UNLABELLED
from swath.data.grid import METRES_A_DEGREE
from swath.registry import registered
from swath.study.importance import importance, logarithmic, numeric
from swath.study.results import Experiment, Objective, SceneMap, Scores, Split, Study, Trial

Panels = list[Figure]
Draw = TypeVar("Draw", bound=Callable[..., Panels])

INK, MUTED, RULE, PAPER = "#1d2b36", "#5b6873", "#dde3e8", "#fefefe"
ACCENT, SECOND, THIRD = "#0b6183", "#c08a1e", "#b8475a"
PARTS = {"train": "#3f7fb5", "val": "#dca52f", "test": "#b6455c", "unused": "#a9b3bc"}
RIGHT, WRONG = "#8fa3b3", "#d1495b"
SHADES = LinearSegmentedColormap.from_list("right", [WRONG, SECOND, PARTS["train"]])
"""from wrong to right; its middle can be seen on white, as that of most such maps cannot"""
# colour here -> variable of the page's style sheet
INKS = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    ACCENT: "accent",
    SECOND: "second",
    THIRD: "third",
}

STYLE: Any = {  # its keys are typed one by one in matplotlib
    "figure.dpi": 96,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "image.composite_image": False,  # keeps images at their own resolution in the SVG
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 8.5,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}

WIDTH = 3.6
"""inches of a panel that fills a telephone"""
SCENES_SHOWN = 3
"""predicted scenes drawn for each split"""
SCENES_OUTLINED = 9
"""scenes up to which the patches of each are drawn to scale"""
SAMPLED_PATCHES, SAMPLED_BYTES = 500, 32 << 20
"""training patches at most whose pixels are read for the spectra of the classes"""
FULL_SIDE_PX, SMALL_SIDE_PX = 700, 460
"""longest side of a drawn raster, where there are few of them and where there are many"""
MONITORS = {
    "val/accuracy": "Accuracy", "val/macro_f1": "Macro F1", "val/f1_micro": "Micro F1",
    "val/miou": "Mean IoU", "val/map": "Mean average precision", "val/r2": "R²",
}  # fmt: skip
"""what `task.monitor` may be, as a title"""
SCORES = LinearSegmentedColormap.from_list("scores", ["#d9a441", "#7f9a7c", "#1f7fa6"])
"""from the worst to the best; each stands off from a light and from a dark page"""
NOT_SET = -0.16
"""height of what a trial does not have, where an axis goes from 0 to 1"""
PARAMETERS_SIDE_BY_SIDE, PARAMETERS_ALONE = 10, 6
COUNTED_CLASSES = 12
"""up to this many classes the confusion matrix says its counts"""


def section(name: str) -> Callable[[Draw], Draw]:
    """Say in which section of the page a figure stands."""

    def mark(draw: Draw) -> Draw:
        draw.section = name  # type: ignore[attr-defined]
        return draw

    return mark


# Splits side by side


@registered("figure")
@section("splits")
def comparison(results: Experiment) -> Panels:
    """The same model, judged by each split.

    Filled dots are the model's test scores with their intervals, or with the range of several runs;
    open diamonds are the baseline's.
    A split that leaks between its parts is drawn with a dashed line: its score answers an easier
    question.
    """
    splits = [split for split in results.splits if split.runs]
    if len(splits) < 2 or results.target:
        return []
    names = {
        "macro_ap": "Mean average precision", "overall_accuracy": "Overall accuracy",
        "macro_f1": "Macro F1", "micro_f1": "Micro F1", "miou": "Mean IoU",
    }  # fmt: skip
    known = [key for key in names if key in _scores(splits[0]).measures]
    if results.labels == "several":
        known.remove("overall_accuracy")  # most classes are absent: to say so is easy
    return [_compared(splits, key, names[key]) for key in known]


def _compared(splits: Sequence[Split], key: str, title: str) -> Figure:
    figure, axes = _panel(WIDTH, 0.85 + 0.42 * len(splits))
    for place, split in enumerate(splits):
        scores, baseline = split.scores, split.baseline
        assert scores is not None
        measure, colour = scores.measures[key], THIRD if split.leaky else ACCENT
        if not math.isnan(measure.low):
            axes.plot(
                [100 * measure.low, 100 * measure.high],
                [place, place],
                color=colour,
                linestyle=(0, (2, 1.2)) if split.leaky else "-",
                linewidth=2.4,
            )
        axes.plot(100 * measure.value, place, "o", color=colour, markersize=7)
        axes.annotate(
            f"{100 * measure.value:.1f}",
            (100 * measure.value, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
        if baseline:
            value = 100 * baseline.measures[key].value
            axes.plot(value, place, "D", color=MUTED, markerfacecolor=PAPER, markersize=5)
    axes.set_yticks(
        range(len(splits)),
        [f"{split.name}\n(leaks)" if split.leaky else split.name for split in splits],
    )
    axes.set_ylim(len(splits) - 0.5, -0.7)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.14)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(f"{title}, %")
    return figure


# Training


@registered("figure")
@section("training")
def curves(results: Experiment, split: Split) -> Panels:
    """Training, epoch by epoch.

    Loss on the training and validation parts, on the validation part the measure by which the best
    epoch is chosen, and the learning rate. Each run of the split is drawn; where there is one, a
    dotted line marks its best epoch.
    """
    monitor = f"val/{results.setting('task', 'monitor') or 'accuracy'}"
    loss, loss_axes = _panel(WIDTH, 2.3)
    accuracy, accuracy_axes = _panel(WIDTH, 2.3)
    rate, rate_axes = _panel(WIDTH, 2.3)
    thin = 1.0 if len(split.runs) == 1 else 0.65
    for first, run in enumerate(split.runs):
        epoch = run.metrics["epoch"] + 1  # counted from one, as people do
        label = {} if first else {"train": "train", "val": "validation"}
        lines = (
            (loss_axes, "train/loss", MUTED, label.get("train")),
            (loss_axes, "val/loss", ACCENT, label.get("val")),
            (accuracy_axes, monitor, ACCENT, None),
            (rate_axes, "lr", SECOND, None),
        )
        for axes, column, colour, text in lines:
            if column in run.metrics:
                known = run.metrics[column].notna()
                scale = 100 if column == monitor else 1
                axes.plot(
                    epoch[known],
                    run.metrics.loc[known, column] * scale,
                    color=colour,
                    alpha=thin,
                    label=text,
                )
        best = run.facts.get("best_epoch")
        if best is not None and len(split.runs) == 1:
            for axes in (loss_axes, accuracy_axes):
                axes.axvline(best + 1, color=MUTED, linewidth=0.9, linestyle=":")
    loss_axes.legend(loc="upper right", bbox_to_anchor=(0.94, 1), labelcolor=INK)
    titles = {
        loss_axes: "Loss",
        accuracy_axes: f"{MONITORS.get(monitor, monitor)}, %",
        rate_axes: "Learning rate",
    }
    for axes, title in titles.items():
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    rate_axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return [loss, accuracy, rate]


# Confusion


@registered("figure")
@section("confusion")
def confusion(results: Experiment, split: Split) -> Panels:
    """What was taken for what.

    Each row is a true class and sums to 100 %: the darker a cell, the larger the share of that
    class which was given the column's name. Up to twelve classes the cells hold the counts
    (patches, or pixels in segmentation; k thousand, M million).
    """
    if results.labels == "several" or results.target:
        return []  # what was taken for what is not known of classes that are decided one by one
    scores = _scores(split)
    counts, count = scores.confusion, len(scores.classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    written = count <= COUNTED_CLASSES
    side = WIDTH - 1.1 if count <= 5 else min((0.35 if written else 0.17) * count, 7.0)
    margin = 0.25 + 0.075 * max(len(name) for name in scores.classes)
    figure, axes = _panel(side + margin + 0.3, side + margin + 0.25)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            axes.add_patch(
                Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=ACCENT, alpha=value, lw=0)
            )
        if written and counts[row, column]:
            axes.text(
                column,
                row,
                _short(int(counts[row, column]), int(counts.max())),
                ha="center",
                va="center",
                fontsize=8 if count <= 8 else 7,
                color=PAPER if value > 0.5 else INK,
            )
    small = 8 if written else 6.5
    axes.set_xticks(range(count), scores.classes, rotation=90 if count > 4 else 0, fontsize=small)
    axes.set_yticks(range(count), scores.classes, fontsize=small)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(RULE)
    return [figure]


# Calibration


@registered("figure")
@section("calibration")
def calibration(results: Experiment, split: Split) -> Panels:
    """How often it is right when it is so sure.

    Answers of the test part by their confidence. On the dashed line the confidence can be taken at
    its word: of the answers that are 80 % sure, 80 % are right. Below it the model is too sure of
    itself. Bars show how the answers are spread over the confidences. Where a patch has several
    labels, every class is an answer: of those that are 80 % probable, 80 % are there. The model's
    confidences are those after its temperature, which was fitted to the validation part.
    """
    if results.target:
        return []
    scores = _scores(split)
    several = results.labels == "several"
    labels, right, sure = scores.reliability.T
    known = labels > 0
    figure, axes = _panel(WIDTH, 2.7)
    width = 100 / len(labels)
    axes.bar(
        width * (np.arange(len(labels)) + 0.5), 100 * labels / labels.sum(), 0.9 * width,
        color=MUTED, alpha=0.25, label="share of the answers",
    )  # fmt: skip
    axes.plot([0, 100], [0, 100], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    axes.plot(
        100 * sure[known] / labels[known], 100 * right[known] / labels[known],
        color=ACCENT, marker="o", markersize=4.5, clip_on=False,
        label="there" if several else "right",
    )  # fmt: skip
    error = 100 * scores.measures["calibration_error"].value
    axes.text(2, 96, f"calibration error {error:.1f} %", va="top", color=INK)
    axes.set(xlim=(0, 100), ylim=(0, 102))
    axes.set_xlabel("probability, %" if several else "confidence, %")
    axes.set_ylabel("%")
    _legend_above(axes)
    return [figure]


# Classes


@registered("figure")
@section("classes")
def per_class(results: Experiment, split: Split) -> Panels:
    """Scores of each class.

    The bar is F1; the filled dot is precision (how much of what was called so is so), the open
    one recall (how much of what is so was found); where a patch has several labels, the diamond is
    the average precision over all thresholds. Classes stand from best to worst.
    """
    if results.target:
        return []
    scores = _scores(split)
    table = scores.per_class.sort_values("f1", ascending=False, na_position="last")
    names = [_cut_off(str(name), 32) for name in table.index]
    room = 0.07 * max(max(len(name) for name in names) - 18, 0)
    figure, axes = _panel(WIDTH + 0.5 + room, 0.75 + 0.25 * len(table))
    place = np.arange(len(table))
    axes.barh(place, 100 * table["f1"].fillna(0), height=0.62, color=ACCENT, alpha=0.3, label="F1")
    dot: dict[str, Any] = {
        "linestyle": "",
        "marker": "o",
        "color": ACCENT,
        "markersize": 5.5,
        "clip_on": False,
    }
    axes.plot(100 * table["precision"], place, **dot, label="precision")
    axes.plot(100 * table["recall"], place, **dot, markerfacecolor=PAPER, label="recall")
    if "average_precision" in table:
        more = dot | {"marker": "D", "color": SECOND, "markersize": 4.5}
        axes.plot(100 * table["average_precision"], place, **more, label="average precision")
    axes.set_yticks(place, names)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set(xlim=(0, 102), ylim=(len(table) - 0.5, -0.5))
    axes.set_xlabel("%")
    axes.grid(axis="y", visible=False)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2 if "average_precision" in table else 3,
        borderaxespad=0.2, handlelength=1.2,
    )  # fmt: skip
    return [figure]


@registered("figure")
@section("classes")
def precision_recall(results: Experiment, split: Split) -> Panels:
    """Precision against recall.

    Thin lines are the classes in their colours, the strong one all labels in one ranking, as the
    threshold of the probability falls from left to right; dots stand at the threshold of the
    scores. The area below a line is its average precision. The first run is drawn.
    """
    if results.labels != "several":
        return []
    stored = split.runs[0].predictions()
    truth, probability = results.patches.label.gather(stored["patch"]), stored["confidence"]
    known = truth != UNLABELLED
    figure, axes = _panel(WIDTH, 3.0)
    each = zip(truth.T, probability.T, stored["predicted"].T, known.T, strict=True)
    lines = [
        (there[mine] == 1, sure[mine], said[mine] == 1, colour, 1.0)
        for (there, sure, said, mine), colour in zip(each, results.colours, strict=True)
    ]
    lines.append((truth[known] == 1, probability[known], stored["predicted"][known] == 1, INK, 2.2))
    for there, sure, said, colour, width in lines:
        if not there.any():
            continue
        precision, recall = curve(there, sure)
        axes.plot(
            100 * recall, 100 * precision, color=colour, linewidth=width, drawstyle="steps-pre"
        )
        if said.any():
            right = (there & said).sum()
            axes.plot(100 * right / there.sum(), 100 * right / said.sum(), "o", color=colour,
                      markersize=2.5 + width, clip_on=False)  # fmt: skip
    axes.set(xlim=(0, 101), ylim=(0, 102))
    axes.set_xlabel("recall, %")
    axes.set_ylabel("precision, %")
    return [figure, _legend(results)]


def curve(there: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each probability as the threshold, from the highest down; before
    them the point where nothing is found yet, for the steps to begin at."""
    order = np.argsort(-probability, kind="stable")
    last = np.flatnonzero(np.diff(probability[order], append=np.nan))
    found = np.cumsum(there[order])[last]
    precision = found / (last + 1)
    return np.append(precision[:1], precision), np.append(0.0, found / found[-1])


@registered("figure")
@section("numbers")
def predicted_numbers(results: Experiment, split: Split) -> Panels:
    """What was predicted against what is so, and how far it is off.

    Left, labels of the test part of the first run, darker where there are many; on the dashed line
    they are predicted as they are. Right, the differences: above 0 is too high. The few that lie
    farthest out are left out on the left, and drawn at the border on the right.
    """
    if not results.target:
        return []
    stored = split.runs[0].predictions()
    truth = results.patches.label.gather(stored["patch"])
    known = np.isfinite(truth)
    true, said = truth[known].astype(np.float64), stored["predicted"][known].astype(np.float64)
    if not len(true):
        return []
    few = 0.001 if len(true) > 1000 else 0.0
    low, high = np.quantile(np.concatenate([true, said]), [few, 1 - few])
    against, axes = _panel(WIDTH, WIDTH - 0.4)
    counts, x, y = np.histogram2d(true, said, bins=60, range=[[low, max(high, low + 1e-6)]] * 2)
    shade = colormaps["Blues"](0.15 + 0.85 * np.sqrt(counts.T / counts.max()))
    shade[counts.T == 0] = 0
    axes.imshow(shade, extent=(x[0], x[-1], y[0], y[-1]), origin="lower", interpolation="none")
    axes.plot([low, high], [low, high], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xlabel(_with_unit("true", results))
    axes.set_ylabel(_with_unit("predicted", results))
    axes.set_title(results.target["name"])
    _few_ticks(axes)
    off, off_axes = _panel(WIDTH, WIDTH - 0.4)
    far = float(np.quantile(np.abs(said - true), 0.995)) or 1.0
    off_axes.hist((said - true).clip(-far, far), bins=41, color=ACCENT, alpha=0.6)
    off_axes.axvline(0, color=MUTED, linewidth=1)
    off_axes.set_xlabel(_with_unit("predicted − true", results))
    off_axes.set_ylabel("labels")
    _few_ticks(off_axes)
    return [against, off]


# The data


@registered("figure")
@section("data")
def spectra(results: Experiment, split: Split) -> Panels:
    """What the bands hold, and what tells the classes apart.

    First, the mean of each band over the training part and the range from its 2nd to its 98th
    percentile; then the mean of each class, from a sample of the training patches. Values are as
    stored, against the wavelength where every band has one; no-data does not count.
    """
    spread = split.spread
    if spread is None:
        return []
    dates = int(results.patches.facts.get("dates", 1))
    low, mean, high = (
        np.reshape(values, (dates, -1))
        for values in (spread["quantiles"]["0.02"], spread["mean"], spread["quantiles"]["0.98"])
    )
    figure, axes = _panel(WIDTH + 0.4, 2.6)
    place, order = _band_axis(results, axes, mean.shape[1])
    for date in range(dates):
        label = {} if date else {"range": "2–98 %", "mean": "mean"}
        axes.fill_between(
            place, low[date][order], high[date][order], color=ACCENT, alpha=0.2 / dates, lw=0,
            label=label.get("range"),
        )  # fmt: skip
        axes.plot(
            place, mean[date][order], color=ACCENT, marker="o" if len(place) <= 20 else "",
            markersize=4, alpha=1 if dates == 1 else 0.7, label=label.get("mean"),
        )  # fmt: skip
    axes.set_title(f"Training part{_of_fold(split)}" + (f", {dates} dates" * (dates > 1)))
    axes.legend(loc="best", labelcolor=INK)
    if dates > 1 or results.target:
        return [figure]
    by_class, class_axes = _panel(WIDTH + 0.4, 2.6)
    place, order = _band_axis(results, class_axes, mean.shape[1])
    for values, colour in zip(_class_means(results, split), results.colours, strict=True):
        class_axes.plot(place, values[order], color=colour)
    class_axes.set_title("By class")
    return [figure, by_class, _legend(results)]


def _band_axis(results: Experiment, axes: Axes, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the bands stand along the axis, and their order along it."""
    axes.set_ylabel("stored value")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    wavelengths = np.array(results.wavelengths_nm[:bands])
    if not np.isnan(wavelengths).any():
        axes.set_xlabel("wavelength, nm")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        order = np.argsort(wavelengths, kind="stable")
        return wavelengths[order], order
    names = [str(name).partition("@")[0] for name in results.patches.facts["bands"][:bands]]
    if bands <= 20:
        axes.set_xticks(range(bands), names, rotation=90 if bands > 6 else 0)
        axes.set_xlim(-0.5, bands - 0.5)
    else:
        axes.set_xlabel("band")
    return np.arange(bands), np.arange(bands)


def _class_means(results: Experiment, split: Split) -> np.ndarray:
    """Mean of each channel (class, channel) over a sample of the training patches; nan if none."""
    patches, nodata = results.patches, results.patches.facts.get("nodata")
    parts = split.parts(split.fold)
    train = parts.index[parts == "train"].to_numpy()
    patch_bytes = 4 * math.prod(patches.image.shape[1:])
    most = max(1, min(SAMPLED_PATCHES, SAMPLED_BYTES // patch_bytes))
    chosen = train[np.unique(np.linspace(0, len(train) - 1, most).astype(int))]
    stored = patches.image.gather(chosen)
    known = np.isfinite(stored) if nodata is None else np.isfinite(stored) & (stored != nodata)
    image = np.where(known, stored, 0).astype(np.float64)
    label = patches.label.gather(chosen)
    if results.labels == "several":
        belongs = label.astype(bool).T[..., None, None]
    else:
        at = label if results.segmentation else label[:, None, None]
        belongs = np.stack([at == value for value in range(len(results.classes))])
    # (class, patch, y, x), each 1 along what a label by patch does not tell apart.
    sums = []
    for mine in belongs[:, :, None]:
        counted = known & mine
        count = counted.sum(axis=(0, 2, 3))
        total = (image * mine).sum(axis=(0, 2, 3))
        sums.append(np.where(count, total / np.maximum(count, 1), np.nan))
    return np.array(sums)


# Scores on a map


@registered("figure")
@section("scenes")
def regions(results: Experiment, split: Split) -> Panels:
    """Where on the ground it is right.

    Each square is a block of the ground, coloured by the share of its test labels that are answered
    rightly, or by the error of its numbers, the mean over the runs that tested there. Blocks are
    those of the bootstrap; a block of few labels is right or wrong by chance more than one of many.
    """
    table = split.by_region.dropna(subset=["lon", "lat"])
    block_m = split.runs[0].scores.bootstrap.get("block_m")
    if len(table) < 2 or not block_m:
        return []
    lon, lat = table[["lon", "lat"]].to_numpy().T
    stretch = 1 / max(math.cos(math.radians(float(np.mean(lat)))), 0.1)
    half = np.stack([np.full(len(lat), 1.0), np.cos(np.radians(lat))], axis=1)
    half = block_m / 2 / METRES_A_DEGREE / np.maximum(half, 0.1)[:, ::-1]
    corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    square = np.stack([lon, lat], axis=1)[:, None] + half[:, None] * corner
    wide, high = np.ptp(square.reshape(-1, 2), axis=0)
    figure, axes = _panel(4.1, min(max(3.0 * stretch * high / wide, 2.0), 5.0) + 0.9)
    if results.target:
        value, title = table["rmse"], _with_unit("RMSE", results)
        scale = ScalarMappable(Normalize(0, value.max()), SHADES.reversed())
    else:
        value, title = 100 * table["overall_accuracy"], "right, %"
        scale = ScalarMappable(Normalize(0, 100), SHADES)
    colours = scale.to_rgba(value.to_numpy())
    # Blocks far apart would be too small to be seen: they are drawn with a rim of their colour.
    small = 2 * half[:, 0].max() < 0.02 * wide
    axes.add_collection(
        PolyCollection(
            square, facecolor=colours, edgecolor=colours if small else PAPER,
            linewidth=2.0 if small else 0.3, rasterized=len(table) > 1500,
        )
    )  # fmt: skip
    axes.autoscale()
    axes.set_aspect(stretch)
    axes.set_xlabel("longitude, °")
    axes.set_ylabel("latitude, °")
    _few_ticks(axes)
    bar = figure.colorbar(scale, ax=axes, location="top", aspect=40, pad=0.03)
    bar.set_label(title)
    bar.outline.set_visible(False)
    return [figure]


# The split on a map


@registered("figure")
@section("map")
def footprints(results: Experiment, split: Split) -> Panels:
    """Where the parts of the split lie.

    Each patch has the colour of its part, drawn to scale in the map coordinates of its scene or,
    for data spread over many scenes, as a dot at its longitude and latitude. A scene without a
    georeference is drawn as a plane of its own. Grey patches belong to no part: they keep the
    others apart. Where there are several folds, the one that is named is shown.
    """
    places = results.patches.places
    parts = split.parts(split.fold).reindex(range(len(places))).fillna("unused")
    placed = places[places["epsg"] != 0].assign(part=parts)
    fold = _of_fold(split)
    scenes = placed["scene"].value_counts()
    if len(scenes) > SCENES_OUTLINED and (placed["epsg"] > 0).all():
        return [_scattered(results, parts[placed.index], PARTS, title=fold.strip(", ").title())]
    shown = sorted(scenes.index[:SCENES_OUTLINED])
    return [
        _footprints(placed[placed["scene"] == scene], f"Scene {results.scene(scene)}{fold}")
        for scene in shown
    ]


def _of_fold(split: Split) -> str:
    """Which fold is shown, where there are several."""
    return f", fold {split.fold}" if split.folds > 1 else ""


def _footprints(places: pd.DataFrame, title: str) -> Figure:
    """The patches of one scene, by part."""
    epsg = int(places["epsg"].iloc[0])
    labels, unit, stretch = _map_axes(epsg, float(places["lat"].mean()))
    corners = places[["west", "south", "east", "north"]].to_numpy() * unit
    wide = np.ptp(corners[:, [0, 2]]) or 1.0
    spread = stretch * np.ptp(corners[:, [1, 3]]) / wide
    # Patches far apart would be too small to be seen: they are drawn with a rim of their colour.
    small = np.ptp(corners[:, [0, 2]], axis=1).max() < 0.02 * wide and len(places) < 1500
    figure, axes = _panel(WIDTH, 0.75 + (WIDTH - 0.8) * min(max(spread, 0.3), 1.5))
    for part, colour in PARTS.items():
        chosen = corners[(places["part"] == part).to_numpy()]
        if len(chosen):
            axes.add_collection(
                PolyCollection(
                    chosen[:, [[0, 1], [2, 1], [2, 3], [0, 3]]],
                    facecolor=to_rgba(colour, 0.8),
                    edgecolor=to_rgba(colour, 0.8) if small else "white",
                    linewidth=2.5 if small else 0.3 if len(places) < 1500 else 0,
                    rasterized=len(places) > 1500,
                )
            )
            axes.plot([], [], "s", color=colour, label=f"{part} {len(chosen):,}")
    axes.autoscale()
    axes.set_aspect(stretch)
    axes.set_title(title)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    _legend_above(axes)
    _few_ticks(axes)
    return figure


def _map_axes(epsg: int, latitude: float) -> tuple[tuple[str, str], float, float]:
    """Labels of a map's axes, what its units are multiplied by, and how far y is stretched."""
    if epsg < 0:
        return ("x, m (no georeference)", "y, m"), 1.0, 1.0
    crs = CRS.from_epsg(epsg)
    if crs.is_geographic:
        names = f"longitude, ° (EPSG:{epsg})", "latitude, °"
        return names, 1.0, 1 / max(math.cos(math.radians(latitude)), 0.1)
    return (f"easting, km (EPSG:{epsg})", "northing, km"), crs.linear_units_factor[1] / 1000, 1.0


def _scattered(
    results: Experiment, kinds: pd.Series, colours: dict[str, str], *, title: str = ""
) -> Figure:
    """Dots at longitude and latitude, coloured by kind; index of `kinds`: patch."""
    lon, lat = results.patches.places.loc[kinds.index, ["lon", "lat"]].to_numpy().T
    stretch = 1 / max(math.cos(math.radians(float(np.mean(lat)))), 0.1)
    spread = stretch * (np.ptp(lat) + 1e-6) / (np.ptp(lon) + 1e-6)
    figure, axes = _panel(4.1, min(max(3.4 * spread, 2.0), 5.0) + 0.7)
    size = float(np.clip(9000 / max(len(kinds), 1), 2, 22))
    for kind, colour in colours.items():
        chosen = (kinds == kind).to_numpy()
        if chosen.any():
            axes.scatter(
                lon[chosen],
                lat[chosen],
                s=size,
                color=colour,
                alpha=0.85,
                linewidth=0,
                rasterized=len(kinds) > 1500,
            )
            axes.plot([], [], "o", color=colour, markersize=5, label=f"{kind} {chosen.sum():,}")
    axes.set_aspect(stretch)
    axes.set_title(title)
    axes.set_xlabel("longitude, °")
    axes.set_ylabel("latitude, °")
    _legend_above(axes)
    _few_ticks(axes)
    return figure


# Examples


@registered("figure")
@section("examples")
def examples_wrong(results: Experiment, split: Split) -> Panels:
    """Where the model is surest and wrong.

    Test patches in true colour, from the most confident mistake on, at most two for each pair of
    classes. Above each stands its true class, below it what was predicted and how surely.
    """
    if results.labels != "patch" or results.target:
        return []
    found = _predictions(results, split).query("truth != predicted")
    found = found.sort_values(["confidence", "patch"], ascending=[False, True], kind="stable")
    return _pictures(results, split, found.groupby(["truth", "predicted"]).head(2).head(12))


@registered("figure")
@section("examples")
def examples_right(results: Experiment, split: Split) -> Panels:
    """What the model gets right.

    Test patches in true colour, drawn at random among the right predictions, class by class.
    """
    if results.labels != "patch" or results.target:
        return []
    found = _predictions(results, split).query("truth == predicted")
    found = found.sample(frac=1, random_state=0)
    each = max(1, 12 // max(found["truth"].nunique(), 1))
    chosen = found.groupby("truth").head(each).sort_values("truth").head(12)
    return _pictures(results, split, chosen)


@registered("figure")
@section("examples")
def examples_segmented(results: Experiment, split: Split) -> Panels:
    """Test patches from the worst to the best.

    Image in true colour, truth, and prediction with its share of right pixels. The patches stand
    at even ranks of that share, so nobody picked them. Pixels without a label are left blank.
    """
    if not results.segmentation or results.target:
        return []
    stored = split.runs[0].predictions()
    truth = results.patches.label.gather(stored["patch"])
    labelled = truth != UNLABELLED
    right = ((truth == stored["predicted"]) & labelled).sum((1, 2)) / labelled.sum((1, 2)).clip(1)
    ranked = np.argsort(right, kind="stable")
    chosen = ranked[np.unique(np.linspace(0, len(ranked) - 1, 9).round().astype(int))]
    images = _true_colour(results, split, stored["patch"][chosen])
    panels = []
    for image, index in zip(images, chosen, strict=True):
        figure = Figure(figsize=(WIDTH, 1.42))
        guess = np.where(labelled[index], stored["predicted"][index], UNLABELLED)
        shown = (
            ("image", image),
            ("truth", _painted(results, truth[index])),
            (f"predicted, {100 * right[index]:.0f} %", _painted(results, guess)),
        )
        for place, (title, picture) in enumerate(shown):
            axes = figure.add_axes((place * 0.34, 0.0, 0.32, 0.8))
            _picture(axes, picture)
            axes.set_title(title, fontsize=8, fontweight="normal", color=MUTED, pad=3)
        panels.append(figure)
    return [*panels, _legend(results)]


@registered("figure")
@section("examples")
def examples_several(results: Experiment, split: Split) -> Panels:
    """Test patches from the worst to the best, with all their labels.

    Image in true colour; ✓ marks a class that was found, – one that was missed, + one that is not
    there; the number is the probability that was given to it. The patches stand at even ranks of
    the share of their classes that are right, so nobody picked them.
    """
    if results.labels != "several":
        return []
    stored = split.runs[0].predictions()
    truth, said = results.patches.label.gather(stored["patch"]), stored["predicted"]
    known = truth != UNLABELLED
    right = ((truth == said) & known).sum(axis=1) / known.sum(axis=1).clip(1)
    ranked = np.argsort(right, kind="stable")
    chosen = ranked[np.unique(np.linspace(0, len(ranked) - 1, 9).round().astype(int))]
    images = _true_colour(results, split, stored["patch"][chosen])
    lines = [
        [
            (mark, colour, results.classes[k], float(stored["confidence"][index, k]))
            for mark, colour, where in (
                ("✓", MUTED, (truth[index] == 1) & (said[index] == 1)),
                ("–", THIRD, (truth[index] == 1) & (said[index] == 0)),
                ("+", THIRD, (truth[index] == 0) & (said[index] == 1)),
            )
            for k in np.flatnonzero(where)
        ]
        for index in chosen
    ]
    height = 1.7 + 0.15 * max(len(each) for each in lines)
    panels = []
    for image, each in zip(images, lines, strict=True):
        figure = Figure(figsize=(1.62, height))
        _picture(figure.add_axes((0.02, 1 - 1.6 / height, 0.96, 1.56 / height)), image)
        for row, (mark, colour, name, sure) in enumerate(each):
            figure.text(
                0.02, 1 - (1.7 + 0.15 * row) / height, f"{mark} {_cut_off(name, 20)} {sure:.0%}",
                fontsize=6.5, color=colour, va="center",
            )  # fmt: skip
        panels.append(figure)
    return panels


def _predictions(results: Experiment, split: Split) -> pd.DataFrame:
    """Truth, prediction and confidence of each labelled test patch of the first run."""
    stored = split.runs[0].predictions()
    truth = results.patches.label.gather(stored["patch"])
    table = pd.DataFrame(
        {
            "patch": stored["patch"],
            "truth": truth,
            "predicted": stored["predicted"],
            "confidence": stored["confidence"].astype(np.float32),
        }
    )
    return table[table["truth"] != UNLABELLED]


def _pictures(results: Experiment, split: Split, chosen: pd.DataFrame) -> Panels:
    if chosen.empty:
        return []
    images = _true_colour(results, split, chosen["patch"].to_numpy())
    panels = []
    for image, row in zip(images, chosen.itertuples(), strict=True):
        figure = Figure(figsize=(1.62, 2.0))
        axes = figure.add_axes((0.02, 0.125, 0.96, 0.96 * 1.62 / 2.0))
        _picture(axes, image)
        right = row.truth == row.predicted
        axes.set_title(results.classes[int(row.truth)], fontsize=8.5, pad=3)
        guess = results.classes[int(row.predicted)]
        figure.text(
            0.02,
            0.06,
            f"✓ {row.confidence:.0%} sure" if right else f"→ {guess}, {row.confidence:.0%}",
            fontsize=8 if len(guess) < 15 or right else 7,
            color=MUTED if right else THIRD,
            va="center",
        )
        panels.append(figure)
    return panels


# Predicted maps


@registered("figure")
@section("prediction")
def predicted_map(results: Experiment, scene: SceneMap) -> Panels:
    """The predicted map beside the truth.

    The whole scene, thinned out to fit the page. Wrong pixels are red: strong where a test patch
    lies, which alone counts in the scores, and pale where the model trained or nothing was
    tested. Confidence is the probability of the predicted class, from dark (low) to light (high).
    """
    if results.target:
        return []
    predicted, (height, width) = _raster_of(scene.predicted, _side_px(results))
    shape = predicted.shape
    panels = _true_colours(results, scene, shape, width)
    if scene.truth:
        truth, _ = _raster_of(scene.truth, shape)
        panels.append(_map("Truth", _painted(results, truth), results, width))
    panels.append(_map("Predicted", _painted(results, predicted), results, width))
    if scene.truth:
        tested = _tested(results, scene, (height, width), shape)
        errors = _errors(truth, predicted, tested)
        panels.append(_map("Errors", errors, results, width))
    if scene.confidence:
        sure, _ = _raster_of(scene.confidence, shape)
        panels.append(_map("Confidence", _confidence(sure), results, width))
    return [*panels, _legend(results)]


@registered("figure")
@section("prediction")
def predicted_number_map(results: Experiment, scene: SceneMap) -> Panels:
    """The predicted numbers beside the true ones.

    The whole scene, thinned out to fit the page; both maps have one scale, from their 1st to their
    99th percentile. Differences are blue where too little was predicted and red where too much,
    strong where a test patch lies, which alone counts in the scores, and pale elsewhere.
    """
    if not results.target:
        return []
    predicted, (height, width) = _raster_of(scene.predicted, _side_px(results))
    shape = predicted.shape
    panels = _true_colours(results, scene, shape, width)
    truth = _raster_of(scene.truth, shape)[0] if scene.truth else np.full_like(predicted, np.nan)
    known = np.concatenate([part[np.isfinite(part)] for part in (predicted, truth)])
    if not known.size:
        return []
    low, high = (float(bound) for bound in np.percentile(known, [1, 99]))
    high = max(high, low + 1e-6)
    if scene.truth:
        panels.append(_map("Truth", _shaded(truth, low, high, "viridis"), results, width))
    panels.append(_map("Predicted", _shaded(predicted, low, high, "viridis"), results, width))
    scales = [_scale(_with_unit(results.target["name"], results), low, high, "viridis")]
    off = predicted - truth
    if np.isfinite(off).any():
        far = float(np.nanpercentile(np.abs(off), 99)) or 1e-6
        picture = _shaded(off, -far, far, "RdBu_r")
        picture[~_tested(results, scene, (height, width), shape), 3] //= 3
        panels.append(_map("Differences", picture, results, width))
        scales.append(_scale(_with_unit("predicted − true", results), -far, far, "RdBu_r"))
    return [*panels, *scales]


@registered("figure")
@section("prediction")
def right_and_wrong(results: Experiment, split: Split) -> Panels:
    """Where the model is right and wrong.

    Each test patch at its longitude and latitude.
    """
    if results.labels != "patch" or results.target or any(run.maps for run in split.runs):
        return []
    found = _predictions(results, split).set_index("patch")
    found = found[results.patches.places.loc[found.index, "epsg"] > 0]
    if found.empty:
        return []
    right = found["truth"] == found["predicted"]
    kinds = pd.Series(np.where(right, "right", "wrong"), index=found.index)
    return [_scattered(results, kinds, {"right": RIGHT, "wrong": WRONG})]


def shown_maps(results: Experiment) -> list[SceneMap]:
    """The predicted scenes that are drawn: a few of the first run of each split."""
    return [m for split in results.splits if split.runs for m in split.runs[0].maps[:SCENES_SHOWN]]


def _side_px(results: Experiment) -> int:
    return FULL_SIDE_PX if len(shown_maps(results)) <= 2 else SMALL_SIDE_PX


def _map(title: str, picture: np.ndarray, results: Experiment, width_px: int) -> Figure:
    """A raster with a scale bar; `width_px` is the scene's own width."""
    height = WIDTH * picture.shape[0] / picture.shape[1]
    figure = Figure(figsize=(WIDTH, height + 0.5))
    bottom, full = 0.26 / (height + 0.5), height / (height + 0.5)
    axes = figure.add_axes((0, bottom, 1, full))
    _picture(axes, picture)
    axes.set_title(title, pad=4)
    scene_m = width_px * float(results.patches.facts["gsd_m"])
    bar_m = _round_length(scene_m / 4)
    ruler = figure.add_axes((0, 0, 1, bottom))
    ruler.set(xlim=(0, scene_m), ylim=(0, 1))
    ruler.axis("off")
    ruler.plot([0, bar_m], [0.6, 0.6], color=INK, linewidth=2, solid_capstyle="butt")
    text = f"{bar_m / 1000:g} km" if bar_m >= 1000 else f"{bar_m:g} m"
    ruler.text(bar_m + scene_m * 0.02, 0.6, text, fontsize=8, color=MUTED, va="center")
    return figure


def _round_length(length_m: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ m that is not longer."""
    power = 10 ** math.floor(math.log10(length_m))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length_m))


def _raster_of(
    path: Path, size: int | tuple[int, ...], band: int = 1, *, smooth: bool = False
) -> tuple[np.ndarray, tuple[int, int]]:
    """A band thinned out to a longest side or to a shape (y, x), and the raster's own shape."""
    with rasterio.open(path) as raster:
        if isinstance(size, int):
            thin = max(1.0, max(raster.shape) / size)
            size = tuple(max(1, round(side / thin)) for side in raster.shape)
        how = Resampling.average if smooth else Resampling.nearest
        read: np.ndarray = raster.read(band, out_shape=size, resampling=how)
        return read, raster.shape


def _true_colours(
    results: Experiment, scene: SceneMap, shape: tuple[int, ...], width_px: int
) -> list[Figure]:
    """The panel of the scene itself, where there is a picture of it."""
    if not scene.images:
        return []
    return [_map("True colour", _scene_colour(results, scene, shape), results, width_px)]


def _scene_colour(results: Experiment, scene: SceneMap, shape: tuple[int, ...]) -> np.ndarray:
    """The scene in true colour (y, x, 3); its bands are found by their descriptions."""
    found: dict[str, tuple[Path, int]] = {}
    for path in scene.images:
        with rasterio.open(path) as raster:
            found |= {name: (path, band) for band, name in enumerate(raster.descriptions, start=1)}
    names = [str(results.patches.facts["bands"][channel]) for channel in results.rgb]
    # The picture of a series shows its first date, whose bands have no number there.
    chosen = [found.get(name) or found[name.partition("@")[0]] for name in names]
    image = np.stack([_raster_of(path, shape, band, smooth=True)[0] for path, band in chosen])
    split = next(split for split in results.splits if split.name == scene.split)
    return _stretched(results, split, image[None])[0]


def _tested(
    results: Experiment, scene: SceneMap, full: tuple[int, int], shape: tuple[int, ...]
) -> np.ndarray:
    """Where test patches lie on the thinned raster (y, x)."""
    split = next(split for split in results.splits if split.name == scene.split)
    parts = split.parts(scene.fold)
    patches = parts.index[parts == "test"].to_numpy()
    places = results.patches.places.loc[patches, ["scene", "row", "col"]]
    mine = places["scene"].map(results.scene) == scene.scene
    side = int(results.patches.facts["size_px"])
    tested = np.zeros(shape, dtype=bool)
    for row, column in places.loc[mine, ["row", "col"]].to_numpy():
        top, bottom = (round(y * shape[0] / full[0]) for y in (row, row + side))
        left, right = (round(x * shape[1] / full[1]) for x in (column, column + side))
        tested[top:bottom, left:right] = True
    return tested


def _errors(truth: np.ndarray, predicted: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Wrong pixels in red, right ones in grey, paler outside of the tested ones (y, x, 4)."""
    known = (truth != UNLABELLED) & (predicted != UNLABELLED)
    wrong = known & (truth != predicted)
    picture = np.zeros((*truth.shape, 4), dtype=np.uint8)
    for where, colour, alpha in (
        (known & ~tested, RIGHT, 0.2),
        (known & tested, RIGHT, 0.6),
        (wrong & ~tested, WRONG, 0.35),
        (wrong & tested, WRONG, 1.0),
    ):
        picture[where] = (255 * np.array(to_rgba(colour, alpha))).astype(np.uint8)
    return picture


def _shaded(values: np.ndarray, low: float, high: float, shades: str) -> np.ndarray:
    """Numbers in shades between two bounds (y, x, 4); NaN is transparent."""
    share = (np.nan_to_num(values, nan=low) - low) / (high - low)
    picture = np.asarray(colormaps[shades](share.clip(0, 1), bytes=True))
    picture[np.isnan(values)] = 0
    return picture


def _scale(title: str, low: float, high: float, shades: str) -> Figure:
    """Which shade stands for which number."""
    figure = Figure(figsize=(WIDTH, 0.75))
    axes = figure.add_axes((0.03, 0.42, 0.94, 0.2))
    shade = colormaps[shades](np.linspace(0, 1, 256), bytes=True)[None]
    axes.imshow(shade, extent=(low, high, 0, 1), aspect="auto", interpolation="none")
    axes.grid(False)
    axes.set_title(title, pad=4)
    _few_ticks(axes)
    axes.set_yticks([])
    return figure


def _confidence(percent: np.ndarray) -> np.ndarray:
    picture = colormaps["cividis"](percent / 100, bytes=True)
    picture[percent == UNLABELLED] = 0
    return np.asarray(picture)


# Study


@registered("figure")
@section("study")
def trials(results: Experiment) -> Panels:
    """The trials, epoch by epoch, and what they cost.

    Each line is a trial, and ends where it was stopped; a dot at the end of each rung is its score
    by then, that of its best epoch. A cross marks where one failed. The winner is drawn strongly.
    Right, the score at the highest rung that each reached, by the training time until then; larger
    dots got further.
    """
    study = results.study
    if study is None or not study.scored:
        return []
    timed = [trial for trial in study.scored if math.isfinite(trial.seconds)]
    sought = [objective.name for objective in study.objectives]
    costs = [_cost(study, timed)] if timed and "seconds" not in sought else []
    return [_learning(study), *costs]


def _learning(study: Study) -> Figure:
    figure, axes = _panel(2 * WIDTH - 0.2, 2.9)
    scale, label = objective(study.objectives[0])
    ends = sorted({rung.epochs for trial in study.trials for rung in trial.rungs})
    for trial in study.trials:
        strong, rungs = trial is study.winner, sorted(trial.rungs, key=lambda rung: rung.epochs)
        look: dict[str, Any] = {
            "color": ACCENT if strong else MUTED,
            "alpha": 1 if strong else 0.5,
            "zorder": 3 if strong else 2,
        }
        scored = {rung.epochs: rung.scores[0] for rung in rungs if rung.scores}
        line = dict(enumerate(trial.curve, start=1)) or scored
        axes.plot(
            list(line), [scale * value for value in line.values()],
            linewidth=2.4 if strong else 1.1, **look,
        )  # fmt: skip
        axes.plot(
            list(scored), [scale * value for value in scored.values()],
            linestyle="", marker="o", markersize=5.5 if strong else 3.5, **look,
        )  # fmt: skip
        if trial.state == "failed" and line:
            axes.plot(
                max(line), scale * line[max(line)], "x", color=THIRD, markersize=6, zorder=4,
                markeredgewidth=1.6,
            )  # fmt: skip
    axes.set_xticks(ends)
    axes.set_xlabel("epochs")
    axes.set_title(label)
    return figure


def _cost(study: Study, timed: Sequence[Trial]) -> Figure:
    figure, axes = _panel(WIDTH, 2.9)
    _dots(axes, study, timed, [trial.seconds for trial in timed])
    if logarithmic([max(trial.seconds, 1e-3) for trial in timed]):
        _by_magnitude(axes)
    axes.set_xlabel("training time, s")
    axes.set_title(objective(study.objectives[0])[1])
    return figure


@registered("figure")
@section("study")
def objectives(results: Experiment) -> Panels:
    """One objective against the others.

    Each dot is a trial at the highest rung that it reached. The line joins the trials that no
    other beats in all objectives: what is better than one of them in one objective is worse in
    another. The winner is drawn strongly.
    """
    study = results.study
    if study is None or not study.scored:
        return []
    return [_against(study, other) for other in range(1, len(study.objectives))]


def _against(study: Study, other: int) -> Figure:
    figure, axes = _panel(WIDTH + 0.4, 2.9)
    known = [trial for trial in study.scored if math.isfinite(trial.score(other))]
    scale, label = objective(study.objectives[other])
    first = objective(study.objectives[0])
    places = [scale * trial.score(other) for trial in known]
    # Of more than two objectives the front is a surface, and no line joins it.
    if len(study.objectives) == 2:
        front = sorted(
            (scale * trial.score(other), first[0] * trial.score())
            for trial in known
            if trial.number in study.front
        )
        axes.plot(*zip(*front, strict=True), color=ACCENT, linewidth=1.2) if front else None
    _dots(axes, study, known, places)
    if places and logarithmic(places):
        _by_magnitude(axes)
    axes.set_xlabel(label)
    axes.set_title(first[1])
    return figure


@registered("figure")
@section("study")
def parameter_importance(results: Experiment) -> Panels:
    """Which parameters matter.

    How much of the variation of the score on the first rung each parameter explains by itself, as
    a random forest that was fitted to the trials tells it (fANOVA, Hutter et al. 2014); what is
    missing to 100 % is what parameters do together. That a parameter does not apply counts as one
    of its values. Of a few tens of trials it is an indication, no measurement.
    """
    shares = importance(results.study) if results.study else {}
    if not shares:
        return []
    figure, axes = _panel(WIDTH + 0.5, 0.7 + 0.27 * len(shares))
    places = range(len(shares))
    axes.barh(places, [100 * share for share in shares.values()], height=0.62, color=ACCENT)
    for place, share in zip(places, shares.values(), strict=True):
        axes.annotate(
            f"{100 * share:.0f}", (100 * share, place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(places, [_cut_off(name, 32) for name in shares])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set(xlim=(0, 105), ylim=(len(shares) - 0.5, -0.5))
    axes.set_xlabel("of the variation of the score, %")
    axes.grid(axis="y", visible=False)
    return [figure]


@registered("figure")
@section("study")
def trials_side_by_side(results: Experiment) -> Panels:
    """Every trial through all its parameters.

    Each line is a trial, coloured by its score at the highest rung that it reached; the winner is
    drawn strongly, and what has no score is dotted. The better end of a score's axis is its upper
    one. A line that passes below an axis belongs to a trial that does not have this parameter.
    Shown are at most ten parameters, the most important first where their importance is known.
    """
    study = results.study
    if study is None or not study.scored or not study.varied:
        return []
    shown = [*_most_important(study)[:PARAMETERS_SIDE_BY_SIDE]]
    tried = [trial for trial in study.trials if trial.state != "skipped" and trial.params]
    drawn = [_Axis.of_parameter(tried, name) for name in shown]
    drawn += [_Axis.of_score(study, tried, at) for at in reversed(range(len(study.objectives)))]
    figure, axes = _panel(max(3 * WIDTH - 0.1, 0.4 + 1.05 * len(drawn)), 3.3)
    best, worst = _best_and_worst(study)
    for number, trial in enumerate(tried):
        strong, score = trial is study.winner, trial.score()
        heights = [axis.heights[number] for axis in drawn]
        colour: Any = THIRD
        if math.isfinite(score):
            share = (score - worst) / (best - worst) if best != worst else 1.0
            colour = SCORES(share) if not strong else ACCENT
        axes.plot(
            range(len(drawn)), heights, color=colour, alpha=1 if strong else 0.8,
            linewidth=3 if strong else 1.2, zorder=3 if strong else 2,
            linestyle="-" if math.isfinite(score) else ":",
            marker="o" if strong else "", markersize=5,
        )  # fmt: skip
    paper = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    lowest = NOT_SET if any(axis.lacking for axis in drawn) else 0.0
    for place, axis in enumerate(drawn):
        axes.plot([place, place], [0, 1], color=MUTED, linewidth=0.9, zorder=1)
        axes.text(place, 1.07, axis.title, ha="center", va="bottom", fontsize=8, fontweight="bold")
        for height, word in axis.ticks:
            axes.text(
                place - 0.05, height, word, ha="right", va="center", fontsize=7.5, color=INK,
                bbox=paper, zorder=5,
            )  # fmt: skip
        if axis.lacking:
            axes.text(
                place, NOT_SET - 0.04, "not set", ha="center", va="top", fontsize=7.5, color=MUTED
            )
    axes.set(xlim=(-0.75, len(drawn) - 0.85), ylim=(lowest - 0.1, 1.06))
    axes.axis("off")
    scale, label = objective(study.objectives[0])
    shades = ScalarMappable(Normalize(scale * worst, scale * best), SCORES)
    bar = figure.colorbar(shades, ax=axes, fraction=0.025, pad=0.01, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.set_label(label)
    if best < worst:
        bar.ax.invert_yaxis()
    return [figure]


@dataclass(frozen=True)
class _Axis:
    """One axis of the lines: where each trial is, from 0 to 1, and what is written along it."""

    title: str
    heights: list[float]
    """below 0 where a trial lacks the parameter, nan where it has no score"""
    ticks: list[tuple[float, str]]
    lacking: bool = False

    @staticmethod
    def of_parameter(trials: Sequence[Trial], name: str) -> _Axis:
        known = [trial.params[name] for trial in trials if name in trial.params]
        if numeric(known):
            place = math.log if logarithmic(known) else float
            low, high = place(min(known)), place(max(known))
            ends = {value: (place(value) - low) / (high - low) for value in known}
            ticks = [(ends[value], _written(value)) for value in _apart(ends)]
        else:
            words = sorted({as_word(value) for value in known})
            ends = {word: (at + 0.5) / len(words) for at, word in enumerate(words)}
            known = [as_word(value) for value in known]
            ticks = [(height, _cut_off(word, 14)) for word, height in ends.items()]
        here = iter(known)
        heights = [ends[next(here)] if name in trial.params else NOT_SET for trial in trials]
        return _Axis(_in_two_lines(name), heights, ticks, NOT_SET in heights)

    @staticmethod
    def of_score(study: Study, trials: Sequence[Trial], at: int) -> _Axis:
        sought = study.objectives[at]
        scores = [sought.sign * trial.score(at) for trial in trials]
        known = [score for score in scores if math.isfinite(score)]
        low, high = min(known, default=0.0), max(known, default=0.0)
        span = high - low or 1.0
        scale, label = objective(sought)
        ticks = [
            ((value - low) / span, _written(sought.sign * scale * value))
            for value in sorted({low, high})
        ]
        return _Axis(_in_two_lines(label), [(s - low) / span for s in scores], ticks)


def _apart(heights: dict[Any, float]) -> list[Any]:
    """The values at both ends of an axis, and others that are far enough from those before."""
    shown: list[Any] = []
    for value in sorted(heights, key=lambda value: heights[value]):
        if not shown or heights[value] - heights[shown[-1]] >= 0.12:
            shown.append(value)
    last = max(heights, key=lambda value: heights[value])
    return shown if last in shown else [*shown[:-1], last]


def _written(value: float) -> str:
    """A number in three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _in_two_lines(name: str) -> str:
    """The section of a key above its last part."""
    first, dot, last = name.rpartition(".")
    return f"{_cut_off(first, 16)}{dot}\n{_cut_off(last, 16)}" if dot else _cut_off(name, 20)


@registered("figure")
@section("study")
def parameters(results: Experiment) -> Panels:
    """What each parameter did.

    The score at the highest rung that each trial reached, by parameter; larger dots got further.
    Shown are at most six parameters, the most important first where their importance is known.
    """
    study = results.study
    if study is None or not study.scored:
        return []
    return [_parameter(study, name) for name in _most_important(study)[:PARAMETERS_ALONE]]


def _parameter(study: Study, name: str) -> Figure:
    figure, axes = _panel(WIDTH, 2.5)
    known = [trial for trial in study.scored if name in trial.params]
    values = [trial.params[name] for trial in known]
    if numeric(values):
        place = [float(value) for value in values]
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        words = sorted({as_word(value) for value in values})
        place = [float(words.index(as_word(value))) for value in values]
        axes.set_xticks(range(len(words)), [_cut_off(word, 14) for word in words])
        axes.set_xlim(-0.5, len(words) - 0.5)
    _dots(axes, study, known, place)
    if numeric(values) and logarithmic(place):
        _by_magnitude(axes)
    axes.set_title(name)
    axes.set_ylabel(objective(study.objectives[0])[1])
    return figure


def _dots(axes: Axes, study: Study, shown: Sequence[Trial], places: Sequence[float]) -> None:
    """A dot for each trial at its first objective; larger ones got further."""
    scale, _ = objective(study.objectives[0])
    for trial, place in sorted(zip(shown, places, strict=True), key=lambda t: t[0] is study.winner):
        strong = trial is study.winner
        axes.scatter(
            place, scale * trial.score(), s=(46 if strong else 18) + 14 * (len(trial.rungs) - 1),
            color=ACCENT if strong else MUTED, alpha=1 if strong else 0.6, linewidth=0,
            zorder=3 if strong else 2,
        )  # fmt: skip


def _by_magnitude(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _most_important(study: Study) -> list[str]:
    """The varied parameters, by importance where it is known and in their order elsewhere."""
    found = importance(study)
    return sorted(study.varied, key=lambda name: -found.get(name, 0.0))


def _best_and_worst(study: Study) -> tuple[float, float]:
    scores = [trial.score() for trial in study.scored]
    ends = (max(scores), min(scores))
    return ends if study.objectives[0].sign > 0 else ends[::-1]


def as_word(value: Any) -> str:
    """A parameter's value that is no number, as it stands in a configuration."""
    return value if isinstance(value, str) else json.dumps(value)


def objective(sought: Objective) -> tuple[float, str]:
    """By what to multiply the scores of an objective, and what to call them."""
    plain = {"seconds": "training time, s", "parameters": "parameters"}
    if sought.name in plain:
        return 1.0, plain[sought.name]
    if any(word in sought.name for word in ("loss", "rmse", "mae")):
        return 1.0, sought.name
    return 100.0, f"{sought.name}, %"


# Drawing


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _few_ticks(axes: Axes) -> None:
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(plain)


def _legend_above(axes: Axes) -> None:
    title_in = 0.22 if axes.get_title("left") else 0.0
    above_title = ScaledTranslation(0, title_in, axes.figure.dpi_scale_trans)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        bbox_transform=axes.transAxes + above_title,
        ncols=2,
        borderaxespad=0.2,
        handletextpad=0.3,
        columnspacing=1.2,
        labelcolor=INK,
    )


def _picture(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="none", aspect="auto")
    axes.set_axis_off()


def _legend(results: Experiment) -> Figure:
    """The classes and their colours."""
    count = len(results.classes)
    columns = 2 if max(len(name) for name in results.classes) <= 20 else 1
    rows = math.ceil(count / columns)
    height = 0.3 + 0.235 * rows
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    axes.text(0, 0.12, "Classes", fontsize=9, fontweight="bold", va="center")
    for index, (name, colour) in enumerate(zip(results.classes, results.colours, strict=True)):
        left = WIDTH / columns * (index // rows)
        middle = 0.4 + 0.235 * (index % rows)
        axes.add_patch(Rectangle((left, middle - 0.075), 0.2, 0.15, color=colour, lw=0))
        axes.text(left + 0.28, middle, _cut_off(name, 46), fontsize=8.5, va="center")
    return figure


def _with_unit(what: str, results: Experiment) -> str:
    return f"{what}, {results.unit}" if results.unit else what


def _cut_off(name: str, most: int) -> str:
    """A name that would not leave room for the drawing, in so many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _painted(results: Experiment, label: np.ndarray) -> np.ndarray:
    """Labels in their classes' colours (y, x, 4); what has none is transparent."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for index, colour in enumerate(results.colours):
        table[index] = (*(round(255 * part) for part in to_rgb(colour)), 255)
    return np.asarray(table[label])


def _true_colour(results: Experiment, split: Split, patch: np.ndarray) -> np.ndarray:
    """Patches in true colour (patch, y, x, 3), all stretched alike."""
    return _stretched(results, split, results.patches.image.gather(patch)[:, results.rgb])


def _stretched(results: Experiment, split: Split, image: np.ndarray) -> np.ndarray:
    """The bands of a picture (patch, 3, y, x) as bytes (patch, y, x, 3); no-data is black.

    From the 2nd to the 98th percentile of each band, of the training part where it is known and
    of the picture itself elsewhere.
    """
    image, nodata = image.astype(np.float32), results.patches.facts.get("nodata")
    known = np.isfinite(image) if nodata is None else np.isfinite(image) & (image != nodata)
    if split.spread:
        shares = split.spread["quantiles"]
        bounds = [[shares[share][channel] for share in ("0.02", "0.98")] for channel in results.rgb]
    else:
        values = (image[:, band][known[:, band]] for band in range(image.shape[1]))
        bounds = [np.percentile(some, [2, 98]) if some.size else [0, 1] for some in values]
    low, high = np.array(bounds, np.float32).T[:, None, :, None, None]
    scaled = np.clip((np.where(known, image, low) - low) / np.maximum(high - low, 1e-6), 0, 1)
    return np.asarray((255 * scaled**0.85).round().astype(np.uint8).transpose(0, 2, 3, 1))


def _scores(split: Split) -> Scores:
    assert split.scores is not None  # figures are drawn for splits that have runs
    return split.scores


def _short(count: int, most: int) -> str:
    """A count in at most five characters, in the unit that suits the largest of its figure."""
    if most < 10_000 or count < 1000:
        return str(count)
    value, unit = (count / 1e6, "M") if count >= 1_000_000 else (count / 1e3, "k")
    return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
