"""One attempt of one run: a network trained by Lightning, which goes on where it was stopped.

A run's folder `state/<run_id>` holds what a killed attempt leaves: the last checkpoint, the best
weights and the log of the epochs. A new attempt begins with them. Training talks to no network;
who wants to watch reads the log.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from torch import Tensor, nn

from swath import registry
from swath.data.patchset import PatchSet
from swath.errors import RunError
from swath.files import read_json, whole, write_json
from swath.learn.augment import Batch
from swath.learn.batches import Batches, suited_shuffle
from swath.learn.optim import Averaged, has_stalled, prepare
from swath.learn.tasks import Task

log = logging.getLogger(__name__)

BF16_LEAST_PX = 8
"""On a CPU, torch 2.13 convolves patches of 3 px in bf16 to NaN now and then (one pass in sixty),
from memory that nobody has written; from 8 px on none was seen."""


@dataclass(frozen=True)
class Outcome:
    """What a run has reached."""

    history: pd.DataFrame
    """One row an epoch: epoch, train/loss, val/loss, val/accuracy and what else the task measures,
    lr, seconds, images_per_s."""
    best_epoch: int
    model: Path
    """The best network: weights and all that is needed to use it."""
    facts: dict[str, Any]
    """parameters, epochs, seconds, device, precision, channels_last, attempts."""


def train(
    patches: PatchSet,
    parts: NDArray[np.str_],
    statistics: dict[str, Any],
    state: Path,
    *,
    seed: int,
    until_epoch: int | None = None,
    model: dict[str, Any],
    task: dict[str, Any],
    optim: dict[str, Any],
    trainer: dict[str, Any],
) -> Outcome:
    """Train a network, or go on with it, and give what it has reached.

    Args:
        patches: the patch set.
        parts: the part of each patch: train, val, test or unused.
        statistics: mean and std of each band over the training part.
        state: the run's own folder, empty or left by an earlier attempt.
        seed: of weights, order and augmentation.
        until_epoch: stop after this epoch of the schedule; None goes to its end.
        model: name and settings of the network.
        task: name and settings of the task.
        optim: name and settings of the optimizer, and the schedule.
        trainer: the section of that name, complete.

    Raises:
        RunError: a device that is not there, a task that does not fit the labels, an empty part,
            an augmentation that does not fit the patches, or a loss that is no longer finite.
    """
    _quieten()
    device = _device(trainer["device"])
    numbers = {part: np.flatnonzero(parts == part) for part in ("train", "val")}
    for part, which in numbers.items():
        if not len(which):
            raise RunError(f"the part {part} is empty", where="split", mend="give it a share")
    learns: Task = registry.load("task", task["name"])(
        patches.contents[numbers["train"]], patches.classes, **_settings(task)
    )
    if learns.labels != patches.facts["labels"]:
        raise RunError(
            f"learns a label by {learns.labels}, the patches have one by {patches.facts['labels']}",
            where=f"task {task['name']}",
            mend="choose another task",
        )
    seed_everything(seed, verbose=False)
    network = build(model, len(statistics["mean"]), len(patches.classes))
    augment = trainer["augment"]
    _can_be_augmented(patches, augment)
    for side_px in {patches.image.shape[-1], augment["crop_px"] or patches.image.shape[-1]}:
        _fits(network, model["name"], learns, patches, side_px)
    state.mkdir(parents=True, exist_ok=True)
    progress = _Progress(state)
    shuffle = progress.fixed("shuffle", lambda: _shuffle(trainer, patches, numbers["train"]))
    given = {
        "batch_size": trainer["batch_size"],
        "mean": statistics["mean"],
        "std": statistics["std"],
        "device": "cuda" if device == "gpu" else "cpu",
    }
    batches = Batches(
        patches, numbers["train"], seed=seed, shuffle=shuffle, augment=augment, **given
    )
    validation = Batches(patches, numbers["val"], **given)
    fastest = functools.cache(lambda: _fastest(network, batches, device, trainer))
    precision = progress.fixed("precision", lambda: fastest()[0])
    channels_last = progress.fixed("channels_last", lambda: fastest()[1])
    learner = _Learner(network, learns, optim, trainer, batches, channels_last)
    saved = _Saved(
        state,
        batches,
        {
            "model": model,
            "task": task,
            "classes": patches.classes,
            "bands": patches.facts["bands"],
            "nodata": patches.facts["nodata"],
            "statistics": {"mean": statistics["mean"], "std": statistics["std"]},
            "precision": precision,
            "channels_last": channels_last,
        },
        progress,
        seed,
    )
    stop = _EarlyStop(progress, learns.monitor, trainer["early_stopping"])
    epochs = min(until_epoch or trainer["epochs"], trainer["epochs"])
    lightning = Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=trainer["clip_norm"] or None,
        accumulate_grad_batches=trainer["accumulate"],
        # The one that stops looks at what the one that saves has written.
        callbacks=[saved, stop],
        # One process trains, also where Slurm's variables would have Lightning think otherwise.
        plugins=[LightningEnvironment()],
        default_root_dir=state,
    )
    if len(progress.history) < epochs and not stop.is_due():
        progress.begin_attempt()
        last = state / "last.ckpt"
        if last.is_file():
            _prove(last)
        lightning.fit(
            learner,
            batches,
            validation,
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    history = pd.DataFrame(progress.history[:epochs])
    return Outcome(
        history=history,
        best_epoch=int(history[learns.monitor].idxmax()),
        model=state / "best.ckpt",
        facts={
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": len(history),
            "seconds": float(history["seconds"].sum()),
            "device": _device_name(device),
            "precision": precision,
            "channels_last": channels_last,
            "attempts": progress.facts["attempts"],
        },
    )


def build(model: dict[str, Any], bands: int, classes: int) -> nn.Module:
    """The network that a model section names."""
    network: nn.Module = registry.load("model", model["name"])(bands, classes, **_settings(model))
    return network


def load(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, and the facts saved with it.

    Raises:
        RunError: the file is no model of swath's. It is read as data: no code in it runs.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        facts = json.loads(saved["facts"])
        network = build(facts["model"], len(facts["bands"]), len(facts["classes"]))
        network.load_state_dict(saved["weights"])
    except FileNotFoundError:
        raise RunError("there is no such model", where=path, mend="run the stage `train`") from None
    except Exception as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise RunError(
            f"is not a model of swath's ({reason})", where=path, mend="train it again"
        ) from None
    return in_layout(network, facts["channels_last"]).eval(), facts


def in_layout(network: nn.Module, channels_last: bool) -> nn.Module:
    """The network with its weights laid out as its batches are."""
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _shuffle(trainer: dict[str, Any], patches: PatchSet, which: NDArray[np.int64]) -> str:
    """`auto` is decided by the memory, once: on another machine a run goes on in its own order."""
    wanted: str = trainer["shuffle"]
    return suited_shuffle(patches, which) if wanted == "auto" else wanted


def _can_be_augmented(patches: PatchSet, augment: dict[str, Any]) -> None:
    """Refuse an augmentation that the patches or their labels do not allow, before it trains."""
    height, width = patches.image.shape[-2:]
    crop_px = augment["crop_px"]
    if crop_px is not None and crop_px > min(height, width):
        raise RunError(
            f"a crop of {crop_px} px is larger than a patch of {height} x {width} px",
            where="trainer.augment.crop_px",
            mend="crop less, or cut larger patches",
        )
    if augment["turn"] and height != width:
        raise RunError(
            f"patches of {height} x {width} px cannot be turned",
            where="trainer.augment.turn",
            mend="set it to false",
        )
    if augment["mixup"] and patches.facts["labels"] == "pixel":
        raise RunError(
            "mixup mixes labels by patch, these are by pixel",
            where="trainer.augment.mixup",
            mend="use trainer.augment.cutmix",
        )


def _fits(network: nn.Module, name: str, task: Task, patches: PatchSet, side_px: int) -> None:
    """Refuse a network that answers in another form than the task learns, before it trains."""
    image = torch.zeros(1, patches.image.shape[1], side_px, side_px)
    try:
        with torch.inference_mode():
            answer = network.eval()(image).shape
    except RuntimeError as wrong:
        raise RunError(
            f"does not take patches of {tuple(image.shape[1:])} ({str(wrong).splitlines()[0]})",
            where=f"model {name}",
            mend="give another patches.size_px, trainer.augment.crop_px or model",
        ) from None
    network.train()
    wanted = (1, len(patches.classes), *(image.shape[2:] if task.labels == "pixel" else ()))
    if answer != wanted:
        raise RunError(
            f"answers {tuple(answer)} to one patch, the task learns {wanted}",
            where=f"model {name}",
            mend="choose a model of one label a patch (cnn) or a pixel (unet), as the task is",
        )


def _prove(checkpoint: Path) -> None:
    """Refuse a checkpoint that was cut off or holds more than data; no code in it runs."""
    try:
        torch.load(checkpoint, weights_only=True, map_location="cpu")
    except Exception as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise RunError(
            f"is no checkpoint of swath's ({reason})",
            where=checkpoint,
            mend="delete it to train from the start",
        ) from None


class _Learner(LightningModule):
    """The network, its average, its loss and metrics, its optimizer and schedule."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        optim: dict[str, Any],
        trainer: dict[str, Any],
        batches: Batches,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.trained = in_layout(network, channels_last)
        self.averaged = Averaged(network, trainer["ema"]) if trainer["ema"] else None
        self.task, self.loss, self.metrics = task, task.loss, task.metrics
        self.optim, self.batches, self.accumulate = optim, batches, trainer["accumulate"]
        self.steps = trainer["epochs"] * -(-len(batches) // self.accumulate)
        self.sums: dict[str, Tensor] = {}

    @property
    def network(self) -> nn.Module:
        """The network that is trained; in validation its average, which then is judged and kept."""
        return self.trained if self.training or self.averaged is None else self.averaged.network

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image, label = batch
        answer = self.network(image.contiguous(memory_format=self.format))
        return self.loss(answer, label), answer

    def training_step(self, batch: Batch, number: int) -> Tensor:
        loss, _ = self._loss(batch)
        self._add("train/loss", loss.detach(), len(batch[1]))
        return loss if self.accumulate == 1 else loss * self._share(number, len(batch[1]))

    def _share(self, number: int, patches: int) -> float:
        """What a batch counts among those of its step, times their number.

        Lightning divides by that number, also where an epoch ends with fewer or smaller batches.
        """
        first = number - number % self.accumulate
        begin, end = (n * self.batches.batch_size for n in (first, first + self.accumulate))
        return patches * self.accumulate / (min(end, len(self.batches.which)) - begin)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            self.averaged.update(self.trained, self.trainer.global_step)

    def validation_step(self, batch: Batch, number: int) -> None:
        loss, answer = self._loss(batch)
        self._add("val/loss", loss, len(batch[1]))
        self.metrics.update(self.task.decide(answer), batch[1].long())

    def _add(self, name: str, value: Tensor, weight: int) -> None:
        """Sums stay on the device: asking for a number each step would wait for it."""
        both = torch.stack(
            [value.float() * weight, torch.tensor(float(weight), device=value.device)]
        )
        self.sums[name] = self.sums.get(name, 0) + both

    def take(self) -> dict[str, float]:
        """The means since the last call, and what the validation has measured."""
        means = {name: float(total / weight) for name, (total, weight) in self.sums.items()}
        measured = {name: float(value) for name, value in self.metrics.compute().items()}
        self.sums = {}
        self.metrics.reset()
        return means | measured

    def configure_optimizers(self) -> Any:
        made, rate = prepare(self.trained, self.optim, self.steps)
        return [made], [{"scheduler": rate, "interval": "step"}]


class _EarlyStop(Callback):
    """Stops a run that gets no better; a pure function of its history, so it needs no state."""

    def __init__(self, progress: _Progress, monitor: str, patience: int | None) -> None:
        self.progress, self.monitor, self.patience = progress, monitor, patience

    def is_due(self) -> bool:
        return has_stalled([row[self.monitor] for row in self.progress.history], self.patience)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A kill may have come between the last checkpoint and the progress file.
        trainer.should_stop = trainer.should_stop or self.is_due()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.is_due()


class _Progress:
    """What earlier attempts have left: the history by epoch, and facts fixed at the start."""

    def __init__(self, state: Path) -> None:
        self.path = state / "progress.json"
        saved = read_json(self.path) if self.path.is_file() else {}
        self.history: list[dict[str, float]] = saved.get("history", [])
        self.facts: dict[str, Any] = saved.get("facts", {"attempts": 0})

    def fixed(self, name: str, decide: Any) -> Any:
        """A fact as the first attempt decided it."""
        if name not in self.facts:
            self.facts[name] = decide()
        return self.facts[name]

    def begin_attempt(self) -> None:
        self.facts["attempts"] += 1
        self.save()

    def save(self) -> None:
        write_json(self.path, {"facts": self.facts, "history": self.history})


class _Saved(Callback):
    """After each epoch: log it, keep the network if it is the best, and save the attempt."""

    def __init__(
        self, state: Path, batches: Batches, facts: dict[str, Any], progress: _Progress, seed: int
    ) -> None:
        self.state, self.batches, self.facts, self.progress = state, batches, facts, progress
        self.seed = seed
        self.started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"history": json.dumps(self.progress.history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The checkpoint decides: a kill may have come between it and the progress file.
        self.progress.history = json.loads(state_dict["history"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches.start(trainer.current_epoch)
        # What an epoch draws (dropout) depends on no earlier one: a new attempt draws it too.
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, _Learner)
        seconds = time.perf_counter() - self.started
        means = pl_module.take()
        if not math.isfinite(means["train/loss"]):
            raise RunError(
                f"the loss is {means['train/loss']} in epoch {trainer.current_epoch}",
                where=self.state,
                mend="lower optim.lr, or set trainer.precision=fp32",
            )
        row = {
            "epoch": trainer.current_epoch,
            **means,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_s": len(self.batches.which) / seconds,
        }
        history = self.progress.history
        monitor = pl_module.task.monitor
        best = max((old[monitor] for old in history), default=-1.0)
        history.append(row)
        if row[monitor] > best:
            self._keep(pl_module.network)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = self.progress.history[-1]
        log.info(
            "epoch %d of %d: train/loss %.4f, val/loss %.4f, val/accuracy %.4f, %.0f patches/s",
            row["epoch"] + 1, trainer.max_epochs, row["train/loss"], row["val/loss"],
            row["val/accuracy"], row["images_per_s"],
        )  # fmt: skip
        with whole(self.state / "last.ckpt") as part:
            trainer.save_checkpoint(part)
        self.progress.save()

    def _keep(self, network: nn.Module) -> None:
        with whole(self.state / "best.ckpt") as part:
            torch.save({"weights": network.state_dict(), "facts": json.dumps(self.facts)}, part)


# ---- device and precision -------------------------------------------------------------------


def _device(wanted: str) -> str:
    if wanted == "gpu" and not torch.cuda.is_available():
        raise RunError(
            "no GPU is to be had on this machine",
            where="trainer.device=gpu",
            mend="set trainer.device=auto, or run where there is one",
        )
    return "gpu" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _device_name(device: str) -> str:
    if device == "gpu":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _fastest(
    network: nn.Module, batches: Batches, device: str, trainer: dict[str, Any]
) -> tuple[str, bool]:
    """Precision and whether channels lie last; what is `auto` of them is decided by the clock.

    A CPU without bf16 instructions is far slower in bf16, and the layout that is faster in one
    precision need not be so in the other: all pairs are timed.
    """
    where = torch.device("cuda" if device == "gpu" else "cpu")
    precisions = ["fp32", "bf16"] if trainer["precision"] == "auto" else [trainer["precision"]]
    layouts = [False, True] if trainer["channels_last"] == "auto" else [trainer["channels_last"]]
    ways = list(itertools.product(precisions, layouts))
    if len(ways) == 1:
        return ways[0]
    image = next(iter(batches))[0].to(where)
    if trainer["precision"] == "auto" and device == "cpu" and min(image.shape[-2:]) < BF16_LEAST_PX:
        ways = [way for way in ways if way[0] == "fp32"]
    if len(ways) == 1:
        return ways[0]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    # In turn, and the best of each: what else the machine does meanwhile hits all alike.
    rounds = [[_time_step(network.to(where), image, *way) for way in ways] for _ in range(5)]
    seconds = dict(zip(ways, map(min, zip(*rounds[1:], strict=True)), strict=True))
    network.zero_grad(set_to_none=True)
    network.to("cpu", memory_format=torch.contiguous_format).load_state_dict(before)  # type: ignore[call-overload]
    for (precision, last), best in seconds.items():
        log.info("a step in %s%s: %.1f ms", precision, ", channels last" * last, best * 1e3)
    return min(ways, key=lambda way: seconds[way])


def _time_step(network: nn.Module, image: Tensor, precision: str, channels_last: bool) -> float:
    """Seconds for one forward and backward pass."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=layout)
    start = time.perf_counter()
    with torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"):
        answer = network(image)
    answer.float().square().mean().backward()
    if image.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _settings(section: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k != "name"}


def _quieten() -> None:
    """Lightning's hints on workers and devices do not apply: batches come from a memory map."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
