"""Maps of scenes: georeferenced, without seams, streamed, and gone on with after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from swath.data.card import UNLABELLED
from swath.data.scene import Array, Grid, Scene
from swath.errors import DataError, RunError
from swath.learn import mapping
from swath.learn.batches import Normalise
from swath.learn.mapping import map_scene, windows_for
from swath.learn.networks import load
from swath.learn.predict import Trained

BANDS = ["red", "green", "blue", "nir"]
COLOURS = ["#1f4fd8", "#1b7837", "#66c2a5"]


def mapped(model, scene, folder, **given) -> dict[str, np.ndarray]:
    """The rasters of a map by kind; those of one band as (y, x)."""
    settings = {"probabilities": False, "overlap_px": 64, "resampling": "nearest"} | given
    done = map_scene(model, scene, folder, colours=COLOURS, rgb=BANDS[:3], **settings)
    opened = {}
    for kind, path in done.rasters.items():
        with rasterio.open(path) as file:
            opened[kind] = file.read() if file.count > 1 else file.read(1)
    return opened


def pixels_of(scene) -> np.ndarray:
    return scene.read(0, 0, scene.grid.height, scene.grid.width, "nearest")


def forward(model, scene) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (class, y, x) of the whole scene in one piece, and where the swath is."""
    network, facts = load(model)
    pixels = pixels_of(scene)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    with torch.inference_mode():
        share = (network(normalise(pixels[None])) / facts["temperature"]).softmax(1)[0]
    return share.numpy(), (pixels != 0).any(axis=0)


def flat_scene(height: int, width: int, *, epsg: int = 32632, step: float = 10.0) -> Scene:
    """A scene in memory whose pixels all are alike."""
    grid = Grid(height, width, 500_000.0, 5_000_000.0, step, step, epsg)
    values = np.broadcast_to(
        np.array([1100, 1150, 1160, 1000], np.uint16)[:, None, None], (4, height, width)
    )
    layer = Array(tuple(BANDS), grid, values, "byx", Path(__file__))
    return Scene("flat", (layer,), tuple(BANDS))


# ---- the place of a map -----------------------------------------------------------------------


def test_a_map_lies_exactly_on_its_scene_and_is_cloud_optimised(
    scene, save_model, tmp_path
) -> None:
    mapped(save_model(), scene, tmp_path, probabilities=True)
    with rasterio.open(scene.files[0]) as image:
        for name, count in (("classes", 1), ("confidence", 1), ("uncertainty", 1),
                            ("probabilities", 3)):  # fmt: skip
            with rasterio.open(tmp_path / f"scene_a_{name}.tif") as file:
                assert file.transform == image.transform
                assert file.crs == image.crs
                assert file.shape == image.shape
                assert file.dtypes == ("uint8",) * count
                assert file.nodata == UNLABELLED
                assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    kinds = sorted(p.name.removeprefix("scene_a_") for p in tmp_path.glob("scene_a*"))
    assert kinds == [
        f"{k}.tif" for k in ("classes", "confidence", "image", "probabilities", "uncertainty")
    ]


def test_a_large_map_is_laid_out_as_cloud_optimised_files_are(save_model, tmp_path) -> None:
    """Tiles, overviews in falling order, every directory before the pixels: rio-cogeo's rules."""
    mapped(save_model(), flat_scene(1100, 600), tmp_path)
    with rasterio.open(tmp_path / "flat_classes.tif") as file:
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2, 4]
        offsets = [file.tags(ns="TIFF", bidx=1).get("IFD_OFFSET") or ifd(tmp_path, file.name, 0)]
        data = block_offset(tmp_path / "flat_classes.tif", -1)
        for level in range(2):
            offsets.append(ifd(tmp_path, file.name, level + 1))
            data = min(data, block_offset(tmp_path / "flat_classes.tif", level))
    assert [int(o) for o in offsets] == sorted(int(o) for o in offsets)
    assert int(offsets[-1]) < data


def ifd(_: Path, name: str, level: int) -> int:
    given = {"overview_level": level - 1} if level else {}
    with rasterio.open(name, **given) as file:
        return int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1))


def block_offset(path: Path, level: int) -> int:
    given = {"overview_level": level} if level >= 0 else {}
    with rasterio.open(path, **given) as file:
        return int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))


def test_a_scene_in_degrees_keeps_its_place_to_the_last_digit(save_model, tmp_path) -> None:
    grid = Grid(70, 90, 7.123456789012, 50.987654321098, 8.983152841e-5, 8.983152841e-5, 4326)
    scene = flat_scene(70, 90)
    scene = replace(scene, layers=(replace(scene.layers[0], grid=grid),))
    mapped(save_model(), scene, tmp_path)
    with rasterio.open(tmp_path / "flat_classes.tif") as file:
        assert file.crs.to_epsg() == 4326
        assert file.transform == from_origin(grid.west, grid.north, grid.step_x, grid.step_y)
        assert file.shape == (70, 90)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_scene_without_a_crs_keeps_its_rows_and_columns(save_model, tmp_path) -> None:
    scene = flat_scene(70, 90, epsg=-1)
    scene = replace(
        scene, layers=(replace(scene.layers[0], grid=replace(scene.grid, west=0.0, north=0.0)),)
    )
    mapped(save_model(), scene, tmp_path)
    with rasterio.open(tmp_path / "flat_classes.tif") as file:
        assert file.crs is None
        assert file.transform == from_origin(0, 0, 10, 10)


# ---- what a map says --------------------------------------------------------------------------


def test_beside_a_map_lies_a_picture_of_three_bands(scene, save_model, tmp_path) -> None:
    picture = mapped(save_model(), scene, tmp_path, window_px=64)["image"]
    np.testing.assert_array_equal(picture, pixels_of(scene)[:3])
    with rasterio.open(tmp_path / "scene_a_image.tif") as file:
        assert file.descriptions == tuple(BANDS[:3])


def test_a_picture_is_thinned_evenly_across_strips(
    scene, save_model, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(mapping, "PICTURE_PX", 70)
    picture = mapped(save_model(), scene, tmp_path, window_px=64)["image"]
    np.testing.assert_array_equal(picture, pixels_of(scene)[:3, ::3, ::3])
    with rasterio.open(tmp_path / "scene_a_image.tif") as file:
        assert file.res == (30.0, 30.0)


def test_classes_have_their_colours_and_names(scene, save_model, tmp_path) -> None:
    mapped(save_model(), scene, tmp_path)
    with rasterio.open(tmp_path / "scene_a_classes.tif") as file:
        table = file.colormap(1)
        names = file.tags(1)
    for value, colour in enumerate(COLOURS):
        assert "#{:02x}{:02x}{:02x}".format(*table[value][:3]) == colour
        assert table[value][3] == 255
    assert table[UNLABELLED][3] == 0
    assert [names[str(value)] for value in range(3)] == ["Water", "Forest", "Pasture"]


@pytest.mark.parametrize("temperature", [None, 0.5, 2.0])
def test_a_pixel_model_maps_exactly_as_one_pass_over_the_scene(
    scene, save_model, tmp_path, temperature
) -> None:
    model = save_model(temperature=temperature)
    share, inside = forward(model, scene)
    maps = mapped(model, scene, tmp_path, window_px=64, probabilities=True)
    np.testing.assert_array_equal(maps["classes"][inside], share.argmax(0)[inside])
    entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(0) / np.log(3)
    for kind, expected in (
        ("confidence", share.max(0) * 100),
        ("uncertainty", entropy * 250),
        ("probabilities", share * 250),
    ):
        # A weighted sum is rounded in its last bit, and may fall on the other side of a half.
        assert np.abs(maps[kind][..., inside] - expected[..., inside]).max() <= 0.5 + 1e-3, kind
        assert (maps[kind][..., ~inside] == UNLABELLED).all()
    assert 0.05 < (~inside).mean() < 0.5


def test_probabilities_and_uncertainty_are_scaled_to_one(scene, save_model, tmp_path) -> None:
    maps = mapped(save_model(), scene, tmp_path, probabilities=True)
    for kind in ("probabilities", "uncertainty"):
        with rasterio.open(tmp_path / f"scene_a_{kind}.tif") as file:
            assert file.scales == (0.004,) * file.count and file.offsets == (0.0,) * file.count
            if kind == "probabilities":
                assert file.descriptions == ("Water", "Forest", "Pasture")
    seen = maps["classes"] != UNLABELLED
    total = maps["probabilities"].astype(float).sum(0)[seen] * 0.004
    assert np.abs(total - 1).max() <= 3 * 0.002
    likeness = np.corrcoef(maps["confidence"][seen], maps["uncertainty"][seen])[0, 1]
    assert likeness < -0.8


def test_a_model_with_neighbours_maps_as_on_the_whole_scene(scene, save_model, tmp_path) -> None:
    model = save_model("unet", width=4, depth=1)
    share, inside = forward(model, scene)
    maps = mapped(model, scene, tmp_path, window_px=64)
    inside[:32] = inside[-32:] = False  # at the scene's edge the map sees it mirrored
    inside[:, :32] = inside[:, -32:] = False
    assert (maps["classes"][inside] == share.argmax(0)[inside]).mean() > 0.99
    off = np.abs(maps["confidence"] - share.max(0) * 100)[inside]
    assert np.quantile(off, 0.99) <= 1


def test_a_scene_smaller_than_a_window_and_its_margin(scene, save_model, tmp_path) -> None:
    layers = tuple(
        replace(layer, grid=replace(layer.grid, height=20 // factor, width=24 // factor))
        for layer, (_, factor) in zip(scene.layers, scene.factors, strict=True)
    )
    small = replace(scene, layers=layers)
    classes = mapped(save_model("unet", width=4), small, tmp_path)["classes"]
    assert classes.shape == (20, 24)
    assert (classes != UNLABELLED).all()


def test_a_network_that_is_open_is_not_opened_again(
    scene, save_model, tmp_path, monkeypatch
) -> None:
    model = save_model()
    trained, expected = mapping.opened(model), mapped(model, scene, tmp_path / "a")
    monkeypatch.setattr(mapping, "opened", lambda *_: pytest.fail("it is opened again"))
    found = mapped(model, scene, tmp_path / "b", trained=trained)
    np.testing.assert_array_equal(found["classes"], expected["classes"])


# ---- seams ------------------------------------------------------------------------------------


class Drift(torch.nn.Module):
    """Says class 1 the more, the nearer a pixel lies to the right and lower edge of the window."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = image.shape
        down, right = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        score = (down[:, None] + right).expand(batch, 1, -1, -1)
        return torch.cat([torch.zeros_like(score), score, torch.full_like(score, -9)], dim=1)


def drifting(monkeypatch, save_model) -> Path:
    """A model file whose network drifts."""
    model = save_model()
    real = mapping.opened

    def opened(path: Path, precision: str = "auto") -> Trained:
        return replace(real(path, precision), network=Drift())

    monkeypatch.setattr(mapping, "opened", opened)
    return model


@pytest.mark.parametrize("overlap, largest", [(64, 4), (0, None)])
def test_a_network_that_drifts_across_its_windows_leaves_no_seams(
    save_model, tmp_path, monkeypatch, overlap, largest
) -> None:
    """Where windows fade into each other no step is larger than the fading's; cropped, 70 %."""
    model = drifting(monkeypatch, save_model)
    maps = mapped(
        model, flat_scene(400, 500), tmp_path, window_px=128, overlap_px=overlap,
        probabilities=True,
    )  # fmt: skip
    share = maps["probabilities"][1].astype(int) * 0.4
    step = max(np.abs(np.diff(share, axis=axis)).max() for axis in (0, 1))
    if largest is None:
        assert step > 40
    else:
        assert step < largest


@pytest.mark.parametrize("name, share", [("perceptron", 1.0), ("unet", 0.97)])
def test_the_size_of_the_windows_does_not_show(scene, save_model, tmp_path, name, share) -> None:
    model = save_model(name)
    small = mapped(model, scene, tmp_path, window_px=64)["classes"]
    large = mapped(model, scene, tmp_path, window_px=128)["classes"]
    assert (small == large).mean() >= share


# ---- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 31, 500, 768, 2048, 10_980])
@pytest.mark.parametrize("own", [64, 256, 512, 1024])
def test_windows_cover_a_scene_and_little_else(length: int, own: int) -> None:
    windows = windows_for(length, length, own, 4, 64)
    tops = windows.tops(length)
    assert tops[0] == -32 and tops[-1] + windows.height >= length + 32
    assert set(np.diff(tops)) <= {windows.own_y}
    assert windows.height % 32 == 0
    beyond = len(tops) * windows.own_y - length
    assert 0 <= beyond < max(len(tops) * 32, 64)
    assert windows.own_y <= max(1.5 * own + 32, 64)


def test_wide_scenes_are_read_in_lower_strips() -> None:
    row_bytes = 20_000 * 13 * 2
    windows = windows_for(10_000, 20_000, 1024, 1, 64, row_bytes)
    assert windows.height > 128 and windows.height * row_bytes < 1.25 * mapping.STRIP_BYTES
    assert windows.own_x > 1000


# ---- memory -----------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_scene(save_model, tmp_path) -> None:
    """Ten times as many rows take as much at their peak, and are read once, strip by strip."""
    peaks, tallest = [], []
    for height in (640, 6400):
        scene = flat_scene(height, 256)
        rows: list[tuple[int, int]] = []

        class Watched(Array):
            def read(self, row: int, height: int, col: int, width: int) -> np.ndarray:
                rows.append((row, height))  # noqa: B023
                return np.ascontiguousarray(super().read(row, height, col, width))

        layer = scene.layers[0]
        watched = Watched(layer.bands, layer.grid, layer.values, "byx", layer.path)
        tracemalloc.start()
        mapped_only(save_model(), replace(scene, layers=(watched,)), tmp_path / str(height))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(count for _, count in rows) == height
        tallest.append(max(count for _, count in rows))
    assert tallest[1] <= 192
    assert peaks[1] < 1.2 * peaks[0] + 200_000


def mapped_only(model, scene, folder) -> None:
    map_scene(
        model, scene, folder, colours=COLOURS, rgb=BANDS[:3], resampling="nearest",
        probabilities=False, overlap_px=64, window_px=128,
    )  # fmt: skip


# ---- models of one label a patch --------------------------------------------------------------


def test_a_model_of_patches_maps_in_steps(scene, save_model, tmp_path) -> None:
    model = save_model("cnn", width=4, data={"size_px": 16}, temperature=0.2)
    maps = mapped(model, scene, tmp_path)
    network, facts = load(model)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    assert maps["classes"].shape == (11, 13)
    pixels = pixels_of(scene)
    with torch.inference_mode():
        for row, column in ((0, 0), (3, 7), (9, 11)):
            patch = pixels[None, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            if (patch != 0).any(axis=1).mean() > 0.5:
                share = (network(normalise(patch)) / 0.2).softmax(dim=1)
                assert maps["classes"][row, column] == share.argmax(), (row, column)
                assert abs(maps["confidence"][row, column] - 100 * share.max()) <= 0.51
    # The lower left corner lies outside the swath.
    assert maps["classes"][-2, 0] == UNLABELLED
    with rasterio.open(tmp_path / "scene_a_classes.tif") as file:
        assert file.res == (160.0, 160.0)
        assert (file.transform.c, file.transform.f) == (399_960.0, 5_300_040.0)


def test_smaller_steps_see_the_same_patches_more_often(scene, save_model, tmp_path) -> None:
    model = save_model("cnn", width=4, data={"size_px": 16})
    whole = mapped(model, scene, tmp_path / "a", step_px=16)["confidence"]
    eighth = mapped(model, scene, tmp_path / "b", step_px=2)["confidence"]
    assert eighth.shape == (84, 100)
    # The step of 2 px whose patch begins where that of 16 px does lies 7 px further in.
    same = eighth[3::8, 3::8]
    near = np.abs(same[1:9, 2:9].astype(int) - whole[1:9, 2:9].astype(int))
    assert near.max() <= 12


def test_steps_larger_than_a_patch_are_refused(scene, save_model, tmp_path) -> None:
    with pytest.raises(RunError, match=r"steps of 32 px .* patches of 16 px"):
        mapped(save_model("cnn", width=4, data={"size_px": 16}), scene, tmp_path, step_px=32)


# ---- several labels, and numbers ---------------------------------------------------------------


def test_several_labels_are_mapped_as_the_probability_of_each(scene, save_model, tmp_path) -> None:
    model = save_model("cnn", width=4, data={"size_px": 16, "labels": "several"}, temperature=2.0)
    maps = mapped(model, scene, tmp_path)
    assert sorted(maps) == ["image", "probabilities"]
    assert maps["probabilities"].shape == (3, -(-168 // 16), -(-200 // 16))
    network, facts = load(model)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    patch = scene.read(32, 48, 16, 16, "nearest")[None]
    with torch.inference_mode():
        share = (network(normalise(patch)) / 2.0).sigmoid()[0].numpy()
    assert np.abs(maps["probabilities"][:, 2, 3] - 250 * share).max() <= 0.51
    with rasterio.open(tmp_path / "scene_a_probabilities.tif") as file:
        assert file.descriptions == ("Water", "Forest", "Pasture")


def test_numbers_are_mapped_in_their_unit_as_by_one_pass_over_the_scene(
    scene, save_model, tmp_path
) -> None:
    data = {"target": {"name": "height", "unit": "m"}, "size_px": 32}
    model = save_model(data=data, classes=["height"], scale=[40.0, 12.5])
    maps = mapped(model, scene, tmp_path, window_px=64)
    assert sorted(maps) == ["image", "numbers"]
    network, facts = load(model)
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    pixels = pixels_of(scene)
    inside = (pixels != 0).any(axis=0)
    numbers = maps["numbers"]
    assert numbers.dtype == np.float32 and (np.isnan(numbers) == ~inside).all()
    with torch.inference_mode():
        expected = 40.0 + 12.5 * network(normalise(pixels[None]))[0, 0].numpy()
    assert expected[inside].std() > 1, "an untrained network answers something"
    np.testing.assert_allclose(numbers[inside], expected[inside], rtol=1e-5)
    with rasterio.open(tmp_path / "scene_a_numbers.tif") as file:
        assert (file.descriptions, file.units) == (("height",), ("m",))
        assert np.isnan(file.nodata) and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


# ---- what does not fit ------------------------------------------------------------------------


def test_a_scene_that_lacks_a_band_is_refused(scene, save_model, tmp_path) -> None:
    with pytest.raises(RunError) as error:
        mapped(save_model(), replace(scene, bands=scene.bands[:3]), tmp_path)
    assert "\n" not in str(error.value) and "scene_a" in str(error.value)
    assert "red, green, blue, the model red, green, blue, nir" in str(error.value)
    assert not list(tmp_path.glob("*.tif"))


def test_a_scene_of_another_gsd_is_refused_with_both_sides_named(save_model, tmp_path) -> None:
    model = save_model(data={"gsd_m": 10.0})
    mapped(model, flat_scene(64, 64, step=10.2), tmp_path)
    with pytest.raises(RunError) as error:
        mapped(model, flat_scene(64, 64, step=20.0), tmp_path)
    assert "GSD of 20 m, the model one of 10 m" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_does_not_take_the_windows_is_one_line(
    scene, save_model, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one for whose windows there is too little memory."""
    answer = Trained.__call__

    def narrow(self: Trained, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] > 64:
            raise RuntimeError("can't allocate memory\nand more lines")
        return answer(self, image)

    monkeypatch.setattr(Trained, "__call__", narrow)
    with pytest.raises(RunError) as error:
        mapped(save_model(), scene, tmp_path, window_px=64)
    assert "does not take 1 windows of" in str(error.value)
    assert "px (can't allocate memory)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_map_that_fails_leaves_nothing(scene, save_model, tmp_path) -> None:
    absent = replace(scene.layers[1], where=((scene.files[1].with_name("absent.tif"), 1),))
    broken = replace(scene, layers=(scene.layers[0], absent))
    with pytest.raises((DataError, FileNotFoundError), match=r"absent\.tif"):
        mapped(save_model(), broken, tmp_path / "maps")
    assert not list((tmp_path / "maps").glob("*")) and not list((tmp_path / "maps").glob(".*"))


# ---- kills ------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_mapping import COLOURS, BANDS, striped
from swath.learn import mapping
write = mapping._Sheets.write
def slow(self, strip):
    write(self, strip)
    time.sleep(float(sys.argv[4]))
mapping._Sheets.write = slow
mapping.map_scene(
    Path(sys.argv[2]), striped(), Path(sys.argv[3]) / "maps", colours=COLOURS, rgb=BANDS[:3],
    resampling="nearest", probabilities=False, overlap_px=64, window_px=64,
    state=Path(sys.argv[3]) / "state", save_s=0.0,
)
"""


def striped() -> Scene:
    """A scene in which no row is like another."""
    scene = flat_scene(512, 128)
    values = scene.layers[0].values + np.arange(512, dtype=np.uint16)[None, :, None] * 3
    return replace(scene, layers=(replace(scene.layers[0], values=values),))


def run_slowly(model: Path, folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, here, str(model), str(folder), str(seconds)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def strips_done(folder: Path) -> int:
    (note,) = folder.glob("state/*/progress.json") or [None]
    return json.loads(note.read_text())["strips"] if note else 0


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_map_goes_on_and_becomes_the_same(
    save_model, tmp_path, caplog, monkeypatch
) -> None:
    model = save_model("unet", width=4, depth=1)
    running = run_slowly(model, tmp_path, 0.3)
    wait_until(lambda: bool(list(tmp_path.glob("state/*/progress.json"))))
    wait_until(lambda: strips_done(tmp_path) >= 3)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "maps").exists()
    begun = strips_done(tmp_path)
    assert 3 <= begun < 8

    windows: list[int] = []
    real = Trained.__call__

    def counted(self: Trained, image: torch.Tensor) -> torch.Tensor:
        windows.append(len(image))
        return real(self, image)

    monkeypatch.setattr(Trained, "__call__", counted)
    given = {"resampling": "nearest", "probabilities": False, "overlap_px": 64, "window_px": 64}
    done = map_scene(
        model, striped(), tmp_path / "maps", colours=COLOURS, rgb=BANDS[:3],
        state=tmp_path / "state", save_s=0.0, **given,
    )  # fmt: skip
    # A first look at the answer's form; then the strips not done, and the last of those done.
    assert len(windows) == 1 + 2 * (8 - begun + 1)
    assert not list((tmp_path / "state").iterdir())
    straight = map_scene(
        model, striped(), tmp_path / "straight", colours=COLOURS, rgb=BANDS[:3], **given
    )
    for kind, path in done.rasters.items():
        with rasterio.open(path) as one, rasterio.open(straight.rasters[kind]) as other:
            np.testing.assert_array_equal(one.read(), other.read(), err_msg=kind)


def test_another_question_does_not_go_on_with_an_old_state(save_model, tmp_path) -> None:
    states = []
    for identity in ("code a", "code b"):
        model = save_model("unet", width=4, depth=1)

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(mapping._Sheets, "finish", stop)
            mapped(model, striped(), tmp_path / "maps", state=tmp_path / "state",
                   identity=identity)  # fmt: skip
        states.append({path.name for path in (tmp_path / "state").iterdir()})
    assert len(states[0]) == 1 and len(states[1]) == 2 and states[0] < states[1]


# ---- calibration ------------------------------------------------------------------------------


def test_the_fastest_windows_are_taken_where_it_pays_to_look(save_model, monkeypatch) -> None:
    seconds = {(576, 1): 1.0, (320, 4): 0.5, (1152, 1): 9.0}
    asked = []

    def clock(trained: Trained, image: torch.Tensor, passes: int) -> float:
        key = (image.shape[2], image.shape[0])
        asked.append(key)
        return seconds.get(key, 99.0)

    monkeypatch.setattr(mapping, "least_seconds", clock)
    trained = mapping.opened(save_model())
    large = mapping._Means(trained, flat_scene(9600, 9600), "nearest")
    chosen = mapping._suited(large, 64, None)
    assert (chosen.height, chosen.batch) == (320, 4)
    assert len(asked) == 4
    asked.clear()
    small = mapping._Means(trained, flat_scene(1500, 1500), "nearest")
    assert mapping._suited(small, 64, None).own_y == 512 and asked == []
