"""What the files of a study hold, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def write_file(path: Path, value: Any) -> None:
    """Write text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def make_study(seed: int, objectives: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What trials.json holds of 18 trials, of which some are stopped, fail and are skipped."""
    rng, trials = np.random.default_rng(seed), []
    for number in range(18):
        params: dict[str, Any] = {
            "optim.lr": float(f"{10 ** rng.uniform(-4, -1.5):.3g}"),
            "model.name": str(rng.choice(["resnet", "unet"])),
            "model.widths": [[8, 16], [16, 32]][int(rng.integers(2))],
            "optim.schedule": None if rng.random() < 0.3 else "cosine",
        }
        if params["model.name"] == "resnet":
            params["model.squeeze"] = bool(rng.integers(2))
            params["model.drop"] = round(float(rng.uniform(0, 0.4)), 2)
        good = 0.8 - 0.13 * abs(np.log10(params["optim.lr"]) + 2.5) + rng.normal(0, 0.02)
        reached = 3 if number in (4, 12) else 2 if number in (1, 4, 7, 10, 12, 15) else 1
        epochs = np.arange(1, 2 * 3 ** (reached - 1) + 1)
        curve = good * (1 - 0.6 * np.exp(-epochs / 3)) + rng.normal(0, 0.008, len(epochs))
        rungs = []
        for rung in range(reached):
            end = 2 * 3**rung
            of = {
                "val/accuracy": round(float(curve[end - 1]), 4),
                "parameters": 4000 * (1 + 7 * (params["model.widths"] == [16, 32])) + 100 * number,
                "val/loss": round(float(1.5 - curve[end - 1]), 4),
            }
            rungs.append(
                {
                    "rung": rung,
                    "epochs": end,
                    "scores": [of[name] for name, _ in objectives],
                    "seconds": None if number == 2 else round(1.3 * end * rng.uniform(0.6, 2), 2),
                    "run_id": f"{number:015x}{rung}",
                    "curve": np.round(curve[:end], 4).tolist(),
                }
            )
        state, reason = ("complete" if reached == 3 else "stopped"), None
        if number in (6, 15):
            rungs[-1] |= {"scores": None, "seconds": None, "curve": rungs[-1]["curve"][:4]}
            state, reason = "failed", "the loss was not finite in epoch 3, batch 2"
        if number == 17:
            rungs, state, reason = [], "skipped", "the study's time was over"
        trials.append(
            {
                "number": number,
                "generation": number // 9,
                "params": params,
                "rungs": rungs,
                "state": state,
                "reason": reason,
            }
        )
    signs = [1 if way == "maximize" else -1 for _, way in objectives]
    ends = {
        trial["number"]: tuple(s * score for s, score in zip(signs, scores, strict=True))
        for trial in trials
        for scores in [trial["rungs"][-1]["scores"] if trial["rungs"] else None]
        if scores
    }
    front = [
        number
        for number, mine in ends.items()
        if not any(
            other != mine and all(o >= m for o, m in zip(other, mine, strict=True))
            for other in ends.values()
        )
    ]
    return {
        "study": "embedded",
        "mode": "static",
        "sampler": "tpe",
        "objectives": [{"name": name, "direction": way} for name, way in objectives],
        "trials": trials,
        "front": front,
        "best": max(front, key=lambda number: ends[number][0]),
    }
