"""The card of a dataset: its facts, frozen, as `conf/data/<name>.yaml` states them.

A card says where the files are, how they prove themselves, how they lie on the disk, and what the
bands and classes are. It is the only place in which a fact about a dataset stands.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

UNLABELLED = 255
"""Label of a pixel that is outside, clouded or unknown; neither trained on nor scored."""

Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Facts(BaseModel):
    """Strictly typed, frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Band(Facts):
    """One spectral band."""

    name: str
    wavelength_nm: float
    """Central wavelength."""
    gsd_m: float
    """Ground sampling distance."""


class File(Facts):
    """One file of a dataset: where it is had, and by what it is proven. Either proof suffices."""

    name: Name
    address: str | None = None
    """Public address; without one, only a mirror serves the file."""
    md5: Hex32 | None = None
    """Checksum of the archive as published."""
    sha256: Hex64 | None = None
    """Checksum of the file."""
    content: Hex64 | None = None
    """One SHA-256 over the sorted SHA-256 digests of the files in a zip: survives a re-packing."""


class Places(Facts):
    """A table of places, read from an archive of georeferenced twins if no mirror has it."""

    archive: File
    """A zip with a GeoTIFF for each patch."""
    suffix: str
    """Of the patches that the table names, e.g. `.jpg`."""


class Table(File):
    """A file that may be made from another archive instead of being fetched."""

    made_from: Places | None = None


class Drawing(Facts):
    """A dataset that is drawn instead of fetched (`swath.data.landscape`)."""

    seed: int = 0
    scenes: Annotated[int, Field(ge=1)] = 4
    size_px: Annotated[int, Field(ge=128)] = 768


class Card(Facts):
    """All that swath knows of a dataset before it has been fetched."""

    name: Name
    title: str
    licence: str
    citation: str
    synthetic: bool = False
    """Whether the data are drawn by a program; shown with every figure made from them."""
    layout: dict[str, Any]
    """`name` of a registered layout (`swath.data.layouts`) and its settings."""
    files: list[Table] = []
    drawing: Drawing | None = None
    bands: Annotated[list[Band], Field(min_length=1)]
    rgb: list[str]
    """Names of the bands shown as red, green and blue."""
    scale: float
    """What a stored value is divided by to give a reflectance or a share of full brightness."""
    nodata: int | None = None
    classes: dict[str, Colour]
    """Class name -> colour, in the order of the label values."""
    counts: dict[str, int] = {}
    """Published number of patches a class, where labels belong to whole patches."""
    labels: Literal["patch", "pixel"]
    """Whether a label belongs to a whole patch or to each pixel."""

    def inconsistency(self) -> tuple[str, str] | None:
        """A key and a name in it that the card does not know elsewhere, if there is one."""
        bands = {band.name for band in self.bands}
        unknown = [("rgb", name) for name in self.rgb if name not in bands]
        unknown += [("counts", name) for name in self.counts if name not in self.classes]
        return unknown[0] if unknown else None
