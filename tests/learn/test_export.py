"""Networks as ONNX: they answer as before, at any batch and side, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from swath.errors import RunError
from swath.learn import export
from swath.learn.batches import Normalise
from swath.learn.export import export_onnx
from swath.learn.networks import load


def test_a_package_that_is_not_there_is_named(save_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "NEEDED", ("onnx_of_nowhere",))
    with pytest.raises(RunError) as told:
        export_onnx(save_model(), tmp_path / "a.onnx")
    assert "onnx_of_nowhere is not installed" in str(told.value)
    assert "pip install 'swath[onnx]'" in str(told.value) and "\n" not in str(told.value)
    assert not list(tmp_path.glob("*.onnx"))


def answers(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    (found,) = session.run(None, {"pixels": pixels})
    return found


@pytest.mark.parametrize("temperature, tta", [(None, False), (0.25, True)])
@pytest.mark.parametrize("name, data", [("unet", {"size_px": 32}), ("cnn", {"size_px": 16})])
def test_an_exported_network_answers_to_stored_pixels_as_before(
    save_model, tmp_path, name, data, temperature, tta
) -> None:
    for package in export.NEEDED:
        pytest.importorskip(package)
    model = save_model(name, width=4, data=data, temperature=temperature, tta=tta)
    difference = export_onnx(model, tmp_path / "a.onnx")
    assert 0 <= difference < 1e-4
    network, facts = load(model)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    sides = ((32, 32), (64, 96)) if name == "unet" else ((16, 16),)
    for batch, (height, width) in ((b, s) for b in (1, 5) for s in sides):
        pixels = np.random.default_rng(0).integers(600, 1800, (batch, 4, height, width))
        pixels[0, :, :3, :3] = 0
        with torch.inference_mode():
            answer = network(normalise(pixels.astype(np.uint16)))
            expected = (answer / (temperature or 1)).softmax(1).numpy()
        found = answers(tmp_path / "a.onnx", pixels.astype(np.float32))
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("labels", ["several", "patch"])
def test_several_labels_are_each_as_probable_as_they_are(save_model, labels) -> None:
    network, facts = load(save_model("cnn", width=4, data={"labels": labels}))
    image = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], None)
    pixels = image / torch.from_numpy(normalise.scale) + torch.from_numpy(normalise.mean)
    with torch.inference_mode():
        answer = network(image)
        found = export._FromStored(network, facts)(pixels)
    expected = answer.sigmoid() if labels == "several" else answer.softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name, data", [("unet", {"size_px": 32}), ("cnn", {"size_px": 16})])
def test_an_exported_network_of_numbers_answers_in_their_unit(
    save_model, tmp_path, name, data
) -> None:
    for package in export.NEEDED:
        pytest.importorskip(package)
    model = save_model(name, width=4, data=data, classes=["height"], scale=[400.0, 125.0])
    assert 0 <= export_onnx(model, tmp_path / "a.onnx") < 1e-4
    network, facts = load(model)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    pixels = np.random.default_rng(0).integers(600, 1800, (3, 4, *[data["size_px"]] * 2))
    with torch.inference_mode():
        expected = 400 + 125 * network(normalise(pixels.astype(np.uint16))).squeeze(1).numpy()
    found = answers(tmp_path / "a.onnx", pixels.astype(np.float32))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_an_exported_network_knows_its_bands_and_classes(save_model, tmp_path) -> None:
    for package in export.NEEDED:
        pytest.importorskip(package)
    import onnx

    model = save_model(data={"size_px": 16, "gsd_m": 10.0}, temperature=0.5)
    export_onnx(model, tmp_path / "a.onnx")
    known = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert known["bands"] == ["red", "green", "blue", "nir"]
    assert known["classes"] == ["Water", "Forest", "Pasture"]
    assert known["nodata"] == 0 and known["data"]["gsd_m"] == 10.0 and known["temperature"] == 0.5


def test_a_network_that_answers_differently_is_not_kept(save_model, tmp_path, monkeypatch) -> None:
    for package in export.NEEDED:
        pytest.importorskip(package)
    with pytest.raises(RunError, match=r"differs by .* more than 0"):
        monkeypatch.setattr(export, "_difference", lambda *_: 1e-9)
        export_onnx(save_model(), tmp_path / "a.onnx", tolerance=0.0)
    assert not list(tmp_path.glob("*.onnx"))
