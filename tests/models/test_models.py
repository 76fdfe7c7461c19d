"""Every registered model: builds with its defaults, answers in the right shape, and learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swath import registry

BANDS, CLASSES, SIDE = 5, 7, 64
MODELS = list(registry.entries("model"))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return registry.load("model", name)(BANDS, CLASSES)


def images() -> torch.Tensor:
    return torch.randn(2, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_there_are_models() -> None:
    assert MODELS


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_by_patch_or_by_pixel(name: str) -> None:
    answer = built(name)(images())
    assert tuple(answer.shape) in {(2, CLASSES), (2, CLASSES, SIDE, SIDE)}
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = built(name)
    answer = network(images())
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2))
    (answer * weights).sum().backward()
    for parameter, value in network.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.abs().sum() > 0, parameter


@pytest.mark.parametrize("name", MODELS)
def test_it_runs_in_channels_last_and_in_bf16(name: str) -> None:
    network = built(name).eval()
    plain = network(images())
    moved = network.to(memory_format=torch.channels_last)
    image = images().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(image), plain, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        answer = moved(image)
    assert answer.shape == plain.shape
    assert torch.isfinite(answer).all()


@pytest.mark.parametrize("name", MODELS)
def test_it_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    doc = registry.entry("model", name).doc
    assert "(batch, band, y, x)" in doc
    assert "Source:" in doc and "doi:" in doc
