"""Step 13: what each invention does by itself, over seeds, by a study of the sweep."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from swath.errors import ConfigError
from swath.ladder.lesson import Claim, Given, Lesson, Picture, Study, Table, at_least, picture
from swath.registry import Count, registered
from swath.report.figures import ACCENT, INK, SECOND, WIDTH

Floats = NDArray[np.float64]
Params = dict[str, Any]

SURE = 0.95
"""Of the intervals, Student's over the seeds."""


@registered("lesson")
def ablation(
    given: Given,
    study: Study,
    *,
    question: str,
    told: list[str],
    gains: list[dict[str, Any]],
    sizes: list[Count] = [],  # noqa: B006
) -> Lesson:
    """What each of some settings gains in the loss that the study seeks, with its interval.

    Args:
        given: the points.
        study: a grid whose final has trained each of its trials with several seeds.
        question: what is asked.
        told: paragraphs.
        gains: name of an invention, and the values of the trials with it (`better`) and without
            (`worse`): the loss of the first is to be below that of the second.
        sizes: numbers of points to learn from, rising, for the empirical and the true loss; none
            leaves them out.

    Raises:
        ConfigError: no trial has the values that are named, or there are fewer than two seeds.
    """
    found = {str(gain["name"]): _gain(study, gain) for gain in gains}
    claims = [
        Claim(
            f"{name}: loss without it less loss with it",
            f"> 0 ({SURE:.0%} interval)",
            f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})",
            mean - half > 0,
            mean,
        )
        for name, (mean, half) in found.items()
    ]

    def draw() -> Figure:
        figure, axes = _panel("loss without it less loss with it", "", len(found))
        for place, (mean, half) in enumerate(found.values()):
            axes.errorbar(mean, place, xerr=half, fmt="o", color=ACCENT, capsize=3)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.5, -0.5)
        return figure

    pictures = [
        picture(
            "What each gains",
            f"Mean over {len(_seeds(study))} seeds, each with and without it, and its {SURE:.0%} "
            "interval (Student's). Right of the line it helps.",
            draw,
        )
    ]
    if sizes:
        more, drawn = _by_size(given, list(sizes), _seeds(study)[:3])
        claims += more
        pictures.append(drawn)
    return Lesson(
        question=question,
        told=told,
        claims=claims,
        pictures=pictures,
        tables=[_table(study)],
        sources=[
            "Ioffe, Szegedy: Batch Normalization. ICML 2015. arXiv:1502.03167",
            "Srivastava et al.: Dropout. JMLR 15, 2014.",
            "He, Zhang, Ren, Sun: Deep Residual Learning. CVPR 2016. arXiv:1512.03385",
            "Vapnik: Principles of Risk Minimization for Learning Theory. NIPS 1991.",
        ],
    )


def _seeds(study: Study) -> list[int]:
    return sorted({row["seed"] for row in study.final})


def _gain(study: Study, gain: dict[str, Any]) -> tuple[float, float]:
    """By how much a loss is lower over the seeds, and half of the interval of it."""
    sides = []
    for side in ("worse", "better"):
        wanted: Params = gain[side]
        trials = [
            trial["number"] for trial in study.trials
            if wanted.items() <= trial["params"].items()
        ]  # fmt: skip
        if not trials:
            raise ConfigError(
                f"no trial has {wanted}", where=f"lesson.gains: {gain['name']}",
                mend="name values of sweep.space",
            )  # fmt: skip
        sides.append(np.array([_loss(study, trials, seed) for seed in _seeds(study)]))
    return _interval(sides[0] - sides[1])


def _loss(study: Study, trials: list[int], seed: int) -> float:
    """The mean loss of some trials with one seed."""
    rows = [row for row in study.final if row["number"] in trials and row["seed"] == seed]
    return float(np.mean([row["scores"][0] if row["scores"] else np.nan for row in rows]))


def _interval(values: Floats) -> tuple[float, float]:
    """Mean, and half of Student's interval."""
    if len(values) < 2:
        raise ConfigError(
            "one seed has no interval", where="sweep.final.seeds", mend="give two or more"
        )
    quantile = stats.t.ppf((1 + SURE) / 2, len(values) - 1)
    return float(values.mean()), float(quantile * values.std(ddof=1) / len(values) ** 0.5)


def _table(study: Study) -> Table:
    """All trials: what they set, and their loss."""
    rows = []
    for trial in study.trials:
        losses = [_loss(study, [trial["number"]], seed) for seed in _seeds(study)]
        mean, half = _interval(np.array(losses))
        rows.append((mean, [_named(trial["params"]), f"{mean:.3f} ± {half:.3f}"]))
    return Table(
        f"All trials by their loss, with {SURE:.0%} intervals over the seeds",
        ["Trial", "Loss"],
        [row for _, row in sorted(rows, key=lambda one: one[0])],
    )


def _named(params: Params) -> str:
    shown = {True: "yes", False: "no"}
    return ", ".join(
        f"{key.rpartition('.')[2] if key != 'optim.name' else 'optim'}: "
        f"{shown[value] if isinstance(value, bool) else value}"
        for key, value in params.items()
    )


def _by_size(given: Given, sizes: list[int], seeds: list[int]) -> tuple[list[Claim], Picture]:
    """The empirical and the true loss by the number of points."""
    validated = given.parts == "val"
    values, labels = given.values[validated], given.labels[validated]
    both = np.empty((2, len(sizes), len(seeds)))
    for at, size in enumerate(sizes):
        for n, seed in enumerate(seeds):
            trained = given.trained(seed=seed, patches=size)
            both[:, at, n] = (
                trained.history["train/loss"].iloc[-1],
                _entropy(trained.answer(values), labels),
            )
    gaps = (both[1] - both[0]).mean(axis=1)

    def draw() -> Figure:
        figure, axes = _panel("points to learn from", "cross entropy", 6)
        for losses, name, colour in zip(both, ("empirical", "true"), (ACCENT, SECOND), strict=True):
            axes.plot(sizes, losses, "o", color=colour, alpha=0.35, markersize=3)
            axes.plot(sizes, losses.mean(axis=1), "o-", color=colour, label=name)
        axes.set(xscale="log", ylim=(0, None), xticks=sizes, xticklabels=[f"{n}" for n in sizes])
        axes.minorticks_off()
        axes.legend()
        return figure

    claims = [
        at_least(f"true loss over empirical loss with {sizes[0]} points",
                 float(both[1, 0].mean() / both[0, 0].mean()), 2),
        at_least(f"gap with {sizes[0]} points over that with {sizes[-1]}",
                 float(gaps[0] / gaps[-1]), 3),
    ]  # fmt: skip
    caption = (
        f"After training on some of the points, without any regularisation: the loss on them, and "
        f"on {int(validated.sum())} others; pale dots are seeds."
    )
    return claims, picture("The empirical and the true loss", caption, draw)


def _entropy(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The mean cross entropy."""
    whole = np.logaddexp.reduce(logits, axis=1)
    return float((whole - logits[np.arange(len(labels)), labels]).mean())


def _panel(x: str, y: str, rows: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(1.4 * WIDTH, 0.8 + 0.35 * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes
