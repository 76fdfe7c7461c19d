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
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from swath import ladder_cli, store, study_cli
from swath.errors import ConfigError, DataError, LeakError, StoppedError, SwathError, nearest
from swath.options import (
    AGAIN,
    Code,
    Config,
    Data,
    Fold,
    Minutes,
    ModelFile,
    Out,
    Patches,
    RunFolder,
    ScenesFile,
    Seed,
    SplitFolder,
    State,
    SumsFolder,
    deadline_of,
    of_shards,
    open_set,
    parts_of,
    processes_of,
    run_id_of,
    statistics_of,
    training_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from swath.learn.answers import Answer

app = typer.Typer(
    help="From a satellite's swath to a trained model, a thematic map and a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(study_cli.app)
app.add_typer(ladder_cli.app)
log = logging.getLogger("swath")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log", help="Also write what is told to this file.")
    ] = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=0, help="GPUs to take, of those that no other run holds.")
    ] = 0,
) -> None:
    """Options of every verb."""
    from swath.devices import take
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
    if here.first:  # the others are started with what it has taken
        take(gpus)


@app.command()
def plan(
    experiment: Annotated[str, typer.Argument(help="Name of a file in conf/experiment.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides in Hydra's syntax, e.g. optim.lr=0.01.")
    ] = None,
    conf: Annotated[Path, typer.Option(help="The configuration tree.")] = Path("conf"),
    own: Annotated[
        Path | None, typer.Option(help="A folder with configuration of one's own beside it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("results"),
) -> None:
    """Compose and check an experiment.

    Reads: conf/. Writes: results/EXPERIMENT/config/SECTION.yaml, where the text changed.
    Example: swath plan eurosat optim.lr=0.01
    """
    from swath.plan import compose, tree, write_sections

    composed = compose(tree(conf, own), experiment, overrides or [])
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
    store.put_listed(out / "manifest.json")
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
    store.bring_all(data / "manifest.json")
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
    from swath.data.shards import bring_shard, pieces_of, shard_named
    from swath.plan import read_sections, without

    sections = read_sections("patches", config)
    card = Card.model_validate(sections["data"])
    dealt = shard_named(scenes, shard)
    bring_shard(scenes, shard, data)
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
    store.put_listed(out / "manifest.json")
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
    opened, _ = open_set(patches)
    ground = Ground(opened.places, opened.contents, opened.classes, data)
    table, verdict = deal(ground, name, section[name]["scheme"], settings)
    if not verdict["passed"] and not section["allow_leaks"]:
        # Outside the declared outputs, since these are deleted when the job fails.
        write_json(refused := out.parent / f"{name}-refused.json", verdict)
        store.keep(refused)
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

    opened, _ = open_set(patches)
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
        Path | None, typer.Option(help="What the stage `totals` made of the first round.")
    ] = None,
) -> None:
    """Sum up the bands over the training patches of one shard, for all folds.

    Reads: the patch set, split.parquet; in the second round, which only floats need, the totals
    of the first. Writes: sums and counts of values, which the stage `statistics` adds up.
    """
    import numpy as np

    from swath.data.patchset import open_patches
    from swath.data.statistics import add_up, bins_of, measure, read_sums, refine
    from swath.files import whole

    opened = open_patches(patches, shard=shard)
    training = training_of(split)
    which = opened.of_shard(shard)
    if below:
        wanted = np.stack([bins_of(total)[0] for total in add_up([read_sums(below)])])
        sums = {"refined": refine(opened, which, training, wanted)}
    else:
        sums = measure(opened, which, training).arrays()
    with whole(out) as part:
        np.savez_compressed(part, **sums)  # type: ignore[arg-type]


@app.command()
def totals(
    patches: Patches,
    sums: SumsFolder,
    out: Annotated[Path, typer.Option(help="Totals of the first round, an .npz file.")],
) -> None:
    """Add up the first round of `measure`, once for all jobs of the second, which floats need.

    Reads: the sums of the stage `measure`. Writes: the totals of each fold.
    """
    import numpy as np

    from swath.data.statistics import add_up, read_sums, together
    from swath.files import whole

    opened, _ = open_set(patches)
    added = add_up(read_sums(path) for path in of_shards(opened, sums))
    with whole(out) as part:
        np.savez_compressed(part, **together(added).arrays())  # type: ignore[arg-type]


@app.command()
def statistics(
    patches: Patches,
    sums: SumsFolder,
    out: Annotated[Path, typer.Option(help="statistics.json to write.")],
    refined: Annotated[Path | None, typer.Option(help="Folder of the second round's sums.")] = None,
) -> None:
    """Add up the sums of all shards to the statistics of each fold's training part.

    Reads: the sums of the stage `measure`. Writes: mean, std, extremes and quantiles of each band.
    """
    import numpy as np

    from swath.data.statistics import add_up, read_sums, summary
    from swath.files import write_json

    opened, _ = open_set(patches)
    totals = add_up(read_sums(path) for path in of_shards(opened, sums))
    second = None
    if refined:
        second = sum(np.load(path)["refined"] for path in of_shards(opened, refined))
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
    opened, version = open_set(patches)
    parts, statistics = parts_of(split, fold), statistics_of(split, fold)
    identity = run_id_of(sections, version, split, code, fold, seed)
    outcome = train_run(
        opened,
        parts,
        statistics,
        state / identity,
        seed=seed,
        deadline=deadline_of(minutes),
        code=code,
        processes=processes_of(processes),
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

    opened, _ = open_set(patches)
    parts = parts_of(split, fold)
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

    opened, _ = open_set(patches)
    parts = parts_of(split, fold)
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
    from swath.data.shards import bring_shard, shard_named
    from swath.files import write_json
    from swath.learn.mapping import map_scene
    from swath.plan import read_sections

    sections = read_sections("map", config)
    card = Card.model_validate(sections["data"])
    bring_shard(scenes, shard, data)
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
            store.put(*done.rasters.values())
            rasters = {kind: store.name_of(path) for kind, path in done.rasters.items()}
            mapped.append(
                {"scene": done.scene, **rasters, "image": [rasters["image"]]}
                | {"seconds": done.seconds, "forward_s": done.forward_s, "pixels": done.pixels}
            )
    write_json(out, {"scenes": mapped})


@app.command()
def mosaic(
    scenes: Annotated[Path, typer.Option(help="scenes.json, which names the shards.")],
    parts: Annotated[Path, typer.Option(help="Folder of the shards' tables, shard-NAME.json.")],
    out: Annotated[Path, typer.Option(help="maps.json to write.")],
) -> None:
    """List the maps of all scenes, and join those of each CRS to one raster.

    Reads: the shards' tables, and the maps. Writes: maps.json, beside it EPSG….vrt, which names
    the maps and copies nothing.
    """
    from swath.data.mosaic import write_mosaics
    from swath.files import read_json, write_json

    names = [shard["name"] for shard in read_json(scenes)["shards"]]
    mapped = [
        scene for name in names for scene in read_json(parts / f"shard-{name}.json")["scenes"]
    ]
    written = []
    for kind in ("classes", "numbers"):
        rasters = [store.root() / scene[kind] for scene in mapped if kind in scene]
        store.bring(*rasters)
        written += write_mosaics(rasters, out.parent, kind)
    store.put(*written)
    write_json(out, {"scenes": mapped, "mosaics": [store.name_of(path) for path in written]})


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
    opened, _ = open_set(patches)
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
    store.bring_below(config, "*.yaml")
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
    store.keep(spool)
    write_json(out, told)


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


# ---- what several verbs write ---------------------------------------------------------------


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
