"""A step of the training beside a bare PyTorch loop, an epoch's wait for its data, and compiling.

    .venv/bin/python benchmarks/bench_training.py [--only step wait compile] [--rounds 5]
        [--set trainer.precision=bf16 ...]

`step`: `swath.learn.train.train` as it is, with its default settings and logging, and a bare loop
that does the same work: network, loss, clipping, optimizer and schedule. The batches of both lie in
memory. They take turns step by step, so that what else the machine does hits both alike; at the end
of each round, which is an epoch, their weights have to be the same, bit for bit. The table has
medians over the steps of all rounds. The networks are that of `experiment=eurosat` with its batch
of 128, in the precision and layout that `auto` chooses here, and a `mlp` of 16 units, which shows
the cost of a step by itself.

`wait`: epochs of `experiment=eurosat` on a patch set of EuroSAT's form (3 x 64 x 64, uint8, mapped
from files as swath writes them), and how much of their time passes within the loader: gathering,
normalising, augmenting. Medians of the epochs, of which the first counts not.

`compile`: forward and backward pass of that network as it is and compiled, in turn; medians.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pandas as pd
import torch

from swath import plan
from swath.data.mapped import Mapped
from swath.data.patchset import PatchSet
from swath.learn import batches, compiling, train
from swath.learn.augment import Batch
from swath.learn.optim import prepare

ROOT = Path(__file__).parent.parent
BANDS, SIDE, CLASSES = 3, 64, 10
CHUNK = 10_922  # patches in 128 MiB, as swath writes them
SEED = 0
WARM_STEPS = 1
PARTS = ["step", "wait", "compile"]


def patch_set(folder: Path, count: int) -> PatchSet:
    """Patches of EuroSAT's form, in the files of swath's chunks, without Zarr's metadata."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    chunks = []
    for first in range(0, count, CHUNK):
        shape = (min(CHUNK, count - first), BANDS, SIDE, SIDE)
        file = np.memmap(folder / f"chunk{first}", np.uint8, "w+", shape=shape)
        file[:] = generator.integers(0, 256, shape, np.uint8)
        chunks.append(np.memmap(folder / f"chunk{first}", np.uint8, "r", shape=shape))
    label = generator.integers(0, CLASSES, count).astype(np.uint8)
    facts = {
        "nodata": None, "classes": [f"class {n}" for n in range(CLASSES)], "labels": "patch",
        "bands": ["red", "green", "blue"],
    }  # fmt: skip
    return PatchSet(
        Mapped(tuple(chunks), (count, BANDS, SIDE, SIDE)),
        Mapped((label,), label.shape),
        pd.DataFrame(index=range(count)),
        np.eye(CLASSES, dtype=np.int64)[label],
        facts,
    )


def sections(*overrides: str) -> dict[str, Any]:
    """What a run of `experiment=eurosat` reads."""
    found = plan.compose(ROOT / "conf", "eurosat", overrides).sections
    return {name: found[name] for name in plan.STAGES["train"].sections}


def trained(patches: PatchSet, given: dict[str, Any], loader: type[batches.Batches]) -> Any:
    """A run whose batches come from a loader of ours; one batch of them is for validation."""
    parts = np.full(len(patches), "train", dtype="<U5")
    parts[: given["trainer"]["batch_size"]] = "val"
    known = {"mean": [127.5] * BANDS, "std": [73.9] * BANDS}
    with tempfile.TemporaryDirectory() as state, mock.patch.object(train, "Batches", loader):
        return train.train(patches, parts, known, Path(state), seed=SEED, **given)


def synchronised(device: torch.device) -> float:
    """The time, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# ---- a step beside a bare one -----------------------------------------------------------------


class Bare:
    """The same training without Lightning: a loop of a few lines."""

    def __init__(self, given: dict[str, Any], patches: PatchSet, loader: batches.Batches) -> None:
        torch.manual_seed(SEED)
        trainer = given["trainer"]
        network = train.build(given["model"], BANDS, CLASSES)
        with torch.inference_mode():
            network.eval()(torch.zeros(1, BANDS, SIDE, SIDE))  # the first layer of an mlp is lazy
        self.network = train.in_layout(network.train().to(loader.device), trainer["channels_last"])
        self.loss = train._task(given["task"], patches, loader.which).loss.to(loader.device)
        self.steps = len(loader) * trainer["epochs"]
        self.optimizer, self.rate = prepare(self.network, given["optim"], self.steps)
        # In Lightning's order: the norm is a sum, whose last bit depends on it.
        self.weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.bf16 = trainer["precision"] == "bf16"
        self.format = torch.channels_last if trainer["channels_last"] else torch.contiguous_format
        self.clip_norm = trainer["clip_norm"]
        torch.manual_seed(SEED * 1_000_003)
        self.random = torch.get_rng_state()

    def step(self, batch: Batch) -> None:
        """One step of the optimizer."""
        image, label = batch
        self.optimizer.zero_grad()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.network(image.contiguous(memory_format=self.format)), label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        self.optimizer.step()
        self.rate.step()


class Beside(batches.Batches):
    """Batches in memory; between two steps of the training the bare loop makes one of its own."""

    last: Beside
    given: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.held = [self._batch(self.members(0, n), n) for n in range(min(4, len(self)))]
        self.times: list[tuple[float, float]] = []
        self.bare: Bare | None = None
        if self.seed is not None:
            state = torch.get_rng_state()
            self.bare = Bare(self.given, self.patches, self)
            torch.set_rng_state(state)
            Beside.last = self

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            batch = self.held[number % len(self.held)]
            if self.bare is None:
                yield batch
                continue
            spent_bare = self._step(self.bare, batch)
            start = synchronised(self.device)
            yield batch
            self.times.append((synchronised(self.device) - start, spent_bare))

    def _step(self, bare: Bare, batch: Batch) -> float:
        """Seconds of a step of the bare loop, with random numbers of its own."""
        state = torch.get_rng_state()
        torch.set_rng_state(bare.random)
        start = synchronised(self.device)
        bare.step(batch)
        spent = synchronised(self.device) - start
        bare.random = torch.get_rng_state()
        torch.set_rng_state(state)
        return spent


def beside(patches: PatchSet, given: dict[str, Any], rounds: int) -> tuple[float, float, float]:
    """Milliseconds of a step of swath, of the bare loop, and of the difference: medians."""
    Beside.given = given
    steps: list[tuple[float, float]] = []
    for _ in range(rounds):
        with kept_weights() as mine:
            trained(patches, given, Beside)
        assert Beside.last.bare is not None
        theirs = Beside.last.bare.network.state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[n], theirs[n]) for n in mine), "they did not do the same"
        steps += Beside.last.times[WARM_STEPS:]
    swath, bare = (1e3 * statistics.median(times) for times in zip(*steps, strict=True))
    return swath, bare, 1e3 * statistics.median(one - other for one, other in steps)


@contextlib.contextmanager
def kept_weights() -> Iterator[dict[str, torch.Tensor]]:
    """The weights with which a training ends."""
    weights: dict[str, torch.Tensor] = {}
    end = train.Attempt.on_train_epoch_end

    def keep(attempt: Any, trainer: Any, learner: Any) -> None:
        weights.update(learner.trained.state_dict())
        end(attempt, trainer, learner)

    with mock.patch.object(train.Attempt, "on_train_epoch_end", keep):
        yield weights


# ---- waiting for data -------------------------------------------------------------------------


class Watched(batches.Batches):
    """swath's batches, and how long each epoch took and waited for them, up to its last batch."""

    epochs: ClassVar[list[tuple[float, float]]] = []

    def __iter__(self) -> Iterator[Batch]:
        waited, began = 0.0, synchronised(self.device)
        source = super().__iter__()
        for number in range(len(self)):
            start = synchronised(self.device)
            batch = next(source)
            waited += synchronised(self.device) - start
            if number == len(self) - 1 and self.seed is not None:
                Watched.epochs.append((waited, synchronised(self.device) - began))
            yield batch


def waiting(patches: PatchSet, given: dict[str, Any], rounds: int) -> tuple[float, float, float]:
    """Milliseconds that a batch takes to load, those of a step with it, and the share: medians."""
    Watched.epochs = []
    trained(patches, changed(given, epochs=rounds + 1), Watched)
    size = given["trainer"]["batch_size"]
    steps = (len(patches) - size) // size
    epochs = Watched.epochs[-rounds:]
    return (
        statistics.median(1e3 * waited / steps for waited, _ in epochs),
        statistics.median(1e3 * whole / steps for _, whole in epochs),
        statistics.median(waited / whole for waited, whole in epochs),
    )


# ---- compiling --------------------------------------------------------------------------------


def compiling_gains(given: dict[str, Any], rounds: int) -> tuple[float, float, float]:
    """Seconds to compile, and milliseconds of a step as it is and compiled: medians."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = given["trainer"]
    network = train.build(given["model"], BANDS, CLASSES).to(device)
    network = train.in_layout(network, trainer["channels_last"])
    layout = torch.channels_last if trainer["channels_last"] else torch.contiguous_format
    image = torch.randn(trainer["batch_size"], BANDS, SIDE, SIDE, device=device)
    image = image.contiguous(memory_format=layout)
    start = time.perf_counter()
    precision = trainer["precision"]
    fast = compiling.compiled(
        network, image, precision=precision, force=True, required=True, steps=1
    )
    cost_s = time.perf_counter() - start
    assert fast is not None
    ways: tuple[compiling.Forward, ...] = (network, fast)
    times = [
        [1e3 * compiling.step_s(way, network, image, precision) for way in ways]
        for _ in range(2 * rounds + 1)
    ]
    plain, quick = (statistics.median(each) for each in zip(*times[1:], strict=True))
    return cost_s, plain, quick


# ---- what is printed --------------------------------------------------------------------------


def changed(given: dict[str, Any], **trainer: Any) -> dict[str, Any]:
    """Sections with other keys of the trainer."""
    return given | {"trainer": given["trainer"] | trainer}


def bar(what: str, reached: float, wanted: float, unit: str) -> None:
    met = "met" if reached <= wanted else "NOT MET"
    print(f"{what:52s} {reached:6.2f} {unit:2s} (at most {wanted:g}): {met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patches", type=int, default=2048, help="of the epochs that wait")
    parser.add_argument("--set", nargs="+", default=[], help="overrides of the experiment")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory() as name:
        given = changed(sections(*arguments.set), compile=False)
        size = given["trainer"]["batch_size"]
        few = patch_set(Path(name) / "few", 9 * size)
        # What `auto` chooses here, by the shortest run that there is.
        two = patch_set(Path(name) / "two", 2 * size)
        facts = trained(two, changed(given, epochs=1), batches.Batches).facts
        given = changed(given, **{key: facts[key] for key in ("precision", "channels_last")})
        layout = ", channels last" * facts["channels_last"]
        print(f"{facts['device']}; cnn in {facts['precision']}{layout}, batch {size}")
        if "step" in arguments.only:
            small = sections("model=mlp", "model.hidden=[16]", "trainer.batch_size=16")
            small = changed(small, compile=False, precision="fp32", epochs=1)
            print(
                f"\n{'a step':20s} {'swath, ms':>9s} {'bare, ms':>9s} {'more, ms':>9s} {'more':>7s}"
            )
            found = {
                "mlp of 16 units": beside(few, small, rounds),
                "cnn": beside(few, changed(given, epochs=1), rounds),
            }
            for case, (swath, bare, more) in found.items():
                print(f"{case:20s} {swath:9.2f} {bare:9.2f} {more:9.2f} {100 * more / bare:6.2f}%")
            for case, (_, _, more) in found.items():
                bar(f"{case}: swath - bare loop", more, 1, "ms")
            _, bare, more = found["cnn"]
            bar("cnn: swath - bare loop, share of a step", 100 * more / bare, 2, "%")
        if "wait" in arguments.only:
            load, step, share = waiting(
                patch_set(Path(name) / "all", arguments.patches), given, rounds
            )
            print(f"\na batch is loaded in {load:.2f} ms, and trained in {step - load:.2f} ms")
            bar("cnn: waiting for data, share of an epoch", 100 * share, 2, "%")
        if "compile" in arguments.only:
            cost_s, plain, quick = compiling_gains(given, rounds)
            print(
                f"\nforward and backward pass {plain:.1f} ms, compiled {quick:.1f} ms "
                f"({plain / quick:.2f} x as fast), after {cost_s:.0f} s"
            )


if __name__ == "__main__":
    main()
