"""The figures of an experiment as small plain tables, for DVC's metrics and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from swath.files import whole, write_json
from swath.study.results import Experiment


def write_tables(experiment: Experiment, folder: Path) -> None:
    """Write `metrics.json` and `curves.csv` into `folder`.

    metrics.json has, for each split, the figures of the runs and of the baseline and whether the
    split leaks; curves.csv has a row an epoch and run.
    """
    write_json(folder / "metrics.json", {s.name: _figures(s) for s in experiment.splits})
    curves = [r.metrics.assign(split=r.split, fold=r.fold, seed=r.seed) for r in experiment.runs]
    with whole(folder / "curves.csv") as part:
        pd.concat(curves).to_csv(part, index=False)


def _figures(split: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"leaks": split.leaky}
    for who, scores in (("model", split.scores), ("baseline", split.baseline)):
        if scores:
            found[who] = {name: measure.value for name, measure in scores.measures.items()}
    return found
