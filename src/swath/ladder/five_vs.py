"""Step 16: volume, velocity, variety, veracity, value: what data of satellites are."""

from __future__ import annotations

import shutil
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.patchset import open_patches
from swath.data.scene import Scene
from swath.data.shards import index_shards
from swath.errors import ConfigError, RunError
from swath.ladder.drawn import ANYTHING, cut_shard, dealt, drawn
from swath.ladder.lesson import Claim, Given, Lesson, Table, at_least, at_most, equals, picture
from swath.ladder.planted import SHARED, WHOLE, card_of, drawn_image, listed, write_scene
from swath.learn.mapping import SceneMap, map_scene
from swath.registry import Count, Share, registered
from swath.report.figures import ACCENT, MUTED, SECOND, THIRD, WIDTH

PATCH_PX = 32
BLOCK_PX = 1024
"""Width of a swath by which memory is measured, and rows that are drawn of it."""
SHARES = (0.005, 0.02, 0.1, 0.5)
"""Shares of the pixels that are spoilt."""
NO_DATA = "#a9b3bc"
CLEAN = 8
"""Scenes in which no fault is planted."""


@registered("lesson")
def five_vs(
    given: Given,
    card: Card,
    *,
    sensors: dict[str, list[float]],
    lengths_px: list[Count] = [4096, 8192, 12288],  # noqa: B006
    limit: Share = 0.01,
    least: Share = 0.5,
) -> Lesson:
    """The five words by which big data are told, each with a number.

    Args:
        given: patches of the card's scenes, and a network that maps them.
        card: of the scenes, which are drawn; the acquisition that arrives is the one after its
            last.
        sensors: GSD in metres and number of bands, of scenes that one code has to cut.
        lengths_px: of the swaths by which memory is measured, rising; multiples of 1024.
        limit: share of pixels from which on a scene with a fault is unfit.
        least: accuracy of the map.
    """
    for name, facts in sensors.items():
        if len(facts) != 2 or facts[0] <= 0 or facts[1] < 2 or facts[1] % 1:
            raise ConfigError(
                "is no GSD in metres and number of bands, two at least",
                where=f"lesson.sensors.{name}", mend="write it as [10.0, 4]",
            )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        peaks, bytes_ = _volume(folder / "volume", lengths_px)
        arrived = _velocity(folder / "velocity", given, card)
        wrong = {
            name: _variety(folder / f"variety-{number}", gsd_m, int(bands))
            for number, (name, (gsd_m, bands)) in enumerate(sensors.items())
        }
        verdicts = _veracity(folder / "veracity", limit)
    truth, mapped = arrived["truth"], arrived["classes"]
    known = (truth < len(card.classes)) & (mapped < len(card.classes))
    right = float(np.mean(truth[known] == mapped[known]))
    most = float(np.bincount(truth[known]).max() / known.sum())
    flagged = [v for v in verdicts if v["found"]]
    planted = [v for v in verdicts if v["fault"]]
    severe = [v for v in planted if v["share"] > limit]
    slow = lengths_px[-1] / lengths_px[0]
    claims: list[Claim] = [
        at_most(f"volume: a swath {slow:g} times as long, peak memory of cutting it: ratio",
                peaks[-1] / peaks[0], 1.5),
        at_most("volume: peak memory as a share of the longest swath's pixels",
                peaks[-1] / bytes_[-1], 0.5),
        equals("velocity: shards of before that are cut again", arrived["again"], 0),
        equals("velocity: shards that are cut for a new acquisition", arrived["new"], 1),
        equals("variety: sensors whose patches are not what was written", sum(wrong.values()), 0),
        at_least("variety: ratio of the coarsest to the finest GSD",
                 max(f[0] for f in sensors.values()) / min(f[0] for f in sensors.values()), 1000),
        equals("veracity: precision", sum(bool(v["fault"]) for v in flagged) / len(flagged), 1.0),
        equals("veracity: recall of faults above the limit",
               sum(v["found"] for v in severe) / len(severe), 1.0),
        equals("veracity: recall of all faults, of which some are below it",
               sum(v["found"] for v in planted) / len(planted), len(severe) / len(planted)),
        at_least("value: accuracy of the map of a scene that was never seen", right, least),
        at_least("value: accuracy above that of the most frequent class", right - most, 0.2),
        at_least("value: classes of the truth that the map has", len(
            set(np.unique(mapped[known])) & set(np.unique(truth[known]))), 6),
    ]  # fmt: skip
    return Lesson(
        question="What makes the data of satellites big, and what are they good for?",
        told=[
            "Volume: a scene is larger than memory. Its rows stream by, and patches are written as "
            "soon as they are complete, so a swath may be as long as it likes: "
            f"{peaks[0] / 2**20:.1f} MiB for {bytes_[0] / 2**20:.0f} MiB of pixels, "
            f"{peaks[-1] / 2**20:.1f} MiB for {bytes_[-1] / 2**20:.0f} MiB.",
            "Velocity: tomorrow there is another acquisition. A shard is named by what it holds, "
            "so what is there already keeps its name, and only the new one is cut and mapped: here "
            f"in {arrived['seconds']:.1f} s from the file to the updated map.",
            "Variety: " + ", ".join(f"{name} ({facts[0]:g} m, {int(facts[1])} bands)"
                                    for name, facts in sensors.items())
            + ": one code cuts them all, and a card says what is different.",
            f"Veracity: of {len(verdicts)} scenes {len(planted)} have a planted fault. All that "
            f"spoil more than {limit:.0%} of the pixels are found, and no clean one is refused; "
            "what is below the limit passes, as it is meant to.",
            f"Value: a map of nine classes of the ground, {right:.0%} of whose pixels are right on "
            f"a scene that the network has never seen; naming the most frequent class everywhere "
            f"would have {most:.0%}.",
        ],
        claims=claims,
        pictures=[
            picture(
                "Value: the map beside the truth",
                "The new acquisition in three of its bands, its nine classes as they were drawn, "
                "and as the network sees them.",
                lambda: [*_three(arrived, card), _legend(card)],
            ),
            picture(
                "Volume",
                "The pixels of a swath, and the peak memory of cutting it: what is held is a strip "
                "of rows.",
                lambda: _memory(lengths_px, peaks, bytes_),
            ),
            picture(
                "Veracity",
                "The share of a scene's pixels that is spoilt, and whether the scene was set "
                "aside; dashed is the limit.",
                lambda: _found(verdicts, limit),
            ),
        ],
        tables=[
            Table(
                "Veracity: what was planted, and what was found",
                ["fault", "scenes", "set aside"],
                [
                    [fault or "none", str(len(own)), str(sum(v["found"] for v in own))]
                    for fault in dict.fromkeys(v["fault"] for v in verdicts)
                    for own in [[v for v in verdicts if v["fault"] == fault]]
                ],
            )
        ],
        sources=[
            "Chi et al.: Big data for remote sensing: challenges and opportunities. Proceedings of "
            "the IEEE 104, 2016. doi:10.1109/JPROC.2016.2598228"
        ],
    )  # fmt: skip


def _volume(folder: Path, lengths_px: list[int]) -> tuple[list[int], list[int]]:
    """Peak memory (bytes) of cutting swaths of one width, and the bytes of their pixels."""
    peaks: list[int] = []
    sizes: list[int] = []
    card = card_of("swath", 4, 10.0)
    image = drawn_image(np.random.default_rng(0), 4, BLOCK_PX, BLOCK_PX)
    for length in [BLOCK_PX, *lengths_px]:  # the first is for what is loaded once
        own = folder / str(len(peaks))
        write_scene(own, "swath", image, 10.0, times=max(1, length // BLOCK_PX))
        listed(card, own)
        sizes.append(image.nbytes * max(1, length // BLOCK_PX))
        (shard,) = dealt(card, own)["shards"]
        tracemalloc.start()
        cut_shard(card, own, shard, own / "cut", size_px=PATCH_PX)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        shutil.rmtree(own)
    return peaks[1:], sizes[1:]


def _velocity(folder: Path, given: Given, card: Card) -> dict[str, Any]:
    """What a new acquisition makes to be done, and the map of it."""
    before = drawn(card, folder / "before")
    count = before.drawing["scenes"] if before.drawing else 0
    known = {shard["name"] for shard in dealt(before, folder / "before")["shards"]}
    after = drawn(card, folder / "after", scenes=count + 1)
    model = given.trained().model  # of the scenes before; it is there when another one comes
    begun = time.perf_counter()
    shards = dealt(after, folder / "after")["shards"]
    new = [shard for shard in shards if shard["name"] not in known]
    for shard in new:
        cut_shard(after, folder / "after", shard, folder / "cut" / shard["name"], size_px=PATCH_PX)
    name = new[-1]["parts"][-1]["name"]
    scene = open_source(after, folder / "after").open(name)
    assert isinstance(scene, Scene) and model is not None
    seconds = time.perf_counter() - begun
    made: SceneMap = map_scene(
        model, scene, folder / "maps", colours=list(card.classes.values()), rgb=card.rgb,
        resampling="nearest", probabilities=False, overlap_px=PATCH_PX,
    )  # fmt: skip
    read = {kind: _read(made.rasters[kind]) for kind in ("classes", "truth", "image")}
    return {
        "again": len(known - {shard["name"] for shard in shards}),
        "new": len(new),
        "seconds": seconds + made.seconds,
        "classes": read["classes"][0],
        "truth": read["truth"][0],
        "image": read["image"],
    }


def _read(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        values: NDArray[Any] = file.read()
    return values


def _variety(folder: Path, gsd_m: float, bands: int) -> bool:
    """Whether the patches of a sensor's scene are anything else than what was written."""
    card, side = card_of("sensor", bands, gsd_m), 2 * PATCH_PX
    image = drawn_image(np.random.default_rng(1), bands, side, side)
    write_scene(folder / "data", "scene", image, gsd_m)
    listed(card, folder / "data")
    plan = dealt(card, folder / "data")
    for shard in plan["shards"]:
        cut_shard(card, folder / "data", shard, folder / "cut" / shard["name"], size_px=PATCH_PX)
    index_shards(plan, folder / "cut", broken="fatal")
    patches = open_patches(folder / "cut" / "manifest.json")
    cut = patches.image.gather(np.arange(len(patches)))
    rows, cols = (patches.places[axis].to_numpy() for axis in ("row", "col"))
    same = all(
        np.array_equal(patch, image[:, row : row + PATCH_PX, col : col + PATCH_PX])
        for patch, row, col in zip(cut, rows, cols, strict=True)
    )
    metres = (patches.places["east"] - patches.places["west"]).to_numpy()
    return not (len(cut) == 4 and same and np.allclose(metres, PATCH_PX * gsd_m))


def _veracity(folder: Path, limit: float) -> list[dict[str, Any]]:
    """For each scene the fault that was planted, its share, and whether the platform found one."""
    rng, data = np.random.default_rng(2), folder / "data"
    card, side = card_of("planted", 4, 10.0), 2 * PATCH_PX
    planted: dict[str, tuple[str, float]] = {}

    def image() -> NDArray[np.float32]:
        return drawn_image(rng, 4, side, side)

    def plant(pixels: NDArray[np.float32], fault: str, share: float) -> Path:
        # In an order by chance: by name, the checks know nothing of the fault.
        name = f"scene{rng.integers(10**9):09d}"
        planted[name] = (fault, share)
        return write_scene(data, name, pixels, 10.0)

    for _ in range(CLEAN - 1):
        plant(image(), "", 0.0)
    for fault, spoil in SHARED.items():
        for share in SHARES:
            plant(spoil(rng, image(), share), fault, share)
    for fault, spoil_band in WHOLE.items():
        plant(spoil_band(image()), fault, 1.0)
    damaged = plant(image(), "damaged file", 1.0)
    twice = image()
    plant(twice, "", 0.0)
    plant(twice, "found twice", 1.0)
    listed(card, data)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-2000] + bytes(2000))  # after its digest was taken
    limits = {name: limit for name in ANYTHING if name.startswith("max_")}
    limits["constant_bands"] = False
    plan = dealt(card, data)
    for shard in plan["shards"]:
        cut_shard(card, data, shard, folder / "cut" / shard["name"], size_px=PATCH_PX,
                  limits=limits)  # fmt: skip
    checks = index_shards(plan, folder / "cut", broken="skip")["checks"]
    found = {check["scene"] for check in checks if check["faults"]}
    if len(checks) != len(planted):
        raise RunError(f"{len(checks)} of {len(planted)} scenes were checked", where="veracity")
    # Which of two alike is the copy nobody can tell: one of them is to be set aside.
    twins = [name for name, (fault, _) in planted.items() if fault == "found twice"]
    first = list(planted)[list(planted).index(twins[0]) - 1]
    if first in found and twins[0] not in found:
        planted[first], planted[twins[0]] = planted[twins[0]], planted[first]
    return [
        {"fault": fault, "share": share, "found": name in found}
        for name, (fault, share) in planted.items()
    ]


def _three(arrived: dict[str, Any], card: Card) -> list[Figure]:
    image = np.moveaxis(arrived["image"], 0, -1).astype(float)
    bright = np.percentile(image[image.sum(axis=-1) > 0], 90)
    colours = ListedColormap([*card.classes.values(), NO_DATA])
    shown = {"as it is seen": np.clip(0.6 * image / bright, 0, 1), "truth": arrived["truth"],
             "map": arrived["classes"]}  # fmt: skip
    figures = []
    for title, values in shown.items():
        figure = Figure(figsize=(0.62 * WIDTH, 0.69 * WIDTH), layout="constrained")
        axes = figure.subplots()
        drawn = np.minimum(values, len(card.classes)) if values.ndim == 2 else values
        axes.imshow(drawn, cmap=colours, vmin=-0.5, vmax=len(card.classes) + 0.5,
                    interpolation="nearest")  # fmt: skip
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
        figures.append(figure)
    return figures


def _legend(card: Card) -> Figure:
    figure = Figure(figsize=(0.62 * WIDTH, 0.69 * WIDTH))
    entries = [*card.classes.items(), ("no data", NO_DATA)]
    figure.legend(handles=[Patch(color=colour, label=name) for name, colour in entries],
                  loc="center left", ncols=1, handlelength=1.2)  # fmt: skip
    return figure


def _memory(lengths_px: list[int], peaks: list[int], bytes_: list[int]) -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    for values, colour, label in ((bytes_, SECOND, "pixels of the swath"),
                                  (peaks, ACCENT, "peak memory of cutting")):  # fmt: skip
        axes.plot(lengths_px, np.array(values) / 2**20, color=colour, marker="o", label=label)
    axes.set(xlabel="length of the swath (px)", ylabel="MiB", xticks=lengths_px)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=1)
    return figure


def _found(verdicts: list[dict[str, Any]], limit: float) -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    kinds = list(SHARED)
    for found, colour, mark, label in (
        (True, ACCENT, "o", "set aside"),
        (False, THIRD, "X", "passed"),
    ):
        own = [v for v in verdicts if v["fault"] in kinds and v["found"] == found]
        axes.scatter([v["share"] for v in own], [kinds.index(v["fault"]) for v in own],
                     color=colour, marker=mark, s=40, label=label, zorder=3)  # fmt: skip
    axes.axvline(limit, color=MUTED, linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="share of the pixels that is spoilt", ylim=(-0.6, 2.6))
    axes.set_xticks(SHARES, [f"{share:.1%}" for share in SHARES])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2)
    return figure
