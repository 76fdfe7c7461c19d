"""MATLAB cubes: Samson as it is shared, and the ground truths of three scenes, pixel for pixel."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
import yaml
from opening import opened, refused

from swath.data.card import UNLABELLED, Card
from swath.data.fetch import fetch

MakeCard = Callable[..., Card]


def card_of(repository: Path, name: str) -> Card:
    return Card.model_validate(yaml.safe_load((repository / f"conf/data/{name}.yaml").read_text()))


def unpacked(real_data: Path, folder: Path) -> Path:
    """The ground truths and the fixed split, unpacked."""
    with zipfile.ZipFile(real_data / "hyperspectral/hsi_ground_truths_and_fixed_splits.zip") as z:
        z.extractall(folder)
    return folder


# ---- real ones


def test_samson_goes_from_archive_to_patches(
    real_data: Path, repository: Path, tmp_path: Path, cut_set: Callable[..., Any]
) -> None:
    card = card_of(repository, "samson")
    data = tmp_path / "samson"
    fetch(card, data, state=tmp_path / "state", mirror=str(real_data))
    cut = cut_set(card, data, size_px=19)
    patches = cut.patches
    assert (len(patches), patches.image.shape[1:], patches.image.dtype) == (25, (156, 19, 19), "f4")
    # MATLAB counts pixels column by column: row r, column c is number 95 c + r.
    cube = scipy.io.loadmat(data / "samson/samson_1.mat")["V"]
    shares = scipy.io.loadmat(data / "samson/end3.mat")["A"]
    images, labels = (array.gather(np.arange(25)) for array in (patches.image, patches.label))
    for number, place in enumerate(patches.places.itertuples()):
        rows, columns = np.mgrid[place.row : place.row + 19, place.col : place.col + 19]
        pixels = 95 * columns + rows
        np.testing.assert_array_equal(images[number], cube[:, pixels].astype(np.float32))
        np.testing.assert_array_equal(labels[number], shares[:, pixels].argmax(axis=0))
    assert patches.contents.sum(axis=0).tolist() == np.bincount(shares.argmax(0)).tolist()
    # No CRS: metres of the scene's own plane, and no degrees.
    last = patches.places.iloc[24]
    assert (last.epsg, last.west, last.north, last.east) == (-1, 76.0, -76.0, 95.0)
    assert patches.places.lon.isna().all()
    assert patches.facts["gsd_m"] == 1.0


# Pixels of each class, as the publishers count them.
PUBLISHED = {
    "indian_pines": (
        "Indian_pines_corrected.mat", (145, 145, 200),
        [46, 1428, 830, 237, 483, 730, 28, 478, 20, 972, 2455, 593, 205, 1265, 386, 93],
    ),
    "pavia_university": (
        "PaviaU.mat", (610, 340, 103),
        [6631, 18649, 2099, 3064, 1345, 5029, 1330, 3682, 947],
    ),
    "salinas": (
        "Salinas_corrected.mat", (512, 217, 204),
        [2009, 3726, 1976, 1394, 2678, 3959, 3579, 11271, 6203, 3278, 1068, 1927, 916, 1070, 7268,
         1807],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_ground_truths_have_the_published_pixels(
    name: str, real_data: Path, repository: Path, tmp_path: Path
) -> None:
    cube, shape, published = PUBLISHED[name]
    card = card_of(repository, name)
    data = unpacked(real_data, tmp_path / "pack") / "gt"
    # The cubes are not to be had here: this one has the right shape, and its row in each pixel.
    values = np.broadcast_to(np.arange(shape[0], dtype=np.int16)[:, None, None], shape)
    scipy.io.savemat(data / cube, {"cube": values}, do_compression=True)
    scene = opened(card, data)
    assert (scene.grid.height, scene.grid.width, len(scene.bands)) == shape
    labels = scene.read_labels(0, 0, *shape[:2])
    assert np.bincount(labels[labels != UNLABELLED]).tolist() == published
    window = scene.read(100, 50, 3, 2, "nearest")
    assert window.shape == (shape[2], 3, 2)
    assert (window == np.array([100, 101, 102])[:, None]).all()


def test_pixels_as_patches_carry_the_real_spectra(
    real_data: Path, repository: Path, tmp_path: Path, cut_set: Callable[..., Any]
) -> None:
    pack = unpacked(real_data, tmp_path / "pack") / "danfenghong_fixed_split"
    spectra = scipy.io.loadmat(pack / "Train_X.mat")["Train_X"]
    classes = scipy.io.loadmat(pack / "TrLabel.mat")["TrLabel"].ravel()
    with rasterio.open(pack / "IndianTR123_temp123.tif") as file:
        where = file.read(1)
    data = tmp_path / "indian_pines"
    data.mkdir()
    # The list of spectra follows the columns of the raster, as MATLAB's find() does.
    at = [np.flatnonzero(where.T)[k] for k in range(695)]
    cube = np.zeros((145, 145, 200))
    cube[[n % 145 for n in at], [n // 145 for n in at]] = spectra
    scipy.io.savemat(data / "Indian_pines_corrected.mat", {"indian_pines_corrected": cube})
    scipy.io.savemat(data / "Indian_pines_gt.mat", {"indian_pines_gt": where})
    card = card_of(repository, "indian_pines")
    patches = cut_set(card, data, size_px=1, min_valid=1.0).patches
    assert len(patches) == 695
    images, labels = (a.gather(np.arange(695))[..., 0, 0] for a in (patches.image, patches.label))
    order = np.lexsort((patches.places.row, patches.places.col))
    np.testing.assert_array_equal(images[order], spectra.astype(np.float32))
    np.testing.assert_array_equal(labels[order], classes - 1)


def test_windows_reach_over_the_edge_by_mirroring(
    tmp_path: Path, make_card: MakeCard, cut_set: Callable[..., Any]
) -> None:
    cube = np.arange(5 * 6 * 2, dtype=np.uint16).reshape(5, 6, 2)
    scipy.io.savemat(tmp_path / "c.mat", {"c": cube})
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "c.mat").rename(data / "c.mat")
    card = make_card({"name": "matlab_cubes", "cube": "c.mat"}, {"b1": 4.0, "b2": 4.0})
    patches = cut_set(card, data, size_px=4, padding="reflect").patches
    assert len(patches) == 4
    corner = patches.image.gather(np.array([3]))[0]
    mirrored = np.pad(cube[4:, 4:], ((0, 3), (0, 2), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(corner, mirrored.transpose(2, 0, 1))


# ---- files of both kinds


def save_7_3(path: Path, **arrays: np.ndarray) -> None:
    """Write as MATLAB 7.3 does: HDF5 behind 512 bytes of text, axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.T, chunks=True)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")


@pytest.fixture
def cube() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9000, (13, 11, 3)).astype(np.int16)


@pytest.mark.parametrize("flat", [False, True])
def test_version_7_3_is_read_as_version_5(
    cube: np.ndarray, flat: bool, tmp_path: Path, make_card: MakeCard
) -> None:
    truth = np.arange(13 * 11).reshape(13, 11) % 5
    arrays: dict[str, Any] = {"c": cube, "extra": np.zeros(2)}
    if flat:
        by_columns = cube.transpose(2, 1, 0).reshape(3, -1)
        arrays = {"c": by_columns, "nRow": np.array([[13.0]]), "nCol": np.array([[11.0]])}
    scipy.io.savemat(tmp_path / "five.mat", arrays)
    save_7_3(tmp_path / "seven.mat", **arrays)
    scipy.io.savemat(tmp_path / "five_gt.mat", {"t": truth})
    save_7_3(tmp_path / "seven_gt.mat", t=truth)
    for kind in ("five", "seven"):
        layout = {"name": "matlab_cubes", "cube": f"{kind}.mat", "truth": f"{kind}_gt.mat"}
        scene = opened(
            make_card(layout | {"codes": [4, 2, 0]}, dict.fromkeys("xyz", 2.0)), tmp_path
        )
        assert (scene.dtype, scene.grid.gsd_m) == ("int16", 2.0)
        window = scene.read(4, 3, 6, 5, "nearest")
        np.testing.assert_array_equal(window, cube[4:10, 3:8].transpose(2, 0, 1))
        expected = np.full((13, 11), UNLABELLED)
        for number, code in enumerate((4, 2, 0)):
            expected[truth == code] = number
        np.testing.assert_array_equal(scene.read_labels(0, 0, 13, 11), expected)


def test_what_is_wrong_is_told_in_one_line(
    cube: np.ndarray, tmp_path: Path, make_card: MakeCard
) -> None:
    scipy.io.savemat(tmp_path / "c.mat", {"c": cube, "flat": np.zeros((3, 4))})
    scipy.io.savemat(tmp_path / "gt.mat", {"t": np.ones((11, 13))})
    scipy.io.savemat(tmp_path / "text.mat", {"t": "no numbers"})
    scipy.io.savemat(tmp_path / "n.mat", {"V": np.zeros((3, 9)), "nRow": 2, "nCol": 4})
    raw = (tmp_path / "c.mat").read_bytes()
    (tmp_path / "short.mat").write_bytes(raw[: len(raw) // 2])
    save_7_3(tmp_path / "seven.mat", c=cube)
    seven = (tmp_path / "seven.mat").read_bytes()
    (tmp_path / "short7.mat").write_bytes(seven[: len(seven) // 2])

    def told(**layout: Any) -> str:
        card = make_card(
            {"name": "matlab_cubes", "cube": "c.mat"} | layout, dict.fromkeys("xyz", 1.0)
        )
        return refused(card, tmp_path).removeprefix(f"{tmp_path}/")

    assert told(cube="none.mat") == "none.mat: there is no such file; fetch the data"
    assert told(variable="d") == "c.mat: has no array 'd'; there is c, flat"
    assert "'flat' is 3 x 4, no cube (y, x, band)" in told(variable="flat")
    assert "'V' has 9 pixels, not nRow × nCol = 2 × 4" in told(cube="n.mat", variable="V")
    assert "'t' is 11 x 13, neither one code nor 3 abundances for each of 13 x 11" in told(
        truth="gt.mat"
    )
    assert told(cube="text.mat").startswith("text.mat: holds no array of numbers")
    assert told(cube="short.mat").startswith("short.mat: cannot be read (")
    assert told(cube="short7.mat").startswith("short7.mat: cannot be read (")
    assert "2 codes are given for 3 classes" in told(truth="gt.mat", codes=[1, 2])
    four = make_card({"name": "matlab_cubes", "cube": "c.mat"}, dict.fromkeys("wxyz", 1.0))
    assert "'c' has 3 bands, the card 4" in refused(four, tmp_path)
