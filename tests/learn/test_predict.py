"""Predictions of patches: in order, with their rate, and of the right bands and classes."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from swath.errors import RunError
from swath.learn.batches import Batches
from swath.learn.networks import load
from swath.learn.predict import Trained, opened, predict_patches


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_patches_are_predicted_in_the_order_asked_for(patch_set, save_model, precision) -> None:
    patches = patch_set(13, labels="pixel")
    model = save_model("unet", width=4, depth=1, precision=precision, batch_size=2)
    which = np.array([12, 0, 7])
    predicted, confidence = predict_patches(model, patches, which)
    assert predicted.shape == confidence.shape == (3, 16, 16)
    assert predicted.dtype == np.uint8 and confidence.dtype == np.float16
    assert predicted.max() < 3
    assert (confidence >= 1 / 3 - 1e-3).all() and (confidence <= 1).all()
    alone = [predict_patches(model, patches, np.array([n]))[0][0] for n in which]
    assert (np.stack(alone) == predicted).mean() > (0.999 if precision == "fp32" else 0.98)


def test_a_temperature_changes_how_sure_and_no_class(patch_set, save_model) -> None:
    """Also where it is so high that float32 cannot tell two probabilities apart."""
    patches, which = patch_set(12, labels="pixel"), np.arange(12)
    plain = predict_patches(save_model("unet", width=4, depth=1), patches, which)
    for temperature in (0.2, 4.0, 1e6):
        model = save_model("unet", width=4, depth=1, temperature=temperature)
        predicted, confidence = predict_patches(model, patches, which)
        np.testing.assert_array_equal(predicted, plain[0])
        trained = opened(model)
        image = next(iter(Batches(patches, which[:1], batch_size=1, **trained.facts["statistics"])))
        expected = (trained(image[0]) / temperature).softmax(dim=1).amax(dim=1)
        assert np.abs(confidence[:1] - expected.numpy()).max() < 1e-3
    assert np.abs(confidence - 1 / 3).max() < 1e-3


def test_labels_of_patches_give_one_answer_each(patch_set, save_model) -> None:
    patches = patch_set(6)
    predicted, confidence = predict_patches(save_model("cnn", width=4), patches, np.arange(6))
    assert predicted.shape == confidence.shape == (6,)


def test_of_several_labels_each_class_is_decided_by_itself(
    patch_set, several, statistics, save_model
) -> None:
    patches = several(patch_set(6))
    model = save_model("cnn", width=4, data={"labels": "several"})
    predicted, probability = predict_patches(model, patches, np.arange(6))
    image, _ = next(iter(Batches(patches, np.arange(6), batch_size=6, **statistics)))
    with torch.inference_mode():
        expected = load(model)[0](image).sigmoid().numpy()
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    assert predicted.shape == (6, 3) and predicted.dtype == np.uint8
    assert probability.dtype == np.float32  # half of it would make many equally probable
    np.testing.assert_array_equal(predicted, expected > 0.5)


def test_a_model_of_another_kind_of_labels_is_refused(patch_set, several, save_model) -> None:
    model = save_model("cnn", width=4, data={"labels": "patch"})
    with pytest.raises(
        RunError, match=r"learnt labels by patch, the patch set has them by several"
    ):
        predict_patches(model, several(patch_set(6)), np.arange(6))


@pytest.mark.parametrize("what", ["bands", "classes"])
def test_a_model_of_other_bands_or_classes_is_refused(patch_set, save_model, what) -> None:
    patches = patch_set(6, labels="pixel")
    others = replace(patches, facts=patches.facts | {what: ["a", "b", "c", "d"]})
    with pytest.raises(RunError) as error:
        predict_patches(save_model(), others, np.arange(6))
    assert "\n" not in str(error.value) and what in str(error.value)


def test_nothing_to_predict_is_told(patch_set, save_model) -> None:
    with pytest.raises(RunError, match="split: no patch is to be predicted"):
        predict_patches(save_model(), patch_set(6, labels="pixel"), np.arange(0))


@pytest.mark.parametrize("trained, together", [(4, 4), (512, 128)])
def test_no_more_patches_are_predicted_together_than_were_trained(
    patch_set, save_model, monkeypatch, trained, together
) -> None:
    seen: list[int] = []
    ask = Trained.__call__
    monkeypatch.setattr(
        Trained, "__call__", lambda self, image: seen.append(len(image)) or ask(self, image)
    )
    predict_patches(save_model(batch_size=trained), patch_set(130, labels="pixel"), np.arange(130))
    assert max(seen) == together and sum(seen) == 130


@pytest.mark.parametrize("failed", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_too_little_memory_is_one_line(patch_set, save_model, monkeypatch, failed) -> None:
    def lacks(*_) -> None:
        raise failed

    monkeypatch.setattr(Trained, "__call__", lacks)
    with pytest.raises(RunError, match="has too little memory for batches of 4 patches") as error:
        predict_patches(save_model(batch_size=4), patch_set(6, labels="pixel"), np.arange(6))
    assert "\n" not in str(error.value)


def test_the_rate_is_told(patch_set, save_model, caplog) -> None:
    patches = patch_set(40, labels="pixel")
    with caplog.at_level(logging.INFO, "swath"):
        predict_patches(save_model(), patches, np.arange(40))
    told = re.search(r"40 patches in (\S+) s \(fp32\): (\d+) patches/s", caplog.text)
    assert told, caplog.text
    # The time is told to 10 ms.
    assert 40 / (float(told[1]) + 0.01) < int(told[2]) + 1
    assert int(told[2]) - 1 < 40 / max(float(told[1]) - 0.01, 1e-6)


def test_the_precision_is_that_of_the_training_unless_it_is_given(save_model) -> None:
    assert opened(save_model(precision="fp32")).precision == "fp32"
    assert opened(save_model(precision="fp32"), "bf16").precision == "bf16"
    assert opened(save_model(precision="bf16"), "bf16").precision == "bf16"


def test_an_answer_in_bf16_is_close_and_is_not_that_of_float32(save_model) -> None:
    image = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    low, full = (opened(save_model("unet", width=4, depth=1), p)(image) for p in ("bf16", "fp32"))
    assert low.dtype == torch.bfloat16
    assert 0 < (low.float() - full).abs().max() < 0.1
