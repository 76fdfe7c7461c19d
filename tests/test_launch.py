"""Which process this is, as those who start several say it."""

from __future__ import annotations

import pytest

from swath.errors import RunError
from swath.launch import Place, place, place_of

STEP = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, Place()),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}, Place(3, 4, 1, "torchrun")),
        ({"RANK": "1", "WORLD_SIZE": "2", "SWATH_MEET": "/f"}, Place(1, 2, 0, "swath")),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Place()),
        (STEP, Place(5, 8, 1, "srun")),
        # A job of eight tasks: within sbatch's script, and in a step of one task, as Snakemake's.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, Place()),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, Place()),
        ({"WORLD_SIZE": "", "RANK": ""}, Place()),
        # Started by swath within such a step.
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "RANK": "1", "WORLD_SIZE": "2",
          "SWATH_MEET": "/f"}, Place(1, 2, 0, "swath")),
    ],
)  # fmt: skip
def test_a_place_is_what_was_started(environ: dict[str, str], expected: Place) -> None:
    assert place(environ) == expected
    assert expected.first == (expected.rank == 0)


def test_alone_as_many_are_started_as_are_wanted_or_possible() -> None:
    assert place_of(None, 4, {}) == Place(size=4, by="swath")
    assert place_of(None, 1, {}) == place_of(1, 4, {}) == Place()
    assert place_of(2, 1, {}) == Place(size=2, by="swath")


def test_what_was_started_is_what_trains_or_is_refused() -> None:
    assert place_of(None, 1, STEP) == place_of(8, 1, STEP) == Place(5, 8, 1, "srun")
    with pytest.raises(RunError, match="2 processes were asked for, srun has started 8"):
        place_of(2, 1, STEP)


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(RunError, match="WORLD_SIZE: 'two' is no number") as error:
        place({"WORLD_SIZE": "two", "RANK": "0"})
    assert "\n" not in str(error.value)
