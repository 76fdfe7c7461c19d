"""What a trained network says: of the patches of a part, and of whole scenes as maps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from swath.data.patchset import PatchSet
from swath.data.scene import Scene
from swath.errors import RunError
from swath.files import whole
from swath.learn.batches import Batches, Normalise
from swath.learn.train import load

log = logging.getLogger(__name__)

PICTURE_PX = 1500
"""Longest side of the picture that stands beside a map."""

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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = Batches(patches, which, batch_size=batch_size, device=device, **facts["statistics"])
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
    folder: Path,
    *,
    colours: list[str],
    rgb: list[str],
    resampling: str,
    window_px: int = 256,
    margin_px: int = 32,
) -> dict[str, Path]:
    """Map a whole scene to cloud-optimised GeoTIFFs in `folder`, named by the scene.

    `classes` and `confidence` (in percent), `truth` where the scene has labels, and `image`, three
    of its bands thinned to a picture, to compare them with. The scene is read in strips of
    overlapping windows; of each window only the part farther than the margin from its edge is
    kept, so that no seam shows. Pixels outside the swath are 255.

    Args:
        model: the trained network.
        scene: the scene; it must have the model's bands.
        folder: where the rasters are written.
        colours: `#rrggbb` of each class.
        rgb: the bands of the picture.
        resampling: how coarser bands are brought to the finest grid.
        window_px: side of the kept part of a window.
        margin_px: what is read around it and thrown away.

    Returns:
        What was written, by kind.

    Raises:
        RunError: the scene lacks a band of the model.
    """
    network, facts = load(model)
    dated = [f"{band}@{date}" for date in range(len(scene.times)) for band in scene.bands]
    bands = list(scene.bands) if len(scene.times) == 1 else dated
    if bands != facts["bands"]:
        raise RunError(
            f"has the bands {', '.join(bands)}, the model {', '.join(facts['bands'])}",
            where=scene.name,
            mend="map scenes of the data set that the model was trained on",
        )
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    kinds = ["classes", "confidence", *(["truth"] if scene.labels else [])]
    written = {kind: folder / f"{scene.name}_{kind}.tif" for kind in kinds}
    thin = max(1, -(-max(scene.grid.height, scene.grid.width) // PICTURE_PX))
    picture = []
    with ExitStack() as stack:
        stack.enter_context(_all_or_none(written))
        files = {
            kind: stack.enter_context(_cloud_optimised(scene, path))
            for kind, path in written.items()
        }
        for kind in {"classes", "truth"} & set(files):
            files[kind].write_colormap(1, _colour_table(colours))
            files[kind].colorinterp = [ColorInterp.palette]
            files[kind].update_tags(
                1, **{str(value): name for value, name in enumerate(facts["classes"])}
            )
        for row in range(0, scene.grid.height, window_px):
            height = min(window_px, scene.grid.height - row)
            top = max(0, row - margin_px)
            bottom = min(scene.grid.height, row + height + margin_px)
            strip = scene.read(top, 0, bottom - top, scene.grid.width, resampling)
            inner = strip[:, row - top : row - top + height]
            answers = dict(
                zip(
                    ("classes", "confidence"),
                    _map_strip(network, normalise, strip, row - top, height, facts,
                               window_px, margin_px),
                    strict=True,
                )
            )  # fmt: skip
            outside = _outside(inner, facts["nodata"])
            for answer in answers.values():
                answer[outside] = UNLABELLED
            if scene.labels:
                answers["truth"] = scene.read_labels(row, 0, height, scene.grid.width)
            for kind, answer in answers.items():
                files[kind].write(answer, 1, window=Window(0, row, scene.grid.width, height))
            picture.append(inner[[bands.index(b) for b in _of_first_date(rgb, bands)]][
                :, -row % thin :: thin, ::thin
            ])  # fmt: skip
    written["image"] = folder / f"{scene.name}_image.tif"
    _write_picture(
        written["image"], np.concatenate(picture, axis=1), scene, thin, rgb, facts["nodata"]
    )
    log.info("mapped %s to %s", scene.name, folder)
    return written


@contextmanager
def _all_or_none(written: dict[str, Path]) -> Iterator[None]:
    """Where one raster of a scene fails, none of them stays."""
    try:
        yield
    except BaseException:
        for path in written.values():
            path.unlink(missing_ok=True)
        raise


def _of_first_date(rgb: list[str], bands: list[str]) -> list[str]:
    return rgb if rgb[0] in bands else [f"{band}@0" for band in rgb]


def _outside(strip: NDArray[np.generic], nodata: float | None) -> NDArray[np.bool_]:
    """Where nothing was seen (y, x): no-data in every channel, or NaN or infinity in any."""
    outside = np.zeros(strip.shape[1:], bool)
    if nodata is not None:
        outside |= (strip == nodata).all(axis=0)
    if np.issubdtype(strip.dtype, np.floating):
        outside |= ~np.isfinite(strip).all(axis=0)
    return outside


def _write_picture(
    path: Path,
    picture: NDArray[np.generic],
    scene: Scene,
    thin: int,
    rgb: list[str],
    nodata: float | None,
) -> None:
    """Three bands of a scene, every `thin`th pixel, as stored; bands named by descriptions."""
    grid = scene.grid
    with (
        whole(path) as part,
        rasterio.open(
            part, "w", driver="GTiff", dtype=picture.dtype, count=len(rgb), compress="deflate",
            height=picture.shape[1], width=picture.shape[2], nodata=nodata, **_place(scene),
            transform=from_origin(grid.west, grid.north, grid.step_x * thin, grid.step_y * thin),
        ) as file,
    ):  # fmt: skip
        file.write(picture)
        file.descriptions = tuple(rgb)


def _place(scene: Scene) -> dict[str, Any]:
    """The CRS of a scene; nothing where it has none."""
    return {"crs": f"EPSG:{scene.grid.epsg}"} if scene.grid.epsg > 0 else {}


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
                height=scene.grid.height,
                width=scene.grid.width,
                **_place(scene),
                transform=scene.grid.transform,
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
    strip: NDArray[np.generic],
    above: int,
    height: int,
    facts: dict[str, Any],
    window_px: int,
    margin_px: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Classes and confidence in percent of `height` rows below the `above` first of a strip."""
    width = strip.shape[2]
    # Mirrored at the scene's edge, and filled to the size of a window, so that all are alike.
    side = window_px + 2 * margin_px
    columns = -(-width // window_px) * window_px
    padding = (
        (0, 0),
        (margin_px - above, side - strip.shape[1] - (margin_px - above)),
        (margin_px, columns - width + margin_px),
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
    percent = np.round(confidence.astype(np.float32) * 100).astype(np.uint8)
    return classes[:height, :width].copy(), percent[:height, :width].copy()


def _colour_table(colours: list[str]) -> dict[int, tuple[int, int, int, int]]:
    table = {
        value: (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16), 255)
        for value, colour in enumerate(colours)
    }
    return table | {UNLABELLED: (0, 0, 0, 0)}
