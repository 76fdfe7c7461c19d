"""Several labels a patch, from an archive to the report and a study, by the real Snakemake.

The archive is a small twin of BigEarthNet's: its folders, names, bands and JSON files.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_origin
from sklearn import metrics

from swath.data.patchset import open_patches
from swath.files import content_digest

pytestmark = pytest.mark.slow

BANDS = {"B02": 10, "B03": 10, "B04": 10, "B05": 20}
# Class -> the band that tells of it.
CLASSES = {"Pastures": "B02", "Coniferous forest": "B04", "Inland waters": "B05"}
SIDE_M = 1200


def write_twin(path: Path) -> None:
    """36 patches of four acquisitions; each has some of three classes, told by a band each."""
    rng = np.random.default_rng(0)
    wkt = CRS.from_epsg(32632).to_wkt()
    with zipfile.ZipFile(path, "w") as opened:
        for number in range(36):
            column, row = number % 9, number // 9
            day = 13 + row
            name = f"S2A_MSIL2A_201706{day}T101031_{column}_{row}"
            there = rng.random(3) < (0.7, 0.5, 0.3)
            if not there.any():
                there[0] = True
            corner = 600_000 + SIDE_M * column, 5_400_000 - SIDE_M * row
            for band, gsd_m in BANDS.items():
                side = SIDE_M // gsd_m
                pixels = rng.normal(1000, 60, (1, side, side))
                pixels += sum(
                    800 for k, of in enumerate(CLASSES.values()) if there[k] and of == band
                )
                profile = {
                    "driver": "GTiff", "count": 1, "height": side, "width": side,
                    "dtype": "uint16", "crs": "EPSG:32632",
                    "transform": from_origin(*corner, gsd_m, gsd_m),
                }  # fmt: skip
                stream = io.BytesIO()
                with rasterio.open(stream, "w", **profile) as file:
                    file.write(pixels.astype(np.uint16))
                opened.writestr(f"twin/{name}/{name}_{band}.tif", stream.getvalue())
            said = {
                "labels": [label for label, one in zip(CLASSES, there, strict=True) if one],
                "coordinates": {"ulx": corner[0], "uly": corner[1]},
                "projection": wkt,
                "acquisition_date": f"2017-06-{day} 10:10:31",
            }
            opened.writestr(f"twin/{name}/{name}_labels_metadata.json", json.dumps(said))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run_experiment: Callable[..., Path]) -> Path:
    """The results of an experiment on the twin."""
    folder = tmp_path_factory.mktemp("several")
    mirror = folder / "mirror" / "bigearthnet"
    mirror.mkdir(parents=True)
    write_twin(mirror / "twin.zip")
    experiment = f"""# @package _global_
# The tests' twin of BigEarthNet.
defaults:
  - override /data: bigearthnet_sample
  - override /patches: published
  - override /split: blocks
  - override /task: multilabel
  - override /model: cnn

data:
  name: twin
  title: A twin of BigEarthNet
  files: [{{name: twin.zip, unpack: true, content: '{content_digest(mirror / "twin.zip")}'}}]
  rgb: [B04, B03, B02]
  bands: {[{"name": name, "gsd_m": float(gsd)} for name, gsd in BANDS.items()]}
split:
  blocks: {{size_m: 2400.0}}
model: {{width: 4}}
trainer: {{epochs: 12, batch_size: 4, precision: fp32}}
optim: {{lr: 0.01}}
scores: {{block_m: 2400.0}}
sweep:
  trials: 2
  rungs: 1
  epochs: 1
  space:
    optim.lr: {{choice: [0.01, 0.001]}}
"""
    return run_experiment(folder, "twin", experiment, SWATH_MIRROR=str(mirror.parent))


def test_the_scores_are_those_of_the_predictions(finished: Path) -> None:
    run = finished / "runs/blocks-fold0-seed0"
    patches = open_patches(finished / "patches/manifest.json")
    with np.load(run / "predictions.npz") as saved:
        which, predicted, probability = (saved[k] for k in ("patch", "predicted", "confidence"))
    truth = patches.label.gather(which)
    assert truth.shape == probability.shape == (len(which), 19)
    np.testing.assert_array_equal(predicted, probability > 0.5)
    scores = json.loads((run / "scores.json").read_text())
    there = truth.any(axis=0)
    for average in ("macro", "micro"):
        columns = there if average == "macro" else np.ones(19, bool)
        expected = metrics.average_precision_score(
            truth[:, columns], probability[:, columns], average=average
        )
        assert scores[f"{average}_ap"]["value"] == pytest.approx(expected)
    assert scores["macro_ap"]["value"] > 0.9, "the bands tell of the classes"
    assert scores["macro_ap"]["low"] <= scores["macro_ap"]["value"] <= scores["macro_ap"]["high"]
    support = {row["class"]: row["support"] for row in scores["per_class"]}
    assert support == dict(zip(patches.classes, truth.sum(axis=0).tolist(), strict=True))
    by_scene = pd.read_parquet(run / "scores_by_scene.parquet")
    assert by_scene["patches"].sum() == len(which)


def test_the_baseline_is_judged_by_the_same_measures(finished: Path) -> None:
    told = json.loads((finished / "metrics.json").read_text())["blocks"]
    assert set(told["model"]) == set(told["baseline"]) == {
        "macro_ap", "micro_ap", "macro_f1", "micro_f1", "subset_accuracy", "overall_accuracy",
        "calibration_error",
    }  # fmt: skip
    assert told["baseline"]["macro_ap"] > 0.9


def test_the_report_shows_the_labels(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "several labels a patch, 19 classes" in page and "mean average precision" in page
    assert 'class="precision_recall"' in page and 'class="examples_several"' in page


def test_a_study_ranks_by_what_the_task_monitors(finished: Path) -> None:
    study = json.loads((finished / "study/trials.json").read_text())
    assert study["objectives"] == [{"name": "val/map", "direction": "maximize"}]
    (rows,) = (json.loads(p.read_text()) for p in (finished / "study").glob("*/rung0/*.json"))
    runs = finished.parents[1] / "state/runs"
    for row in rows:
        history = json.loads((runs / row["run_id"] / "progress.json").read_text())["history"]
        assert row["scores"] == [max(epoch["val/map"] for epoch in history)]
