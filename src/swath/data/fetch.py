"""Fetching a dataset: from a mirror, its public address, a search, one's own folder, or by drawing.

Everything arrives in `state/`, is proven there by checksum or content, and only then moves to
`data/`, one file at a time, so that `data/` never holds half a file and what is good stays. What
cannot be proven by its card is remembered where it lies, so that fetching again downloads nothing:
an unpacked archive in `<archive>.unpacked.json`, a scene's assets in the `item.json` beside them.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from swath import registry
from swath.data import archives
from swath.data.card import Card, File, Places
from swath.data.georeference import write_places
from swath.data.search import Asset, Listed, scenes_in, scenes_of, signed_anew
from swath.data.transfer import WAIT_S, Transfer, Unserved, without_query
from swath.errors import DataError
from swath.files import (
    digest,
    files_below,
    read_json,
    read_manifest,
    whole,
    write_json,
    write_manifest,
)

log = logging.getLogger(__name__)

_CHECKSUMS = {"1220": "sha256", "1114": "sha1", "d50110": "md5"}
"""Code and length that begin a multihash -> name of the hash (multiformats.io)."""


@dataclass(frozen=True)
class _Task:
    """A fetch of one dataset."""

    dataset: str
    folder: Path
    state: Path
    mirror: str | None
    transfer: Transfer
    files: frozenset[str]
    """Names of the card's files."""
    placing: threading.Lock = field(default_factory=threading.Lock)
    """Held while an archive's files take their places."""

    def addresses(self, name: str, public: str | None) -> list[str]:
        """Where `<dataset>/<name>` may be had, the mirror first.

        Raises:
            Unserved: nowhere.
        """
        found = [public] if public else []
        if self.mirror and "://" in self.mirror:
            found.insert(0, f"{self.mirror.rstrip('/')}/{self.dataset}/{quote(name)}")
        elif self.mirror and (local := Path(self.mirror) / self.dataset / name).is_file():
            found.insert(0, str(local))
        elif self.mirror:
            log.info("the mirror has no %s", local)
        if not found:
            raise Unserved(
                f"{name} has no public address and is in no mirror",
                where=f"dataset {self.dataset}",
                mend=f"set SWATH_MIRROR to a folder or address that holds {self.dataset}/{name}",
            )
        return found


def fetch(
    card: Card, folder: Path, *, state: Path, mirror: str | None, wait_s: float = WAIT_S
) -> dict[str, Any]:
    """Bring a dataset whole into `folder` and write its manifest there.

    Args:
        card: what the dataset is and how its files prove themselves.
        folder: its place below `data/`.
        state: folder for what is on its way.
        mirror: folder or base address (http, https, s3), laid out as `<dataset>/<file>`; tried
            first.
        wait_s: first wait between two attempts.

    Returns:
        The manifest: source and proof of each file, size, digest, and the version of them all.

    Raises:
        DataError: a file cannot be had, or is not what the card says; `folder` has nothing of it.
    """
    state.mkdir(parents=True, exist_ok=True)
    names = frozenset(file.name for file in card.files if not file.unpack)
    task = _Task(card.mirror or card.name, folder, state, mirror, Transfer(wait_s=wait_s), names)
    if card.drawing:
        _draw(card, folder, state)
    if not (card.drawing or card.files or card.stac):
        _find_own(card, folder)
    work: list[Callable[[], dict[str, str]]] = [
        functools.partial(_bring_file, task, file) for file in card.files
    ]
    if card.stac:
        work += _scene_work(task, card, wait_s)
    proofs: dict[str, str] = {}
    for proof in task.transfer.together(work):
        proofs |= proof
    files = [f for f in files_below(folder) if f != folder / "manifest.json"]
    return write_manifest(folder / "manifest.json", files, dataset=card.name, proofs=proofs)


# ---- the files of a card ----------------------------------------------------------------------


def _bring_file(task: _Task, file: File) -> dict[str, str]:
    """Bring a file of the card into its place; gives its proof by its name."""
    if file.unpack:
        return {file.name: _bring_unpacked(task, file)}
    target = task.folder / file.name
    if target.is_file() and (proof := proven(file, target)):
        log.info("%s is here already, proven by %s", target, proof)
        return {file.name: proof}
    try:
        proof = _bring_proven(task, file)
        _move(task.state / file.name, target)
    except Unserved:
        places = getattr(file, "made_from", None)
        if not places:
            raise
        proof = _make(task, file, places, target)
    return {file.name: proof}


def _bring_proven(task: _Task, file: File) -> str:
    """Bring a file into `state`; gives its proof."""
    part = task.state / file.name
    public = _carried(file, file.package) if file.package else file.address
    source = task.transfer.bring(task.addresses(file.name, public), part)
    proof = proven(file, part)
    if not proof:
        part.unlink()
        raise DataError(
            f"{file.name} is not the published file: it was changed or cut off",
            where=source,
            mend="mend the mirror, or fetch again",
        )
    log.info("%s from %s, proven by %s", file.name, source, proof)
    return proof


def _carried(file: File, package: str) -> str:
    """Where the file lies that an installed package carries."""
    root, *inner = package.split(".")
    found = importlib.util.find_spec(root)
    path = Path(found.origin).parent.joinpath(*inner, file.name) if found and found.origin else None
    if path is None or not path.is_file():
        raise DataError(
            f"{package} does not carry {file.name}", where="data.files", mend=f"install {root}"
        )
    return str(path)


def _make(task: _Task, file: File, places: Places, target: Path) -> str:
    """Make a table of places from the archive of its georeferenced twins."""
    log.info("%s cannot be had: it is read from %s", file.name, places.archive.name)
    archive, proof = _archive(task, places.archive)
    rows = write_places(archive, target, suffix=places.suffix)
    archive.unlink()  # much larger than what was asked of it
    log.info("%s: %d places", target, rows)
    return f"made from {places.archive.name}, proven by {proof}"


def _archive(task: _Task, file: File) -> tuple[Path, str]:
    """An archive in `state` that is not to stay there, with its proof."""
    archive = task.state / file.name
    if archive.is_file() and (proof := proven(file, archive)):
        return archive, proof
    return archive, _bring_proven(task, file)


def proven(file: File, path: Path) -> str:
    """By what `path` is proven to be `file`, or nothing where it is not."""
    if file.sha256 and digest(path) == file.sha256:
        return "sha256"
    if file.md5 and _hash(path, "md5") == file.md5:
        return "published md5"
    if file.content:
        try:
            return "content" if archives.content(path) == file.content else ""
        except DataError:
            return ""
    return ""


def _hash(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def _bring_unpacked(task: _Task, file: File) -> str:
    """Bring an archive and unpack it into the dataset's folder; the archive itself is not kept."""
    record = task.folder / f"{file.name}.unpacked.json"
    before = _unpacked_before(record)
    wanted = {key: getattr(file, key) for key in ("md5", "sha256", "content")}
    if before and any(value and value == before["of"].get(key) for key, value in wanted.items()):
        try:
            read_manifest(record)
        except DataError as damaged:
            log.warning("%s; it is unpacked anew", damaged)
        else:
            log.info("%s is here already, unpacked", file.name)
            return str(before["proof"])
    archive, proof = _archive(task, file)
    unpacked = task.state / f"{file.name}.unpacked"
    archives.unpack(archive, unpacked)
    names = [path.relative_to(unpacked) for path in files_below(unpacked)]
    with task.placing:
        _refuse_taken(task, file, {str(name) for name in names} - set(before.get("files", {})))
        for name in before.get("files", {}):
            (task.folder / name).unlink(missing_ok=True)
        for path in names:
            _move(unpacked / path, task.folder / path)
        shutil.rmtree(unpacked)
        files = [task.folder / path for path in names]
        write_manifest(record, files, archive=file.name, of=wanted, proof=proof)
    archive.unlink()
    log.info("%s: %d files unpacked", file.name, len(files))
    return proof


def _unpacked_before(record: Path) -> dict[str, Any]:
    """What the record of an unpacked archive says; nothing where it cannot be read."""
    try:
        before = read_json(record)
    except DataError:
        return {}
    whole_record = isinstance(before, dict) and {"of", "proof", "files"} <= set(before)
    return before if whole_record else {}


def _refuse_taken(task: _Task, file: File, names: set[str]) -> None:
    """Refuse an archive that would overwrite what others brought."""
    taken = {"manifest.json", "scenes.json"} | task.files
    for record in task.folder.glob("*.unpacked.json"):
        taken |= {record.name} | set(_unpacked_before(record).get("files", {}))
    if clash := sorted(names & taken):
        raise DataError(
            f"{file.name} and another file of the dataset both bring {clash[0]}",
            where=task.folder,
            mend="leave `unpack` out for one of them",
        )


# ---- the scenes of a search -------------------------------------------------------------------


def _scene_work(task: _Task, card: Card, wait_s: float) -> list[Callable[[], dict[str, str]]]:
    """Freeze the list of a search's scenes; gives the downloads of their assets."""
    assert card.stac
    path = task.folder / "scenes.json"
    before = read_json(path) if path.is_file() else None
    listed = scenes_of(card.stac, path, wait_s=wait_s)
    scenes = scenes_in(listed, path)
    if listed != before:
        _put_by(task, scenes, before)
        write_json(path, listed)
    work: list[Callable[[], dict[str, str]]] = []
    for scene in scenes:
        item = _Item(scene, task)
        work += [functools.partial(item.bring, band) for band in card.stac.assets]
    return work


def _put_by(task: _Task, scenes: list[Listed], before: Any) -> None:
    """Take what only an earlier list names out of the dataset; in `state/` it waits for another."""
    try:
        old = _names(scenes_in(before, "")) if before else set()
    except DataError:
        return
    for name in sorted(old - _names(scenes)):
        source, target = task.folder / name, task.state / name
        if source.is_file():
            _move(source, target)
            if (item := source.with_name("item.json")).is_file():
                shutil.copyfile(item, target.with_name("item.json"))
    gone = {Path(name).parent for name in old} - {Path(name).parent for name in _names(scenes)}
    for path in gone:
        shutil.rmtree(task.folder / path, ignore_errors=True)
    if gone:
        log.info("%d scenes are in the list no more: put by in %s", len(gone), task.state)


def _names(scenes: list[Listed]) -> set[str]:
    """Names of the scenes' files below the dataset's folder."""
    return {f"{scene.folder}/{asset.file}" for scene in scenes for asset in scene.assets.values()}


class _Item:
    """A scene of the list, and the `item.json` that says which of its assets are here."""

    def __init__(self, scene: Listed, task: _Task) -> None:
        self._scene, self._task = scene, task
        self._lock = threading.Lock()
        here, put_by = task.folder / scene.folder, task.state / scene.folder
        self._path = here / "item.json"
        self._item = _read_item(self._path)
        self._known = {
            here: dict(self._item["assets"]),
            put_by: _read_item(put_by / "item.json")["assets"],
        }
        self._entries = {b: e for b, e in self._known[here].items() if b in scene.assets}

    def bring(self, band: str) -> dict[str, str]:
        """Bring an asset; gives its proof by its name."""
        asset = self._scene.assets[band]
        name = f"{self._scene.folder}/{asset.file}"
        target, part = self._task.folder / name, self._task.state / name
        if not (entry := self._recorded(band, target)):
            if not (entry := self._recorded(band, part)):
                entry = self._bring_proven(asset, name, part)
            _move(part, target)
        self._record(band, entry)
        return {name: entry["swath:proof"]}

    def _bring_proven(self, asset: Asset, name: str, part: Path) -> dict[str, Any]:
        """Bring an asset into `state`; gives its entry in the `item.json`."""
        try:
            source = self._task.transfer.bring(self._task.addresses(name, asset.href), part)
        except Unserved:
            if not (address := signed_anew(self._scene, asset)):
                raise
            source = self._task.transfer.bring([address], part)
        if not (proof := _asset_proof(asset, part)):
            part.unlink()
            raise DataError(
                f"{name} is not the published file: its size or checksum differs",
                where=source,
                mend="mend the mirror, or fetch again",
            )
        return asset.model_dump(by_alias=True, exclude_unset=True) | {
            "href": f"./{asset.file}",
            "file:size": part.stat().st_size,
            "file:checksum": f"1220{digest(part)}",
            "swath:source": without_query(asset.href),
            "swath:proof": proof,
        }

    def _recorded(self, band: str, path: Path) -> dict[str, Any]:
        """The entry of a file in the `item.json` beside it, if it is that file; else nothing."""
        asset, entry = self._scene.assets[band], self._known[path.parent].get(band, {})
        same = (
            path.is_file()
            and entry.get("swath:source") == without_query(asset.href)
            and entry.get("swath:proof") == _asset_proof(asset, path)
            and entry.get("file:size") == path.stat().st_size
            and entry.get("file:checksum") == f"1220{digest(path)}"
        )
        return entry if same else {}

    def _record(self, band: str, entry: dict[str, Any]) -> None:
        """Enter a file that is in its place into the scene's `item.json`."""
        with self._lock:
            self._entries[band] = entry
            bands = [b for b in self._scene.assets if b in self._entries]
            item = self._scene.as_item() | {"assets": {b: self._entries[b] for b in bands}}
            if item != self._item:
                write_json(self._path, item)
                self._item = item


def _read_item(path: Path) -> dict[str, Any]:
    """An `item.json`; one without assets where there is none that can be read."""
    try:
        item = read_json(path)
    except DataError:
        return {"assets": {}}
    return (
        item if isinstance(item, dict) and isinstance(item.get("assets"), dict) else {"assets": {}}
    )


def _asset_proof(asset: Asset, path: Path) -> str:
    """By what a file is proven to be the asset; nothing where it is another.

    Many APIs publish neither size nor checksum: then it is whole as its server says, and no more.
    """
    if asset.size is not None and path.stat().st_size != asset.size:
        return ""
    for code, name in _CHECKSUMS.items():
        if asset.checksum and asset.checksum.startswith(code):
            published = asset.checksum.removeprefix(code)
            return f"published {name}" if _hash(path, name) == published else ""
    return "published size" if asset.size is not None else "its server's length"


# ---- one's own scenes, and drawn ones ---------------------------------------------------------


def _find_own(card: Card, folder: Path) -> None:
    """Make sure that one's own scenes are in `folder`: they lie there, or are linked to.

    Links are made a file at a time, so that every reader finds them as if they lay there.
    """
    if card.folder:
        _link(Path(card.folder).expanduser(), folder)
    elif not folder.is_dir() or not set(files_below(folder)) - {folder / "manifest.json"}:
        raise DataError(
            "there are no scenes here",
            where=folder,
            mend="put your scenes there, or name their folder: `folder: /path/of/scenes`",
        )


def _link(source: Path, folder: Path) -> None:
    if not source.is_dir() or not (files := files_below(source)):
        raise DataError(
            "there are no scenes here", where=source, mend="mend `folder` in the dataset's card"
        )
    if folder.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"holds {folder} itself", where=source, mend="name the folder of the scenes alone"
        )
    wanted = {folder / file.relative_to(source): file.resolve() for file in files}
    for link in folder.rglob("*") if folder.is_dir() else []:
        if link.is_symlink() and wanted.get(link) != Path(os.readlink(link)):
            link.unlink()
    for link, file in wanted.items():
        if link.is_symlink():
            continue
        if link.exists():
            raise DataError("is in the way of a link", where=link, mend=f"move it out of {folder}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)


def _draw(card: Card, folder: Path, state: Path) -> None:
    assert card.drawing is not None
    drawn = state / "drawn"
    shutil.rmtree(drawn, ignore_errors=True)
    settings = {key: value for key, value in card.drawing.items() if key != "name"}
    registry.load("drawing", card.drawing["name"])(drawn, **settings)
    shutil.rmtree(folder, ignore_errors=True)
    _move(drawn, folder)
    log.info("drew the synthetic data of %s into %s", card.name, folder)


def _move(source: Path, target: Path) -> None:
    """Rename, or copy where `state/` and `data/` lie on different disks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as failed:
        if failed.errno != errno.EXDEV:
            raise
        for file in files_below(source) if source.is_dir() else [source]:
            relative = file.relative_to(source)
            with whole(target / relative if source.is_dir() else target) as part:
                shutil.copyfile(file, part)
        shutil.rmtree(source) if source.is_dir() else source.unlink()
