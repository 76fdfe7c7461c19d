"""Statistics: map over shards and reduce is what NumPy says of all training pixels at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from swath.cli import app
from swath.data import statistics
from swath.data.mapped import Mapped
from swath.data.patchset import PatchSet
from swath.data.statistics import (
    QUANTILES,
    add_up,
    bins_of,
    measure,
    read_sums,
    refine,
    rounds,
    summary,
)

if TYPE_CHECKING:
    from conftest import CutSet

Make = Callable[..., Any]


def opened(image: np.ndarray, nodata: float | None, chunk: int) -> PatchSet:
    chunks = tuple(image[at : at + chunk] for at in range(0, len(image), chunk))
    label = Mapped((np.zeros(len(image), np.uint8),), (len(image),))
    contents = np.ones((len(image), 1), np.int64)
    return PatchSet(Mapped(chunks, image.shape), label, pd.DataFrame(), contents,
                    {"nodata": nodata})  # fmt: skip


def reduced(
    patches: PatchSet, shards: list[np.ndarray], training: np.ndarray
) -> list[dict[str, Any]]:
    """Summaries of each fold, as the verbs come to them."""
    dtype = patches.image.dtype
    totals = add_up([measure(patches, which, training) for which in shards])
    refined: Any = [None] * len(training)
    if rounds(dtype) == 2:
        wanted = np.stack([bins_of(total)[0] for total in totals])
        refined = sum(refine(patches, which, training, wanted) for which in shards)
    return [summary(total, dtype, refined[fold]) for fold, total in enumerate(totals)]


def agrees(found: dict[str, Any], images: np.ndarray, nodata: float | None) -> None:
    """Compare a fold with NumPy's answer for all of its pixels."""
    assert found["patches"] == len(images)
    for channel in range(images.shape[1]):
        values = images[:, channel].ravel()
        values = values[np.isfinite(values.astype(float))]
        values = values[values != nodata] if nodata is not None else values
        values = values.astype(np.float64)
        assert found["pixels"][channel] == len(values)
        if not len(values):
            told = [found[key][channel] for key in ("mean", "std", "least", "most")]
            assert told == [0.0] * 4
            assert [found["quantiles"][str(q)][channel] for q in QUANTILES] == [0.0] * 5
            continue
        size = np.abs(values).max() * 1e-9
        assert found["mean"][channel] == pytest.approx(values.mean(), rel=1e-9, abs=size)
        assert found["std"][channel] == pytest.approx(values.std(), rel=1e-9, abs=size)
        assert (found["least"][channel], found["most"][channel]) == (values.min(), values.max())
        for q in QUANTILES:
            expected = np.quantile(values, q)
            assert found["quantiles"][str(q)][channel] == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    count=st.integers(1, 12),
    side=st.integers(1, 4),
    nodata=st.sampled_from([None, 0.0, 7.0]),
    kind=st.sampled_from(["spread", "few", "constant", "extreme"]),
    ends=st.lists(st.integers(0, 12), max_size=3),
    share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    folds=st.integers(1, 3),
)
def test_a_reduce_over_shards_is_the_direct_computation(
    seed: int, dtype: str, count: int, side: int, nodata: float | None, kind: str,
    ends: list[int], share: float, folds: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    shape = (count, 2, side, side)
    known = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    if kind == "spread":
        image = rng.normal(90, 30, shape).clip(known.min, known.max)
    elif kind == "few":
        image = rng.integers(0, 8, shape).astype(float)
    elif kind == "constant":
        image = np.full(shape, 101.0)
    else:
        image = rng.choice([float(known.min) / 2, 0.0, 1.0, float(known.max) / 2], shape)
    image = image.astype(dtype)
    if dtype == "float32":
        image = image * np.float32(rng.choice([1e-3, 1, -1]))
        image[rng.random(shape) < 0.2] = np.nan
        image[0, 0, 0, 0] = -np.inf
    image[rng.random(shape) < 0.2] = nodata or 0
    patches = opened(image, nodata, chunk=5)
    training = rng.random((folds, count)) < share
    cuts = [0, *sorted(min(end, count) for end in ends), count]
    shards = [np.arange(a, b) for a, b in itertools.pairwise(cuts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "BATCH_BYTES", int(rng.integers(1, 300)))
        found = reduced(patches, shards, training)
    for fold in range(folds):
        agrees(found[fold], image[training[fold]], nodata)


def test_one_pixel_and_an_empty_training_part() -> None:
    patches = opened(np.full((2, 1, 1, 1), 3.25, np.float32), 0.0, chunk=1)
    training = np.array([[True, False], [False, False]])
    one, none = reduced(patches, [np.arange(1), np.arange(1, 2)], training)
    assert (one["mean"], one["std"], one["pixels"], one["patches"]) == ([3.25], [0.0], [1], 1)
    assert one["quantiles"] == {str(q): [3.25] for q in QUANTILES}
    assert (none["mean"], none["std"], none["pixels"], none["patches"]) == ([0.0], [0.0], [0], 0)


def test_neighbouring_floats_are_told_apart() -> None:
    # They share their first 16 bits, so that the first round alone cannot.
    values = np.array([1.0, 1.0 + 2**-20, 1.0 + 2**-22], np.float32)
    image = np.repeat(values, 50).reshape(150, 1, 1, 1)
    found = reduced(opened(image, None, 60), [np.arange(150)], np.ones((1, 150), bool))[0]
    assert found["quantiles"]["0.5"] == [float(values[2])]
    assert found["quantiles"]["0.98"] == [float(values[1])]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_verbs_come_to_the_direct_computation_through_their_files(
    tmp_path: Path, make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], dtype: str
) -> None:
    rng = np.random.default_rng(4)
    scenes = [
        make_scene(
            [(["red", "nir"], rng.normal(800, 250, (1, 2, 16, 16)).astype(dtype), 1)], name
        )
        for name in ("first", "second", "third")
    ]  # fmt: skip
    scenes[0].layers[0].values[0, :, :2] = 0
    found = cut_set(make_card(["red", "nir"]), [scenes[:2], scenes[2:]], 4)
    manifest = found.folder / "manifest.json"
    count = len(found.patches)
    parts = {fold: rng.choice(["train", "val", "test"], count) for fold in (0, 1)}
    parts[1][32:] = "test"  # no patch of the second shard trains in this fold
    table = pd.concat(
        pd.DataFrame({"patch": np.arange(count), "fold": fold, "part": part})
        for fold, part in parts.items()
    )
    (tmp_path / "split").mkdir()
    table.to_parquet(tmp_path / "split/split.parquet", index=False)

    def verb(*words: object) -> None:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output

    def measured(folder: Path, *below: object) -> Path:
        for shard in ("s0", "s1"):
            verb("measure", "--patches", manifest, "--split", tmp_path / "split", "--shard", shard,
                 "--out", folder / f"{shard}.npz", *below)  # fmt: skip
        (folder / "another.npz").write_text("of a shard that has gone")
        return folder

    sums, refined = measured(tmp_path / "round0"), []
    if dtype == "float32":
        totals = tmp_path / "totals.npz"
        verb("totals", "--patches", manifest, "--sums", sums, "--out", totals)
        refined = ["--refined", measured(tmp_path / "round1", "--below", totals)]
    verb("statistics", "--patches", manifest, "--sums", sums, *refined,
         "--out", tmp_path / "statistics.json")  # fmt: skip
    told = json.loads((tmp_path / "statistics.json").read_text())["folds"]
    assert len(told) == 2
    for fold, summary_ in enumerate(told):
        agrees(summary_, found.images()[parts[fold] == "train"], 0.0)
    # What a file holds is what was measured.
    training = np.stack([parts[fold] == "train" for fold in (0, 1)])
    again = measure(found.patches, found.patches.of_shard("s1"), training)
    for name, array in read_sums(sums / "s1.npz").arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
