"""What a trial of a study costs, how long planning takes, and what halving and learning find.

    .venv/bin/python benchmarks/bench_sweep.py [--only overhead plan halving search] [--rounds 5]

`overhead`: a trial of a tiny network as a job of the static mode trains it in its warm process, and
the same work (batches, network, loss, clipping, optimizer, schedule, validation) by Lightning's
Trainer with nothing around it and by a bare PyTorch loop, in turn; and a process a trial, as a job
for each would be. The table has medians.

`plan`: `snakemake -n` of a study of 200 trials and four rungs beside an empty workflow, in turn.

`halving`: `experiment=eurosat_small`, a grid of 24 points, each trained for eight epochs with each
of three schedules, and the same grid by successive halving: epochs, the best score on the
validation part, what the winner then reaches on the test part with three seeds, and how early the
order of the trials is that of the end. Needs SWATH_MIRROR.

`search`: on `experiment=statlog`, random search with its trials trained to the end, and `tpe` with
halving, whose budgets are as many epochs, with five seeds each. Needs SWATH_MIRROR.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import bench_training
import numpy as np
import torch
from bench_plan import seconds
from bench_training import Bare, patch_set, sections
from pytorch_lightning import LightningModule, Trainer
from scipy.stats import spearmanr

from swath.data.patchset import PatchSet
from swath.learn import batches
from swath.learn.trials import Slot, train_slot

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PARTS = ["overhead", "plan", "halving", "search"]
TRIALS = 20  # of each round
GRID = (
    "sweep=none sweep.sampler=grid sweep.trials_per_job=6 "
    "'sweep.space={optim.lr: {choice: [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03]}, "
    "model.width: {choice: [8, 16]}, model.dropout: {choice: [0.0, 0.2]}}' "
    "trainer.precision=fp32 sweep.final.best=1 sweep.final.seeds=[0,1,2]"
)
SEARCHED = (
    "sweep=none runs.seeds=[0] trainer.batch_size=128 trainer.augment.noise=0.0 trainer.tta=false "
    "'sweep.space={optim.lr: {float: [0.0001, 0.1], log: true}, model.width: {int: [4, 64], log: "
    "true}, model.blocks: {int: [1, 3]}, model.dropout: {float: [0.0, 0.5]}, optim.weight_decay: "
    "{float: [0.001, 1.0], log: true}, optim.name: {choice: [adamw, sgd, rmsprop]}}'"
)


# ---- a trial beside a bare loop ---------------------------------------------------------------


def loaded(patches: PatchSet, parts: Any, known: dict[str, Any], given: dict[str, Any]) -> Any:
    """Batches of the training and the validation part, and the loop over them."""
    each = partial(
        batches.Batches, patches, batch_size=given["trainer"]["batch_size"], device="cpu", **known
    )
    training = each(
        np.flatnonzero(parts == "train"), seed=0, shuffle="full",
        augment=given["trainer"]["augment"],
    )  # fmt: skip
    validation = each(np.flatnonzero(parts == "val"))
    return training, validation, Bare(given, patches, training)


def bare(patches: PatchSet, parts: Any, known: dict[str, Any], given: dict[str, Any]) -> float:
    """Seconds of the same training without anything around it."""
    begin = time.perf_counter()
    training, validation, loop = loaded(patches, parts, known, given)
    for epoch in range(given["trainer"]["epochs"]):
        training.start(epoch)
        for batch in training:
            loop.step(batch)
        loop.network.eval()
        with torch.inference_mode():
            right = sum(
                int((loop.network(image).argmax(1) == label).sum()) for image, label in validation
            )
        loop.network.train()
    assert right >= 0
    return time.perf_counter() - begin


class Alone(LightningModule):
    """The same training, as Lightning has it where nothing is kept, measured or continued."""

    def __init__(self, loop: Bare) -> None:
        super().__init__()
        self.loop, self.network, self.right = loop, loop.network, 0

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """The loss of a batch."""
        image, label = batch
        return self.loop.loss(self.network(image), label)

    def validation_step(self, batch: Any, _: int) -> None:
        """Count what is right."""
        image, label = batch
        self.right += int((self.network(image).argmax(1) == label).sum())

    def configure_optimizers(self) -> Any:
        """Those of the bare loop."""
        return [self.loop.optimizer], [{"scheduler": self.loop.rate, "interval": "step"}]


def lightning(patches: PatchSet, parts: Any, known: dict[str, Any], given: dict[str, Any]) -> float:
    """Seconds of the same training by Lightning's Trainer with nothing around it."""
    begin = time.perf_counter()
    training, validation, loop = loaded(patches, parts, known, given)
    Trainer(
        accelerator="cpu", max_epochs=given["trainer"]["epochs"], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, gradient_clip_val=given["trainer"]["clip_norm"],
    ).fit(Alone(loop), training, validation)  # fmt: skip
    return time.perf_counter() - begin


def overhead(rounds: int) -> None:
    """Print what a trial costs beside Lightning alone and the bare loop."""
    torch.set_num_threads(1)  # as a job of a study is given
    bench_training.SIDE = 16
    given = sections(
        "model=mlp", "model.hidden=[16]", "trainer.batch_size=64", "trainer.epochs=1",
        "trainer.precision=fp32",
    )  # fmt: skip
    known = {"mean": [127.5] * 3, "std": [73.9] * 3}
    parts = np.full(640, "train", dtype="<U5")
    parts[:128] = "val"
    times: dict[str, list[float]] = {"trial": [], "lightning": [], "bare": []}
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        patches = patch_set(Path(folder) / "patches", 640)
        for number in range(rounds * TRIALS + 5):
            slot = Slot(
                number, "bench", f"run{number}", 1, number, given, parts, known, {"rung": 0}
            )
            begin = time.perf_counter()
            row = train_slot(
                slot, patches, Path(folder) / "runs", sought=["val/accuracy"], code="bench",
                measured=Path(folder) / "measured",
            )  # fmt: skip
            spent = time.perf_counter() - begin
            assert row["scores"], row["reason"]
            if number >= 5:
                times["trial"].append(spent)
                times["lightning"].append(lightning(patches, parts, known, given))
                times["bare"].append(bare(patches, parts, known, given))
    process = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import swath.learn.trials"], check=True)
        process.append(time.perf_counter() - begin)
    took_ms = {name: 1e3 * np.array(each) for name, each in times.items()}
    trial, alone = (statistics.median(took_ms[name]) for name in ("trial", "bare"))
    more = statistics.median(took_ms["trial"] - took_ms["bare"])
    share = statistics.median(took_ms["lightning"] - took_ms["bare"])
    start = 1e3 * statistics.median(process)
    print(f"a trial {trial:.1f} ms, the bare loop {alone:.1f} ms: {more:.1f} ms more (bar: 20 ms)")
    print(f"Lightning's Trainer with nothing around it: {share:.1f} ms more than the bare loop")
    print(f"a process for each starts in {start:,.0f} ms: {start / more:,.0f} times (bar: 100)")


# ---- the plan ---------------------------------------------------------------------------------


def plan(rounds: int) -> None:
    """Print how long a dry run of a large study takes."""
    study = (
        "sweep=none 'sweep.space={optim.lr: {float: [0.001, 0.01], log: true}}' "
        "sweep.trials=200 sweep.rungs=4"
    )
    with tempfile.TemporaryDirectory() as folder:
        empty, swath = Path(folder) / "empty", Path(folder) / "swath"
        for each in (empty, swath):
            each.mkdir()
        (empty / "Snakefile").write_text("rule all:\n    output: 'done'\n    shell: 'touch done'\n")
        here = ["--snakefile", str(ROOT / "workflow/Snakefile"), "--config", f"set={study}"]
        times: dict[str, list[float]] = {"empty": [], "swath": []}
        for _ in range(rounds + 1):
            times["empty"].append(seconds("--cores", "1", cwd=empty))
            times["swath"].append(seconds(*here, cwd=swath))
    one, other = (statistics.median(times[name][1:]) for name in ("empty", "swath"))
    print(f"empty workflow {one:.2f} s, a study of 200 trials and four rungs {other:.2f} s")
    print(f"swath adds {other - one:.2f} s (medians of {rounds}; bar: 3 s)")


# ---- what is found ----------------------------------------------------------------------------


def study(folder: Path, experiment: str, given: str, *, final: bool = False) -> dict[str, Any]:
    """The collected study; with `final` the winner's scores on the test part, as `test`."""
    results = folder / "results" / experiment / "study"
    target = f"results/{experiment}/study/{'final' if final else 'trials'}.json"
    shutil.rmtree(folder / "results" / experiment / "study", ignore_errors=True)
    shutil.rmtree(folder / "state/studies", ignore_errors=True)
    shutil.rmtree(folder / "state/runs", ignore_errors=True)
    command = ["--snakefile", str(ROOT / "workflow/Snakefile"), target]
    config = ["--config", f"experiment={experiment}", f"set={given}"]
    subprocess.run(
        [BIN / "snakemake", *command, *config], cwd=folder, check=True, capture_output=True
    )
    found: dict[str, Any] = json.loads((results / "trials.json").read_text())
    ends = [trial["rungs"][-1] for trial in found["trials"] if trial["rungs"]]
    best = next(trial for trial in found["trials"] if trial["number"] == found["best"])
    found["score"] = best["rungs"][-1]["scores"][0]
    found["params"] = best["params"]
    found["epochs"] = sum(row["epochs"] for row in ends)
    found["seconds"] = sum(row["seconds"] or 0.0 for row in ends)
    if final:
        runs = json.loads((folder / target).read_text())["test"]["runs"]
        found["test"] = [run["value"] for run in runs]
    return found


def halving() -> None:
    """Print what halving finds beside the full grid, by schedule."""
    whole = "sweep.rungs=1 sweep.epochs=8"
    # The rate has fallen at the end of each rung, so that its scores tell who is better.
    falls = "optim.schedule=restarts"
    ways = {
        "full grid, onecycle": f"{whole} optim.schedule=onecycle",
        "full grid, constant": f"{whole} optim.schedule=constant trainer.ema=0.97",
        "full grid, restarts": f"{whole} {falls} optim.cycles=4",
        "halving, eta 2": f"{falls} optim.cycles=4 sweep.rungs=4 sweep.eta=2 sweep.epochs=1",
        "halving, eta 4": f"{falls} optim.cycles=3 optim.growth=4 sweep.rungs=3 sweep.eta=4 "
        "sweep.epochs=1",
    }
    print("way                  epochs  training s  validation  test (three seeds)  best")
    with tempfile.TemporaryDirectory() as folder:
        for name, given in ways.items():
            found = study(Path(folder), "eurosat_small", f"{GRID} {given}", final=True)
            test = ", ".join(f"{100 * value:.2f}" for value in found["test"])
            print(
                f"{name:20s} {found['epochs']:6d} {found['seconds']:11.0f}"
                f"  {100 * found['score']:8.2f} %  {100 * statistics.mean(found['test']):.2f} %"
                f" ({test})  {found['params']}",
                flush=True,
            )
            if name.startswith("full"):
                curves = [trial["rungs"][-1]["curve"] for trial in found["trials"]]
                ends = [max(curve) for curve in curves]
                early = {n: spearmanr([max(c[:n]) for c in curves], ends) for n in (1, 2, 4)}
                told = ", ".join(f"{rho.statistic:.2f} after {n}" for n, rho in early.items())
                print(f"rank correlation of the best so far with the end: {told} of 8 epochs")


def search(rounds: int) -> None:
    """Print what a sampler that learns finds beside random search."""
    # 7 x 9 epochs; 3 generations of 9 trials, of which 3 train 2 epochs more and 1 another 6.
    ways = {
        "random": "sweep.trials=7 sweep.rungs=1 sweep.epochs=9",
        "tpe, halving": "sweep.sampler=tpe sweep.trials=27 sweep.generation=9 sweep.rungs=3 "
        "sweep.eta=3 sweep.epochs=1 sweep.trials_per_job=9",
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    print("seed  " + "  ".join(f"{name:>22s}" for name in ways))
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(rounds):
            told = []
            for name, given in ways.items():
                each = study(Path(folder), "statlog", f"{SEARCHED} sweep.seed={seed} {given}")
                found[name].append(each["score"])
                told.append(f"{100 * each['score']:8.2f} % in {each['epochs']:4d}")
            print(f"{seed:4d}  " + "  ".join(f"{text:>22s}" for text in told), flush=True)
    medians = [f"{100 * statistics.median(scores):.2f} %" for scores in found.values()]
    print("median  " + "  ".join(f"{each:>20s}" for each in medians))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    mirror = bool(os.environ.get("SWATH_MIRROR"))
    for part in given.only:
        print(f"-- {part}", flush=True)
        if part in ("halving", "search") and not mirror:
            print("left out: needs SWATH_MIRROR")
            continue
        run: dict[str, Any] = {
            "overhead": partial(overhead, given.rounds),
            "plan": partial(plan, given.rounds),
            "halving": halving,
            "search": partial(search, given.rounds),
        }
        run[part]()


if __name__ == "__main__":
    main()
