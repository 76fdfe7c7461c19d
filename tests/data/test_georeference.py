"""Places read from georeferenced twins: the corner and CRS of each, by the name of the patch."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from swath.data.card import Card
from swath.data.fetch import fetch
from swath.data.georeference import write_places
from swath.errors import DataError
from swath.files import digest, read_json


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


def card_of(archive: Path, images: Path) -> Card:
    """A card whose table of places is made from the twins, where no mirror has it."""
    places = {
        "name": "places.csv.gz",
        "made_from": {
            "suffix": ".jpg",
            "archive": {"name": archive.name, "sha256": digest(archive)},
        },
    }
    return Card.model_validate(
        {
            "name": "tiny",
            "title": "Tiny",
            "licence": "none",
            "citation": "none",
            "labels": "patch",
            "layout": {
                "name": "class_folders",
                "archive": images.name,
                "georeference": "places.csv.gz",
            },
            "files": [{"name": images.name, "sha256": digest(images)}, places],
            "scale": 255.0,
            "rgb": ["red", "green", "blue"],
            "bands": [
                {"name": name, "wavelength_nm": 500.0, "gsd_m": 10.0}
                for name in ("red", "green", "blue")
            ],
            "classes": {"Forest": "#1b7837"},
            "counts": {"Forest": 2},
        }
    )


def test_a_table_in_no_mirror_is_made_from_the_twins(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror/tiny"
    mirror.mkdir(parents=True)
    archive = archive_of(tmp_path, crs="EPSG:{}").rename(mirror / "twins.zip")
    images = mirror / "images.zip"
    with zipfile.ZipFile(images, "w") as packed:
        for number in (1, 2):
            picture = tmp_path / "picture.jpg"
            Image.fromarray(np.full((4, 4, 3), 40 * number, np.uint8)).save(picture)
            packed.write(picture, f"images/Forest/Forest_{number}.jpg")
    state, data = tmp_path / "state", tmp_path / "data"
    fetch(card_of(archive, images), data, state=state, mirror=str(tmp_path / "mirror"))
    manifest = read_json(data / "manifest.json")
    assert manifest["proofs"] == {
        "images.zip": "sha256",
        "places.csv.gz": "made from twins.zip, proven by sha256",
    }
    assert list(manifest["files"]) == ["images.zip", "places.csv.gz"]
    assert pd.read_csv(data / "places.csv.gz")["utm_epsg"].tolist() == [32632, 32633]
    assert list(state.iterdir()) == []  # the twins are large, and nothing needs them any more
