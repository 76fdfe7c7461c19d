"""What is checked of a scene: counts against brute force, limits in one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swath.data import patches
from swath.data.card import Card
from swath.data.quality import Tally, faults

if TYPE_CHECKING:
    from conftest import CutSet

Make = Callable[..., Any]
LIMITS: dict[str, Any] = {
    "max_nodata": 1.0, "max_clouds": 1.0, "max_saturated": 1.0, "max_implausible": 1.0,
    "constant_bands": False,
}  # fmt: skip
BANDS = ["a", "b", "c"]


@given(
    seed=st.integers(0, 999),
    dtype=st.sampled_from(["uint8", "int16", "float32"]),
    nodata=st.sampled_from([None, 0.0, 9.0]),
    height=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 9), max_size=3),
)
def test_a_tally_is_what_counting_the_whole_gives(
    make_card: Make, seed: int, dtype: str, nodata: float | None, height: int, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 12, (3, height, 5)).astype(dtype)
    if dtype == "float32":
        values[rng.random(values.shape) < 0.2] = np.nan
        values[rng.random(values.shape) < 0.1] = -np.inf
    if seed % 2:
        values[:, rng.random((height, 5)) < 0.4] = nodata or 0
    card = make_card(BANDS, nodata=nodata, saturated=11.0, valid_range=[2.0, 8.0])
    tally = Tally(card, BANDS)
    seen = []
    for strip in np.split(values, sorted(c for c in cuts if c < height), axis=1):
        told = tally.add(strip, 0)
        seen.append(np.ones(strip.shape[1:], bool) if told is None else told)
    finite = np.isfinite(values.astype(float))
    absent = finite & (values == nodata) if nodata is not None else np.zeros_like(finite)
    expected = finite.all(axis=0)
    if nodata is not None:
        expected &= ~(values == nodata).all(axis=0)
    np.testing.assert_array_equal(np.concatenate(seen), expected)
    row = tally.row()
    present = values[finite & ~absent].astype(float)
    assert row["pixels"] == values.size
    assert row["nodata"] == pytest.approx((~finite | absent).mean())
    assert row["nan"] == pytest.approx((~finite).mean())
    assert row["saturated"] == pytest.approx((present >= 11).sum() / values.size)
    implausible = ((present < 2) | (present > 8)) & (present < 11)
    assert row["implausible"] == pytest.approx(implausible.sum() / values.size)
    if present.size:
        assert (row["least"], row["most"]) == (present.min(), present.max())
    of_band = [v[f & ~a] for v, f, a in zip(values, finite, absent, strict=True)]
    assert row["empty"] == [n for n, v in zip(BANDS, of_band, strict=True) if not v.size]
    assert row["constant"] == [
        n for n, v in zip(BANDS, of_band, strict=True) if v.size and (v == v[0]).all()
    ]
    # The digest is of the pixels: neither strips nor the order of the bands tell.
    turned = Tally(card, BANDS[::-1])
    turned.add(values[::-1], 0)
    assert turned.row()["digest"] == row["digest"]
    other = values.copy()
    other[0, -1, -1] = 5 if values[0, -1, -1] != 5 else 6
    changed = Tally(card, BANDS)
    changed.add(other, 0)
    assert changed.row()["digest"] != row["digest"]


def test_a_layer_that_cannot_hold_the_no_data_value_has_none(make_card: Make) -> None:
    tally = Tally(make_card(["a"], nodata=-9999), ["a"])
    # -9999 in 8 bits would be 241.
    assert tally.add(np.full((1, 2, 2), 241, np.uint8), 0) is None
    assert tally.row()["nodata"] == 0 and tally.row()["empty"] == []


@settings(max_examples=12)
@given(
    shape=st.tuples(st.integers(5, 23), st.integers(5, 23)),
    size=st.integers(2, 5),
    stride=st.integers(1, 9),
    segment=st.sampled_from([1, 10**9]),
    fraction=st.sampled_from([0.4, 1.0]),
    padding=st.sampled_from(["none", "shift", "nodata"]),
)
def test_every_pixel_of_a_scene_is_tallied_once_wherever_patches_lie(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], shape: tuple[int, int],
    size: int, stride: int, segment: int, fraction: float, padding: str,
) -> None:  # fmt: skip
    rng = np.random.default_rng(5)
    fine = rng.integers(0, 4, (1, 1, *shape)).astype(np.uint16)
    fine[..., 0, 0] = 40
    coarse = rng.integers(1, 9, (1, 1, *(-(-side // 2) for side in shape))).astype(np.uint16)
    hidden = rng.random(shape) < 0.3
    scene = make_scene([(["a"], fine, 1), (["b"], coarse, 2)], hidden=hidden, block_rows=[2, 3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "SEGMENT_BYTES", segment)
        patch.setattr(patches, "SEGMENT_ALIGNED_PX", 4)
        patch.setattr(patches, "STRIP_BYTES", 1)
        found = cut_set(
            make_card(["a", "b"]), [[scene]], size, stride_px=stride, fraction=fraction,
            padding=padding, resampling="nearest",
        )  # fmt: skip
    check = found.index["checks"][0]
    assert check["clouds"] == pytest.approx(hidden.mean())
    assert check["pixels"] == 2 * fine.size
    assert check["nodata"] == pytest.approx((fine == 0).sum() / (2 * fine.size))
    assert (check["least"], check["most"]) == (1, 40)


@pytest.mark.parametrize(
    ("values", "hidden", "limit", "told"),
    [
        ([[0, 0], [0, 7]], None, {"max_nodata": 0.5},
         ["is constant in a", "75.0% of its pixels are no-data, more than 50.0%"]),
        ([[1, 2], [3, 7]], [[1, 1], [1, 0]], {"max_clouds": 0.7},
         ["75.0% of its pixels are clouded, more than 70.0%"]),
        ([[10, 10], [3, 7]], None, {"max_saturated": 0.25},
         ["50.0% of its pixels are saturated, more than 25.0%"]),
        ([[1, 9], [4, 7]], None, {"max_implausible": 0.1},
         ["50.0% of its pixels are implausible, more than 10.0%"]),
        ([[5, 5], [0, 5]], None, {}, ["is constant in a"]),
        ([[5, 5], [0, 5]], None, {"constant_bands": True}, []),
        ([[0, 0], [0, 0]], None, {"max_nodata": 0.5}, ["has no data at all"]),
        ([[1, 9], [10, 0]], [[1, 0], [0, 0]],
         {"max_clouds": 0.25, "max_saturated": 0.25, "max_implausible": 0.5, "max_nodata": 0.25},
         []),
    ],
    ids=["no data", "clouds", "saturated", "implausible", "constant", "accepted", "empty", "fit"],
)  # fmt: skip
def test_limits_are_told_with_their_numbers(
    make_card: Make, make_scene: Make, cut_set: Callable[..., CutSet], values: list[list[int]],
    hidden: list[list[int]] | None, limit: dict[str, Any], told: list[str],
) -> None:  # fmt: skip
    card = make_card(["a"], saturated=10.0, valid_range=[2.0, 8.0])
    scene = make_scene(
        [(["a"], np.array([[values]], np.uint16), 1)], "bad",
        hidden=None if hidden is None else np.array(hidden),
    )  # fmt: skip
    good = make_scene([(["a"], np.array([[[[3, 4], [5, 6]]]], np.uint16), 1)], "good")
    found = cut_set(card, [[scene, good]], 2, limits=LIMITS | limit)
    assert [check["faults"] for check in found.index["checks"]] == [told, []]
    assert found.index["kept"] == 2 - bool(told)


def test_bands_without_any_data_are_named_up_to_five(make_card: Make) -> None:
    bands = [f"b{number}" for number in range(8)]
    tally = Tally(make_card(bands), bands)
    values = np.zeros((8, 2, 2), np.uint16)
    values[0] = [[1, 2], [3, 4]]
    tally.add(values, 0)
    assert faults(tally.row(), **LIMITS) == ["has no data in b1, b2, b3, b4, b5"]


def test_faults_of_the_published_card(tiny_card: Card) -> None:
    tally = Tally(tiny_card, ["B02"])
    tally.add(np.arange(1, 5, dtype=np.uint16).reshape(1, 2, 2), 0)
    tally.add_clear(np.array([[True, False]]))
    row = tally.row()
    assert row["clouds"] == 0.5 and faults(row, **LIMITS) == []
    assert faults(row, **(LIMITS | {"max_clouds": 0.49})) == [
        "50.0% of its pixels are clouded, more than 49.0%"
    ]
