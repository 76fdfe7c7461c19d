"""The sections of an experiment: every key with its type, range and default, once.

Sections of a fixed shape are classes here; those that choose something by name (model, task,
optim, split schemes) take their keys from the signature of what they name (`swath.registry`).
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from swath import registry
from swath.data.card import Card
from swath.errors import ConfigError, nearest
from swath.registry import Count, Decay, NonNegative, Positive, Share, Whole


class Section(BaseModel):
    """Strictly typed, frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Patches(Section):
    """How scenes are cut into patches."""

    size_px: Count | None = None
    """Side of a patch on the finest grid; null takes patches as they were published."""
    stride_px: Count | None = None
    """Distance between neighbouring patches; null is the side, so patches do not overlap."""
    padding: Literal["none", "shift", "nodata", "reflect"] = "none"
    """Patches that would reach over the edge of a scene: `none` leaves them out, `shift` moves the
    last one inward, `nodata` and `reflect` fill them. What is filled is never labelled."""
    native_gsd: bool = False
    """Whether coarser bands are stored in their own pixels, and brought to the finest grid when
    they are loaded; else they are stored on the finest grid."""
    resampling: Literal["nearest", "bilinear", "cubic", "average"] = "nearest"
    """How coarser bands are brought to the finest grid."""
    min_valid: Share = 0.5
    """Least share of pixels that are seen, clear and labelled; patches below are left out and
    counted."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the patches that is kept, drawn alike from each class: for quick trials."""
    shard_mb: Count = 1024
    """Pixels that one job cuts, in megabytes; a larger scene is a job by itself."""


class Quality(Section):
    """What makes a scene unfit, and what is done about it."""

    broken: Literal["skip", "fatal"] = "skip"
    """`skip` sets an unfit scene aside and goes on, `fatal` stops."""
    max_nodata: Share = 1.0
    """Largest share of no-data and NaN pixels; a scene without any data is always unfit."""
    max_clouds: Share = 1.0
    """Largest share of pixels that the mask hides."""
    max_saturated: Share = 1.0
    """Largest share of saturated pixels (card: saturated)."""
    max_implausible: Share = 0.01
    """Largest share of pixels outside the plausible range (card: valid_range)."""
    constant_bands: bool = False
    """Whether a band with one single value is accepted."""


class Optim(Section):
    """What all optimizers share; each has settings of its own (`swath.learn.optim`)."""

    lr: Positive = 1e-3
    """Largest learning rate of the schedule."""
    weight_decay: NonNegative = 0.05
    """Of matrices and kernels; biases and normalisation have none."""
    schedule: Literal["onecycle", "cosine", "restarts", "constant"] = "onecycle"
    """After the warm-up `onecycle` and `cosine` fall by half a cosine, `constant` stays; `restarts`
    falls so in each of its cycles."""
    cycles: Count = 4
    """Of `restarts`; in a study as many as it has rungs."""
    growth: Annotated[int, Field(ge=2)] = 2
    """How many times as long a run is at the end of a cycle as at that of the one before."""
    warmup: Share | None = None
    """Share of the steps in which the rate rises; null is 0.2 for onecycle, and else 0."""
    min_lr: Share = 0.0
    """Share of the largest rate that is left at the end of a cosine."""


class Augment(Section):
    """How batches are augmented in training; see `swath.learn.augment`."""

    flip: bool = True
    """Flips along both axes, each in half of the cases."""
    turn: bool = True
    """Quarter turns; with the flips all eight symmetries of a square."""
    crop_px: Count | None = None
    """Side of a square drawn from each patch; null takes patches whole."""
    band_dropout: Share = 0.0
    """Probability of each band of a patch to be set to its mean."""
    mixup: NonNegative = 0.0
    """Two patches are blended, by a share drawn from Beta(α, α); 0 blends none."""
    cutmix: NonNegative = 0.0
    """A box of another patch is pasted, whose area is drawn likewise; 0 pastes none."""
    noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise on every pixel, in those of its band; 0 adds none."""


class Trainer(Section):
    """One attempt at one training."""

    epochs: Count = 10
    batch_size: Count = 64
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto` times a step in both and takes the faster."""
    channels_last: Literal["auto", True, False] = True
    """Whether the channels of a pixel lie together; `auto` times it together with the precision."""
    compile: Literal["auto", True, False] = "auto"
    """Whether steps are compiled by `torch.compile`; `auto` tries it where they take half an hour
    or more in all, and keeps to it where it gains more time than it costs."""
    clip_norm: NonNegative = 1.0
    """Largest norm of the gradient; what is longer is shortened to it. 0 clips nothing."""
    accumulate: Count = 1
    """Batches whose gradients make one step of the optimizer, as one batch of their sum would."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of weights and buffers, which then is what is
    validated and kept; 0 averages nothing."""
    early_stopping: Count | None = None
    """Epochs in a row that are no better than the best (task.monitor) before training stops; null
    trains them all. The schedule knows nothing of it: `constant` suits best."""
    shuffle: Literal["auto", "full", "blocks"] = "auto"
    """`blocks` reads long pieces in random order and shuffles within a buffer of them; `auto` does
    so where the training part does not fit in half of the memory."""
    augment: Augment = Augment()
    keep: Literal["best", "last"] = "best"
    """Which network is kept: that of the epoch with the best task.monitor, or of the last epoch. A
    schedule that ends at 0 makes the last ones alike; the best of them is then chosen by chance,
    the more so the smaller the validation part is."""
    tta: bool = False
    """Test-time augmentation: whether the trained network answers with its mean over the eight
    symmetries of a square, at eight times the cost. What it learns does not depend on it."""
    checkpoint_minutes: NonNegative = 10.0
    """Between two checkpoints within an epoch, which is what a kill can lose; each epoch ends with
    one besides. What a run learns does not depend on it."""


class Runs(Section):
    """Which runs an experiment has: each split x fold x seed is one."""

    seeds: Annotated[list[Whole], Field(min_length=1)] = [0]
    folds: Annotated[list[Whole], Field(min_length=1)] = [0]


class Maps(Section):
    """How whole scenes are mapped."""

    probabilities: bool = False
    """Whether the probability of every class is written beside the map: a band a class."""
    overlap_px: Whole = 32
    """How far neighbouring windows overlap, over which one fades into the other."""
    compress: Literal["zstd", "deflate"] = "zstd"
    """`deflate` takes longer to write, and is read by every program."""


class Scores(Section):
    """How sure a score is: a bootstrap over square blocks of the ground."""

    draws: Count = 1000
    block_m: Positive = 10_000.0
    """Side of a block; neighbours in one block are drawn together."""


class Dimension(Section):
    """One dimension of a search space, e.g. `{float: [1e-4, 1e-2], log: true}`."""

    type: Literal["float", "int", "choice"]
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    """Whether the logarithm is uniform."""
    step: Annotated[float | int, Field(gt=0)] | None = None
    """Only multiples of it above `low`; a grid needs it of floats."""
    choices: list[Any] = []
    when: dict[str, Any] = {}
    """Other dimensions -> the choice, or the list of choices, for which this one is there."""

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, values: Any) -> Any:
        """`float: [low, high]`, `int: [low, high]` and `choice: [a, b]` as their long forms."""
        kinds = [kind for kind in ("float", "int", "choice") if kind in values]
        if len(kinds) + ("type" in values) > 1:
            raise PydanticCustomError("twice", "should be of one type, e.g. {{float: [low, high]}}")
        if not kinds:
            return values
        given, rest = values[kinds[0]], {k: v for k, v in values.items() if k != kinds[0]}
        if kinds[0] == "choice":
            return {"type": "choice", "choices": given, **rest}
        if not isinstance(given, list | tuple) or len(given) != 2:
            raise PydanticCustomError("range", "should be a range [low, high]")
        return {"type": kinds[0], "low": given[0], "high": given[1], **rest}


class Final(Section):
    """The best trials of a study once more, over seeds and folds, before one of them wins."""

    best: Whole = 0
    """How many trials; 0 leaves it out."""
    seeds: Annotated[list[Whole], Field(min_length=1)] = [0, 1, 2]
    folds: Annotated[list[Whole], Field(min_length=1)] = [0]


class Sweep(Section):
    """A study: successive halving over a search space; no space means no study."""

    mode: Literal["static", "async"] = "static"
    """`static` has a plan that is known before it runs; in `async` mode workers share a journal and
    each decides by what is known at that time."""
    space: dict[str, Dimension | None] = {}
    """Any key of the model, task, optim or trainer section -> its dimension."""
    sampler: Literal["grid", "random", "sobol", "tpe", "gp", "nsga2"] = "random"
    trials: Whole = 0
    """How many; those of a grid are all its points, and need not be given."""
    generation: Count = 8
    """Trials that `tpe`, `gp` and `nsga2` propose at once, from all that is known by then."""
    seed: Whole = 0
    """Of the sampler, and of the trials' runs."""
    objective: str | Annotated[list[str], Field(min_length=1)] | None = None
    """What is sought, one or several: columns of a run's history, `parameters` or `seconds`; null
    is task.monitor of the validation part."""
    direction: Literal["maximize", "minimize"] | list[Literal["maximize", "minimize"]] | None = None
    """One for each objective; null minimizes losses, errors, parameters and seconds."""
    rungs: Count = 2
    eta: Annotated[int, Field(ge=2)] = 2
    """Of each rung, one in eta goes on."""
    epochs: Count = 1
    """Epochs of the first rung; each further rung trains eta times as long in all."""
    minutes: Positive | None = None
    """Wall time from the study's proposal on; trials that would begin later are skipped."""
    trials_per_job: Count | Literal["auto"] = "auto"
    """Trials that one warm process trains one after another; `auto` by what they took before."""
    threads: Count = 1
    """Cores of each job: what a small network gains from a second one is less than a second job
    does. On a cluster, also what feeds a GPU."""
    side_by_side: Count = 1
    """Trials of a job that run at the same time, each in a process: on a GPU that none of them
    fills, or on some of the job's cores."""
    workers: Count = 2
    """Jobs of the async mode."""
    pruner: Literal["asha", "hyperband", "median", "none"] = "asha"
    """Which trials of the async mode stop at a rung."""
    final: Final = Final()


class Lesson(Section):
    """A step of the ladder; each has settings of its own (`swath.ladder`)."""

    step: Count
    """Its place on the ladder."""
    title: str


class Tracking(Section):
    """Weights & Biases, fed from the local log."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "swath"
    entity: str | None = None


FIXED: dict[str, type[BaseModel]] = {
    "data": Card,
    "patches": Patches,
    "quality": Quality,
    "trainer": Trainer,
    "runs": Runs,
    "maps": Maps,
    "scores": Scores,
    "sweep": Sweep,
    "tracking": Tracking,
}
SECTIONS = (
    "data", "patches", "quality", "split", "task", "model", "optim", "trainer", "runs", "maps",
    "scores", "sweep", "tracking", "lesson",
)  # fmt: skip


def check(section: str, values: Any) -> dict[str, Any]:
    """The section complete with its defaults, every value checked.

    Raises:
        ConfigError: an unknown key, a wrong type or a value out of range; `where` is the key.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{values!r} is no table of keys", where=section, mend="give it as key: value"
        )
    if section in FIXED:
        checked = _validated(FIXED[section], section, values)
        if section == "data":
            if wrong := Card.model_validate(checked).inconsistency():
                key, name = wrong
                if checked["target"] and key in ("classes", "labels"):
                    raise ConfigError(
                        f"'{name}' does not go with a target, whose labels are numbers",
                        where=f"data.{key}",
                        mend="leave out classes, and set labels to patch or pixel",
                    )
                known = (
                    [b["name"] for b in checked["bands"]] if key == "rgb" else checked["classes"]
                )
                raise ConfigError(
                    f"'{name}' is not in the card", where=f"data.{key}", mend=nearest(name, known)
                )
            checked["layout"] = _check_named("layout", "data.layout", checked["layout"])
            if checked["drawing"]:
                checked["drawing"] = _check_named("drawing", "data.drawing", checked["drawing"])
        if section == "sweep":  # null takes a dimension out of what another file has given
            checked["space"] = {key: d for key, d in checked["space"].items() if d is not None}
        return checked
    if section == "split":
        return _check_split(values)
    if section == "lesson":
        return _check_named("lesson", "lesson", values, shared=Lesson) if values else {}
    return _check_named(section, section, values, shared=Optim if section == "optim" else Section)


def _check_split(values: dict[str, Any]) -> dict[str, Any]:
    schemes = {k: v for k, v in values.items() if k != "allow_leaks"}
    if not schemes:
        raise ConfigError("names no split", where="split", mend="choose one, e.g. split=blocks")
    shape = create_model("Split", __base__=Section, allow_leaks=(bool, False))
    checked = _validated(shape, "split", {k: v for k, v in values.items() if k == "allow_leaks"})
    for name, scheme in schemes.items():
        if not isinstance(scheme, dict) or "scheme" not in scheme:
            chosen = [k for k, v in schemes.items() if isinstance(v, dict) and "scheme" in v]
            known = [f"split.{k}" for k in ("allow_leaks", *chosen)]
            raise ConfigError(
                "unknown key", where=f"split.{name}", mend=nearest(f"split.{name}", known)
            )
        checked[name] = _check_named("scheme", f"split.{name}", scheme, key="scheme")
    return checked


def _check_named(
    kind: str,
    where: str,
    values: dict[str, Any],
    *,
    key: str = "name",
    shared: type[Section] = Section,
) -> dict[str, Any]:
    """The name and settings of what is registered, with the keys that its whole kind shares."""
    if not isinstance(values.get(key), str):
        raise ConfigError(f"no {kind} is named", where=f"{where}.{key}", mend=f"give {key}")
    registry.entry(kind, values[key], where=f"{where}.{key}")
    rest = {k: v for k, v in values.items() if k != key}
    return {key: values[key], **_validated(_shape(kind, values[key], shared), where, rest)}


@functools.cache  # making one takes 2 ms, and each trial of a study is checked
def _shape(kind: str, name: str, shared: type[Section]) -> type[BaseModel]:
    """The settings of what is registered, as a class."""
    settings: dict[str, Any] = dict(registry.entry(kind, name).settings)
    return create_model(name, __base__=shared, **settings)


def _validated(shape: type[BaseModel], where: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        return shape.model_validate(values).model_dump(mode="json")
    except ValidationError as invalid:
        first = invalid.errors()[0]
    path = [str(part) for part in first["loc"] if not _is_type_tag(part)]
    key = ".".join([where, *path])
    if first["type"] == "extra_forbidden":
        known = _keys(shape, path[:-1])
        whole = [".".join([where, *path[:-1], name]) for name in known]
        mend = nearest(key, whole) if known else "take it out"
        raise ConfigError("unknown key", where=key, mend=mend)
    if first["type"] == "missing":
        raise ConfigError("has no value", where=key, mend="give it one")
    reason = first["msg"].removeprefix("Input ")
    raise ConfigError(f"{first['input']!r} will not do", where=key, mend=f"it {reason}")


def _keys(shape: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the table at this path; none where it has no fixed shape."""
    for part in path:
        inner = field.annotation if (field := shape.model_fields.get(part)) else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        shape = inner
    return list(shape.model_fields)


def _is_type_tag(part: int | str) -> bool:
    """Whether pydantic put the name of a union's member into a location."""
    return part in ("int", "float", "str", "bool")
