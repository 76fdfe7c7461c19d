"""The peers' ways of reading and cutting a scene, each in a process of its own.

    cd benchmarks; ../.venv-bench/bin/python -m peers.cutting WAY SCENE STRETCHES OUT

Prints one line of JSON: times, peak memory, number of patches, checksums of some. All keep their
files open, have the same cache of decoded tiles, go by rows, and read each band on
its own grid, which is less work than bringing all to 10 m.

- `windows`: a windowed read of rasterio for each patch and file.
- `geotiff`: the same, and a GeoTIFF of the patch for each file of the scene, in strips and not
  compressed, as BigEarthNet has them: the cheapest of its kind.
- `geotiff-profile`: the same with the profile of the scene's file, changed in size and transform,
  as many scripts do it: compression and tiles are as the scene's.
- `xbatcher-dask`: the documented way for data larger than memory: `BatchGenerator` over arrays of
  rioxarray with dask's own chunks (`chunks=True`), of which each patch decodes one a band: so slow
  that six patches have to do.
- `xbatcher-tiles`: the same with chunks of one tile, the fastest of those tried (512, 2048, auto).
- `xbatcher`: the same without dask, over rioxarray's own lazy windows.
- `torchgeo`: `RasterDataset` with `GridGeoSampler`, a dataset a GSD, without a DataLoader. It gives
  float32. Its class `Sentinel2`, which brings all bands to 10 m, costs about the same.
- `torchgeo-1`: the same, with one thread for torch.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from peers.scene import (
    BANDS,
    NORTH,
    PATCH_M,
    WEST,
    files_of,
    fingerprint,
    measured,
    patches_along,
    side_px,
    size_of,
    stretches,
    window_of,
    witnesses,
)

# Row and column of a patch, and its pixels (band, y, x) at each GSD.
Patch = tuple[int, int, dict[int, np.ndarray]]
Read = Callable[[range], Iterator[Patch]]


def windows(folder: Path, out: Path | None = None, *, profiled: bool = False) -> Read:
    """With `out`, a GeoTIFF of each patch and file is written there, `profiled` as the scene's."""
    files = {g: [rasterio.open(p) for p in paths] for g, paths in files_of(folder).items()}
    names = {g: [path.name for path in paths] for g, paths in files_of(folder).items()}
    profiles: dict[int, dict[str, Any]] = {}
    for gsd, opened in files.items():
        side = {"width": side_px(gsd), "height": side_px(gsd)}
        plain = {"driver": "GTiff", "dtype": "uint16", "count": opened[0].count}
        own = {**opened[0].profile} if profiled else plain | {"crs": opened[0].crs}
        profiles[gsd] = {key: value for key, value in own.items() if key != "transform"} | side
    columns = patches_along(size_of(folder))

    def read(rows: range) -> Iterator[Patch]:
        for row in rows:
            for column in range(columns):
                found = {}
                for gsd, opened in files.items():
                    window = window_of(row, column, gsd)
                    parts = [file.read(window=window) for file in opened]
                    if out is not None:
                        for file, name, part in zip(opened, names[gsd], parts, strict=True):
                            with rasterio.open(
                                out / f"{row}_{column}_{name}",
                                "w",
                                **profiles[gsd],
                                transform=file.window_transform(window),
                            ) as patch:
                                patch.write(part)
                    found[gsd] = np.concatenate(parts) if len(parts) > 1 else parts[0]
                yield row, column, found

    return read


def geotiff(folder: Path, out: Path) -> Read:
    return windows(folder, out)


def geotiff_profile(folder: Path, out: Path) -> Read:
    return windows(folder, out, profiled=True)


def xbatcher(folder: Path, *, dask: Any = None) -> Read:
    import rioxarray
    import xarray as xr
    from xbatcher import BatchGenerator

    chunks = {"chunks": dask} if dask else {}
    generators = {}
    for gsd, paths in files_of(folder).items():
        arrays = [rioxarray.open_rasterio(path, **chunks) for path in paths]
        if len(arrays) == 1:
            data = arrays[0]
        elif dask:
            data = xr.concat(arrays, dim="band")
        else:  # `concat` would load them: as variables they stay lazy
            data = xr.Dataset(dict(zip(BANDS[gsd], (a[0] for a in arrays), strict=True)))
        sides = {"y": side_px(gsd), "x": side_px(gsd)}
        generators[gsd] = BatchGenerator(data, input_dims=sides)
    columns = patches_along(size_of(folder))

    def pixels(batch: xr.DataArray | xr.Dataset) -> np.ndarray:
        if isinstance(batch, xr.Dataset):
            return np.stack([batch[name].values for name in batch.data_vars])
        return batch.values

    def read(rows: range) -> Iterator[Patch]:
        for row in rows:
            for column in range(columns):
                number = row * columns + column
                yield row, column, {g: pixels(made[number]) for g, made in generators.items()}

    return read


def xbatcher_dask(folder: Path) -> Read:
    return xbatcher(folder, dask=True)


def xbatcher_tiles(folder: Path) -> Read:
    return xbatcher(folder, dask={"x": 512, "y": 512})


def torchgeo(folder: Path) -> Read:
    _import_torchvision()
    import shapely
    from torchgeo.datasets import RasterDataset
    from torchgeo.samplers import GridGeoSampler

    class Bands(RasterDataset):
        filename_regex = r"scene_(?P<band>B\w\w)_\d+m\.tif"
        separate_files = True

    datasets = {}
    for gsd, paths in files_of(folder).items():
        if len(paths) == 1:
            datasets[gsd] = RasterDataset(paths)
        else:
            Bands.all_bands = BANDS[gsd]
            datasets[gsd] = Bands(paths[:1])  # as torchgeo's Sentinel2: the others by their names
    columns = patches_along(size_of(folder))

    def read(rows: range) -> Iterator[Patch]:
        # The sampler goes from south to north.
        top, bottom = (NORTH - row * PATCH_M for row in (rows.start, rows.stop))
        roi = shapely.box(WEST, bottom, WEST + columns * PATCH_M, top)
        samplers = [GridGeoSampler(data, side_px(g), roi=roi) for g, data in datasets.items()]
        for place, queries in enumerate(zip(*samplers, strict=True)):
            row, column = rows.stop - 1 - place // columns, place % columns
            samples = [data[q] for data, q in zip(datasets.values(), queries, strict=True)]
            yield (
                row,
                column,
                {g: s["image"].numpy() for g, s in zip(datasets, samples, strict=True)},
            )

    return read


def _import_torchvision() -> None:
    """A torchvision built for CUDA does not import on a torch without it, for want of two names."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
        _import_torchvision.library = library  # type: ignore[attr-defined]


WAYS = {
    "windows": windows,
    "geotiff": geotiff,
    "geotiff-profile": geotiff_profile,
    "xbatcher-dask": xbatcher_dask,
    "xbatcher-tiles": xbatcher_tiles,
    "xbatcher": xbatcher,
    "torchgeo": torchgeo,
    "torchgeo-1": torchgeo,
}


def main() -> None:
    warnings.simplefilter("ignore")
    way, scene, most, out = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    size = size_of(scene)
    wanted = set(witnesses(size, most))
    read = WAYS[way](*((scene, out) if way.startswith("geotiff") else (scene,)))
    next(read(range(1)))  # what is done once, at the first patch
    seen, count = {}, 0
    few = 6 if way == "xbatcher-dask" else None
    with measured() as result:
        patches = (patch for rows in stretches(size, most) for patch in read(rows))
        for row, column, found in islice(patches, few):
            count += 1
            if (row, column) in wanted:
                seen[f"{row},{column}"] = [fingerprint(found[gsd]) for gsd in BANDS]
    if way.startswith("geotiff"):
        seen = {key: _read_back(out, key, scene) for key in seen}
    print(json.dumps(result | {"patches": count} | ({} if few else {"seen": seen})))


def _read_back(out: Path, key: str, scene: Path) -> list[int]:
    row, column = key.split(",")
    found = []
    for paths in files_of(scene).values():
        parts = [rasterio.open(out / f"{row}_{column}_{path.name}").read() for path in paths]
        found.append(fingerprint(np.concatenate(parts)))
    return found


if __name__ == "__main__":
    main()
