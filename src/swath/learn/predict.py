"""What a trained network says: of the patches of a part, and of whole scenes as maps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as copy_raster
from rasterio.transform import from_origin
from rasterio.windows import Window
from torch import nn

from swath.data.card import UNLABELLED
from swath.data.layouts import Scene
from swath.data.patchset import PatchSet
from swath.errors import RunError
from swath.files import whole
from swath.learn.batches import Batches, Normalise
from swath.learn.train import load

log = logging.getLogger(__name__)

Answer = tuple[NDArray[np.uint8], NDArray[np.float16]]


def predict_patches(
    model: Path, patches: PatchSet, which: NDArray[np.int64], *, batch_size: int = 128
) -> Answer:
    """The most likely class and its probability, for patches (patch) or their pixels (patch, y, x).

    Raises:
        RunError: the model knows other bands or classes than the patch set.
    """
    network, facts = load(model)
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
    batches = Batches(patches, which, batch_size=batch_size, **facts["statistics"])
    answers = [_answer(network, image, facts) for image, _ in batches]
    return np.concatenate([a for a, _ in answers]), np.concatenate([c for _, c in answers])


def _answer(network: nn.Module, image: torch.Tensor, facts: dict[str, Any]) -> Answer:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if facts["channels_last"]:
        image = image.contiguous(memory_format=torch.channels_last)
    bf16 = facts["precision"] == "bf16"
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        answer = network.to(device)(image.to(device))
        share, index = answer.float().softmax(dim=1).max(dim=1)
    return index.to(torch.uint8).cpu().numpy(), share.to(torch.float16).cpu().numpy()


def map_scene(
    model: Path,
    scene: Scene,
    classes_out: Path,
    confidence_out: Path,
    *,
    colours: list[str],
    window_px: int = 256,
    margin_px: int = 32,
) -> None:
    """Map a whole scene to two cloud-optimised GeoTIFFs: classes, and confidence in percent.

    The scene is read in strips of overlapping windows; of each window only the part farther than
    the margin from its edge is kept, so that no seam shows. Pixels outside the swath are 255.

    Args:
        model: the trained network.
        scene: the scene; it must have the model's bands.
        classes_out: class map with its colour table.
        confidence_out: probability of the mapped class, 0 to 100.
        colours: `#rrggbb` of each class.
        window_px: side of the kept part of a window.
        margin_px: what is read around it and thrown away.

    Raises:
        RunError: the scene lacks a band of the model.
    """
    network, facts = load(model)
    if list(scene.bands) != facts["bands"]:
        raise RunError(
            f"has the bands {', '.join(scene.bands)}, the model {', '.join(facts['bands'])}",
            where=scene.name,
            mend="map scenes of the data set that the model was trained on",
        )
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    with (
        _cloud_optimised(scene, classes_out) as to_classes,
        _cloud_optimised(scene, confidence_out) as to_confidence,
    ):
        to_classes.write_colormap(1, _colour_table(colours))
        to_classes.colorinterp = [ColorInterp.palette]
        to_classes.update_tags(
            1, **{str(value): name for value, name in enumerate(facts["classes"])}
        )
        for row in range(0, scene.height_px, window_px):
            classes, percent = _map_strip(
                network, normalise, scene, facts, row, window_px, margin_px
            )
            window = Window(0, row, scene.width_px, len(classes))
            to_classes.write(classes, 1, window=window)
            to_confidence.write(percent, 1, window=window)
    log.info("mapped %s to %s", scene.name, classes_out)


@contextmanager
def _cloud_optimised(scene: Scene, path: Path) -> Iterator[rasterio.io.DatasetWriter]:
    """A raster on the scene's grid to be written by windows; whole at `path` at the end.

    GDAL's COG driver copies and cannot be written to, so a plain file goes before it.
    """
    with whole(path) as part:
        plain = part.with_suffix(".plain.tif")
        try:
            with rasterio.open(
                plain,
                "w",
                driver="GTiff",
                dtype="uint8",
                count=1,
                height=scene.height_px,
                width=scene.width_px,
                crs=f"EPSG:{scene.epsg}",
                transform=from_origin(scene.west, scene.north, scene.gsd_m, scene.gsd_m),
                nodata=UNLABELLED,
                tiled=True,
                compress="deflate",
            ) as file:
                yield file
            copy_raster(plain, part, driver="COG", compress="deflate", resampling="nearest")
        finally:
            plain.unlink(missing_ok=True)


def _map_strip(
    network: nn.Module,
    normalise: Normalise,
    scene: Scene,
    facts: dict[str, Any],
    row: int,
    window_px: int,
    margin_px: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes and confidence in percent of the rows from `row`, over the scene's whole width."""
    height = min(window_px, scene.height_px - row)
    top, bottom = max(0, row - margin_px), min(scene.height_px, row + height + margin_px)
    strip = scene.read(top, 0, bottom - top, scene.width_px)
    # Mirrored at the scene's edge, and filled to the size of a window, so that all are alike.
    side = window_px + 2 * margin_px
    columns = -(-scene.width_px // window_px) * window_px
    padding = (
        (0, 0),
        (margin_px - (row - top), side - (bottom - top) - (margin_px - (row - top))),
        (margin_px, columns - scene.width_px + margin_px),
    )
    padded = np.pad(strip, padding, mode="symmetric")
    classes = np.empty((window_px, columns), np.uint8)
    confidence = np.empty((window_px, columns), np.float16)
    kept = slice(margin_px, margin_px + window_px)
    for column in range(0, columns, window_px):
        image = normalise(padded[None, :, :, column : column + side])
        index, share = _answer(network, image, facts)
        classes[:, column : column + window_px] = index[0, kept, kept]
        confidence[:, column : column + window_px] = share[0, kept, kept]
    classes, confidence = classes[:height, : scene.width_px], confidence[:height, : scene.width_px]
    percent = np.round(confidence.astype(np.float32) * 100).astype(np.uint8)
    if facts["nodata"] is not None:
        outside = (strip[:, row - top : row - top + height] == facts["nodata"]).all(axis=0)
        classes[outside] = percent[outside] = UNLABELLED
    return classes, percent


def _colour_table(colours: list[str]) -> dict[int, tuple[int, int, int, int]]:
    table = {
        value: (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16), 255)
        for value, colour in enumerate(colours)
    }
    return table | {UNLABELLED: (0, 0, 0, 0)}
