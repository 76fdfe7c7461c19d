"""The embedded data set: synthetic, georeferenced Sentinel-2-like scenes of a peri-urban landscape.

Everything is drawn from a seed, so a clone of the repository has data, truth and all, without a
network. A scene is built in the order in which a landscape is: parcels and country roads, forest,
towns, rail (`draw_class_map`); what the sensor sees of it (`draw_reflectance`); clouds and the
border of the swath; four cloud-optimised GeoTIFFs (`draw_scenes`). The classes overlap in their
spectra on purpose: shape, texture and neighbours tell what the colour of a pixel leaves open.

Arrays are (y, x) or (band, y, x); lengths in pixels are pixels of 10 m; north is up.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from scipy import ndimage

from swath.data.card import UNLABELLED
from swath.errors import SwathError
from swath.files import whole

CLASSES: tuple[str, ...] = (
    "Buildings", "Blocks", "Roads", "Light Train", "Vegetation", "Trees", "Bare Soil", "Soil",
    "Tower",
)  # fmt: skip
BUILDINGS, BLOCKS, ROADS, TRAIN, VEGETATION, TREES, BARE_SOIL, SOIL, TOWER = range(9)
COLOURS: tuple[str, ...] = (
    "#c8372d", "#e9a28f", "#4d4d4d", "#7b3fa0", "#a6d96a", "#1a7837", "#f2dc9b", "#9c6b3c",
    "#ff00c8",
)  # fmt: skip
CLEAR, CLOUDY, OUTSIDE = 0, 1, 2  # values of the mask

# Central wavelengths of Sentinel-2A MSI in nm. Source: ESA, Sentinel-2 Spectral Response
# Functions (COPE-GSEG-EOPG-TN-15-0007), rounded to 0.1 nm.
WAVELENGTHS_NM: dict[str, float] = {
    "B02": 492.4, "B03": 559.8, "B04": 664.6, "B05": 704.1, "B06": 740.5,
    "B07": 782.8, "B08": 832.8, "B8A": 864.7, "B11": 1613.7, "B12": 2202.4,
}  # fmt: skip
BANDS = tuple(WAVELENGTHS_NM)
BANDS_10M = ("B02", "B03", "B04", "B08")
BANDS_20M = ("B05", "B06", "B07", "B8A", "B11", "B12")
SCALE = 10_000  # digital number of reflectance 1, as in Sentinel-2 Level-2A products

# Reflectance in percent at BANDS: a class lies between two endmembers, and a little beyond.
# Drawn by hand after typical curves of the USGS Spectral Library version 7 (Kokaly et al. 2017,
# doi:10.3133/ds1035); rounded and brought closer to each other, so not samples of it.
#                 B02 B03 B04 B05 B06 B07 B08 B8A B11 B12
SIGNATURES: dict[int, tuple[Sequence[float], Sequence[float]]] = {
    BUILDINGS: ([7.5, 9.5, 14., 16., 17., 18., 19., 20., 22., 19.],    # clay tile
                [18., 20., 22., 23., 24., 25., 26., 26., 27., 24.]),   # concrete, sheet metal
    BLOCKS: ([7.5, 9.5, 10., 13., 17., 19., 20., 21., 20., 16.],       # green courtyard
             [14., 16., 18., 20., 22., 23., 24., 25., 26., 23.]),      # paved courtyard
    ROADS: ([7.5, 8.5, 9.5, 10., 11., 11., 12., 12., 14., 13.],        # new asphalt
            [14., 15., 16., 17., 17., 18., 19., 19., 20., 19.]),       # worn asphalt, concrete
    TRAIN: ([7.0, 7.5, 9.5, 10., 11., 11., 12., 12., 20., 21.],        # rusty ballast
            [10., 11., 14., 15., 16., 16., 17., 18., 28., 29.]),       # fresh ballast
    VEGETATION: ([6.0, 9.0, 9.5, 14., 22., 25., 27., 29., 27., 18.],   # ripening, sparse
                 [3.0, 6.0, 3.5, 9.0, 33., 41., 43., 45., 21., 10.]),  # lush crop, meadow
    TREES: ([2.2, 3.2, 2.2, 5.0, 15., 19., 20., 22., 10., 5.0],        # conifers
            [3.0, 5.0, 3.2, 8.0, 28., 35., 37., 39., 18., 8.5]),       # broadleaves
    BARE_SOIL: ([10., 13., 17., 19., 21., 23., 24., 26., 33., 29.],    # loam, dry
                [16., 21., 27., 30., 32., 34., 35., 37., 45., 41.]),   # sand, gravel
    SOIL: ([5.0, 6.5, 8.0, 9.0, 11., 12., 13., 14., 20., 16.],         # ploughed, wet
           [9.5, 12., 16., 18., 20., 22., 23., 25., 32., 28.]),        # ploughed, drying
    TOWER: ([21., 23., 25., 26., 27., 27., 28., 28., 27., 25.],        # render, glass
            [33., 35., 37., 37., 38., 38., 39., 39., 36., 33.]),       # white facade
}  # fmt: skip
CLOUD = np.array([62.0, 60.0, 60.0, 61.0, 62.0, 63.0, 64.0, 64.0, 45.0, 32.0]) / 100

# How much a class varies, 1 sigma. Mixture: where it lies between its endmembers, from object to
# object (a field, a roof) and from place to place. Light: brightness from object to object and
# from pixel to pixel. Foreign: the share of another class below the 10 m of a pixel (weeds in a
# field, a shed in a yard), from object to object and in spots of one to a few pixels.
#                 mixture     light       foreign
VARIABILITY: dict[int, tuple[float, float, float, float, float, float]] = {
    BUILDINGS: (0.32, 0.08, 0.14, 0.10, 0.25, 0.55),
    BLOCKS: (0.22, 0.14, 0.06, 0.14, 0.15, 0.60),
    ROADS: (0.10, 0.22, 0.04, 0.10, 0.00, 0.60),
    TRAIN: (0.10, 0.16, 0.04, 0.08, 0.00, 0.50),
    VEGETATION: (0.30, 0.12, 0.07, 0.06, 0.22, 0.33),
    TREES: (0.16, 0.24, 0.05, 0.22, 0.10, 0.45),
    BARE_SOIL: (0.32, 0.14, 0.08, 0.05, 0.24, 0.36),
    SOIL: (0.32, 0.14, 0.10, 0.05, 0.24, 0.36),
    TOWER: (0.30, 0.05, 0.08, 0.06, 0.00, 0.30),
}
# The two classes whose spectra are mixed into a class.
FOREIGN: dict[int, tuple[int, int]] = {
    BUILDINGS: (BLOCKS, ROADS), BLOCKS: (BUILDINGS, VEGETATION), ROADS: (BLOCKS, SOIL),
    TRAIN: (ROADS, SOIL), VEGETATION: (TREES, SOIL), TREES: (VEGETATION, VEGETATION),
    BARE_SOIL: (SOIL, VEGETATION), SOIL: (BARE_SOIL, VEGETATION), TOWER: (BUILDINGS, BLOCKS),
}  # fmt: skip

# Kinds of city block, and how often they occur in the core and in the outskirts of a town.
DENSE, COURTYARD, VILLAS, HALL, ESTATE, PARK, VACANT = range(7)
CORE = (0.32, 0.24, 0.06, 0.08, 0.20, 0.07, 0.03)
OUTSKIRTS = (0.10, 0.06, 0.40, 0.15, 0.14, 0.08, 0.07)

# The least share of a class in a scene; a drawing that falls short is drawn again.
LEAST_SHARE = np.array([0.01, 0.01, 0.01, 0.002, 0.01, 0.01, 0.01, 0.01, 0.002])

PSF_SIGMA_PX = 0.55  # modulation 0.22 at Nyquist; ESA's Sentinel-2 requirement is 0.15 to 0.30
SUN = (-0.9, -0.45)  # where shadows fall in (y, x): the sun stands in the south-south-east
FIRST_DAY = datetime.date(2026, 6, 4)
SCENE_GAP_PX = 200  # 2 km between scenes, so that no split of scenes needs a buffer


# ------------------------------------------------------------------------------ random geometry


def _noise(rng: np.random.Generator, size: int, *wavelengths_px: float) -> np.ndarray:
    """A smooth random surface (y, x) of mean 0 and variance about 1, an octave a wavelength.

    Cubic B-splines over random knots, two to a wavelength; a later octave has 0.6 x the amplitude.
    """
    total = np.zeros((size, size))
    amplitudes = 0.6 ** np.arange(len(wavelengths_px))
    for amplitude, wavelength in zip(amplitudes, wavelengths_px, strict=True):
        knots = int(2 * size / wavelength) + 5
        y, x = (_spline_weights(np.arange(size) * 2 / wavelength + rng.random() + 1, knots)
                for _ in range(2))  # fmt: skip
        total += amplitude * (y @ rng.standard_normal((knots, knots)) @ x.T)
    # 151/315 is the integral of the squared spline: the mean variance an axis leaves over.
    return total / (151 / 315 * np.sqrt(np.sum(amplitudes**2)))


def _spline_weights(at: np.ndarray, knots: int) -> np.ndarray:
    """The weight of each knot at each position: (position, knot)."""
    d = np.abs(at[:, None] - np.arange(knots))
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6)


def _cells(rng: np.random.Generator, size: int, spacing_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells with bent borders: ids (y, x), and the seed points (id, 2) in pixels."""
    margin = 2 * spacing_px
    corners = np.arange(0, size + 2 * margin - spacing_px + 1, spacing_px)
    seeds = np.stack(np.meshgrid(corners, corners, indexing="ij"), axis=-1).reshape(-1, 2)
    seeds = seeds + rng.integers(0, spacing_px, seeds.shape)
    canvas = np.full((size + 2 * margin,) * 2, -1)
    canvas[tuple(seeds.T)] = np.arange(len(seeds))
    nearest = ndimage.distance_transform_edt(
        canvas < 0, return_distances=False, return_indices=True
    )
    ids = canvas[tuple(nearest)]
    y, x = np.indices((size, size)) + margin
    bend = spacing_px / 12  # more would fold borders into loops
    dy, dx = (_noise(rng, size, spacing_px, spacing_px / 2) * bend for _ in range(2))
    limit = len(canvas) - 1
    where = (np.rint(v).astype(int).clip(0, limit) for v in (y + dy, x + dx))
    return ids[tuple(where)], seeds - margin


def _edges(ids: np.ndarray) -> np.ndarray:
    """Where the id of the right or the lower neighbour differs: lines one pixel wide."""
    edges = np.zeros(ids.shape, dtype=bool)
    edges[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edges[:-1] |= ids[:-1] != ids[1:]
    return edges


def _lattice(
    region: np.ndarray, angle: np.ndarray, width: np.ndarray, length: np.ndarray, bond: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rectangles in each region's own direction: ids 0..n-1, offsets (u, v) into them, and n.

    `angle` (radians), `width` and `length` (pixels) have one value a region. `bond` shifts each
    row of rectangles against the one before it, as in masonry; 0 gives crossings.
    """
    y, x = np.indices(region.shape)
    cos, sin = np.cos(angle)[region], np.sin(angle)[region]
    width, length = width[region], length[region]
    u = cos * x + sin * y
    row = np.floor(u / width).astype(int)
    v = cos * y - sin * x + length * (bond * row % 1)
    column = np.floor(v / length).astype(int)
    key = (region.astype(np.int64) * 4096 + row + 2048) * 4096 + column + 2048
    found, ids = np.unique(key, return_inverse=True)
    return ids.reshape(region.shape), u - row * width, v - column * length, len(found)


# ------------------------------------------------------------------------------------- the ground


def draw_class_map(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """The thematic classes of a landscape: (y, x) uint8 at 10 m, an index into CLASSES.

    Every class is there, with at least LEAST_SHARE of the pixels.
    """
    return _draw_ground(rng, size_px)[0]


def _draw_ground(
    rng: np.random.Generator, size: int, inside: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and parcels (y, x), every class present (within `inside`, where given).

    Parcels are 1, 2, ... for the fields that were sown or ploughed as one, and 0 elsewhere.
    """
    for _ in range(50):
        classes, parcels = _draw_ground_once(rng, size)
        seen = classes.ravel() if inside is None else classes[inside]
        if np.all(np.bincount(seen, minlength=len(CLASSES)) >= LEAST_SHARE * seen.size):
            return classes, parcels
    raise SwathError(
        f"no landscape of {size} px holds all classes", mend="draw scenes of 128 px or more"
    )


def _draw_ground_once(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes and parcels (y, x), from the fields to what was built over them."""
    region, seeds = _cells(rng, size, 72)
    angle = rng.uniform(0, np.pi, len(seeds))

    width, length = rng.uniform(9, 22, len(seeds)), rng.uniform(22, 60, len(seeds))
    parcels, _, _, count = _lattice(region, angle, width, length, bond=0.618)
    crop = rng.choice([VEGETATION, BARE_SOIL, SOIL], count, p=[0.42, 0.28, 0.30])
    classes = crop[parcels].astype(np.uint8)

    hedge = _edges(parcels) & (_noise(rng, size, 60, 12) > 0.7)
    wood = _noise(rng, size, 110, 40, 14, 6)
    classes[hedge | (wood > np.quantile(wood, 0.82))] = TREES
    _build_towns(rng, classes, region, angle)
    _build_roads(rng, classes, region, seeds)
    _build_rail(rng, classes)
    field = np.isin(classes, (VEGETATION, BARE_SOIL, SOIL))
    return classes, np.where(field, parcels + 1, 0)


def _build_towns(
    rng: np.random.Generator, classes: np.ndarray, region: np.ndarray, angle: np.ndarray
) -> None:
    """Towns of whole city blocks between streets, over about a third of the map."""
    size = len(classes)
    width, length = rng.uniform(13, 21, len(angle)), rng.uniform(15, 27, len(angle))
    block, u, v, count = _lattice(region, angle, width, length, bond=0)
    score = _noise(rng, size, 130, 50)
    centrality = ndimage.mean(score, block, np.arange(count))
    edge, heart = np.quantile(score, [0.68, 0.86])
    is_core = centrality > heart
    kind = np.where(is_core, rng.choice(7, count, p=CORE), rng.choice(7, count, p=OUTSKIRTS))
    kind = kind[block]
    street = (u < 1.25) | (v < 1.25)
    inner = np.minimum.reduce([u, v, width[region] + 1.25 - u, length[region] + 1.25 - v])

    green = np.where(_noise(rng, size, 9) > 0.3, TREES, VEGETATION)
    paved = np.where(rng.random(count)[block] < 0.6, BLOCKS, green)
    lot_u, lot_v = u % 6.5, v % 7.5
    house = (lot_u > 2.4) & (lot_v > 2.4) & (rng.random(classes.shape) < 0.97)
    cottage = (lot_u > 3.8) & (lot_v > 4.4)
    tower = (abs(u % 7.5 - 4.5) < 1.45) & (abs(v % 8.5 - 5) < 1.45) & (inner > 2.5)
    ring = (inner > 1.9) & (inner < 5.2)
    town = np.select(
        [kind == k for k in (DENSE, COURTYARD, VILLAS, HALL, ESTATE, PARK)],
        [
            np.where(house, BUILDINGS, BLOCKS),
            np.where(ring, BUILDINGS, BLOCKS),
            np.where(cottage, BUILDINGS, paved),
            np.where(inner > 4, BUILDINGS, BLOCKS),
            np.where(tower, TOWER, paved),
            green,
        ],
        BARE_SOIL,
    )
    town = np.where(street, ROADS, town)
    built = (centrality > edge)[block]
    classes[built] = town[built]


def _build_roads(
    rng: np.random.Generator, classes: np.ndarray, region: np.ndarray, seeds: np.ndarray
) -> None:
    """Country roads along the borders of the regions, so connected; main roads are wider."""
    size = len(classes)
    classes[_edges(region)] = ROADS
    district, _ = _cells(rng, size, 230)
    # A region belongs to the district of its seed, so that a main road follows country roads.
    y, x = np.clip(seeds, 0, size - 1).T
    main = _edges(district[y, x][region])
    classes[ndimage.binary_dilation(main, iterations=1)] = ROADS


def _build_rail(rng: np.random.Generator, classes: np.ndarray) -> None:
    """Light rail two pixels wide, over all else and unbroken: lines north-south, and one across."""
    size = len(classes)
    lines = max(1, round(size / 260))
    along = np.arange(size)
    for number in range(lines + 1):
        across = number == lines
        middle = size / 2 if across else (number + 0.5) * size / lines
        swing = _noise(rng, size, 170)[0] * 14 + (along - size / 2) * rng.uniform(-0.2, 0.2)
        track = middle + rng.uniform(-20, 20) + swing
        slope = np.gradient(track)
        near = np.abs(along[:, None] - track) <= 1.05 * np.sqrt(1 + slope**2)
        classes[near if across else near.T] = TRAIN


# -------------------------------------------------------------------------------- what is sensed


def draw_reflectance(
    rng: np.random.Generator, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cloudless image of a class map, in reflectance x 10^4.

    Returns (BANDS_10M, y, x) uint16 at 10 m and (BANDS_20M, y/2, x/2) uint16 at 20 m, whose
    values are area means of the same surface. Valid pixels are at least 1.
    """
    return _sample(rng, _draw_surface(rng, classes, np.zeros(classes.shape, dtype=int)))


def _draw_surface(rng: np.random.Generator, classes: np.ndarray, parcels: np.ndarray) -> np.ndarray:
    """Reflectance (BANDS, y, x) at 10 m as it reaches the sensor, before its noise."""
    size = len(classes)
    objects, count = _objects(classes, parcels)
    vary = np.array([VARIABILITY[c] for c in range(len(CLASSES))])[classes].transpose(2, 0, 1)

    def of_objects() -> np.ndarray:
        return rng.standard_normal(count)[objects]

    season = rng.normal(0, 0.06)  # and the weather before: alike for all classes of a scene
    mixture = 0.5 + season + vary[0] * of_objects() + vary[1] * _noise(rng, size, 90, 30, 8)
    mixture = mixture.clip(-0.15, 1.15)
    light = 1 + vary[2] * of_objects() + vary[3] * rng.standard_normal(classes.shape)
    light = light.clip(0.4, 1.6) * _relief(rng, size) * _cast_shadow(classes)
    pairs = np.array([FOREIGN[c] for c in range(len(CLASSES))])[classes].transpose(2, 0, 1)
    # The sign says which of the two foreign classes, the amount how much of it: no jumps between.
    spots = 0.8 * _noise(rng, size, 7) + 0.6 * rng.standard_normal(classes.shape)
    foreign = vary[4] * of_objects() + vary[5] * spots
    other = np.where(foreign > 0, *pairs)
    share = np.minimum(abs(foreign), 0.75)

    low, high = np.array([SIGNATURES[c] for c in range(len(CLASSES))]).transpose(1, 2, 0) / 100
    spectrum = (1 - share) * (low[:, classes] + (high - low)[:, classes] * mixture)
    spectrum += share * (low[:, other] + (high - low)[:, other] * mixture)
    gain = 1 + rng.normal(0, 0.015, (len(BANDS), 1, 1))  # what atmospheric correction leaves over
    return ndimage.gaussian_filter(spectrum * light * gain, (0, PSF_SIGMA_PX, PSF_SIGMA_PX))


def _objects(classes: np.ndarray, parcels: np.ndarray) -> tuple[np.ndarray, int]:
    """Ids (y, x) of what varies as one, and their number: parcels, else connected areas."""
    ids = parcels.copy()
    count = int(ids.max()) + 1
    for number in range(len(CLASSES)):
        labels, found = ndimage.label((classes == number) & (parcels == 0))
        ids[labels > 0] = labels[labels > 0] + count - 1
        count += found
    return ids, count


def _relief(rng: np.random.Generator, size: int) -> np.ndarray:
    """Illumination (y, x) of gentle hills, about 1: brighter on slopes that face the sun."""
    down_y, down_x = np.gradient(_noise(rng, size, 160, 60) * 5)  # heights in pixels
    return (1 + 0.35 * (down_y * SUN[0] + down_x * SUN[1])).clip(0.8, 1.2)


def _cast_shadow(classes: np.ndarray) -> np.ndarray:
    """The share of the light (y, x) that towers, and less so trees and houses, leave over."""
    light = np.ones(classes.shape)
    for caster, reach_px, left in ((BUILDINGS, 1, 0.88), (TREES, 1, 0.82), (TOWER, 4, 0.45)):
        tall = classes == caster
        shade = np.zeros(classes.shape, dtype=bool)
        for step in range(1, reach_px + 1):
            shade |= _moved(tall, round(SUN[0] * step), round(SUN[1] * step))
        light[shade & ~tall & (classes != TOWER)] *= left
    return light


def _moved(array: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """The array (y, x) moved by whole pixels; what comes in from outside is 0."""
    return ndimage.shift(array, (dy, dx), order=0, mode="constant", cval=0)


def _sample(rng: np.random.Generator, surface: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two images of a surface (BANDS, y, x): means over 10 m and 20 m, noise, rounding."""
    bands, height, width = surface.shape
    coarse = surface.reshape(bands, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    images = []
    for source, names in ((surface, BANDS_10M), (coarse, BANDS_20M)):
        image = source[[BANDS.index(name) for name in names]]
        image = image * (1 + 0.01 * rng.standard_normal(image.shape))
        image += 0.0015 * rng.standard_normal(image.shape)
        images.append(np.rint(image * SCALE).clip(1, 65535).astype(np.uint16))
    return images[0], images[1]


# --------------------------------------------------------------------- clouds, swath and scenes


def _draw_swath(rng: np.random.Generator, size: int) -> np.ndarray:
    """Where the scene was seen: (y, x) bool, every second scene or so cut by a slanted border.

    Drawn on the 20 m grid, so that the images of both GSDs end at the same line.
    """
    y, x = np.indices((size // 2, size // 2)) / (size // 2)
    start, slant = rng.uniform(0.02, 0.08), rng.uniform(0.03, 0.12)
    seen = x > start + slant * (0.5 - y) if rng.random() < 0.5 else np.ones(x.shape, dtype=bool)
    if rng.random() < 0.5:
        seen = seen[:, ::-1]
    return seen.repeat(2, axis=0).repeat(2, axis=1)


def _draw_clouds(
    rng: np.random.Generator, surface: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The surface (BANDS, y, x) below clouds and their shadows, and where these are (y, x).

    Clouds take 3 to 5 % of the scene and their shadows about as much.
    """
    size = len(inside)
    dy, dx = (round(part * min(24, size / 12)) for part in SUN)
    reach = max(-dy, -dx)  # clouds beyond the southern and eastern borders throw shadows too
    sky = _noise(rng, size + reach, min(130, size / 2), 40, 16, 6)
    least = np.quantile(sky[:size, :size][inside], 1 - rng.uniform(0.03, 0.05))
    thickness = ((sky - least) / 0.9).clip(0, 1) ** 1.5
    cloud = thickness[:size, :size]
    shadow = _moved(thickness, dy, dx)[:size, :size]
    shaded = surface * (1 - 0.6 * shadow)
    bright = CLOUD[:, None, None] * (0.9 + 0.05 * sky[:size, :size])
    return shaded + (bright - shaded) * cloud, (cloud > 0) | (shadow > 0)


def draw_scenes(
    folder: Path,
    *,
    seed: int,
    scenes: int,
    size_px: int,
    epsg: int = 32632,
    origin: tuple[float, float] = (600000.0, 5300040.0),
) -> list[Path]:
    """Write synthetic scenes below `folder`; gives back one folder a scene.

    `<scene>/<scene>_10m.tif` and `_20m.tif` hold reflectance x 10^4 (0 outside the swath),
    `_classes.tif` the truth (255 outside the swath), `_mask.tif` 0 clear, 1 cloud or its shadow,
    2 outside the swath. All are cloud-optimised GeoTIFFs with the same upper-left corner.

    Args:
        seed: each scene draws from its own child of it, so more scenes change no earlier one.
        size_px: side of a scene in pixels of 10 m; even, at least 128.
        epsg: a projected reference system in metres.
        origin: easting and northing (m) of the first scene's upper-left corner; scenes follow in
            two columns, 2 km from each other.

    Raises:
        SwathError: the size or the number of scenes is impossible.
    """
    if size_px < 128 or size_px % 2:
        raise SwathError(
            f"a scene of {size_px} px cannot be drawn", where="size_px",
            mend="give an even number of at least 128",
        )  # fmt: skip
    if scenes < 1:
        raise SwathError(f"{scenes} scenes cannot be drawn", where="scenes", mend="give 1 or more")
    children = np.random.SeedSequence(seed).spawn(scenes)
    pitch_m = (size_px + SCENE_GAP_PX) * 10
    return [
        _write_scene(
            folder, number, child, size_px, f"EPSG:{epsg}",
            (origin[0] + number % 2 * pitch_m, origin[1] - number // 2 * pitch_m),
        )
        for number, child in enumerate(children)
    ]  # fmt: skip


def _write_scene(
    folder: Path,
    number: int,
    seed: np.random.SeedSequence,
    size: int,
    crs: str,
    corner: tuple[float, float],
) -> Path:
    """Draw and write one scene; its folder."""
    # Ground, sensor and sky draw apart, so that a change to one leaves the others as they were.
    ground, sensor, sky = (np.random.default_rng(child) for child in seed.spawn(3))
    inside = _draw_swath(sky, size)
    classes, parcels = _draw_ground(ground, size, inside)
    surface = _draw_surface(sensor, classes, parcels)
    surface, cloudy = _draw_clouds(sky, surface, inside)
    ten_m, twenty_m = _sample(sensor, surface)
    ten_m[:, ~inside] = 0
    twenty_m[:, ~inside[::2, ::2]] = 0
    classes = np.where(inside, classes, UNLABELLED).astype(np.uint8)
    mask = np.where(inside, np.where(cloudy, CLOUDY, CLEAR), OUTSIDE).astype(np.uint8)

    # 25 days on, round a summer of 119 (17 x 7): no day of June to September comes twice.
    day = FIRST_DAY + datetime.timedelta(days=number * 25 % 119)
    name = f"S2SYN_{day:%Y%m%d}_{number + 1:02d}"
    tags = {"ACQUISITION_TIME": f"{day.isoformat()}T10:20:31Z"}
    for product, image, bands, nodata in (
        ("10m", ten_m, BANDS_10M, 0),
        ("20m", twenty_m, BANDS_20M, 0),
        ("classes", classes[None], ("class",), UNLABELLED),
        ("mask", mask[None], ("mask",), None),
    ):
        gsd_m = size * 10 / image.shape[-1]
        grid = {"crs": crs, "transform": from_origin(*corner, gsd_m, gsd_m), "nodata": nodata}
        _write_cog(folder / name / f"{name}_{product}.tif", image, bands, tags, **grid)
    return folder / name


# What makes a patch one of a kind of land: classes whose shares are added up, and the least sum.
KINDS: dict[str, tuple[tuple[int, ...], float]] = {
    "Town": ((BUILDINGS, BLOCKS), 0.6), "Estate": ((TOWER,), 0.05), "Road": ((ROADS,), 0.2),
    "Rail": ((TRAIN,), 0.1), "Vegetation": ((VEGETATION,), 0.7), "Trees": ((TREES,), 0.7),
    "Bare Soil": ((BARE_SOIL,), 0.7), "Soil": ((SOIL,), 0.7),
}  # fmt: skip


def kind_of(classes: np.ndarray) -> str | None:
    """The kind of land of a patch of classes (y, x); None where it is of none or of several."""
    share = np.bincount(classes.ravel(), minlength=len(CLASSES)) / classes.size
    found = [kind for kind, (own, least) in KINDS.items() if share[list(own)].sum() >= least]
    return found[0] if len(found) == 1 else None


Patch = tuple[np.ndarray, tuple[float, float]]
"""The image (BANDS_10M, y, x) of a patch, and easting and northing of its upper-left corner."""


def cut_patches(*, seed: int, scenes: int, size_px: int, patch_px: int) -> dict[str, list[Patch]]:
    """Cloudless patches of synthetic scenes, by their kind of land.

    They lie on a grid, side by side; the scenes from west to east with a gap between them.

    Args:
        seed: each scene draws from its own child of it.
        scenes: how many.
        size_px: side of a scene in pixels of 10 m; even, at least 128.
        patch_px: side of a patch.
    """
    found: dict[str, list[Patch]] = {kind: [] for kind in KINDS}
    for number, child in enumerate(np.random.SeedSequence(seed).spawn(scenes)):
        ground, sensor = (np.random.default_rng(each) for each in child.spawn(2))
        classes = draw_class_map(ground, size_px)
        image, _ = draw_reflectance(sensor, classes)
        west = 600_000.0 + number * (size_px + SCENE_GAP_PX) * 10
        for top in range(0, size_px - patch_px + 1, patch_px):
            for left in range(0, size_px - patch_px + 1, patch_px):
                at = (slice(top, top + patch_px), slice(left, left + patch_px))
                if kind := kind_of(classes[at]):
                    found[kind].append((image[:, *at], (west + left * 10, 5_300_040.0 - top * 10)))
    return found


def as_tiff(image: np.ndarray, corner: tuple[float, float]) -> bytes:
    """An image (band, y, x) at 10 m with its upper-left corner in metres, as a GeoTIFF."""
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", dtype=image.dtype, count=len(image), height=image.shape[1],
            width=image.shape[2], crs="EPSG:32632", transform=from_origin(*corner, 10, 10),
        ) as file:  # fmt: skip
            file.write(image)
        content: bytes = memory.read()
    return content


def _write_cog(
    path: Path, image: np.ndarray, bands: Sequence[str], tags: dict[str, str], **grid: Any
) -> None:
    """Write (band, y, x) as a cloud-optimised GeoTIFF; a band called class gets its colours."""
    profile: dict[str, Any] = {
        "driver": "COG", "dtype": image.dtype, "count": len(image),
        "height": image.shape[1], "width": image.shape[2],
        "compress": "DEFLATE", "predictor": "YES", "blocksize": 256,
        "overview_resampling": "average" if image.dtype == np.uint16 else "nearest",
    }  # fmt: skip
    with whole(path) as temporary, rasterio.open(temporary, "w", **profile, **grid) as file:
        file.write(image)
        file.descriptions = tuple(bands)
        file.update_tags(**tags)
        if "class" in bands:
            file.write_colormap(1, {i: _rgb(colour) for i, colour in enumerate(COLOURS)})


def _rgb(colour: str) -> tuple[int, int, int]:
    """'#rrggbb' as three numbers from 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
