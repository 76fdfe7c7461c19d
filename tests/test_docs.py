"""The documentation says what is so: its examples compose, its links lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml

from swath import plan, registry, settings
from swath.data.card import Card

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


def block_after(heading: str) -> str:
    """The first YAML block below a heading of docs/extending.md."""
    section = EXTENDING.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```yaml\n(.*?)```", section, re.S)
    assert found, heading
    return found[1]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "conf", tmp_path / "conf"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_experiment_of_the_example_composes(conf: Path) -> None:
    (conf / "experiment/embedded_wide.yaml").write_text(block_after("An experiment"))
    sections = plan.compose(conf, "embedded_wide").sections
    assert sections["optim"]["name"] == "sgd"
    assert sections["model"] == {"name": "unet", "width": 32, "depth": 3, "dropout": 0.0}
    assert sections["trainer"]["epochs"] == 60


def test_the_dataset_of_the_example_is_a_card(conf: Path) -> None:
    (conf / "data/harbour.yaml").write_text(block_after("A dataset"))
    card = Card.model_validate(plan.compose(conf, "embedded", "data=harbour").sections["data"])
    assert (card.name, list(card.classes)) == ("harbour", ["water", "land"])


def test_scenes_of_ones_own_take_ten_lines_or_so() -> None:
    assert len(block_after("A dataset").splitlines()) <= 10


def test_the_model_of_the_example_is_registered_with_its_settings(tmp_path: Path) -> None:
    code = EXTENDING.split("\n## A model\n")[1].split("```python\n")[1].split("```")[0]
    lines = "from swath.registry import Count, registered\nfrom torch import nn\n\n\n"
    names: dict[str, object] = {}
    exec(lines + code, names)
    import torch

    assert names["bottleneck"](10, 9, hidden=8)(torch.zeros(2, 10, 4, 4)).shape == (2, 9, 4, 4)  # type: ignore[operator]


def test_the_scheme_of_the_example_deals_the_south_to_the_test() -> None:
    import numpy as np
    import pandas as pd

    from swath.split import schemes
    from swath.split.ground import Ground

    code = EXTENDING.split("\n## A split scheme\n")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, object] = vars(schemes).copy()
    exec(code, names)
    north = 5_000_000.0 + 640.0 * np.arange(10)
    places = pd.DataFrame(
        {
            "scene": 0, "row": 0, "col": 0, "west": 500_000.0, "south": north - 640.0,
            "east": 500_640.0, "north": north, "epsg": 32632, "lon": 9.0,
            "lat": 45.0 + 0.005 * np.arange(10), "time": pd.NaT, "name": list("abcdefghij"),
        }
    )  # fmt: skip
    ground = Ground(places, np.ones((10, 1), np.int64), ["land"])
    parts = names["latitude"](ground, val=0.2, test=0.3, buffer_m=640.0)  # type: ignore[operator]
    assert parts.tolist() == [["test"] * 3 + ["unused", "val", "unused"] + ["train"] * 4]


def test_the_optimizer_of_the_example_takes_a_step() -> None:
    import torch

    from swath.learn import optim

    heading = "\n## A task, a loss, an optimizer\n"
    code = EXTENDING.split(heading)[1].split("```python\n")[1].split("```")[0]
    names: dict[str, object] = vars(optim) | {"NonNegative": registry.NonNegative}
    exec(code, names)
    weight = torch.ones(1, requires_grad=True)
    made = names["adagrad"]([{"params": [weight]}], 0.5)  # type: ignore[operator]
    weight.grad = torch.full((1,), 4.0)
    made.step()
    assert weight.item() == pytest.approx(0.5)


def test_the_page_of_tasks_lists_every_task_optimizer_and_key_of_theirs() -> None:
    page = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    shared = settings.Optim.model_fields
    for kind in ("task", "optim"):
        for entry in registry.entries(kind).values():
            row = re.search(rf"^\| `{entry.name}` \|(.*)$", page, re.M)
            assert row, entry.name
            own = entry.settings if kind == "optim" else {}
            assert set(re.findall(r"`(\w+)`", row[1])) >= set(own)
            assert {key for key in entry.settings if not re.search(rf"\b{key}`", page)} == set()
    assert {key for key in shared if f"`optim.{key}`" not in page} == set()
    for entry in registry.entries("task").values():
        losses = get_args(entry.settings["loss"][0])
        measures = get_args(entry.settings["monitor"][0])
        row = re.search(rf"^\| `{entry.name}` \|(.*)$", page, re.M)
        assert row and {name for name in (*losses, *measures) if name not in row[1]} == set()


def test_the_study_of_the_example_composes(conf: Path) -> None:
    (conf / "sweep/example.yaml").write_text(block_after("A study"))
    sweep = plan.compose(conf, "embedded", "sweep=example").sections["sweep"]
    assert (sweep["trials"], sweep["rungs"], list(sweep["space"])) == (
        8,
        3,
        ["optim.lr", "model.width"],
    )


def test_the_architecture_names_every_module() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = page.split("## The house")[1].split("## What reruns")[0]
    modules = {path.stem for path in (ROOT / "src/swath").rglob("*.py") if path.stem != "__init__"}
    assert {name for name in modules if not re.search(rf"\b{name}\b", drawn)} == set()


def test_the_commands_of_the_readme_have_targets() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    commands = re.findall(r"^make ([a-z]+)\b|`make ([a-z]+)`", readme, re.M)
    named = {first or second for first, second in commands}
    assert {"run", "test", "bench", "repro"} <= named <= set(targets)


def test_every_section_and_registered_kind_has_a_home() -> None:
    assert set(settings.FIXED) | {"split", "task", "model", "optim", "lesson"} == set(
        settings.SECTIONS
    )
    for kind in registry.PLACES:
        assert registry.entries(kind), kind
    assert yaml.safe_load((ROOT / "conf/config.yaml").read_text())["defaults"]
