"""The tables of the report, and the figures of an experiment as plain files for DVC."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from swath.files import whole, write_json
from swath.report import figures
from swath.study.results import Experiment, Measure, Run, Split

MEASURES = {
    "overall_accuracy": "Overall accuracy",
    "average_accuracy": "Average accuracy",
    "kappa": "Cohen’s κ",
    "macro_f1": "Macro F1",
    "miou": "Mean IoU",
}
PACKAGES = (
    "swath",
    "torch",
    "pytorch-lightning",
    "numpy",
    "xarray",
    "zarr",
    "rasterio",
    "scikit-learn",
    "hydra-core",
    "optuna",
    "snakemake",
    "matplotlib",
)
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table as it stands on the page; the first column names its row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    leaks: tuple[str, ...] = ()
    words: bool = False
    """whether the cells are words, not numbers to be aligned on the right"""
    strong: int | None = None
    """a row to be set off"""
    wide: bool = False
    """whether it takes a row of the page for itself"""
    of_data: bool = True
    """whether it shows anything of the data, which may be synthetic"""


def write_tables(experiment: Experiment, folder: Path) -> None:
    """Write `metrics.json` and `curves.csv` into `folder`.

    metrics.json has, for each split, the figures of the runs and of the baseline and whether the
    split leaks; curves.csv has a row an epoch and run.
    """
    write_json(folder / "metrics.json", {s.name: _figures(s) for s in experiment.splits})
    curves = [r.metrics.assign(split=r.split, fold=r.fold, seed=r.seed) for r in experiment.runs]
    with whole(folder / "curves.csv") as part:
        pd.concat(curves).to_csv(part, index=False)


def _figures(split: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"leaks": split.leaky}
    for who, scores in (("model", split.scores), ("baseline", split.baseline)):
        if scores:
            found[who] = {name: measure.value for name, measure in scores.measures.items()}
    return found


def as_markdown(table: Table) -> str:
    """A table as Markdown, its caption above it and its stamp below."""
    align = "---" if table.words else "---:"
    lines = [
        f"**{table.caption}**",
        "",
        "| " + " | ".join(table.head) + " |",
        "| --- |" + f" {align} |" * (len(table.head) - 1),
        *("| " + " | ".join(row) + " |" for row in table.rows),
    ]
    return "\n".join([*lines, *(f"\n*LEAKS: {leak}*" for leak in table.leaks)])


# ---- words ----


def percent(value: float, digits: int = 1) -> str:
    """A share as a percentage without its sign."""
    return NONE if math.isnan(value) else f"{100 * value:.{digits}f}"


def interval(measure: Measure) -> str:
    """The bounds of a measure in percent; empty where it has none."""
    if math.isnan(measure.low):
        return ""
    return f"{percent(measure.low)}–{percent(measure.high)}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{'−' if difference < 0 else '+'}{100 * abs(difference):.1f}"


def duration(seconds: float) -> str:
    """A time in the two largest units that it fills."""
    if math.isnan(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


# ---- tables of the page ----


def leaks_of(splits: Iterable[Split]) -> tuple[str, ...]:
    """Name and finding of each split that leaks: what must be stamped on what is made from it."""
    leaky = [split for split in splits if split.leaky]
    return tuple(f"split {split.name}: {split.leak}" for split in leaky)


def page_tables(results: Experiment, code: str) -> dict[str, list[Table]]:
    """The tables of each section of the page."""
    trained = [split for split in results.splits if split.runs]
    return {
        "splits": [_measures_table(trained)] if len(trained) > 1 else [],
        "training": [_runs_table(results.runs, trained)],
        "classes": [_classes_table(split, results.segmentation) for split in trained],
        "map": [
            _audit_table(results),
            *(_parts_table(split, results.segmentation) for split in results.splits),
        ],
        "study": [_trials_table(results)] if results.study else [],
        "making": [_making_table(results, code), _environment_table(), *_costs_table(results)],
    }


def _with_interval(measure: Measure | None) -> str:
    if measure is None:
        return NONE
    bounds = interval(measure)
    return f"{percent(measure.value)} ({bounds})" if bounds else percent(measure.value)


def _measures_table(splits: list[Split]) -> Table:
    rows = []
    for name, title in MEASURES.items():
        measures = [split.scores.measures.get(name) for split in splits if split.scores]
        if any(measures):
            rows.append((title, *(_with_interval(measure) for measure in measures)))
        against = [
            split.baseline.measures.get(name) if split.baseline else None for split in splits
        ]
        if any(against) and name == "overall_accuracy":
            rows.append(("– of the baseline", *(_with_interval(each) for each in against)))
    scores = splits[0].scores
    assert scores is not None
    return Table(
        f"Test scores in percent (in brackets: {scores.interval})",
        ("", *(f"{split.name} (leaks)" if split.leaky else split.name for split in splits)),
        rows,
        leaks_of(splits),
    )


def _runs_table(runs: Sequence[Run], splits: list[Split]) -> Table:
    head = ("Run", "Overall accuracy, %", "95 % CI", "Best epoch", "Time", "Attempts", "Precision")
    rows = []
    for run in runs:
        accuracy = run.scores.measures["overall_accuracy"]
        best, epochs = run.facts.get("best_epoch"), run.facts.get("epochs")
        rows.append(
            (
                f"{run.split}, fold {run.fold}, seed {run.seed}",
                percent(accuracy.value),
                interval(accuracy) or NONE,
                f"{NONE if best is None else best + 1} of {epochs}",
                duration(float(run.facts.get("seconds", math.nan))),
                str(run.facts.get("attempts", NONE)),
                str(run.facts.get("precision", NONE)),
            )
        )
    return Table("Runs", head, rows, leaks_of(splits), wide=True)


def _classes_table(split: Split, segmentation: bool) -> Table:
    scores = split.scores
    assert scores is not None
    rows = [
        (
            str(name),
            f"{row['support']:,.0f}",
            *(percent(row[key]) for key in ("precision", "recall", "f1", "iou")),
        )
        for name, row in scores.per_class.iterrows()
    ]
    unit = "pixels" if segmentation else "patches"
    return Table(
        f"Scores by class in percent, split {split.name}",
        ("Class", f"Test {unit}", "Precision", "Recall", "F1", "IoU"),
        rows,
        leaks_of([split]),
    )


def _audit_table(results: Experiment) -> Table:
    rows = []
    for split in results.splits:
        audit = split.audit
        rows.append(
            (
                split.name,
                "LEAKS" if split.leaky else "passed",
                str(audit.get("scheme", NONE)),
                f"{audit.get('overlapping_pairs') or 0:,}",
                _hectares(audit.get("overlap_m2") or 0),
                metres(audit.get("least_distance_m")),
                metres(audit.get("buffer_m")),
            )
        )
    head = (
        "Split",
        "Audit",
        "Scheme",
        "Overlapping pairs",
        "Overlap",
        "Least distance",
        "Buffer asked for",
    )
    return Table("Audit of the splits", head, rows, leaks_of(results.splits), wide=True)


def metres(length_m: float | None) -> str:
    """A length in metres or kilometres."""
    if length_m is None or not math.isfinite(length_m):
        return NONE
    if length_m >= 1000 and length_m % 1000 == 0:
        return f"{length_m / 1000:,.0f} km"
    return f"{length_m / 1000:,.1f} km" if length_m >= 10_000 else f"{length_m:,.0f} m"


def _hectares(area_m2: float) -> str:
    return f"{area_m2 / 1e6:,.2f} km²" if area_m2 >= 1e6 else f"{area_m2 / 1e4:,.2f} ha"


def _parts_table(split: Split, segmentation: bool) -> Table:
    parts = {name: part for name, part in split.audit["parts"].items() if part["patches"]}
    total = sum(part["patches"] for part in parts.values())
    classes = dict.fromkeys(name for part in parts.values() for name in part["classes"])
    rows = [
        ("All patches", *(f"{part['patches']:,}" for part in parts.values())),
        ("Share of all", *(f"{100 * part['patches'] / total:.0f} %" for part in parts.values())),
    ]
    for name in classes:
        rows.append((name, *(f"{part['classes'].get(name, 0):,}" for part in parts.values())))
    return Table(
        f"Patches by part, {'labelled pixels' if segmentation else 'and patches'} by class, "
        f"split {split.name}",
        ("Class", *parts),
        rows,
        leaks_of([split]),
        strong=0,
    )


def _trials_table(results: Experiment) -> Table:
    study = results.study
    assert study is not None
    scale, label = figures.objective(study)
    ranked = sorted(
        study.trials,
        key=lambda t: (
            t is not study.best,
            math.isnan(t.score),
            -len(t.rungs),
            -t.score if study.direction == "maximize" else t.score,
        ),
    )
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    epochs = sorted({int(e) for trial in study.trials for e in trial.rungs["epochs"]})
    rows = []
    for trial in ranked:
        reached = dict(zip(trial.rungs["epochs"], trial.rungs["score"], strict=True))
        scores = [reached.get(each, math.nan) for each in epochs]
        rows.append(
            (
                str(trial.number),
                *(_parameter(trial.params.get(name)) for name in names),
                *(
                    NONE if math.isnan(s) else f"{scale * s:.{1 if scale > 1 else 3}f}"
                    for s in scores
                ),
                trial.state + (f": {trial.reason}" if trial.reason else ""),
            )
        )
    return Table(
        f"Trials, the best first; {label} after each rung",
        ("Trial", *names, *(f"{each} epochs" for each in epochs), "State"),
        rows,
        strong=0,
        wide=True,
    )


def _parameter(value: Any) -> str:
    return NONE if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _making_table(results: Experiment, code: str) -> Table:
    codes = dict.fromkeys(str(run.facts.get("code", "")) for run in results.runs)
    versions = dict.fromkeys(str(run.facts.get("data_version", "")) for run in results.runs)
    rows = [
        ("Patch set, checksum", results.version or NONE),
        ("Raw data, checksum", str(results.patches.attrs.get("data_version") or NONE)),
        ("Patch set that the runs read", ", ".join(filter(None, versions)) or NONE),
        ("Code of this report, commit", code),
        ("Code that trained, fingerprint", ", ".join(filter(None, codes)) or NONE),
        ("Runs", ", ".join(str(run.facts.get("run_id", NONE)) for run in results.runs)),
    ]
    return Table("Identity", ("What", "Version"), rows, words=True, wide=True, of_data=False)


def _environment_table() -> Table:
    rows = [("python", platform.python_version()), ("platform", platform.platform())]
    for name in PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return Table(
        "Environment of this report", ("Package", "Version"), rows, words=True, of_data=False
    )


def _costs_table(results: Experiment) -> list[Table]:
    if results.costs.empty:
        return []
    rows = [
        (
            str(rule),
            f"{row['jobs']:.0f}",
            duration(row["wall_s"]),
            duration(row["cpu_s"]),
            NONE if math.isnan(row["peak_mb"]) else f"{row['peak_mb']:,.0f} MB",
        )
        for rule, row in results.costs.iterrows()
    ]
    head = ("Rule", "Jobs", "Wall time", "CPU time", "Peak memory")
    return [
        Table("Time and memory by rule, the jobs of a rule added up", head, rows, of_data=False)
    ]
