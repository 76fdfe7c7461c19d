"""Options that several verbs take, and what these name, opened."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swath.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from swath.data.patchset import PatchSet

Config = Annotated[Path, typer.Option(help="Folder of the experiment's section files.")]
Data = Annotated[Path, typer.Option(help="Folder of the fetched dataset.")]
Out = Annotated[Path, typer.Option(help="What is written.")]
Patches = Annotated[Path, typer.Option(help="Patch set (patches/manifest.json).")]
ScenesFile = Annotated[Path, typer.Option(help="scenes.json.")]
SplitFolder = Annotated[Path, typer.Option(help="Folder of the split.")]
SumsFolder = Annotated[Path, typer.Option(help="Folder of the first round's sums, SHARD.npz.")]
State = Annotated[Path, typer.Option(help="Folder for what must survive a killed job.")]
RunFolder = Annotated[Path, typer.Option(help="Folder of the run.")]
Fold = Annotated[int, typer.Option(help="Fold of the split.")]
ModelFile = Annotated[Path, typer.Option("--model", help="The trained model (best.ckpt).")]
Seed = Annotated[int, typer.Option(help="Seed of the run.")]
Code = Annotated[str, typer.Option(help="Fingerprint of the code, part of the run's identity.")]
Minutes = Annotated[
    float | None,
    typer.Option(help="Minutes until this process is ended: it stops at a checkpoint before."),
]
STARTED = time.time()
AGAIN = "from swath.cli import main; main()"
"""What another process of a verb runs, however this one was started."""


def open_set(manifest: Path) -> tuple[PatchSet, str]:
    """The patch set of a manifest, and its version."""
    from swath.data.patchset import open_patches
    from swath.files import read_json

    return open_patches(manifest), read_json(manifest)["version"]


def of_shards(patches: PatchSet, folder: Path) -> list[Path]:
    """The file of each shard of a patch set in a folder."""
    return [folder / f"{name}.npz" for name, _, _ in patches.shards]


def table_of(split: Path) -> pd.DataFrame:
    """The table of a split: patch, fold, part."""
    import pandas as pd

    path = split / "split.parquet"
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, mend="run the stage `split`") from None
    except (OSError, ValueError) as broken:
        raise DataError(
            f"is not a Parquet table ({broken})", where=path, mend="delete it and split again"
        ) from None


def training_of(split: Path) -> NDArray[np.bool_]:
    """(fold, patch): whether a patch trains."""
    table = table_of(split).sort_values(["fold", "patch"])
    trains: NDArray[np.bool_] = (table["part"] == "train").to_numpy()
    return trains.reshape(table["fold"].nunique(), -1)


def parts_of(split: Path, fold: int) -> NDArray[np.str_]:
    """The part of each patch in a fold."""
    table = table_of(split)
    table = table[table["fold"] == fold].sort_values("patch")
    if not len(table):
        raise DataError(f"has no fold {fold}", where=split, mend="mend runs.folds")
    return table["part"].to_numpy(dtype=str)


def statistics_of(split: Path, fold: int) -> dict[str, Any]:
    """Statistics of the training part of a fold."""
    from swath.files import read_json

    found: dict[str, Any] = read_json(split / "statistics.json")["folds"][fold]
    return found


def processes_of(given: str) -> int | None:
    """The number of processes that is asked for; None is `auto`."""
    if given == "auto":
        return None
    if given.isdecimal() and int(given):
        return int(given)
    raise ConfigError(f"'{given}' is no number", where="--processes", mend="give auto, 1, 2, …")


def deadline_of(minutes: float | None) -> float | None:
    """When this process will be ended, in seconds since 1970: what its rule or Slurm says."""
    ends = [] if minutes is None else [STARTED + 60 * minutes]
    if slurm := os.environ.get("SLURM_JOB_END_TIME"):
        ends.append(float(slurm))
    return min(ends, default=None)


def run_id_of(
    sections: dict[str, Any], version: str, split: Path, code: str, fold: int, seed: int
) -> str:
    """The identity of a run: whatever could change its result is in it, and nothing else."""
    return identity_of(sections, version, digest_of(split), code, fold, seed)


def digest_of(split: Path) -> str:
    """The digest of a split's table."""
    from swath.files import digest

    return digest(split / "split.parquet")


def identity_of(
    sections: dict[str, Any], version: str, dealt_by: str, code: str, fold: int, seed: int
) -> str:
    """The same, where the digest of the split is known."""
    from swath.learn.train import NOT_LEARNT
    from swath.plan import hash_of, without

    learnt = sections | {"trainer": without(sections["trainer"], *NOT_LEARNT)}
    return hash_of(learnt, version, dealt_by, code, fold, seed)
