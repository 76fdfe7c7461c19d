"""Results of one experiment on disk, read into plain tables for whoever looks at them.

Only reads: the files are written by the stages. Images stay in their memory map, predictions and
maps are read when a figure asks for them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from swath import store
from swath.data.patchset import PatchSet, open_patches
from swath.errors import DataError
from swath.files import read_json
from swath.study.rungs import Objective as Objective
from swath.study.scores import per_class

MEASURES = (
    "macro_ap", "micro_ap", "overall_accuracy", "average_accuracy", "kappa", "macro_f1", "micro_f1",
    "subset_accuracy", "miou", "calibration_error", "rmse", "mae", "bias", "r2",
)  # fmt: skip
"""In the order of a table; what a run has of them depends on its task."""
HEADLINES = ("rmse", "macro_ap", "overall_accuracy")
"""The measure by which a run is first judged: the first of these that it has."""
_MEND = "run the stage that writes it, then the report again"


@dataclass(frozen=True)
class Measure:
    """One score, a share or in the unit of the target, with the bounds of its interval (nan where
    there is none)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Test scores of one run, or of several runs of one split taken together."""

    patches: int
    pixels: int | None
    classes: tuple[str, ...]
    measures: dict[str, Measure]
    per_class: pd.DataFrame
    """index: class; columns: support, precision, recall, f1, iou; of several labels, too,
    average_precision"""
    confusion: np.ndarray
    """(truth, predicted) counts; of several labels (class, truth, predicted), absent and there"""
    reliability: np.ndarray
    """(bin, 3): labels, right answers and sum of confidences in each bin of confidence; of several
    labels all labels, those that are there and sum of probabilities in each bin of probability"""
    bootstrap: dict[str, Any]
    runs: int = 1

    @property
    def headline(self) -> str:
        """The name of the measure by which it is first judged."""
        return next(name for name in HEADLINES if name in self.measures)

    @property
    def interval(self) -> str:
        """What the bounds of the measures mean."""
        return "95 % CI" if self.runs == 1 else f"range of {self.runs} runs"


@dataclass(frozen=True)
class Baseline:
    """A simple method judged on the same test part."""

    name: str
    fold: int
    seconds: float
    scores: Scores


@dataclass(frozen=True)
class SceneMap:
    """Rasters of one predicted scene; absent ones are None or empty."""

    scene: str
    split: str
    fold: int
    predicted: Path
    """classes, or numbers of a target"""
    confidence: Path | None
    truth: Path | None
    images: tuple[Path, ...]


@dataclass(frozen=True)
class Run:
    """One training of one fold of a split with one seed."""

    folder: Path
    split: str
    fold: int
    seed: int
    facts: dict[str, Any]
    """the whole of run.json"""
    metrics: pd.DataFrame
    """one row an epoch"""
    scores: Scores
    by_scene: pd.DataFrame
    """one row a scene of the test part: group, patches, labels, and its measures"""
    by_region: pd.DataFrame
    """likewise a row a block of the ground: epsg, column, row, lon, lat (°), and so on"""
    maps: tuple[SceneMap, ...]

    def predictions(self) -> dict[str, np.ndarray]:
        """`patch` (n,), `predicted` and, but for a target, `confidence` of the test part: (n,),
        (n, class) or (n, y, x)."""
        with np.load(_present(self.folder / "predictions.npz")) as stored:
            return dict(stored)


@dataclass(frozen=True)
class Split:
    """Which patch is in which part, what the audit found, and what was trained on it."""

    name: str
    table: pd.DataFrame
    """columns: patch, fold, part"""
    audit: dict[str, Any]
    statistics: tuple[dict[str, Any], ...]
    """of the bands over the training part of each fold: mean, std, least, most, pixels (band),
    quantiles {share: (band)} in stored units; empty where they were not computed"""
    runs: tuple[Run, ...]
    baselines: tuple[Baseline, ...]

    @property
    def leaky(self) -> bool:
        """Whether scores on this split must be stamped."""
        return not self.audit["passed"] or bool(self.audit.get("stamped"))

    @property
    def leak(self) -> str:
        """What the audit found, in a few words; empty where the split is clean."""
        if not self.leaky:
            return ""
        pairs = int(self.audit.get("overlapping_pairs") or 0)
        if pairs:
            return f"{pairs:,} {'pair overlaps' if pairs == 1 else 'pairs overlap'}"
        least, buffer = self.audit.get("least_distance_m"), self.audit.get("buffer_m")
        if least is not None and buffer is not None and least < buffer:
            return f"least distance {least:,.0f} m < {buffer:,.0f} m buffer"
        problems = self.audit.get("problems") or ["allowed by the configuration"]
        return str(problems[0])

    @property
    def scores(self) -> Scores | None:
        """Test scores of all runs together; None where nothing was trained on the split."""
        return pooled([run.scores for run in self.runs]) if self.runs else None

    @property
    def by_region(self) -> pd.DataFrame:
        """Test scores of each block of the ground, averaged over the runs that tested there."""
        tables = [run.by_region for run in self.runs]
        return pd.concat(tables).groupby(["epsg", "column", "row"], as_index=False).mean()

    @property
    def baseline(self) -> Scores | None:
        """Test scores of the baseline over its folds; None where there is none."""
        return pooled([each.scores for each in self.baselines]) if self.baselines else None

    @property
    def fold(self) -> int:
        """The fold that is shown where only one can be: the first that something trained on."""
        return self.runs[0].fold if self.runs else int(self.table["fold"].min())

    @property
    def folds(self) -> int:
        """Number of folds."""
        return int(self.table["fold"].nunique())

    @property
    def spread(self) -> dict[str, Any] | None:
        """Statistics of the bands over the training part of the shown fold."""
        return self.statistics[self.fold] if self.fold < len(self.statistics) else None

    def parts(self, fold: int) -> pd.Series:
        """Part of each patch of a fold; index: patch."""
        rows = self.table[self.table["fold"] == fold]
        return rows.set_index("patch")["part"]


def _nan_of_null(value: Any) -> Any:
    return math.nan if value is None else value


Known = Annotated[float, BeforeValidator(_nan_of_null)]
"""A number of a study's files, nan where they say null."""
Row = Annotated[tuple[Known, ...], BeforeValidator(lambda value: () if value is None else value)]
"""Numbers likewise, none where they say null."""


@dataclass(frozen=True)
class Rung:
    """What a trial had reached at the end of one rung."""

    rung: int
    epochs: int
    """counted from the trial's start"""
    scores: Row
    """one for each objective; none where it failed here"""
    seconds: Known
    """of training in all so far"""
    run_id: str | None = None
    curve: Row = ()
    """the first objective after each epoch from the first; none where it is not known by epoch"""


@dataclass(frozen=True)
class Trial:
    """One point of a study, with its scores at each rung that it reached."""

    number: int
    params: dict[str, Any]
    """key of the configuration -> value; conditional keys are absent where they do not apply"""
    rungs: tuple[Rung, ...]
    state: Literal["complete", "stopped", "failed", "skipped"]
    reason: str | None = None
    generation: int = 0

    @property
    def reached(self) -> Rung | None:
        """The highest rung at which it has scores."""
        scored = [rung for rung in self.rungs if rung.scores]
        return max(scored, key=lambda rung: rung.rung) if scored else None

    def score(self, objective: int = 0) -> float:
        """Score at that rung by one of the objectives; nan where there is none."""
        return self.reached.scores[objective] if self.reached else math.nan

    @property
    def seconds(self) -> float:
        """Training time up to that rung; nan where it is unknown."""
        return self.reached.seconds if self.reached else math.nan

    @property
    def curve(self) -> tuple[float, ...]:
        """The first objective after each epoch from the first, as far as the trial came."""
        return max((rung.curve for rung in self.rungs), key=len, default=())


@dataclass(frozen=True)
class FinalRun:
    """One training of a candidate of the final."""

    fold: int
    seed: int
    scores: Row
    seconds: Known = math.nan
    run_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A trial that was trained anew on every fold and seed of the final."""

    number: int
    rank: int
    mean: Row
    """over its runs, one for each objective; none where all failed"""
    sd: Row
    runs: tuple[FinalRun, ...]


@dataclass(frozen=True)
class JudgedRun:
    """What one run of the winner scores on the test part."""

    fold: int
    seed: int
    headline: str
    value: float
    low: Known = math.nan
    high: Known = math.nan


@dataclass(frozen=True)
class Judgement:
    """The test part, touched once, by the winner."""

    split: str
    runs: tuple[JudgedRun, ...]


@dataclass(frozen=True)
class Final:
    """The best trials, trained anew over folds and seeds, and the one that won."""

    candidates: tuple[Candidate, ...]
    winner: int | None
    test: Judgement | None = None


@dataclass(frozen=True)
class Study:
    """A sweep: what it sought, its trials, and what came of them."""

    study: str
    mode: Literal["static", "async"]
    sampler: str
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    trials: tuple[Trial, ...]
    front: tuple[int, ...]
    """numbers of the trials that no other beats in all objectives"""
    best: int | None
    """number of the best trial; None where all failed"""
    final: Final | None = None
    winner_text: str = ""
    """the winner's configuration as the text of a conf/experiment file"""

    @property
    def winner(self) -> Trial | None:
        """The winner of the final, or the best trial where there is no final."""
        number = self.final.winner if self.final else self.best
        return next((trial for trial in self.trials if trial.number == number), None)

    @property
    def scored(self) -> list[Trial]:
        """The trials that have a score."""
        return [trial for trial in self.trials if math.isfinite(trial.score())]

    @property
    def varied(self) -> list[str]:
        """The parameters in which trials differ; a parameter that one does not have differs."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.params)
        told = {
            name: {json.dumps(trial.params.get(name, "…")) for trial in self.trials}
            for name in names
        }
        return [name for name in names if len(told[name]) > 1]


@dataclass(frozen=True)
class Experiment:
    """All that one experiment left below results/<name>/."""

    name: str
    folder: Path
    sections: dict[str, str]
    """section of the configuration -> its YAML text"""
    patches: PatchSet
    index: dict[str, Any]
    """the patch set's manifest: version, data_version, kept, left_out, checks of each scene"""
    splits: tuple[Split, ...]
    study: Study | None
    costs: pd.DataFrame
    """index: rule; columns: jobs, wall_s, peak_mb, cpu_s"""

    @property
    def title(self) -> str:
        """The data set's title."""
        return str(self.patches.facts.get("title") or self.patches.facts.get("dataset", ""))

    @property
    def synthetic(self) -> bool:
        """Whether the data were made up."""
        return bool(self.patches.facts.get("synthetic", False))

    @property
    def labels(self) -> str:
        """What has a label: `patch`, `pixel`, or `several` labels a patch."""
        return str(self.patches.facts["labels"])

    @property
    def target(self) -> dict[str, str] | None:
        """Name and unit of the number that is a label; None where labels are classes."""
        found: dict[str, str] | None = self.patches.facts.get("target")
        return found

    @property
    def unit(self) -> str:
        """The unit of that number; empty where it has none, or labels are classes."""
        return self.target["unit"] if self.target else ""

    @property
    def segmentation(self) -> bool:
        """Whether each pixel has a label, not each patch."""
        return self.labels == "pixel"

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self.patches.classes

    @property
    def colours(self) -> list[str]:
        """A colour (#rrggbb) for each class."""
        return [str(colour) for colour in self.patches.facts["colours"]]

    @property
    def rgb(self) -> list[int]:
        """The three channels shown as red, green and blue; fewer than three come again."""
        return [int(channel) for channel in np.resize(self.patches.facts["rgb"], 3)]

    @property
    def wavelengths_nm(self) -> list[float]:
        """Central wavelength of each channel; nan where it has none."""
        known = {b["name"]: b.get("wavelength_nm") for b in self.setting("data", "bands") or ()}
        # Of a series, a channel's name is the band's with the number of its date.
        names = (str(name).partition("@")[0] for name in self.patches.facts["bands"])
        return [_number(known.get(name)) for name in names]

    @property
    def runs(self) -> tuple[Run, ...]:
        """Runs of all splits."""
        return tuple(run for split in self.splits for run in split.runs)

    def scene(self, index: int) -> str:
        """Name of a scene."""
        return str(self.patches.facts["scenes"][int(index)])

    def setting(self, section: str, key: str) -> Any:
        """A value of the configuration, None where it is not set."""
        values = yaml.safe_load(self.sections.get(section, "")) or {}
        return values.get(key) if isinstance(values, dict) else None


READ = (
    "config/*.yaml", "benchmarks/*.tsv", "patches/manifest.json", "splits/*/*.json",
    "splits/*/split.parquet", "runs/*/*.json", "runs/*/*.parquet", "baselines/*/*.json",
    "study/*.json", "study/*.yaml", "maps/*/maps.json",
    *(f"maps/*/*_{kind}.tif" for kind in ("classes", "numbers", "confidence", "truth", "image")),
)  # fmt: skip
"""What is read of an experiment whose results are in an object store; patches come when they are
looked at."""


def read_experiment(folder: Path, *, project: Path = Path()) -> Experiment:
    """The experiment whose results lie in `folder`.

    Args:
        project: the folder against which relative paths of source rasters are resolved.

    Raises:
        DataError: a file that every experiment has is absent or damaged.
    """
    store.bring_below(folder, *READ)
    if not folder.is_dir():
        raise DataError("there is no such experiment", where=folder, mend="run it first")
    index = folder / "patches" / "manifest.json"
    patches = open_patches(index)
    runs = [_run(path.parent, folder, project) for path in folder.glob("runs/*/run.json")]
    if not runs:
        raise DataError("holds no run", where=folder / "runs", mend="train before the report")
    splits = [_split(path.parent, folder, runs) for path in folder.glob("splits/*/audit.json")]
    if orphans := {run.split for run in runs} - {split.name for split in splits}:
        raise DataError(
            f"has no audit.json of the split '{min(orphans)}'",
            where=folder / "splits",
            mend=_MEND,
        )
    return Experiment(
        name=folder.name,
        folder=folder,
        sections={
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(folder.glob("config/*.yaml"))
        },
        patches=patches,
        index=read_json(index),
        splits=tuple(sorted(splits, key=lambda split: (split.leaky, split.name))),
        study=_study(folder / "study"),
        costs=_costs(folder / "benchmarks"),
    )


def pooled(scores: Sequence[Scores]) -> Scores:
    """Scores of several runs as one: counts added, measures averaged, bounds their range.

    A measure that a run cannot tell is NaN: the mean of the others would be of fewer runs than it
    says.
    """
    first = scores[0]
    if len(scores) == 1:
        return first
    confusion = np.sum([each.confusion for each in scores], axis=0)
    return Scores(
        patches=sum(each.patches for each in scores),
        pixels=None if first.pixels is None else sum(each.pixels or 0 for each in scores),
        classes=first.classes,
        measures={name: _pooled_measure(scores, name) for name in first.measures},
        per_class=_pooled_classes(scores, confusion) if confusion.size else first.per_class,
        confusion=confusion,
        reliability=np.sum([each.reliability for each in scores], axis=0),
        bootstrap=first.bootstrap,
        runs=len(scores),
    )


def class_scores(confusion: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Support, precision, recall, F1 and IoU of each class from counts (truth, predicted), or
    (class, truth, predicted) where a class is decided by itself."""
    support, figures = confusion.sum(axis=-1), per_class(confusion)
    if confusion.ndim == 3:
        support, figures = support[:, 1], {name: of[:, 1] for name, of in figures.items()}
    columns = {"support": support.astype(float), **figures}
    return pd.DataFrame(columns, index=pd.Index(classes, name="class"))


def _pooled_classes(scores: Sequence[Scores], confusion: np.ndarray) -> pd.DataFrame:
    """Scores by class of all runs; what counts do not tell is averaged."""
    tables = [each.per_class for each in scores]
    mean = pd.concat(tables).groupby(level=0, sort=False).mean()
    counted = class_scores(confusion, scores[0].classes)
    return counted.join(mean[mean.columns.difference(counted.columns)])


def _pooled_measure(scores: Sequence[Scores], name: str) -> Measure:
    values = [each.measures[name].value for each in scores if name in each.measures]
    # Unlike min and max, these give NaN wherever it stands.
    return Measure(*(float(of(values)) for of in (np.mean, np.min, np.max)))


def _present(path: Path) -> Path:
    if not path.exists():
        store.bring(path)
    if not path.exists():
        raise DataError("there is no such file", where=path, mend=_MEND)
    return path


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(_present(path))
    except (OSError, ValueError) as broken:
        raise DataError(f"is not a Parquet table ({broken})", where=path, mend=_MEND) from None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _measure(stored: Any) -> Measure:
    if not isinstance(stored, dict):
        return Measure(_number(stored), math.nan, math.nan)
    return Measure(*(_number(stored.get(key)) for key in ("value", "low", "high")))


def _scores(path: Path) -> Scores:
    stored = read_json(path)
    try:
        by_class = pd.DataFrame(stored["per_class"] or {"class": []})
        per_class = by_class.set_index("class").astype(float)
        return Scores(
            patches=int(stored["patches"]),
            pixels=stored.get("pixels"),
            classes=tuple(stored["classes"]),
            measures={name: _measure(stored[name]) for name in MEASURES if name in stored},
            per_class=per_class,
            confusion=np.asarray(stored["confusion"], dtype=np.int64),
            reliability=np.asarray(stored["reliability"], dtype=np.float64),
            bootstrap=stored.get("bootstrap") or {},
        )
    except KeyError as missing:
        raise DataError(f"has no {missing}", where=path, mend=_MEND) from None


def _run(folder: Path, experiment: Path, project: Path) -> Run:
    facts = read_json(folder / "run.json")
    split, fold, seed = str(facts["split"]), int(facts["fold"]), int(facts["seed"])
    return Run(
        folder=folder,
        split=split,
        fold=fold,
        seed=seed,
        facts=facts,
        metrics=_table(folder / "metrics.parquet"),
        scores=_scores(folder / "scores.json"),
        by_scene=_table(folder / "scores_by_scene.parquet"),
        by_region=_table(folder / "scores_by_region.parquet"),
        maps=_maps(experiment / "maps" / folder.name, split, fold, project),
    )


def _maps(folder: Path, split: str, fold: int, project: Path) -> tuple[SceneMap, ...]:
    if not (folder / "maps.json").is_file():
        return ()
    return tuple(
        SceneMap(
            scene=str(stored["scene"]),
            split=split,
            fold=fold,
            predicted=_raster(stored.get("classes") or stored["numbers"], folder, project),
            confidence=_optional_raster(stored.get("confidence"), folder, project),
            truth=_optional_raster(stored.get("truth"), folder, project),
            images=tuple(_raster(path, folder, project) for path in stored.get("image") or ()),
        )
        for stored in read_json(folder / "maps.json")["scenes"]
    )


def _raster(name: str, folder: Path, project: Path) -> Path:
    """The raster of that name, which is relative to the maps' folder or to the project."""
    if name.startswith("/vsi"):  # a member of an archive, which GDAL opens itself
        return Path(name)
    bases = (folder, project, store.root())
    found = [base / name for base in bases if (base / name).exists()]
    return found[0] if found else _present(folder / name)


def _optional_raster(name: str | None, folder: Path, project: Path) -> Path | None:
    return _raster(name, folder, project) if name else None


def _split(folder: Path, experiment: Path, runs: Iterable[Run]) -> Split:
    name = folder.name
    statistics = folder / "statistics.json"
    return Split(
        name=name,
        table=_table(folder / "split.parquet"),
        audit=read_json(folder / "audit.json"),
        statistics=tuple(read_json(statistics)["folds"]) if statistics.is_file() else (),
        runs=tuple(
            sorted((r for r in runs if r.split == name), key=lambda run: (run.fold, run.seed))
        ),
        baselines=_baselines(experiment / "baselines", name),
    )


def _baselines(folder: Path, split: str) -> tuple[Baseline, ...]:
    found = []
    for path in sorted(folder.glob("*/baseline.json")):
        scored = read_json(path.parent / "scores.json")
        if str(scored["split"]) == split:
            facts = read_json(path)
            found.append(
                Baseline(
                    name=str(facts["name"]),
                    fold=int(scored["fold"]),
                    seconds=float(facts["seconds"]),
                    scores=_scores(path.parent / "scores.json"),
                )
            )
    return tuple(found)


def _study(folder: Path) -> Study | None:
    trials, final = folder / "trials.json", folder / "final.json"
    if not trials.is_file():
        return None
    study: Study = _validated(Study, trials)
    if final.is_file():
        study = replace(study, final=_validated(Final, final))
    # Without a final the best trial is the winner.
    texts = [folder / name for name in ("winner.yaml", "best.yaml") if (folder / name).is_file()]
    if texts and study.best is not None:
        study = replace(study, winner_text=texts[0].read_text(encoding="utf-8"))
    _prove(study, trials, final)
    return study


def _validated(kind: Any, path: Path) -> Any:
    """What a file holds as that dataclass."""
    try:
        return TypeAdapter(kind).validate_python(read_json(path))
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole"
        raise DataError(f"{where}: {first['msg']}", where=path, mend=_MEND) from None


def _prove(study: Study, trials: Path, final: Path) -> None:
    """Refuse what names a trial that is not listed, or has not one score for each objective."""
    listed = [trial.number for trial in study.trials]
    named = [(trials, listed, number) for number in (*study.front, study.best)]
    rows = [(trials, rung.scores) for trial in study.trials for rung in trial.rungs]
    if study.final:
        candidates = study.final.candidates
        entered = [candidate.number for candidate in candidates]
        named += [(final, listed, number) for number in entered]
        named += [(final, entered, study.final.winner)]
        rows += [(final, run.scores) for each in candidates for run in each.runs]
        rows += [(final, row) for each in candidates for row in (each.mean, each.sd)]
    for path, known, number in named:
        if number is not None and number not in known:
            raise DataError(f"names trial {number} and does not list it", where=path, mend=_MEND)
    for path, row in rows:
        if row and len(row) != len(study.objectives):
            wrong = f"{len(row)} scores where there are {len(study.objectives)} objectives"
            raise DataError(f"has {wrong}", where=path, mend=_MEND)


def _costs(folder: Path) -> pd.DataFrame:
    """Time and memory by rule, from Snakemake's benchmark files."""
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        rule = re.split(r"[-.]", path.relative_to(folder).parts[0])[0]
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
        for _, row in table.iterrows():
            rows.append((rule, row.get("s"), row.get("max_rss"), row.get("cpu_time")))
    table = pd.DataFrame(rows, columns=["rule", "wall_s", "peak_mb", "cpu_s"])
    values = table.set_index("rule").astype(float).reset_index()
    return values.groupby("rule", sort=False).agg(
        jobs=("wall_s", "size"),
        wall_s=("wall_s", "sum"),
        peak_mb=("peak_mb", "max"),
        cpu_s=("cpu_s", "sum"),
    )
