"""What the tests of layouts share: cards made by hand, and a dataset cut as the stages do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swath.data.card import Card
from swath.data.patches import Cutting, cut
from swath.data.patchset import PatchSet, open_patches
from swath.data.shards import index_shards, pieces_of, plan_shards
from swath.files import files_below, write_manifest

LIMITS = {
    "max_nodata": 1.0, "max_clouds": 1.0, "max_saturated": 1.0, "max_implausible": 0.01,
    "constant_bands": True,
}  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """A dataset that was cut, and all that was told of it on the way."""

    patches: PatchSet
    index: dict[str, Any]
    set_aside: dict[str, str]
    """Scene -> why it was not even opened."""
    stores: list[Path]
    """The Zarr store of each shard."""


@pytest.fixture
def cut_set(tmp_path: Path) -> Callable[..., Cut]:
    """Plans, cuts and indexes the dataset of a card in a folder: shard by shard, as jobs do."""

    def make(card: Card, folder: Path, *, shard_mb: int = 64, **cutting: Any) -> Cut:
        listed = [path for path in files_below(folder) if path.name != "manifest.json"]
        manifest = write_manifest(folder / "manifest.json", listed, dataset=card.name)
        plan = plan_shards(card, folder, manifest, shard_mb=shard_mb, broken="skip")
        out = tmp_path / "cut"
        out.mkdir(exist_ok=True)
        how = Cutting(**({"size_px": 8, "min_valid": 0.0} | cutting))
        for shard in plan["shards"]:
            pieces = pieces_of(card, folder, shard)
            cut(card, pieces, out / shard["name"], how, limits=LIMITS, made_by={})
        index = index_shards(plan, out, broken="skip")
        return Cut(
            open_patches(out / "manifest.json"),
            index,
            {s["scene"]: s["reason"] for s in plan["set_aside"]},
            [out / shard["name"] / "set.zarr" for shard in plan["shards"]],
        )

    return make


@pytest.fixture
def make_card() -> Callable[..., Card]:
    """A card of a layout with these bands (name -> GSD in m) and classes A, B, C."""

    def make(
        layout: dict[str, Any], bands: dict[str, float] | list[dict[str, Any]], **facts: Any
    ) -> Card:
        listed = (
            [{"name": name, "gsd_m": gsd} for name, gsd in bands.items()]
            if isinstance(bands, dict)
            else bands
        )
        return Card.model_validate(
            {
                "name": "tiny",
                "title": "Tiny",
                "licence": "none",
                "citation": "made for tests",
                "layout": layout,
                "bands": listed,
                "rgb": [listed[0]["name"]] * 3,
                "scale": 10000.0,
                "classes": {"A": "#aa0000", "B": "#00aa00", "C": "#0000aa"},
                "labels": "pixel",
            }
            | facts
        )

    return make
