"""Files are whole or absent, and what was damaged is named in one line."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from swath.errors import DataError
from swath.files import (
    content_digest,
    digest,
    files_below,
    read_json,
    read_manifest,
    whole,
    write_json,
    write_manifest,
    write_text,
)

MEMBERS = {
    "Tiny/b.txt": b"water " * 40,
    "Tiny/a.bin": bytes(range(256)),
    "Tiny/deep/c.txt": b"forest\n",
}


def pack(
    path: Path,
    members: dict[str, bytes],
    compression: int = zipfile.ZIP_DEFLATED,
    year: int = 2020,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(zipfile.ZipInfo(name, (year, 1, 2, 3, 4, 6)), content, compression)
    return path


# ---- atomic writing


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), whole(target) as part:
        part.write_bytes(b"half of the n")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_file_that_fails_is_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyError), whole(tmp_path / "new" / "map.tif") as part:
        part.write_bytes(b"half")
        raise KeyError
    assert files_below(tmp_path) == []


def test_the_temporary_file_lies_beside_with_the_suffix_and_takes_the_place(
    tmp_path: Path,
) -> None:
    target = tmp_path / "map.tif"
    target.write_bytes(b"old")
    with whole(target) as part:
        assert part.parent == tmp_path and part.suffix == ".tif" and part != target
        part.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    target.write_text("old")
    killed = (
        "import os, sys; from pathlib import Path; from swath.files import whole\n"
        "with whole(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(target)], check=False)
    assert done.returncode == 9
    assert target.read_text() == "old"


def test_json_comes_back_and_what_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"seed": 3, "lr": 1e-3, "title": "α"})
    assert read_json(path) == {"seed": 3, "lr": 1e-3, "title": "α"}
    path.write_text('{"seed": ')
    with pytest.raises(DataError, match=r"run\.json: is not JSON .*run its stage again$"):
        read_json(path)
    with pytest.raises(DataError, match=r"absent\.json: there is no such file"):
        read_json(tmp_path / "absent.json")


# ---- manifests


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A manifest of two files."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.bin").write_bytes(b"0123456789")
    (tmp_path / "deep" / "b.bin").write_bytes(b"abc")
    write_manifest(tmp_path / "manifest.json", files_below(tmp_path), dataset="tiny")
    return tmp_path / "manifest.json"


def test_a_manifest_lists_size_digest_and_facts(listed: Path) -> None:
    found = read_manifest(listed)
    assert found["dataset"] == "tiny"
    assert found["files"] == {
        "a.bin": {"size": 10, "sha256": hashlib.sha256(b"0123456789").hexdigest()},
        "deep/b.bin": {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()},
    }


def test_the_version_follows_names_and_contents_alone(listed: Path) -> None:
    folder = listed.parent
    files = [folder / "deep" / "b.bin", folder / "a.bin"]
    version = read_manifest(listed)["version"]
    assert write_manifest(listed, files, dataset="other")["version"] == version
    (folder / "a.bin").write_bytes(b"0123456780")
    changed = write_manifest(listed, files)["version"]
    (folder / "a.bin").rename(folder / "c.bin")
    renamed = write_manifest(listed, [folder / "c.bin", files[0]])["version"]
    assert len({version, changed, renamed}) == 3


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "is listed in manifest.json and absent"),
        (b"01234", "has 5 bytes, not 10"),
        (b"0123456788", "was changed after it was written"),
    ],
    ids=["absent", "cut off", "one bit flipped"],
)
def test_a_manifest_finds_a_damaged_file(
    listed: Path, content: bytes | None, complaint: str
) -> None:
    file = listed.parent / "a.bin"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_manifest(listed)
    mend = f"delete {listed} and run its stage again"
    assert str(refused.value) == f"{file}: {complaint}; {mend}"
    assert "\n" not in str(refused.value)


# ---- the content of archives


def test_a_content_digest_is_the_published_formula(tmp_path: Path) -> None:
    lines = sorted(hashlib.sha256(content).hexdigest() for content in MEMBERS.values())
    expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    assert content_digest(pack(tmp_path / "a.zip", MEMBERS)) == expected


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def test_a_repacked_archive_has_the_same_content(tmp_path: Path, compression: int) -> None:
    first = pack(tmp_path / "a.zip", MEMBERS)
    turned = dict(reversed(MEMBERS.items()))
    second = pack(tmp_path / "b.zip", {"Tiny/": b""} | turned, compression, year=1999)
    assert digest(first) != digest(second)
    assert content_digest(first) == content_digest(second)


def test_one_other_byte_or_file_is_another_content(tmp_path: Path) -> None:
    changed = MEMBERS | {"Tiny/a.bin": bytes(range(255)) + b"\0"}
    more = MEMBERS | {"Tiny/d.txt": b""}
    fewer = {name: MEMBERS[name] for name in list(MEMBERS)[:2]}
    found = {
        content_digest(pack(tmp_path / f"{number}.zip", members))
        for number, members in enumerate((MEMBERS, changed, more, fewer))
    }
    assert len(found) == 4


def test_an_archive_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    complete = pack(tmp_path / "a.zip", MEMBERS).read_bytes()
    cut = tmp_path / "cut.zip"
    for size in range(0, len(complete), 7):
        cut.write_bytes(complete[:size])
        with pytest.raises(DataError, match=r"cut\.zip: is not a whole zip archive .*again$"):
            content_digest(cut)


def test_an_archive_with_any_byte_damaged_is_refused_in_one_line_or_unharmed(
    tmp_path: Path,
) -> None:
    complete = pack(tmp_path / "a.zip", MEMBERS).read_bytes()
    truth = content_digest(tmp_path / "a.zip")
    damaged = tmp_path / "damaged.zip"
    surprises, unharmed, refused = {}, 0, 0
    for at in range(len(complete)):
        damaged.write_bytes(complete[:at] + bytes([complete[at] ^ 0xFF]) + complete[at + 1 :])
        try:
            unharmed += content_digest(damaged) == truth
        except DataError:
            refused += 1
        except Exception as surprise:
            surprises.setdefault(type(surprise).__name__, at)
    # Names and times may change, since the content does not know them; the data may not.
    assert not surprises, f"not told as a DataError, with the first byte of each: {surprises}"
    assert refused > 200 and unharmed > 50


def test_writing_text_makes_the_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "ü")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "ü".encode()
