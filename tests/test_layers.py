"""The layers: arrows point down only. Read from the syntax, so that nothing is imported."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from swath import plan

PACKAGE = plan.PACKAGE
GROUND = {"errors", "files", "launch", "registry", "store"}

# layer -> the layers below it that it may use. A layer is a module of the package's own folder, or
# one of its folders.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "files": {"errors"},
    "store": {"files", "errors"},
    "launch": {"errors"},
    "devices": {"errors"},
    "executors": {"errors"},
    "clouds": {"errors"},
    "slurm": {"errors"},
    "registry": {"errors"},
    "settings": {"registry", "errors", "data"},
    # Of a study its shape and its space, which are known before it runs.
    "plan": {"settings", "registry", "data", "files", "errors", "study"},
    "data": GROUND,
    "split": GROUND | {"data"},
    "learn": GROUND | {"data"},
    "study": GROUND | {"data"},
    "report": GROUND | {"data"},
    "models": {"registry", "errors"},
    "ladder": {"learn", "models", "report", "study", "split"} | GROUND | {"data"},
    "options": {"plan", "data", "learn"} | GROUND,
    "study_cli": {"options", "plan", "data", "learn", "study", "report"} | GROUND,
    "ladder_cli": {"options", "plan", "data", "learn", "ladder"} | GROUND,
    "cli": {
        "devices",
        "options",
        "study_cli",
        "ladder_cli",
        "plan",
        "data",
        "split",
        "learn",
        "study",
        "report",
    }
    | GROUND,
}
# What the configuration knows of the data is the card alone.
CARD_ONLY = ("settings", "plan")
# One of the rooms side by side that uses another, and why.
EXCEPTIONS = {
    ("report.page", "study.results"): "a page shows what study.results reads from the disk",
    ("report.figures", "study.results"): "figures are drawn from the same tidy tables",
    ("report.tables", "study.results"): "and so are the tables beside them",
    ("report.page", "study.importance"): "what a study's parameters explain is computed once",
    ("report.figures", "study.importance"): "and drawn",
}


class Arrow(NamedTuple):
    """An import of a module of ours or of another package."""

    user: str
    used: str
    inside: bool
    """Within a function, or for types alone."""


def modules() -> list[str]:
    """Names below `swath`: `plan`, `data.card`, ..."""
    found = (p.relative_to(PACKAGE).with_suffix("") for p in sorted(PACKAGE.rglob("*.py")))
    return [".".join(path.parts) for path in found]


def arrows(module: str) -> Iterator[Arrow]:
    tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
    known = set(modules())

    def walk(node: ast.AST, inside: bool) -> Iterator[Arrow]:
        for child in ast.iter_child_nodes(node):
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from walk(child, inside or function or types)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Arrow(module, alias.name, inside)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{module}: imports are absolute"
                assert child.module
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    is_module = full.removeprefix("swath.") in known
                    yield Arrow(module, full if is_module else child.module, inside)

    yield from walk(tree, False)


def ours() -> list[Arrow]:
    found = []
    for module in modules():
        for user, used, inside in arrows(module):
            if used == "swath" or used.startswith("swath."):
                found.append(
                    Arrow(user, used.removeprefix("swath").lstrip(".") or "__init__", inside)
                )
    return found


def layer(module: str) -> str:
    return module.split(".")[0]


def test_every_module_has_a_layer() -> None:
    assert {layer(module) for module in modules()} == set(ALLOWED)


@pytest.mark.parametrize("arrow", ours(), ids=lambda a: f"{a.user}->{a.used}")
def test_arrows_point_down(arrow: Arrow) -> None:
    user, used = layer(arrow.user), layer(arrow.used)
    if user == used or (arrow.user, arrow.used) in EXCEPTIONS:
        return
    assert used in ALLOWED[user], f"{arrow.user} must not use {arrow.used}"
    if user in CARD_ONLY and used == "data":
        assert arrow.used == "data.card"


def test_the_exceptions_are_still_needed() -> None:
    assert set(EXCEPTIONS) <= {(arrow.user, arrow.used) for arrow in ours()}


def test_the_layers_themselves_have_no_circle() -> None:
    graphlib.TopologicalSorter(ALLOWED).prepare()


def test_no_circle_of_imports() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for arrow in ours():
        graph[arrow.user].add(arrow.used)
    graphlib.TopologicalSorter(graph).prepare()


def test_the_command_line_imports_its_stages_inside() -> None:
    verbs = {"cli", "study_cli", "ladder_cli", "options"}
    at_the_top = {a.used for a in ours() if a.user in verbs and not a.inside}
    assert at_the_top <= {"errors", "store", *verbs}


def users_of(*packages: str) -> set[str]:
    return {
        arrow.user
        for module in modules()
        for arrow in arrows(module)
        if arrow.used.split(".")[0] in packages
    }


def test_nothing_imports_snakemake() -> None:
    assert users_of("snakemake") == set()


def test_only_the_plan_uses_hydra() -> None:
    assert users_of("hydra", "omegaconf") == {"plan"}


def test_only_learning_uses_lightning() -> None:
    found = users_of("pytorch_lightning", "lightning", "lightning_fabric")
    assert found and {layer(module) for module in found} == {"learn"}


def test_only_learning_models_and_lessons_use_torch() -> None:
    assert {layer(module) for module in users_of("torch")} == {"learn", "models", "ladder"}


def test_only_tracking_uses_wandb() -> None:
    assert users_of("wandb") == {"report.tracking"}


def test_models_are_imported_by_nobody_but_models_and_lessons_on_them() -> None:
    assert {layer(a.user) for a in ours() if layer(a.used) == "models"} == {"models", "ladder"}


def test_training_talks_to_no_network() -> None:
    talkers = users_of(
        "requests", "urllib", "urllib3", "http", "socket", "wandb", "fsspec", "boto3", "botocore",
        "pystac_client",
    )  # fmt: skip
    # Where there is an object store, a run's state is in it; `store` is where all that is done.
    assert talkers <= {"data.fetch", "data.transfer", "data.search", "report.tracking", "store"}


def test_no_name_says_nothing() -> None:
    empty = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc", "core"}
    assert [m for m in modules() if empty & set(m.replace("_", ".").split("."))] == []
