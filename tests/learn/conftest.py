"""Tiny patch sets in memory, sections of a run, and a small scene on disk."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from rasterio.transform import from_origin

from swath import cli, settings
from swath.data.card import UNLABELLED, Card
from swath.data.layouts.scene_folders import scene_folders
from swath.data.mapped import Mapped
from swath.data.patches import contents_of
from swath.data.patchset import PatchSet
from swath.data.scene import Scene
from swath.learn.attempts import Stop
from swath.learn.networks import build

CLASSES = ["Water", "Forest", "Pasture"]
BANDS = ["red", "green", "blue", "nir"]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has runs asked to stop at the so-manieth chance: before the first step, then after each, and
    after each batch of a validation; 0 lets them go on."""
    left = [0]

    class StopAfter(Stop):
        def wanted(self, next_s: float = 0.0) -> bool:
            left[0] -= 1
            if not left[0]:
                self.reason = "the test"
            return super().wanted(next_s)

    def stop(chances: int) -> None:
        left[0] = chances
        monkeypatch.setattr("swath.learn.train.Stop", StopAfter)

    return stop


@pytest.fixture
def patch_set() -> Callable[..., PatchSet]:
    """Makes a patch set whose classes are told by the brightness of a band each."""

    def make(
        count: int = 24,
        side: int = 16,
        *,
        labels: str = "patch",
        nodata: int | None = 0,
        dtype: str = "uint16",
        chunk: int = 10,
        seed: int = 0,
    ) -> PatchSet:
        rng = np.random.default_rng(seed)
        shape = (count, side, side) if labels == "pixel" else (count,)
        label = (np.arange(np.prod(shape)) % len(CLASSES)).astype(np.uint8).reshape(shape)
        if labels == "pixel":
            label = np.kron(
                rng.integers(0, len(CLASSES), (count, side // 4, side // 4)), np.ones((4, 4))
            ).astype(np.uint8)
        at = label if labels == "pixel" else label[:, None, None]
        image = rng.normal(1000, 50, (count, len(BANDS), side, side))
        for value in range(len(CLASSES)):
            image[:, value] += 500 * (at == value)
        image = image.astype(dtype)
        places = pd.DataFrame(
            {
                "scene": 0,
                "row": 0,
                "col": np.arange(count) * side,
                "west": 500_000.0 + np.arange(count) * side * 10,
                "south": 5_000_000.0 - side * 10,
                "east": 500_000.0 + np.arange(1, count + 1) * side * 10,
                "north": 5_000_000.0,
                "epsg": 32632,
                "lon": 9.0,
                "lat": 45.15,
                "time": np.datetime64("2020-07-01", "s"),
                "name": [f"p{n}" for n in range(count)],
            }
        )
        facts = {
            "labels": labels,
            "nodata": nodata,
            "bands": BANDS,
            "classes": CLASSES,
            "gsd_m": 10.0,
            "size_px": side,
        }

        def mapped(array: np.ndarray) -> Mapped:
            cut = range(0, count, chunk)
            return Mapped(tuple(array[start : start + chunk] for start in cut), array.shape)

        contents = contents_of(label, len(CLASSES)) if count else np.empty((0, len(CLASSES)), int)
        return PatchSet(mapped(image), mapped(label), places, contents, facts)

    return make


@pytest.fixture
def several() -> Callable[[PatchSet], PatchSet]:
    """Gives a patch set whose one label of each patch is one of several."""

    def turned(patches: PatchSet) -> PatchSet:
        label = patches.contents.astype(np.uint8)
        facts = patches.facts | {"labels": "several"}
        return replace(patches, label=Mapped((label,), label.shape), facts=facts)

    return turned


@pytest.fixture
def numbers() -> Callable[[PatchSet], PatchSet]:
    """Gives a patch set whose labels are numbers, 40 and 10 for each class before, or none."""

    def turned(patches: PatchSet) -> PatchSet:
        label = patches.label.gather(np.arange(len(patches)))
        value = np.where(label == UNLABELLED, np.nan, 40 + 10.0 * label).astype(np.float32)
        contents = contents_of(value, 1)
        facts = patches.facts | {"target": {"name": "height", "unit": "m"}, "classes": ["height"]}
        mapped = Mapped((value,), value.shape)
        return replace(patches, label=mapped, contents=contents, facts=facts)

    return turned


@pytest.fixture
def statistics() -> dict[str, Any]:
    return {"mean": [1100.0, 1150.0, 1160.0, 1000.0], "std": [240.0, 250.0, 260.0, 50.0]}


@pytest.fixture
def sections() -> Callable[..., dict[str, Any]]:
    """Makes the complete sections of a run, quick and repeatable."""

    def make(
        model: str = "perceptron", task: str = "segmentation", **changed: Any
    ) -> dict[str, Any]:
        given: dict[str, dict[str, Any]] = {
            "model": {"name": model},
            "task": {"name": task},
            "optim": {"name": "adamw", "lr": 0.01},
            "trainer": {"epochs": 4, "batch_size": 8, "device": "cpu", "precision": "fp32"},
        }
        for key, value in changed.items():
            section, _, rest = key.partition("__")
            given[section][rest] = value
        return {name: settings.check(name, values) for name, values in given.items()}

    return make


# ---- a scene of two GSDs with a border of no-data ---------------------------------------------

HEIGHT, WIDTH = 168, 200


@pytest.fixture(scope="session")
def card() -> Card:
    return Card.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "licence": "none",
            "citation": "none",
            "synthetic": True,
            "layout": {"name": "scene_folders"},
            "bands": [{"name": n, "wavelength_nm": 500.0, "gsd_m": 10.0} for n in BANDS],
            "rgb": BANDS[:3],
            "scale": 10_000.0,
            "nodata": 0,
            "classes": {"Water": "#1f4fd8", "Forest": "#1b7837", "Pasture": "#66c2a5"},
            "labels": "pixel",
        }
    )


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, card: Card) -> Scene:
    """168 x 200 px at 10 m, its last band at 20 m; the lower left corner is outside the swath."""
    folder = tmp_path_factory.mktemp("dataset") / "scene_a"
    folder.mkdir()
    rng = np.random.default_rng(3)
    fine = rng.integers(600, 1800, (3, HEIGHT // 4, WIDTH // 4)).repeat(4, 1).repeat(4, 2)
    fine = (fine + rng.integers(0, 100, fine.shape)).astype(np.uint16)
    coarse = rng.integers(900, 1100, (1, HEIGHT // 2, WIDTH // 2)).astype(np.uint16)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] // 2
    outside = rows[::2, ::2] - columns[::2, ::2] > 40
    coarse[:, outside] = 0
    fine[:, outside.repeat(2, 0).repeat(2, 1)] = 0
    for name, pixels, gsd_m, bands in (
        ("scene_a_10m.tif", fine, 10.0, BANDS[:3]),
        ("scene_a_20m.tif", coarse, 20.0, BANDS[3:]),
    ):
        with rasterio.open(
            folder / name,
            "w",
            driver="GTiff",
            dtype="uint16",
            count=len(pixels),
            height=pixels.shape[1],
            width=pixels.shape[2],
            crs="EPSG:32633",
            transform=from_origin(399_960.0, 5_300_040.0, gsd_m, gsd_m),
            nodata=0,
        ) as file:
            file.write(pixels)
            file.descriptions = bands
    source = scene_folders(folder.parent, card, images=["*_10m.tif", "*_20m.tif"])
    return source.open(*source.names)


@pytest.fixture
def save_model(tmp_path: Path, statistics: dict[str, Any]) -> Callable[..., Path]:
    """Writes an untrained network as a run leaves its best one."""

    def save(
        name: str = "perceptron",
        *,
        precision: str = "fp32",
        data: dict[str, Any] | None = None,
        temperature: float | None = None,
        tta: bool = False,
        classes: list[str] = CLASSES,
        batch_size: int = 128,
        scale: list[float] | None = None,
        **given: Any,
    ) -> Path:
        torch.manual_seed(1)
        model = settings.check("model", {"name": name, **given})
        facts = {
            "model": model,
            "task": {"name": "segmentation"},
            "classes": classes,
            "batch_size": batch_size,
            "bands": BANDS,
            "nodata": 0,
            "statistics": statistics,
            "precision": precision,
            "channels_last": True,
            "data": data or {},
            "tta": tta,
        } | ({"temperature": temperature} if temperature else {})
        facts |= {"scale": scale} if scale else {}
        network = build(model, len(BANDS), len(classes))
        path = tmp_path / f"{name}.ckpt"
        torch.save({"weights": network.state_dict(), "facts": json.dumps(facts)}, path)
        return path

    return save


# ---- what a run needs on the disk -------------------------------------------------------------


@pytest.fixture(scope="session")
def prepare_run() -> Callable[..., None]:
    """Images of three classes, cut and split by the verbs, in a folder that a run starts in."""

    def prepare(folder: Path, model: dict[str, Any], trainer: dict[str, Any]) -> None:
        rng = np.random.default_rng(0)
        drawn: dict[str, bytes] = {}
        for number, name in enumerate(("Crop", "Forest", "River")):
            for image in range(50):
                pixels = rng.integers(0, 200, (16, 16, 3), np.uint8)
                pixels[..., number] += 40
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "png")
                drawn[f"Tiny/{name}/{name}_{image}.png"] = stream.getvalue()
        (folder / "data").mkdir()
        with zipfile.ZipFile(folder / "data/tiny.zip", "w") as archive:
            for name, content in drawn.items():
                archive.writestr(name, content)
        sections = {
            "data": {
                "name": "tiny", "title": "Tiny", "licence": "none", "citation": "none",
                "folder": str(folder / "data"),
                "layout": {"name": "class_folders", "archive": "tiny.zip"},
                "bands": [
                    {"name": name, "wavelength_nm": nm, "gsd_m": 10.0}
                    for name, nm in (("red", 665.0), ("green", 560.0), ("blue", 490.0))
                ],
                "rgb": ["red", "green", "blue"], "scale": 255.0, "labels": "patch",
                "classes": {"Crop": "#aa0000", "Forest": "#00aa00", "River": "#0000aa"},
            },
            "patches": {}, "quality": {},
            "split": {"random": {"scheme": "random"}, "allow_leaks": True},
            "model": {"name": "cnn", "width": 4, "blocks": 1, **model},
            "task": {"name": "classification"}, "optim": {"name": "adamw"},
            "trainer": {"batch_size": 4, "device": "cpu", "precision": "fp32", **trainer},
        }  # fmt: skip
        (folder / "config").mkdir()
        for name, values in sections.items():
            text = yaml.safe_dump(settings.check(name, values), sort_keys=False)
            (folder / "config" / f"{name}.yaml").write_text(text)

        def verb(*words: str) -> None:
            with contextlib.chdir(folder):
                cli.app(list(words), standalone_mode=False)

        config, data = ("--config", "config"), ("--data", "fetched")
        verb("fetch", *config, "--out", "fetched", "--state", "state/fetch")
        verb("scenes", *config, *data, "--out", "scenes.json")
        (shard,) = json.loads((folder / "scenes.json").read_text())["shards"]
        shard = shard["name"]
        scenes, patches = ("--scenes", "scenes.json"), ("--patches", "patches/manifest.json")
        verb("patches", *config, *data, *scenes, "--shard", shard, "--out", f"patches/{shard}")
        verb("index", *config, *scenes, "--out", "patches/manifest.json")
        verb("split", *config, *data, *patches, "--name", "random", "--out", "split/random")
        split = ("--split", "split/random")
        verb("measure", *patches, *split, "--shard", shard, "--out", f"sums/{shard}.npz")
        verb("statistics", *patches, "--sums", "sums", "--out", "split/random/statistics.json")

    return prepare
