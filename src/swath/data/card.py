"""The card of a dataset: its facts, frozen, as `conf/data/<name>.yaml` states them.

A card says where the files are, how they prove themselves, how they lie on the disk, and what the
bands and classes are. It is the only place in which a fact about a dataset stands.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FETCHED_BY = ("files", "drawing", "stac", "mirror", "folder")
"""Keys of a card that say how the data come, and nothing of what they are."""
UNLABELLED = 255
"""Label of a pixel that is outside, clouded or unknown; neither trained on nor scored."""

TARGET_COLOUR = "#0b6183"
"""In which a target is drawn where classes have a colour each."""

Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Name = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Hex32 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Hex64 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_DATE = r"(\.\.|\d{4}(-\d\d){0,2}(T\d\d:\d\d:\d\d(\.\d+)?Z?)?)"


class Facts(BaseModel):
    """Strictly typed, frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Band(Facts):
    """One spectral band."""

    name: str
    wavelength_nm: float | None = None
    """Central wavelength; None where a band has none (radar, elevation)."""
    gsd_m: float
    """Ground sampling distance."""


class Spectrum(Facts):
    """Bands of an imaging spectrometer, evenly spaced: too many to be listed one by one."""

    count: Annotated[int, Field(ge=2)]
    first_nm: float
    last_nm: float
    gsd_m: float

    def bands(self) -> list[dict[str, Any]]:
        """The bands as a card lists them, named b001, b002, …"""
        step = (self.last_nm - self.first_nm) / (self.count - 1)
        return [
            {
                "name": f"b{number + 1:03d}",
                "wavelength_nm": round(self.first_nm + number * step, 2),
                "gsd_m": self.gsd_m,
            }
            for number in range(self.count)
        ]


class File(Facts):
    """One file of a dataset: where it is had, and by what it is proven. Either proof suffices."""

    name: Name
    address: str | None = None
    """Public address; without one, only a mirror serves the file."""
    package: str | None = None
    """Instead of an address: the package that carries the file, as `sklearn.datasets.data`."""
    md5: Hex32 | None = None
    """Checksum of the archive as published."""
    sha256: Hex64 | None = None
    """Checksum of the file."""
    content: Hex64 | None = None
    """One SHA-256 over the sorted SHA-256 digests of the files in it: survives a re-packing."""
    unpack: bool = False
    """Whether it is an archive (zip, tar) whose members are the dataset's files."""


class Places(Facts):
    """A table of places, read from an archive of georeferenced twins if no mirror has it."""

    archive: File
    """A zip with a GeoTIFF for each patch."""
    suffix: str
    """Of the patches that the table names, e.g. `.jpg`."""


class Table(File):
    """A file that may be made from another archive instead of being fetched."""

    made_from: Places | None = None


class Search(Facts):
    """Scenes of a STAC API, or of a list of them that was frozen (`swath.data.search`)."""

    url: Annotated[str, Field(pattern="^https?://")]
    """Landing page of the API."""
    collections: Annotated[list[str], Field(min_length=1)]
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    """West, south, east, north in degrees."""
    area: str | dict[str, Any] | None = None
    """Instead of `bbox`: a GeoJSON geometry, or the path of a file that holds one or several."""
    datetime: Annotated[str, Field(pattern=f"^{_DATE}(/{_DATE})?$")]
    """A day, month or year, or two with a slash between, e.g. `2020-07-01/2020-08-31`."""
    max_cloud: Annotated[float, Field(ge=0, le=100)] | None = None
    """Largest cloud cover of a scene in per cent; None takes all."""
    assets: Annotated[dict[Name, str], Field(min_length=1)]
    """Band name -> key of the asset that holds it."""
    max_items: Annotated[int, Field(ge=1)] | None = None
    """Scenes at most, in the order in which the API lists them."""
    frozen: str | None = None
    """A list of scenes in the repository, taken instead of searching."""


class Target(Facts):
    """What is measured where labels are numbers, not classes."""

    name: Name
    unit: str = ""
    """Empty where it has none."""


class Card(Facts):
    """All that swath knows of a dataset before it has been fetched."""

    name: Name
    title: str = ""
    """Its name unless given."""
    licence: str = "not stated"
    citation: str = "not stated"
    synthetic: bool = False
    """Whether the data are drawn by a program; shown with every figure made from them."""
    layout: dict[str, Any]
    """`name` of a registered layout (`swath.data.layouts`) and its settings."""
    files: list[Table] = []
    drawing: dict[str, Any] | None = None
    """`name` of a registered drawing (`swath.data.drawings`) and its settings."""
    stac: Search | None = None
    mirror: Name | None = None
    """The dataset's folder on a mirror; the card's name unless given."""
    folder: str | None = None
    """Folder of scenes of one's own, which are linked to and not copied. A card that names neither
    files, nor a drawing, a search or a folder is of scenes that lie in `data/<name>/`."""
    bands: Annotated[list[Band], Field(min_length=1)]
    rgb: Annotated[list[str], Field(min_length=3, max_length=3)]
    """Names of the bands shown as red, green and blue; the first three unless given."""
    scale: float = 1.0
    """What a stored value is divided by to give a reflectance or a share of full brightness."""
    nodata: float | None = None
    """Stored value of a pixel that was not seen; NaN always is one."""
    saturated: float | None = None
    """Stored value from which on a pixel is saturated."""
    valid_range: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Least and largest plausible stored value; no-data and saturated pixels apart."""
    classes: dict[str, Colour]
    """Class name -> colour, in the order of the label values. Where there is a target it stands
    alone here, as all that a patch can hold."""
    target: Target | None = None
    """Instead of classes: labels are numbers, NaN where there is none."""
    counts: dict[str, int] = {}
    """Published number of patches a class, where labels belong to whole patches."""
    labels: Literal["patch", "several", "pixel"]
    """Whether a patch has one label, several, or one for each of its pixels."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, facts: Any) -> Any:
        """Fill in what follows from the rest.

        `bands: {count, first_nm, last_nm, gsd_m}` stands for evenly spaced bands.
        """
        if not isinstance(facts, dict):
            return facts
        facts = dict(facts)
        if isinstance(facts.get("bands"), dict):
            facts["bands"] = Spectrum.model_validate(facts["bands"]).bands()
        bands = facts.get("bands") or []
        names = [band["name"] for band in bands if isinstance(band, dict) and "name" in band]
        if names and not facts.get("rgb"):
            facts["rgb"] = (names * 3)[:3] if len(names) < 3 else names[:3]
        target = facts.get("target")
        if isinstance(target, dict) and not facts.get("classes"):
            facts["classes"] = {str(target.get("name")): TARGET_COLOUR}
        facts["title"] = facts.get("title") or facts.get("name", "")
        return facts

    def inconsistency(self) -> tuple[str, str] | None:
        """A key and a name in it that the card does not know elsewhere, if there is one."""
        bands = {band.name for band in self.bands}
        unknown = [("rgb", name) for name in self.rgb if name not in bands]
        unknown += [("counts", name) for name in self.counts if name not in self.classes]
        if self.target:
            unknown += [("classes", name) for name in self.classes if name != self.target.name]
            unknown += [("labels", "several")] * (self.labels == "several")
        return unknown[0] if unknown else None
