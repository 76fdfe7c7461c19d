"""A trained network as an ONNX file, for runtimes that know nothing of swath.

The graph takes stored pixels, as they lie in a scene, and gives probabilities, or the numbers of a
target: normalisation, temperature and unit are part of it. That it answers as the network does is
checked before the file is kept.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from swath.errors import RunError
from swath.files import whole
from swath.learn.answers import are_several
from swath.learn.batches import Normalise
from swath.learn.networks import in_unit, load

log = logging.getLogger(__name__)

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra `onnx`."""


def export_onnx(model: Path, out: Path, *, tolerance: float = 1e-4) -> float:
    """Write the network as ONNX; gives the largest difference of an answer.

    Input `pixels` (batch, band, y, x), float32, as stored, no-data included; output `probabilities`
    (batch, class[, y, x]), or of a target `numbers` (batch[, y, x]) in its unit. The batch is free,
    and so are the sides for networks of one label a pixel. Bands, classes, no-data value and
    temperature are in the file's metadata.

    Args:
        model: the trained network.
        out: the file to write.
        tolerance: largest difference of a probability that is accepted, in float32; of a number, in
            standard deviations of the target.

    Raises:
        RunError: a package is not there, the network cannot be written, or answers differently.
    """
    network, facts = load(model)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise RunError(
            f"{', '.join(absent)} is not installed", where="export",
            mend="pip install 'swath[onnx]'",
        )  # fmt: skip
    whole_network = _FromStored(network.to(memory_format=torch.contiguous_format), facts).eval()  # type: ignore[call-overload]
    side_px = int(facts["data"].get("size_px", 64))
    pixels = torch.from_numpy(_drawn(facts, 2, side_px))
    with torch.inference_mode():
        dense = whole_network.network(pixels).ndim == 4
    free = {0: torch.export.Dim("batch")}
    if dense:
        # Networks that halve the sides ask for multiples of them, which are theirs to know.
        free |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    with whole(out) as part:
        _write(whole_network, pixels, part, free, facts)
        difference = max(
            _difference(whole_network, part, _drawn(facts, batch, side))
            for batch, side in ((2, side_px), (1, 2 * side_px if dense else side_px))
        )
        if not difference <= tolerance:
            raise RunError(
                f"the exported network differs by {difference:.2g} {_counted_in(facts)}, more than "
                f"{tolerance:g}",
                where=out,
                mend="give a larger --tolerance, or export with another torch",
            )
    log.info("%s answers as %s does, to %.1e %s", out, model, difference, _counted_in(facts))
    return difference


def _counted_in(facts: dict[str, Any]) -> str:
    """What a difference of answers is counted in."""
    return "standard deviations of the target" if facts.get("scale") else "in a probability"


class _FromStored(nn.Module):
    """From stored pixels to probabilities, or to numbers."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.nodata = network, facts["nodata"]
        self.temperature = float(facts["temperature"])
        self.several, self.target = are_several(facts), facts.get("scale")
        # As `Normalise` has them.
        normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], None)
        self.register_buffer("mean", torch.from_numpy(normalise.mean))
        self.register_buffer("scale", torch.from_numpy(normalise.scale))

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (batch, class[, y, x]), or numbers (batch[, y, x]), from stored pixels
        (batch, band, y, x)."""
        absent = ~pixels.isfinite()
        if self.nodata is not None:
            absent = absent | (pixels == self.nodata)
        image = torch.where(absent, 0.0, (pixels - self.mean) * self.scale)
        answer: Tensor = self.network(image)
        if self.target:
            return in_unit(answer, self.target)
        answer = answer / self.temperature
        # Of several labels a patch each class is there or not by itself.
        return answer.sigmoid() if self.several else answer.softmax(dim=1)


def _write(
    network: nn.Module, pixels: Tensor, path: Path, free: dict[int, Any], facts: dict[str, Any]
) -> None:
    import onnx

    try:
        program = torch.onnx.export(
            network, (pixels,), dynamo=True, dynamic_shapes=(free,), verbose=False,
            input_names=["pixels"],
            output_names=["numbers" if facts.get("scale") else "probabilities"],
        )  # fmt: skip
    except Exception as failed:
        reason = str(failed).strip().splitlines()[0] if str(failed) else type(failed).__name__
        raise RunError(
            f"cannot be written as ONNX ({reason})", where=f"model {facts['model']['name']}",
            mend="export another model",
        ) from failed  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for key in ("bands", "classes", "nodata", "statistics", "temperature", "data"):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(facts[key])
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _difference(network: _FromStored, path: Path, pixels: NDArray[np.float32]) -> float:
    """The largest difference of an answer between the file and the network."""
    import onnxruntime

    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels})
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max()) / (network.target[1] if network.target else 1)


def _drawn(facts: dict[str, Any], batch: int, side_px: int) -> NDArray[np.float32]:
    """Pixels as the training saw them, some of them no data (batch, band, y, x)."""
    rng = np.random.default_rng(0)
    mean, std = (
        np.array(facts["statistics"][name], np.float32)[:, None, None] for name in ("mean", "std")
    )
    shape = (batch, len(mean), side_px, side_px)
    pixels = mean + std * rng.standard_normal(shape).astype(np.float32)
    pixels[..., 0, 0] = np.nan if facts["nodata"] is None else facts["nodata"]
    return pixels
