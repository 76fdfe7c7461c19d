"""Pictures in a zip, one folder a class: read without unpacking it into many small files."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.errors import RasterioError

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.published import Published
from swath.data.scene import Pixels
from swath.errors import DataError
from swath.files import DAMAGED_ZIP
from swath.registry import registered


@registered("layout")
def class_folders(
    folder: Path,
    card: Card,
    *,
    archive: str,
    georeference: str | None = None,
) -> Source:
    """A zip with `…/<class>/<name>.jpg|png|tif`, and a table of the patches' places.

    Args:
        folder: the dataset's folder.
        card: its card; the number of patches of each class must be as published.
        archive: name of the zip.
        georeference: name of a CSV (`.gz`) with columns path, utm_epsg, ul_easting, ul_northing.
            Without it, GeoTIFFs tell their places themselves, and other pictures have none.

    Raises:
        DataError: the archive is broken, a class has another number of patches than published, or
            a patch has no place.
    """
    path = folder / archive
    try:
        with zipfile.ZipFile(path) as opened:
            members = [m.filename for m in opened.infolist() if not m.is_dir()]
    except (zipfile.BadZipFile, OSError) as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="fetch it again") from None
    images = _images(path, members, card)
    side = _decode(path, images["member"].iloc[0]).shape[0]

    def read(rows: pd.DataFrame) -> tuple[list[Pixels], NDArray[np.uint8]]:
        shape = (side, side, len(card.bands))
        with zipfile.ZipFile(path) as opened:
            decoded = [_checked(opened, path, name, shape) for name in rows["member"]]
        return [np.stack(decoded).transpose(0, 3, 1, 2)], rows["label"].to_numpy(np.uint8)

    def opened_set(name: str) -> Published:
        gsd = card.bands[0].gsd_m
        if georeference:
            places = _places(folder / georeference, images, side * gsd)
        elif images["member"].iloc[0].endswith(".tif"):
            places = _own_places(path, images, side)
        else:
            places = _nowhere(images, side * gsd)
        return Published(
            name=name,
            places=places,
            bands=tuple(band.name for band in card.bands),
            factors=((tuple(band.name for band in card.bands), 1),),
            size_px=side,
            gsd_m=gsd,
            dtype=str(_decode(path, images["member"].iloc[0]).dtype),
            files=tuple(folder / n for n in (archive, georeference) if n),
            read=read,
        )

    return Source((card.name,), opened_set)


def _images(path: Path, members: list[str], card: Card) -> pd.DataFrame:
    """The pictures of the card's classes, in the order of classes and numbers."""
    classes = tuple(card.classes)
    images = pd.DataFrame({"member": [m for m in members if _class_of(m) in card.classes]})
    if images.empty:
        raise DataError("holds no image of a class of the card", where=path, mend="mend the card")
    images["name"] = images["member"].map(lambda m: "/".join(m.split("/")[-2:]))
    images["label"] = images["member"].map(lambda m: classes.index(_class_of(m)))
    for name, count in card.counts.items():
        if (found := int((images["label"] == classes.index(name)).sum())) != count:
            raise DataError(
                f"holds {found} patches of {name}, published are {count}",
                where=path,
                mend="fetch it again",
            )
    number = images["name"].str.extract(r"(\d+)\.\w+$", expand=False)
    images["number"] = pd.to_numeric(number).fillna(np.inf)  # names without one come last
    return images.sort_values(["label", "number", "name"], ignore_index=True).drop(columns="number")


def _class_of(member: str) -> str:
    parts = member.split("/")
    return parts[-2] if len(parts) > 1 and re.search(r"\.(jpe?g|png|tif)$", parts[-1]) else ""


def _places(georeference: Path, images: pd.DataFrame, side_m: float) -> pd.DataFrame:
    try:
        opener = gzip.open if georeference.suffix == ".gz" else open
        with opener(georeference, "rt") as file:
            known = pd.read_csv(file).set_index("path")
    except (OSError, ValueError, EOFError) as broken:
        raise DataError(
            f"cannot be read ({broken})", where=georeference, mend="fetch it again"
        ) from None
    absent = images["name"][~images["name"].isin(known.index)]
    if len(absent):
        raise DataError(
            f"has no place for {len(absent)} patches, the first is {absent.iloc[0]}",
            where=georeference,
            mend="fetch it again",
        )
    known = known.loc[images["name"]]
    west = known["ul_easting"].to_numpy(float)
    north = known["ul_northing"].to_numpy(float)
    epsg = known["utm_epsg"].to_numpy(int)
    return _at(images, west, north, epsg, side_m, side_m)


def _own_places(path: Path, images: pd.DataFrame, side: int) -> pd.DataFrame:
    """Places as the GeoTIFFs of the archive tell them."""
    with zipfile.ZipFile(path) as opened:
        rows = [_own_place(opened, member, side) for member in images["member"]]
    west, north, epsg, wide, tall = (np.array(column) for column in zip(*rows, strict=True))
    return _at(images, west, north, epsg.astype(int), wide, tall)


def _own_place(
    opened: zipfile.ZipFile, member: str, side: int
) -> tuple[float, float, int, float, float]:
    """West, north, EPSG code, width and height of a GeoTIFF in an archive."""
    try:
        with rasterio.MemoryFile(opened.read(member)) as memory, memory.open() as file:
            epsg, at = file.crs.to_epsg() if file.crs else None, file.transform
    except (RasterioError, *DAMAGED_ZIP) as broken:
        raise DataError(
            f"cannot be decoded ({broken})", where=member, mend="fetch it again"
        ) from None
    if epsg is None:
        raise DataError("has no CRS", where=member, mend="fetch it again")
    return at.c, at.f, epsg, at.a * side, -at.e * side


def _nowhere(images: pd.DataFrame, side_m: float) -> pd.DataFrame:
    """Patches without a georeference: places are NaN, and no spatial split will take them."""
    return _at(images, np.nan, np.nan, 0, side_m, side_m)


def _at(
    images: pd.DataFrame, west: Any, north: Any, epsg: Any, wide: Any, tall: Any
) -> pd.DataFrame:
    return images.assign(
        scene="unknown acquisition",
        row=0,
        col=0,
        west=west,
        south=north - tall,
        east=west + wide,
        north=north,
        epsg=epsg,
        time=pd.NaT,
    )


def _checked(
    opened: zipfile.ZipFile, path: Path, member: str, shape: tuple[int, int, int]
) -> NDArray[np.generic]:
    pixels = _image(opened, member)
    if pixels.shape != shape:
        raise DataError(f"is {pixels.shape}, not {shape}", where=member, mend="fetch it again")
    return pixels


def _decode(path: Path, member: str) -> NDArray[np.generic]:
    with zipfile.ZipFile(path) as opened:
        return _image(opened, member)


def _image(opened: zipfile.ZipFile, member: str) -> NDArray[np.generic]:
    """The pixels (y, x, band) of an image in an archive."""
    try:
        raw = opened.read(member)
        if member.endswith(".tif"):
            with rasterio.MemoryFile(raw) as memory, memory.open() as file:
                bands: NDArray[np.generic] = file.read()
                return bands.transpose(1, 2, 0)
        with Image.open(io.BytesIO(raw)) as image:
            return np.asarray(image)
    except (UnidentifiedImageError, SyntaxError, RasterioError, *DAMAGED_ZIP) as broken:
        raise DataError(
            f"cannot be decoded ({broken})", where=member, mend="fetch it again"
        ) from None
