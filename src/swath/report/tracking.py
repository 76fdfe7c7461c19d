"""Weights & Biases, fed from a run's local log after the fact: a mirror, never a source.

Training writes its log to disk; this reads it and tells W&B, which spools it into `state/` unless
the user is logged in and asked for `tracking.mode=online`. Whatever goes wrong here is written down
and stops nothing.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import requests

log = logging.getLogger(__name__)


def track(
    run: dict[str, Any],
    history: pd.DataFrame,
    scores: dict[str, Any],
    config: dict[str, Any],
    spool: Path,
    *,
    mode: str,
    project: str,
    entity: str | None,
    group: str,
) -> dict[str, Any]:
    """Log one run to W&B and say what became of it; never raises for W&B's sake.

    Args:
        run: facts of the run, with its `run_id`, under which W&B knows it however often it is sent.
        history: one row an epoch.
        scores: figures of the test part.
        config: the sections that made the run.
        spool: folder for W&B's files.
        mode: `offline` spools, `online` sends where the user is logged in, `disabled` does nothing.
        project: W&B's project.
        entity: its owner; None is the user's default.
        group: the experiment.

    Returns:
        `state` (logged, disabled or failed), `mode`, and `reason` where it failed.
    """
    name = f"{group}/{run['split']}-fold{run['fold']}-seed{run['seed']}"
    figures = {
        f"test/{name}": figure["value"]
        for name, figure in scores.items()
        if isinstance(figure, dict) and "value" in figure
    }
    logged = _Logged(run["run_id"], name, config, history, figures)
    return _send([logged], spool, mode=mode, project=project, entity=entity, group=group)


def track_study(
    study: dict[str, Any], spool: Path, *, mode: str, project: str, entity: str | None
) -> dict[str, Any]:
    """Log the trials of a study to W&B as a group; see `track`.

    Args:
        study: a collected study, as `swath.study.rungs.collect` gives it, with its name.
        spool: see `track`.
        mode: see `track`.
        project: see `track`.
        entity: see `track`.
    """
    names = [objective["name"] for objective in study["objectives"]]
    logged = []
    for trial in study["trials"]:
        if not trial["rungs"]:
            continue
        last = trial["rungs"][-1]
        scored = [row for row in trial["rungs"] if row["scores"] is not None]
        curve = scored[-1]["curve"] if scored else []
        figures = dict(zip(names, scored[-1]["scores"], strict=True)) if scored else {}
        logged.append(
            _Logged(
                # Not the run's own, under which W&B may know it as a run of the experiment.
                f"{last['run_id']}-{trial['number']}",
                f"{study['study']}/trial{trial['number']}",
                trial["params"],
                pd.DataFrame({"epoch": range(len(curve)), names[0]: curve}),
                {**figures, "state": trial["state"], "reason": trial["reason"]},
            )
        )
    group = f"{study['study']}/study"
    return _send(logged, spool, mode=mode, project=project, entity=entity, group=group)


class _Logged(NamedTuple):
    """A run as W&B is told of it."""

    run_id: str
    name: str
    config: dict[str, Any]
    history: pd.DataFrame
    summary: dict[str, Any]


def _send(
    runs: list[_Logged], spool: Path, *, mode: str, project: str, entity: str | None, group: str
) -> dict[str, Any]:
    if mode == "disabled":
        return {"state": "disabled", "mode": mode}
    if mode == "online" and not _logged_in():
        log.warning(
            "tracking.mode=online, but W&B knows no key: logging offline; see `wandb login`"
        )
        mode = "offline"
    try:
        import wandb

        spool.mkdir(parents=True, exist_ok=True)
        for run in runs:
            with wandb.init(
                id=run.run_id,
                name=run.name,
                project=project,
                entity=entity,
                group=group,
                config=run.config,
                dir=spool,
                mode=mode,  # type: ignore[arg-type]
                resume="allow",
                settings=wandb.Settings(
                    silent=True, init_timeout=30, console="off", x_disable_stats=True
                ),
            ) as logged:
                for row in run.history.to_dict("records"):
                    logged.log({str(k): v for k, v in row.items()}, step=int(row["epoch"]))
                logged.summary.update(run.summary)
    except Exception as failed:  # a tracker that is broken in any way must stop nothing
        reason = str(failed).splitlines()[0] if str(failed) else type(failed).__name__
        log.warning("W&B did not take the run (%s); everything else goes on", reason)
        return {"state": "failed", "mode": mode, "reason": reason}
    return {"state": "logged", "mode": mode}


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return requests.utils.get_netrc_auth(base) is not None
