"""What the report says of the data: checks of the scenes, spectra, places of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from swath.data.mapped import Mapped
from swath.data.patchset import Several
from swath.report import figures, page, tables
from swath.study.results import Experiment, Split, read_experiment

SIDES = ["west", "south", "east", "north"]


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """As the page draws."""
    with matplotlib.rc_context(figures.STYLE):
        yield


@pytest.fixture(scope="module")
def results(segmentation: Path) -> Experiment:
    return read_experiment(segmentation)


def moved(results: Experiment, **columns: Any) -> Experiment:
    """The same experiment elsewhere on the ground."""
    places = results.patches.places.assign(**columns)
    return replace(results, patches=replace(results.patches, places=places))


def with_folds(split: Split, count: int) -> Split:
    """The same split as so many folds, each with an audit of its own."""
    table = pd.concat([split.table.assign(fold=fold) for fold in range(count)], ignore_index=True)
    audits = [split.audit | {"least_distance_m": 100.0 * (n + 1)} for n in range(count)]
    return replace(split, table=table, audit=split.audit | {"folds": audits})


# ---- checks of the scenes -------------------------------------------------------------------


def check(scene: str, **facts: Any) -> dict[str, Any]:
    """A line of the table of checks, of a fit scene."""
    return {
        "scene": scene, "patches": 10, "faults": [], "pixels": 1000, "nodata": 0.0, "nan": 0.0,
        "saturated": 0.0, "implausible": 0.0, "clouds": None, "least": 1.0, "most": 900.0,
        "constant": [], "empty": [], "digest": scene, "left_out": 1,
    } | facts  # fmt: skip


def checked(results: Experiment, checks: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    (table,) = tables._checks_table(replace(results, index={"checks": checks}))
    return list(table.rows)


def test_scenes_set_aside_stand_first_and_say_why(
    segmentation: Path, written: Callable[[Path], Path]
) -> None:
    source = written(segmentation).read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", source, flags=re.DOTALL).split())
    assert (
        "s7 set aside: s7_image.tif: lacks the band B08 0 – – – – – – s0 fit 20 0 0.0 – 0.0 0.0"
    ) in text
    assert "40 patches were cut. 1 scene was set aside as unfit" in text


def test_all_that_is_wrong_is_said_and_what_was_accepted_too(results: Experiment) -> None:
    reasons = ["has no data in B8", "30.0% of its pixels are clouded, more than 20.0%"]
    aside, fit, bare = checked(
        results,
        [
            check("flat", constant=["B1", "B2"], clouds=0.123, saturated=0.0004, most=65535.0),
            check("bad", faults=reasons, patches=0, left_out=0, clouds=0.3),
            check("bare", patches=0, least=-31.4641),
        ],
    )
    assert aside[:2] == ("bad", f"set aside: {reasons[0]}; {reasons[1]}")
    assert bare[1] == "fit; no patch has enough valid pixels" and bare[-1] == "−31.464 to 900"
    assert fit == (
        "flat", "fit; B1, B2 constant", "10", "1", "0.0", "12.3", "< 0.1", "0.0", "1 to 65535",
    )  # fmt: skip


def test_of_many_scenes_the_worst_are_shown_and_the_others_added_up(results: Experiment) -> None:
    fit = [check(f"s{n}", nodata=n / 1000, pixels=n + 1, most=float(n)) for n in range(500)]
    aside = [check(f"x{n}", faults=["is broken"], patches=0, left_out=0) for n in range(3)]
    rows = checked(results, [*fit[:250], *aside, *fit[250:]])
    assert [row[0] for row in rows[:5]] == ["x0", "x1", "x2", "s499", "s498"]
    assert len(rows) == tables.CHECKS_SHOWN + 1
    weights = np.arange(473) + 1
    mean = 100 * (weights * np.arange(473) / 1000).sum() / weights.sum()
    assert rows[-1] == (
        "473 others", "fit", "4,730", "473", f"{mean:.1f}", "–", "0.0", "0.0", "1 to 472",
    )  # fmt: skip


def test_portions_of_published_patches_are_told_apart(results: Experiment) -> None:
    rows = checked(results, [check("eurosat", digest=str(n)) for n in range(3)])
    assert [row[0] for row in rows] == ["eurosat (1 of 3)", "eurosat (2 of 3)", "eurosat (3 of 3)"]


# ---- bands ----------------------------------------------------------------------------------


def training_pixels(results: Experiment, split: Split) -> tuple[np.ndarray, np.ndarray]:
    train = np.flatnonzero(split.parts(0) == "train")
    return results.patches.image.gather(train), results.patches.label.gather(train)


def test_statistics_are_those_of_the_training_part(results: Experiment) -> None:
    split = results.splits[0]
    (table,) = tables._bands_table(results, split)
    pixels = training_pixels(results, split)[0][:, 2].ravel().astype(float)
    wanted = [pixels.mean(), pixels.std(), *np.quantile(pixels, [0.02, 0.5, 0.98])]
    assert table.rows[2] == ("B04", "665", *(tables._significant(value) for value in wanted))


def test_means_of_the_classes_are_those_of_their_pixels(
    results: Experiment, classification: Path, several: Path
) -> None:
    image, label = training_pixels(results, results.splits[0])
    found = figures._class_means(results, results.splits[0])
    for value in range(4):
        np.testing.assert_allclose(found[value, 1], image[:, 1][label == value].mean())
    for folder in (classification, several):
        single = read_experiment(folder)
        image, label = training_pixels(single, single.splits[0])
        mine = label[:, 3].astype(bool) if single.labels == "several" else label == 3
        found = figures._class_means(single, single.splits[0])
        np.testing.assert_allclose(found[3], image[mine].mean(axis=(0, 2, 3)))


def test_pixels_without_data_are_in_no_mean(results: Experiment) -> None:
    image = results.patches.image.gather(np.arange(len(results.patches))).astype(np.float32)
    image[:, 1, :8] = np.nan
    holed = replace(results, patches=replace(results.patches, image=Mapped((image,), image.shape)))
    found = figures._class_means(holed, results.splits[0])
    train, label = training_pixels(holed, results.splits[0])
    wanted = train[:, 1, 8:][label[:, 8:] == 0].mean()
    assert found[0, 1] == pytest.approx(wanted, rel=1e-5)


def test_bands_stand_by_wavelength_or_by_name(results: Experiment) -> None:
    figure, _, _ = figures.spectra(results, results.splits[0])
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [490, 560, 665, 842]
    radar = replace(results, sections=results.sections | {"data": "{}"})
    figure, _, _ = figures.spectra(radar, results.splits[0])
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [
        "B02", "B03", "B04", "B08",
    ]  # fmt: skip


def test_a_series_has_a_line_for_each_date(results: Experiment) -> None:
    facts = results.patches.facts | {"dates": 2, "bands": ["B02@0", "B08@0", "B02@1", "B08@1"]}
    series = replace(results, patches=replace(results.patches, facts=facts))
    (figure,) = figures.spectra(series, results.splits[0])
    assert [line.get_xdata().tolist() for line in figure.axes[0].lines] == [[490, 842]] * 2
    assert figure.axes[0].get_title("left") == "Training part, 2 dates"


def test_hundreds_of_bands_are_drawn_and_not_listed(results: Experiment) -> None:
    split = results.splits[0]
    wide = {
        key: {share: values * 50 for share, values in column.items()}
        if isinstance(column, dict)
        else column * 50
        for key, column in split.statistics[0].items()
        if key not in ("patches",)
    }
    image = results.patches.image.gather(np.arange(40)).repeat(50, axis=1)
    facts = results.patches.facts | {"bands": [f"b{n}" for n in range(200)]}
    cube = replace(
        results,
        patches=replace(results.patches, image=Mapped((image,), image.shape), facts=facts),
    )
    split = replace(split, statistics=(wide,))
    assert tables._bands_table(cube, split) == []
    _, by_class, _ = figures.spectra(cube, split)
    assert len(by_class.axes[0].lines[0].get_xdata()) == 200


# ---- pictures -------------------------------------------------------------------------------


def test_pictures_are_stretched_as_the_training_part_says(results: Experiment) -> None:
    split = results.splits[0]
    shares = split.statistics[0]["quantiles"]
    low, high = (np.array(shares[share])[[2, 1, 0]] for share in ("0.02", "0.98"))
    image = np.stack([low, high, high * 9, np.full(3, np.nan)], axis=1)[None, :, None]
    found = figures._stretched(results, split, image)
    np.testing.assert_array_equal(found[0, 0, :, 0], [0, 255, 255, 0])
    alone = replace(split, statistics=())
    assert figures._stretched(results, alone, image[..., :2])[0, 0].tolist() == [[0] * 3, [255] * 3]


def test_bands_of_several_gsds_make_the_same_pictures(classification: Path) -> None:
    results = read_experiment(classification)
    numbers = np.arange(len(results.patches))
    stored = results.patches.image.gather(numbers)
    stored[:, 3] = stored[:, 3, ::2, ::2].repeat(2, 1).repeat(2, 2)
    groups = stored[:, :3], stored[:, 3:, ::2, ::2]
    several = Several(
        groups=tuple(Mapped((group,), group.shape) for group in groups),
        bands=(("B02", "B03", "B04"), ("B08",)), factors=(1, 2),
        wanted=("B02", "B03", "B04", "B08"), dates=1, resampling="nearest",
    )  # fmt: skip
    split = results.splits[0]
    drawn = []
    for image in (Mapped((stored,), stored.shape), several):
        mixed = replace(results, patches=replace(results.patches, image=image))
        drawn.append(
            (figures._true_colour(mixed, split, numbers[:4]), figures._class_means(mixed, split))
        )
        assert ("Patches", "40 of 16 × 16 px at 10 m, 4 bands") in page._facts(mixed)
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_less_than_three_bands_are_shown_as_grey_or_again(results: Experiment) -> None:
    for bands, wanted in (([3], [3, 3, 3]), ([0, 1], [0, 1, 0]), ([2, 1, 0], [2, 1, 0])):
        facts = results.patches.facts | {"rgb": bands}
        assert replace(results, patches=replace(results.patches, facts=facts)).rgb == wanted


# ---- places ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsg", "label", "unit", "stretch"),
    [
        (32632, "easting, km (EPSG:32632)", 1e-3, 1.0),
        (2263, "easting, km (EPSG:2263)", 0.3048e-3, 1.0),  # feet
        (4326, "longitude, ° (EPSG:4326)", 1.0, 2.0),
        (-4, "x, m (no georeference)", 1.0, 1.0),
    ],
)
def test_axes_of_a_map_say_their_unit(epsg: int, label: str, unit: float, stretch: float) -> None:
    labels, found, stretched = figures._map_axes(epsg, 60.0)
    assert labels[0] == label
    assert (found, stretched) == pytest.approx((unit, stretch), rel=1e-5)


def outlines(figure: Any) -> np.ndarray:
    """West, south, east and north of all that is drawn."""
    corners = np.concatenate(
        [path.vertices for drawn in figure.axes[0].collections for path in drawn.get_paths()]
    )
    return np.r_[corners.min(axis=0), corners.max(axis=0)]


def test_patches_in_degrees_are_drawn_in_degrees(results: Experiment) -> None:
    places = results.patches.places
    degrees = {side: (places[side] - 5e5) / 1e5 + 9 for side in ("west", "east")}
    degrees |= {side: (places[side] - 5.3e6) / 1e5 + 60 for side in ("south", "north")}
    there = moved(results, epsg=4326, lat=60.0, **degrees)
    first, second = figures.footprints(there, results.splits[0])
    np.testing.assert_allclose(outlines(first), [9, 60 - 0.008, 9.0064, 60])
    np.testing.assert_allclose(outlines(second)[0], 9.9)
    assert first.axes[0].get_aspect() == pytest.approx(2.0)


def test_a_scene_without_a_place_is_a_plane_of_its_own(results: Experiment) -> None:
    places = results.patches.places
    local = {"west": places["col"] * 10.0, "east": places["col"] * 10.0 + 160}
    local |= {"north": -places["row"] * 10.0, "south": -places["row"] * 10.0 - 160}
    there = moved(results, epsg=-1 - places["scene"], lon=np.nan, lat=np.nan, **local)
    drawn = figures.footprints(there, results.splits[0])
    assert [figure.axes[0].get_title("left") for figure in drawn] == ["Scene s0", "Scene s1"]
    for figure in drawn:
        np.testing.assert_allclose(outlines(figure), [0, -800, 640, 0])
        assert figure.axes[0].get_xlabel() == "x, m (no georeference)"


def test_many_scenes_are_dots_and_many_planes_the_largest(results: Experiment) -> None:
    scene = np.arange(40) // 3
    scenes = results.patches.facts | {"scenes": [f"s{n}" for n in range(14)]}
    many = replace(results, patches=replace(results.patches, facts=scenes))
    (figure,) = figures.footprints(moved(many, scene=scene), results.splits[0])
    assert figure.axes[0].get_xlabel() == "longitude, °"
    planes = moved(many, scene=scene, epsg=-1 - scene, lon=np.nan, lat=np.nan)
    assert len(figures.footprints(planes, results.splits[0])) == figures.SCENES_OUTLINED


def test_patches_of_no_place_are_not_drawn(classification: Path) -> None:
    results = read_experiment(classification)
    nowhere = moved(results, epsg=0, lon=np.nan, lat=np.nan, **dict.fromkeys(SIDES, np.nan))
    split = results.splits[0]
    assert figures.footprints(nowhere, split) == figures.right_and_wrong(nowhere, split) == []


def test_of_several_folds_the_shown_one_is_named(results: Experiment) -> None:
    split = with_folds(results.splits[0], 3)
    folded = replace(results, splits=(split,))
    titles = [figure.axes[0].get_title("left") for figure in figures.footprints(folded, split)]
    assert titles == ["Scene s0, fold 0", "Scene s1, fold 0"]
    audited = tables._audit_table(folded)
    assert [(row[0], row[5]) for row in audited.rows] == [
        ("blocks, fold 0", "100 m"), ("blocks, fold 1", "200 m"), ("blocks, fold 2", "300 m"),
    ]  # fmt: skip
    assert tables._parts_table(split, folded).caption.endswith("split blocks, fold 0")
    assert tables._bands_table(folded, split)[0].caption.endswith("split blocks, fold 0")
