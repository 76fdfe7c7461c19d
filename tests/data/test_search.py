"""Searching STAC APIs: real answers replayed on the loopback, and frozen lists of scenes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac
import pytest
import yaml
from pydantic import ValidationError

from swath.data import search as searching
from swath.data.card import Card, Search
from swath.data.search import find_scenes, read_scenes, scenes_in, scenes_of, write_scenes
from swath.errors import DataError
from swath.files import write_json

if TYPE_CHECKING:
    from conftest import Catalogue

WAIT_S = 0.01
ASSETS = {"red": "red", "near": "nir"}


def asks(catalogue: Catalogue, **changed: Any) -> Search:
    facts = {
        "url": catalogue.url,
        "collections": ["scenes"],
        "bbox": [7.0, 50.0, 8.0, 51.0],
        "datetime": "2026-07-01/2026-07-31",
        "assets": ASSETS,
    }
    facts |= {"bbox": None} if "area" in changed else {}
    return Search.model_validate(facts | changed)


def found(search: Search) -> dict[str, Any]:
    return find_scenes(search, wait_s=WAIT_S)


def ids(listed: dict[str, Any]) -> list[str]:
    return [scene["id"] for scene in listed["features"]]


def refused(search: Search) -> str:
    with pytest.raises(DataError) as told:
        found(search)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture
def two(catalogue: Catalogue) -> Catalogue:
    """Two scenes on two pages, the later first."""
    later = catalogue.item("B", red="https://h/b/B04.TIF?sig=1", nir="../b/B08.jp2")
    later["properties"]["datetime"] = "2026-07-09T10:30:00Z"
    catalogue.list(later, then="more")
    catalogue.list(catalogue.item("A", red="s3://b/a/B04.tif", nir="s3://b/a/B08"), token="more")
    return catalogue


# ---- real answers


def test_earth_search_is_paged_through_and_its_mixed_answer_sorted_out(
    catalogue: Catalogue, real_data: Path
) -> None:
    # The recorded API did not filter: 56.8 % is in its answer to a search for at most 40 %. Its
    # last page leads to one that was not recorded, which is empty here.
    catalogue.replay(real_data, "earth_search/TestCLISearch.test_filter")
    listed = found(asks(catalogue, max_cloud=40.0, assets={"red": "red", "scl": "scl"}))
    assert [s.get("next", "")[:19] for s in catalogue.searches] == [
        "", "2025-07-31T13:03:25", "2025-07-31T13:03:19"
    ]  # fmt: skip
    covers = [scene["properties"]["eo:cloud_cover"] for scene in listed["features"]]
    assert len(covers) == 8 and max(covers) == 34.760532
    aside = {one["id"]: one["reason"] for one in listed["swath:set_aside"]}
    assert len(aside) == 7
    assert aside["S1A_IW_GRDH_1SSH_20250731T135702_20250731T135722_060328_077F7E"] == (
        "has no eo:cloud_cover"
    )
    assert aside["S2B_24MVV_20250731_0_L1C"].startswith("has no asset 'scl' for the band scl")
    first = listed["features"][0]
    assert first["properties"]["proj:epsg"] == 32724
    assert list(first["assets"]) == ["red", "scl"]
    assert first["assets"]["red"]["swath:file"] == "red.tif"


def test_the_planetary_computer_is_paged_through(catalogue: Catalogue, real_data: Path) -> None:
    catalogue.replay(real_data, "planetary_computer/TestItemSearch.test_result_paging_max_items")
    listed = found(asks(catalogue, collections=["naip"], assets={"rgbn": "image"}))
    assert len(set(ids(listed))) == 30
    times = [scene["properties"]["datetime"] for scene in listed["features"]]
    assert times == sorted(times)
    assert len(catalogue.searches) == 4
    limited = found(asks(catalogue, collections=["naip"], assets={"rgbn": "image"}, max_items=13))
    assert len(ids(limited)) == 13 and set(ids(limited)) < set(ids(listed))


def test_a_real_list_is_a_stac_collection_and_the_same_each_time(
    catalogue: Catalogue, real_data: Path, tmp_path: Path
) -> None:
    catalogue.replay(real_data, "planetary_computer/TestItemSearch.test_datetime_results")
    search = asks(catalogue, assets={"red": "B04", "near": "B08"}, max_cloud=50.0)
    count = write_scenes(search, tmp_path / "one.json", wait_s=WAIT_S)
    catalogue.pages[None]["features"].reverse()
    write_scenes(search, tmp_path / "two.json", wait_s=WAIT_S)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    items = pystac.ItemCollection.from_file(str(tmp_path / "one.json"))
    assert len(items) == count == 14
    assert all(set(item.assets) == {"red", "near"} for item in items)
    assert all(item.properties["proj:epsg"] // 100 in (326, 327) for item in items)


def test_a_page_that_fails_is_asked_again(
    catalogue: Catalogue, real_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.replay(real_data, "planetary_computer/TestItemSearch.test_result_paging_max_items")
    page = json.dumps(catalogue.pages[None]).encode()
    catalogue.trouble = [
        (500, {}, b"Internal Server Error"),
        (429, {"Retry-After": "1"}, b"slow down"),
        (200, {"Content-Length": str(len(page))}, page[:20_000]),  # the connection breaks
        (200, {}, page[:20_000]),  # and nothing says that more should come
    ]
    since = time.monotonic()
    listed = found(asks(catalogue, collections=["naip"], assets={"rgbn": "image"}))
    assert time.monotonic() - since >= 1.0
    assert len(ids(listed)) == 30
    told = [r.message.partition(": ")[2] for r in caplog.records if "trying again" in r.message]
    assert [line.partition(";")[0] for line in told] == [
        "the server answered 500",
        "the server answered 429",
        "the connection broke",
        "the server's answer is not JSON or was cut off",
    ]


# ---- the question


def test_what_is_asked_is_what_the_card_says(two: Catalogue) -> None:
    found(asks(two, max_cloud=30.0))
    assert two.searches[0] == {
        "collections": ["scenes"],
        "bbox": [7.0, 50.0, 8.0, 51.0],
        "datetime": "2026-07-01T00:00:00Z/2026-07-31T23:59:59Z",
        "limit": 100,
        "query": {"eo:cloud_cover": {"lte": 30.0}},
    }


def test_an_api_is_asked_in_the_language_that_it_speaks(two: Catalogue) -> None:
    two.conforms = ["core", "item-search", "item-search#filter"]
    found(asks(two, max_cloud=30.0))
    wanted = {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 30.0]}
    assert two.searches[0]["filter"] == wanted
    two.searches.clear()
    two.conforms = ["core", "item-search"]
    found(asks(two, max_cloud=30.0))
    assert not {"filter", "query"} & set(two.searches[0])


SQUARE = [[[7.0, 50.0], [8.0, 50.0], [8.0, 51.0], [7.0, 50.0]]]
POLYGON = {"type": "Polygon", "coordinates": SQUARE}
FEATURE = {"type": "Feature", "properties": {"name": "Bonn"}, "geometry": POLYGON}


@pytest.mark.parametrize(
    ("area", "asked"),
    [
        (POLYGON, POLYGON),
        (FEATURE, POLYGON),
        ({"type": "FeatureCollection", "features": [FEATURE]}, POLYGON),
        (
            {"type": "FeatureCollection", "features": [FEATURE, FEATURE]},
            {"type": "MultiPolygon", "coordinates": [SQUARE, SQUARE]},
        ),
    ],
)
def test_an_area_is_a_geometry_or_a_file_of_some(
    two: Catalogue, tmp_path: Path, area: dict[str, Any], asked: dict[str, Any]
) -> None:
    write_json(tmp_path / "area.geojson", area)
    for given in (area, str(tmp_path / "area.geojson")):
        two.searches.clear()
        assert found(asks(two, area=given))["swath:search"]["area"] == asked
        assert two.searches[0]["intersects"] == asked and "bbox" not in two.searches[0]


def test_an_area_that_is_none_is_told(two: Catalogue, tmp_path: Path) -> None:
    write_json(tmp_path / "area.geojson", {"features": []})
    told = refused(asks(two, area=str(tmp_path / "area.geojson")))
    assert told.startswith(f"{tmp_path / 'area.geojson'}: is no GeoJSON area")
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [7.0, 50.0]}}
    both = {"type": "FeatureCollection", "features": [point, FEATURE]}
    assert "has other features than polygons" in refused(asks(two, area=both))
    assert "either a bbox or an area" in refused(asks(two, bbox=None))
    assert two.searches == []


@pytest.mark.parametrize("date", ["2026-7-1", "July", "2026-07-01 / 2026-07-02", "2026/07/01"])
def test_a_date_that_is_none_is_refused_by_the_card(catalogue: Catalogue, date: str) -> None:
    with pytest.raises(ValidationError, match="datetime"):
        asks(catalogue, datetime=date)
    for good in ("2026", "2026-07-01T00:00:00Z/..", "../2026-07", "2026-07-01/2026-07-02"):
        assert asks(catalogue, datetime=good).datetime == good


# ---- the answers


def test_assets_are_trimmed_named_and_made_absolute(two: Catalogue) -> None:
    listed = found(asks(two))
    assert ids(listed) == ["A", "B"]
    assert [scene["swath:folder"] for scene in listed["features"]] == ["A", "B"]
    first, second = (scene["assets"] for scene in listed["features"])
    assert (first["red"]["href"], first["red"]["swath:file"]) == ("s3://b/a/B04.tif", "red.tif")
    assert first["near"]["swath:file"] == "near.tif", "by its media type"
    assert second["red"]["href"] == "https://h/b/B04.TIF?sig=1"
    assert second["red"]["swath:file"] == "red.tif"
    assert second["near"]["href"] == two.server.at("/v1/collections/scenes/b/B08.jp2")
    assert second["near"]["swath:file"] == "near.jp2"


@pytest.mark.parametrize(
    ("hrefs", "reason"),
    [
        ({"red": "s3://b/B04.tif"}, "has no asset 'nir' for the band near: there is red"),
        (
            {"red": "gs://b/B04.tif", "nir": "s3://b/B08.tif"},
            "its asset 'red' lies at gs://b/B04.tif, which cannot be fetched",
        ),
        (
            {"red": "file:///etc/passwd", "nir": "s3://b/B08.tif"},
            "its asset 'red' lies at file:///etc/passwd, which cannot be fetched",
        ),
    ],
)
def test_a_scene_that_cannot_be_used_is_set_aside(
    catalogue: Catalogue, hrefs: dict[str, str], reason: str
) -> None:
    good = catalogue.item("A", red="s3://b/a/B04.tif", nir="s3://b/a/B08.tif")
    catalogue.list(catalogue.item("B", **hrefs), good)
    listed = found(asks(catalogue))
    assert ids(listed) == ["A"]
    assert listed["swath:set_aside"] == [{"id": "B", "reason": reason}]
    catalogue.list(catalogue.item("B", **hrefs))
    assert refused(asks(catalogue)).startswith(
        f"{catalogue.url}: none of the 1 scenes found can be used: B {reason}; mend `assets`"
    )


def test_clouds_are_looked_at_here_too(catalogue: Catalogue) -> None:
    both = {"red": "s3://b/B04.tif", "nir": "s3://b/B08.tif"}
    covers = {"A": 30.0, "B": 30.1, "C": None, "D": 0.0}
    catalogue.list(*(catalogue.item(name, cover, **both) for name, cover in covers.items()))
    listed = found(asks(catalogue, max_cloud=30.0))
    assert ids(listed) == ["A", "D"]
    assert listed["swath:set_aside"] == [{"id": "C", "reason": "has no eo:cloud_cover"}]
    assert ids(found(asks(catalogue))) == ["A", "B", "C", "D"]


UNSAFE = ["../up", "/etc/x", ".hidden", "a b/c", "scenes.json", "s" * 300, "Ü"]


@pytest.mark.parametrize("name", UNSAFE)
def test_the_folder_of_a_scene_is_safe_whatever_its_id(catalogue: Catalogue, name: str) -> None:
    both = {"red": "s3://b/B04.tif", "nir": "s3://b/B08.tif"}
    catalogue.list(catalogue.item(name, **both))
    [scene] = scenes_in(found(asks(catalogue)), "list")
    assert scene.id == name and scene.folder != name
    assert "/" not in scene.folder and not scene.folder.startswith(".") and len(scene.folder) < 200


def test_equal_ids_of_two_collections_get_folders_of_their_own(catalogue: Catalogue) -> None:
    both = {"red": "s3://b/B04.tif", "nir": "s3://b/B08.tif"}
    one, other = catalogue.item("A", **both), catalogue.item("A", **both)
    other["collection"] = "others"
    catalogue.list(one, other, one)
    folders = [scene.folder for scene in scenes_in(found(asks(catalogue)), "list")]
    assert len(set(folders)) == len(folders) == 2
    assert all(folder.startswith("A-") for folder in folders)


def test_paging_in_a_circle_ends(two: Catalogue, caplog: pytest.LogCaptureFixture) -> None:
    two.list(two.pages["more"]["features"][0], token="more", then="more")
    assert ids(found(asks(two))) == ["A", "B"]
    assert len(two.searches) == 3
    assert "a page brought nothing new, and is taken for the last" in caplog.text


def test_paging_without_an_end_ends(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MOST_SCENES", 12)
    both = {"red": "s3://b/B04.tif", "nir": "s3://b/B08.tif"}
    for page in range(20):
        items = (catalogue.item(f"S{page}-{n}", **both) for n in range(5))
        catalogue.list(*items, token=str(page) if page else None, then=str(page + 1))
    assert refused(asks(catalogue)) == (
        f"{catalogue.url}: has more than 12 such scenes; narrow the search, or say max_items"
    )
    assert len(catalogue.searches) == 3
    assert len(ids(found(asks(catalogue, max_items=7)))) == 7


# ---- servers that are none


def test_no_scene_is_told(catalogue: Catalogue) -> None:
    catalogue.list()
    assert refused(asks(catalogue)) == (
        f"{catalogue.url}: no scene matches the search; widen the area, the dates or max_cloud"
    )


@pytest.mark.parametrize(
    ("status", "told"),
    [(503, "the server answered 503 in 5 attempts"), (400, "answered 400 to the search (no bbox")],
)
def test_a_server_that_says_no_is_told(catalogue: Catalogue, status: int, told: str) -> None:
    catalogue.trouble = [(status, {}, b"no bbox\nplease")] * 5
    assert told in refused(asks(catalogue))
    assert len(catalogue.searches) == (5 if status == 503 else 1)


@pytest.mark.parametrize(
    "page", [b"<html>welcome</html>", b"{}", b'{"type": "FeatureCollection"}', b"[1, 2]"]
)
def test_what_is_no_stac_api_is_told(catalogue: Catalogue, page: bytes) -> None:
    catalogue.server.reply = lambda *_: (200, {}, page)
    told = refused(asks(catalogue))
    assert told.startswith(f"{catalogue.url}: ")
    assert "is no STAC API that searches" in told or "is not JSON or was cut off" in told


def test_a_catalogue_that_does_not_search_is_told(catalogue: Catalogue) -> None:
    catalogue.conforms = ["core"]
    assert "is no STAC API that searches" in refused(asks(catalogue))


def test_nobody_listening_is_told(catalogue: Catalogue) -> None:
    told = refused(asks(catalogue, url="http://127.0.0.1:9/v1"))
    assert told.startswith("http://127.0.0.1:9/v1: the connection broke in 5 attempts")


# ---- frozen lists


def test_a_list_that_is_there_is_not_searched_again(
    two: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "scenes.json"
    search = asks(two)
    listed = scenes_of(search, path, wait_s=WAIT_S)
    write_json(path, listed)
    two.searches.clear()
    assert scenes_of(search, path, wait_s=WAIT_S) == listed
    assert two.searches == []
    changed = asks(two, max_cloud=55.5)
    assert scenes_of(changed, path, wait_s=WAIT_S)["swath:search"]["max_cloud"] == 55.5
    assert "the search has changed (max_cloud: None → 55.5)" in caplog.text
    assert len(two.searches) == 2


def test_a_frozen_list_is_taken_whatever_the_server_says(two: Catalogue, tmp_path: Path) -> None:
    frozen = tmp_path / "conf" / "scenes" / "bonn.json"
    assert write_scenes(asks(two), frozen, wait_s=WAIT_S) == 2
    two.searches.clear()
    gone = asks(two, url="http://127.0.0.1:9/v1", frozen=str(frozen))
    assert ids(scenes_of(gone, tmp_path / "scenes.json")) == ["A", "B"]
    lacking = asks(two, frozen=str(frozen), assets={"red": "red", "swir": "swir16"})
    with pytest.raises(DataError, match="lists scene A without the band swir"):
        scenes_of(lacking, tmp_path / "scenes.json")
    assert two.searches == []


WRONG: dict[str, tuple[list[str | int], Any, str]] = {
    "folder": (["features", 0, "swath:folder"], "../up", "a scene's swath:folder"),
    "file": (["features", 0, "assets", "red", "swath:file"], "a/b", "assets.red.swath:file"),
    "href": (["features", 0, "assets", "red", "href"], "/etc/passwd", "assets.red.href"),
    "band": (["features", 0, "assets"], {"../b": {}}, "a scene's assets"),
    "none": (["features"], [], "is no list of scenes"),
    "twice": (["features", 1, "swath:folder"], "A", "lists the folder A 2 times"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_list_that_would_lead_outside_is_refused(
    two: Catalogue, tmp_path: Path, wrong: str
) -> None:
    keys, value, told = WRONG[wrong]
    listed: Any = found(asks(two))
    inner = listed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    write_json(tmp_path / "scenes.json", listed)
    with pytest.raises(DataError) as refusal:
        read_scenes(tmp_path / "scenes.json")
    assert told in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_card_takes_a_search(repository: Path) -> None:
    facts = yaml.safe_load((repository / "conf/data/embedded.yaml").read_text())
    facts |= {"drawing": None, "synthetic": False, "stac": {
        "url": "https://earth-search.aws.element84.com/v1", "collections": ["sentinel-2-l2a"],
        "area": "conf/areas/bonn.geojson", "datetime": "2026-06/2026-08", "max_cloud": 20,
        "assets": {"red": "red"},
    }}  # fmt: skip
    card = Card.model_validate(facts)
    assert card.stac is not None and card.stac.max_cloud == 20.0
