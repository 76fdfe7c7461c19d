"""Every card in conf/data is complete, consistent, and provable."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from swath import registry
from swath.data import landscape
from swath.data.card import Card
from swath.errors import ConfigError
from swath.settings import check

CONF = Path(__file__).parents[2] / "conf"
CARDS = sorted((CONF / "data").glob("*.yaml"))


def facts(name: str) -> dict[str, Any]:
    """A card as it is written; what it inherits from another included."""
    written = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    parents = [parent for parent in written.pop("defaults", []) if parent != "_self_"]
    inherited = [facts(parent) for parent in parents]
    return functools.reduce(merged, [*inherited, written], {})


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two tables as Hydra merges them: tables in depth, lists as a whole."""
    both = first | second
    for key in first.keys() & second.keys():
        if isinstance(first[key], dict) and isinstance(second[key], dict):
            both[key] = merged(first[key], second[key])
    return both


def test_the_cards_of_the_first_datasets_are_there() -> None:
    assert {"embedded", "eurosat"} <= {path.stem for path in CARDS}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_is_valid_and_consistent(path: Path) -> None:
    card = Card.model_validate(facts(path.stem))
    assert card.licence and card.citation and card.title
    bands = [band.name for band in card.bands]
    assert len(set(bands)) == len(bands)
    assert len(card.rgb) == 3 and set(card.rgb) <= set(bands)
    assert all(band.gsd_m > 0 for band in card.bands)
    wavelength = {band.name: band.wavelength_nm for band in card.bands if band.wavelength_nm}
    assert all(100 < nm < 20_000 for nm in wavelength.values())
    if set(card.rgb) <= set(wavelength):
        red, green, blue = (wavelength[band] for band in card.rgb)
        assert red > green > blue, "rgb names red, green and blue, in this order"
    assert len(card.classes) >= 2 and len(set(card.classes.values())) == len(card.classes)
    assert card.scale > 0
    if card.counts:
        assert card.labels == "patch" and list(card.counts) == list(card.classes)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_says_where_its_files_come_from_and_how_they_are_proven(path: Path) -> None:
    card = Card.model_validate(facts(path.stem))
    ways = [card.files, card.drawing, card.stac, card.folder]
    assert sum(map(bool, ways)) <= 1, "a dataset is fetched or drawn or searched for, or one's own"
    assert card.synthetic == bool(card.drawing), "what is drawn says that it is synthetic"
    for file in card.files:
        assert file.md5 or file.sha256 or file.content, f"{file.name} has no proof"
        assert file.address is None or file.address.startswith("https://")
    assert len({file.name for file in card.files}) == len(card.files)


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_names_a_layout_that_takes_its_settings(path: Path) -> None:
    values = facts(path.stem)
    checked = check("data", values)
    entry = registry.entry("layout", values["layout"]["name"])
    assert set(checked["layout"]) == {"name", *entry.settings}
    named = {file["name"] for file in checked["files"]}
    for setting in ("archive", "georeference"):
        if checked["layout"].get(setting) and not checked["drawing"]:
            assert checked["layout"][setting] in named
    assert check("data", checked) == checked, "a checked section is complete"


def test_the_embedded_card_describes_what_is_drawn() -> None:
    card = Card.model_validate(facts("embedded"))
    assert tuple(card.classes) == landscape.CLASSES
    assert tuple(card.classes.values()) == landscape.COLOURS
    assert {band.name: band.wavelength_nm for band in card.bands} == landscape.WAVELENGTHS_NM
    assert {band.name: band.gsd_m for band in card.bands} == {
        **dict.fromkeys(landscape.BANDS_10M, 10.0),
        **dict.fromkeys(landscape.BANDS_20M, 20.0),
    }
    assert card.scale == landscape.SCALE


def test_the_eurosat_card_has_the_published_counts() -> None:
    card = Card.model_validate(facts("eurosat"))
    assert sum(card.counts.values()) == 27_000
    assert sorted(card.counts.values()) == [2000, 2500, 2500, 2500, 2500, *[3000] * 5]
    assert card.files[0].md5 == "f46e308c4d50d4bf32fedad2d3d62f3b"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"lisence": "MIT"}, r"data\.lisence: unknown key.*'data\.licence'"),
    "colour": ({"classes": {"Water": "blue"}}, r"data\.classes\.Water: 'blue' will not do"),
    "type": ({"scale": "255"}, r"data\.scale: '255' will not do"),
    "labels": ({"labels": "scene"}, r"data\.labels: 'scene' will not do"),
    "name": ({"name": "../up"}, r"data\.name: '\.\./up' will not do"),
    "digest": (
        {"files": [{"name": "a.zip", "md5": "F46E"}]},
        r"data\.files\.0\.md5: 'F46E' will not do",
    ),
    "layout": (
        {"layout": {"name": "scene_folder", "images": []}},
        r"data\.layout\.name: no layout is named 'scene_folder'.*'scene_folders'",
    ),
    "setting of the layout": (
        {"layout": {"name": "scene_folders", "image": ["*.tif"]}},
        r"data\.layout\.image(s: has no value|: unknown key)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_fact_is_told_in_one_line_with_its_key(wrong: str) -> None:
    change, told = WRONG[wrong]
    with pytest.raises(ConfigError, match=told) as refused:
        check("data", facts("embedded") | change)
    assert "\n" not in str(refused.value)


def test_a_target_stands_in_the_place_of_classes() -> None:
    written = facts("embedded") | {"classes": None, "target": {"name": "height", "unit": "m"}}
    checked = check("data", written)
    assert list(checked["classes"]) == ["height"] and checked["target"]["unit"] == "m"
    assert check("data", checked) == checked, "as a section file has it"
    for changed, word in (
        ({"classes": facts("embedded")["classes"]}, "data.classes: 'Buildings'"),
        ({"labels": "several"}, "data.labels: 'several'"),
    ):
        with pytest.raises(ConfigError, match=word) as error:
            check("data", written | changed)
        assert "does not go with a target" in str(error.value)


def test_a_card_is_frozen() -> None:
    card = Card.model_validate(facts("eurosat"))
    with pytest.raises(ValidationError, match="frozen"):
        card.scale = 1.0
