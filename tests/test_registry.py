"""What is chosen by name is found by reading, has typed settings, and loads."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ConfigDict, ValidationError, create_model

from swath import registry
from swath.errors import ConfigError
from swath.registry import Count, Share

EVERY = [(kind, name) for kind in registry.PLACES for name in registry.entries(kind)]

WRITTEN = '''
from swath.registry import registered

@registered("scheme")
def rings(places, side_m, *, width_m: Positive, parts: Count = 3, way: Literal["in", "out"] = "in",
          share: Share = 0.5, buffer_m: float | None = None):
    """Rings around a town."""

@registered("layout")
def of_another_kind(folder, card):
    """Not a scheme."""

def not_marked(places, side_m, *, width_m: Positive):
    """Nothing."""

@registered("scheme")
def alone(places, side_m):
    """No settings."""
'''


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose only schemes are those above."""
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "schemes.py").write_text(WRITTEN)
    monkeypatch.setattr(registry, "PACKAGE", tmp_path)
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


@pytest.mark.usefixtures("written")
def test_marked_functions_are_found_in_the_order_in_which_they_are_written() -> None:
    found = registry.entries("scheme")
    assert list(found) == ["rings", "alone"]
    assert found["rings"].doc == "Rings around a town."
    assert found["rings"].module == "swath.split.schemes"
    assert found["alone"].settings == {}


@pytest.mark.usefixtures("written")
def test_settings_are_the_keyword_only_arguments_with_type_and_default() -> None:
    settings = registry.entry("scheme", "rings").settings
    assert {name: default for name, (_, default) in settings.items()} == {
        "width_m": ..., "parts": 3, "way": "in", "share": 0.5, "buffer_m": None,
    }  # fmt: skip
    assert settings["parts"][0] == Count
    assert settings["share"][0] == Share
    assert settings["way"][0] == Literal["in", "out"]
    assert settings["buffer_m"][0] == float | None


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("key", "value"), [("width_m", 0.0), ("parts", 0), ("way", "up"), ("share", 1.01)]
)
def test_the_words_of_the_settings_have_ranges(key: str, value: object) -> None:
    entry = registry.entry("scheme", "rings")
    shape = create_model("Rings", __config__=ConfigDict(strict=True), **entry.settings)
    assert shape.model_validate({"width_m": 1.0}).model_dump()["parts"] == 3
    with pytest.raises(ValidationError, match=key):
        shape.model_validate({"width_m": 1.0} | {key: value})


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{k}-{n}" for k, n in EVERY])
def test_every_entry_loads_and_says_what_its_function_says(kind: str, name: str) -> None:
    entry = registry.entry(kind, name)
    function = registry.load(kind, name)
    assert (function.__name__, function.__module__) == (name, entry.module)
    keyword_only = {
        argument.name: ... if argument.default is inspect.Parameter.empty else argument.default
        for argument in inspect.signature(function).parameters.values()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert {setting: default for setting, (_, default) in entry.settings.items()} == keyword_only
    assert len(entry.doc.splitlines()[0]) > 20, "an entry says in a line what it is"


def test_every_kind_has_its_first_entries() -> None:
    assert {"random", "stratified", "blocks", "longitude"} <= set(registry.entries("scheme"))
    assert {"scene_folders", "class_folders"} <= set(registry.entries("layout"))
    assert {"classification", "multilabel", "segmentation"} <= set(registry.entries("task"))
    assert {"adam", "adamw", "rmsprop", "sgd"} <= set(registry.entries("optim"))
    assert {"cnn", "unet"} <= set(registry.entries("model"))
    assert "confusion" in registry.entries("figure")


def test_finding_all_entries_imports_nothing_heavy() -> None:
    code = (
        "import sys; from swath import registry\n"
        "count = sum(len(registry.entries(kind)) for kind in registry.PLACES)\n"
        "heavy = {'torch', 'pytorch_lightning', 'matplotlib', 'rasterio', 'xarray', 'pandas'}\n"
        "print(count, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{len(EVERY)} []"


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as refused:
        registry.entry("scheme", "bloks", where="split.x.scheme")
    assert str(refused.value) == (
        "split.x.scheme: no scheme is named 'bloks'; did you mean 'blocks'?"
    )
    with pytest.raises(ConfigError, match=r"there is array_scenes, .*scene_folders"):
        registry.load("layout", "zzz")


def test_a_wrong_kind_is_refused_where_it_is_written() -> None:
    with pytest.raises(ConfigError, match=r"no kind 'modle' .*did you mean 'model'"):
        registry.registered("modle")
