"""Layers that are locally connected, with and without sharing of weights."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from swath.models.local import LocallyConnected2d
from swath.models.plain_cnn import plain_cnn
from swath.models.receptive import output_side, receptive_field


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_each_place_has_its_own_filter(kernel: int, padding: Any) -> None:
    torch.manual_seed(0)
    layer = LocallyConnected2d(2, 3, kernel, padding=padding)
    image = torch.randn(2, 2, 6, 5)
    answer = layer(image).detach().numpy()
    weight = layer.weight.detach().numpy().reshape(6, 5, 2, kernel, kernel, 3)
    bias = layer.bias.detach().numpy().reshape(6, 5, 3)
    before, after = (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2
    padded = np.pad(
        image.numpy(), ((0, 0), (0, 0), (before, after), (before, after)),
        mode="wrap" if padding == "circular" else "constant",
    )  # fmt: skip
    for y in range(6):
        for x in range(5):
            window = padded[:, :, y : y + kernel, x : x + kernel]
            expected = np.einsum("bcij,cijf->bf", window, weight[y, x]) + bias[y, x]
            np.testing.assert_allclose(answer[:, :, y, x], expected, atol=1e-5)


@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_with_the_same_filter_everywhere_it_is_a_convolution(kernel: int, padding: Any) -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(2, 3, kernel, padding="same", padding_mode=padding)
    local = LocallyConnected2d(2, 3, kernel, padding=padding)
    image = torch.randn(4, 2, 7, 6)
    local(image)
    with torch.no_grad():
        local.weight.copy_(shared.weight.flatten(1).T.expand(42, -1, -1))
        local.bias.copy_(shared.bias.repeat(42))
    torch.testing.assert_close(local(image), shared(image), atol=1e-5, rtol=1e-5)


def test_it_begins_with_weights_as_large_as_those_of_a_convolution() -> None:
    torch.manual_seed(0)
    local, shared = LocallyConnected2d(3, 200, 5), nn.Conv2d(3, 200, 5)
    local(torch.zeros(1, 3, 8, 8))
    drawn, expected = local.weight.detach(), shared.weight.detach()
    assert float(drawn.std()) == pytest.approx(float(expected.std()), rel=0.02)
    assert float(drawn.abs().max()) <= 1 / 75**0.5
    assert abs(float(drawn.mean())) < 1e-3


def test_another_side_than_the_first_is_refused() -> None:
    layer = LocallyConnected2d(1, 2, 3)
    layer(torch.zeros(1, 1, 4, 4))
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 1, 5, 5))


@pytest.mark.parametrize("places", ["kept", "maximum", "mean"])
@pytest.mark.parametrize("sharing", [True, False])
def test_its_parameters_are_those_of_its_layers(sharing: bool, places: Any) -> None:
    network = plain_cnn(
        4, 7, widths=[5, 6], kernel_px=3, hidden=[8], sharing=sharing, places=places
    )
    network(torch.zeros(2, 4, 10, 10))
    filters = [4 * 9 * 5 + 5, 5 * 9 * 6 + 6]
    convolved = sum(filters) if sharing else 100 * filters[0] + 25 * filters[1]
    told = 6 * 9 if places == "kept" else 6  # 10 -> 5 -> 3, the last square being half empty
    assert sum(p.numel() for p in network.parameters()) == convolved + (told + 1) * 8 + 9 * 7


def test_weights_size_a_network_that_has_seen_no_patch() -> None:
    network = plain_cnn(2, 3, widths=[4], hidden=[8], sharing=False)
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 2, 6, 6))
    image = torch.randn(5, 2, 6, 6)
    network.train()(image).sum().backward()
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    stream.seek(0)
    fresh = plain_cnn(2, 3, widths=[4], hidden=[8], sharing=False)
    fresh.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(fresh(image), network(image))


def test_maxima_over_all_places_of_shared_filters_know_no_shift() -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 2, 16, 16)
    moved = image.roll((4, -8), (2, 3))  # by multiples of the two poolings' step
    for sharing, same in ((True, True), (False, False)):
        network = plain_cnn(2, 3, padding="circular", places="maximum", sharing=sharing)
        close = torch.allclose(network(image), network(moved), atol=1e-5)
        assert close == same


@pytest.mark.parametrize("side", [7, 8, 12])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_side_of_an_answer(side: int, kernel: int, stride: int) -> None:
    for padding in range(3):
        for dilation in (1, 2):
            if dilation * (kernel - 1) + 1 > side + 2 * padding:
                continue
            layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
            found = output_side(side, kernel, stride=stride, padding=padding, dilation=dilation)
            assert layer(torch.zeros(1, 1, side, side)).shape[-1] == found


def test_how_far_a_unit_sees() -> None:
    assert receptive_field([]) == 1
    assert receptive_field([(3, 1, 1)] * 3) == 7
    assert receptive_field([(3, 1, 1), (2, 2, 1), (3, 1, 1), (2, 2, 1)]) == 10
    assert receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 4)]) == 15
