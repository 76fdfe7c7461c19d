"""Killed on one machine, gone on with on another that shares an object store and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from test_mapping import BANDS, COLOURS, striped

from swath import store
from swath.errors import StoreError
from swath.learn import mapping
from swath.learn.mapping import map_scene
from swath.learn.predict import Trained

pytestmark = pytest.mark.s3

SAME = ["epoch", "train/loss", "val/loss", "val/accuracy", "lr"]


def train(folder: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from swath.cli import main; main()", "train", "--config", "config",
         "--patches", "patches/manifest.json", "--split", "split/random", "--fold", "0", "--seed",
         "0", "--code", "c", "--state", "state", "--out", "out"],
        cwd=folder, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", store.COPY: str(folder), **env},
    )  # fmt: skip


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 90
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_training_goes_on_on_another_machine_to_the_same_weights(
    machine, s3, prepare_run, tmp_path: Path
) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    trainer = {"epochs": 6, "augment": {"mixup": 0.4}, "checkpoint_minutes": 0.0}
    prepare_run(prepared, {"dropout": 0.5}, trainer)
    for name in ("straight", "one", "two"):
        shutil.copytree(prepared, tmp_path / name)
    straight = train(tmp_path / "straight")
    assert straight.wait() == 0, straight.stderr and straight.stderr.read()

    machine("none")
    bucket = os.environ[store.ADDRESS].split("/")[2]

    def epochs() -> int:
        kept = [key for key in s3.keys(bucket) if key.endswith("progress.json")]
        return len(json.loads(s3.body(bucket, kept[0]))["history"]) if kept else 0

    first = train(tmp_path / "one")
    wait_until(lambda: any(key.endswith("last.ckpt") for key in s3.keys(bucket)))
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    shutil.rmtree(tmp_path / "one")

    second = train(tmp_path / "two")
    told = second.communicate()[1]
    assert second.returncode == 0, told
    assert "goes on in epoch" in told and "as attempt 2" in told
    weights = [
        torch.load(tmp_path / name / "out/best.ckpt", weights_only=True)["weights"]
        for name in ("straight", "two")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    history = [
        pd.read_parquet(tmp_path / name / "out/metrics.parquet")[SAME]
        for name in ("straight", "two")
    ]
    pd.testing.assert_frame_equal(*history, check_exact=True)
    run = json.loads((tmp_path / "two/out/run.json").read_text())
    assert run["attempts"] == 2 and epochs() <= 6


@pytest.mark.parametrize("failing", [False, True])
def test_a_map_goes_on_on_another_machine_to_the_same_pixels(
    machine, s3, save_model, tmp_path: Path, monkeypatch, failing: bool
) -> None:
    """Also where the store could not be reached for a while: no row is missing then."""
    model = save_model("unet", width=4, depth=1)
    given: dict[str, Any] = {
        "colours": COLOURS, "rgb": BANDS[:3], "resampling": "nearest", "probabilities": False,
        "overlap_px": 64, "window_px": 64, "save_s": 0.0,
    }  # fmt: skip
    one = machine("one")
    real_save = mapping._Sheets.save

    def refuse(*_: Path) -> None:
        raise StoreError("the network is gone")

    def save(self: mapping._Sheets, strips: int) -> None:
        with monkeypatch.context() as patch:
            if failing and strips in (2, 3):
                patch.setattr(store, "put", refuse)
            real_save(self, strips)
        if strips == 5:
            raise KeyboardInterrupt  # as far as a kill: nothing is tidied up

    monkeypatch.setattr(mapping._Sheets, "save", save)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, striped(), one / "maps", state=Path("state/maps"), **given)
    shutil.rmtree(one)
    monkeypatch.setattr(mapping._Sheets, "save", real_save)

    two = machine("two")
    windows: list[int] = []
    real_call = Trained.__call__

    def counted(self: Trained, image: torch.Tensor) -> torch.Tensor:
        windows.append(len(image))
        return real_call(self, image)

    monkeypatch.setattr(Trained, "__call__", counted)
    done = map_scene(model, striped(), two / "maps", state=Path("state/maps"), **given)
    assert len(windows) == 1 + 2 * (8 - 5 + 1)
    bucket = os.environ[store.ADDRESS].split("/")[2]
    assert s3.keys(bucket) == []  # what was finished is not kept
    monkeypatch.delenv(store.ADDRESS)
    straight = map_scene(model, striped(), tmp_path / "straight", **given)
    for kind, path in done.rasters.items():
        with rasterio.open(path) as a, rasterio.open(straight.rasters[kind]) as b:
            np.testing.assert_array_equal(a.read(), b.read(), err_msg=kind)
