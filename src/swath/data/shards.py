"""Shards: which scenes one job cuts, sized by bytes, and the index of what all jobs have cut.

A shard is named by what it holds and by the digests of its files, so that an added scene is cut
alone and a changed one again, and all others stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swath import store
from swath.data.card import Card
from swath.data.layouts import Source, open_source
from swath.data.patchset import TABLES
from swath.data.published import Published
from swath.data.scene import Scene, kept_type
from swath.data.statistics import rounds
from swath.errors import DataError
from swath.files import prove, read_json, read_manifest, version_of, whole, write_json

log = logging.getLogger(__name__)


ALIKE = (0.66, 1.5)
"""Bounds of the ratio of the GSDs of two scenes; in degrees it changes with the latitude."""


@dataclass(frozen=True)
class Part:
    """A scene, or a run of published patches, as one job cuts it."""

    name: str
    rows: tuple[int, int] | None
    """First row, and the one after the last, of published patches; None is a whole scene."""
    bytes: int
    files: tuple[str, ...]
    """Relative to the dataset's folder."""


def plan_shards(
    card: Card, folder: Path, manifest: dict[str, Any], *, shard_mb: int, broken: str
) -> dict[str, Any]:
    """Open the header of every scene, set aside what is unfit, and deal the rest to jobs.

    Args:
        card: the dataset's card.
        folder: its folder.
        manifest: what was fetched, with digests.
        shard_mb: megabytes of pixels of a shard; a larger scene is one by itself.
        broken: `skip` sets an unfit scene aside, `fatal` stops.

    Returns:
        `shards` (name, parts, bytes, files with their entries in the manifest), `set_aside`
        (scene and reason), and the `rounds` that exact statistics need.

    Raises:
        DataError: nothing is fit, or something is not and `broken` says fatal.
    """
    source = open_source(card, folder)
    set_aside: list[dict[str, str]] = []
    parts: list[Part] = []
    digests: dict[str, str] = {}
    dtypes: set[str] = set()
    first: tuple[str, float] | None = None
    listed = manifest["files"]
    for name in source.names:
        try:
            piece = source.open(name)
            files = tuple(_name_in(listed, file, folder) for file in piece.files)
            twin = _twin(digests, name, _entries(files, listed), piece)
            if twin:
                raise DataError(f"is the same as {twin}", where=name, mend="take one of them out")
            first = first or (name, _gsd_m(piece))
            if not ALIKE[0] < _gsd_m(piece) / first[1] < ALIKE[1]:
                raise DataError(
                    f"has a GSD of {_gsd_m(piece):.3g} m, {first[0]} one of {first[1]:.3g} m",
                    where=name,
                    mend="make a dataset of each",
                )
        except DataError as unfit:
            if broken == "fatal":
                raise
            log.warning("%s is set aside: %s", name, unfit.fault)
            set_aside.append({"scene": name, "reason": unfit.fault})
            continue
        parts += _divided(piece, name, files, shard_mb << 20)
        dtypes.add(piece.dtype)
    if not parts:
        worst = set_aside[0] if set_aside else {"scene": card.name, "reason": "holds no scene"}
        raise DataError(
            f"nothing is fit to be cut; {worst['reason']}", where=worst["scene"],
            mend="mend the data or the card",
        )  # fmt: skip
    return {
        "dataset": card.name,
        "data_version": manifest["version"],
        "shards": [_shard(group, listed) for group in _grouped(parts, shard_mb << 20)],
        "set_aside": set_aside,
        "rounds": max(rounds(np.dtype(kept_type(dtype))) for dtype in dtypes),
    }


def _gsd_m(piece: Scene | Published) -> float:
    return piece.grid.gsd_m if isinstance(piece, Scene) else piece.gsd_m


def _name_in(listed: dict[str, Any], file: Path, folder: Path) -> str:
    name = str(file.relative_to(folder))
    # A store of many files, such as Zarr, is listed file by file; its own name is a folder.
    if name not in listed and not any(other.startswith(f"{name}/") for other in listed):
        raise DataError(
            "is not in the manifest of the data", where=file, mend="fetch the data again"
        )
    return name


def _entries(names: Iterable[str], listed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifest's entries of files, and of all files in those that are folders."""
    wanted = tuple(names)
    found = {name: listed[name] for name in wanted if name in listed}
    folders = tuple(f"{name}/" for name in wanted if name not in listed)
    if folders:
        found |= {name: entry for name, entry in listed.items() if name.startswith(folders)}
    return found


def _twin(
    digests: dict[str, str], name: str, entries: dict[str, dict[str, Any]], piece: Scene | Published
) -> str | None:
    """The scene before this one that has the same bytes."""
    if isinstance(piece, Published):
        return None
    both = "".join(sorted(entry["sha256"] for entry in entries.values()))
    first = digests.setdefault(both, name)
    return first if first != name else None


def _divided(
    piece: Scene | Published, name: str, files: tuple[str, ...], limit: int
) -> Iterator[Part]:
    """A scene as it is; published patches in runs of at most so many bytes."""
    if isinstance(piece, Scene):
        yield Part(name, None, piece.bytes, files)
        return
    count = len(piece.places)
    each = max(1, -(-count // max(1, -(-piece.bytes // limit))))
    for start in range(0, count, each):
        stop = min(start + each, count)
        yield Part(name, (start, stop), piece.bytes * (stop - start) // count, files)


def _grouped(parts: list[Part], limit: int) -> Iterator[list[Part]]:
    """Neighbouring parts together, up to so many bytes."""
    group: list[Part] = []
    for part in parts:
        if group and sum(p.bytes for p in group) + part.bytes > limit:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _shard(group: list[Part], listed: dict[str, Any]) -> dict[str, Any]:
    names = dict.fromkeys(file for part in group for file in part.files)
    files = _entries(names, listed)
    parts = [{"name": part.name, "rows": part.rows} for part in group]
    content = json.dumps([parts, version_of(files)], sort_keys=True)
    return {
        "name": hashlib.sha256(content.encode()).hexdigest()[:10],
        "bytes": sum(part.bytes for part in group),
        "parts": parts,
        "files": files,
    }


def pieces_of(
    card: Card, folder: Path, shard: dict[str, Any]
) -> Iterator[tuple[str, Scene | Published | DataError]]:
    """Open the parts of a shard one after another, their files proven first."""
    source: Source = open_source(card, folder)
    proven = {name: _proof(folder, name, entry) for name, entry in shard["files"].items()}
    for part in shard["parts"]:
        name = part["name"]
        try:
            piece = source.open(name)
            if part["rows"] is not None:
                assert isinstance(piece, Published)
                piece = piece.between(*part["rows"])
        except DataError as unfit:
            # A damaged file may be open to many complaints; the damage comes before all.
            damage = (e for n, e in proven.items() if e and str(folder / n) == unfit.where)
            yield name, next(damage, unfit)
            continue
        mine = [str(file.relative_to(folder)) for file in piece.files]
        damaged = [
            error
            for file, error in proven.items()
            if error and any(file == own or file.startswith(f"{own}/") for own in mine)
        ]
        yield name, damaged[0] if damaged else piece


def _proof(folder: Path, name: str, entry: dict[str, Any]) -> DataError | None:
    """What is wrong with a file, if anything is."""
    try:
        prove(folder / name, entry, by=folder / "manifest.json")
    except DataError as wrong:
        return wrong
    return None


def index_shards(plan: dict[str, Any], folder: Path, *, broken: str) -> dict[str, Any]:
    """Join what the jobs have cut: one table of places, one of contents, one of checks.

    Shards that the plan does not name any more are deleted. Scenes of the same pixels count once,
    wherever they say that they lie: the first is kept.

    Args:
        plan: as `plan_shards` made it.
        folder: where the shards lie, each in a folder of its name.
        broken: `skip` or `fatal`, for scenes that the checks found unfit.

    Returns:
        The manifest of the patch set, also written to `folder`.

    Raises:
        DataError: a shard is damaged, no patch is left, or a scene is unfit and that is fatal.
    """
    cut = [folder / shard["name"] / "manifest.json" for shard in plan["shards"]]
    if store.is_used():  # of each shard its tables; whoever needs a chunk brings and proves it
        for each in cut:
            store.bring_listed(each, set(TABLES) & read_json(each)["files"].keys())
        manifests = {each.parent.name: read_json(each) for each in cut}
    else:
        manifests = {each.parent.name: read_manifest(each, digests=False) for each in cut}
    for other in folder.iterdir():
        if other.is_dir() and other.name not in manifests:
            shutil.rmtree(other)
    store.keep_only(folder, manifests)
    checks = [
        {"scene": s["scene"], "patches": 0, "faults": [s["reason"]]} for s in plan["set_aside"]
    ]
    seen: dict[str, str] = {}
    tables, contents, shards = [], [], []
    scenes: dict[str, int] = {}
    first = 0
    for name, manifest in manifests.items():
        doubles = set()
        for check in manifest["checks"]:
            fit = not check["faults"]
            twin = seen.setdefault(check["digest"], check["scene"]) if fit else None
            if twin not in (None, check["scene"]):
                faults = [f"has the pixels of {twin}"]
                check = check | {"patches": 0, "left_out": 0, "faults": faults}
                doubles.add(check["scene"])
            checks.append(check)
        if not manifest["kept"]:
            continue
        places = pd.read_parquet(folder / name / "places.parquet")
        numbers = np.array(
            [
                -1 if scene in doubles else scenes.setdefault(scene, len(scenes))
                for scene in manifest["facts"]["scenes"]
            ]
        )
        places["scene"] = numbers[places["scene"].to_numpy()].astype(np.int32)
        local = places["epsg"] < 0
        places.loc[local, "epsg"] = -1 - places.loc[local, "scene"]
        places["stored"] = np.arange(first, first + len(places))
        kept = places["scene"] >= 0
        tables.append(places[kept])
        contents.append(np.load(folder / name / "contents.npy")[kept.to_numpy()])
        shards.append({"name": name, "arrays": manifest["arrays"], "facts": manifest["facts"]})
        first += len(places)
    unfit = [check for check in checks if check["faults"]]
    if unfit and broken == "fatal":
        raise DataError(
            unfit[0]["faults"][0], where=unfit[0]["scene"],
            mend="mend the scene, or set quality.broken=skip",
        )  # fmt: skip
    left_out = sum(check.get("left_out", 0) for check in checks)
    if not sum(map(len, tables)):
        first_fault = unfit[0]["faults"][0] if unfit else f"{left_out} have too few valid pixels"
        raise DataError(
            f"no patch is left: {first_fault}", where=plan["dataset"],
            mend="lower patches.min_valid, or mend the data",
        )  # fmt: skip
    _agree(shards)
    places = pd.concat(tables, ignore_index=True)
    with whole(folder / "places.parquet") as part:
        places.to_parquet(part, index=False)
    with whole(folder / "contents.npy") as part:
        np.save(part, np.concatenate(contents))
    facts = shards[0]["facts"] | {"scenes": list(scenes)}
    versions = "".join(manifests[shard["name"]]["version"] for shard in shards)
    manifest = {
        "version": hashlib.sha256(f"{versions}{len(places)}".encode()).hexdigest(),
        "data_version": plan["data_version"],
        "kept": len(places),
        "left_out": left_out,
        "facts": facts,
        "shards": [{"name": s["name"], "arrays": s["arrays"]} for s in shards],
        "checks": checks,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _agree(shards: list[dict[str, Any]]) -> None:
    """All shards must have arrays of the same kind."""

    def kind(shard: dict[str, Any]) -> dict[str, Any]:
        return {n: (a["shape"][1:], a["dtype"]) for n, a in shard["arrays"].items()}

    for shard in shards[1:]:
        if kind(shard) != kind(shards[0]):
            raise DataError(
                f"has patches of another kind than the scenes of {shards[0]['facts']['scenes'][0]}",
                where=shard["facts"]["scenes"][0],
                mend="make a dataset of each kind",
            )


def bring_shard(plan: Path, name: str, folder: Path) -> None:
    """Bring from the object store, where there is one, what opening the scenes of a shard needs.

    Its own files, and those of no shard at all: tables of places, lists, what describes a scene.

    Args:
        plan: as `plan_shards` made it and a stage has written.
        name: of the shard.
        folder: of the dataset, with its manifest.
    """
    if store.is_used():
        listed = {shard["name"]: set(shard["files"]) for shard in read_json(plan)["shards"]}
        others = set().union(*listed.values()) - listed.get(name, set())
        fetched = read_json(folder / "manifest.json")["files"]
        store.bring_listed(folder / "manifest.json", [f for f in fetched if f not in others])


def shard_named(plan: Path, name: str) -> dict[str, Any]:
    """The shard of that name in a plan that `plan_shards` made and a stage has written.

    Raises:
        DataError: there is none.
    """
    for shard in read_json(plan)["shards"]:
        if shard["name"] == name:
            found: dict[str, Any] = shard
            return found
    raise DataError(f"there is no shard {name}", where=plan, mend="run the stage `scenes` again")
