"""Optimizers, schedules, averaged weights, accumulated gradients, and stopping early."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

import swath.learn.train as training
from swath import registry, settings
from swath.errors import ConfigError, RunError
from swath.learn.batches import Batches
from swath.learn.networks import build, load
from swath.learn.optim import Averaged, has_stalled, prepare, schedule
from swath.learn.predict import predict_patches
from swath.learn.train import train

OPTIMIZERS = list(registry.entries("optim"))
CNN = {"model__width": 4, "model__blocks": 1}


def parts_of(count: int) -> np.ndarray:
    parts = np.full(count, "train", dtype="<U6")
    parts[::4] = "val"
    return parts


def last_weights(state: Path) -> dict[str, torch.Tensor]:
    return torch.load(state / "last.ckpt", weights_only=True)["state_dict"]


def section(name: str, **given: Any) -> dict[str, Any]:
    return settings.check("optim", {"name": name, **given})


# ---- the schedule -----------------------------------------------------------------------------


def test_onecycle_rises_through_the_warmup_and_falls_by_half_a_cosine() -> None:
    factor = schedule("onecycle", None, 0.0, 100)
    assert factor(0) == pytest.approx(1 / 20)
    assert factor(9) == pytest.approx(0.5)
    assert factor(19) == pytest.approx(1.0)
    assert factor(20) == pytest.approx(1.0)
    assert factor(60) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0)
    assert factor(101) == pytest.approx(0.0)
    assert max(map(factor, range(101))) == pytest.approx(1.0)


def test_cosine_falls_from_the_start_and_constant_stays() -> None:
    cosine, constant = schedule("cosine", None, 0.0, 100), schedule("constant", None, 0.0, 100)
    assert [cosine(s) for s in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    assert {constant(s) for s in (0, 50, 100)} == {1.0}


def test_every_schedule_takes_a_warmup() -> None:
    for name, after in (("onecycle", 0.5), ("cosine", 0.5), ("constant", 1.0)):
        factor = schedule(name, 0.1, 0.0, 100)
        assert [factor(s) for s in (0, 4, 9, 10, 55)] == pytest.approx([0.1, 0.5, 1, 1, after])


def test_a_share_of_the_rate_is_left_at_the_end() -> None:
    factor = schedule("onecycle", 0.2, 0.1, 100)
    assert [factor(s) for s in (19, 60, 100)] == pytest.approx([1.0, 0.55, 0.1])


def test_the_rate_has_fallen_at_the_end_of_every_cycle() -> None:
    """Four cycles, a run twice as long at the end of each: after 10, 20, 40 and 80 steps."""
    factor = schedule("restarts", None, 0.1, 80, (4, 2))
    assert [factor(begin) for begin in (0, 10, 20, 40)] == [1, 1, 1, 1]
    assert [factor(half) for half in (5, 15, 30, 60)] == pytest.approx([0.55] * 4)
    assert all(0.1 < factor(end - 1) < 0.13 for end in (10, 20, 40, 80))
    assert factor(80) == pytest.approx(0.1)
    rising = schedule("restarts", 0.05, 0.0, 80, (4, 2))
    assert [rising(step) for step in (0, 3, 4, 7, 10)] == pytest.approx([0.25, 1, 1, 0.5, 1])


@pytest.mark.parametrize("name", ["onecycle", "cosine", "restarts", "constant"])
@pytest.mark.parametrize("warmup", [None, 0.0, 1.0])
def test_a_run_of_one_step_has_a_finite_rate(name: str, warmup: float | None) -> None:
    factor = schedule(name, warmup, 0.0, 1)
    assert factor(0) == 1
    assert all(0 <= factor(step) <= 1 for step in range(3))


def test_the_schedule_counts_steps_of_the_optimizer(
    patch_set, statistics, sections, tmp_path
) -> None:
    """18 patches: 5 batches of 4, two a step, so 3 steps an epoch, 12 in all."""
    given = sections(trainer__accumulate=2, trainer__batch_size=4)
    found = train(
        patch_set(24, labels="pixel"), parts_of(24), statistics, tmp_path, **given, seed=0
    )
    factor = schedule("onecycle", None, 0.0, 12)
    expected = [0.01 * factor(step) for step in (3, 6, 9, 12)]
    assert found.history["lr"].tolist() == pytest.approx(expected)


# ---- optimizers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_of_a_tiny_problem(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    y = x @ torch.arange(5.0).unsqueeze(1) + 1
    torch.manual_seed(0)
    network = nn.Linear(5, 1)
    made, rate = prepare(network, section(name, lr=0.05, weight_decay=0.0), 100)
    losses = []
    for _ in range(100):
        made.zero_grad()
        loss = (network(x) - y).square().mean()
        loss.backward()
        made.step()
        rate.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_the_optimizer_s_own_settings(name: str) -> None:
    """Two steps along a known gradient, by the formulas of the papers."""
    given: dict[str, dict[str, Any]] = {
        "adamw": {"beta1": 0.5, "beta2": 0.75},
        "adam": {"beta1": 0.5, "beta2": 0.75},
        "sgd": {"momentum": 0.5, "nesterov": False},
        "rmsprop": {"alpha": 0.75},
    }
    lr, decay, w = 0.1, 0.2, 1.0
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, w)
    chosen = section(name, lr=lr, weight_decay=decay, schedule="constant", **given[name])
    made, _ = prepare(network, chosen, 2)
    mean = square = 0.0
    for step, gradient in enumerate((1.0, -3.0), 1):
        network.weight.grad = torch.full((1, 1), gradient)
        made.step()
        g = gradient if name == "adamw" else gradient + decay * w
        if name == "adamw":
            w -= lr * decay * w
        if name == "sgd":
            mean = 0.5 * mean + g
            w -= lr * mean
        elif name == "rmsprop":
            square = 0.75 * square + 0.25 * g**2
            w -= lr * g / np.sqrt(square)
        else:
            mean, square = 0.5 * mean + 0.5 * g, 0.75 * square + 0.25 * g**2
            w -= lr * mean / (1 - 0.5**step) / np.sqrt(square / (1 - 0.75**step))
        assert network.weight.item() == pytest.approx(w, abs=1e-6)


def test_nesterov_looks_ahead_and_needs_momentum() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    made, _ = prepare(network, section("sgd", lr=0.1, weight_decay=0.0, schedule="constant"), 2)
    network.weight.grad = torch.ones(1, 1)
    made.step()
    assert network.weight.item() == pytest.approx(1 - 0.1 * (1 + 0.9))
    made, _ = prepare(network, section("sgd", momentum=0.0), 2)
    assert not made.defaults["nesterov"]


def test_only_matrices_and_kernels_decay() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
    made, _ = prepare(network, section("adamw", weight_decay=0.3), 2)
    decays = {id(p): g["weight_decay"] for g in made.param_groups for p in g["params"]}
    expected = {id(p): 0.3 if p.ndim > 1 else 0.0 for p in network.parameters()}
    assert decays == expected and set(expected.values()) == {0.0, 0.3}


@pytest.mark.parametrize(
    "given, words",
    [
        ({"name": "adamw", "momentum": 0.9}, ("optim.momentum", "unknown key")),
        ({"name": "rmsprop", "alfa": 0.9}, ("optim.alfa", "did you mean 'optim.alpha'?")),
        ({"name": "sgd", "warmpu": 0.9}, ("optim.warmpu", "did you mean 'optim.warmup'?")),
        ({"name": "adamm"}, ("no optim is named 'adamm'", "did you mean 'adam'?")),
        ({"name": "sgd", "momentum": 1.0}, ("optim.momentum", "less than 1")),
        ({"lr": 0.1}, ("optim.name", "no optim is named")),
    ],
)
def test_a_key_that_the_optimizer_does_not_have_is_one_line(
    given: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        settings.check("optim", given)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


# ---- averaged weights -------------------------------------------------------------------------


def test_the_average_is_its_recursion_in_weights_and_statistics() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    averaged = Averaged(network, 0.25)
    expected = {k: v.clone().double() for k, v in network.state_dict().items()}
    for update in range(6):
        network(torch.randn(4, 2, 3, 3))  # moves the statistics of the batch normalisation
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        averaged.update(network, update)
        decay = min(0.25, (1 + update) / (10 + update))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name, value in averaged.network.state_dict().items():
        if name == "1.num_batches_tracked":
            assert int(value) == 6
        else:
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in averaged.network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_validation_and_the_kept_network_are_the_average(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches = patch_set(32)
    given = sections("cnn", "classification", **CNN, trainer__ema=0.8, trainer__epochs=1)
    found = train(patches, parts_of(32), statistics, tmp_path, **given, seed=0)
    kept, facts = load(found.model)
    saved = last_weights(tmp_path)
    trained, averaged = (
        {k.removeprefix(side): v for k, v in saved.items() if k.startswith(side)}
        for side in ("trained.", "averaged.network.")
    )
    for name, value in kept.state_dict().items():
        assert torch.equal(value, averaged[name]), name
    assert any(not torch.equal(averaged[name], trained[name]) for name in trained)
    val = np.flatnonzero(parts_of(32) == "val")
    image, label = next(iter(Batches(patches, val, batch_size=64, **facts["statistics"])))
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(kept(image), label)
    assert found.history["val/loss"][0] == pytest.approx(float(loss), rel=1e-5)


def test_a_run_is_averaged_from_its_first_step_on(
    patch_set, statistics, sections, tmp_path
) -> None:
    """24 patches, 18 of which train in one batch: after one step, 1/10 is left of the start."""
    patches = patch_set(24, labels="pixel")
    given = sections(trainer__ema=0.9, trainer__epochs=1, trainer__batch_size=32)
    train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    saved = last_weights(tmp_path)
    torch.manual_seed(0)
    start = build(given["model"], 4, 3).weight
    expected = 0.1 * start + 0.9 * saved["trained.weight"]
    torch.testing.assert_close(saved["averaged.network.weight"], expected)
    assert not torch.equal(saved["trained.weight"], start)


def test_stopping_and_going_on_with_an_average_equals_a_straight_run_bit_for_bit(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches = patch_set(24)
    given: dict[str, Any] = sections(
        "cnn", "classification", **CNN, trainer__ema=0.9, trainer__accumulate=2,
        trainer__batch_size=4, optim__name="sgd", task__loss="focal",
        task__class_weights="balanced", task__monitor="macro_f1",
    ) | {"seed": 3}  # fmt: skip
    straight = train(patches, parts_of(24), statistics, tmp_path / "straight", **given)
    train(patches, parts_of(24), statistics, tmp_path / "cut", **given, until_epoch=2)
    gone_on = train(patches, parts_of(24), statistics, tmp_path / "cut", **given)
    assert gone_on.facts["attempts"] == 2
    compared = [c for c in straight.history if c not in ("seconds", "images_per_s")]
    assert gone_on.history[compared].equals(straight.history[compared])
    one, other = last_weights(tmp_path / "cut"), last_weights(tmp_path / "straight")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    one, other = (load(run.model)[0].state_dict() for run in (gone_on, straight))
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [32, 28], ids=["24 of 24", "21 of 24"])
def test_two_halves_of_a_batch_make_the_step_of_the_whole(
    patch_set, statistics, sections, tmp_path, count
) -> None:
    """21 patches leave 5 for the last step: a half batch of 4, and one of 1."""
    patches = patch_set(count, labels="pixel")
    found = []
    for halves in (1, 2):
        given = sections(
            trainer__accumulate=halves, trainer__batch_size=8 // halves, trainer__epochs=2,
            trainer__augment={"flip": False, "turn": False}, optim__name="sgd", optim__lr=0.5,
        )  # fmt: skip
        train(patches, parts_of(count), statistics, tmp_path / str(halves), **given, seed=0)
        found.append(last_weights(tmp_path / str(halves)))
    whole, halved = found
    torch.manual_seed(0)
    start = build(given["model"], 4, 3).weight
    assert (whole["trained.weight"] - start).abs().max() > 0.1
    for name in whole:
        torch.testing.assert_close(halved[name], whole[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", [0.0, 0.001])
def test_the_gradient_is_clipped_to_its_norm(
    patch_set, statistics, sections, tmp_path, norm
) -> None:
    """One step of plain descent at a rate of 1 is as long as the gradient."""
    patches = patch_set(24, labels="pixel")
    given = sections(
        trainer__clip_norm=norm, trainer__epochs=1, trainer__batch_size=32, optim__name="sgd",
        optim__momentum=0.0, optim__lr=1.0, optim__weight_decay=0.0, optim__schedule="constant",
    )  # fmt: skip
    train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    torch.manual_seed(0)
    start = dict(build(given["model"], 4, 3).named_parameters())
    saved = last_weights(tmp_path)
    squares = [(saved[f"trained.{name}"] - start[name]).square().sum() for name in start]
    step = float(torch.stack(squares).sum().sqrt().detach())
    assert step == pytest.approx(norm, rel=1e-3) if norm else step > 0.01


def test_the_layout_is_timed_together_with_the_precision(
    patch_set, statistics, sections, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that favours fp32 with channels last, and bf16 without."""
    seconds = {("fp32", False): 3, ("fp32", True): 2, ("bf16", False): 1, ("bf16", True): 4}
    monkeypatch.setattr(training, "_time_step", lambda network, image, *way: seconds[way])
    found = []
    for precision in ("auto", "fp32"):
        state = tmp_path / precision
        given = sections(
            trainer__precision=precision, trainer__channels_last="auto", trainer__epochs=1
        )
        patches = patch_set(24, labels="pixel")
        run = train(patches, parts_of(24), statistics, state, **given, seed=0)
        assert load(run.model)[1]["channels_last"] == run.facts["channels_last"]
        found.append((run.facts["precision"], run.facts["channels_last"]))
    assert found == [("bf16", False), ("fp32", True)]


def test_what_is_timed_leaves_the_network_as_it_was(
    patch_set, statistics, sections, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timing a step in training mode moves the statistics of batch normalisation."""
    for name, last in (("auto", "auto"), ("fixed", True)):
        given = sections("cnn", "classification", **CNN, trainer__channels_last=last)
        step = training._time_step
        monkeypatch.setattr(training, "_time_step", lambda *a, step=step: step(*a) * (not a[-1]))
        patches = patch_set(24)
        train(patches, parts_of(24), statistics, tmp_path / name, **given, seed=0, until_epoch=1)
        monkeypatch.undo()
    one, other = last_weights(tmp_path / "auto"), last_weights(tmp_path / "fixed")
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- stopping early ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, patience, stalled",
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.6, 0.5, 0.5], 2, True),
        ([0.6, 0.5, 0.5], None, False),
        ([0.1, 0.2, 0.3, 0.4], 1, False),
    ],
)
def test_a_run_has_stalled_where_its_best_epoch_is_long_ago(values, patience, stalled) -> None:
    assert has_stalled(values, patience) is stalled


def stopping(sections, **more: Any) -> dict[str, Any]:
    """A run whose rate is so small that no epoch is better than the first."""
    return sections(
        optim__lr=1e-12, optim__schedule="constant", trainer__early_stopping=2,
        trainer__epochs=9, **more,
    )  # fmt: skip


def test_a_run_that_gets_no_better_stops_and_is_finished(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches, given = patch_set(24, labels="pixel"), stopping(sections)
    found = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    assert list(found.history["epoch"]) == [0, 1, 2]
    assert (found.best_epoch, found.facts["epochs"]) == (0, 3)
    again = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    assert again.facts["attempts"] == 1 and again.history.equals(found.history)


def test_a_rung_above_finds_a_run_that_has_stopped_as_it_is(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches, given = patch_set(24, labels="pixel"), stopping(sections)
    low = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0, until_epoch=2)
    assert len(low.history) == 2
    high = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0, until_epoch=6)
    assert len(high.history) == 3
    assert high.history["val/accuracy"].max() == low.history["val/accuracy"].max()


def test_a_kill_before_the_progress_is_written_trains_no_further_epoch(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches, given = patch_set(24, labels="pixel"), stopping(sections)
    found = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    progress = json.loads((tmp_path / "progress.json").read_text())
    progress["history"] = progress["history"][:-1]
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    again = train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    assert again.history["val/loss"].equals(found.history["val/loss"])


# ---- tasks in a run ---------------------------------------------------------------------------


def test_several_labels_a_patch_are_learnt_and_predicted(
    patch_set, several, statistics, sections, tmp_path, caplog
) -> None:
    patches = several(patch_set(32))
    given = sections(
        "cnn", "multilabel", **CNN, trainer__epochs=8, trainer__augment={"mixup": 0.2},
        task__loss="asymmetric",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "swath"):
        found = train(patches, parts_of(32), statistics, tmp_path, **given, seed=0)
    assert f"val/map {found.history['val/map'].iloc[-1]:.4f}" in caplog.text
    assert {"val/accuracy", "val/f1_micro", "val/macro_f1", "val/map"} <= set(found.history)
    assert found.history["val/map"].max() > 0.95
    assert found.best_epoch == found.history["val/map"].idxmax()
    val = np.flatnonzero(parts_of(32) == "val")
    predicted, probability = predict_patches(found.model, patches, val)
    truth = patches.label.gather(val)
    best = found.history.loc[found.best_epoch]
    assert (predicted == truth).mean() == pytest.approx(best["val/accuracy"])
    map_ = metrics.average_precision_score(truth, probability, average="macro")
    assert map_ == pytest.approx(best["val/map"], abs=1e-6)


@pytest.mark.parametrize("labels, model", [("patch", "cnn"), ("pixel", "unet")])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_numbers_are_learnt_and_predicted_in_their_unit(
    patch_set, numbers, statistics, sections, tmp_path, labels, model, loss
) -> None:
    patches = numbers(patch_set(32, labels=labels))
    if labels == "pixel":
        patches.label.chunks[0][:, :3] = np.nan
    size = CNN if model == "cnn" else {"model__width": 4, "model__depth": 1}
    given = sections(model, "regression", **size, trainer__epochs=12, task__loss=loss)
    found = train(patches, parts_of(32), statistics, tmp_path, **given, seed=0)
    assert found.best_epoch == found.history["val/r2"].idxmax()
    best = found.history.loc[found.best_epoch]
    assert best["val/r2"] > 0.6
    val = np.flatnonzero(parts_of(32) == "val")
    predicted, confidence = predict_patches(found.model, patches, val)
    truth = patches.label.gather(val)
    known = np.isfinite(truth)
    assert confidence is None and predicted.dtype == np.float32 and predicted.shape == truth.shape
    off = (predicted - truth)[known]
    assert best["val/rmse"] == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4)
    assert best["val/mae"] == pytest.approx(np.abs(off).mean(), rel=1e-4)
    assert best["val/bias"] == pytest.approx(off.mean(), abs=1e-3)
    r2 = metrics.r2_score(truth[known], predicted[known])
    assert best["val/r2"] == pytest.approx(r2, rel=1e-4)
    _, facts = load(found.model)
    own = patches.label.gather(np.flatnonzero(parts_of(32) == "train"))
    assert facts["scale"] == pytest.approx([np.nanmean(own), np.nanstd(own)], rel=1e-5)


@pytest.mark.parametrize("task, of", [("regression", "classes"), ("classification", "numbers")])
def test_numbers_and_classes_are_not_taken_for_each_other(
    patch_set, numbers, statistics, sections, tmp_path, task, of
) -> None:
    patches = numbers(patch_set(16)) if of == "numbers" else patch_set(16)
    learnt = "numbers" if of == "classes" else "classes"
    with pytest.raises(RunError, match=f"learns {learnt}, the labels .* are {of}") as error:
        train(patches, parts_of(16), statistics, tmp_path, **sections("cnn", task, **CNN), seed=0)
    assert "\n" not in str(error.value)


def test_numbers_are_not_mixed(patch_set, numbers, statistics, sections, tmp_path) -> None:
    given = sections("cnn", "regression", **CNN, trainer__augment={"mixup": 0.2})
    with pytest.raises(RunError, match="these labels are numbers"):
        train(numbers(patch_set(16)), parts_of(16), statistics, tmp_path, **given, seed=0)


def test_the_epoch_that_is_kept_is_the_best_by_what_is_monitored(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches = patch_set(32, labels="pixel")
    given = sections(task__monitor="miou", task__loss="dice")
    found = train(patches, parts_of(32), statistics, tmp_path, **given, seed=0)
    assert found.best_epoch == found.history["val/miou"].idxmax()
    network, facts = load(found.model)
    val = np.flatnonzero(parts_of(32) == "val")
    image, label = next(iter(Batches(patches, val, batch_size=64, **facts["statistics"])))
    with torch.inference_mode():
        said = network(image).argmax(1)
    ious = [
        ((said == n) & (label == n)).sum() / ((said == n) | (label == n)).sum() for n in range(3)
    ]
    expected = float(torch.stack(ious).mean())
    assert found.history["val/miou"].max() == pytest.approx(expected, abs=1e-6)


def test_a_class_that_the_training_part_lacks_is_named_before_training(
    patch_set, statistics, sections, tmp_path
) -> None:
    patches = patch_set(24)
    parts = np.where(patches.label.gather(np.arange(24)) == 1, "val", "train")
    given = sections("cnn", "classification", **CNN, task__class_weights="balanced")
    with pytest.raises(RunError, match=r"task\.class_weights=balanced.*Forest"):
        train(patches, parts, statistics, tmp_path, **given, seed=0)
