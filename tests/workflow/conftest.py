"""What the tests of the workflow share: a project folder of its own for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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


@pytest.fixture(scope="session")
def run_experiment(lay_out: Callable[..., None]) -> Callable[..., Path]:
    """Runs an experiment of a test's own, from its YAML to the report; gives its results."""

    def run(folder: Path, name: str, text: str, **env: str) -> Path:
        lay_out(folder)
        (folder / f"conf/experiment/{name}.yaml").write_text(text)
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SWATH_"))}
        done = subprocess.run(
            [Path(sys.executable).with_name("snakemake"), "--config", f"experiment={name}"],
            cwd=folder, env={**plain, "OMP_NUM_THREADS": "1", **env}, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "results" / name

    return run
