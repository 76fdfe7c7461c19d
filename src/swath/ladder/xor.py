"""Step 2: what one unit cannot do, and four can."""

from __future__ import annotations

from typing import Any

from swath.ladder.lesson import Given, Lesson, Trained, at_least, at_most, picture
from swath.ladder.plane import boundaries
from swath.registry import Activation, Count, registered

ALONE: list[Activation] = ["linear", "sigmoid", "tanh", "relu", "softplus", "leaky_relu", "elu"]


@registered("lesson")
def xor(given: Given, *, hidden: Count = 4, seeds: Count = 2) -> Lesson:
    """Points whose class is whether the signs of their coordinates agree.

    Args:
        given: the points, of which each stands for the four corners of a rectangle.
        hidden: units of the hidden layer that does what a perceptron cannot.
        seeds: trainings of each network, of which the best counts.
    """

    def best(**params: Any) -> tuple[float, Trained]:
        keys = {f"model.{key}": value for key, value in params.items()}
        tried = [given.trained(keys, seed=seed) for seed in range(seeds)]
        return max(((given.accuracy(each), each) for each in tried), key=lambda one: one[0])

    # One unit, and after it two weights that only say which class is on which side.
    alone = {name: best(hidden=[1], activation=name) for name in ALONE}
    reached, deeper = best(hidden=[hidden], activation="tanh")
    claims = [
        at_most(f"one unit with {name}: accuracy", accuracy, 0.75)
        for name, (accuracy, _) in alone.items()
    ]
    claims.append(at_least(f"a hidden layer of {hidden} units with tanh: accuracy", reached, 1.0))
    panels = [
        (f"one unit, {name}", alone[name][1].answer) for name in ("linear", "sigmoid", "relu")
    ]
    panels.append((f"{hidden} hidden units, tanh", deeper.answer))
    return Lesson(
        question="Can a perceptron learn “one or the other, but not both”?",
        told=[
            "It cannot. A perceptron parts the plane by a straight line, whatever its activation: "
            "g(wᵀx + b) is constant wherever wᵀx is, and a rising g moves the threshold alone. "
            "Of the four corners of a rectangle around the origin a line has at most three on "
            "their right sides, and these points are all corners of such rectangles; so no "
            "perceptron has more than 75 % of them right.",
            f"A hidden layer draws several lines, and the unit after it combines them: {hidden} "
            "units are enough for every point.",
        ],
        claims=claims,
        pictures=[
            picture(
                "One line, and several",
                f"All {len(given.parts)} points, what the network answers between them, and its "
                f"boundary; of {seeds} trainings of each network the best.",
                lambda: boundaries(given.values, given.labels, panels, columns=4),
            )
        ],
        sources=[
            "Minsky, Papert: Perceptrons. MIT Press, 1969.",
            "Rumelhart, Hinton, Williams: Learning representations by back-propagating errors. "
            "Nature 323, 1986. doi:10.1038/323533a0",
        ],
    )
