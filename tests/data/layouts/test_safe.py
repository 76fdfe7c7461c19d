"""Sentinel-2 products: small SAFE folders with real names and real JPEG 2000, lossless."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from opening import refused
from rasterio.transform import from_origin

from swath.data.card import UNLABELLED, Card
from swath.data.layouts import open_source
from swath.data.scene import Scene

MakeCard = Callable[..., Card]
BANDS = {"B02": 10.0, "B8A": 20.0, "B01": 60.0}
SIDES = {10: 120, 20: 60, 60: 20}
NUMBERS = {"B01": 0, "B02": 1, "B8A": 8}
OLD = "S2A_MSIL2A_20210701T101031_N0301_R022_T32TQM_20210701T133000"
NEW = "S2B_MSIL2A_20220701T101609_N0400_R065_T32TQM_20220701T133111"


def write_jp2(path: Path, pixels: np.ndarray, gsd_m: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "JP2OpenJPEG", "count": 1, "height": pixels.shape[0], "width": pixels.shape[1],
        "dtype": pixels.dtype, "crs": "EPSG:32632",
        "transform": from_origin(699960.0, 5200020.0, gsd_m, gsd_m),
        "QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": 64, "BLOCKYSIZE": 64,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels, 1)


@pytest.fixture(scope="session")
def reflectance() -> dict[str, np.ndarray]:
    """10,000 × reflectance of the ground, with no data (0) in the corner."""
    rng = np.random.default_rng(3)
    found = {}
    for band, gsd in BANDS.items():
        side = SIDES[int(gsd)]
        found[band] = rng.integers(200, 9000, (side, side)).astype(np.uint16)
        found[band][: side // 10, : side // 10] = 0
    return found


def write_safe(
    folder: Path, name: str, ground: dict[str, np.ndarray], *, scale: int = 10000
) -> Path:
    """A product of a level and baseline as its name says."""
    level, stamp, tile = name[7:10], name[11:26], name[38:44]
    offset = 1000 if name[28:32] >= "0400" else 0
    product = folder / f"{name}.SAFE"
    images = product / "GRANULE" / f"{level}_{tile}_A031484_{stamp}" / "IMG_DATA"
    for band, pixels in ground.items():
        stored = np.where(pixels == 0, 0, pixels + offset).astype(np.uint16)
        gsd = int(BANDS[band])
        inside = f"R{gsd}m/{tile}_{stamp}_{band}_{gsd}m.jp2"
        write_jp2(
            images / (inside if level == "L2A" else f"{tile}_{stamp}_{band}.jp2"), stored, gsd
        )
    if level == "L2A":
        # Clouds (9) in the lower half, vegetation above.
        classes = np.full((60, 60), 4, np.uint8)
        classes[30:] = 9
        write_jp2(images / f"R20m/{tile}_{stamp}_SCL_20m.jp2", classes, 20)
    start = datetime.strptime(stamp, "%Y%m%dT%H%M%S").isoformat()
    word = "BOA" if level == "L2A" else "RADIO"
    offsets = "".join(
        f'<{word}_ADD_OFFSET band_id="{number}">-1000</{word}_ADD_OFFSET>' for number in range(13)
    )
    prefix = "BOA_" if level == "L2A" else ""
    (product / f"MTD_MSI{level}.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level[1:]}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/{level}.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{start}.024Z</PRODUCT_START_TIME>
      <PROCESSING_BASELINE>{name[28:30]}.{name[30:32]}</PROCESSING_BASELINE>
    </Product_Info>
    <Product_Image_Characteristics>
      <{prefix}QUANTIFICATION_VALUE unit="none">{scale}</{prefix}QUANTIFICATION_VALUE>
      {f"<Offset_List>{offsets}</Offset_List>" if offset else ""}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level[1:]}_User_Product>
"""
    )
    return product


def card_of(make_card: MakeCard, bands: dict[str, float] = BANDS, **layout: Any) -> Card:
    return make_card({"name": "safe"} | layout, bands, nodata=0.0)


def test_bands_lie_on_the_finest_grid_at_their_own_gsd(
    reflectance: dict[str, np.ndarray], tmp_path: Path, make_card: MakeCard,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    write_safe(tmp_path, OLD, reflectance)
    source = open_source(card_of(make_card), tmp_path)
    assert source.names == (OLD,)
    scene = source.open(OLD)
    assert isinstance(scene, Scene)
    assert scene.times == (datetime(2021, 7, 1, 10, 10, 31),)
    assert [(bands, factor) for bands, factor in scene.factors] == [
        (("B02",), 1), (("B8A",), 2), (("B01",), 6),
    ]  # fmt: skip
    assert scene.bands == ("B02", "B8A", "B01")
    assert (scene.grid.west, scene.grid.north, scene.grid.epsg) == (699960.0, 5200020.0, 32632)
    with caplog.at_level(logging.WARNING):
        image = scene.read(0, 0, 120, 120, "nearest")
    assert not caplog.records
    for number, (band, factor) in enumerate({"B02": 1, "B8A": 2, "B01": 6}.items()):
        fine = reflectance[band].repeat(factor, 0).repeat(factor, 1)
        np.testing.assert_array_equal(image[number], fine)


@pytest.mark.parametrize("level", ["L2A", "L1C"])
def test_scenes_of_before_and_after_2022_have_one_scale(
    level: str, reflectance: dict[str, np.ndarray], tmp_path: Path, make_card: MakeCard,
    cut_set: Callable[..., Any],
) -> None:  # fmt: skip
    data = tmp_path / "data"
    old, new = (name.replace("L2A", level) for name in (OLD, NEW))
    # The same ground, a little brighter after: twins would be set aside.
    after = {band: np.where(pixels, pixels + 1, 0) for band, pixels in reflectance.items()}
    write_safe(data, old, reflectance)
    write_safe(data, new, after)
    raw = next(data.glob(f"{new}.SAFE/GRANULE/*/IMG_DATA/**/*_B02*.jp2"))
    with rasterio.open(raw) as file:
        assert file.read(1)[119, 119] == after["B02"][119, 119] + 1000
    cut = cut_set(card_of(make_card, clear=[]), data, size_px=120, native_gsd=True)
    assert cut.patches.facts["scenes"] == [old, new]
    images = cut.patches.image.gather(np.arange(2)).astype(int)
    seen = images[0] > 0
    np.testing.assert_array_equal(images[1], np.where(seen, images[0] + 1, 0))
    np.testing.assert_array_equal(images[0, 0], reflectance["B02"])
    assert cut.patches.places.time.dt.year.tolist() == [2021, 2022]


def test_dark_pixels_stay_seen_below_the_offset(tmp_path: Path, make_card: MakeCard) -> None:
    ground = {"B02": np.full((120, 120), 300)}
    product = write_safe(tmp_path, NEW, ground)
    raw = next(product.glob("GRANULE/*/IMG_DATA/R10m/*_B02_10m.jp2"))
    stored = np.full((120, 120), 1300, np.uint16)
    stored[0, :3] = (0, 990, 1001)
    write_jp2(raw, stored, 10)
    scene = open_source(card_of(make_card, {"B02": 10.0}), tmp_path).open(NEW)
    assert isinstance(scene, Scene)
    # 0 is no data; a reflectance of -0.001 becomes the least that is none.
    assert scene.read(0, 0, 1, 4, "nearest").tolist() == [[[0, 1, 1, 300]]]


def test_clouds_of_the_scene_classification_are_masked(
    reflectance: dict[str, np.ndarray], tmp_path: Path, make_card: MakeCard, write_raster: Any,
    cut_set: Callable[..., Any],
) -> None:  # fmt: skip
    data = tmp_path / "data"
    write_safe(data, OLD, reflectance)
    truth = np.ones((1, 120, 120), np.uint8)
    write_raster(data / f"labels/{OLD}.tif", truth, ["class"], corner=(699960.0, 5200020.0))
    card = card_of(make_card, labels="labels/{scene}.tif")
    scene = open_source(card, data).open(OLD)
    assert isinstance(scene, Scene)
    labels = scene.read_labels(0, 0, 120, 120)
    # 30 of 60 coarse rows are cloud: rows 60 to 119 of the fine grid.
    assert (labels[:60] == 1).all() and (labels[60:] == UNLABELLED).all()
    cut = cut_set(card, data, size_px=60, min_valid=0.5)
    assert (len(cut.patches), cut.index["left_out"]) == (2, 2)
    assert cut.index["checks"][0]["clouds"] == 0.5
    clouds = open_source(card_of(make_card, labels="labels/{scene}.tif", clear=[9]), data).open(OLD)
    assert isinstance(clouds, Scene)
    assert (clouds.read_labels(0, 0, 120, 120) == 1).sum() == 60 * 120


def test_a_product_is_made_of_its_metadata_too(
    reflectance: dict[str, np.ndarray], tmp_path: Path, make_card: MakeCard
) -> None:
    write_safe(tmp_path, NEW, reflectance)
    scene = open_source(card_of(make_card), tmp_path).open(NEW)
    assert sorted(path.name for path in scene.files) == [
        "MTD_MSIL2A.xml", "T32TQM_20220701T101609_B01_60m.jp2",
        "T32TQM_20220701T101609_B02_10m.jp2", "T32TQM_20220701T101609_B8A_20m.jp2",
        "T32TQM_20220701T101609_SCL_20m.jp2",
    ]  # fmt: skip


def test_what_is_wrong_is_told_in_one_line(
    reflectance: dict[str, np.ndarray], tmp_path: Path, make_card: MakeCard
) -> None:
    card = card_of(make_card)
    assert "holds no folder *.SAFE" in refused(card, tmp_path)
    product = write_safe(tmp_path, OLD, reflectance)
    coarse = card_of(make_card, {"B02": 20.0})
    assert "has no file IMG_DATA/R20m/*_B02_20m.jp2" in refused(coarse, tmp_path)
    metadata = product / "MTD_MSIL2A.xml"
    text = metadata.read_text()
    metadata.write_text(text.replace(">10000<", ">1000<"))
    assert "has the quantification value 1000, the card the scale 10000" in refused(card, tmp_path)
    metadata.write_text(text.replace("PRODUCT_START_TIME", "START"))
    assert "MTD_MSIL2A.xml: has no PRODUCT_START_TIME" in refused(card, tmp_path)
    metadata.write_text(text[:400])
    assert "MTD_MSIL2A.xml: cannot be read (" in refused(card, tmp_path)
    metadata.unlink()
    assert "has neither MTD_MSIL2A.xml nor MTD_MSIL1C.xml" in refused(card, tmp_path)
    metadata.write_text(text)
    (product / "GRANULE/L2A_T32TQN_A0_1").mkdir()
    assert "has 2 granules, not one" in refused(card, tmp_path)


def test_a_cut_off_band_sets_its_scene_aside(
    reflectance: dict[str, np.ndarray], tmp_path: Path, make_card: MakeCard,
    cut_set: Callable[..., Any],
) -> None:  # fmt: skip
    data = tmp_path / "data"
    write_safe(data, OLD, reflectance)
    product = write_safe(data, NEW, reflectance)
    band = next(product.glob("GRANULE/*/IMG_DATA/R10m/*_B02_10m.jp2"))
    band.write_bytes(band.read_bytes()[: band.stat().st_size // 2])
    cut = cut_set(card_of(make_card), data, size_px=60)
    assert cut.patches.facts["scenes"] == [OLD]
    faults = {check["scene"]: check["faults"] for check in cut.index["checks"]}
    assert len(faults[NEW]) == 1
    assert f"{band}: cannot be read" in faults[NEW][0]


def test_a_product_is_opened_by_its_path_alone(
    tmp_path: Path, reflectance: dict[str, np.ndarray]
) -> None:
    """Its bands lie at their own GSD, or at the model's where that is coarser."""
    from swath.data.single import single_scene

    product = write_safe(tmp_path, NEW, reflectance)
    scene = single_scene(product, ["B8A", "B02"], {"gsd_m": 10.0, "scale": 10_000.0})
    assert (scene.name, scene.grid.gsd_m) == (NEW, 10.0)
    both = scene.read(0, 0, 120, 120, "nearest")
    np.testing.assert_array_equal(both[1], reflectance["B02"])
    np.testing.assert_array_equal(both[0], reflectance["B8A"].repeat(2, 0).repeat(2, 1))
