"""The trials of a study at W&B, told to a server on loopback that speaks its protocol."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swath.report.tracking import track_study

STUDY: dict[str, Any] = {
    "study": "bench",
    "objectives": [{"name": "val/miou", "direction": "maximize"}],
    "trials": [
        {
            "number": 0, "params": {"optim.lr": 0.01}, "state": "complete", "reason": None,
            "rungs": [{"scores": [0.5], "curve": [0.25, 0.5], "run_id": "r0"}],
        },
        {
            "number": 1, "params": {"optim.lr": 9.0}, "state": "failed", "reason": "diverged",
            "rungs": [{"scores": None, "curve": [], "run_id": "r1"}],
        },
        {"number": 2, "params": {"optim.lr": 1.0}, "state": "skipped", "reason": "", "rungs": []},
    ],
}  # fmt: skip


class Server(BaseHTTPRequestHandler):
    told: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data: dict[str, Any] = {}
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            self.told.append(asked)
            if "upsertBucket" in asked["query"]:
                project = {"name": "swath", "entity": {"name": "who"}}
                bucket = {"id": "b", "name": asked["variables"]["name"], "project": project}
                data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
            elif "createRunFiles" in asked["query"]:
                data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps({"data": data}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the client has asked for."""
    Server.told = []
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{serving.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield Server.told
    serving.shutdown()


def test_each_trial_is_a_run_of_the_study_s_group(server, tmp_path: Path) -> None:
    told = track_study(STUDY, tmp_path, mode="online", project="swath", entity="who")
    assert told == {"state": "logged", "mode": "online"}
    asked = [each["variables"] for each in server if "upsertBucket" in each["query"]]
    runs = {run["name"]: run for run in asked if run.get("displayName")}
    assert set(runs) == {"r0-0", "r1-1"}, "what was never trained is no run"
    assert {run["groupName"] for run in runs.values()} == {"bench/study"}
    assert {run["displayName"] for run in runs.values()} == {"bench/trial0", "bench/trial1"}
    assert json.loads(runs["r1-1"]["config"])["optim.lr"]["value"] == 9.0


def test_a_study_is_spooled_without_a_network(tmp_path: Path) -> None:
    given = {"project": "swath", "entity": None}
    assert track_study(STUDY, tmp_path, mode="offline", **given)["state"] == "logged"
    assert {path.name for path in tmp_path.rglob("run-*.wandb")} == {
        "run-r0-0.wandb", "run-r1-1.wandb",
    }  # fmt: skip
    assert track_study(STUDY, tmp_path, mode="disabled", **given)["state"] == "disabled"
