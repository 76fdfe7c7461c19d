"""Small scenes of any bands and GSD, written to a folder; and faults that are planted in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from swath.data.card import Card
from swath.files import files_below, write_manifest

Image = NDArray[np.float32]
"""(band, y, x), in reflectance."""

SATURATED, PLAUSIBLE = 1.5, (-0.05, 1.2)


def card_of(name: str, bands: int, gsd_m: float) -> Card:
    """The card of scenes of so many bands, with two classes."""
    return Card.model_validate({
        "name": name, "synthetic": True, "labels": "pixel",
        "layout": {"name": "scene_folders", "images": ["*_image.tif"], "labels": "*_classes.tif",
                   "bands_by": "order"},
        "bands": {"count": bands, "first_nm": 400.0, "last_nm": 2500.0, "gsd_m": gsd_m},
        "classes": {"darker": "#0b6183", "brighter": "#c08a1e"},
        "saturated": SATURATED, "valid_range": list(PLAUSIBLE),
    })  # fmt: skip


def drawn_image(rng: np.random.Generator, bands: int, height: int, width: int) -> Image:
    """A surface of smooth spectra, reflectances of 0.05 to 0.6, with some noise."""
    light = rng.uniform(0.1, 0.5, (height // 8 + 1, width // 8 + 1)).repeat(8, 0).repeat(8, 1)
    spectrum = 1 + 0.15 * np.sin(np.linspace(0, rng.uniform(2, 9), bands))
    noise = rng.normal(0, 0.005, (bands, height, width))
    drawn: Image = (light[:height, :width] * spectrum[:, None, None] + noise).astype(np.float32)
    return drawn


def write_scene(folder: Path, name: str, image: Image, gsd_m: float, *, times: int = 1) -> Path:
    """Write a scene and its classes as GeoTIFFs below `folder`; gives the file of the image.

    Args:
        folder: of the dataset.
        name: of the scene.
        image: its pixels.
        gsd_m: their side in metres.
        times: how often they follow each other from north to south.
    """
    _, height, width = image.shape
    labels = (np.nan_to_num(image.mean(axis=0)) > 0.3).astype(np.uint8)[None]
    (folder / name).mkdir(parents=True)
    for kind, values in (("image", image), ("classes", labels)):
        with rasterio.open(
            folder / name / f"{name}_{kind}.tif", "w", driver="GTiff", count=len(values),
            height=times * height, width=width, dtype=values.dtype, crs="EPSG:32632", tiled=True,
            blockxsize=64, blockysize=64, transform=from_origin(6e5, 5.3e6, gsd_m, gsd_m),
        ) as file:  # fmt: skip
            for number in range(times):
                file.write(values, window=Window(0, number * height, width, height))
    return folder / name / f"{name}_image.tif"


def listed(card: Card, folder: Path) -> None:
    """Write the manifest of the files in a folder, as if they had been fetched."""
    files = [path for path in files_below(folder) if path.name != "manifest.json"]
    write_manifest(folder / "manifest.json", files, dataset=card.name)


def _some(rng: np.random.Generator, image: Image, share: float, value: float) -> Image:
    """The image with this value in a share of its pixels, in all bands."""
    spoilt = image.copy()
    count = round(share * image[0].size)
    where = np.unravel_index(rng.permutation(image[0].size)[:count], image[0].shape)
    spoilt[:, where[0], where[1]] = value
    return spoilt


def _one_band(image: Image, value: float) -> Image:
    spoilt = image.copy()
    spoilt[1] = value
    return spoilt


SHARED: dict[str, Callable[[np.random.Generator, Image, float], Image]] = {
    "no number": lambda rng, image, share: _some(rng, image, share, np.nan),
    "saturated": lambda rng, image, share: _some(rng, image, share, 2.0),
    "implausible": lambda rng, image, share: _some(rng, image, share, -0.4),
}
"""Faults of a share of the pixels."""
WHOLE: dict[str, Callable[[Image], Image]] = {
    "constant band": lambda image: _one_band(image, 0.2),
    "empty band": lambda image: _one_band(image, np.nan),
}
"""Faults of a band."""
