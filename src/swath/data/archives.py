"""Unpacking an archive: whole, and inside its folder or not at all.

Zip and tar (plain, gzip, bzip2, xz). An archive is a stranger's: each member is judged by its name,
kind and size before a byte of it is written, and nothing but plain files and folders is ever made.
Members are read one after the other, so memory does not grow with the archive.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from swath.errors import DataError
from swath.files import DAMAGED_ZIP, content_digest

_BLOCK = 1 << 20
_DAMAGED = (*DAMAGED_ZIP, tarfile.TarError)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Faults of our own disk, not of the archive."""
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class _Member:
    """A file or folder of an archive, as it calls itself."""

    name: str
    size: int
    """Bytes that it says it has."""
    content: IO[bytes] | None = None
    """None for a folder and a link."""
    link: str | None = None
    """What a link leads to, from the root of the archive."""


def unpack(archive: Path, into: Path) -> None:
    """Unpack `archive` into the new folder `into`; after a refusal there is no such folder.

    A link to a file of the archive becomes that file; permissions and owners are not taken over.

    Raises:
        DataError: a member leads outside the folder, is a device, comes twice, is larger than it
            says or than the disk has room for; or the archive is damaged.
        OSError: the disk is full, or may not be written.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    try:
        with _judged(archive):
            _unpack(archive, into)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def content(archive: Path) -> str:
    """SHA-256 over the sorted SHA-256 digests of an archive's files (`files.content_digest`).

    Raises:
        DataError: the archive cannot be read to its last byte.
    """
    if zipfile.is_zipfile(archive):
        return content_digest(archive)
    digests = []
    with _judged(archive):
        for member in _members(archive):
            if member.content:
                sha = hashlib.sha256()
                while block := member.content.read(_BLOCK):
                    sha.update(block)
                digests.append(sha.hexdigest())
    return hashlib.sha256("".join(f"{d}\n" for d in sorted(digests)).encode()).hexdigest()


def _unpack(archive: Path, into: Path) -> None:
    files: set[str] = set()
    links: dict[str, str] = {}
    for member in _members(archive):
        name = _inside(archive, member.name)
        if not name:
            continue
        if name in files or name in links:
            raise _refused(archive, member.name, "comes twice")
        target = into / name
        folder = target if member.content is None and member.link is None else target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if member.content:
                files.add(name)
                _write(archive, member, target)
        except (FileExistsError, NotADirectoryError):
            raise _refused(archive, member.name, "is both a file and a folder") from None
        if member.link is not None:
            links[name] = _inside(archive, member.link, of=member.name)
    for name in links:
        os.link(into / _end_of(archive, name, links, files), into / name)


def _write(archive: Path, member: _Member, target: Path) -> None:
    assert member.content
    if member.size > (free := shutil.disk_usage(target.parent).free):
        what = f"says that it has {member.size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise _refused(archive, member.name, what)
    written = 0
    with target.open("xb") as file:  # never over anything
        while block := member.content.read(_BLOCK):
            written += len(block)
            if written > member.size:
                raise _refused(
                    archive, member.name, f"has more than the {member.size} bytes it says"
                )
            file.write(block)
    if written < member.size:
        raise _refused(archive, member.name, f"has {written} bytes and says {member.size}")


def _end_of(archive: Path, name: str, links: dict[str, str], files: set[str]) -> str:
    """The file that a link leads to, over other links."""
    end = links[name]
    for _ in links:
        end = links.get(end, end)
    if end not in files:
        raise _refused(archive, name, "is a link to no file of the archive")
    return end


def _inside(archive: Path, name: str, *, of: str | None = None) -> str:
    """A member's name below the folder, `a/b`; empty for the folder itself.

    Raises:
        DataError: the name is absolute, has a drive, or climbs.
    """
    told = of or name
    lead = f"is a link to '{name}', which leads" if of else "leads"
    slashed = name.replace("\\", "/")  # some archives are made so, and some are meant to deceive
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if slashed.startswith("/") or re.match("[A-Za-z]:", slashed) or ".." in parts or "\0" in name:
        raise _refused(archive, told, f"{lead} outside its folder")
    if any(len(os.fsencode(part)) > 255 for part in parts):
        raise _refused(archive, told[:40], "has too long a name")
    return "/".join(parts)


def _refused(archive: Path, member: str, what: str) -> DataError:
    return DataError(
        f"its member '{member}' {what}",
        where=archive,
        mend="nothing was unpacked; get the archive from its publisher",
    )


def _members(archive: Path) -> Iterator[_Member]:
    """The members in the order in which they lie; the content of each is read before the next."""
    with archive.open("rb") as file:
        zstd = file.read(4) == _ZSTD
    if zstd:
        raise DataError(
            "is compressed by zstd, which Python 3.11 cannot read",
            where=archive,
            mend="leave `unpack` out, or serve it packed as .tar.gz from a mirror",
        )
    yield from _zipped(archive) if zipfile.is_zipfile(archive) else _tarred(archive)


@contextmanager
def _judged(archive: Path) -> Iterator[None]:
    """Tell whatever an archive's damaged bytes raise in one line."""
    try:
        yield
    except _DAMAGED as broken:
        if isinstance(broken, OSError) and broken.errno in _DISK:
            raise
        raise DataError(
            f"is not a whole archive ({broken})", where=archive, mend="fetch it again"
        ) from None


def _zipped(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        declared = sum(member.file_size for member in members)
        if declared > (free := shutil.disk_usage(archive.parent).free):
            raise DataError(
                f"unpacks to {declared / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
                where=archive,
                mend="make room, or get the archive from its publisher",
            )
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if stat.S_ISLNK(kind):
                with opened.open(member) as content:
                    leads = content.read(4096).decode("utf-8", "surrogateescape")
                yield _Member(member.filename, 0, link=_beside(member.filename, leads))
            elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename, "is a device, not a file")
            elif member.is_dir():
                yield _Member(member.filename, 0)
            else:
                with opened.open(member) as content:
                    yield _Member(member.filename, member.file_size, content)


def _tarred(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive, "r:*") as opened:
        while member := opened.next():
            opened.members = []  # type: ignore[attr-defined]  # or all of a million are kept
            if member.isdir():
                yield _Member(member.name, 0)
            elif member.issym():
                yield _Member(member.name, 0, link=_beside(member.name, member.linkname))
            elif member.islnk():
                yield _Member(member.name, 0, link=member.linkname)
            elif member.isfile():
                content = opened.extractfile(member)
                assert content
                yield _Member(member.name, member.size, content)
            else:
                raise _refused(archive, member.name, "is a device, not a file")


def _beside(name: str, leads: str) -> str:
    """What a symbolic link leads to, from the root of the archive; climbs where the link does."""
    if leads.startswith("/"):
        return leads
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), leads))
