"""The report of an experiment: one HTML file that holds everything and asks for nothing.

`write_report` reads the results, draws each registered figure as SVG (`swath.report.figures`),
sets the tables, and fills `report.html.jinja`. The same results give the same bytes.
"""

from __future__ import annotations

import base64
import importlib.metadata
import inspect
import io
import math
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from swath import registry
from swath.files import write_text
from swath.report import figures
from swath.study.results import Experiment, Measure, Run, Scores, Split, read_experiment

# section of the page -> its heading and what it says first
SECTIONS = {
    "splits": ("Splits side by side", ""),
    "training": ("Training", ""),
    "confusion": ("Confusion", ""),
    "classes": ("Scores by class", ""),
    "map": (
        "The split and its audit",
        "A test score means what it says only if the test part is apart from the training part. "
        "Each split was audited before anything trained on it.",
    ),
    "examples": ("Examples", ""),
    "prediction": ("The predicted map", ""),
    "study": ("The study", ""),
    "making": ("What made it", ""),
}
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
DENSE_PX = 400
"""a panel that is wider than this keeps most of its width on a telephone, and scrolls"""
NONE = "–"


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure: SVG text and the pixels it wants."""

    svg: Markup
    width_px: int
    least_px: int


@dataclass(frozen=True)
class Shown:
    """A figure as it stands on the page."""

    name: str
    number: int
    title: str
    caption: str
    of: str
    """the split or scene it shows, empty where it shows the whole experiment"""
    leaks: tuple[str, ...]
    panels: tuple[Panel, ...]


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


@dataclass(frozen=True)
class Card:
    """What matters first of one split."""

    name: str
    scheme: str
    leak: str
    passed: str
    value: str
    interval: str
    low: float
    high: float
    at: float
    tested: str
    smaller: Sequence[tuple[str, str, str]]
    """(name, value, interval)"""
    baseline: dict[str, Any] | None


def write_report(experiment: Path, out: Path, *, project: Path) -> None:
    """Write the report of the results in `experiment` to `out`, one self-contained HTML file.

    Args:
        project: the repository, whose commit is named; paths of source rasters are relative to it.

    Raises:
        DataError: a file that every experiment has is absent or damaged.
    """
    results = read_experiment(experiment, project=project)
    write_text(out, page(results, code=code_version(project)))


def page(results: Experiment, *, code: str) -> str:
    """The report's HTML."""
    shown = drawn_figures(results)
    tables = _tables(results, code)
    sections = [
        {
            "name": name,
            "heading": heading,
            "intro": intro,
            "notes": _notes(results, name),
            "figures": shown.get(name, []),
            "tables": tables.get(name, []),
        }
        for name, (heading, intro) in SECTIONS.items()
        if name in shown or tables.get(name)
    ]
    return _template().render(
        results=results,
        facts=_facts(results),
        cards=[_card(split) for split in results.splits if split.runs],
        sections=sections,
        command=_command(results),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.jinja")


# Figures


def drawn_figures(results: Experiment) -> dict[str, list[Shown]]:
    """The registered figures by section, numbered in the order of the page."""
    drawn: dict[str, list[Shown]] = {name: [] for name in SECTIONS}
    for name in registry.entries("figure"):
        draw = registry.load("figure", name)
        of_section: list[Shown] = drawn[draw.section]  # type: ignore[attr-defined]
        of_section += _drawn(name, results)
    number = 0
    for each in drawn.values():
        for index, figure in enumerate(each):
            number += 1
            each[index] = _numbered(figure, number)
    return {name: each for name, each in drawn.items() if each}


def _numbered(figure: Shown, number: int) -> Shown:
    return Shown(**{**vars(figure), "number": number})


def _drawn(name: str, results: Experiment) -> Iterator[Shown]:
    """A figure, drawn as often as it asks for."""
    draw = registry.load("figure", name)
    title, _, caption = inspect.cleandoc(draw.__doc__ or name).partition("\n\n")
    for subject, of, splits in _subjects(draw, results):
        with matplotlib.rc_context(figures.STYLE):
            panels = tuple(
                as_panel(panel, alt=f"{title} {of}".strip(), salt=f"{name} {of} {index}")
                for index, panel in enumerate(draw(results, *subject))
            )
        if panels:
            yield Shown(
                name=name,
                number=0,
                title=title.rstrip("."),
                caption=" ".join(caption.split()),
                of=of,
                leaks=_leaks(splits),
                panels=panels,
            )


def _subjects(draw: Any, results: Experiment) -> Iterator[tuple[tuple[Any, ...], str, list[Split]]]:
    """What a figure is drawn of: its further arguments, their name, and the splits behind them."""
    trained = [split for split in results.splits if split.runs]
    asked = list(inspect.signature(draw).parameters)[1:]
    if not asked:
        yield (), "", trained if draw.section == "splits" else []
    elif asked == ["split"]:
        for split in trained:
            yield (split,), f"split {split.name}", [split]
    else:
        for scene in figures.shown_maps(results):
            behind = [split for split in trained if split.name == scene.split]
            yield (scene,), f"scene {scene.scene}, split {scene.split}", behind


def _leaks(splits: Iterable[Split]) -> tuple[str, ...]:
    leaky = [split for split in splits if split.leaky]
    return tuple(f"split {split.name}: {split.leak}" for split in leaky)


def as_panel(figure: Figure, *, alt: str, salt: str) -> Panel:
    """A figure as SVG that scales, follows the page's colours and needs nothing from outside."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(
            text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    width = round(figure.get_figwidth() * 96)
    alt = " – ".join([alt, *(axes.get_title("left") for axes in figure.axes)]).strip(" –")
    return Panel(
        svg=Markup(_tidied(text.getvalue(), alt)),
        width_px=width,
        least_px=round(0.82 * width) if width > DENSE_PX else 0,
    )


def _tidied(svg: str, alt: str) -> str:
    """Without what a page does not need, and with the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"data:image/png;base64,([^\"]+)", _lighter, svg)
    for colour, name in figures.INKS.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None  # matplotlib always writes one
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box.group()} role="img" aria-label="{Markup.escape(alt)}">'
    )
    return head + svg[svg.index(">") + 1 :]


def _lighter(match: re.Match[str]) -> str:
    """An embedded PNG with a palette where it has few colours, as JPEG where it is a photograph."""
    stored = base64.b64decode(match.group(1))
    image = Image.open(io.BytesIO(stored)).convert("RGBA")
    bytes_, kind = io.BytesIO(), "png"
    few = image.getcolors(256)
    opaque = bool((np.asarray(image)[..., 3] == 255).all())
    if few is not None:
        _indexed(image).save(bytes_, "PNG", optimize=True)
    elif opaque and len(stored) > 20_000:
        image.convert("RGB").save(bytes_, "JPEG", quality=86, optimize=True)
        kind = "jpeg"
    else:
        image.save(bytes_, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(bytes_.getvalue()).decode()}"


def _indexed(image: Image.Image) -> Image.Image:
    """The same image, at most 256 colours with their alpha, as indices into a palette."""
    pixels = np.asarray(image)
    colours, index = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True)
    indexed = Image.fromarray(index.reshape(pixels.shape[:2]).astype(np.uint8), mode="P")
    indexed.putpalette(colours[:, :3].tobytes())
    indexed.info["transparency"] = colours[:, 3].tobytes()
    return indexed


# Words


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


def _facts(results: Experiment) -> list[tuple[str, str]]:
    first, patches = results.runs[0].facts, results.patches
    parameters = first.get("parameters")
    size = f"{parameters:,} parameters" if parameters else ""
    px, gsd = int(patches.attrs["size_px"]), float(patches.attrs["gsd_m"])
    count, bands = patches.sizes["patch"], patches.sizes["band"]
    runs = len(results.runs)
    return [
        ("Data set", results.title),
        ("Model", ", ".join(part for part in (str(first["model"]), size) if part)),
        (
            "Task",
            f"{'segmentation' if results.segmentation else 'classification'} "
            f"into {len(results.classes)} classes",
        ),
        (
            "Patches",
            f"{count:,} of {px} × {px} px at {gsd:g} m, {bands} band{'s' * (bands > 1)}",
        ),
        ("Runs", f"{runs} run{'s' * (runs > 1)} on {first.get('device', 'an unknown device')}"),
    ]


def _card(split: Split) -> Card:
    scores, baseline = split.scores, split.baseline
    assert scores is not None
    accuracy = scores.measures["overall_accuracy"]
    smaller = [
        (MEASURES[name], percent(scores.measures[name].value), interval(scores.measures[name]))
        for name in ("macro_f1", "miou")
        if name in scores.measures
    ]
    return Card(
        name=split.name,
        scheme=str(split.audit.get("scheme", "")),
        leak=split.leak,
        passed=_passed(split),
        value=percent(accuracy.value),
        interval=f"{scores.interval} {interval(accuracy)} %" if interval(accuracy) else "",
        low=100 * (accuracy.value if math.isnan(accuracy.low) else accuracy.low),
        high=100 * (accuracy.value if math.isnan(accuracy.high) else accuracy.high),
        at=100 * accuracy.value,
        tested=_tested(scores),
        smaller=smaller,
        baseline=_against(split, scores, baseline),
    )


def _passed(split: Split) -> str:
    """What a passed audit says; that parts touch without overlapping is said too."""
    least = split.audit.get("least_distance_m")
    if least is None:
        return "audit passed: no overlap"
    apart = f"parts at least {_metres(least)} apart" if least > 0 else "though the parts touch"
    return f"audit passed: no overlap, {apart}"


def _tested(scores: Scores) -> str:
    pixels = f", {scores.pixels:,} labelled pixels" if scores.pixels else ""
    blocks, side_m = scores.bootstrap.get("blocks"), scores.bootstrap.get("block_m")
    drawn = f"; intervals from {blocks} blocks of {_metres(side_m)}" if blocks and side_m else ""
    return f"{scores.patches:,} test patches{pixels}{drawn if scores.runs == 1 else ''}"


def _against(split: Split, scores: Scores, baseline: Scores | None) -> dict[str, Any] | None:
    if baseline is None:
        return None
    value = baseline.measures["overall_accuracy"].value
    difference = scores.measures["overall_accuracy"].value - value
    return {
        "name": split.baselines[0].name,
        "value": percent(value),
        "at": 100 * value,
        "difference": points(difference),
        "worse": difference < 0,
    }


def _notes(results: Experiment, section: str) -> list[str]:
    if section == "splits":
        return [_compared(results)]
    if section == "map":
        return [
            f"Split {split.name}: {problem}"
            for split in results.splits
            for problem in split.audit.get("problems") or ()
        ][:8]
    if section == "prediction":
        left_out = sum(
            max(0, len(split.runs[0].maps) - figures.SCENES_SHOWN)
            for split in results.splits
            if split.runs
        )
        shown = len(figures.shown_maps(results))
        return [f"{shown} of {shown + left_out} predicted maps are shown."] if left_out else []
    return []


def _compared(results: Experiment) -> str:
    """One sentence that says what the choice of the split does to the score."""
    ranked = sorted(
        (split for split in results.splits if split.scores),
        key=lambda split: _accuracy(split).value,
        reverse=True,
    )
    best, least = ranked[0], ranked[-1]
    leaky = [split for split in ranked if split.leaky]
    clean = [split for split in ranked if not split.leaky]
    if leaky and clean:
        best, least = leaky[0], clean[0]
    high, low = _accuracy(best), _accuracy(least)
    apart = abs(high.value - low.value)
    overlap = (
        ""
        if math.isnan(high.low + low.low)
        else " Their intervals do not overlap."
        if high.low > low.high or high.high < low.low
        else " Their intervals overlap."
    )
    if not (leaky and clean):
        return (
            f"From the split {best.name} ({percent(high.value)} %) to {least.name} "
            f"({percent(low.value)} %) the overall accuracy changes by {100 * apart:.1f} "
            f"points.{overlap}"
        )
    way = "better" if high.value >= low.value else "worse"
    return (
        f"Judged by the split {best.name}, which leaks ({best.leak}), the model looks "
        f"{100 * apart:.1f} points {way} ({percent(high.value)} %) than on {least.name}, whose "
        f"audit passed ({percent(low.value)} %): quote the latter.{overlap}"
    )


def _accuracy(split: Split) -> Measure:
    assert split.scores is not None
    return split.scores.measures["overall_accuracy"]


def _command(results: Experiment) -> str:
    """How to run the winner of the study as an experiment."""
    if results.study is None:
        return ""
    chosen = " ".join(f"{key}={_value(v)}" for key, v in results.study.best.params.items())
    return f'snakemake --config experiment={results.name} set="{chosen}"'


def _value(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else f"{value}"


# Tables


def _tables(results: Experiment, code: str) -> dict[str, list[Table]]:
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
        _leaks(splits),
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
                f"{NONE if best is None else best} of {epochs}",
                duration(float(run.facts.get("seconds", math.nan))),
                str(run.facts.get("attempts", NONE)),
                str(run.facts.get("precision", NONE)),
            )
        )
    return Table("Runs", head, rows, _leaks(splits), wide=True)


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
        _leaks([split]),
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
                _metres(audit.get("least_distance_m")),
                _metres(audit.get("buffer_m")),
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
    return Table("Audit of the splits", head, rows, _leaks(results.splits), wide=True)


def _metres(length_m: float | None) -> str:
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
        _leaks([split]),
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
        ("Data the runs read", ", ".join(filter(None, versions)) or NONE),
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


def code_version(project: Path) -> str:
    """The commit of the project, and whether the working tree differs from it."""
    try:
        commit = _git(project, "rev-parse", "--short=12", "HEAD")
        changed = _git(project, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "not under version control"
    return f"{commit} with uncommitted changes" if changed else commit


def _git(project: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(project), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
