"""The report of an experiment: one HTML file that holds everything and asks for nothing.

`write_report` reads the results, draws each registered figure as SVG (`swath.report.figures`),
takes the tables of `swath.report.tables`, and fills `report.html.jinja`. The same results give the
same bytes.
"""

from __future__ import annotations

import base64
import inspect
import io
import math
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
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
from swath.report.tables import (
    IN_UNIT,
    MEASURES,
    leaks_of,
    metres,
    page_tables,
    percent,
    points,
    unit_of,
    within,
    worth,
    write_tables,
)
from swath.study.importance import LEAST_TRIALS, on_first_rung
from swath.study.results import Experiment, Measure, Scores, Split, Study, read_experiment

# section of the page -> its heading and what it says first
SECTIONS = {
    "splits": ("Splits side by side", ""),
    "training": ("Training", ""),
    "confusion": ("Confusion", ""),
    "calibration": ("Calibration", ""),
    "numbers": ("Predicted against true", ""),
    "classes": ("Scores by class", ""),
    "scenes": ("Scores by scene and region", ""),
    "data": ("The data and their checks", ""),
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
STATES = ("complete", "stopped", "failed", "skipped")
"""how a trial ends, in the order in which they are counted"""
DENSE_PX = 400
"""a panel that is wider than this keeps most of its width on a telephone, and scrolls"""


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
class Card:
    """What matters first of one split."""

    name: str
    scheme: str
    leak: str
    passed: str
    measure: str
    unit: str
    share: bool
    """whether the measure is a share, which has a place between 0 and 100 %"""
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

    Its figures are written beside it as plain files (`swath.report.tables.write_tables`).

    Args:
        project: the repository, whose commit is named; paths of source rasters are relative to it.

    Raises:
        DataError: a file that every experiment has is absent or damaged.
    """
    results = read_experiment(experiment, project=project)
    write_tables(results, out.parent)
    write_text(out, page(results, code=code_version(project)))


def page(results: Experiment, *, code: str) -> str:
    """The report's HTML."""
    shown = drawn_figures(results)
    tables = page_tables(results, code)
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
    return template(Path(__file__).with_name("report.html.jinja")).render(
        results=results,
        facts=_facts(results),
        cards=[_card(split, results) for split in results.splits if split.runs],
        sections=sections,
        command=_command(results),
    )


def template(file: Path) -> jinja2.Template:
    """A page's template, which may include what lies beside the report's."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([file.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(file.name)


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
                leaks=leaks_of(splits),
                panels=panels,
            )


def _subjects(draw: Any, results: Experiment) -> Iterator[tuple[tuple[Any, ...], str, list[Split]]]:
    """What a figure is drawn of: its further arguments, their name, and the splits behind them."""
    trained = [split for split in results.splits if split.runs]
    asked = list(inspect.signature(draw).parameters)[1:]
    if not asked:
        yield (), "", trained if draw.section == "splits" else []
    elif asked == ["split"]:
        for split in results.splits if draw.section in ("data", "map") else trained:
            yield (split,), f"split {split.name}", [split]
    else:
        for scene in figures.shown_maps(results):
            behind = [split for split in trained if split.name == scene.split]
            yield (scene,), f"scene {scene.scene}, split {scene.split}", behind


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


def _facts(results: Experiment) -> list[tuple[str, str]]:
    facts, image = results.patches.facts, results.patches.image.shape
    px, gsd, dates = int(facts["size_px"]), float(facts["gsd_m"]), int(facts.get("dates", 1))
    bands = image[1] // dates
    many = f", {dates} dates" if dates > 1 else ""
    kind = {"pixel": "segmentation", "patch": "classification", "several": "several labels a patch"}
    task = f"{kind[results.labels]}, {len(results.classes)} classes"
    if results.target:
        measured = f"{results.target['name']} ({results.unit or 'no unit'})"
        task = f"regression of {measured} by {results.labels}"
    found = [
        ("Data set", results.title),
        ("Task", task),
        (
            "Patches",
            f"{image[0]:,} of {px} × {px} px at {gsd:.4g} m, {bands} band{'s' * (bands > 1)}{many}",
        ),
    ]
    first, runs = results.runs[0].facts, len(results.runs)
    size = f"{first['parameters']:,} parameters" if first.get("parameters") else ""
    model = ", ".join(part for part in (str(first["model"]), size) if part)
    done = f"{runs} run{'s' * (runs > 1)} on {first.get('device', 'an unknown device')}"
    return [*found, ("Model", model), ("Runs", done)]


def _card(split: Split, results: Experiment) -> Card:
    scores, baseline = split.scores, split.baseline
    assert scores is not None
    first = scores.measures[scores.headline]
    unit, bounds = unit_of(scores.headline, results), within(scores.headline, first)
    smaller = [
        (
            MEASURES[name],
            f"{worth(name, measure.value)} {unit_of(name, results)}".strip(),
            within(name, measure),
        )
        for name in ("macro_f1", "micro_f1", "miou", "mae", "bias", "r2")
        if (measure := scores.measures.get(name))
    ]
    return Card(
        name=split.name,
        scheme=str(split.audit.get("scheme", "")),
        leak=split.leak,
        passed=_passed(split),
        measure=_in_words(scores.headline),
        value=worth(scores.headline, first.value),
        unit=unit,
        share=scores.headline not in IN_UNIT,
        interval=f"{scores.interval} {bounds} {unit}".strip() if bounds else "",
        low=100 * (first.value if math.isnan(first.low) else first.low),
        high=100 * (first.value if math.isnan(first.high) else first.high),
        at=100 * first.value,
        tested=_tested(scores),
        smaller=smaller,
        baseline=_against(split, scores, baseline, unit),
    )


def _in_words(measure: str) -> str:
    """The name of a measure within a sentence."""
    title = MEASURES[measure]
    return title if title.isupper() else title[0].lower() + title[1:]


def _passed(split: Split) -> str:
    """What a passed audit says; that parts touch without overlapping is said too."""
    least = split.audit.get("least_distance_m")
    if least is None:
        return "audit passed: no overlap"
    apart = f"parts at least {metres(least)} apart" if least > 0 else "though the parts touch"
    return f"audit passed: no overlap, {apart}"


def _tested(scores: Scores) -> str:
    pixels = f", {scores.pixels:,} labelled pixels" if scores.pixels else ""
    blocks, side_m = scores.bootstrap.get("blocks"), scores.bootstrap.get("block_m")
    drawn = f"; intervals from {blocks} blocks of {metres(side_m)}" if blocks and side_m else ""
    return f"{scores.patches:,} test patches{pixels}{drawn if scores.runs == 1 else ''}"


def _against(
    split: Split, scores: Scores, baseline: Scores | None, unit: str
) -> dict[str, Any] | None:
    if baseline is None:
        return None
    value = baseline.measures[scores.headline].value
    difference = scores.measures[scores.headline].value - value
    share = scores.headline not in IN_UNIT
    shown = points(difference) if share else points(difference / value if value else 0.0)
    return {
        "name": split.baselines[0].name,
        "value": f"{worth(scores.headline, value)} {unit}".strip(),
        "at": 100 * value,
        "difference": f"{shown} {'points' if share else '%'}",
        "worse": difference < 0 if share else difference > 0,
    }


def _notes(results: Experiment, section: str) -> list[str]:
    if section == "splits":
        return [] if results.target else [_compared(results)]
    if section == "data":
        return [_checked(results)]
    if section == "map":
        return [
            f"Split {split.name}: {problem}"
            for split in results.splits
            for problem in split.audit.get("problems") or ()
        ][:8]
    if section == "study":
        return _of_study(results.study) if results.study else []
    if section == "prediction":
        left_out = sum(
            max(0, len(split.runs[0].maps) - figures.SCENES_SHOWN)
            for split in results.splits
            if split.runs
        )
        shown = len(figures.shown_maps(results))
        return [f"{shown} of {shown + left_out} predicted maps are shown."] if left_out else []
    return []


def _checked(results: Experiment) -> str:
    """One sentence that says what the checks found."""
    kept, left_out = len(results.patches), int(results.index.get("left_out", 0))
    aside = sum(bool(check["faults"]) for check in results.index.get("checks", ()))
    said = f"{kept:,} patches were cut"
    if left_out:
        said += f", and {left_out:,} left out for too few valid pixels"
    if not aside:
        return f"{said}. No scene was set aside."
    scenes = "1 scene was" if aside == 1 else f"{aside:,} scenes were"
    return f"{said}. {scenes} set aside as unfit, and nothing was cut from there."


def _compared(results: Experiment) -> str:
    """One sentence that says what the choice of the split does to the score."""
    ranked = sorted(
        (split for split in results.splits if split.scores),
        key=lambda split: _first(split).value,
        reverse=True,
    )
    best, least = ranked[0], ranked[-1]
    leaky = [split for split in ranked if split.leaky]
    clean = [split for split in ranked if not split.leaky]
    if leaky and clean:
        best, least = leaky[0], clean[0]
    high, low = _first(best), _first(least)
    apart = abs(high.value - low.value)
    overlap = ""
    if not math.isnan(high.low + low.low):
        do = "do not " if high.low > low.high or high.high < low.low else ""
        overlap = f" {_bounds(best, least)} {do}overlap."
    if not (leaky and clean):
        assert best.scores is not None
        return (
            f"From the split {best.name} ({percent(high.value)} %) to {least.name} "
            f"({percent(low.value)} %) the {_in_words(best.scores.headline)} changes by "
            f"{100 * apart:.1f} points.{overlap}"
        )
    way = "better" if high.value >= low.value else "worse"
    return (
        f"Judged by the split {best.name}, which leaks ({best.leak}), the model looks "
        f"{100 * apart:.1f} points {way} ({percent(high.value)} %) than on {least.name}, whose "
        f"audit passed ({percent(low.value)} %): quote the latter.{overlap}"
    )


def _bounds(one: Split, other: Split) -> str:
    """What the bounds of two splits' scores are: intervals, or what several runs range over."""
    assert one.scores is not None and other.scores is not None
    several = [split.scores.runs > 1 for split in (one, other) if split.scores]
    if any(several) and not all(several):
        return (
            f"The {one.scores.interval} of {one.name} and the {other.scores.interval} of "
            f"{other.name}"
        )
    return "The ranges of their runs" if all(several) else "Their intervals"


def _first(split: Split) -> Measure:
    """The measure by which a split is first judged."""
    assert split.scores is not None
    return split.scores.measures[split.scores.headline]


def _of_study(study: Study) -> list[str]:
    """How its trials ended, what nothing can be said of, and why where all failed."""
    ends: Counter[str] = Counter(trial.state for trial in study.trials)
    counts = ", ".join(f"{ends[state]} {state}" for state in STATES if ends[state])
    many = f"{len(study.trials):,} trial{'s' * (len(study.trials) != 1)}"
    told = [f"{many} by the sampler {study.sampler}, {study.mode}: {counts}."]
    if not study.scored:
        return [*told, "No trial has a score, so nothing won.", *_reasons(study)]
    if study.winner is None:
        told.append("Every run of the final failed, so nothing won.")
    if len(on_first_rung(study)) < LEAST_TRIALS:
        told.append(
            f"Which parameters matter is not shown: that takes {LEAST_TRIALS} trials with a score "
            "on the first rung."
        )
    return told


def _reasons(study: Study) -> list[str]:
    """The trials by the reason why they failed."""
    reasons: dict[str, list[str]] = {}
    for trial in study.trials:
        reasons.setdefault(trial.reason or "no reason was given", []).append(str(trial.number))
    return [
        f"Trial{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {reason}"
        for reason, numbers in reasons.items()
    ]


def _command(results: Experiment) -> str:
    """How to run the winner of the study as an experiment; empty where nothing won."""
    winner = results.study.winner if results.study else None
    if winner is None:
        return ""
    epochs = max((rung.epochs for rung in winner.rungs), default=None)
    given = {**winner.params, **({"trainer.epochs": epochs} if epochs else {}), "sweep": "none"}
    chosen = " ".join(f"{key}={_one_word(as_hydra(value))}" for key, value in given.items())
    if chosen.endswith(("'", '"')):
        chosen += " "  # Snakemake strips quotes from both ends
    # Within double quotes a shell would still expand these.
    bare = not re.search(r"[!$`]", chosen)
    escaped = re.sub(r'([\\"])', r"\\\1", chosen)
    quoted = f'"{escaped}"' if bare else shlex.quote(chosen)
    return f"snakemake --config experiment={results.name} set={quoted}"


def _one_word(value: str) -> str:
    """A value as `set` parts overrides: as a shell parts words."""
    return value if shlex.split(value) == [value] else shlex.quote(value)


def as_hydra(value: Any) -> str:
    """A value as Hydra's override grammar reads it, without blanks where it can be."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(as_hydra(item) for item in value)}]"
    if not isinstance(value, str):
        return repr(value)
    reserved = value.lower() in ("null", "true", "false", "nan", "inf")
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and not reserved:
        return value
    # Backslashes count only before a quote, and the last is before one.
    escaped = re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ('\\"' if m[2] else ""), value)
    return f'"{escaped}"'


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
