"""The page: its words and numbers, its stamps, and that it needs nothing from outside."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from swath.errors import SwathError
from swath.report import figures
from swath.report.page import _compared as compared
from swath.report.page import write_report
from swath.report.tables import duration, interval, page_tables, percent, points, write_tables
from swath.study.results import Measure, Split, class_scores, pooled, read_experiment

Read = Callable[[Path], str]


@pytest.fixture
def read(written: Callable[[Path], Path]) -> Read:
    return lambda folder: written(folder).read_text(encoding="utf-8")


def report(folder: Path, out: Path) -> str:
    write_report(folder, out, project=folder)
    return out.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader reads, without drawings and style."""
    page = re.sub(r"<(svg|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_scores_stand_with_interval_and_baseline(experiment: Path, read: Read) -> None:
    text = text_of(read(experiment))
    for split in read_experiment(experiment).splits:
        assert split.scores and split.baseline
        if "rmse" in split.scores.measures:
            continue
        name = "macro_ap" if experiment.name == "fields-several" else "overall_accuracy"
        words = {"macro_ap": "mean average precision", "overall_accuracy": "overall accuracy"}
        accuracy, baseline = split.scores.measures[name], split.baseline.measures[name]
        assert f"{100 * accuracy.value:.1f} % {words[name]}" in text
        assert f"95 % CI {100 * accuracy.low:.1f}–{100 * accuracy.high:.1f} %" in text
        assert f"Baseline {100 * baseline.value:.1f} %" in text
        assert f"{points(accuracy.value - baseline.value)} points" in text


def test_leaky_split_is_stamped_wherever_it_shows(experiment: Path, read: Read) -> None:
    page = read(experiment)
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    of_random = [figure for figure in figures if "split random" in text_of(figure)]
    of_blocks = [figure for figure in figures if "split blocks)" in text_of(figure)]
    assert len(of_random) >= 5 and len(of_blocks) >= 5
    assert all("LEAKS split random: 312 pairs overlap" in text_of(f) for f in of_random)
    assert not any("LEAKS" in text_of(figure) for figure in of_blocks)
    tables = re.findall(r'<div class="tabled.*?</table>.*?</div>\s*(?:<p.*?</p>)?', page, re.DOTALL)
    for table in tables:
        assert ("random" in text_of(table)) <= ("LEAKS" in text_of(table))


def test_sentence_compares_the_leaky_split_with_the_clean_one(
    segmentation: Path, read: Read
) -> None:
    text = text_of(read(segmentation))
    found = re.search(
        r"Judged by the split random, which leaks \(312 pairs overlap\), the model looks "
        r"(\S+) points better .* than on blocks, whose audit passed",
        text,
    )
    clean, leaky = (
        split.scores.measures["overall_accuracy"].value
        for split in read_experiment(segmentation).splits
        if split.scores
    )
    assert found and found.group(1) == f"{100 * (leaky - clean):.1f}"


def test_synthetic_data_are_named_in_the_head_and_at_each_figure(
    experiment: Path, read: Read
) -> None:
    page = read(experiment)
    assert "SYNTHETIC DATA" in text_of(page.split("<main>")[0])
    figures = re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL)
    assert figures and all("SYNTHETIC DATA" in figure for figure in figures)


def test_page_needs_nothing_from_outside(experiment: Path, read: Read) -> None:
    page = read(experiment)
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', page) + re.findall(
        r"url\(([^)]*)\)", page
    )
    assert sources and all(source.startswith(("#", "data:")) for source in sources)
    assert "<script" not in page and "@import" not in page
    assert len(page) < 2_000_000


def test_same_results_give_the_same_bytes(segmentation: Path, tmp_path: Path) -> None:
    once = report(segmentation, tmp_path / "once.html")
    assert report(segmentation, tmp_path / "twice.html") == once


def test_provenance_stands_at_the_end(segmentation: Path, read: Read) -> None:
    page = read(segmentation)
    text = text_of(page)
    assert "c0ffee" * 10 in text and "not under version control" in text
    assert "train 2 2 min 22 s 4 min 16 s 1,323 MB" in text
    assert "&lt;b&gt;not bold&lt;/b&gt;" in page  # what a user wrote is shown, never run


def test_optional_parts_leave_their_sections_out(lean: Path, tmp_path: Path) -> None:
    page = report(lean, tmp_path / "report.html")
    for name in ("splits", "study", "prediction"):
        assert f'<section id="{name}">' not in page
    assert "Baseline" not in text_of(page) and "LEAKS" not in text_of(page)


@pytest.mark.parametrize(
    "missing",
    [
        "patches/shard0",
        "patches/places.parquet",
        "patches/contents.npy",
        "patches/shard0/set.zarr/image/c/0/0/0/0",
        "patches/manifest.json",
        "splits/blocks",
        "splits/blocks/split.parquet",
        "runs",
        "runs/blocks-fold0-seed0/scores.json",
        "runs/blocks-fold0-seed0/scores_by_scene.parquet",
        "runs/blocks-fold0-seed0/scores_by_region.parquet",
        "runs/blocks-fold0-seed0/metrics.parquet",
        "runs/blocks-fold0-seed0/predictions.npz",
    ],
)
def test_missing_file_is_named_in_one_line(
    missing: str, classification: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(classification, folder)
    target = folder / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(SwathError) as caught:
        write_report(folder, tmp_path / "report.html", project=tmp_path)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_several_runs_are_pooled(segmentation: Path) -> None:
    one = read_experiment(segmentation).splits[0].runs[0].scores
    both = pooled([one, one])
    np.testing.assert_array_equal(both.confusion, 2 * one.confusion)
    np.testing.assert_array_equal(both.reliability, 2 * one.reliability)
    assert both.interval == "range of 2 runs"
    value = one.measures["kappa"].value
    assert both.measures["kappa"] == Measure(value, value, value)


@pytest.mark.parametrize("order", [1, -1])
def test_a_measure_that_a_run_cannot_tell_is_null_where_runs_are_pooled(
    segmentation: Path, tmp_path: Path, order: int
) -> None:
    results = read_experiment(segmentation)
    split = results.splits[0]
    scores = split.runs[0].scores
    blank = Measure(math.nan, math.nan, math.nan)
    lacking = replace(scores, measures={**scores.measures, "kappa": blank})
    runs = (split.runs[0], replace(split.runs[0], scores=lacking))[::order]
    pool = replace(split, runs=runs)
    assert pool.scores and all(math.isnan(v) for v in vars(pool.scores.measures["kappa"]).values())
    write_tables(replace(results, splits=(pool,)), tmp_path)
    text = (tmp_path / "metrics.json").read_text()
    told = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert told[split.name]["model"]["kappa"] is None
    assert told[split.name]["model"]["miou"] == pool.scores.measures["miou"].value


def test_what_is_in_brackets_is_said_of_each_split(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    one, other = results.splits
    assert page_tables(results, "")["splits"][0].caption.endswith("(in brackets: 95 % CI)")
    twice, thrice = replace(one, runs=one.runs * 2), replace(other, runs=other.runs * 3)

    def told(*splits: Split) -> str:
        (table,) = page_tables(replace(results, splits=splits), "")["splits"]
        return table.caption.partition("in brackets: ")[2].rstrip(")")

    assert told(twice, replace(other, runs=other.runs * 2)) == (
        "range of 2 runs; of the baseline 95 % CI"
    )
    of_each = f"range of 2 runs on {one.name}, range of 3 runs on {other.name}"
    assert told(twice, thrice) == f"{of_each}; of the baseline 95 % CI"
    alone = replace(other, baselines=())
    assert told(replace(twice, baselines=()), alone) == (
        f"range of 2 runs on {one.name}, 95 % CI on {other.name}"
    )


def test_ranges_of_runs_are_not_called_intervals(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    one, other = results.splits

    def said(*splits: Split) -> str:
        return compared(replace(results, splits=splits)).rpartition(": quote the latter. ")[2]

    assert re.fullmatch(r"Their intervals (do not )?overlap\.", said(one, other))
    twice = replace(one, runs=one.runs * 2)
    both = said(twice, replace(other, runs=other.runs * 2))
    assert re.fullmatch(r"The ranges of their runs (do not )?overlap\.", both)
    mixed = said(twice, other)
    assert "range of 2 runs of blocks" in mixed and "95 % CI of random" in mixed


def test_of_several_runs_the_mean_and_its_deviation_stand_below_them(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    runs = tuple(split.runs[0] for split in results.splits)
    one, other = (run.scores.measures["overall_accuracy"].value for run in runs)
    assert one != other
    many = replace(results.splits[0], runs=runs)
    (table,) = page_tables(replace(results, splits=(many,)), "")["training"]
    mean, deviation = 50 * (one + other), 100 * abs(one - other) / math.sqrt(2)
    title = f"{many.name}, mean ± standard deviation of 2"
    assert table.rows[-1][:2] == (title, f"{mean:.2f} ± {deviation:.2f}")
    assert len(table.rows[-1]) == len(table.head)
    (table,) = page_tables(results, "")["training"]
    assert not any("mean" in row[0] for row in table.rows), "nothing where each split has one run"


def test_class_scores_agree_with_what_the_run_reported(segmentation: Path) -> None:
    scores = read_experiment(segmentation).splits[0].runs[0].scores
    found = class_scores(scores.confusion, scores.classes)
    np.testing.assert_allclose(found, scores.per_class[found.columns])


def test_what_several_labels_are_worth_stands_by_class_and_in_the_figures_for_dvc(
    several: Path, written: Callable[[Path], Path]
) -> None:
    results = read_experiment(several)
    text = text_of(written(several).read_text(encoding="utf-8"))
    split = results.splits[0]
    assert split.scores
    (table,) = [t for t in page_tables(results, "")["classes"] if t.caption.endswith(split.name)]
    assert table.head[2:] == ("Average precision", "Precision", "Recall", "F1", "IoU")
    for row, name in zip(table.rows, results.classes, strict=True):
        mine = split.scores.per_class.loc[name]
        assert row[:2] == (name, f"{mine['support']:.0f}")
        assert row[2] == f"{100 * mine['average_precision']:.1f}"
    assert "Task several labels a patch, 4 classes" in text
    told = json.loads((written(several).parent / "metrics.json").read_text())["blocks"]
    assert told["model"]["macro_ap"] == split.scores.measures["macro_ap"].value
    assert told["model"]["micro_f1"] > told["baseline"]["micro_f1"]


def test_numbers_stand_in_their_unit_beside_the_baseline_s(
    numbers: Path, written: Callable[[Path], Path]
) -> None:
    text = text_of(written(numbers).read_text(encoding="utf-8"))
    assert "Task regression of forest (ha) by patch" in text
    for split in read_experiment(numbers).splits:
        assert split.scores and split.baseline
        rmse, baseline = split.scores.measures["rmse"], split.baseline.measures["rmse"]
        low, high = (f"{value:.4g}" for value in (rmse.low, rmse.high))
        assert f"{rmse.value:.4g} ha RMSE 95 % CI {low} to {high} ha" in text
        share = rmse.value / baseline.value - 1
        assert f"Baseline {baseline.value:.4g} ha, the model {points(share)} %" in text
    assert "RMSE, ha" in text and "Test scores in percent" not in text
    told = json.loads((written(numbers).parent / "metrics.json").read_text())["blocks"]
    assert set(told["model"]) == {"rmse", "mae", "bias", "r2"}


def test_runs_on_several_labels_are_pooled(several: Path) -> None:
    one, other = (split.runs[0].scores for split in read_experiment(several).splits)
    both = pooled([one, other])
    counts = one.confusion + other.confusion
    found = both.per_class.loc["Forest"]
    assert found["support"] == counts[1, 1].sum()
    assert found["recall"] == counts[1, 1, 1] / counts[1, 1].sum()
    precisions = [each.per_class.loc["Forest", "average_precision"] for each in (one, other)]
    assert found["average_precision"] == pytest.approx(sum(precisions) / 2)
    pd.testing.assert_frame_equal(class_scores(one.confusion, one.classes), one.per_class[
        ["support", "precision", "recall", "f1", "iou"]
    ])  # fmt: skip


def test_of_the_scenes_the_worst_stands_first(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    split = results.splits[0]
    table = next(t for t in page_tables(results, "")["scenes"] if t.caption.endswith(split.name))
    assert table.caption == f"Scores by scene in percent, split {split.name}"
    assert [float(row[2]) for row in table.rows] == sorted(float(row[2]) for row in table.rows)
    by_scene = split.runs[0].by_scene.set_index("group")
    assert {row[0] for row in table.rows} == set(by_scene.index) and len(by_scene) == 2
    worst = by_scene["overall_accuracy"].idxmin()
    assert table.rows[0][:3] == (
        worst,
        f"{by_scene.loc[worst, 'labels']:,.0f}",
        f"{100 * by_scene['overall_accuracy'].min():.1f}",
    )


def test_of_the_regions_that_with_the_most_wrong_stands_first(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    split = results.splits[0]
    caption = f"Where most is wrong: 2 of 2 blocks of 5 km, scores in percent, split {split.name}"
    (table,) = [t for t in page_tables(results, "")["scenes"] if t.caption == caption]
    by_region = split.runs[0].by_region
    wrong = by_region["labels"] * (1 - by_region["overall_accuracy"])
    worst = by_region.loc[wrong.idxmax()]
    # The scenes begin at 500 km and 590 km east in their zones, the corners of their blocks.
    assert {row[0] for row in table.rows} == {"47.83° N, 9.03° E", "47.82° N, 16.24° E"}
    assert table.rows[0][0].startswith(f"{worst['lat']:.2f}° N, {worst['lon']:.2f}")
    accuracy = percent(worst["overall_accuracy"])
    assert table.rows[0][1:4] == (f"{worst['labels']:,.0f}", f"{wrong.max():,.0f}", accuracy)
    # Where nothing is wrong, there is nothing to list.
    right = [run.by_region.index[run.by_region["overall_accuracy"] < 1][0] for run in split.runs]
    for run, block in zip(split.runs, right, strict=True):
        run.by_region.loc[block, "overall_accuracy"] = 1.0
    (table,) = [t for t in page_tables(results, "")["scenes"] if "1 of 2 blocks" in t.caption]
    assert len(table.rows) == 1 and table.rows[0][2] != "0"
    # Where there is one block, its scores are those of the split.
    for run in results.runs:
        run.by_region.drop(index=1, inplace=True)
    assert not [t for t in page_tables(results, "")["scenes"] if "blocks of" in t.caption]
    assert figures.regions(results, split) == []


def test_a_region_of_a_plane_is_named_by_its_block(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    for run in results.runs:
        run.by_region["epsg"], run.by_region["column"] = -1, [3, 4]
        run.by_region[["lon", "lat"]] = np.nan
    table = next(t for t in page_tables(results, "")["scenes"] if "blocks of" in t.caption)
    row = results.runs[0].by_region["row"].iloc[0]
    assert {row[0] for row in table.rows} == {f"plane 1, column {c}, row {row}" for c in (3, 4)}


def test_a_temperature_stands_with_what_it_does(segmentation: Path) -> None:
    results = read_experiment(segmentation)
    (table,) = page_tables(results, "")["calibration"]
    run = results.runs[0]
    tested = percent(run.scores.measures["calibration_error"].value)
    name = f"{run.split}, fold 0, seed {run.seed}"
    assert table.rows[0] == (name, "0.625", "12.3", "2.1", tested)
    assert len(table.rows) == len(results.runs) and table.leaks
    for each in results.runs:
        del each.facts["calibration"]
    assert page_tables(results, "")["calibration"] == []


def test_leak_without_overlap_names_the_distance(classification: Path, tmp_path: Path) -> None:
    folder = tmp_path / "near"
    shutil.copytree(classification, folder)
    audit = folder / "splits" / "random" / "audit.json"
    stored = json.loads(audit.read_text())
    stored |= {"overlapping_pairs": 0, "overlap_m2": 0.0, "least_distance_m": 40.0}
    audit.write_text(json.dumps(stored))
    text = text_of(report(folder, tmp_path / "report.html"))
    assert "LEAKS least distance 40 m < 320 m buffer" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (42.4, "42 s"), (71.2, "1 min 11 s"), (7260, "2 h 01 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_have_one_decimal_and_a_true_minus() -> None:
    assert percent(0.8725) == "87.2" and percent(float("nan")) == "–"
    assert points(-0.0123) == "−1.2" and points(0.1) == "+10.0"
    assert percent(-0.1) == "−10.0"


def test_a_range_below_zero_is_no_row_of_hyphens() -> None:
    assert interval(Measure(-0.08, -0.1, -0.05)) == "−10.0 to −5.0"
    assert interval(Measure(0.0, -0.1, 0.05)) == "−10.0 to 5.0"
    assert interval(Measure(0.2, 0.1, 0.3)) == "10.0–30.0"
    assert interval(Measure(0.2, math.nan, math.nan)) == ""
