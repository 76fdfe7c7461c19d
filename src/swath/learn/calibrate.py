"""How sure a trained network may be: one temperature that its answers are divided by.

A network that was trained with smoothed labels is less sure than it is right, one that was trained
for long is surer. The temperature that fits the validation part best mends both alike, and changes
no class that the network decides for.
"""

from __future__ import annotations

import io
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from swath.data.card import UNLABELLED
from swath.data.patchset import PatchSet
from swath.files import whole
from swath.learn.batches import Batches
from swath.learn.memory import room_for
from swath.learn.predict import Trained, opened
from swath.learn.symmetry import SymmetryAveraged

log = logging.getLogger(__name__)

BINS = 15
"""Of confidence, as in Guo et al. 2017."""
BOUNDS = (0.05, 20.0)
"""Of the temperature; a network that asks for more has nothing to say of the validation part."""
PATCHES = 10_000
"""Patches that are asked at most."""
LABELS = 200_000
"""Labels of them that are compared at most: the temperature is then known to less than 1 %."""


def calibrate(
    model: Path,
    patches: PatchSet,
    which: NDArray[np.int64],
    out: Path,
    *,
    tta: bool = False,
) -> dict[str, Any]:
    """Write a trained network with the temperature that fits patches best, and tell what it does.

    At most `PATCHES` patches are asked, in float32; of labels by pixel, as many of each batch are
    compared as make `LABELS` of all. Both are drawn by a fixed seed, so that the same network and
    patches give the same file, byte by byte. Numbers have no probability, and no temperature.

    Args:
        model: the file of the network.
        patches: the patch set.
        which: numbers of the patches, which it was not trained on: those of the validation part.
        out: the file to write, `model` with its temperature.
        tta: whether the network is to answer with its mean over symmetries
            (`swath.learn.symmetry`), and so is asked here; the file says so.

    Returns:
        temperature and tta; and as `calibration` the number of labels, and their mean negative
        log-likelihood (nll_before, nll_after) and expected calibration error (ece_before,
        ece_after) on these same patches.

    Raises:
        RunError: the file is no model of swath's, or there is too little memory.
    """
    saved = torch.load(model, weights_only=True, map_location="cpu")
    facts = json.loads(saved["facts"])
    learnt: dict[str, Any] = {"tta": tta}
    told: dict[str, Any] = {}
    if "scale" not in facts:
        learnt["temperature"], found = _fitted(model, patches, which, tta)
        told["calibration"] = found
    saved["facts"] = json.dumps(facts | learnt)
    content = io.BytesIO()  # a file's name would become part of its bytes
    torch.save(saved, content)
    with whole(out) as part:
        part.write_bytes(content.getvalue())
    return learnt | told


def _fitted(
    model: Path, patches: PatchSet, which: NDArray[np.int64], tta: bool
) -> tuple[float, dict[str, Any]]:
    """The temperature, and what it does."""
    generator = np.random.default_rng(0)
    drawn = np.sort(generator.permutation(which)[:PATCHES])
    # The precision that is the fastest would be another from one attempt to the next.
    trained = opened(model, "fp32")
    if tta:
        trained = replace(trained, network=SymmetryAveraged(trained.network))
    with room_for(f"batches of {trained.batch_size} patches"):
        answer, label = _answers(trained, patches, drawn, generator)
    temperature = fit_temperature(answer, label)
    found: dict[str, Any] = {"labels": len(label)}
    for when, value in (("before", 1.0), ("after", temperature)):
        found[f"nll_{when}"] = _cost(answer, label, value)
        found[f"ece_{when}"] = _calibration_error(answer, label, value)
    log.info(
        "temperature %.3f: on %d labels of the validation part the calibration error goes from "
        "%.4f to %.4f",
        temperature, len(label), found["ece_before"], found["ece_after"],
    )  # fmt: skip
    return temperature, found


def fit_temperature(answer: Tensor, label: Tensor) -> float:
    """The temperature T > 0 of the least negative log-likelihood of labels, answers being z / T.

    In 1/T the likelihood is convex, so that there is one minimum. Where every label is answered
    rightly there is none, since the smaller T the better: it is 1 then.

    Args:
        answer: logits z, (label, class) of a softmax, or (label) of a sigmoid.
        label: numbers of classes (label), or 0 and 1.

    Source:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017
        (arXiv:1706.04599), section 4.2; for one class each by a sigmoid likewise.
    """
    decided = answer.argmax(dim=1) if answer.ndim == 2 else answer > 0
    if bool((decided == label).all()):
        return 1.0
    found = minimize_scalar(
        lambda log_t: _cost(answer, label, math.exp(log_t)),
        bounds=tuple(map(math.log, BOUNDS)), method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(math.exp(found.x))


def _cost(answer: Tensor, label: Tensor, temperature: float) -> float:
    """The mean negative log-likelihood."""
    scaled = answer.double() / temperature
    if answer.ndim == 2:
        return float(F.cross_entropy(scaled, label))
    return float(F.binary_cross_entropy_with_logits(scaled, label.double()))


def _calibration_error(answer: Tensor, label: Tensor, temperature: float) -> float:
    """The expected calibration error, as `swath.study.scores` has it of the test part."""
    scaled = answer / temperature
    if answer.ndim == 2:
        share = scaled.softmax(dim=1)
        return float(multiclass_calibration_error(share, label, share.shape[1], n_bins=BINS))
    return float(binary_calibration_error(scaled.sigmoid(), label, n_bins=BINS))


def _answers(
    trained: Trained,
    patches: PatchSet,
    which: NDArray[np.int64],
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Logits and labels as `fit_temperature` takes them, on the CPU; of some pixels each batch."""
    statistics = trained.facts["statistics"]
    batches = Batches(
        patches, which, batch_size=trained.batch_size, device=trained.device.type, **statistics
    )
    each = max(1, LABELS // max(1, len(which)))
    answers, labels = [], []
    for image, label in batches:
        answer = trained(image)
        if label.is_floating_point():  # several labels a patch: each class by itself
            known = label != UNLABELLED
            answer, label = answer[known], label[known].long()
        else:
            # (batch, y, x) or (batch): where there is a label, and some of these places.
            places = (label != UNLABELLED).nonzero()
            if len(places) > (most := each * len(label)):
                some = np.sort(generator.choice(len(places), most, replace=False))
                places = places[torch.from_numpy(some).to(places.device)]
            at = tuple(places.T)
            answer, label = answer[at[0], :, *at[1:]], label[at]
        answers.append(answer.cpu())
        labels.append(label.cpu())
    return torch.cat(answers), torch.cat(labels)
