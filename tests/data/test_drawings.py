"""Drawings that are no scenes: patches of a landscape, and figures."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from swath.data import landscape
from swath.data.drawings import landscape_patches, x_or_not_x
from swath.errors import ConfigError


def figures(folder: Path, **settings: float) -> tuple[np.ndarray, np.ndarray]:
    """Images (image, y, x) and their labels."""
    x_or_not_x(folder, **settings)  # type: ignore[arg-type]
    rows = np.loadtxt(folder / "figures.csv", delimiter=",", dtype=int)
    side = round((rows.shape[1] - 1) ** 0.5)
    return rows[:, :-1].reshape(-1, side, side), rows[:, -1]


def test_a_patch_is_of_one_kind_of_land_or_of_none() -> None:
    ground = np.full((10, 10), landscape.SOIL)
    assert landscape.kind_of(ground) == "Soil"
    ground[:3, :9] = landscape.BUILDINGS
    assert landscape.kind_of(ground) == "Soil"
    ground[3, :9] = landscape.BLOCKS
    assert landscape.kind_of(ground) is None, "64 % of soil"
    ground[4:7] = landscape.BUILDINGS
    assert landscape.kind_of(ground) == "Town"
    ground[7:9] = landscape.ROADS
    assert landscape.kind_of(ground) is None, "a town with a road in it"


def test_patches_of_a_landscape(tmp_path: Path) -> None:
    for name in ("a", "b"):
        landscape_patches(tmp_path / name, size_px=256, per_class=6)
    a, b = (tmp_path / name / "patches.zip" for name in ("a", "b"))
    assert hashlib.sha256(a.read_bytes()).digest() == hashlib.sha256(b.read_bytes()).digest()
    corners = set()
    with zipfile.ZipFile(a) as archive:
        members = archive.namelist()
        assert [members.count(f"{kind}/{kind}_6.tif") for kind in landscape.KINDS] == [1] * 8
        assert len(members) == 48
        for member in members:
            with rasterio.MemoryFile(archive.read(member)) as memory, memory.open() as file:
                assert (file.count, file.height, file.width) == (4, 16, 16)
                assert file.crs.to_epsg() == 32632 and file.transform.a == 10
                corners.add((file.transform.c, file.transform.f))
                red, infrared = file.read(3).astype(float), file.read(4).astype(float)
                if member.startswith(("Trees", "Vegetation")):
                    assert infrared.mean() > red.mean()
    assert len(corners) == 48, "none twice"


def test_more_patches_than_a_landscape_holds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"5000 patches of Town are wanted.* hold \d+; raise"):
        landscape_patches(tmp_path / "a", scenes=1, size_px=128, per_class=5000)


def test_half_of_the_figures_are_an_x(tmp_path: Path) -> None:
    images, labels = figures(tmp_path / "a", count=200)
    assert images.shape == (200, 20, 20) and set(np.unique(images)) == {0, 1}
    assert (labels == 0).sum() == 100
    # An X has ink on all four diagonals off its middle, and more than other figures all in all.
    crossing = images[:, 8:12, 8:12].sum(axis=(1, 2))
    assert crossing[labels == 0].min() >= 4
    rings = images[1::8]
    assert rings[:, 9:11, 9:11].sum() == 0, "an O is empty in its middle"


def test_figures_are_shifted_shrunk_turned_and_bent(tmp_path: Path) -> None:
    exact = {"shrink": 1.0, "turn_deg": 0.0, "bend": 0.0, "count": 40}
    plain = figures(tmp_path / "plain", **exact)[0][::2]
    assert (plain == plain[0]).all(), "nothing varies but what is asked for"
    assert (plain[0] == plain[0].T).all() and (plain[0] == plain[0][::-1]).all()
    moved = figures(tmp_path / "moved", **exact | {"shift_px": 4.0})[0]
    off = np.array([ndimage.center_of_mass(each) for each in moved[::2]]) - 9.5
    assert 3 < abs(off).max() <= 4.5
    whole = moved.any(axis=2)
    assert not whole[:, 0].any() and not whole[:, -1].any(), "nothing lies beyond the border"
    small = figures(tmp_path / "small", **exact | {"shrink": 0.5})[0][::2]
    assert small.sum(axis=(1, 2)).min() < 0.7 * plain[0].sum()
    for key, value in (("turn_deg", 15.0), ("bend", 0.1)):
        other = figures(tmp_path / key, **exact | {key: value})[0][::2]
        assert (other != plain[0]).any(axis=(1, 2)).mean() > 0.8
