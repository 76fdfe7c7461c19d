"""Batches: normalised, complete, repeatable, and augmented in step with their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swath.data.mapped import Mapped
from swath.learn import batches as loader
from swath.learn.batches import (
    Batches,
    Normalise,
    absent_pixels,
    block_shuffled,
    memory_bytes,
    suited_shuffle,
)

SYMMETRIES = {"flip": True, "turn": True}
MEAN, STD = [1100.0, 1150.0, 1160.0, 1000.0], [240.0, 250.0, 260.0, 50.0]


def numbered(patch_set, count=23):
    """A set in which every pixel of patch n is n + 1, so that a batch tells what is in it."""
    made = patch_set(count, nodata=None)
    for n in range(count):
        made.image.chunks[n // 10][n % 10] = n + 1
    return made


def order_of(batches: Batches) -> list[int]:
    return [round(float(v)) - 1 for image, _ in batches for v in image[:, 0, 0, 0]]


def batches_of(patches, **given):
    which = given.pop("which", np.arange(len(patches)))
    neutral = {"batch_size": 5, "mean": [0.0] * 4, "std": [1.0] * 4}
    return Batches(patches, which, **(neutral | given))


def test_pixels_are_normalised_by_band_and_no_data_becomes_the_mean(patch_set) -> None:
    patches = patch_set(4)
    patches.image.chunks[0][1, 2, 3, 4] = 0
    image, label = next(iter(batches_of(patches, mean=MEAN, std=STD)))
    stored = patches.image.gather(np.arange(4)).astype(np.float64)
    expected = (stored - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    expected[stored == 0] = 0.0
    assert image.dtype == torch.float32 and label.dtype == torch.int64
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
    assert image[1, 2, 3, 4] == 0
    np.testing.assert_array_equal(label.numpy(), patches.label.gather(np.arange(4)))


def test_without_a_no_data_value_nothing_is_filled() -> None:
    image = Normalise([10.0], [2.0], None)(np.zeros((1, 1, 2, 2), np.uint8))
    assert (image == -5).all()


def test_nan_is_always_no_data_beside_the_declared_value() -> None:
    stored = np.array([[[[np.nan, -9999.0], [4.0, 8.0]]]], np.float32)
    declared = Normalise([4.0], [2.0], -9999.0)(stored)
    assert declared.flatten().tolist() == [0.0, 0.0, 0.0, 2.0]
    undeclared = Normalise([4.0], [2.0], None)(stored)
    assert undeclared.flatten().tolist() == [0.0, -5001.5, 0.0, 2.0]


@pytest.mark.parametrize(
    "dtype, nodata, stored, expected",
    [
        ("uint16", 0.0, [0, 5], [True, False]),
        ("uint16", 65535.0, [65535, 5], [True, False]),
        ("int16", -32768.0, [-32768, 5], [True, False]),
        ("int16", 0.0, [-5, 0], [False, True]),
        ("float32", None, [np.nan, -np.inf], [True, True]),
        ("float32", None, [np.inf, 3.0], [True, False]),
        ("uint8", 0.0, [1, 2], None),
        ("uint8", None, [0, 0], None),
        ("int16", 0.0, [-5, 7], None),
        ("float32", -1.0, [1.0, np.inf], [False, True]),
        ("float32", -1.0, [1.0, 2.0], None),
    ],
)
def test_absent_pixels_are_found_whatever_the_type(dtype, nodata, stored, expected) -> None:
    found = absent_pixels(np.array(stored, dtype), nodata)
    assert (found if found is None else found.tolist()) == expected


@given(
    bands=st.integers(1, 9),
    side=st.sampled_from([1, 8, 64, 130]),
    nodata=st.sampled_from([None, 0]),
    known=st.booleans(),
)
def test_the_pieces_of_normalisation_do_not_show(bands, side, nodata, known) -> None:
    """Large bands go one by one, small ones together; what is known to be clean is not searched."""
    rng = np.random.default_rng(bands)
    stored = rng.integers(0 if nodata == 0 else 1, 2000, (bands, side, side), np.uint16)
    mean, std = rng.uniform(0, 1000, bands), rng.uniform(1, 300, bands)
    clean = bool((stored != 0).all())
    out = np.empty(stored.shape, np.float32)
    assert Normalise(mean, std, nodata).into(stored, out, known and clean) == (
        clean or nodata is None
    )
    expected = (stored - mean[:, None, None]) / std[:, None, None]
    expected[(stored == 0) & (nodata == 0)] = 0
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)
    there = Normalise(mean, std, nodata).there(torch.from_numpy(stored), torch.device("cpu"))
    assert torch.equal(there, torch.from_numpy(out))


@pytest.mark.parametrize("side", [16, 160])
def test_an_epoch_later_no_data_is_still_no_data(patch_set, side) -> None:
    patches = patch_set(7, side=side, chunk=3)
    patches.image.chunks[1][1, 2, 3, 4] = 0
    batches = batches_of(patches, mean=MEAN, std=STD)
    first, second = (torch.cat([image for image, _ in batches]) for _ in range(2))
    assert torch.equal(first, second)
    assert first[4, 2, 3, 4] == 0 and first[4, 2, 3, 3] != 0


def test_memory_is_used_again_only_when_nobody_holds_a_part_of_it(patch_set) -> None:
    patches = numbered(patch_set, 20)
    kept = [image[:1, 1] for image, _ in batches_of(patches)]  # a part of each
    assert [round(float(part[0, 0, 0])) for part in kept] == [1, 6, 11, 16]
    places = [image.data_ptr() for image, _ in batches_of(patches)]
    assert len(set(places)) == 2  # one in the hand, one in the making


class OnlyGather:
    """What an image with bands of several GSD offers."""

    def __init__(self, mapped: Mapped) -> None:
        self.shape, self.gather = mapped.shape, mapped.gather

    def __len__(self) -> int:
        return self.shape[0]


def test_an_image_that_can_only_be_gathered_gives_the_same(patch_set) -> None:
    patches = patch_set(9, side=160)
    expected = [image for image, _ in batches_of(patches, mean=MEAN, std=STD, seed=0)]
    object.__setattr__(patches, "image", OnlyGather(patches.image))
    got = [image for image, _ in batches_of(patches, mean=MEAN, std=STD, seed=0)]
    assert all(torch.equal(*both) for both in zip(expected, got, strict=True))


def test_several_labels_a_patch_come_as_shares(patch_set) -> None:
    patches = patch_set(4)
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], np.uint8)
    object.__setattr__(patches, "label", Mapped((labels,), labels.shape))
    _, label = next(iter(batches_of(patches)))
    assert label.dtype == torch.float32 and label.tolist() == labels.tolist()


def test_a_band_that_never_varies_gives_finite_numbers() -> None:
    assert torch.isfinite(Normalise([7.0], [0.0], None)(np.full((1, 1, 2, 2), 7, np.uint8))).all()


def test_stored_pixels_are_left_as_they_are(patch_set) -> None:
    patches = patch_set(6, chunk=6)
    before = patches.image.chunks[0].copy()
    for _ in batches_of(patches, mean=MEAN, std=STD, seed=0, augment=SYMMETRIES):
        pass
    np.testing.assert_array_equal(patches.image.chunks[0], before)


@pytest.mark.parametrize("count", [1, 5, 23])
def test_every_patch_comes_exactly_once_an_epoch(patch_set, count) -> None:
    batches = batches_of(numbered(patch_set, count), seed=3)
    for _ in range(3):
        assert sorted(order_of(batches)) == list(range(count))
    assert len(list(batches)) == len(batches) == -(-count // 5)


def test_only_the_patches_of_the_part_come(patch_set) -> None:
    which = np.array([2, 3, 11, 22])
    assert sorted(order_of(batches_of(numbered(patch_set), which=which, seed=0))) == which.tolist()


def test_the_order_differs_by_epoch_and_is_given_by_seed_and_epoch(patch_set) -> None:
    patches = numbered(patch_set)
    first, again = batches_of(patches, seed=7), batches_of(patches, seed=7)
    orders = [order_of(first) for _ in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert [order_of(again) for _ in range(3)] == orders
    late = batches_of(patches, seed=7)
    late.start(2)  # as a run that goes on sets it
    assert order_of(late) == orders[2]
    assert order_of(batches_of(patches, seed=8)) != orders[0]


def test_without_a_seed_the_order_is_the_given_one_and_nothing_is_augmented(patch_set) -> None:
    patches = patch_set(12)
    batches = batches_of(patches, augment=SYMMETRIES)
    image = torch.cat([image for image, _ in batches])
    np.testing.assert_array_equal(image.numpy(), patches.image.gather(np.arange(12)))


def test_augmentation_is_the_same_for_the_same_seed_epoch_and_batch(patch_set) -> None:
    patches = patch_set(12, labels="pixel")
    ways = {"seed": 5, "augment": SYMMETRIES}
    once, twice = batches_of(patches, **ways), batches_of(patches, **ways)
    for (a, la), (b, lb) in zip(once, twice, strict=True):
        assert torch.equal(a, b) and torch.equal(la, lb)


def test_a_label_derived_from_the_image_stays_so_through_the_loader(patch_set) -> None:
    patches = patch_set(12, labels="pixel")
    for image, label in batches_of(patches, seed=1, augment=SYMMETRIES):
        assert torch.equal(image[:, :3].argmax(1), label)


# ---- order, memory, and going on --------------------------------------------------------------


@given(
    count=st.integers(1, 60),
    block=st.integers(1, 70),
    buffer=st.integers(1, 70),
    seed=st.integers(0, 9),
)
def test_blocks_have_every_patch_once_and_are_read_together(count, block, buffer, seed) -> None:
    which = np.arange(count) * 3 + 1
    order, reading = block_shuffled(which, block, buffer, np.random.default_rng(seed))
    assert sorted(order) == sorted(reading) == which.tolist()
    for begin in range(0, count, buffer):
        some = slice(begin, begin + buffer)
        assert sorted(order[some]) == sorted(reading[some])
    # What is read lies together, but for the seams between blocks.
    assert (np.diff(reading) != 3).sum() <= -(-count // block) - 1
    again, _ = block_shuffled(which, block, buffer, np.random.default_rng(seed))
    assert again.tolist() == order.tolist()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 patches of 4 x 16 x 16 x 2 bytes, of which four are shuffled together."""
    monkeypatch.setattr(loader, "BLOCK_BYTES", 2 * 2048)
    monkeypatch.setattr(loader, "BUFFER_BYTES", 8 * 2048)


def test_blocks_give_every_patch_once_in_an_order_of_seed_and_epoch(
    patch_set, small_blocks
) -> None:
    patches = numbered(patch_set, 40)
    batches = batches_of(patches, seed=3, shuffle="blocks")
    orders = [order_of(batches) for _ in range(2)]
    assert all(sorted(order) == list(range(40)) for order in orders)
    assert orders[0] != orders[1]
    assert order_of(batches_of(patches, seed=3, shuffle="blocks")) == orders[0]
    together = [set(orders[0][begin : begin + 8]) for begin in range(0, 40, 8)]
    assert all({n ^ 1 for n in some} == some for some in together)


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
@pytest.mark.parametrize("seen", [0, 1, 3, 4])
def test_it_goes_on_in_the_middle_of_an_epoch_bit_for_bit(
    patch_set, small_blocks, shuffle, seen
) -> None:
    patches = patch_set(23, labels="pixel")
    how = {
        "seed": 6,
        "shuffle": shuffle,
        "augment": {
            "flip": True,
            "turn": True,
            "crop_px": 8,
            "band_dropout": 0.3,
            "cutmix": 1.0,
            "noise": 0.1,
        },
    }
    straight = batches_of(patches, **how)
    whole = [list(straight) for _ in range(3)]
    going_on = batches_of(patches, **how)
    going_on.start(1, seen)
    rest = [list(going_on) for _ in range(2)]
    assert len(rest[0]) == 5 - seen and len(rest[1]) == 5
    for expected, got in ((whole[1][seen:], rest[0]), (whole[2], rest[1])):
        for (image, label), (image_got, label_got) in zip(expected, got, strict=True):
            assert torch.equal(image, image_got) and torch.equal(label, label_got)


def test_blocks_are_announced_before_they_are_read(patch_set, small_blocks, monkeypatch) -> None:
    announced: list[int] = []
    monkeypatch.setattr(Mapped, "announce", lambda self, some: announced.extend(some.tolist()))
    batches = batches_of(numbered(patch_set, 40), seed=3, shuffle="blocks", batch_size=4)
    seen: list[int] = []
    for image, _ in batches:
        seen += [round(float(v)) - 1 for v in image[:, 0, 0, 0]]
        assert set(seen) <= set(announced)
    assert sorted(announced) == list(range(40))


def test_a_set_that_fits_in_memory_is_announced_once(patch_set, monkeypatch) -> None:
    announced: list[int] = []
    monkeypatch.setattr(Mapped, "announce", lambda self, some: announced.extend(some.tolist()))
    batches = batches_of(patch_set(23), seed=3)
    for epoch in range(2):
        batches.start(epoch)
        counted = iter(batches)
        for _ in range(len(batches)):  # and no further, as Lightning takes them
            next(counted)
    assert announced == list(range(23))


@pytest.mark.parametrize(
    "files, own, expected",
    [
        ({"memory.max": "max\n"}, "0::/\n", None),
        ({"memory.max": "5000\n"}, "0::/\n", 5000),
        ({"memory.max": "5000", "a/memory.max": "3000", "a/b/memory.max": "max"}, "0::/a/b", 3000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, "4:memory:/\n0::/\n", None),
        (
            {"memory/memory.limit_in_bytes": "9000", "memory/slurm/memory.limit_in_bytes": "7000"},
            "7:cpu:/\n4:memory:/slurm\n0::/\n",
            7000,
        ),
    ],
)
def test_memory_is_what_the_control_group_allows(tmp_path: Path, files, own, expected) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    machine = memory_bytes(tmp_path / "none", tmp_path / "none")
    assert machine > 100 << 20
    assert memory_bytes(tmp_path / "cgroup", tmp_path / "own") == (expected or machine)


def test_a_set_larger_than_half_of_the_memory_is_read_in_blocks(patch_set, monkeypatch) -> None:
    patches = patch_set(10)  # of 2048 bytes
    monkeypatch.setattr(loader, "memory_bytes", lambda: 2 * 8 * 2048)
    assert suited_shuffle(patches, np.arange(8)) == "full"
    assert suited_shuffle(patches, np.arange(9)) == "blocks"
