"""One attempt of one run: a network trained by Lightning, which goes on where it was stopped.

A run's folder `state/<run_id>` holds what a killed attempt leaves: the last checkpoint, the best
weights and the log of the epochs. A new attempt begins with them. Training talks to no network;
who wants to watch reads the log.
"""

from __future__ import annotations

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
from swath.data.card import UNLABELLED
from swath.data.patchset import PatchSet
from swath.errors import RunError
from swath.files import read_json, whole, write_json
from swath.learn.augment import Batch
from swath.learn.batches import Batches, suited_shuffle
from swath.learn.tasks import Task

log = logging.getLogger(__name__)

BF16_LEAST_PX = 8
"""On a CPU, torch 2.13 convolves patches of 3 px in bf16 to NaN now and then (one pass in sixty),
from memory that nobody has written; from 8 px on none was seen."""


@dataclass(frozen=True)
class Outcome:
    """What a run has reached."""

    history: pd.DataFrame
    """One row an epoch: epoch, train/loss, val/loss, val/accuracy, lr, seconds, images_per_s."""
    best_epoch: int
    model: Path
    """The best network: weights and all that is needed to use it."""
    facts: dict[str, Any]
    """parameters, epochs, seconds, device, precision, attempts."""


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
        optim: optimizer and schedule.
        trainer: epochs, batch_size, device, precision, channels_last, shuffle, augment.

    Raises:
        RunError: a device that is not there, a task that does not fit the labels, an empty part,
            an augmentation that does not fit the patches, or a loss that is no longer finite.
    """
    _quieten()
    device = _device(trainer["device"])
    learns: Task = registry.load("task", task["name"])(**_settings(task))
    if learns.labels != patches.facts["labels"]:
        raise RunError(
            f"learns a label by {learns.labels}, the patches have one by {patches.facts['labels']}",
            where=f"task {task['name']}",
            mend="choose the other task",
        )
    numbers = {part: np.flatnonzero(parts == part) for part in ("train", "val")}
    for part, which in numbers.items():
        if not len(which):
            raise RunError(f"the part {part} is empty", where="split", mend="give it a share")
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
    precision = progress.fixed(
        "precision", lambda: _precision(trainer["precision"], network, batches, device, trainer)
    )
    learner = _Learner(
        network, learns, optim, trainer["epochs"], len(batches), trainer["channels_last"]
    )
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
            "channels_last": trainer["channels_last"],
        },
        progress,
        seed,
    )
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
        gradient_clip_val=1.0,
        callbacks=[saved],
        # One process trains, also where Slurm's variables would have Lightning think otherwise.
        plugins=[LightningEnvironment()],
        default_root_dir=state,
    )
    if len(progress.history) < epochs:
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
        best_epoch=int(history["val/accuracy"].idxmax()),
        model=state / "best.ckpt",
        facts={
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": len(history),
            "seconds": float(history["seconds"].sum()),
            "device": _device_name(device),
            "precision": precision,
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
    """The network, its loss, its optimizer and schedule."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        optim: dict[str, Any],
        epochs: int,
        steps_an_epoch: int,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = in_layout(network, channels_last)
        self.task, self.optim, self.steps = task, optim, epochs * steps_an_epoch
        self.sums: dict[str, Tensor] = {}

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image, label = batch
        answer = self.network(image.contiguous(memory_format=self.format))
        return self.task.loss(answer, label), answer

    def training_step(self, batch: Batch, number: int) -> Tensor:
        loss, _ = self._loss(batch)
        self._add("train/loss", loss.detach(), len(batch[1]))
        return loss

    def validation_step(self, batch: Batch, number: int) -> None:
        loss, answer = self._loss(batch)
        self._add("val/loss", loss, len(batch[1]))
        counted = batch[1] != UNLABELLED
        right = (answer.argmax(1) == batch[1]) & counted
        self._add("val/accuracy", right.sum() / counted.sum().clamp(min=1), int(counted.sum()))

    def _add(self, name: str, value: Tensor, weight: int) -> None:
        """Sums stay on the device: asking for a number each step would wait for it."""
        both = torch.stack(
            [value.float() * weight, torch.tensor(float(weight), device=value.device)]
        )
        self.sums[name] = self.sums.get(name, 0) + both

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: float(total / weight) for name, (total, weight) in self.sums.items()}
        self.sums = {}
        return means

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.parameters() if p.ndim > 1]
        plain = [p for p in self.parameters() if p.ndim <= 1]  # biases and normalisation
        groups = [
            {"params": decayed, "weight_decay": self.optim["weight_decay"]},
            {"params": plain, "weight_decay": 0.0},
        ]
        if self.optim["name"] == "adamw":
            optimizer: Any = torch.optim.AdamW(groups, lr=self.optim["lr"])
        else:
            optimizer = torch.optim.SGD(
                groups, lr=self.optim["lr"], momentum=self.optim["momentum"], nesterov=True
            )
        factor = schedule(self.optim["schedule"], self.optim["warmup"], self.steps)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def schedule(name: str, warmup: float, steps: int) -> Any:
    """Share of the largest learning rate at each step.

    `onecycle` rises in a straight line through the warm-up and falls by half a cosine to 0,
    `cosine` falls from the start, `constant` stays.
    """
    rise = max(1, round(warmup * steps)) if name == "onecycle" else 0

    def factor(step: int) -> float:
        if name == "constant":
            return 1.0
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return factor


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
        best = max((old["val/accuracy"] for old in history), default=-1.0)
        history.append(row)
        if row["val/accuracy"] > best:
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


def _precision(
    wanted: str, network: nn.Module, batches: Batches, device: str, trainer: dict[str, Any]
) -> str:
    """`auto` is decided by the clock: a CPU without bf16 instructions is far slower in it."""
    if wanted != "auto":
        return wanted
    where = torch.device("cuda" if device == "gpu" else "cpu")
    image = next(iter(batches))[0].to(where)
    if device == "cpu" and min(image.shape[-2:]) < BF16_LEAST_PX:
        return "fp32"
    layout = torch.channels_last if trainer["channels_last"] else torch.contiguous_format
    image = image.contiguous(memory_format=layout)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    in_layout(network.to(where), trainer["channels_last"])
    # In turn, and the best of each: what else the machine does meanwhile hits both alike.
    rounds = [
        {name: _time_step(network, image, name) for name in ("fp32", "bf16")} for _ in range(5)
    ]
    seconds = {name: min(times[name] for times in rounds[1:]) for name in rounds[0]}
    network.zero_grad(set_to_none=True)
    network.to("cpu").load_state_dict(before)
    log.info(
        "a step takes %.0f ms in float32, %.0f ms in bf16", *(s * 1e3 for s in seconds.values())
    )
    return min(seconds, key=lambda name: seconds[name])


def _time_step(network: nn.Module, image: Tensor, precision: str) -> float:
    """Seconds for one forward and backward pass."""
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
