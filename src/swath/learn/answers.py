"""What is said of patches, by a network or a forest: one form for each kind of label."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5
"""Of several labels, a class that is more probable than this is said to be there."""


def are_several(facts: dict[str, Any]) -> bool:
    """Whether a model of these facts says of each class by itself whether it is there."""
    return bool(facts["data"].get("labels") == "several")


class Answer(NamedTuple):
    """What is said of patches, and how surely."""

    predicted: NDArray[Any]
    """The most likely class, uint8 (patch) or (patch, y, x); of several labels 0 or 1 by class,
    uint8 (patch, class); of a target its number, float32 (patch) or (patch, y, x)."""
    confidence: NDArray[Any] | None
    """The probability of that class, float16; of several labels that each class is there, float32
    (patch, class); None of a target."""


def decided(probability: NDArray[np.float32]) -> Answer:
    """The answer of several labels from the probability that each class is there (patch, class)."""
    return Answer((probability > THRESHOLD).astype(np.uint8), probability)


def joined(answers: list[Answer]) -> Answer:
    """The answers to one batch after another as one."""
    predicted, confidence = zip(*answers, strict=True)
    sure = [part for part in confidence if part is not None]
    return Answer(np.concatenate(predicted), np.concatenate(sure) if sure else None)
