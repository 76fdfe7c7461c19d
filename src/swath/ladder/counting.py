"""Map, shuffle, reduce: sums by key, of which each job sees a part alone.

A map job turns its part of the input into pairs (key, sums), and deals them to the reduce jobs by
the hash of the key. So all pairs of a key come together in one reduce job, which adds them up.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.scene import Scene, is_labelled
from swath.errors import DataError
from swath.files import read_json

Pair = tuple[str, list[int]]
"""A key, and numbers that are added up."""
MARK = "_SUCCESS"
"""A file that is written when all parts of an output are there: without it, some may be missing."""


@dataclass(frozen=True)
class Counts:
    """What the reduce jobs have made."""

    parts: list[dict[str, list[int]]]
    """Of each reduce job: key -> sums."""
    taken: list[list[int]]
    """Of each reduce job: pairs that it took from each map job."""
    late_s: float
    """Seconds by which the mark is younger than the youngest part."""


def descriptions() -> dict[str, str]:
    """What each class of the embedded landscape is, in words."""
    text = Path(__file__).with_name("landscape.yaml").read_text(encoding="utf-8")
    found: dict[str, str] = yaml.safe_load(text)
    return found


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[a-z]+", text.lower())


def pairs_of_words(texts: Iterable[str]) -> Iterator[Pair]:
    """A pair for each word: once more it has been seen."""
    for text in texts:
        for word in words_of(text):
            yield f"word {word}", [1]


def pairs_of_scene(card: Card, scene: Scene) -> Iterator[Pair]:
    """For each class and band of a scene: labelled pixels, sum and sum of squares of their values.

    Summed within the scene already (a combiner), since whole numbers add up in any order.
    """
    grid = scene.grid
    image = scene.read(0, 0, grid.height, grid.width, "nearest")
    assert scene.labels is not None
    labels = scene.labels.read(0, grid.height, 0, grid.width)
    known = is_labelled(labels)
    if card.nodata is not None:
        known &= (image != card.nodata).all(axis=0)
    for number, name in enumerate(card.classes):
        values = image[:, known & (labels == number)].astype(np.int64)
        for band, own in zip(scene.bands, values, strict=True):
            yield f"pixels {name}/{band}", [own.size, int(own.sum()), int((own**2).sum())]


def reducer_of(key: str, reduces: int) -> int:
    """The reduce job of a key: of a hash that is the same in every process."""
    return zlib.crc32(key.encode()) % reduces


def map_part(card: Card, folder: Path, part: int, *, maps: int, reduces: int) -> list[list[Pair]]:
    """The pairs of one map job, dealt to the reduce jobs.

    Args:
        card: of scenes with a label for each pixel.
        folder: of the dataset.
        part: number of the job; it takes every so many-th scene, and description of a class.
        maps: number of map jobs.
        reduces: number of reduce jobs.

    Raises:
        DataError: there is no scene for it, or one has no labels of its pixels.
    """
    source = open_source(card, folder)
    names = source.names[part::maps]
    if not names:
        raise DataError(
            f"has {len(source.names)} scenes for {maps} map jobs", where=card.name,
            mend="lower lesson.maps",
        )  # fmt: skip
    dealt: list[list[Pair]] = [[] for _ in range(reduces)]
    for key, sums in pairs_of_words(list(descriptions().values())[part::maps]):
        dealt[reducer_of(key, reduces)].append((key, sums))
    for name in names:
        scene = source.open(name)
        if not isinstance(scene, Scene) or scene.labels is None:
            raise DataError("has no labels of its pixels", where=name, mend="take another dataset")
        for key, sums in pairs_of_scene(card, scene):
            dealt[reducer_of(key, reduces)].append((key, sums))
    return dealt


def reduce_part(mapped: list[list[list[Pair]]], part: int) -> dict[str, Any]:
    """Add up what all map jobs have dealt to one reduce job.

    Returns:
        sums (by key), and taken: how many pairs came from each map job.
    """
    sums: dict[str, list[int]] = {}
    for dealt in mapped:
        for key, more in dealt[part]:
            known = sums.get(key, [0] * len(more))
            sums[key] = [a + b for a, b in zip(known, more, strict=True)]
    return {"sums": dict(sorted(sums.items())), "taken": [len(dealt[part]) for dealt in mapped]}


def counts(folder: Path) -> Counts:
    """An output in parts.

    Raises:
        DataError: it has no mark, so some of it may be missing.
    """
    mark = folder / MARK
    if not mark.is_file():
        raise DataError(
            f"has no {MARK}: not all of its parts have been written", where=folder,
            mend="run the workflow to its end",
        )  # fmt: skip
    paths = sorted(folder.glob("part-*.json"))
    parts = [read_json(path) for path in paths]
    youngest = max(path.stat().st_mtime for path in paths)
    return Counts(
        [part["sums"] for part in parts],
        [part["taken"] for part in parts],
        mark.stat().st_mtime - youngest,
    )
