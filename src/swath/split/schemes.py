"""Schemes that deal patches to train, val and test.

A scheme is a function from what is known of the patches to their parts, in one fold or several.
Each must leave every other decision to its settings; whether the result may be trained on, the
audit says.

In k folds the patches, blocks, strips, regions or dates are dealt to k groups. Group i tests in
fold i, and the next one validates (where `val` is not 0); the shares then say nothing more.

Every scheme but `random` and `stratified` leaves out what shares ground with a rarer part, or lies
within the buffer of it: first train, then val.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from swath import registry, store
from swath.data.earth import Blocks, Floats, Ints
from swath.errors import ConfigError, DataError, nearest
from swath.registry import Count, NonNegative, Positive, Share, Whole, registered
from swath.split.audit import COUPLES, PARTS
from swath.split.autocorrelation import autocorrelation
from swath.split.ground import Ground
from swath.split.lists import parts_of, read_list, read_lists
from swath.split.polygons import read_regions, within

Parts = NDArray[np.str_]
"""(fold, patch): train, val, test or unused."""

log = logging.getLogger("swath")


@registered("scheme")
def random(
    ground: Ground,
    *,
    val: Share = 0.1,
    test: Share = 0.2,
    folds: Count = 1,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Patches dealt at random. Neighbours land in different parts, so scores are too good."""
    shares = _shares("random", val, test, folds)
    groups = _draw(len(ground), shares, np.random.default_rng(seed))
    return _with_buffer(ground, _by_group(groups, folds, val), buffer_m)


@registered("scheme")
def stratified(
    ground: Ground,
    *,
    val: Share = 0.08,
    test: Share = 0.2,
    folds: Count = 1,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Patches dealt at random within each class, as in much literature. Leaks like `random`.

    A patch with labels for its pixels counts for its most frequent class. Patches with several
    labels are dealt class by class, the rarest first, each part getting what it still lacks of it
    (after Sechidis et al. 2011, On the Stratification of Multi-label Data, ECML PKDD).
    """
    shares = _shares("stratified", val, test, folds)
    groups = _stratify(ground.contents, shares, np.random.default_rng(seed))
    return _with_buffer(ground, _by_group(groups, folds, val), buffer_m)


@registered("scheme")
def blocks(
    ground: Ground,
    *,
    size_m: Positive | None = None,
    val: Share = 0.15,
    test: Share = 0.2,
    folds: Count = 1,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Square blocks of the ground dealt whole, so that neighbours stay together.

    Without a size, blocks are as large as the range of spatial autocorrelation of the classes. They
    are dealt one by one to the part that lacks most of what it should have, in random order, by
    what the patches in them hold: parts come out alike in size and classes. A patch belongs to the
    block of its upper-left corner. In a CRS in degrees, the rows of blocks are as high as the size
    asked for, and each row is cut into blocks of that width.
    """
    _need_places(ground, "blocks")
    if size_m is None:
        found = autocorrelation(ground)
        log.info("%s", found.line())
        size_m = found.block_m
    # Numbered as they come.
    number = pd.factorize(Blocks.of(ground.places, size_m).numbers)[0]
    shares = _shares("blocks", val, test, folds)
    if (count := int(number.max()) + 1) < sum(share > 0 for share in shares):
        raise ConfigError(
            f"{count} blocks of {size_m:g} m are too few for the parts",
            where="split.blocks.size_m",
            mend="give smaller blocks",
        )
    dealt = _deal_units(ground.contents, number, shares, np.random.default_rng(seed))
    return _apart(ground, _by_group(dealt, folds, val), buffer_m)


@registered("scheme")
def longitude(
    ground: Ground,
    *,
    val: Share = 0.2,
    test: Share = 0.2,
    folds: Count = 1,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """The west trains, the middle validates, the east tests: another region altogether.

    The west begins after the widest gap in longitude, which need not be the date line.
    """
    _need_degrees(ground, "longitude")
    lon = ground.places["lon"].to_numpy(float) % 360
    around = np.sort(lon)
    gaps = np.diff(around, append=around[0] + 360)
    lon = (lon - around[(int(np.argmax(gaps)) + 1) % len(around)]) % 360
    position = pd.Series(lon).rank(method="first", pct=True).to_numpy()
    groups = _in_order(position, _shares("longitude", val, test, folds))
    return _apart(ground, _by_group(groups, folds, val), buffer_m)


@registered("scheme")
def regions(
    ground: Ground,
    *,
    file: str,
    attribute: str,
    val: list[str] = [],  # noqa: B006
    test: list[str] = [],  # noqa: B006
    folds: Count = 1,
    seed: Whole = 0,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """Regions drawn as polygons: those named validate and test, all others train.

    The file is GeoJSON, GeoPackage or a Shapefile, by its path or below the dataset's folder; the
    attribute names the regions. A patch that lies in no region, or not wholly in one, is unused. In
    several folds, regions are dealt like blocks, and none is named.
    """
    _need_degrees(ground, "regions")
    path = Path(file)
    if ground.data:
        store.bring(ground.data / file)
        path = ground.data / file if (ground.data / file).exists() else path
    known = read_regions(path, attribute)
    for name in [*val, *test]:
        if name not in known.names:
            mend = nearest(name, known.names)
            raise ConfigError(f"there is no region '{name}'", where="split.regions", mend=mend)
    found = within(ground, known)
    inside = found >= 0
    log.info("%d of %d patches lie wholly in a region", inside.sum(), len(ground))
    parts = np.full((folds, len(ground)), "unused", dtype="<U6")
    if folds == 1:
        if not test or set(val) & set(test):
            raise ConfigError(
                "names no region to test on, or one twice",
                where="split.regions.test",
                mend=f"name some of {', '.join(known.names[:5])}, or give folds",
            )
        parts[0, inside] = "train"
        for part, names in (("val", val), ("test", test)):
            parts[0, np.isin(found, [known.names.index(name) for name in names])] = part
        return _apart(ground, parts, buffer_m)
    if val or test:
        raise ConfigError(
            "regions are named, and folds asked for", where="split.regions", mend="choose one"
        )
    present, number = np.unique(found[inside], return_inverse=True)
    if len(present) < folds:
        raise ConfigError(
            f"{len(present)} regions with patches are too few for {folds} folds",
            where="split.regions.folds",
            mend="give fewer folds",
        )
    shares = _shares("regions", 1.0, 0.0, folds)
    dealt = _deal_units(ground.contents[inside], number, shares, np.random.default_rng(seed))
    parts[:, inside] = _by_group(dealt, folds, 1.0)
    return _apart(ground, parts, buffer_m)


@registered("scheme")
def time(
    ground: Ground,
    *,
    val: Share = 0.2,
    test: Share = 0.2,
    val_from: str | None = None,
    test_from: str | None = None,
    folds: Count = 1,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """The earliest acquisitions train, the latest test; all of one scene or one time stay together.

    From the dates on where they are given (ISO 8601), otherwise by shares of the patches. The same
    ground at two dates is the same ground: what train shares with a later part is left out.
    """
    when, scene = ground.places["time"], ground.places["scene"]
    if when.isna().any():
        raise DataError(
            f"{int(when.isna().sum())} patches have no acquisition time",
            where="split.time",
            mend="choose another scheme, or give the scenes their times",
        )
    # A scene is dealt by the first of its times.
    when = when.groupby(scene).transform("min")
    if val_from is None and test_from is None:
        shares = _shares("time", val, test, folds)
        groups = _whole_dates(when, shares)
        return _apart(ground, _by_group(groups, folds, val), buffer_m)
    if test_from is None or folds > 1:
        raise ConfigError(
            "dates without test_from, or with folds",
            where="split.time",
            mend="give test_from (and val_from), or shares",
        )
    parts = np.full((1, len(ground)), "train", dtype="<U6")
    for part, date in (("val", val_from), ("test", test_from)):
        if date is not None:
            parts[0, (when >= _date(part, date)).to_numpy()] = part
    return _apart(ground, parts, buffer_m)


@registered("scheme")
def official(
    ground: Ground,
    *,
    file: str = "",
    train: str = "train",
    val: str = "val",
    test: str = "test",
    column: str = "split",
    names: str = "",
    ending: str = "",
    val_share: Share = 0.0,
    seed: Whole = 0,
    as_published: bool = False,
    buffer_m: NonNegative = 0.0,
) -> Parts:
    """The split that was published with the data; what no list names is unused.

    Args:
        ground: the patches.
        file: of the dataset's files, the one that holds all lists: a zip with a list a part, JSON
            `{part: [name, ...]}`, or a table (CSV, Parquet) with a column of parts. Empty where
            each part has a file of its own.
        train: what the file calls the part; without `file`, the list file itself, or a beginning of
            the patches' names (`train/`).
        val: the same; empty where there is none.
        test: the same.
        column: of a table, the column of parts.
        names: of a table, the column of names; empty is the first.
        ending: what the lists add to each name (`_S1Hand.tif`).
        val_share: where no list validates: share of the training part that does instead, at random
            in each class.
        seed: of that draw.
        as_published: keep the lists as they are, also where parts overlap: the audit will say so.
            Else what overlaps a rarer part, or lies within the buffer, is left out.
        buffer_m: least distance between parts, m.
    """
    if ground.data is None:
        raise DataError("the folder of the dataset is not known", where="split.official")
    words = {part: word for part, word in zip(PARTS, (train, val, test), strict=True) if word}
    store.bring(
        *(ground.data / name for name in (file, *words.values()) if name and name[-1] != "/")
    )
    if file:
        held = read_lists(ground.data / file, column=column, names=names)
        for part, word in words.items():
            if word not in held:
                raise ConfigError(
                    f"{file} holds no list '{word}'",
                    where=f"split.official.{part}",
                    mend=nearest(word, held),
                )
        lists = {part: held[word] for part, word in words.items()}
    else:
        lists = {part: _names_of(ground, word) for part, word in words.items()}
    found = parts_of(ground.places, lists, ending=ending)
    unlisted = int((found == "unused").sum())
    log.info("lists of %d names; %d patches are in none", sum(map(len, lists.values())), unlisted)
    parts = found.to_numpy().astype("<U6")
    if val_share and not val:
        training = np.flatnonzero(parts == "train")
        shares = (1 - val_share, val_share)
        drawn = _stratify(ground.contents[training], shares, np.random.default_rng(seed))
        parts[training[drawn == 1]] = "val"
    if as_published:
        return parts[None]
    return _apart(ground, parts[None], buffer_m)


def _names_of(ground: Ground, word: str) -> list[str]:
    """What a list file names; `train/` stands for the patches whose names begin so."""
    assert ground.data is not None
    if word.endswith("/"):
        return [name for name in ground.places["name"] if name.startswith(word)]
    return read_list(ground.data / word)


@registered("scheme")
def few_shot(
    ground: Ground,
    *,
    shots: Count,
    of: dict[str, Any],
    seed: Whole = 0,
) -> Parts:
    """A few patches of each class to train on, drawn from the training part of another scheme.

    Args:
        ground: the patches.
        shots: patches of each class, or all where there are fewer; what is not drawn is unused.
            Patches with several labels are drawn for the rarest class first, and count for all.
        of: the other scheme: its name as `scheme`, and its settings.
        seed: of the draw.
    """
    generator = np.random.default_rng(seed)
    parts = _by_other(ground, of)
    has = _has(ground.contents)
    for fold in parts:
        train = np.flatnonzero(fold == "train")
        chosen = np.zeros(len(ground), bool)
        for label in np.argsort(has[train].sum(axis=0), kind="stable"):
            lacking = shots - int(has[chosen, label].sum())
            able = train[has[train, label] & ~chosen[train]]
            chosen[generator.permutation(able)[: max(lacking, 0)]] = True
        fold[train[~chosen[train]]] = "unused"
    return parts


# ---- groups and parts --------------------------------------------------------------------------


def _shares(scheme: str, val: float, test: float, folds: int) -> list[float]:
    """The share of each group: of train, val and test, or alike of as many as there are folds."""
    if folds == 1:
        if val + test >= 1:
            raise ConfigError(
                f"val and test take {val + test:g} of the patches",
                where=f"split.{scheme}",
                mend="leave a share to train on",
            )
        return [1 - val - test, val, test]
    if folds == 2 and val:
        raise ConfigError(
            "two folds, one to test and one to validate, leave nothing to train on",
            where=f"split.{scheme}.folds",
            mend="give 3 folds or more, or val=0",
        )
    return [1 / folds] * folds


def _by_group(groups: Ints, folds: int, val: float) -> Parts:
    """Parts (fold, patch) from the group of each patch, which `_shares` describes."""
    if folds == 1:
        return np.array(PARTS, dtype="<U6")[groups][None]
    parts = np.full((folds, len(groups)), "train", dtype="<U6")
    for fold in range(folds):
        if val:
            parts[fold, groups == (fold + 1) % folds] = "val"
        parts[fold, groups == fold] = "test"
    return parts


def _draw(count: int, shares: Sequence[float], generator: np.random.Generator) -> Ints:
    """The group of each of `count` things at random, in shares rounded to whole things."""
    # From the last group to the first, so that the first gets what rounding leaves.
    edges = np.round(np.cumsum([*shares[::-1]]) * count).astype(np.int64)
    edges[-1] = count
    drawn = np.empty(count, np.int64)
    ranks = np.searchsorted(edges, np.arange(count), side="right")
    drawn[generator.permutation(count)] = len(shares) - 1 - ranks
    return drawn


def _in_order(position: Floats, shares: Sequence[float]) -> Ints:
    """The group of each thing by its position in (0, 1], the first group first."""
    # Rounded, since 1 - 0.2 - 0.2 must be 0.6 as a rank of patches is.
    edges = np.round(np.cumsum(shares)[:-1], 12)
    return np.searchsorted(edges, np.round(position, 12))


def _whole_dates(when: pd.Series, shares: Sequence[float]) -> Ints:
    """The group of each patch by its time, the patches of one time together, no group empty."""
    dates, number, count = np.unique(when.to_numpy(), return_inverse=True, return_counts=True)
    given = [group for group, share in enumerate(shares) if share > 0]
    if len(dates) < len(given):
        raise ConfigError(
            f"{len(dates)} acquisition times are too few for {len(given)} parts",
            where="split.time",
            mend="add scenes of other dates, or choose another scheme",
        )
    # A date stands where the middle one of its patches does.
    middle = (np.cumsum(count) - count / 2) / count.sum()
    groups = _in_order(middle, [shares[group] for group in given])
    for date in range(len(dates)):
        groups[date] = min(groups[date], groups[date - 1] + 1 if date else 0)
    groups[-1] = len(given) - 1
    for date in range(len(dates) - 2, -1, -1):
        groups[date] = max(groups[date], groups[date + 1] - 1)
    return np.array(given)[groups][number]


def _has(contents: Ints) -> NDArray[np.bool_]:
    """(patch, class): whether a patch counts for a class: it has it, or most pixels of it."""
    if contents.max(initial=0) <= 1:
        return contents > 0
    most = contents.argmax(axis=1)[:, None] == np.arange(contents.shape[1])
    return np.asarray(most & (contents > 0))


def _stratify(contents: Ints, shares: Sequence[float], generator: np.random.Generator) -> Ints:
    """The group of each patch, so that each group gets its share of every class."""
    has = _has(contents)
    several = (has.sum(axis=1) > 1).any()
    groups = np.full(len(contents), -1)
    wanted = np.outer(has.sum(axis=0), shares)
    order = np.argsort(has.sum(axis=0), kind="stable") if several else range(has.shape[1])
    for label in order:
        at = np.flatnonzero(has[:, label] & (groups < 0))
        dealt = np.bincount(groups[has[:, label] & (groups >= 0)], minlength=len(shares))
        lacking = np.maximum(wanted[label] - dealt, 0)
        if len(at):
            groups[at] = _draw(len(at), list(lacking / lacking.sum()), generator)
    rest = np.flatnonzero(groups < 0)
    groups[rest] = _draw(len(rest), shares, generator)
    return groups


def _deal_units(
    contents: Ints, number: Ints, shares: Sequence[float], generator: np.random.Generator
) -> Ints:
    """The group of each patch, whole units (`number`) together, each class in its shares."""
    content = np.stack([np.bincount(number, column) for column in contents.T], axis=1)
    # Patches without a label are dealt out evenly too.
    empty = np.bincount(number, ~contents.any(axis=1))
    if empty.any():
        content = np.column_stack([content, empty])
    groups = [group for group, share in enumerate(shares) if share > 0]
    wanted = np.array([shares[group] for group in groups])[:, None] * content.sum(axis=0)
    have = np.zeros_like(wanted)
    scale = np.maximum(content.sum(axis=0), 1)
    dealt = np.empty(len(content), np.int64)
    # Rich units first, random among equals: the small ones then even out what is left.
    order = np.lexsort([generator.random(len(content)), -content.sum(axis=1)])
    for unit in order:
        after = ((wanted - have - content[unit]) / scale).clip(max=0).sum(axis=1)
        lack = ((wanted - have) / np.maximum(wanted, 1)).mean(axis=1)
        part = int(np.argmax(lack + after))
        have[part] += content[unit]
        dealt[unit] = groups[part]
    return dealt[number]


def _by_other(ground: Ground, settings: dict[str, Any]) -> Parts:
    """The parts that another scheme deals, its settings checked as if they stood alone."""
    where = "split.few_shot.of"
    if not isinstance(settings.get("scheme"), str):
        raise ConfigError("no scheme is named", where=f"{where}.scheme", mend="give scheme")
    known = registry.entry("scheme", settings["scheme"], where=f"{where}.scheme")
    given = {key: value for key, value in settings.items() if key != "scheme"}
    for key, value in given.items():
        if key not in known.settings:
            mend = nearest(key, known.settings)
            raise ConfigError("unknown key", where=f"{where}.{key}", mend=mend)
        try:
            TypeAdapter(known.settings[key][0]).validate_python(value, strict=True)
        except ValidationError as invalid:
            reason = invalid.errors()[0]["msg"].removeprefix("Input ")
            raise ConfigError(
                f"{value!r} will not do", where=f"{where}.{key}", mend=f"it {reason}"
            ) from None
    for key, (_, default) in known.settings.items():
        if default is ... and key not in given:
            raise ConfigError("has no value", where=f"{where}.{key}", mend="give it one")
    parts: Parts = registry.load("scheme", known.name)(ground, **given)
    return parts


# ---- what lies too near ------------------------------------------------------------------------


def _with_buffer(ground: Ground, parts: Parts, buffer_m: float) -> Parts:
    return _apart(ground, parts, buffer_m) if buffer_m else parts


def _apart(ground: Ground, dealt: Parts, buffer_m: float) -> Parts:
    """Leave out what shares ground with a rarer part, or lies within the buffer of it."""
    parts = dealt.astype("<U6")
    for fold in parts:
        for yielding, staying in COUPLES:
            first, second = np.flatnonzero(fold == yielding), np.flatnonzero(fold == staying)
            fold[ground.conflicts(first, second, buffer_m)] = "unused"
    for number, (before, after) in enumerate(zip(dealt, parts, strict=True)):
        if count := int((before != after).sum()):
            log.info("fold %d: %d patches left out, too near a rarer part", number, count)
    return parts


def _need_places(ground: Ground, scheme: str) -> None:
    if not ground.placed.all():
        raise DataError(
            "the patches have no georeference",
            where=f"split.{scheme}",
            mend="choose split=stratified, or name a table of places in the dataset's layout",
        )


def _need_degrees(ground: Ground, scheme: str) -> None:
    _need_places(ground, scheme)
    if (ground.epsg < 0).any():
        raise DataError(
            "the patches lie on local planes, which are nowhere on the Earth",
            where=f"split.{scheme}",
            mend="choose split=blocks",
        )


def _date(part: str, text: str) -> pd.Timestamp:
    try:
        return pd.Timestamp(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is no date", where=f"split.time.{part}_from", mend="write it as 2018-06-30"
        ) from None
