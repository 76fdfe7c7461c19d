"""Scenes as raster files: a folder or a set of files a scene, found by patterns."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.polygons import read_polygons
from swath.data.scene import (
    BrightClouds,
    CodedLabels,
    CodedMask,
    Facts,
    Grid,
    Labels,
    Layer,
    Mask,
    Pixels,
    PolygonLabels,
    Rasters,
    Resampled,
    Scene,
    ValueLabels,
    Warped,
    in_order,
    raster_facts,
    unlabelled,
    utc,
    with_mask,
)
from swath.errors import DataError
from swath.registry import registered

POLYGON_FILES = (".shp", ".gpkg", ".geojson", ".json", ".fgb")
_SCENE, _DATE = "{scene}", "{date}"
_STAMP = r"\d{8}(?:T\d{6})?"


@registered("layout")
def scene_folders(
    folder: Path,
    card: Card,
    *,
    images: list[str],
    labels: str | None = None,
    codes: list[int] | None = None,
    attribute: str | None = None,
    all_touched: bool = False,
    mask: str | None = None,
    clear: list[int] | None = None,
    cloud_above: dict[str, float] | None = None,
    bands_by: Literal["auto", "description", "file", "order"] = "auto",
    align: Literal["refuse", "nearest", "bilinear", "cubic"] = "nearest",
) -> Source:
    """Scenes of GeoTIFFs, JPEG 2000 or whatever GDAL reads, found by patterns.

    Patterns are relative to the scene's folder, `*_10m.tif`; with `{scene}` in them they are
    relative to the dataset's, `S1/{scene}_S1Hand.tif`, and a leading `/` names one file for all
    scenes. `{date}` (YYYYMMDD[THHMMSS]) makes the files of a scene a series.

    Args:
        folder: the dataset's folder.
        card: its card; every band that it lists must be found.
        images: patterns of the image files of a scene.
        labels: pattern of the class raster, or of polygons (.shp, .gpkg, .geojson).
        codes: the value of each class in the raster or the polygons' attribute, in the order of
            the card; 0, 1, 2, … unless given. All other values are unlabelled.
        attribute: attribute of the polygons that holds the class, as name or code.
        all_touched: whether a polygon has every pixel that it touches; else those whose centre it
            holds.
        mask: pattern of a raster that says where the ground is seen.
        clear: its values that mean so; 0 unless given.
        cloud_above: a declared test: cloud is what is brighter than all these stored values, by
            band.
        bands_by: what names a band: its description in the file, the name of its file
            (`…_B02.tif`), or the card's order. `auto` takes the first that names all of them.
        align: how an image, a class raster or a mask of another CRS or grid is brought to the
            finest grid (class codes always by the nearest).

    Raises:
        DataError: there is no scene; a file, a band or a CRS is missing, or the grids of a scene
            cannot be brought together.
    """
    names = scene_names(folder, images)
    if not names:
        raise DataError(
            f"no scene has files like {images[0]}", where=folder, mend="mend the card, or fetch"
        )

    def opened(name: str) -> Scene:
        found = list(chain.from_iterable(_matches(folder, name, p) for p in images))
        for pattern in images:
            if not _matches(folder, name, pattern):
                raise DataError(
                    f"no file matches '{pattern}'", where=folder / name, mend="mend the layout"
                )
        scene = raster_scene(name, found, card, bands_by=bands_by, align=align)
        truth = labels_of(folder, name, labels, card, scene.grid, codes, attribute, all_touched)
        scene = replace(scene, labels=truth)
        seen: Mask | None = None
        if mask is not None:
            layer = on_grid(only_match(folder, name, mask), scene.grid)
            seen = CodedMask(layer, tuple(clear or [0]))
        elif cloud_above:
            seen = BrightClouds(scene, tuple(cloud_above.items()), "nearest")
        return with_mask(scene, seen)

    return Source(tuple(names), opened)


# ---- files ----------------------------------------------------------------------------------


def _full(pattern: str) -> str:
    """A pattern relative to the dataset's folder."""
    if pattern.startswith("/"):
        return pattern[1:]
    return pattern if _SCENE in pattern else f"{_SCENE}/{pattern}"


def scene_names(folder: Path, images: Sequence[str]) -> list[str]:
    """What `{scene}` stands for in the files that match the first of these patterns."""
    pattern = _full(images[0])
    # `*` stands for part of a name, as in a shell; what {scene} stands for must be one name, too.
    parts = re.split(r"(\{scene\}|\{date\}|\*)", pattern)
    words = {_SCENE: "(?P<scene>[^/]+?)", _DATE: _STAMP, "*": "[^/]*"}
    expression, named = "", False
    for part in parts:
        word = words.get(part, re.escape(part))
        if part == _SCENE and named:
            word = "(?P=scene)"
        named |= part == _SCENE
        expression += word
    globbed = pattern.replace(_SCENE, "*").replace(_DATE, "*")
    found = (
        re.fullmatch(expression, str(path.relative_to(folder))) for path in folder.glob(globbed)
    )
    return sorted({match["scene"] for match in found if match})


def _matches(folder: Path, name: str, pattern: str) -> list[Path]:
    written = _full(pattern).replace(_SCENE, _literal(name))
    if _DATE not in written:
        return sorted(folder.glob(written))
    stamp = re.compile(_STAMP)
    return sorted(p for p in folder.glob(written.replace(_DATE, "*")) if stamp.search(p.name))


def _literal(name: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", name)


def only_match(folder: Path, name: str, pattern: str) -> Path:
    """The file of a scene that matches a pattern.

    Raises:
        DataError: there is none, or there are several.
    """
    matches = _matches(folder, name, pattern)
    if len(matches) != 1:
        raise DataError(
            f"{len(matches)} files match '{pattern}', not one",
            where=folder / name,
            mend="mend the layout",
        )
    return matches[0]


# ---- images ---------------------------------------------------------------------------------


def raster_scene(
    name: str,
    paths: Sequence[Path],
    card: Card,
    *,
    bands_by: str = "auto",
    align: str = "nearest",
    placed: bool = True,
    offsets: dict[str, int] | None = None,
) -> Scene:
    """A scene of raster files; files of several dates make a series.

    Args:
        name: of the scene.
        paths: its image files.
        card: the bands that must be found.
        bands_by: what names a band.
        align: how files of another grid are brought to the finest.
        placed: whether the files must have a CRS.
        offsets: what is subtracted from the values of a band.

    Raises:
        DataError: a band is missing, or the grids do not fit together.
    """
    facts = [raster_facts(path, placed=placed) for path in paths]
    wanted = [band.name for band in card.bands]
    named = _name_bands(facts, wanted, bands_by)
    dates = _dates(facts)
    channels: dict[str, dict[Any, tuple[Facts, int]]] = defaultdict(dict)
    for fact, bands, date in zip(facts, named, dates, strict=True):
        for number, band in enumerate(bands, start=1):
            if band in wanted:
                channels[band].setdefault(date, (fact, number))
    for band in wanted:
        if band not in channels:
            known = sorted({str(b) for bands in named for b in bands if b})
            raise DataError(
                f"has no band {band}",
                where=paths[0].parent if len(paths) > 1 else paths[0],
                mend=f"it has {', '.join(known) or 'bands without names'}",
            )
    series = sorted(set(dates), key=lambda date: (date is None, date or datetime.min))
    if all(len(of) == 1 for of in channels.values()):
        # One acquisition, though its files may tell several times, or some of them none.
        series = series[:1]
        channels = {b: {series[0]: next(iter(of.values()))} for b, of in channels.items()}
    for band, date in product(wanted, series):
        if date not in channels[band]:
            raise DataError(
                f"has no {band} of {date or 'the files without a date'}, but of other dates",
                where=next(iter(channels[band].values()))[0].path.parent,
                mend="complete the series, or take the date out",
            )
    layers = _layers(channels, wanted, series, card, align, offsets or {})
    time = series if len(series) > 1 else [_time_of(name, facts, series[0])]
    item = _item_of(paths)
    return Scene(
        name, layers, tuple(wanted), tuple(time), documents=(item,) if item.is_file() else ()
    )


def _name_bands(
    facts: list[Facts], wanted: list[str], bands_by: str
) -> list[tuple[str | None, ...]]:
    """Names of the bands of each file."""
    by_description = [fact.descriptions for fact in facts]
    by_file = [(_band_in(fact.path, wanted),) * min(fact.count, 1) for fact in facts]
    by_order = [tuple(wanted) if fact.count == len(wanted) else () for fact in facts]
    ways: dict[str, list[Any]] = {
        "description": by_description, "file": by_file, "order": by_order
    }  # fmt: skip
    if bands_by != "auto":
        return ways[bands_by]
    for way in ways.values():
        if set(wanted) <= set(chain.from_iterable(way)):
            return way
    return by_description if any(chain.from_iterable(by_description)) else by_file


def _band_in(path: Path, wanted: list[str]) -> str | None:
    """The band that the name of a file ends with, or holds between marks."""
    # The whole name first: a band may be called swir_1.
    parts = [*re.split(r"[_.\-]", path.stem.lower()), path.stem.lower()]
    for part in reversed(parts):
        for band in wanted:
            if part == band.lower():
                return band
    return None


def _dates(facts: list[Facts]) -> list[datetime | None]:
    """The date in the name of each file, where there is one."""
    return [stamp_in(fact.path.name) for fact in facts]


def stamp_in(text: str) -> datetime | None:
    """The first date in a name, YYYYMMDD[THHMMSS], where there is one."""
    for found in re.finditer(rf"(?<!\d)({_STAMP})(?!\d)", text):
        stamp = found[1]
        try:
            return datetime.strptime(stamp, "%Y%m%dT%H%M%S" if "T" in stamp else "%Y%m%d")
        except ValueError:
            continue
    return None


def _time_of(name: str, facts: list[Facts], stamp: datetime | None) -> datetime | None:
    """When a scene was taken: by its tags, its STAC item, its files' names, or its own."""
    tagged = next((fact.time for fact in facts if fact.time), None)
    if tagged:
        return tagged
    item = _item_of([fact.path for fact in facts])
    if item.is_file():
        text = json.loads(item.read_text(encoding="utf-8"))["properties"].get("datetime")
        if text:
            return utc(text)
    return stamp or stamp_in(name)


def _item_of(paths: Sequence[Path]) -> Path:
    """Where the STAC item of a scene lies, if it has one."""
    return paths[0].parent / "item.json"


def _layers(
    channels: dict[str, dict[Any, tuple[Facts, int]]],
    wanted: list[str],
    series: Sequence[Any],
    card: Card,
    align: str,
    offsets: dict[str, int],
) -> tuple[Layer, ...]:
    """The bands by grid, the finest first; what has another grid is warped to the finest."""
    every = [of[date][0] for of in channels.values() for date in of]
    finest = min(every, key=lambda fact: fact.grid.gsd_m).grid
    of_factor: dict[int, list[str]] = defaultdict(list)
    strange: dict[str, Facts] = {}
    for band in wanted:
        factors = set()
        for fact, _ in channels[band].values():
            factor = fact.grid.factor_of(finest)
            covers = factor and (
                fact.grid.height * factor >= finest.height
                and fact.grid.width * factor >= finest.width
            )
            if not covers:
                strange[band] = fact
            factors.add(factor)
        if len(factors) > 1:
            strange[band] = next(iter(channels[band].values()))[0]
        if band not in strange:
            of_factor[next(iter(factors)) or 1].append(band)
    layers: dict[int, list[Layer]] = defaultdict(list)
    for factor, bands in sorted(of_factor.items()):
        for offset in dict.fromkeys(offsets.get(band, 0) for band in bands):
            alike = [band for band in bands if offsets.get(band, 0) == offset]
            of = [channels[band][date] for date in series for band in alike]
            grids = [fact.grid for fact, _ in of]
            # Files may reach beyond each other at the lower and right edge: what all have.
            grid = finest if factor == 1 else replace(
                grids[0], height=min(g.height for g in grids), width=min(g.width for g in grids)
            )  # fmt: skip
            layers[factor].append(
                Rasters(
                    tuple(alike), grid, str(np.result_type(*(f.dtype for f, _ in of))),
                    max(fact.block_rows for fact, _ in of),
                    tuple((fact.path, number) for fact, number in of), offset,
                )
            )  # fmt: skip
    for band, fact in strange.items():
        first = next(f for f in every if f.grid == finest)
        _check_alignment(fact, first, align, card)
        if len(series) > 1:
            raise DataError(
                f"has another grid than {first.path.name}, and the scene is a series",
                where=fact.path,
                mend="warp it first, e.g. with gdalwarp",
            )
        _, number = next(iter(channels[band].values()))
        nodata = fact.nodata if fact.nodata is not None else card.nodata
        layers[1].append(Warped((band,), finest, fact.path, (number,), fact.dtype, align, nodata))
    return tuple(
        of[0] if len(of) == 1 else Stacked(tuple(of), len(series))
        for _, of in sorted(layers.items())
    )


def _check_alignment(fact: Facts, first: Facts, align: str, card: Card) -> None:
    """Refuse what cannot be brought to the finest grid."""
    if align == "refuse":
        raise DataError(
            f"differs from {first.path.name} in CRS or grid",
            where=fact.path,
            mend="bring both to one grid, or set align in the card's layout",
        )
    if not fact.grid.epsg or not first.grid.epsg:
        raise DataError(
            f"has another shape than {first.path.name}, and no CRS to bring them together",
            where=fact.path,
            mend="write its CRS, e.g. with gdal_edit -a_srs EPSG:32632",
        )
    covered = _share_covered(fact.grid, first.grid)
    if not covered:
        raise DataError(
            f"does not lie on the ground of {first.path.name}", where=fact.path, mend="mend it"
        )
    if covered < 1 and fact.nodata is None and card.nodata is None:
        raise DataError(
            f"covers only {covered:.0%} of {first.path.name}, and there is no no-data value",
            where=fact.path,
            mend="give nodata in the card",
        )


def _share_covered(grid: Grid, of: Grid) -> float:
    """Share of a grid's box that another's box covers, in the CRS of the former."""
    from rasterio.warp import transform_bounds

    def box(g: Grid) -> tuple[float, float, float, float]:
        return (
            g.west, g.north - g.height * g.step_y, g.west + g.width * g.step_x, g.north
        )  # fmt: skip

    west, south, east, north = transform_bounds(f"EPSG:{grid.epsg}", f"EPSG:{of.epsg}", *box(grid))
    w, s, e, n = box(of)
    wide = max(0.0, min(east, e) - max(west, w)) / (e - w)
    tall = max(0.0, min(north, n) - max(south, s)) / (n - s)
    share = wide * tall
    return 1.0 if share > 1 - 1e-9 else share


@dataclass(frozen=True)
class Stacked:
    """Layers of one grid as one."""

    layers: tuple[Layer, ...]
    dates: int = 1

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands of all."""
        return tuple(chain.from_iterable(layer.bands for layer in self.layers))

    @property
    def grid(self) -> Grid:
        """The grid of all."""
        return self.layers[0].grid

    @property
    def dtype(self) -> str:
        """The type that holds the values of all."""
        return str(np.result_type(*(layer.dtype for layer in self.layers)))

    @property
    def block_rows(self) -> int:
        """The largest."""
        return max(layer.block_rows for layer in self.layers)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of all."""
        return tuple(dict.fromkeys(chain.from_iterable(layer.files for layer in self.layers)))

    def read(self, row: int, height: int, col: int, width: int) -> Pixels:
        """The window (channel, y, x)."""
        parts = [layer.read(row, height, col, width) for layer in self.layers]
        return in_order(parts, [layer.bands for layer in self.layers], self.bands, self.dates)


# ---- labels ---------------------------------------------------------------------------------


def labels_of(
    folder: Path,
    name: str,
    pattern: str | None,
    card: Card,
    grid: Grid,
    codes: list[int] | None,
    attribute: str | None,
    all_touched: bool,
) -> Labels | None:
    """The labels of a scene from a class raster or polygons; `scene_folders` explains each.

    Raises:
        DataError: there is not exactly one such file, or it does not fit the scene or the card.
    """
    if pattern is None:
        return None
    path = only_match(folder, name, pattern)
    if card.target is not None:
        return _values_of(path, grid)
    if path.suffix.lower() not in POLYGON_FILES:
        return CodedLabels(on_grid(path, grid), class_codes(codes, card))
    if grid.epsg <= 0:
        raise DataError(
            "cannot be brought to a scene without a CRS", where=path, mend="give labels as a raster"
        )
    shapes = read_polygons(path, grid, list(card.classes), codes, attribute)
    return PolygonLabels(shapes, grid, all_touched, (path,))


def _values_of(path: Path, grid: Grid) -> Labels:
    """The labels of a raster of numbers."""
    if path.suffix.lower() in POLYGON_FILES:
        raise DataError("holds polygons, and a target is a raster of numbers", where=path,
                        mend="give a raster as data.layout.labels")  # fmt: skip
    fact = raster_facts(path, placed=grid.epsg > 0)
    if fact.dtype != "float32":
        raise DataError(f"holds {fact.dtype}, and a target's numbers are float32", where=path,
                        mend="convert it, e.g. with gdal_translate -ot Float32")  # fmt: skip
    return ValueLabels(on_grid(path, grid), fact.nodata)


def class_codes(codes: list[int] | None, card: Card, *, first: int = 0) -> tuple[int, ...]:
    """The code of each class, in the order of the card: as given, or `first` and those after it.

    Raises:
        DataError: there is not one for each class.
    """
    numbers = range(first, first + len(card.classes)) if codes is None else codes
    if len(numbers) != len(card.classes):
        raise DataError(
            f"{len(numbers)} codes are given for {len(card.classes)} classes",
            where="data.layout.codes",
            mend="give one for each class of the card, in its order",
        )
    return tuple(numbers)


def on_grid(path: Path, grid: Grid) -> Layer:
    """A raster of codes as a layer on the scene's grid.

    Raises:
        DataError: it does not lie on the scene's ground.
    """
    fact = raster_facts(path, placed=grid.epsg > 0)
    factor = fact.grid.factor_of(grid) or 0
    if fact.grid.height * factor >= grid.height and fact.grid.width * factor >= grid.width:
        codes = Rasters(("code",), fact.grid, fact.dtype, fact.block_rows, ((path, 1),))
        return codes if factor == 1 else Resampled(codes, grid, "nearest")
    if min(grid.epsg, fact.grid.epsg) <= 0 or not _share_covered(fact.grid, grid):
        raise DataError(
            "does not lie on the ground of the scene", where=path, mend="mend it, or its CRS"
        )
    # Outside of it there is no label; 255 is no class where the file itself names none.
    outside = fact.nodata if fact.nodata is not None else unlabelled(fact.dtype)
    return Warped(("code",), grid, path, (1,), fact.dtype, "nearest", outside)
