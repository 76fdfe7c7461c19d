"""A small experiment folder, written file by file as the stages would, for each task."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter
from sklearn.metrics import cohen_kappa_score
from studies import make_study, write_file

from swath.data.card import Card
from swath.data.earth import Blocks
from swath.data.layouts.scene_folders import scene_folders
from swath.data.patches import Cutting, cut
from swath.data.patchset import PatchSet, open_patches
from swath.data.published import Published
from swath.data.scene import Scene
from swath.data.shards import index_shards
from swath.data.statistics import add_up, measure, summary
from swath.report.page import write_report
from swath.study import regression
from swath.study.scores import Bootstrap, by_group, by_region, confusions, reliability
from swath.study.several import Decisions, score
from swath.study.several import by_group as several_by_group

CLASSES = ("Water", "Forest", "Pasture", "Residential")
COLOURS = ("#4477aa", "#228833", "#ccbb44", "#ee6677")
SPLITS = ("blocks", "random")
LIMITS = {
    "max_nodata": 1.0,
    "max_clouds": 1.0,
    "max_saturated": 1.0,
    "max_implausible": 0.01,
    "constant_bands": False,
}


@dataclass(frozen=True)
class Shape:
    """How large the generated experiment is; the defaults are the tests' tiny one."""

    side_px: int = 16
    rows: int = 5
    columns: int = 4
    scenes: int = 2
    classes: tuple[str, ...] = CLASSES
    colours: tuple[str, ...] = COLOURS
    epochs: int = 5


def _landscape(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Class of each pixel of a scene: the largest of smooth random fields."""
    size = (len(shape.classes), shape.rows * shape.side_px, shape.columns * shape.side_px)
    fields = gaussian_filter(rng.normal(size=size), (0, shape.side_px / 2, shape.side_px / 2))
    return fields.argmax(axis=0).astype(np.uint8)


def _image(truth: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """(band, y, x) reflectances × 10⁴ whose spectra follow the classes."""
    spectra = rng.uniform(300, 2600, size=(classes, 4))
    noise = gaussian_filter(rng.normal(size=(4, *truth.shape)), (0, 1, 1)) * 700
    return np.clip(spectra[truth].transpose(2, 0, 1) + noise, 1, 9999).astype(np.uint16)


BLOCK_M = 5000.0
BANDS = ("B02", "B03", "B04", "B08")


def _raster(path: Path, bands: np.ndarray, scene: int, colours: tuple[str, ...] = ()) -> None:
    bands = bands[None] if bands.ndim == 2 else bands
    path.parent.mkdir(parents=True, exist_ok=True)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": f"EPSG:{32632 + scene % 2}",
        "transform": from_origin(500_000 + 90_000 * scene, 5_300_000, 10, 10),
        "nodata": {"uint8": 255, "float32": np.nan}.get(bands.dtype.name, 0),
    }
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(bands)
        if len(bands) == len(BANDS):
            raster.descriptions = BANDS
        if colours:
            rgb = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in colours]
            raster.write_colormap(1, dict(enumerate(rgb)))


def make_card(shape: Shape, labels: str) -> Card:
    """The card of the made-up landscape."""
    nm = (490.0, 560.0, 665.0, 842.0)
    return Card.model_validate(
        {
            "name": "fields",
            "title": "Fields, a made-up landscape",
            "licence": "<b>not bold</b>",
            "citation": "none",
            "synthetic": True,
            "layout": {"name": "scene_folders"},
            "bands": [
                {"name": name, "wavelength_nm": w, "gsd_m": 10.0}
                for name, w in zip(BANDS, nm, strict=True)
            ],
            "rgb": ["B04", "B03", "B02"],
            "scale": 10_000.0,
            **(
                {"labels": "patch", "target": {"name": "forest", "unit": "ha"}}
                if labels == "number"
                else {
                    "classes": dict(zip(shape.classes, shape.colours, strict=True)),
                    "labels": labels,
                }
            ),
        }
    )


def _scenes(folder: Path, card: Card, shape: Shape, seed: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    for scene in range(shape.scenes):
        truth = _landscape(shape, rng)
        image = _image(truth, len(shape.classes), np.random.default_rng(seed + 1))
        _raster(folder / "scenes" / f"s{scene}_image.tif", image, scene)
        _raster(folder / "scenes" / f"s{scene}_truth.tif", truth, scene)
    source = scene_folders(
        folder / "scenes", card, images=["{scene}_image.tif"], labels="{scene}_truth.tif"
    )
    return [source.open(name) for name in source.names]


def _single_patches(scenes: list[Scene], card: Card, shape: Shape, seed: int) -> Published:
    """The windows of the scenes as patches of their own, spread over several zones."""
    side, rng = shape.side_px, np.random.default_rng(seed)
    windows = [
        (scene, row, column)
        for scene in scenes
        for row in range(0, scene.grid.height, side)
        for column in range(0, scene.grid.width, side)
    ]
    images = np.array([s.read(r, c, side, side, "nearest") for s, r, c in windows])
    pixels = [s.read_labels(r, c, side, side).ravel() for s, r, c in windows]
    count, classes = len(windows), len(shape.classes)
    shares = np.array([np.bincount(one, minlength=classes) for one in pixels])
    labels = shares.argmax(axis=1).astype(np.uint8)
    if card.labels == "several":
        labels = (shares > side**2 / 10).astype(np.uint8)
    if card.target:
        labels = (shares[:, 1] / 100).astype(np.float32)
    west, north = rng.uniform(3e5, 7e5, count), rng.uniform(4.3e6, 6.6e6, count)
    places = pd.DataFrame(
        {
            "scene": [f"p{number}" for number in range(count)],
            "row": 0,
            "col": 0,
            "west": west,
            "south": north - side * 10,
            "east": west + side * 10,
            "north": north,
            "epsg": 32629 + np.arange(count) % 7,
            "time": pd.NaT,
            "name": [f"patch-{number}" for number in range(count)],
        }
    )
    return Published(
        "fields", places, BANDS, ((BANDS, 1),), side, 10.0, "uint16", (),
        lambda part: ([images[part.index]], labels[part.index]),
    )  # fmt: skip


def _patches(folder: Path, shape: Shape, labels: str, seed: int) -> PatchSet:
    card = make_card(shape, labels)
    scenes = _scenes(folder, make_card(shape, "pixel"), shape, seed)
    pieces: list[Any] = (
        scenes if labels == "pixel" else [_single_patches(scenes, card, shape, seed)]
    )
    cutting = Cutting(shape.side_px if labels == "pixel" else None)
    cut(
        card, iter([(piece.name, piece) for piece in pieces]), folder / "patches" / "shard0",
        cutting, limits=LIMITS, made_by={},
    )  # fmt: skip
    plan = {
        "dataset": card.name,
        "data_version": "beef" * 16,
        "shards": [{"name": "shard0"}],
        "set_aside": [{"scene": "s7", "reason": "s7_image.tif: lacks the band B08"}],
    }
    index_shards(plan, folder / "patches", broken="skip")
    write_file(folder / "config" / "data.yaml", yaml.safe_dump(card.model_dump(mode="json")))
    return open_patches(folder / "patches" / "manifest.json")


def _scores(
    truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, shape: Shape, **facts: Any
) -> dict[str, Any]:
    known = range(len(shape.classes))
    confusion = np.array(
        [[int(((truth == t) & (predicted == p)).sum()) for p in known] for t in known]
    )
    right, of_truth, of_predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    recall = right / np.maximum(of_truth, 1)
    precision = right / np.maximum(of_predicted, 1)
    f1 = 2 * right / np.maximum(of_truth + of_predicted, 1)
    iou = right / np.maximum(of_truth + of_predicted - right, 1)
    value = {
        "overall_accuracy": right.sum() / confusion.sum(),
        "average_accuracy": recall.mean(),
        "kappa": cohen_kappa_score(truth.ravel(), predicted.ravel()),
        "macro_f1": f1.mean(),
        "miou": iou.mean(),
        "calibration_error": 0.17,
    }
    measures = {
        name: {"value": float(v), "low": max(float(v) - 0.04, 0), "high": min(float(v) + 0.03, 1)}
        for name, v in value.items()
    }
    return {
        **facts,
        "part": "test",
        "patches": len(truth),
        "pixels": int(truth.size) if truth.ndim > 1 else None,
        "classes": list(shape.classes),
        **measures,
        "per_class": [
            {
                "class": name,
                "support": int(of_truth[i]),
                "precision": float(precision[i]) if of_predicted[i] else None,
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "iou": float(iou[i]),
            }
            for i, name in enumerate(shape.classes)
        ],
        "confusion": confusion.tolist(),
        "reliability": reliability(truth, predicted, confidence).sum(axis=0).tolist(),
        "bootstrap": {"draws": 1000, "blocks": 12, "block_m": BLOCK_M},
    }


def _noisy(truth: np.ndarray, wrong: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Predictions of which about the share `wrong` is another class, in blobs."""
    field = rng.normal(size=truth.shape)
    if truth.ndim > 1:
        field = gaussian_filter(field, (*(0,) * (truth.ndim - 2), 2, 2))
    errs = field < np.quantile(field, wrong)
    return np.where(errs, (truth + 1 + (field < field.mean() * 1.2)) % classes, truth).astype("u1")


def _split(folder: Path, shape: Shape, patches: PatchSet, name: str, seed: int) -> pd.Series:
    rng, count = np.random.default_rng(seed), len(patches)
    if name == "random":
        order = rng.permutation(count)
    else:
        order = np.lexsort((patches.places["row"], patches.places["col"]))
    part = np.array(["train"] * count, dtype=object)
    part[order[int(count * 0.5) : int(count * 0.55)]] = "unused"
    part[order[int(count * 0.55) : int(count * 0.7)]] = "val"
    part[order[int(count * 0.7) :]] = "test"
    table = pd.DataFrame({"patch": np.arange(count), "fold": 0, "part": part})
    target = folder / "splits" / name
    target.mkdir(parents=True)
    table.to_parquet(target / "split.parquet")
    leaky, (n, each) = name == "random", (count, len(shape.classes))
    audit = {
        "split": name,
        "scheme": name,
        "passed": not leaky,
        "stamped": leaky,
        "overlap_m2": 51_200.0 if leaky else 0.0,
        "overlapping_pairs": 312 if leaky else 0,
        "least_distance_m": 0.0 if leaky else 640.0,
        "buffer_m": 320.0,
        "parts": {
            name: {
                "patches": int((part == name).sum()),
                "classes": {c: int((part == name).sum()) // each for c in shape.classes},
            }
            for name in ("train", "val", "test", "unused")
        },
        "problems": [f"patches 3 (train) and 7 (test) of {n} overlap by 800 m²"] if leaky else [],
    }
    write_file(target / "audit.json", audit)
    sums = measure(patches, np.arange(count), (part == "train")[None])
    folds = [summary(total, patches.image.dtype) for total in add_up([sums])]
    write_file(target / "statistics.json", {"folds": folds})
    return pd.Series(part)


def _judged(
    of: Path, shape: Shape, patches: PatchSet, test: np.ndarray, wrong: float,
    rng: np.random.Generator, **facts: Any,
) -> None:  # fmt: skip
    """Write what somebody predicted of the test part, of which the share `wrong` is wrong, and what
    that is worth."""
    truth, several = patches.label.gather(test), patches.facts["labels"] == "several"
    confidence: dict[str, np.ndarray] = {}
    scenes = patches.places["scene"].iloc[test].map(dict(enumerate(patches.facts["scenes"])))
    bootstrap = Bootstrap.of(Blocks.of(patches.places, 1e5)[test], draws=50)
    of.mkdir(parents=True)
    if patches.facts.get("target"):
        predicted = (truth + wrong * rng.normal(0.5, 1, truth.shape)).astype(np.float32)
        off = regression.sums(truth, predicted)
        found = regression.score(off, bootstrap)
        scores = {**facts, "part": "test", "patches": len(test), "pixels": None, **found}
        of_groups = partial(regression.by_group, off)
    elif several:
        probability = np.abs(truth - (0.5 + wrong) * rng.random(truth.shape)).astype(np.float32)
        decisions = Decisions(truth, (probability > 0.5).astype(np.uint8), probability)
        predicted, confidence = decisions.predicted, {"confidence": decisions.probability}
        found = score(decisions, list(shape.classes), bootstrap)
        scores = {**facts, "part": "test", "patches": len(test), "pixels": None, **found}
        of_groups = partial(several_by_group, decisions)
    else:
        predicted = _noisy(truth, wrong, len(shape.classes), rng)
        sure = rng.uniform(0.4, 1, predicted.shape).astype(np.float16)
        confidence = {"confidence": sure}
        scores = _scores(truth, predicted, sure, shape, **facts)
        by_patch = confusions(truth, predicted, len(shape.classes))
        of_groups = partial(by_group, by_patch, reliability(truth, predicted, sure))
    np.savez(of / "predictions.npz", patch=test, predicted=predicted, **confidence)
    write_file(of / "scores.json", scores)
    of_groups(scenes).to_parquet(of / "scores_by_scene.parquet")
    by_region(of_groups, Blocks.of(patches.places, BLOCK_M)[test]).to_parquet(
        of / "scores_by_region.parquet"
    )


def _run(
    folder: Path, shape: Shape, patches: PatchSet, split: str, part: pd.Series, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    test = np.flatnonzero(part == "test")
    run = folder / "runs" / f"{split}-fold0-seed{seed}"
    facts = {"split": split, "fold": 0, "seed": seed}
    _judged(run, shape, patches, test, 0.08 if split == "random" else 0.2, rng, **facts)
    epoch = np.arange(shape.epochs)
    decay = np.exp(-epoch / shape.epochs * 3)
    monitor = "map" if patches.facts["labels"] == "several" else "accuracy"
    monitor = "r2" if patches.facts.get("target") else monitor
    write_file(folder / "config" / "task.yaml", f"monitor: {monitor}\n")
    pd.DataFrame(
        {
            "epoch": epoch,
            "train/loss": 1.4 * decay + 0.1 + rng.normal(0, 0.02, shape.epochs),
            "val/loss": 1.2 * decay + 0.35 + rng.normal(0, 0.05, shape.epochs),
            f"val/{monitor}": 0.84 - 0.5 * decay + rng.normal(0, 0.01, shape.epochs),
            "lr": 0.001 * (1 + np.cos(np.pi * epoch / shape.epochs)) / 2,
            "seconds": 2.5,
            "images_per_s": 1500.0,
        }
    ).to_parquet(run / "metrics.parquet")
    more = {
        "run_id": "5e1f0c3a9d",
        "model": "resnet8",
        "parameters": 78_042,
        "epochs": shape.epochs,
        "best_epoch": shape.epochs - 1,
        "seconds": 71.2,
        "device": "cpu",
        "precision": "bf16-mixed",
        "attempts": 1,
        "data_version": "c0ffee" * 10,
        "code": "ab12cd34ef",
    }
    errors = {"nll_before": 0.61, "nll_after": 0.52, "ece_before": 0.1234, "ece_after": 0.021}
    if not patches.facts.get("target"):
        more |= {"temperature": 0.625, "calibration": {"labels": 4096, **errors}}
    write_file(run / "run.json", {**facts, **more})
    (run / "best.ckpt").write_bytes(b"")
    _maps(folder, shape, run.name, patches, rng)
    baseline = folder / "baselines" / f"{split}-fold0"
    _judged(baseline, shape, patches, test, 0.3, rng, **facts)
    name = "random forest on band statistics"
    write_file(baseline / "baseline.json", {"name": name, "seconds": 3.2})


def _maps(
    folder: Path, shape: Shape, run: str, patches: PatchSet, rng: np.random.Generator
) -> None:
    target, scenes = folder / "maps" / run, []
    of_numbers = bool(patches.facts.get("target"))
    for scene in range(shape.scenes if patches.facts["labels"] == "pixel" or of_numbers else 0):
        with rasterio.open(folder / "scenes" / f"s{scene}_truth.tif") as raster:
            truth = raster.read(1)
        if of_numbers:
            true = gaussian_filter((truth == 1).astype(np.float32), 2)
            true[:9] = np.nan
            off = 0.1 * gaussian_filter(rng.normal(size=true.shape), 2).astype(np.float32)
            _raster(target / f"s{scene}_truth.tif", true, scene)
            _raster(target / f"s{scene}_numbers.tif", true + off, scene)
            scenes.append(
                {
                    "scene": f"s{scene}",
                    "numbers": f"s{scene}_numbers.tif",
                    "truth": f"s{scene}_truth.tif",
                    "image": [str(folder / "scenes" / f"s{scene}_image.tif")],
                }
            )
            continue
        mapped = _noisy(truth, 0.15, len(shape.classes), rng)
        sure = (gaussian_filter(rng.normal(size=truth.shape), 3) * 200 + 75).clip(0, 100)
        _raster(target / f"s{scene}_classes.tif", mapped, scene, shape.colours)
        _raster(target / f"s{scene}_confidence.tif", sure.astype(np.uint8), scene)
        scenes.append(
            {
                "scene": f"s{scene}",
                "classes": f"s{scene}_classes.tif",
                "confidence": f"s{scene}_confidence.tif",
                "truth": str(folder / "scenes" / f"s{scene}_truth.tif"),
                "image": [str(folder / "scenes" / f"s{scene}_image.tif")],
            }
        )
    write_file(target / "maps.json", {"scenes": scenes})


def _study(folder: Path, seed: int, several: bool) -> None:
    first = ("val/accuracy", "maximize")
    sought = (first, ("parameters", "minimize")) if several else (first,)
    study = make_study(seed, sought)
    write_file(folder / "study" / "trials.json", study)
    if several:
        return
    run = {"seconds": 9.1, "run_id": "00ff", "reason": None}
    failed = {"fold": 0, "seed": 2, "scores": None, "seconds": None, "reason": "no memory was left"}
    candidates = [
        {
            "number": number, "rank": rank, "mean": [0.71 - 0.02 * rank], "sd": [0.0123],
            "runs": [
                {"fold": 0, "seed": 1, "scores": [0.72 - 0.02 * rank], **run},
                {"fold": 0, "seed": 2, "scores": [0.70 - 0.02 * rank], **run} if rank == 0
                else run | failed,
            ],
        }
        for rank, number in enumerate((4, 12))
    ]  # fmt: skip
    judged = [
        {"fold": 0, "seed": seed, "headline": "overall_accuracy", "value": value,
         "low": value - 0.03, "high": value + 0.02}
        for seed, value in ((1, 0.801), (2, 0.792))
    ]  # fmt: skip
    test = {"split": "blocks", "runs": judged}
    write_file(
        folder / "study" / "final.json", {"candidates": candidates, "winner": 4, "test": test}
    )
    params = study["trials"][4]["params"]
    lines = ["# @package _global_", "optim:", f"  lr: {params['optim.lr']}"]
    write_file(folder / "study" / "winner.yaml", "\n".join(lines) + "\n")


def write_experiment(
    folder: Path,
    *,
    labels: str,
    shape: Shape = Shape(),
    splits: tuple[str, ...] = SPLITS,
    study: bool = True,
    seed: int = 0,
) -> Path:
    """Write all files of an experiment below `folder` and give the folder back."""
    patches = _patches(folder, shape, labels, seed)
    for number, name in enumerate(splits):
        part = _split(folder, shape, patches, name, seed)
        _run(folder, shape, patches, name, part, seed + number)
    if study:
        _study(folder, seed, several=labels == "patch")
    write_file(folder / "config" / "optim.yaml", "name: adamw\nlr: 0.001\nweight_decay: 0.05\n")
    write_file(folder / "config" / "model.yaml", "name: resnet8\nwidth: 16\n")
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for rule, seconds, memory in (("patches", 1.91, "412.3"), ("train", 71.2, "1322.9")):
        for split in splits:
            row = f"{seconds}\t0:01:11\t{memory}\t1\t1\t1\t0\t0\t180.0\t{seconds * 1.8}\n"
            write_file(folder / "benchmarks" / f"{rule}-{split}-fold0.tsv", head + row)
    write_file(
        folder / "benchmarks" / "split.tsv", head + "0.4\t0:00:00\t-\t-\t-\t-\t-\t-\t0.0\t0.3\n"
    )
    return folder


@pytest.fixture(scope="session")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of whole scenes, where each pixel has a label."""
    return write_experiment(tmp_path_factory.mktemp("seg") / "fields-unet", labels="pixel")


@pytest.fixture(scope="session")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of single patches, each with one label, over several zones."""
    return write_experiment(tmp_path_factory.mktemp("cls") / "fields-resnet", labels="patch")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The report of an experiment folder, written once."""
    folder = tmp_path_factory.mktemp("reports")

    def write(experiment: Path) -> Path:
        # In a folder of its own, for what is written beside it.
        out = folder / experiment.name / f"{experiment.name}.html"
        if not out.exists():
            out.parent.mkdir()
            write_report(experiment, out, project=experiment)
        return out

    return write


@pytest.fixture
def lean(tmp_path: Path) -> Path:
    """An experiment of one split that has only what every experiment has."""
    folder = write_experiment(tmp_path / "lean", labels="pixel", splits=("blocks",), study=False)
    for name in ("baselines", "maps", "benchmarks"):
        shutil.rmtree(folder / name)
    return folder


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of single patches, each with several labels."""
    folder = tmp_path_factory.mktemp("several") / "fields-several"
    return write_experiment(folder, labels="several", study=False)


@pytest.fixture(scope="session")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of single patches, each with a number."""
    folder = tmp_path_factory.mktemp("numbers") / "fields-forest"
    return write_experiment(folder, labels="number", study=False)


@pytest.fixture(params=["segmentation", "classification", "several", "numbers"])
def experiment(request: pytest.FixtureRequest) -> Path:
    """The experiments, one after the other."""
    folder: Path = request.getfixturevalue(request.param)
    return folder
