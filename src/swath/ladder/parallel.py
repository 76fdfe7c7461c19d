"""Step 14: several processes: how much faster, and what keeps it from being more."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from swath.data.card import Card
from swath.data.mapped import Mapped
from swath.data.patchset import PatchSet
from swath.ladder.drawn import cut_shard, dealt, drawn
from swath.ladder.lesson import Claim, Given, Lesson, Table, at_most, equals, picture
from swath.learn.train import train
from swath.registry import Count, registered
from swath.report.figures import ACCENT, INK, MUTED, SECOND, THIRD, WIDTH

Seconds = dict[int, float]
"""Number of processes -> what the same work took."""


@registered("lesson")
def parallel(
    given: Given, card: Card, *, processes: Count = 2, repeats: Count = 3, size_px: Count = 32
) -> Lesson:
    """The same work by one process and by several, against Amdahl's line.

    Args:
        given: patches to train on.
        card: the scenes that are cut; they are drawn anew.
        processes: the most that are tried; 1, 2, 4, … and this number are.
        repeats: of each measurement, of which the median counts.
        size_px: side of the patches that are cut.
    """
    counts = sorted({1, 2, processes} | {2**n for n in range(processes.bit_length())})
    with tempfile.TemporaryDirectory() as folder, _workers(max(counts)) as pool:
        cutting, versions = _cut_by(pool, card, Path(folder), counts, repeats, size_px)
        training, weights = _train_by(pool, given, Path(folder), counts, repeats)
    curves = {"cutting patches": cutting, "training": training}
    most = max(counts)
    serial = {name: serial_share(took[1] / took[most], most) for name, took in curves.items()}
    claims: list[Claim] = [
        equals(
            f"a work of which 5 % is serial, dealt to {n} processes one task after another: "
            "speed-up",
            _scheduled(5, 95, n), amdahl(0.05, n), within=1e-12,
        )
        for n in (5, 19, 95)
    ]  # fmt: skip
    claims += [
        at_most("the same by any number of processes: speed-up", amdahl(0.05, 10**9), 20.0),
        equals("shards that several processes have cut otherwise than one", float(
            sum(each != versions[0] for each in versions)), 0),
        at_most("weights after training by several processes: largest difference to those by one",
                weights, 1e-3),
    ]  # fmt: skip
    for name, took in curves.items():
        gained = took[1] / took[most]
        # A wide margin: others may use the machine while one process works, and not later.
        text = f"{name}, {most} processes, measured: speed-up"
        claims.append(at_most(text, gained, 2.0 * most))
    cores = len(os.sched_getaffinity(0))
    return Lesson(
        question="Do two processes take half the time?",
        told=[
            "Nearly, as long as there is a core for each and little that only one can do. If a "
            "share s of the work is serial, n processes take s + (1 − s)/n of the time, so the "
            "speed-up is S(n) = 1 / (s + (1 − s)/n) and never more than 1/s (Amdahl 1967).",
            "Turned around, a measured speed-up tells the share that acts as if it were serial, "
            "(1/S − 1/n) / (1 − 1/n) (Karp and Flatt 1990): here "
            + ", ".join(f"{share:.0%} of {name}" for name, share in serial.items())
            + f", measured on {cores} {'core' if cores == 1 else 'cores'}. Where processes wait "
            "longer for each other than they save, as in the training of a network as small as "
            "this, it is above 100 %; where others have used the machine, too, it may even be "
            "below 0.",
            "Shards know nothing of each other, so to cut them is all but parallel. Training is "
            "not: after each batch all processes add up their gradients, and wait for the slowest. "
            "Both give what one process gives.",
        ],
        claims=claims,
        pictures=[
            picture(
                "Speed-up by processes",
                "Dots are measured, each a median of "
                f"{repeats}; lines are Amdahl's for the serial share that the last dot tells; "
                "dashed is what no serial work would allow. Beside them what Amdahl's law says of "
                "more processes.",
                lambda: [_drawn(curves, serial), _lines()],
            )
        ],
        tables=[
            Table(
                "What the same work took",
                ["processes", *(f"{name} (s)" for name in curves)],
                [[str(n), *(f"{took[n]:.3f}" for took in curves.values())] for n in counts],
            )
        ],
        sources=[
            "Amdahl: Validity of the single processor approach to achieving large scale computing "
            "capabilities. AFIPS 1967. doi:10.1145/1465482.1465560",
            "Karp, Flatt: Measuring parallel processor performance. CACM 33, 1990. "
            "doi:10.1145/78607.78614",
        ],
    )


def amdahl(serial: float, processes: int) -> float:
    """The speed-up by processes where a share of the work is serial (Amdahl 1967)."""
    return 1 / (serial + (1 - serial) / processes)


def serial_share(speedup: float, processes: int) -> float:
    """The share of the work that acts as if it were serial (Karp, Flatt 1990)."""
    return (1 / speedup - 1 / processes) / (1 - 1 / processes)


def _scheduled(serial: int, tasks: int, processes: int) -> float:
    """The speed-up of tasks of one second each, dealt one by one to whoever is free first."""
    free = np.zeros(processes)
    for _ in range(tasks):
        free[free.argmin()] += 1
    return float((serial + tasks) / (serial + free.max()))


@contextmanager
def _workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that have imported what they need, each with one thread."""
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin) as pool:
        list(pool.map(_rest, [0.2] * count))
        yield pool


def _begin() -> None:
    torch.set_num_threads(1)


def _rest(seconds: float) -> None:
    """Keep one worker busy, so that every task of a row begins another."""
    time.sleep(seconds)


def _cut_by(
    pool: ProcessPoolExecutor,
    card: Card,
    folder: Path,
    counts: Sequence[int],
    repeats: int,
    size_px: int,
) -> tuple[Seconds, list[list[str]]]:
    """Seconds to cut all shards by so many processes, and what each of them has made."""
    own = drawn(card, folder / "data")
    shards = dealt(own, folder / "data")["shards"]
    took: dict[int, list[float]] = {count: [] for count in counts}
    versions = []
    for repeat in range(repeats + 1):
        for count in counts:
            begun = time.perf_counter()
            # One task a process: they are dealt beforehand, as the workflow deals them to jobs.
            tasks = [
                pool.submit(
                    _cut, own, folder / "data", shards[n::count], folder / f"cut{count}", size_px
                )
                for n in range(count)
            ]
            made = [version for task in tasks for version in task.result()]
            if repeat:  # the first is for warming up
                took[count].append(time.perf_counter() - begun)
                versions.append(sorted(made))
    return {count: median(each) for count, each in took.items()}, versions


def _cut(
    card: Card, folder: Path, shards: list[dict[str, Any]], out: Path, size_px: int
) -> list[str]:
    return [
        cut_shard(card, folder, shard, out / shard["name"], size_px=size_px)["version"]
        for shard in shards
    ]


def _train_by(
    pool: ProcessPoolExecutor, given: Given, folder: Path, counts: Sequence[int], repeats: int
) -> tuple[Seconds, float]:
    """Seconds of an epoch by so many processes, and how far the weights are apart."""
    took: Seconds = {}
    weights: dict[int, dict[str, Any]] = {}
    # The first epoch warms up.
    patches = _in_memory(given.patches)
    sections = given.sections | {"trainer": given.sections["trainer"] | {"epochs": repeats + 1}}
    for count in counts:
        # As `swath.learn.together` does for a step of Slurm: all know it without asking.
        port = 15_000 + (31 * os.getpid() + count) % 15_000
        tasks = [
            pool.submit(
                _trained, patches, given.parts, given.statistics, folder / f"run{count}",
                sections, (rank, count, port),
            )
            for rank in range(count)
        ]  # fmt: skip
        results = [task.result() for task in tasks]
        took[count], weights[count] = results[0]
    apart = [
        float(np.max(np.abs(own[name] - weights[1][name])))
        for own in weights.values()
        for name in own
    ]
    return took, max(apart)


def _in_memory(patches: PatchSet) -> PatchSet:
    """The same without maps of files, which are not sent to another process."""
    everything = np.arange(len(patches))
    image, label = (
        Mapped((values.gather(everything),), values.shape)
        for values in (patches.image, patches.label)
    )
    return replace(patches, image=image, label=label)


def _trained(
    patches: PatchSet,
    parts: NDArray[np.str_],
    statistics: dict[str, Any],
    state: Path,
    sections: dict[str, Any],
    place: tuple[int, int, int],
) -> tuple[float, dict[str, Any]]:
    """Train as one of several processes, which the environment tells of each other."""
    rank, count, port = map(str, place)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port,
            "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    os.environ.update(told if place[1] > 1 else {})
    try:
        outcome = train(
            patches, parts, statistics, state, seed=0, processes=place[1], **sections
        )  # fmt: skip
    finally:
        for name in told:
            os.environ.pop(name, None)
    seconds = float(outcome.history["seconds"][1:].median())
    saved = torch.load(state / "last.ckpt", weights_only=True)["state_dict"]
    return seconds, {name: value.double().numpy() for name, value in saved.items()}


def _lines() -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    along = np.geomspace(1, 1024, 60)
    for share, colour in ((0.01, ACCENT), (0.05, SECOND), (0.25, THIRD)):
        axes.plot(along, [1 / (share + (1 - share) / n) for n in along], color=colour,
                  label=f"serial {share:.0%}: at most {1 / share:.0f}")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="processes", ylabel="speed-up")
    axes.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1024"])
    axes.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=1, handletextpad=0.4)
    return figure


def _drawn(curves: dict[str, Seconds], serial: dict[str, float]) -> Figure:
    figure = Figure(figsize=(1.1 * WIDTH, WIDTH), layout="constrained")
    axes = figure.subplots()
    most = max(next(iter(curves.values())))
    along = np.linspace(1, most, 50)
    axes.plot(along, along, color=MUTED, linestyle="--", linewidth=1)
    for (name, took), colour in zip(curves.items(), (ACCENT, SECOND), strict=True):
        line = [1 / (serial[name] + (1 - serial[name]) / n) for n in along]
        axes.plot(along, line, color=colour, linewidth=1)
        axes.scatter(list(took), [took[1] / each for each in took.values()], color=colour, s=30,
                     label=f"{name}, serial {serial[name]:.0%}", zorder=3)  # fmt: skip
    axes.axhline(1, color=INK, linewidth=0.6)
    axes.set(xlabel="processes", ylabel="speed-up", xticks=list(next(iter(curves.values()))))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=1, handletextpad=0.2)
    return figure
