"""One run: going on, refusals, and models that are read as data."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from swath.errors import RunError
from swath.learn import batches
from swath.learn.networks import load
from swath.learn.train import train


def parts_of(count: int) -> np.ndarray:
    parts = np.full(count, "train", dtype="<U6")
    parts[::4] = "val"
    return parts


def last_weights(state) -> dict[str, torch.Tensor]:
    return torch.load(state / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# ---- a run ------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_what_it_promises(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches = patch_set(32, labels="pixel")
    outcome = train(patches, parts_of(32), statistics, tmp_path, **sections(), seed=0)
    assert list(outcome.history["epoch"]) == [0, 1, 2, 3]
    assert {"train/loss", "val/loss", "val/accuracy", "lr", "seconds", "images_per_s"} <= set(
        outcome.history
    )
    assert outcome.history["train/loss"].is_monotonic_decreasing
    assert outcome.best_epoch == outcome.history["val/accuracy"].idxmax()
    assert outcome.facts["parameters"] == 4 * 3 + 3
    assert outcome.facts["epochs"] == 4 and outcome.facts["attempts"] == 1
    network, facts = load(outcome.model)
    assert not network.training
    assert facts["classes"] == patches.classes and facts["statistics"] == statistics


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_best_epoch_is_the_one_that_is_kept_or_the_last(
    patch_set, statistics, sections, tmp_path, keep
) -> None:
    patches = patch_set(32, labels="pixel")
    # A rate as high as this makes the last epoch another one than the best.
    given = sections(
        trainer__keep=keep, trainer__epochs=4, optim__lr=3.0, optim__schedule="constant"
    )
    outcome = train(patches, parts_of(32), statistics, tmp_path, **given, seed=0)
    accuracy = outcome.history["val/accuracy"]
    assert accuracy.iloc[-1] < accuracy.max()
    assert outcome.best_epoch == (3 if keep == "last" else accuracy.idxmax())
    network, facts = load(outcome.model)
    val = np.flatnonzero(parts_of(32) == "val")
    from swath.learn.batches import Batches

    image, label = next(iter(Batches(patches, val, batch_size=64, **facts["statistics"])))
    with torch.inference_mode():
        right = (network(image).argmax(1) == label).float().mean()
    assert float(right) == pytest.approx(accuracy[outcome.best_epoch], abs=1e-6)


@pytest.mark.parametrize(
    "model, task, given",
    [
        ("perceptron", "segmentation", {}),
        ("unet", "segmentation", {"model__width": 4, "model__depth": 1}),
        ("cnn", "classification", {"model__width": 4, "model__blocks": 1, "model__dropout": 0.0}),
        # Dropout draws from torch's random state, which has to go on as well.
        ("cnn", "classification", {"model__width": 4, "model__blocks": 1, "model__dropout": 0.5}),
        # Its weights are sized by the first patch, and by the file when it is loaded.
        ("mlp", "classification", {"model__hidden": [4]}),
    ],
)
def test_stopping_and_going_on_equals_a_straight_run_bit_for_bit(
    patch_set, statistics, sections, tmp_path, model, task, given
) -> None:
    patches = patch_set(24, labels="pixel" if task == "segmentation" else "patch")
    run: dict[str, Any] = sections(model, task, **given) | {"seed": 3}
    straight = train(patches, parts_of(24), statistics, tmp_path / "straight", **run)
    first = train(patches, parts_of(24), statistics, tmp_path / "cut", **run, until_epoch=2)
    assert len(first.history) == 2 and first.facts["attempts"] == 1
    torch.manual_seed(999)  # whatever else drew random numbers in between
    gone_on = train(patches, parts_of(24), statistics, tmp_path / "cut", **run)
    assert gone_on.facts["attempts"] == 2
    compared = ["epoch", "train/loss", "val/loss", "val/accuracy", "lr"]
    assert gone_on.history[compared].equals(straight.history[compared])
    assert_same_weights(last_weights(tmp_path / "cut"), last_weights(tmp_path / "straight"))
    assert_same_weights(load(gone_on.model)[0].state_dict(), load(straight.model)[0].state_dict())


def test_a_finished_run_asked_again_trains_nothing(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches = patch_set(24, labels="pixel")
    once = train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    stamp = (tmp_path / "last.ckpt").stat().st_mtime_ns
    again = train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    assert (tmp_path / "last.ckpt").stat().st_mtime_ns == stamp
    assert again.facts["attempts"] == 1 and again.history.equals(once.history)


def test_the_seed_reaches_the_weights(patch_set, statistics, sections, tmp_path) -> None:
    patches = patch_set(24, labels="pixel")
    for seed in (0, 1):
        given = sections(trainer__epochs=1)
        train(patches, parts_of(24), statistics, tmp_path / str(seed), **given, seed=seed)
    one, other = (last_weights(tmp_path / str(seed)) for seed in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_automatic_precision_is_decided_once(patch_set, statistics, sections, tmp_path) -> None:
    patches = patch_set(24, labels="pixel")
    given = sections(trainer__precision="auto")
    first = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0, until_epoch=1)
    assert first.facts["precision"] in ("bf16", "fp32")
    progress = json.loads((tmp_path / "progress.json").read_text())
    other = {"bf16": "fp32", "fp32": "bf16"}[first.facts["precision"]]
    progress["facts"]["precision"] = other
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    assert (
        train(patches, parts_of(24), statistics, tmp_path, **given, seed=0).facts["precision"]
        == other
    )


def test_the_order_is_decided_once(
    patch_set, statistics, sections, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on in its own order on a machine with more memory, too."""
    patches = patch_set(24, labels="pixel")
    monkeypatch.setattr(batches, "memory_bytes", lambda: 1000)
    train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0, until_epoch=1)
    monkeypatch.undo()
    train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    facts = json.loads((tmp_path / "progress.json").read_text())["facts"]
    assert facts["shuffle"] == "blocks"


AUGMENT = {"crop_px": 12, "band_dropout": 0.2, "mixup": 0.4, "cutmix": 1.0}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_run_with_mixed_labels_learns_and_goes_on_bit_for_bit(
    patch_set, statistics, sections, tmp_path, smoothing
) -> None:
    patches = patch_set(32)
    given = sections(
        "cnn", "classification", model__width=4, model__blocks=1, trainer__epochs=6,
        trainer__augment=AUGMENT, task__label_smoothing=smoothing,
    )  # fmt: skip
    straight = train(patches, parts_of(32), statistics, tmp_path / "straight", **given, seed=0)
    assert straight.history["val/accuracy"].max() > 0.8
    train(patches, parts_of(32), statistics, tmp_path / "cut", **given, seed=0, until_epoch=3)
    gone_on = train(patches, parts_of(32), statistics, tmp_path / "cut", **given, seed=0)
    assert gone_on.history["train/loss"].equals(straight.history["train/loss"])


# ---- bad input: one line each -----------------------------------------------------------------


def refused(error: pytest.ExceptionInfo[RunError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


def test_patches_too_small_for_bf16_are_trained_in_float32(
    patch_set, statistics, sections, tmp_path
) -> None:
    given = sections("cnn", "classification", trainer__precision="auto")
    found = train(patch_set(24, side=3), parts_of(24), statistics, tmp_path, **given, seed=0)
    assert found.facts["precision"] == "fp32"


def test_what_a_gpu_chose_is_chosen_anew_where_it_would_do_harm_on_a_cpu(
    patch_set, statistics, sections, tmp_path
) -> None:
    """A run goes on on another device; bf16 is kept there, channels that lie last are not."""
    chosen = {"attempts": 1, "precision": "bf16", "channels_last": True, "compile": False}
    (tmp_path / "progress.json").write_text(json.dumps({"facts": chosen, "history": []}))
    given = sections("cnn", "classification", model__width=8, trainer__epochs=1,
                     trainer__precision="bf16", trainer__channels_last="auto")  # fmt: skip
    facts = train(patch_set(24, side=32), parts_of(24), statistics, tmp_path, **given, seed=0).facts
    assert (facts["attempts"], facts["precision"], facts["channels_last"]) == (2, "bf16", False)


@pytest.mark.parametrize("labels", ["patch", "pixel"])
def test_a_validation_part_without_a_label_is_refused(
    patch_set, statistics, sections, tmp_path, labels
) -> None:
    patches, parts = patch_set(24, labels=labels), parts_of(24)
    contents = patches.contents * (parts != "val")[:, None]
    task = ("cnn", "classification") if labels == "patch" else ("perceptron", "segmentation")
    with pytest.raises(RunError) as error:
        train(replace(patches, contents=contents), parts, statistics, tmp_path,
              **sections(*task), seed=0)  # fmt: skip
    refused(error, "the part val has no label", "split")


@pytest.mark.parametrize("wanted", ["auto", True])
@pytest.mark.parametrize("width, last", [(15, False), (16, True)])
def test_channels_do_not_lie_last_where_that_breaks_the_memory(
    patch_set, statistics, sections, tmp_path, width, last, wanted
) -> None:
    """With fewer channels in its shortcut, of patches as large as these, oneDNN would crash."""
    given = sections(
        "cnn",
        "classification",
        model__width=width,
        trainer__channels_last=wanted,
        trainer__epochs=1,
    )
    found = train(patch_set(12, side=120), parts_of(12), statistics, tmp_path, **given, seed=0)
    assert found.facts["channels_last"] in ((last,) if wanted is True else (last, False))


def test_a_loss_that_is_no_number_stops_the_run(patch_set, statistics, sections, tmp_path) -> None:
    patches = patch_set(24, labels="pixel", nodata=None, dtype="float32")
    patches.image.chunks[0][1] = 3e38  # NaN and infinity would be no-data
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    refused(error, "loss is inf", "optim.lr")
    assert not (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize(
    "labels, task, model",
    [("patch", "segmentation", "perceptron"), ("pixel", "classification", "cnn")],
)
def test_a_task_that_does_not_fit_the_labels(
    patch_set, statistics, sections, tmp_path, labels, task, model
) -> None:
    with pytest.raises(RunError) as error:
        train(
            patch_set(24, labels=labels),
            parts_of(24),
            statistics,
            tmp_path,
            **sections(model, task),
            seed=0,
        )
    refused(error, task, "choose another task")


@pytest.mark.parametrize(
    "labels, task, model",
    [("patch", "classification", "perceptron"), ("pixel", "segmentation", "cnn")],
)
def test_a_model_that_does_not_fit_the_task(
    patch_set, statistics, sections, tmp_path, labels, task, model
) -> None:
    with pytest.raises(RunError) as error:
        train(
            patch_set(24, labels=labels),
            parts_of(24),
            statistics,
            tmp_path,
            **sections(model, task),
            seed=0,
        )
    refused(error, model)


def test_a_patch_size_that_the_model_cannot_take(patch_set, statistics, sections, tmp_path) -> None:
    with pytest.raises(RunError) as error:
        train(
            patch_set(24, side=20),
            parts_of(24),
            statistics,
            tmp_path,
            **sections("vit", "classification", model__patch_px=8),
            seed=0,
        )
    refused(error, "vit", "20 x 20 px", "patches.size_px")


@pytest.mark.parametrize(
    "labels, augment, words",
    [
        ("patch", {"crop_px": 17}, ("crop of 17 px", "trainer.augment.crop_px")),
        ("pixel", {"mixup": 0.2}, ("mixup", "trainer.augment.cutmix")),
    ],
)
def test_an_augmentation_that_does_not_fit_the_patches(
    patch_set, statistics, sections, tmp_path, labels, augment, words
) -> None:
    model, task = ("cnn", "classification") if labels == "patch" else ("unet", "segmentation")
    with pytest.raises(RunError) as error:
        train(
            patch_set(24, labels=labels),
            parts_of(24),
            statistics,
            tmp_path,
            **sections(model, task, trainer__augment=augment),
            seed=0,
        )
    refused(error, *words)


def test_a_crop_that_the_model_cannot_take(patch_set, statistics, sections, tmp_path) -> None:
    given = sections("mlp", "classification", trainer__augment={"crop_px": 12})
    with pytest.raises(RunError) as error:
        train(patch_set(24), parts_of(24), statistics, tmp_path, **given, seed=0)
    refused(error, "mlp", "does not take patches of", "crop_px")


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_part(patch_set, statistics, sections, tmp_path, part) -> None:
    parts = parts_of(24)
    parts[parts == part] = "unused"
    with pytest.raises(RunError) as error:
        train(patch_set(24, labels="pixel"), parts, statistics, tmp_path, **sections(), seed=0)
    refused(error, part, "empty")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(patch_set, statistics, sections, tmp_path) -> None:
    given = sections(trainer__device="gpu")
    with pytest.raises(RunError) as error:
        train(patch_set(24, labels="pixel"), parts_of(24), statistics, tmp_path, **given, seed=0)
    refused(error, "GPU", "trainer.device=auto")


# ---- models are data --------------------------------------------------------------------------


class Code:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_code_in_a_model_does_not_run(tmp_path) -> None:
    torch.save({"weights": Code(f"touch {tmp_path}/ran"), "facts": "{}"}, tmp_path / "m.ckpt")
    with pytest.raises(RunError) as error:
        load(tmp_path / "m.ckpt")
    refused(error, "m.ckpt", "not a model")
    assert not (tmp_path / "ran").exists()


def test_code_in_the_state_of_a_run_does_not_run(patch_set, statistics, sections, tmp_path) -> None:
    patches = patch_set(24, labels="pixel")
    train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0, until_epoch=1)
    torch.save({"state_dict": Code(f"touch {tmp_path}/ran")}, tmp_path / "last.ckpt")
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    refused(error, "last.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_was_cut_off_is_named(patch_set, statistics, sections, tmp_path) -> None:
    patches = patch_set(24, labels="pixel")
    train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0, until_epoch=1)
    last = tmp_path / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    refused(error, "last.ckpt")


@pytest.mark.parametrize("damage", ["cut off", "empty", "text", "other weights", "absent"])
def test_a_file_that_is_no_model_is_refused(save_model, damage) -> None:
    path = save_model()
    whole = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("hello")
    elif damage == "other weights":
        saved = torch.load(path, weights_only=True)
        saved["weights"] = {"weight": torch.zeros(2)}
        torch.save(saved, path)
    else:
        path.unlink()
    with pytest.raises(RunError) as error:
        load(path)
    refused(error, str(path), "train")
