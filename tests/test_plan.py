"""Plans: experiments composed and checked, one line for each mistake, and code fingerprints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from swath import plan, settings
from swath.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
LOCK = REPOSITORY / "constraints.txt"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of the configuration tree, to be spoilt."""
    return Path(shutil.copytree(CONF, tmp_path / "conf"))


def complaint(conf: Path | plan.Tree, name: str, overrides: str | list[str] = "") -> str:
    with pytest.raises(ConfigError) as error:
        plan.compose(conf, name, overrides)
    text = str(error.value)
    assert "\n" not in text and text.strip()
    return text


# ---- every experiment that there is -----------------------------------------------------------


@pytest.mark.parametrize("name", plan.tree(CONF).choices("experiment"))
def test_every_experiment_is_complete(name: str) -> None:
    experiment = plan.compose(CONF, name)
    assert list(experiment.sections) == list(settings.SECTIONS)
    for section, values in experiment.sections.items():
        assert settings.check(section, values) == values, "checking again must add nothing"
        assert yaml.safe_load(yaml.safe_dump(values)) == values
    assert experiment.runs and experiment.splits
    assert len({run.name for run in experiment.runs}) == len(experiment.runs)


@pytest.mark.parametrize("name", plan.tree(CONF).choices("experiment"))
def test_every_experiment_says_what_it_is_for(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")


@pytest.mark.parametrize(
    "group, choice",
    [
        (f.parent.name, f.stem)
        for f in sorted(CONF.glob("*/*.yaml"))
        if f.parent.name != "experiment"
    ],
)
def test_every_choice_of_every_group_composes(group: str, choice: str) -> None:
    start = "eurosat" if (group, choice) == ("data", "eurosat") else "embedded"
    # Without the study, whose space names settings of the default model.
    given = [f"{group}={choice}"] if group == "sweep" else ["sweep=none", f"{group}={choice}"]
    assert plan.compose(CONF, start, given).sections[group]


def test_a_run_is_a_split_a_fold_and_a_seed() -> None:
    experiment = plan.compose(CONF, "eurosat", "runs.seeds=[0,3]")
    assert [run.name for run in experiment.runs] == [
        "stratified-fold0-seed0", "stratified-fold0-seed3",
        "longitude-fold0-seed0", "longitude-fold0-seed3",
    ]  # fmt: skip


def test_the_embedded_experiment_has_scenes_and_a_study() -> None:
    experiment = plan.compose(CONF, "embedded")
    assert experiment.has_scenes and experiment.has_study
    assert experiment.sections["data"]["synthetic"]
    assert not plan.compose(CONF, "eurosat").has_scenes
    assert not plan.compose(CONF, "embedded", "sweep=none").has_study


def test_overrides_reach_their_sections() -> None:
    experiment = plan.compose(CONF, "embedded", "model=cnn task=classification optim.lr=1e-3")
    assert experiment.sections["model"]["name"] == "cnn"
    assert experiment.sections["optim"]["lr"] == 0.001
    lists = plan.compose(CONF, "embedded", ["split=[random,blocks]", "trainer.augment.turn=false"])
    assert lists.splits == ["random", "blocks"]
    assert lists.sections["trainer"]["augment"]["turn"] is False


def test_a_value_of_the_lists_of_hydra_may_hold_spaces_where_it_is_quoted() -> None:
    given = "'sweep.space={optim.lr: {float: [0.1, 1.0]}}'"
    space = plan.compose(CONF, "embedded", given).sections["sweep"]["space"]
    assert space["optim.lr"]["high"] == 1.0


# ---- a configuration of one's own beside it ---------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of another repository, which adds an experiment and a model."""
    folder = tmp_path / "own"
    for name, text in {
        "experiment/mine": "# @package _global_\ndefaults:\n  - embedded\n"
        "  - override /model: thin\n  - override /sweep: none\n",
        "model/thin": "name: unet\nwidth: 4\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_ones_own_files_are_read_beside_those_of_swath(own: Path) -> None:
    both = plan.tree(CONF, own)
    mine = plan.compose(both, "mine").sections
    assert mine["model"] == {"name": "unet", "width": 4, "depth": 3, "dropout": 0.0}
    assert mine["data"] == plan.compose(CONF, "embedded").sections["data"]
    given = plan.compose(both, "eurosat", "model=thin task=segmentation data=embedded")
    assert given.sections["model"]["width"] == 4
    assert plan.compose(both, "embedded") == plan.compose(CONF, "embedded")


def test_a_mistake_in_ones_own_files_names_them(own: Path) -> None:
    (own / "model/thin.yaml").write_text("name: unet\nwith: 4\n")
    line = complaint(plan.tree(CONF, own), "mine")
    assert line == f"{own}/model/thin.yaml: model.with: unknown key; did you mean 'model.width'?"
    line = complaint(plan.tree(CONF, own), "mines")
    assert line.startswith(
        f"{CONF}/experiment and {own}/experiment: no experiment is named 'mines'"
    )
    assert line.endswith("did you mean 'mine'?")


def test_a_file_of_a_name_that_swath_has_would_not_be_read(own: Path) -> None:
    (own / "model/unet.yaml").write_text("name: unet\nwidth: 99\n")
    with pytest.raises(ConfigError) as error:
        plan.tree(CONF, own)
    assert str(error.value) == (
        f"{own}/model/unet.yaml: swath has a file of this name, which would be read instead; "
        "give it another name, and name swath's among its defaults"
    )


# ---- one line for each mistake ----------------------------------------------------------------

SPACE = "sweep.space={{{0}: {{float: [{1}, {2}]}}}}"

MISTAKES: list[tuple[str, str | list[str], tuple[str, ...]]] = [
    ("embeded", "", ("experiment", "'embeded'", "'embedded'")),
    ("../conf/embedded", "", ("experiment",)),
    ("", "", ("experiment",)),
    ("embedded", "modell=unet", ('set="modell=unet"', "group", "'model'")),
    ("embedded", "model=unett", ('set="model=unett"', "'unett'", "'unet'")),
    ("embedded", "split=[blocks,randm]", ("'randm'", "'random'")),
    ("embedded", "optim.lrr=1", ('set="optim.lrr=1"', "optim.lrr", "unknown key", "'optim.lr'")),
    ("embedded", "model.widht=8", ('set="model.widht=8"', "model.widht", "'model.width'")),
    ("embedded", "split.blocks.sizem=8", ('set="split.blocks.sizem=8"', "'split.blocks.size_m'")),
    ("embedded", "data.drawing.scene=8", ('set="data.drawing.scene=8"', "data.drawing.scene")),
    ("embedded", "data.layout.imagess=[]", ("data.layout.imagess", "'data.layout.images'")),
    ("embedded", "optim.lr=fast", ('set="optim.lr=fast"', "optim.lr", "'fast'", "number")),
    ("embedded", "trainer.epochs=1.5", ('set="trainer.epochs=1.5"', "1.5", "integer")),
    ("embedded", "trainer.epochs=true", ("trainer.epochs", "True", "integer")),
    ("embedded", "optim.lr=-1", ('set="optim.lr=-1"', "-1", "greater than 0")),
    ("embedded", "optim.lr=inf", ('set="optim.lr=inf"', "finite")),
    ("embedded", "split.blocks.val=1.5", ('set="split.blocks.val=1.5"', "less than or equal to 1")),
    ("embedded", "trainer.device=tpu", ('set="trainer.device=tpu"', "'auto'", "'gpu'")),
    ("embedded", "runs.seeds=[-1]", ('set="runs.seeds=[-1]"', "runs.seeds", "greater")),
    ("embedded", "trainer.augment.flop=true",
     ('set="trainer.augment.flop=true"', "'trainer.augment.flip'")),
    ("embedded", "optm.lr=1", ('set="optm.lr=1"', "section", "'optim'")),
    ("embedded", "split.allow_leak=true", ('set="split.allow_leak=true"', "'split.allow_leaks'")),
    ("embedded", "hydra.run.dir=/tmp/x", ('set="hydra.run.dir=/tmp/x"',)),
    ("embedded", "optim.lr.low=1", ('set="optim.lr.low=1"', "optim.lr")),
    ("embedded", "optim.lr", ('set="optim.lr"', "key=value")),
    ("embedded", "+optim.lr=1", ("key=value",)),
    ("embedded", "~optim.lr", ("key=value",)),
    ("embedded", "experiment=eurosat", ("--config experiment=",)),
    ("embedded", "'optim.lr=1", ("set=", "quot")),
    ("embedded", "optim.lr=[", ("optim.lr=[",)),
    ("embedded", "optim..lr=1", ("optim..lr=1",)),
    ("embedded", "optim.lr=1,2", ("optim.lr=1,2",)),
    ("embedded", "optim.lr=${nothing.here}", ("nothing.here",)),
    ("embedded", "tracking.project=${oc.env:HOME}", ("oc.env",)),
    ("embedded", "tracking.project=${oc.env:NO_SUCH_VARIABLE}", ("oc.env",)),
    ("embedded", [SPACE.format("optim.lrr", 0.1, 1)],
     ("sweep.space", "optim.lrr", "unknown key", "'optim.lr'")),
    ("embedded", [SPACE.format("optim.lr", 1, 0.1)], ("sweep.space.optim.lr", "no range")),
    ("embedded", [SPACE.format("optim.lr", 1, 1)], ("sweep.space.optim.lr", "no range")),
    ("embedded", [SPACE.format("optim.lr", 0, 1)], ("sweep.space.optim.lr", "no range")),  # log
    ("embedded", ["sweep.space={optim.lr: {float: [1]}}"],
     ("sweep.space.optim.lr", "should be a range [low, high]")),
    ("embedded", ["sweep.space={optim.lr: {int: [1, 2]}}"],
     ("sweep.space.optim.lr", "should be of one type")),
    ("embedded", ["sweep.space={optim.schedule: {choice: []}}"],
     ("sweep.space.optim.schedule", "no choices")),
    ("embedded", ["sweep.space={optim.schedule: {choice: [cosine, linear]}}"],
     ("sweep.space.optim.schedule", "'linear'")),
    ("embedded", ["sweep.space={optim.schedule: {choice: [cosine, cosine]}}"],
     ("sweep.space.optim.schedule", "twice")),
    ("embedded", [SPACE.format("optim.warmup", -1, 1)], ("optim.warmup", "greater than")),
    ("embedded", [SPACE.format("model.depth", 2, 3)], ("sweep.space.model.depth", "int")),
    ("embedded", ["sweep.space={model.depth: {int: [1, 2.5]}}"],
     ("sweep.space.model.depth", "whole numbers")),
    ("embedded", ["sweep.space={model.depth: {int: [1, 3], step: 5}}"],
     ("sweep.space.model.depth", "a step of 5 leaves the range")),
    ("embedded", ["sweep.space={optim.lr: {step: 0.001}}"],
     ("sweep.space.optim.lr", "log and step")),
    ("embedded", ["sweep.space={optim.lr: {floot: [1, 2]}}"],
     ("sweep.space.optim.lr.floot", "unknown key")),
    ("embedded", ["sweep.space={trainer.epochs: {int: [1, 3]}}"],
     ("sweep.space.trainer.epochs", "is the budget of the rungs (sweep.epochs)")),
    ("embedded", ["sweep.space={patches.size_px: {choice: [32, 64]}}"],
     ("sweep.space.patches.size_px", "is no key of a run", "make an experiment for each")),
    ("embedded", ["sweep.space={optim.warmup: {float: [0, 1], when: {optim.rate: 1}}}"],
     ("sweep.space.optim.warmup.when", "no dimension optim.rate")),
    ("embedded", ["sweep.space={optim.warmup: {float: [0, 1], when: {model.width: 9}}}"],
     ("sweep.space.optim.warmup.when", "model.width never is 9")),
    # The model was changed and the study was not: the file that holds the key, and the way out.
    ("embedded", "model=spectral_mlp",
     ("conf/sweep/small.yaml", "sweep.space.model.width", "unknown key", "or set sweep=none")),
    ("embedded", "sweep.eta=8", ("sweep.trials", "leave none for rung 2", "sweep.rungs=1")),
    ("embedded", "sweep.sampler=tpe sweep.generation=2 sweep.rungs=3",
     ("sweep.generation", "2 trials of which one in 2 goes on", "give at least 4")),
    ("embedded", "sweep.trials=0", ("sweep.trials", "is 0")),
    ("embedded", "optim.schedule=restarts",
     ("optim.cycles", "is 4, sweep.rungs is 2", "give optim.cycles=2")),
    ("embedded", "sweep=none sweep.trials=3", ("sweep.space", "names nothing to vary")),
    ("embedded", "sweep.objective=val/acc", ("sweep.objective", "no run writes", "'val/accuracy'")),
    ("embedded", "sweep.objective=[val/loss,val/loss]", ("sweep.objective", "twice")),
    ("embedded", "sweep.direction=[maximize,minimize]", ("sweep.direction", "has 2 for 1")),
    ("embedded", "sweep.sampler=grid", ("optim.lr", "a range without a step", "choice")),
    ("embedded", "sweep.mode=async sweep.sampler=sobol", ("sweep.sampler", "sobol has a plan")),
    ("embedded", "sweep.mode=async sweep.objective=[val/loss,parameters]",
     ("sweep.pruner", "there are several", "none")),
    ("embedded", "sweep.final.best=5", ("sweep.final.best", "there are 4 trials")),
    ("embedded", "sweep.final.seeds=[1,1]", ("sweep.final.seeds", "twice")),
    ("embedded", "data.rgb=[B99,B03,B02]", ("data.rgb", "B99")),
    ("embedded", "data.bands=[]", ("data.bands",)),
    ("eurosat", "data.counts.Foo=3", ("data.counts", "Foo")),
]  # fmt: skip


@pytest.mark.parametrize("name, overrides, words", MISTAKES, ids=lambda x: str(x)[:50])
def test_a_mistake_is_one_line(
    name: str, overrides: str | list[str], words: tuple[str, ...]
) -> None:
    text = complaint(CONF, name, overrides)
    for word in words:
        assert word in text, text


def test_what_an_error_recommends_can_be_given() -> None:
    """`swath.learn.train` says so where a loss is not finite."""
    given = plan.compose(CONF, "embedded", "trainer.precision=fp32")
    assert given.sections["trainer"]["precision"] == "fp32"


@pytest.mark.parametrize(
    "file, text, words",
    [
        ("optim/adamw.yaml", "name: adamw\nlearning_rate: 1\n",
         ("adamw.yaml", "optim.learning_rate")),
        ("optim/adamw.yaml", "name: adamw\nmomentum: 0.9\n",
         ("adamw.yaml", "optim.momentum", "unknown key")),
        ("optim/adamw.yaml", "name: adamw\nbeta1: big\n",
         ("adamw.yaml", "optim.beta1", "'big'")),
        ("model/unet.yaml", "name: unett\n", ("unet.yaml", "model.name", "'unet'")),
        ("model/unet.yaml", "width: 8\n", ("model.name",)),
        ("model/unet.yaml", "name: unet\nwith: 8\n", ("unet.yaml", "model.with", "'model.width'")),
        ("model/unet.yaml", "- unet\n", ("model",)),
        ("model/unet.yaml", "unet\n", ("model",)),
        ("model/unet.yaml", "name: [\n", ("unet.yaml",)),
        ("split/blocks.yaml", "# @package split.blocks\nscheme: few_shot\n",
         ("split.blocks.shots", "no value")),
        ("split/blocks.yaml", "# @package split.blocks\nscheme: block\nsize_m: 1.0\n",
         ("blocks.yaml", "split.blocks.scheme", "'blocks'")),
        ("split/blocks.yaml", "# @package split.blocks\nscheme: blocks\nsize_m: 1.0\ntets: 0.1\n",
         ("blocks.yaml", "split.blocks.tets", "'split.blocks.test'")),
        ("experiment/embedded.yaml", "# @package _global_\ntrainr:\n  epochs: 1\n",
         ("embedded.yaml", "trainr", "'trainer'")),
        ("experiment/embedded.yaml", "# @package _global_\ntrainer:\n  epoch: 1\n",
         ("embedded.yaml", "trainer.epoch", "'trainer.epochs'")),
        ("experiment/embedded.yaml", "# @package _global_\ntrainer: 3\n", ("trainer",)),
        ("experiment/embedded.yaml", "# @package _global_\nsplit: 3\n", ("split",)),
        ("experiment/embedded.yaml", "# @package _global_\nmodel: null\n", ("model",)),
        ("experiment/embedded.yaml",
         "# @package _global_\ndefaults:\n  - override /model: resnext\n", ("resnext",)),
        ("experiment/embedded.yaml",
         "# @package _global_\ndefaults:\n  - override /modl: unet\n", ("modl",)),
        ("config.yaml", None, ("config.yaml", "scores.blockm", "'scores.block_m'")),
        ("tracking/offline.yaml", "mode: offline\nproject: ${oc.env:USER}\n", ("oc.env",)),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_names_the_file(
    conf: Path, file: str, text: str | None, words: tuple[str, ...]
) -> None:
    path = conf / file
    path.write_text(text or path.read_text().replace("block_m", "blockm"))
    found = complaint(conf, "embedded")
    for word in words:
        assert word in found, found


# ---- section files ----------------------------------------------------------------------------


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    first = plan.compose(CONF, "embedded")
    assert plan.write_sections(first, folder) == list(settings.SECTIONS)
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert plan.write_sections(plan.compose(CONF, "embedded"), folder) == []
    assert plan.write_sections(plan.compose(CONF, "embedded", "optim.lr=0.5"), folder) == ["optim"]
    changed = {p.name for p in folder.iterdir() if p.stat().st_mtime_ns != stamps[p.name]}
    assert changed == {"optim.yaml"}
    assert sorted(stamps) == sorted(f"{section}.yaml" for section in settings.SECTIONS)


def test_a_comment_in_a_file_changes_no_section(conf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    plan.write_sections(plan.compose(conf, "embedded"), folder)
    for path in conf.rglob("*.yaml"):
        path.write_text(path.read_text() + "# a remark\n")
    assert plan.write_sections(plan.compose(conf, "embedded"), folder) == []


def test_a_section_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    experiment = plan.compose(CONF, "eurosat")
    plan.write_sections(experiment, tmp_path)
    for section, values in experiment.sections.items():
        assert plan.read_section(tmp_path / f"{section}.yaml") == values
    assert set(plan.read_sections("train", tmp_path)) == {"model", "task", "optim", "trainer"}


@pytest.mark.parametrize("text", [None, "lr: [", "lr: fast\n", "", "- 1\n", "rate: 1\n"])
def test_a_section_file_that_is_absent_or_spoilt_is_one_line(
    tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "optim.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        plan.read_section(path)
    assert "\n" not in str(error.value) and "optim" in str(error.value)


def test_composing_imports_neither_torch_nor_lightning() -> None:
    script = (
        "import sys; from pathlib import Path; from swath import plan\n"
        f"e = plan.compose(Path({str(CONF)!r}), 'embedded')\n"
        f"[plan.stage_code(s, e, Path({str(LOCK)!r})) for s in plan.STAGES]\n"
        "heavy = 'torch pytorch_lightning sklearn xarray matplotlib wandb snakemake'.split()\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_two_descriptions_of_one_dataset_are_refused() -> None:
    one = plan.compose(CONF, "embedded")
    same = plan.compose(CONF, "eurosat_small"), plan.compose(CONF, "eurosat")
    assert set(plan.datasets([one, *same])) == {"embedded", "eurosat"}
    other = plan.compose(CONF, "embedded", "data.drawing.scenes=7")
    with pytest.raises(ConfigError) as error:
        plan.datasets([one, other])
    assert "dataset embedded" in str(error.value) and "\n" not in str(error.value)


# ---- trials -----------------------------------------------------------------------------------


def test_the_values_of_a_trial_take_their_places() -> None:
    sections = plan.compose(CONF, "embedded").sections
    changed = plan.with_params(sections, {"optim.lr": 0.5, "model.width": 4})
    assert changed["optim"]["lr"] == 0.5 and changed["model"]["width"] == 4
    assert sections["optim"]["lr"] != 0.5
    for key in ("optim.lrr", "optim", "nothing.lr", "optim."):
        with pytest.raises(ConfigError, match="unknown key"):
            plan.with_params(sections, {key: 1})


# ---- code fingerprints ------------------------------------------------------------------------

Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Edits a copy of the package, which the fingerprints are then taken of."""
    package = tmp_path / "swath"
    shutil.copytree(plan.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(plan, "PACKAGE", package)
    plan._read_module.cache_clear()

    def change(file: str, old: str, new: str) -> None:
        path = package / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        plan._read_module.cache_clear()

    yield change
    plan._read_module.cache_clear()


def test_a_comment_or_docstring_changes_no_fingerprint(edit: Edit) -> None:
    before = plan.fingerprint("swath.learn.train", lock=LOCK)
    edit(
        "learn/train.py", '"""One attempt of one run', '# A remark.\n"""Another word on one attempt'
    )
    edit("data/patchset.py", "def open_patches(", "# A remark.\n\n\ndef open_patches(")
    edit("learn/train.py", '"""What a run has reached."""', '"""Reached."""')
    assert plan.fingerprint("swath.learn.train", lock=LOCK) == before


def test_a_statement_two_imports_away_changes_the_fingerprint_of_those_who_reach_it(
    edit: Edit,
) -> None:
    users = ("swath.data.patches", "swath.data.shards", "swath.learn.train")
    others = ("swath.study.rungs", "swath.study.space", "swath.report.tracking")
    before = {module: plan.fingerprint(module, lock=LOCK) for module in (*users, *others)}
    edit("data/grid.py", "METRES_A_DEGREE = 111_320.0", "METRES_A_DEGREE = 111_321.0")
    after = {module: plan.fingerprint(module, lock=LOCK) for module in before}
    assert {m for m in before if before[m] != after[m]} == set(users)


def test_an_edit_of_a_model_retrains_its_users_alone(edit: Edit) -> None:
    unet, cnn = (plan.compose(CONF, "embedded", f"model={name}") for name in ("unet", "cnn"))
    stages = ("train", "trials", "infer", "map", "patches")
    before = {(e.sections["model"]["name"], s): plan.stage_code(s, e, LOCK)
              for e in (unet, cnn) for s in stages}  # fmt: skip
    edit("models/unet.py", "max_pool2d(x, 2)", "max_pool2d(x, 4)")
    changed = {
        (e.sections["model"]["name"], s)
        for e in (unet, cnn)
        for s in stages
        if plan.stage_code(s, e, LOCK) != before[e.sections["model"]["name"], s]
    }
    assert changed == {("unet", s) for s in stages if s != "patches"}


def test_the_pins_of_what_is_imported_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"

    def with_pins(text: str) -> str:
        lock.write_text(text)
        return plan.fingerprint("swath.learn.train", lock=lock)

    start = (
        "# pins\nnumpy==2.0\npytorch-lightning==2.6\ntorch==2.13\nmkdocs==1.0\nscikit_learn==1.9\n"
    )
    before = with_pins(start)
    assert with_pins(start.replace("mkdocs==1.0", "mkdocs==1.1")) == before
    assert with_pins(start + "# a remark on torch==3\n") == before
    assert with_pins(start.replace("scikit_learn==1.9", "scikit_learn==2.0")) == before
    for old, new in (("torch==2.13", "torch==2.14"), ("numpy==2.0", "numpy==2.1"),
                     ("pytorch-lightning==2.6", "pytorch_lightning==2.7")):  # fmt: skip
        assert with_pins(start.replace(old, new)) != before, new


def test_pins_are_found_under_the_names_of_their_distributions(tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"
    found = []
    for version in ("1.9", "2.0"):
        lock.write_text(f"scikit-learn=={version}\n")
        found.append(plan.fingerprint("swath.learn.baseline", lock=lock))
    assert found[0] != found[1]


@pytest.mark.parametrize("stage", plan.STAGES)
def test_every_stage_has_a_fingerprint_that_stays(stage: str) -> None:
    experiment = plan.compose(CONF, "embedded")
    first = plan.stage_code(stage, experiment, LOCK)
    plan._read_module.cache_clear()
    assert plan.stage_code(stage, experiment, LOCK) == first
    assert len(first) == 16
