"""The audit of a split: proof that its parts are independent on the ground.

A patch of the test part that overlaps, or nearly touches, one of the training part lets a model
remember instead of recognise. The audit measures, exactly, how close the parts come.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from swath.data.earth import Ints
from swath.split.ground import ROUNDING_M, Ground, Nearest

PARTS = ("train", "val", "test")
COUPLES = tuple(combinations(PARTS, 2))


def audit(
    ground: Ground,
    parts: NDArray[np.str_],
    *,
    buffer_m: float,
    by_acquisition: bool = False,
    may_lack: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure how independent the parts of one fold are.

    Args:
        ground: the patches, their places and contents.
        parts: (patch,) train, val, test or unused.
        buffer_m: the least distance between parts that was asked for.
        by_acquisition: whether no acquisition may lie in two parts.
        may_lack: parts that need not have every class, as those of a published list.

    Returns:
        passed, overlap_m2 and overlapping_pairs over all pairs of parts, least_distance_m (None
        where nothing can be compared; see `Ground.nearest`), buffer_m, parts (patches, and contents
        by class), problems, and notes of what is no problem (one line each; what is said of places
        names the pair of patches that proves it). Classes that no patch has are noted only. Patches
        without a place, and local planes that share no coordinates, are a problem where they lie in
        different parts: nothing shows that they are not the same ground.
    """
    members = {part: np.flatnonzero(parts == part) for part in (*PARTS, "unused")}
    problems = _unplaced(ground, members)
    total, pairs, least = 0.0, 0, np.inf
    for couple in COUPLES:
        ones, others = members[couple[0]], members[couple[1]]
        worst, shared, count = None, 0.0, 0
        for found in ground.overlaps(ones, others):
            count += len(found.first)
            total += float(found.overlap_m2.sum())
            if len(found.first) and found.overlap_m2.max() > shared:
                at = int(np.argmax(found.overlap_m2))
                shared = float(found.overlap_m2[at])
                worst = int(found.first[at]), int(found.second[at])
        pairs += count
        if worst:
            least = 0.0
            pair = _pair(ground, couple, *worst)
            problems.append(f"{pair} share {shared:.0f} m² ({count} such pairs)")
        elif closest := ground.nearest(ones, others):
            least = min(least, closest.distance_m)
            problems += _too_close(ground, couple, ones, others, closest, buffer_m)
    if by_acquisition:
        problems += _shared_acquisitions(ground, parts)
    lacking, notes = _absent(ground, members, may_lack)
    problems += lacking
    return {
        "passed": not problems,
        "overlap_m2": total,
        "overlapping_pairs": pairs,
        "least_distance_m": float(least) if np.isfinite(least) else None,
        "buffer_m": buffer_m,
        "parts": {
            part: {"patches": len(which), "classes": contents_of(ground, which)}
            for part, which in members.items()
        },
        "problems": problems,
        "notes": notes,
    }


def contents_of(ground: Ground, which: Ints) -> dict[str, int]:
    """Labels of each class among these patches: patches, or pixels where these are labelled."""
    return dict(zip(ground.classes, ground.contents[which].sum(axis=0).tolist(), strict=True))


def _pair(ground: Ground, couple: tuple[str, str], first: int, second: int) -> str:
    names = ground.places["name"].iloc[[first, second]]
    return " and ".join(f"{part} patch {name}" for part, name in zip(couple, names, strict=True))


def _too_close(
    ground: Ground,
    couple: tuple[str, str],
    ones: Ints,
    others: Ints,
    closest: Nearest,
    buffer_m: float,
) -> list[str]:
    if closest.distance_m >= buffer_m - ROUNDING_M:
        return []
    count = len(ground.conflicts(ones, others, buffer_m))
    return [
        f"{_pair(ground, couple, closest.first, closest.second)} are {closest.distance_m:.0f} m "
        f"apart, less than the buffer of {buffer_m:g} m "
        f"({count} {couple[0]} patches are that close)"
    ]


def _unplaced(ground: Ground, members: dict[str, Ints]) -> list[str]:
    """What cannot be compared: patches of no place, and of different local planes."""
    used = np.concatenate([members[part] for part in PARTS])
    if not ground.placed[used].all():
        return ["patches have no georeference: independence of the parts cannot be shown"]
    # All that has a CRS can be compared; a plane only with itself.
    frame = np.minimum(ground.epsg, 0)
    for couple in COUPLES:
        ones, others = (members[part] for part in couple)
        if not len(ones) or not len(others):
            continue
        first, second = ones[np.argmax(frame[ones] != frame[others[0]])], others[0]
        if frame[first] == frame[second]:
            first, second = ones[0], others[np.argmax(frame[others] != frame[ones[0]])]
        if frame[first] != frame[second]:
            pair = _pair(ground, couple, first, second)
            return [f"{pair} have no common georeference: independence cannot be shown"]
    return []


def _shared_acquisitions(ground: Ground, parts: NDArray[np.str_]) -> list[str]:
    """One line where patches of one scene lie in two parts."""
    used = parts != "unused"
    dealt = pd.Series(parts[used]).groupby(ground.places["scene"].to_numpy()[used]).nunique()
    several = dealt.index[dealt > 1]
    if not len(several):
        return []
    return [f"{len(several)} acquisitions lie in two parts, first scene {several[0]}"]


def _absent(
    ground: Ground, members: dict[str, Ints], may_lack: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Problems and notes of classes that a part does not have."""
    everywhere = contents_of(ground, np.arange(len(ground)))
    problems, notes = [], []
    if nowhere := [name for name, count in everywhere.items() if not count]:
        notes.append(f"no patch has {', '.join(nowhere)}")
    for part in PARTS:
        if not len(members[part]):
            problems.append(f"part {part} has no patch")
            continue
        counts = contents_of(ground, members[part])
        if absent := [name for name, count in counts.items() if not count and everywhere[name]]:
            line = f"part {part} has nothing of {', '.join(absent)}"
            (notes if part in may_lack else problems).append(line)
    return problems, notes
