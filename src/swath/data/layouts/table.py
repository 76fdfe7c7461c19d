"""A table of patches: a row of numbers each, in text files, as older benchmarks are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.published import Published
from swath.data.scene import Pixels
from swath.errors import DataError
from swath.registry import Count, Whole, registered


@registered("layout")
def table(
    folder: Path,
    card: Card,
    *,
    files: dict[str, str],
    side_px: Count = 1,
    order: Literal["pixel", "band"] = "pixel",
    label: int = -1,
    columns: list[Whole] | None = None,
    codes: list[int] | None = None,
    left_out: list[int | str] = [],  # noqa: B006
    header: Whole = 0,
    dtype: Literal["uint8", "uint16", "int16", "float32"] = "float32",
) -> Source:
    """Text files with a row a patch: its values and its label, apart by commas or blanks.

    A patch is called by its part and its row, from 1: `train/1`. It has no place.

    Args:
        folder: the dataset's folder.
        card: its card.
        files: part -> name of its file, as `{train: sat.trn, test: sat.tst}`.
        side_px: side of a patch.
        order: of the values of a row. `pixel` gives all bands of the upper-left pixel, then those
            of the next to the right, row by row; `band` gives all pixels of the first band first.
        label: number of the column that holds the label, from 0; -1 is the last.
        columns: numbers of the columns that hold the values, from 0, in the order of a row. Without
            it they are all others; with it there may be some that are not used.
        codes: the label of each class, in the order of the card. Without it labels are the
            classes' names, or 0, 1, 2, …; those of a target are numbers.
        left_out: labels whose rows are no patches, as of classes that the card does not have.
        header: lines before the first row.
        dtype: type of the stored values.

    Raises:
        DataError: a file cannot be read, has another number of columns, lacks a value, or has one
            that is no class or does not fit the type.
    """
    values = len(card.bands) * side_px**2
    if codes is not None and len(codes) != len(card.classes):
        raise DataError(
            f"{len(codes)} codes are given for {len(card.classes)} classes",
            where="data.layout.codes",
            mend="give one for each class of the card, in its order",
        )
    if columns is not None and len(columns) != values:
        raise DataError(
            f"{len(columns)} columns are named for {values} values of a patch",
            where="data.layout.columns",
            mend="name one for each band and pixel",
        )

    def opened(part: str) -> Published:
        path = folder / files[part]
        rows, column = _rows(path, None if columns else values + 1, label, header)
        rows = rows[~rows[column].isin(list(map(str, left_out)))].reset_index(drop=True)
        labels = _labels(rows.pop(column), path, card, codes)
        pixels = _stored(_chosen(rows, columns, path) if columns else rows, path, dtype)
        # (patch, y, x, band) or (patch, band, y, x), as the rows have it.
        image = (
            pixels.reshape(-1, side_px, side_px, len(card.bands)).transpose(0, 3, 1, 2)
            if order == "pixel"
            else pixels.reshape(-1, len(card.bands), side_px, side_px)
        )

        def read(places: pd.DataFrame) -> tuple[list[Pixels], NDArray[Any]]:
            which = places["at"].to_numpy()
            return [image[which]], labels[which]

        return Published(
            name=part,
            places=_nowhere(part, labels),
            bands=tuple(band.name for band in card.bands),
            factors=((tuple(band.name for band in card.bands), 1),),
            size_px=side_px,
            gsd_m=card.bands[0].gsd_m,
            dtype=dtype,
            files=(path,),
            read=read,
        )

    return Source(tuple(files), opened)


def _rows(path: Path, columns: int | None, label: int, header: int) -> tuple[pd.DataFrame, int]:
    """The table as it stands, of so many columns, and the number of that of the label, as text."""
    try:
        with path.open(encoding="utf-8") as file:
            first = [file.readline() for _ in range(header + 1)][-1]
        label %= columns or max(1, len(first.split("," if "," in first else None)))
        rows = pd.read_csv(
            path,
            sep="," if "," in first else r"\s+",
            header=None,
            skiprows=header,
            skipinitialspace=True,
            dtype={label: str},
        )
    except (OSError, ValueError) as broken:
        reason = str(broken).splitlines()[0]
        raise DataError(f"cannot be read ({reason})", where=path, mend="fetch it again") from None
    if columns and rows.shape[1] != columns:
        raise DataError(
            f"has {rows.shape[1]} columns, not {columns}: the patch's values and its label",
            where=path,
            mend="mend side_px and the bands of the card, or name the columns",
        )
    if rows.isna().any(axis=None):
        row = int(np.flatnonzero(rows.isna().any(axis=1))[0]) + 1
        raise DataError(f"lacks a value in row {row}", where=path, mend="fetch it again")
    return rows, label


def _chosen(rows: pd.DataFrame, columns: list[int], path: Path) -> pd.DataFrame:
    """The columns of these numbers, of those that hold no label."""
    if absent := [number for number in columns if number not in rows.columns]:
        raise DataError(
            f"has no values in column {absent[0]}", where=path, mend="mend data.layout.columns"
        )
    return rows[columns]


def _labels(column: pd.Series, path: Path, card: Card, codes: list[int] | None) -> NDArray[Any]:
    """The class number of each label, or the number that it is."""
    if card.target is not None:
        values = pd.to_numeric(column, errors="coerce").to_numpy(np.float32)
        if (wrong := ~np.isfinite(values)).any():
            row = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"has the label {column.iloc[row]} in row {row + 1}, which is no number",
                where=path, mend="mend data.layout.label, or the file",
            )  # fmt: skip
        return values
    numbers = range(len(card.classes))
    if codes is not None:
        known = {str(code): number for number, code in zip(numbers, codes, strict=True)}
    else:
        known = {str(n): n for n in numbers} | {name: n for n, name in enumerate(card.classes)}
    found = column.map(known)
    if found.isna().any():
        row = int(np.flatnonzero(found.isna())[0])
        raise DataError(
            f"has the label {column.iloc[row]} in row {row + 1}, which is no class of the card",
            where=path,
            mend="mend the classes of the card, or data.layout.codes and label",
        )
    return found.to_numpy(np.uint8)


def _stored(rows: pd.DataFrame, path: Path, dtype: str) -> Pixels:
    """The values in the type in which they are kept, unchanged."""
    try:
        values = rows.to_numpy(np.float64)
    except ValueError as broken:
        raise DataError(f"holds no numbers ({broken})", where=path, mend="mend header") from None
    with np.errstate(invalid="ignore"):
        stored: Pixels = values.astype(dtype)
    if dtype != "float32" and (stored != values).any():
        row = int(np.flatnonzero((stored != values).any(axis=1))[0]) + 1
        raise DataError(
            f"has a value in row {row} that is no {dtype}",
            where=path,
            mend="set dtype of the layout",
        )
    return stored


def _nowhere(part: str, labels: NDArray[Any]) -> pd.DataFrame:
    """Patches without a georeference: no spatial split will take them."""
    rows = np.arange(len(labels))
    return pd.DataFrame({"name": [f"{part}/{row + 1}" for row in rows], "label": labels}).assign(
        at=rows, scene=part, row=0, col=0, west=np.nan, south=np.nan, east=np.nan, north=np.nan,
        epsg=0, time=pd.NaT,
    )  # fmt: skip
