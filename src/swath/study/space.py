"""Search spaces: which settings the trials of a study try. Optuna samples; it owns nothing."""

from __future__ import annotations

import warnings
from typing import Any


def propose(
    space: dict[str, dict[str, Any]], *, sampler: str, trials: int, seed: int
) -> list[dict[str, Any]]:
    """The parameters of each trial: key of the configuration -> value.

    Args:
        space: key -> type (float, int, choice), low, high, log, choices.
        sampler: `random`, or `sobol` for a low-discrepancy sequence (scrambled).
        trials: how many.
        seed: of the sampler; the same seed gives the same trials.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # Optuna calls the interface of its Sobol sampler experimental; its version is pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        chosen: Any = (
            optuna.samplers.RandomSampler(seed=seed)
            if sampler == "random"
            else optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
        )
    study = optuna.create_study(sampler=chosen)
    proposed = []
    for _ in range(trials):
        trial = study.ask()
        proposed.append({key: _suggest(trial, key, space[key]) for key in space})
    return proposed


def _suggest(trial: Any, key: str, dimension: dict[str, Any]) -> Any:
    if dimension["type"] == "choice":
        return trial.suggest_categorical(key, dimension["choices"])
    if dimension["type"] == "int":
        return trial.suggest_int(key, dimension["low"], dimension["high"], log=dimension["log"])
    return trial.suggest_float(key, dimension["low"], dimension["high"], log=dimension["log"])
