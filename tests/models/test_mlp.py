"""Perceptrons of several layers: of a patch of one side, and of each pixel."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from swath.models.mlp import mlp, spectral_mlp


def test_it_is_the_layers_one_after_another() -> None:
    torch.manual_seed(0)
    network = mlp(2, 3, hidden=[5, 4], activation="tanh", normalise=False, dropout=0.0)
    image = torch.randn(6, 2, 3, 3)
    answer = network(image)
    a, b, c = (module for module in network if isinstance(module, nn.Linear))
    hidden = torch.tanh(b(torch.tanh(a(image.reshape(6, 18)))))
    torch.testing.assert_close(answer, hidden @ c.weight.T + c.bias)
    assert (a.weight.shape, b.weight.shape, c.weight.shape) == ((5, 18), (4, 5), (3, 4))


@pytest.mark.parametrize("make", [mlp, spectral_mlp])
def test_settings_reach_the_layers(make: Any) -> None:
    network = make(2, 3, hidden=[5, 4], activation="gelu", normalise=True, dropout=0.3)
    kinds = [type(module).__name__ for module in network]
    assert kinds.count("GELU") == 2
    assert sum(kind.startswith("BatchNorm") for kind in kinds) == 2
    assert [m.p for m in network if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    assert len(list(make(2, 3, hidden=[]))) == 1 + (make is mlp)


def test_weights_that_were_sized_in_inference_mode_can_be_trained() -> None:
    """Training tries the network on an empty patch, without gradients, before it makes anything."""
    network = mlp(2, 3, hidden=[8], dropout=0.0)
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 2, 4, 4))
    network.train()
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in network.parameters() if p.ndim > 1]}], lr=0.1
    )
    before = network[1].weight.detach().clone()
    F.cross_entropy(network(torch.randn(4, 2, 4, 4)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert not torch.equal(before, network[1].weight)


def test_weights_size_a_network_that_has_seen_no_patch() -> None:
    network = mlp(2, 3, hidden=[8])
    image = torch.randn(5, 2, 4, 6)
    answer = network.eval()(image)
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    stream.seek(0)
    fresh = mlp(2, 3, hidden=[8])
    fresh.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(fresh.to(memory_format=torch.channels_last).eval()(image), answer)


def test_patches_of_another_side_are_refused() -> None:
    network = mlp(2, 3, hidden=[8]).eval()
    network(torch.zeros(1, 2, 4, 4))
    with pytest.raises(RuntimeError, match=r"1x50 and 32x8"):
        network(torch.zeros(1, 2, 5, 5))


def test_a_pixel_is_answered_by_its_bands_alone() -> None:
    torch.manual_seed(0)
    network = spectral_mlp(4, 3, hidden=[8, 8]).eval()
    image = torch.randn(2, 4, 5, 3)
    turned = image.flip(2).transpose(2, 3)
    torch.testing.assert_close(network(turned), network(image).flip(2).transpose(2, 3))
    other = image.clone()
    other[:, :, 0, 0] += 1
    changed = (network(other) != network(image)).any(dim=1)
    assert changed[:, 0, 0].all() and changed.sum() == 2


@pytest.mark.parametrize(
    ("init", "variance"),
    [("default", 1 / (3 * 300)), ("small", 1e-4), ("xavier", 2 / 700), ("he", 2 / 300)],
)
def test_weights_begin_with_their_variance(init: Any, variance: float) -> None:
    torch.manual_seed(0)
    network = mlp(3, 2, hidden=[300, 400], init=init, normalise=False)
    network(torch.zeros(1, 3, 10, 10))  # 300 values, so both layers have as many inputs
    first, second, _ = (module.weight for module in network if isinstance(module, nn.Linear))
    assert float(second.var()) == pytest.approx(variance, rel=0.02)
    if init != "xavier":
        assert float(first.var()) == pytest.approx(variance, rel=0.02)
    assert init == "default" or not any(m.bias.any() for m in network if isinstance(m, nn.Linear))


def test_layers_of_equal_width_add_their_input() -> None:
    torch.manual_seed(0)
    network = mlp(
        2, 3, hidden=[5, 5, 4], activation="tanh", normalise=False, dropout=0.0, residual=True
    )
    image = torch.randn(6, 2, 1, 1)
    answer = network(image)
    a, b, c, d = (module for module in network.modules() if isinstance(module, nn.Linear))
    hidden = torch.tanh(a(image.flatten(1)))
    hidden = hidden + torch.tanh(b(hidden))
    torch.testing.assert_close(answer, d(torch.tanh(c(hidden))))


def test_a_network_that_adds_is_saved_and_loaded() -> None:
    network = mlp(2, 3, hidden=[5, 5], residual=True, init="he").eval()
    image = torch.randn(6, 2, 1, 1)
    answer = network(image)
    other = mlp(2, 3, hidden=[5, 5], residual=True, init="he").eval()
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(image), answer)
