"""The tables of the report, and the figures of an experiment as plain files for DVC."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from swath.files import whole, write_json
from swath.report import figures
from swath.study.results import (
    Experiment,
    Final,
    FinalRun,
    Measure,
    Objective,
    Scores,
    Split,
    Study,
)

MEASURES = {
    "macro_ap": "Mean average precision",
    "micro_ap": "Micro average precision",
    "overall_accuracy": "Overall accuracy",
    "average_accuracy": "Average accuracy",
    "kappa": "Cohen’s κ",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "subset_accuracy": "Subset accuracy",
    "miou": "Mean IoU",
    "calibration_error": "Calibration error",
    "rmse": "RMSE",
    "mae": "Mean absolute error",
    "bias": "Bias",
    "r2": "R²",
}
IN_UNIT = ("rmse", "mae", "bias")
"""of these, what has the unit of the target, and is best at 0; all others are shares"""
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
CLASS_MEASURES = {
    "average_precision": "Average precision",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "iou": "IoU",
}
CHECKS_SHOWN = 30
"""scenes up to which each stands in the table of checks; of more, the worst"""
LABELS_OF = {"pixel": "pixels", "patch": "patches", "several": "labels"}
"""what is counted, by the kind of label"""
REGIONS_SHOWN = 10
"""blocks of the ground whose scores are listed"""
SCENES_SHOWN = 15
"""scenes up to which the scores of each are listed; of more, the worst"""
TRIALS_SHOWN = 50
"""trials of a study that are listed, the best"""
BANDS_LISTED = 30
"""bands up to which their statistics are listed; of more, they are drawn alone"""


@dataclass(frozen=True)
class Table:
    """A table as it stands on the page; the first column names its row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    leaks: tuple[str, ...] = ()
    words: bool = False
    """whether the cells are words, not numbers to be aligned on the right"""
    said: bool = False
    """whether the second column is words all the same"""
    remarks: bool = False
    """whether the second column is a remark beside numbers; unlike `said`, strong rows are bold"""
    strong: Sequence[int] = ()
    """rows to be set off"""
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
            found[who] = {
                # JSON knows no NaN.
                name: None if math.isnan(measure.value) else measure.value
                for name, measure in scores.measures.items()
            }
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
    return NONE if math.isnan(value) else f"{100 * value:.{digits}f}".replace("-", "−")


def worth(name: str, value: float, digits: int = 1) -> str:
    """The value of a measure: a share in percent with digits behind the point, and what has a unit
    in four digits."""
    return percent(value, digits) if name not in IN_UNIT or math.isnan(value) else _minus(value, 4)


def within(name: str, measure: Measure) -> str:
    """The bounds of a measure likewise; empty where it has none."""
    if name not in IN_UNIT or math.isnan(measure.low):
        return interval(measure)
    return f"{worth(name, measure.low)} to {worth(name, measure.high)}"


def unit_of(name: str, results: Experiment) -> str:
    """The unit of a measure; empty where it has none."""
    return results.unit if name in IN_UNIT else "%"


def titled(name: str, results: Experiment) -> str:
    """The title of a measure with its unit."""
    return ", ".join(filter(None, (MEASURES[name], unit_of(name, results))))


def interval(measure: Measure) -> str:
    """The bounds of a measure in percent; empty where it has none."""
    if math.isnan(measure.low):
        return ""
    # A dash between two minus signs could not be read.
    between = " to " if measure.low < 0 else "–"
    return f"{percent(measure.low)}{between}{percent(measure.high)}"


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
        "splits": [_measures_table(trained, results)] if len(trained) > 1 else [],
        "training": [_runs_table(results, trained)] if trained else [],
        "calibration": _calibration_table(results, trained),
        "classes": [_classes_table(split, results) for split in trained if not results.target],
        "scenes": [
            table
            for split in trained
            for table in (*_scenes_table(split, results), *_regions_table(split, results))
        ],
        "data": [
            *_checks_table(results),
            *(table for split in results.splits for table in _bands_table(results, split)),
        ],
        "map": [
            *([_audit_table(results)] if results.splits else []),
            *(_parts_table(split, results) for split in results.splits),
        ],
        "study": _study_tables(results, results.study) if results.study else [],
        "making": [_making_table(results, code), _environment_table(), *_costs_table(results)],
    }


def _with_interval(name: str, measure: Measure | None) -> str:
    if measure is None:
        return NONE
    value, bounds = worth(name, measure.value), within(name, measure)
    return f"{value} ({bounds})" if bounds else value


def _measures_table(splits: list[Split], results: Experiment) -> Table:
    rows = []
    scores = splits[0].scores
    assert scores is not None
    for name, title in MEASURES.items():
        measures = [split.scores.measures.get(name) for split in splits if split.scores]
        if any(measures):
            title = titled(name, results) if results.target else title
            rows.append((title, *(_with_interval(name, measure) for measure in measures)))
        against = [
            split.baseline.measures.get(name) if split.baseline else None for split in splits
        ]
        if any(against) and name == scores.headline:
            rows.append(("– of the baseline", *(_with_interval(name, each) for each in against)))
    return Table(
        f"Test scores{'' if results.target else ' in percent'}{_in_brackets(splits)}",
        ("", *(f"{split.name} (leaks)" if split.leaky else split.name for split in splits)),
        rows,
        leaks_of(splits),
    )


def _in_brackets(splits: Sequence[Split]) -> str:
    """What the bounds of the scores mean, said of whom where it is not the same of all."""
    model = _bounds({split.name: split.scores for split in splits if split.scores})
    baseline = _bounds({split.name: split.baseline for split in splits if split.baseline})
    said = model if baseline in ("", model) else f"{model}; of the baseline {baseline}"
    return f" (in brackets: {said})" if said else ""


def _bounds(scores: Mapping[str, Scores]) -> str:
    """What the bounds mean, by split where they differ; empty where there are none."""
    splits: dict[str, list[str]] = {}
    for name, each in scores.items():
        if not all(math.isnan(measure.low) for measure in each.measures.values()):
            splits.setdefault(each.interval, []).append(name)
    if len(splits) == 1:
        return next(iter(splits))
    return ", ".join(f"{bounds} on {' and '.join(names)}" for bounds, names in splits.items())


def _runs_table(results: Experiment, splits: list[Split]) -> Table:
    runs, headline = results.runs, results.runs[0].scores.headline
    head = (
        "Run", titled(headline, results), "95 % CI", "Best epoch", "Time", "Attempts", "Precision",
    )  # fmt: skip
    rows = []
    for run in runs:
        first = run.scores.measures[headline]
        best, epochs = run.facts.get("best_epoch"), run.facts.get("epochs")
        rows.append(
            (
                f"{run.split}, fold {run.fold}, seed {run.seed}",
                worth(headline, first.value),
                within(headline, first) or NONE,
                f"{NONE if best is None else best + 1} of {epochs}",
                duration(float(run.facts.get("seconds", math.nan))),
                str(run.facts.get("attempts", NONE)),
                str(run.facts.get("precision", NONE)),
            )
        )
    for split in splits:
        if len(split.runs) > 1:
            # As papers report them: each run is one observation, whatever its fold and seed.
            values = pd.Series([run.scores.measures[headline].value for run in split.runs])
            # Seeds differ by less than one digit behind the point would show.
            both = f"{worth(headline, values.mean(), 2)} ± {worth(headline, values.std(), 2)}"
            title = f"{split.name}, mean ± standard deviation of {len(values)}"
            rows.append((title, both, NONE, NONE, NONE, NONE, NONE))
    return Table("Runs", head, rows, leaks_of(splits), wide=True)


def _calibration_table(results: Experiment, splits: list[Split]) -> list[Table]:
    """The temperature of each run, what it does to the validation part, and the test part's error.

    Nothing where no run was calibrated.
    """
    rows = []
    for run in results.runs:
        if found := run.facts.get("calibration"):
            rows.append(
                (
                    f"{run.split}, fold {run.fold}, seed {run.seed}",
                    f"{run.facts['temperature']:.3f}",
                    percent(found["ece_before"]),
                    percent(found["ece_after"]),
                    percent(run.scores.measures["calibration_error"].value),
                )
            )
    head = ("Run", "Temperature", "Validation, before", "Validation, after", "Test, after")
    caption = "Temperatures, and the calibration error in percent before and after they are applied"
    return [Table(caption, head, rows, leaks_of(splits), wide=True)] if rows else []


def _classes_table(split: Split, results: Experiment) -> Table:
    scores = split.scores
    assert scores is not None
    known = [name for name in CLASS_MEASURES if name in scores.per_class]
    rows = [
        (str(name), f"{row['support']:,.0f}", *(percent(row[key]) for key in known))
        for name, row in scores.per_class.iterrows()
    ]
    unit = "pixels" if results.segmentation else "patches"
    return Table(
        f"Scores by class in percent, split {split.name}",
        ("Class", f"Test {unit}", *(CLASS_MEASURES[name] for name in known)),
        rows,
        leaks_of([split]),
    )


def _scenes_table(split: Split, results: Experiment) -> list[Table]:
    """Scores of each scene over all runs, the worst first; nothing where there is one scene."""
    scores = split.scores
    assert scores is not None
    by_run = pd.concat([run.by_scene for run in split.runs])
    # Of the few patches of a scene an average precision says little.
    several = results.labels == "several"
    first = "micro_f1" if several else scores.headline
    table = by_run.groupby("group").mean().sort_values(first, ascending=first not in IN_UNIT)
    if len(table) < 2:
        return []
    shown = table.head(SCENES_SHOWN)
    others = ("macro_f1", "subset_accuracy" if several else "miou", "calibration_error")
    names = ("rmse", "mae", "bias", "r2") if results.target else (first, *others)
    rows = [
        (str(scene), f"{row['labels']:,.0f}", *(worth(name, row[name]) for name in names))
        for scene, row in shown.iterrows()
    ]
    worst = f" (the worst of {len(table):,})" if len(shown) < len(table) else ""
    unit = LABELS_OF[results.labels]
    percents = "" if results.target else " in percent"
    titles = [titled(name, results) if results.target else MEASURES[name] for name in names]
    return [
        Table(
            f"Scores by scene{percents}{worst}, split {split.name}",
            ("Scene", f"Test {unit}", *titles),
            rows,
            leaks_of([split]),
        )
    ]


def _regions_table(split: Split, results: Experiment) -> list[Table]:
    """The blocks of the ground with the most wrong labels, or the largest sum of squared errors.

    Nothing where there is one block, or nothing is wrong.
    """
    table = split.by_region
    if len(table) < 2:
        return []
    if results.target:
        table["wrong"] = table["labels"] * table["rmse"] ** 2
    else:
        table["wrong"] = table["labels"] * (1 - table["overall_accuracy"])
    of_classes = ("overall_accuracy", "macro_f1", "calibration_error")
    names = ("rmse", "mae", "bias", "r2") if results.target else of_classes
    shown = table[table["wrong"] > 0].sort_values("wrong", ascending=False).head(REGIONS_SHOWN)
    if not len(shown):
        return []
    rows = [
        (
            _place(row),
            f"{row['labels']:,.0f}",
            *(() if results.target else (f"{row['wrong']:,.0f}",)),
            *(worth(name, row[name]) for name in names),
        )
        for _, row in shown.iterrows()
    ]
    unit = LABELS_OF[results.labels]
    block_m = split.runs[0].scores.bootstrap.get("block_m")
    percents = "" if results.target else ", scores in percent"
    wrong = () if results.target else ("Wrong",)
    titles = [titled(name, results) if results.target else MEASURES[name] for name in names]
    return [
        Table(
            f"Where most is wrong: {len(shown)} of {len(table):,} blocks of {metres(block_m)}"
            f"{percents}, split {split.name}",
            ("Centre", f"Test {unit}", *wrong, *titles),
            rows,
            leaks_of([split]),
        )
    ]


def _place(block: pd.Series) -> str:
    """Where a block lies: its centre, or its column and row where the plane has no georeference."""
    if math.isnan(block["lat"]):
        return f"plane {-block['epsg']:.0f}, column {block['column']:.0f}, row {block['row']:.0f}"
    north, east = ("S" if block["lat"] < 0 else "N"), ("W" if block["lon"] < 0 else "E")
    return f"{abs(block['lat']):.2f}° {north}, {abs(block['lon']):.2f}° {east}"


def _checks_table(results: Experiment) -> list[Table]:
    """The scenes and what the checks found: those set aside first, then the worst."""
    checks = _numbered(results.index.get("checks") or [])
    if not checks:
        return []
    aside = [check for check in checks if check["faults"]]
    fit = [check for check in checks if not check["faults"]]
    if many := len(checks) > CHECKS_SHOWN:
        fit.sort(key=_harm, reverse=True)
    shown = fit[: max(CHECKS_SHOWN - len(aside), 10)] if many else fit
    rows = [_check_row(check) for check in [*aside, *shown]]
    if others := fit[len(shown) :]:
        rows.append(_check_row(_taken_together(others)))
    head = (
        "Scene",
        "Verdict",
        "Patches",
        "Left out",
        "No data, %",
        "Clouds, %",
        "Saturated, %",
        "Implausible, %",
        "Range",
    )
    order = " (those set aside and the worst)" if others else ""
    return [
        Table(
            f"Scenes and their checks{order}", head, rows,
            said=True, strong=range(len(aside)), wide=True,
        )
    ]  # fmt: skip


def _numbered(checks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Portions of one set of published patches, told apart."""
    counts, seen = Counter(check["scene"] for check in checks), Counter[str]()
    found = []
    for check in checks:
        name = str(check["scene"])
        seen[name] += 1
        several = f" ({seen[name]} of {counts[name]})" if counts[name] > 1 else ""
        found.append(check | {"scene": name + several})
    return found


_SHARES = ("nodata", "clouds", "saturated", "implausible")


def _harm(check: dict[str, Any]) -> float:
    """How bad a fit scene is: its largest share of bad pixels."""
    return max(check.get(key) or 0.0 for key in _SHARES)


def _check_row(check: dict[str, Any]) -> tuple[str, ...]:
    faults, remarks = check["faults"], []
    for key, words in (("constant", "constant"), ("empty", "without data")):
        if names := check.get(key):
            remarks.append(f"{', '.join(names[:5])}{' …' * (len(names) > 5)} {words}")
    if not check["patches"]:
        remarks.append("no patch has enough valid pixels")
    least, most = check.get("least"), check.get("most")
    verdict = f"set aside: {'; '.join(faults)}" if faults else "; ".join(["fit", *remarks])
    return (
        str(check["scene"]),
        verdict,
        f"{check['patches']:,}",
        f"{check['left_out']:,}" if "left_out" in check else NONE,
        *(_small_share(check.get(key)) for key in _SHARES),
        NONE if least is None or most is None else f"{_minus(least)} to {_minus(most)}",
    )


def _small_share(value: float | None) -> str:
    """A share in percent; what is more than nothing never reads as nothing."""
    return NONE if value is None else "< 0.1" if 0 < value < 0.0005 else percent(value)


def _taken_together(checks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scenes as one row: counts added, shares averaged over their pixels."""
    table = pd.DataFrame(checks)
    shares = {}
    for key in _SHARES:
        known = table[table[key].notna()]
        total = known["pixels"].sum()
        shares[key] = float((known[key] * known["pixels"]).sum() / total) if total else None
    return {
        "scene": f"{len(checks):,} others",
        "patches": int(table["patches"].sum()),
        "left_out": int(table["left_out"].sum()),
        "faults": [],
        "least": float(table["least"].min()),
        "most": float(table["most"].max()),
    } | shares


def _bands_table(results: Experiment, split: Split) -> list[Table]:
    """Statistics of the bands over the training part, where they are few enough to be listed."""
    spread, names = split.spread, results.patches.facts["bands"]
    if spread is None or len(names) > BANDS_LISTED:
        return []
    wavelengths = results.wavelengths_nm
    columns = [
        spread["mean"],
        spread["std"],
        *(spread["quantiles"][share] for share in ("0.02", "0.5", "0.98")),
    ]
    rows = [
        (
            str(name),
            NONE if math.isnan(wavelengths[at]) else f"{wavelengths[at]:,.0f}",
            *(_significant(values[at]) for values in columns),
        )
        for at, name in enumerate(names)
    ]
    head = ("Band", "Wavelength, nm", "Mean", "Std. dev.", "2 %", "Median", "98 %")
    of = f"{split.name}, fold {split.fold}" if split.folds > 1 else split.name
    caption = f"Stored values of the training part, split {of}"
    return [Table(caption, head, rows, leaks_of([split]))]


def _significant(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}".replace("-", "−") if abs(value) >= 1000 else _minus(value, 4)


def _minus(value: float, digits: int = 5) -> str:
    """A number in so many digits, with a true minus."""
    return f"{value:.{digits}g}".replace("-", "−")


def _audit_table(results: Experiment) -> Table:
    rows = []
    for split in results.splits:
        folds = split.audit.get("folds") or [split.audit]
        for number, audit in enumerate(folds):
            rows.append(
                (
                    f"{split.name}, fold {number}" if len(folds) > 1 else split.name,
                    "passed" if audit["passed"] and not audit.get("stamped") else "LEAKS",
                    str(split.audit.get("scheme", NONE)),
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


def _parts_table(split: Split, results: Experiment) -> Table:
    folds = split.audit.get("folds") or [split.audit]
    audit = folds[split.fold if len(folds) > 1 else 0]
    parts = {name: part for name, part in audit["parts"].items() if part["patches"]}
    total = sum(part["patches"] for part in parts.values())
    classes = dict.fromkeys(name for part in parts.values() for name in part["classes"])
    rows = [
        ("All patches", *(f"{part['patches']:,}" for part in parts.values())),
        ("Share of all", *(f"{100 * part['patches'] / total:.0f} %" for part in parts.values())),
    ]
    for name in classes:
        rows.append((name, *(f"{part['classes'].get(name, 0):,}" for part in parts.values())))
    counted = {"pixel": "labelled pixels", "patch": "and patches", "several": "labels"}
    return Table(
        f"Patches by part, {counted[results.labels]} by class, split {split.name}"
        + (f", fold {split.fold}" if split.folds > 1 else ""),
        ("Class", *parts),
        rows,
        leaks_of([split]),
        strong=[0],
    )


def _study_tables(results: Experiment, study: Study) -> list[Table]:
    """What the winner scores on the test part, the candidates of the final, and all trials."""
    if study.final is None:
        return [_trials_table(study)]
    candidates = _candidates_table(study, study.final)
    return [*_judgement_table(results, study.final), candidates, _trials_table(study)]


def _trials_table(study: Study) -> Table:
    """The trials, the winner first: the first objective by rung, the others where each ended."""
    sought, several = study.objectives, len(study.objectives) > 1
    ranked = sorted(
        study.trials,
        key=lambda t: (
            t is not study.winner,
            several and t.number not in study.front,
            t not in study.scored,
            t.state == "skipped",
            -len(t.rungs),
            -sought[0].sign * t.score() if t in study.scored else 0.0,
        ),
    )
    shown = ranked[:TRIALS_SHOWN]
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    epochs = sorted({rung.epochs for trial in study.trials for rung in trial.rungs})
    rows = []
    for trial in shown:
        reached = {rung.epochs: rung.scores[0] for rung in trial.rungs if rung.scores}
        rows.append(
            (
                str(trial.number),
                trial.state + (f": {trial.reason}" if trial.reason else ""),
                *(scored(sought[0], reached.get(each, math.nan)) for each in epochs),
                *(scored(each, trial.score(at)) for at, each in enumerate(sought) if at),
                duration(trial.seconds),
                *(_parameter(trial.params[n]) if n in trial.params else "" for n in names),
            )
        )
    first, *others = (figures.objective(each)[1] for each in sought)
    front = "; those in bold no other beats in all objectives" if several else ""
    cut_off = len(shown) < len(ranked)
    best = f"the best {len(shown)} of {len(ranked):,}" if cut_off else "the best first"
    return Table(
        f"Trials, {best}; {first} after each rung{front}",
        ("Trial", "State", *(f"{each} epochs" for each in epochs), *others, "Time", *names),
        rows,
        strong=[
            at
            for at, trial in enumerate(shown)
            if (trial.number in study.front if several else trial is study.winner)
        ],
        remarks=True,
        wide=True,
    )


def scored(sought: Objective, value: float, spread: float = math.nan) -> str:
    """A score by an objective as it is written, with its standard deviation where it has one."""
    if not math.isfinite(value):
        return NONE
    scale, _ = figures.objective(sought)
    whole = abs(value) >= 1000
    digits = 1 if scale > 1 else 0 if whole else 3
    written = f"{scale * value:,.{digits}f}".replace("-", "−")
    return written if math.isnan(spread) else f"{written} ± {scale * spread:,.{digits}f}"


def _parameter(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else figures.as_word(value)


def _candidates_table(study: Study, final: Final) -> Table:
    ranked = sorted(final.candidates, key=lambda c: (c.number != final.winner, c.rank))
    keys = sorted({(run.fold, run.seed) for each in ranked for run in each.runs})
    rows = []
    for each in ranked:
        runs = {(run.fold, run.seed): run for run in each.runs}
        mean, sd = (row or [math.nan] * len(study.objectives) for row in (each.mean, each.sd))
        rows.append(
            (
                f"{each.number} (won)" if each.number == final.winner else str(each.number),
                *map(scored, study.objectives, mean, sd),
                *(_final_run(study, runs.get(key)) for key in keys),
            )
        )
    titles = [figures.objective(each)[1] for each in study.objectives]
    return Table(
        f"The final: mean ± standard deviation over the runs, and {titles[0]} of each",
        ("Trial", *titles, *(f"fold {fold}, seed {seed}" for fold, seed in keys)),
        rows,
        strong=[0] if final.winner is not None else [],
        wide=True,
    )


def _final_run(study: Study, run: FinalRun | None) -> str:
    if run is None:
        return NONE
    if not run.scores:
        return f"failed: {run.reason}" if run.reason else "failed"
    return scored(study.objectives[0], run.scores[0])


def _judgement_table(results: Experiment, final: Final) -> list[Table]:
    test = final.test
    if test is None or not test.runs:
        return []
    headline = test.runs[0].headline
    rows = []
    for run in test.runs:
        bounds = within(headline, Measure(run.value, run.low, run.high)) or NONE
        rows.append((f"fold {run.fold}, seed {run.seed}", worth(headline, run.value), bounds))
    if len(rows) > 1:
        values = pd.Series([run.value for run in test.runs])
        both = f"{worth(headline, values.mean(), 2)} ± {worth(headline, values.std(), 2)}"
        rows.append((f"mean ± standard deviation of {len(values)}", both, NONE))
    return [
        Table(
            f"The test part of the split {test.split}, touched once, by the winner",
            ("Run", titled(headline, results), "95 % CI"),
            rows,
            leaks_of(split for split in results.splits if split.name == test.split),
        )
    ]


def _making_table(results: Experiment, code: str) -> Table:
    codes = dict.fromkeys(str(run.facts.get("code", "")) for run in results.runs)
    versions = dict.fromkeys(str(run.facts.get("data_version", "")) for run in results.runs)
    rows = [
        ("Patch set, checksum", str(results.index.get("version") or NONE)),
        ("Raw data, checksum", str(results.index.get("data_version") or NONE)),
        ("Patch set that the runs read", ", ".join(filter(None, versions)) or NONE),
        ("Code of this report, commit", code),
        ("Code that trained, fingerprint", ", ".join(filter(None, codes)) or NONE),
        ("Runs", ", ".join(str(run.facts.get("run_id", NONE)) for run in results.runs) or NONE),
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
