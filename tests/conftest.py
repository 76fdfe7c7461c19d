"""What the tests share: the real data, a real server, and two tiny datasets with their cards."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import hypothesis
import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml
from PIL import Image
from rasterio.transform import from_origin

from swath import store
from swath.data.card import Card
from swath.data.landscape import draw_scenes
from swath.files import content_digest, digest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")

# The same examples on every machine, and no time limit that a busy machine could miss.
hypothesis.settings.register_profile(
    "swath", deadline=None, derandomize=True, max_examples=50, database=None
)
hypothesis.settings.load_profile("swath")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, laid out as a mirror: `<dataset>/<file>`."""
    mirror = os.environ.get("SWATH_MIRROR", "")
    folder = Path(mirror) if mirror and "://" not in mirror else REPOSITORY.parent / "shared/data"
    if not (folder / "eurosat" / "EuroSAT_RGB.zip").is_file():
        pytest.skip(f"there are no real data in {folder} (SWATH_MIRROR names another folder)")
    return folder


# ---- a server -------------------------------------------------------------------------------


@dataclass
class Answer:
    """How the server behaves towards one request."""

    status: int | None = None
    """An error to answer with, instead of the file."""
    cut_at: int | None = None
    """The connection breaks after so many bytes of the body."""
    ranges: bool = True
    """Whether a Range request gets its part, or the whole file again."""
    stall_s: float = 0.0
    """Seconds of silence after the first `cut_at` bytes, before the connection breaks."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """A real HTTP server on the loopback, whose answers a test plans."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path, with its slash -> content."""
    versions: dict[str, str] = field(default_factory=dict)
    """Path -> ETag, in quotes, of the files that have one; for others If-Range is ignored."""
    plan: list[Answer] = field(default_factory=list)
    """One answer a request, in turn; then `otherwise`."""
    plans: dict[str, list[Answer]] = field(default_factory=dict)
    """Path -> answers to its own requests, before `plan`: for files that are fetched at once."""
    otherwise: Answer = field(default_factory=Answer)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of each request so far."""
    reply: Callable[[str, str, bytes], tuple[int, dict[str, str], bytes]] | None = None
    """From method, path and body of a request to status, headers and body, for all that is no
    file; answers of an API."""

    def at(self, path: str) -> str:
        """The address of a path."""
        return self.address + path


@pytest.fixture
def server() -> Iterator[Server]:
    """A loopback HTTP server with programmable behaviour."""
    told = Server()
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            told.asked.append((self.path, asked))
            body = told.files.get(self.path)
            if body is None and told.reply:
                self.reply(b"")
                return
            planned = told.plans.get(self.path) or told.plan
            answer = planned.pop(0) if planned else told.otherwise
            version = told.versions.get(self.path)
            if answer.status or body is None:
                self.send_response(answer.status or 404)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                return
            start = 0
            changed = version and self.headers.get("If-Range", version) != version
            if asked and answer.ranges and not changed:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - start))
            for name, value in (({"ETag": version} if version else {}) | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            end = len(body) if answer.cut_at is None else start + answer.cut_at
            self.wfile.write(body[start:end])
            if answer.stall_s:
                self.wfile.flush()
                released.wait(answer.stall_s)

        def do_POST(self) -> None:
            told.asked.append((self.path, None))
            self.reply(self.rfile.read(int(self.headers["Content-Length"])))

        def reply(self, asked: bytes) -> None:
            assert told.reply
            status, headers, body = told.reply(self.command, self.path, asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield told
    released.set()
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(scope="session")
def make_answer() -> type[Answer]:
    """The type of a planned answer."""
    return Answer


@dataclass
class Catalogue:
    """A STAC API on the loopback: what it answers, and what it was asked."""

    server: Server
    pages: dict[str | None, dict[str, Any]] = field(default_factory=dict)
    """Token of a page, None for the first -> the page."""
    conforms: list[str] = field(
        default_factory=lambda: ["core", "item-search", "item-search#query"]
    )
    trouble: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Status, headers and body of answers to searches, before the pages."""
    searches: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its landing page."""
        return self.server.at("/v1")

    def replay(self, recordings: Path, name: str) -> None:
        """Answer as a public API did: a recording of `stac_recordings.zip`, brought here."""
        with zipfile.ZipFile(recordings / "stac" / "stac_recordings.zip") as opened:
            text = opened.read(f"recordings/{name}.json").decode()
        for public in (
            "https://earth-search.aws.element84.com/v1",
            "https://planetarycomputer.microsoft.com/api/stac/v1",
        ):
            text = text.replace(public, self.url)
        text = re.sub('"(https|s3)://(?!127)', f'"{self.server.at("/")}', text)
        for recorded in json.loads(text)["interactions"]:
            if recorded["request"]["method"] == "POST":
                token = self._token(recorded["request"]["body"])
                self.pages[token] = recorded["response"]["json"]

    def list(
        self, *items: dict[str, Any], token: str | None = None, then: str | None = None
    ) -> None:
        """A page of items, and the token of the next."""
        body = {"next": then}
        link = {"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body}
        self.pages[token] = {
            "type": "FeatureCollection",
            "features": list(items),
            "links": [link] if then else [],
        }

    def item(self, name: str, cover: float | None = 10.0, **hrefs: str) -> dict[str, Any]:
        """A scene as an API lists it, with assets of these addresses."""
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": name,
            "collection": "scenes",
            "bbox": [7.0, 50.0, 8.0, 51.0],
            "geometry": {"type": "Point", "coordinates": [7.5, 50.5]},
            "properties": {"datetime": "2026-07-01T10:30:00Z", "proj:epsg": 32632}
            | ({} if cover is None else {"eo:cloud_cover": cover}),
            "links": [{"rel": "self", "href": f"{self.url}/collections/scenes/items/{name}"}],
            "assets": {key: {"href": href, "type": "image/tiff"} for key, href in hrefs.items()},
        }

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """What the server replies with."""
        if path.startswith("/v1/search"):
            asked = json.loads(body) if method == "POST" else dict(parse_qsl(urlsplit(path).query))
            self.searches.append(asked)
            if self.trouble:
                return self.trouble.pop(0)
            page = self.pages.get(self._token(asked), {"type": "FeatureCollection", "features": []})
            return 200, {"Content-Type": "application/geo+json"}, json.dumps(page).encode()
        if path.rstrip("/") == "/v1":
            landing = {
                "type": "Catalog",
                "id": "loopback",
                "description": "replayed",
                "stac_version": "1.0.0",
                "conformsTo": [f"https://api.stacspec.org/v1.0.0/{what}" for what in self.conforms],
                "links": [
                    {"rel": "root", "href": self.url},
                    {"rel": "search", "href": f"{self.url}/search", "method": "GET"},
                    {"rel": "search", "href": f"{self.url}/search", "method": "POST"},
                ],
            }
            return 200, {}, json.dumps(landing).encode()
        return 404, {}, b"no such page"

    @staticmethod
    def _token(asked: dict[str, Any]) -> str | None:
        return asked.get("next") or asked.get("token")


@pytest.fixture
def catalogue(server: Server) -> Catalogue:
    """A STAC API without a scene yet."""
    made = Catalogue(server)
    server.reply = made.answer
    return made


# ---- an object store ------------------------------------------------------------------------


@dataclass(frozen=True)
class S3:
    """A real S3 server on the loopback that checks signatures: Ceph's radosgw."""

    folder: Path
    env: dict[str, str]
    """AWS_* variables of a user who may do what they like with their own buckets."""
    other: dict[str, str]
    """Those of another user, who has no right to them."""

    @property
    def secret(self) -> str:
        """What must stand nowhere."""
        return self.env["AWS_SECRET_ACCESS_KEY"]

    def admin(self, *words: str) -> None:
        """Something that only the server's owner can do."""
        conf = str(self.folder / "ceph.conf")
        subprocess.run(["radosgw-admin", "-c", conf, *words], check=True, capture_output=True)

    def client(self, **env: str) -> Any:
        """A client of its own, beside swath's."""
        import boto3
        from botocore.config import Config

        given = self.env | env
        return boto3.client(
            "s3", endpoint_url=given["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            config=Config(request_checksum_calculation="when_required"),
        )  # fmt: skip

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """What a bucket holds."""
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=bucket, Prefix=prefix)
        return [each["Key"] for page in found for each in page.get("Contents", ())]

    def body(self, bucket: str, key: str) -> bytes:
        """An object."""
        body: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """The server; tests make buckets of their own."""
    missing = [p for p in ("radosgw", "ceph-mon", "ceph-osd", "ceph") if not shutil.which(p)]
    if missing:
        pytest.skip(f"there is no {', '.join(missing)}: make test-s3 installs it (Debian)")
    script = REPOSITORY / "tests/servers/s3.sh"
    folder = Path(tempfile.mkdtemp(prefix="s3-"))  # short: sockets lie in it
    try:
        subprocess.run([script, "up", folder], check=True, timeout=180)
        env, other = (
            dict(re.findall(r"(AWS_\w+)=(\S+)", (folder / name).read_text()))
            for name in ("env", "env.other")
        )
        yield S3(folder, env, env | other)
    finally:
        subprocess.run([script, "down", folder], check=True, timeout=60)


@pytest.fixture
def machine(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Path]]:
    """Makes this process a machine of that name, which shares a bucket with the others and nothing
    else; gives its folder, in which `copy` is Snakemake's local copy of the store."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.client().create_bucket(Bucket=bucket)

    def be(name: str, address: str = f"s3://{bucket}/me", **env: str) -> Path:
        folder = tmp_path / name
        (folder / "copy").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        told = {store.ADDRESS: address, store.COPY: str(folder / "copy")}
        for key, value in (s3.env | told | env).items():
            monkeypatch.setenv(key, value)
        store._client.cache_clear()
        return folder

    yield be
    store._client.cache_clear()


# ---- tiny datasets --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_card() -> Card:
    """The card of the embedded dataset, with two scenes of 128 px."""
    facts = yaml.safe_load((REPOSITORY / "conf/data/embedded.yaml").read_text())
    facts["drawing"] = {"name": "landscape", "seed": 5, "scenes": 2, "size_px": 128}
    return Card.model_validate(facts)


@pytest.fixture(scope="session")
def tiny_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scenes that `tiny_card` describes."""
    folder = tmp_path_factory.mktemp("tiny") / "embedded"
    draw_scenes(folder, seed=5, scenes=2, size_px=128)
    return folder


@dataclass(frozen=True)
class TinyArchive:
    """The twin of a published archive: PNGs in class folders, and a table of their places."""

    mirror: Path
    folder: Path
    card: Card
    pixels: dict[str, np.ndarray]
    """`<class>/<name>.png` -> (y, x, band) uint8."""
    places: pd.DataFrame

    @property
    def archive(self) -> Path:
        """The zip."""
        return self.folder / "tiny.zip"


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def make_archive(tmp_path: Path) -> Callable[..., TinyArchive]:
    """Writes a tiny class-folder dataset into a mirror: so many images of each class."""

    def make(
        images: dict[str, int] | None = None,
        *,
        side_px: int = 8,
        black: Sequence[str] = (),
        **facts: Any,
    ) -> TinyArchive:
        counts = images or {"Crop": 12, "Forest": 5, "River": 3}
        rng = np.random.default_rng(1)
        folder = tmp_path / "mirror" / "tiny"
        folder.mkdir(parents=True)
        pixels = {
            f"{name}/{name}_{number}.png": rng.integers(1, 256, (side_px, side_px, 3), np.uint8)
            * np.uint8(name not in black)
            for name, count in counts.items()
            for number in range(1, count + 1)
        }
        with zipfile.ZipFile(folder / "tiny.zip", "w") as opened:
            opened.writestr("Tiny/README.txt", "drawn for tests")
            # Not the natural order: 10 comes before 2 in an archive sorted by name.
            for name in sorted(pixels):
                opened.writestr(f"Tiny/{name}", _png(pixels[name]))
        places = pd.DataFrame(
            {
                "path": list(pixels),
                "utm_epsg": 32632,
                "ul_easting": 500_000.0 + 1000.25 * np.arange(len(pixels)),
                "ul_northing": 5_300_000.0 - 500.5 * np.arange(len(pixels)),
            }
        )
        (folder / "places.csv.gz").write_bytes(
            gzip.compress(places.sample(frac=1, random_state=0).to_csv(index=False).encode())
        )
        card = {
            "name": "tiny",
            "title": "Tiny",
            "licence": "none",
            "citation": "drawn for tests",
            "layout": {
                "name": "class_folders",
                "archive": "tiny.zip",
                "georeference": "places.csv.gz",
            },
            "files": [
                {"name": "tiny.zip", "content": content_digest(folder / "tiny.zip")},
                {"name": "places.csv.gz", "sha256": digest(folder / "places.csv.gz")},
            ],
            "bands": [
                {"name": name, "wavelength_nm": nm, "gsd_m": 10.0}
                for name, nm in (("red", 665.0), ("green", 560.0), ("blue", 490.0))
            ],
            "rgb": ["red", "green", "blue"],
            "scale": 255.0,
            "classes": dict(zip(counts, ("#aa0000", "#00aa00", "#0000aa"), strict=False)),
            "counts": counts,
            "labels": "patch",
        }
        return TinyArchive(folder.parent, folder, Card.model_validate(card | facts), pixels, places)

    return make


@pytest.fixture
def tiny_archive(make_archive: Callable[..., TinyArchive]) -> TinyArchive:
    """Twelve, five and three images of 8 px in three classes, with a place for each."""
    return make_archive()


@pytest.fixture(scope="session")
def write_raster() -> Callable[..., Path]:
    """Writes (band, y, x) as a GeoTIFF: a raster of any grid, for scenes made by hand."""

    def write(
        path: Path,
        bands: np.ndarray,
        names: Sequence[str],
        *,
        gsd_m: float = 10.0,
        corner: tuple[float, float] = (600_000.0, 5_300_040.0),
        epsg: int | None = 32632,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = {
            "driver": "GTiff",
            "count": len(bands),
            "height": bands.shape[1],
            "width": bands.shape[2],
            "dtype": bands.dtype,
            "transform": from_origin(*corner, gsd_m, gsd_m),
            **({"crs": f"EPSG:{epsg}"} if epsg else {}),
        }
        with rasterio.open(path, "w", **profile) as file:
            file.write(bands)
            file.descriptions = tuple(names)
        return path

    return write
