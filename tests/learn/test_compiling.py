"""Compiled steps: what is trained is the same, and what it costs is weighed before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from swath.errors import RunError, StoppedError
from swath.learn import compiling
from swath.learn.compiling import compiled
from swath.learn.train import Outcome, train

MLP = {"model__hidden": [8], "model__dropout": 0.5}


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are traced and run by torch as they were: without a compiler, and to the last bit
    as they are."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    counters.clear()


@pytest.fixture
def run(patch_set, statistics, sections):
    """Trains on 18 patches, in batches of eight: two whole ones and one of two."""
    patches = patch_set(24)
    parts = np.array(["train"] * 18 + ["val"] * 6)

    def start(state: Path, model: str = "mlp", **given: Any) -> Outcome:
        chosen = sections(model, "classification", **(MLP if model == "mlp" else {}), **given)
        return train(patches, parts, statistics, state, **chosen, seed=3)

    return start


def weights(state: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(state / "last.ckpt", weights_only=True)
    return found["state_dict"]  # type: ignore[return-value]


def assert_same(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("traced_only")
def test_a_run_learns_the_same_and_its_weights_keep_their_names(run, tmp_path, precision) -> None:
    """The mlp drops out: compiling must leave the random numbers alone, and the weights."""
    given = {"trainer__precision": precision, "trainer__ema": 0.9}
    plain = run(tmp_path / "plain", trainer__compile=False, **given)
    assert counters["stats"]["unique_graphs"] == 0
    fast = run(tmp_path / "fast", trainer__compile=True, **given)
    assert (plain.facts["compile"], fast.facts["compile"]) == (False, True)
    assert counters["stats"]["unique_graphs"] == 1, "the smaller batch and validation are not"
    assert_same(tmp_path / "plain", tmp_path / "fast")
    counters.clear()
    assert run(tmp_path / "fast", trainer__compile=True, **given).facts["compile"] is True
    assert counters["stats"]["unique_graphs"] == 0, "a run that has ended compiles nothing"


@pytest.mark.usefixtures("traced_only")
def test_every_run_of_a_process_is_compiled() -> None:
    """Torch compiles one and the same function eight times, and then no more."""
    forced: dict[str, Any] = {"precision": "fp32", "force": True, "required": True}
    for number in range(1, 11):
        network = nn.Sequential(nn.Linear(2, 2))
        fast = compiled(network, torch.ones(3, 2), **forced, steps=1)
        assert fast is not None
        assert torch.equal(fast(torch.ones(3, 2)), network(torch.ones(3, 2)))
        assert counters["stats"]["unique_graphs"] == number


@pytest.mark.parametrize(
    "steps, plain_s, fast_s, compiles, taken",
    [
        (17_000, 0.1, 0.0, 0, False),  # 1,700 s: not even tried
        (19_000, 0.1, 0.09, 1, True),  # gains 190 s, for 4 x 40 s
        (19_000, 0.1, 0.095, 1, False),  # gains 95 s
    ],
)
@pytest.mark.usefixtures("traced_only")
def test_auto_weighs_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, steps, plain_s, fast_s, compiles, taken
) -> None:
    network = nn.Linear(2, 2)
    clock = [0.0]
    graphs: list[int] = []

    def takes(forward: Any, *_: Any) -> float:
        if forward is not network:
            forward(torch.ones(3, 2))
            graphs.append(counters["stats"]["unique_graphs"])
            clock[0] += 40.0 if len(graphs) == 1 else 0.0
        return plain_s if forward is network else fast_s

    monkeypatch.setattr(compiling, "step_s", takes)
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    auto: dict[str, Any] = {"precision": "fp32", "force": False, "required": False}
    found = compiled(network, torch.ones(3, 2), **auto, steps=steps)
    assert (found is not None) == taken
    assert set(graphs) == ({1} if compiles else set())


def test_without_a_compiler(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wanted, it is one line; `auto` trains without."""
    monkeypatch.setattr(compiling, "LEAST_S", 0.0)
    nowhere = {"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}
    with torch._inductor.config.patch(nowhere):
        with pytest.raises(RunError) as error:
            run(tmp_path / "wanted", trainer__compile=True)
        assert run(tmp_path / "auto").facts["compile"] is False
        # An attempt that goes on where nothing compiles: `auto` still does without.
        (tmp_path / "on").mkdir()
        facts = {"facts": {"attempts": 1, "compile": True}, "history": []}
        (tmp_path / "on/progress.json").write_text(json.dumps(facts))
        run(tmp_path / "on")
        assert_same(tmp_path / "auto", tmp_path / "on")
    assert "\n" not in str(error.value)
    assert "trainer.compile: torch.compile cannot compile here (" in str(error.value)
    assert "set it to false" in str(error.value)


def test_a_compiled_run_that_was_stopped_goes_on_to_the_same_weights(
    run, stop_after, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And compiled, though `auto` would not do so any more."""
    if not shutil.which("g++"):
        monkeypatch.setattr(compiling, "BACKEND", "eager")
    # Torch trusts what a killed process has left half-written in the cache that all share.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr(compiling, "LEAST_S", 0.0)
    monkeypatch.setattr(compiling, "ATTEMPTS", -1e9)
    run(tmp_path / "straight")
    stop_after(6)  # before the first step, after three steps, in the validation, after one
    with pytest.raises(StoppedError):
        run(tmp_path / "cut")
    stop_after(0)
    monkeypatch.setattr(compiling, "ATTEMPTS", 1e9)
    assert run(tmp_path / "cut").facts["compile"] is True
    assert_same(tmp_path / "straight", tmp_path / "cut")
