"""What must not grow with the number of shards; `benchmarks/bench_scale.py` measures what does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_no_command_grows_with_the_shards(tmp_path: Path, repository: Path) -> None:
    """Linux takes 131,072 bytes, which a thousand names of files are."""
    found = importlib.util.spec_from_file_location(
        "bench_scale", repository / "benchmarks/bench_scale.py"
    )
    assert found and found.loader
    bench = importlib.util.module_from_spec(found)
    found.loader.exec_module(bench)
    longest: dict[int, int] = {}
    for shards in (2, 30):
        folder = tmp_path / str(shards)
        bench.lay_out(folder, shards, 1, True)
        of_shards = [each for each in bench.commands_in(folder) if "/study/" not in each]
        assert sum(" measure " in command for command in of_shards) == 2 * shards
        longest[shards] = max(map(len, of_shards))
    assert longest[2] == longest[30] < 1000
