"""Predictions of patches, and maps of scenes: georeferenced, whole, without seams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch

from swath.data.card import UNLABELLED
from swath.errors import DataError, RunError
from swath.learn.batches import Normalise
from swath.learn.predict import map_scene, predict_patches
from swath.learn.train import load

BANDS = ["red", "green", "blue", "nir"]
COLOURS = ["#1f4fd8", "#1b7837", "#66c2a5"]


def mapped(model, scene, folder, **given) -> tuple[np.ndarray, np.ndarray]:
    written = map_scene(
        model, scene, folder, colours=COLOURS, rgb=BANDS[:3], resampling="nearest", **given
    )
    opened = []
    for kind in ("classes", "confidence"):
        with rasterio.open(written[kind]) as file:
            opened.append(file.read(1))
    return opened[0], opened[1]


def pixels_of(scene) -> np.ndarray:
    return scene.read(0, 0, scene.grid.height, scene.grid.width, "nearest")


def forward(model, scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes and percent of the whole scene in one piece, and where the swath is."""
    network, facts = load(model)
    pixels = pixels_of(scene)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    with torch.inference_mode():
        share, index = network(normalise(pixels[None])).softmax(1)[0].max(0)
    return index.numpy(), np.round(share.numpy() * 100), (pixels != 0).any(axis=0)


# ---- patches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_patches_are_predicted_in_the_order_asked_for(patch_set, save_model, precision) -> None:
    patches = patch_set(13, labels="pixel")
    model = save_model("unet", width=4, depth=1, precision=precision)
    which = np.array([12, 0, 7])
    predicted, confidence = predict_patches(model, patches, which, batch_size=2)
    assert predicted.shape == confidence.shape == (3, 16, 16)
    assert predicted.dtype == np.uint8 and confidence.dtype == np.float16
    assert predicted.max() < 3
    assert (confidence >= 1 / 3 - 1e-3).all() and (confidence <= 1).all()
    alone = [predict_patches(model, patches, np.array([n]))[0][0] for n in which]
    assert (np.stack(alone) == predicted).mean() > (0.999 if precision == "fp32" else 0.98)


def test_labels_of_patches_give_one_answer_each(patch_set, save_model) -> None:
    patches = patch_set(6)
    predicted, confidence = predict_patches(save_model("cnn", width=4), patches, np.arange(6))
    assert predicted.shape == confidence.shape == (6,)


@pytest.mark.parametrize("what", ["bands", "classes"])
def test_a_model_of_other_bands_or_classes_is_refused(patch_set, save_model, what) -> None:
    patches = patch_set(6, labels="pixel")
    others = replace(patches, facts=patches.facts | {what: ["a", "b", "c", "d"]})
    with pytest.raises(RunError) as error:
        predict_patches(save_model(), others, np.arange(6))
    assert "\n" not in str(error.value) and what in str(error.value)


# ---- maps -------------------------------------------------------------------------------------


def test_a_map_lies_exactly_on_its_scene_and_is_cloud_optimised(
    scene, save_model, tmp_path
) -> None:
    mapped(save_model(), scene, tmp_path)
    with rasterio.open(scene.files[0]) as image:
        for name in ("classes", "confidence"):
            with rasterio.open(tmp_path / f"scene_a_{name}.tif") as file:
                assert file.transform == image.transform
                assert file.crs == image.crs
                assert file.shape == image.shape
                assert file.dtypes == ("uint8",)
                assert file.nodata == UNLABELLED
                assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    kinds = sorted(p.name.removeprefix("scene_a_") for p in tmp_path.glob("*.tif"))
    assert kinds == ["classes.tif", "confidence.tif", "image.tif"]


def test_beside_a_map_lies_a_picture_of_three_bands(scene, save_model, tmp_path) -> None:
    mapped(save_model(), scene, tmp_path, window_px=64)
    with rasterio.open(tmp_path / "scene_a_image.tif") as file:
        assert file.descriptions == tuple(BANDS[:3])
        np.testing.assert_array_equal(file.read(), pixels_of(scene)[:3])


def test_classes_have_their_colours_and_names(scene, save_model, tmp_path) -> None:
    mapped(save_model(), scene, tmp_path)
    with rasterio.open(tmp_path / "scene_a_classes.tif") as file:
        table = file.colormap(1)
        names = file.tags(1)
    for value, colour in enumerate(COLOURS):
        assert "#{:02x}{:02x}{:02x}".format(*table[value][:3]) == colour
        assert table[value][3] == 255
    assert table[UNLABELLED][3] == 0
    assert [names[str(value)] for value in range(3)] == ["Water", "Forest", "Pasture"]


def test_a_pixel_model_maps_as_it_does_on_the_whole_scene(scene, save_model, tmp_path) -> None:
    model = save_model()
    expected, percent, inside = forward(model, scene)
    classes, confidence = mapped(model, scene, tmp_path, window_px=64)
    np.testing.assert_array_equal(classes[inside], expected[inside])
    assert np.abs(confidence[inside] - percent[inside]).max() <= 1
    assert 0.05 < (~inside).mean() < 0.5
    assert (classes[~inside] == UNLABELLED).all() and (confidence[~inside] == UNLABELLED).all()


def test_a_model_with_neighbours_maps_as_on_the_whole_scene(scene, save_model, tmp_path) -> None:
    model = save_model("unet", width=4, depth=1)
    expected, percent, inside = forward(model, scene)
    classes, confidence = mapped(model, scene, tmp_path, window_px=64)
    inside[:32] = inside[-32:] = False  # at the scene's edge the map sees it mirrored
    inside[:, :32] = inside[:, -32:] = False
    assert (classes[inside] == expected[inside]).mean() > 0.999
    assert np.abs(confidence[inside] - percent[inside]).max() <= 1


@pytest.mark.parametrize("name, share", [("perceptron", 1.0), ("unet", 0.99)])
def test_windows_leave_no_seams(scene, save_model, tmp_path, name, share) -> None:
    model = save_model(name)
    small, _ = mapped(model, scene, tmp_path, window_px=64)
    large, _ = mapped(model, scene, tmp_path, window_px=128)
    assert (small == large).mean() >= share


def test_a_scene_smaller_than_a_window_and_its_margin(scene, save_model, tmp_path) -> None:
    layers = tuple(
        replace(layer, grid=replace(layer.grid, height=20 // factor, width=24 // factor))
        for layer, (_, factor) in zip(scene.layers, scene.factors, strict=True)
    )
    small = replace(scene, layers=layers)
    classes, _ = mapped(save_model("unet", width=4), small, tmp_path)
    assert classes.shape == (20, 24)
    assert (classes != UNLABELLED).all()


def test_a_scene_that_lacks_a_band_is_refused(scene, save_model, tmp_path) -> None:
    with pytest.raises(RunError) as error:
        mapped(save_model(), replace(scene, bands=scene.bands[:3]), tmp_path)
    assert "\n" not in str(error.value) and "scene_a" in str(error.value)
    assert not list(tmp_path.glob("*.tif"))


def test_a_map_that_fails_leaves_nothing(scene, save_model, tmp_path) -> None:
    absent = replace(scene.layers[1], where=((tmp_path / "absent.tif", 1),))
    broken = replace(scene, layers=(scene.layers[0], absent))
    with pytest.raises(DataError, match=r"absent\.tif"):
        mapped(save_model(), broken, tmp_path)
    assert not list(tmp_path.glob("*.tif")) and not list(tmp_path.glob(".*.tif"))
