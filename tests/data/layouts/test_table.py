"""Tables of patches: what stands in a row comes back as the patch that it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from opening import refused

from swath.data import archives
from swath.data.card import Card, Target
from swath.data.fetch import fetch
from swath.data.layouts import open_source
from swath.data.published import Published

CLASSES = {"water": "#0000aa", "forest": "#00aa00", "crop": "#aaaa00"}


def card_of(bands: int, **layout: Any) -> Card:
    return Card.model_validate(
        {
            "name": "rows",
            "title": "Rows",
            "licence": "none",
            "citation": "drawn for tests",
            "labels": "patch",
            "layout": {"name": "table", "files": {"train": "a.txt"}} | layout,
            "bands": [{"name": f"b{n}", "gsd_m": 80.0} for n in range(bands)],
            "rgb": ["b0", "b0", "b0"],
            "scale": 255.0,
            "classes": CLASSES,
        }
    )


def opened(card: Card, folder: Path, part: str = "train") -> Published:
    found = open_source(card, folder).open(part)
    assert isinstance(found, Published)
    return found


def all_of(piece: Published) -> tuple[np.ndarray, np.ndarray]:
    images, labels = piece.read(piece.places)
    return images[0], labels


@settings(max_examples=30)
@given(data=st.data())
def test_a_row_comes_back_as_its_patch(data: st.DataObject) -> None:
    patches, bands, side = (data.draw(st.integers(1, most)) for most in (6, 4, 3))
    order = data.draw(st.sampled_from(["pixel", "band"]))
    apart = data.draw(st.sampled_from([" ", ",", ", ", "   "]))
    first, header = data.draw(st.booleans()), data.draw(st.integers(0, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = rng.integers(0, 256, (patches, bands, side, side), np.uint8)
    labels = rng.integers(0, 3, patches)
    codes = data.draw(st.sampled_from([None, [7, 3, 11]]))
    told = labels if codes is None else np.array(codes)[labels]
    flat = image.transpose(0, 2, 3, 1) if order == "pixel" else image
    rows = [list(row) for row in flat.reshape(patches, -1)]
    rows = [[t, *row] if first else [*row, t] for row, t in zip(rows, told, strict=True)]
    text = [f"line {n}" for n in range(header)] + [apart.join(map(str, row)) for row in rows]
    layout = {
        "side_px": side, "order": order, "codes": codes, "header": header, "dtype": "uint8",
        "label": 0 if first else -1,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.txt").write_text("\n".join(text) + "\n")
        piece = opened(card_of(bands, **layout), Path(folder))
        found, found_labels = all_of(piece)
    assert found.dtype == np.uint8
    assert np.array_equal(found, image)
    assert found_labels.tolist() == labels.tolist()
    assert piece.places["name"].tolist() == [f"train/{n + 1}" for n in range(patches)]


def test_labels_may_be_the_names_of_the_classes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1.5,-2,crop\n0,4e-3,water\n")
    image, labels = all_of(opened(card_of(2), tmp_path))
    assert labels.tolist() == [2, 0]
    assert image[:, :, 0, 0].tolist() == [[1.5, -2.0], [0.0, np.float32(0.004)]]


@pytest.mark.parametrize("apart", [",", " "])
def test_columns_may_be_chosen(tmp_path: Path, apart: str) -> None:
    (tmp_path / "a.txt").write_text("1 2 0 note\n".replace(" ", apart) * 2)
    card = card_of(2, columns=[1, 0], label=-2)
    image, labels = all_of(opened(card, tmp_path))
    assert labels.tolist() == [0, 0]
    assert image[:, :, 0, 0].tolist() == [[2.0, 1.0]] * 2


def test_labels_of_a_target_are_numbers(tmp_path: Path) -> None:
    card = card_of(2).model_copy(update={"target": Target(name="yield", unit="t/ha")})
    (tmp_path / "a.txt").write_text("1.5 -2 7.25\n0 4 -1e3\n")
    _, labels = all_of(opened(card, tmp_path))
    assert labels.dtype == np.float32 and labels.tolist() == [7.25, -1000.0]
    (tmp_path / "a.txt").write_text("1.5 -2 7.25\n0 4 nothing\n")
    assert "has the label nothing in row 2, which is no number" in refused(card, tmp_path)


@pytest.mark.parametrize(
    ("text", "layout", "said"),
    [
        ("1 2 0\n3 4 0\n", {"side_px": 2}, "has 3 columns, not 9"),
        ("1 2 0\n3 4\n", {}, "lacks a value in row 2"),
        ("1 2 0\n3 4 5 0\n", {}, "cannot be read"),
        ("1 2 0\n3 4 3\n", {}, "has the label 3 in row 2"),
        ("1 2 0\n3 4 0\n", {"codes": [1, 2, 3]}, "has the label 0 in row 1"),
        ("1 2 0\n", {"codes": [1, 2]}, "2 codes are given for 3 classes"),
        ("1 2 0\n3 256 0\n", {"dtype": "uint8"}, "has a value in row 2 that is no uint8"),
        ("1 2 0\n3 4.5 0\n", {"dtype": "int16"}, "has a value in row 2 that is no int16"),
        ("a b 0\n", {}, "holds no numbers"),
        ("1 2 0\n", {"columns": [1]}, "1 columns are named for 2 values"),
        ("1 2 0\n", {"columns": [0, 2]}, "has no values in column 2"),
        ("1 2 0\n", {"columns": [0, 3]}, "has no values in column 3"),
        ("", {}, "cannot be read"),
    ],
)
def test_what_is_wrong_is_told(
    tmp_path: Path, text: str, layout: dict[str, Any], said: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert said in refused(card_of(2, **layout), tmp_path)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    assert "a.txt" in refused(card_of(2), tmp_path)


# ---- Iris, as scikit-learn carries it --------------------------------------------------------


def test_two_classes_of_iris_come_out_of_the_package_of_scikit_learn(
    repository: Path, tmp_path: Path
) -> None:
    """Fisher 1936, table I: 50 flowers of each; means of sepal length and petal length in cm."""
    conf = repository / "conf/data"
    facts = yaml.safe_load((conf / "iris_pair.yaml").read_text(encoding="utf-8"))
    plane = yaml.safe_load((conf / "iris_plane.yaml").read_text(encoding="utf-8"))
    del plane["defaults"]
    two = facts | plane | {"layout": facts["layout"] | plane["layout"]}
    for each, chosen in ((facts, [0, 1, 2, 3]), (two, [0, 2])):
        card = Card.model_validate(each)
        fetch(card, tmp_path / card.name, state=tmp_path / "state", mirror=None)
        image, labels = all_of(opened(card, tmp_path / card.name, "all"))
        assert np.bincount(labels).tolist() == [50, 50]
        means = np.array([[5.006, 3.428, 1.462, 0.246], [6.588, 2.974, 5.552, 2.026]])[:, chosen]
        found = [image[labels == k, :, 0, 0].mean(axis=0) for k in (0, 1)]
        np.testing.assert_allclose(found, means, atol=1e-5)


# ---- Statlog Landsat ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def statlog(
    real_data: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Published]:
    folder = tmp_path_factory.mktemp("rows") / "statlog"
    archives.unpack(real_data / "statlog" / "statlog_landsat.zip", folder)
    card = Card.model_validate(
        yaml.safe_load((repository / "conf/data/statlog.yaml").read_text(encoding="utf-8"))
    )
    source = open_source(card, folder)
    assert source.names == ("train", "test")
    return {name: opened(card, folder, name) for name in source.names}


def test_statlog_is_what_its_description_says(statlog: dict[str, Published]) -> None:
    image, labels = all_of(statlog["train"])
    assert image.shape == (4435, 4, 3, 3)
    # The counts of sat.doc: 1,072, 479, 961, 415, 470 and 1,038 of 4,435, and none of class 6.
    assert np.bincount(labels).tolist() == [1072, 479, 961, 415, 470, 1038]
    assert np.bincount(all_of(statlog["test"])[1]).tolist() == [461, 224, 397, 211, 237, 470]
    # "The four spectral values for the central pixel are given by attributes 17, 18, 19 and 20."
    row = statlog["train"].files[0].read_text().splitlines()[0].split()
    assert image[0, :, 1, 1].tolist() == [int(value) for value in row[16:20]]
    assert image[0, :, 0, 1].tolist() == [int(value) for value in row[4:8]]


def test_statlog_has_the_error_that_is_known_of_a_linear_discriminant(
    statlog: dict[str, Published],
) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    (x, y), (x_test, y_test) = (all_of(statlog[part]) for part in ("train", "test"))
    model = LinearDiscriminantAnalysis().fit(x.reshape(len(x), -1), y)
    error = 100 * (1 - model.score(x_test.reshape(len(x_test), -1), y_test))
    assert error == pytest.approx(17.1, abs=0.1)  # Michie et al. 1994


def test_neighbouring_pixels_of_a_patch_are_alike(statlog: dict[str, Published]) -> None:
    """Were the order of the values another, bands would be compared with each other."""
    image, _ = all_of(statlog["train"])
    centre = image[:, :, 1, 1].astype(float)
    for y, x in ((0, 0), (0, 1), (1, 2), (2, 2)):
        other = image[:, :, y, x].astype(float)
        assert all(np.corrcoef(centre[:, b], other[:, b])[0, 1] > 0.85 for b in range(4))
