"""The places of patches that were published without them, read from a georeferenced twin."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path, PurePosixPath

import pandas as pd
import rasterio
from rasterio.crs import CRS

from swath.errors import DataError
from swath.files import whole


def write_places(archive: Path, table: Path, *, suffix: str) -> int:
    """Write CRS and corner of each GeoTIFF in a zip as a table; gives the number of rows.

    Args:
        archive: a zip with `…/<class>/<name>.tif`.
        table: the CSV (`.gz`) to write: path, utm_epsg, ul_easting, ul_northing (m, to the cm).
        suffix: of the paths in the table, which name the images of the twin.

    Raises:
        DataError: a GeoTIFF cannot be read, or has no CRS.
    """
    rows = []
    with zipfile.ZipFile(archive) as opened:
        members = sorted(m for m in opened.namelist() if m.endswith(".tif"))
        for member in members:
            path = PurePosixPath(member)
            crs, west, north = _corner(opened.read(member), where=f"{archive}/{member}")
            name = f"{path.parent.name}/{path.with_suffix(suffix).name}"
            rows.append((name, crs.to_epsg(), round(west, 2), round(north, 2)))
    columns = ["path", "utm_epsg", "ul_easting", "ul_northing"]
    with whole(table) as part, gzip.GzipFile(part, "wb", mtime=0) as file:
        file.write(pd.DataFrame(rows, columns=columns).to_csv(index=False).encode())
    return len(rows)


def _corner(tiff: bytes, *, where: str) -> tuple[CRS, float, float]:
    try:
        with rasterio.MemoryFile(tiff) as memory, memory.open() as file:
            if file.crs is None or file.crs.to_epsg() is None:
                raise DataError("has no CRS", where=where, mend="fetch it again")
            return file.crs, file.transform.c, file.transform.f
    except rasterio.errors.RasterioIOError as broken:
        raise DataError(f"cannot be read ({broken})", where=where, mend="fetch it again") from None
