"""The pages of the ladder: of one lesson, and of all of them in their order."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from markupsafe import Markup

from swath.files import read_json, write_text
from swath.report.page import template

log = logging.getLogger(__name__)


def write_page(lessons: dict[str, Path], out: Path) -> None:
    """Write the self-contained page of a lesson.

    Args:
        lessons: name of the experiment -> its `lesson.json`.
        out: the page.

    Raises:
        DataError: the lesson is absent or damaged.
    """
    _write({name: read_json(path) for name, path in lessons.items()}, out, whole=False, missing={})


def write_ladder(lessons: dict[str, Path], out: Path, *, missing: dict[str, str]) -> None:
    """Write one self-contained page of lessons by step and title, and the playground.

    Args:
        lessons: name of the experiment -> its `lesson.json`, which need not be there: the page then
            names it as missing.
        out: the page; `playground.html` is written beside it.
        missing: name of another experiment -> why it has no lesson; empty where that is not known.

    Raises:
        DataError: a lesson is damaged.
    """
    found = {name: read_json(path) for name, path in lessons.items() if path.is_file()}
    absent = dict.fromkeys(sorted(lessons.keys() - found.keys()), "") | missing
    _write(found, out, whole=True, missing=absent)
    playground = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
    write_text(out.with_name("playground.html"), playground)


def _write(
    found: dict[str, dict[str, Any]], out: Path, *, whole: bool, missing: dict[str, str]
) -> None:
    steps = sorted(({**each, "experiment": name} for name, each in found.items()), key=_place)
    claims = [claim for step in steps for claim in step["claims"]]
    held = sum(claim["holds"] for claim in claims)
    for step in steps:
        for picture in step["pictures"]:
            for panel in picture["panels"]:
                panel["svg"] = Markup(panel["svg"])
    page = template(Path(__file__).with_name("ladder.html.jinja")).render(
        steps=steps, missing=missing, claims=len(claims), whole=whole, held=held,
        failed=[step["title"] for step in steps if not _holds(step)],
    )  # fmt: skip
    write_text(out, page)
    absent = f"; missing: {', '.join(missing)}" if missing else ""
    log.info("%d of %d claims hold, in %d lessons%s", held, len(claims), len(steps), absent)


def _place(step: dict[str, Any]) -> tuple[int, str]:
    # Of several lessons of a step, "What made depth work" comes before what it has by ablation.
    return step["step"], step["title"].casefold()


def _holds(step: dict[str, Any]) -> bool:
    return all(claim["holds"] for claim in step["claims"])
