"""Search spaces: which settings the trials of a study try. Optuna samples; it owns nothing.

A space is key of the configuration -> dimension: type (float, int, choice), low, high, log, step,
choices, and `when`, the choices of other dimensions for which it is there. A trial's parameters are
key -> value for the dimensions that are there.
"""

from __future__ import annotations

import graphlib
import itertools
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swath.errors import ConfigError

Dimension = dict[str, Any]
Space = dict[str, Dimension]
Params = dict[str, Any]
Direction = Literal["maximize", "minimize"]

ADAPTIVE = ("tpe", "gp", "nsga2")
"""Samplers that propose from what is known."""


@dataclass(frozen=True)
class Known:
    """What is known of a trial when further ones are proposed."""

    params: Params
    scores: dict[int, list[float]]
    """epochs -> one score an objective, for each rung that it has reached; none where it failed"""
    complete: bool
    """Whether it has reached the last rung."""
    generation: int


def ordered(space: Space) -> list[str]:
    """The keys of a space, each behind those on which it depends.

    Raises:
        ConfigError: a condition names what is no dimension, or itself in the end.
    """
    for key, dimension in space.items():
        for other in dimension["when"]:
            if other not in space:
                raise ConfigError(
                    f"there is no dimension {other}",
                    where=f"sweep.space.{key}.when",
                    mend=f"there is {', '.join(k for k in space if k != key) or 'no other'}",
                )
    depends = {key: list(dimension["when"]) for key, dimension in space.items()}
    try:
        return list(graphlib.TopologicalSorter(depends).static_order())
    except graphlib.CycleError as circle:
        raise ConfigError(
            f"depend on each other: {', '.join(circle.args[1])}",
            where="sweep.space",
            mend="take one `when` out",
        ) from None


def is_there(dimension: Dimension, params: Params) -> bool:
    """Whether a dimension belongs to a trial that has these parameters already."""
    return all(
        key in params and params[key] in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in dimension["when"].items()
    )


def holds(space: Space, params: Params) -> bool:
    """Whether the parameters are a point of the space."""
    seen: Params = {}
    for key in ordered(space):
        if is_there(space[key], seen):
            if key not in params or not is_value(space[key], params[key]):
                return False
            seen[key] = params[key]
    return seen.keys() == params.keys()


def grid(space: Space) -> list[Params]:
    """Every point of the space, in the order of its keys; conditional parts only where they are.

    Raises:
        ConfigError: a range of floats without a step.
    """
    points: list[Params] = [{}]
    for key in ordered(space):
        values = _values(key, space[key])
        points = [
            {**point, **more}
            for point in points
            for more in ([{key: v} for v in values] if is_there(space[key], point) else [{}])
        ]
    return [{key: point[key] for key in space if key in point} for point in points]


def propose(
    space: Space,
    *,
    sampler: Literal["grid", "random", "sobol", "tpe", "gp", "nsga2"],
    trials: int,
    seed: int,
    generation: int = 0,
    known: Sequence[Known] = (),
    directions: Sequence[Direction] = ("maximize",),
    before: Sequence[Params] = (),
) -> list[Params]:
    """The parameters of each trial of a generation: key of the configuration -> value.

    Args:
        space: see above.
        sampler: `grid` gives every point, `sobol` a scrambled low-discrepancy sequence; `tpe` (tree
            of Parzen estimators), `gp` (Gaussian process) and `nsga2` learn from what is known.
        trials: how many.
        seed: of the sampler; the same seed gives the same trials.
        generation: its number; the trials of earlier ones are what is known.
        known: all trials that were proposed so far, in order.
        directions: maximize or minimize, for each objective.
        before: what was proposed for these trials before the space or their number grew: what is
            still in the space stays, so that it needs no training again.

    Source:
        Bergstra et al.: Algorithms for Hyper-Parameter Optimization, NeurIPS 2011 (tpe);
        Deb et al.: A Fast and Elitist Multiobjective Genetic Algorithm, 2002 (nsga2).
    """
    if sampler == "grid":
        return grid(space)[:trials]
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        # Optuna calls some of its samplers' interfaces experimental; its version is pinned.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Each generation draws for itself, wherever the one before was drawn.
        own = int(np.random.SeedSequence([seed, generation]).generate_state(1)[0] >> 1)
        chosen = sampler_of(sampler, seed=own if generation else seed, startup=trials)
        study = optuna.create_study(sampler=chosen, directions=list(directions))
        for trial in known:
            if (frozen := _told(space, trial, sampler, len(directions))) is not None:
                study.add_trial(frozen)
        drawn = [suggest(study.ask(), space) for _ in range(trials)]
    kept = [params if holds(space, params) else None for params in before[:trials]]
    return [old or new for old, new in itertools.zip_longest(kept, drawn)]


def sampler_of(name: str, *, seed: int, startup: int) -> Any:
    """Optuna's sampler of that name, which draws at random until `startup` trials are known."""
    from optuna import samplers

    makers: dict[str, Callable[[], Any]] = {
        "random": lambda: samplers.RandomSampler(seed=seed),
        "sobol": lambda: samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed),
        # Parameters together and not one by one, in each part of a conditional space.
        "tpe": lambda: samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        ),
        "gp": lambda: samplers.GPSampler(seed=seed, n_startup_trials=startup),
        "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=max(2, startup)),
    }
    return makers[name]()


def suggest(trial: Any, space: Space) -> Params:
    """The parameters that an Optuna trial draws."""
    found: Params = {}
    for key in ordered(space):
        dimension = space[key]
        if not is_there(dimension, found):
            continue
        if dimension["type"] == "choice":
            labels = _labels(dimension)
            found[key] = dimension["choices"][labels.index(trial.suggest_categorical(key, labels))]
        else:
            kind = trial.suggest_int if dimension["type"] == "int" else trial.suggest_float
            step = dimension["step"] or (1 if dimension["type"] == "int" else None)
            found[key] = kind(
                key, dimension["low"], dimension["high"], log=dimension["log"], step=step
            )
    return {key: found[key] for key in space if key in found}


def frozen_params(space: Space, params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial's parameters as Optuna holds them, and their distributions."""
    from optuna import distributions

    values: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for key, value in params.items():
        dimension = space[key]
        if dimension["type"] == "choice":
            labels = _labels(dimension)
            values[key] = labels[dimension["choices"].index(value)]
            kinds[key] = distributions.CategoricalDistribution(labels)
            continue
        values[key] = value
        low, high, log, step = (dimension[k] for k in ("low", "high", "log", "step"))
        if dimension["type"] == "int":
            kinds[key] = distributions.IntDistribution(low, high, log=log, step=step or 1)
        else:
            kinds[key] = distributions.FloatDistribution(low, high, log=log, step=step)
    return values, kinds


def _told(space: Space, trial: Known, sampler: str, objectives: int) -> Any:
    """A trial as Optuna learns from it; None where it is no point of the space any more."""
    from optuna.samplers import NSGAIISampler
    from optuna.trial import TrialState, create_trial

    if not holds(space, trial.params):
        return None
    params, kinds = frozen_params(space, trial.params)
    given: dict[str, Any] = {
        "params": params,
        "distributions": kinds,
        "system_attrs": {NSGAIISampler._get_generation_key(): trial.generation},
    }
    if not trial.scores:
        return create_trial(state=TrialState.FAIL, **given)
    if sampler == "tpe" and objectives == 1:
        # It puts a stopped trial behind all that went further.
        steps = {epochs: scores[0] for epochs, scores in trial.scores.items()}
        if not trial.complete:
            return create_trial(state=TrialState.PRUNED, intermediate_values=steps, **given)
        return create_trial(value=steps[max(steps)], intermediate_values=steps, **given)
    # The others compare all that they know: scores after as many epochs, which all trials have.
    return create_trial(values=trial.scores[min(trial.scores)], **given)


def _labels(dimension: Dimension) -> list[Any]:
    """Choices as Optuna takes them: a list as its text."""
    return [json.dumps(c) if isinstance(c, list | dict) else c for c in dimension["choices"]]


def is_value(dimension: Dimension, value: Any) -> bool:
    """Whether a dimension has this value."""
    if dimension["type"] == "choice":
        return value in dimension["choices"]
    low, high, step = dimension["low"], dimension["high"], dimension["step"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return False
    return step is None or abs((value - low) / step - round((value - low) / step)) < 1e-6


def _values(key: str, dimension: Dimension) -> list[Any]:
    """Every value of a dimension."""
    if dimension["type"] == "choice":
        return list(dimension["choices"])
    low, high, step = dimension["low"], dimension["high"], dimension["step"]
    if dimension["type"] == "int":
        return list(range(low, high + 1, step or 1))
    if step is None:
        raise ConfigError(
            "is a range without a step, of which a grid cannot be made",
            where=f"sweep.space.{key}",
            mend="give step, or choice: [a, b, c]",
        )
    count = int((high - low) / step + 1e-6) + 1
    return [float(f"{low + n * step:.12g}") for n in range(count)]
