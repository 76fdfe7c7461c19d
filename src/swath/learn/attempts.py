"""What lets a run survive its attempts: checkpoints at any step, and stopping when it is asked.

A run's folder `state/<run_id>` belongs to one attempt at a time and holds what a killed one leaves;
of several processes that train together the first alone writes there. `last.ckpt` says where the
run stands, to the batch: weights, optimizer, schedule, random states, the sums of the epoch and the
history. So an attempt that goes on does, bit for bit on one CPU, what the killed one would have
done. Wall time decides when a checkpoint is written, never what is in it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor

from swath import store
from swath.errors import DataError, RunError, StoppedError
from swath.files import read_json, whole, write_json
from swath.learn.batches import Batches
from swath.learn.optim import has_stalled
from swath.learn.together import Together

log = logging.getLogger(__name__)

SHORT_S = 1.0
"""What took less is not saved out of turn: the disk would take longer than to train it again."""
LOOK_STEPS = 50
"""Steps after which the losses are looked at: each look waits for the device."""
SPARE_S = 60.0
"""What is kept free before a time limit beside a step and a checkpoint; of a short limit 5 %."""
FAR_SD = 100.0
"""Pixels farther from the mean than so many standard deviations are named with a broken loss."""


# ---- being asked to stop ----------------------------------------------------------------------


class Stop:
    """Whether an attempt is to end at its next step: by a signal, or since its time is up.

    Args:
        deadline: when this process will be ended, in seconds since 1970; None is never.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    """SIGUSR1 is what `sbatch --signal` is mostly asked to send."""

    def __init__(self, deadline: float | None = None) -> None:
        self.reason = ""
        self.latest = math.inf
        if deadline is not None:
            self.latest = deadline - min(SPARE_S, 0.05 * max(0.0, deadline - time.time()))

    def wanted(self, next_s: float = 0.0) -> bool:
        """Whether to stop now, where what comes before the next chance takes `next_s` seconds."""
        if not self.reason and time.time() + next_s > self.latest:
            self.reason = "its time limit"
        return bool(self.reason)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals ask for a stop while the block runs."""
        before = {number: signal.getsignal(number) for number in self.SIGNALS}
        self.listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler or signal.SIG_DFL)

    def listen(self) -> None:
        """Take the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                signal.signal(number, self._heard)

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice by a person: at once
        self.reason = signal.Signals(number).name


@contextmanager
def alone(state: Path, stop: Stop, together: Together) -> Iterator[None]:
    """A run's folder for these processes alone; who comes second waits.

    Two processes meet where an orphan lives on beside its restarted twin, or where two experiments
    ask for the same run. Waiting mends both: the second takes over what the first has reached. The
    kernel frees the lock with its process, so a killed one leaves none. On NFS it holds between
    machines from version 4 on; mounted with `local_lock`, only within each.

    Args:
        state: the run's folder.
        stop: whether a stop is asked for meanwhile.
        together: the processes that train it, of which the first holds the lock; the others hear
            from it all the while, so that none gives it up for lost.

    Raises:
        StoppedError: a stop was asked for meanwhile.
    """
    file: IO[str] | None = None
    try:
        holder = ""
        while True:
            if together.first:
                file = file or _lock_of(state)
                told, (file, holder) = holder, _taken(state, file)
                if holder and not told:
                    log.info("%s: waits for %s, which trains this run", state, holder)
            if not together.told(holder)[0]:
                break
            if together.any(stop.wanted()):
                raise stopped(state, stop, "while it waited for another process")
            time.sleep(0.2)
        if file:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            for left in state.glob(".*.part*"):
                left.unlink()
        if file or together.local == 0:  # one of each machine
            store.restore(state)
        yield
    finally:
        if file:
            file.close()


def _lock_of(state: Path) -> IO[str]:
    state.mkdir(parents=True, exist_ok=True)
    return (state / "lock").open("a+")


def _taken(state: Path, file: IO[str]) -> tuple[IO[str], str]:
    """The lock, and who holds it instead; nobody where it is taken."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            return file, file.read() or "another process"
        except OSError as failed:
            log.warning("%s: goes on without a lock (%s)", state, failed.strerror)
            return file, ""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (state / "lock").stat()):
                return file, ""
        # The folder was deleted meanwhile (`swath prune`): a file without a name locks nothing.
        file.close()
        file = _lock_of(state)


def stopped(state: Path, stop: Stop, when: str) -> StoppedError:
    """What a stopped attempt ends with."""
    return StoppedError(
        f"stopped by {stop.reason} {when}",
        where=state,
        mend="started again it goes on from there",
    )


# ---- what is on the disk ----------------------------------------------------------------------


class Progress:
    """What earlier attempts have left: the history by epoch, and facts fixed at the start.

    Args:
        state: the run's folder.
        together: the processes that train it; all have what the first has.
        shared: a folder in which runs that are to be compared keep what the clock has decided for
            the first of them; None shares nothing.
    """

    def __init__(self, state: Path, together: Together, shared: Path | None = None) -> None:
        self.path, self.together, self.shared = state / "progress.json", together, shared
        saved = together.told(self._saved() if together.first else {})[0]
        self.history: list[dict[str, float]] = saved.get("history", [])
        self.facts: dict[str, Any] = saved.get("facts", {"attempts": 0})

    def fixed(self, name: str, decide: Callable[[], Any], alike: Any = None) -> Any:
        """A fact as the first attempt decided it, or the first of all runs that are alike.

        Args:
            name: of the fact.
            decide: decides it.
            alike: what is the same in runs that share it, where runs share anything.
        """
        if name not in self.facts:
            decided = None
            if self.together.first:
                decided = self.decided(name, alike)
                decided = self._share(name, decide(), alike) if decided is None else decided
            self.facts[name] = self.together.told(decided)[0]
        return self.facts[name]

    def decided(self, name: str, alike: Any) -> Any:
        """What was decided before, in this run or one that is alike; None where nothing was."""
        if name in self.facts:
            return self.facts[name]
        if self.shared is None:
            return None
        file = self._file(self.shared, name, alike)
        store.bring(file)
        return read_json(file) if file.is_file() else None

    def _share(self, name: str, decided: Any, alike: Any) -> Any:
        """Let runs that are alike have it, too; where another was faster, what that has decided."""
        if self.shared is None:
            return decided
        file = self._file(self.shared, name, alike)
        own = file.with_suffix(f".{os.getpid()}")
        write_json(own, decided)
        try:
            os.link(own, file)  # unlike renaming, it fails where there is one
            if not store.share(file):
                decided = read_json(file)
        except FileExistsError:
            decided = read_json(file)
        finally:
            own.unlink()
        return decided

    @staticmethod
    def _file(shared: Path, name: str, alike: Any) -> Path:
        form = json.dumps(alike, sort_keys=True, default=str).encode()
        return shared / f"{name}-{xxhash.xxh3_64_hexdigest(form)}.json"

    def forget(self, *names: str) -> None:
        """Let facts be decided anew, by this attempt."""
        for name in names:
            self.facts.pop(name, None)

    def begin_attempt(self) -> None:
        """Count one more attempt."""
        self.facts["attempts"] += 1
        self.save(synced=False)

    def save(self, *, synced: bool = True) -> None:
        """Write it, for people and for the next attempt."""
        if self.together.first:
            write_json(self.path, {"facts": self.facts, "history": self.history}, synced=synced)
            store.keep(self.path)

    def _saved(self) -> dict[str, Any]:
        """What an earlier attempt has written; of what a power cut has broken, nothing."""
        if not self.path.is_file():
            return {}
        try:
            saved: dict[str, Any] = read_json(self.path)
        except DataError as broken:
            log.warning("%s; it is made anew from the checkpoint", broken.fault)
            return {}
        return saved


class ProvenCheckpoints(TorchCheckpointIO):
    """Checkpoints that end with their digest, and name the run that they are of.

    Args:
        run: facts of the run, without which its checkpoint would be another's.
    """

    MARK = b"\nxxh3:"
    TAIL = len(MARK) + 32

    def __init__(self, run: dict[str, Any]) -> None:
        self.run = run

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint, and its digest behind it."""
        torch.save({**checkpoint, "run": json.dumps(self.run)}, path)
        with Path(path).open("r+b") as file:
            digest = _digest(file, Path(path).stat().st_size)
            file.write(self.MARK + digest)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """A checkpoint as it was written, of this run; no code in it runs.

        Raises:
            RunError: it was changed or cut off, is none of swath's, or is of another run.
        """
        again = "delete it to train from the start"
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file:
            digest = _digest(file, max(0, size - self.TAIL))
            tail = file.read()
        if tail[: len(self.MARK)] != self.MARK:
            raise RunError("was cut off, or is no checkpoint of swath's", where=path, mend=again)
        if tail != self.MARK + digest:
            raise RunError("was changed after it was written", where=path, mend=again)
        try:
            # What comes behind the archive is not read.
            checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            saved = _flat(json.loads(checkpoint["run"]))
        except Exception as broken:
            reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
            raise RunError(
                f"is no checkpoint of swath's ({reason})", where=path, mend=again
            ) from None
        own = _flat(self.run)
        for key in sorted(saved.keys() | own.keys()):
            # As text: a statistic that is NaN equals itself.
            if json.dumps(saved.get(key)) != json.dumps(own.get(key)):
                raise RunError(
                    f"is of another run: its {key} is {saved.get(key)}, here it is {own.get(key)}",
                    where=path,
                    mend=again,
                )
        return checkpoint


def _digest(file: Any, size: int) -> bytes:
    """XXH3 of the next `size` bytes of a file, in hexadecimal."""
    digest = xxhash.xxh3_128()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest().encode()


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Tables within tables as one, by keys like `model.width`; as JSON holds it."""
    if not isinstance(value, dict):
        return {key: json.loads(json.dumps(value))}
    return {
        name: found
        for inner, each in value.items()
        for name, found in _flat(each, f"{key}.{inner}" if key else inner).items()
    }


# ---- random numbers ---------------------------------------------------------------------------


def seed_all(seed: int) -> None:
    """Seed whatever a network may draw from: Python, numpy and torch.

    Args:
        seed: at least 0 and below 2³².
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (a network of another's may draw from it)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """What `torch.manual_seed` does for processors and NVIDIA's GPUs.

    That looks for four other kinds of device, too, and keeps a traceback for each that is not
    there, which takes longer than a step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


# ---- one attempt ------------------------------------------------------------------------------


class Attempt(Callback):
    """One attempt: where it stands, when it is saved, when it stops, and which network is kept.

    Args:
        state: the run's folder.
        batches: of the training part.
        validation: of the validation part.
        facts: what is saved with the network that is kept.
        progress: what earlier attempts have left.
        monitor: the measure of an epoch by which the best is chosen; the larger the better.
        keep: `best` keeps the network of that epoch, `last` of each further one.
        seed: of the run.
        every_minutes: between two checkpoints.
        stop: asked at every step.
        together: the processes that train the run.
    """

    def __init__(
        self,
        state: Path,
        batches: Batches,
        validation: Batches,
        facts: dict[str, Any],
        progress: Progress,
        *,
        monitor: str,
        keep: Literal["best", "last"] = "best",
        seed: int,
        every_minutes: float,
        stop: Stop,
        together: Together,
    ) -> None:
        self.together = together
        self.state, self.batches, self.validation = state, batches, validation
        self.facts, self.progress, self.seed, self.stop = facts, progress, seed, stop
        self.monitor, self.keep = monitor, keep
        self.every_s = 60.0 * every_minutes
        self.position = (0, 0)
        self.left: dict[str, Any] = {}
        # Losses since the last look at them, and the batch of the first.
        self.losses: list[Tensor] = []
        self.looked_to = 0
        self.trained: dict[str, tuple[Tensor, int]] = {}
        self.validated: list[Tensor] = []
        # Weights of the network to keep: of the epoch that ends, and of an earlier one that is in a
        # checkpoint and not yet in a file of its own.
        self.better: dict[str, Tensor] | None = None
        self.kept: dict[str, Tensor] | None = None
        # When the epoch began, the last step ended and the last checkpoint was written.
        self.began = self.ticked = self.saved = time.monotonic()
        self.longest_step_s = self.longest_save_s = 0.0

    # ---- going on ----

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, optimizer and schedule."""
        cuda = torch.cuda.is_initialized()
        return {
            "history": json.dumps(self.progress.history),
            "position": self.position,
            "sums": self.trained,
            "kept": self.kept,
            "seconds": time.monotonic() - self.began,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if cuda else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The checkpoint decides: a kill may have come between it and the progress file."""
        self.progress.history = json.loads(state_dict["history"])
        self.kept = state_dict["kept"]
        self.left = state_dict

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say where the run stands in Lightning's counters, whichever hook saves it."""
        loops = checkpoint["loops"]["fit_loop"]
        loops.update(counters(*self.position, len(self.batches)))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where the last attempt stood."""
        self.stop.listen()  # Lightning has taken the signals
        epoch, batch = self.position = self.left.get("position", (0, 0))
        if self._is_to_stop():
            raise self._stopped("before its first step")
        self.together.agree("a checkpoint of (epoch, step)", (epoch, batch))
        self.together.as_the_first(pl_module)
        self.saved = self.ticked = time.monotonic()
        if not self.left:
            return
        log.info(
            "goes on in epoch %d, after %d of %d steps, as attempt %d",
            epoch + 1, batch, len(self.batches), self.progress.facts["attempts"],
        )  # fmt: skip
        if batch:
            self.batches.start(epoch, batch)
            self.looked_to = batch
            self.began = time.monotonic() - self.left["seconds"]
            learner: Any = pl_module
            sums = self.left["sums"].items()
            learner.sums = {name: (total.to(pl_module.device), n) for name, (total, n) in sums}
            torch.set_rng_state(self.left["random"])
            if pl_module.device.type == "cuda" and self.left["random_cuda"] is not None:
                torch.cuda.set_rng_state(self.left["random_cuda"])
        self.left = {}

    # ---- steps ----

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what depends on no earlier epoch."""
        self.batches.start(trainer.current_epoch)
        seed_torch(self.seed * 1_000_003 + trainer.current_epoch)
        self.began, self.looked_to = time.monotonic(), 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw for each process's share by itself, and alike where a run goes on."""
        if self.together.size > 1:
            place = (self.seed, trainer.current_epoch, batch_idx, self.together.rank)
            seed_torch(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save the run where it is time to; stop where it is asked."""
        self._tick()
        self.losses.append(outputs["loss"])
        done = batch_idx + 1
        if len(self.losses) >= LOOK_STEPS:
            self._look(trainer)
        if done % trainer.accumulate_grad_batches and done < len(self.batches):
            return  # the gradients of half a step are in no checkpoint
        stop = self._is_to_stop()
        due = self.together.first and time.monotonic() - self.saved >= self.every_s
        if stop or due:
            self._save(trainer, pl_module, trainer.current_epoch, done)
        if stop:
            raise self._stopped()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the epoch's training has summed up, apart from what the validation adds."""
        learner: Any = pl_module
        self._look(trainer)
        self.trained, self.validated = dict(learner.sums), []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop in the middle of a validation, too, which is then begun again."""
        self._tick()
        learner: Any = pl_module
        self.validated.append(learner.sums["val/loss"][0])
        if self._is_to_stop():
            learner.sums = self.trained
            self._save(trainer, pl_module, trainer.current_epoch, len(self.batches))
            raise self._stopped()

    def _is_to_stop(self) -> bool:
        """Whether any of the processes is asked to: all stop at the same step."""
        return self.together.any(self.stop.wanted(self.longest_step_s + self.longest_save_s))

    def _stopped(self, when: str = "") -> StoppedError:
        """The error of a stop; none of the processes ends before the checkpoint is written."""
        reasons = self.together.told(self.stop.reason)
        self.stop.reason = next(reason for reason in reasons if reason)
        epoch, batch = self.position
        when = when or f"in epoch {epoch + 1}, after {batch} of {len(self.batches)} steps"
        return stopped(self.state, self.stop, when)

    def _tick(self) -> None:
        now = time.monotonic()
        self.longest_step_s = max(self.longest_step_s, now - self.ticked)
        self.ticked = now

    # ---- epochs ----

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the history, and keep the network where it is the one to keep."""
        learner: Any = pl_module
        finite = torch.stack(self.validated).isfinite().tolist()
        if not all(finite):
            number = finite.index(False)
            first = number * self.validation.batch_size
            members = self.validation.which[first : first + self.validation.batch_size]
            what = f"val/loss is {float(self.validated[number])} at"
            raise self._broken(trainer, what, number, self.validation, members)
        self._prove_weights(trainer, pl_module)
        seconds = time.monotonic() - self.began
        row = {
            "epoch": trainer.current_epoch,
            **learner.take(),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_s": len(self.batches.which) / seconds,
        }
        history = self.progress.history
        best = max((old[self.monitor] for old in history), default=-math.inf)
        history.append(row)
        if self.keep == "last" or row[self.monitor] > best:
            # While it validates: of the average, where there is one.
            self.better = learner.network.state_dict()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch and save the run."""
        row = self.progress.history[-1]
        log.info(
            "epoch %d of %d: train/loss %.4f, val/loss %.4f, %s %.4f, %.0f patches/s",
            row["epoch"] + 1, trainer.max_epochs, row["train/loss"], row["val/loss"],
            self.monitor, row[self.monitor], row["images_per_s"],
        )  # fmt: skip
        due = time.monotonic() - self.saved >= SHORT_S
        if self.better is not None and self.together.first:
            if due:
                self._write_kept(self.better)
            else:
                self.kept = {name: value.cpu().clone() for name, value in self.better.items()}
        self.better = None
        if due:
            self._save(trainer, pl_module, trainer.current_epoch + 1, 0)
            self.progress.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the last epochs have left unsaved."""
        if self.position != (len(self.progress.history), 0):
            self._save(trainer, pl_module, len(self.progress.history), 0)
            self.progress.save(synced=False)

    def finish(self) -> None:
        """Write the network to keep where it is in the checkpoint alone."""
        if self.kept is not None and self.together.first:
            self._write_kept(self.kept)
            self.progress.save()

    def _write_kept(self, weights: dict[str, Tensor]) -> None:
        with whole(self.state / "best.ckpt") as part:
            torch.save({"weights": weights, "facts": json.dumps(self.facts)}, part)
        store.keep(self.state / "best.ckpt")
        self.kept = None

    # ---- saving, and never what is broken ----

    def _save(self, trainer: Trainer, pl_module: LightningModule, epoch: int, batch: int) -> None:
        """Write the checkpoint; the one before stays until this one is whole."""
        self._look(trainer)
        self._prove_weights(trainer, pl_module)
        learner: Any = pl_module
        began = time.monotonic()
        self.position, self.trained = (epoch, batch), dict(learner.sums)
        if self.together.first:
            with whole(self.state / "last.ckpt", lasting=False) as part:
                trainer.save_checkpoint(part)
            store.keep(self.state / "last.ckpt")
        self.saved = self.ticked = time.monotonic()
        self.longest_save_s = max(self.longest_save_s, self.saved - began)

    def _look(self, trainer: Trainer) -> None:
        """Refuse to go on where a loss since the last look is not finite."""
        if not self.losses:
            return
        losses, self.losses = torch.stack(self.losses), []
        finite = losses.isfinite().tolist()
        first, self.looked_to = self.looked_to, self.looked_to + len(finite)
        if not all(finite):
            number = finite.index(False)
            members = self.batches.members(trainer.current_epoch, first + number)
            what = f"the loss is {float(losses[number])} at"
            raise self._broken(trainer, what, first + number, self.batches, members)

    def _prove_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse weights that are no numbers: the loss before them may have been one still."""
        weights = [v for v in pl_module.state_dict().values() if v.is_floating_point()]
        if not torch.stack([v.isfinite().all() for v in weights]).all():
            number = max(0, self.looked_to - 1)
            members = self.batches.members(trainer.current_epoch, number)
            what = "a weight is not finite any more after"
            raise self._broken(trainer, what, number, self.batches, members)

    def _broken(
        self, trainer: Trainer, what: str, number: int, batches: Batches, members: NDArray[np.int64]
    ) -> RunError:
        """The error of a loss that is no number: where it came first, and what helps."""
        some = ", ".join(map(str, members[:5])) + (", …" if len(members) > 5 else "")
        image = batches.normalise(batches.patches.image.gather(members))
        far_sd = image.abs().flatten(1).amax(1).numpy()
        worst = int(np.argmax(far_sd))
        pixels = ""
        if not far_sd[worst] <= FAR_SD:
            pixels = f"; patch {members[worst]} is {far_sd[worst]:.3g} standard deviations off"
        mends = ["lower optim.lr"]
        if "bf16" in str(trainer.precision):
            mends.append("set trainer.precision=fp32")
        if pixels:
            mends.append("set patches like these aside (data.valid_range, quality)")
        return RunError(
            f"{what} step {number + 1} of epoch {trainer.current_epoch + 1}, "
            f"on the patches {some} ({len(members)} in all){pixels}",
            where=self.state,
            mend=" or ".join(mends),
        )


class EarlyStop(Callback):
    """Stops a run that gets no better; a pure function of its history, so it needs no state.

    Args:
        progress: with the history.
        monitor: the measure that is to grow.
        patience: epochs without a better one after which it stops; None never stops.
    """

    def __init__(self, progress: Progress, monitor: str, patience: int | None) -> None:
        self.progress, self.monitor, self.patience = progress, monitor, patience

    def is_due(self) -> bool:
        """Whether the run has got no better for so long."""
        return has_stalled([row[self.monitor] for row in self.progress.history], self.patience)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where a kill came between the last checkpoint and the progress file."""
        trainer.should_stop = trainer.should_stop or self.is_due()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after an epoch."""
        trainer.should_stop = trainer.should_stop or self.is_due()


def counters(epoch: int, batch: int, of: int) -> dict[str, Any]:
    """Lightning's counters of a run that has trained `batch` of the `of` batches of an epoch.

    What Lightning would save depends on the hook that saves, and it goes on from some of these
    places by leaving out the validation. From these it does what is left: with no batch trained it
    begins the epoch, with some it trains the others, with all it only validates.

    Args:
        epoch: the epoch, from 0.
        batch: batches of it that were trained.
        of: batches an epoch has.
    """

    def at(ready: int, done: int) -> dict[str, int]:
        return {"ready": ready, "started": ready, "processed": done, "completed": done}

    epochs, steps = at(epoch + bool(batch), epoch), at(batch, batch)
    # A validation that was begun and not finished is what Lightning begins again.
    validations = at(1, 0) if batch == of else at(0, 0)
    return {
        "epoch_progress": {"total": epochs, "current": dict(epochs)},
        "epoch_loop.batch_progress": {
            "total": at(epoch * of + batch, epoch * of + batch),
            "current": steps,
            "is_last_batch": batch == of,
        },
        "epoch_loop.val_loop.batch_progress": {
            "total": validations,
            "current": at(0, 0),
            "is_last_batch": False,
        },
    }
