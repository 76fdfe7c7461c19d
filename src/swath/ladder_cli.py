"""The command line of the ladder: a lesson of an experiment, and a page of lessons."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swath import store
from swath.errors import ConfigError
from swath.options import (
    Code,
    Config,
    Data,
    Out,
    SplitFolder,
    State,
    digest_of,
    identity_of,
    open_set,
    parts_of,
    statistics_of,
)

if TYPE_CHECKING:
    from swath.ladder.lesson import Given, Study

app = typer.Typer()
log = logging.getLogger("swath")
RUN = ("model", "task", "optim", "trainer")
"""The sections of a training."""


@app.command()
def lesson(
    config: Config,
    code: Code,
    state: State,
    out: Out,
    patches: Annotated[Path | None, typer.Option(help="The patch set's manifest.json.")] = None,
    split: Annotated[Path | None, typer.Option(help="Folder of the split.")] = None,
    study: Annotated[Path | None, typer.Option(help="trials.json of the study.")] = None,
    final: Annotated[
        list[Path] | None, typer.Option(help="Results of a job of the final (repeat for each).")
    ] = None,
    counts: Annotated[Path | None, typer.Option(help="Folder of the reduce jobs' parts.")] = None,
) -> None:
    """Work out a lesson of the ladder, and check what theory says of it.

    Reads: lesson.yaml and the sections of a run; the patch set, the split, the study, as far as the
    lesson takes them. Trains by `state/runs`, where a training that was done is taken as it is.
    Writes: lesson.json: question, pictures, claims with what was found.
    Example: swath lesson --config results/ladder/xor/config --patches
    results/ladder/xor/patches/manifest.json --split results/ladder/xor/splits/random
    --code 0 --state state/runs --out results/ladder/xor/lesson.json
    """
    from swath import registry
    from swath.data.card import Card
    from swath.files import write_json
    from swath.ladder.counting import counts as read_counts
    from swath.plan import read_sections, without

    sections = read_sections("lesson", config)
    section = sections["lesson"]
    if not section:
        raise ConfigError("has no lesson", where=config, mend="choose an experiment of ladder/")
    takes = registry.entry("lesson", section["name"]).takes
    arguments: list[Any] = []
    for name in takes:
        if name == "card":
            arguments.append(Card.model_validate(sections["data"]))
        elif name == "counts":
            if counts is None:
                raise ConfigError("is not given", where="--counts", mend="give it")
            arguments.append(read_counts(counts))
        elif name == "given":
            if patches is None or split is None:
                raise ConfigError("are not given", where="--patches, --split", mend="give them")
            runs = {key: sections[key] for key in RUN}
            arguments.append(_given(runs, patches, split, state, code))
        elif name == "study":
            if study is None:
                raise ConfigError("is not given", where="--study", mend="give it")
            arguments.append(_study(study, final or []))
    # Of so many trainings their epochs are in their curves.
    logging.getLogger("swath.learn").setLevel(logging.WARNING)
    work = registry.load("lesson", section["name"])
    done = work(*arguments, **without(section, "name", "step", "title"))
    for claim in done.claims:
        told = log.info if claim.holds else log.warning
        told("%s %s: %s (%s)", "✓" if claim.holds else "✗", claim.text, claim.found, claim.expected)
    head = {key: section[key] for key in ("name", "step", "title")}
    synthetic = bool(takes) and sections["data"]["synthetic"]
    write_json(out, head | {"synthetic": synthetic} | done.as_json())


@app.command("map_part")
def map_part(
    config: Config,
    data: Data,
    part: Annotated[int, typer.Option(min=0, help="Number of the map job.")],
    out: Out,
) -> None:
    """Map a part of a dataset's scenes, and of the classes' descriptions, to pairs of key and sums.

    Reads: lesson.yaml (maps, reduces), data.yaml, the scenes in data/DATASET.
    Writes: the pairs, dealt to the reduce jobs by the hash of their keys.
    Example: swath map_part --config results/ladder/map_reduce/config --data data/embedded_counted
    --part 0 --out results/ladder/map_reduce/mapped/part-00000.json
    """
    from swath.data.card import Card
    from swath.files import write_json
    from swath.ladder.counting import map_part as mapped
    from swath.plan import read_sections

    sections = read_sections("map_part", config)
    store.bring_all(data / "manifest.json")
    jobs = {key: sections["lesson"][key] for key in ("maps", "reduces")}
    write_json(out, mapped(Card.model_validate(sections["data"]), data, part, **jobs))


@app.command("reduce_part")
def reduce_part(
    mapped: Annotated[list[Path], typer.Option(help="What a map job wrote (repeat for each).")],
    part: Annotated[int, typer.Option(min=0, help="Number of the reduce job.")],
    out: Out,
) -> None:
    """Add up what all map jobs have dealt to one reduce job.

    Reads: the pairs of all map jobs. Writes: sums by key, a part of the output.
    Example: swath reduce_part --mapped results/ladder/map_reduce/mapped/part-00000.json --part 1
    --out results/ladder/map_reduce/reduced/part-00001.json
    """
    from swath.files import read_json, write_json
    from swath.ladder.counting import reduce_part as reduced

    write_json(out, reduced([read_json(path) for path in mapped], part))


@app.command("lesson_page")
def lesson_page(
    out: Out,
    lesson: Annotated[str, typer.Option(help="EXPERIMENT=lesson.json.")],
) -> None:
    """Write the page of a lesson.

    Reads: the lesson. Writes: the page.
    Example: swath lesson_page --out results/ladder/xor/lesson.html
    --lesson ladder/xor=results/ladder/xor/lesson.json
    """
    from swath.ladder.page import write_page

    name, _, path = lesson.partition("=")
    write_page({name: Path(path)}, out)


@app.command()
def ladder(
    out: Out,
    lesson: Annotated[
        list[str] | None, typer.Option(help="EXPERIMENT=lesson.json (repeat for each).")
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(help="EXPERIMENT=REASON of one that there is not (repeat for each)."),
    ] = None,
) -> None:
    """Write the page of all lessons, in the order of their steps.

    Reads: the lessons; one that is not there is named on the page.
    Writes: the page, and playground.html beside it.
    """
    from swath.ladder.page import write_ladder

    there, absent = (
        {name: told for name, _, told in (each.partition("=") for each in given or [])}
        for given in (lesson, missing)
    )
    write_ladder({name: Path(path) for name, path in there.items()}, out, missing=absent)


def _given(
    sections: dict[str, Any], patches: Path, split: SplitFolder, state: Path, code: str
) -> Given:
    """The patch set and the training of an experiment, as a lesson takes them."""
    from swath.ladder.training import given
    from swath.plan import with_params

    opened, version = open_set(patches)
    dealt_by = digest_of(split)
    return given(
        opened, parts_of(split, 0), statistics_of(split, 0), sections, state=state, code=code,
        changed=partial(with_params, sections),
        identity=lambda own, seed: identity_of(own, version, dealt_by, code, 0, seed),
    )  # fmt: skip


def _study(trials: Path, final: Sequence[Path]) -> Study:
    """A study, as a lesson takes it."""
    from swath.files import read_json
    from swath.ladder.lesson import Study

    for path in (trials, *final):
        store.bring(path)
    rows = [row for path in final for row in read_json(path)]
    return Study(read_json(trials)["trials"], rows)
