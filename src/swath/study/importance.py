"""Which parameters of a study matter: how much of the score's variation each one explains.

By functional ANOVA: a random forest is fitted to the scores, and the variation of its mean over
all other parameters is compared with its whole variation. Optuna owns the method; here its trials
are made of a study's. Of a few tens of trials fANOVA finds the parameter that decides far more
often than PED-ANOVA, which looks at the best tenth alone (Watanabe et al., IJCAI 2023).

Source:
    Hutter, Hoos and Leyton-Brown: An Efficient Approach for Assessing Hyperparameter Importance,
    ICML 2014.
"""

from __future__ import annotations

import json
import math
from typing import Any

from swath.study.results import Study, Trial

LEAST_TRIALS = 12
"""fewer with a score on the first rung tell chance from importance too seldom"""
_SEED = 0


def on_first_rung(study: Study) -> list[tuple[Trial, float]]:
    """Trials and their first objective on the lowest rung, the one budget that all share."""
    scored = [
        (trial, rung.scores[0])
        for trial in study.trials
        for rung in trial.rungs
        if rung.rung == 0 and rung.scores
    ]
    return [(trial, score) for trial, score in scored if math.isfinite(score)]


def importance(study: Study) -> dict[str, float]:
    """Parameter -> share of the variation that it explains alone, 0 to 1, the largest first.

    Shares do not add up to 1: the rest is explained by parameters together. That a conditional
    parameter does not apply counts as one more value of it, so it has a part in what its condition
    explains. Empty where fewer than `LEAST_TRIALS` have a score on the first rung, where all
    scores are one, and where nothing was varied.
    """
    rows = on_first_rung(study)
    names = [name for name in study.varied if len({_word(t, name) for t, _ in rows}) > 1]
    if len(rows) < LEAST_TRIALS or not names or len({score for _, score in rows}) == 1:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    columns = {name: _column([trial for trial, _ in rows], name) for name in names}
    asked = optuna.create_study(direction=study.objectives[0].direction)
    for at, (_, score) in enumerate(rows):
        asked.add_trial(
            optuna.trial.create_trial(
                params={name: values[at] for name, (values, _) in columns.items()},
                distributions={name: kind for name, (_, kind) in columns.items()},
                value=score,
            )
        )
    found: dict[str, float] = FanovaImportanceEvaluator(seed=_SEED).evaluate(asked)
    return {name: float(share) for name, share in found.items()}


def numeric(values: list[Any]) -> bool:
    """Whether all of them are numbers, and not all the same."""
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return plain and len(set(values)) > 1


def logarithmic(values: list[float]) -> bool:
    """Whether numbers span so much that only their magnitudes are to be compared."""
    return min(values) > 0 and max(values) / min(values) > 20


def _column(trials: list[Trial], name: str) -> tuple[list[Any], Any]:
    """A parameter's value in each trial, and how Optuna is told of it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    known = [trial.params[name] for trial in trials if name in trial.params]
    if not numeric(known):
        words = [_word(trial, name) for trial in trials]
        return words, CategoricalDistribution(sorted(set(words)))
    log = logarithmic(known)
    scaled = [
        (math.log(t.params[name]) if log else float(t.params[name])) if name in t.params else None
        for t in trials
    ]
    low, high = (edge(v for v in scaled if v is not None) for edge in (min, max))
    # fANOVA averages evenly over the range: trials without the parameter have a stretch below it
    # that is as large a share of the range as they are of the trials.
    share = scaled.count(None) / len(trials)
    below = (high - low) * share / (1 - share)
    values = [low - below / 2 if value is None else value for value in scaled]
    return values, FloatDistribution(low - below, high)


def _word(trial: Trial, name: str) -> str:
    """A value as a word; what the trial does not have is a word that no value has."""
    return json.dumps(trial.params[name]) if name in trial.params else "not set"
