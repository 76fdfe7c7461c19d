"""Several processes that train one run: what they learn, what each loads, and how they end."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from swath.errors import RunError, SwathError
from swath.launch import Place
from swath.learn.batches import Batches, share
from swath.learn.together import Together
from swath.learn.train import train

pytestmark = pytest.mark.slow

EPOCHS, BATCH = 3, 6
CURVE = ["train/loss", "val/loss", "val/accuracy", "val/macro_f1", "lr"]
SRUN = {
    "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "swath", "SLURM_NTASKS": "2", "SLURM_NNODES": "1",
    "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip
"""What a task of a step of two tasks has in its environment."""


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def assert_same_curve(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert len(one) == len(other) >= 2
    names = [name for name in one if name in CURVE or name.startswith("val/")]
    pd.testing.assert_frame_equal(one[names], other[names], rtol=0, atol=1e-5)


def assert_as_two(verb: Verb, name: str, **given: str) -> None:
    """The run, gone on with by two processes, learns what two have learnt that nobody disturbed."""
    assert_same_curve(verb.train(name, "2", **given), verb.history("two"))
    one, two = verb.weights(name), verb.weights("two")
    assert all(torch.equal(one[weight], two[weight]) for weight in one)


def parts_of(count: int) -> np.ndarray:
    parts = np.full(count, "train", dtype="<U6")
    parts[::4] = "val"
    return parts


# ---- what each loads --------------------------------------------------------------------------


@pytest.mark.parametrize("patches, processes", [(7, 2), (8, 3), (4, 4), (3, 4), (1, 2)])
def test_shares_are_a_batch_in_its_order_or_all_of_it_where_it_is_too_small(
    patches, processes
) -> None:
    dealt = [np.arange(patches)[share(patches, rank, processes)] for rank in range(processes)]
    if patches < processes:
        assert all(each.tolist() == list(range(patches)) for each in dealt)
    else:
        assert np.concatenate(dealt).tolist() == list(range(patches))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize("labels", ["patch", "pixel"])
@pytest.mark.parametrize("mixing", [{}, {"cutmix": 1.0}, {"mixup": 0.4}])
def test_shares_are_augmented_as_the_whole_batch_is(patch_set, statistics, labels, mixing) -> None:
    if labels == "pixel" and "mixup" in mixing:
        pytest.skip("mixup mixes labels by patch")
    patches = patch_set(23, labels=labels)
    augment = {
        "flip": True,
        "turn": True,
        "crop_px": 9,
        "band_dropout": 0.3,
        "noise": 0.1,
        **mixing,
    }

    def batches(rank: int, processes: int) -> list[Any]:
        given = {"batch_size": 7, "augment": augment, "rank": rank, "processes": processes}
        return list(Batches(patches, np.arange(23), seed=5, **given, **statistics))

    shares = [batches(rank, 3) for rank in range(3)]
    for whole, *parts in zip(batches(0, 1), *shares, strict=True):
        if len(whole[1]) < 3:
            parts = parts[:1]
        for n in (0, 1):
            assert torch.equal(whole[n], torch.cat([part[n] for part in parts]))


# ---- what they learn --------------------------------------------------------------------------


PAIR = """
import os, pickle
from pathlib import Path
from swath.errors import SwathError
from swath.learn.train import train
for number, (port, inputs, given) in enumerate(pickle.loads(Path("given").read_bytes())):
    os.environ["MASTER_PORT"] = port
    try:
        told = train(*inputs, Path(f"state-{number}"), **given, seed=0, processes=2).history
    except SwathError as failed:
        told = str(failed)
    Path(f"told-{number}-{os.environ['RANK']}").write_bytes(pickle.dumps(told))
"""


def test_every_loss_is_that_of_the_whole_batch(
    patch_set, statistics, sections, tmp_path: Path
) -> None:
    """Two processes started as torchrun does, and one: 18 patches of a batch of 7 are two and a
    half, so shares are uneven; batch normalisation, Dice and class weights are no means over
    patches; what is unlabelled lies in one share; gradients are summed over three batches."""
    rough = patch_set(24, labels="pixel")
    for number in (1, 2, 3, 5, 6, 7):
        rough.label.chunks[0][number, :, : number * 2] = 255
    broken = patch_set(24, labels="pixel", nodata=None, dtype="float32")
    broken.image.chunks[0][1] = 3e38
    dense = {"model__width": 4, "model__depth": 1, "task__loss": "cross_entropy_dice"}
    plain = {"trainer__epochs": 2, "trainer__batch_size": 7}
    # By SGD: Adam would make steps of the rounding in a bias before a batch normalisation.
    clipped = {"optim__name": "sgd", "model__dropout": 0.0, "trainer__clip_norm": 0.1, **plain}
    chosen = [
        (rough, sections("unet", task__class_weights="balanced", **dense, **plain)),
        (rough, sections(task__loss="focal", trainer__accumulate=3, **plain)),
        (patch_set(25), sections("mlp", "classification", **clipped)),
        (broken, sections(**plain)),
    ]
    given = [
        (free_port(), (patches, parts_of(len(patches)), statistics), each)
        for patches, each in chosen
    ]
    (tmp_path / "given").write_bytes(pickle.dumps(given))
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", PAIR], cwd=tmp_path, env={**env, "RANK": rank},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    for number, (_, inputs, each) in enumerate(given):
        try:
            alone: Any = train(*inputs, tmp_path / f"alone-{number}", **each, seed=0).history
        except SwathError as failed:
            alone = str(failed).replace(f"alone-{number}", f"state-{number}")
        if not number:
            told = [process.communicate(timeout=120)[1] for process in pair]
            assert [process.returncode for process in pair] == [0, 0], told
        for rank in "01":
            together = pickle.loads((tmp_path / f"told-{number}-{rank}").read_bytes())
            if isinstance(alone, str):
                assert "the loss is inf at step" in alone
                assert alone.removeprefix(f"{tmp_path}/") == together
            else:
                assert_same_curve(alone, together)


# ---- the real verb ----------------------------------------------------------------------------

RECORD = """
import os, sys
from swath.data import mapped
gather = mapped.Mapped.gather

def recorded(self, chosen):
    if sys._getframe(1).f_code.co_name == "_image":
        with open(os.environ["RECORD"] + "-" + os.environ.get("RANK", "0"), "a") as file:
            print(*chosen, file=file)
    return gather(self, chosen)

mapped.Mapped.gather = recorded
"""
"""Python runs it when it starts: what a process loads for its batches is written to a file."""


class Verb:
    """A folder in which `swath train` is started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, processes: str, **environ: str) -> subprocess.Popen[str]:
        words = [
            str(Path(sys.executable).parent / "swath"), "train", "--config", "config", "--patches",
            "patches/manifest.json", "--split", "split/random", "--fold", "0", "--seed", "0",
            "--code", "c", "--state", f"state/{name}", "--out", f"out/{name}",
            "--processes", processes,
        ]  # fmt: skip
        self.log = self.folder / f"log-{name}"
        return subprocess.Popen(
            words, cwd=self.folder, text=True, stderr=self.log.open("w"),
            env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
        )  # fmt: skip

    def train(self, name: str, processes: str, **environ: str) -> pd.DataFrame:
        assert self.start(name, processes, **environ).wait(120) == 0, self.log.read_text()
        return self.history(name)

    def history(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.folder / f"out/{name}/metrics.parquet")

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        (last,) = self.folder.glob(f"state/{name}/*/last.ckpt")
        return torch.load(last, weights_only=True)["state_dict"]

    def facts(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"out/{name}/run.json").read_text())

    def wait_for(self, line: str) -> None:
        limit = time.monotonic() + 60
        while line not in self.log.read_text():
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    """Whether a process has ended, though its parent may not have asked after it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    limit = time.monotonic() + 20
    while not all(map(is_gone, pids)):
        assert time.monotonic() < limit, "a process was left behind"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def verb(
    tmp_path_factory: pytest.TempPathFactory, prepare_run: Callable[..., None]
) -> Iterator[Verb]:
    """A run that one process has trained, and one that two have."""
    folder = tmp_path_factory.mktemp("together")
    trainer = {
        "epochs": EPOCHS, "batch_size": BATCH, "checkpoint_minutes": 0.0, "ema": 0.9,
        "augment": {"crop_px": 12, "band_dropout": 0.2},
    }  # fmt: skip
    prepare_run(folder, {"dropout": 0.0}, trainer)
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(RECORD)
    verb = Verb(folder)
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    verb.train("one", "1")
    verb.train("two", "2", PYTHONPATH=path, RECORD=str(folder / "loaded"))
    yield verb


def test_two_processes_learn_what_one_learns(verb: Verb) -> None:
    assert_same_curve(verb.history("one"), verb.history("two"))
    one, two = verb.weights("one"), verb.weights("two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)
    one_facts, two_facts = verb.facts("one"), verb.facts("two")
    assert one_facts["run_id"] == two_facts["run_id"], "their number is no part of the run"
    assert (one_facts["processes"], two_facts["processes"]) == (1, 2)


def test_every_patch_is_loaded_once_an_epoch(verb: Verb) -> None:
    split = pd.read_parquet(verb.folder / "split/random/split.parquet")
    parts = [sorted(split["patch"][split["part"] == part]) for part in ("train", "val")]
    steps = [-(-len(part) // BATCH) for part in parts]
    assert len(parts[0]) % BATCH == 3, "the last batch is smaller, and odd"
    loaded = [
        [list(map(int, line.split())) for line in (verb.folder / f"loaded-{rank}").open()]
        for rank in (0, 1)
    ]
    asked = [loaded[0].pop() for _ in range(steps[1])]
    assert sorted(chain(*asked)) == parts[1], "at the end the first asks them for a temperature"
    assert max(map(len, asked)) == BATCH, "no more together than were trained"
    assert [len(each) for each in loaded] == [EPOCHS * sum(steps)] * 2
    orders = []
    for epoch in range(EPOCHS):
        at = epoch * sum(steps)
        for begin, end, part in ((0, steps[0], parts[0]), (steps[0], sum(steps), parts[1])):
            mine = [list(chain(*each[at + begin : at + end])) for each in loaded]
            assert sorted(mine[0] + mine[1]) == part
            assert abs(len(mine[0]) - len(mine[1])) <= end - begin
        orders.append(loaded[0][at])
    assert orders[0] != orders[1], "in another order each epoch"


def test_tasks_that_srun_has_started_are_the_processes(verb: Verb) -> None:
    given = {**SRUN, "MASTER_PORT": free_port(), "GLOO_SOCKET_IFNAME": "lo"}
    other = verb.start("srun", "auto", **(given | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}))
    assert_as_two(verb, "srun", **given)
    assert other.wait(30) == 0


def test_a_signal_stops_all_at_one_step_and_they_go_on(verb: Verb) -> None:
    process = verb.start("stopped", "2")
    verb.wait_for("epoch 1 of")
    (child,) = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 85, verb.log.read_text()
    wait_until_gone([child])
    told = verb.log.read_text().splitlines()
    assert len([line for line in told if "stopped by SIGTERM in epoch" in line]) == 1
    assert_as_two(verb, "stopped")


def test_one_that_is_killed_ends_all_and_one_process_goes_on(verb: Verb) -> None:
    process = verb.start("killed", "2")
    verb.wait_for("epoch 1 of")
    (child,) = children_of(process.pid)
    os.kill(child, signal.SIGKILL)
    assert process.wait(60) == 2, verb.log.read_text()
    last = verb.log.read_text().splitlines()[-1]
    assert re.search(r"error: process 2 of 2 has ended with SIGKILL; .* the run goes on", last)
    assert_same_curve(verb.train("killed", "1"), verb.history("one"))
    assert verb.facts("killed")["attempts"] == 2


def test_none_outlives_the_first(verb: Verb) -> None:
    process = verb.start("orphans", "2")
    verb.wait_for("epoch 1 of")
    children = children_of(process.pid)
    assert len(children) == 1
    process.kill()
    process.wait()
    wait_until_gone(children)


# ---- what is refused, and what changes nothing ------------------------------------------------


@pytest.fixture
def run(patch_set, statistics, sections) -> Callable[..., Any]:
    def start(state: Path, **more: Any) -> Any:
        given = sections("cnn", "classification", model__width=4, model__blocks=1)
        return train(patch_set(24), parts_of(24), statistics, state, **given, seed=0, **more)

    return start


def test_slurm_alone_changes_nothing(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that has room for two tasks, in which one was started."""
    run(tmp_path / "laptop")
    for name, value in (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    outcome = run(tmp_path / "slurm", processes=None)
    assert outcome.facts["processes"] == 1 and outcome.first
    one, other = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("laptop", "slurm")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("processes, word", [(1, "1 process was"), (4, "4 processes were")])
def test_other_processes_than_were_asked_for_are_refused(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, word: str
) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError) as error:
        run(tmp_path, processes=processes)
    assert str(error.value) == (
        f"--processes: {word} asked for, srun has started 2; give --processes 2, or have srun "
        f"start {processes}"
    )


def test_more_processes_than_patches_in_a_batch_are_refused(run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="batches of 8 cannot be divided among 9 processes"):
        run(tmp_path, processes=9)


def test_a_layer_that_normalises_batches_in_its_own_way_is_refused() -> None:
    class Other(torch.nn.BatchNorm2d):
        pass

    with pytest.raises(RunError, match="layer 1: Other cannot normalise a batch"):
        Together(Place(size=2)).normalise_batches(torch.nn.Sequential(torch.nn.ReLU(), Other(3)))


def test_a_number_of_processes_that_is_none_is_refused(verb: Verb) -> None:
    process = verb.start("none", "several")
    assert process.wait(60) == 2
    assert "--processes: 'several' is no number" in verb.log.read_text()
