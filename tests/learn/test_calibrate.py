"""Temperatures: those that were drawn are found, and they change how sure, never which class."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from swath.data.card import UNLABELLED
from swath.learn import calibrate as module
from swath.learn.calibrate import calibrate, fit_temperature
from swath.learn.networks import load
from swath.learn.predict import predict_patches
from swath.study.scores import calibration_error, reliability


def drawn(sharper: float, *, several: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels by the probabilities of logits, and the logits times a factor."""
    generator = torch.Generator().manual_seed(0)
    if several:
        answer = 2 * torch.randn(40_000, generator=generator)
        return sharper * answer, torch.bernoulli(answer.sigmoid(), generator=generator).long()
    answer = 2 * torch.randn(20_000, 5, generator=generator)
    label = torch.multinomial(answer.softmax(1), 1, generator=generator)[:, 0]
    return sharper * answer, label


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_the_temperature_is_what_the_answers_were_multiplied_by(sharper, several) -> None:
    answer, label = drawn(sharper, several=several)
    assert fit_temperature(answer, label) == pytest.approx(sharper, rel=0.03)


def test_no_temperature_near_it_is_likelier() -> None:
    answer, label = drawn(2.0)
    found = fit_temperature(answer, label)
    loss = [
        float(torch.nn.functional.cross_entropy(answer.double() / t, label))
        for t in (0.999 * found, found, 1.001 * found)
    ]
    assert loss[1] < loss[0] and loss[1] < loss[2]


def test_answers_that_are_all_right_leave_the_temperature_at_1() -> None:
    answer, _ = drawn(1.0)
    assert fit_temperature(answer, answer.argmax(dim=1)) == 1.0
    assert fit_temperature(answer[:, 0], (answer[:, 0] > 0).long()) == 1.0


def test_answers_that_say_nothing_stay_within_the_bounds() -> None:
    answer, label = drawn(1.0)
    wrong = (answer.argmin(dim=1) + 0 * label)[:100]
    assert 15 < fit_temperature(answer[:100], wrong) <= 20


@pytest.fixture
def unsure(patch_set, save_model, request) -> tuple[Path, object, np.ndarray]:
    """An untrained network, patches, and those of them that it is calibrated by."""
    labels, name = request.param
    return (
        save_model(name, **({"width": 4} if name != "perceptron" else {})),
        patch_set(60, labels=labels),
        np.arange(10, 50),
    )


KINDS = [("pixel", "perceptron"), ("pixel", "unet"), ("patch", "cnn")]


@pytest.mark.parametrize("unsure", KINDS, indirect=True)
def test_a_calibrated_network_says_the_same_classes_by_other_odds(unsure, tmp_path) -> None:
    model, patches, which = unsure
    told = calibrate(model, patches, which, tmp_path / "best.ckpt")
    before, after = (
        predict_patches(path, patches, which) for path in (model, tmp_path / "best.ckpt")
    )
    np.testing.assert_array_equal(before[0], after[0])
    assert abs(told["temperature"] - 1) > 0.02
    # Above 1 all are less sure, below it all are surer.
    surer = after[1].astype(float) - before[1].astype(float)
    assert (surer * np.sign(1 - told["temperature"]) >= 0).all() and np.abs(surer).max() > 0.003
    found = told["calibration"]
    assert found["nll_after"] < found["nll_before"]


@pytest.mark.parametrize("unsure", KINDS, indirect=True)
def test_the_told_error_is_that_of_the_scores(unsure, tmp_path) -> None:
    model, patches, which = unsure
    found = calibrate(model, patches, which, tmp_path / "best.ckpt")["calibration"]
    truth = patches.label.gather(which)
    for path, key in ((model, "ece_before"), (tmp_path / "best.ckpt", "ece_after")):
        sums = reliability(truth, *predict_patches(path, patches, which)).sum(axis=0)
        # Confidences are kept in float16, which may put one into the next bin.
        assert calibration_error(sums) == pytest.approx(found[key], abs=2e-3)
    assert found["labels"] == truth.size


@pytest.mark.parametrize("unsure", [("pixel", "unet")], indirect=True)
def test_only_the_temperature_is_new_in_the_file(unsure, tmp_path) -> None:
    model, patches, which = unsure
    told = calibrate(model, patches, which, tmp_path / "best.ckpt")
    (network, facts), (calibrated, known) = load(model), load(tmp_path / "best.ckpt")
    assert facts["temperature"] == 1.0
    assert known == facts | {"temperature": told["temperature"], "tta": False}
    for name, value in network.state_dict().items():
        assert torch.equal(value, calibrated.state_dict()[name]), name
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert saved.keys() == torch.load(model, weights_only=True).keys()
    assert json.loads(saved["facts"]) == known


@pytest.mark.parametrize("unsure", [("pixel", "unet")], indirect=True)
def test_twice_gives_the_same_bytes(unsure, tmp_path, monkeypatch) -> None:
    """Also where not all pixels are compared."""
    monkeypatch.setattr(module, "LABELS", 2000)
    model, patches, which = unsure
    told = [calibrate(model, patches, which, tmp_path / name) for name in ("a.ckpt", "b.ckpt")]
    assert told[0] == told[1]
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    assert told[0]["calibration"]["labels"] == 40 * (2000 // 40)


@pytest.mark.parametrize("unsure", [("pixel", "perceptron")], indirect=True)
def test_patches_and_pixels_are_bounded_and_unlabelled_ones_left_out(
    unsure, tmp_path, monkeypatch
) -> None:
    model, patches, which = unsure
    full = calibrate(model, patches, which, tmp_path / "a.ckpt")
    for chunk in patches.label.chunks:
        chunk[:, :, :8] = UNLABELLED
    half = calibrate(model, patches, which, tmp_path / "a.ckpt")
    assert half["calibration"]["labels"] == full["calibration"]["labels"] / 2
    monkeypatch.setattr(module, "PATCHES", 7)
    few = calibrate(model, patches, which, tmp_path / "a.ckpt")
    assert few["calibration"]["labels"] == 7 * 16 * 8
    # A part of the pixels tells about what all do.
    assert few["temperature"] == pytest.approx(half["temperature"], rel=0.2)


def test_several_labels_a_patch_are_calibrated_each_by_itself(
    patch_set, save_model, tmp_path, caplog
) -> None:
    from dataclasses import replace

    from swath.data.mapped import Mapped

    patches = patch_set(60)
    several = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(np.uint8)
    several[:5, 1] = UNLABELLED
    patches = replace(
        patches,
        label=Mapped((several,), several.shape),
        facts=patches.facts | {"labels": "several"},
    )
    with caplog.at_level(logging.INFO, "swath"):
        told = calibrate(save_model("cnn", width=4), patches, np.arange(40), tmp_path / "a.ckpt")
    assert told["calibration"]["labels"] == 40 * 3 - 5
    assert told["calibration"]["nll_after"] < told["calibration"]["nll_before"]
    assert f"temperature {told['temperature']:.3f}: on 115 labels" in caplog.text
