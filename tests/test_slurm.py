"""What Slurm's words mean; tests/workflow/test_on_slurm.py asks a real one."""

from __future__ import annotations

import math

import pytest

from swath import slurm


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("1-00:00:00", 1440), ("4:30:00", 270), ("30:00", 30), ("infinite", math.inf)],
)
def test_time_limits(limit: str, minutes: float) -> None:
    assert slurm._minutes(limit) == minutes


@pytest.mark.parametrize(
    ("gres", "model", "count"),
    [
        ("(null)", "", 0),
        ("gpu:1", "", 1),
        ("gpu:1", "a100", 0),
        ("gpu:a100:4(S:0-1),gpu:v100:2(S:0)", "", 6),
        ("gpu:a100:4(S:0-1),gpu:v100:2(S:0)", "A100", 4),
        ("shard:a100:16,gpu:h100:8", "", 8),
    ],
)
def test_gpus_of_a_node(gres: str, model: str, count: int) -> None:
    assert slurm._gpus(gres, model) == count


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(slurm.RunError, match="sinfo: there is no such program here; start on a"):
        slurm.check({"slurm_partition": "work"}, "workflow/profiles/slurm")
