"""The object store against a real one that checks signatures: what is put, brought and refused."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from swath import store
from swath.errors import DataError, StoreError
from swath.files import digest, write_json, write_manifest

pytestmark = pytest.mark.s3


def listed(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the file {name} of {folder.name}")
    write_manifest(folder / "manifest.json", [folder / name for name in names])
    return folder / "manifest.json"


def hand_over(manifest: Path, folder: Path) -> Path:
    """What Snakemake does: the manifest alone goes from one machine to the other."""
    there = folder / "copy/data/d/manifest.json"
    there.parent.mkdir(parents=True)
    there.write_bytes(manifest.read_bytes())
    return there


# ---- files of a manifest ----------------------------------------------------------------------


def test_another_machine_brings_of_a_manifest_what_it_asks_for(machine) -> None:
    manifest = listed(machine("one") / "copy/data/d", "a.tif", "in/b.tif", "c.tif")
    store.put_listed(manifest)
    there = hand_over(manifest, machine("two"))
    store.bring_listed(there, ["in/b.tif"])
    found = {str(p.relative_to(there.parent)) for p in there.parent.rglob("*") if p.is_file()}
    assert found == {"manifest.json", "in/b.tif"}
    assert (there.parent / "in/b.tif").read_text() == "the file in/b.tif of d"


def test_what_was_put_is_not_put_again(machine, s3) -> None:
    manifest = listed(machine("one") / "copy/data/d", "a.tif", "b.tif")
    store.put_listed(manifest)
    bucket = os.environ[store.ADDRESS].split("/")[2]
    s3.client().put_object(  # one is another's by now, and says that it is the same
        Bucket=bucket, Key="me/data/d/a.tif", Body=b"x",
        Metadata={"digest": digest(manifest.parent / "a.tif")},
    )  # fmt: skip
    (manifest.parent / "b.tif").write_text("changed")
    store.put_listed(listed(manifest.parent, "a.tif", "b.tif"))
    (manifest.parent / "b.tif").write_text("newer")
    write_manifest(manifest, [manifest.parent / "a.tif", manifest.parent / "b.tif"])
    store.put_listed(manifest)
    assert s3.body(bucket, "me/data/d/a.tif") == b"x"
    assert s3.body(bucket, "me/data/d/b.tif") == b"newer"


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("changed", "was changed after it was written"),
        ("gone", "is listed in .* and absent"),
    ],
)
def test_what_was_damaged_in_the_store_is_refused(machine, s3, harm, says) -> None:
    manifest = listed(machine("one") / "copy/data/d", "a.tif")
    store.put_listed(manifest)
    bucket, key = os.environ[store.ADDRESS].split("/")[2], "me/data/d/a.tif"
    if harm == "gone":
        s3.client().delete_object(Bucket=bucket, Key=key)
    else:
        body = bytearray(s3.body(bucket, key))
        body[3] ^= 1
        s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(body))
    there = hand_over(manifest, machine("two"))
    with pytest.raises(DataError, match=says) as refused:
        store.bring_listed(there, ["a.tif"])
    assert str(there.parent / "a.tif") in str(refused.value)


def test_a_stale_copy_is_replaced_and_a_good_one_kept(machine) -> None:
    one = machine("one")
    (one / "copy/x").write_text("new")
    (one / "copy/y").write_text("same")
    store.put(one / "copy/x", one / "copy/y")
    two = machine("two")
    (two / "copy/x").write_text("old")
    (two / "copy/y").write_text("same")
    (two / "copy/z").write_text("only here")
    os.utime(two / "copy/y", (1, 1))
    store.bring(two / "copy/x", two / "copy/y", two / "copy/z")
    assert (two / "copy/x").read_text() == "new"
    assert (two / "copy/y").stat().st_mtime == 1
    assert (two / "copy/z").read_text() == "only here"


def test_a_brought_file_has_the_same_time_on_every_machine(machine) -> None:
    """What is named by the times of its files, such as a map in the making, is found again."""
    one = machine("one")
    (one / "copy/x").write_text("text")
    store.put(one / "copy/x")
    times = []
    for name in ("two", "three"):
        there = machine(name) / "copy/x"
        store.bring(there)
        times.append(there.stat().st_mtime_ns)
    assert times[0] == times[1]


def test_half_a_download_has_no_name(machine, monkeypatch) -> None:
    one = machine("one")
    (one / "copy/x").write_bytes(b"0" * 1000)
    store.put(one / "copy/x")
    two = machine("two")

    def breaks(bucket: str, key: str, path: str) -> None:
        Path(path).write_bytes(b"0" * 500)
        raise OSError("the network is gone")

    monkeypatch.setattr(store._client(), "download_file", breaks)
    with pytest.raises(OSError, match="gone"):
        store.bring(two / "copy/x")
    assert not list((two / "copy").iterdir())


def test_only_what_is_still_asked_for_is_kept(machine) -> None:
    one = machine("one")
    for name in ("patches/a/x", "patches/b/x", "patches/index", "patches2/c/x"):
        (one / "copy/results" / name).parent.mkdir(parents=True, exist_ok=True)
        (one / "copy/results" / name).write_text(name)
    store.put(one / "copy")
    store.keep_only(one / "copy/results/patches", ["b"])
    store.bring_below(machine("two") / "copy/results", "**/x", "*")
    found = sorted(
        str(p.relative_to("copy/results")) for p in Path("copy").rglob("*") if p.is_file()
    )
    assert found == ["patches/b/x", "patches/index", "patches2/c/x"]


# ---- state ------------------------------------------------------------------------------------


def test_state_goes_on_on_another_machine_as_it_was_left(machine) -> None:
    one = machine("one")
    run = one / "state/runs/r1"
    write_json(run / "progress.json", {"epoch": 1})
    (run / "last.ckpt").write_bytes(b"first")
    assert store.keep(run / "progress.json", run / "last.ckpt")
    (run / "last.ckpt").write_bytes(b"second")
    assert store.keep(run / "last.ckpt")
    (one / "state/runs/r10").mkdir()
    (one / "state/runs/r10/last.ckpt").write_bytes(b"another run's")
    store.keep(one / "state/runs/r10")
    two = machine("two")
    store.restore(Path("state/runs/r1"))
    assert (two / "state/runs/r1/last.ckpt").read_bytes() == b"second"
    assert json.loads((two / "state/runs/r1/progress.json").read_text()) == {"epoch": 1}
    assert not (two / "state/runs/r10").exists()
    store.forget(Path("state/runs/r1"))
    store.restore(machine("three") / "state/runs/r1")
    assert not Path("state/runs/r1").exists()
    store.restore(Path("state/runs/r10"))
    assert Path("state/runs/r10/last.ckpt").read_bytes() == b"another run's"


def test_a_checkpoint_that_cannot_be_put_stops_nothing(machine, s3, caplog) -> None:
    one = machine("one")
    run = one / "state/runs/r1"
    run.mkdir(parents=True)
    (run / "last.ckpt").write_bytes(b"first")
    store.keep(run / "last.ckpt")
    machine("one", **{"AWS_SECRET_ACCESS_KEY": "wrong"})
    (run / "last.ckpt").write_bytes(b"second")
    with caplog.at_level(logging.WARNING, "swath"):
        assert not store.keep(run / "last.ckpt")
    (told,) = caplog.messages
    assert told.startswith("not kept in the store") and "\n" not in told
    bucket = os.environ[store.ADDRESS].split("/")[2]
    assert s3.body(bucket, "me/state/runs/r1/last.ckpt") == b"first"


def test_of_two_that_decide_at_once_one_decides(machine) -> None:
    (one := machine("one") / "state/measured/windows.json").parent.mkdir(parents=True)
    one.write_text("512")
    assert store.share(one)
    (two := machine("two") / "state/measured/windows.json").parent.mkdir(parents=True)
    two.write_text("1024")
    assert not store.share(two)
    assert two.read_text() == "512"


def test_texts_are_written_where_they_changed(machine) -> None:
    machine("one")
    texts = {"results/e/config/a.yaml": "a: 1\n", "results/e/config/b.yaml": "b: 1\n"}
    assert sorted(store.write_texts(texts)) == sorted(texts)
    machine("two")
    texts["results/e/config/b.yaml"] = "b: 2\n"
    assert store.write_texts(texts) == ["results/e/config/b.yaml"]
    assert store.read_text("results/e/config/b.yaml") == "b: 2\n"
    assert store.read_text("results/e/config/c.yaml") is None


# ---- one line, whatever is wrong --------------------------------------------------------------


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as refused:
        ask()
    text = str(refused.value)
    assert "\n" not in text and text.startswith("s3://")
    return text


WRONG = {
    "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "x"}, "refuses the signature: the secret key is"),
    "unknown key": ({"AWS_ACCESS_KEY_ID": "NOBODY"}, "does not know the access key; mend AWS_ACC"),
    "nobody listens": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_credentials_are_one_line(machine, wrong) -> None:
    env, says = WRONG[wrong]
    machine("one", **env)
    assert says in refusal(store.check)


def test_a_file_that_is_refused_says_why(machine) -> None:
    """Also where the answer to the request has no body that could."""
    one = machine("one")
    (one / "copy/x").write_text("x")
    store.put(one / "copy/x")
    two = machine("two", AWS_SECRET_ACCESS_KEY="x")
    assert "the secret key is wrong" in refusal(lambda: store.bring(two / "copy/x"))
    assert not (two / "copy/x").exists()


def test_the_bucket_of_another_is_forbidden(machine, s3) -> None:
    machine("one", **s3.other)
    assert "forbids it; let this key list, read, write and delete" in refusal(store.check)


def test_a_bucket_that_is_not_there_is_not_made(machine, s3) -> None:
    machine("one", "s3://nowhere-at-all/me")
    assert "has no such bucket; create it" in refusal(store.check)
    buckets = [bucket["Name"] for bucket in s3.client().list_buckets()["Buckets"]]
    assert "nowhere-at-all" not in buckets


def test_a_full_bucket_keeps_what_it_has(machine, s3) -> None:
    one = machine("one")
    (one / "copy/x").write_bytes(os.urandom(1 << 16))
    store.put(one / "copy/x")
    bucket = os.environ[store.ADDRESS].split("/")[2]
    s3.admin("quota", "set", "--quota-scope=bucket", f"--bucket={bucket}", "--max-size=100000")
    s3.admin("quota", "enable", "--quota-scope=bucket", f"--bucket={bucket}")
    (one / "copy/y").write_bytes(os.urandom(1 << 18))
    assert "is full; make room" in refusal(lambda: store.put(one / "copy/y"))
    assert s3.keys(bucket) == ["me/x"]


def test_expired_credentials_are_one_line(machine, server) -> None:
    """As AWS says it; radosgw's own tokens live for a quarter of an hour at least."""
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ExpiredToken</Code>'
        b"<Message>The provided token has expired.</Message></Error>"
    )
    server.reply = lambda *_: (400, {"Content-Type": "application/xml"}, body)
    machine("one", AWS_ENDPOINT_URL=server.address, AWS_SESSION_TOKEN="t")
    assert "the credentials have expired; mend AWS_ACCESS_KEY_ID" in refusal(store.check)


# ---- without one ------------------------------------------------------------------------------


def test_without_a_store_nothing_happens(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(store.ADDRESS, raising=False)
    monkeypatch.chdir(tmp_path)
    write_json(file := tmp_path / "a.json", {})
    store.check(), store.put(file), store.bring(tmp_path / "b"), store.restore(tmp_path / "state")
    assert store.keep(file) and store.share(file) and not store.is_used()
    assert store.root() == Path() and store.name_of(file) == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
