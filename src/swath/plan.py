"""From the name of an experiment to its sections, runs and code fingerprints. Uses Hydra, alone.

Composing happens once, when the workflow starts; stages read the section files written here. Each
file is written only where its text changed, so that a stage reruns exactly when a section that it
reads means something else.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from swath import registry, settings
from swath.errors import ConfigError, nearest
from swath.files import write_text
from swath.study import rungs, space

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Stage:
    """What a stage of the workflow is made of: a changed part reruns it, and nothing else does."""

    sections: tuple[str, ...]
    """The sections that it reads, and no others."""
    modules: tuple[str, ...]
    """The modules that it runs; what they import is followed."""


STAGES = {
    "fetch": Stage(("data",), ("swath.data.fetch",)),
    "scenes": Stage(("data", "patches", "quality"), ("swath.data.shards",)),
    "patches": Stage(("data", "patches", "quality"), ("swath.data.patches", "swath.data.shards")),
    "index": Stage(("quality",), ("swath.data.shards",)),
    "split": Stage(("split",), ("swath.split.deal", "swath.data.patchset")),
    "measure": Stage((), ("swath.data.statistics",)),
    "totals": Stage((), ("swath.data.statistics",)),
    "statistics": Stage((), ("swath.data.statistics",)),
    "train": Stage(
        ("model", "task", "optim", "trainer"), ("swath.learn.train", "swath.learn.calibrate")
    ),
    "baseline": Stage((), ("swath.learn.baseline",)),
    "evaluate": Stage(
        ("scores",),
        (
            "swath.study.scores",
            "swath.study.several",
            "swath.study.regression",
            "swath.data.patchset",
        ),
    ),
    "infer": Stage((), ("swath.learn.predict",)),
    "map": Stage(("data", "patches", "maps"), ("swath.learn.mapping",)),
    "mosaic": Stage((), ("swath.data.mosaic",)),
    "propose": Stage(("sweep", "task"), ("swath.study.space", "swath.study.rungs")),
    "trials": Stage(
        ("sweep", "model", "task", "optim", "trainer"),
        ("swath.learn.train", "swath.learn.trials", "swath.study.rungs"),
    ),
    "worker": Stage(
        ("sweep", "model", "task", "optim", "trainer"),
        ("swath.learn.train", "swath.learn.trials", "swath.study.journal"),
    ),
    "best": Stage(
        ("sweep", "model", "task", "optim", "trainer"),
        ("swath.study.rungs", "swath.study.journal"),
    ),
    "final": Stage(
        ("sweep", "model", "task", "optim", "trainer"),
        ("swath.learn.train", "swath.learn.trials", "swath.study.rungs"),
    ),
    "elect": Stage(("sweep", "model", "task", "optim", "trainer"), ("swath.study.rungs",)),
    "conclude": Stage((), ("swath.study.rungs",)),
    "track": Stage(("tracking",), ("swath.report.tracking",)),
    "track_study": Stage(("tracking",), ("swath.report.tracking",)),
    "report": Stage((), ("swath.report.page",)),
    "lesson": Stage(
        ("lesson", "data", "sweep", "model", "task", "optim", "trainer"), ("swath.ladder.lesson",)
    ),
    "map_part": Stage(("lesson", "data"), ("swath.ladder.counting",)),
    "reduce_part": Stage((), ("swath.ladder.counting",)),
    "lesson_page": Stage((), ("swath.ladder.page",)),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*")


@dataclass(frozen=True)
class Run:
    """One training: a split, a fold of it, and a seed."""

    split: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """The run's folder below `results/<experiment>/runs`."""
        return f"{self.split}-fold{self.fold}-seed{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """A named configuration, composed and checked."""

    name: str
    sections: dict[str, dict[str, Any]]

    @property
    def dataset(self) -> str:
        """The dataset's name: its folder below `data`."""
        name: str = self.sections["data"]["name"]
        return name

    @property
    def splits(self) -> list[str]:
        """The names of the experiment's splits."""
        return [name for name in self.sections["split"] if name != "allow_leaks"]

    @property
    def runs(self) -> list[Run]:
        """Every run of the experiment."""
        which = self.sections["runs"]
        return [
            Run(split, fold, seed)
            for split in self.splits
            for fold in which["folds"]
            for seed in which["seeds"]
        ]

    @property
    def has_study(self) -> bool:
        """Whether the experiment sweeps over a search space."""
        return bool(self.sections["sweep"]["space"])

    @property
    def lesson_takes(self) -> tuple[str, ...]:
        """What the experiment's lesson is given (`swath.ladder.lesson`); nothing without one."""
        lesson = self.sections["lesson"]
        return registry.entry("lesson", lesson["name"]).takes if lesson else ()

    @property
    def has_scenes(self) -> bool:
        """Whether whole scenes can be mapped (and not only single patches)."""
        return bool(self.sections["data"]["labels"] == "pixel")


SECTIONS = settings.SECTIONS


def datasets(experiments: Iterable[Experiment]) -> dict[str, Experiment]:
    """For each dataset by name, an experiment that describes it.

    Raises:
        ConfigError: two experiments of one call describe one dataset differently.
    """
    found: dict[str, Experiment] = {}
    for experiment in experiments:
        first = found.setdefault(experiment.dataset, experiment)
        if first.sections["data"] != experiment.sections["data"]:
            raise ConfigError(
                f"experiments {first.name} and {experiment.name} describe it differently",
                where=f"dataset {experiment.dataset}",
                mend="run them one after another, or give one of them another data.name",
            )
    return found


@dataclass(frozen=True)
class Tree:
    """The folders of a configuration: swath's own, and what another repository adds to it."""

    folders: tuple[Path, ...]

    def groups(self) -> list[str]:
        """The choices that a person makes: data, model, …"""
        return sorted({p.name for folder in self.folders for p in folder.iterdir() if p.is_dir()})

    def choices(self, group: str) -> list[str]:
        """What there is to choose from in a group."""
        places = [folder / group for folder in self.folders]
        return sorted(
            str(file.relative_to(place).with_suffix(""))
            for place in places
            for file in place.rglob("*.yaml")
        )

    def file(self, path: str) -> Path:
        """A file of the tree, where it is; below swath's folder, where it is nowhere."""
        found = [folder / path for folder in self.folders if (folder / path).is_file()]
        return (found or [self.folders[0] / path])[0]

    def __str__(self) -> str:
        return " and ".join(map(str, self.folders))


def tree(conf: Path, own: Path | None = None) -> Tree:
    """swath's configuration, and one's own that adds files to it.

    Args:
        conf: swath's folder `conf`.
        own: a folder laid out alike, e.g. with `experiment/mine.yaml` and `data/mine.yaml`.

    Raises:
        ConfigError: there is no such folder, or a file of one's own has the name of one of swath's.
    """
    if own is None:
        return Tree((conf,))
    if not own.is_dir():
        raise ConfigError(
            "there is no such folder", where=f"--config conf={own}", mend="name one's own conf/"
        )
    for file in sorted(own.rglob("*.yaml")):
        if (conf / file.relative_to(own)).is_file():
            raise ConfigError(
                "swath has a file of this name, which would be read instead",
                where=file,
                mend="give it another name, and name swath's among its defaults",
            )
    return Tree((conf, own))


def compose(conf: Path | Tree, name: str, overrides: str | Sequence[str] = ()) -> Experiment:
    """The experiment of that name below `conf`, with overrides in Hydra's syntax.

    Raises:
        ConfigError: an unknown experiment, group, choice or key, or a value of the wrong type; the
            text names the file or override, the key, and the nearest right one.
    """
    from hydra import compose as hydra_compose  # 0.3 s: only where something is composed
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    conf = conf if isinstance(conf, Tree) else tree(conf)
    known = conf.choices("experiment")
    if not NAME.fullmatch(name) or name not in known:
        raise ConfigError(
            f"no experiment is named '{name}'",
            where=" and ".join(str(folder / "experiment") for folder in conf.folders),
            mend=nearest(name, known),
        )
    given = _given(overrides)
    written = [_as_hydra(conf, override) for override in given]
    first, *more = (str(folder.resolve()) for folder in conf.folders)
    if more:
        written.append(f"hydra.searchpath={json.dumps([f'file://{folder}' for folder in more])}")
    try:
        with initialize_config_dir(config_dir=first, version_base="1.3"):
            config = hydra_compose(
                "config", overrides=[f"experiment={name}", *written], return_hydra_config=True
            )
        choices = dict(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        _refuse_secrets(OmegaConf.to_container(config, resolve=False))
        raw = OmegaConf.to_container(config, resolve=True)
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else f"experiment {name}"
        raise ConfigError(f"is not YAML ({wrong.problem})", where=where, mend="mend it") from None
    except (HydraException, OmegaConfBaseException) as wrong:
        raise ConfigError(
            _first_lines(wrong), where=f"experiment {name}", mend=f"see {conf}"
        ) from None
    assert isinstance(raw, dict)
    return Experiment(name, _checked(conf, raw, given, choices))


def write_sections(experiment: Experiment, folder: Path) -> list[str]:
    """Write `<folder>/<section>.yaml` where its text changed; gives the sections that did."""
    changed = unwritten(experiment, folder)
    for section in changed:
        write_section(folder / f"{section}.yaml", experiment.sections[section])
    return changed


def write_section(path: Path, values: dict[str, Any]) -> None:
    """Write a section file."""
    write_text(path, _text(values))


def as_experiment(
    name: str, what: str, params: dict[str, Any], sections: dict[str, dict[str, Any]]
) -> str:
    """A file for conf/experiment: an experiment with a trial's values, and without a study.

    Args:
        name: the experiment.
        what: what it is, for a reader.
        params: the trial's values, by key.
        sections: those of the trial, complete; where a name was varied, all of it is written.
    """
    named = {key.partition(".")[0] for key in params if key.endswith(".name")}
    body = {section: without(sections[section], "name") for section in sections if section in named}
    for key, value in params.items():
        section, *path = key.split(".")
        if section not in named:
            inner = body.setdefault(section, {})
            for part in path[:-1]:
                inner = inner.setdefault(part, {})
            inner[path[-1]] = value
    chosen = [f"  - override /{key}: {sections[key]['name']}" for key in sections if key in named]
    lines = [
        "# @package _global_", f"# {what}", "defaults:", f"  - {name}", *chosen,
        "  - override /sweep: none", "", _text(body),
    ]  # fmt: skip
    return "\n".join(lines)


def unwritten(experiment: Experiment, folder: Path) -> list[str]:
    """The sections that `folder` does not hold as the experiment has them."""
    files = {section: folder / f"{section}.yaml" for section in experiment.sections}
    return [
        section
        for section, file in files.items()
        if not file.is_file()
        or file.read_text(encoding="utf-8") != _text(experiment.sections[section])
    ]


def _text(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_section(path: Path) -> dict[str, Any]:
    """A section file, as `write_sections` wrote it.

    Raises:
        ConfigError: there is no such file, or it is not a complete section.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no such section file", where=path, mend="run `swath plan`"
        ) from None
    except yaml.YAMLError as broken:
        raise ConfigError(f"is not YAML ({broken})", where=path, mend="run `swath plan`") from None
    return settings.check(path.stem, values)


def read_sections(stage: str, folder: Path) -> dict[str, Any]:
    """The sections that a stage reads, from the folder that `write_sections` filled.

    Raises:
        ConfigError: one is absent or incomplete.
    """
    return {name: read_section(folder / f"{name}.yaml") for name in STAGES[stage].sections}


def defaults(section: str) -> dict[str, Any]:
    """A section as it is where nothing is said of it."""
    return settings.check(section, {})


def without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A section without some of its keys."""
    return {key: value for key, value in values.items() if key not in keys}


def hash_of(*things: Any) -> str:
    """A short, stable hash of plain data (16 hexadecimal digits)."""
    text = json.dumps(things, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_params(
    sections: dict[str, dict[str, Any]], params: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The sections with a trial's values (`optim.lr` -> 0.01) in their places, checked again.

    Another `model.name` begins with that model's own settings, and likewise for task and optim.

    Raises:
        ConfigError: an unknown key, or a value that it does not take.
    """
    changed = copy.deepcopy(sections)
    touched = {key.partition(".")[0] for key in params}
    for key in sorted(params, key=lambda key: not key.endswith(".name")):
        section, *path = key.split(".")
        if section not in changed or not path or not _has(changed[section], path):
            known = [f"{s}.{k}" for s, values in changed.items() for k in _leaves(values)]
            raise ConfigError("unknown key", where=f"sweep.space.{key}", mend=nearest(key, known))
        if path == ["name"] and params[key] != changed[section]["name"]:
            shared = settings.Optim.model_fields if section == "optim" else {}
            own = {name: value for name, value in changed[section].items() if name in shared}
            changed[section] = settings.check(section, {**own, "name": params[key]})
            continue
        inner = changed[section]
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = params[key]
    return {
        name: settings.check(name, values) if name in touched else values
        for name, values in changed.items()
    }


def _has(values: dict[str, Any], path: Sequence[str]) -> bool:
    """Whether there is a key at this path of tables within tables."""
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _leaves(values: dict[str, Any], above: str = "") -> Iterable[str]:
    """The keys of tables within tables, with dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


# ---- overrides and checks -------------------------------------------------------------------


def _as_hydra(conf: Tree, override: str) -> str:
    """An override as Hydra takes it: `group=choice` as it is, `a.b=c` forced and checked later."""
    key, equals, value = override.partition("=")
    where = f'set="{override}"'
    if not equals or not re.fullmatch(r"[A-Za-z_][\w./-]*", key):
        raise ConfigError(
            "is not of the form key=value", where=where, mend='e.g. set="optim.lr=0.01"'
        )
    if key == "experiment":
        raise ConfigError(
            "cannot name the experiment", where=where, mend="use --config experiment=NAME"
        )
    if "." in key:
        if key.split(".")[0] not in settings.SECTIONS:
            mend = nearest(key.split(".")[0], settings.SECTIONS)
            raise ConfigError("unknown section", where=where, mend=mend)
        _parse(f"++{override}", where)
        return f"++{override}"
    if key not in conf.groups():
        raise ConfigError(
            f"no group is named '{key}'", where=where, mend=nearest(key, conf.groups())
        )
    known = conf.choices(key)
    for choice in map(str.strip, value.strip("[]").split(",")):
        if choice not in known:
            raise ConfigError(
                f"no {key} is named '{choice}'", where=where, mend=nearest(choice, known)
            )
    return override


def _given(overrides: str | Sequence[str]) -> list[str]:
    """Overrides one by one; those of a string are parted as a shell parts words."""
    if not isinstance(overrides, str):
        return list(overrides)
    try:
        return shlex.split(overrides)
    except ValueError:
        raise ConfigError(
            "the quotes do not close", where=f'set="{overrides}"', mend="close them"
        ) from None


def _parse(override: str, where: str) -> None:
    """Refuse what is not in Hydra's grammar, or asks for several values at once."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as wrong:
        raise ConfigError(
            f"is not in Hydra's grammar ({_first_lines(wrong)})", where=where, mend="mend it"
        ) from None
    if parsed.is_sweep_override():
        raise ConfigError("gives several values", where=where, mend="write a list as [a,b]")


def _refuse_secrets(raw: Any) -> None:
    """An environment variable resolved into a section file would be written to disk and report."""
    if "oc.env" in json.dumps(raw, default=str):
        raise ConfigError(
            "the configuration reads the environment (oc.env), which would write it into files",
            mend="set the variable for the tool that needs it and take the reference out",
        )


def _checked(
    conf: Tree, raw: dict[Any, Any], given: list[str], choices: dict[str, str]
) -> dict[str, dict[str, Any]]:
    def complain(wrong: ConfigError) -> ConfigError:
        origin = _origin(conf, wrong.where, given, choices)
        return ConfigError(wrong.what, where=f"{origin}: {wrong.where}", mend=wrong.mend)

    try:
        for section in raw:
            if section not in settings.SECTIONS:
                mend = nearest(str(section), settings.SECTIONS)
                raise ConfigError("unknown section", where=str(section), mend=mend)
        sections = {s: settings.check(s, raw.get(s, {})) for s in settings.SECTIONS}
        check_sweep(sections)
    except ConfigError as wrong:
        raise complain(wrong) from None
    return sections


# ---- a study ----------------------------------------------------------------------------------

VARIED = ("task", "model", "optim", "trainer")
"""Sections whose keys a study may vary: those that a run reads."""
NOT_VARIED = {
    "trainer.epochs": "is the budget of the rungs (sweep.epochs)",
    "trainer.device": "does not change what is learnt",
    "trainer.checkpoint_minutes": "does not change what is learnt",
    "trainer.tta": "does not change what is learnt",
}
MEASURED = {"regression": ("rmse", "mae", "bias")}
"""What a task's validation writes beside what may be its monitor."""


def check_sweep(sections: dict[str, dict[str, Any]]) -> None:
    """Refuse a study that cannot be run; a grid is given its number of trials.

    Raises:
        ConfigError: an unknown key, an impossible range, an objective that no run writes, a budget
            that yields no slot, or settings that do not go together.
    """
    sweep = sections["sweep"]
    space_, sampler = sweep["space"], sweep["sampler"]
    if not space_:
        if sweep["trials"]:
            raise ConfigError("names nothing to vary", where="sweep.space", mend="give it a key")
        return
    for key in space.ordered(space_):
        _check_dimension(sections, key)
    if sampler == "grid":
        points = len(space.grid(space_))
        if sweep["trials"] not in (0, points):
            raise ConfigError(
                f"is {sweep['trials']}, the grid has {points} points",
                where="sweep.trials",
                mend="leave it out, or choose another sampler",
            )
        sweep["trials"] = points
    if not sweep["trials"]:
        raise ConfigError("is 0, the space is not empty", where="sweep.trials", mend="give it")
    _check_objectives(sections)
    _check_budget(sweep)
    _check_restarts(sections["optim"], sweep)
    if sweep["mode"] == "async":
        if sampler in ("grid", "sobol"):
            raise ConfigError(
                f"{sampler} has a plan, which the async mode has not",
                where="sweep.sampler",
                mend="choose random, tpe, gp or nsga2, or sweep.mode=static",
            )
        sought = rungs.objectives(sweep, sections["task"]["monitor"])
        if len(sought) > 1 and sweep["pruner"] != "none":
            raise ConfigError(
                f"{sweep['pruner']} stops by one objective, there are several",
                where="sweep.pruner",
                mend="set it to none, or choose sweep.mode=static",
            )


def _check_objectives(sections: dict[str, dict[str, Any]]) -> None:
    """Each objective must be what a run writes, and have one direction."""
    sweep, task = sections["sweep"], sections["task"]
    monitors = registry.entry("task", task["name"]).settings["monitor"][0]
    measures = (*get_args(monitors), *MEASURED.get(task["name"], ()), "loss")
    known = [f"val/{name}" for name in measures]
    known += ["train/loss", "parameters", "seconds"]
    given = sweep["objective"]
    names = [given] if isinstance(given, str) else given or []
    for name in names:
        if name not in known:
            raise ConfigError(
                f"no run writes '{name}'", where="sweep.objective", mend=nearest(name, known)
            )
    if len(set(names)) < len(names):
        raise ConfigError("names one twice", where="sweep.objective", mend="take one out")
    ways = sweep["direction"]
    if isinstance(ways, list) and len(ways) != max(1, len(names)):
        raise ConfigError(
            f"has {len(ways)} for {max(1, len(names))} objectives",
            where="sweep.direction",
            mend="give one for each",
        )


def _check_budget(sweep: dict[str, Any]) -> None:
    """Each rung must have a slot."""
    eta, rungs_ = sweep["eta"], sweep["rungs"]
    size = max(rungs.generations(sweep))
    what = "generation" if sweep["sampler"] in space.ADAPTIVE else "trials"
    if sweep["mode"] == "static" and not all(rungs.slots(size, eta, rungs_)):
        most = next(r for r, wide in enumerate(rungs.slots(size, eta, rungs_)) if not wide)
        raise ConfigError(
            f"{size} trials of which one in {eta} goes on leave none for rung {most + 1}",
            where=f"sweep.{what}",
            mend=f"give at least {eta ** (rungs_ - 1)}, or sweep.rungs={most}",
        )
    final = sweep["final"]
    if final["best"] > sweep["trials"]:
        raise ConfigError(
            f"is {final['best']}, there are {sweep['trials']} trials",
            where="sweep.final.best",
            mend="give fewer",
        )
    for name in ("seeds", "folds"):
        if len(set(final[name])) < len(final[name]):
            raise ConfigError("names one twice", where=f"sweep.final.{name}", mend="take one out")


def _check_restarts(optim: dict[str, Any], sweep: dict[str, Any]) -> None:
    """The rate must have fallen where a rung ends, or its scores would not tell who is better."""
    for key, wanted in (("cycles", "rungs"), ("growth", "eta")):
        if optim["schedule"] == "restarts" and sweep["rungs"] > 1 and optim[key] != sweep[wanted]:
            raise ConfigError(
                f"is {optim[key]}, sweep.{wanted} is {sweep[wanted]}: each cycle ends a rung",
                where=f"optim.{key}",
                mend=f"give optim.{key}={sweep[wanted]}",
            )


def _check_dimension(sections: dict[str, dict[str, Any]], key: str) -> None:
    """Both ends of a dimension must be values that the key takes, where the dimension is there."""
    dimensions = sections["sweep"]["space"]
    dimension, where = dimensions[key], f"sweep.space.{key}"
    if key in NOT_VARIED:
        raise ConfigError(NOT_VARIED[key], where=where, mend="take it out of the space")
    section = key.partition(".")[0]
    if section in settings.SECTIONS and section not in VARIED:
        raise ConfigError(
            "is no key of a run, whose data and split all trials of a study share",
            where=where,
            mend=f"make an experiment for each, or vary {', '.join(VARIED)}",
        )
    if dimension["type"] == "choice":
        ends = dimension["choices"]
        if not ends:
            raise ConfigError("has no choices", where=where, mend="give choices: [a, b]")
        if any(value in ends[:number] for number, value in enumerate(ends)):
            raise ConfigError("has a choice twice", where=where, mend="take one out")
        if dimension["log"] or dimension["step"]:
            raise ConfigError("has choices, and log or step", where=where, mend="take them out")
    else:
        ends = [dimension["low"], dimension["high"]]
        if dimension["type"] == "float":
            for name in ("low", "high", "step"):
                dimension[name] = None if dimension[name] is None else float(dimension[name])
            ends = [dimension["low"], dimension["high"]]
        elif any(isinstance(dimension[name], float) for name in ("low", "high", "step")):
            raise ConfigError("is of whole numbers", where=where, mend="give some, or type float")
        if None in ends or ends[0] >= ends[1] or (dimension["log"] and ends[0] <= 0):
            raise ConfigError(
                f"from {ends[0]} to {ends[1]} is no range",
                where=where,
                mend="give low < high (both above 0 with log)",
            )
        if dimension["log"] and dimension["step"]:
            raise ConfigError("has log and step", where=where, mend="take one of them out")
        if dimension["step"] and dimension["step"] > ends[1] - ends[0]:
            raise ConfigError(
                f"a step of {dimension['step']} leaves the range", where=where, mend="step less"
            )
    searched = {name: sections[name] for name in VARIED}
    others = _conditions(dimensions, key)
    for value in ends:
        try:
            with_params(searched, {**others, key: value})
        except ConfigError as wrong:
            mend = f"{wrong.mend.rstrip('?')}, or set sweep=none"
            raise ConfigError(wrong.what, where=where, mend=mend) from None


def _conditions(dimensions: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """Values of other dimensions for which one is there."""
    found: dict[str, Any] = {}
    for other, wanted in dimensions[key]["when"].items():
        value = wanted[0] if isinstance(wanted, list) and wanted else wanted
        found |= {**_conditions(dimensions, other), other: value}
        if not space.is_value(dimensions[other], value):
            raise ConfigError(
                f"{other} never is {value!r}",
                where=f"sweep.space.{key}.when",
                mend="name one of its choices",
            )
    return found


def _origin(conf: Tree, key: str, given: list[str], choices: dict[str, str]) -> str:
    """Where a key was written: an override, or the file that holds it."""
    close = [
        override
        for override in given
        for written in [override.partition("=")[0]]
        if f"{written}.".startswith(f"{key}.") or f"{key}.".startswith(f"{written}.")
    ]
    # A key that was written decides before the group in which it lies.
    if exact := [override for override in close if "." in override.partition("=")[0]] or close:
        return f'set="{exact[-1]}"'
    group = key.split(".")[0]
    experiments = [conf.file(f"experiment/{choices['experiment']}.yaml")]
    for parent in yaml.safe_load(experiments[0].read_text(encoding="utf-8")).get("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            experiments.append(conf.file(f"experiment/{parent}.yaml"))
    chosen = re.findall(r"[\w/-]+", str(choices.get(group, "")))
    files = [*experiments, *(conf.file(f"{group}/{choice}.yaml") for choice in chosen)]
    for file in (*files, conf.file("config.yaml")):
        if file.is_file() and _holds(file, key):
            return str(file)
    return f"experiment {choices['experiment']}"


def _holds(file: Path, key: str) -> bool:
    """Whether a file of the tree writes a key, its package taken into account."""
    text = file.read_text(encoding="utf-8")
    package = re.search(r"^# @package (\S+)", text)
    prefix = package[1] if package else file.parent.name
    if prefix == "_global_" or file.name == "config.yaml":
        inside = key.split(".")
    elif f"{key}.".startswith(f"{prefix}."):
        inside = key.split(".")[len(prefix.split(".")) :]
    else:
        return False
    return _writes(yaml.safe_load(text), inside)


def _writes(values: Any, path: list[str]) -> bool:
    """Whether tables within tables have a key at this path, of which a key may hold dots."""
    if not path:
        return True
    if not isinstance(values, dict):
        return values is not None  # a value where there should be a table: the culprit
    return any(
        _writes(values[key], path[n:])
        for n in range(1, len(path) + 1)
        if (key := ".".join(path[:n])) in values
    )


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


# ---- code fingerprints ----------------------------------------------------------------------

# import name -> distribution name, where they differ
_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def stage_code(stage: str, experiment: Experiment, lock: Path) -> str:
    """The fingerprint of the code that a stage of an experiment runs."""
    modules = list(STAGES[stage].modules)
    taught = "given" in experiment.lesson_takes  # by a lesson that may train any model
    if stage in ("scenes", "patches", "map", "map_part"):
        layout = experiment.sections["data"]["layout"]["name"]
        modules.append(registry.entry("layout", layout).module)
    if stage == "fetch" and (drawing := experiment.sections["data"]["drawing"]):
        modules.append(registry.entry("drawing", drawing["name"]).module)
    if stage == "lesson" and (lesson := experiment.sections["lesson"]):
        modules.append(registry.entry("lesson", lesson["name"]).module)
        modules += STAGES["train"].modules if taught else ()
    if stage in ("train", "trials", "worker", "final", "infer", "map") or (
        stage == "lesson" and taught
    ):
        names = [experiment.sections["model"]["name"]]
        # A study may vary it; a run of any of them then is of one code.
        names += experiment.sections["sweep"]["space"].get("model.name", {}).get("choices", [])
        if taught:
            names += registry.entries("model")
        modules += [registry.entry("model", name).module for name in dict.fromkeys(names)]
    return fingerprint(*modules, lock=lock)


def fingerprint(*modules: str, lock: Path | None = None) -> str:
    """A hash of the code of modules and all that they import in turn, deaf to comments.

    The syntax tree without docstrings is hashed, so a changed comment reruns nothing. Of other
    packages, the versions that `lock` (a constraints file) pins are part of it. How files get to
    another machine and back (`swath.store`) changes no result.
    """
    seen = {"swath.store": ""}
    foreign: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen[module], own, others = _read_module(module)
        waiting += own
        foreign |= set(others)
    pins = _pins(lock) if lock else {}
    versions = {
        name: pins[name] for name in sorted(_distribution(m) for m in foreign) if name in pins
    }
    return hash_of(sorted(seen.items()), versions)


def _distribution(module: str) -> str:
    return _DISTRIBUTIONS.get(module, module).replace("_", "-").lower()


def _pins(lock: Path) -> dict[str, str]:
    lines = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []
    pinned = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower().replace("_", "-"): version.strip() for name, version in pinned}


def _file_of(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    candidates = [path.with_suffix(".py"), path / "__init__.py"]
    return next((file for file in candidates if file.is_file()), None)


@functools.cache
def _read_module(module: str) -> tuple[str, list[str], list[str]]:
    """The hash of a module's syntax, the modules of ours that it imports, and other packages."""
    file = _file_of(module)
    assert file is not None, module
    tree = ast.parse(file.read_text(encoding="utf-8"))
    own, others = set(), set()
    for imported in _imports(tree):
        if imported.split(".")[0] != "swath":
            others.add(imported.split(".")[0])
        elif _file_of(imported):
            own.add(imported)
    _drop_docstrings(tree)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(own), sorted(others)


def _statements(tree: ast.Module) -> Iterable[ast.AST]:
    """A module and all statements in it. Most of a tree are expressions, and those hold none."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            waiting += getattr(node, part, [])


def _imports(tree: ast.Module) -> Iterable[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            if node.module.split(".")[0] == "swath":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _drop_docstrings(tree: ast.Module) -> None:
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            # A string that stands alone says something to a reader and does nothing.
            node.body = [
                line
                for line in node.body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
