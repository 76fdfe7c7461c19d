"""Files that are whole or absent: atomic writing, digests, and manifests that readers check.

A half-written file that keeps its final name is the root of most silent damage, so every file is
written under a temporary name, synced and renamed. A manifest lists files with size and SHA-256.
"""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from swath.errors import DataError

_BLOCK = 1 << 20
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError,
    RuntimeError, ValueError,
)  # fmt: skip
"""All that `zipfile` raises for an archive with damaged bytes, compression and flags included."""


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)  # content and size; times may be lost
    finally:
        os.close(handle)


@contextmanager
def whole(path: Path, *, synced: bool = True, lasting: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced, if the block succeeds.

    The suffix is kept, since some writers choose a format by it. Nothing stays after a failure.
    Without `synced` it is whole whatever becomes of the process, and not after a power cut; without
    `lasting` a power cut may bring back what was there before. Each saves a wait for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        if synced:
            _sync(part)
        os.replace(part, path)
        if synced and lasting:
            _sync(path.parent)
    except Exception as failed:
        # Not every library that writes says that the disk is full; some lose the reason.
        full = shutil.disk_usage(path.parent).free < _BLOCK
        if full and not (isinstance(failed, OSError) and failed.errno):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from failed
        raise
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, synced: bool = True) -> None:
    """Write `text` to `path`, atomically."""
    with whole(path, synced=synced) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, synced: bool = True) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n", synced=synced)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place if the block succeeds.

    Nothing stays after a failure, and what was at `path` stays until then.
    """
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in files_below(part):
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: the file is absent or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, mend="run the stage before") from None
    except ValueError as broken:
        raise DataError(
            f"is not JSON ({broken})", where=path, mend="delete it and run its stage again"
        ) from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xxh3(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


DIGESTS = {"sha256": digest, "xxh3": _xxh3}
"""What a manifest may hold: SHA-256 where a file is published, XXH3 for what swath writes."""


def content_digest(archive: Path) -> str:
    """SHA-256 over the sorted SHA-256 digests of a zip's files: deaf to order and re-packing.

    Raises:
        DataError: the archive cannot be read to its last byte.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            digests = sorted(_member_digest(opened, m) for m in opened.infolist() if not m.is_dir())
    except DAMAGED_ZIP as broken:
        raise DataError(
            f"is not a whole zip archive ({broken})", where=archive, mend="fetch it again"
        ) from None
    return hashlib.sha256("".join(f"{d}\n" for d in digests).encode()).hexdigest()


def _member_digest(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    sha = hashlib.sha256()
    with archive.open(member) as file:
        while block := file.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files of a folder at any depth, in a stable order."""
    return sorted(p for p in folder.rglob("*") if p.is_file())


def write_manifest(
    path: Path, files: Iterable[Path], *, known: dict[str, str] | None = None, **facts: Any
) -> dict[str, Any]:
    """List `files` with size and digest in `path`, with a `version` of them all, and `facts`.

    Args:
        path: the manifest; the files are named relative to its folder.
        files: what is listed.
        known: digests (XXH3, 128 bits) that are known already, by name; all are then XXH3, which
            guards against damage at the speed of the memory. Else they are SHA-256.
        facts: further entries.
    """
    kind = "sha256" if known is None else "xxh3"
    listed: dict[str, dict[str, Any]] = {}
    for file in sorted(files):
        name = str(file.relative_to(path.parent))
        proof = (known or {}).get(name) or DIGESTS[kind](file)
        listed[name] = {"size": file.stat().st_size, kind: proof}
    manifest = {**facts, "version": version_of(listed), "files": listed}
    write_json(path, manifest)
    return manifest


def version_of(listed: dict[str, dict[str, Any]]) -> str:
    """One SHA-256 over names and digests of listed files."""
    lines = (
        f"{name} {next(entry[kind] for kind in DIGESTS if kind in entry)}\n"
        for name, entry in listed.items()
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_manifest(path: Path, *, digests: bool = True) -> dict[str, Any]:
    """A manifest whose files were all found as it lists them.

    Args:
        path: the manifest.
        digests: whether every byte is read and compared, or only the size of each file.

    Raises:
        DataError: a listed file is absent, cut off or changed.
    """
    manifest: dict[str, Any] = read_json(path)
    for name, entry in manifest["files"].items():
        prove(path.parent / name, entry, by=path, digests=digests)
    return manifest


def prove(
    file: Path, entry: dict[str, Any], *, by: Path, digests: bool = True, mend: str = ""
) -> None:
    """Compare a file with its entry in the manifest `by`; `mend` is what the user is told to do.

    Raises:
        DataError: it is absent, cut off or changed.
    """
    mend = mend or f"delete {by} and run its stage again"
    if not file.is_file():
        raise DataError(f"is listed in {by.name} and absent", where=file, mend=mend)
    if (size := file.stat().st_size) != entry["size"]:
        raise DataError(f"has {size} bytes, not {entry['size']}", where=file, mend=mend)
    for kind, take in DIGESTS.items():
        if digests and kind in entry and take(file) != entry[kind]:
            raise DataError("was changed after it was written", where=file, mend=mend)
