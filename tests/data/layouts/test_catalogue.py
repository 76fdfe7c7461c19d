"""The catalogue of `conf/data`: every entry composes, and real packs go from archive to split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely

from swath import plan
from swath.data.card import UNLABELLED, Card
from swath.data.fetch import fetch
from swath.data.layouts import open_source
from swath.data.patchset import PatchSet
from swath.data.scene import Scene
from swath.split.deal import deal
from swath.split.ground import Ground

CARDS = sorted(path.stem for path in Path(__file__).parents[3].glob("conf/data/*.yaml"))


def composed(repository: Path, name: str, *overrides: str) -> Card:
    asked = [f"data={name}", *overrides]
    experiment = plan.compose(repository / "conf", "embedded", asked)
    return Card.model_validate(experiment.sections["data"])


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_complete(repository: Path, name: str) -> None:
    card = composed(repository, name)
    assert (repository / "conf/data" / f"{name}.yaml").read_text().startswith("#")
    assert len(set(card.classes.values())) == len(card.classes)
    for file in card.files:
        assert file.md5 or file.sha256 or file.content
        assert file.address is None or file.address.startswith("https://")
    assert len({band.name for band in card.bands}) == len(card.bands)


@pytest.fixture
def fetched(real_data: Path, repository: Path, tmp_path: Path) -> Callable[..., tuple[Card, Path]]:
    """Fetches the dataset of a card from the folder of real data, as a mirror."""

    def bring(name: str, *overrides: str) -> tuple[Card, Path]:
        card = composed(repository, name, *overrides)
        folder = tmp_path / "data" / card.name
        manifest = fetch(card, folder, state=tmp_path / "state", mirror=str(real_data))
        assert set(manifest["proofs"]) == {file.name for file in card.files}
        return card, folder

    return bring


def ground_of(patches: PatchSet, folder: Path) -> Ground:
    return Ground(patches.places, patches.contents, list(patches.facts["classes"]), folder)


def parts_of(ground: Ground, scheme: str = "official", **settings: Any) -> dict[str, str]:
    """Name -> part."""
    table, _ = deal(ground, scheme, scheme, settings)
    return dict(zip(ground.places["name"], table["part"], strict=True))


def check(index: dict[str, Any], scene: str) -> dict[str, Any]:
    (found,) = (row for row in index["checks"] if row["scene"] == scene)
    return found


Fetched = Callable[..., tuple[Card, Path]]
CutSet = Callable[..., Any]


# ---- Sen1Floods11


def test_flood_chips_are_cut_and_set_aside(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("sen1floods11_sample")
    cut = cut_set(card, folder, size_px=128, min_valid=0.5)
    index, patches = cut.index, cut.patches
    assert check(index, "Paraguay_34417")["faults"] == ["has no data at all"]
    assert check(index, "Ghana_83483")["left_out"] == 16  # not one of its pixels is labelled
    nigeria = check(index, "Nigeria_812045")
    assert (nigeria["patches"], nigeria["left_out"]) == (15, 1)
    assert nigeria["nan"] == pytest.approx(0.0022, abs=5e-5)
    assert (len(patches), index["left_out"]) == (156, 36)
    assert patches.facts["gsd_m"] == pytest.approx(9.92, abs=0.01)
    dry = patches.places["name"].str.startswith("Ghana_53713").to_numpy()
    assert patches.contents[dry].sum(axis=0).tolist() == [512 * 512, 0]


def test_flood_labels_and_decibels_are_those_of_the_files(
    fetched: Fetched, cut_set: CutSet
) -> None:
    card, folder = fetched("sen1floods11_sample")
    patches = cut_set(card, folder, size_px=128, min_valid=0.0).patches
    at = int(np.flatnonzero(patches.places["name"] == "Nigeria_812045_0_128")[0])
    chip = folder / "sen1floods11"
    with rasterio.open(chip / "S1/Nigeria_812045_S1Hand.tif") as file:
        image = file.read()[:, :128, 128:256]
        west, north = file.transform @ (128, 0)
    with rasterio.open(chip / "Labels/Nigeria_812045_LabelHand.tif") as file:
        codes = file.read(1)[:128, 128:256]
    assert np.array_equal(patches.image.gather(np.array([at]))[0], image, equal_nan=True)
    place = patches.places.iloc[at]
    assert (place["west"], place["north"]) == pytest.approx((west, north))
    assert place["epsg"] == 4326
    label = patches.label.gather(np.array([at]))[0]
    unseen = np.isnan(image).any(axis=0)
    expected = np.where((codes < 0) | unseen, UNLABELLED, codes)
    assert np.array_equal(label, expected)


def test_no_pixel_without_data_is_labelled(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("sen1floods11_sample")
    patches = cut_set(card, folder, size_px=128, min_valid=0.0).patches
    every = np.arange(len(patches))
    unseen = np.isnan(patches.image.gather(every)).any(axis=1)
    assert unseen.sum() == 579
    assert (patches.label.gather(every)[unseen] == UNLABELLED).all()


def test_flood_lists_name_the_chips(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("sen1floods11_sample")
    ground = ground_of(cut_set(card, folder, size_px=128, min_valid=0.5).patches, folder)
    parts = parts_of(
        ground, ending="_S1Hand.tif", val="", train="sen1floods11/splits/flood_test_data.csv",
        test="sen1floods11/splits/flood_bolivia_data.csv",
    )  # fmt: skip
    chips = {name.rsplit("_", 2)[0]: part for name, part in parts.items()}
    assert {chip for chip, part in chips.items() if part == "test"} == {
        "Mekong_333434", "Pakistan_849790", "USA_905409"
    }  # fmt: skip
    assert chips["Sri-Lanka_534068"] == "train"
    assert chips["Spain_7370579"] == "unused"  # in neither list of the sample


def test_the_optical_chip_has_thirteen_bands(fetched: Fetched, repository: Path) -> None:
    _, folder = fetched("sen1floods11_sample")
    card = composed(
        repository, "sen1floods11_s2",
        "data.layout.images=['sen1floods11/S2/{scene}_S2Hand.tif']",
        "data.layout.labels='sen1floods11/Labels/{scene}_LabelHand.tif'",
    )  # fmt: skip
    source = open_source(card, folder)
    assert source.names == ("Spain_7370579",)
    scene = source.open(source.names[0])
    assert isinstance(scene, Scene)
    assert scene.bands[8] == "B8A"
    image = scene.read(100, 200, 50, 60, "nearest")
    with rasterio.open(folder / "sen1floods11/S2/Spain_7370579_S2Hand.tif") as file:
        assert np.array_equal(image, file.read()[:, 100:150, 200:260])
    assert set(np.unique(scene.read_labels(0, 0, 512, 512))) == {0, 1, UNLABELLED}


# ---- Rachel Carson Reserve


def test_polygons_in_metres_label_a_scene_in_degrees(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("rachel_carson")
    cut = cut_set(card, folder, size_px=8, min_valid=0.01)
    scene = check(cut.index, "s2_rcr")
    assert scene["nodata"] == pytest.approx(0.315, abs=1e-3)  # 255 is outside, in every band
    patches = cut.patches
    assert (len(patches), patches.facts["gsd_m"]) == (59, pytest.approx(8.23, abs=0.01))
    assert patches.contents.sum(axis=0).tolist() == [144, 39, 124, 82, 155, 54]
    # The same polygons in square metres of UTM, over 8.15 x 8.23 m a pixel.
    _, _, shapes, (names, _) = pyogrio.raw.read(folder / "s2_rcr/labels/rcr_landcover.shp")
    areas = pd.Series(shapely.area(shapely.from_wkb(shapes))).groupby(names).sum()
    pixels = areas[list(card.classes)] / (8.984632940281312e-5 * 7.391322126306281e-5)
    pixels = pixels / (111_320 * np.cos(np.radians(34.7)) * 110_930)
    assert np.allclose(patches.contents.sum(axis=0), pixels, rtol=0.1)
    assert patches.places["time"].astype(str).unique().tolist() == ["2018-10-13"]
    wide = patches.places["east"] - patches.places["west"]
    tall = patches.places["north"] - patches.places["south"]
    assert np.allclose(wide / tall, 8.984632940281312 / 7.391322126306281)


def test_blocks_divide_the_polygons(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("rachel_carson")
    patches = cut_set(card, folder, size_px=8, min_valid=0.01).patches
    _, verdict = deal(
        ground_of(patches, folder), "blocks", "blocks", {"size_m": 132.0, "val": 0.25, "test": 0.25}
    )
    assert verdict["passed"]
    assert verdict["overlapping_pairs"] == 0


# ---- BigEarthNet


def test_both_official_splits_of_bigearthnet(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("bigearthnet_sample")
    patches = cut_set(card, folder, size_px=None, native_gsd=True).patches
    assert patches.image.shape == (14, 12, 120, 120)
    assert patches.contents.sum() == 39
    ground = ground_of(patches, folder)
    first = parts_of(ground, file="bigearthnet_v1_splits.zip")
    assert first["S2A_MSIL2A_20170613T101031_87_48"] == "test"
    assert first["S2B_MSIL2A_20170924T093019_43_47"] == "val"
    # Named exactly: the lists have 41_40 to 41_49, too.
    assert first["S2B_MSIL2A_20180421T114349_41_4"] == "test"
    assert first["S2B_MSIL2A_20180204T94161_57_38"] == "unused"  # snow: in no list
    assert sorted(first.values()) == ["test"] * 3 + ["train"] * 7 + ["unused"] + ["val"] * 3
    second = parts_of(
        ground, file="bigearthnet_v2_metadata.parquet", names="s2v1_name", val="validation"
    )
    assert second["S2A_MSIL2A_20170613T101031_87_48"] == "train"
    assert second["S2B_MSIL2A_20170927T094019_66_56"] == "test"
    assert list(second.values()).count("unused") == 1


def test_sentinel_1_goes_by_the_column_of_its_names(fetched: Fetched, cut_set: CutSet) -> None:
    files = (
        "data.files=[{name: bigearthnet_v1_patches.zip, unpack: true, content:"
        " 93995639caa4afc055bc47660acb453fcc5055ce1338a764202ef51afed26c3f},"
        "{name: bigearthnet_v2_metadata.parquet, sha256:"
        " 408911df2da7092da9ecc72071972a808ec486ba09f6cb048f7716793d14ded6}]"
    )
    card, folder = fetched("bigearthnet_s1", files)
    ground = ground_of(cut_set(card, folder, size_px=None).patches, folder)
    parts = parts_of(
        ground, file="bigearthnet_v2_metadata.parquet", names="s1_name", val="validation"
    )
    assert parts["S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_40"] == "test"
    assert parts["S1A_IW_GRDH_1SDV_20170925T043256_35VPK_69_24"] == "val"
    assert len(parts) == 9


# ---- Statlog Landsat


def test_rows_of_a_table_are_named_by_part(fetched: Fetched, cut_set: CutSet) -> None:
    card, folder = fetched("statlog")
    patches = cut_set(card, folder, size_px=None).patches
    assert patches.image.shape == (6435, 4, 3, 3)
    assert patches.contents.sum(axis=0).tolist() == [1533, 703, 1358, 626, 707, 1508]
    parts = patches.places["name"].str.split("/").str[0]
    assert parts.value_counts().to_dict() == {"train": 4435, "test": 2000}
    assert (patches.places["epsg"] == 0).all()
    assert patches.places["west"].isna().all()
