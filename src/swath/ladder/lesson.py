"""What a lesson is: a question, pictures, and claims of theory that are checked by numbers.

To add a step to the ladder, write a function in a module of this folder, marked
`@registered("lesson")`, and a `conf/experiment/ladder/<name>.yaml` that names it. Its keyword
arguments are the settings of the section `lesson`; its positional ones say what it is given:

    given    the experiment's patch set, and its training (`Given`)
    study    the trials of the experiment's study, and its final (`Study`)
    counts   what reduce jobs have made of a dataset's scenes (`swath.ladder.counting.Counts`)
    card     the card of the experiment's dataset (`swath.data.card.Card`), which it may draw
             itself (`swath.ladder.drawn`)

A function without them needs no data. It gives back a `Lesson`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swath.data.patchset import PatchSet
from swath.report.figures import STYLE
from swath.report.page import as_panel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Claim:
    """What theory says, and what was found."""

    text: str
    expected: str
    found: str
    holds: bool
    value: float
    """What was found, as a number."""


@dataclass(frozen=True)
class Picture:
    """A drawing of one or several panels, side by side where there is room."""

    title: str
    caption: str
    panels: list[dict[str, Any]]
    """svg, width_px, least_px"""


@dataclass(frozen=True)
class Table:
    """Numbers beside the pictures; a row's first cell is its name."""

    caption: str
    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Lesson:
    """A step of the ladder, as it stands on its page."""

    question: str
    told: list[str]
    """Paragraphs: what theory says, and what is to be seen."""
    claims: list[Claim]
    pictures: list[Picture]
    tables: list[Table] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """Works that are cited."""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def equals(
    text: str, value: float, expected: float, *, within: float = 0.0, unit: str = ""
) -> Claim:
    """A claim that a number is another one, to within so much."""
    margin = f" ± {within:g}" if within else ""
    wanted = f"{expected:.12g}{margin}{unit}"
    return Claim(text, wanted, f"{value:.12g}{unit}", abs(value - expected) <= within, value)


def at_most(text: str, value: float, most: float, *, unit: str = "", digits: int = 4) -> Claim:
    """A claim that a number is not above another one."""
    return Claim(text, f"≤ {most:g}{unit}", f"{value:.{digits}g}{unit}", value <= most, value)


def at_least(text: str, value: float, least: float, *, unit: str = "", digits: int = 4) -> Claim:
    """A claim that a number is not below another one."""
    return Claim(text, f"≥ {least:g}{unit}", f"{value:.{digits}g}{unit}", value >= least, value)


def picture(title: str, caption: str, draw: Callable[[], Figure | Sequence[Figure]]) -> Picture:
    """A picture in the style of the report.

    Args:
        title: a few words.
        caption: what is to be seen, with the legend of what is not labelled.
        draw: makes its figures, one a panel; colours that are those of
            `swath.report.figures.INKS` follow the reader's light or dark mode.
    """
    with matplotlib.rc_context(STYLE):
        drawn = draw()
        figures = [drawn] if isinstance(drawn, Figure) else drawn
        panels = [
            as_panel(figure, alt=title, salt=f"{title} {number}")
            for number, figure in enumerate(figures)
        ]
    return Picture(
        title,
        caption,
        [{"svg": str(p.svg), "width_px": p.width_px, "least_px": p.least_px} for p in panels],
    )


@dataclass(frozen=True)
class Trained:
    """A network that the experiment's trainer has trained."""

    network: Any
    """torch.nn.Module, in evaluation mode."""
    history: pd.DataFrame
    """A row an epoch: epoch, train/loss, val/loss, val/accuracy, lr, seconds, …"""
    answer: Callable[[Floats], Floats]
    """Stored values (patch, band, y, x) -> logits (patch, class[, y, x]); normalises them first."""
    model: Path | None = None
    """The file of the network; None of one that was followed."""

    def classes(self, values: Floats) -> NDArray[np.int64]:
        """The class of each patch of stored values (patch, band, y, x)."""
        found: NDArray[np.int64] = self.answer(values).argmax(axis=1)
        return found


@dataclass(frozen=True)
class Given:
    """The experiment's patch set and split, and its training."""

    patches: PatchSet
    parts: NDArray[np.str_]
    """The part of each patch: train, val, test or unused."""
    statistics: dict[str, Any]
    """`mean` and `std` of each band over the training part."""
    sections: dict[str, Any]
    """model, task, optim, trainer, complete."""
    train: Callable[[dict[str, Any], int, int | None], Trained]
    follow: Callable[[dict[str, Any], int, Sequence[int]], list[Trained]]

    @property
    def values(self) -> Floats:
        """The stored values of all patches, (patch, band, y, x)."""
        which = np.arange(len(self.parts))
        return np.asarray(self.patches.image.gather(which), dtype=np.float64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class number of each patch."""
        found: NDArray[np.int64] = self.patches.contents.argmax(axis=1).astype(np.int64)
        return found

    def normalised(self, values: Floats) -> Floats:
        """Stored values ([patch, ]band, y, x) as a network sees them."""
        mean, std = (np.array(self.statistics[key])[:, None, None] for key in ("mean", "std"))
        found: Floats = (values - mean) / std
        return found

    def accuracy(self, trained: Trained, which: NDArray[np.bool_] | None = None) -> float:
        """The share of the patches, or of some of them, that a network has right."""
        chosen = slice(None) if which is None else which
        return float(np.mean(trained.classes(self.values[chosen]) == self.labels[chosen]))

    def trained(
        self, params: dict[str, Any] | None = None, *, seed: int = 0, patches: int | None = None
    ) -> Trained:
        """Train the experiment's network to its end, with other values for some keys.

        A training that was done before, by this lesson or as a trial of the experiment's study, is
        taken from `state/`.

        Args:
            params: key of the configuration -> value, as {"model.hidden": [4]}.
            seed: of weights, order and augmentation, and of the draw of the patches.
            patches: how many of the training part are drawn to be learnt from, normalised as all
                are; None takes all.
        """
        return self.train(params or {}, seed, patches)

    def followed(
        self, epochs: Sequence[int], params: dict[str, Any] | None = None, *, seed: int = 0
    ) -> list[Trained]:
        """The network of one training after each of some epochs, rising; 0 is untrained."""
        return self.follow(params or {}, seed, epochs)


@dataclass(frozen=True)
class Study:
    """A study of the experiment."""

    trials: list[dict[str, Any]]
    """As `trials.json` has them: number, params, scores, curve, reason, …"""
    final: list[dict[str, Any]]
    """A row for each run of the final: number (of the trial), fold, seed, scores, curve, …"""
