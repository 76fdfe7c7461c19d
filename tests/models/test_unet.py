"""U-Net: windows of any sides, and its dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swath.models.unet import unet


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return unet(3, 4, width=4, depth=3).eval()


@pytest.mark.parametrize("side", [(33, 47), (8, 1), (1, 1), (40, 24)])
def test_any_window_is_answered_in_its_size(network: nn.Module, side: tuple[int, int]) -> None:
    assert network(torch.randn(2, 3, *side)).shape == (2, 4, *side)


def test_a_window_is_padded_with_zeros_and_cut_again(network: nn.Module) -> None:
    image = torch.randn(1, 3, 13, 22)
    padded = torch.zeros(1, 3, 16, 24)
    padded[..., :13, :22] = image
    assert torch.equal(network(image), network(padded)[..., :13, :22])


def test_dropout_is_at_the_lowest_resolution_and_in_training_alone() -> None:
    network = unet(3, 4, width=4, depth=2, dropout=1.0)
    seen: list[torch.Tensor] = []
    network.rise[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.randn(2, 3, 16, 16)
    network.train()(image)
    network.eval()(image)
    assert seen[0].shape == (2, 16, 4, 4)
    assert not seen[0].any() and seen[1].any()
