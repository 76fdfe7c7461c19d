"""Every registered figure is drawn for each task, whatever it is called."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from swath import registry
from swath.report import figures, page
from swath.study.results import read_experiment

FIGURES = sorted(registry.entries("figure"))


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_drawn_or_has_nothing_to_show(name: str, experiment: Path) -> None:
    results = read_experiment(experiment)
    draw = registry.load("figure", name)
    for subject, _, _ in page._subjects(draw, results):
        panels = draw(results, *subject)
        assert all(isinstance(panel, Figure) for panel in panels)


@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_a_title_a_caption_and_a_section(name: str) -> None:
    draw = registry.load("figure", name)
    title, _, caption = inspect.cleandoc(draw.__doc__ or "").partition("\n\n")
    assert title.endswith(".") and "\n" not in title
    assert caption.endswith(".")
    assert draw.section in page.SECTIONS  # type: ignore[attr-defined]


def test_every_figure_is_drawn_for_one_task_at_least(
    segmentation: Path, classification: Path, several: Path, numbers: Path
) -> None:
    drawn = {
        figure.name
        for folder in (segmentation, classification, several, numbers)
        for each in page.drawn_figures(read_experiment(folder)).values()
        for figure in each
    }
    assert drawn == set(FIGURES)


def test_numbers_are_shaded_between_their_bounds_and_nan_is_transparent() -> None:
    shaded = figures._shaded(np.array([[0.0, 5.0, 10.0, 99.0, np.nan]]), 0.0, 10.0, "viridis")[0]
    low, middle, high = (tuple(shaded[k]) for k in range(3))
    assert len({low, middle, high}) == 3 and tuple(shaded[3]) == high
    assert shaded[4, 3] == 0 and (shaded[:4, 3] == 255).all()


def test_the_shades_of_regions_can_be_seen_on_white() -> None:
    """Each has a contrast of 2.5 to 1 at least, by the luminance of WCAG 2."""
    rgb = figures.SHADES(np.linspace(0, 1, 65))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    assert (1.05 / (luminance + 0.05)).min() > 2.5


@pytest.mark.parametrize("runs", [1, 2])
def test_a_dotted_line_marks_the_best_epoch_of_a_single_run(segmentation: Path, runs: int) -> None:
    results = read_experiment(segmentation)
    split = replace(results.splits[0], runs=results.splits[0].runs * runs)
    loss = figures.curves(results, split)[0]
    dotted = [line for line in loss.axes[0].lines if line.get_linestyle() == ":"]
    assert len(dotted) == (runs == 1)
    assert "where there is one, a\n    dotted line" in str(figures.curves.__doc__)


def test_figures_are_numbered_in_the_order_of_the_page(segmentation: Path) -> None:
    drawn = page.drawn_figures(read_experiment(segmentation))
    numbers = [figure.number for each in drawn.values() for figure in each]
    assert list(drawn) == [name for name in page.SECTIONS if name in drawn]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_curve_of_precision_and_recall_worked_out_by_hand() -> None:
    there = np.array([False, True, True, False, True])
    precision, recall = figures.curve(there, np.array([0.1, 0.9, 0.5, 0.5, 0.3]))
    # One of one, then with the two that are equally probable two of three, three of four, of five.
    assert precision == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])
    assert recall == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    # The area below its steps is the average precision.
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(1 / 3 + 2 / 9 + 1 / 4)


def test_labels_of_a_patch_are_marked_as_found_missed_and_wrong(several: Path) -> None:
    results = read_experiment(several)
    split = results.splits[0]
    stored = split.runs[0].predictions()
    truth = results.patches.label.gather(stored["patch"])
    right = (truth == stored["predicted"]).sum(axis=1)
    worst = int(np.argsort(right, kind="stable")[0])
    first = figures.examples_several(results, split)[0]
    told = {text.get_text() for text in first.texts}
    marks = {(1, 1): "✓", (1, 0): "–", (0, 1): "+"}
    assert told == {
        f"{marks[true, said]} {name} {sure:.0%}"
        for name, true, said, sure in zip(
            results.classes, truth[worst], stored["predicted"][worst],
            stored["confidence"][worst], strict=True,
        )
        if true or said
    }  # fmt: skip


def test_errors_are_strong_only_where_tested() -> None:
    truth = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    predicted = np.array([[0, 1, 0, 0]], dtype=np.uint8)
    tested = np.array([[True, True, False, True]])
    right, wrong, untested, unlabelled = figures._errors(truth, predicted, tested)[0]
    assert wrong[3] > untested[3] > unlabelled[3] == 0
    assert tuple(wrong[:3]) == tuple(untested[:3]) != tuple(right[:3])


def test_tested_pixels_are_those_of_the_test_patches(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    split = results.splits[0]
    scene = split.runs[0].maps[0]
    tested = figures._tested(results, scene, (80, 64), (80, 64))
    chosen = (split.parts(0) == "test").to_numpy() & (results.patches.places["scene"] == 0)
    assert tested.sum() == chosen.sum() * 16 * 16


@pytest.mark.parametrize(
    ("count", "most", "text"),
    [
        (9999, 9999, "9999"),
        (9322, 57_000, "9.3k"),
        (57_000, 57_000, "57k"),
        (1_240_000, 2_000_000, "1.2M"),
        (12, 2_000_000, "12"),
    ],
)
def test_counts_are_short(count: int, most: int, text: str) -> None:
    assert figures._short(count, most) == text


@pytest.mark.parametrize(
    ("length", "bar"), [(2500, 2000), (999, 500), (100, 100), (13_000, 10_000)]
)
def test_scale_bar_has_a_round_length(length: float, bar: float) -> None:
    assert figures._round_length(length) == bar
