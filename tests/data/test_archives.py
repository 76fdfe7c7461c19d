"""Archives that strangers packed: unpacked whole and inside their folder, or not at all."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.data.archives import content, unpack
from swath.errors import DataError
from swath.files import files_below

FILES = {
    "scenes/one/red.tif": np.random.default_rng(0).bytes(300_000),
    "scenes/one/nir.tif": bytes(2_000_000),
    "README.txt": b"drawn for tests\n",
    "scenes/empty.csv": b"",
}
TARS = {".tar": "w:", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
KINDS = (".zip", *TARS)


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says, with its folders named too."""
    folders = sorted({str(Path(name).parent) for name in files} - {"."})
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for folder in folders:
                opened.mkdir(folder)
            for name, body in files.items():
                opened.writestr(name, body)
        return path
    kind = next(kind for kind in TARS if path.name.endswith(kind))
    with tarfile.open(path, TARS[kind]) as opened:
        for folder in folders:
            member = tarfile.TarInfo(f"./{folder}")
            member.type = tarfile.DIRTYPE
            opened.addfile(member)
        for name, body in files.items():
            add(opened, name, body)
    return path


def add(opened: tarfile.TarFile, name: str, body: bytes = b"", **facts: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(body)
    for fact, value in facts.items():
        setattr(member, fact, value)
    opened.addfile(member, io.BytesIO(body))


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, body in members:
            opened.writestr(name, body)
    return path


def tarred(path: Path, *members: dict[str, object]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        add(opened, "good.tif", b"good")
        for member in members:
            add(opened, **member)  # type: ignore[arg-type]
    return path


def link(name: str, leads: str) -> tuple[zipfile.ZipInfo, bytes]:
    """A symbolic link as Info-ZIP packs it."""
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, 0o120777 << 16
    return member, leads.encode()


def refused(archive: Path) -> str:
    """What is told of an archive that leaves nothing behind, inside or outside its folder."""
    into = archive.parent / "data" / "tiny"
    before = files_below(archive.parent)
    with pytest.raises(DataError) as told:
        unpack(archive, into)
    assert not into.exists() and files_below(archive.parent) == before
    assert "\n" not in str(told.value) and str(told.value).startswith(f"{archive}: ")
    return str(told.value).removeprefix(f"{archive}: ")


# ---- what is good


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_unpacked_whole(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"scenes{kind}", FILES)
    unpack(archive, tmp_path / "out")
    found = {
        str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in files_below(tmp_path / "out")
    }
    assert found == FILES
    assert all(p.stat().st_mode & 0o111 == 0 for p in files_below(tmp_path / "out"))


def test_what_an_earlier_attempt_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half.tif").write_bytes(b"half")
    unpack(pack(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert len(files_below(tmp_path / "out")) == len(FILES)


def test_the_content_is_the_same_however_it_is_packed(tmp_path: Path) -> None:
    shuffled = dict(reversed(FILES.items()))
    digests = {content(pack(tmp_path / f"a{kind}", FILES)) for kind in KINDS}
    digests |= {content(pack(tmp_path / f"b{kind}", shuffled)) for kind in KINDS}
    assert len(digests) == 1
    assert content(pack(tmp_path / "c.tar", FILES | {"README.txt": b"other"})) not in digests


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_a_link_within_becomes_the_file_it_leads_to(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"links{kind}"
    if kind == ".zip":
        zipped(archive, link("first/second", "../first/third"), link("first/third", "./red.tif"),
               ("first/red.tif", b"red"))  # fmt: skip
    else:
        tarred(
            archive,
            {"name": "first/second", "type": tarfile.SYMTYPE, "linkname": "../first/third"},
            {"name": "first/third", "type": tarfile.LNKTYPE, "linkname": "first/red.tif"},
            {"name": "first/red.tif", "body": b"red"},
        )
    unpack(archive, tmp_path / "out")
    for name in ("second", "third", "red.tif"):
        path = tmp_path / "out" / "first" / name
        assert path.read_bytes() == b"red" and not path.is_symlink()


# ---- what leads outside

OUTSIDE = [
    "../up.tif", "scenes/../../up.tif", "/etc/swath.tif", "//host/share.tif", "C:\\up.tif",
    "c:up.tif", "..\\up.tif", "scenes\\..\\..\\up.tif", "..", "scenes/..",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    told = (
        f"its member '{name}' leads outside its folder; "
        "nothing was unpacked; get the archive from its publisher"
    )
    assert refused(zipped(tmp_path / "a.zip", ("good.tif", b"good"), (name, b"evil"))) == told
    assert refused(tarred(tmp_path / "a.tgz", {"name": name, "body": b"evil"})) == told


@pytest.mark.parametrize("leads", ["../../up", "/etc/passwd", "..", "C:\\up", "a/../../up"])
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, leads: str) -> None:
    assert "is a link to" in refused(zipped(tmp_path / "a.zip", link("scenes", leads)))
    symbolic = {"name": "scenes", "type": tarfile.SYMTYPE, "linkname": leads}
    assert "which leads outside its folder" in refused(tarred(tmp_path / "a.tgz", symbolic))
    hard = {"name": "scenes", "type": tarfile.LNKTYPE, "linkname": "../" + leads}
    assert "which leads outside its folder" in refused(tarred(tmp_path / "b.tgz", hard))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    # The classic: a link to a folder, then a file below the link.
    (tmp_path / "outside").mkdir()
    into = {"name": "way", "type": tarfile.SYMTYPE, "linkname": "scenes"}
    below = {"name": "way/up.tif", "body": b"evil"}
    refused(tarred(tmp_path / "a.tgz", into, below))
    refused(zipped(tmp_path / "a.zip", link("way", "scenes"), ("way/up.tif", b"evil")))


@pytest.mark.parametrize("leads", ["gone.tif", "self", "folder"])
def test_a_link_to_no_file_is_refused(tmp_path: Path, leads: str) -> None:
    archive = zipped(tmp_path / "a.zip", link("self", leads), ("folder/red.tif", b"red"))
    assert "its member 'self' is a link to no file of the archive" in refused(archive)


@given(st.lists(st.text(st.sampled_from("./\\:aC~\0é "), min_size=1, max_size=8), max_size=4))
def test_no_name_whatever_writes_outside(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with tarfile.open(root / "a.tar", "w") as opened:
            for name in names:
                add(opened, name, b"x")
        into = root / "deep" / "data"
        try:
            unpack(root / "a.tar", into)
        except DataError:
            assert not into.exists()
        inside = files_below(into) if into.exists() else []
        assert set(files_below(root)) == {root / "a.tar", *inside}


# ---- what is no file, or not what it says


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tarred(tmp_path / "a.tgz", {"name": "dev", "type": kind})
    assert refused(archive).startswith("its member 'dev' is a device, not a file")


def test_a_fifo_in_a_zip_is_refused(tmp_path: Path) -> None:
    member, _ = link("pipe", "")
    member.external_attr = 0o010644 << 16
    assert "is a device, not a file" in refused(zipped(tmp_path / "a.zip", (member, b"")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["red.tif", "./red.tif", "a/./red.tif"])
def test_a_name_that_comes_twice_is_refused(tmp_path: Path, again: str) -> None:
    first = "a/red.tif" if again.startswith("a/") else "red.tif"
    told = f"its member '{again}' comes twice"
    assert refused(zipped(tmp_path / "a.zip", (first, b"1"), (again, b"2"))).startswith(told)
    two = {"name": first, "body": b"1"}, {"name": again, "body": b"2"}
    assert refused(tarred(tmp_path / "a.tgz", *two)).startswith(told)


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("red.tif", b"1"), ("red.tif/up.tif", b"2"))
    assert "'red.tif/up.tif' is both a file and a folder" in refused(archive)


def test_a_file_that_is_larger_than_it_says_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"nir.tif": bytes(5_000_000)})
    raw = bytearray(archive.read_bytes())
    for signature, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", raw, raw.index(signature) + place, 1000)
    archive.write_bytes(raw)
    assert "is not a whole archive (" in refused(archive)


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_a_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # 20 MB of zeros in a few kilobytes, and room for ten of them.
    archive = pack(tmp_path / f"bomb{kind}", {"nir.tif": bytes(20_000_000)})
    assert archive.stat().st_size < 30_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10_000_000))
    assert "0.02 GB, and 0.01 GB are free" in refused(archive)


def test_a_bomb_of_many_members_is_refused_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(
        tmp_path / "bomb.zip", {f"{number}.tif": bytes(4_000_000) for number in range(5)}
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10_000_000))
    assert refused(archive).startswith("unpacks to 0.02 GB, and 0.01 GB are free")


# ---- what is damaged


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_archive_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    archive = pack(tmp_path / f"a{kind}", FILES)
    size = archive.stat().st_size
    os.truncate(archive, int(size * share) + 5)
    assert refused(archive).startswith("is not a whole archive (")
    with pytest.raises(DataError, match="is not a whole archive"):
        content(archive)


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_flipped_bit_is_told_or_harmless(tmp_path: Path, kind: str) -> None:
    archive = pack(tmp_path / f"a{kind}", FILES)
    body, found = archive.read_bytes(), 0
    for place in range(7, len(body), len(body) // 25):
        damaged = bytearray(body)
        damaged[place] ^= 0x10
        archive.write_bytes(damaged)
        try:
            unpack(archive, tmp_path / "out")
        except DataError as told:
            found += 1
            assert "\n" not in str(told) and not (tmp_path / "out").exists()
        else:
            found += {p.read_bytes() for p in files_below(tmp_path / "out")} != set(FILES.values())
    assert found >= 20, "most of an archive is its content"


def test_zstd_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert refused(tmp_path / "a.tar.zst").startswith("is compressed by zstd")


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("red.tif", b"red"))
    raw = bytearray(archive.read_bytes())
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        raw[raw.index(signature) + place] |= 1
    archive.write_bytes(raw)
    assert "is encrypted" in refused(archive)


def test_a_full_disk_is_no_fault_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "a.zip", FILES)
    real: Callable[..., object] = Path.open

    def full(path: Path, mode: str = "r", *rest: object) -> object:
        if mode == "xb":
            raise OSError(28, "No space left on device")
        return real(path, mode, *rest)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
