"""Step 6: what was done before networks: standardise, extract or select features, classify."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from swath.errors import ConfigError
from swath.ladder.lesson import Floats, Given, Lesson, Table, at_least, at_most, equals, picture
from swath.learn import shallow
from swath.registry import Count, Positive, Share, registered
from swath.report.figures import ACCENT, INK, MUTED, SECOND, THIRD, WIDTH

LEARNERS: dict[str, shallow.Learner] = {
    "logistic regression": "logistic", "k nearest neighbours": "knn",
    "random forest": "forest", "support vector machine": "svm",
}  # fmt: skip
WAYS: tuple[tuple[str, bool, shallow.Reduction], ...] = (
    ("raw values", False, "none"), ("principal components", False, "pca"),
    ("selected values", False, "select"), ("hand-made features", True, "none"),
)  # fmt: skip
MARKS = ((ACCENT, "o"), (SECOND, "s"), (THIRD, "D"), (INK, "^"))
DRAWN, CHOSEN = 90, 20
"""Patches, and values of noise that are selected, where noise alone is to be learnt."""


@registered("lesson")
def pipeline(
    given: Given,
    *,
    keep: Count = 2,
    neighbours: Count = 5,
    factor: Positive = 1024.0,
    noise: Count = 2000,
    least: Share = 0.9,
    nearest_error: Share = 0.0,
) -> Lesson:
    """Shallow learners by hand-made steps against a network on raw values.

    Args:
        given: patches with a label each; their training part fits all, their test part judges.
        keep: principal components, or selected values, that are left.
        neighbours: of the k nearest neighbours.
        factor: by which the unit of the first band is changed; a power of two changes no digit.
        noise: values a patch of pure noise, among which a leak finds some that seem to tell.
        least: accuracy that standardised logistic regression and the network reach.
        nearest_error: published test error of the nearest neighbours on raw values; 0 is none.
    """
    values, labels = given.values, given.labels
    train, test = (np.flatnonzero(given.parts == part) for part in ("train", "test"))
    raw, made = shallow.raw_values(values), shallow.hand_made(values)
    if keep > raw.shape[1]:
        raise ConfigError(
            f"is {keep}, a patch has {raw.shape[1]} values", where="lesson.keep", mend="lower it"
        )

    def answers(features: Floats, learner: shallow.Learner, **how: bool | str) -> NDArray[np.int64]:
        fitted = shallow.pipeline(learner, keep=keep, neighbours=neighbours, **how)  # type: ignore[arg-type]
        fitted.fit(features[train], labels[train])
        said: NDArray[np.int64] = fitted.predict(features[test])
        return said

    def right(said: NDArray[np.int64]) -> float:
        return float(np.mean(said == labels[test]))

    reached = {
        (name, way): right(answers(made if by_hand else raw, learner, reduction=reduction))
        for name, learner in LEARNERS.items()
        for way, by_hand, reduction in WAYS
    }
    network = right(given.trained().classes(values[test]))
    best = max(reached, key=lambda which: reached[which])

    unit = raw.copy()
    unit[:, : values[0, 0].size] *= factor  # the first band's values lie first

    def differ(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
        return float(np.mean(one != other))

    bare = answers(raw, "knn", standardise=False)
    forest = [answers(raw, "forest", standardise=each) for each in (True, False)]
    inside, outside = _selected_from_noise(labels[train], noise)
    pixels = {name: _pixels(values[which]) for name, which in
              (("training", train), ("all", np.arange(len(labels))))}  # fmt: skip
    off = {name: _off(given, found) for name, found in pixels.items()}
    chance = float(np.bincount(labels).max() / len(labels))
    components = shallow.pipeline("logistic", reduction="pca", keep=keep)
    components.fit(raw[train], labels[train])
    claims = [
        at_most("statistics of the platform against a scaler fitted on the training part: largest "
                "difference in standard deviations", off["training"], 1e-5),
        at_least("the same against one fitted on all patches", off["all"], 1e-3),
        at_least(f"k nearest neighbours, unit of a band changed by {factor:g}: answers that change",
                 differ(bare, answers(unit, "knn", standardise=False)), 0.05),
        equals("the same, standardised: answers that change",
               differ(answers(raw, "knn"), answers(unit, "knn")), 0.0),
        at_most("random forest, standardised or not: answers that differ", differ(*forest), 0.01),
        at_most("noise, features selected within the pipeline: accuracy", inside, chance + 0.15),
        at_least("noise, features selected beforehand on all: seems better by", outside - inside,
                 0.15),
        at_least("logistic regression on raw values: accuracy",
                 reached["logistic regression", "raw values"], least),
        at_least("a network on raw values: accuracy", network, least),
        at_least("the network minus the best shallow learner: accuracy",
                 network - reached[best], -0.05),
    ]  # fmt: skip
    if nearest_error:
        claims.append(
            equals("k nearest neighbours on raw values, not standardised: error as published",
                   1 - right(bare), nearest_error, within=0.005)
        )  # fmt: skip
    explained = components["reduce"].explained_variance_ratio_
    spread = np.sqrt(network * (1 - network) / len(test))
    return Lesson(
        question="What was done before networks learnt their features, and is a network better?",
        told=[
            "The classical pipeline has three steps. Standardise: (x − mean) / standard deviation, "
            "both of the training part. Reduce: extract new features from all (principal "
            "components) or select some of those there are. Classify: by a learner of few "
            "decisions. What an analyst knows comes in as features that are made by hand, such as "
            "the normalised difference (b − a) / (b + a) of two bands.",
            "Distances mean nothing between units: without standardising, the neighbours are those "
            f"of the band with the largest numbers; in another unit {claims[2].value:.0%} of the "
            "answers are others. A tree compares a value with a threshold, so it does not care.",
            "A pipeline is one thing, fitted on the training part alone. Where features are "
            f"selected on all patches first, even noise seems to tell the classes apart: "
            f"{outside:.0%} right in cross-validation, where {inside:.0%} is the truth.",
            f"Of {len(test)} test patches the network has {network:.1%} right (± {spread:.1%}), "
            f"the best shallow learner {reached[best]:.1%} ({best[0]}, {best[1]}).",
        ],
        claims=claims,
        pictures=[
            picture(
                f"The first two of {keep} principal components" if keep > 2 else
                "Two principal components" if keep == 2 else "One principal component",
                f"The test part, coloured by class, along directions that were found in the "
                f"training part; the {keep} hold {explained.sum():.1%} of its variance.",
                lambda: _scattered(given, components[:-1].transform(raw[test]), labels[test]),
            ),
            picture(
                "Shallow learners, and a network",
                f"Accuracy on {len(test)} test patches; the band around the network is one "
                "standard error.",
                lambda: _compared(reached, network, float(spread)),
            ),
        ],
        tables=[
            Table(
                "Accuracy on the test part, all standardised",
                ["learner", *(way for way, _, _ in WAYS)],
                [[name, *(f"{reached[name, way]:.3f}" for way, _, _ in WAYS)] for name in LEARNERS]
                + [["network", f"{network:.3f}", *["–"] * (len(WAYS) - 1)]],
            )
        ],
        sources=[
            "Hastie, Tibshirani, Friedman: The Elements of Statistical Learning. 2nd edition, "
            "Springer, 2009: section 7.10.2 on selecting beforehand, 13.3.2 on the nearest "
            "neighbours of Landsat.",
            str(given.patches.facts["citation"]),
        ],
    )  # fmt: skip


def _selected_from_noise(labels: NDArray[np.int64], noise: int) -> tuple[float, float]:
    """Cross-validated accuracy on values that know nothing of the labels.

    Returns:
        Selected in each fold's training part as a step of the pipeline; selected on all beforehand.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(labels))[:DRAWN]
    drawn, own = rng.standard_normal((len(chosen), noise)), labels[chosen]
    keep = min(CHOSEN, noise)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    whole = shallow.pipeline("knn", reduction="select", keep=keep)
    seen = SelectKBest(f_classif, k=keep).fit_transform(drawn, own)
    return (
        float(cross_val_score(whole, drawn, own, cv=folds).mean()),
        float(cross_val_score(clone(whole), seen, own, cv=folds).mean()),
    )


def _pixels(values: Floats) -> Floats:
    """(patch, band, y, x) -> (pixel, band)."""
    return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])


def _off(given: Given, pixels: Floats) -> float:
    """How far the platform's means are from those of these pixels, in standard deviations."""
    scaler = StandardScaler().fit(pixels)
    mean, std = (np.asarray(given.statistics[name]) for name in ("mean", "std"))
    apart = np.abs(mean - scaler.mean_) / std, np.abs(std / scaler.scale_ - 1)
    return float(np.max(apart))


def _scattered(given: Given, at: Floats, labels: NDArray[np.int64]) -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, 1.1 * WIDTH), layout="constrained")
    axes = figure.subplots()
    second = at[:, 1] if at.shape[1] > 1 else np.zeros(len(at))
    facts = given.patches.facts
    for number, (name, colour) in enumerate(zip(facts["classes"], facts["colours"], strict=True)):
        own = labels == number
        size = 16 if len(at) < 500 else 6
        axes.scatter(at[own, 0], second[own], s=size, color=colour, label=name, alpha=0.85)
    axes.set(xlabel="1st component (standard deviations)", ylabel="2nd component")
    figure.legend(loc="outside lower center", ncols=3, handletextpad=0.2)
    return figure


def _compared(reached: dict[tuple[str, str], float], network: float, spread: float) -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, 1.1 * WIDTH), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(network - spread, network + spread, color=MUTED, alpha=0.18, linewidth=0)
    axes.axvline(network, color=MUTED, label="network on raw values")
    for (way, _, _), (colour, mark) in zip(WAYS, MARKS, strict=True):
        found = [reached[name, way] for name in LEARNERS]
        shift = 0.13 * (MARKS.index((colour, mark)) - 1.5)
        axes.scatter(found, np.arange(len(LEARNERS)) + shift, color=colour, marker=mark, s=26,
                     label=way, zorder=3)  # fmt: skip
    axes.set_yticks(range(len(LEARNERS)), [name.replace(" ", "\n", 1) for name in LEARNERS])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on the test part")
    figure.legend(loc="outside lower center", ncols=2, handletextpad=0.2)
    return figure
