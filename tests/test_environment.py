"""pyproject.toml, constraints.txt and environment.yml describe the same environment."""

from __future__ import annotations

import re
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# name on PyPI -> name on conda-forge or bioconda, where they differ
CONDA_NAMES = {
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
    "torch": "pytorch",
    "xxhash": "python-xxhash",
}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str], sign: str) -> dict[str, str]:
    """Package name -> exact version; a line that gives none fails here."""
    found = {}
    for line in lines:
        match = re.fullmatch(rf"([A-Za-z0-9._-]+)(?:\[[a-z]+\])?{sign}([A-Za-z0-9.]+)", line)
        assert match, f"not an exact pin: {line!r}"
        found[normalised(match[1])] = match[2]
    assert len(found) == len(lines), "a package is pinned twice"
    return found


@pytest.fixture(scope="module")
def direct() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return pins(project["dependencies"] + project["optional-dependencies"]["dev"], "==")


@pytest.fixture(scope="module")
def locked_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_constraints_hold_every_direct_pin(direct: dict[str, str], locked_lines: list[str]) -> None:
    locked = pins(locked_lines, "==")
    assert {name: locked.get(name) for name in direct} == direct


def test_constraints_are_portable(locked_lines: list[str]) -> None:
    assert not [line for line in locked_lines if re.search(r"[/\\@+]|:", line)]
    assert locked_lines == sorted(locked_lines, key=str.upper), "`make lock` sorts them"


def test_conda_environment_has_the_same_pins(direct: dict[str, str]) -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    by_conda = [entry for entry in listed if isinstance(entry, str) and entry != "pip"]
    found = pins(by_conda, "=")
    assert found.pop("python") == "3.11"
    found |= pins(by_pip, "==")
    assert found == {CONDA_NAMES.get(name, name): version for name, version in direct.items()}


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt", "environment.yml"])
def test_torchvision_stays_out(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    assert not [line for line in lines if re.match(r"[\s\"'-]*torchvision\b", line)]


def test_installed_versions_are_the_locked_ones(locked_lines: list[str]) -> None:
    """Packages that this platform does not need may be absent; none may differ."""
    from importlib.metadata import distributions

    locked = pins(locked_lines, "==")
    # Not all of sys.path, onto which setuptools puts what it brings for itself.
    here = distributions(path=[sysconfig.get_path("purelib")])
    present = {normalised(d.name): d.version.partition("+")[0] for d in here}
    shared = locked.keys() & present.keys()
    assert {name: present[name] for name in shared} == {name: locked[name] for name in shared}
    assert "torchvision" not in present
