"""Sentinel-2 products as ESA delivers them: SAFE folders of level 1C and 2A.

Since processing baseline 04.00 (25 January 2022) the stored values are 1,000 larger than
10,000 × reflectance. What the product's own metadata say is taken off again, so that scenes of
before and after have one scale.

Source:
    ESA: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD, issue 14.9, 2021, for
    names of files, `*_ADD_OFFSET` and `band_id`; its table of the scene classification (SCL).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from swath.data.card import Card
from swath.data.layouts import Source
from swath.data.layouts.scene_folders import labels_of, on_grid, raster_scene
from swath.data.scene import CodedMask, Scene, utc
from swath.errors import DataError
from swath.registry import registered

CLEAR = (4, 5, 6, 7, 11)
"""Classes of the SCL in which the ground is seen: vegetation, bare, water, unclassified, snow."""
BANDS = (
    "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12",
)  # fmt: skip
"""By the number (`band_id`) that the metadata give them."""


@registered("layout")
def safe(
    folder: Path,
    card: Card,
    *,
    labels: str | None = None,
    codes: list[int] | None = None,
    attribute: str | None = None,
    all_touched: bool = False,
    clear: list[int] | None = None,
) -> Source:
    """Folders `*.SAFE`, one scene each; a band is taken at the card's ground sampling distance.

    Args:
        folder: the dataset's folder.
        card: its card; bands are called B01 … B12 as ESA does. Its scale is the product's, 10000.
        labels: pattern of class rasters or polygons in the dataset's folder, as
            `labels/{scene}.tif`, where {scene} is the product's name without `.SAFE`; with a
            leading `/` one file for all scenes.
        codes: the value of each class, as in `scene_folders`.
        attribute: attribute of polygons that holds the class.
        all_touched: whether a polygon has every pixel that it touches.
        clear: classes of the scene classification (SCL) in which the ground is seen; 4, 5, 6, 7
            and 11 unless given, and none of them means that nothing is masked. Level 1C has none.

    Raises:
        DataError: there is no product; a product lacks its metadata or a band, or has another
            scale than the card.
    """
    products = {path.stem: path for path in sorted(folder.glob("*.SAFE"))}
    if not products:
        raise DataError("holds no folder *.SAFE", where=folder, mend="mend the card, or fetch")

    def opened(name: str) -> Scene:
        product = products[name]
        metadata = _metadata(product)
        granule = _granule(product)
        level_2 = metadata.name == "MTD_MSIL2A.xml"
        files = [_band(granule, band.name, round(band.gsd_m), level_2) for band in card.bands]
        root = _parsed(metadata)
        _check_scale(root, metadata, card)
        scene = raster_scene(name, files, card, bands_by="file", offsets=_offsets(root, metadata))
        truth = labels_of(folder, name, labels, card, scene.grid, codes, attribute, all_touched)
        classes = tuple(CLEAR if clear is None else clear)
        seen = None
        if level_2 and classes:
            seen = CodedMask(on_grid(_band(granule, "SCL", 20, level_2), scene.grid), classes)
        times = (utc(_text(root, metadata, "PRODUCT_START_TIME")).replace(microsecond=0),)
        return replace(scene, labels=truth, mask=seen, times=times, documents=(metadata,))

    return Source(tuple(products), opened)


def _metadata(product: Path) -> Path:
    for name in ("MTD_MSIL2A.xml", "MTD_MSIL1C.xml"):
        if (product / name).is_file():
            return product / name
    raise DataError(
        "has neither MTD_MSIL2A.xml nor MTD_MSIL1C.xml", where=product, mend="fetch it again"
    )


def _granule(product: Path) -> Path:
    granules = sorted(path for path in product.glob("GRANULE/*") if path.is_dir())
    if len(granules) != 1:
        raise DataError(
            f"has {len(granules)} granules, not one (as before December 2016)",
            where=product, mend="take the product of one tile",
        )  # fmt: skip
    return granules[0]


def _band(granule: Path, band: str, gsd_m: int, level_2: bool) -> Path:
    """The file of a band at a ground sampling distance."""
    inside = f"IMG_DATA/R{gsd_m}m/*_{band}_{gsd_m}m.jp2" if level_2 else f"IMG_DATA/*_{band}.jp2"
    found = sorted(granule.glob(inside))
    if len(found) != 1:
        raise DataError(
            f"has no file {inside}" if not found else f"has several files {inside}",
            where=granule, mend="fetch the product again, or mend the card's bands and gsd_m",
        )  # fmt: skip
    return found[0]


# ---- metadata -------------------------------------------------------------------------------


def _parsed(metadata: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(metadata).getroot()
    except ElementTree.ParseError as broken:
        raise DataError(
            f"cannot be read ({broken})", where=metadata, mend="fetch it again"
        ) from None


def _text(root: ElementTree.Element, metadata: Path, *tags: str) -> str:
    """The text of the first of some elements."""
    for tag in tags:
        found = root.findtext(f".//{tag}")
        if found:
            return found.strip()
    raise DataError(f"has no {tags[0]}", where=metadata, mend="fetch it again")


def _check_scale(root: ElementTree.Element, metadata: Path, card: Card) -> None:
    scale = float(
        _text(root, metadata, "BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE",
              "L1C_L2A_QUANTIFICATION_VALUE")
    )  # fmt: skip
    if scale != card.scale:
        raise DataError(
            f"has the quantification value {scale:g}, the card the scale {card.scale:g}",
            where=metadata, mend=f"set scale: {scale:g} in the card",
        )  # fmt: skip


def _offsets(root: ElementTree.Element, metadata: Path) -> dict[str, int]:
    """What is to be taken off the stored values of each band; nothing before baseline 04.00.

    A pixel is (stored + ADD_OFFSET) / QUANTIFICATION_VALUE, and 0 is no data.
    """
    listed = [*root.iter("BOA_ADD_OFFSET"), *root.iter("RADIO_ADD_OFFSET")]
    try:
        return {BANDS[int(e.attrib["band_id"])]: -int(float(e.text or "")) for e in listed}
    except (KeyError, IndexError, ValueError):
        raise DataError(
            "has an offset without a band or a value", where=metadata, mend="fetch it again"
        ) from None
