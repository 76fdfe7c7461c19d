"""A single scene by its path, for those who were given a model and no dataset's card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from swath.data.card import Card
from swath.data.layouts.safe import BANDS, safe
from swath.data.layouts.scene_folders import raster_scene
from swath.data.scene import Scene
from swath.errors import DataError

log = logging.getLogger(__name__)

RASTERS = (".tif", ".tiff", ".jp2", ".vrt", ".img")
_NATIVE_M = dict(zip(BANDS, (60, 10, 10, 10, 20, 20, 20, 10, 20, 60, 60, 20, 20), strict=True))
"""Ground sampling distance of Sentinel-2's bands. Source: ESA, Sentinel-2 Products Specification
Document, S2-PDGS-TAS-DI-PSD, issue 14.9, 2021."""


def single_scene(path: Path, bands: list[str], facts: dict[str, Any]) -> Scene:
    """The scene at `path`, with the bands that are wanted.

    Args:
        path: a raster file whose bands are named by their descriptions, or else are all that are
            wanted and in this order; a folder of raster files, whose bands are named by their
            descriptions or the names of the files; or a Sentinel-2 product, a folder `*.SAFE`.
        bands: names of the bands; of a series, `<band>@<number of the date>`.
        facts: of the data that they were learnt from: `gsd_m` and `scale`, which a SAFE folder asks
            for, where they are known.

    Raises:
        DataError: there is nothing, it lacks a band, or its CRS has no EPSG code. One that has no
            CRS at all is taken; its place is then not known.
    """
    names = list(dict.fromkeys(band.partition("@")[0] for band in bands))
    if path.suffix.upper() == ".SAFE" and path.is_dir():
        card = _card(names, facts | {"layout": {"name": "safe"}})
        return _of(safe(path.parent, card, clear=[]).open(path.stem))
    files = [path] if path.is_file() else _rasters(path)
    facts_of = [_header(file) for file in files]
    placed = all(crs for crs, _ in facts_of)
    bands_by = "auto"
    if len(files) == 1:
        # Bands that have names are never taken for others because there are as many of them.
        named = all(facts_of[0][1])
        bands_by = "description" if named else "order"
        if not named and len(facts_of[0][1]) == len(names):
            log.warning("%s names no bands: taken as %s, in this order", path, ", ".join(names))
    if not placed:
        log.warning("%s has no CRS: its map has none, and its GSD is not known", path)
    return raster_scene(path.stem, files, _card(names, facts), bands_by=bands_by, placed=placed)


def _of(piece: Any) -> Scene:
    assert isinstance(piece, Scene)
    return piece


def _rasters(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError("there is no such scene", where=folder, mend="give a raster or a folder")
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in RASTERS]
    if not found:
        raise DataError(
            f"holds no raster ({', '.join(RASTERS)})", where=folder, mend="give the scene itself"
        )
    return found


def _header(path: Path) -> tuple[bool, tuple[str | None, ...]]:
    """Whether a raster has a CRS, and the descriptions of its bands."""
    try:
        with rasterio.open(path) as file:
            return file.crs is not None, tuple(file.descriptions)
    except RasterioError:
        return True, (None,)  # opened again, it says what is wrong


def _card(bands: list[str], facts: dict[str, Any]) -> Card:
    """A card of no more than the bands."""
    gsd_m = float(facts.get("gsd_m", 10.0))
    return Card.model_validate(
        {
            "name": "scene",
            "layout": facts.get("layout", {"name": "scene_folders"}),
            "bands": [
                {"name": name, "gsd_m": max(gsd_m, float(_NATIVE_M.get(name, 0)))} for name in bands
            ],
            "scale": float(facts.get("scale", 1.0)),
            "classes": {},
            "labels": "pixel",
        }
    )
