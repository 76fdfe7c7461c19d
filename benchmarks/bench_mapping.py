"""Mapping a scene: the whole of it beside the bare network, in float32 and in bf16.

    .venv/bin/python benchmarks/bench_mapping.py [--size 2048] [--rounds 5] [--model best.ckpt]

A scene of 4 bands at 10 m and 6 at 20 m (uint16, deflated tiles), drawn by swath, is mapped by the
default U-Net, from the files to cloud-optimised GeoTIFFs: read, normalised, windows blended,
classes, confidence and uncertainty written. The limit is a bare forward pass over exactly its
pixels, which lie in memory and are normalised already, in pieces that do not overlap, of the size
that is fastest. All take turns in each round, after one that counts not, and the table has medians
of wall time. Without --model the network is not trained, which costs as much; its share of changed
pixels is then that of a network that is sure of nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from swath.data.card import Card
from swath.data.landscape import BANDS, CLASSES, COLOURS, draw_scenes
from swath.data.layouts import open_source
from swath.data.scene import Scene
from swath.learn.batches import Normalise
from swath.learn.mapping import SceneMap, map_scene
from swath.learn.networks import build
from swath.learn.predict import Trained, opened

PRECISIONS = ("fp32", "bf16")
SIDES = (256, 512, 1024)
BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")


def drawn(folder: Path, size_px: int) -> Scene:
    """A scene of the embedded dataset, larger: drawn once, repeated to its size."""
    draw_scenes(folder / "small", seed=3, scenes=1, size_px=min(size_px, 1024))
    (small,) = (path for path in (folder / "small").iterdir() if path.is_dir())
    if size_px > 1024:
        large = folder / "large" / small.name
        large.mkdir(parents=True)
        for file in small.glob("*m.tif"):
            repeat(file, large / file.name, size_px // 1024)
        small = large
    card = Card.model_validate(
        {
            "name": "drawn",
            "layout": {"name": "scene_folders", "images": ["*_10m.tif", "*_20m.tif"]},
            "bands": [{"name": b, "gsd_m": 20.0 if b in BANDS_20M else 10.0} for b in BANDS],
            "nodata": 0,
            "classes": dict(zip(CLASSES, COLOURS, strict=True)),
            "labels": "pixel",
        }
    )
    layout = card.layout | {"bands_by": "description"}
    source = open_source(card.model_copy(update={"layout": layout}), small.parent)
    scene = source.open(small.name)
    assert isinstance(scene, Scene)
    return scene


def repeat(file: Path, to: Path, times: int) -> None:
    """A raster beside and below itself."""
    with rasterio.open(file) as opened_file:
        profile, names = opened_file.profile, opened_file.descriptions
        pixels = np.tile(opened_file.read(), (1, times, times))
    profile |= {"height": pixels.shape[1], "width": pixels.shape[2], "driver": "GTiff"}
    with rasterio.open(to, "w", **profile) as written:
        written.write(pixels)
        written.descriptions = names


def untrained(path: Path, scene: Scene) -> Path:
    """The default U-Net as a run would leave it, its statistics those of the scene."""
    torch.manual_seed(0)
    model = {"name": "unet", "width": 16, "depth": 3}
    pixels = scene.read(0, 0, 512, 512, "nearest")
    known = {"mean": pixels.mean(axis=(1, 2)).tolist(), "std": pixels.std(axis=(1, 2)).tolist()}
    facts = {
        "model": model, "task": {"name": "segmentation"}, "classes": CLASSES,
        "bands": list(scene.bands), "nodata": 0, "statistics": known, "precision": "fp32",
        "channels_last": True, "data": {"gsd_m": 10.0, "size_px": 64},
    }  # fmt: skip
    weights = build(model, len(BANDS), len(CLASSES)).state_dict()
    torch.save({"weights": weights, "facts": json.dumps(facts)}, path)
    return path


def bare(trained: Trained, scene: Scene, side: int) -> Callable[[], None]:
    """A forward pass over the scene's pixels, ready in memory, and nothing else."""
    facts = trained.facts
    normalise = Normalise(facts["statistics"]["mean"], facts["statistics"]["std"], facts["nodata"])
    dtype = torch.bfloat16 if trained.precision == "bf16" else torch.float32
    pieces = []
    for row in range(0, scene.grid.height, side):
        for column in range(0, scene.grid.width, side):
            image = normalise(scene.read(row, column, side, side, "nearest")[None])
            image = image.to(trained.device, dtype)
            pieces.append(image.contiguous(memory_format=torch.channels_last))

    def forward() -> None:
        for piece in pieces:
            trained(piece)

    return forward


def bar(what: str, reached: float, wanted: float, *, at_least: bool) -> None:
    met = reached >= wanted if at_least else reached <= wanted
    sign = "at least" if at_least else "at most"
    print(f"{what:50s} {reached:6.2f} ({sign} {wanted:g}): {'met' if met else 'NOT met'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--size", type=int, default=2048, help="1024 or a multiple of it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a trained model of the embedded bands")
    parser.add_argument("--window", type=int, help="side of the windows, in place of the fastest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = drawn(folder, arguments.size)
        model = arguments.model or untrained(folder / "unet.ckpt", scene)
        pixels = scene.grid.height * scene.grid.width
        print(
            f"{scene.grid.width} x {scene.grid.height} px, {len(scene.bands)} bands, "
            f"{scene.bytes / 1e6:.0f} MB, {torch.get_num_threads()} threads"
        )
        maps: dict[str, list[SceneMap]] = {precision: [] for precision in PRECISIONS}
        limits: dict[tuple[str, int], list[float]] = {
            (precision, side): [] for precision in PRECISIONS for side in SIDES
        }
        for number in range(arguments.rounds + 1):
            for precision in PRECISIONS:
                trained = opened(model, precision)
                for side in SIDES:
                    forward = bare(trained, scene, side)
                    start = time.perf_counter()
                    forward()
                    limits[precision, side].append(time.perf_counter() - start)
                done = map_scene(
                    model, scene, folder / precision, colours=list(COLOURS),
                    rgb=["B04", "B03", "B02"], resampling="nearest", probabilities=False,
                    overlap_px=32, precision=precision, window_px=arguments.window,
                )  # fmt: skip
                maps[precision].append(done)
            if not number:
                changed = share_changed(maps)
        report(maps, limits, pixels, scene.bytes, changed)


def share_changed(maps: dict[str, list[SceneMap]]) -> float:
    """Share of the pixels whose class in bf16 is not that in float32."""
    both = []
    for precision in PRECISIONS:
        with rasterio.open(maps[precision][0].rasters["classes"]) as file:
            both.append(file.read(1))
    return float((both[0] != both[1]).mean())


def report(
    maps: dict[str, list[SceneMap]],
    limits: dict[tuple[str, int], list[float]],
    pixels: int,
    size: int,
    changed: float,
) -> None:
    def median(values: list[Any]) -> float:
        return statistics.median(values[1:])

    print(f"{'way':34s} {'s':>7s} {'Mpx/s':>7s} {'MB/s':>7s} {'x limit':>8s}")
    results = {}
    for precision in PRECISIONS:
        sides = {side: median(limits[precision, side]) for side in SIDES}
        best = min(sides, key=lambda side: sides[side])
        whole = median([one.seconds for one in maps[precision]])
        within = median([one.forward_s / one.seconds for one in maps[precision]])
        ratio = median(
            [one.seconds / bare for one, bare in
             zip(maps[precision], limits[precision, best], strict=True)]
        )  # fmt: skip
        results[precision] = within, ratio
        for what, seconds in ((f"bare forward, {best} px, {precision}", sides[best]),
                              (f"swath, {precision}", whole)):  # fmt: skip
            print(
                f"{what:34s} {seconds:7.2f} {pixels / 1e6 / seconds:7.2f} "
                f"{size / 1e6 / seconds:7.1f} {seconds / sides[best]:8.2f}"
            )
    print()
    for precision, (within, ratio) in results.items():
        bar(f"{precision}: share of the time in the network", within, 0.85, at_least=True)
        bar(f"{precision}: swath / bare forward", ratio, 2, at_least=False)
    print(f"{'pixels whose class bf16 changes, of all':50s} {100 * changed:6.3f} %")


if __name__ == "__main__":
    main()
