"""Losses against formulas in numpy, weights of classes, and what an epoch is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional as F

from swath import plan, registry
from swath.errors import RunError
from swath.learn.tasks import Task, classification, multilabel, regression, segmentation, weights_of

CLASSES = ["Water", "Forest", "Pasture"]
CONTENTS = np.array([[6, 0, 0], [2, 3, 0], [0, 0, 1]])  # 8, 3 and 1 in all
DRAW = torch.Generator().manual_seed(0)
ANSWER = torch.randn(6, 3, generator=DRAW)
LABEL = torch.tensor([0, 1, 2, 2, 1, 0])
PIXELS = torch.randn(2, 3, 4, 5, generator=DRAW)
PIXEL_LABEL = torch.randint(0, 3, (2, 4, 5), generator=DRAW)
PIXEL_LABEL[0, :2] = 255
SEVERAL = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])
WEIGHTS = np.array([1 / 8, 1 / 3, 1.0]) / (1 / 8 + 1 / 3 + 1) * 3

Make = Callable[..., Task]


def task(make: Make, **settings: Any) -> Task:
    return make(CONTENTS, CLASSES, **settings)


def cost(make: Make, answer: torch.Tensor, label: torch.Tensor, **settings: Any) -> torch.Tensor:
    return task(make, **settings).loss(answer, label)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# ---- numbers ----------------------------------------------------------------------------------

# Of 3, 5 and 10: 18 in all, 134 their squares.
SUMS = np.array([[2.0, 8, 34], [1, 10, 100], [0, 0, 0]])


def test_numbers_are_learnt_in_deviations_from_the_mean_of_the_training_part() -> None:
    learns = regression(SUMS, ["height"])
    mean, deviation = 6.0, np.sqrt(134 / 3 - 36)
    assert learns.scale == pytest.approx((mean, deviation))
    label = torch.tensor([3.0, float("nan"), 10.0])
    answer = torch.tensor([[0.5], [9.0], [-1.0]], requires_grad=True)
    off = np.array([0.5 - (3 - mean) / deviation, -1 - (10 - mean) / deviation])
    for loss, expected in (
        ("mse", (off**2).mean()),
        ("mae", np.abs(off).mean()),
        ("huber", np.where(np.abs(off) < 2, off**2 / 2, 2 * (np.abs(off) - 1)).mean()),
    ):
        found = regression(SUMS, ["height"], loss=loss, delta=2.0).loss(answer, label)
        assert found.item() == pytest.approx(expected, rel=1e-5), loss
    found.backward()
    assert answer.grad is not None and answer.grad[1] == 0 and answer.grad.isfinite().all()
    nothing = regression(SUMS, ["height"]).loss(answer, torch.full((3,), float("nan")))
    assert nothing.item() == 0
    decided = learns.decide(answer.detach())
    torch.testing.assert_close(decided[0].item(), 0.5 * deviation + mean, rtol=1e-5, atol=1e-5)


def test_batches_of_numbers_add_up_to_what_all_are_judged_by() -> None:
    metrics = regression(SUMS, ["height"]).metrics
    truth = torch.tensor([3.0, 5.0, float("nan"), 10.0])
    said = torch.tensor([4.0, 5.0, 7.0, 8.0])
    for some in (slice(0, 1), slice(1, 4)):
        metrics.update(said[some], truth[some])
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(
        {"val/rmse": np.sqrt(5 / 3), "val/mae": 1, "val/bias": -1 / 3, "val/r2": 1 - 5 / 26}
    )


@pytest.mark.parametrize("sums, word", [(np.zeros((2, 3)), "no label"), ([[2, 6, 18]], "but 3 of")])
def test_a_training_part_that_teaches_no_number_is_refused(sums: Any, word: str) -> None:
    with pytest.raises(RunError, match=word):
        regression(np.array(sums, float), ["height"])


# ---- cross-entropy ----------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_cross_entropy_is_torch_s(smoothing: float, weights: str) -> None:
    given = {"label_smoothing": smoothing, "class_weights": weights}
    w = torch.from_numpy(WEIGHTS).float() if weights == "balanced" else None
    for make, answer, label in (
        (classification, ANSWER, LABEL), (segmentation, PIXELS, PIXEL_LABEL),
    ):  # fmt: skip
        expected = F.cross_entropy(answer, label, w, ignore_index=255, label_smoothing=smoothing)
        torch.testing.assert_close(cost(make, answer, label, **given), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_shares_that_are_all_or_nothing_cost_what_numbers_cost(
    smoothing: float, weights: str
) -> None:
    loss = task(classification, label_smoothing=smoothing, class_weights=weights).loss
    torch.testing.assert_close(loss(ANSWER, F.one_hot(LABEL, 3).float()), loss(ANSWER, LABEL))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_mixed_labels_cost_the_mixture_of_what_their_parts_cost(
    smoothing: float, name: str
) -> None:
    """Zhang et al. 2018: λ · loss(a) + (1 - λ) · loss(b)."""
    loss = task(classification, label_smoothing=smoothing, loss=name).loss
    other = LABEL.roll(1)
    soft = 0.3 * F.one_hot(LABEL, 3) + 0.7 * F.one_hot(other, 3)
    expected = 0.3 * loss(ANSWER, LABEL) + 0.7 * loss(ANSWER, other)
    torch.testing.assert_close(loss(ANSWER, soft), expected)


def test_mixed_labels_are_weighted_share_by_share() -> None:
    soft = torch.tensor([[0.25, 0.0, 0.75]])
    terms = WEIGHTS * soft[0].numpy()
    expected = (terms * -np.log(softmax(ANSWER[:1].double().numpy())[0])).sum() / terms.sum()
    found = cost(classification, ANSWER[:1], soft, class_weights="balanced")
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_patch_that_is_mixed_with_an_unlabelled_one_counts_by_its_share() -> None:
    loss = task(classification, label_smoothing=0.1).loss
    soft = F.one_hot(LABEL[:2], 3).float() * torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(loss(ANSWER[:2], soft), loss(ANSWER[:1], LABEL[:1]))


# ---- focal and Dice ---------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_without_focus_is_the_cross_entropy(weights: str, smoothing: float) -> None:
    given = {"class_weights": weights, "label_smoothing": smoothing}
    torch.testing.assert_close(
        cost(segmentation, PIXELS, PIXEL_LABEL, loss="focal", gamma=0.0, **given),
        cost(segmentation, PIXELS, PIXEL_LABEL, **given),
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_its_formula(gamma: float) -> None:
    p = softmax(ANSWER.double().numpy())[np.arange(6), LABEL.numpy()]
    w = WEIGHTS[LABEL.numpy()]
    expected = (w * (1 - p) ** gamma * -np.log(p)).sum() / w.sum()
    given = {"loss": "focal", "gamma": gamma, "class_weights": "balanced"}
    found = cost(classification, ANSWER, LABEL, **given)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", ["none", "balanced"])
def test_dice_is_its_formula_over_the_labelled_pixels(weights: str) -> None:
    p = np.moveaxis(softmax(PIXELS.double().numpy()), 1, -1)
    known = PIXEL_LABEL.numpy() != 255
    p, y = p[known], np.eye(3)[PIXEL_LABEL.numpy()[known]]
    scores = 2 * (p * y).sum(axis=0) / ((p**2).sum(axis=0) + y.sum(axis=0))
    w = WEIGHTS if weights == "balanced" else np.ones(3)
    found = cost(segmentation, PIXELS, PIXEL_LABEL, loss="dice", class_weights=weights)
    assert float(found) == pytest.approx(1 - (w * scores).sum() / w.sum(), rel=1e-5)


def test_the_loss_of_a_perceptron_is_its_formula() -> None:
    z, label = ANSWER.double().numpy(), LABEL.numpy()
    rest = [max(np.delete(row, k)) for row, k in zip(z, label, strict=True)]
    off = np.maximum(0, rest - z[np.arange(6), label])
    assert 0 < (off > 0).sum() < 6
    found = cost(classification, ANSWER, LABEL, loss="perceptron", class_weights="balanced")
    w = WEIGHTS[label]
    assert float(found) == pytest.approx((w * off).sum() / w.sum(), rel=1e-5)


@pytest.mark.parametrize("start", [0.0, -0.4])
def test_descent_on_it_is_rosenblatt_s_rule_with_ties_as_errors(start: float) -> None:
    """Rows of weights of two classes; their difference is w of sign(w·x)."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.sign(x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    rows = torch.zeros(2, 3, dtype=torch.float64)
    rows[1] = start
    rows.requires_grad_()
    w = (rows[1] - rows[0]).detach().numpy().copy()
    learns = classification(np.ones((1, 2), int), ["no", "yes"], loss="perceptron")
    descent, updates = torch.optim.SGD([rows], lr=0.5), 0
    for one, sign in zip(x, t, strict=True):
        descent.zero_grad()
        learns.loss(one[None] @ rows.T, (sign[None] > 0).long()).backward()
        descent.step()
        if sign * (w @ one.numpy()) <= 0:
            w, updates = w + float(sign) * one.numpy(), updates + 1
        np.testing.assert_allclose((rows[1] - rows[0]).detach().numpy(), w, atol=1e-12)
    assert 1 < updates < 40


def test_dice_of_a_perfect_answer_is_nothing_and_of_a_wrong_one_all() -> None:
    label = PIXEL_LABEL.where(PIXEL_LABEL != 255, 0)
    perfect = 100.0 * F.one_hot(label, 3).movedim(-1, 1).float()
    assert float(cost(segmentation, perfect, PIXEL_LABEL, loss="dice")) == pytest.approx(
        0, abs=1e-6
    )
    wrong = perfect.roll(1, dims=1)
    assert float(cost(segmentation, wrong, PIXEL_LABEL, loss="dice")) == pytest.approx(1, abs=1e-6)


def test_dice_leaves_out_a_class_that_the_batch_does_not_have() -> None:
    label = torch.zeros(1, 2, 2, dtype=torch.int64)
    answer = torch.zeros(1, 3, 2, 2)  # a third each
    found = cost(segmentation, answer, label, loss="dice")
    assert float(found) == pytest.approx(1 - 2 * (4 / 3) / (4 / 9 + 4))


def test_cross_entropy_and_dice_are_added() -> None:
    parts = [cost(segmentation, PIXELS, PIXEL_LABEL, loss=n) for n in ("cross_entropy", "dice")]
    both = cost(segmentation, PIXELS, PIXEL_LABEL, loss="cross_entropy_dice")
    torch.testing.assert_close(both, parts[0] + parts[1])


# ---- several labels ---------------------------------------------------------------------------


def test_binary_cross_entropy_is_torch_s() -> None:
    found = cost(multilabel, ANSWER, SEVERAL)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(ANSWER, SEVERAL))
    weighted = cost(multilabel, ANSWER, SEVERAL, class_weights="balanced")
    terms = F.binary_cross_entropy_with_logits(ANSWER, SEVERAL, reduction="none").mean(0).numpy()
    assert float(weighted) == pytest.approx((WEIGHTS * terms).sum() / WEIGHTS.sum(), rel=1e-6)


@pytest.mark.parametrize(
    "given, positive, negative, margin",
    [
        ({"loss": "focal", "gamma": 2.0}, 2.0, 2.0, 0.0),
        ({"loss": "asymmetric"}, 0.0, 4.0, 0.05),
        (
            {"loss": "asymmetric", "gamma_positive": 1.0, "gamma_negative": 0.0, "margin": 0.2},
            1.0, 0.0, 0.2,
        ),
    ],
)  # fmt: skip
def test_focal_and_asymmetric_losses_are_their_formulas(
    given: dict[str, Any], positive: float, negative: float, margin: float
) -> None:
    p, y = 1 / (1 + np.exp(-ANSWER.double().numpy())), SEVERAL.numpy()
    shifted = np.maximum(p - margin, 0)
    there = (1 - p) ** positive * np.log(p)
    absent = shifted**negative * np.log(1 - shifted)
    expected = -(y * there + (1 - y) * absent).mean()
    assert float(cost(multilabel, ANSWER, SEVERAL, **given)) == pytest.approx(expected, rel=1e-5)


def test_what_is_unknown_of_a_class_counts_for_nothing() -> None:
    label = SEVERAL.clone()
    label[0] = 255
    found = cost(multilabel, ANSWER, label, loss="focal")
    torch.testing.assert_close(found, cost(multilabel, ANSWER[1:], SEVERAL[1:], loss="focal"))


# ---- what is unlabelled, and what is extreme --------------------------------------------------

SINGLE = ("cross_entropy", "focal", "perceptron", "dice", "cross_entropy_dice")
LOSSES = [
    *((segmentation, name) for name in SINGLE),
    *((multilabel, name) for name in ("binary_cross_entropy", "focal", "asymmetric")),
]
IDS = [f"{make.__name__}-{name}" for make, name in LOSSES]


def case(make: Make) -> tuple[torch.Tensor, torch.Tensor]:
    return (ANSWER, SEVERAL) if make is multilabel else (PIXELS, PIXEL_LABEL)


@pytest.mark.parametrize("make, name", LOSSES, ids=IDS)
def test_a_batch_without_any_label_costs_nothing_and_pulls_nowhere(make: Make, name: str) -> None:
    answer, label = case(make)
    answer = answer.clone().requires_grad_()
    found = cost(make, answer, torch.full_like(label, 255), loss=name)
    found.backward()
    assert found.item() == 0
    assert answer.grad is not None and not answer.grad.any()


@pytest.mark.parametrize("name", SINGLE)
def test_unlabelled_pixels_change_nothing(name: str) -> None:
    answer = PIXELS.clone().requires_grad_()
    first = cost(segmentation, answer, PIXEL_LABEL, loss=name, label_smoothing=0.1)
    first.backward()
    assert answer.grad is not None and not answer.grad[0, :, :2].any()
    changed = PIXELS.clone()
    changed[0, :, :2] = 7.0 * torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(5))
    second = cost(segmentation, changed, PIXEL_LABEL, loss=name, label_smoothing=0.1)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("make, name", LOSSES, ids=IDS)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradients_are_finite_under_extreme_logits(make: Make, name: str, gamma: float) -> None:
    answer, label = case(make)
    given: dict[str, Any] = {"loss": name, "gamma": gamma}
    if make is multilabel:
        given |= {"gamma_positive": gamma, "gamma_negative": gamma}
    for scale in (1e4, -1e4, 0.0):
        extreme = (scale * answer).requires_grad_()
        found = cost(make, extreme, label, **given)
        found.backward()
        assert torch.isfinite(found), scale
        assert extreme.grad is not None and torch.isfinite(extreme.grad).all(), scale


@pytest.mark.parametrize("make, name", LOSSES, ids=IDS)
def test_an_answer_in_bf16_is_judged_in_float32(make: Make, name: str) -> None:
    answer, label = case(make)
    answer = answer.bfloat16()
    found = cost(make, answer, label, loss=name)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cost(make, answer.float(), label, loss=name))


# ---- weights ----------------------------------------------------------------------------------


def test_weights_are_inverse_to_the_counts_of_the_training_part() -> None:
    found = weights_of(CONTENTS, CLASSES, "balanced", 0.9999)
    np.testing.assert_allclose(found.numpy(), WEIGHTS, rtol=1e-6)
    assert weights_of(CONTENTS, CLASSES, "none", 0.9999).tolist() == [1, 1, 1]


def test_weights_by_effective_number_of_samples() -> None:
    """Cui et al. 2019 with β = 1/2: 1 + 1/2 + ... of 8, 3 and 1 terms."""
    sums = np.array([255 / 128, 7 / 4, 1.0])
    found = weights_of(CONTENTS, CLASSES, "effective", 0.5)
    np.testing.assert_allclose(found.numpy(), 3 / sums / (1 / sums).sum(), rtol=1e-6)
    for beta, same in ((0.0, "none"), (1.0, "balanced")):
        np.testing.assert_allclose(
            weights_of(CONTENTS, CLASSES, "effective", beta).numpy(),
            weights_of(CONTENTS, CLASSES, same, 0.9999).numpy(),
        )


@pytest.mark.parametrize("make", [classification, segmentation, multilabel])
@pytest.mark.parametrize("kind", ["balanced", "effective"])
def test_a_class_that_the_training_part_lacks_is_named(make: Make, kind: str) -> None:
    contents = CONTENTS * [1, 0, 1]
    with pytest.raises(RunError) as error:
        make(contents, CLASSES, class_weights=kind)
    text = str(error.value)
    assert "Forest" in text and "Water" not in text and "\n" not in text
    assert f"task.class_weights={kind}" in text
    make(contents, CLASSES)  # without weights it may be absent


# ---- metrics ----------------------------------------------------------------------------------


def measured(of: Task, *batches: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    for answer, label in batches:
        of.metrics.update(of.decide(answer), label.long())
    return {name: float(value) for name, value in of.metrics.compute().items()}


def test_pixels_are_judged_by_what_the_report_calls_the_same() -> None:
    """Accuracy, F1 and IoU over all batches at once, without the unlabelled pixels."""
    of = task(segmentation)
    halves = zip(PIXELS.split(1), PIXEL_LABEL.split(1), strict=True)
    found = measured(of, *halves)
    known = (PIXEL_LABEL != 255).numpy()
    truth, said = PIXEL_LABEL.numpy()[known], PIXELS.argmax(1).numpy()[known]
    counts = np.zeros((3, 3))
    np.add.at(counts, (truth, said), 1)
    right, ends = np.diag(counts), counts.sum(0) + counts.sum(1)
    assert found == pytest.approx(
        {
            "val/accuracy": right.sum() / counts.sum(),
            "val/macro_f1": (2 * right / ends).mean(),
            "val/miou": (right / (ends - right)).mean(),
        }
    )


def test_classes_in_neither_truth_nor_answer_do_not_count() -> None:
    answer = torch.tensor([[1.0, 0, -9], [0, 1, -9], [1, 0, -9]])
    found = measured(task(classification), (answer, torch.tensor([0, 1, 1])))
    assert found == pytest.approx({"val/accuracy": 2 / 3, "val/macro_f1": 2 / 3})


def test_several_labels_are_judged_class_by_class() -> None:
    found = measured(task(multilabel), (ANSWER[:2], SEVERAL[:2]), (ANSWER[2:], SEVERAL[2:]))
    truth, said = SEVERAL.numpy(), (ANSWER > 0).numpy()
    assert found == pytest.approx(
        {
            "val/accuracy": (truth == said).mean(),
            "val/f1_micro": f1_score(truth, said, average="micro"),
            "val/macro_f1": f1_score(truth, said, average="macro", zero_division=0),
            "val/map": average_precision_score(truth, ANSWER.numpy(), average="macro"),
        }
    )


@pytest.mark.parametrize("there", [[0, 2], [1], []])
def test_a_class_without_any_label_has_no_average_precision(there: list[int]) -> None:
    label = torch.zeros_like(SEVERAL)
    label[:, there] = SEVERAL[:, there]
    found = measured(task(multilabel), (ANSWER, label))["val/map"]
    scores = [average_precision_score(label[:, n], ANSWER[:, n]) for n in there]
    assert found == pytest.approx(np.mean(scores) if there else 0)


def test_the_best_epoch_is_decided_by_what_is_chosen() -> None:
    assert task(classification).monitor == "val/accuracy"
    assert task(multilabel).monitor == "val/map"
    of = task(segmentation, monitor="miou")
    assert of.monitor == "val/miou" and of.monitor in of.metrics.keys()  # noqa: SIM118


@pytest.mark.parametrize("name", registry.entries("task"))
def test_what_a_study_may_seek_is_what_a_task_measures(name: str) -> None:
    task = registry.load("task", name)(np.array([[4, 1, 9], [4, 2, 5]]), ["a", "b", "c"])
    monitors = get_args(registry.entry("task", name).settings["monitor"][0])
    known = {f"val/{measure}" for measure in (*monitors, *plan.MEASURED.get(name, ()))}
    assert {str(key) for key in task.metrics} == known
