"""Shards: what one job cuts, what is set aside in one line, and the index of it all."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from swath.data.card import Card
from swath.data.patches import Cutting, cut
from swath.data.patchset import open_patches
from swath.data.shards import index_shards, pieces_of, plan_shards, shard_named
from swath.errors import DataError
from swath.files import files_below, write_json, write_manifest

if TYPE_CHECKING:
    from conftest import CutSet, TinyArchive

Make = Callable[..., Any]
LIMITS: dict[str, Any] = {
    "max_nodata": 1.0, "max_clouds": 1.0, "max_saturated": 1.0, "max_implausible": 1.0,
    "constant_bands": False,
}  # fmt: skip
SIDE = 64


class Dataset(NamedTuple):
    """Scenes of GeoTIFFs, each a folder, as they lie after the fetch."""

    folder: Path
    card: Card

    def write(self, name: str, pixels: np.ndarray, **profile: Any) -> Path:
        """A scene of one deflated, tiled GeoTIFF."""
        path = self.folder / name / f"{name}_image.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        form = {
            "driver": "GTiff", "count": len(pixels), "height": pixels.shape[1],
            "width": pixels.shape[2], "dtype": pixels.dtype, "crs": "EPSG:32632",
            "transform": Affine(10, 0, 600_000, 0, -10, 5_300_000), "tiled": True, "blockxsize": 16,
            "blockysize": 16, "compress": "deflate",
        }  # fmt: skip
        with rasterio.open(path, "w", **(form | profile)) as file:
            file.write(pixels)
        return path

    def fetched(self) -> dict[str, Any]:
        """The manifest that a fetch writes."""
        files = [f for f in files_below(self.folder) if f.name != "manifest.json"]
        return write_manifest(self.folder / "manifest.json", files)

    def plan(self, broken: str = "skip", shard_mb: int = 1024) -> dict[str, Any]:
        """The shards of what was fetched."""
        return plan_shards(self.card, self.folder, self.fetched(), shard_mb=shard_mb, broken=broken)

    def cut(self, plan: dict[str, Any], out: Path, only: str | None = None) -> None:
        """Cut all shards of a plan, or one."""
        for shard in plan["shards"]:
            if only in (None, shard["name"]):
                pieces = pieces_of(self.card, self.folder, shard)
                cut(self.card, pieces, out / shard["name"], Cutting(16, min_valid=0.0),
                    limits=LIMITS, made_by={})  # fmt: skip


def drawn(seed: int, count: int = 1) -> np.ndarray:
    """Pixels that deflate can hardly shorten, so that any byte of a tile matters."""
    return np.random.default_rng(seed).integers(1, 60_000, (count, SIDE, SIDE)).astype(np.uint16)


@pytest.fixture
def dataset(tmp_path: Path, make_card: Make) -> Dataset:
    """Three good scenes: a, b and c."""
    layout = {"name": "scene_folders", "images": ["*_image.tif"], "bands_by": "order"}
    made = Dataset(tmp_path / "data", make_card(layout=layout))
    for number, name in enumerate("abc"):
        made.write(name, drawn(number))
    return made


def faults(index: dict[str, Any]) -> dict[str, list[str]]:
    """What is wrong with each scene that was set aside."""
    return {check["scene"]: check["faults"] for check in index["checks"] if check["faults"]}


# ---- dealing


def test_scenes_are_dealt_by_bytes_and_named_by_what_they_hold(
    dataset: Dataset, tmp_path: Path
) -> None:
    one = SIDE * SIDE * 2
    plan = dataset.plan()
    assert [[part["name"] for part in shard["parts"]] for shard in plan["shards"]] == [
        ["a", "b", "c"]
    ]
    assert plan["shards"][0]["bytes"] == 3 * one
    assert list(plan["shards"][0]["files"]) == [f"{n}/{n}_image.tif" for n in "abc"]
    assert (plan["set_aside"], plan["rounds"]) == ([], 1)
    single = dataset.plan(shard_mb=0)
    assert [[part["name"] for part in shard["parts"]] for shard in single["shards"]] == [
        ["a"], ["b"], ["c"]
    ]  # fmt: skip
    assert dataset.plan(shard_mb=0) == single, "the same data have the same shards"
    # An added scene adds a shard, a changed one renames its own; all others keep their names.
    before = [shard["name"] for shard in single["shards"]]
    dataset.write("bb", drawn(9))
    added = [shard["name"] for shard in dataset.plan(shard_mb=0)["shards"]]
    assert [added[0], added[1], added[3]] == before and added[2] not in before
    dataset.write("b", drawn(10))
    changed = [shard["name"] for shard in dataset.plan(shard_mb=0)["shards"]]
    assert [name == other for name, other in zip(changed, added, strict=True)] == [
        True, False, True, True
    ]  # fmt: skip
    write_json(tmp_path / "scenes.json", single)
    assert shard_named(tmp_path / "scenes.json", before[1])["parts"][0]["name"] == "b"
    with pytest.raises(DataError, match=r"scenes\.json: there is no shard nowhere; run the stage"):
        shard_named(tmp_path / "scenes.json", "nowhere")


def test_floats_need_two_rounds(dataset: Dataset) -> None:
    dataset.write("f", drawn(4).astype(np.float32))
    assert dataset.plan()["rounds"] == 2


def test_published_patches_are_dealt_in_runs(
    tmp_path: Path, make_archive: Callable[..., TinyArchive]
) -> None:
    twin = make_archive({"Crop": 30, "Forest": 7}, side_px=200)  # 120 kB each
    manifest = write_manifest(
        twin.folder / "manifest.json", [twin.archive, twin.folder / "places.csv.gz"]
    )
    plan = plan_shards(twin.card, twin.folder, manifest, shard_mb=1, broken="fatal")
    runs = [shard["parts"][0]["rows"] for shard in plan["shards"]]
    assert runs[0][0] == 0 and runs[-1][1] == 37
    assert all(a[1] == b[0] for a, b in itertools.pairwise(runs))
    assert all(shard["bytes"] <= 1 << 20 for shard in plan["shards"])
    for shard in plan["shards"]:
        pieces = pieces_of(twin.card, twin.folder, shard)
        cut(twin.card, pieces, tmp_path / "out" / shard["name"], Cutting(None, min_valid=0.0),
            limits=LIMITS, made_by={})  # fmt: skip
    index_shards(plan, tmp_path / "out", broken="fatal")
    opened = open_patches(tmp_path / "out/manifest.json")
    assert opened.places["name"].tolist() == list(twin.pixels)
    assert opened.main_label.tolist() == [0] * 30 + [1] * 7
    expected = np.stack([pixels.transpose(2, 0, 1) for pixels in twin.pixels.values()])
    np.testing.assert_array_equal(opened.image.gather(np.arange(37)), expected)
    assert [shard[1:] for shard in opened.shards] == [tuple(run) for run in runs]


# ---- what is unfit before anything is cut


def test_scenes_of_the_same_bytes_count_once(dataset: Dataset) -> None:
    shutil.copy(dataset.folder / "a/a_image.tif", dataset.folder / "b/b_image.tif")
    plan = dataset.plan()
    assert plan["set_aside"] == [{"scene": "b", "reason": "b: is the same as a"}]
    with pytest.raises(DataError) as told:
        dataset.plan(broken="fatal")
    assert str(told.value) == "b: is the same as a; take one of them out"


def test_a_scene_of_another_gsd_is_set_aside(dataset: Dataset) -> None:
    """A network that learns from pixels of 10 m has nothing to say of pixels of 20 m."""
    coarse = Affine(20, 0, 600_000, 0, -20, 5_300_000)
    dataset.write("b", drawn(1), transform=coarse)
    told = "b: has a GSD of 20 m, a one of 10 m"
    plan = dataset.plan()
    assert plan["set_aside"] == [{"scene": "b", "reason": told}]
    with pytest.raises(DataError, match=f"^{told}; make a dataset of each$"):
        dataset.plan(broken="fatal")


def test_a_scene_that_cannot_be_opened_is_set_aside_with_its_reason(dataset: Dataset) -> None:
    file = dataset.folder / "b/b_image.tif"
    file.write_bytes(b"")
    plan = dataset.plan()
    assert [part["name"] for part in plan["shards"][0]["parts"]] == ["a", "c"]
    assert [aside["scene"] for aside in plan["set_aside"]] == ["b"]
    assert plan["set_aside"][0]["reason"].startswith(f"{file}: cannot be read (")
    with pytest.raises(DataError, match=r"b_image\.tif: cannot be read \(.*\); fetch it again$"):
        dataset.plan(broken="fatal")


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ({"crs": None}, "has no CRS"),
        ({"crs": "+proj=laea +lat_0=12 +lon_0=7 +ellps=bessel"}, "has a CRS without an EPSG code"),
        ({"transform": Affine(7, 7, 6e5, 7, -7, 5e6)},
         "is not north-up (no transform, or rotated)"),
        ({"transform": Affine(10, 0, 6e5, 0, 10, 5e6)},
         "is not north-up (no transform, or rotated)"),
    ],
    ids=["no CRS", "no EPSG", "rotated", "south-up"],
)  # fmt: skip
def test_a_scene_without_a_usable_place_is_named(
    dataset: Dataset, profile: dict[str, Any], told: str
) -> None:
    path = dataset.write("b", drawn(1), **profile)
    plan = dataset.plan()
    assert plan["set_aside"] == [{"scene": "b", "reason": f"{path}: {told}"}]
    assert len(plan["shards"][0]["parts"]) == 2


def test_nothing_fit_is_one_line(dataset: Dataset) -> None:
    for name in "abc":
        dataset.write(name, drawn(1), crs=None)
    with pytest.raises(DataError) as told:
        dataset.plan()
    path = dataset.folder / "a/a_image.tif"
    assert str(told.value) == (
        f"a: nothing is fit to be cut; {path}: has no CRS; mend the data or the card"
    )


def test_a_file_that_no_fetch_has_listed_is_told(dataset: Dataset) -> None:
    manifest = dataset.fetched()
    dataset.write("d", drawn(7))
    plan = plan_shards(dataset.card, dataset.folder, manifest, shard_mb=1, broken="skip")
    path = dataset.folder / "d/d_image.tif"
    assert plan["set_aside"] == [
        {"scene": "d", "reason": f"{path}: is not in the manifest of the data"}
    ]


# ---- what is found unfit while it is cut


@pytest.mark.parametrize("compress", ["deflate", None])
def test_every_damage_to_a_file_is_found_and_the_rest_is_kept(
    dataset: Dataset, tmp_path: Path, compress: str | None
) -> None:
    path = dataset.write("b", drawn(1), compress=compress)
    plan = dataset.plan()
    whole = path.read_bytes()
    by_gdal = by_digest = 0
    for number, at in enumerate(range(900, len(whole), len(whole) // 5)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with rasterio.open(path) as file:
            try:
                by_digest += not np.array_equal(file.read(), drawn(1))
            except rasterio.errors.RasterioError:
                by_gdal += 1
        out = tmp_path / f"out{number}"
        dataset.cut(plan, out)
        index = index_shards(plan, out, broken="skip")
        assert faults(index) == {"b": [f"{path}: was changed after it was written"]}
        assert index["facts"]["scenes"] == ["a", "c"] and index["kept"] == 2 * 16
    # Damage that GDAL sees, and damage that it reads as other pixels.
    assert (by_gdal, by_digest) == ((5, 0) if compress else (0, 5))
    with pytest.raises(DataError) as told:
        index_shards(plan, out, broken="fatal")
    assert str(told.value) == (
        f"b: {path}: was changed after it was written; mend the scene, or set quality.broken=skip"
    )


def test_a_damaged_header_is_told_as_damage(dataset: Dataset, tmp_path: Path) -> None:
    plan = dataset.plan()
    path = dataset.folder / "b/b_image.tif"
    damaged = bytearray(path.read_bytes())
    damaged[:8] = b"no image"
    path.write_bytes(damaged)
    dataset.cut(plan, tmp_path / "out")
    index = index_shards(plan, tmp_path / "out", broken="skip")
    assert faults(index) == {"b": [f"{path}: was changed after it was written"]}


def test_a_scene_truncated_before_it_was_listed_is_found_at_its_last_tile(
    dataset: Dataset, tmp_path: Path
) -> None:
    path = dataset.folder / "b/b_image.tif"
    path.write_bytes(path.read_bytes()[:-300])
    plan = dataset.plan()  # its header is whole
    assert plan["set_aside"] == []
    dataset.cut(plan, tmp_path / "out")
    index = index_shards(plan, tmp_path / "out", broken="skip")
    (told,) = faults(index)["b"]
    assert told.startswith(f"{path}: cannot be read in rows from ") and "\n" not in told
    opened = open_patches(tmp_path / "out/manifest.json")
    expected = [drawn(k)[:, r : r + 16, c : c + 16] for k in (0, 2)
                for r in range(0, SIDE, 16) for c in range(0, SIDE, 16)]  # fmt: skip
    np.testing.assert_array_equal(opened.image.gather(np.arange(32)), np.stack(expected))


def test_a_scene_that_is_gone_or_cut_off_after_the_fetch_is_told(
    dataset: Dataset, tmp_path: Path
) -> None:
    plan = dataset.plan()
    (dataset.folder / "a/a_image.tif").unlink()
    path = dataset.folder / "c/c_image.tif"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    dataset.cut(plan, tmp_path / "out")
    index = index_shards(plan, tmp_path / "out", broken="skip")
    assert faults(index)["c"] == [f"{path}: has {size - 1} bytes, not {size}"]
    assert list(faults(index)) == ["a", "c"]
    assert index["facts"]["scenes"] == ["b"] and index["kept"] == 16


def test_scenes_of_the_same_pixels_count_once(dataset: Dataset, tmp_path: Path) -> None:
    # Re-encoded: other tiles, another compression, other bytes.
    dataset.write("b", drawn(0), compress="lzw", blockxsize=32, blockysize=32)
    dataset.write("c", drawn(0), tiled=False, compress=None, blockysize=3, blockxsize=SIDE)
    dataset.write("d", drawn(3))
    for shard_mb in (0, 1024):  # in shards of their own, and in one
        plan = dataset.plan(shard_mb=shard_mb)
        assert plan["set_aside"] == []
        out = tmp_path / f"out{shard_mb}"
        dataset.cut(plan, out)
        index = index_shards(plan, out, broken="skip")
        assert faults(index) == {name: ["has the pixels of a"] for name in "bc"}
        assert index["facts"]["scenes"] == ["a", "d"] and index["kept"] == 2 * 16
        opened = open_patches(out / "manifest.json")
        assert opened.places["scene"].tolist() == [0] * 16 + [1] * 16
        images = opened.image.gather(np.arange(32))
        np.testing.assert_array_equal(images[16], drawn(3)[:, :16, :16])
        np.testing.assert_array_equal(images[31], drawn(3)[:, -16:, -16:])
        numbers = [opened.of_shard(shard["name"]) for shard in plan["shards"]]
        assert np.concatenate(numbers).tolist() == list(range(32))
        with pytest.raises(DataError, match=r"^b: has the pixels of a; mend the scene, or set"):
            index_shards(plan, out, broken="fatal")


def test_a_scene_that_was_set_aside_is_no_twin(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    values = np.arange(1, 17, dtype=np.uint16).reshape(1, 1, 4, 4)
    clouded = make_scene([(["red"], values, 1)], "clouded", hidden=np.ones((4, 4)))
    clear = make_scene([(["red"], values, 1)], "clear", hidden=np.zeros((4, 4)))
    found = cut_set(make_card(), [[clouded, clear]], 4, limits={"max_clouds": 0.5})
    assert found.patches.places["name"].tolist() == ["clear_0_0"]
    assert faults(found.index) == {"clouded": ["100.0% of its pixels are clouded, more than 50.0%"]}


# ---- the index


def test_a_damaged_shard_is_told_with_its_file_and_what_to_do(
    dataset: Dataset, tmp_path: Path
) -> None:
    plan, out = dataset.plan(), tmp_path / "out"
    dataset.cut(plan, out)
    index_shards(plan, out, broken="skip")
    shard = out / plan["shards"][0]["name"]
    chunk = shard / "set.zarr/image/c/0/0/0/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(DataError) as told:
        open_patches(out / "manifest.json")
    mend = "delete the shard's folder and cut it again"
    assert str(told.value) == f"{chunk}: was changed after it was written; {mend}"
    chunk.write_bytes(whole[:-2])
    size = len(whole)
    with pytest.raises(DataError) as told:
        open_patches(out / "manifest.json")
    assert str(told.value) == f"{chunk}: has {size - 2} bytes, not {size}; {mend}"
    with pytest.raises(DataError) as told:
        index_shards(plan, out, broken="skip")
    assert str(told.value) == (
        f"{chunk}: has {size - 2} bytes, not {size}; "
        f"delete {shard / 'manifest.json'} and run its stage again"
    )
    chunk.unlink()
    with pytest.raises(DataError) as told:
        open_patches(out / "manifest.json")
    assert str(told.value) == f"{chunk}: a chunk is absent; {mend}"
    # Cut again, it is as it was.
    dataset.cut(plan, out)
    assert chunk.read_bytes() == whole


def test_shards_that_are_no_longer_asked_for_are_deleted(dataset: Dataset, tmp_path: Path) -> None:
    plan, out = dataset.plan(shard_mb=0), tmp_path / "out"
    dataset.cut(plan, out)
    first = index_shards(plan, out, broken="skip")
    kept = {f: f.read_bytes() for f in files_below(out / plan["shards"][0]["name"])}
    dataset.write("b", drawn(20))
    shutil.rmtree(dataset.folder / "c")
    changed = dataset.plan(shard_mb=0)
    dataset.cut(changed, out, only=changed["shards"][1]["name"])
    second = index_shards(changed, out, broken="skip")
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(
        shard["name"] for shard in changed["shards"]
    )
    assert {f: f.read_bytes() for f in kept} == kept, "a shard that is still asked for is touched"
    assert (first["kept"], second["kept"]) == (48, 32)
    assert first["version"] != second["version"]
    opened = open_patches(out / "manifest.json")
    np.testing.assert_array_equal(opened.image.gather(np.array([16]))[0], drawn(20)[:, :16, :16])


def test_a_shard_that_was_not_cut_is_told(dataset: Dataset, tmp_path: Path) -> None:
    plan, out = dataset.plan(shard_mb=0), tmp_path / "out"
    name = plan["shards"][0]["name"]
    dataset.cut(plan, out, only=name)
    absent = out / plan["shards"][1]["name"] / "manifest.json"
    with pytest.raises(DataError) as told:
        index_shards(plan, out, broken="skip")
    assert str(told.value) == f"{absent}: there is no such file; run the stage before"


def test_two_shards_and_one_hold_the_same_set(dataset: Dataset, tmp_path: Path) -> None:
    sets = []
    for shard_mb in (0, 1024):
        plan, out = dataset.plan(shard_mb=shard_mb), tmp_path / f"out{shard_mb}"
        dataset.cut(plan, out)
        index_shards(plan, out, broken="skip")
        sets.append(open_patches(out / "manifest.json"))
    many, one = sets
    assert (len(many.shards), len(one.shards)) == (3, 1)
    assert many.places.equals(one.places) and many.facts == one.facts
    everything = np.arange(len(one))
    np.testing.assert_array_equal(many.image.gather(everything), one.image.gather(everything))
    np.testing.assert_array_equal(many.contents, one.contents)
