"""Readers, one for each way in which a dataset lies on the disk.

A layout gives a `Source`: which patches there can be (`table`), and their pixels in large blocks
(`blocks`). A new dataset in a known layout needs no code; a new layout is one function here.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio.enums import Resampling
from rasterio.windows import Window

from swath import registry
from swath.data.card import UNLABELLED, Card
from swath.data.grid import window_corners
from swath.errors import DataError
from swath.files import DAMAGED_ZIP
from swath.registry import registered

Block = tuple[NDArray[np.int64], NDArray[np.generic], NDArray[np.uint8]]


class Source(Protocol):
    """What the cutting of patches asks of a dataset on disk."""

    scenes: list[str]
    gsd_m: float
    dtype: str
    native_px: int | None
    """Side of patches that come as published; None for whole scenes."""

    def table(self, size_px: int | None, stride_px: int | None) -> pd.DataFrame:
        """Every possible patch: scene, row, col, easting, northing, epsg, time, name [, label]."""

    def blocks(self, table: pd.DataFrame, size_px: int) -> Iterator[Block]:
        """The table's rows, images (patch, band, y, x) and labels, block by block in order."""


def open_source(card: Card, folder: Path) -> Source:
    """The dataset of a card as its layout reads it from `folder`."""
    settings = {k: v for k, v in card.layout.items() if k != "name"}
    source: Source = registry.load("layout", card.layout["name"])(folder, card, **settings)
    return source


# ---- whole scenes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """One georeferenced acquisition: images of one or several GSDs, labels, a mask."""

    name: str
    images: tuple[Path, ...]
    labels: Path | None
    mask: Path | None
    bands: tuple[str, ...]
    """Names of the bands in the order in which they are read."""
    height_px: int
    width_px: int
    gsd_m: float
    """Of the finest image; all are read on its grid."""
    west: float
    north: float
    """Map coordinates of the upper-left corner, m."""
    epsg: int
    time: datetime | None
    resampling: str
    """How coarser bands are brought to the finest grid."""

    def read(self, row: int, col: int, height: int, width: int) -> NDArray[np.generic]:
        """The image (band, y, x) of a window on the finest grid."""
        found: dict[str, NDArray[np.generic]] = {}
        for path in self.images:
            with rasterio.open(path) as file:
                factor = self.gsd_m / file.res[0]
                window = Window(col * factor, row * factor, width * factor, height * factor)
                pixels = file.read(
                    window=window,
                    out_shape=(file.count, height, width),
                    resampling=Resampling[self.resampling],
                )
                found.update(zip(file.descriptions, pixels, strict=True))
        return np.stack([found[band] for band in self.bands])

    def read_labels(self, row: int, col: int, height: int, width: int) -> NDArray[np.uint8]:
        """The labels (y, x) of a window, `UNLABELLED` under clouds and outside the swath."""
        if self.labels is None:
            return np.full((height, width), UNLABELLED, np.uint8)
        window = Window(col, row, width, height)
        with rasterio.open(self.labels) as file:
            labels: NDArray[np.uint8] = file.read(1, window=window)
        if self.mask is not None:
            with rasterio.open(self.mask) as file:
                labels[file.read(1, window=window) != 0] = UNLABELLED
        return labels


@dataclass(frozen=True)
class SceneFolder:
    """A folder with a folder for each scene."""

    opened: tuple[Scene, ...]
    dtype: str
    native_px: int | None = None

    @property
    def scenes(self) -> list[str]:
        """Names of the scenes."""
        return [scene.name for scene in self.opened]

    @property
    def gsd_m(self) -> float:
        """Ground sampling distance of the patches."""
        return self.opened[0].gsd_m

    def table(self, size_px: int | None, stride_px: int | None) -> pd.DataFrame:
        """Every whole window of every scene."""
        if size_px is None:
            raise DataError(
                "whole scenes have no patch size of their own",
                where="patches.size_px",
                mend="give it, e.g. patches.size_px=64",
            )
        parts = []
        for number, scene in enumerate(self.opened):
            if size_px > min(scene.height_px, scene.width_px):
                raise DataError(
                    f"{scene.height_px} x {scene.width_px} px hold no patch of {size_px} px",
                    where=scene.name,
                    mend="give a smaller patches.size_px",
                )
            corners = window_corners(scene.height_px, scene.width_px, size_px, stride_px or size_px)
            rows, columns = corners[:, 0], corners[:, 1]
            parts.append(
                pd.DataFrame(
                    {
                        "scene": number,
                        "row": rows,
                        "col": columns,
                        "easting": scene.west + columns * scene.gsd_m,
                        "northing": scene.north - rows * scene.gsd_m,
                        "epsg": scene.epsg,
                        "time": scene.time,
                        "name": [f"{scene.name}_{r}_{c}" for r, c in corners],
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def blocks(self, table: pd.DataFrame, size_px: int) -> Iterator[Block]:
        """Each row of patches of a scene is read once, as a strip over its whole width."""
        for (number, row), group in table.groupby(["scene", "row"], sort=False):
            scene = self.opened[int(number)]
            strip = scene.read(int(row), 0, size_px, scene.width_px)
            labels = scene.read_labels(int(row), 0, size_px, scene.width_px)
            cuts = [slice(c, c + size_px) for c in group["col"]]
            yield (
                group.index.to_numpy(),
                np.stack([strip[:, :, cut] for cut in cuts]),
                np.stack([labels[:, cut] for cut in cuts]),
            )


@registered("layout")
def scene_folders(
    folder: Path,
    card: Card,
    *,
    images: list[str],
    labels: str | None = None,
    mask: str | None = None,
    resampling: Literal["nearest", "bilinear", "cubic"] = "nearest",
) -> SceneFolder:
    """A folder for each scene, with GeoTIFFs found by patterns; bands by their descriptions.

    Args:
        folder: the dataset's folder.
        card: its card; every band that it lists must be found.
        images: patterns of the image files of a scene, e.g. `*_10m.tif`.
        labels: pattern of the class raster on the finest grid; 255 is unlabelled.
        mask: pattern of a raster on the finest grid that is 0 where the pixel is to be used.
        resampling: how coarser bands are brought to the finest grid.

    Raises:
        DataError: a file, a band, a CRS is missing, or the scenes differ in CRS or GSD.
    """
    found = [
        _open_scene(scene, card, images, labels, mask, resampling)
        for scene in sorted(p for p in folder.iterdir() if p.is_dir())
    ]
    if not found:
        raise DataError("holds no folder of a scene", where=folder, mend="fetch the data again")
    if len({scene.gsd_m for scene, _ in found}) > 1:
        raise DataError("scenes differ in GSD", where=folder, mend="make a dataset of each")
    return SceneFolder(tuple(scene for scene, _ in found), found[0][1])


def _open_scene(
    folder: Path,
    card: Card,
    images: list[str],
    labels: str | None,
    mask: str | None,
    resampling: str,
) -> tuple[Scene, str]:
    paths = tuple(_one(folder, pattern) for pattern in images)
    opened = [_facts(path) for path in paths]
    finest = min(opened, key=lambda facts: facts["gsd_m"])
    bands = [band for facts in opened for band in facts["bands"]]
    for band in card.bands:
        if band.name not in bands:
            raise DataError(
                f"has no band {band.name}", where=folder, mend=f"it has {', '.join(bands)}"
            )
    for path, facts in zip(paths, opened, strict=True):
        if (facts["epsg"], facts["corner"]) != (finest["epsg"], finest["corner"]):
            raise DataError(
                f"differs from {paths[opened.index(finest)].name} in CRS or corner",
                where=path,
                mend="bring both to one grid",
            )
        if any(a < b for a, b in zip(_extent_m(facts), _extent_m(finest), strict=True)):
            raise DataError(
                "ends before the finest image", where=path, mend="bring both to one grid"
            )
    for pattern in filter(None, (labels, mask)):
        path = _one(folder, pattern)
        facts = _facts(path)
        if any(facts[key] != finest[key] for key in ("epsg", "corner", "shape", "gsd_m")):
            raise DataError(
                "is not on the grid of the finest image", where=path, mend="bring both to one grid"
            )
    scene = Scene(
        name=folder.name,
        images=paths,
        labels=_one(folder, labels) if labels else None,
        mask=_one(folder, mask) if mask else None,
        bands=tuple(band.name for band in card.bands),
        height_px=finest["shape"][0],
        width_px=finest["shape"][1],
        gsd_m=finest["gsd_m"],
        west=finest["corner"][0],
        north=finest["corner"][1],
        epsg=finest["epsg"],
        time=finest["time"],
        resampling=resampling,
    )
    return scene, finest["dtype"]


def _extent_m(facts: dict[str, Any]) -> tuple[float, ...]:
    return tuple(side * facts["gsd_m"] for side in facts["shape"])


def _one(folder: Path, pattern: str) -> Path:
    matches = sorted(folder.glob(pattern))
    if len(matches) != 1:
        raise DataError(
            f"{len(matches)} files match '{pattern}', not one", where=folder, mend="mend the layout"
        )
    return matches[0]


def _facts(path: Path) -> dict[str, Any]:
    try:
        with rasterio.open(path) as file:
            if file.crs is None or file.crs.to_epsg() is None:
                raise DataError("has no CRS", where=path, mend="write one, e.g. with gdal_edit")
            stamp = file.tags().get("ACQUISITION_TIME")
            return {
                "epsg": int(file.crs.to_epsg()),
                "gsd_m": float(file.res[0]),
                "corner": (float(file.transform.c), float(file.transform.f)),
                "shape": (int(file.height), int(file.width)),
                "bands": list(file.descriptions),
                "dtype": str(file.dtypes[0]),
                "time": _utc(stamp) if stamp else None,
            }
    except rasterio.errors.RasterioIOError as broken:
        raise DataError(f"cannot be read ({broken})", where=path, mend="fetch it again") from None


def _utc(stamp: str) -> datetime:
    time = datetime.fromisoformat(stamp)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


# ---- patches as they were published ---------------------------------------------------------


@dataclass(frozen=True)
class ClassFolders:
    """A zip of images, one folder a class, read without unpacking it into many small files."""

    archive: Path
    places: pd.DataFrame
    classes: tuple[str, ...]
    bands: int
    gsd_m: float
    scenes: list[str]
    native_px: int | None
    dtype: str = "uint8"

    def table(self, size_px: int | None, stride_px: int | None) -> pd.DataFrame:
        """The published patches, in the order of classes and numbers."""
        if stride_px is not None:
            raise DataError(
                "patches are published one by one and have no stride",
                where="patches.stride_px",
                mend="take it out",
            )
        return self.places

    def blocks(self, table: pd.DataFrame, size_px: int) -> Iterator[Block]:
        """The images, decoded in their order, a thousand at a time."""
        shape = (size_px, size_px, self.bands)
        with zipfile.ZipFile(self.archive) as opened:
            for start in range(0, len(table), 1000):
                part = table.iloc[start : start + 1000]
                images = np.stack([_decode(opened, name, shape) for name in part["member"]])
                yield (
                    part.index.to_numpy(),
                    images.transpose(0, 3, 1, 2),
                    part["label"].to_numpy(np.uint8),
                )


@registered("layout")
def class_folders(
    folder: Path,
    card: Card,
    *,
    archive: str,
    georeference: str | None = None,
) -> ClassFolders:
    """A zip with `…/<class>/<name>.jpg|png|tif`, and a table of the patches' places.

    Args:
        folder: the dataset's folder.
        card: its card; the number of patches of each class must be as published.
        archive: name of the zip.
        georeference: name of a CSV (`.gz`) with columns path, utm_epsg, ul_easting, ul_northing.

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
    images = images.sort_values(["label", "number", "name"], ignore_index=True).drop(
        columns="number"
    )
    places = _places(folder / georeference, images) if georeference else _nowhere(images)
    with zipfile.ZipFile(path) as opened:
        side = _image(opened, images["member"].iloc[0]).shape[0]
    return ClassFolders(
        path, places, classes, len(card.bands), card.bands[0].gsd_m, [card.name], side
    )


def _class_of(member: str) -> str:
    parts = member.split("/")
    return parts[-2] if len(parts) > 1 and re.search(r"\.(jpe?g|png|tif)$", parts[-1]) else ""


def _places(georeference: Path, images: pd.DataFrame) -> pd.DataFrame:
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
    return images.assign(
        scene=0,
        row=0,
        col=0,
        easting=known["ul_easting"].to_numpy(float),
        northing=known["ul_northing"].to_numpy(float),
        epsg=known["utm_epsg"].to_numpy(int),
        time=pd.NaT,
    )


def _nowhere(images: pd.DataFrame) -> pd.DataFrame:
    """Patches without a georeference: places are NaN, and no spatial split will take them."""
    return images.assign(
        scene=0, row=0, col=0, easting=np.nan, northing=np.nan, epsg=0, time=pd.NaT
    )


def _decode(opened: zipfile.ZipFile, member: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    pixels = _image(opened, member)
    if pixels.shape != shape:
        raise DataError(f"is {pixels.shape}, not {shape}", where=member, mend="fetch it again")
    return pixels


def _image(opened: zipfile.ZipFile, member: str) -> NDArray[np.uint8]:
    """The pixels (y, x, band) of an image in an archive."""
    try:
        with Image.open(io.BytesIO(opened.read(member))) as image:
            return np.asarray(image)
    except (UnidentifiedImageError, SyntaxError, *DAMAGED_ZIP) as broken:
        raise DataError(
            f"cannot be decoded ({broken})", where=member, mend="fetch it again"
        ) from None
