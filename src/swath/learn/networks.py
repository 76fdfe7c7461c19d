"""A network by its name, and one that was trained, as it was kept.

Who predicts needs this and nothing that trains: importing Lightning and torchmetrics takes twice
as long as importing torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swath import registry
from swath.errors import RunError
from swath.learn.symmetry import SymmetryAveraged

BF16_LEAST_PX = 8
"""On a CPU, torch 2.13 convolves patches of 3 px in bf16 to NaN now and then (one pass in sixty),
from memory that nobody has written; from 8 px on none was seen."""


def build(model: dict[str, Any], bands: int, classes: int) -> nn.Module:
    """The network that a model section names."""
    network: nn.Module = registry.load("model", model["name"])(bands, classes, **settings_of(model))
    return network


def sized(model: dict[str, Any], shape: Sequence[int], classes: int) -> nn.Module:
    """The network that a model section names, in evaluation mode, once it has seen a patch.

    Only a patch says how many weights a layer has that takes all of its values.

    Args:
        model: the section.
        shape: of a patch: bands, rows, columns.
        classes: how many it tells apart.
    """
    network = build(model, shape[0], classes).eval()
    with torch.inference_mode():
        network(torch.zeros(1, *shape))
    return network


def load(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, and the facts saved with it.

    Raises:
        RunError: the file is no model of swath's. It is read as data: no code in it runs.
    """
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        # Until it is calibrated, a network is as sure as it says.
        facts = {"temperature": 1.0, "tta": False, "data": {}} | json.loads(saved["facts"])
        network = build(facts["model"], len(facts["bands"]), len(facts["classes"]))
        network.load_state_dict(saved["weights"])
    except FileNotFoundError:
        raise RunError("there is no such model", where=path, mend="run the stage `train`") from None
    except Exception as broken:
        reason = str(broken).splitlines()[0] if str(broken) else type(broken).__name__
        raise RunError(
            f"is not a model of swath's ({reason})", where=path, mend="train it again"
        ) from None
    network = in_layout(network, facts["channels_last"])
    return (SymmetryAveraged(network) if facts["tta"] else network).eval(), facts


def in_layout(network: nn.Module, channels_last: bool) -> nn.Module:
    """The network with its weights laid out as its batches are."""
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def settings_of(section: dict[str, Any]) -> dict[str, Any]:
    """What a section says to that which it names."""
    return {key: value for key, value in section.items() if key != "name"}


def in_unit(answer: Tensor, scale: tuple[float, float]) -> Tensor:
    """Numbers (batch[, y, x]) in the target's unit, from an answer (batch, 1[, y, x])."""
    return answer.float().squeeze(1) * scale[1] + scale[0]
