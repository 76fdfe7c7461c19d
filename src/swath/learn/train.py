"""One attempt of one run: a network trained by Lightning, which goes on where it was stopped.

What a killed attempt leaves, and how the next goes on with it, is in `swath.learn.attempts`.
Training talks to no network; who wants to watch reads the log.
"""

from __future__ import annotations

import functools
import itertools
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment  # type: ignore[attr-defined]
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.trainer.connectors import callback_connector
from torch import Tensor, nn

from swath import registry
from swath.data.patchset import PatchSet
from swath.errors import RunError
from swath.launch import Place, place_of, with_others
from swath.learn.attempts import (
    Attempt,
    EarlyStop,
    Progress,
    ProvenCheckpoints,
    Stop,
    alone,
    seed_all,
)
from swath.learn.augment import Batch
from swath.learn.batches import Batches, suited_shuffle
from swath.learn.compiling import Forward, compiled, step_s
from swath.learn.memory import enough_memory
from swath.learn.networks import BF16_LEAST_PX, build, in_layout, settings_of
from swath.learn.optim import Averaged, prepare
from swath.learn.tasks import Task
from swath.learn.together import Together, joined

log = logging.getLogger(__name__)

LEAST_CHANNELS = 16
"""On a CPU, oneDNN up to 3.12 writes past its memory in the backward pass of a strided 1 x 1
convolution of fewer channels that lie last (github.com/uxlfoundation/oneDNN/issues/6035)."""

PATCHES_AT_ONCE = 1024
"""Whose labels are summed up together."""

CARRIED = (
    "title", "synthetic", "licence", "citation", "labels", "dates", "colours", "rgb", "scale",
    "gsd_m", "size_px", "resampling", "target",
)  # fmt: skip
"""What a model file knows of its data, for those who are given nothing but the file."""

NOT_LEARNT = ("device", "checkpoint_minutes", "tta")
"""Keys of the trainer section on which it does not depend what a run learns: another value goes on
with the same run."""


@dataclass(frozen=True)
class Outcome:
    """What a run has reached."""

    rows: list[dict[str, float]]
    """One an epoch: epoch, train/loss, val/loss, what the task measures, lr, seconds,
    images_per_s."""
    best_epoch: int
    model: Path
    """The network that is kept: weights and all that is needed to use it."""
    facts: dict[str, Any]
    """parameters, epochs, seconds, device, processes, precision, channels_last, compile,
    attempts."""
    first: bool
    """Whether this process is the first of those that have trained it, which writes the results."""

    @property
    def history(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(self.rows)


def train(
    patches: PatchSet,
    parts: NDArray[np.str_],
    statistics: dict[str, Any],
    state: Path,
    *,
    seed: int,
    until_epoch: int | None = None,
    deadline: float | None = None,
    code: str = "",
    processes: int | None = 1,
    command: Sequence[str] = (),
    measured: Path | None = None,
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
        until_epoch: stop after this epoch of the schedule, without a file of the network that is
            kept; None goes to its end.
        deadline: when this process will be ended, in seconds since 1970; it stops before.
        code: fingerprint of the code; a checkpoint of other code is refused.
        processes: that train together, each a share of every batch, each on a GPU of its own; None
            is as many as were started, or one a GPU. Where none but this one was started, the
            others are, on this machine. What is learnt does not depend on it.
        command: starts another process that calls this again, with the same arguments.
        measured: a folder that runs share which are to be compared: what the clock decides for one
            of a form and device is so for all.
        model: name and settings of the network.
        task: name and settings of the task.
        optim: name and settings of the optimizer, and the schedule.
        trainer: the section of that name, complete.

    Raises:
        RunError: a device that is not there, other processes than were asked for, a task that does
            not fit the labels, an empty part, an augmentation that does not fit the patches, too
            little memory, a checkpoint of another run or none at all, or a loss that is no longer
            finite.
        StoppedError: a signal or the deadline came first; called again it goes on.
    """
    _quieten()
    stop = Stop(deadline)
    device = _device(trainer["device"])
    place = _place(processes, device, trainer["batch_size"])
    numbers = {part: _members(parts, part) for part in ("train", "val")}
    learns = _task(task, patches, numbers["train"])
    if patches.facts["labels"] != "several" and not patches.contents[numbers["val"]].sum():
        raise RunError(
            "the part val has no label", where="split", mend="give it patches that have some"
        )
    augment, keep = trainer["augment"], trainer["keep"]
    threads = torch.get_num_threads()
    seed_all(seed)
    network = build(model, len(statistics["mean"]), len(patches.classes))
    _can_be_augmented(patches, augment, trainer["tta"])
    sides_px = {patches.image.shape[-1], augment["crop_px"] or patches.image.shape[-1]}
    for side_px in sides_px:
        _fits(network, model["name"], learns, patches, side_px)
    what = {
        "model": model,
        "task": task,
        "classes": patches.classes,
        "bands": patches.facts["bands"],
        "nodata": patches.facts["nodata"],
        "statistics": {name: statistics[name] for name in ("mean", "std")},
        **({"scale": list(learns.scale)} if learns.scale else {}),
    }
    lasting = {k: v for k, v in trainer.items() if k not in NOT_LEARNT}
    run = {**what, "optim": optim, "trainer": lasting, "seed": seed, "code": code}
    with (
        stop.listening(),
        with_others(place, command),
        joined(place, device, [state.name, code, seed]) as together,
        alone(state, stop, together),
    ):
        progress = Progress(state, together, measured)
        shuffle = progress.fixed("shuffle", lambda: _shuffle(trainer, patches, numbers["train"]))
        given = what["statistics"] | {
            "device": "cuda" if device == "gpu" else "cpu",
            "rank": place.rank,
            "processes": place.size,
        }
        training = partial(
            Batches, patches, numbers["train"], seed=seed, shuffle=shuffle, augment=augment, **given
        )
        batches = training(batch_size=trainer["batch_size"])
        validation = Batches(patches, numbers["val"], batch_size=trainer["batch_size"], **given)
        with enough_memory(trainer["batch_size"], _one_step(network, learns, training)):
            ways = _ways(network, device, trainer, sides_px)
            # None yet, or what was chosen on another device and does harm on this one.
            if (progress.facts.get("precision"), progress.facts.get("channels_last")) not in ways:
                progress.forget("precision", "channels_last")
            form = [model, sorted(sides_px), trainer["batch_size"], ways, _device_name(device)]
            fastest = functools.cache(lambda: _fastest(network, batches, device, ways))
            precision = progress.fixed("precision", lambda: fastest()[0], form)
            channels_last = progress.fixed("channels_last", lambda: fastest()[1], form)
            learner = _Learner(
                network, learns, optim, trainer, batches, validation, channels_last, together
            )
            kept = what | {
                "precision": precision,
                "channels_last": channels_last,
                "batch_size": trainer["batch_size"],
                "data": {key: patches.facts[key] for key in CARRIED if key in patches.facts},
            }
            attempt = Attempt(
                state, batches, validation, kept, progress, monitor=learns.monitor,
                keep=keep, seed=seed, every_minutes=trainer["checkpoint_minutes"], stop=stop,
                together=together,
            )  # fmt: skip
            early = EarlyStop(progress, learns.monitor, trainer["early_stopping"])
            checkpoints, last = ProvenCheckpoints(run), state / "last.ckpt"
            epochs = min(until_epoch or trainer["epochs"], trainer["epochs"])
            lightning = Trainer(
                accelerator=device,
                # Lightning knows of one process alone; of the others, `together` does.
                devices=[torch.cuda.current_device()] if device == "gpu" else 1,
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
                callbacks=[attempt, early],
                # Slurm's variables alone would have Lightning think otherwise.
                plugins=[LightningEnvironment(), checkpoints],
                default_root_dir=state,
                profiler=_Unmeasured(),
            )
            if len(progress.history) < epochs and not early.is_due():
                form = [*form, precision, channels_last, trainer["compile"], learner.steps]
                before = progress.decided("compile", form) if together.size == 1 else None
                learner.compile_steps(precision, trainer["compile"], before, given["device"])
                progress.fixed("compile", lambda: learner.compiled is not None, form)
                progress.begin_attempt()
                going_on = last if last.is_file() else None
                lightning.fit(learner, batches, validation, ckpt_path=going_on, weights_only=True)
            elif until_epoch is None and last.is_file():
                saved = checkpoints.load_checkpoint(last)
                attempt.load_state_dict(saved["callbacks"][attempt.state_key])
            if until_epoch is None:
                attempt.finish()
    rows = progress.history[:epochs]
    best = len(rows) - 1
    if keep == "best":
        best = int(np.nanargmax([row[learns.monitor] for row in rows]))
    device_name = _device_name(device)
    torch.set_num_threads(threads)  # the other processes have ended
    return Outcome(
        rows=rows,
        best_epoch=best,
        model=state / "best.ckpt",
        facts={
            "parameters": sum(p.numel() for p in network.parameters()),
            "epochs": len(rows),
            "seconds": sum(row["seconds"] for row in rows),
            "device": device_name,
            "processes": place.size,
            "precision": precision,
            "channels_last": channels_last,
            "compile": progress.facts.get("compile", False),
            "attempts": progress.facts["attempts"],
        },
        first=place.first,
    )


def _task(section: dict[str, Any], patches: PatchSet, training: NDArray[np.int64]) -> Task:
    """The task that a section names, if the patches have its labels."""
    numbers, regresses = bool(patches.facts.get("target")), section["name"] == "regression"
    if numbers != regresses:
        kinds = ("classes", "numbers")
        raise RunError(
            f"learns {kinds[regresses]}, the labels of the patches are {kinds[numbers]}",
            where=f"task {section['name']}",
            mend="choose another task",
        )
    held = _held(patches, training) if numbers else patches.contents[training]
    task: Task = registry.load("task", section["name"])(
        held, patches.classes, **settings_of(section)
    )
    if not numbers and task.labels != patches.facts["labels"]:
        raise RunError(
            f"learns a label by {task.labels}, the patches have one by {patches.facts['labels']}",
            where=f"task {section['name']}",
            mend="choose another task",
        )
    return task


def _held(patches: PatchSet, which: NDArray[np.int64]) -> NDArray[np.float64]:
    """What patches hold where labels are numbers: `_sums_of` each (patch, 3)."""
    starts = range(0, len(which), PATCHES_AT_ONCE)
    labels = (patches.label.gather(which[start : start + PATCHES_AT_ONCE]) for start in starts)
    return np.concatenate([_sums_of(label) for label in labels])


def _sums_of(label: NDArray[np.float32]) -> NDArray[np.float64]:
    """Number, sum and sum of squares of the labels of each patch, (patch, 3); NaN is none."""
    values = label.reshape(len(label), -1).astype(np.float64)
    known = np.isfinite(values)
    values = np.where(known, values, 0)
    return np.stack([known.sum(axis=1), values.sum(axis=1), (values**2).sum(axis=1)], axis=1)


def _members(parts: NDArray[np.str_], part: str) -> NDArray[np.int64]:
    """Numbers of the patches of a part, of which there has to be one."""
    which = np.flatnonzero(parts == part)
    if not len(which):
        raise RunError(f"the part {part} is empty", where="split", mend="give it a share")
    return which


def _one_step(
    network: nn.Module, task: Task, training: Callable[..., Batches]
) -> Callable[[int], None]:
    """A function that trains a network one step with a batch size, to see whether there is room."""

    def step(batch_size: int) -> None:
        image, label = next(iter(training(batch_size=batch_size)))
        loss = task.loss.to(image.device)
        loss(network.to(image.device)(image), label).backward()
        torch.optim.AdamW(network.parameters()).step()  # no other keeps more for a weight

    return step


def _shuffle(trainer: dict[str, Any], patches: PatchSet, which: NDArray[np.int64]) -> str:
    """`auto` is decided by the memory, once: on another machine a run goes on in its own order."""
    wanted: str = trainer["shuffle"]
    return suited_shuffle(patches, which) if wanted == "auto" else wanted


def _can_be_augmented(patches: PatchSet, augment: dict[str, Any], tta: bool) -> None:
    """Refuse an augmentation that the patches or their labels do not allow, before it trains."""
    height, width = patches.image.shape[-2:]
    crop_px = augment["crop_px"]
    if crop_px is not None and crop_px > min(height, width):
        raise RunError(
            f"a crop of {crop_px} px is larger than a patch of {height} x {width} px",
            where="trainer.augment.crop_px",
            mend="crop less, or cut larger patches",
        )
    for key, turned in (("augment.turn", augment["turn"]), ("tta", tta)):
        if turned and height != width:
            raise RunError(
                f"patches of {height} x {width} px cannot be turned",
                where=f"trainer.{key}",
                mend="set it to false",
            )
    if patches.facts.get("target") and (augment["mixup"] or augment["cutmix"]):
        raise RunError(
            "mixup and cutmix mix classes, these labels are numbers",
            where="trainer.augment",
            mend="set both to 0",
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
    dense = patches.facts["labels"] == "pixel"
    wanted = (1, len(patches.classes), *(image.shape[2:] if dense else ()))
    if answer != wanted:
        raise RunError(
            f"answers {tuple(answer)} to one patch, the task learns {wanted}",
            where=f"model {name}",
            mend="choose a model of one label a patch (cnn) or a pixel (unet), as the task is",
        )


class _Learner(LightningModule):
    """The network, its average, its loss and metrics, its optimizer and schedule."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        optim: dict[str, Any],
        trainer: dict[str, Any],
        batches: Batches,
        validation: Batches,
        channels_last: bool,
        together: Together,
    ) -> None:
        super().__init__()
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.trained = in_layout(network, channels_last)
        self.averaged = Averaged(network, trainer["ema"]) if trainer["ema"] else None
        self.together, self.validation = together, validation
        together.normalise_batches(self.trained)
        self.task, self.loss, self.metrics = task, task.loss, task.metrics
        for metric in self.metrics.values():
            metric.sync_on_compute = False  # each process measures whole batches
        self.optim, self.batches, self.accumulate = optim, batches, trainer["accumulate"]
        self.steps = trainer["epochs"] * -(-len(batches) // self.accumulate)
        self.sums: dict[str, tuple[Tensor, int]] = {}
        self.compiled: Forward | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes each hook that it calls, forty times a step; a network would first look
        # among its weights for one of that name.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def compile_steps(
        self,
        precision: str,
        wanted: Literal["auto", True, False],
        before: bool | None,
        device: str,
    ) -> None:
        """Compile the forward pass of the training, where it is wanted or gains time.

        Args:
            precision: of the training.
            wanted: `auto` weighs what it costs.
            before: what an earlier attempt has come to; it stays, where this machine can.
            device: of the training.

        Raises:
            RunError: it is wanted, and cannot be.
        """
        if self.together.size > 1:
            # What they say to each other in the middle of a network is not compiled.
            if wanted is True:
                raise RunError(
                    f"{self.together.size} processes train, whose steps are not compiled",
                    where="trainer.compile",
                    mend="set it to auto or false, or give --processes 1",
                )
            return
        if wanted is not False and before is not False:
            image = next(iter(self.batches))[0].contiguous(memory_format=self.format)
            self.compiled = compiled(
                self.trained.to(device), image, precision=precision,
                force=wanted is True or before is True, required=wanted is True,
                steps=self.steps * self.accumulate,
            )  # fmt: skip

    def transfer_batch_to_device(self, batch: Batch, *_: Any) -> Batch:
        """Batches come where they are wanted."""
        return batch

    @property
    def network(self) -> nn.Module:
        """The network that is trained; in validation its average, which then is judged and kept."""
        return self.trained if self.training or self.averaged is None else self.averaged.network

    def _loss(self, batch: Batch, patches: int) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, answers and labels of a whole batch, of which this process may have a share."""
        image, label = batch
        forward = self.compiled if self.training and self.compiled else self.network
        with self.together.passing(patches):
            answer = forward(image.contiguous(memory_format=self.format))
        answer, label = (self.together.gathered(x, patches) for x in (answer, label))
        return self.loss(answer, label), answer, label

    def training_step(self, batch: Batch, number: int) -> Tensor:
        patches = self.batches.patches_of(number)
        loss, _, _ = self._loss(batch, patches)
        self._add("train/loss", loss.detach(), patches)
        loss = self.together.part(loss, patches)
        return loss if self.accumulate == 1 else loss * self._share(number, patches)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.together.add_gradients(self.trained)

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
        patches = self.validation.patches_of(number)
        loss, answer, label = self._loss(batch, patches)
        self._add("val/loss", loss, patches)
        label = label if self.task.labels == "number" else label.long()
        self.metrics.update(self.task.decide(answer), label)

    def _add(self, name: str, value: Tensor, patches: int) -> None:
        """Add a mean over patches; the sum stays on the device, which nobody is to wait for."""
        total, count = self.sums.get(name, (0, 0))
        self.sums[name] = (total + value.float() * patches, count + patches)

    def take(self) -> dict[str, float]:
        """The means since the last call, and what the validation has measured."""
        means = {name: float(total / count) for name, (total, count) in self.sums.items()}
        measured = {name: float(value) for name, value in self.metrics.compute().items()}
        self.sums = {}
        self.metrics.reset()
        return means | measured

    def configure_optimizers(self) -> Any:
        made, rate = prepare(self.trained, self.optim, self.steps)
        return [made], [{"scheduler": rate, "interval": "step"}]


# ---- device and precision -------------------------------------------------------------------


def _device(wanted: str) -> str:
    if wanted == "gpu" and not torch.cuda.is_available():
        raise RunError(
            "no GPU is to be had on this machine",
            where="trainer.device=gpu",
            mend="set trainer.device=auto, or run where there is one",
        )
    return "gpu" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def check_device(trainer: dict[str, Any], processes: int | None) -> None:
    """Refuse what `train` would refuse of every run: a device or processes that are not there.

    Raises:
        RunError: naming what is asked for and what there is.
    """
    _place(processes, _device(trainer["device"]), trainer["batch_size"])


def _place(processes: int | None, device: str, batch_size: int) -> Place:
    """Which process this is of those that train the run, with a GPU of its own where there are."""
    devices = torch.cuda.device_count() if device == "gpu" else 1
    place = place_of(processes, min(devices, batch_size))
    if place.size > batch_size:
        raise RunError(
            f"batches of {batch_size} cannot be divided among {place.size} processes",
            where=f"trainer.batch_size={batch_size}",
            mend="set it larger, or give fewer --processes",
        )
    if device == "gpu":
        # Slurm may show each process its own GPU and no other.
        number = place.local if devices > 1 else 0
        here = place.size if place.by == "swath" else number + 1
        if here > devices:
            raise RunError(
                f"{here} processes want a GPU each, this machine has {devices}",
                where="--processes",
                mend=f"give --processes {devices}, or trainer.device=cpu",
            )
        torch.cuda.set_device(number)
    elif place.by == "swath":  # they share this machine's processors
        torch.set_num_threads(max(1, torch.get_num_threads() // place.size))
    return place


def _device_name(device: str) -> str:
    if device == "gpu":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _ways(
    network: nn.Module, device: str, trainer: dict[str, Any], sides_px: set[int]
) -> list[tuple[str, bool]]:
    """The pairs of a precision, and whether channels lie last, that a device may train in.

    On a CPU channels do not lie last where that would break its memory, and patches of a few pixels
    are not left to bf16.
    """
    precisions = ["fp32", "bf16"] if trainer["precision"] == "auto" else [trainer["precision"]]
    layouts = [False, True] if trainer["channels_last"] == "auto" else [trainer["channels_last"]]
    if device == "cpu":
        if any(map(_overruns, network.modules())):
            layouts = [False]
        if trainer["precision"] == "auto" and min(sides_px) < BF16_LEAST_PX:
            precisions = ["fp32"]
    return list(itertools.product(precisions, layouts))


def _fastest(
    network: nn.Module, batches: Batches, device: str, ways: list[tuple[str, bool]]
) -> tuple[str, bool]:
    """The pair of precision and layout that is the fastest by the clock.

    A CPU without bf16 instructions is far slower in bf16, and the layout that is faster in one
    precision need not be so in the other: all pairs are timed.
    """
    if len(ways) == 1:
        return ways[0]
    where = torch.device("cuda" if device == "gpu" else "cpu")
    image = next(iter(batches))[0].to(where)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    # In turn, and the best of each: what else the machine does meanwhile hits all alike.
    rounds = [[_time_step(network.to(where), image, *way) for way in ways] for _ in range(5)]
    seconds = dict(zip(ways, map(min, zip(*rounds[1:], strict=True)), strict=True))
    network.zero_grad(set_to_none=True)
    network.to("cpu", memory_format=torch.contiguous_format).load_state_dict(before)  # type: ignore[call-overload]
    for (precision, last), best in seconds.items():
        log.info("a step in %s%s: %.1f ms", precision, ", channels last" * last, best * 1e3)
    return min(ways, key=lambda way: seconds[way])


def _overruns(layer: nn.Module) -> bool:
    """Whether it is a convolution that breaks a CPU's memory where channels lie last."""
    return (
        isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and max(layer.kernel_size) == 1
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < LEAST_CHANNELS
    )


def _time_step(network: nn.Module, image: Tensor, precision: str, channels_last: bool) -> float:
    """Seconds for one forward and backward pass."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    return step_s(network, network, image.contiguous(memory_format=layout), precision)


class _Unmeasured(PassThroughProfiler):
    """Opens nothing around each of the forty actions of a step, not even to measure nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        """Nothing is measured."""
        return nullcontext()


@functools.cache
def _quieten() -> None:
    """Lightning's hints on workers and devices do not apply: batches come from a memory map.

    Nor do callbacks of other packages, for which it would look through all that are installed,
    8 ms for each run.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    callback_connector._load_external_callbacks = lambda group: []  # type: ignore[attr-defined]
