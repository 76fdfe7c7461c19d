"""Class folders of GeoTIFFs: the twin of EuroSAT's 13-band archive, with real places."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from swath import plan
from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.published import Published
from swath.errors import DataError

SIDE = 64
EACH = 3
"""Patches of each class in the twin."""


@dataclass(frozen=True)
class Twin:
    """The archive, and what went into it."""

    folder: Path
    card: Card
    places: pd.DataFrame
    pixels: dict[str, np.ndarray]
    """`<class>/<name>.tif` -> (band, y, x) uint16, bands in the order B01, …, B12, B8A."""

    def opened(self) -> Published:
        source = open_source(self.card, self.folder)
        piece = source.open(source.names[0])
        assert isinstance(piece, Published)
        return piece


def geotiff(pixels: np.ndarray, **profile: Any) -> bytes:
    stream = io.BytesIO()
    count, height, width = pixels.shape
    with rasterio.open(
        stream, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype,
        **profile,
    ) as file:  # fmt: skip
        file.write(pixels)
    return stream.getvalue()


@pytest.fixture(scope="module")
def twin(real_data: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    facts = plan.compose(repository / "conf", "embedded", ["data=eurosat_ms"]).sections["data"]
    card = Card.model_validate(facts | {"counts": dict.fromkeys(facts["classes"], EACH)})
    known = pd.read_csv(real_data / "eurosat" / "EuroSAT_georef.csv.gz")
    places = known.groupby("class").head(EACH).reset_index(drop=True)
    places["name"] = places["path"].str.replace(".jpg", ".tif")
    folder = tmp_path_factory.mktemp("eurosat_ms")
    rng = np.random.default_rng(0)
    pixels = {}
    with zipfile.ZipFile(folder / "EuroSAT_MS.zip", "w") as archive:
        for row in places.sort_values("path", ascending=False).itertuples():
            # Each band has values of its own: 100, 200, … 1300, and some noise.
            bands = 100 * np.arange(1, 14)[:, None, None] + rng.integers(0, 90, (13, SIDE, SIDE))
            pixels[row.name] = bands.astype(np.uint16)
            place = from_origin(row.ul_easting, row.ul_northing, 10, 10)
            raw = geotiff(pixels[row.name], crs=f"EPSG:{row.utm_epsg}", transform=place)
            archive.writestr(f"EuroSAT_MS/{row.name}", raw)
    return Twin(folder, card, places, pixels)


def test_thirteen_bands_come_in_the_order_of_the_files(twin: Twin) -> None:
    piece = twin.opened()
    images, labels = piece.read(piece.places)
    assert (images[0].shape, images[0].dtype) == ((30, 13, SIDE, SIDE), np.uint16)
    for image, name in zip(images[0], piece.places["name"], strict=True):
        assert np.array_equal(image, twin.pixels[name])
    bands = dict(zip(piece.bands, images[0].mean(axis=(0, 2, 3)) // 100, strict=True))
    # B8A is the last of the files, not the ninth.
    assert (bands["B08"], bands["B09"], bands["B12"], bands["B8A"]) == (8, 9, 12, 13)
    classes = list(twin.card.classes)
    assert [classes[n] for n in labels] == [name.split("/")[0] for name in piece.places["name"]]


def test_the_geotiffs_tell_their_places(twin: Twin) -> None:
    found = twin.opened().places.set_index("name")
    known = twin.places.set_index("name").loc[found.index]
    assert np.allclose(found["west"], known["ul_easting"])
    assert np.allclose(found["north"], known["ul_northing"])
    assert np.allclose(found["east"] - found["west"], 640)
    assert np.allclose(found["north"] - found["south"], 640)
    assert found["epsg"].tolist() == known["utm_epsg"].tolist()
    assert found["epsg"].nunique() > 3


def test_centres_in_degrees_are_the_known_ones(twin: Twin, cut_set: Callable[..., Any]) -> None:
    places = cut_set(twin.card, twin.folder, size_px=None).patches.places.set_index("name")
    known = twin.places.set_index("name").loc[places.index]
    # The table has the upper-left corner: the centre is 320 m to the south-east of it.
    assert np.allclose(places["lat"], known["ul_lat"] - 320 / 111_200, atol=1e-3)
    assert (places["lon"] > known["ul_lon"] - 1e-3).all()


def rewritten(twin: Twin, folder: Path, change: dict[str, bytes | None]) -> Twin:
    """The twin with members changed, or without them."""
    with (
        zipfile.ZipFile(twin.folder / "EuroSAT_MS.zip") as old,
        zipfile.ZipFile(folder / "EuroSAT_MS.zip", "w") as new,
    ):
        for name in old.namelist():
            content = change.get(name.removeprefix("EuroSAT_MS/"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return Twin(folder, twin.card, twin.places, twin.pixels)


def broken(twin: Twin) -> str:
    with pytest.raises(DataError) as told:
        piece = twin.opened()
        piece.read(piece.places)
    assert "\n" not in str(told.value)
    return str(told.value)


FIRST = "Forest/Forest_1.tif"


def test_a_patch_too_few_is_told(twin: Twin, tmp_path: Path) -> None:
    assert "2 patches of Forest, published are 3" in broken(
        rewritten(twin, tmp_path, {FIRST: None})
    )


def test_a_patch_without_a_crs_is_told(twin: Twin, tmp_path: Path) -> None:
    raw = geotiff(twin.pixels[FIRST], transform=from_origin(0, 0, 10, 10))
    said = broken(rewritten(twin, tmp_path, {FIRST: raw}))
    assert "has no CRS" in said
    assert FIRST in said


@pytest.mark.parametrize("shape", [(12, SIDE, SIDE), (13, SIDE, SIDE - 1)])
def test_a_patch_of_another_shape_is_told(
    twin: Twin, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    raw = geotiff(
        np.ones(shape, np.uint16), crs="EPSG:32632", transform=from_origin(5e5, 5e6, 10, 10)
    )
    assert "not (64, 64, 13)" in broken(rewritten(twin, tmp_path, {FIRST: raw}))


@pytest.mark.parametrize("keep", [0, 100, 40_000])
def test_a_patch_that_was_cut_off_is_told(twin: Twin, tmp_path: Path, keep: int) -> None:
    raw = geotiff(
        twin.pixels[FIRST], crs="EPSG:32632", transform=from_origin(5e5, 5e6, 10, 10)
    )[:keep]  # fmt: skip
    assert FIRST in broken(rewritten(twin, tmp_path, {FIRST: raw}))
