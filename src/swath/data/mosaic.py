"""Maps of several scenes as one raster: a VRT, which names them and copies no pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import rasterio

from swath.files import write_text

DTYPES = {"uint8": "Byte", "float32": "Float32"}
"""As GDAL names them."""


@dataclass(frozen=True)
class _Mosaic:
    """The maps of one CRS, as the first of them describes its band."""

    crs: Any
    dtype: str
    says: str | None
    unit: str | None
    names: dict[str, str]
    colours: dict[int, tuple[int, int, int, int]]
    nodata: float
    places: dict[Path, tuple[Any, Any, Any]] = field(default_factory=dict)
    """Bounds, resolution and shape of each map."""

    @classmethod
    def like(cls, first: rasterio.DatasetReader) -> _Mosaic:
        return cls(
            first.crs, first.dtypes[0], first.descriptions[0], first.units[0], first.tags(1),
            _colours(first), first.nodata,
        )  # fmt: skip


def write_mosaics(rasters: list[Path], folder: Path, kind: str) -> list[Path]:
    """Write a mosaic of all maps of each CRS; gives the files.

    Where maps overlap, a later one lies above; where it has no data, the earlier shows. The pixels
    are those of the finest map, coarser ones are repeated. Maps without a CRS have no place.

    Args:
        rasters: maps of one kind (uint8 or float32, one band), which must lie in `folder`.
        folder: where the mosaics are written.
        kind: the last part of their names, which begin with the CRS: `EPSG32632_<kind>.vrt`.
    """
    mosaics: dict[str, _Mosaic] = {}
    for path in rasters:
        with rasterio.open(path) as file:
            if file.crs:
                crs = file.crs.to_string()
                if crs not in mosaics:
                    mosaics[crs] = _Mosaic.like(file)
                mosaics[crs].places[path] = (file.bounds, file.res, file.shape)
    written = []
    for crs, mosaic in mosaics.items():
        written.append(folder / f"{crs.replace(':', '')}_{kind}.vrt")
        write_text(written[-1], _vrt(mosaic))
    return written


def _vrt(mosaic: _Mosaic) -> str:
    """A mosaic as GDAL's XML.

    Source: GDAL, VRT – GDAL Virtual Format (gdal.org/drivers/raster/vrt.html), elements
    VRTDataset, VRTRasterBand and ComplexSource.
    """
    places = mosaic.places
    step_x, step_y = (min(res[axis] for _, res, _ in places.values()) for axis in (0, 1))
    west = min(bounds.left for bounds, _, _ in places.values())
    north = max(bounds.top for bounds, _, _ in places.values())
    width = round((max(bounds.right for bounds, _, _ in places.values()) - west) / step_x)
    height = round((north - min(bounds.bottom for bounds, _, _ in places.values())) / step_y)
    root = xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    _text(root, "SRS", mosaic.crs.to_wkt())
    place = (west, step_x, 0.0, north, 0.0, -step_y)
    _text(root, "GeoTransform", ", ".join(map(repr, place)))
    band = xml.SubElement(root, "VRTRasterBand", dataType=DTYPES[mosaic.dtype], band="1")
    _text(band, "Description", mosaic.says or "")
    _text(band, "UnitType", mosaic.unit or "")
    metadata = xml.SubElement(band, "Metadata")
    for key, text in mosaic.names.items():
        _text(metadata, "MDI", text, key=key)
    _text(band, "NoDataValue", f"{mosaic.nodata:g}")
    if mosaic.colours:
        _text(band, "ColorInterp", "Palette")
        table = xml.SubElement(band, "ColorTable")
        for value in range(256):
            rgba = mosaic.colours.get(value, (0, 0, 0, 0))
            parts = {f"c{n}": str(part) for n, part in enumerate(rgba, start=1)}
            xml.SubElement(table, "Entry", parts)
    for path, (bounds, res, shape) in places.items():
        source = xml.SubElement(band, "ComplexSource", resampling="nearest")
        _text(source, "SourceFilename", path.name, relativeToVRT="1")
        _text(source, "SourceBand", "1")
        size = {"xSize": str(shape[1]), "ySize": str(shape[0])}
        xml.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
        at = {
            "xOff": (bounds.left - west) / step_x,
            "yOff": (north - bounds.top) / step_y,
            "xSize": shape[1] * res[0] / step_x,
            "ySize": shape[0] * res[1] / step_y,
        }
        xml.SubElement(source, "DstRect", {key: repr(value) for key, value in at.items()})
        _text(source, "NODATA", f"{mosaic.nodata:g}")
    xml.indent(root)
    return xml.tostring(root, encoding="unicode") + "\n"


def _text(parent: xml.Element, tag: str, text: str, **attributes: str) -> None:
    xml.SubElement(parent, tag, attributes).text = text


def _colours(file: rasterio.DatasetReader) -> dict[int, tuple[int, int, int, int]]:
    """The colour table of a map; empty where it has none."""
    try:
        table: dict[int, tuple[int, int, int, int]] = file.colormap(1)
    except ValueError:
        return {}
    return table
