"""Bytes from a web server, an object store or a folder into a file: resumed, and side by side.

A download lies in a part file until it is whole. Beside it a note says which version of the file
the part is of (ETag or Last-Modified), so that the next attempt, or the next start, asks for the
rest of that version alone: other bytes on the server begin the part anew and are never joined to
it. Whether a whole file is the published one is not decided here (`swath.data.fetch`).

Keys, region and endpoint of an object store come from the standard environment variables of AWS
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3`, …); without keys, or with `AWS_NO_SIGN_REQUEST=YES`, a
bucket is read as a public one. `AWS_REQUEST_PAYER=requester` reads one whose reader pays.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from swath.errors import DataError
from swath.files import write_json

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""In succession that bring nothing; one that brings at least a block begins the count anew."""
WAIT_S = 1.0
"""Wait after the first failed attempt; doubled after each."""
TIMEOUT_S = (10, 60)
"""To connect, and between two packets."""
LONGEST_WAIT_S = 300.0
"""However long a server asks to be left alone."""
SLOWEST_B_S = 1_000
"""Bytes a second, over the time between two packets; a slower connection has stalled."""
WORKERS = 4
"""Files on their way at once; also the failures after which no more are begun."""
TOLD_EVERY_S = 10.0
_BLOCK = 1 << 16
_BROKEN = (
    requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError
)  # fmt: skip
"""A connection's faults; any other OSError is one of our own disk, and is not tried again."""

T = TypeVar("T")


class Unserved(DataError):
    """A file that none of its addresses gives."""


class Again(Exception):
    """An attempt that failed and may be made again."""

    def __init__(self, reason: str, *, after_s: float = 0.0, anew: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.after_s, self.anew = reason, after_s, anew


class _Stopped(Exception):
    """The fetch was interrupted."""


class _Beyond(Exception):
    """Nothing lies behind what is here; `total` is the size of the file where it is known."""

    def __init__(self, total: int | None) -> None:
        self.total = total


@dataclass(frozen=True)
class _Answer:
    """A file's bytes, from `start` on."""

    start: int
    total: int | None
    version: str
    """What tells one version of the file from another; empty where nothing does."""
    read: Callable[[int], bytes]
    """At most so many bytes as they come in; none at the end."""


class Transfer:
    """Downloads of one fetch, with one progress bar; on no terminal, a line now and then."""

    def __init__(self, *, wait_s: float = WAIT_S, stall_s: float = TIMEOUT_S[1]) -> None:
        self._wait_s = wait_s
        self._stall_s = stall_s
        self._stop = threading.Event()
        self._progress = _Progress()

    def together(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """What the tasks give, run a few at a time.

        A task that fails does not end the others: what is good is kept. After `WORKERS` failures,
        or one that is no `DataError` (a full disk), no more are begun.

        Raises:
            DataError: the first of the failures, with their number.
        """
        with ExitStack() as stack:
            stack.enter_context(self._progress.shown(len(tasks)))
            pool = stack.enter_context(ThreadPoolExecutor(WORKERS))
            futures = [pool.submit(self._run, task) for task in tasks]
            try:
                self._watch(futures)
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        failures = [f.exception() for f in futures if not f.cancelled() and f.exception()]
        failures.sort(key=lambda failed: isinstance(failed, _Stopped))
        if not failures:
            return [future.result() for future in futures]
        first = failures[0]
        assert first is not None
        if isinstance(first, DataError) and len(failures) > 1:
            more = f"{first.what} (and so {len(failures) - 1} more of {len(tasks)} files)"
            raise type(first)(more, where=first.where, mend=first.mend)
        raise first

    def _run(self, task: Callable[[], T]) -> T:
        if self._stop.is_set():
            raise _Stopped
        done = task()
        self._progress.file_done()
        return done

    def _watch(self, futures: list[Future[T]]) -> None:
        failures = 0
        for future in as_completed(futures):
            failed = None if future.cancelled() else future.exception()
            failures += failed is not None
            if failed and not isinstance(failed, DataError):
                self._stop.set()
            if failures >= WORKERS or self._stop.is_set():
                for waiting in futures:
                    waiting.cancel()

    def bring(self, addresses: Sequence[str], target: Path) -> str:
        """Bring a file from the first of its addresses that gives it; returns that address.

        Raises:
            Unserved: none gives it; tells the last failure.
            DataError: the disk has no room for it.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        failed = Unserved("has no address", where=target.name)
        for address in addresses:
            # A part of its own: what two servers pack differently must not be joined.
            identity = hashlib.sha256(without_query(address).encode()).hexdigest()[:8]
            part = target.with_name(f"{target.name}.{identity}")
            try:
                self._download(address, part)
            except Unserved as refused:
                failed = refused
            else:
                os.replace(part, target)
                _note(part).unlink(missing_ok=True)
                return without_query(address)
        raise failed

    def _download(self, address: str, part: Path) -> None:
        failures = 0
        while True:
            have = _size(part)
            try:
                return self._attempt(address, part)
            except Again as failed:
                reason, after_s = failed.reason, failed.after_s
                if failed.anew:
                    part.unlink(missing_ok=True)
                    _note(part).unlink(missing_ok=True)
            except _BROKEN as failed:
                reason, after_s = type(failed).__name__, 0.0
            failures = 1 if _size(part) >= have + _BLOCK else failures + 1
            told = without_query(address)
            if failures >= ATTEMPTS:
                mend = "try again later: what came is kept"
                raise Unserved(f"{reason} in {ATTEMPTS} attempts", where=told, mend=mend)
            log.warning("%s: %s; trying again", told, reason)
            wait_s = max(self._wait_s * 2 ** (failures - 1), min(after_s, LONGEST_WAIT_S))
            if self._stop.wait(wait_s):
                raise _Stopped

    def _attempt(self, address: str, part: Path) -> None:
        known = _noted(part)
        have = _size(part)
        try:
            with _opened(address, have, known.get("version", ""), self._stall_s) as answer:
                if answer.start not in (0, have):
                    raise Again("the server sent another part of the file", anew=True)
                if answer.start and _is_another(known, answer):
                    raise Again("the file on the server has changed", anew=True)
                _check_room(part, answer)
                if known != (now := {"version": answer.version, "total": answer.total}):
                    write_json(_note(part), now)
                self._receive(answer, part)
        except _Beyond as beyond:
            total = known.get("total") if beyond.total is None else beyond.total
            if have != total:
                raise Again("the part is longer than the file", anew=True) from None
            return
        if answer.total is not None and (short := answer.total - _size(part)) > 0:
            raise Again(f"broke off {short} bytes before its end")

    def _receive(self, answer: _Answer, part: Path) -> None:
        self._progress.expect(answer)
        with part.open("r+b" if answer.start else "wb") as file:
            file.seek(answer.start)
            since, came = time.monotonic(), 0
            while block := answer.read(_BLOCK):
                file.write(block)
                came += len(block)
                self._progress.came(len(block))
                if self._stop.is_set():
                    raise _Stopped
                if (seconds := time.monotonic() - since) > self._stall_s:
                    if came < SLOWEST_B_S * seconds:
                        raise Again(f"sent {came} bytes in {seconds:.0f} s")
                    since, came = time.monotonic(), 0


def without_query(address: str) -> str:
    """An address without its query and its user: signatures and keys are nobody's business."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _noted(part: Path) -> dict[str, Any]:
    """What the note beside a part says; nothing where there is none that can be read."""
    try:
        noted = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _is_another(known: dict[str, Any], answer: _Answer) -> bool:
    """Whether what the server sends is of another version than the part that is here."""
    versions = known.get("version"), answer.version
    totals = known.get("total"), answer.total
    return (all(versions) and versions[0] != versions[1]) or (
        None not in totals and totals[0] != totals[1]
    )


def _check_room(part: Path, answer: _Answer) -> None:
    needed = (answer.total or 0) - answer.start
    free = shutil.disk_usage(part.parent).free + (0 if answer.start else _size(part))
    if needed > free:
        raise DataError(
            f"{part.stem} needs {needed / 1e9:.2f} GB more, and {free / 1e9:.2f} GB are free",
            where=part.parent,
            mend="make room and fetch again: what came is kept",
        )


def retry_after_s(header: str | None) -> float:
    """Seconds that a Retry-After header asks to wait: a number, or a date (RFC 9110, 10.2.3)."""
    if not header:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def is_passing(status: int) -> bool:
    """Whether a status is a server's trouble of the moment, to be asked again."""
    return status in (408, 425, 429) or status >= 500


def _opened(
    address: str, have: int, version: str, stall_s: float
) -> AbstractContextManager[_Answer]:
    if "://" not in address:
        return _from_folder(Path(address), have)
    if address.startswith("s3://"):
        return _from_store(address, have, version)
    if not address.startswith(("http://", "https://")):
        raise Unserved(
            "is fetched by no way that swath knows: http, https, s3 or a folder",
            where=without_query(address),
            mend="mend the address in the dataset's card, or set SWATH_MIRROR",
        )
    return _from_server(address, have, version, stall_s)


@contextmanager
def _from_folder(path: Path, have: int) -> Iterator[_Answer]:
    try:
        file = path.open("rb")
    except OSError as failed:
        raise Unserved(failed.strerror or str(failed), where=path, mend="mend the mirror") from None
    with file:
        now = os.fstat(file.fileno())
        start = have if have <= now.st_size else 0
        file.seek(start)
        yield _Answer(start, now.st_size, f"{now.st_mtime_ns}", file.read)


@contextmanager
def _from_server(address: str, have: int, version: str, stall_s: float) -> Iterator[_Answer]:
    # The bytes as they lie on the server, whatever encoding it calls them.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version and not version.startswith("W/"):  # a weak ETag may not be used here
            headers["If-Range"] = version
    timeout = (TIMEOUT_S[0], stall_s)
    with requests.get(address, headers=headers, stream=True, timeout=timeout) as answer:
        status = answer.status_code
        start, total = _content_range(answer.headers.get("Content-Range", ""))
        if status == requests.codes.requested_range_not_satisfiable:
            raise _Beyond(total)
        if is_passing(status):
            after_s = retry_after_s(answer.headers.get("Retry-After"))
            raise Again(f"the server answered {status}", after_s=after_s)
        if status >= 400:
            raise Unserved(
                f"the server answered {status} {answer.reason}",
                where=without_query(address),
                mend="mend the address in the dataset's card, or set SWATH_MIRROR",
            )
        if status != requests.codes.partial_content:
            length = answer.headers.get("Content-Length", "")
            start, total = 0, int(length) if length.isdigit() else None

        def read(most: int) -> bytes:
            # What has come, and no waiting for more: a block that is cut short is lost.
            return answer.raw.read1(most, decode_content=False)

        named = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        yield _Answer(start, total, named, read)


def _content_range(header: str) -> tuple[int, int | None]:
    """Start and total of a Content-Range (RFC 9110, 14.4): `bytes 5-9/10`, `bytes */10`."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", header.strip())
    if not found:
        return -1, None
    return int(found[1] or 0), int(found[2]) if found[2] else None


@contextmanager
def _from_store(address: str, have: int, version: str) -> Iterator[_Answer]:
    from botocore import exceptions as boto

    bucket, _, key = address.removeprefix("s3://").partition("/")
    ask: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if have:
        ask |= {"Range": f"bytes={have}-"} | ({"IfMatch": version} if version else {})
    if payer := os.environ.get("AWS_REQUEST_PAYER"):
        ask["RequestPayer"] = payer
    try:
        answer = _store().get_object(**ask)
        start, total = _content_range(answer.get("ContentRange", ""))
        if not have or "ContentRange" not in answer:
            start, total = 0, answer["ContentLength"]
        with answer["Body"] as body:
            yield _Answer(start, total, answer.get("ETag", ""), body.read)
    except boto.ClientError as refused:
        raise _store_refusal(refused, address) from None
    except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError) as failed:
        raise Again(type(failed).__name__) from None
    except boto.BotoCoreError as failed:  # a wrong bucket name, half a pair of keys
        mend = "mend the address, or the AWS_* variables of the environment"
        raise Unserved(str(failed), where=address, mend=mend) from None


def _store_refusal(refused: Any, address: str) -> Exception:
    status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = refused.response.get("Error", {}).get("Code", "")
    said = f"the store answered {status}" + (f" {code}" if code not in ("", str(status)) else "")
    if status == 412:
        return Again("the file in the store has changed", anew=True)
    if status == 416:
        return _Beyond(None)
    if is_passing(status) or code in ("SlowDown", "RequestTimeout"):
        return Again(said)
    keys = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES"
    return Unserved(
        said,
        where=address,
        mend=keys if status in (401, 403) else "mend the address, or set AWS_ENDPOINT_URL_S3",
    )


_store_lock = threading.Lock()
_stores: dict[tuple[tuple[str, str], ...], Any] = {}


def _store() -> Any:
    """A client of the object store that the environment names; one serves all threads."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    named = tuple(sorted(pair for pair in os.environ.items() if pair[0].startswith("AWS_")))
    with _store_lock:
        if named not in _stores:
            session = boto3.Session()
            unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1")
            unsigned = unsigned or session.get_credentials() is None
            region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
            config = Config(
                connect_timeout=TIMEOUT_S[0],
                read_timeout=TIMEOUT_S[1],
                retries={"total_max_attempts": 1, "mode": "standard"},  # `Transfer` tries again
                max_pool_connections=2 * WORKERS,
                **({"signature_version": UNSIGNED} if unsigned else {}),
            )
            _stores[named] = session.client("s3", region_name=region, config=config)
        return _stores[named]


class _Progress:
    """Files and bytes so far: a bar on a terminal, else a line every few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bar: tqdm[Any] | None = None
        self._files = self._of = self._bytes = 0
        self._told = 0.0

    @contextmanager
    def shown(self, files: int) -> Iterator[None]:
        self._files, self._of, self._bytes, self._told = 0, files, 0, time.monotonic()
        if not sys.stderr.isatty():
            yield
            return
        bare = tqdm(total=0, unit="B", unit_scale=True, leave=False)
        with logging_redirect_tqdm(), bare as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def expect(self, answer: _Answer) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.total += (answer.total or answer.start) - answer.start
                self._bar.refresh()

    def came(self, size: int) -> None:
        with self._lock:
            self._bytes += size
            if self._bar is not None:
                self._bar.update(size)
            elif time.monotonic() - self._told > TOLD_EVERY_S:
                self._told = time.monotonic()
                log.info("%d of %d files, %.0f MB", self._files, self._of, self._bytes / 1e6)

    def file_done(self) -> None:
        with self._lock:
            self._files += 1
            if self._bar is not None:
                self._bar.set_description(f"{self._files} of {self._of} files")
