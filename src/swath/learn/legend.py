"""What the values of a map say: how a network's answers become its rasters.

There is a legend for each kind of answer. `swath.learn.mapping` asks it what is blended where
windows overlap, which rasters there are, and for their values; it knows nothing of classes itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from torch import Tensor

from swath.data.card import UNLABELLED
from swath.learn.answers import are_several
from swath.learn.networks import in_unit
from swath.learn.predict import Trained

STEPS = 250
"""Probabilities and uncertainty are stored in steps of 1/250; 255 is no data."""

Layers = dict[str, NDArray[Any]]
"""Rows of a map by kind, each (band, y, x)."""


@dataclass(frozen=True)
class Raster:
    """One kind of raster of a map."""

    bands: tuple[str, ...]
    """What each says."""
    dtype: str = "uint8"
    nodata: float = UNLABELLED
    step: float = 1.0
    """What a stored value counts."""
    unit: str = ""
    classes: tuple[str, ...] = ()
    """Their names, where values are their numbers."""
    colours: tuple[str, ...] = ()
    """`#rrggbb` of each."""

    @property
    def profile(self) -> dict[str, Any]:
        """Number of bands, dtype and no-data value, for rasterio."""
        return {"count": len(self.bands), "dtype": self.dtype, "nodata": self.nodata}

    @property
    def packing(self) -> dict[str, str]:
        """How GDAL thins and packs it: numbers are averaged, and kept apart by their bytes."""
        if self.dtype == "uint8":
            return {"overview_resampling": "nearest"}
        return {"overview_resampling": "average", "predictor": "yes"}

    def describe(self, file: rasterio.io.DatasetWriter) -> None:
        """Write into an opened raster what its values say."""
        file.descriptions = self.bands
        if self.step != 1:
            file.scales = (self.step,) * file.count
        if self.unit:
            file.units = (self.unit,) * file.count
        if self.classes:
            file.update_tags(1, **{str(value): name for value, name in enumerate(self.classes)})
        if self.colours:
            file.write_colormap(1, colour_table(self.colours))
            file.colorinterp = [ColorInterp.palette]

    def empty(self, rows: int, columns: int) -> NDArray[Any]:
        """Room for some rows of it (band, y, x)."""
        return np.empty((len(self.bands), rows, columns), self.dtype)


class Legend(Protocol):
    """How the answers of one network become the values of its maps."""

    def blended(self, answer: Tensor) -> Tensor:
        """What windows are averaged by where they overlap, (channel, y, x) in float32, from an
        answer of that shape."""

    def rasters(self) -> dict[str, Raster]:
        """The rasters of a map by kind; the first is of the kind of a scene's labels."""

    def fill(self, layers: Layers, into: tuple[slice, slice], blended: Tensor) -> None:
        """Write the values of finished pixels into a part (y, x) of their layers."""


def legend_of(trained: Trained, colours: list[str], probabilities: bool) -> Legend:
    """The legend of a network's maps.

    Args:
        trained: the network.
        colours: `#rrggbb` of each class; none leaves the classes without.
        probabilities: whether the probability of every class is among the rasters.
    """
    facts = trained.facts
    if facts.get("scale"):
        target = facts["data"].get("target") or {"name": facts["classes"][0]}
        return _Numbers(tuple(facts["scale"]), target["name"], target.get("unit") or "")
    names = tuple(facts["classes"])
    if are_several(facts):
        return _Several(trained, names)
    return _Classes(trained, names, tuple(colours), probabilities)


@dataclass(frozen=True)
class _Classes:
    """One class a pixel, and how sure it is."""

    trained: Trained
    names: tuple[str, ...]
    colours: tuple[str, ...]
    probabilities: bool

    def blended(self, answer: Tensor) -> Tensor:
        return self.trained.probabilities(answer, dim=0)

    def rasters(self) -> dict[str, Raster]:
        kinds = {
            "classes": Raster(("class",), classes=self.names, colours=self.colours),
            "confidence": Raster(("probability of the class in percent",)),
            "uncertainty": Raster(("entropy / log(number of classes)",), step=1 / STEPS),
        }
        return kinds | ({"probabilities": _shares(self.names)} if self.probabilities else {})

    def fill(self, layers: Layers, into: tuple[slice, slice], blended: Tensor) -> None:
        most = blended.amax(dim=0)
        # The first class that reaches the most; argmax takes ten times as long over few classes,
        # and a comparison that gives truths, not numbers, five times.
        order = torch.arange(len(blended), 0, -1, dtype=blended.dtype, device=blended.device)
        reached = torch.eq(blended, most, out=torch.empty_like(blended))
        rank = reached.mul_(order[:, None, None]).amax(dim=0)
        layers["classes"][0, *into] = (len(blended) - rank).to(torch.uint8).cpu().numpy()
        layers["confidence"][0, *into] = _steps(most, 100)
        entropy = -_log2(blended.clamp(min=1e-20)).mul_(blended).sum(dim=0)
        share = entropy / math.log2(max(len(blended), 2))
        layers["uncertainty"][0, *into] = _steps(share, STEPS)
        if self.probabilities:
            layers["probabilities"][:, *into] = _steps(blended, STEPS)


@dataclass(frozen=True)
class _Several:
    """Of each class by itself, how probable it is."""

    trained: Trained
    names: tuple[str, ...]

    def blended(self, answer: Tensor) -> Tensor:
        return self.trained.probabilities(answer, dim=0)

    def rasters(self) -> dict[str, Raster]:
        return {"probabilities": _shares(self.names)}

    def fill(self, layers: Layers, into: tuple[slice, slice], blended: Tensor) -> None:
        layers["probabilities"][:, *into] = _steps(blended, STEPS)


@dataclass(frozen=True)
class _Numbers:
    """A number in the target's unit."""

    scale: tuple[float, float]
    name: str
    unit: str

    def blended(self, answer: Tensor) -> Tensor:
        return in_unit(answer[None], self.scale)

    def rasters(self) -> dict[str, Raster]:
        nodata = float("nan")
        return {"numbers": Raster((self.name,), dtype="float32", nodata=nodata, unit=self.unit)}

    def fill(self, layers: Layers, into: tuple[slice, slice], blended: Tensor) -> None:
        layers["numbers"][:, *into] = blended.cpu().numpy()


def _shares(names: tuple[str, ...]) -> Raster:
    """The probability of each class."""
    return Raster(names, step=1 / STEPS)


def _log2(share: Tensor) -> Tensor:
    """The logarithm; on a CPU, NumPy takes a fifth of torch's time."""
    return share.log2() if share.is_cuda else torch.from_numpy(np.log2(share.numpy()))


def _steps(value: Tensor, steps: int) -> NDArray[np.uint8]:
    """A share as a whole number of steps."""
    return (value * steps).round_().clamp_(0, steps).to(torch.uint8).cpu().numpy()


def colour_table(colours: tuple[str, ...]) -> dict[int, tuple[int, int, int, int]]:
    """`#rrggbb` of each class as GDAL has colours; no data is transparent."""
    table = {
        value: (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16), 255)
        for value, colour in enumerate(colours)
    }
    return table | {UNLABELLED: (0, 0, 0, 0)}
