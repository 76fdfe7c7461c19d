"""Attempts that are killed, stopped, doubled and damaged, and the run that comes of them."""

from __future__ import annotations

import concurrent.futures
import fcntl
import itertools
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loops.fit_loop import _FitLoop

from swath import options, settings
from swath.errors import RunError, StoppedError
from swath.files import whole
from swath.launch import Place
from swath.learn import attempts
from swath.learn.attempts import ProvenCheckpoints, Stop, alone, counters
from swath.learn.batches import Batches
from swath.learn.together import Together
from swath.learn.train import Outcome, train

SAME = ["epoch", "train/loss", "val/loss", "val/accuracy", "lr"]
AUGMENT = {"crop_px": 12, "band_dropout": 0.2, "mixup": 0.4, "cutmix": 1.0}
GIVEN = {
    "model__width": 4, "model__blocks": 1, "model__dropout": 0.5, "trainer__epochs": 3,
    "trainer__batch_size": 4, "trainer__augment": AUGMENT, "trainer__checkpoint_minutes": 0.0,
}  # fmt: skip
PATCHES = 40
"""Of which 30 train: eight batches of four, the last of two."""


def parts_of(count: int) -> np.ndarray:
    parts = np.full(count, "train", dtype="<U6")
    parts[::4] = "val"
    return parts


@pytest.fixture
def run(patch_set, statistics, sections) -> Callable[..., Outcome]:
    """Trains a network that drops out, on augmented batches, in a folder of state."""
    patches = patch_set(PATCHES)

    def start(state: Path, *, given: dict[str, Any] | None = None, **more: Any) -> Outcome:
        chosen = sections("cnn", "classification", **(GIVEN | (given or {})))
        return train(patches, parts_of(PATCHES), statistics, state, **chosen, seed=3, **more)

    return start


def saved(state: Path) -> dict[str, Any]:
    return torch.load(state / "last.ckpt", weights_only=True)


def assert_same(one: Path, other: Path) -> None:
    """The same weights in both kinds of checkpoint, the same optimizer and random state."""
    for file, key in (("last.ckpt", "state_dict"), ("best.ckpt", "weights")):
        a, b = (torch.load(state / file, weights_only=True)[key] for state in (one, other))
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), (file, name)
    a, b = (saved(state) for state in (one, other))
    for slot, moments in a["optimizer_states"][0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, b["optimizer_states"][0]["state"][slot][name]), (slot, name)
    a, b = (checkpoint["callbacks"]["Attempt"] for checkpoint in (a, b))
    assert torch.equal(a["random"], b["random"])
    history = [pd.DataFrame(json.loads(each["history"]))[SAME] for each in (a, b)]
    pd.testing.assert_frame_equal(*history, check_exact=True)


def refused(error: pytest.ExceptionInfo[Any], *words: str) -> str:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text


@pytest.fixture
def straight(run, tmp_path: Path) -> Path:
    """The state of a run that nobody disturbed."""
    run(tmp_path / "straight")
    return tmp_path / "straight"


# ---- going on, from every place ---------------------------------------------------------------


@pytest.mark.parametrize("summed_up", [1, 3])
def test_a_run_stopped_at_every_step_equals_one_that_never_was(
    run, stop_after, tmp_path: Path, summed_up: int
) -> None:
    """In the middle of an epoch, at its last step and in its validation; with `summed_up` batches
    to a step, between steps alone. Its weights are averaged, too."""
    given = {"trainer__accumulate": summed_up, "trainer__ema": 0.9}
    straight = run(tmp_path / "straight", given=given)
    places: list[tuple[int, int]] = []
    while True:
        # A validation that was stopped once is let through: three chances, one a batch.
        in_validation = len(places) > 1 and places[-1] == places[-2]
        stop_after(5 if in_validation else 2)
        try:
            gone_on = run(tmp_path / "cut", given=given)
        except StoppedError:
            places.append(saved(tmp_path / "cut")["callbacks"]["Attempt"]["position"])
            assert len(places) < 100
        else:
            break
    steps = {1: [*range(1, 9), 8], 3: [3, 6, 8, 8]}[summed_up]
    assert places == [(epoch, step) for epoch in range(3) for step in steps]
    assert gone_on.facts["attempts"] == len(places) + 1
    assert gone_on.best_epoch == straight.best_epoch
    assert_same(tmp_path / "cut", tmp_path / "straight")


def test_a_checkpoint_says_where_a_run_stands_in_counters_that_lightning_has() -> None:
    """An upgrade that renamed one would go on from elsewhere, in silence."""
    known = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop
    assert isinstance(known, _FitLoop)
    state = known.state_dict()
    for name, counter in counters(2, 3, of=8).items():
        assert state[name].keys() == counter.keys()
        assert state[name]["current"].keys() == counter["current"].keys()


def test_how_often_a_run_is_saved_changes_nothing_in_it(run, straight, tmp_path) -> None:
    run(tmp_path / "seldom", given={"trainer__checkpoint_minutes": 1000.0})
    assert_same(tmp_path / "seldom", straight)


# ---- processes that are killed ----------------------------------------------------------------

WARM = """
import json, os, sys, time
import pandas, pyarrow.parquet, zarr
import swath.learn.train
from swath import cli, options
for line in sys.stdin:
    words, log = json.loads(line)
    pid = os.fork()
    if not pid:
        file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv, options.STARTED = ["swath", *words], time.time()
        cli.main()
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Starts `swath` again and again without the seconds that its imports take."""


class Runs:
    """A folder in which real `swath train` processes are started, and ended from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.pid = 0
        self.warm = subprocess.Popen(
            [sys.executable, "-c", WARM], cwd=folder, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(self, name: str, *words: str) -> int:
        """The process that trains a run of this name."""
        train = [
            "train", "--config", "config", "--patches", "patches/manifest.json", "--split",
            "split/random", "--fold", "0", "--seed", "0", "--code", "c", "--state", f"state/{name}",
            "--out", f"out/{name}", *words,
        ]  # fmt: skip
        return self.start_verb(*train)

    def start_verb(self, *words: str) -> int:
        """The process that runs a verb."""
        assert self.warm.stdin and self.warm.stdout
        if self.pid:  # a test that failed has left it
            os.kill(self.pid, signal.SIGKILL)
            self.ended()
        self.log.write_text("")
        self.warm.stdin.write(json.dumps([words, str(self.log)]) + "\n")
        self.warm.stdin.flush()
        self.pid = int(self.warm.stdout.readline())
        return self.pid

    def ended(self) -> int:
        """The exit code of the process."""
        assert self.warm.stdout
        self.pid = 0
        return int(self.warm.stdout.readline())

    def state(self, name: str) -> Path:
        """The folder of the state of a run."""
        (found,) = (self.folder / "state" / name).iterdir()
        return found

    def attempts(self, name: str) -> int:
        """Attempts begun so far."""
        files = list((self.folder / "state" / name).glob("*/progress.json"))
        return json.loads(files[0].read_text())["facts"]["attempts"] if files else 0

    def wait_for(self, sign: Callable[..., Any], *about: Any) -> None:
        """Look for a sign of the process without a pause, until it ends."""
        limit = time.monotonic() + 60
        while not sign(*about) and not self.over():
            assert time.monotonic() < limit, self.log.read_text()

    def over(self) -> bool:
        """Whether the process has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def begun(self, name: str, attempts: int) -> bool:
        """Whether so many attempts have begun."""
        return self.attempts(name) >= attempts

    def written(self, name: str, file: str) -> bool:
        """Whether such a file is being written."""
        return any((self.folder / "state" / name).glob(f"*/{file}"))

    def told(self, line: str) -> bool:
        """Whether the process has said this."""
        return line in self.log.read_text()

    def assert_finished_like_straight(self, name: str) -> None:
        assert_same(self.state(name), self.state("straight"))
        out = [self.folder / "out" / each for each in (name, "straight")]
        one, other = (json.loads((path / "run.json").read_text()) for path in out)
        assert one["run_id"] == other["run_id"] and one["best_epoch"] == other["best_epoch"]
        one, other = (pd.read_parquet(path / "metrics.parquet") for path in out)
        pd.testing.assert_frame_equal(one[SAME], other[SAME], check_exact=True)
        assert not [path for path in self.state(name).iterdir() if ".part" in path.name]


EPOCHS, STEPS = 6, 27


@pytest.fixture(scope="module")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, prepare_run: Callable[..., None]
) -> Iterator[Runs]:
    """Images of three classes, cut and split by the verbs, and a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs")
    trainer = {"epochs": EPOCHS, "augment": AUGMENT, "checkpoint_minutes": 0.0}
    prepare_run(folder, {"dropout": 0.5}, trainer)
    runs = Runs(folder)
    runs.start("straight")
    assert runs.ended() == 0, runs.log.read_text()
    assert runs.attempts("straight") == 1
    yield runs
    runs.warm.terminate()
    runs.warm.wait()


def test_a_run_killed_at_any_moment_ends_with_the_same_weights(prepared: Runs) -> None:
    """SIGKILL: at random moments, and in the midst of writing both kinds of checkpoint."""
    rng = random.Random(7)
    moments: list[float | str] = [rng.uniform(0.0, 0.25) for _ in range(12)]
    moments += [".last.*.part.ckpt", ".best.*.part.ckpt", ".last.*.part.ckpt", ".progress.*"]
    rng.shuffle(moments)
    # On a busy machine an epoch begins later than it is killed: until four were within one.
    later = (rng.uniform(0.25, 1.0) for _ in range(24))
    within, attempts, over = 0, 0, False
    for number, moment in enumerate(itertools.chain(moments, later)):
        if over or (number >= len(moments) and within >= 4):
            break
        pid = prepared.start("killed")
        if isinstance(moment, str):
            prepared.wait_for(prepared.written, "killed", moment)
        else:
            # Its start takes a while in which there is nothing to be lost.
            prepared.wait_for(prepared.begun, "killed", attempts + 1)
            time.sleep(moment)
        if not prepared.over():
            os.kill(pid, signal.SIGKILL)
        over = prepared.ended() == 0
        within += bool(re.search(r"goes on in epoch \d, after [1-9]", prepared.log.read_text()))
        attempts = prepared.attempts("killed")
    if not over:
        prepared.start("killed")
        assert prepared.ended() == 0, prepared.log.read_text()
    assert within >= 4, "it went on in the middle of an epoch"
    run = json.loads((prepared.folder / "out/killed/run.json").read_text())
    assert run["attempts"] == prepared.attempts("killed") >= 5
    prepared.assert_finished_like_straight("killed")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_at_a_checkpoint_and_the_next_start_goes_on(prepared: Runs, number) -> None:
    name = number.name
    pid = prepared.start(name)
    prepared.wait_for(prepared.told, "epoch 1 of")
    time.sleep(0.05)
    os.kill(pid, number)
    assert prepared.ended() == 85, prepared.log.read_text()
    told = prepared.log.read_text().splitlines()[-1]
    found = re.search(rf"stopped by {name} in epoch (\d), after (\d+) of {STEPS} steps", told)
    assert found and "started again it goes on" in told
    epoch, batch = int(found[1]) - 1, int(found[2])
    position = saved(prepared.state(name))["callbacks"]["Attempt"]["position"]
    assert position == (epoch, batch) >= (1, 1)
    prepared.start(name)
    assert prepared.ended() == 0
    assert f"goes on in epoch {epoch + 1}, after {batch} of" in prepared.log.read_text()
    assert prepared.attempts(name) == 2
    prepared.assert_finished_like_straight(name)


def test_a_time_limit_ends_in_a_checkpoint_before_it_comes(
    run, straight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1000.0)  # each look at it takes a second
    watched = SimpleNamespace(time=lambda: next(clock), monotonic=time.monotonic)
    monkeypatch.setattr(attempts, "time", watched)
    with pytest.raises(StoppedError, match="stopped by its time limit in epoch 2, after"):
        run(tmp_path / "cut", deadline=1020.0)
    assert next(clock) <= 1020.0
    run(tmp_path / "cut")
    assert_same(tmp_path / "cut", straight)


def test_a_run_whose_time_limit_comes_again_and_again_ends_all_the_same(prepared: Runs) -> None:
    codes = [85]
    while codes[-1] == 85 and len(codes) < 60:
        prepared.start("limit", "--minutes", "0.03")
        codes.append(prepared.ended())
    assert codes[-1] == 0, prepared.log.read_text()
    prepared.assert_finished_like_straight("limit")


def test_a_trial_that_is_stopped_is_no_result_and_goes_on(prepared: Runs) -> None:
    space = {"optim.lr": {"float": [0.001, 0.01]}}
    sweep = settings.check("sweep", {"trials": 1, "rungs": 1, "epochs": 1, "space": space})
    (prepared.folder / "config/sweep.yaml").write_text(yaml.safe_dump(sweep))
    (prepared.folder / "proposal.json").write_text('{"began": 0, "trials": [{"optim.lr": 0.002}]}')
    out = prepared.folder / "trials.json"
    words = [
        "trials", "--config", "config", "--patches", "patches/manifest.json", "--split",
        "split/random", "--proposal", "proposal.json", "--generation", "0", "--rung", "0",
        "--slots", "0:1", "--code", "c", "--state", "state/trials", "--out", str(out),
    ]  # fmt: skip
    prepared.start_verb(*words, "--minutes", "0")
    assert prepared.ended() == 85 and not out.exists()
    prepared.start_verb(*words)
    assert prepared.ended() == 0
    (row,) = json.loads(out.read_text())
    assert row["reason"] is None and 0 <= row["scores"][0] <= 1 and len(row["curve"]) == 1


def test_the_end_of_a_slurm_job_is_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "STARTED", 1000.0)
    assert options.deadline_of(None) is None
    assert options.deadline_of(2.0) == 1120.0
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1090")
    assert options.deadline_of(2.0) == 1090.0 == options.deadline_of(None)


def test_what_is_kept_free_before_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute, and of a short limit a twentieth."""
    monkeypatch.setattr(time, "time", lambda: 10_000.0)
    assert Stop(10_000.0 + 3600).latest == 10_000.0 + 3540
    assert Stop(10_000.0 + 100).latest == 10_000.0 + 95
    assert not Stop(10_000.0 + 100).wanted(94.0) and Stop(10_000.0 + 100).wanted(96.0)


def test_the_second_of_two_processes_waits_and_takes_what_the_first_has_reached(
    prepared: Runs,
) -> None:
    first = prepared.start("twins")
    prepared.wait_for(prepared.begun, "twins", 1)
    os.kill(first, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        twin = Runs(prepared.folder)
        twin.log = prepared.folder / "log-twin"
        twin.start("twins")
        ended = pool.submit(twin.ended)
        line = f"waits for process {first} on {os.uname().nodename}, which trains this run"
        twin.wait_for(twin.told, line)
        os.kill(first, signal.SIGCONT)
        assert prepared.ended() == 0 == ended.result()
        twin.warm.terminate()
        twin.warm.wait()
    assert prepared.attempts("twins") == 1, "the second trained nothing"
    prepared.assert_finished_like_straight("twins")


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        stop = Stop(time.time() + 0.3)
        with (
            pytest.raises(StoppedError, match="time limit while it waited"),
            alone(tmp_path, stop, Together(Place())),
        ):
            raise AssertionError("it is another's")


def test_the_lock_of_a_folder_that_was_deleted_meanwhile_is_none(tmp_path: Path) -> None:
    """Two that wait while `swath prune` deletes do not both get in."""
    folder = tmp_path / "run"
    folder.mkdir()
    held = (folder / "lock").open("a+")
    fcntl.flock(held, fcntl.LOCK_EX)
    inside = threading.Event()

    def wait() -> None:
        with alone(folder, Stop(time.time() + 20), Together(Place())):
            inside.set()
            time.sleep(0.7)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        time.sleep(0.3)
        shutil.rmtree(folder)
        held.close()
        assert inside.wait(5)
        stop = Stop(time.time() + 0.3)
        with pytest.raises(StoppedError), alone(folder, stop, Together(Place())):
            raise AssertionError("the other is inside")
        waiting.result()


def test_seeding_draws_what_lightning_and_torch_would() -> None:
    def drawn() -> list[float]:
        of_numpy = np.random.rand()  # noqa: NPY002 (the generator that is seeded)
        return [float(torch.rand(())), float(torch.randn(())), of_numpy, random.random()]

    seed_everything(7, verbose=False)
    expected = drawn()
    attempts.seed_all(7)
    assert drawn() == expected
    attempts.seed_torch(7)
    assert drawn()[:2] == expected[:2]


def test_signals_are_given_back(run, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in Stop.SIGNALS]
    run(tmp_path, until_epoch=1)
    assert [signal.getsignal(number) for number in Stop.SIGNALS] == before


# ---- checkpoints that are another's, or damaged -----------------------------------------------


def test_one_flipped_bit_anywhere_is_refused(run, tmp_path: Path) -> None:
    run(tmp_path, until_epoch=1)
    last = tmp_path / "last.ckpt"
    whole = last.read_bytes()
    rng = random.Random(1)
    for place in [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(5))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        last.write_bytes(damaged)
        with pytest.raises(RunError) as error:
            run(tmp_path)
        refused(error, "last.ckpt", "delete it to train from the start")
    last.write_bytes(whole)
    assert len(run(tmp_path).history) == 3


def test_a_changed_weight_in_a_checkpoint_that_still_opens_is_refused(run, tmp_path) -> None:
    run(tmp_path, until_epoch=1)
    last = tmp_path / "last.ckpt"
    content = bytearray(last.read_bytes())
    weight = saved(tmp_path)["state_dict"]["trained.0.0.weight"]
    content[content.index(weight.numpy().tobytes())] ^= 1
    last.write_bytes(content)
    assert saved(tmp_path), "torch sees nothing"
    with pytest.raises(RunError) as error:
        run(tmp_path)
    refused(error, "was changed after it was written")


class Code:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def test_code_does_not_run_even_where_the_digest_is_right(run, tmp_path: Path) -> None:
    run(tmp_path, until_epoch=1)
    forged = {"state_dict": Code(f"touch {tmp_path}/ran")}
    ProvenCheckpoints({}).save_checkpoint(forged, tmp_path / "last.ckpt")
    with pytest.raises(RunError) as error:
        run(tmp_path)
    refused(error, "last.ckpt", "is no checkpoint of swath's")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"code": "0a1b"}, ("its code is ffff", "here it is 0a1b")),
        ({"given": {"optim__lr": 0.02}}, ("its optim.lr is 0.01", "here it is 0.02")),
        ({"given": {"model__width": 8}}, ("its model.width is 4", "here it is 8")),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_both_sides(
    run, tmp_path: Path, changed: dict[str, Any], words: tuple[str, ...]
) -> None:
    run(tmp_path, until_epoch=1, code="ffff")
    with pytest.raises(RunError) as error:
        run(tmp_path, **({"code": "ffff"} | changed))
    refused(error, "last.ckpt", "is of another run", *words)


@pytest.mark.parametrize("what", ["bands", "classes"])
def test_a_checkpoint_of_other_bands_or_classes_is_refused(
    patch_set, statistics, sections, tmp_path: Path, what: str
) -> None:
    patches = patch_set(24, labels="pixel")
    given = sections(trainer__epochs=2) | {"seed": 0}
    train(patches, parts_of(24), statistics, tmp_path, **given, until_epoch=1)
    was = patches.facts[what]
    patches.facts[what] = [*was[:-1], "other"]
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **given)
    refused(error, f"its {what} is {was}", f"here it is {patches.facts[what]}")


def test_another_device_or_rhythm_of_checkpoints_goes_on(run, tmp_path: Path) -> None:
    run(tmp_path, until_epoch=1)
    given = {"trainer__checkpoint_minutes": 5.0, "trainer__device": "auto"}
    assert len(run(tmp_path, given=given).history) == 3


# ---- losses that are no numbers ---------------------------------------------------------------


def test_a_broken_loss_names_its_step_and_patches(
    patch_set, statistics, sections, tmp_path: Path
) -> None:
    patches = patch_set(24, labels="pixel", nodata=None, dtype="float32")
    patches.image.chunks[0][1] = 3e38  # patch 1, which trains
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **sections(), seed=0)
    training = np.flatnonzero(parts_of(24) == "train")
    batches = Batches(patches, training, batch_size=8, **statistics, seed=0)
    (step,) = (n for n in range(len(batches)) if 1 in batches.members(0, n))
    members = batches.members(0, step)
    some = ", ".join(map(str, members[:5])) + (", …" if len(members) > 5 else "")
    refused(
        error, f"the loss is inf at step {step + 1} of epoch 1, on the patches {some} (",
        f"({len(members)} in all)", "patch 1 is 6e+36 standard deviations off", "lower optim.lr",
    )  # fmt: skip
    assert "fp32" not in str(error.value), "it was float32 already"
    assert not list(tmp_path.glob("*.ckpt"))


def test_in_bf16_float32_is_named_as_a_mend(patch_set, statistics, sections, tmp_path) -> None:
    patches = patch_set(24, labels="pixel", nodata=None, dtype="float32")
    patches.image.chunks[0][1] = 3e38
    given = sections(trainer__precision="bf16")
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    refused(error, "set trainer.precision=fp32")


def test_a_loss_that_breaks_later_leaves_good_checkpoints(
    patch_set, statistics, sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "SHORT_S", 0.0)
    patches = patch_set(24, labels="pixel", nodata=None, dtype="float32")
    given = sections(trainer__checkpoint_minutes=0.0) | {"seed": 0}
    train(patches, parts_of(24), statistics, tmp_path, **given, until_epoch=1)
    best = (tmp_path / "best.ckpt").read_bytes()
    sound = patches.image.chunks[0][1].copy()
    patches.image.chunks[0][1] = 3e38
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **given)
    step = int(re.search(r"step (\d) of epoch 2", refused(error, "the loss is inf"))[1])
    assert (tmp_path / "best.ckpt").read_bytes() == best
    assert all(value.isfinite().all() for value in saved(tmp_path)["state_dict"].values())
    position = saved(tmp_path)["callbacks"]["Attempt"]["position"]
    assert position == (1, step - 1), "the step before is the last that was saved"
    patches.image.chunks[0][1] = sound
    assert len(train(patches, parts_of(24), statistics, tmp_path, **given).history) == 4


# ---- what is not worth a file of its own ------------------------------------------------------


def test_short_epochs_are_saved_once_and_give_what_long_ones_do(
    patch_set, statistics, sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches, given = patch_set(24, labels="pixel"), sections() | {"seed": 0}
    written: list[str] = []

    def noted(path: Path, **how: bool):
        written.append(path.name)
        return whole(path, **how)

    monkeypatch.setattr(attempts, "whole", noted)
    kept = {}
    for name, short_s in (("short", 60.0), ("long", 0.0)):
        monkeypatch.setattr(attempts, "SHORT_S", short_s)
        written.clear()
        outcome = train(patches, parts_of(24), statistics, tmp_path / name, **given)
        kept[name] = torch.load(outcome.model, weights_only=True)["weights"]
        assert written.count("last.ckpt") == (1 if name == "short" else 4)
    assert all(torch.equal(kept["short"][key], kept["long"][key]) for key in kept["long"])


def test_the_network_of_a_trial_is_in_its_checkpoint_until_a_run_asks_for_it(
    patch_set, statistics, sections, tmp_path: Path
) -> None:
    patches, given = patch_set(24, labels="pixel"), sections() | {"seed": 0}
    straight = train(patches, parts_of(24), statistics, tmp_path / "straight", **given)
    state = tmp_path / "trial"
    for epochs in (1, 3, 4):
        train(patches, parts_of(24), statistics, state, **given, until_epoch=epochs)
        assert not (state / "best.ckpt").exists()
    (state / "progress.json").write_text('{"history": [')  # a power cut
    outcome = train(patches, parts_of(24), statistics, state, **given)
    one, other = (
        torch.load(path, weights_only=True)["weights"] for path in (straight.model, outcome.model)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert list(outcome.history["val/loss"]) == list(straight.history["val/loss"])


def test_runs_that_share_decide_once_what_the_clock_decides(
    patch_set, statistics, sections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = patch_set(24, side=16)
    timed: list[int] = []

    def fastest(*_: object) -> tuple[str, bool]:
        timed.append(1)
        return ("bf16", True) if len(timed) == 1 else ("fp32", True)

    monkeypatch.setattr("swath.learn.train._fastest", fastest)
    given = sections(model="cnn", task="classification", trainer__precision="auto")
    found = [
        train(
            patches, parts_of(24), statistics, tmp_path / str(seed), seed=seed,
            measured=tmp_path / "measured" if seed < 3 else None, **given,
        ).facts["precision"]
        for seed in range(4)
    ]  # fmt: skip
    assert found == ["bf16", "bf16", "bf16", "fp32"] and len(timed) == 2


def test_weights_that_break_after_a_finite_loss_are_not_saved(
    patch_set, statistics, sections, tmp_path: Path
) -> None:
    given = sections(trainer__checkpoint_minutes=0.0, optim__lr=1e25, optim__schedule="constant")
    patches = patch_set(24, labels="pixel")
    with pytest.raises(RunError) as error:
        train(patches, parts_of(24), statistics, tmp_path, **given, seed=0)
    refused(error, "a weight is not finite any more after step", "of epoch 1", "lower optim.lr")
    assert all(value.isfinite().all() for value in saved(tmp_path)["state_dict"].values())


def test_a_broken_loss_of_the_validation_names_its_patches(
    patch_set, statistics, sections, tmp_path: Path
) -> None:
    patches = patch_set(40, labels="pixel", nodata=None, dtype="float32")
    patches.image.chunks[3][6] = 3e38  # patch 36, the last but none of the validation
    with pytest.raises(RunError) as error:
        train(patches, parts_of(40), statistics, tmp_path, **sections(), seed=0)
    refused(error, "val/loss is inf at step 2 of epoch 1", "on the patches 32, 36 (2 in all)")
    assert not list(tmp_path.glob("*.ckpt"))


# ---- too little memory ------------------------------------------------------------------------


LIMITED = """
import ctypes, os, pickle, resource, sys
from pathlib import Path
from swath.learn.train import train

# Large blocks go back to the system when they are freed: the limit counts addresses.
ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
inputs, given = pickle.loads(Path("given").read_bytes())

def told(batch_size):
    given["trainer"]["batch_size"] = batch_size
    try:
        train(*inputs, Path(f"state-{batch_size}"), **given, seed=0)
    except Exception as failed:
        return f"{type(failed).__name__}: {failed}"
    return "trained"

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(first := told(800), flush=True)
print(told(int(first.split("=")[-1])), flush=True)
"""


def test_too_little_memory_names_a_batch_size_that_fits(
    patch_set, statistics, sections, tmp_path: Path
) -> None:
    """In a process that may take 100 MiB more than it has when it begins."""
    given = sections("cnn", "classification", model__width=16, trainer__epochs=1)
    inputs = (patch_set(1200, side=32), parts_of(1200), statistics)
    (tmp_path / "given").write_bytes(pickle.dumps((inputs, given)))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    told = done.stdout.splitlines()
    found = re.search(
        r"^RunError: trainer.batch_size=800: this machine has too little memory for batches "
        r"of 800; (\d+) fit; set trainer.batch_size=(\d+)$",
        told[0],
    )
    assert found, done.stdout + done.stderr
    assert found[1] == found[2] in ("400", "200", "100", "50")
    assert told[1] == "trained"
