"""The command line: every verb says what it reads and writes, and every mistake is one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import typer
import yaml

from swath import cli, options, settings
from swath.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[1]
RULES = REPOSITORY / "workflow" / "rules"
SWATH = Path(sys.executable).with_name("swath")
VERBS: dict[str, click.Command] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
# Verbs that no rule runs, and why.
BY_HAND = {
    "plan": "the workflow composes its experiments itself",
    "show": "prints what is there",
    "search": "asks a server again; the result is kept in the repository",
    "blocks": "prints a proposal",
    "predict": "for whoever was given a model and a scene",
    "export": "for runtimes that know nothing of swath",
    "prune": "deletes what only a person can do without",
    "study": "is for a person who looks on",
}


def swath(
    *words: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SWATH, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
    )


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """The one line on stderr that says `error: …`, after what was told before; exit code 2."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0], done.stderr
    for word in words:
        assert word in errors[0], errors[0]
    return errors[0]


# ---- help -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_reads_and_writes(verb: str) -> None:
    text = VERBS[verb].help or ""
    assert "Reads:" in text and "Writes:" in text
    assert len(text.splitlines()[0]) < 100


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help(verb: str) -> None:
    for parameter in VERBS[verb].params:
        assert getattr(parameter, "help", None), f"{verb} {parameter.name}"


def test_help_is_had_without_importing_what_is_heavy(tmp_path: Path) -> None:
    script = (
        "import sys; from swath import cli\n"
        "try: cli.app(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = 'torch pytorch_lightning xarray pandas hydra sklearn'.split()\n"
        "print('heavy:', *(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "Reads:" in done.stdout and "Writes:" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def verbs_of_rules() -> dict[str, str]:
    """Each rule of the workflow that runs something -> the verb that its shell line calls."""
    found = {}
    for file in [*sorted(RULES.glob("*.smk")), REPOSITORY / "workflow" / "Snakefile"]:
        for block in re.split(r"^(?=rule |checkpoint |use rule )", file.read_text(), flags=re.M):
            if named := re.match(r"(?:rule|checkpoint) (\w+):", block):
                shell = re.search(r'"(?:\{resources\.launch\})?swath ([^"]*)', block)
                assert bool(shell) == ("shell:" in block), named[1]
                if shell:  # the verb comes after the options of every verb
                    found[named[1]] = re.sub(r"--(log|gpus) \S+ ", "", shell[1]).split()[0]
    return found


def test_rules_and_verbs_agree() -> None:
    rules = verbs_of_rules()
    assert rules == {name: name for name in rules}
    assert set(rules) == set(VERBS) - set(BY_HAND)


def test_rules_leave_the_work_to_the_verbs() -> None:
    for file in RULES.glob("*.smk"):
        assert not re.search(r"^\s+(run|script|notebook):", file.read_text(), re.M), file.name


# ---- mistakes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny drawn dataset, its patch set and its split, made by the verbs."""
    folder = tmp_path_factory.mktemp("prepared")
    for words in (
        ["plan", "--conf", REPOSITORY / "conf", "embedded", "sweep=none", "model=perceptron",
         "data.drawing.scenes=1", "data.drawing.size_px=256", "patches.size_px=32",
         "split.blocks.size_m=320", "trainer.epochs=1", "trainer.precision=fp32",
         "trainer.device=cpu", "split.allow_leaks=true"],
        ["fetch", *CONFIG, "--out", "data/embedded", "--state", "state/f"],
        ["scenes", *CONFIG, *DATA, "--out", SCENES],
    ):  # fmt: skip
        run(folder, words)
    name = shard(folder)
    run(folder, patches(folder, f"results/embedded/patches/{name}"))
    run(folder, ["index", *CONFIG, "--scenes", SCENES, "--out", MANIFEST])
    run(folder, SPLIT)
    sums = f"{SPLITS}/sums/round0/{name}.npz"
    run(folder, ["measure", *PATCHES, "--split", SPLITS, "--shard", name, "--out", sums])
    statistics = f"{SPLITS}/statistics.json"
    run(folder, ["statistics", *PATCHES, "--sums", f"{SPLITS}/sums/round0", "--out", statistics])
    return folder


def run(folder: Path, words: Sequence[object]) -> None:
    done = swath(*words, cwd=folder)
    assert done.returncode == 0, done.stderr


def shard(folder: Path) -> str:
    """The only shard of the tiny dataset."""
    (only,) = json.loads((folder / SCENES).read_text())["shards"]
    return str(only["name"])


def patches(folder: Path, out: object) -> list[object]:
    return ["patches", *CONFIG, *DATA, "--scenes", SCENES, "--shard", shard(folder), "--out", out]


RUN = "results/embedded/runs/r"
CONFIG = ["--config", "results/embedded/config"]
MANIFEST = "results/embedded/patches/manifest.json"
DATA = ["--data", "data/embedded"]
SCENES = "results/embedded/scenes.json"
SPLITS = "results/embedded/splits/blocks"
PATCHES = ["--patches", MANIFEST]
SPLIT = ["split", *CONFIG, *DATA, *PATCHES, "--name", "blocks", "--out", SPLITS]
PART = ["--split", "results/embedded/splits/blocks", "--fold", "0"]
TRAIN = ["train", *CONFIG, *PATCHES, *PART, "--seed", "0", "--code", "c", "--state", "state/runs",
         "--out", RUN]  # fmt: skip


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to be spoilt."""
    return Path(shutil.copytree(prepared, tmp_path / "work"))


def replaced(words: Sequence[str], old: str, new: object) -> list[str]:
    assert old in words
    return [str(new) if word == old else word for word in words]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["plan", "embeded"], ("embeded", "did you mean 'embedded'?")),
        (["plan", "embedded", "optim.lrr=1"], ("optim.lrr", "did you mean 'optim.lr'?")),
        (["fetch", "--config", "nowhere", "--out", "d", "--state", "s"], ("nowhere/data.yaml",)),
        (replaced(SPLIT, MANIFEST, "absent.json"), ("absent.json",)),
        (replaced(SPLIT, "blocks", "blox"), ("blox", "did you mean 'blocks'?")),
        (replaced(TRAIN, "results/embedded/splits/blocks", "absent"), ("absent",)),
        (replaced(TRAIN, "0", "7"), ("fold 7", "runs.folds")),
        (["infer", *PATCHES, *PART, "--model", "absent.ckpt", "--out", "p.npz"],
         ("absent.ckpt",)),
        (["predict", "absent.ckpt", "data/embedded"], ("absent.ckpt", "no such model")),
        (["export", "absent.ckpt", "--out", "a.onnx"], ("absent.ckpt", "no such model")),
        (["mosaic", "--scenes", "absent.json", "--parts", "maps", "--out", "maps/maps.json"],
         ("absent.json",)),
        (["evaluate", *CONFIG, *PATCHES, "--predictions", "absent.npz", "--split", "blocks",
          "--fold", "0", "--seed", "0", "--out", "s.json"], ("absent.npz",)),
        (["best", *CONFIG, "--name", "n", "--proposal", "absent.json", "--result", "gone.json",
          "--out", "t.json"], ("gone.json",)),
        (["worker", *CONFIG, *PATCHES, "--split", "absent", "--name", "n", "--code", "c",
          "--state", "s", "--studies", "t", "--out", "w.json"], ("absent/split.parquet",)),
        (["final", *CONFIG, *PATCHES, *PART[:2], "--study", "absent.json", "--slots", "0:1",
          "--code", "c", "--state", "s", "--out", "f.json"], ("absent.json",)),
        (["elect", *CONFIG, "--study", "absent.json", "--out", "e"], ("absent.json",)),
        (["conclude", "--elected", "absent.json", "--scores", "gone.json", "--out", "f.json"],
         ("gone.json",)),
        (["report", "--experiment", "nowhere", "--out", "r.html"], ("nowhere",)),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)  # fmt: skip
def test_what_is_not_there_is_one_line(
    prepared: Path, words: list[str], expected: tuple[str, ...]
) -> None:
    if words[0] == "plan":
        words = [*words, "--conf", str(REPOSITORY / "conf")]
    one_line(swath(*words, cwd=prepared), *expected)


@pytest.mark.parametrize("several", [True, False])
def test_a_test_part_without_labels_is_refused(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    opened, version = options.open_set(prepared / MANIFEST)
    label = np.full((5, 3) if several else (5, 32, 32), 255, np.uint8)
    facts = opened.facts | {"labels": "several" if several else "pixel"}
    unlabelled = SimpleNamespace(
        label=SimpleNamespace(gather=lambda which: label),
        facts=facts, classes=opened.classes, places=opened.places,
    )  # fmt: skip
    monkeypatch.setattr(cli, "open_set", lambda path: (unlabelled, version))
    none = np.zeros_like(label)
    np.savez(tmp_path / "p.npz", patch=np.arange(5), predicted=none, confidence=none * 0.5)
    with pytest.raises(DataError) as told:
        cli.evaluate(
            config=prepared / "results/embedded/config", patches=Path(MANIFEST),
            predictions=tmp_path / "p.npz", split="blocks", fold=2, seed=0, out=tmp_path / "out",
        )  # fmt: skip
    for word in ("no patch of the test part has a label", "split blocks, fold 2", "deal labelled"):
        assert word in str(told.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "file, words",
    [
        ("results/embedded/patches/manifest.json", SPLIT),
        ("results/embedded/splits/blocks/split.parquet", TRAIN),
        ("results/embedded/splits/blocks/statistics.json", TRAIN),
        ("results/embedded/config/split.yaml", SPLIT),
        ("results/embedded/patches/places.parquet", SPLIT),
        ("results/embedded/patches/contents.npy", SPLIT),
        ("results/embedded/scenes.json", ["index", *CONFIG, "--scenes", SCENES, "--out", MANIFEST]),
        ("data/embedded/manifest.json", ["scenes", *CONFIG, *DATA, "--out", SCENES]),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)  # fmt: skip
def test_a_file_that_was_cut_off_is_one_line(folder: Path, file: str, words: list[str]) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    one_line(swath(*words, cwd=folder), path.stem)


@pytest.mark.parametrize("damage", ["changed", "cut off", "absent"])
def test_a_patch_set_that_was_tampered_with_is_refused(folder: Path, damage: str) -> None:
    store = folder / "results/embedded/patches" / shard(folder) / "set.zarr"
    chunk = next(p for p in sorted((store / "image/c").rglob("*")) if p.is_file())
    if damage == "changed":
        with chunk.open("r+b") as file:
            file.seek(1000)
            file.write(b"\xff\xff")
    elif damage == "cut off":
        os.truncate(chunk, 1000)
    else:
        chunk.unlink()
    words = replaced(SPLIT, "results/embedded/splits/blocks", "again")
    one_line(swath(*words, cwd=folder), "set.zarr", "cut it again")
    assert not (folder / "again").exists()


def test_a_scene_that_was_changed_after_it_was_fetched_is_set_aside(folder: Path) -> None:
    """It is the only one, so that nothing is left: and that is one line, where it is noticed."""
    image = next((folder / "data/embedded").rglob("*_10m.tif"))
    with image.open("r+b") as file:
        file.seek(image.stat().st_size // 2)
        file.write(b"\0\0\0\0")
    out = f"results/embedded/patches/{shard(folder)}"
    run(folder, patches(folder, out))
    (check,) = json.loads((folder / out / "manifest.json").read_text())["checks"]
    assert check["patches"] == 0 and "was changed after it was written" in check["faults"][0]
    words = ["index", *CONFIG, "--scenes", SCENES, "--out", MANIFEST]
    one_line(swath(*words, cwd=folder), image.name, "no patch is left", "was changed")


def test_debug_shows_the_traceback_and_the_line(prepared: Path) -> None:
    words = ["plan", "embeded", "--conf", REPOSITORY / "conf"]
    done = swath("--debug", *words, cwd=prepared)
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr and "ConfigError" in done.stderr
    assert "did you mean 'embedded'?" in done.stderr.splitlines()[-1]


def test_the_log_file_holds_the_error_too(prepared: Path, tmp_path: Path) -> None:
    swath(
        "--log", tmp_path / "a/log", "plan", "embeded", "--conf", REPOSITORY / "conf", cwd=prepared
    )
    assert "did you mean 'embedded'?" in (tmp_path / "a/log").read_text()


def test_a_gpu_that_is_not_there_is_one_line(folder: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    section = folder / "results/embedded/config/trainer.yaml"
    section.write_text(yaml.safe_dump(yaml.safe_load(section.read_text()) | {"device": "gpu"}))
    one_line(swath(*TRAIN, cwd=folder), "trainer.device=gpu", "no GPU", "trainer.device=auto")


# ---- what a run is, and what is left of it ----------------------------------------------------


def test_a_run_is_known_by_all_that_it_learns_from_and_by_nothing_else(tmp_path: Path) -> None:
    given = {"trainer": settings.check("trainer", {}), "model": {"name": "cnn"}}
    (tmp_path / "split.parquet").write_bytes(b"a split")

    def identity(**trainer: object) -> str:
        sections = given | {"trainer": given["trainer"] | trainer}
        return options.run_id_of(sections, "data", tmp_path, "code", 0, 0)

    changed = {key for key in given["trainer"] if identity(**{key: "other"}) != identity()}
    assert changed == given["trainer"].keys() - {"device", "checkpoint_minutes", "tta"}


def test_prune_lists_and_deletes_only_what_it_is_asked_to(tmp_path: Path) -> None:
    for run in ("finished", "other"):
        (tmp_path / "state/runs" / run).mkdir(parents=True)
        (tmp_path / "state/runs" / run / "last.ckpt").write_bytes(bytes(2_000_000))
    result = tmp_path / "results/some/runs/blocks-fold0-seed0/run.json"
    result.parent.mkdir(parents=True)
    result.write_text('{"run_id": "finished"}')

    def kept() -> list[str]:
        return sorted(path.name for path in (tmp_path / "state/runs").iterdir())

    listed = swath("prune", cwd=tmp_path).stdout
    assert re.search(r"^finished +finished +2\.0 .* some/runs/blocks-fold0-seed0$", listed, re.M)
    assert "--yes deletes 1 of 2 runs, 2.0 MB" in listed
    assert "--unnamed also takes 1 that no result names, 2.0 MB" in listed
    assert kept() == ["finished", "other"]
    assert "deleted 1 of 2 runs, 2.0 MB" in swath("prune", "--yes", cwd=tmp_path).stdout
    assert kept() == ["other"]
    assert (
        "deleted 1 of 1 runs, 2.0 MB" in swath("prune", "--unnamed", "--yes", cwd=tmp_path).stdout
    )
    assert kept() == []


# ---- a full disk ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many KiB; needs root."""
    disk = tmp_path / "disk"

    def mount(kib: int) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a small disk")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)


FULL = "the disk is full"


def left(disk: Path) -> list[str]:
    return [str(p.relative_to(disk)) for p in sorted(disk.rglob("*")) if p.is_file()]


def test_fetch_on_a_full_disk(prepared: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(256)
    done = swath("fetch", *CONFIG, "--out", disk / "data", "--state", disk / "state", cwd=prepared)
    one_line(done, FULL)
    assert not (disk / "data").exists()


def test_patches_on_a_full_disk(prepared: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(256)
    one_line(swath(*patches(prepared, disk / "shard"), cwd=prepared), FULL)
    assert left(disk) == []


@pytest.mark.parametrize("kib", [0, 4])
def test_split_on_a_full_disk(prepared: Path, small_disk: Callable[[int], Path], kib: int) -> None:
    disk = small_disk(4 + kib)
    (disk / "filled").write_bytes(b"0" * 4096)
    done = swath(*replaced(SPLIT, "results/embedded/splits/blocks", disk), cwd=prepared)
    one_line(done, FULL)
    assert "audit.json" not in left(disk)
    assert not [name for name in left(disk) if ".part" in name]


@pytest.mark.slow
@pytest.mark.parametrize("where, kib", [("state/runs", 0), ("state/runs", 8), (RUN, 0)])
def test_train_on_a_full_disk(
    folder: Path, small_disk: Callable[[int], Path], where: str, kib: int
) -> None:
    disk = small_disk(4 + kib)
    (disk / "filled").write_bytes(b"0" * 4096)
    one_line(swath(*replaced(TRAIN, where, disk), cwd=folder), FULL)
    assert not [name for name in left(disk) if ".part" in name]


@pytest.mark.slow
def test_map_on_a_full_disk(folder: Path, small_disk: Callable[[int], Path]) -> None:
    assert swath(*TRAIN, cwd=folder).returncode == 0
    disk = small_disk(32)
    model = f"{RUN}/best.ckpt"
    words = ["map", *CONFIG, *DATA, "--scenes", SCENES, "--shard", shard(folder), "--model", model,
             "--code", "c", "--state", "state/maps", "--out", disk / "shard.json"]  # fmt: skip
    one_line(swath(*words, cwd=folder), FULL)
    assert left(disk) == []
    predictions = ["infer", *PATCHES, *PART, "--model", model, "--out", disk / "p.npz"]
    (disk / "filled").write_bytes(b"0" * 28 * 1024)
    one_line(swath(*predictions, cwd=folder), FULL)
    assert left(disk) == ["filled"]


# ---- calibrated at the end of the training ----------------------------------------------------


@pytest.mark.slow
def test_a_training_that_was_killed_before_it_was_calibrated_is_calibrated(folder: Path) -> None:
    """The trained network lies in the state; what comes of it is the same, byte by byte."""
    import torch

    run(folder, TRAIN)
    out = folder / RUN
    before, told = (out / "best.ckpt").read_bytes(), json.loads((out / "run.json").read_text())
    shutil.rmtree(out)
    run(folder, TRAIN)
    assert (out / "best.ckpt").read_bytes() == before
    again = json.loads((out / "run.json").read_text())
    assert again["attempts"] == told["attempts"] == 1
    assert again["calibration"] == told["calibration"]
    (state,) = (folder / "state/runs").glob("*/best.ckpt")
    trained, given = (
        json.loads(torch.load(path, weights_only=True)["facts"])
        for path in (state, out / "best.ckpt")
    )
    learnt = {"temperature": told["temperature"], "tta": False}
    assert given == trained | learnt and "temperature" not in trained
    assert told["calibration"]["nll_after"] <= told["calibration"]["nll_before"]
    # Asked for afterwards, test-time augmentation trains nothing anew.
    section = folder / "results/embedded/config/trainer.yaml"
    section.write_text(yaml.safe_dump(yaml.safe_load(section.read_text()) | {"tta": True}))
    run(folder, TRAIN)
    averaged = json.loads((out / "run.json").read_text())
    assert (averaged["tta"], averaged["attempts"]) == (True, 1)
    assert averaged["run_id"] == told["run_id"]
    assert averaged["calibration"]["nll_after"] != told["calibration"]["nll_after"]


# ---- two files are enough ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_and_a_scene_are_all_that_a_map_needs(folder: Path, tmp_path: Path) -> None:
    """The map is that of the workflow, colours and names of the classes with it."""
    import numpy as np
    import rasterio

    run(folder, TRAIN)
    model = folder / RUN / "best.ckpt"
    which = ["--scenes", SCENES, "--shard", shard(folder), "--model", model]
    table = f"maps/shard-{shard(folder)}.json"
    place = ["--code", "c", "--state", "state/maps", "--out", table]
    run(folder, ["map", *CONFIG, *DATA, *which, *place])
    run(folder, ["mosaic", "--scenes", SCENES, "--parts", "maps", "--out", "maps/maps.json"])
    (listed,) = json.loads((folder / "maps/maps.json").read_text())["scenes"]
    scene = next(path for path in (folder / "data/embedded").iterdir() if path.is_dir())
    done = swath("predict", model, scene, "--compress", "deflate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"maps/{scene.name}_classes.tif" in done.stdout.splitlines()
    with (
        rasterio.open(folder / listed["classes"]) as one,
        rasterio.open(tmp_path / "maps" / f"{scene.name}_classes.tif") as other,
    ):
        np.testing.assert_array_equal(one.read(), other.read())
        assert one.transform == other.transform and one.crs == other.crs
        assert (one.compression.value, other.compression.value) == ("ZSTD", "DEFLATE")
        assert one.colormap(1) == other.colormap(1) and one.tags(1) == other.tags(1)
        classes = other.read(1)
    with rasterio.open(folder / "maps/EPSG32632_classes.vrt") as joined:
        np.testing.assert_array_equal(joined.read(1), classes)

    twice = tmp_path / "coarse" / "coarse.tif"
    twice.parent.mkdir()
    with rasterio.open(next(scene.glob("*_10m.tif"))) as file:
        profile = file.profile | {"driver": "GTiff", "count": 10}
        profile["transform"] = file.transform @ rasterio.Affine.scale(2)
        names = [band["name"] for band in yaml.safe_load(
            (folder / "results/embedded/config/data.yaml").read_text())["bands"]]  # fmt: skip
        with rasterio.open(twice, "w", **profile) as written:
            written.descriptions = names
    one_line(swath("predict", model, twice, cwd=tmp_path), "GSD of 20 m", "the model one of 10 m")
    with rasterio.open(twice, "r+") as written:
        written.descriptions = [*names[:-1], "B99"]
    one_line(swath("predict", model, twice, cwd=tmp_path), "has no band B12", "B99")
