"""The page of the ladder: its lessons in their order, what of them holds, and what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swath.errors import DataError
from swath.files import write_json
from swath.ladder.lesson import Lesson, at_least, at_most
from swath.ladder.page import write_ladder


def lesson(path: Path, step: int, title: str, value: float = 1.0) -> Path:
    claims = [at_most("all", value, 1.0), at_least("none", value, 0.0)]
    told = Lesson(f"What of {title}?", ["Theory <says>."], claims, pictures=[]).as_json()
    write_json(path, {"step": step, "title": title, "synthetic": False, **told})
    return path


def test_lessons_stand_in_the_order_of_their_steps_and_titles(tmp_path: Path) -> None:
    titles = {
        "ablation": (13, "Depth: by ablation"),
        "depth": (13, "Depth"),
        "xor": (2, "XOR"),
        "gauss": (5, "Points: Gauss"),
        "circle": (5, "Points: circle"),
    }
    lessons = {
        f"ladder/{name}": lesson(tmp_path / f"{name}.json", step, title)
        for name, (step, title) in titles.items()
    }
    write_ladder(lessons, tmp_path / "report.html", missing={})
    page = (tmp_path / "report.html").read_text()
    order = ["ladder-xor", "ladder-circle", "ladder-gauss", "ladder-depth", "ladder-ablation"]
    assert re.findall(r'<section id="([^"]+)"', page) == order
    assert re.findall(r'href="#([^"]+)"', page) == order
    assert "<dd>10 of 10</dd>" in page and "does not hold" not in page
    assert "Theory &lt;says&gt;." in page
    assert (tmp_path / "playground.html").stat().st_size > 10_000


def test_what_does_not_hold_or_is_missing_is_said_first(tmp_path: Path) -> None:
    lessons = {
        "ladder/xor": lesson(tmp_path / "xor.json", 2, "XOR", value=2.0),
        "ladder/cnn": tmp_path / "cnn.json",
    }
    write_ladder(lessons, tmp_path / "report.html", missing={"ladder/landsat": "no mirror"})
    head, *_ = (tmp_path / "report.html").read_text().split("<section")
    assert "<dd>1 of 2</dd>" in head and "XOR: a claim does not hold" in head
    assert "ladder/landsat is missing: no mirror" in head
    assert "snakemake --config experiment=ladder/cnn</code> says why" in head


def test_a_damaged_lesson_is_named(tmp_path: Path) -> None:
    (tmp_path / "xor.json").write_text('{"step": 2')
    with pytest.raises(DataError, match=r"xor\.json"):
        write_ladder({"ladder/xor": tmp_path / "xor.json"}, tmp_path / "report.html", missing={})
