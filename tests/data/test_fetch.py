"""Fetching: from mirrors and addresses, over broken connections, and proven before it counts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pystac
import pytest
import yaml
from moto.server import ThreadedMotoServer

from swath.data.card import Card, Search, Table
from swath.data.fetch import fetch
from swath.data.search import write_scenes
from swath.data.transfer import ATTEMPTS
from swath.errors import DataError
from swath.files import digest, files_below, read_manifest

if TYPE_CHECKING:
    from conftest import Answer, Catalogue, Server, TinyArchive

WAIT_S = 0.01


def addressed(card: Card, **addresses: str) -> Card:
    """The card with a public address for the files named by their stems."""
    files = [
        file.model_copy(update={"address": addresses.get(file.name.split(".")[0])})
        for file in card.files
    ]
    return card.model_copy(update={"files": files})


class Place:
    """A `data/` and a `state/` of one dataset, and fetching into them."""

    def __init__(self, folder: Path) -> None:
        self.data, self.state = folder / "data" / "tiny", folder / "state" / "tiny"

    def fetch(self, card: Card, mirror: str | Path | None = None) -> dict[str, Any]:
        mirror = None if mirror is None else str(mirror)
        return fetch(card, self.data, state=self.state, mirror=mirror, wait_s=WAIT_S)

    def refused(self, card: Card, mirror: str | Path | None = None) -> str:
        with pytest.raises(DataError) as refused:
            self.fetch(card, mirror)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    @property
    def paths(self) -> list[str]:
        return sorted(str(path.relative_to(self.data)) for path in files_below(self.data))

    @property
    def names(self) -> list[str]:
        return [file.name for file in files_below(self.data)] if self.data.is_dir() else []


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on the loopback, which the environment names."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{running.get_host_and_port()[1]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="mirrors")
    yield "mirrors"
    running.stop()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def noise(size: int) -> bytes:
    """Bytes that no compression makes smaller."""
    return np.random.default_rng(0).bytes(size)


@pytest.fixture
def large(server: Server, tiny_archive: TinyArchive) -> Card:
    """The tiny dataset with a zip of more than 3 MB, since it brings a large stored file."""
    with zipfile.ZipFile(tiny_archive.archive, "a") as opened:
        opened.writestr("Tiny/noise.bin", noise(3_000_000))
    body = tiny_archive.archive.read_bytes()
    server.files["/large/tiny.zip"] = body
    places = (tiny_archive.folder / "places.csv.gz").read_bytes()
    server.files["/large/places.csv.gz"] = places
    files = [
        file.model_copy(
            update={
                "address": server.at(f"/large/{file.name}"),
                "sha256": hashlib.sha256(content).hexdigest(),
                "content": None,
            }
        )
        for file, content in zip(tiny_archive.card.files, (body, places), strict=True)
    ]
    return tiny_archive.card.model_copy(update={"files": files})


# ---- sources


def test_from_a_folder_mirror(place: Place, tiny_archive: TinyArchive) -> None:
    manifest = place.fetch(tiny_archive.card, tiny_archive.mirror)
    assert place.names == ["manifest.json", "places.csv.gz", "tiny.zip"]
    assert manifest["proofs"] == {"tiny.zip": "content", "places.csv.gz": "sha256"}
    assert manifest["dataset"] == "tiny"
    assert read_manifest(place.data / "manifest.json") == manifest
    assert (place.data / "tiny.zip").read_bytes() == tiny_archive.archive.read_bytes()
    assert files_below(place.state) == []


def test_a_mirror_may_have_the_dataset_under_another_name(
    place: Place, tiny_archive: TinyArchive
) -> None:
    tiny_archive.folder.rename(tiny_archive.mirror / "others")
    card = tiny_archive.card.model_copy(update={"mirror": "others"})
    manifest = place.fetch(card, tiny_archive.mirror)
    assert manifest["dataset"] == "tiny" and len(manifest["files"]) == 2


@pytest.mark.parametrize("slash", ["", "/"])
def test_from_a_mirror_address(
    place: Place, tiny_archive: TinyArchive, server: Server, slash: str
) -> None:
    for name in ("tiny.zip", "places.csv.gz"):
        server.files[f"/base/tiny/{name}"] = (tiny_archive.folder / name).read_bytes()
    manifest = place.fetch(tiny_archive.card, server.at("/base") + slash)
    asked = {("/base/tiny/tiny.zip", None), ("/base/tiny/places.csv.gz", None)}
    assert set(server.asked) == asked and len(server.asked) == 2
    assert set(manifest["files"]) == {"tiny.zip", "places.csv.gz"}


def test_from_the_public_address_where_the_mirror_lacks_a_file(
    place: Place, tiny_archive: TinyArchive, server: Server
) -> None:
    server.files["/record/7?download=1"] = tiny_archive.archive.read_bytes()
    tiny_archive.archive.unlink()
    card = addressed(tiny_archive.card, tiny=server.at("/record/7?download=1"))
    manifest = place.fetch(card, tiny_archive.mirror)
    assert server.asked == [("/record/7?download=1", None)]
    assert manifest["proofs"]["tiny.zip"] == "content"


def test_the_mirror_comes_before_the_public_address(
    place: Place, tiny_archive: TinyArchive, server: Server
) -> None:
    public = server.at("/public")
    place.fetch(addressed(tiny_archive.card, tiny=public, places=public), tiny_archive.mirror)
    assert server.asked == []


def test_the_public_address_follows_a_mirror_address_without_the_file(
    place: Place, tiny_archive: TinyArchive, server: Server
) -> None:
    server.files["/public.zip"] = tiny_archive.archive.read_bytes()
    server.files["/mirror/tiny/places.csv.gz"] = (
        tiny_archive.folder / "places.csv.gz"
    ).read_bytes()
    card = addressed(tiny_archive.card, tiny=server.at("/public.zip"))
    place.fetch(card, server.at("/mirror"))
    asked = [path for path, _ in server.asked]
    assert sorted(asked) == ["/mirror/tiny/places.csv.gz", "/mirror/tiny/tiny.zip", "/public.zip"]
    assert asked.index("/mirror/tiny/tiny.zip") < asked.index("/public.zip")


def test_what_is_here_already_is_not_fetched_again(
    place: Place, tiny_archive: TinyArchive, server: Server
) -> None:
    for name in ("tiny.zip", "places.csv.gz"):
        server.files[f"/tiny/{name}"] = (tiny_archive.folder / name).read_bytes()
    first = place.fetch(tiny_archive.card, server.address)
    assert len(server.asked) == 2
    assert place.fetch(tiny_archive.card, server.address) == first
    assert len(server.asked) == 2
    (place.data / "places.csv.gz").write_bytes(b"damaged")
    assert place.fetch(tiny_archive.card, server.address) == first
    assert [path for path, _ in server.asked[2:]] == ["/tiny/places.csv.gz"]


@pytest.mark.parametrize("with_mirror", [False, True])
def test_no_address_and_no_mirror_is_told_in_one_line(
    place: Place, tiny_archive: TinyArchive, tmp_path: Path, with_mirror: bool
) -> None:
    told = place.refused(tiny_archive.card, tmp_path / "empty" if with_mirror else None)
    assert told == (
        "dataset tiny: tiny.zip has no public address and is in no mirror "
        "(and so 1 more of 2 files); "
        "set SWATH_MIRROR to a folder or address that holds tiny/tiny.zip"
    )
    assert place.names == []


# ---- connections (test_transfer.py has more)


def test_a_broken_download_goes_on_in_the_next_session(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    trouble = [make_answer(cut_at=2_000_000)] + [make_answer(status=503)] * (ATTEMPTS - 1)
    server.plans["/large/tiny.zip"] = trouble
    told = place.refused(large)
    assert "the server answered 503 in 5 attempts" in told and "what came is kept" in told
    assert place.names == ["places.csv.gz"], "what is proven stays"
    server.asked.clear()
    place.fetch(large)
    assert server.asked == [("/large/tiny.zip", "bytes=2000000-")]
    assert (place.data / "tiny.zip").read_bytes() == server.files["/large/tiny.zip"]
    assert files_below(place.state) == []


def test_a_wrong_part_of_an_earlier_session_is_refused_once(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.plans["/large/tiny.zip"] = [make_answer(cut_at=2_000_000)] + [
        make_answer(status=503)
    ] * (ATTEMPTS - 1)
    place.refused(large)
    [part] = [path for path in files_below(place.state) if path.suffix != ".json"]
    part.write_bytes(b"of another file")
    assert "is not the published file" in place.refused(large)
    assert files_below(place.state) == [] and place.names == ["places.csv.gz"]
    assert place.fetch(large)["proofs"]["tiny.zip"] == "sha256"


def test_a_mirror_that_breaks_off_leaves_the_public_file_unmixed(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.files["/mirror/tiny/tiny.zip"] = bytes(2_500_000)  # packed in another way
    server.files["/mirror/tiny/places.csv.gz"] = server.files["/large/places.csv.gz"]
    server.plans["/mirror/tiny/tiny.zip"] = [make_answer(cut_at=1_500_000)] + [
        make_answer(status=503)
    ] * (ATTEMPTS - 1)
    manifest = place.fetch(large, server.at("/mirror"))
    assert manifest["proofs"]["tiny.zip"] == "sha256"


def test_a_file_that_is_not_there_is_told_with_its_address(
    place: Place, tiny_archive: TinyArchive, server: Server
) -> None:
    address = server.at("/gone.zip")
    card = addressed(tiny_archive.card, tiny=address)
    tiny_archive.archive.unlink()
    told = place.refused(card, tiny_archive.mirror)
    assert told == (
        f"{address}: the server answered 404 Not Found; "
        "mend the address in the dataset's card, or set SWATH_MIRROR"
    )
    assert len(server.asked) == 1, "no is an answer; it is not asked again"
    assert place.names == ["places.csv.gz"]


def test_a_server_that_calls_a_gz_file_encoded_does_not_change_its_bytes(
    place: Place, tiny_archive: TinyArchive, server: Server, make_answer: type[Answer]
) -> None:
    # Common on web servers: a stored .csv.gz is sent as an encoding of a .csv.
    for name in ("tiny.zip", "places.csv.gz"):
        server.files[f"/tiny/{name}"] = (tiny_archive.folder / name).read_bytes()
    server.plans["/tiny/places.csv.gz"] = [make_answer(headers={"Content-Encoding": "gzip"})]
    manifest = place.fetch(tiny_archive.card, server.address)
    assert manifest["proofs"]["places.csv.gz"] == "sha256"


def test_a_store_of_objects_can_be_the_mirror(
    place: Place, tiny_archive: TinyArchive, store: str
) -> None:
    client = boto3.client("s3")
    for name in ("tiny.zip", "places.csv.gz"):
        body = (tiny_archive.folder / name).read_bytes()
        client.put_object(Bucket=store, Key=f"mirror/tiny/{name}", Body=body)
    manifest = place.fetch(tiny_archive.card, f"s3://{store}/mirror/")
    assert manifest["proofs"] == {"tiny.zip": "content", "places.csv.gz": "sha256"}
    assert (place.data / "tiny.zip").read_bytes() == tiny_archive.archive.read_bytes()


# ---- proofs


def test_wrong_bytes_are_refused_and_nothing_of_them_stays(
    place: Place, tiny_archive: TinyArchive
) -> None:
    wrong = bytearray(tiny_archive.archive.read_bytes())
    wrong[len(wrong) // 2] ^= 1
    tiny_archive.archive.write_bytes(wrong)
    told = place.refused(tiny_archive.card, tiny_archive.mirror)
    assert told == (
        f"{tiny_archive.archive}: tiny.zip is not the published file: it was changed or cut off; "
        "mend the mirror, or fetch again"
    )
    assert place.names == ["places.csv.gz"] and files_below(place.state) == []


def test_a_cut_off_archive_is_refused(place: Place, tiny_archive: TinyArchive) -> None:
    tiny_archive.archive.write_bytes(tiny_archive.archive.read_bytes()[:-30])
    assert "is not the published file" in place.refused(tiny_archive.card, tiny_archive.mirror)
    assert place.names == ["places.csv.gz"] and files_below(place.state) == []


def test_a_changed_archive_with_the_right_names_is_refused(
    place: Place, tiny_archive: TinyArchive
) -> None:
    with zipfile.ZipFile(tiny_archive.archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    first, second = "Tiny/Crop/Crop_1.png", "Tiny/Forest/Forest_1.png"
    members[first] = members[second]
    with zipfile.ZipFile(tiny_archive.archive, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    assert "is not the published file" in place.refused(tiny_archive.card, tiny_archive.mirror)
    assert place.names == ["places.csv.gz"]


def test_a_repacked_archive_is_proven_by_its_content(
    place: Place, tiny_archive: TinyArchive
) -> None:
    with zipfile.ZipFile(tiny_archive.archive) as opened:
        members = {name: opened.read(name) for name in reversed(opened.namelist())}
    with zipfile.ZipFile(tiny_archive.archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    # The published checksum is that of another packing, as for a mirror's re-zip.
    file = tiny_archive.card.files[0].model_copy(update={"md5": "0" * 32})
    card = tiny_archive.card.model_copy(update={"files": [file, tiny_archive.card.files[1]]})
    assert place.fetch(card, tiny_archive.mirror)["proofs"]["tiny.zip"] == "content"


def test_a_published_md5_proves_an_archive(place: Place, tiny_archive: TinyArchive) -> None:
    md5 = hashlib.md5(tiny_archive.archive.read_bytes()).hexdigest()
    file = tiny_archive.card.files[0].model_copy(update={"md5": md5, "content": None})
    card = tiny_archive.card.model_copy(update={"files": [file, tiny_archive.card.files[1]]})
    assert place.fetch(card, tiny_archive.mirror)["proofs"]["tiny.zip"] == "published md5"


def test_a_file_without_a_proof_is_not_believed(place: Place, tiny_archive: TinyArchive) -> None:
    file = tiny_archive.card.files[0].model_copy(update={"content": None})
    card = tiny_archive.card.model_copy(update={"files": [file]})
    assert "is not the published file" in place.refused(card, tiny_archive.mirror)


# ---- archives that are unpacked


@pytest.fixture
def packed(tmp_path: Path, tiny_archive: TinyArchive) -> Card:
    """A dataset of a tar and a zip, both to be unpacked, on a mirror beside the tiny one's."""
    scenes = tiny_archive.folder / "scenes.tar.gz"
    with tarfile.open(scenes, "w:gz") as opened:
        for name in ("scenes/one/red.tif", "scenes/one/nir.tif"):
            member = tarfile.TarInfo(name)
            member.size = 1000
            opened.addfile(member, io.BytesIO(noise(1000)))
    with zipfile.ZipFile(tiny_archive.folder / "labels.zip", "w") as opened:
        opened.writestr("labels/one.tif", noise(500))
    files = [
        Table(name=name, sha256=digest(tiny_archive.folder / name), unpack=True)
        for name in ("scenes.tar.gz", "labels.zip")
    ]
    return tiny_archive.card.model_copy(update={"files": files})


UNPACKED = [
    "labels.zip.unpacked.json", "labels/one.tif", "manifest.json", "scenes.tar.gz.unpacked.json",
    "scenes/one/nir.tif", "scenes/one/red.tif",
]  # fmt: skip


def test_archives_are_unpacked_side_by_side_and_not_kept(
    place: Place, packed: Card, tiny_archive: TinyArchive
) -> None:
    manifest = place.fetch(packed, tiny_archive.mirror)
    assert place.paths == UNPACKED
    assert manifest["proofs"] == {"scenes.tar.gz": "sha256", "labels.zip": "sha256"}
    assert manifest["files"]["labels/one.tif"]["sha256"] == hashlib.sha256(noise(500)).hexdigest()
    assert files_below(place.state) == []


def test_what_is_unpacked_is_not_fetched_again(
    place: Place, packed: Card, tiny_archive: TinyArchive, tmp_path: Path
) -> None:
    first = place.fetch(packed, tiny_archive.mirror)
    shutil.rmtree(place.state)
    (place.data / "manifest.json").unlink()  # as Snakemake does before it runs the rule again
    assert place.fetch(packed, tmp_path / "gone") == first
    (place.data / "labels/one.tif").write_bytes(b"damaged")
    assert "labels.zip has no public address" in place.refused(packed, tmp_path / "gone")
    assert place.fetch(packed, tiny_archive.mirror) == first


def edition(card: Card, archive: TinyArchive, files: dict[str, bytes]) -> Card:
    """The card with another edition of its zip."""
    path = archive.folder / "labels.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, body in files.items():
            opened.writestr(name, body)
    newer = card.files[1].model_copy(update={"sha256": digest(path)})
    return card.model_copy(update={"files": [card.files[0], newer]})


def test_a_new_edition_of_an_archive_replaces_the_old(
    place: Place, packed: Card, tiny_archive: TinyArchive
) -> None:
    place.fetch(packed, tiny_archive.mirror)
    newer = edition(packed, tiny_archive, {"labels/two.tif": b"two"})
    place.fetch(newer, tiny_archive.mirror)
    assert place.paths == [name.replace("one.tif", "two.tif") for name in UNPACKED]


@pytest.mark.parametrize("name", ["scenes/one/red.tif", "manifest.json", "places.csv.gz"])
def test_archives_that_bring_the_same_file_are_refused(
    place: Place, packed: Card, tiny_archive: TinyArchive, name: str
) -> None:
    card = edition(packed, tiny_archive, {name: b"other"})
    card = card.model_copy(update={"files": [*card.files, tiny_archive.card.files[1]]})
    told = place.refused(card, tiny_archive.mirror)
    assert f"and another file of the dataset both bring {name}; leave `unpack` out" in told


def test_an_archive_that_leads_outside_leaves_nothing(
    place: Place, packed: Card, tiny_archive: TinyArchive
) -> None:
    evil = edition(packed, tiny_archive, {"good.tif": b"good", "../../up.tif": b"evil"})
    told = place.refused(evil, tiny_archive.mirror)
    assert "its member '../../up.tif' leads outside its folder" in told
    assert place.paths == [name for name in UNPACKED if name.startswith("scenes")]
    assert [path.name for path in files_below(place.state)] == ["labels.zip"]


# ---- scenes of a search


BANDS = {"red": "B04", "near": "B08"}


@pytest.fixture
def searched(catalogue: Catalogue, tiny_archive: TinyArchive) -> Card:
    """A dataset of two scenes of a STAC API, with two bands each on the same server."""
    for name in ("A", "B"):
        for key in BANDS.values():
            body = f"{name} {key} ".encode() * 40_000
            catalogue.server.files[f"/scenes/{name}/{key}.tif"] = body
    catalogue.list(*(catalogue.item(n, **hrefs(catalogue, n)) for n in ("A", "B")))
    stac = Search(
        url=catalogue.url,
        collections=["scenes"],
        bbox=[7.0, 50.0, 8.0, 51.0],
        datetime="2026-07",
        assets=BANDS,
    )
    return tiny_archive.card.model_copy(update={"files": [], "stac": stac})


def hrefs(catalogue: Catalogue, name: str) -> dict[str, str]:
    return {key: catalogue.server.at(f"/scenes/{name}/{key}.tif") for key in BANDS.values()}


SCENES = [
    "A/item.json", "A/near.tif", "A/red.tif", "B/item.json", "B/near.tif", "B/red.tif",
    "manifest.json", "scenes.json",
]  # fmt: skip


def test_scenes_are_listed_and_brought(place: Place, searched: Card, server: Server) -> None:
    manifest = place.fetch(searched)
    assert place.paths == SCENES
    for name in ("A", "B"):
        for band, key in BANDS.items():
            body = (place.data / name / f"{band}.tif").read_bytes()
            assert body == server.files[f"/scenes/{name}/{key}.tif"]
    assert manifest["proofs"]["A/red.tif"] == "its server's length"
    item = pystac.Item.from_file(str(place.data / "A" / "item.json"))
    assert list(item.assets) == ["red", "near"]
    red = item.assets["red"]
    assert Path(red.get_absolute_href() or "") == place.data / "A" / "red.tif"
    assert red.extra_fields["file:checksum"] == "1220" + digest(place.data / "A" / "red.tif")
    assert item.properties["proj:epsg"] == 32632
    assert files_below(place.state) == []


def test_scenes_are_not_searched_or_fetched_again(
    place: Place, searched: Card, server: Server, catalogue: Catalogue
) -> None:
    first = place.fetch(searched)
    shutil.rmtree(place.state)
    (place.data / "manifest.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in files_below(place.data)}
    server.asked.clear()
    catalogue.pages.clear()
    assert place.fetch(searched) == first
    assert server.asked == []
    assert {p: p.stat().st_mtime_ns for p in before} == before
    (place.data / "A" / "red.tif").write_bytes(b"damaged")
    assert place.fetch(searched) == first
    assert [path for path, _ in server.asked] == ["/scenes/A/B04.tif"]


def test_a_broken_fetch_of_scenes_goes_on_file_by_file(
    place: Place, searched: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.plans["/scenes/B/B04.tif"] = [make_answer(cut_at=100_000)] + [
        make_answer(status=500)
    ] * (ATTEMPTS - 1)
    assert "/scenes/B/B04.tif: the server answered 500" in place.refused(searched)
    assert [n for n in place.paths if n.endswith(".tif")] == [
        "A/near.tif", "A/red.tif", "B/near.tif"
    ]  # fmt: skip
    server.asked.clear()
    place.fetch(searched)
    assert server.asked == [("/scenes/B/B04.tif", "bytes=100000-")]
    assert place.paths == SCENES


def test_a_signature_is_no_part_of_a_scenes_identity(
    place: Place, searched: Card, server: Server, catalogue: Catalogue
) -> None:
    for path in list(server.files):
        server.files[f"{path}?sig=one"] = server.files[path]
    signed = {key: f"{href}?sig=one" for key, href in hrefs(catalogue, "A").items()}
    catalogue.list(catalogue.item("A", **signed))
    first = place.fetch(searched)
    assert "sig=one" not in (place.data / "A" / "item.json").read_text()
    listed = (place.data / "scenes.json").read_text()
    (place.data / "scenes.json").write_text(listed.replace("sig=one", "sig=two"))
    server.asked.clear()
    assert place.fetch(searched)["proofs"] == first["proofs"]
    assert server.asked == []


def test_a_signature_that_has_run_out_is_renewed(
    place: Place, searched: Card, server: Server, catalogue: Catalogue
) -> None:
    def item(signature: str) -> dict[str, Any]:
        signed = {k: f"{href}?sig={signature}" for k, href in hrefs(catalogue, "A").items()}
        return catalogue.item("A", **signed)

    catalogue.list(item("old"))
    for path in list(server.files):
        server.files[f"{path}?sig=new"] = server.files.pop(path)
    assert "/scenes/A/B04.tif: the server answered 404" in place.refused(searched)
    server.files["/v1/collections/scenes/items/A"] = json.dumps(item("new")).encode()
    server.asked.clear()
    place.fetch(searched)
    assert place.paths == [name for name in SCENES if not name.startswith("B")]
    body = (place.data / "A" / "red.tif").read_bytes()
    assert body == server.files["/scenes/A/B04.tif?sig=new"]
    assert catalogue.searches and "/v1/search" not in [path for path, _ in server.asked]


def test_a_published_size_and_checksum_prove_a_scene(
    place: Place, searched: Card, server: Server, catalogue: Catalogue
) -> None:
    item = catalogue.item("A", **hrefs(catalogue, "A"))
    body = server.files["/scenes/A/B04.tif"]
    item["assets"]["B04"]["file:checksum"] = "d50110" + hashlib.md5(body).hexdigest()
    item["assets"]["B08"]["file:size"] = len(server.files["/scenes/A/B08.tif"])
    catalogue.list(item)
    proofs = place.fetch(searched)["proofs"]
    assert proofs == {"A/red.tif": "published md5", "A/near.tif": "published size"}
    shutil.rmtree(place.data)
    server.files["/scenes/A/B04.tif"] = body[:-1] + b"?"
    assert "A/red.tif is not the published file" in place.refused(searched)
    assert "A/red.tif" not in place.paths and "A/near.tif" in place.paths
    server.files["/scenes/A/B04.tif"] = body
    shutil.rmtree(place.data)
    server.files["/scenes/A/B08.tif"] += b"?"
    assert "A/near.tif is not the published file" in place.refused(searched)
    assert "A/near.tif" not in place.paths


def test_the_mirror_serves_scenes_too(
    place: Place, searched: Card, server: Server, tmp_path: Path
) -> None:
    mirrored = tmp_path / "scenes" / "tiny" / "A" / "red.tif"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_bytes(b"from the mirror")
    place.fetch(searched, tmp_path / "scenes")
    assert (place.data / "A" / "red.tif").read_bytes() == b"from the mirror"
    assert "/scenes/A/B04.tif" not in [path for path, _ in server.asked]


def test_a_changed_search_keeps_what_it_still_wants_and_puts_by_the_rest(
    place: Place, searched: Card, server: Server, catalogue: Catalogue
) -> None:
    first = place.fetch(searched)
    assert searched.stac
    catalogue.list(catalogue.item("A", **hrefs(catalogue, "A")))
    narrower = searched.stac.model_copy(update={"max_cloud": 50.0, "assets": {"red": "B04"}})
    server.asked.clear()
    place.fetch(searched.model_copy(update={"stac": narrower}))
    assert place.paths == ["A/item.json", "A/red.tif", "manifest.json", "scenes.json"]
    assert [path for path, _ in server.asked] == ["/v1", "/v1/search"]
    catalogue.list(*(catalogue.item(n, **hrefs(catalogue, n)) for n in ("A", "B")))
    server.asked.clear()
    assert place.fetch(searched) == first
    assert [path for path, _ in server.asked] == ["/v1", "/v1/search"], "all was put by"


def test_a_frozen_list_is_fetched_without_the_api(
    place: Place, searched: Card, catalogue: Catalogue, tmp_path: Path
) -> None:
    assert searched.stac
    write_scenes(searched.stac, tmp_path / "list.json")
    catalogue.searches.clear()
    frozen = searched.stac.model_copy(
        update={"url": "http://127.0.0.1:9", "frozen": str(tmp_path / "list.json")}
    )
    place.fetch(searched.model_copy(update={"stac": frozen}))
    assert place.paths == SCENES and catalogue.searches == []
    assert (place.data / "scenes.json").read_bytes() == (tmp_path / "list.json").read_bytes()


# ---- one's own scenes


@pytest.fixture
def own(tiny_archive: TinyArchive) -> Card:
    return tiny_archive.card.model_copy(update={"files": []})


def test_own_scenes_in_their_place_are_listed(place: Place, own: Card) -> None:
    assert place.refused(own) == (
        f"{place.data}: there are no scenes here; "
        "put your scenes there, or name their folder: `folder: /path/of/scenes`"
    )
    (place.data / "one").mkdir(parents=True)
    (place.data / "one" / "red.tif").write_bytes(b"red")
    sha256 = hashlib.sha256(b"red").hexdigest()
    assert place.fetch(own)["files"] == {"one/red.tif": {"size": 3, "sha256": sha256}}


def test_own_scenes_elsewhere_are_linked_to(place: Place, own: Card, tmp_path: Path) -> None:
    there = tmp_path / "archive"
    for name in ("one/red.tif", "two/red.tif"):
        (there / name).parent.mkdir(parents=True)
        (there / name).write_bytes(name.encode())
    card = own.model_copy(update={"folder": str(there)})
    first = place.fetch(card)
    assert place.paths == ["manifest.json", "one/red.tif", "two/red.tif"]
    assert (place.data / "one/red.tif").is_symlink()
    assert (place.data / "one/red.tif").read_bytes() == b"one/red.tif"
    assert sorted(place.data.glob("*/*.tif")) == [place.data / n for n in place.paths[1:]]
    assert [p.name for p in files_below(there)] == ["red.tif", "red.tif"], "nothing is written"
    assert read_manifest(place.data / "manifest.json") == first == place.fetch(card)
    (there / "two/red.tif").unlink()
    place.fetch(card)
    assert place.paths == ["manifest.json", "one/red.tif"]
    (there / "one/red.tif").write_bytes(b"changed")
    with pytest.raises(DataError, match="not 11"):
        read_manifest(place.data / "manifest.json")


def test_own_scenes_that_are_not_there_are_told(place: Place, own: Card, tmp_path: Path) -> None:
    gone = own.model_copy(update={"folder": str(tmp_path / "gone")})
    assert place.refused(gone) == (
        f"{tmp_path / 'gone'}: there are no scenes here; mend `folder` in the dataset's card"
    )
    (tmp_path / "red.tif").write_bytes(b"red")
    around = own.model_copy(update={"folder": str(tmp_path)})
    assert "name the folder of the scenes alone" in place.refused(around)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "red.tif").write_bytes(b"red")
    place.data.mkdir(parents=True)
    (place.data / "red.tif").write_bytes(b"mine")
    told = place.refused(own.model_copy(update={"folder": str(tmp_path / "there")}))
    assert "is in the way of a link" in told
    assert (place.data / "red.tif").read_bytes() == b"mine"


# ---- drawn and real data


def test_a_drawn_dataset_is_drawn_and_listed(place: Place, tiny_card: Card) -> None:
    manifest = place.fetch(tiny_card)
    assert len(manifest["files"]) == 8, "four files for each of two scenes"
    assert read_manifest(place.data / "manifest.json")["version"] == manifest["version"]
    assert place.fetch(tiny_card)["version"] == manifest["version"], "the seed decides all"
    other = tiny_card.model_copy(update={"drawing": tiny_card.drawing | {"seed": 6}})
    assert place.fetch(other)["version"] != manifest["version"]


def test_a_drawing_leaves_nothing_of_an_older_one(place: Place, tiny_card: Card) -> None:
    place.fetch(tiny_card)
    fewer = tiny_card.model_copy(update={"drawing": tiny_card.drawing | {"scenes": 1}})
    assert len(place.fetch(fewer)["files"]) == 4
    assert len(place.names) == 5


def test_the_real_eurosat_is_proven_by_its_content(
    place: Place, real_data: Path, repository: Path
) -> None:
    card = Card.model_validate(yaml.safe_load((repository / "conf/data/eurosat.yaml").read_text()))
    manifest = place.fetch(card, real_data)
    assert manifest["proofs"] == {"EuroSAT_RGB.zip": "content", "EuroSAT_georef.csv.gz": "sha256"}
    with gzip.open(real_data / "eurosat" / "EuroSAT_georef.csv.gz", "rt") as file:
        assert sum(1 for _ in file) == 27_001
