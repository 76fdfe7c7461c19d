"""Pictures in class folders of a zip, with a table of their places: read, cut, and refused."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.published import Published
from swath.errors import DataError

if TYPE_CHECKING:
    from conftest import TinyArchive


def opened(twin: TinyArchive, card: Card | None = None) -> Published:
    """The patches of an archive."""
    source = open_source(card or twin.card, twin.folder)
    piece = source.open(source.names[0])
    assert isinstance(piece, Published)
    return piece


def read_all(twin: TinyArchive, card: Card | None = None) -> tuple[list[str], np.ndarray, Any]:
    """Names, images and labels of all patches."""
    piece = opened(twin, card)
    images, labels = piece.read(piece.places)
    return piece.places["name"].tolist(), images[0], labels


def refused(twin: TinyArchive, card: Card | None = None) -> str:
    """The one line in which an archive is refused."""
    with pytest.raises(DataError) as told:
        read_all(twin, card)
    assert "\n" not in str(told.value)
    return str(told.value)


def rewrite(twin: TinyArchive, **changes: bytes | None) -> None:
    """Pack the archive anew, deflated, with members changed, added or (None) left out."""
    with zipfile.ZipFile(twin.archive) as packed:
        members: dict[str, bytes | None] = {n: packed.read(n) for n in packed.namelist()}
    with zipfile.ZipFile(twin.archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in (members | changes).items():
            if content is not None:
                packed.writestr(name, content)


def picture(*shape: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(shape, 7, np.uint8)).save(stream, "png")
    return stream.getvalue()


def without_places(card: Card) -> Card:
    layout = {"name": "class_folders", "archive": "tiny.zip"}
    return card.model_copy(update={"layout": layout})


def test_patches_come_in_the_order_of_classes_and_numbers(tiny_archive: TinyArchive) -> None:
    names, images, labels = read_all(tiny_archive)
    assert names[:3] == ["Crop/Crop_1.png", "Crop/Crop_2.png", "Crop/Crop_3.png"]
    assert names[9:13] == [
        "Crop/Crop_10.png", "Crop/Crop_11.png", "Crop/Crop_12.png", "Forest/Forest_1.png"
    ]  # fmt: skip
    assert labels.tolist() == [0] * 12 + [1] * 5 + [2] * 3
    assert images.shape == (20, 3, 8, 8)
    for name, pixels in zip(names, images, strict=True):
        np.testing.assert_array_equal(pixels, tiny_archive.pixels[name].transpose(2, 0, 1))


def test_labels_follow_the_card_and_not_the_alphabet(tiny_archive: TinyArchive) -> None:
    turned = dict(reversed(tiny_archive.card.classes.items()))
    card = tiny_archive.card.model_copy(update={"classes": turned})
    names, _, labels = read_all(tiny_archive, card)
    assert names[0] == "River/River_1.png" and labels.tolist() == [0] * 3 + [1] * 5 + [2] * 12


def test_each_patch_has_the_place_of_its_name(tiny_archive: TinyArchive) -> None:
    known = tiny_archive.places.set_index("path")
    for place in opened(tiny_archive).places.itertuples():
        assert place.west == known.loc[place.name, "ul_easting"]
        assert place.north == known.loc[place.name, "ul_northing"]
        assert (place.east - place.west, place.north - place.south) == (80, 80)
        assert place.epsg == 32632


def test_a_set_of_pictures_is_as_they_were(
    tiny_archive: TinyArchive, cut_set: Callable[..., Any]
) -> None:
    found = cut_set(tiny_archive.card, tiny_archive.folder, size_px=None)
    everything = np.arange(20)
    assert (found.index["kept"], found.index["left_out"]) == (20, 0)
    assert found.patches.facts["labels"] == "patch"
    assert found.patches.label.gather(everything).tolist() == [0] * 12 + [1] * 5 + [2] * 3
    assert found.patches.contents.sum(axis=0).tolist() == [12, 5, 3]
    for name, image in zip(
        found.patches.places["name"], found.patches.image.gather(everything), strict=True
    ):
        np.testing.assert_array_equal(image, tiny_archive.pixels[name].transpose(2, 0, 1))


def test_without_a_georeference_places_are_unknown(
    tiny_archive: TinyArchive, cut_set: Callable[..., Any]
) -> None:
    card = without_places(tiny_archive.card)
    places = cut_set(card, tiny_archive.folder, size_px=None).patches.places
    sides = ["west", "south", "east", "north", "lon", "lat", "time"]
    assert places[sides].isna().all(axis=None) and (places["epsg"] == 0).all() and len(places) == 20


def test_a_fraction_is_drawn_alike_from_each_class(
    make_archive: Callable[..., TinyArchive], cut_set: Callable[..., Any]
) -> None:
    twin = make_archive({"Crop": 40, "Forest": 20, "River": 8})
    found = cut_set(twin.card, twin.folder, size_px=None, fraction=0.25)
    assert found.patches.contents.sum(axis=0).tolist() == [10, 5, 2]
    names = found.patches.places["name"].tolist()
    assert names != [f"Crop/Crop_{n}.png" for n in range(1, 11)] + names[10:]
    for name, image in zip(names, found.patches.image.gather(np.arange(17)), strict=True):
        np.testing.assert_array_equal(image, twin.pixels[name].transpose(2, 0, 1))


# ---- what is refused


def test_a_patch_without_a_place_is_named(tiny_archive: TinyArchive) -> None:
    places = tiny_archive.places.query("path != 'Forest/Forest_4.png'")
    path = tiny_archive.folder / "places.csv"
    places.to_csv(path, index=False)
    layout = tiny_archive.card.layout | {"georeference": "places.csv"}
    card = tiny_archive.card.model_copy(update={"layout": layout})
    assert refused(tiny_archive, card) == (
        f"{path}: has no place for 1 patches, the first is Forest/Forest_4.png; fetch it again"
    )


@pytest.mark.parametrize("shape", [(8, 9, 3), (8, 8), (8, 8, 4)])
def test_a_picture_of_another_shape_is_named(
    tiny_archive: TinyArchive, shape: tuple[int, ...]
) -> None:
    rewrite(tiny_archive, **{"Tiny/River/River_2.png": picture(*shape)})
    assert refused(tiny_archive) == (
        f"Tiny/River/River_2.png: is {shape}, not (8, 8, 3); fetch it again"
    )


def test_a_picture_that_is_none_is_named(tiny_archive: TinyArchive) -> None:
    rewrite(tiny_archive, **{"Tiny/River/River_2.png": picture(8, 8, 3)[:40]})
    assert refused(tiny_archive).startswith("Tiny/River/River_2.png: cannot be decoded")


def test_a_truncated_archive_is_refused(tiny_archive: TinyArchive) -> None:
    tiny_archive.archive.write_bytes(tiny_archive.archive.read_bytes()[:-100])
    told = refused(tiny_archive)
    assert re.search(r"tiny\.zip: cannot be read \(.*\); fetch it again$", told)


def test_a_damaged_member_is_named_in_one_line(tiny_archive: TinyArchive) -> None:
    rewrite(tiny_archive, **{"Tiny/River/River_3.png": picture(8, 8, 3)})
    with zipfile.ZipFile(tiny_archive.archive) as packed:
        start = packed.getinfo("Tiny/River/River_3.png").header_offset + 30
    damaged = bytearray(tiny_archive.archive.read_bytes())
    first = start + len("Tiny/River/River_3.png")
    for at in (first, first + 12, first + 30):
        changed = damaged.copy()
        changed[at] ^= 0xFF
        tiny_archive.archive.write_bytes(changed)
        assert refused(tiny_archive).startswith("Tiny/River/River_3.png: cannot be decoded")


def test_an_archive_with_no_picture_of_a_class_is_refused(tiny_archive: TinyArchive) -> None:
    card = tiny_archive.card.model_copy(
        update={"classes": {"Sea": "#0000aa", "Sand": "#aaaa00"}, "counts": {}}
    )
    assert refused(tiny_archive, card) == (
        f"{tiny_archive.archive}: holds no image of a class of the card; mend the card"
    )


def test_pictures_whose_names_have_no_number_are_read(tiny_archive: TinyArchive) -> None:
    rewrite(
        tiny_archive,
        **{"Tiny/River/River_2.png": None, "Tiny/River/Danube.png": picture(8, 8, 3)},
    )
    names, images, _ = read_all(tiny_archive, without_places(tiny_archive.card))
    at = names.index("River/Danube.png")
    assert at >= 17 and (images[at] == 7).all() and len(names) == 20


def test_published_patches_have_no_stride_and_no_other_size(
    tiny_archive: TinyArchive, cut_set: Callable[..., Any]
) -> None:
    for cutting, told in (
        ({"size_px": None, "stride_px": 4}, "patches are published one by one and have no stride"),
        ({"size_px": 16}, "its patches have 8 px, not 16"),
    ):
        with pytest.raises(DataError, match=told):
            cut_set(tiny_archive.card, tiny_archive.folder, **cutting)
