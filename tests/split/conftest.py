"""Grounds made by hand, and the truth about them found by looking at every pair."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.warp import transform

from swath.split.ground import Ground

MakeGround = Callable[..., Ground]
SIDE_M = 640.0


@pytest.fixture(scope="session")
def make_ground() -> MakeGround:
    """Writes a ground from north-western corners, in units of the CRS of each patch."""

    def make(
        west: Sequence[float] | np.ndarray,
        north: Sequence[float] | np.ndarray,
        side: float | np.ndarray = SIDE_M,
        *,
        epsg: int | Sequence[int] = 32632,
        label: int | Sequence[int] | np.ndarray = 0,
        contents: np.ndarray | None = None,
        data: Path | None = None,
        **columns: Any,
    ) -> Ground:
        west, north = np.asarray(west, float), np.asarray(north, float)
        places = pd.DataFrame(
            {"west": west, "south": north - side, "east": west + side, "north": north}
        ).assign(epsg=epsg, scene=0, row=0, col=0, lon=np.nan, lat=np.nan)
        places["time"] = np.datetime64("NaT", "s")
        places["name"] = [f"p{number}" for number in range(len(places))]
        for code, group in places.groupby("epsg"):
            if code > 0:
                x, y = (group["west"] + group["east"]) / 2, (group["south"] + group["north"]) / 2
                degrees = transform(f"EPSG:{code}", "EPSG:4326", x.tolist(), y.tolist())
                places.loc[group.index, "lon"], places.loc[group.index, "lat"] = degrees
        if contents is None:
            label = np.broadcast_to(label, len(places))
            contents = np.eye(int(label.max(initial=0)) + 1, dtype=np.int64)[label]
        classes = [f"c{number}" for number in range(contents.shape[1])]
        return Ground(places.assign(**columns), contents, classes, data)

    return make


@pytest.fixture(scope="session")
def shared_pairs() -> Callable[[Ground, np.ndarray], list[tuple[int, int]]]:
    """Gives the pairs of patches of different parts that share ground, by looking at every pair.

    Patches of one CRS are rectangles of it. Those of two are drawn in degrees east and north of one
    point, which is another plane than any that swath measures in. What is below 1e-4 of a patch may
    be the bend of an edge between the two planes, and does not count.
    """

    def look(ground: Ground, parts: np.ndarray) -> list[tuple[int, int]]:
        epsg = ground.epsg
        boxes = ground.places[["west", "south", "east", "north"]].to_numpy().T
        own = shapely.box(*boxes)
        corners = shapely.get_coordinates(own).reshape(len(ground), 5, 2)
        if (epsg > 0).any():
            origin = ground.places["lon"].dropna().iloc[0]
            for code in np.unique(epsg[epsg > 0]):
                at = epsg == code
                lon, lat = transform(f"EPSG:{code}", "EPSG:4326", *corners[at].reshape(-1, 2).T)
                lon = (np.array(lon) - origin + 180) % 360 - 180
                corners[at] = np.stack([lon, lat], axis=1).reshape(-1, 5, 2)
        degrees = shapely.polygons(corners)
        a, b = np.triu_indices(len(ground), 1)
        keep = (parts[a] != parts[b]) & (parts[a] != "unused") & (parts[b] != "unused")
        # Nothing is known of a local plane and another place.
        keep &= (epsg[a] == epsg[b]) | (np.minimum(epsg[a], epsg[b]) > 0)
        a, b = a[keep], b[keep]
        # Rectangles of one CRS in degrees may lie on both sides of the date line.
        alone = (epsg[a] == epsg[b]) & (epsg[a] != 4326)
        one, other = np.where(alone, (own[a], own[b]), (degrees[a], degrees[b]))
        shared = shapely.area(shapely.intersection(one, other))
        found = shared > 1e-4 * np.minimum(shapely.area(one), shapely.area(other))
        return list(zip(a[found].tolist(), b[found].tolist(), strict=True))

    return look


@pytest.fixture(scope="session")
def eurosat(real_data: Path, make_ground: MakeGround) -> Ground:
    """The places and classes of the 27,000 patches of EuroSAT."""
    with gzip.open(real_data / "eurosat" / "EuroSAT_georef.csv.gz", "rt") as file:
        table = pd.read_csv(file)
    return make_ground(
        table["ul_easting"],
        table["ul_northing"],
        epsg=table["utm_epsg"].to_numpy(),
        label=pd.factorize(table["class"], sort=True)[0],
        data=real_data / "eurosat",
        name=table["path"],
    )
