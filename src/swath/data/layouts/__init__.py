"""Readers, one module for each way in which a dataset lies on the disk.

A layout says what a dataset consists of and opens each part: a `Scene`, or patches as they were
`Published`. A new dataset in a known layout needs no code; a new layout is one function in a module
here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swath import registry
from swath.data.card import Card
from swath.data.published import Published
from swath.data.scene import Scene


@dataclass(frozen=True)
class Source:
    """A dataset on disk: what it consists of, found by listing alone."""

    names: tuple[str, ...]
    """Scenes, or sets of published patches, in a stable order."""
    open: Callable[[str], Scene | Published]
    """Reads the headers of one of them; raises DataError where it is unfit."""


def open_source(card: Card, folder: Path) -> Source:
    """The dataset of a card as its layout finds it in `folder`."""
    settings = {k: v for k, v in card.layout.items() if k != "name"}
    source: Source = registry.load("layout", card.layout["name"])(folder, card, **settings)
    return source
