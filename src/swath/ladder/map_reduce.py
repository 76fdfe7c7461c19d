"""Step 15: what no machine could hold is counted by many, none of which sees all of it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from swath.data.card import Card
from swath.data.layouts import open_source
from swath.data.scene import Scene
from swath.ladder.counting import Counts, descriptions, words_of
from swath.ladder.drawn import drawn
from swath.ladder.lesson import Floats, Lesson, Table, at_least, at_most, equals, picture
from swath.registry import Count, registered
from swath.report.figures import ACCENT, WIDTH

SHORT = {"a", "and", "as", "in", "is", "it", "its", "of", "or", "so", "that", "the", "with"}
"""Words that are counted and not drawn."""


@registered("lesson")
def map_reduce(counts: Counts, card: Card, *, maps: Count = 3, reduces: Count = 2) -> Lesson:
    """Words of descriptions and statistics of scenes, counted in parts and at once.

    Args:
        counts: what the reduce jobs of the workflow have made.
        card: of the scenes that the map jobs read; drawn here once more, and read at once.
        maps: map jobs.
        reduces: reduce jobs.
    """
    found = {key: sums for part in counts.parts for key, sums in part.items()}
    words = {key.partition(" ")[2]: n for key, (n, *_) in found.items() if key.startswith("word ")}
    direct = Counter(words_of(" ".join(descriptions().values())))
    with tempfile.TemporaryDirectory() as folder:
        pixels = _at_once(drawn(card, Path(folder) / "data"), Path(folder) / "data")
    spectra = {}
    apart = 0.0
    for name, values in pixels.items():
        sums = [found.get(f"pixels {name}/{band.name}", [0, 0, 0]) for band in card.bands]
        count, total, squares = np.array(sums, dtype=np.float64).T
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
        spectra[name] = (mean / card.scale, std / card.scale)
        both = (mean / values.mean(axis=1) - 1, std / values.std(axis=1) - 1)
        apart = max(apart, float(np.max(np.abs(both))))
    keys = [key for part in counts.parts for key in part]
    sizes = [len(part) for part in counts.parts]
    claims = [
        equals("words that are counted otherwise than at once",
               len(words.keys() ^ direct.keys()) + sum(words[w] != direct[w] for w in words), 0),
        equals("words in all", sum(words.values()), direct.total()),
        equals("pixels in all", sum(found[f"pixels {name}/{card.bands[0].name}"][0]
               for name in pixels), sum(values.shape[1] for values in pixels.values())),
        at_most("mean and standard deviation of a class in a band: largest relative difference to "
                "those at once", apart, 1e-9),
        equals("keys that are in several parts", len(keys) - len(set(keys)), 0),
        equals("parts of the output", len(counts.parts), reduces),
        equals("map jobs whose pairs each reduce job has taken",
               min(len(taken) for taken in counts.taken), maps),
        at_least("seconds by which the mark is younger than the last part", counts.late_s, 0.0),
        at_most("share of the keys in the largest part", max(sizes) / len(keys), 1.5 / reduces),
    ]  # fmt: skip
    return Lesson(
        question="How are pixels counted that no machine can hold?",
        told=[
            "Where they lie. A map job reads its part of the input and gives pairs of a key and a "
            "value: (“roof”, 1) for a word; for a class and a band (n, Σx, Σx²) of its pixels. The "
            "shuffle brings all pairs of a key together: key k goes to reduce job hash(k) mod R. A "
            "reduce job adds up the values of each of its keys, and writes a part of the output.",
            "Sums do not care for order or grouping, so it does not matter who has counted what; "
            "mean = Σx/n and variance = Σx²/n − mean² follow at the end. A median would not do "
            "like that: it is no sum.",
            f"Here {maps} map jobs and {reduces} reduce jobs are jobs of the workflow, which can "
            "run on as many machines. The output lies in parts; the mark _SUCCESS, written last, "
            "says that none is missing.",
        ],
        claims=claims,
        pictures=[
            picture(
                "Words", f"The most frequent of {len(words)} words in the descriptions of the "
                f"{len(card.classes)} classes, but for the shortest.",
                lambda: _words(words),
            ),
            picture(
                "Spectra", "Mean reflectance of each class by wavelength, in the class's colour, "
                "as it follows from the sums of all parts.",
                lambda: _spectra(card, {name: mean for name, (mean, _) in spectra.items()}),
            ),
        ],
        tables=[
            Table(
                "The shuffle: pairs from each map job to each reduce job",
                ["", *(f"reduce {n}" for n in range(len(counts.parts)))],
                [[f"map {m}", *(str(taken[m]) for taken in counts.taken)] for m in range(maps)]
                + [["keys", *map(str, sizes)]],
            )
        ],
        sources=[
            "Dean, Ghemawat: MapReduce: simplified data processing on large clusters. OSDI 2004."
        ],
    )  # fmt: skip


def _at_once(card: Card, folder: Path) -> dict[str, Floats]:
    """All labelled pixels of each class in all scenes: (band, pixel)."""
    images, labels = [], []
    source = open_source(card, folder)
    for name in source.names:
        scene = source.open(name)
        assert isinstance(scene, Scene) and scene.labels is not None
        size = (scene.grid.height, scene.grid.width)
        images.append(scene.read(0, 0, *size, "nearest").reshape(len(card.bands), -1))
        labels.append(scene.labels.read(0, size[0], 0, size[1]).ravel())
    image, label = np.concatenate(images, axis=1).astype(np.float64), np.concatenate(labels)
    seen = (image != card.nodata).all(axis=0)
    return {name: image[:, seen & (label == n)] for n, name in enumerate(card.classes)}


def _words(words: dict[str, int]) -> Figure:
    likely = sorted(words.keys() - SHORT, key=lambda word: (-words[word], word))[:12]
    figure = Figure(figsize=(1.1 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    axes.barh(likely[::-1], [words[word] for word in likely[::-1]], color=ACCENT, height=0.7)
    axes.set_xlabel("times")
    axes.grid(visible=False, axis="y")
    return figure


def _spectra(card: Card, spectra: dict[str, Floats]) -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    along = np.array([band.wavelength_nm or number for number, band in enumerate(card.bands)])
    for name, mean in spectra.items():
        colour = card.classes[name]
        axes.plot(along, mean, color=colour, label=name, marker="o", markersize=2.5)
    axes.set(xlabel="wavelength (nm)", ylabel="reflectance")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, handletextpad=0.3)
    return figure
