"""Fetching: from mirrors and addresses, over broken connections, and proven before it counts."""

from __future__ import annotations

import gzip
import hashlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from swath.data.card import Card
from swath.data.fetch import ATTEMPTS, fetch
from swath.data.layouts import open_source
from swath.errors import DataError
from swath.files import files_below, read_manifest

if TYPE_CHECKING:
    from conftest import Answer, Server, TinyArchive

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
    def part(self) -> Path:
        """The one file that is on its way."""
        [part] = files_below(self.state)
        return part

    @property
    def names(self) -> list[str]:
        return [file.name for file in files_below(self.data)] if self.data.is_dir() else []


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


@pytest.mark.parametrize("slash", ["", "/"])
def test_from_a_mirror_address(
    place: Place, tiny_archive: TinyArchive, server: Server, slash: str
) -> None:
    for name in ("tiny.zip", "places.csv.gz"):
        server.files[f"/base/tiny/{name}"] = (tiny_archive.folder / name).read_bytes()
    manifest = place.fetch(tiny_archive.card, server.at("/base") + slash)
    assert server.asked == [("/base/tiny/tiny.zip", None), ("/base/tiny/places.csv.gz", None)]
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
    assert [path for path, _ in server.asked] == [
        "/mirror/tiny/tiny.zip", "/public.zip", "/mirror/tiny/places.csv.gz"
    ]  # fmt: skip


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
        "dataset tiny: tiny.zip has no public address and is in no mirror; "
        "set SWATH_MIRROR to a folder or address that holds tiny/tiny.zip"
    )
    assert place.names == []


# ---- connections


def test_a_cut_connection_goes_on_where_it_stopped(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=1_700_000), make_answer(cut_at=900_000)]
    place.fetch(large)
    body = server.files["/large/tiny.zip"]
    assert (place.data / "tiny.zip").read_bytes() == body
    asked = [part for path, part in server.asked if path == "/large/tiny.zip"]
    assert len(asked) == 3 and asked[0] is None
    starts = [int(re.fullmatch(r"bytes=(\d+)-", part)[1]) for part in asked[1:]]
    assert 1_000_000 <= starts[0] <= 1_700_000
    assert starts[0] <= starts[1] <= starts[0] + 900_000


def test_breaks_in_quick_succession_still_get_on(
    place: Place, tiny_archive: TinyArchive, server: Server, make_answer: type[Answer]
) -> None:
    with zipfile.ZipFile(tiny_archive.archive, "a") as opened:
        opened.writestr("Tiny/noise.bin", noise(300_000))
    body = tiny_archive.archive.read_bytes()
    server.files["/tiny.zip"] = body
    server.otherwise = make_answer(cut_at=150_000)  # far more than half is here after two
    file = tiny_archive.card.files[0].model_copy(
        update={"address": server.at("/tiny.zip"), "sha256": hashlib.sha256(body).hexdigest()}
    )
    card = tiny_archive.card.model_copy(update={"files": [file, tiny_archive.card.files[1]]})
    (tiny_archive.folder / "tiny.zip").unlink()
    place.fetch(card, tiny_archive.mirror)
    starts = [int((part or "bytes=0-")[6:-1]) for _, part in server.asked]
    assert starts == sorted(set(starts)), "each request begins after the one before it"


def test_what_came_in_an_earlier_session_is_kept(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=2_000_000)] + [make_answer(status=503)] * (ATTEMPTS - 1)
    told = place.refused(large)
    assert "the server answered 503 in 5 attempts" in told and "what came is kept" in told
    assert place.names == []
    kept = place.part.stat().st_size
    assert 1_000_000 <= kept <= 2_000_000
    server.asked.clear()
    place.fetch(large)
    assert server.asked[0] == ("/large/tiny.zip", f"bytes={kept}-")


def test_a_server_without_ranges_sends_all_again(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=2_000_000), make_answer(ranges=False)]
    place.fetch(large)
    assert [path for path, _ in server.asked].count("/large/tiny.zip") == 2
    assert (place.data / "tiny.zip").read_bytes() == server.files["/large/tiny.zip"]


def test_a_complete_part_of_an_earlier_session_is_taken(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    body = server.files["/large/tiny.zip"]
    server.plan = [make_answer(cut_at=2_000_000)] + [make_answer(status=503)] * (ATTEMPTS - 1)
    place.refused(large)
    place.part.write_bytes(body)  # as a process leaves it that is killed before it proves it
    server.asked.clear()
    place.fetch(large)
    assert server.asked[0] == ("/large/tiny.zip", f"bytes={len(body)}-")
    assert len(server.asked) == 2


def test_a_wrong_part_of_an_earlier_session_is_refused_once(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=2_000_000)] + [make_answer(status=503)] * (ATTEMPTS - 1)
    place.refused(large)
    place.part.write_bytes(b"of another file")
    assert "is not the published file" in place.refused(large)
    assert files_below(place.state) == [] and place.names == []
    assert place.fetch(large)["proofs"]["tiny.zip"] == "sha256"


def test_a_mirror_that_breaks_off_leaves_the_public_file_unmixed(
    place: Place, large: Card, server: Server, make_answer: type[Answer]
) -> None:
    server.files["/mirror/tiny/tiny.zip"] = bytes(2_500_000)  # packed in another way
    server.files["/mirror/tiny/places.csv.gz"] = server.files["/large/places.csv.gz"]
    server.plan = [make_answer(cut_at=1_500_000)] + [make_answer(status=503)] * (ATTEMPTS - 1)
    manifest = place.fetch(large, server.at("/mirror"))
    assert manifest["proofs"]["tiny.zip"] == "sha256"


def test_a_file_that_is_not_there_is_told_with_its_address(
    place: Place, tiny_archive: TinyArchive, server: Server
) -> None:
    address = server.at("/gone.zip")
    told = place.refused(addressed(tiny_archive.card, tiny=address))
    assert told == (
        f"{address}: the server answered 404 Not Found; "
        "mend the address in the dataset's card, or set SWATH_MIRROR"
    )
    assert len(server.asked) == 1, "no is an answer; it is not asked again"
    assert place.names == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_in_trouble_is_asked_again_and_then_named(
    place: Place,
    tiny_archive: TinyArchive,
    server: Server,
    make_answer: type[Answer],
    status: int,
) -> None:
    server.files["/tiny.zip"] = tiny_archive.archive.read_bytes()
    card = addressed(tiny_archive.card, tiny=server.at("/tiny.zip"))
    server.plan = [make_answer(status=status)] * ATTEMPTS
    told = place.refused(card)
    assert told.startswith(f"{server.at('/tiny.zip')}: the server answered {status} in 5 attempts")
    assert len(server.asked) == ATTEMPTS == 5

    tiny_archive.archive.unlink()
    server.plan = [make_answer(status=status)] * (ATTEMPTS - 1)
    assert "tiny.zip" in place.fetch(card, tiny_archive.mirror)["files"]
    assert len(server.asked) == 2 * ATTEMPTS


def test_nobody_listening_is_told_in_one_line(place: Place, tiny_archive: TinyArchive) -> None:
    # Port 9 of the loopback: nothing of ours listens there.
    card = addressed(tiny_archive.card, tiny="http://127.0.0.1:9/tiny.zip")
    told = place.refused(card)
    assert told.startswith("http://127.0.0.1:9/tiny.zip: ConnectionError in 5 attempts")


def test_a_server_that_calls_a_gz_file_encoded_does_not_change_its_bytes(
    place: Place, tiny_archive: TinyArchive, server: Server, make_answer: type[Answer]
) -> None:
    # Common on web servers: a stored .csv.gz is sent as an encoding of a .csv.
    for name in ("tiny.zip", "places.csv.gz"):
        server.files[f"/tiny/{name}"] = (tiny_archive.folder / name).read_bytes()
    server.plan = [make_answer(), make_answer(headers={"Content-Encoding": "gzip"})]
    manifest = place.fetch(tiny_archive.card, server.address)
    assert manifest["proofs"]["places.csv.gz"] == "sha256"


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
    assert place.names == [] and files_below(place.state) == []


def test_a_cut_off_archive_is_refused(place: Place, tiny_archive: TinyArchive) -> None:
    tiny_archive.archive.write_bytes(tiny_archive.archive.read_bytes()[:-30])
    assert "is not the published file" in place.refused(tiny_archive.card, tiny_archive.mirror)
    assert place.names == [] and files_below(place.state) == []


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
    assert place.names == []


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


def test_class_counts_that_differ_from_the_card_are_refused(
    place: Place, make_archive: Callable[..., TinyArchive]
) -> None:
    twin = make_archive({"Crop": 3, "Forest": 2}, counts={"Crop": 3, "Forest": 4})
    told = place.refused(twin.card, twin.mirror)
    assert told == (
        f"{place.data / 'tiny.zip'}: holds 2 patches of Forest, published are 4; fetch it again"
    )
    assert "manifest.json" not in place.names


# ---- drawn and real data


def test_a_drawn_dataset_is_drawn_and_listed(place: Place, tiny_card: Card) -> None:
    manifest = place.fetch(tiny_card)
    assert len(manifest["files"]) == 8, "four files for each of two scenes"
    assert read_manifest(place.data / "manifest.json")["version"] == manifest["version"]
    assert len(open_source(tiny_card, place.data).table(64, None)) == 2 * 4
    assert place.fetch(tiny_card)["version"] == manifest["version"], "the seed decides all"
    other = tiny_card.model_copy(
        update={"drawing": tiny_card.drawing.model_copy(update={"seed": 6})}
    )
    assert place.fetch(other)["version"] != manifest["version"]


def test_a_drawing_leaves_nothing_of_an_older_one(place: Place, tiny_card: Card) -> None:
    place.fetch(tiny_card)
    fewer = tiny_card.model_copy(
        update={"drawing": tiny_card.drawing.model_copy(update={"scenes": 1})}
    )
    assert len(place.fetch(fewer)["files"]) == 4
    assert len(place.names) == 5


def test_the_real_eurosat_is_proven_by_its_content(
    place: Place, real_data: Path, repository: Path
) -> None:
    card = Card.model_validate(yaml.safe_load((repository / "conf/data/eurosat.yaml").read_text()))
    manifest = place.fetch(card, real_data)
    assert manifest["proofs"] == {"EuroSAT_RGB.zip": "content", "EuroSAT_georef.csv.gz": "sha256"}
    source = open_source(card, place.data)
    table = source.table(None, None)
    assert len(table) == 27_000 and source.native_px == 64
    assert table["name"].iloc[[0, 1, 26_999]].tolist() == [
        "AnnualCrop/AnnualCrop_1.jpg", "AnnualCrop/AnnualCrop_2.jpg", "SeaLake/SeaLake_3000.jpg"
    ]  # fmt: skip
    assert table["easting"].iloc[0] == 624602.23 and table["epsg"].iloc[0] == 32635
    with gzip.open(real_data / "eurosat" / "EuroSAT_georef.csv.gz", "rt") as file:
        assert sum(1 for _ in file) == 27_001
