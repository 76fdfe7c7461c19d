"""BigEarthNet: a folder a patch, with a GeoTIFF a band and a JSON file of labels and place.

Patches are grouped by acquisition, so that a job opens the files of its own patches alone. Version
2's table (`metadata.parquet`) gives corrected labels and says which Sentinel-1 patch shows the
ground of which Sentinel-2 patch.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.published import Published
from swath.data.scene import Pixels, raster_facts
from swath.errors import DataError, nearest
from swath.registry import registered

log = logging.getLogger(__name__)

SIDE_M = 1200.0
"""Side of a patch."""
RADAR = ("VV", "VH")
"""Bands of Sentinel-1; all others are Sentinel-2's."""

# From the 43 classes of CORINE land cover to the 19 of Sumbul et al., BigEarthNet-MM, IEEE GRSM 9
# (3), 2021 (doi:10.1109/MGRS.2021.3089174), table 2: what is not listed keeps its name, and None
# has no counterpart.
MERGED: dict[str, str | None] = {
    "Continuous urban fabric": "Urban fabric",
    "Discontinuous urban fabric": "Urban fabric",
    "Road and rail networks and associated land": None,
    "Port areas": None,
    "Airports": None,
    "Mineral extraction sites": None,
    "Dump sites": None,
    "Construction sites": None,
    "Green urban areas": None,
    "Sport and leisure facilities": None,
    "Non-irrigated arable land": "Arable land",
    "Permanently irrigated land": "Arable land",
    "Rice fields": "Arable land",
    "Vineyards": "Permanent crops",
    "Fruit trees and berry plantations": "Permanent crops",
    "Olive groves": "Permanent crops",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Bare rock": None,
    "Burnt areas": None,
    "Inland marshes": "Inland wetlands",
    "Peatbogs": "Inland wetlands",
    "Salt marshes": "Coastal wetlands",
    "Salines": "Coastal wetlands",
    "Intertidal flats": None,
    "Water courses": "Inland waters",
    "Water bodies": "Inland waters",
    "Coastal lagoons": "Marine waters",
    "Estuaries": "Marine waters",
    "Sea and ocean": "Marine waters",
}

# Acquisition, then column and row of the patch in its Sentinel-2 tile. Hours have one digit or two.
_NAME = re.compile(
    r"(?P<acquisition>(?P<sensor>S[12])[A-D]_\w*?_(?P<day>\d{8})T(?P<clock>\d{5,6})\w*?)"
    r"_(?P<column>\d{1,2})_(?P<row>\d{1,2})"
)
_THREADS = 8  # small files: most of the time is waiting


@registered("layout")
def bigearthnet(
    folder: Path, card: Card, *, metadata: str | None = None, flagged: bool = False
) -> Source:
    """A folder a patch, at any depth: `…/<patch>/<patch>_B02.tif`, `<patch>_labels_metadata.json`.

    The card's bands say what is read: those of Sentinel-2, VV and VH of Sentinel-1, or both, then
    as patches of the Sentinel-2 names. Its classes may be the 43 of CORINE or the 19 of
    BigEarthNet-MM; a patch that has none of them is left out. A patch that lies in two folders
    counts once.

    Args:
        folder: the dataset's folder.
        card: its card.
        metadata: name of version 2's table. With it, labels are the table's, and patches that it
            does not list are left out. Both sensors together need it.
        flagged: whether patches are used that the table flags for seasonal snow, cloud or shadow.

    Raises:
        DataError: there is no patch, the table cannot be read or names none of them, or a label is
            no class of CORINE.
    """
    sensors = sorted({"S1" if band.name in RADAR else "S2" for band in card.bands})
    found = {sensor: _found(folder, sensor) for sensor in sensors}
    first = found[sensors[-1]]
    table = _table(folder / metadata, list(first), flagged) if metadata else None
    twins = _twins(found, table, folder) if len(sensors) == 2 else {}
    names = [
        name
        for name in first
        if (table is None or name in table.index) and (len(sensors) == 1 or name in twins)
    ]
    if not names:
        raise DataError("no patch is left to be used", where=folder, mend="mend data.layout")
    if len(names) < len(first):
        log.info("%d of %d patches are not used: not listed, flagged, or of one sensor only",
                 len(first) - len(names), len(first))  # fmt: skip
    groups = defaultdict(list)
    for name in names:
        groups[_parts(name)["acquisition"]].append(name)

    def opened(acquisition: str) -> Published:
        members = [
            {"S2": first[name], "S1": twins[name]} if twins else {sensors[0]: first[name]}
            for name in groups[acquisition]
        ]
        labels = None if table is None else table.loc[groups[acquisition], "labels"].tolist()
        places = _places(acquisition, groups[acquisition], members, labels, card)
        return _published(acquisition, places, card, folder / metadata if metadata else None)

    return Source(tuple(sorted(groups)), opened)


def _parts(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    assert match
    return match


# ---- what there is --------------------------------------------------------------------------


def _found(folder: Path, sensor: str) -> dict[str, Path]:
    """The folder of each patch of a sensor, by acquisition, row and column."""
    found: dict[str, Path] = {}
    twice = []
    for path in _patch_folders(folder):
        if not path.name.startswith(sensor):
            continue
        if path.name in found:
            twice.append(path)
        else:
            found[path.name] = path
    if not found:
        raise DataError(
            f"holds no patch of {'Sentinel-1' if sensor == 'S1' else 'Sentinel-2'}",
            where=folder, mend="fetch the data, or mend the bands of the card",
        )  # fmt: skip
    if twice:
        log.warning("%d patches lie in two folders and count once, the first is %s",
                    len(twice), twice[0])  # fmt: skip

    def order(name: str) -> tuple[str, int, int]:
        part = _parts(name)
        return part["acquisition"], int(part["row"]), int(part["column"])

    return {name: found[name] for name in sorted(found, key=order)}


def _patch_folders(folder: Path) -> Iterator[Path]:
    """Folders that are named as patches are, by listing alone; nothing in them is opened."""
    with os.scandir(folder) as listed:
        entries = sorted(e.name for e in listed if e.is_dir())
    for name in entries:
        if _NAME.fullmatch(name):
            yield folder / name
        else:
            yield from _patch_folders(folder / name)


def _table(path: Path, names: list[str], flagged: bool) -> pd.DataFrame:
    """Version 2's table of these patches, by whichever of their names it has."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="fetch it again") from None
    lacking = {"labels", "s1_name"} - set(table)
    if lacking:
        raise DataError(f"has no column {min(lacking)}", where=path, mend="fetch it again")
    for key in ("s2v1_name", "patch_id", "s1_name"):
        if key in table and (listed := table[key].isin(names)).any():
            break
    else:
        raise DataError("lists none of the patches", where=path, mend="mend data.layout.metadata")
    table = table[listed]
    flags = [flag for flag in table if str(flag).startswith("contains_")]
    if not flagged and flags:
        table = table[~table[flags].any(axis=1)]
    return table.assign(name=table[key]).drop_duplicates("name").set_index("name")


def _twins(
    found: dict[str, dict[str, Path]], table: pd.DataFrame | None, folder: Path
) -> dict[str, Path]:
    """The Sentinel-1 folder of each Sentinel-2 patch that has one."""
    if table is None:
        raise DataError(
            "which patch of Sentinel-1 belongs to which of Sentinel-2 is not known",
            where=folder, mend="name version 2's table as data.layout.metadata",
        )  # fmt: skip
    pairs = zip(table.index, table["s1_name"], strict=True)
    return {str(s2): found["S1"][s1] for s2, s1 in pairs if s1 in found["S1"]}


# ---- places and labels ----------------------------------------------------------------------


def _places(
    acquisition: str,
    names: list[str],
    members: list[dict[str, Path]],
    labels: Sequence[Any] | None,
    card: Card,
) -> pd.DataFrame:
    """Places and labels of the patches of an acquisition; what has no class is left out."""

    def row(number: int) -> dict[str, Any] | DataError:
        own = None if labels is None else list(labels[number])
        try:
            return _row(names[number], members[number], own, card)
        except DataError as broken:
            return broken

    with ThreadPoolExecutor(_THREADS) as threads:
        rows = list(threads.map(row, range(len(names))))
    broken = [error for error in rows if isinstance(error, DataError)]
    for error in broken:
        log.warning("a patch is left out: %s", error)
    good = [row for row in rows if isinstance(row, dict)]
    if broken and not good:
        raise broken[0]
    kept = [row for row in good if row["classes"]]
    if len(kept) < len(good):
        log.info("%s: %d patches have no class of the card", acquisition, len(good) - len(kept))
    if not kept:
        raise DataError(
            "no patch has a class of the card",
            where=acquisition,
            mend="take another set of classes",
        )
    return pd.DataFrame(kept).assign(scene=acquisition)


def _row(
    name: str, folders: dict[str, Path], labels: list[str] | None, card: Card
) -> dict[str, Any]:
    folder = folders.get("S2") or folders["S1"]
    for of in folders.values():
        present = set(os.listdir(of))
        for band in card.bands:
            if (band.name in RADAR) == of.name.startswith("S1") and (
                absent := f"{of.name}_{band.name}.tif"
            ) not in present:
                raise DataError(f"has no {absent}", where=of, mend="fetch it again")
    path = folder / f"{name}_labels_metadata.json"
    said = _said(path) if path.is_file() else {}
    if labels is None:
        if "labels" not in said:
            raise DataError("has no labels", where=folder, mend="fetch it again")
        labels = said["labels"]
    west, north, epsg = _corner(said, path) if said else _own_corner(folder, name, card)
    part = _parts(name)
    finest = min(band.gsd_m for band in card.bands)
    side = round(SIDE_M / finest)
    return {
        "name": name,
        "row": int(part["row"]) * side,
        "col": int(part["column"]) * side,
        "west": west,
        "south": north - SIDE_M,
        "east": west + SIDE_M,
        "north": north,
        "epsg": epsg,
        "time": _time(part, said),
        "classes": tuple(sorted(_numbers(labels, list(card.classes), path))),
        "S1": folders.get("S1"),
        "S2": folders.get("S2"),
    }


def _said(path: Path) -> dict[str, Any]:
    """What the JSON file of a patch says."""
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError) as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="fetch it again") from None
    if not isinstance(said, dict) or not isinstance(said.get("labels", []), list):
        raise DataError("is not what BigEarthNet publishes", where=path, mend="fetch it again")
    return said


def _corner(said: dict[str, Any], path: Path) -> tuple[float, float, int]:
    """Upper-left corner (m) and CRS as the JSON file says."""
    try:
        corner = said["coordinates"]
        west, north = float(corner["ulx"]), float(corner["uly"])
        epsg = _epsg(said["projection"])
    except (KeyError, TypeError, ValueError, CRSError):
        raise DataError("does not say where it lies", where=path, mend="fetch it again") from None
    return west, north, epsg


@functools.lru_cache(maxsize=256)
def _epsg(wkt: str) -> int:
    code = CRS.from_wkt(wkt).to_epsg()
    if code is None:
        raise ValueError(wkt)
    return int(code)


def _own_corner(folder: Path, name: str, card: Card) -> tuple[float, float, int]:
    """Upper-left corner (m) and CRS as the first band says; version 2 has no JSON files."""
    band = next(b.name for b in card.bands if (b.name in RADAR) == name.startswith("S1"))
    grid = raster_facts(folder / f"{name}_{band}.tif").grid
    return grid.west, grid.north, grid.epsg


def _time(part: re.Match[str], said: dict[str, Any]) -> datetime:
    """Acquisition time, UTC; by the name where it is not said, whose seconds may exceed 59."""
    told = said.get("acquisition_date") or said.get("acquisition_time")
    if told:
        return datetime.fromisoformat(told)
    clock = part["clock"].zfill(6)
    since = timedelta(hours=int(clock[:2]), minutes=int(clock[2:4]), seconds=int(clock[4:]))
    return datetime.strptime(part["day"], "%Y%m%d") + since


def _numbers(labels: list[str], classes: list[str], path: Path) -> set[int]:
    """Class numbers of published labels; those without a counterpart in the card have none."""
    found = set()
    for label in labels:
        name = label if label in classes else MERGED.get(label, "")
        if name in classes:
            found.add(classes.index(name))
        elif name is not None:
            raise DataError(
                f"has the label '{label}'", where=path,
                mend=f"mend the classes of the card; {nearest(label, classes)}",
            )  # fmt: skip
    return found


# ---- pixels ---------------------------------------------------------------------------------


def _published(
    acquisition: str, places: pd.DataFrame, card: Card, metadata: Path | None
) -> Published:
    finest = min(band.gsd_m for band in card.bands)
    side = round(SIDE_M / finest)
    by_factor: dict[int, list[str]] = defaultdict(list)
    for band in card.bands:
        by_factor[round(band.gsd_m / finest)].append(band.name)
    factors = tuple((tuple(bands), factor) for factor, bands in sorted(by_factor.items()))
    dtype = "float32" if any(band.name in RADAR for band in card.bands) else "uint16"
    missing = np.nan if dtype == "float32" else card.nodata
    several = np.zeros((len(places), len(card.classes)), np.uint8)
    for number, classes in enumerate(places["classes"]):
        several[number, list(classes)] = 1
    places = places.assign(number=np.arange(len(places)))

    def read(rows: pd.DataFrame) -> tuple[list[Pixels], NDArray[np.uint8]]:
        images: list[Pixels] = [
            np.empty((len(rows), len(bands), side // factor, side // factor), dtype)
            for bands, factor in factors
        ]

        def fill(at: int) -> None:
            try:
                for image, (bands, _) in zip(images, factors, strict=True):
                    for number, band in enumerate(bands):
                        image[at, number] = _pixels(_file(rows.iloc[at], band), image.shape[2])
            except DataError as broken:
                if missing is None:
                    raise
                # As no data, the patch is left out and counted, and the others are kept.
                log.warning("a patch is left out: %s", broken)
                for image in images:
                    image[at] = missing

        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(fill, range(len(rows))))
        return images, several[rows["number"].to_numpy()]

    files = [_file(row, band.name) for _, row in places.iterrows() for band in card.bands]
    told = [
        path
        for name, folder in zip(places["name"], places["S2"].fillna(places["S1"]), strict=True)
        if (path := folder / f"{name}_labels_metadata.json").is_file()
    ]
    return Published(
        name=acquisition,
        places=places,
        bands=tuple(band.name for band in card.bands),
        factors=factors,
        size_px=side,
        gsd_m=finest,
        dtype=dtype,
        files=(*files, *told, *([metadata] if metadata else [])),
        read=read,
    )


def _file(row: pd.Series, band: str) -> Path:
    folder: Path = row["S1"] if band in RADAR else row["S2"]
    return folder / f"{folder.name}_{band}.tif"


def _pixels(path: Path, side: int) -> Pixels:
    try:
        pixels = _quickly(path)
        if pixels is None:
            with rasterio.open(path) as file:
                pixels = file.read(1)
    except (RasterioError, OSError) as broken:
        raise DataError(
            f"cannot be read ({str(broken).splitlines()[0]})", where=path, mend="fetch it again"
        ) from None
    if pixels.shape != (side, side):
        raise DataError(
            f"has {pixels.shape[0]} x {pixels.shape[1]} px, not {side} x {side}",
            where=path, mend="fetch it again",
        )  # fmt: skip
    return pixels


def _quickly(path: Path) -> Pixels | None:
    """The only band of a small GeoTIFF, in a third of GDAL's time; None where Pillow fails."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        return None
    return pixels if pixels.dtype in (np.uint16, np.float32) else None
