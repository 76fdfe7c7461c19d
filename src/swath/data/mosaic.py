"""Maps of several scenes as one raster: a VRT, which names them and copies no pixel."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as xml

import rasterio

from swath.files import write_text

DTYPES = {"uint8": "Byte", "float32": "Float32"}
"""As GDAL names them."""


def write_mosaics(rasters: list[Path], folder: Path, kind: str) -> list[Path]:
    """Write a mosaic of all maps of each CRS; gives the files.

    Where maps overlap, a later one lies above; where it has no data, the earlier shows. The pixels
    are those of the finest map, coarser ones are repeated. Maps without a CRS have no place.

    Args:
        rasters: maps of one kind (uint8 or float32, one band), which must lie in `folder`.
        folder: where the mosaics are written.
        kind: the last part of their names, which begin with the CRS: `EPSG32632_<kind>.vrt`.
    """
    of_crs: dict[str, list[Path]] = defaultdict(list)
    for path in rasters:
        with rasterio.open(path) as file:
            if file.crs:
                of_crs[file.crs.to_string()].append(path)
    written = []
    for crs, paths in of_crs.items():
        written.append(folder / f"{crs.replace(':', '')}_{kind}.vrt")
        write_text(written[-1], _vrt(paths))
    return written


def _vrt(paths: list[Path]) -> str:
    """The mosaic of rasters of one CRS as GDAL's XML.

    Source: GDAL, VRT – GDAL Virtual Format (gdal.org/drivers/raster/vrt.html), elements
    VRTDataset, VRTRasterBand and ComplexSource.
    """
    with rasterio.open(paths[0]) as first:
        crs, colours, names, nodata = first.crs, _colours(first), first.tags(1), first.nodata
        dtype, says, unit = first.dtypes[0], first.descriptions[0], first.units[0]
    places = {}
    for path in paths:
        with rasterio.open(path) as file:
            places[path] = (file.bounds, file.res, file.shape)
    step_x, step_y = (min(res[axis] for _, res, _ in places.values()) for axis in (0, 1))
    west = min(bounds.left for bounds, _, _ in places.values())
    north = max(bounds.top for bounds, _, _ in places.values())
    width = round((max(bounds.right for bounds, _, _ in places.values()) - west) / step_x)
    height = round((north - min(bounds.bottom for bounds, _, _ in places.values())) / step_y)
    root = xml.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    _text(root, "SRS", crs.to_wkt())
    place = (west, step_x, 0.0, north, 0.0, -step_y)
    _text(root, "GeoTransform", ", ".join(map(repr, place)))
    band = xml.SubElement(root, "VRTRasterBand", dataType=DTYPES[dtype], band="1")
    _text(band, "Description", says or "")
    _text(band, "UnitType", unit or "")
    metadata = xml.SubElement(band, "Metadata")
    for key, value in names.items():
        _text(metadata, "MDI", value, key=key)
    _text(band, "NoDataValue", f"{nodata:g}")
    if colours:
        _text(band, "ColorInterp", "Palette")
        table = xml.SubElement(band, "ColorTable")
        for value in range(256):
            rgba = colours.get(value, (0, 0, 0, 0))
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
        _text(source, "NODATA", f"{nodata:g}")
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
