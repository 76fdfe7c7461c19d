"""The command line: a verb for each stage. Reads files, makes one call, writes whole files.

Every verb says in its help what it reads and writes. The workflow runs the same verbs; each imports
its stage only when it runs, so that `swath --help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from swath.errors import (
    ConfigError,
    DataError,
    LeakError,
    RunError,
    StoppedError,
    SwathError,
    nearest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from swath.data.patchset import PatchSet
    from swath.learn.answers import Answer

app = typer.Typer(
    help="From a satellite's swath to a trained model, a thematic map and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
log = logging.getLogger("swath")

Config = Annotated[Path, typer.Option(help="Folder of the experiment's section files.")]
Data = Annotated[Path, typer.Option(help="Folder of the fetched dataset.")]
Out = Annotated[Path, typer.Option(help="What is written.")]
Patches = Annotated[Path, typer.Option(help="Patch set (patches/manifest.json).")]
ScenesFile = Annotated[Path, typer.Option(help="scenes.json.")]
SplitFolder = Annotated[Path, typer.Option(help="Folder of the split.")]
State = Annotated[Path, typer.Option(help="Folder for what must survive a killed job.")]
RunFolder = Annotated[Path, typer.Option(help="Folder of the run.")]
Fold = Annotated[int, typer.Option(help="Fold of the split.")]
ModelFile = Annotated[Path, typer.Option("--model", help="The trained model (best.ckpt).")]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
Code = Annotated[str, typer.Option(help="Fingerprint of the code, part of the run's identity.")]
Minutes = Annotated[
    float | None,
    typer.Option(help="Minutes until this process is ended: it stops at a checkpoint before."),
]
Proposals = Annotated[
    list[Path] | None, typer.Option(help="proposal.json (repeat for each generation, in order).")
]
Results = Annotated[
    list[Path] | None, typer.Option("--result", help="Results of a job (repeat for each).")
]
Slots = Annotated[str, typer.Option(help="Which of all slots: FIRST:END, from 0.")]
Tried = Annotated[int, typer.Option(help="How often this job was begun; 1 is for the first time.")]
Inside = Annotated[
    str, typer.Option(hidden=True, help="Started by the job's own process: beside others, alone.")
]
STUDY = ("sweep", "task")
"""Sections that say what a study seeks."""
STARTED = time.time()
AGAIN = "from swath.cli import main; main()"
"""What another process of a verb runs, however this one was started."""


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log", help="Also write what is told to this file.")
    ] = None,
) -> None:
    """Options of every verb."""
    from swath.launch import end_with_the_first, place

    here = place()
    end_with_the_first()
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file and here.first:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, mode="w"))
    logging.basicConfig(
        level=logging.INFO if here.first else logging.ERROR,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
    )
    for noisy in ("rasterio", "wandb", "fontTools", "matplotlib", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def plan(
    experiment: Annotated[str, typer.Argument(help="Name of a file in conf/experiment.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides in Hydra's syntax, e.g. optim.lr=0.01.")
    ] = None,
    conf: Annotated[Path, typer.Option(help="The configuration tree.")] = Path("conf"),
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
) -> None:
    """Compose and check an experiment.

    Reads: conf/. Writes: results/EXPERIMENT/config/SECTION.yaml, where the text changed.
    Example: swath plan eurosat optim.lr=0.01
    """
    from swath.plan import compose, write_sections

    composed = compose(conf, experiment, overrides or [])
    changed = write_sections(composed, out / experiment / "config")
    log.info("sections written: %s", ", ".join(changed) or "none, all are as they were")
    for run in composed.runs:
        log.info("run %s", run.name)


@app.command()
def fetch(config: Config, out: Data, state: State) -> None:
    """Fetch a dataset, prove it, and list it in a manifest.

    Reads: data.yaml; a mirror (SWATH_MIRROR: folder or address) or the public address.
    Writes: data/DATASET/, with manifest.json; what is on its way lies in the state folder.
    Example: swath fetch --config results/eurosat/config --out data/eurosat
    --state state/fetch/eurosat
    """
    from swath.data.card import Card
    from swath.data.fetch import fetch as fetch_dataset
    from swath.plan import read_sections

    card = Card.model_validate(read_sections("fetch", config)["data"])
    mirror = os.environ.get("SWATH_MIRROR") or None
    manifest = fetch_dataset(card, out, state=state, mirror=mirror)
    log.info("%s holds %d files, version %.16s", out, len(manifest["files"]), manifest["version"])


@app.command()
def search(
    config: Config,
    out: Annotated[Path, typer.Option(help="The list to write, e.g. conf/scenes/NAME.json.")],
) -> None:
    """Search a STAC API anew and freeze what it finds as a list to be kept with the experiment.

    Reads: data.yaml. Writes: the list; name it as data.stac.frozen and commit it, and the same
    scenes are fetched for as long as they are served. Needs a network.
    Example: swath search --config results/EXPERIMENT/config --out conf/scenes/alps.json
    """
    from swath.data.card import Card
    from swath.data.search import write_scenes
    from swath.plan import read_sections

    card = Card.model_validate(read_sections("fetch", config)["data"])
    if card.stac is None:
        raise ConfigError("has no search", where="data.stac", mend="choose a dataset with one")
    log.info("%s lists %d scenes", out, write_scenes(card.stac, out))


@app.command()
def scenes(config: Config, data: Data, out: Out) -> None:
    """List the scenes of a dataset, set aside what is unfit, and deal the rest to jobs.

    Reads: data.yaml, patches.yaml, quality.yaml, the headers in data/DATASET.
    Writes: scenes.json, the shards with their parts and files, and what was set aside.
    Example: swath scenes --config results/embedded/config --data data/embedded
    --out results/embedded/scenes.json
    """
    from swath.data.card import Card
    from swath.data.shards import plan_shards
    from swath.files import read_manifest, write_json
    from swath.plan import read_sections

    sections = read_sections("scenes", config)
    card = Card.model_validate(sections["data"])
    fetched = read_manifest(data / "manifest.json", digests=False)
    planned = plan_shards(
        card,
        data,
        fetched,
        shard_mb=sections["patches"]["shard_mb"],
        broken=sections["quality"]["broken"],
    )
    write_json(out, planned)
    log.info("%d shards, %d set aside", len(planned["shards"]), len(planned["set_aside"]))


@app.command()
def patches(
    config: Config,
    data: Data,
    scenes: ScenesFile,
    shard: Annotated[str, typer.Option(help="Name of the shard in it.")],
    out: Out,
) -> None:
    """Cut the scenes of one shard into patches, and check them on the way.

    Reads: data.yaml, patches.yaml, quality.yaml, scenes.json, the shard's files in data/DATASET.
    Writes: a folder with a Zarr store, tables of places and contents, and a manifest.
    Example: swath patches --config results/embedded/config --data data/embedded
    --scenes results/embedded/scenes.json --shard 0a1b2c3d4e
    --out results/embedded/patches/0a1b2c3d4e
    """
    from swath.data.card import Card
    from swath.data.patches import Cutting, cut
    from swath.data.shards import pieces_of, shard_named
    from swath.plan import read_sections, without

    sections = read_sections("patches", config)
    card = Card.model_validate(sections["data"])
    dealt = shard_named(scenes, shard)
    limits = without(sections["quality"], "broken")
    cutting = without(sections["patches"], "shard_mb")
    manifest = cut(
        card,
        pieces_of(card, data, dealt),
        out,
        Cutting(**cutting),
        limits=limits,
        made_by={"made_by": cutting, "sources": dealt["files"]},
    )
    log.info("%d patches, %d left out", manifest["kept"], manifest["left_out"])


@app.command()
def index(config: Config, scenes: ScenesFile, out: Out) -> None:
    """Join the shards to a patch set, and the checks of all scenes to one table.

    Reads: quality.yaml, scenes.json, the shards beside the output.
    Writes: manifest.json, places.parquet and contents.npy; deletes shards that are no longer asked.
    Example: swath index --config results/embedded/config --scenes results/embedded/scenes.json
    --out results/embedded/patches/manifest.json
    """
    from swath.data.shards import index_shards
    from swath.files import read_json
    from swath.plan import read_sections

    broken = read_sections("index", config)["quality"]["broken"]
    manifest = index_shards(read_json(scenes), out.parent, broken=broken)
    unfit = [check for check in manifest["checks"] if check["faults"]]
    for check in unfit:
        log.warning("set aside: %s: %s", check["scene"], "; ".join(check["faults"]))
    log.info(
        "%d patches of %d scenes, %d left out, %d scenes set aside, version %.16s",
        manifest["kept"], len(manifest["facts"]["scenes"]), manifest["left_out"], len(unfit),
        manifest["version"],
    )  # fmt: skip


@app.command()
def split(
    config: Config,
    data: Data,
    patches: Patches,
    name: Annotated[str, typer.Option(help="Name of the split in split.yaml.")],
    out: Out,
) -> None:
    """Deal the patches to train, val and test, and audit the result.

    Reads: split.yaml, the patch set's tables, lists in data/DATASET.
    Writes: split.parquet, audit.json.
    Stops where the parts are not independent, unless split.allow_leaks=true.
    Example: swath split --config results/embedded/config --data data/embedded
    --patches results/embedded/patches/manifest.json --name blocks
    --out results/embedded/splits/blocks
    """
    from swath.files import whole, write_json
    from swath.plan import read_sections, without
    from swath.split.deal import deal
    from swath.split.ground import Ground

    section = read_sections("split", config)["split"]
    if name == "allow_leaks" or name not in section:
        known = [k for k in section if k != "allow_leaks"]
        raise ConfigError(f"no split is named '{name}'", where=config, mend=nearest(name, known))
    settings = without(section[name], "scheme")
    opened, _ = _open(patches)
    ground = Ground(opened.places, opened.contents, opened.classes, data)
    table, verdict = deal(ground, name, section[name]["scheme"], settings)
    if not verdict["passed"] and not section["allow_leaks"]:
        # Outside the declared outputs, since these are deleted when the job fails.
        write_json(out.parent / f"{name}-refused.json", verdict)
        raise LeakError(
            f"the split is refused: {verdict['problems'][0]}",
            where=f"split {name}",
            mend="choose a spatial split (split=blocks), or stamp it (split.allow_leaks=true)",
        )
    with whole(out / "split.parquet") as part:
        table.to_parquet(part, index=False)
    write_json(out / "audit.json", verdict)


@app.command()
def blocks(patches: Patches) -> None:
    """Print how far likeness reaches on the ground, and the size of blocks that follows from it.

    Reads: the patch set's tables. Writes: nothing; prints Moran's I by distance, and a proposal.
    Example: swath blocks --patches results/embedded/patches/manifest.json
    """
    from swath.split.autocorrelation import autocorrelation
    from swath.split.ground import Ground

    opened, _ = _open(patches)
    found = autocorrelation(Ground(opened.places, opened.contents, opened.classes))
    print("distance (m)  Moran's I")
    for distance, likeness in zip(found.distance_m, found.likeness, strict=True):
        print(f"{distance:12,.0f}  {likeness:9.3f}")
    print(found.line())


@app.command()
def measure(
    patches: Patches,
    split: SplitFolder,
    shard: Annotated[str, typer.Option(help="Name of the shard.")],
    out: Annotated[Path, typer.Option(help="Sums of the shard, an .npz file.")],
    below: Annotated[
        list[Path] | None, typer.Option(help="The first round's sums (repeat for each shard).")
    ] = None,
) -> None:
    """Sum up the bands over the training patches of one shard, for all folds.

    Reads: the patch set, split.parquet; in the second round, which only floats need, the sums of
    the first. Writes: sums and counts of values, which the stage `statistics` adds up.
    """
    import numpy as np

    from swath.data.patchset import open_patches
    from swath.data.statistics import add_up, bins_of, measure, read_sums, refine
    from swath.files import whole

    opened = open_patches(patches, shard=shard)
    training = _training(split)
    which = opened.of_shard(shard)
    if below:
        totals = add_up([read_sums(path) for path in below], len(training))
        wanted = np.stack([bins_of(total)[0] for total in totals])
        sums = {"refined": refine(opened, which, training, wanted)}
    else:
        sums = measure(opened, which, training).arrays()
    with whole(out) as part:
        np.savez_compressed(part, **sums)  # type: ignore[arg-type]


@app.command()
def statistics(
    patches: Patches,
    sums: Annotated[list[Path], typer.Option(help="Sums of a shard (repeat for each).")],
    out: Annotated[Path, typer.Option(help="statistics.json to write.")],
    refined: Annotated[
        list[Path] | None, typer.Option(help="The second round of a shard (repeat for each).")
    ] = None,
) -> None:
    """Add up the sums of all shards to the statistics of each fold's training part.

    Reads: the sums of the stage `measure`. Writes: mean, std, extremes and quantiles of each band.
    """
    import numpy as np

    from swath.data.statistics import add_up, read_sums, summary
    from swath.files import write_json

    opened, _ = _open(patches)
    first = [read_sums(path) for path in sums]
    totals = add_up(first, first[0].folds.shape[1])
    second = sum(np.load(path)["refined"] for path in refined) if refined else None
    write_json(
        out,
        {
            "folds": [
                summary(total, opened.image.dtype, None if second is None else second[fold])
                for fold, total in enumerate(totals)
            ]
        },
    )


@app.command()
def train(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    fold: Fold,
    seed: Seed,
    code: Code,
    state: State,
    out: RunFolder,
    minutes: Minutes = None,
    processes: Annotated[
        str, typer.Option(help="Processes that train it together; auto is one a GPU.")
    ] = "auto",
) -> None:
    """Train one run, or go on with it where an earlier attempt stopped, and calibrate its network.

    Reads: model.yaml, task.yaml, optim.yaml, trainer.yaml, the patch set, the split; when its job
    ends (--minutes, SLURM_JOB_END_TIME).
    Writes: best.ckpt, metrics.parquet, run.json; while it runs, STATE/RUN_ID/.
    Stops at a checkpoint, with exit code 85, on SIGTERM, SIGINT, SIGUSR1 and before its job ends.
    The other processes are started on this machine, unless srun or torchrun has started them all.
    """
    import numpy as np

    from swath.files import whole, write_json
    from swath.learn.calibrate import calibrate
    from swath.learn.train import train as train_run
    from swath.plan import read_sections

    sections = read_sections("train", config)
    opened, version = _open(patches)
    parts, statistics = _parts(split, fold), _statistics(split, fold)
    identity = _run_id(sections, version, split, code, fold, seed)
    outcome = train_run(
        opened,
        parts,
        statistics,
        state / identity,
        seed=seed,
        deadline=_deadline(minutes),
        code=code,
        processes=_processes(processes),
        command=[sys.executable, "-P", "-c", AGAIN, *sys.argv[1:]],
        **sections,
    )
    if not outcome.first:
        return
    # The state keeps the network as it was trained: an attempt that is killed here calibrates anew.
    calibrated = calibrate(
        outcome.model, opened, np.flatnonzero(parts == "val"), out / "best.ckpt",
        tta=sections["trainer"]["tta"],
    )  # fmt: skip
    with whole(out / "metrics.parquet") as part:
        outcome.history.to_parquet(part, index=False)
    write_json(
        out / "run.json",
        {
            "run_id": identity,
            "split": split.name,
            "fold": fold,
            "seed": seed,
            "model": sections["model"]["name"],
            "best_epoch": outcome.best_epoch,
            **outcome.facts,
            **calibrated,
            "data_version": version,
            "code": code,
        },
    )


@app.command()
def baseline(patches: Patches, split: SplitFolder, fold: Fold, out: RunFolder) -> None:
    """Predict the test part by a random forest, for the network to be measured against.

    Reads: the patch set, the split. Writes: predictions.npz, baseline.json.
    """
    import numpy as np

    from swath.files import write_json
    from swath.learn.baseline import predict_baseline

    opened, _ = _open(patches)
    parts = _parts(split, fold)
    started = time.perf_counter()
    members = [np.flatnonzero(parts == part) for part in ("train", "test")]
    name, answer = predict_baseline(opened, *members, seed=0)
    _write_predictions(out / "predictions.npz", members[1], answer)
    write_json(out / "baseline.json", {"name": name, "seconds": time.perf_counter() - started})


@app.command()
def infer(
    patches: Patches,
    split: SplitFolder,
    fold: Fold,
    model: ModelFile,
    out: Annotated[Path, typer.Option(help="predictions.npz to write.")],
) -> None:
    """Predict the test part of a split.

    Reads: best.ckpt, the patch set, the split.
    Writes: predictions.npz (patch, predicted, confidence); of several labels a patch, predicted is
    0 or 1 and confidence the probability that it is there, each by class; of a target there is no
    confidence.
    """
    import numpy as np

    from swath.learn.predict import predict_patches

    opened, _ = _open(patches)
    parts = _parts(split, fold)
    which = np.flatnonzero(parts == "test")
    _write_predictions(out, which, predict_patches(model, opened, which))


@app.command(name="map")
def map_scenes(
    config: Config,
    data: Data,
    scenes: ScenesFile,
    shard: Annotated[str, typer.Option(help="Name of the shard in it.")],
    model: ModelFile,
    code: Code,
    state: State,
    out: Annotated[Path, typer.Option(help="Table of the shard's maps, which lie beside it.")],
) -> None:
    """Map the scenes of one shard as cloud-optimised GeoTIFFs, or go on where it was killed.

    Reads: data.yaml, patches.yaml, maps.yaml, scenes.json, data/DATASET, best.ckpt.
    Writes: SCENE_classes.tif, SCENE_confidence.tif, SCENE_uncertainty.tif, on demand
    SCENE_probabilities.tif, of a target SCENE_numbers.tif alone; to be compared SCENE_image.tif (a
    thinned picture) and SCENE_truth.tif, and the table of them all; while it runs, STATE/IDENTITY/.
    """
    from swath.data.card import Card
    from swath.data.layouts import open_source
    from swath.data.scene import Scene
    from swath.data.shards import shard_named
    from swath.files import write_json
    from swath.learn.mapping import map_scene
    from swath.plan import read_sections

    sections = read_sections("map", config)
    card = Card.model_validate(sections["data"])
    source = open_source(card, data)
    mapped = []
    for name in dict.fromkeys(part["name"] for part in shard_named(scenes, shard)["parts"]):
        try:
            scene = source.open(name)
        except DataError as unfit:
            log.warning("%s is not mapped: %s", name, unfit)
            continue
        if isinstance(scene, Scene):
            done = map_scene(
                model, scene, out.parent, colours=list(card.classes.values()), rgb=card.rgb,
                resampling=sections["patches"]["resampling"], state=state, identity=code,
                **sections["maps"],
            )  # fmt: skip
            rasters = {kind: str(path) for kind, path in done.rasters.items() if kind != "image"}
            mapped.append(
                {"scene": done.scene, **rasters, "image": [str(done.rasters["image"])]}
                | {"seconds": done.seconds, "forward_s": done.forward_s, "pixels": done.pixels}
            )
    write_json(out, {"scenes": mapped})


@app.command()
def mosaic(
    part: Annotated[list[Path], typer.Option(help="Table of a shard's maps (repeat for each).")],
    out: Annotated[Path, typer.Option(help="maps.json to write.")],
) -> None:
    """List the maps of all scenes, and join those of each CRS to one raster.

    Reads: the shards' tables, and the maps. Writes: maps.json, beside it EPSG….vrt, which names
    the maps and copies nothing.
    """
    from swath.data.mosaic import write_mosaics
    from swath.files import read_json, write_json

    scenes = [scene for path in part for scene in read_json(path)["scenes"]]
    written = [
        path
        for kind in ("classes", "numbers")
        for path in write_mosaics(
            [Path(scene[kind]) for scene in scenes if kind in scene], out.parent, kind
        )
    ]
    write_json(out, {"scenes": scenes, "mosaics": [str(path) for path in written]})


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="The trained model (best.ckpt).")],
    scene: Annotated[
        Path, typer.Argument(help="A GeoTIFF, a folder of band files, or a folder *.SAFE.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the maps.")] = Path("maps"),
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probability of every class, too.")
    ] = False,
    overlap_px: Annotated[
        int | None, typer.Option(min=0, help="How far windows overlap and fade into each other.")
    ] = None,
    compress: Annotated[
        Literal["zstd", "deflate"] | None,
        typer.Option(help="How maps are packed; every program reads deflate."),
    ] = None,
    step_px: Annotated[
        int | None,
        typer.Option(min=1, help="Of a model of one label a patch: side of a pixel of its map."),
    ] = None,
) -> None:
    """Map one scene by a model: the two files are all that is needed.

    Reads: the model, which knows its bands, their statistics, classes and colours; the scene, whose
    bands are named by the descriptions in its files or by the files' names, or else are all of the
    model's, in its order. Writes: OUT/SCENE_classes.tif, …_confidence.tif, …_uncertainty.tif and
    …_image.tif; of several labels …_probabilities.tif, of a target …_numbers.tif instead of the
    first three. Called again after a kill it goes on.
    Example: swath predict best.ckpt S2B_MSIL2A_20260704T103029.SAFE --out maps
    """
    from swath.data.single import single_scene
    from swath.learn.mapping import map_scene
    from swath.learn.predict import opened as open_model
    from swath.plan import defaults

    trained = open_model(model)
    data = trained.facts["data"]
    opened = single_scene(scene, trained.facts["bands"], data)
    bands = list(opened.bands)
    asked = {"overlap_px": overlap_px, "compress": compress, "probabilities": probabilities}
    given = defaults("maps") | {key: value for key, value in asked.items() if value is not None}
    done = map_scene(
        model, opened, out, colours=data.get("colours", []),
        rgb=[bands[number] for number in data.get("rgb", (0, 0, 0))],
        resampling=data.get("resampling", defaults("patches")["resampling"]),
        step_px=step_px, trained=trained, **given,
    )  # fmt: skip
    for path in done.rasters.values():
        print(path)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="The trained model (best.ckpt).")],
    out: Annotated[Path, typer.Option(help="The file to write, e.g. model.onnx.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest difference of an answer that is accepted.")
    ] = 1e-4,
) -> None:
    """Export a model to ONNX, and check that it answers as before.

    Reads: the model. Writes: the file; its input are stored pixels (batch, band, y, x), its output
    probabilities, or a target's numbers. Needs the extra: pip install 'swath[onnx]'
    Example: swath export best.ckpt --out model.onnx
    """
    from swath.learn.export import export_onnx

    difference = export_onnx(model, out, tolerance=tolerance)
    print(f"{out}: answers differ by at most {difference:.1e}")


@app.command()
def evaluate(
    config: Config,
    patches: Patches,
    predictions: Annotated[Path, typer.Option(help="predictions.npz of a run or baseline.")],
    split: Annotated[str, typer.Option(help="Name of the split.")],
    fold: Fold,
    seed: Seed,
    out: RunFolder,
) -> None:
    """Turn predictions into figures with their confidence intervals.

    Reads: scores.yaml, predictions.npz, the patch set's labels.
    Writes: scores.json, scores_by_scene.parquet, scores_by_region.parquet (blocks of the ground).
    """
    import numpy as np

    from swath.data.earth import Blocks
    from swath.data.scene import is_labelled
    from swath.files import whole, write_json
    from swath.plan import read_sections, without
    from swath.study import regression, scores, several

    settings = read_sections("evaluate", config)["scores"]
    opened, _ = _open(patches)
    with np.load(predictions) as saved:
        which, predicted, confidence = (
            saved.get(key) for key in ("patch", "predicted", "confidence")
        )
    truth = opened.label.gather(which)
    if not (labelled := is_labelled(truth)).any():
        raise DataError(
            "no patch of the test part has a label, so there is nothing to score by",
            where=f"split {split}, fold {fold}",
            mend="deal labelled patches to test (another split or seed), or leave the fold out",
        )
    scenes = opened.places["scene"].iloc[which].map(dict(enumerate(opened.facts["scenes"])))
    blocks = Blocks.of(opened.places, settings["block_m"])[which]
    bootstrap = scores.Bootstrap.of(blocks, **without(settings, "block_m"))
    of_groups: Callable[[pd.Series], pd.DataFrame]
    if opened.facts.get("target"):
        off = regression.sums(truth, predicted)
        figures = regression.score(off, bootstrap)
        of_groups = partial(regression.by_group, off)
        headline = "rmse"
    elif opened.facts["labels"] == "several":
        decisions = several.Decisions(truth, predicted, confidence)
        figures = several.score(decisions, opened.classes, bootstrap)
        of_groups = partial(several.by_group, decisions)
        headline = "macro_ap"
    else:
        by_patch = scores.confusions(truth, predicted, len(opened.classes))
        sums = scores.reliability(truth, predicted, confidence)
        figures = scores.score(by_patch, sums, opened.classes, bootstrap)
        of_groups = partial(scores.by_group, by_patch, sums)
        headline = "overall_accuracy"
    with whole(out / "scores_by_scene.parquet") as part:
        of_groups(scenes).to_parquet(part, index=False)
    with whole(out / "scores_by_region.parquet") as part:
        scores.by_region(of_groups, blocks).to_parquet(part, index=False)
    run = {"split": split, "fold": fold, "seed": seed, "part": "test", "patches": len(which)}
    pixels = int(labelled.sum()) if opened.facts["labels"] == "pixel" else None
    write_json(out / "scores.json", run | {"pixels": pixels} | figures)
    log.info("test/%s %.4f on split %s", headline, figures[headline]["value"], split)


@app.command()
def propose(
    config: Config,
    out: Out,
    state: State,
    generation: Annotated[int, typer.Option(help="Of the study's trials, from 0.")] = 0,
    proposal: Proposals = None,
    result: Results = None,
) -> None:
    """Draw the trials of a generation of a study, from all that is known.

    Reads: sweep.yaml, task.yaml, proposals and results of the earlier generations; what was
    proposed before the study grew (STATE/proposed.json), which stays where it still fits.
    Writes: proposal.json, the parameters of each trial, and when the study began.
    """
    from swath.files import read_json, write_json
    from swath.plan import hash_of, read_sections
    from swath.study import rungs, space

    sections = read_sections("propose", config)
    sweep, task = sections["sweep"], sections["task"]
    known = _known(sweep, proposal or [], result or [])
    # Another sampler or seed asks for other trials; a wider range or more of them do not.
    ledger = state / "proposed.json"
    asks = hash_of(sweep["sampler"], sweep["seed"], sweep["generation"])
    told = read_json(ledger) if ledger.is_file() else {}
    before = told.get("trials", []) if told.get("asks") == asks else []
    first = rungs.first_of(sweep, generation)
    size = rungs.generations(sweep)[generation]
    trials = space.propose(
        sweep["space"], sampler=sweep["sampler"], trials=size, seed=sweep["seed"],
        generation=generation, known=known, before=before[first : first + size],
        directions=[s.direction for s in rungs.objectives(sweep, task["monitor"])],
    )  # fmt: skip
    write_json(
        ledger, {"asks": asks, "trials": [*before[:first], *trials, *before[first + size :]]}
    )
    began = read_json(proposal[0])["began"] if proposal else time.time()
    write_json(out, {"began": began, "trials": trials})


@app.command()
def trials(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    proposal: Annotated[Path, typer.Option(help="proposal.json of the generation.")],
    generation: Annotated[int, typer.Option(help="Of the study's trials, from 0.")],
    rung: Annotated[int, typer.Option(help="Rung of the halving, from 0.")],
    slots: Slots,
    code: Code,
    state: State,
    out: Annotated[Path, typer.Option(help="Result of the job, a JSON file.")],
    below: Annotated[
        list[Path] | None, typer.Option(help="Results of the rung below (repeat for each).")
    ] = None,
    minutes: Minutes = None,
    attempt: Tried = 1,
    inside: Inside = "",
) -> None:
    """Train some slots of a rung, one after another in this process.

    Reads: sweep.yaml and the sections of a run, proposal.json, results of the rung below; when its
    job ends (--minutes, SLURM_JOB_END_TIME).
    Writes: one row a trial: number, rung, epochs, scores of the epoch whose network would be kept,
    seconds, run_id, the first objective by epoch, reason of a failure.
    Stops as `train` does; started again it goes on in the trial at which it was.
    """
    from swath.files import read_json
    from swath.plan import read_sections, with_params
    from swath.study import rungs

    sections = read_sections("trials", config)
    sweep = sections.pop("sweep")
    sought = rungs.objectives(sweep, sections["task"]["monitor"])
    proposed = read_json(proposal)
    first = rungs.first_of(sweep, generation)
    epochs = rungs.budgets(sweep["epochs"], sweep["eta"], sweep["rungs"])
    earlier = [row for path in below or [] for row in read_json(path)]
    which = _slots(slots)
    order = rungs.promoted(earlier, max(which) + 1, sought) if rung else []
    numbers = [order[slot] if rung else first + slot for slot in which]
    whole_budget = {"trainer.epochs": epochs[-1]}
    asked = [
        _Asked(
            number,
            epochs[rung],
            0,
            sweep["seed"],
            with_params(sections, whole_budget | proposed["trials"][number - first]),
            {"rung": rung},
        )
        for number in numbers
    ]
    closes = proposed["began"] + 60 * sweep["minutes"] if sweep["minutes"] else None
    _train_asked(
        asked, config.parent.name, [s.name for s in sought], patches, split, state, out, code=code,
        minutes=minutes, attempt=attempt, inside=inside, which=which, closes=closes,
        side_by_side=sweep["side_by_side"],
    )  # fmt: skip


@app.command()
def worker(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    name: Annotated[str, typer.Option(help="Name of this worker.")],
    code: Code,
    state: State,
    studies: Annotated[Path, typer.Option(help="Folder of the study's state.")],
    out: Annotated[Path, typer.Option(help="What the study has come to, a JSON file.")],
    minutes: Minutes = None,
) -> None:
    """Train trials of an asynchronous study until there are none.

    Reads: sweep.yaml and the sections of a run, the patch set, the split.
    Writes: the parameters and rows of all trials; while it runs, STUDIES/IDENTITY/journal.log,
    which it shares with the other workers.
    A trial whose worker has died is gone on with by another. Stops as `train` does.
    """
    from swath.files import write_json
    from swath.learn.train import check_device
    from swath.learn.trials import Slot, train_slot
    from swath.plan import hash_of, read_sections, with_params, without
    from swath.study import journal, rungs

    sections = read_sections("worker", config)
    sweep = sections.pop("sweep")
    check_device(sections["trainer"], processes=1)
    sought = rungs.objectives(sweep, sections["task"]["monitor"])
    epochs = rungs.budgets(sweep["epochs"], sweep["eta"], sweep["rungs"])
    opened, version = _open(patches)
    parts, statistics, dealt_by = _parts(split, 0), _statistics(split, 0), _digest_of(split)
    # Trials of other data, code or settings are none of this study's; a wider range or more trials
    # go on with those that there are.
    grows = (
        "trials", "minutes", "workers", "space", "final", "trials_per_job", "side_by_side",
        "threads",
    )  # fmt: skip
    kinds = {key: without(d, "low", "high", "step") for key, d in sweep["space"].items()}
    asks = [without(sweep, *grows), kinds, sections, version, dealt_by, code]
    shared = journal.Shared(
        studies / hash_of(*asks), name, space=sweep["space"], sampler=sweep["sampler"],
        seed=sweep["seed"], sought=sought, budgets=epochs, eta=sweep["eta"],
        pruner=sweep["pruner"], trials=sweep["trials"], startup=sweep["generation"],
        minutes=sweep["minutes"],
    )  # fmt: skip

    def train_trial(number: int, params: dict[str, Any], rung: int) -> dict[str, Any]:
        given = with_params(sections, {"trainer.epochs": epochs[-1], **params})
        identity = _identity(given, version, dealt_by, code, 0, sweep["seed"])
        slot = Slot(
            number,
            config.parent.name,
            identity,
            epochs[rung],
            sweep["seed"],
            given,
            parts,
            statistics,
            {"rung": rung},
        )
        return train_slot(
            slot, opened, state, sought=[s.name for s in sought], code=code,
            deadline=_deadline(minutes), measured=state.parent / "measured",
        )  # fmt: skip

    done = journal.work(shared, train_trial, StoppedError)
    params, rows = shared.collected()
    log.info("%s has trained %d of %d trials", name, done, len(params))
    write_json(out, {"trials": params, "rows": rows})


@app.command()
def best(
    config: Config,
    name: Annotated[str, typer.Option(help="Name of the study.")],
    out: Annotated[Path, typer.Option(help="trials.json to write.")],
    proposal: Proposals = None,
    result: Results = None,
    worker: Annotated[
        list[Path] | None, typer.Option(help="What a worker has written (repeat for each).")
    ] = None,
) -> None:
    """Collect a study: every trial by rung, and the best.

    Reads: sweep.yaml and the sections of a run, the proposals, the jobs' results.
    Writes: trials.json; beside it best.yaml, the best as a configuration that is ready for
    conf/experiment, and journal.log, the study for `optuna-dashboard`.
    """
    from swath.files import read_json, whole, write_json, write_text
    from swath.plan import as_experiment, read_sections
    from swath.study import journal, rungs

    sections = read_sections("best", config)
    sweep = sections.pop("sweep")
    sought = rungs.objectives(sweep, sections["task"]["monitor"])
    rows = [row for path in result or [] for row in read_json(path)]
    proposals = [read_json(path)["trials"] for path in proposal or []]
    if worker:  # who has ended last knows all
        whole_study = max((read_json(path) for path in worker), key=lambda w: len(w["rows"]))
        proposals, rows = [whole_study["trials"]], whole_study["rows"]
    study = {
        "study": name, "mode": sweep["mode"], "sampler": sweep["sampler"],
        **rungs.collect(proposals, rows, sought, sweep["rungs"] - 1),
    }  # fmt: skip
    write_json(out, study)
    with whole(out.parent / "journal.log") as part:
        journal.export(study, sweep["space"], part)
    won = study["best"]
    if won is None:
        reason = next((t["reason"] for t in study["trials"] if t["reason"]), rungs.SKIPPED)
        log.warning("every trial failed: %s", reason)
        text = f"# Every trial of the study of {name} failed.\n"
    else:
        log.info("best trial: %d %s", won, study["trials"][won]["params"])
        what = f"The best of the study of {name}: trial {won}."
        text = as_experiment(name, what, *_of_trial(sections, sweep, study, won))
    write_text(out.parent / "best.yaml", text)


@app.command()
def final(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    study: Annotated[Path, typer.Option(help="trials.json.")],
    slots: Slots,
    code: Code,
    state: State,
    out: Annotated[Path, typer.Option(help="Result of the job, a JSON file.")],
    minutes: Minutes = None,
    attempt: Tried = 1,
    inside: Inside = "",
) -> None:
    """Train some runs of a study's final: its best trials over seeds and folds.

    Reads: sweep.yaml and the sections of a run, trials.json. Writes: one row a run; where fewer
    trials than asked for have not failed, fewer.
    Stops as `train` does; started again it goes on in the run at which it was.
    """
    from swath.files import read_json
    from swath.plan import read_sections
    from swath.study import rungs

    sections = read_sections("final", config)
    sweep = sections.pop("sweep")
    collected = read_json(study)
    sought = [s["name"] for s in collected["objectives"]]
    epochs = rungs.budgets(sweep["epochs"], sweep["eta"], sweep["rungs"])[-1]
    which = _slots(slots)
    runs = [
        (number, fold, seed)
        for number in _candidates(collected, sweep)
        for fold in sweep["final"]["folds"]
        for seed in sweep["final"]["seeds"]
    ]
    which = [slot for slot in which if slot < len(runs)]
    asked = [
        _Asked(
            number, epochs, fold, seed, _of_trial(sections, sweep, collected, number)[1],
            {"fold": fold, "seed": seed},
        )
        for number, fold, seed in (runs[slot] for slot in which)
    ]  # fmt: skip
    _train_asked(
        asked, config.parent.name, sought, patches, split, state, out, code=code, minutes=minutes,
        attempt=attempt,
        inside=inside, which=which, side_by_side=sweep["side_by_side"],
    )  # fmt: skip


@app.command()
def elect(
    config: Config,
    study: Annotated[Path, typer.Option(help="trials.json.")],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    result: Results = None,
) -> None:
    """Choose the winner of a study by the validation parts alone.

    Reads: sweep.yaml and the sections of a run, trials.json, the results of the final.
    Writes: elected.json with the mean of each candidate, winner.yaml, a configuration that is ready
    for conf/experiment, and winner/config/, the sections with which the winner is trained.
    """
    from swath.errors import RunError
    from swath.files import read_json, write_json, write_text
    from swath.plan import as_experiment, read_sections, write_section
    from swath.study import rungs

    sections = read_sections("elect", config)
    sweep = sections.pop("sweep")
    collected = read_json(study)
    sought = [rungs.Objective(**s) for s in collected["objectives"]]
    rows = [row for path in result or [] for row in read_json(path)]
    candidates, winner = rungs.elect(_candidates(collected, sweep), rows, sought)
    if winner is None:
        reasons = [t["reason"] for t in collected["trials"]] + [row["reason"] for row in rows]
        why = next((reason for reason in reasons if reason), "none")
        raise RunError(
            f"nothing has won: every run failed ({why})", where=study, mend="mend the space"
        )
    params, won = _of_trial(sections, sweep, collected, winner)
    for name, values in won.items():
        write_section(out / "winner" / "config" / f"{name}.yaml", values)
    what = f"The winner of the final of the study of {collected['study']}: trial {winner}."
    write_text(out / "winner.yaml", as_experiment(collected["study"], what, params, won))
    write_json(out / "elected.json", {"candidates": candidates, "winner": winner})
    log.info("the winner is trial %d %s", winner, collected["trials"][winner]["params"])


@app.command()
def conclude(
    elected: Annotated[Path, typer.Option(help="elected.json.")],
    out: Annotated[Path, typer.Option(help="final.json to write.")],
    scores: Annotated[
        list[Path], typer.Option(help="Scores of the winner's runs (repeat for each).")
    ],
) -> None:
    """Say what the winner of a study reaches on the test part, which nothing has seen before.

    Reads: elected.json, scores.json of each of the winner's runs. Writes: final.json.
    """
    from swath.files import read_json, write_json
    from swath.study.results import HEADLINES

    runs = []
    for path in scores:
        found = read_json(path)
        headline = next(name for name in HEADLINES if name in found)
        figure = {key: found[headline].get(key) for key in ("value", "low", "high")}
        runs.append({"fold": found["fold"], "seed": found["seed"], "headline": headline, **figure})
    test = {"split": read_json(scores[0])["split"], "runs": runs}
    write_json(out, {**read_json(elected), "test": test})


@app.command()
def track(
    config: Config,
    run: RunFolder,
    group: Annotated[str, typer.Option(help="The experiment.")],
    spool: Annotated[Path, typer.Option(help="Folder of W&B's files.")],
    out: Annotated[Path, typer.Option(help="tracking.json to write.")],
) -> None:
    """Log a finished run to Weights & Biases; what goes wrong there stops nothing.

    Reads: tracking.yaml, run.json, metrics.parquet, scores.json. Writes: tracking.json, the spool.
    """
    import pandas as pd

    from swath.files import read_json, write_json
    from swath.plan import read_section, read_sections
    from swath.report.tracking import track as tell

    settings = read_sections("track", config)["tracking"]
    known = {path.stem: read_section(path) for path in sorted(config.glob("*.yaml"))}
    told = tell(
        read_json(run / "run.json"),
        pd.read_parquet(run / "metrics.parquet"),
        read_json(run / "scores.json"),
        known,
        spool,
        **settings,
        group=group,
    )
    write_json(out, told)


@app.command()
def track_study(
    config: Config,
    study: Annotated[Path, typer.Option(help="trials.json.")],
    spool: Annotated[Path, typer.Option(help="Folder of W&B's files.")],
    out: Annotated[Path, typer.Option(help="tracking.json to write.")],
) -> None:
    """Log the trials of a study to Weights & Biases as a group; what goes wrong stops nothing.

    Reads: tracking.yaml, trials.json. Writes: tracking.json, the spool.
    """
    from swath.files import read_json, write_json
    from swath.plan import read_sections
    from swath.report.tracking import track_study as tell

    settings = read_sections("track_study", config)["tracking"]
    write_json(out, tell(read_json(study), spool, **settings))


@app.command()
def report(
    experiment: Annotated[Path, typer.Option(help="Folder results/EXPERIMENT.")],
    out: Annotated[Path, typer.Option(help="report.html to write.")],
) -> None:
    """Write the report: one page that opens without a network, and its figures as tables.

    Reads: everything below results/EXPERIMENT. Writes: report.html; beside it metrics.json
    and curves.csv.
    """
    from swath.report.page import write_report

    write_report(experiment, out, project=Path.cwd())
    log.info("the report is %s", out)


@app.command()
def show(
    experiment: Annotated[Path, typer.Argument(help="Folder results/EXPERIMENT.")],
) -> None:
    """Print the tables of a finished experiment as Markdown.

    Reads: everything below results/EXPERIMENT. Writes: nothing; prints.
    Example: swath show results/eurosat
    """
    from swath.report.tables import as_markdown, page_tables
    from swath.study.results import read_experiment

    tables = page_tables(read_experiment(experiment, project=Path.cwd()), code="")
    shown = [table for section in tables.values() for table in section if table.of_data]
    costs = [table for table in tables["making"] if table.caption.startswith("Time")]
    print("\n\n".join(as_markdown(table) for table in [*shown, *costs]))


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="The experiment whose study it is.")],
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    state: State = Path("state"),
) -> None:
    """Print how a study stands, while it runs or after.

    Reads: what results/NAME and STATE/runs hold of it. Writes: nothing; prints.
    Example: swath study eurosat_small
    """
    from swath.plan import read_section
    from swath.study.standing import standing

    sections = {key: read_section(results / name / "config" / f"{key}.yaml") for key in STUDY}
    monitor = sections["task"]["monitor"]
    print("\n".join(standing(results / name, state, sections["sweep"], monitor)))


@app.command()
def prune(
    state: State = Path("state"),
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
    unnamed: Annotated[
        bool, typer.Option("--unnamed", help="Also runs that no result names: they begin anew.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete, and do not only list.")] = False,
) -> None:
    """List what state/ keeps of runs that no result needs any more, and delete it with --yes.

    Reads: STATE/runs, run.json and the studies below results/. Writes: nothing; --yes deletes the
    checkpoints of runs and trials whose results are complete. What a process is training, and the
    trials of a study that is not complete, always stay; a run that no result names stays unless
    asked: it is unfinished, or its configuration, data or code have changed since. Another
    trainer.tta, and a study of more trials, train anew what was deleted.
    Example: swath prune --yes
    """
    from swath.study.leftovers import delete, leftovers

    found = leftovers(state / "runs", results)
    chosen = ("finished", "unnamed") if unnamed else ("finished",)
    print(f"{'run':18s} {'standing':9s} {'MB':>9s}  {'last written':16s}  result")
    for left in found:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(left.written))
        print(f"{left.folder.name:18s} {left.standing:9s} {left.size / 1e6:9.1f}  {day}  {left.of}")
    some = [left for left in found if left.standing in chosen]
    done = delete(some, state / "workflow.lock") if yes else some
    freed = sum(left.size for left in done) / 1e6
    if yes:
        print(f"deleted {len(done)} of {len(found)} runs, {freed:.1f} MB")
    else:
        print(f"--yes deletes {len(done)} of {len(found)} runs, {freed:.1f} MB")
    if (rest := [left for left in found if left.standing == "unnamed"]) and not unnamed:
        more = sum(left.size for left in rest) / 1e6
        print(f"--unnamed also takes {len(rest)} that no result names, {more:.1f} MB")


# ---- trials of a study ----------------------------------------------------------------------


class _Asked(NamedTuple):
    """A training that a study asks for."""

    number: int
    epochs: int
    fold: int
    seed: int
    sections: dict[str, Any]
    known: dict[str, Any]


def _train_asked(
    asked: list[_Asked],
    name: str,
    sought: list[str],
    patches: Path,
    split: Path,
    state: Path,
    out: Path,
    *,
    code: str,
    minutes: float | None,
    attempt: int,
    inside: str,
    which: list[int],
    closes: float | None = None,
    side_by_side: int = 1,
) -> None:
    """Train what is asked for, and write a row for each.

    A job that was begun again after it died trains the one at which that was in a process of its
    own, which takes no other with it. Some side by side are processes of the same verb.
    """
    from swath.files import write_json
    from swath.learn.train import check_device
    from swath.learn.trials import Slot, elsewhere, train_slot, train_slots
    from swath.study.rungs import SKIPPED

    together = min(side_by_side, len(asked))
    if together > 1 and not inside:
        dealt = [range(k, len(asked), together) for k in range(together)]
        parts = [out.with_name(f"{out.stem}.{k}.json") for k in range(together)]
        chosen = [[which[n] for n in some] for some in dealt]
        pairs = zip(parts, chosen, strict=True)
        commands = [_same("beside", out=part, slots=some) for part, some in pairs]
        found = elsewhere(commands, parts)
        if dead := [end for end in found if isinstance(end, int)]:
            raise RunError(
                f"a process ended with exit code {dead[0]}", where=out, mend="start it again"
            )
        by_slot = {
            slot: row
            for some, ended in zip(chosen, found, strict=True)
            if not isinstance(ended, int)
            for slot, row in zip(some, ended, strict=True)
        }
        # What has no room beside others may have it by itself.
        again = [slot for slot in which if "memory" in (by_slot[slot]["reason"] or "")]
        if again:
            (ended,) = elsewhere([_same("beside", out=parts[0], slots=again)], parts[:1])
            if not isinstance(ended, int):
                by_slot |= dict(zip(again, ended, strict=True))
        write_json(out, [by_slot[slot] for slot in which])
        for part in parts:
            part.unlink(missing_ok=True)
        return
    # What no trial could do is no trial's result.
    for trainer in {each.sections["trainer"]["device"]: each.sections["trainer"] for each in asked}:
        check_device({"device": trainer, "batch_size": 1}, processes=1)
    opened, version = _open(patches)
    folds = {each.fold: (_parts(split, each.fold), _statistics(split, each.fold)) for each in asked}
    dealt_by = _digest_of(split)
    slots = [
        Slot(
            each.number,
            name,
            _identity(each.sections, version, dealt_by, code, each.fold, each.seed),
            each.epochs,
            each.seed,
            each.sections,
            *folds[each.fold],
            each.known,
        )
        for each in asked
    ]

    def alone(slot: Slot) -> Any:
        part = out.with_name(f"{out.stem}.{slot.run_id}.json")
        try:
            return elsewhere([_same("alone", out=part, slots=[which[slots.index(slot)]])], [part])[
                0
            ]
        finally:
            part.unlink(missing_ok=True)

    rows = train_slots(
        slots,
        state,
        one=partial(
            train_slot, patches=opened, state=state, sought=sought, code=code,
            deadline=_deadline(minutes), measured=state.parent / "measured",
        ),
        alone=alone if attempt > 1 and inside != "alone" else None,
        closes=closes,
        skipped=SKIPPED,
    )  # fmt: skip
    write_json(out, rows)


def _same(inside: str, out: Path, slots: list[int]) -> list[str]:
    """The command of this process, for some of its slots, and how it then is started."""
    given = sys.argv[1:]
    replaced = {"--out", "--slots", "--log", "--inside"}
    kept = [w for n, w in enumerate(given) if not {w, *given[max(0, n - 1) : n]} & replaced]
    more = ["--inside", inside, "--out", str(out), "--slots", ",".join(map(str, slots))]
    return [sys.executable, "-P", "-c", AGAIN, *kept, *more]


def _slots(given: str) -> list[int]:
    """Numbers of slots, from FIRST:END or a list."""
    try:
        if ":" in given:
            first, end = map(int, given.split(":"))
            return list(range(first, end))
        return [int(number) for number in given.split(",")]
    except ValueError:
        raise ConfigError(f"'{given}' is none", where="--slots", mend="give FIRST:END") from None


def _candidates(collected: dict[str, Any], sweep: dict[str, Any]) -> list[int]:
    """The trials of the final, best first; without a final, the best is the only one."""
    found: list[int] = collected["order"][: max(1, sweep["final"]["best"])]
    return found


def _of_trial(
    sections: dict[str, Any], sweep: dict[str, Any], collected: dict[str, Any], number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial's values, with the whole budget, and the sections of its run."""
    from swath.plan import with_params
    from swath.study.rungs import budgets

    epochs = budgets(sweep["epochs"], sweep["eta"], sweep["rungs"])[-1]
    params = {"trainer.epochs": epochs, **collected["trials"][number]["params"]}
    return params, with_params(sections, params)


def _known(sweep: dict[str, Any], proposals: list[Path], results: list[Path]) -> list[Any]:
    """All trials of earlier generations, as the sampler learns from them."""
    from swath.files import read_json
    from swath.study.space import Known

    rows = [row for path in results for row in read_json(path)]
    known, number = [], 0
    for generation, path in enumerate(proposals):
        for params in read_json(path)["trials"]:
            mine = [row for row in rows if row["number"] == number]
            scores = {row["epochs"]: row["scores"] for row in mine if row["scores"] is not None}
            failed = any(row["scores"] is None for row in mine)
            complete = any(row["rung"] == sweep["rungs"] - 1 for row in mine) and not failed
            known.append(Known(params, {} if failed else scores, complete, generation))
            number += 1
    return known


# ---- what several verbs read and write ------------------------------------------------------


def _open(manifest: Path) -> tuple[PatchSet, str]:
    """The patch set of a manifest, and its version."""
    from swath.data.patchset import open_patches
    from swath.files import read_json

    return open_patches(manifest), read_json(manifest)["version"]


def _table(split: Path) -> pd.DataFrame:
    """The table of a split: patch, fold, part."""
    import pandas as pd

    path = split / "split.parquet"
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, mend="run the stage `split`") from None
    except (OSError, ValueError) as broken:
        raise DataError(
            f"is not a Parquet table ({broken})", where=path, mend="delete it and split again"
        ) from None


def _training(split: Path) -> NDArray[np.bool_]:
    """(fold, patch): whether a patch trains."""
    table = _table(split).sort_values(["fold", "patch"])
    trains: NDArray[np.bool_] = (table["part"] == "train").to_numpy()
    return trains.reshape(table["fold"].nunique(), -1)


def _parts(split: Path, fold: int) -> NDArray[np.str_]:
    """The part of each patch in a fold."""
    table = _table(split)
    table = table[table["fold"] == fold].sort_values("patch")
    if not len(table):
        raise DataError(f"has no fold {fold}", where=split, mend="mend runs.folds")
    return table["part"].to_numpy(dtype=str)


def _statistics(split: Path, fold: int) -> dict[str, Any]:
    """Statistics of the training part of a fold."""
    from swath.files import read_json

    found: dict[str, Any] = read_json(split / "statistics.json")["folds"][fold]
    return found


def _processes(given: str) -> int | None:
    """The number of processes that is asked for; None is `auto`."""
    if given == "auto":
        return None
    if given.isdecimal() and int(given):
        return int(given)
    raise ConfigError(f"'{given}' is no number", where="--processes", mend="give auto, 1, 2, …")


def _deadline(minutes: float | None) -> float | None:
    """When this process will be ended, in seconds since 1970: what its rule or Slurm says."""
    ends = [] if minutes is None else [STARTED + 60 * minutes]
    if slurm := os.environ.get("SLURM_JOB_END_TIME"):
        ends.append(float(slurm))
    return min(ends, default=None)


def _run_id(
    sections: dict[str, Any], version: str, split: Path, code: str, fold: int, seed: int
) -> str:
    """The identity of a run: whatever could change its result is in it, and nothing else."""
    return _identity(sections, version, _digest_of(split), code, fold, seed)


def _digest_of(split: Path) -> str:
    from swath.files import digest

    return digest(split / "split.parquet")


def _identity(
    sections: dict[str, Any], version: str, dealt_by: str, code: str, fold: int, seed: int
) -> str:
    from swath.learn.train import NOT_LEARNT
    from swath.plan import hash_of, without

    learnt = sections | {"trainer": without(sections["trainer"], *NOT_LEARNT)}
    return hash_of(learnt, version, dealt_by, code, fold, seed)


def _write_predictions(path: Path, which: NDArray[np.int64], answer: Answer) -> None:
    import numpy as np

    from swath.files import whole

    with whole(path) as part:
        said = {name: of for name, of in answer._asdict().items() if of is not None}
        np.savez_compressed(part, patch=which, **said)


def main() -> None:
    """Run a verb; an error that a user can mend is one line, and an exit code of `swath.errors`."""
    debug = "--debug" in sys.argv
    try:
        app()
    except SwathError as wrong:
        if debug:
            traceback.print_exc()
        _let_the_first_tell(wrong)
        _fail(str(wrong), wrong.exit_code)
    except OSError as failed:
        if debug:
            traceback.print_exc()
        mend = {
            errno.ENOSPC: "; the disk is full: make room, what was written whole is kept",
            errno.EACCES: "; you may not write there",
            errno.EROFS: "; you may not write there",
        }.get(failed.errno or 0, "")
        _fail(f"{failed.filename or 'a file'}: {failed.strerror or failed}{mend}")
    except KeyboardInterrupt:
        sys.exit(130)


def _let_the_first_tell(wrong: SwathError) -> None:
    """End in silence where this is not the first of its processes, and what it would say is said.

    All are stopped together; and where the first has failed as this one did, it ends this one.
    """
    from swath.launch import place

    try:
        first = place().first
    except SwathError:  # what is wrong is what the environment says of it
        first = True
    if not first:
        if isinstance(wrong, StoppedError):
            sys.exit(wrong.exit_code)
        time.sleep(2.0)


def _fail(line: str, exit_code: int = SwathError.exit_code) -> None:
    """Tell what is wrong, to the log file too."""
    logging.getLogger("swath").error("error: %s", line)
    sys.exit(exit_code)
