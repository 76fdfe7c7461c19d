"""The training of an experiment, as a lesson calls it: the platform's own, from `state/runs`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from swath.data.patchset import PatchSet
from swath.errors import ConfigError
from swath.ladder.lesson import Floats, Given, Trained
from swath.learn.networks import load, sized
from swath.learn.train import train

Sections = dict[str, Any]


def given(
    patches: PatchSet,
    parts: NDArray[np.str_],
    statistics: dict[str, Any],
    sections: Sections,
    *,
    state: Path,
    code: str,
    changed: Callable[[dict[str, Any]], Sections],
    identity: Callable[[Sections, int], str],
) -> Given:
    """The patch set of an experiment and its training, as a lesson takes them.

    Args:
        patches: the patch set.
        parts: the part of each patch.
        statistics: of the bands over the training part.
        sections: model, task, optim, trainer, complete.
        state: folder of the runs.
        code: fingerprint of the code of a training.
        changed: the sections with other values for some keys.
        identity: the name of a run of some sections and a seed.
    """

    def to_the_end(params: dict[str, Any], seed: int, count: int | None) -> Trained:
        own = changed(params)
        name, dealt = identity(own, seed), parts
        if count is not None:
            name, dealt = f"{name}-of{count}", drawn(parts, count, seed)
        outcome = train(patches, dealt, statistics, state / name, seed=seed, code=code, **own)
        answering = _answering(load(outcome.model)[0], statistics, outcome.history)
        return replace(answering, model=outcome.model)

    def by_epochs(params: dict[str, Any], seed: int, epochs: Sequence[int]) -> list[Trained]:
        own = changed(params)
        # Apart from the run's own state, since it is begun again for an earlier epoch.
        folder = state / f"{identity(own, seed)}-followed"
        shutil.rmtree(folder, ignore_errors=True)
        found = []
        for epoch in epochs:
            network, history = _untrained(patches, own["model"], seed), pd.DataFrame()
            if epoch:
                history = train(
                    patches, parts, statistics, folder, seed=seed, code=code, until_epoch=epoch,
                    **own,
                ).history  # fmt: skip
                network.load_state_dict(_saved(folder / "last.ckpt"))
            found.append(_answering(network, statistics, history))
        shutil.rmtree(folder, ignore_errors=True)
        return found

    return Given(patches, parts, statistics, sections, train=to_the_end, follow=by_epochs)


def drawn(parts: NDArray[np.str_], count: int, seed: int) -> NDArray[np.str_]:
    """The parts with so many patches of the training part left in it; the others are unused.

    More patches of the same seed hold all of fewer.

    Raises:
        ConfigError: the training part has fewer.
    """
    own = np.flatnonzero(parts == "train")
    if count > len(own):
        raise ConfigError(
            f"{count} patches are asked for, the part train has {len(own)}", where="lesson",
            mend="ask for fewer, or give the part a larger share",
        )  # fmt: skip
    fewer = parts.astype("U6")  # as long as "unused"
    fewer[np.random.default_rng(seed).permutation(own)[count:]] = "unused"
    return fewer


def _untrained(patches: PatchSet, model: dict[str, Any], seed: int) -> nn.Module:
    """The network with the weights with which a training begins."""
    torch.manual_seed(seed)
    return sized(model, patches.image.shape[1:], len(patches.classes))


def _saved(checkpoint: Path) -> dict[str, Any]:
    """The weights of the network that is trained, in a checkpoint of its run."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    prefix = "trained."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _answering(network: nn.Module, statistics: dict[str, Any], history: pd.DataFrame) -> Trained:
    """A network that takes stored values."""
    network = network.float().eval()
    mean, std = (
        torch.tensor(statistics[name], dtype=torch.float64)[None, :, None, None]
        for name in ("mean", "std")
    )

    def answer(values: Floats) -> Floats:
        with torch.inference_mode():
            normalised = (torch.as_tensor(values, dtype=torch.float64) - mean) / std
            found: Floats = network(normalised.float()).double().numpy()
        return found

    return Trained(network, history, answer)
