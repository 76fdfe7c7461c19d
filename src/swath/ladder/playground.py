"""Step 5: networks of the plane, in a study of the sweep; `playground.html` is for the hands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from swath.errors import RunError
from swath.ladder.lesson import Given, Lesson, Study, Table, at_least, at_most, picture
from swath.ladder.plane import boundaries
from swath.registry import Count, Share, registered
from swath.report.figures import ACCENT, MUTED, SECOND, WIDTH

Params = dict[str, Any]


@registered("lesson")
def playground(
    given: Given,
    study: Study,
    *,
    linear_at_least: Share = 0.0,
    linear_at_most: Share = 1.0,
    best_at_least: Share = 0.9,
    panels: Count = 6,
) -> Lesson:
    """What a study finds on points of the plane, beside what no hidden layer can do.

    Args:
        given: the points.
        study: of the network and its training.
        linear_at_least: share of the points that a network without a hidden layer has right.
        linear_at_most: likewise, as its boundary is a line.
        best_at_least: share of the points that it has not seen which the best trial has right.
        panels: epochs at which the boundary of the best trial is drawn.

    Raises:
        RunError: no trial was trained to its end.
    """
    ranked = sorted(
        (trial for trial in study.trials if _curve(trial)),
        # As far as a trial has come, then how good it was there.
        key=lambda trial: (-len(_curve(trial)), -_curve(trial)[-1], trial["number"]),
    )
    if not ranked:
        raise RunError("no trial has a score", where="study", mend="see its trials.json for why")
    best = ranked[0]["params"]
    last = len(_curve(ranked[0]))
    linear = given.trained({"model.hidden": []})
    epochs = sorted({0, *np.geomspace(1, last, panels - 1).round().astype(int).tolist()})
    followed = given.followed(epochs, {**best, "trainer.epochs": last})
    unseen = given.parts != "train"
    claims = [
        at_most("no hidden layer: accuracy on all points", given.accuracy(linear),
                linear_at_most),
        at_least("the best trial: accuracy on points it has not seen",
                 given.accuracy(followed[-1], unseen), best_at_least),
    ]  # fmt: skip
    if linear_at_least:
        claims.insert(
            1,
            at_least("no hidden layer: accuracy on all points is enough", claims[0].value,
                     linear_at_least),
        )  # fmt: skip
    drawn = [
        (f"epoch {epoch}" if epoch else "untrained", each.answer)
        for epoch, each in zip(epochs, followed, strict=True)
    ]

    def curves() -> Figure:
        figure = Figure(figsize=(1.3 * WIDTH, WIDTH), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel="epoch", ylabel="validation accuracy")
        for trial in reversed(ranked):
            colour, wide = (SECOND, 2.2) if trial is ranked[0] else (MUTED, 0.9)
            if trial is not ranked[0] and not trial["params"]["model.hidden"]:
                colour, wide = ACCENT, 1.5
            at = np.arange(1, len(_curve(trial)) + 1)
            axes.plot(at, _curve(trial), color=colour, linewidth=wide)
        return figure

    return Lesson(
        question="Which network, trained how, tells the two classes apart?",
        told=[
            "Depth, width, activation, learning rate, weight decay and noise are drawn at random; "
            "the better half of the trials goes on to the end. Noise is added to the points in "
            "training, so that a network cannot cling to each of them.",
            "A network without a hidden layer parts the plane by a line, which is enough for two "
            "normal distributions, and for neither a ring, nor XOR, nor spirals. These need hidden "
            "units, and the spiral many, whose lines are bent into its arms. In playground.html, "
            "beside the page of the whole ladder, you can turn all of these yourself.",
        ],
        claims=claims,
        pictures=[
            picture(
                "The best trial, by epochs",
                f"{_named(best)}. All {len(given.parts)} points, of which it learns from "
                f"{int((given.parts == 'train').sum())}.",
                lambda: boundaries(given.values, given.labels, drawn, columns=2),
            ),
            picture(
                "All trials",
                "Validation accuracy by epoch: the best in ochre, those without a hidden layer in "
                "blue. Lines that end halfway are trials that did not go on.",
                curves,
            ),
        ],
        tables=[
            Table(
                "All trials by their validation accuracy",
                ["Trial", "Accuracy", "Epochs"],
                [
                    [_named(trial["params"]), f"{_curve(trial)[-1]:.3f}", str(len(_curve(trial)))]
                    for trial in ranked
                ],
            )
        ],
        sources=["Smilkov, Carter, Sculley, Viégas, Wattenberg: Direct-Manipulation Visualization "
                 "of Deep Networks. 2017. arXiv:1708.03788"],
    )  # fmt: skip


def _curve(trial: Params) -> list[float]:
    """Validation accuracy by epoch, up to the last rung that the trial has ended well."""
    done = [rung["curve"] for rung in trial["rungs"] if rung["scores"]]
    return list(done[-1]) if done else []


def _named(params: Params) -> str:
    hidden = params["model.hidden"]
    layers = " and ".join(map(str, hidden)) + " hidden units" if hidden else "no hidden layer"
    activation = f", {params['model.activation']}" if hidden else ""
    return (
        f"{layers}{activation}, rate {params['optim.lr']:.2g}, "
        f"decay {params['optim.weight_decay']:g}, noise {params['trainer.augment.noise']:g}"
    )
