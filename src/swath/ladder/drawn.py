"""Scenes that a lesson draws itself, dealt to shards and cut by the platform's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swath.data.card import Card
from swath.data.fetch import fetch
from swath.data.patches import Cutting, cut
from swath.data.shards import pieces_of, plan_shards
from swath.files import read_manifest

ANYTHING = {
    "max_nodata": 1.0, "max_clouds": 1.0, "max_saturated": 1.0, "max_implausible": 1.0,
    "constant_bands": True,
}  # fmt: skip
"""Limits (`swath.data.quality.faults`) by which every scene is fit that has any data."""


def drawn(card: Card, folder: Path, **drawing: Any) -> Card:
    """Draw the dataset of a card into `folder`, and write its manifest.

    Args:
        card: of a dataset that is drawn.
        folder: where its files are put.
        drawing: settings that are others than in the card.

    Returns:
        The card with these settings.
    """
    own = card.model_copy(update={"drawing": {**(card.drawing or {}), **drawing}})
    fetch(own, folder, state=folder.with_name(f"{folder.name}-coming"), mirror=None)
    return own


def dealt(card: Card, folder: Path) -> dict[str, Any]:
    """The shards of a dataset (`plan_shards`), each of a megabyte or of one scene."""
    manifest = read_manifest(folder / "manifest.json", digests=False)
    return plan_shards(card, folder, manifest, shard_mb=1, broken="skip")


def cut_shard(
    card: Card,
    folder: Path,
    shard: dict[str, Any],
    out: Path,
    *,
    size_px: int,
    limits: dict[str, Any] = ANYTHING,
) -> dict[str, Any]:
    """Cut one shard into patches of that side; gives its manifest."""
    return cut(
        card, pieces_of(card, folder, shard), out, Cutting(size_px), limits=limits, made_by={}
    )
