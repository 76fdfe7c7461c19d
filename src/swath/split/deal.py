"""From a ground to an audited split: the stage `split`, without its files."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd

from swath import registry
from swath.split import schemes
from swath.split.audit import audit
from swath.split.ground import Ground

log = logging.getLogger("swath")


def deal(
    ground: Ground, name: str, scheme: str, settings: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Deal the patches to the parts of each fold, and audit every fold.

    Args:
        ground: the patches, their places and contents.
        name: of the split.
        scheme: of `swath.split.schemes`.
        settings: of the scheme.

    Returns:
        A table (patch, fold, part), and the verdict: split, scheme, passed and stamped (of all
        folds), what the audit found in the worst fold, and folds, with what it found in each.

    Raises:
        ConfigError: a setting that these patches do not allow.
        DataError: the patches lack what the scheme needs, or a file is absent or damaged.
    """
    # Imported above by its name, so that the fingerprint of this stage follows it.
    parts = getattr(schemes, registry.entry("scheme", scheme).name)(ground, **settings)
    # What few_shot draws from may be a scheme of any of these kinds.
    inner = settings.get("of", {})
    asked = {**inner, **settings}
    found = [
        audit(
            ground,
            fold,
            buffer_m=float(asked.get("buffer_m", 0.0)),
            by_acquisition="time" in (scheme, inner.get("scheme")),
            # A published list stays as it is; what it trains on must have every class all the same.
            may_lack=("val", "test") if "official" in (scheme, inner.get("scheme")) else (),
        )
        for fold in parts
    ]
    for number, verdict in enumerate(found):
        for problem in (*verdict["problems"], *verdict["notes"]):
            log.warning("audit of %s, fold %d: %s", name, number, problem)
        log.info(
            "split %s, fold %d: %s",
            name,
            number,
            {part: facts["patches"] for part, facts in verdict["parts"].items()},
        )
    table = pd.DataFrame(
        {
            "patch": np.tile(np.arange(len(ground)), len(parts)),
            "fold": np.repeat(np.arange(len(parts)), len(ground)),
            "part": parts.ravel(),
        }
    )
    worst = min(found, key=_badness)
    passed = all(verdict["passed"] for verdict in found)
    verdict = {"split": name, "scheme": scheme} | worst | {"passed": passed, "stamped": not passed}
    return table, verdict | {"folds": found}


def _badness(verdict: dict[str, Any]) -> tuple[bool, int, float]:
    """Sorts folds, the worst first."""
    least = verdict["least_distance_m"]
    return (
        verdict["passed"],
        -verdict["overlapping_pairs"],
        np.inf if least is None else least,
    )
