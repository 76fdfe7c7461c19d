"""Bytes over connections that break, stall and lie: from real servers on the loopback."""

from __future__ import annotations

import io
import logging
import re
import shutil
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from swath.data import transfer
from swath.data.transfer import ATTEMPTS, WORKERS, Transfer, Unserved, retry_after_s, without_query
from swath.errors import DataError
from swath.files import files_below

if TYPE_CHECKING:
    from conftest import Answer, Server

BODY = np.random.default_rng(0).bytes(1_500_000)
OTHER = np.random.default_rng(1).bytes(1_500_000)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "state" / "scene.tif"


@pytest.fixture
def address(server: Server) -> str:
    server.files["/scene.tif"] = BODY
    return server.at("/scene.tif")


def bring(target: Path, *addresses: str, stall_s: float = 5.0) -> str:
    return Transfer(wait_s=0.01, stall_s=stall_s).bring(addresses, target)


def refused(target: Path, *addresses: str) -> str:
    with pytest.raises(Unserved) as failed:
        bring(target, *addresses)
    assert "\n" not in str(failed.value)
    return str(failed.value)


def starts(server: Server) -> list[int]:
    """First byte that each request asked for."""
    return [int((part or "bytes=0-")[6:-1]) for _, part in server.asked]


# ---- a web server


def test_a_file_is_brought_whole_and_nothing_else_stays(
    target: Path, address: str, server: Server
) -> None:
    server.files["/scene.tif?signature=secret"] = BODY
    assert bring(target, address + "?signature=secret") == address
    assert target.read_bytes() == BODY
    assert files_below(target.parent) == [target]


def test_a_cut_connection_goes_on_where_it_stopped(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=700_001), make_answer(cut_at=300_001)]
    bring(target, address)
    assert target.read_bytes() == BODY
    assert starts(server) == [0, 700_001, 1_000_002], "not a byte that came is asked for again"


def test_many_breaks_are_borne_as_long_as_each_brings_something(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.otherwise = make_answer(cut_at=100_000)
    bring(target, address)
    assert target.read_bytes() == BODY
    assert len(server.asked) == 15 > ATTEMPTS


def test_what_came_in_an_earlier_session_is_kept(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=400_000)] + [make_answer(status=503)] * ATTEMPTS
    told = refused(target, address)
    assert told == (
        f"{address}: the server answered 503 in 5 attempts; try again later: what came is kept"
    )
    server.plan.clear()
    server.asked.clear()
    bring(target, address)
    assert starts(server) == [400_000]
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_sends_all_again(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=900_000), make_answer(ranges=False)]
    bring(target, address)
    assert len(server.asked) == 2
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_in_trouble_is_asked_again_and_then_named(
    target: Path, address: str, server: Server, make_answer: type[Answer], status: int
) -> None:
    server.plan = [make_answer(status=status)] * ATTEMPTS
    assert f"the server answered {status} in 5 attempts" in refused(target, address)
    assert len(server.asked) == ATTEMPTS == 5
    server.plan = [make_answer(status=status)] * (ATTEMPTS - 1)
    bring(target, address)
    assert len(server.asked) == 2 * ATTEMPTS


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_no_is_an_answer_and_is_not_asked_again(
    target: Path, address: str, server: Server, make_answer: type[Answer], status: int
) -> None:
    server.plan = [make_answer(status=status)]
    told = refused(target, address + "?signature=secret")
    assert told.startswith(f"{address}: the server answered {status} ")
    assert told.endswith("; mend the address in the dataset's card, or set SWATH_MIRROR")
    assert len(server.asked) == 1


def test_a_server_says_how_long_it_wants_to_be_left_alone(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(status=429, headers={"Retry-After": "1"})]
    since = time.monotonic()
    bring(target, address)
    assert 1.0 <= time.monotonic() - since < 3.0


def test_a_wait_may_be_told_in_seconds_or_as_a_date() -> None:
    assert retry_after_s("120") == 120.0
    assert 55 < retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=60))) <= 60
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_s("soon") == retry_after_s(None) == 0.0


def test_a_silent_connection_is_given_up_and_gone_on_with(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=500_000, stall_s=30.0)]
    since = time.monotonic()
    bring(target, address, stall_s=0.3)
    assert time.monotonic() - since < 5.0
    assert starts(server) == [0, 500_000]
    assert target.read_bytes() == BODY


def test_a_connection_that_only_drips_is_given_up(target: Path) -> None:
    asked = []

    def drip() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                asked.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                with closing(client), suppress(OSError):
                    while True:  # always well within the time between two packets
                        client.sendall(b"x" * 10)
                        time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, daemon=True).start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/scene.tif"
        with pytest.raises(Unserved, match=r"sent \d+ bytes in 0 s in 5 attempts"):
            bring(target, address, stall_s=0.2)
    assert len(asked) == ATTEMPTS


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 600_000), max_size=4))
def test_wherever_it_breaks_the_file_is_whole(
    target: Path, address: str, server: Server, make_answer: type[Answer], cuts: list[int]
) -> None:
    target.unlink(missing_ok=True)
    server.plan = [make_answer(cut_at=cut) for cut in cuts]
    bring(target, address)
    assert target.read_bytes() == BODY
    assert files_below(target.parent) == [target]


def test_other_bytes_on_the_server_are_not_joined_to_the_old(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.versions["/scene.tif"] = '"one"'
    server.plan = [make_answer(cut_at=700_000)] + [make_answer(status=503)] * ATTEMPTS
    refused(target, address)
    server.plan.clear()
    server.files["/scene.tif"], server.versions["/scene.tif"] = OTHER, '"two"'
    server.asked.clear()
    bring(target, address)
    assert target.read_bytes() == OTHER
    assert starts(server) == [700_000], "If-Range gets all of the new file at once"


def test_a_part_of_another_version_is_refused_where_the_server_ignores_if_range(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [
        make_answer(cut_at=700_000, headers={"Last-Modified": "Mon, 01 Jun 2026 10:00:00 GMT"}),
        make_answer(headers={"Last-Modified": "Tue, 02 Jun 2026 10:00:00 GMT"}),
    ]
    bring(target, address)
    assert target.read_bytes() == BODY
    assert starts(server) == [0, 700_000, 0]


def test_a_part_of_a_file_of_another_length_is_begun_anew(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=700_000)] + [make_answer(status=503)] * ATTEMPTS
    refused(target, address)
    server.plan.clear()
    server.files["/scene.tif"] = OTHER[:-5]
    server.asked.clear()
    bring(target, address)
    assert target.read_bytes() == OTHER[:-5]
    assert starts(server) == [700_000, 0]


@pytest.mark.parametrize("surplus", [b"", b"more than there is"])
def test_a_complete_part_is_taken_and_one_that_is_too_long_is_not(
    target: Path, address: str, server: Server, make_answer: type[Answer], surplus: bytes
) -> None:
    server.plan = [make_answer(cut_at=700_000)] + [make_answer(status=503)] * ATTEMPTS
    refused(target, address)
    server.plan.clear()
    [part] = [file for file in files_below(target.parent) if file.suffix != ".json"]
    part.write_bytes(BODY + surplus)  # as a process leaves it that is killed before the last step
    server.asked.clear()
    bring(target, address)
    assert target.read_bytes() == BODY
    assert starts(server) == [1_500_000 + len(surplus)] + ([0] if surplus else [])


def test_an_unreadable_note_costs_the_part_nothing(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.plan = [make_answer(cut_at=700_000)] + [make_answer(status=503)] * ATTEMPTS
    refused(target, address)
    server.plan.clear()
    [note] = [file for file in files_below(target.parent) if file.suffix == ".json"]
    note.write_text("{half")
    bring(target, address)
    assert target.read_bytes() == BODY


def test_an_answer_without_a_length_is_taken_to_its_end(target: Path, server: Server) -> None:
    server.reply = lambda *_: (200, {}, BODY)
    bring(target, server.at("/stream"))
    assert target.read_bytes() == BODY


def test_an_answer_in_chunks_is_whole_only_with_its_last_chunk(
    target: Path, server: Server
) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (BODY[:70_000], BODY[70_000:90_000]))
    bodies = [chunks, chunks + b"0\r\n\r\n"]
    headers = {"Transfer-Encoding": "chunked"}
    server.reply = lambda *_: (200, headers, bodies.pop(0))
    bring(target, server.at("/stream"))
    assert target.read_bytes() == BODY[:90_000] and bodies == []


def test_an_empty_file_is_a_file(target: Path, server: Server) -> None:
    server.files["/empty"] = b""
    bring(target, server.at("/empty"))
    assert target.read_bytes() == b""


def test_the_next_address_is_asked_where_one_has_nothing(
    target: Path, address: str, server: Server
) -> None:
    assert bring(target, server.at("/gone.tif"), address) == address
    assert [path for path, _ in server.asked] == ["/gone.tif", "/scene.tif"]


def test_parts_of_two_addresses_are_never_mixed(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.files["/mirror/scene.tif"] = OTHER
    server.plan = [make_answer(cut_at=700_000)] + [make_answer(status=503)] * ATTEMPTS
    bring(target, server.at("/mirror/scene.tif"), address)
    assert target.read_bytes() == BODY


def test_nobody_listening_is_told_in_one_line(target: Path) -> None:
    told = refused(target, "http://127.0.0.1:9/scene.tif")
    assert told.startswith("http://127.0.0.1:9/scene.tif: ConnectionError in 5 attempts")


def test_an_address_of_no_known_kind_is_told_at_once(target: Path) -> None:
    told = refused(target, "gs://bucket/scene.tif")
    assert told.startswith("gs://bucket/scene.tif: is fetched by no way that swath knows")


def test_no_room_on_the_disk_is_told_before_a_byte_is_asked_for(
    target: Path, address: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1_000_000))
    with pytest.raises(DataError) as told:
        bring(target, address)
    assert str(told.value) == (
        f"{target.parent}: scene.tif needs 0.00 GB more, and 0.00 GB are free; "
        "make room and fetch again: what came is kept"
    )


def test_addresses_are_told_without_their_secrets() -> None:
    assert without_query("https://me:pw@host:8/a/b.tif?sig=1#x") == "https://host:8/a/b.tif"
    assert without_query("s3://bucket/key") == "s3://bucket/key"
    assert without_query("/data/why?.tif") == "/data/why?.tif"


# ---- a folder


def test_a_folder_serves_too_and_goes_on(target: Path, tmp_path: Path) -> None:
    source = tmp_path / "mirror.tif"
    source.write_bytes(BODY)
    assert bring(target, str(source)) == str(source)
    assert target.read_bytes() == BODY
    assert "No such file" in refused(target, str(tmp_path / "gone.tif"))


# ---- side by side


def test_files_come_a_few_at_a_time_and_in_their_order() -> None:
    lock, now, most = threading.Lock(), 0, 0

    def task(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return number

    done = Transfer().together([lambda n=n: task(n) for n in range(20)])
    assert done == list(range(20)) and most == WORKERS == 4


def test_a_file_that_fails_does_not_end_the_others() -> None:
    done = []

    def task(number: int) -> None:
        if number in (3, 5):
            raise DataError("is broken", where=f"file {number}", mend="mend it")
        time.sleep(0.01)
        done.append(number)

    with pytest.raises(DataError) as told:
        Transfer().together([lambda n=n: task(n) for n in range(12)])
    assert str(told.value) == "file 3: is broken (and so 1 more of 12 files); mend it"
    assert sorted(done) == [0, 1, 2, 4, *range(6, 12)]


@pytest.mark.parametrize("failure", [DataError("is broken"), OSError(28, "No space left")])
def test_failures_all_over_end_it(failure: Exception) -> None:
    begun = []

    def task(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        raise failure

    with pytest.raises(type(failure)):
        Transfer().together([lambda n=n: task(n) for n in range(100)])
    assert len(begun) <= 3 * WORKERS


def test_an_interrupted_fetch_ends_soon_and_keeps_its_parts(
    target: Path, address: str, server: Server, make_answer: type[Answer]
) -> None:
    server.otherwise = make_answer(status=503)

    def interrupt() -> None:
        time.sleep(0.3)
        raise KeyboardInterrupt

    patient = Transfer(wait_s=60.0)
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        patient.together([interrupt, lambda: patient.bring([address], target)])
    assert time.monotonic() - since < 5.0, "nobody waits for the next attempt"


def test_without_a_terminal_a_line_tells_how_far_it_is(
    target: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(transfer, "TOLD_EVERY_S", 0.0)
    loads = Transfer()
    loads.together([lambda: loads.bring([address], target)])
    lines = [re.fullmatch(r"0 of 1 files, (\d+) MB", r.message) for r in caplog.records]
    assert [int(line[1]) for line in lines if line][-1] in (1, 2)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_tells_how_far_it_is(
    target: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    loads = Transfer()
    names = [target.with_name(f"{number}.tif") for number in range(3)]
    loads.together([lambda name=name: loads.bring([address], name) for name in names])
    assert "3 of 3 files: 100%" in terminal.getvalue()
    assert "4.50M/4.50M" in terminal.getvalue()


# ---- an object store


class Proxy:
    """A TCP proxy before a server, that breaks connections after so many bytes of an answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.behind = f"http://127.0.0.1:{port}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.cuts: list[int | None] = []
        """For each connection in turn, after how many bytes it breaks."""
        self.asked: list[str] = []
        """Head of each request."""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with (
            suppress(OSError),
            closing(client),
            socket.create_connection(("127.0.0.1", self._port)) as server,
        ):
            while request := client.recv(1 << 16):
                self.asked.append(request.decode("latin-1").partition("\r\n\r\n")[0])
                server.sendall(request)
                left = self.cuts.pop(0) if self.cuts else None
                server.settimeout(0.3)
                with suppress(TimeoutError):
                    while block := server.recv(1 << 14):
                        client.sendall(block[:left])
                        left = None if left is None else left - len(block)
                        if left is not None and left <= 0:
                            return

    def close(self) -> None:
        self._listening.close()


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """An S3 server on the loopback; its port."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running.get_host_and_port()[1]
    running.stop()


@pytest.fixture
def store(moto: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """The store behind a proxy, named by the environment as AWS's own tools read it."""
    proxy = Proxy(moto)
    environment = {
        "AWS_ENDPOINT_URL_S3": proxy.address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=proxy.behind, region_name="us-east-1")
    client.create_bucket(Bucket="scenes")
    client.put_object(Bucket="scenes", Key="2026/scene.tif", Body=BODY)
    yield proxy
    proxy.close()


S3 = "s3://scenes/2026/scene.tif"


def test_a_file_of_a_store_is_brought_signed(target: Path, store: Proxy) -> None:
    assert bring(target, S3) == S3
    assert target.read_bytes() == BODY
    assert "authorization: aws4-hmac-sha256 credential=key/" in store.asked[0].lower()
    assert files_below(target.parent) == [target]


@pytest.mark.parametrize("how", ["no keys", "AWS_NO_SIGN_REQUEST"])
def test_a_public_bucket_is_read_without_keys(
    target: Path, store: Proxy, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "no keys":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    else:
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert "answered 403" in refused(target, S3)
    client = boto3.client(
        "s3", endpoint_url=store.behind, aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.put_object_acl(Bucket="scenes", Key="2026/scene.tif", ACL="public-read")
    bring(target, S3)
    assert target.read_bytes() == BODY
    assert "authorization" not in store.asked[0].lower()


def test_a_broken_connection_to_a_store_is_gone_on_with(target: Path, store: Proxy) -> None:
    store.cuts = [600_000, 400_000]
    bring(target, S3)
    assert target.read_bytes() == BODY
    ranges = [re.search(r"range: bytes=(\d+)-", head.lower()) for head in store.asked]
    assert ranges[0] is None and len(ranges) == 3
    first, second = int(ranges[1][1]), int(ranges[2][1])
    assert 500_000 < first < 600_000 and first + 300_000 < second < first + 400_000
    assert "if-match: " in store.asked[1].lower()


def test_another_object_in_the_store_is_begun_anew(target: Path, store: Proxy) -> None:
    store.cuts = [600_000] + [0] * ATTEMPTS
    assert "in 5 attempts" in refused(target, S3)
    client = boto3.client("s3", endpoint_url=store.behind, region_name="us-east-1")
    client.put_object(Bucket="scenes", Key="2026/scene.tif", Body=OTHER)
    bring(target, S3)
    assert target.read_bytes() == OTHER


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("s3://scenes/gone.tif", "the store answered 404 NoSuchKey; mend the address"),
        ("s3://nobucket/scene.tif", "the store answered 404 NoSuchBucket; mend the address"),
        ("s3://no bucket/scene.tif", "Invalid bucket name"),
    ],
)
def test_what_a_store_has_not_is_told_in_one_line(
    target: Path, store: Proxy, wrong: str, told: str
) -> None:
    line = refused(target, wrong)
    assert line.startswith(f"{wrong}: ") and told in line
    assert len(store.asked) <= 1, "no is an answer"


def test_half_a_pair_of_keys_is_told_in_one_line(
    target: Path, store: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Partial credentials" in refused(target, S3)
    assert store.asked == []
