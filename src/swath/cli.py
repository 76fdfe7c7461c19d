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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swath.errors import ConfigError, DataError, LeakError, SwathError, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from swath.data.patchset import PatchSet

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
SplitFolder = Annotated[Path, typer.Option(help="Folder of the split.")]
State = Annotated[Path, typer.Option(help="Folder for what must survive a killed job.")]
RunFolder = Annotated[Path, typer.Option(help="Folder of the run.")]
Fold = Annotated[int, typer.Option(help="Fold of the split.")]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
Code = Annotated[str, typer.Option(help="Fingerprint of the code, part of the run's identity.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log", help="Also write what is told to this file.")
    ] = None,
) -> None:
    """Options of every verb."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, mode="w"))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=handlers
    )
    for noisy in ("rasterio", "wandb", "fontTools", "matplotlib"):
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
def patches(config: Config, data: Data, out: Out) -> None:
    """Cut a dataset into a patch set.

    Reads: data.yaml, patches.yaml, data/DATASET. Writes: a Zarr store, and a manifest beside it.
    Example: swath patches --config results/embedded/config --data data/embedded
    --out results/embedded/patches/set.zarr
    """
    from swath.data.card import Card
    from swath.data.layouts import open_source
    from swath.data.patches import cut
    from swath.files import files_below, read_manifest, write_manifest
    from swath.plan import read_sections

    sections = read_sections("patches", config)
    source_manifest = read_manifest(data / "manifest.json")
    card = Card.model_validate(sections["data"])
    out.parent.mkdir(parents=True, exist_ok=True)
    made_by = {"data_version": source_manifest["version"], "made_by": sections["patches"]}
    source = open_source(card, data)
    counts = cut(card, source, out, **sections["patches"], made_by=made_by)
    manifest = write_manifest(
        out.parent / "manifest.json",
        files_below(out),
        store=out.name,
        data_version=source_manifest["version"],
        **counts,
    )
    log.info("%d patches, %d left out, version %.16s", *counts.values(), manifest["version"])


@app.command()
def split(
    config: Config,
    patches: Patches,
    name: Annotated[str, typer.Option(help="Name of the split in split.yaml.")],
    out: Out,
) -> None:
    """Deal the patches to train, val and test, and audit the result.

    Reads: split.yaml, the patch set. Writes: split.parquet, audit.json, statistics.json.
    Stops where the parts are not independent, unless split.allow_leaks=true.
    Example: swath split --config results/embedded/config
    --patches results/embedded/patches/manifest.json --name blocks
    --out results/embedded/splits/blocks
    """
    import numpy as np
    import pandas as pd

    from swath import registry
    from swath.data.patchset import band_statistics, class_counts, labels_of_patches
    from swath.files import whole, write_json
    from swath.plan import read_sections
    from swath.split.audit import audit as measure

    section = read_sections("split", config)["split"]
    if name == "allow_leaks" or name not in section:
        known = [k for k in section if k != "allow_leaks"]
        raise ConfigError(f"no split is named '{name}'", where=config, mend=nearest(name, known))
    scheme = {k: v for k, v in section[name].items() if k != "scheme"}
    opened, _ = _open(patches)
    places = opened.places.assign(label=labels_of_patches(opened))
    parts = registry.load("scheme", section[name]["scheme"])(places, opened.side_m, **scheme)
    members = {part: np.flatnonzero(parts == part) for part in ("train", "val", "test", "unused")}
    counts = {
        part: dict(zip(opened.classes, class_counts(opened, which).tolist(), strict=True))
        for part, which in members.items()
    }
    found = measure(
        places, parts, counts, side_m=opened.side_m, buffer_m=float(scheme.get("buffer_m", 0.0))
    )
    allowed = bool(section["allow_leaks"])
    verdict = {"split": name, "scheme": section[name]["scheme"]} | found
    verdict["stamped"] = not found["passed"]
    for problem in found["problems"]:
        log.warning("audit of %s: %s", name, problem)
    if not found["passed"] and not allowed:
        # Outside the declared outputs, since these are deleted when the job fails.
        write_json(out.parent / f"{name}-refused.json", verdict)
        raise LeakError(
            f"the split is refused: {found['problems'][0]}",
            where=f"split {name}",
            mend="choose a spatial split (split=blocks), or stamp it (split.allow_leaks=true)",
        )
    table = pd.DataFrame({"patch": np.arange(len(parts)), "fold": 0, "part": parts})
    with whole(out / "split.parquet") as part:
        table.to_parquet(part, index=False)
    write_json(out / "statistics.json", band_statistics(opened, members["train"]))
    write_json(out / "audit.json", verdict)
    log.info("split %s: %s", name, {part: len(which) for part, which in members.items()})


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
) -> None:
    """Train one run, or go on with it where an earlier attempt stopped.

    Reads: model.yaml, task.yaml, optim.yaml, trainer.yaml, the patch set, the split.
    Writes: best.ckpt, metrics.parquet, run.json; while it runs, STATE/RUN_ID/.
    """
    from swath.files import whole, write_json
    from swath.learn.train import train as train_run
    from swath.plan import read_sections

    sections = read_sections("train", config)
    opened, version = _open(patches)
    parts, statistics = _parts(split, fold)
    identity = _run_id(sections, version, split, code, fold, seed)
    outcome = train_run(opened, parts, statistics, state / identity, seed=seed, **sections)
    with whole(out / "best.ckpt") as part:
        part.write_bytes(outcome.model.read_bytes())
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
    parts, _ = _parts(split, fold)
    started = time.perf_counter()
    members = [np.flatnonzero(parts == part) for part in ("train", "test")]
    name, answer = predict_baseline(opened, *members, seed=0)
    _write_predictions(out / "predictions.npz", members[1], *answer)
    write_json(out / "baseline.json", {"name": name, "seconds": time.perf_counter() - started})


@app.command()
def predict(
    patches: Patches,
    split: SplitFolder,
    fold: Fold,
    model: Annotated[Path, typer.Option(help="The trained model (best.ckpt).")],
    out: Annotated[Path, typer.Option(help="predictions.npz to write.")],
) -> None:
    """Predict the test part of a split.

    Reads: best.ckpt, the patch set, the split.
    Writes: predictions.npz (patch, predicted, confidence).
    """
    import numpy as np

    from swath.learn.predict import predict_patches

    opened, _ = _open(patches)
    parts, _ = _parts(split, fold)
    which = np.flatnonzero(parts == "test")
    _write_predictions(out, which, *predict_patches(model, opened, which))
    log.info("predicted %d patches", len(which))


@app.command(name="map")
def map_scenes(
    config: Config,
    data: Data,
    model: Annotated[Path, typer.Option(help="The trained model (best.ckpt).")],
    out: Annotated[Path, typer.Option(help="Folder of the maps.")],
) -> None:
    """Map every scene of a dataset: classes and confidence as cloud-optimised GeoTIFFs.

    Reads: data.yaml, data/DATASET, best.ckpt. Writes: SCENE_classes.tif, SCENE_confidence.tif,
    maps.json (none of the former where a dataset has single patches and no scenes).
    """
    from swath.data.card import Card
    from swath.data.layouts import SceneFolder, open_source
    from swath.files import write_json
    from swath.learn.predict import map_scene
    from swath.plan import read_sections

    card = Card.model_validate(read_sections("map", config)["data"])
    source = open_source(card, data)
    maps = []
    for scene in source.opened if isinstance(source, SceneFolder) else ():
        classes, confidence = (
            out / f"{scene.name}_{kind}.tif" for kind in ("classes", "confidence")
        )
        map_scene(model, scene, classes, confidence, colours=list(card.classes.values()))
        maps.append(
            {
                "scene": scene.name,
                "classes": str(classes),
                "confidence": str(confidence),
                "truth": str(scene.labels) if scene.labels else None,
                "image": [str(path) for path in scene.images],
            }
        )
    write_json(out / "maps.json", {"scenes": maps})


@app.command()
def evaluate(
    config: Config,
    patches: Patches,
    predictions: Annotated[Path, typer.Option(help="predictions.npz of a run or baseline.")],
    split: Annotated[str, typer.Option(help="Name of the split.")],
    fold: Fold,
    seed: Seed,
    out: Annotated[Path, typer.Option(help="scores.json to write.")],
) -> None:
    """Turn predictions into figures with their confidence intervals.

    Reads: scores.yaml, predictions.npz, the patch set's labels. Writes: scores.json.
    """
    import numpy as np

    from swath.files import write_json
    from swath.plan import read_sections
    from swath.study.scores import confusions, score

    settings = read_sections("evaluate", config)["scores"]
    opened, _ = _open(patches)
    with np.load(predictions) as saved:
        which, predicted = saved["patch"], saved["predicted"]
    by_patch = confusions(opened.label.gather(which), predicted, len(opened.classes))
    places = opened.places.iloc[which].reset_index(drop=True)
    figures = score(by_patch, places, opened.classes, **settings)
    run = {"split": split, "fold": fold, "seed": seed, "part": "test", "patches": len(which)}
    pixels = int(by_patch.sum()) if predicted.ndim > 1 else None
    write_json(out, run | {"pixels": pixels} | figures)
    accuracy = figures["overall_accuracy"]
    log.info("test/overall_accuracy %.4f on split %s", accuracy["value"], split)


@app.command()
def propose(config: Config, out: Out) -> None:
    """Draw the trials of a study.

    Reads: sweep.yaml. Writes: proposal.json, the parameters of each trial.
    """
    from swath.files import write_json
    from swath.plan import read_sections
    from swath.study.space import propose as draw

    sweep = read_sections("propose", config)["sweep"]
    trials = draw(
        sweep["space"], sampler=sweep["sampler"], trials=sweep["trials"], seed=sweep["seed"]
    )
    write_json(out, {"trials": trials})


@app.command()
def trials(
    config: Config,
    patches: Patches,
    split: SplitFolder,
    proposal: Annotated[Path, typer.Option(help="proposal.json.")],
    rung: Annotated[int, typer.Option(help="Rung of the halving, from 0.")],
    shard: Annotated[int, typer.Option(help="Which of the rung's jobs this is, from 0.")],
    code: Code,
    state: State,
    out: Annotated[Path, typer.Option(help="Result of the shard, a JSON file.")],
    below: Annotated[
        list[Path] | None, typer.Option(help="Results of the rung below (repeat for each).")
    ] = None,
) -> None:
    """Train the trials of one shard of a rung, one after another in this process.

    Reads: sweep.yaml and the sections of a run, proposal.json, results of the rung below.
    Writes: one row a trial: number, rung, epochs, score, seconds, run_id, reason of a failure.
    """
    from swath.files import read_json, write_json
    from swath.learn.train import train as train_run
    from swath.plan import read_sections, with_params
    from swath.study.rungs import budgets, promoted, shards, slots

    sections = read_sections("trials", config)
    sweep = sections.pop("sweep")
    opened, version = _open(patches)
    parts, statistics = _parts(split, 0)
    proposed = read_json(proposal)["trials"]
    wide = slots(len(proposed), sweep["eta"], sweep["rungs"])[rung]
    epochs = budgets(sweep["epochs"], sweep["eta"], sweep["rungs"])
    earlier = [row for path in below or [] for row in read_json(path)]
    numbers = promoted(earlier, wide) if rung else list(range(len(proposed)))
    rows = []
    for slot in shards(wide, sweep["trials_per_job"])[shard]:
        number = numbers[slot]
        given = with_params(sections, {"trainer.epochs": epochs[-1], **proposed[number]})
        identity = _run_id(given, version, split, code, 0, sweep["seed"])
        row: dict[str, Any] = {
            "number": number, "rung": rung, "epochs": epochs[rung], "score": None,
            "seconds": None, "run_id": identity, "reason": None,
        }  # fmt: skip
        try:
            outcome = train_run(
                opened,
                parts,
                statistics,
                state / identity,
                seed=sweep["seed"],
                until_epoch=epochs[rung],
                **given,
            )
        except (SwathError, RuntimeError) as failed:  # a failure is a result, too
            row["reason"] = str(failed).splitlines()[0]
        else:
            row["score"] = float(outcome.history["val/accuracy"].max())
            row["seconds"] = outcome.facts["seconds"]
        log.info("trial %d, rung %d: val/accuracy %s", number, rung, row["score"] or row["reason"])
        rows.append(row)
    write_json(out, rows)


@app.command()
def best(
    proposal: Annotated[Path, typer.Option(help="proposal.json.")],
    result: Annotated[list[Path], typer.Option(help="Results of shards (repeat for each).")],
    out: Annotated[Path, typer.Option(help="trials.json to write.")],
) -> None:
    """Collect a study: every trial by rung, and the best.

    Reads: proposal.json, the shards' results. Writes: trials.json.
    """
    from swath.files import read_json, write_json
    from swath.study.rungs import collect

    rows = [row for path in result for row in read_json(path)]
    rungs = [
        [row for row in rows if row["rung"] == rung] for rung in sorted({r["rung"] for r in rows})
    ]
    study = collect(read_json(proposal), rungs)
    write_json(out, study)
    log.info("best trial: %d %s", study["best"], study["trials"][study["best"]]["params"])


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


# ---- what several verbs read and write ------------------------------------------------------


def _open(manifest: Path) -> tuple[PatchSet, str]:
    """The patch set of a manifest, proven by it, and its version."""
    from swath.data.patchset import open_patches
    from swath.files import read_manifest

    listed = read_manifest(manifest)
    return open_patches(manifest.parent / listed["store"]), listed["version"]


def _parts(split: Path, fold: int) -> tuple[NDArray[np.str_], dict[str, Any]]:
    """The part of each patch in a fold, and the statistics of its training part."""
    import pandas as pd

    from swath.files import read_json

    path = split / "split.parquet"
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, mend="run the stage `split`") from None
    except (OSError, ValueError) as broken:
        raise DataError(
            f"is not a Parquet table ({broken})", where=path, mend="delete it and split again"
        ) from None
    table = table[table["fold"] == fold].sort_values("patch")
    if not len(table):
        raise DataError(f"has no fold {fold}", where=split, mend="mend runs.folds")
    return table["part"].to_numpy(dtype=str), read_json(split / "statistics.json")


def _run_id(
    sections: dict[str, Any], version: str, split: Path, code: str, fold: int, seed: int
) -> str:
    """The identity of a run: whatever could change its result is in it."""
    from swath.files import digest
    from swath.plan import hash_of

    return hash_of(sections, version, digest(split / "split.parquet"), code, fold, seed)


def _write_predictions(
    path: Path,
    which: NDArray[np.int64],
    predicted: NDArray[np.uint8],
    confidence: NDArray[np.float16],
) -> None:
    import numpy as np

    from swath.files import whole

    with whole(path) as part:
        np.savez_compressed(part, patch=which, predicted=predicted, confidence=confidence)


def main() -> None:
    """Run a verb; an error that a user can mend is one line and exit code 2."""
    debug = "--debug" in sys.argv
    try:
        app()
    except SwathError as wrong:
        if debug:
            traceback.print_exc()
        _fail(str(wrong))
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


def _fail(line: str) -> None:
    """Tell what is wrong, to the log file too."""
    logging.getLogger("swath").error("error: %s", line)
    sys.exit(2)
