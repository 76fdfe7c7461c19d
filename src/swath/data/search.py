"""A search of a STAC API, frozen: next year the same scenes, without asking the server.

The list is a STAC ItemCollection: a GeoJSON FeatureCollection that GIS programs show as it is. Each
item is the API's own, with the assets that were asked for, keyed by band and with absolute
addresses, and two members more: `swath:folder`, its folder below the dataset's, and in each asset
`swath:file`, its file there. `swath:search` is the question, `swath:set_aside` what the API listed
and cannot be used, with the reasons.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import requests
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swath.data.card import Name, Search
from swath.data.transfer import (
    ATTEMPTS,
    LONGEST_WAIT_S,
    TIMEOUT_S,
    WAIT_S,
    is_passing,
    retry_after_s,
    without_query,
)
from swath.errors import DataError, nearest
from swath.files import read_json, write_json

log = logging.getLogger(__name__)

MOST_SCENES = 10_000
"""Of a search that says no `max_items`: more is taken for a mistake in the search."""
_PAGE = 100
_SUFFIX = {"image/jp2": ".jp2", "image/png": ".png", "application/json": ".json"}


class Asset(BaseModel):
    """A file of a scene, as a list of scenes names it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    href: Annotated[str, Field(pattern="^(https?|s3)://")]
    file: Name = Field(alias="swath:file")
    size: int | None = Field(None, alias="file:size")
    checksum: str | None = Field(None, alias="file:checksum")
    """Multihash in hexadecimal (STAC file extension 2.1)."""


class Listed(BaseModel):
    """A scene of a list."""

    model_config = ConfigDict(extra="allow", frozen=True)
    id: str
    folder: Name = Field(alias="swath:folder")
    links: list[dict[str, Any]] = []
    assets: dict[Name, Asset]

    def as_item(self) -> dict[str, Any]:
        """The STAC item, as the list holds it."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def scenes_of(search: Search, path: Path, *, wait_s: float = WAIT_S) -> dict[str, Any]:
    """The list of a search's scenes: the frozen one, else that at `path`, else searched for.

    Raises:
        DataError: a list that is none or lacks a band; or as `find_scenes`.
    """
    if search.frozen:
        listed = read_scenes(Path(search.frozen))
        for scene in scenes_in(listed, search.frozen):
            for band in search.assets:
                if band not in scene.assets:
                    raise DataError(
                        f"lists scene {scene.id} without the band {band}",
                        where=search.frozen,
                        mend=f"{nearest(band, scene.assets)} Or freeze the search anew",
                    )
        return listed
    if path.is_file():
        listed = read_scenes(path)
        if not (changed := _changed(listed.get("swath:search"), _question(search))):
            return listed
        log.warning("the search has changed (%s): %s is asked again", changed, search.url)
    return find_scenes(search, wait_s=wait_s)


def read_scenes(path: Path) -> dict[str, Any]:
    """A list of scenes, checked.

    Raises:
        DataError: the file is absent or no such list.
    """
    listed = read_json(path)
    scenes_in(listed, path)
    return dict(listed)


def write_scenes(search: Search, path: Path, *, wait_s: float = WAIT_S) -> int:
    """Search anew and freeze the list at `path`; gives the number of scenes.

    Raises:
        DataError: as `find_scenes`.
    """
    listed = find_scenes(search, wait_s=wait_s)
    write_json(path, listed)
    return len(listed["features"])


def scenes_in(listed: Any, where: Path | str) -> list[Listed]:
    """The scenes of a list, checked: names that are safe, addresses that can be fetched.

    Raises:
        DataError: it is no list of scenes, or of none.
    """
    mend = "freeze the search anew"
    features = listed.get("features") if isinstance(listed, dict) else None
    if not isinstance(features, list) or not features:
        raise DataError("is no list of scenes", where=where, mend=mend)
    try:
        scenes = [Listed.model_validate(feature) for feature in features]
    except ValidationError as invalid:
        wrong = invalid.errors()[0]
        key = ".".join(str(part) for part in wrong["loc"])
        raise DataError(f"a scene's {key}: {wrong['msg']}", where=where, mend=mend) from None
    [(folder, count)] = Counter(scene.folder for scene in scenes).most_common(1)
    if count > 1:
        raise DataError(f"lists the folder {folder} {count} times", where=where, mend=mend)
    return scenes


def find_scenes(search: Search, *, wait_s: float = WAIT_S) -> dict[str, Any]:
    """Ask the API and list what it has, sorted by time and id.

    Scenes without a wanted asset, and scenes without a cloud cover where one is asked for, are set
    aside with the reason.

    Raises:
        DataError: the API cannot be had or does not search; it has no scene, too many, or none
            that can be used.
    """
    question = _question(search)
    found = list(_found(search, question, wait_s))
    narrow = "widen the area, the dates or max_cloud"
    if not found:
        raise DataError("no scene matches the search", where=search.url, mend=narrow)
    scenes, aside = [], []
    for item in sorted(found, key=_order):
        reason = _unusable(item, search)
        if reason:
            aside.append({"id": item["id"], "reason": reason})
            log.warning("scene %s is set aside: %s", item["id"], reason)
        else:
            scenes.append(_trimmed(item, search))
    if not scenes:
        first = f"{aside[0]['id']} {aside[0]['reason']}"
        raise DataError(
            f"none of the {len(aside)} scenes found can be used: {first}",
            where=search.url,
            mend="mend `assets`; " + narrow,
        )
    _name_folders(scenes)
    log.info("%d scenes found, %d set aside", len(scenes), len(aside))
    return {
        "type": "FeatureCollection",
        "swath:search": question,
        "swath:set_aside": aside,
        "features": scenes,
    }


def signed_anew(scene: Listed, asset: Asset) -> str | None:
    """The address of an asset as the API gives it today, where it has another signature.

    Signatures run out in hours, and a list is frozen for years.
    """
    if "?" not in asset.href:
        return None
    for link in scene.links:
        try:
            answer = requests.get(link["href"], timeout=TIMEOUT_S)
            assets = answer.json()["assets"].values() if answer.ok else []
            hrefs = [str(one["href"]) for one in assets]
        except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError):
            continue
        for href in hrefs:
            if without_query(href) == without_query(asset.href) and href != asset.href:
                return href
    return None


# ---- the question -----------------------------------------------------------------------------


def _question(search: Search) -> dict[str, Any]:
    """All that decides what is found."""
    asked = search.model_dump(exclude={"frozen", "area"}, exclude_none=True)
    if (search.bbox is None) == (search.area is None):
        raise DataError(
            "a search has either a bbox or an area", where="data.stac", mend="give one of them"
        )
    if search.area is not None:
        asked["area"] = _geometry(search.area)
    return asked


def _geometry(area: str | dict[str, Any]) -> dict[str, Any]:
    """One geometry of a GeoJSON file or object; several polygons become a MultiPolygon."""
    shape = read_json(Path(area)) if isinstance(area, str) else area
    where = area if isinstance(area, str) else "data.stac.area"
    mend = "give a geometry, a Feature or a FeatureCollection in degrees"
    kind = shape.get("type") if isinstance(shape, dict) else None
    if kind == "Feature":
        return _geometry(shape.get("geometry") or {})
    if kind == "FeatureCollection":
        shapes = [_geometry(feature) for feature in shape.get("features", [])]
        if len(shapes) == 1:
            return shapes[0]
        if not shapes or {s["type"] for s in shapes} - {"Polygon", "MultiPolygon"}:
            raise DataError("has other features than polygons", where=where, mend=mend)
        rings: list[Any] = []
        for one in shapes:
            part = one["coordinates"]
            rings += part if one["type"] == "MultiPolygon" else [part]
        return {"type": "MultiPolygon", "coordinates": rings}
    if kind not in ("Point", "Polygon", "MultiPolygon") or not shape.get("coordinates"):
        raise DataError("is no GeoJSON area", where=where, mend=mend)
    return {"type": kind, "coordinates": shape["coordinates"]}


def _changed(before: Any, now: dict[str, Any]) -> str:
    """The keys in which two questions differ, with short values; empty where they do not."""
    before = before if isinstance(before, dict) else {}
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return ", ".join(f"{k}: {before.get(k)!s:.60} → {now.get(k)!s:.60}" for k in keys)


# ---- the API ----------------------------------------------------------------------------------


def _found(search: Search, question: dict[str, Any], wait_s: float) -> Iterator[dict[str, Any]]:
    """Each item once, page after page, until there is no more or there are enough."""
    most = search.max_items or MOST_SCENES
    seen: set[tuple[str, str]] = set()
    taken = 0
    for page in _pages(search, question, wait_s):
        new = {(item.get("collection", ""), item["id"]): item for item in page}
        new = {key: item for key, item in new.items() if key not in seen}
        if not new:
            log.warning("%s: a page brought nothing new, and is taken for the last", search.url)
            return
        seen |= set(new)
        for item in new.values():
            if _too_cloudy(item, search):
                continue
            if taken == most and search.max_items:
                log.info("%s has more scenes; max_items takes %d", search.url, most)
                return
            if taken == most:
                raise DataError(
                    f"has more than {most} such scenes",
                    where=search.url,
                    mend="narrow the search, or say max_items",
                )
            taken += 1
            yield item


def _pages(
    search: Search, question: dict[str, Any], wait_s: float
) -> Iterator[list[dict[str, Any]]]:
    from pystac_client import Client, ConformanceClasses

    asks: dict[str, Any] = {
        "collections": question["collections"],
        "datetime": question["datetime"],
        "limit": min(_PAGE, search.max_items or _PAGE),
    }
    asks |= {"bbox": search.bbox} if search.bbox else {"intersects": question["area"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of APIs that do not say all that they can
        try:
            client = Client.open(search.url, stac_io=_patient(search.url, wait_s))
            cover = "eo:cloud_cover"
            if search.max_cloud is not None and client.conforms_to(ConformanceClasses.QUERY):
                asks["query"] = {cover: {"lte": search.max_cloud}}
            elif search.max_cloud is not None and client.conforms_to(ConformanceClasses.FILTER):
                args = [{"property": cover}, search.max_cloud]
                asks |= {"filter": {"op": "<=", "args": args}, "filter_lang": "cql2-json"}
            found = client.search(method="POST", **asks)
            for page in found.pages_as_dicts():
                yield [_with_address(item, search.url) for item in page["features"]]
        except DataError:
            raise
        except Exception as broken:
            # The client raises whatever an answer of another shape makes it stumble over.
            said = f"is no STAC API that searches ({type(broken).__name__}: {broken!s:.120})"
            mend = "name the API's landing page"
            raise DataError(said, where=search.url, mend=mend) from None


def _patient(url: str, wait_s: float) -> Any:
    """The client's way to the server, which asks again after a passing failure."""
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO

    class Patient(StacApiIO):
        def request(self, href: str, *args: Any, **kwargs: Any) -> str:
            reason = ""
            for attempt in range(ATTEMPTS):
                if attempt:
                    log.warning("%s: %s; trying again", url, reason)
                    time.sleep(max(wait_s * 2 ** (attempt - 1), min(after_s[-1], LONGEST_WAIT_S)))
                after_s.append(0.0)
                try:
                    text = super().request(href, *args, **kwargs)
                    json.loads(text)  # whole: not every server says how long its answer is
                    return text
                except APIError as failed:
                    status = getattr(failed, "status_code", None)
                    reason = f"the server answered {status}" if status else "the connection broke"
                    if status and not is_passing(status):
                        said = f"{reason} to the search ({failed!s:.120})"
                        raise DataError(said, where=url, mend="mend the search") from None
                except ValueError:
                    reason = "the server's answer is not JSON or was cut off"
            mend = "try again later, or name a frozen list of scenes"
            raise DataError(f"{reason} in {ATTEMPTS} attempts", where=url, mend=mend)

    after_s = [0.0]

    def note(answer: requests.Response, *_: Any, **__: Any) -> None:
        after_s.append(retry_after_s(answer.headers.get("Retry-After")))

    io = Patient(timeout=TIMEOUT_S, max_retries=None)
    io.session.hooks["response"].append(note)
    return io


def _with_address(item: dict[str, Any], url: str) -> dict[str, Any]:
    """The item with absolute addresses of its assets: relative ones are so to the item's own."""
    from pystac.utils import make_absolute_href

    own = [link["href"] for link in item.get("links", []) if link.get("rel") == "self"]
    base = own[0] if own and "://" in own[0] else url
    assets = {
        key: asset | {"href": make_absolute_href(asset.get("href", ""), base, start_is_dir=False)}
        for key, asset in item.get("assets", {}).items()
    }
    return item | {"id": str(item["id"]), "assets": assets}


# ---- its answers ------------------------------------------------------------------------------


def _cloud(item: dict[str, Any]) -> Any:
    return item.get("properties", {}).get("eo:cloud_cover")


def _too_cloudy(item: dict[str, Any], search: Search) -> bool:
    """Whether it is cloudier than was asked for: not every API filters."""
    cover = _cloud(item)
    return search.max_cloud is not None and cover is not None and cover > search.max_cloud


def _unusable(item: dict[str, Any], search: Search) -> str:
    """Why a scene cannot be used; empty where it can."""
    if search.max_cloud is not None and _cloud(item) is None:
        return "has no eo:cloud_cover"
    for band, key in search.assets.items():
        if key not in item["assets"]:
            return f"has no asset '{key}' for the band {band}: {nearest(key, item['assets'])}"
        address = item["assets"][key]["href"]
        if not address.startswith(("https://", "http://", "s3://")):
            return f"its asset '{key}' lies at {address:.80}, which cannot be fetched"
    return ""


def _order(item: dict[str, Any]) -> tuple[str, str, str]:
    taken = item.get("properties", {}).get("datetime") or ""
    return taken, item["id"], item.get("collection", "")


def _trimmed(item: dict[str, Any], search: Search) -> dict[str, Any]:
    """The item with the wanted assets alone, under the names of their bands."""
    assets = {}
    for band, key in search.assets.items():
        asset = item["assets"][key]
        suffix = PurePosixPath(urlsplit(asset["href"]).path).suffix.lower()
        if not re.fullmatch(r"\.[a-z0-9]{1,5}", suffix):
            suffix = _SUFFIX.get(asset.get("type", "").partition(";")[0], ".tif")
        assets[band] = {"href": asset["href"], "swath:file": band + suffix}
        assets[band] |= {k: v for k, v in asset.items() if k not in assets[band]}
    kept = ("type", "stac_version", "stac_extensions", "id", "collection", "bbox", "geometry")
    own = [link for link in item.get("links", []) if link.get("rel") == "self"]
    return {
        **{key: item[key] for key in kept if key in item},
        "swath:folder": item["id"],
        "properties": item.get("properties", {}),
        "links": [{"rel": "self", "href": link["href"]} for link in own],
        "assets": assets,
    }


def _name_folders(scenes: list[dict[str, Any]]) -> None:
    """Give each scene a folder of its own: its id, or what is safe of it and a mark of its own."""
    ids = Counter(scene["id"].lower() for scene in scenes)
    for scene in scenes:
        name = scene["id"]
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.-")[:180]
        if (
            safe != name
            or ids[name.lower()] > 1
            or name.lower() in ("scenes.json", "manifest.json")
        ):
            own = f"{scene.get('collection', '')}/{name}"
            safe = f"{safe or 'scene'}-{hashlib.sha256(own.encode()).hexdigest()[:8]}"
        scene["swath:folder"] = safe
