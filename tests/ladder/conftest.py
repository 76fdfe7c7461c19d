"""A lesson of the ladder, worked out by the workflow's own verbs in this process."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from lessons import Worked, counted, prepared, studied, verb

from swath import plan

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="session")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    """lesson(name, *overrides): its lesson.json, after all that comes before it."""

    @functools.cache
    def work(name: str, *overrides: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp(name)
        composed = plan.compose(CONF, f"ladder/{name}", overrides)
        plan.write_sections(composed, folder / "config")
        given = []
        if {"given", "study"} & {*composed.lesson_takes}:
            given = prepared(composed, folder)
        if "counts" in composed.lesson_takes:
            given += counted(composed, folder)
        if "study" in composed.lesson_takes:
            given += studied(composed, folder)
        verb(
            "lesson", *given, config=folder / "config", code="0", state=folder / "state",
            out=folder / "lesson.json",
        )  # fmt: skip
        found: dict[str, Any] = json.loads((folder / "lesson.json").read_text())
        return found

    return work
