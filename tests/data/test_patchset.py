"""A patch set opened for work: gathered over chunks, proven, and refused in one line."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.data import patches, patchset
from swath.data.patchset import open_patches
from swath.errors import DataError

if TYPE_CHECKING:
    from conftest import CutSet

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def many(make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]) -> CutSet:
    """98 overlapping patches of two shards in chunks of 10."""
    rng = np.random.default_rng(6)
    scenes = [
        make_scene(
            [(["red", "nir"], rng.integers(1, 9000, (1, 2, 32, 32)).astype(np.uint16), 1)], name,
            labels=rng.integers(0, 4, (32, 32)),
        )
        for name in ("one", "two")
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CHUNK_BYTES", 10 * 2 * 8 * 8 * 2)
        return cut_set(make_card(["red", "nir"]), [scenes[:1], scenes[1:]], 8, stride_px=4)


def test_chunks_are_the_plain_memory_of_their_patches(many: CutSet) -> None:
    assert [len(chunk) for chunk in many.patches.image.chunks] == [10] * 4 + [9] + [10] * 4 + [9]
    raw = np.fromfile(many.folder / "s1/set.zarr/image/c/3/0/0/0", "<u2")
    np.testing.assert_array_equal(raw.reshape(10, 2, 8, 8), many.images()[49 + 30 : 49 + 40])
    # The last chunk of a shard is filled up, as Zarr has it.
    raw = np.fromfile(many.folder / "s1/set.zarr/image/c/4/0/0/0", "<u2").reshape(10, 2, 8, 8)
    np.testing.assert_array_equal(raw[:9], many.images()[-9:])
    assert not raw[9].any()


@settings(max_examples=25)
@given(which=st.lists(st.integers(0, 97), max_size=40))
def test_gathering_over_shards_and_chunks_is_plain_reading(many: CutSet, which: list[int]) -> None:
    asked = np.array(which, dtype=np.int64)
    np.testing.assert_array_equal(many.patches.image.gather(asked), many.images()[asked])
    np.testing.assert_array_equal(many.patches.label.gather(asked), many.labels()[asked])


def test_a_set_knows_its_shards_classes_and_main_labels(many: CutSet) -> None:
    opened = many.patches
    assert opened.shards == (("s0", 0, 49), ("s1", 49, 98)) and len(opened) == 98
    assert opened.of_shard("s1").tolist() == list(range(49, 98))
    assert opened.of_shard("none").tolist() == []
    assert opened.classes == ["Water", "Forest", "Town"]
    labels = many.labels()
    for patch in (0, 48, 97):
        counts = [int((labels[patch] == number).sum()) for number in range(3)]
        assert opened.contents[patch].tolist() == counts
        assert opened.main_label[patch] == int(np.argmax(counts))


def test_a_patch_without_labels_has_no_main_label(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    labels = np.full((4, 8), 255, np.uint8)
    labels[0, 5] = 2
    values = np.arange(1, 33, dtype=np.uint16).reshape(1, 1, 4, 8)
    found = cut_set(make_card(), [[make_scene([(["red"], values, 1)], labels=labels)]], 4)
    assert found.patches.main_label.tolist() == [255, 2]


def test_a_chunk_of_zeros_is_written(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    values = np.zeros((1, 1, 8, 8), np.uint16)
    values[0, 0, -1, -1] = 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CHUNK_BYTES", 2 * 4 * 4)
        found = cut_set(make_card(nodata=None), [[make_scene([(["red"], values, 1)])]], 4)
    files = [found.folder / f"s0/set.zarr/image/c/{number}/0/0/0" for number in range(4)]
    assert [file.stat().st_size for file in files] == [32] * 4
    assert found.images().ravel().tolist() == [0] * 63 + [7]


def test_a_set_of_many_chunks_opens(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet]
) -> None:
    # Each map holds a file open, and the usual limit is 1,024.
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    values = np.arange(1, 1 + 40 * 40, dtype=np.uint16).reshape(1, 1, 40, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "CHUNK_BYTES", 1)
        found = cut_set(make_card(), [[make_scene([(["red"], values, 1)])]], 1)
    assert len(found.patches.image.chunks) == 1600
    np.testing.assert_array_equal(found.images().ravel(), values.ravel())


def test_what_is_no_set_is_told(tmp_path: Path, many: CutSet) -> None:
    with pytest.raises(DataError) as told:
        open_patches(tmp_path / "manifest.json")
    assert str(told.value) == (
        f"{tmp_path / 'manifest.json'}: there is no such file; run the stage before"
    )
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(DataError, match=r"json: is not the index of a patch set; cut the patches"):
        open_patches(tmp_path / "manifest.json")
    for name in ("places.parquet", "contents.npy"):
        (tmp_path / name).write_bytes((many.folder / name).read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(many.index | {"kept": 97}))
    with pytest.raises(DataError, match="lists 97 patches, its tables 98; run the stage `patches`"):
        open_patches(tmp_path / "manifest.json")


def test_of_a_set_larger_than_is_proven_each_time_only_the_sizes_are_compared(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    values = np.arange(1, 65, dtype=np.uint16).reshape(1, 1, 8, 8)
    found = cut_set(make_card(), [[make_scene([(["red"], values, 1)])]], 4)
    chunk = found.folder / "s0/set.zarr/image/c/0/0/0/0"
    chunk.write_bytes(b"\7" + chunk.read_bytes()[1:])
    with pytest.raises(DataError, match="was changed after it was written"):
        open_patches(found.folder / "manifest.json")
    monkeypatch.setattr(patchset, "PROVEN_BYTES", 0)
    assert open_patches(found.folder / "manifest.json").image.gather(np.arange(1))[0, 0, 0, 0] == 7
    chunk.write_bytes(chunk.read_bytes() + b"\0")
    with pytest.raises(DataError, match="has 129 bytes, not 128"):
        open_patches(found.folder / "manifest.json")
