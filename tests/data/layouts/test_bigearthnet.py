"""BigEarthNet: the real patches, from folders, labels and version 2's table to arrays."""

from __future__ import annotations

import json
import logging
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio

from swath import plan
from swath.data import archives
from swath.data.card import Card
from swath.data.layouts import bigearthnet, open_source
from swath.data.published import Published
from swath.errors import DataError

AUSTRIA = "S2A_MSIL2A_20170613T101031_87_48"
FINLAND = "S2B_MSIL2A_20180204T94161_57_38"
TABLE = "table.parquet"


@pytest.fixture(scope="module")
def unpacked(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real patches, with version 2's table of them and of a few others."""
    folder = tmp_path_factory.mktemp("bigearthnet") / "bigearthnet"
    archives.unpack(real_data / "bigearthnet" / "bigearthnet_v1_patches.zip", folder)
    table = pd.read_parquet(real_data / "bigearthnet" / "bigearthnet_v2_metadata.parquet")
    names = [path.name for path in folder.glob("*/S*")]
    ours = table["s2v1_name"].isin(names) | table["s1_name"].isin(names)
    pd.concat([table[ours], table[:5]]).to_parquet(folder / TABLE)
    return folder


def card_of(repository: Path, name: str, **layout: Any) -> Card:
    composed = plan.compose(repository / "conf", "embedded", [f"data={name}"]).sections["data"]
    facts = composed | {"layout": composed["layout"] | layout, "files": []}
    return Card.model_validate(facts)


@pytest.fixture(scope="module")
def cards(repository: Path) -> dict[str, Card]:
    return {
        "s2": card_of(repository, "bigearthnet_s2"),
        "v2": card_of(repository, "bigearthnet_s2", metadata=TABLE),
        "clc": card_of(repository, "bigearthnet_s2_clc"),
        "s1": card_of(repository, "bigearthnet_s1"),
        "mm": card_of(repository, "bigearthnet_mm", metadata=TABLE),
    }


def pieces(card: Card, folder: Path) -> dict[str, Published]:
    source = open_source(card, folder)
    found = {name: source.open(name) for name in source.names}
    assert all(isinstance(piece, Published) for piece in found.values())
    return found  # type: ignore[return-value]


def named(card: Card, folder: Path, name: str) -> tuple[Published, pd.Series]:
    """The acquisition that holds a patch, and the patch's row."""
    for piece in pieces(card, folder).values():
        row = piece.places[piece.places["name"] == name]
        if len(row):
            return piece.between(int(row.index[0]), int(row.index[0]) + 1), row.iloc[0]
    raise AssertionError(name)


def labels_of(card: Card, folder: Path, name: str) -> set[str]:
    piece, _ = named(card, folder, name)
    _, labels = piece.read(piece.places)
    return {c for c, has in zip(card.classes, labels[0], strict=True) if has}


def names_in(card: Card, folder: Path) -> list[str]:
    return [n for piece in pieces(card, folder).values() for n in piece.places["name"]]


def raster(folder: Path, name: str, band: str) -> np.ndarray:
    path = next(folder.glob(f"*/{name}/{name}_{band}.tif"))
    with rasterio.open(path) as file:
        return file.read(1)


# ---- Sentinel-2


def test_patches_are_found_by_acquisition_and_once(
    cards: dict[str, Card], unpacked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = pieces(cards["s2"], unpacked)
    assert "3 patches lie in two folders and count once" in caplog.text
    assert len(found) == 12
    assert sum(len(piece.places) for piece in found.values()) == 14
    assert found["S2A_MSIL2A_20170617T113321"].places["name"].tolist() == [
        "S2A_MSIL2A_20170617T113321_4_55", "S2A_MSIL2A_20170617T113321_36_85"
    ]  # fmt: skip
    assert all(len(piece.files) == 13 * len(piece.places) for piece in found.values())


def test_every_band_has_its_own_pixels(cards: dict[str, Card], unpacked: Path) -> None:
    piece, _ = named(cards["s2"], unpacked, AUSTRIA)
    images, _ = piece.read(piece.places)
    assert [image.shape for image in images] == [(1, 4, 120, 120), (1, 6, 60, 60), (1, 2, 20, 20)]
    assert [factor for _, factor in piece.factors] == [1, 2, 6]
    for image, (bands, _) in zip(images, piece.factors, strict=True):
        assert image.dtype == np.uint16
        for number, band in enumerate(bands):
            assert np.array_equal(image[0, number], raster(unpacked, AUSTRIA, band))


def test_a_patch_lies_where_its_pixels_do(cards: dict[str, Card], unpacked: Path) -> None:
    for piece in pieces(cards["s2"], unpacked).values():
        for row in piece.places.itertuples():
            with rasterio.open(next(unpacked.glob(f"*/{row.name}/{row.name}_B02.tif"))) as file:
                assert (row.west, row.south, row.east, row.north) == tuple(file.bounds)
                assert row.epsg == file.crs.to_epsg()
    _, austria = named(cards["s2"], unpacked, AUSTRIA)
    # The corner of tile 33UUP is 300,000 E, 5,400,000 N: column 87 and row 48 of 1,200 m.
    assert (austria.col * 10 + 300_000, 5_400_000 - austria.row * 10) == (404_400, 5_342_400)
    assert austria.time == datetime(2017, 6, 13, 10, 10, 31)
    # The name says 9:41:61; the file of the patch knows better.
    assert named(cards["s2"], unpacked, FINLAND)[1].time == datetime(2018, 2, 4, 9, 41, 56)


def test_labels_in_both_sets_of_classes(cards: dict[str, Card], unpacked: Path) -> None:
    agriculture = (
        "Land principally occupied by agriculture, with significant areas of natural vegetation"
    )
    assert labels_of(cards["s2"], unpacked, AUSTRIA) == {"Arable land", agriculture}
    assert labels_of(cards["clc"], unpacked, AUSTRIA) == {"Non-irrigated arable land", agriculture}


def test_version_2_and_our_merging_of_classes_agree(cards: dict[str, Card], unpacked: Path) -> None:
    names = set(names_in(cards["v2"], unpacked))
    assert names == set(names_in(cards["s2"], unpacked)) - {FINLAND}
    for name in names:
        merged, published = (labels_of(cards[of], unpacked, name) for of in ("s2", "v2"))
        assert merged == published


def test_classes_are_merged_as_published(cards: dict[str, Card]) -> None:
    new = {bigearthnet.MERGED.get(name, name) for name in cards["clc"].classes}
    assert new - {None} == set(cards["s2"].classes)
    assert len(cards["clc"].classes) == 43
    # "Eleven classes are removed."
    assert sum(bigearthnet.MERGED.get(name, name) is None for name in cards["clc"].classes) == 11
    assert set(bigearthnet.MERGED) <= set(cards["clc"].classes)


# ---- Sentinel-1, and both


def test_radar_patches(cards: dict[str, Card], unpacked: Path) -> None:
    found = pieces(cards["s1"], unpacked)
    assert sum(len(piece.places) for piece in found.values()) == 9
    name = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_40"
    piece, row = named(cards["s1"], unpacked, name)
    images, _ = piece.read(piece.places)
    assert len(images) == 1
    assert images[0].dtype == np.float32
    assert np.array_equal(images[0][0, 1], raster(unpacked, name, "VH"))
    assert row.time == datetime(2017, 6, 13, 16, 50, 43)
    assert labels_of(cards["s1"], unpacked, name) >= {"Inland wetlands", "Inland waters"}


def test_both_sensors_are_one_image(cards: dict[str, Card], unpacked: Path) -> None:
    # Of six pairs, the table of version 2 lacks the snowy one.
    assert len(names_in(cards["mm"], unpacked)) == 5
    piece, _ = named(cards["mm"], unpacked, "S2B_MSIL2A_20170924T93020_69_24")
    images, _ = piece.read(piece.places)
    together = piece.on_finest(images, "nearest")
    assert together.shape == (1, 14, 120, 120)
    vv = raster(unpacked, "S1A_IW_GRDH_1SDV_20170925T043256_35VPK_69_24", "VV")
    assert np.array_equal(together[0, 12], vv)
    b01 = raster(unpacked, "S2B_MSIL2A_20170924T93020_69_24", "B01")
    assert np.array_equal(together[0, 0], b01.repeat(6, 0).repeat(6, 1))


def test_both_sensors_need_the_table(
    repository: Path, cards: dict[str, Card], unpacked: Path
) -> None:
    with pytest.raises(DataError, match="belongs to which") as told:
        open_source(card_of(repository, "bigearthnet_mm", metadata=None), unpacked)
    assert "data.layout.metadata" in str(told.value)


# ---- what the table says


def test_flagged_patches_are_left_out_unless_asked_for(
    repository: Path, unpacked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "flagged"
    shutil.copytree(unpacked, folder)
    table = pd.read_parquet(folder / TABLE)
    table.loc[table["s2v1_name"] == AUSTRIA, "contains_seasonal_snow"] = True
    table.to_parquet(folder / TABLE)
    clear = card_of(repository, "bigearthnet_s2", metadata=TABLE)
    every = card_of(repository, "bigearthnet_s2", metadata=TABLE, flagged=True)
    assert set(names_in(every, folder)) - set(names_in(clear, folder)) == {AUSTRIA}


def test_patches_of_version_2_have_no_json_files(
    repository: Path, unpacked: Path, tmp_path: Path
) -> None:
    """A twin of version 2's layout: a folder a tile, names with the tile, labels in the table."""
    name = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_87_48"
    folder = tmp_path / "v2" / "BigEarthNet-S2" / name.removesuffix("_87_48") / name
    folder.mkdir(parents=True)
    for path in unpacked.glob(f"*/{AUSTRIA}/*.tif"):
        shutil.copy(path, folder / path.name.replace(AUSTRIA, name))
    shutil.copy(unpacked / TABLE, tmp_path / "v2" / TABLE)
    card = card_of(repository, "bigearthnet_s2", metadata=TABLE)
    piece, row = named(card, tmp_path / "v2", name)
    assert (row.west, row.north, row.epsg) == (404_400, 5_342_400, 32633)
    assert row.time == datetime(2017, 6, 13, 10, 10, 31)
    assert row.scene == "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    assert "Arable land" in labels_of(card, tmp_path / "v2", name)
    assert len(piece.files) == 13


def test_a_table_that_is_none_is_told(repository: Path, unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked, tmp_path / "b")
    card = card_of(repository, "bigearthnet_s2", metadata="other.parquet")
    with pytest.raises(DataError, match=r"cannot be read .*other\.parquet|other\.parquet.*read"):
        open_source(card, tmp_path / "b")
    table = pd.read_parquet(unpacked / TABLE)
    table[table["country"] == "Nowhere"].to_parquet(tmp_path / "b" / "other.parquet")
    with pytest.raises(DataError, match="lists none of the patches"):
        open_source(card, tmp_path / "b")


# ---- what is broken


@pytest.fixture
def two(unpacked: Path, tmp_path: Path) -> Path:
    """Both patches of one acquisition."""
    for path in unpacked.glob("BigEarthNet-S2-tiny/S2A_MSIL2A_20170617T113321_*"):
        shutil.copytree(path, tmp_path / "two" / path.name)
    return tmp_path / "two"


def file_of(folder: Path, suffix: str) -> Path:
    name = "S2A_MSIL2A_20170617T113321_4_55"
    return folder / name / f"{name}_{suffix}"


def test_a_patch_that_cannot_be_read_is_no_data(
    cards: dict[str, Card], two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_of(two, "B05.tif")
    path.write_bytes(path.read_bytes()[:3000])
    (piece,) = pieces(cards["s2"], two).values()
    images, _ = piece.read(piece.places)
    assert "a patch is left out" in caplog.text
    assert path.name in caplog.text
    assert [bool(image[0].any()) for image in images] == [False, False, False]
    assert [bool(image[1].any()) for image in images] == [True, True, True]


def test_a_patch_of_another_size_is_no_data(
    cards: dict[str, Card], two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(file_of(two, "B05.tif"), file_of(two, "B01.tif"))
    (piece,) = pieces(cards["s2"], two).values()
    assert not piece.read(piece.places)[0][0][0].any()
    assert "has 60 x 60 px, not 20 x 20" in caplog.text


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        ("B05.tif", None, "has no S2A_MSIL2A_20170617T113321_4_55_B05.tif"),
        ("labels_metadata.json", b'{"labels": ["Past', "cannot be read"),
        ("labels_metadata.json", b"[]", "is not what BigEarthNet publishes"),
        ("labels_metadata.json", b'{"labels": ["Pastures"]}', "does not say where it lies"),
        ("labels_metadata.json", None, "has no labels"),
    ],
)
def test_a_patch_that_lacks_something_is_left_out_by_name(
    cards: dict[str, Card],
    two: Path,
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    content: bytes | None,
    said: str,
) -> None:
    path = file_of(two, suffix)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert names_in(cards["s2"], two) == ["S2A_MSIL2A_20170617T113321_36_85"]
    assert said in caplog.text


def relabel(folder: Path, labels: list[str]) -> None:
    for path in folder.glob("*/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))


def test_a_patch_without_a_class_of_the_card_is_left_out(cards: dict[str, Card], two: Path) -> None:
    relabel(two, ["Airports"])
    assert len(names_in(cards["clc"], two)) == 2
    with pytest.raises(DataError, match="no patch has a class of the card"):
        pieces(cards["s2"], two)


def test_an_unknown_label_is_an_error(cards: dict[str, Card], two: Path) -> None:
    relabel(two, ["Pasture"])
    with pytest.raises(DataError, match="has the label 'Pasture'") as told:
        pieces(cards["s2"], two)
    assert "Pastures" in str(told.value)


def test_a_folder_without_patches_is_told(cards: dict[str, Card], tmp_path: Path) -> None:
    (tmp_path / "empty" / "S2_of_mine").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no patch of Sentinel-2"):
        open_source(cards["s2"], tmp_path / "empty")
