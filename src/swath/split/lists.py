"""Published lists of which patch is in which part, in the forms in which they are published."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pandas as pd

from swath.errors import DataError, nearest
from swath.files import DAMAGED_ZIP

Lists = dict[str, list[str]]
"""The word by which a file calls a part -> the names of its patches."""


def read_lists(path: Path, *, column: str, names: str) -> Lists:
    """All lists of one file.

    Args:
        path: a zip with a list a part (`train.csv`, `val.csv.bz2`); JSON `{part: [name, ...]}`,
            where an entry may be `[name, ...]`; or a table (CSV, Parquet) with a row a patch and a
            column of parts. CSV and JSON may be compressed (.gz, .bz2).
        column: of a table, the column of parts.
        names: of a table, the column of names; empty is the first one.

    Raises:
        DataError: the file is absent, damaged or of another form.
    """
    if path.suffix == ".zip":
        return _unzipped(path)
    if path.suffix == ".parquet":
        return _of_table(_parquet(path), path, column, names)
    text = _text(_bytes(path), path)
    if ".json" in path.suffixes:
        return _of_json(text, path)
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str)
    except ValueError as broken:
        raise DataError(f"is no table ({broken})", where=path, mend="fetch it again") from None
    return _of_table(table, path, column, names)


def read_list(path: Path) -> list[str]:
    """The names of one list: the first entry of each line, after a header if there is one.

    Raises:
        DataError: the file is absent or damaged.
    """
    return _lines(_text(_bytes(path), path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise DataError(
            "there is no such list", where=path, mend="add it to the files of the dataset"
        ) from None


def _text(content: bytes, where: Path) -> str:
    opened = {".gz": gzip.decompress, ".bz2": bz2.decompress}.get(where.suffix, bytes)
    try:
        return opened(content).decode("utf-8-sig")
    except (OSError, EOFError, ValueError) as broken:
        raise DataError(f"is damaged ({broken})", where=where, mend="fetch it again") from None


def _lines(text: str) -> list[str]:
    found = [line.split(",")[0].strip().strip('"') for line in text.splitlines()]
    found = [name for name in found if name]
    # No published list has a patch of such a name; lists with several columns have such a header.
    header = found and found[0].lower() in ("path", "name", "file", "filename", "patch", "patch_id")
    return found[1:] if header else found


def _unzipped(path: Path) -> Lists:
    content = _bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [PurePosixPath(m.filename) for m in archive.infolist() if not m.is_dir()]
            lists = [m for m in members if {".csv", ".txt"} & set(m.suffixes)]
            return {
                m.name.partition(".")[0]: _lines(_text(archive.read(str(m)), path / m))
                for m in lists
            }
    except DAMAGED_ZIP as broken:
        raise DataError(
            f"is not a whole zip archive ({broken})", where=path, mend="fetch it again"
        ) from None


def _of_json(text: str, path: Path) -> Lists:
    try:
        found = json.loads(text)
        return {
            str(part): [str(entry[0] if isinstance(entry, list) else entry) for entry in entries]
            for part, entries in found.items()
        }
    except (ValueError, AttributeError, TypeError, IndexError):
        raise DataError(
            "is not JSON of the form {part: [name, ...]}", where=path, mend="fetch it again"
        ) from None


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(_bytes(path)))
    except (OSError, ValueError) as broken:
        raise DataError(f"is no table ({broken})", where=path, mend="fetch it again") from None


def _of_table(table: pd.DataFrame, path: Path, column: str, names: str) -> Lists:
    names = names or str(table.columns[0])
    for wanted in (column, names):
        if wanted not in table:
            mend = nearest(wanted, map(str, table.columns))
            raise DataError(f"has no column '{wanted}'", where=path, mend=mend)
    groups = table.groupby(column, sort=False)[names]
    return {str(part): group.astype(str).tolist() for part, group in groups}


# ---- names -----------------------------------------------------------------------------------


def parts_of(places: pd.DataFrame, lists: Lists, *, ending: str = "") -> pd.Series:
    """The part of each patch by its name, unused where no list has it.

    A name is found with or without its file suffix, then without its folder. A patch that was cut
    from a listed scene is found by the scene: by its name without `_<row>_<column>`.

    Args:
        places: with name, row and col.
        lists: part -> names.
        ending: what the lists add to every name, as `_S1Hand.tif`.

    Raises:
        DataError: a name is in two lists, or no patch is in any.
    """
    listed = pd.Series(
        {
            _plain(name.removesuffix(ending) if ending else name): part
            for part, entries in lists.items()
            for name in entries
        },
        dtype=object,
    )
    count = sum(len(set(entries)) for entries in lists.values())
    if len(listed) < count:
        _refuse_twice(lists)
    names = places["name"].astype(str)
    scenes = pd.Series(
        [
            name.removesuffix(f"_{row}_{column}")
            for name, row, column in zip(names, places["row"], places["col"], strict=True)
        ],
        index=places.index,
    )
    found = pd.Series(None, index=places.index, dtype=object)
    for key, known in _keys(names.map(_plain), scenes.map(_plain), listed):
        found = found.where(found.notna(), key.map(known))
    if not found.notna().any():
        example = next((name for entries in lists.values() for name in entries), "nothing")
        raise DataError(
            f"no patch is listed: the lists name {example}, the patches are called {names.iloc[0]}",
            mend="see names and ending of the scheme `official`",
        )
    return found.where(found.notna(), "unused")


def _keys(
    names: pd.Series, scenes: pd.Series, listed: pd.Series
) -> Iterable[tuple[pd.Series, pd.Series]]:
    """Names to look up, and what they are looked up in, the surest first."""
    yield names, listed
    yield scenes, listed
    # Without folders, and only where that is one name among the lists and among the patches.
    short = listed.groupby(listed.index.map(_stem)).agg(["size", "first"])
    short = short.loc[short["size"] == 1, "first"]
    for whole in (names, scenes):
        stems = whole.map(_stem)
        yield stems.where(whole.groupby(stems).transform("nunique") == 1), short


def _plain(name: str) -> str:
    """A name without the suffix of an image file."""
    stem, _, suffix = name.rpartition(".")
    known = ("jpg", "jpeg", "png", "tif", "tiff", "npy", "zarr", "nc")
    return stem if suffix.lower() in known else name


def _stem(name: str) -> str:
    return name.rpartition("/")[2]


def _refuse_twice(lists: Lists) -> None:
    seen: dict[str, str] = {}
    for part, entries in lists.items():
        for name in entries:
            if seen.setdefault(_plain(name), part) != part:
                raise DataError(
                    f"{name} is listed in {seen[_plain(name)]} and in {part}",
                    mend="correct the list: a patch has one part",
                )
