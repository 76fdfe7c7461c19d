"""Stochastic depth: what is dropped, how often, and that the mean stays."""

from __future__ import annotations

import pytest
import torch

from swath.models.stochastic_depth import StochasticDepth, rates


def test_a_patch_is_dropped_whole_or_scaled_so_that_the_mean_stays() -> None:
    branch = torch.randn(4000, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    kept = StochasticDepth(0.25).train()(branch)
    dropped = (kept == 0).flatten(1).all(dim=1)
    torch.testing.assert_close(kept[~dropped], branch[~dropped] / 0.75)
    # Of 4,000 draws with probability 0.25 the share lies within 4 standard errors, 0.027.
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.027)
    ones = StochasticDepth(0.25).train()(torch.ones(4000, 1))
    assert float(ones.mean()) == pytest.approx(1.0, abs=0.04)


def test_evaluation_answers_the_branch_and_a_rate_of_one_drops_all() -> None:
    branch = torch.randn(8, 3, 2, 2)
    assert StochasticDepth(0.9).eval()(branch) is branch
    assert StochasticDepth(0.0).train()(branch) is branch
    assert torch.equal(StochasticDepth(1.0).train()(branch), torch.zeros_like(branch))


def test_what_is_dropped_is_not_learnt_from() -> None:
    branch = torch.ones(64, 5, requires_grad=True)
    torch.manual_seed(0)
    kept = StochasticDepth(0.5).train()(branch)
    kept.sum().backward()
    assert branch.grad is not None
    assert torch.equal(branch.grad, kept.detach())
    assert 0 < float((branch.grad == 0).float().mean()) < 1


def test_rates_rise_in_a_straight_line_to_the_last_block() -> None:
    assert rates(0.4, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates(0.0, 3) == [0.0, 0.0, 0.0]
    assert rates(0.4, 0) == []
