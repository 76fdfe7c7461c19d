"""Places read from georeferenced twins: the corner and CRS of each, by the name of the patch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from swath.data.georeference import write_places
from swath.errors import DataError


def archive_of(folder: Path, *, crs: str | None) -> Path:
    """A zip of two GeoTIFFs in two zones, as the 13-band archive has them."""
    archive = folder / "twins.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for number, zone in enumerate((32632, 32633), start=1):
            tif = folder / f"Forest_{number}.tif"
            profile = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "dtype": "uint16"}
            corner = from_origin(600000.123 + number, 5300040.456, 10, 10)
            with rasterio.open(
                tif, "w", crs=crs and crs.format(zone), transform=corner, **profile
            ) as file:
                file.write(np.ones((1, 4, 4), np.uint16))
            packed.write(tif, f"EuroSAT_MS/Forest/{tif.name}")
    return archive


def test_places_have_the_corner_and_zone_of_their_twins(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, crs="EPSG:{}")
    assert write_places(archive, tmp_path / "places.csv.gz", suffix=".jpg") == 2
    table = pd.read_csv(tmp_path / "places.csv.gz")
    assert table.to_dict("list") == {
        "path": ["Forest/Forest_1.jpg", "Forest/Forest_2.jpg"],
        "utm_epsg": [32632, 32633],
        "ul_easting": [600001.12, 600002.12],
        "ul_northing": [5300040.46, 5300040.46],
    }


def test_a_twin_without_a_crs_is_named(tmp_path: Path) -> None:
    archive = archive_of(tmp_path, crs=None)
    with pytest.raises(DataError, match=r"Forest_1\.tif: has no CRS"):
        write_places(archive, tmp_path / "places.csv.gz", suffix=".jpg")
    assert not (tmp_path / "places.csv.gz").exists()
