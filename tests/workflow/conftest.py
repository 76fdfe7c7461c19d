"""What the tests of the workflow share: a project folder of its own for each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lay_out(repository: Path) -> Callable[..., None]:
    """Copies the workflow, its configuration and its pins into a folder, and what else is named."""

    def copy(folder: Path, *more: str) -> None:
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("workflow", "conf", "constraints.txt", "environment.yml", *more):
            if (repository / name).is_dir():
                shutil.copytree(repository / name, folder / name, ignore=unwanted)
            else:
                shutil.copy2(repository / name, folder)

    return copy
