"""What a trained network says of patches; how fast it says it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from swath.data.patchset import PatchSet
from swath.errors import RunError
from swath.learn.answers import Answer, are_several, decided, joined
from swath.learn.batches import Batches
from swath.learn.memory import room_for
from swath.learn.networks import BF16_LEAST_PX, in_unit, load

log = logging.getLogger(__name__)

Precision = Literal["auto", "bf16", "fp32"]

MOST_PATCHES = 128
"""That a network is given together; more are not faster."""


@dataclass(frozen=True)
class Trained:
    """A trained network where it is used: on its device and in its precision."""

    network: nn.Module
    facts: dict[str, Any]
    """What was saved with it: bands, classes, statistics, and more."""
    device: torch.device
    precision: str
    """`bf16` or `fp32`."""

    @property
    def batch_size(self) -> int:
        """Patches that it is given together: no more than there was room for in training."""
        return min(MOST_PATCHES, self.facts.get("batch_size", MOST_PATCHES))

    def __call__(self, image: Tensor) -> Tensor:
        """Its answer to images (batch, band, y, x): (batch, class[, y, x]), before the softmax."""
        low = self.precision == "bf16"
        layout = torch.channels_last if self.facts["channels_last"] else torch.contiguous_format
        # The first layer would make bf16 of it anyway: half the bytes are laid out anew.
        image = image.to(self.device, torch.bfloat16 if low else torch.float32)
        image = image.contiguous(memory_format=layout)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            answer: Tensor = self.network(image)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return answer

    def probabilities(self, answer: Tensor, dim: int = 1) -> Tensor:
        """Probabilities from an answer with its classes along `dim`, in float32: as sure as the
        validation part was answered rightly (`swath.learn.calibrate`)."""
        scaled = answer.float() / self.facts["temperature"]
        # Of several labels a patch each class is there or not by itself.
        return scaled.sigmoid() if are_several(self.facts) else scaled.softmax(dim)


def opened(model: Path, precision: Precision = "auto") -> Trained:
    """A trained network on this machine's device.

    Args:
        model: its file.
        precision: `auto` is that of the training; on a CPU that is slower in bf16, float32.

    Raises:
        RunError: the file is no model of swath's.
    """
    network, facts = load(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = facts["precision"] if precision == "auto" else precision
    trained = Trained(network.to(device), facts, device, chosen)
    if precision == "auto" and chosen == "bf16" and device.type == "cpu":
        side_px = facts["data"].get("size_px", 128)
        if side_px < BF16_LEAST_PX:
            return replace(trained, precision="fp32")
        image = torch.zeros(1, len(facts["bands"]), side_px, side_px)
        both = [replace(trained, precision=name) for name in ("bf16", "fp32")]
        return min(both, key=lambda one: least_seconds(one, image))
    return trained


def least_seconds(trained: Trained, image: Tensor, passes: int = 2) -> float:
    """The shortest of some forward passes, after one that counts not."""
    trained(image)
    times = []
    for _ in range(passes):
        start = time.perf_counter()
        trained(image)
        times.append(time.perf_counter() - start)
    return min(times)


def predict_patches(model: Path, patches: PatchSet, which: NDArray[np.int64]) -> Answer:
    """What the network says of patches: classes, of several labels each by itself, or numbers.

    Raises:
        RunError: the model knows other bands or classes than the patch set, or another kind of
            labels; there are no patches, or too little memory.
    """
    if not len(which):
        raise RunError("no patch is to be predicted", where="split", mend="give test a share")
    trained = opened(model)
    facts = trained.facts
    for what, known, given in (
        ("bands", facts["bands"], patches.facts["bands"]),
        ("classes", facts["classes"], patches.classes),
    ):
        if known != given:
            raise RunError(
                f"knows the {what} {', '.join(known)}, the patch set has {', '.join(given)}",
                where=model,
                mend="train on this patch set",
            )
    labels = patches.facts["labels"]
    if (learnt := facts["data"].get("labels", labels)) != labels:
        raise RunError(
            f"has learnt labels by {learnt}, the patch set has them by {labels}",
            where=model,
            mend="train on this patch set",
        )
    if bool(facts.get("scale")) != bool(patches.facts.get("target")):
        raise RunError(
            "one of the model and the patch set is of numbers, the other of classes",
            where=model,
            mend="train on this patch set",
        )
    say = _numbers if facts.get("scale") else _several if labels == "several" else _likeliest
    batches = Batches(
        patches, which, batch_size=trained.batch_size, device=trained.device.type,
        **facts["statistics"],
    )  # fmt: skip
    start = time.perf_counter()
    with room_for(f"batches of {trained.batch_size} patches"):
        answers = [say(trained, image) for image, _ in batches]
    seconds = time.perf_counter() - start
    log.info(
        "%d patches in %.2f s (%s): %.0f patches/s",
        len(which), seconds, trained.precision, len(which) / seconds,
    )  # fmt: skip
    return joined(answers)


def _likeliest(trained: Trained, image: Tensor) -> Answer:
    """The class and its probability (batch[, y, x]) of images."""
    answer = trained(image)
    # Of the answer itself: no temperature can make equal what is not, and so change a class.
    index, share = answer.argmax(dim=1), trained.probabilities(answer).amax(dim=1)
    return Answer(index.to(torch.uint8).cpu().numpy(), share.to(torch.float16).cpu().numpy())


def _several(trained: Trained, image: Tensor) -> Answer:
    """Whether each class is there, and its probability (batch, class), in images."""
    return decided(trained.probabilities(trained(image)).cpu().numpy())


def _numbers(trained: Trained, image: Tensor) -> Answer:
    """Numbers in the target's unit (batch[, y, x]) for images."""
    return Answer(in_unit(trained(image), tuple(trained.facts["scale"])).cpu().numpy(), None)
