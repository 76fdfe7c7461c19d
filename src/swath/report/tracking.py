"""Weights & Biases, fed from a run's local log after the fact: a mirror, never a source.

Training writes its log to disk; this reads it and tells W&B, which spools it into `state/` unless
the user is logged in and asked for `tracking.mode=online`. Whatever goes wrong here is written down
and stops nothing.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

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
        with wandb.init(
            id=run["run_id"],
            name=f"{group}/{run['split']}-fold{run['fold']}-seed{run['seed']}",
            project=project,
            entity=entity,
            group=group,
            config=config,
            dir=spool,
            mode=mode,  # type: ignore[arg-type]
            resume="allow",
            settings=wandb.Settings(
                silent=True, init_timeout=30, console="off", x_disable_stats=True
            ),
        ) as logged:
            for row in history.to_dict("records"):
                logged.log({str(k): v for k, v in row.items()}, step=int(row["epoch"]))
            for name, figure in scores.items():
                if isinstance(figure, dict) and "value" in figure:
                    logged.summary[f"test/{name}"] = figure["value"]
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
