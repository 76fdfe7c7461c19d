"""A patch set in an object store: its chunks come when they are looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from swath import store
from swath.data.patchset import open_patches
from swath.errors import DataError

pytestmark = pytest.mark.s3


@pytest.fixture
def elsewhere(machine, cut_set, make_card, make_scene):
    """A patch set of two shards as it was cut on one machine, and its index on another."""
    rng = np.random.default_rng(0)
    scenes = [
        make_scene(
            [(("red",), rng.integers(1, 999, (1, 1, 64, 64), np.uint16), 1)], name,
            labels=rng.integers(0, 3, (64, 64)), corner=(600_000.0 + 9_000 * n, 5_300_040.0),
        )
        for n, name in enumerate(("one", "two"))
    ]  # fmt: skip
    cut = cut_set(make_card(), [[scene] for scene in scenes], 16)
    shutil.copytree(cut.folder, machine("first") / "copy/results/e/patches")
    store.put(Path("copy/results"))
    index = machine("second") / "copy/results/e/patches/manifest.json"
    store.bring(index)
    return cut.patches, index


def chunks(index: Path, array: str) -> int:
    return sum(path.is_file() for path in index.parent.glob(f"*/set.zarr/{array}/c/**/*"))


def test_a_patch_set_brings_the_chunks_that_are_looked_at(elsewhere) -> None:
    there, index = elsewhere
    opened = open_patches(index)
    assert len(opened) == len(there) == 32
    assert opened.image.shape == there.image.shape
    assert opened.image.dtype == there.image.dtype
    assert chunks(index, "image") == chunks(index, "label") == 0
    which = opened.of_shard(opened.shards[1][0])
    np.testing.assert_array_equal(opened.image.gather(which), there.image.gather(which))
    assert (chunks(index, "image"), chunks(index, "label")) == (1, 0)
    every = np.arange(len(opened))
    np.testing.assert_array_equal(opened.label.gather(every), there.label.gather(every))
    views = zip(opened.image.views(every), there.image.views(every), strict=True)
    assert all(np.array_equal(one, other) for one, other in views)
    assert (chunks(index, "image"), chunks(index, "label")) == (2, 2)


def test_a_chunk_that_was_changed_in_the_store_is_refused(elsewhere, s3) -> None:
    index = elsewhere[1]
    bucket = store._store().bucket  # type: ignore[union-attr]
    (key,) = [k for k in s3.keys(bucket) if "/s0/set.zarr/image/c/" in k]
    body = bytearray(s3.body(bucket, key))
    body[100] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(body))
    opened = open_patches(index)
    opened.image.gather(opened.of_shard("s1"))
    with pytest.raises(DataError, match="was changed after it was written"):
        opened.image.gather(opened.of_shard("s0"))
