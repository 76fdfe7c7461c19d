"""Settings: the signature of what is registered is the only home of types and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath import registry, settings
from swath.errors import ConfigError

KINDS = ("model", "scheme", "task", "optim", "layout")
# What the section of a kind has beside the settings of what it names.
SHARED = {"optim": set(settings.Optim.model_fields)}
REGISTERED = [(kind, name) for kind in KINDS for name in registry.entries(kind)]
# What has no default, and is given by the configuration.
NEEDED: dict[tuple[str, str], dict[str, Any]] = {
    ("scheme", "regions"): {"file": "regions.gpkg", "attribute": "name"},
    ("scheme", "few_shot"): {"shots": 5, "of": {"scheme": "random"}},
    ("layout", "scene_folders"): {"images": ["*.tif"]},
    ("layout", "class_folders"): {"archive": "a.zip"},
    ("layout", "array_scenes"): {"images": "*.nc"},
    ("layout", "matlab_cubes"): {"cube": "a.mat"},
    ("layout", "table"): {"files": {"train": "a.csv"}},
    ("model", "timm"): {"architecture": "resnet18"},
    ("model", "smp"): {"architecture": "Unet"},
    ("model", "torchgeo"): {"architecture": "resnet18"},
}
CARD: dict[str, Any] = {
    "name": "x", "title": "x", "licence": "x", "citation": "x", "labels": "patch", "rgb": ["b"] * 3,
    "scale": 1.0, "classes": {"a": "#000000"},
    "bands": [{"name": "b", "wavelength_nm": 1.0, "gsd_m": 1.0}],
}  # fmt: skip


def checked(kind: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a registered function, as the section that holds them has them."""
    if kind == "scheme":
        return settings.check("split", {"s": {"scheme": name, **given}})["s"]
    if kind == "layout":
        return settings.check("data", {**CARD, "layout": {"name": name, **given}})["layout"]
    return settings.check(kind, {"name": name, **given})


def choices(kind: str, name: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(registry.load(kind, name)).parameters
    return {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def refused(kind: str, name: str, given: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        checked(kind, name, NEEDED.get((kind, name), {}) | given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind, name", REGISTERED)
def test_the_defaults_are_those_of_the_signature(kind: str, name: str) -> None:
    section = checked(kind, name, NEEDED.get((kind, name), {}))
    assert section.pop("scheme" if kind == "scheme" else "name") == name
    parameters = choices(kind, name)
    assert set(section) == set(parameters) | SHARED.get(kind, set())
    for setting, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            assert section[setting] == parameter.default
            assert type(section[setting]) is type(parameter.default)


@pytest.mark.parametrize("kind, name", REGISTERED)
def test_what_has_no_default_must_be_given(kind: str, name: str) -> None:
    needed = {n for n, p in choices(kind, name).items() if p.default is p.empty}
    assert needed == set(NEEDED.get((kind, name), {}))
    if needed:
        with pytest.raises(ConfigError, match="has no value"):
            checked(kind, name, {})


@pytest.mark.parametrize(
    "kind, name, setting", [(k, n, s) for k, n in REGISTERED for s in choices(k, n)]
)
def test_a_value_of_another_type_is_refused(kind: str, name: str, setting: str) -> None:
    takes_tables = "dict" in str(choices(kind, name)[setting].annotation)
    text = refused(kind, name, {setting: 0.5 if takes_tables else {"no": ["such", "value"]}})
    assert setting in text and "will not do" in text


@pytest.mark.parametrize("kind, name", REGISTERED)
def test_an_unknown_setting_is_refused(kind: str, name: str) -> None:
    text = refused(kind, name, {"no_such_setting": 1})
    assert "no_such_setting" in text and "unknown key" in text


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_is_refused_with_all_that_there_are(kind: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked(kind, "zzzzzz", {})
    for name in registry.entries(kind):
        assert name in str(error.value)


@pytest.mark.parametrize("section", settings.FIXED)
def test_a_section_of_a_fixed_shape_is_complete_and_closed(section: str) -> None:
    start = (
        {**CARD, "layout": {"name": "class_folders", "archive": "a"}} if section == "data" else {}
    )
    complete = settings.check(section, start)
    assert set(complete) == set(settings.FIXED[section].model_fields)
    assert settings.check(section, complete) == complete
    with pytest.raises(ConfigError, match="unknown key"):
        settings.check(section, {**start, "no_such_key": 1})


@pytest.mark.parametrize("section", settings.SECTIONS)
@pytest.mark.parametrize("value", [3, "text", ["a"], None])
def test_a_section_that_is_no_table_is_refused(section: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        settings.check(section, value)
    assert section in str(error.value) and "\n" not in str(error.value)


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_any_positive_rate_is_taken_as_it_is(rate: float) -> None:
    assert settings.check("optim", {"name": "adamw", "lr": rate})["lr"] == rate


@given(
    st.one_of(
        st.floats(max_value=0), st.just(float("nan")), st.text(), st.booleans(), st.none(),
        st.lists(st.floats()),
    )
)  # fmt: skip
def test_anything_else_is_no_rate(rate: Any) -> None:
    with pytest.raises(ConfigError) as error:
        settings.check("optim", {"name": "adamw", "lr": rate})
    assert error.value.where == "optim.lr" and "\n" not in str(error.value)


@given(st.one_of(st.integers(max_value=0), st.floats(), st.text(), st.booleans(), st.none()))
def test_epochs_are_whole_and_at_least_one(epochs: Any) -> None:
    with pytest.raises(ConfigError):
        settings.check("trainer", {"epochs": epochs})


@given(st.text(min_size=1).filter(lambda t: t not in settings.FIXED["trainer"].model_fields))
def test_any_other_key_is_unknown(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        settings.check("trainer", {key: 1})
    assert "unknown key" in str(error.value) and "\n" not in str(error.value)
