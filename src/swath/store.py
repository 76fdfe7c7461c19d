"""An object store in place of a shared file system: what Snakemake does not carry for a job.

Snakemake brings the inputs that a rule declares and takes its outputs away. Two kinds of files it
does not know: those that only a manifest vouches for, which are put before their manifest and
brought when they are read; and `state/`, which is put at each checkpoint and restored at the start
of a job, on whichever machine. An object is replaced whole or not at all.

`workflow/rules/start.smk` names the store in the environment where Snakemake has a default storage.
Without one, everything here does nothing. Through boto3, which is there anyway; s3fs would bind it
to another version.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swath.errors import StoreError, SwathError
from swath.files import DIGESTS, prove, read_json, whole

log = logging.getLogger(__name__)

ADDRESS = "SWATH_STORE"
"""Variable that names the store, `s3://bucket/prefix`; below it lie data/, results/ and state/."""
COPY = "SWATH_STORE_COPY"
"""Variable that names the folder in which Snakemake keeps its local copy of it."""
SETTINGS = ("endpoint_url", "region", "access_key", "secret_key", "token")
"""What Snakemake's plugin may be told of the store, and passes on as SNAKEMAKE_STORAGE_S3_…; what
it is not told, boto3 takes from the AWS_* variables, a profile or the machine's role."""
THREADS = 16
"""Files that are on their way at once."""

KEYS = "mend AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or renew them"
_REFUSALS = {
    "InvalidAccessKeyId": ("does not know the access key", KEYS),
    "SignatureDoesNotMatch": ("refuses the signature: the secret key is wrong", KEYS),
    "ExpiredToken": ("says that the credentials have expired", KEYS),
    "InvalidToken": ("refuses the session token", KEYS),
    "RequestTimeTooSkewed": ("says that this machine's clock is wrong", "set the clock"),
    "AccessDenied": ("forbids it", "let this key list, read, write and delete in the bucket"),
    "NoSuchBucket": ("has no such bucket", "create it, or mend --default-storage-prefix"),
    "QuotaExceeded": ("is full", "make room, or raise the quota; what is there stays"),
}
"""Code of an answer -> what it says to a person, and what to do."""
_BY_STATUS = {401: "AccessDenied", 403: "AccessDenied", 404: "NoSuchBucket", 507: "QuotaExceeded"}


@dataclass(frozen=True)
class _Store:
    """The store of this process."""

    bucket: str
    prefix: str
    copy: Path

    def key(self, file: Path) -> str:
        """The key of a file: its path below the local copy, or below the working folder."""
        full = Path(os.path.abspath(file))
        for root in (self.copy, Path.cwd()):
            if full.is_relative_to(root):
                return self.prefix + full.relative_to(root).as_posix()
        raise StoreError("lies in no folder that the store has", where=file)

    def address(self, key: str) -> str:
        """A key as a person knows it."""
        return f"s3://{self.bucket}/{key}"

    @contextmanager
    def refusals(self, key: str) -> Iterator[None]:
        """Errors of the store as one line.

        Raises:
            StoreError: whatever it was.
            FileNotFoundError: there is no such object.
        """
        from botocore import exceptions as boto

        try:
            yield
        except boto.ClientError as refused:
            code = str(refused.response.get("Error", {}).get("Code", ""))
            status = refused.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in ("NoSuchKey", "404") and status == 404:
                raise FileNotFoundError(self.address(key)) from None
            code = self._reason() if code in ("400", "403") else code
            known = code if code in _REFUSALS else _BY_STATUS.get(status, "")
            what, mend = _REFUSALS.get(known, (f"answers {status} {code}", "try again later"))
            raise StoreError(f"the store {what}", where=self.address(key), mend=mend) from None
        except boto.NoCredentialsError:
            raise StoreError(
                "there are no credentials", where=self.address(key), mend=KEYS
            ) from None
        except boto.BotoCoreError as failed:
            raise StoreError(
                f"the store cannot be reached ({failed})", where=self.address(key),
                mend="mend AWS_ENDPOINT_URL or the network, and start again",
            ) from None  # fmt: skip

    def _reason(self) -> str:
        """Why the store refuses, which it does not say where no body is asked for."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            _client().list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except ClientError as refused:
            return str(refused.response.get("Error", {}).get("Code", ""))
        except BotoCoreError:
            return ""
        return "AccessDenied"

    def ask(self, verb: str, key: str, **more: Any) -> Any:
        """One request about an object."""
        with self.refusals(key):
            return getattr(_client(), verb)(Bucket=self.bucket, Key=key, **more)

    def listed(self, prefix: str) -> list[str]:
        """All keys that begin so."""
        with self.refusals(prefix):
            pages = _client().get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=self.bucket, Prefix=prefix)
            return [each["Key"] for page in found for each in page.get("Contents", ())]

    def digest(self, key: str) -> str | None:
        """The digest that an object was put with; None where there is no such object."""
        try:
            return str(self.ask("head_object", key)["Metadata"].get("digest", ""))
        except FileNotFoundError:
            return None

    def put(self, file: Path, digest: str) -> None:
        """Put a file, unless it is there already; until it is there, readers have the old one."""
        key = self.key(file)
        if self.digest(key) != digest:
            more = {"Metadata": {"digest": digest}}
            with self.refusals(key), file.open("rb") as body:
                _client().upload_fileobj(body, self.bucket, key, ExtraArgs=more)

    def bring(self, key: str, file: Path) -> None:
        """Bring an object, whole or not at all, with the time at which it was put there.

        Where the same is here already, or there is none, nothing changes.
        """
        if file.is_file():
            there = self.digest(key)
            if there is None or there == DIGESTS["sha256" if len(there) == 64 else "xxh3"](file):
                return
        try:
            with self.refusals(key), whole(file, synced=False) as part:
                _client().download_file(self.bucket, key, str(part))
                put = _client().head_object(Bucket=self.bucket, Key=key)["LastModified"].timestamp()
                os.utime(part, (put, put))
        except FileNotFoundError:
            return


def _store() -> _Store | None:
    """The store that the environment names."""
    if not (address := os.environ.get(ADDRESS)):
        return None
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    return _Store(bucket, f"{prefix}/" if prefix else "", Path(os.environ[COPY]))


@functools.cache
def _client() -> Any:
    """A client of the store; one serves all threads."""
    import boto3
    from botocore.config import Config

    told = {name: os.environ.get(f"SNAKEMAKE_STORAGE_S3_{name.upper()}") for name in SETTINGS}
    return boto3.Session().client(
        "s3",
        endpoint_url=told["endpoint_url"] or None,
        region_name=told["region"] or os.environ.get("AWS_REGION") or "us-east-1",
        aws_access_key_id=told["access_key"] or None,
        aws_secret_access_key=told["secret_key"] or None,
        aws_session_token=told["token"] or None,
        config=Config(
            retries={"max_attempts": 5, "mode": "standard"},
            max_pool_connections=4 * THREADS,
            # Other stores than AWS's keep these checksums as part of the file.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def _all(one: Callable[[Any], Any], things: Iterable[Any]) -> None:
    """Do it for all, some at once; the first error counts."""
    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(one, thing) for thing in things]:
            done.result()


def _at(store: _Store, place: Path) -> list[str]:
    """Keys of a file, or of all that lies below a folder; not of what only begins like it."""
    key = store.key(place)
    return [found for found in store.listed(key) if found == key or found.startswith(f"{key}/")]


# ---- where things are -------------------------------------------------------------------------


def check() -> None:
    """Make sure that the store can be reached and lets this process in.

    Raises:
        StoreError: it does not.
    """
    if store := _store():
        with store.refusals(store.prefix):
            _client().list_objects_v2(Bucket=store.bucket, Prefix=store.prefix, MaxKeys=1)


def is_used() -> bool:
    """Whether there is a store."""
    return _store() is not None


def root() -> Path:
    """The folder below which results/ and data/ lie: the local copy, or the working folder."""
    return store.copy if (store := _store()) else Path()


def name_of(file: Path) -> str:
    """A path as every machine knows it: below `root()`, where it lies there."""
    if store := _store():
        full = Path(os.path.abspath(file))
        if full.is_relative_to(store.copy):
            return full.relative_to(store.copy).as_posix()
    return str(file)


# ---- files for which a manifest vouches -------------------------------------------------------


def put_listed(manifest: Path) -> None:
    """Put the files that a manifest lists; the manifest itself is put last, by Snakemake."""
    if store := _store():
        listed = read_json(manifest)["files"].items()
        _all(lambda item: store.put(manifest.parent / item[0], _digest_in(item[1])), listed)


def _digest_in(entry: Mapping[str, Any]) -> str:
    return next(str(entry[kind]) for kind in DIGESTS if kind in entry)


def put(*files: Path) -> None:
    """Put files; whatever lies below those that are folders."""
    if store := _store():
        found = [f for each in files for f in (each.rglob("*") if each.is_dir() else [each])]
        _all(lambda f: store.put(f, DIGESTS["xxh3"](f)), [f for f in found if f.is_file()])


def bring(*files: Path) -> None:
    """Bring the files that are not here as the store has them; what it has not stays as it is."""
    if store := _store():
        _all(lambda file: store.bring(store.key(file), file), files)


def bring_listed(manifest: Path, names: Iterable[str]) -> None:
    """Bring some of the files that a manifest lists, and prove them.

    Raises:
        DataError: one is not what the manifest lists.
    """
    if _store():
        listed, folder = read_json(manifest)["files"], manifest.parent
        wanted = list(names)
        bring(*(folder / name for name in wanted))
        _all(lambda name: prove(folder / name, listed[name], by=manifest), wanted)


def bring_all(manifest: Path) -> None:
    """Bring all files that a manifest lists, and prove them."""
    if _store():
        bring_listed(manifest, read_json(manifest)["files"])


def keep_only(folder: Path, names: Iterable[str]) -> None:
    """Delete what the store has below other folders of a folder than those of these names."""
    if store := _store():
        key, wanted = f"{store.key(folder)}/", set(names)
        parts = [(found, found[len(key) :].split("/")) for found in store.listed(key)]
        gone = [found for found, part in parts if len(part) > 1 and part[0] not in wanted]
        _all(lambda found: store.ask("delete_object", found), gone)


def bring_below(folder: Path, *patterns: str) -> None:
    """Bring the files below a folder whose paths in it match one of the patterns."""
    if store := _store():
        key = store.key(folder)
        names = [k.removeprefix(f"{key}/") for k in store.listed(f"{key}/")]
        bring(*(folder / n for n in names if any(Path(n).match(p) for p in patterns)))


# ---- state ------------------------------------------------------------------------------------


def restore(place: Path) -> None:
    """Make a file or folder of `state/` as the store has it, where the store has it.

    What lies here and is not in the store stays: it was left by a store that could not be reached.
    """
    store = _store()
    if store is None:
        return
    names = [key[len(store.key(place)) + 1 :] for key in _at(store, place)]
    bring(*(place / name if name else place for name in names))


def keep(*files: Path) -> bool:
    """Put files of `state/`, each in place of the one before; a store that fails stops nothing.

    The one before stays then, and what is done here goes on. Tells whether all were put.
    """
    try:
        put(*files)
    except SwathError as failed:
        log.warning("not kept in the store, and goes on without: %s", failed)
        return False
    return True


def forget(place: Path) -> None:
    """Delete a file or folder of `state/` from the store; one that fails stops nothing."""
    if store := _store():
        try:
            _all(lambda key: store.ask("delete_object", key), _at(store, place))
        except SwathError as failed:
            log.warning("not deleted from the store: %s", failed)


def share(file: Path) -> bool:
    """Put a file if the store has none of its name; else bring that one. Tells which it was."""
    store = _store()
    if store is None:
        return True
    try:
        body = file.read_bytes()
        store.ask("put_object", store.key(file), Body=body, IfNoneMatch="*")
    except StoreError:
        file.unlink()
        bring(file)
        return False
    return True


# ---- texts, for the main process ----------------------------------------------------------------


def address_of(name: str) -> str:
    """Where a person finds what has that name below the store, or below the working folder."""
    return store.address(store.prefix + name) if (store := _store()) else name


def read_text(name: str) -> str | None:
    """The text of an object by its name below the store; None where there is none.

    Raises:
        StoreError: the store refuses, or there is none.
    """
    store = _store()
    assert store is not None
    try:
        body = store.ask("get_object", store.prefix + name)["Body"]
        return str(body.read().decode())
    except FileNotFoundError:
        return None


def write_texts(texts: Mapping[str, str]) -> list[str]:
    """Write objects where their text is another; gives the names of those that were.

    Raises:
        StoreError: the store refuses.
    """
    store = _store()
    assert store is not None
    changed = []

    def one(item: tuple[str, str]) -> None:
        name, text = item
        if read_text(name) != text:
            store.ask("put_object", store.prefix + name, Body=text.encode())
            changed.append(name)

    _all(one, texts.items())
    return changed
