"""Fetching a dataset: from a mirror, from its public address, or by drawing it.

Everything arrives in `state/`, is proven there by checksum or content, and only then moves to
`data/`, so that `data/` never holds half a file. A broken download goes on where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import requests
import urllib3

from swath.data.card import Card, File, Places
from swath.data.georeference import write_places
from swath.data.layouts import open_source
from swath.errors import DataError
from swath.files import content_digest, digest, files_below, whole, write_manifest

log = logging.getLogger(__name__)

ATTEMPTS = 5
WAIT_S = 1.0
"""Wait after the first failed attempt; doubled after each."""
TIMEOUT_S = (10, 60)
"""To connect, and between two packets."""
_BLOCK = 1 << 16


class Unserved(DataError):
    """A file that neither a mirror nor its public address gives."""


def fetch(
    card: Card, folder: Path, *, state: Path, mirror: str | None, wait_s: float = WAIT_S
) -> dict[str, Any]:
    """Bring a dataset whole into `folder` and write its manifest there.

    Args:
        card: what the dataset is and how its files prove themselves.
        folder: its place below `data/`.
        state: folder for what is on its way.
        mirror: folder or base address, laid out as `<dataset>/<file>`; tried first.
        wait_s: first wait between two attempts.

    Returns:
        The manifest: source and proof of each file, size, digest, and the version of them all.

    Raises:
        DataError: a file cannot be had, or is not what the card says; `folder` has nothing of it.
    """
    state.mkdir(parents=True, exist_ok=True)
    proofs: dict[str, str] = {}
    if card.drawing:
        _draw(card, folder, state)
    for file in card.files:
        target = folder / file.name
        if target.is_file() and (proof := proven(file, target)):
            log.info("%s is here already, proven by %s", target, proof)
        else:
            try:
                proof = _bring_proven(card.name, file, state, mirror, wait_s)
                _move(state / file.name, target)
            except Unserved:
                if not file.made_from:
                    raise
                proof = _make(card.name, file, file.made_from, target, state, mirror, wait_s)
        proofs[file.name] = proof
    open_source(card, folder)  # counts and layout, before anything is built on them
    files = [f for f in files_below(folder) if f.name != "manifest.json"]
    return write_manifest(folder / "manifest.json", files, dataset=card.name, proofs=proofs)


def _bring_proven(dataset: str, file: File, state: Path, mirror: str | None, wait_s: float) -> str:
    """Bring a file into `state`; gives its proof."""
    source = _bring(dataset, file, state / file.name, mirror, wait_s)
    proof = proven(file, state / file.name)
    if not proof:
        (state / file.name).unlink()
        raise DataError(
            f"{file.name} is not the published file: it was changed or cut off",
            where=source,
            mend="mend the mirror, or fetch again",
        )
    log.info("%s from %s, proven by %s", file.name, source, proof)
    return proof


def _make(
    dataset: str,
    file: File,
    places: Places,
    target: Path,
    state: Path,
    mirror: str | None,
    wait_s: float,
) -> str:
    """Make a table of places from the archive of its georeferenced twins."""
    log.info("%s cannot be had: it is read from %s", file.name, places.archive.name)
    archive = state / places.archive.name
    if not (archive.is_file() and (proof := proven(places.archive, archive))):
        proof = _bring_proven(dataset, places.archive, state, mirror, wait_s)
    rows = write_places(archive, target, suffix=places.suffix)
    archive.unlink()  # much larger than what was asked of it
    log.info("%s: %d places", target, rows)
    return f"made from {places.archive.name}, proven by {proof}"


def proven(file: File, path: Path) -> str:
    """By what `path` is proven to be `file`, or nothing where it is not."""
    if file.sha256 and digest(path) == file.sha256:
        return "sha256"
    if file.md5 and _md5(path) == file.md5:
        return "published md5"
    if file.content:
        try:
            return "content" if content_digest(path) == file.content else ""
        except DataError:
            return ""
    return ""


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _draw(card: Card, folder: Path, state: Path) -> None:
    from swath.data.landscape import draw_scenes

    assert card.drawing is not None
    drawn = state / "drawn"
    shutil.rmtree(drawn, ignore_errors=True)
    settings = card.drawing.model_dump()
    draw_scenes(drawn, **settings)
    shutil.rmtree(folder, ignore_errors=True)
    _move(drawn, folder)
    log.info("drew %d synthetic scenes into %s", settings["scenes"], folder)


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


def _bring(dataset: str, file: File, part: Path, mirror: str | None, wait_s: float) -> str:
    """Bring a file to `part`; gives where it came from."""
    if mirror and "://" not in mirror:
        local = Path(mirror) / dataset / file.name
        if local.is_file():
            shutil.copyfile(local, part)
            return str(local)
        log.info("the mirror has no %s", local)
    addresses = [_in_mirror(mirror, dataset, file)] if mirror and "://" in mirror else []
    addresses += [file.address] if file.address else []
    failures = []
    for address in addresses:
        # A part of its own: what two servers pack differently must not be joined.
        own = part.with_name(f"{part.name}.{hashlib.sha256(address.encode()).hexdigest()[:8]}")
        try:
            _download(address, own, wait_s)
        except DataError as failed:
            failures.append(failed)
        else:
            os.replace(own, part)
            return address
    if failures:
        raise Unserved(failures[-1].what, where=failures[-1].where, mend=failures[-1].mend)
    raise Unserved(
        f"{file.name} has no public address and is in no mirror",
        where=f"dataset {dataset}",
        mend=f"set SWATH_MIRROR to a folder or address that holds {dataset}/{file.name}",
    )


def _in_mirror(mirror: str, dataset: str, file: File) -> str:
    return f"{mirror.rstrip('/')}/{dataset}/{file.name}"


def _download(address: str, part: Path, wait_s: float) -> None:
    """Download to `part`, going on where an earlier attempt stopped.

    Raises:
        DataError: the server says no, or every attempt broke off.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            log.warning("%s: %s; trying again", address, reason)
            time.sleep(wait_s * 2 ** (attempt - 1))
        try:
            reason = _attempt(address, part)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as failed:
            if isinstance(failed, OSError) and failed.errno == errno.ENOSPC:
                raise
            reason = f"{type(failed).__name__}"
        if not reason:
            return
    raise DataError(
        f"{reason} in {ATTEMPTS} attempts", where=address, mend="try again later: what came is kept"
    )


def _attempt(address: str, part: Path) -> str:
    """One attempt; gives why it has to be made again, or nothing where the file is complete."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            # All of it is here, or more than all: whether it is the file, its proof tells.
            return ""
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            return f"the server answered {answer.status_code}"
        if answer.status_code >= 400:
            raise DataError(
                f"the server answered {answer.status_code} {answer.reason}",
                where=address,
                mend="mend the address in the dataset's card, or set SWATH_MIRROR",
            )
        if answer.status_code != requests.codes.partial_content:
            have = 0
        total = have + int(answer.headers.get("Content-Length", 0))
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            _receive(answer, file, have, total)
    short = total - part.stat().st_size
    return f"broke off {short} bytes before its end" if total and short > 0 else ""


def _receive(answer: requests.Response, file: Any, have: int, total: int) -> None:
    told = time.monotonic()
    # The bytes as they lie on the server, whatever encoding it calls them, and in small blocks:
    # a block that is cut short is lost.
    for block in answer.raw.stream(_BLOCK, decode_content=False):
        file.write(block)
        have += len(block)
        if time.monotonic() - told > 2:
            told = time.monotonic()
            log.info("%s: %.0f of %.0f MB", Path(file.name).name, have / 1e6, total / 1e6)
