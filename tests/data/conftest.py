"""Scenes in memory, cut and opened again: what the tests of patch sets share."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from swath.data.card import Card
from swath.data.patches import Cutting, cut
from swath.data.patchset import PatchSet, open_patches
from swath.data.scene import Array, CodedLabels, CodedMask, Grid, Scene
from swath.data.shards import index_shards

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = {"Water": "#0000ff", "Forest": "#00ff00", "Town": "#ff0000"}
EVERYTHING_FITS = {
    "max_nodata": 1.0, "max_clouds": 1.0, "max_saturated": 1.0, "max_implausible": 1.0,
    "constant_bands": True,
}  # fmt: skip


@pytest.fixture(scope="session")
def make_card() -> Callable[..., Card]:
    """The card of scenes made by hand: bands by name, three classes, labels by pixel."""

    def make(bands: Sequence[str] = ("red",), **changes: Any) -> Card:
        facts = yaml.safe_load((REPOSITORY / "conf/data/embedded.yaml").read_text())
        facts |= {
            "name": "drawn",
            "bands": [{"name": band, "wavelength_nm": 500.0, "gsd_m": 10.0} for band in bands],
            "rgb": [bands[0]] * 3,
            "classes": CLASSES,
        }
        del facts["drawing"]
        return Card.model_validate(facts | changes)

    return make


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    """A scene of arrays: layers as (band names, values (date, band, y, x), factor)."""

    def make(
        layers: Sequence[tuple[Sequence[str], np.ndarray, int]],
        name: str = "one",
        *,
        bands: Sequence[str] | None = None,
        labels: np.ndarray | None = None,
        hidden: np.ndarray | None = None,
        corner: tuple[float, float] = (600_000.0, 5_300_040.0),
        step: float = 10.0,
        epsg: int = 32632,
        times: Sequence[datetime | None] = (None,),
        block_rows: Sequence[int] | int = 1,
    ) -> Scene:
        def grid(height: int, width: int, factor: int) -> Grid:
            return Grid(height, width, *corner, step * factor, step * factor, epsg)

        def codes(values: np.ndarray) -> Array:
            return Array(("code",), grid(*values.shape, 1), values.astype(np.uint8), "yx", path)

        path = Path(name)
        rows = [block_rows] * len(layers) if isinstance(block_rows, int) else block_rows
        return Scene(
            name,
            tuple(
                Array(tuple(names), grid(*values.shape[2:], factor), values, "tbyx", path, of)
                for (names, values, factor), of in zip(layers, rows, strict=True)
            ),
            tuple(bands or [band for names, _, _ in layers for band in names]),
            tuple(times),
            None if labels is None else CodedLabels(codes(labels), (0, 1, 2)),
            None if hidden is None else CodedMask(codes(hidden), (0,)),
        )

    return make


@dataclass(frozen=True)
class CutSet:
    """A patch set that was cut, indexed and opened."""

    folder: Path
    index: dict[str, Any]
    patches: PatchSet

    def images(self) -> np.ndarray:
        """All images (patch, channel, y, x)."""
        return self.patches.image.gather(np.arange(len(self.patches)))

    def labels(self) -> np.ndarray:
        """All labels."""
        return self.patches.label.gather(np.arange(len(self.patches)))


@pytest.fixture(scope="session")
def in_memory() -> Iterator[Path]:
    """A folder that no disk slows down: property tests write hundreds of sets."""
    fast = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=fast if os.access(fast, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cut_set(in_memory: Path) -> Callable[..., CutSet]:
    """Cuts shards, each of several scenes, indexes them, and opens the set."""
    numbers = itertools.count()

    def make(
        card: Card,
        shards: Sequence[Sequence[Any]],
        size_px: int | None,
        *,
        limits: dict[str, Any] | None = None,
        broken: str = "skip",
        **cutting: Any,
    ) -> CutSet:
        folder = in_memory / str(next(numbers))
        how = Cutting(size_px, **({"min_valid": 0.0} | cutting))
        for number, scenes in enumerate(shards):
            pieces = ((getattr(s, "name", "absent"), s) for s in scenes)
            cut(
                card, pieces, folder / f"s{number}", how,
                limits=EVERYTHING_FITS | (limits or {}), made_by={"data_version": "v1"},
            )  # fmt: skip
        names = [{"name": f"s{number}"} for number in range(len(shards))]
        plan = {"dataset": card.name, "data_version": "v1", "shards": names, "set_aside": []}
        index = index_shards(plan, folder, broken=broken)
        return CutSet(folder, index, open_patches(folder / "manifest.json"))

    return make
