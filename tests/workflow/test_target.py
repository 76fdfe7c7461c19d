"""A number by pixel, from scenes of one's own to the report, by the real Snakemake.

The scenes are the embedded landscape's; what is learnt is the share of vegetation around a pixel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from scipy.ndimage import uniform_filter

from swath.data.landscape import TREES, VEGETATION, draw_scenes
from swath.data.patchset import open_patches

pytestmark = pytest.mark.slow

NODATA = -9.0
RUN = "runs/blocks-fold0-seed0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run_experiment: Callable[..., Path]) -> Path:
    """The results of an experiment whose labels are numbers."""
    folder = tmp_path_factory.mktemp("regression")
    for scene in draw_scenes(folder / "scenes", seed=3, scenes=2, size_px=256):
        with rasterio.open(scene / f"{scene.name}_classes.tif") as file:
            classes, profile = file.read(1), file.profile
        share = uniform_filter(np.isin(classes, (VEGETATION, TREES)).astype(np.float32), 5)
        share[classes == 255] = NODATA
        profile.update(driver="GTiff", dtype="float32", nodata=NODATA, photometric="MINISBLACK")
        with rasterio.open(scene / f"{scene.name}_vegetation.tif", "w", **profile) as file:
            file.write(100 * share.clip(0) * (share >= 0) + NODATA * (share < 0), 1)
    experiment = f"""# @package _global_
# The share of vegetation by pixel.
defaults:
  - override /task: regression

data:
  name: vegetation
  drawing: null
  folder: {folder / "scenes"}
  layout: {{labels: "*_vegetation.tif"}}
  classes: null
  target: {{name: vegetation, unit: "%"}}
patches: {{size_px: 32}}
split:
  blocks: {{size_m: 640.0}}
model: {{width: 4}}
trainer: {{epochs: 4, batch_size: 8, precision: fp32}}
optim: {{lr: 0.01}}
scores: {{block_m: 640.0}}
"""
    return run_experiment(folder, "vegetation", experiment)


def test_labels_are_numbers_and_nan_where_there_is_none(finished: Path) -> None:
    patches = open_patches(finished / "patches/manifest.json")
    label = patches.label.gather(np.arange(len(patches)))
    assert label.dtype == np.float32 and patches.classes == ["vegetation"]
    assert np.isnan(label).any(), "outside the swath and below clouds"
    assert np.nanmin(label) >= 0 and np.nanmax(label) > 95
    np.testing.assert_array_equal(patches.contents[:, 0], np.isfinite(label).sum(axis=(1, 2)))


def test_the_scores_are_those_of_the_predictions(finished: Path) -> None:
    patches = open_patches(finished / "patches/manifest.json")
    with np.load(finished / RUN / "predictions.npz") as saved:
        assert set(saved) == {"patch", "predicted"}
        which, predicted = saved["patch"], saved["predicted"]
    truth = patches.label.gather(which)
    known = np.isfinite(truth)
    off = (predicted - truth)[known].astype(np.float64)
    scores = json.loads((finished / RUN / "scores.json").read_text())
    assert scores["rmse"]["value"] == pytest.approx(np.sqrt((off**2).mean()))
    assert scores["mae"]["value"] == pytest.approx(np.abs(off).mean())
    assert scores["bias"]["value"] == pytest.approx(off.mean())
    assert scores["r2"]["value"] == pytest.approx(
        1 - (off**2).mean() / truth[known].var(), abs=1e-5
    )
    assert scores["rmse"]["low"] < scores["rmse"]["value"] < scores["rmse"]["high"]
    assert scores["pixels"] == known.sum()
    assert scores["r2"]["value"] > 0.5, "the bands tell of vegetation"
    by_scene = pd.read_parquet(finished / RUN / "scores_by_scene.parquet")
    assert by_scene["labels"].sum() == known.sum()


def test_the_forest_is_judged_alike_and_the_report_shows_both(finished: Path) -> None:
    told = json.loads((finished / "metrics.json").read_text())["blocks"]
    assert set(told["model"]) == set(told["baseline"]) == {"rmse", "mae", "bias", "r2"}
    assert told["baseline"]["r2"] > 0.5
    page = (finished / "report.html").read_text()
    assert "regression of vegetation (%) by pixel" in page
    assert 'class="predicted_numbers"' in page and 'id="confusion"' not in page
    assert 'class="predicted_number_map"' in page and 'class="predicted_map"' not in page


def test_the_scenes_are_mapped_in_numbers_beside_the_true_ones(finished: Path) -> None:
    folder = finished / "maps/blocks-fold0-seed0"
    told = json.loads((folder / "maps.json").read_text())
    assert len(told["scenes"]) == 2 and [Path(p).suffix for p in told["mosaics"]] == [".vrt"]
    project = finished.parents[1]
    for scene in told["scenes"]:
        with (
            rasterio.open(project / scene["numbers"]) as file,
            rasterio.open(project / scene["truth"]) as labels,
        ):
            assert (file.descriptions, file.units) == (("vegetation",), ("%",))
            assert (file.transform, file.crs, file.shape) == (
                labels.transform, labels.crs, labels.shape,
            )  # fmt: skip
            numbers, truth = file.read(1), labels.read(1)
        known = np.isfinite(truth) & np.isfinite(numbers)
        off = (numbers - truth)[known]
        assert known.mean() > 0.5 and (off**2).mean() < 0.5 * truth[known].var()
