"""Official lists: the forms in which they are published, real ones, and bad ones."""

from __future__ import annotations

import bz2
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from swath.errors import ConfigError, DataError
from swath.split.ground import Ground
from swath.split.lists import parts_of
from swath.split.schemes import official

MakeGround = Callable[..., Ground]
LISTS = {"train": ["Crop/Crop_1.tif", "River/River_1.tif"], "val": ["Crop/Crop_2.tif"],
         "test": ["Crop/Crop_3.tif", "River/River_3.tif"]}  # fmt: skip
NAMES = ["Crop/Crop_1.jpg", "Crop/Crop_2.jpg", "Crop/Crop_3.jpg", "River/River_1.jpg",
         "River/River_2.jpg", "River/River_3.jpg"]  # fmt: skip
PARTS = ["train", "val", "test", "train", "unused", "test"]


def named(make_ground: MakeGround, folder: Path, names: list[str]) -> Ground:
    """Patches far from each other, of these names."""
    return make_ground(
        5e5 + 1e3 * np.arange(len(names)), [5e6] * len(names), data=folder, name=names
    )


def csv(names: list[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def table(column: str = "split") -> pd.DataFrame:
    rows = [(name, part) for part, names in LISTS.items() for name in names]
    return pd.DataFrame(rows, columns=["path", column]).assign(country="Austria")


def write(folder: Path, form: str) -> dict[str, str]:
    """The lists in one of the forms, and the settings that read it."""
    if form == "one file a part":
        for part, names in LISTS.items():
            (folder / f"{part}.txt").write_text(csv(names))
        return {part: f"{part}.txt" for part in LISTS}
    if form == "compressed, with a header":
        for part, names in LISTS.items():
            text = "path,class_name,label\n" + "".join(f"{name},Crop,0\n" for name in names)
            (folder / f"{part}.csv.bz2").write_bytes(bz2.compress(text.encode()))
        return {part: f"{part}.csv.bz2" for part in LISTS}
    if form == "zip":
        with zipfile.ZipFile(folder / "lists.zip", "w") as archive:
            archive.writestr("README", "three lists")
            archive.writestr("splits/train.csv", csv(LISTS["train"]))
            archive.writestr("splits/val.csv.gz", gzip.compress(csv(LISTS["val"]).encode()))
            archive.writestr("splits/testing.csv.bz2", bz2.compress(csv(LISTS["test"]).encode()))
        return {"file": "lists.zip", "test": "testing"}
    if form == "JSON of entries":
        entries = {part: [[name, 0, "Crop"] for name in names] for part, names in LISTS.items()}
        (folder / "split.json.gz").write_bytes(gzip.compress(json.dumps(entries).encode()))
        return {"file": "split.json.gz"}
    if form == "JSON of names":
        (folder / "split.json").write_text(json.dumps({"training": LISTS["train"], **LISTS}))
        return {"file": "split.json", "train": "training"}
    if form == "CSV":
        table().to_csv(folder / "table.csv.gz", index=False)
        return {"file": "table.csv.gz"}
    table("role").replace("val", "validation").to_parquet(folder / "table.parquet")
    return {"file": "table.parquet", "column": "role", "names": "path", "val": "validation"}


FORMS = ["one file a part", "compressed, with a header", "zip", "JSON of entries", "JSON of names",
         "CSV", "Parquet"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_parts(
    make_ground: MakeGround, tmp_path: Path, form: str
) -> None:
    settings = write(tmp_path, form)
    (parts,) = official(named(make_ground, tmp_path, NAMES), **settings)
    assert parts.tolist() == PARTS


def test_a_list_of_no_validation_is_left_empty(make_ground: MakeGround, tmp_path: Path) -> None:
    settings = write(tmp_path, "CSV")
    (parts,) = official(named(make_ground, tmp_path, NAMES), **settings | {"val": ""})
    assert parts.tolist() == [part.replace("val", "unused") for part in PARTS]


@pytest.mark.parametrize(
    ("names", "lists", "expected"),
    [
        # Without folder, on either side.
        (["a/x_1.tif", "b/x_2.tif"], {"train": ["x_1"], "test": ["x_2.png"]}, ["train", "test"]),
        (["x_1", "x_2"], {"train": ["a/x_1.tif"], "test": ["b/x_2.tif"]}, ["train", "test"]),
        # A stem that is not the only one says nothing.
        (["a/1", "b/1", "c/2"], {"train": ["1"], "test": ["2"]}, ["unused", "unused", "test"]),
        (["1", "2"], {"train": ["a/1"], "test": ["b/1", "b/2"]}, ["unused", "test"]),
        # A dot in a name is no suffix of an image.
        (["S2.1", "S2.2"], {"train": ["S2.1"], "test": ["S2.2"]}, ["train", "test"]),
    ],
)
def test_names_are_matched_with_and_without_folder_and_suffix(
    names: list[str], lists: dict[str, list[str]], expected: list[str]
) -> None:
    found = parts_of(pd.DataFrame({"name": names, "row": 0, "col": 0}), lists)
    assert found.tolist() == expected


def test_patches_of_a_listed_scene_are_found_by_the_scene() -> None:
    places = pd.DataFrame(
        {
            "name": ["Ghana_97059_0_0", "Ghana_97059_0_64", "USA_905409_64_0", "Spain_1_0_0"],
            "row": [0, 0, 64, 0],
            "col": [0, 64, 0, 0],
        }
    )
    lists = {"train": ["USA_905409_S1Hand.tif"], "test": ["Ghana_97059_S1Hand.tif"]}
    found = parts_of(places, lists, ending="_S1Hand.tif")
    assert found.tolist() == ["test", "test", "train", "unused"]


def test_a_name_in_two_lists_is_told() -> None:
    places = pd.DataFrame({"name": ["a", "b"], "row": 0, "col": 0})
    with pytest.raises(DataError) as refused:
        parts_of(places, {"train": ["a", "b"], "test": ["b.tif"]})
    assert str(refused.value) == (
        "b.tif is listed in train and in test; correct the list: a patch has one part"
    )


def test_lists_of_other_names_are_told() -> None:
    places = pd.DataFrame({"name": ["a/1"], "row": 0, "col": 0})
    with pytest.raises(DataError) as refused:
        parts_of(places, {"train": ["b/2"], "test": []})
    assert str(refused.value) == (
        "no patch is listed: the lists name b/2, the patches are called a/1; "
        "see names and ending of the scheme `official`"
    )


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("absent.csv", None, "there is no such list; add it to the files of the dataset"),
        (
            "cut.csv.gz",
            gzip.compress(b"a" * 999, mtime=0)[:-9],
            "is damaged (Compressed file ended before",
        ),
        ("bits.csv.bz2", b"BZh9" + bytes(20), "is damaged (Invalid data stream)"),
        ("latin.csv", b"\xff\xfe\x00", "is damaged ('utf-8' codec can't decode"),
        ("cut.zip", b"PK\x03\x04", "is not a whole zip archive"),
        ("list.json", b"[1, 2]", "is not JSON of the form {part: [name, ...]}; fetch it again"),
        ("cut.json", b'{"train": ["a', "is not JSON of the form {part: [name, ...]}"),
        ("number.json", b'{"train": 5}', "is not JSON of the form {part: [name, ...]}"),
        ("cut.parquet", b"PAR1", "is no table ("),
        ("empty.csv", b"", "is no table (No columns to parse from file)"),
        ("other.csv", b"path,splits\na,train\n", "has no column 'split'; did you mean 'splits'?"),
    ],
)
def test_bad_lists_are_told_in_one_line(
    make_ground: MakeGround, tmp_path: Path, name: str, content: bytes | None, line: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        official(named(make_ground, tmp_path, NAMES), file=name)
    assert str(refused.value).startswith(f"{tmp_path / name}: {line}")
    assert "\n" not in str(refused.value)


def test_an_unknown_word_of_a_part_is_told(make_ground: MakeGround, tmp_path: Path) -> None:
    settings = write(tmp_path, "CSV")
    with pytest.raises(ConfigError) as refused:
        official(named(make_ground, tmp_path, NAMES), **settings | {"test": "tests"})
    assert str(refused.value) == (
        "split.official.test: table.csv.gz holds no list 'tests'; did you mean 'test'?"
    )


# ---- real lists


@pytest.mark.parametrize(
    ("file", "sizes"),
    [
        ("split_zhou_EuroSAT.json.gz", (13_500, 5_400, 8_100)),
        ("stratified_72_8_20_manifests.zip", (19_440, 2_160, 5_400)),
    ],
)
def test_published_splits_of_eurosat(
    eurosat: Ground, file: str, sizes: tuple[int, int, int]
) -> None:
    (parts,) = official(eurosat, file=file)
    # Both are random: what shares ground with the test list is left out of what comes before it.
    assert (parts == "test").sum() == sizes[2]
    assert 0.95 * sizes[0] < (parts == "train").sum() < sizes[0]
    assert 0.95 * sizes[1] < (parts == "val").sum() < sizes[1]
    assert (parts == "unused").sum() == 27_000 - np.isin(parts, ["train", "val", "test"]).sum()


def test_published_splits_of_bigearthnet(make_ground: MakeGround, real_data: Path) -> None:
    folder = real_data / "bigearthnet"
    known = pd.read_parquet(folder / "bigearthnet_v2_metadata.parquet").iloc[::5000]
    new = named(make_ground, folder, known["patch_id"].tolist())
    settings = {"file": "bigearthnet_v2_metadata.parquet", "val": "validation"}
    (parts,) = official(new, **settings)
    expected = known["split"].replace("validation", "val").tolist()
    assert parts.tolist() == expected and len(expected) == 97
    old = named(make_ground, folder, known["s2v1_name"].tolist())
    assert official(old, **settings, names="s2v1_name")[0].tolist() == expected
    # The first version of the data set has another split, of the same patches and more.
    (first,) = official(old, file="bigearthnet_v1_splits.zip")
    assert set(first) == {"train", "val", "test"} and (first != parts).any()


def test_published_test_list_of_sen1floods11(
    make_ground: MakeGround, real_data: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(real_data / "scenes" / "sen1floods11_sample_13chips.zip") as archive:
        for name in ("flood_test_data.csv", "flood_bolivia_data.csv"):
            (tmp_path / name).write_bytes(archive.read(f"sen1floods11/splits/{name}"))
        chips = sorted(n.split("/")[-1] for n in archive.namelist() if "S1Hand" in n)
    names = [chip.removesuffix("_S1Hand.tif") for chip in chips]
    ground = named(make_ground, tmp_path, [f"{name}_0_0" for name in names])
    (parts,) = official(
        ground, train="flood_bolivia_data.csv", val="", test="flood_test_data.csv",
        ending="_S1Hand.tif",
    )  # fmt: skip
    listed = {line.split(",")[0] for line in (tmp_path / "flood_test_data.csv").open()}
    assert [part == "test" for part in parts] == [chip in listed for chip in chips]
    assert 0 < (parts == "test").sum() <= 13
