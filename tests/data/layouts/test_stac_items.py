"""Scenes of a STAC search, from the server to the patch: several zones, grids and dates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
import yaml

from swath.data.card import UNLABELLED, Card
from swath.data.fetch import fetch
from swath.data.layouts import open_source
from swath.data.scene import Scene

if TYPE_CHECKING:
    from conftest import Catalogue

CORNERS = {32632: (600_000.0, 5_300_040.0), 32633: (300_000.0, 5_400_000.0)}
RNG = np.random.default_rng(1)


@pytest.fixture
def card(repository: Path, catalogue: Catalogue) -> Card:
    """The card of the example, with two bands, asked of the server on the loopback."""
    facts = yaml.safe_load((repository / "conf/data/sentinel2_stac.yaml").read_text())
    facts["stac"]["url"] = catalogue.url
    facts["stac"]["assets"] = {"B02": "blue", "B11": "swir16", "SCL": "scl"}
    facts["bands"] = [band for band in facts["bands"] if band["name"] in ("B02", "B11")]
    return Card.model_validate(facts | {"rgb": ["B02", "B11", "B02"]})


@pytest.fixture
def offer(
    catalogue: Catalogue, write_raster: Callable[..., Path], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """Puts a scene of 40 px on the server; gives its item."""

    def make(
        name: str, epsg: int, time: str, *, shift_m: float = 0.0, values: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        hrefs = {}
        for key, pixels in values.items():
            gsd = 10.0 if key == "blue" else 20.0
            west, north = CORNERS[epsg]
            path = write_raster(
                tmp_path / "public" / name / f"{key}.tif", pixels[None], [""], gsd_m=gsd,
                corner=(west + (shift_m if key == "swir16" else 0), north), epsg=epsg,
            )  # fmt: skip
            address = f"/{name}/{key}.tif"
            catalogue.server.files[address] = path.read_bytes()
            hrefs[key] = catalogue.server.at(address)
        item = catalogue.item(name, 5.0, **hrefs)
        item["properties"] |= {"datetime": time, "proj:epsg": epsg}
        return item

    return make


def drawn() -> dict[str, np.ndarray]:
    return {
        "blue": RNG.integers(1, 9000, (40, 40)).astype(np.uint16),
        "swir16": RNG.integers(1, 9000, (20, 20)).astype(np.uint16),
        "scl": RNG.integers(4, 11, (20, 20)).astype(np.uint8),
    }


def test_scenes_of_two_zones_are_fetched_and_cut(
    card: Card, catalogue: Catalogue, offer: Callable[..., dict[str, Any]], tmp_path: Path,
    cut_set: Callable[..., Any],
) -> None:  # fmt: skip
    first, second = drawn(), drawn()
    catalogue.list(
        offer("S2A_32UPU_20210701_0_L2A", 32632, "2021-07-01T10:17:02.5Z", values=first),
        offer("S2B_33UUP_20210806_0_L2A", 32633, "2021-08-06T10:05:59Z", values=second),
    )
    data = tmp_path / "sentinel2_stac"
    fetch(card, data, state=tmp_path / "state", mirror=None, wait_s=0.01)
    cut = cut_set(card, data, size_px=20)
    patches = cut.patches
    assert patches.facts["scenes"] == ["S2A_32UPU_20210701_0_L2A", "S2B_33UUP_20210806_0_L2A"]
    assert patches.places.epsg.tolist() == [32632] * 4 + [32633] * 4
    stamps = patches.places.time.astype(str).unique().tolist()
    assert stamps == ["2021-07-01 10:17:02", "2021-08-06 10:05:59"]
    # In degrees, the second lies 3 degrees of longitude to the east of its zone's edge.
    assert patches.places.lon.between(10, 13).all() and patches.places.lat.between(47, 49).all()
    images, labels = (array.gather(np.arange(8)) for array in (patches.image, patches.label))
    codes = {4: 0, 5: 1, 6: 2, 9: 3, 10: 4}
    for scene, values in enumerate((first, second)):
        fine = {key: pixels.repeat(2, 0).repeat(2, 1) for key, pixels in values.items()}
        truth = np.vectorize(lambda code: codes.get(code, UNLABELLED))(fine["scl"])
        for number in range(4):
            row, col = 20 * (number // 2), 20 * (number % 2)
            here = np.s_[row : row + 20, col : col + 20]
            np.testing.assert_array_equal(images[4 * scene + number, 0], values["blue"][here])
            np.testing.assert_array_equal(images[4 * scene + number, 1], fine["swir16"][here])
            np.testing.assert_array_equal(labels[4 * scene + number], truth[here])


def test_an_asset_on_another_grid_is_warped(
    card: Card, catalogue: Catalogue, offer: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    values = drawn()
    item = offer("S2A_1", 32632, "2021-07-01T10:17:02Z", shift_m=10.0, values=values)
    catalogue.list(item)
    data = tmp_path / "sentinel2_stac"
    fetch(card, data, state=tmp_path / "state", mirror=None, wait_s=0.01)
    scene = open_source(card, data).open("S2A_1")
    assert isinstance(scene, Scene)
    image = scene.read(0, 0, 40, 40, "nearest")
    # One fine pixel to the east: nothing is known of the first column.
    fine = values["swir16"].repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(image[1, :, 1:], fine[:, :39])
    assert (image[1, :, 0] == 0).all()
    assert "item.json" in {path.name for path in scene.files}


def test_the_example_is_complete(repository: Path) -> None:
    facts = yaml.safe_load((repository / "conf/data/sentinel2_stac.yaml").read_text())
    card = Card.model_validate(facts)
    assert card.inconsistency() is None and card.stac is not None
    assert {band.name for band in card.bands} | {"SCL"} == set(card.stac.assets)


@pytest.mark.parametrize("band", ["swir_1", "B02", "red-edge.1"])
def test_a_band_is_named_by_its_whole_file_name(
    band: str, tmp_path: Path, write_raster: Callable[..., Path], make_card: Callable[..., Card]
) -> None:
    write_raster(tmp_path / "S1" / f"{band}.tif", np.ones((1, 4, 4), np.uint8), [""])
    write_raster(tmp_path / "S1" / "other_1.tif", np.zeros((1, 4, 4), np.uint8), [""])
    card = make_card(
        {"name": "scene_folders", "images": ["*.tif"], "bands_by": "file"}, {band: 10.0}
    )
    scene = open_source(card, tmp_path).open("S1")
    assert isinstance(scene, Scene)
    assert (scene.read(0, 0, 4, 4, "nearest") == 1).all()
    with rasterio.open(scene.files[0]) as file:
        assert Path(file.name).stem == band
