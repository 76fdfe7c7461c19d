"""The residual network: how it begins, its gates and shortcuts, and the sides it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from swath.models.resnet import Gate, _Residual, resnet


def network(**given: Any) -> nn.Module:
    torch.manual_seed(0)
    return resnet(3, 4, **{"width": 8, **given})


def blocks(of: nn.Module) -> list[_Residual]:
    return [module for module in of.modules() if isinstance(module, _Residual)]


def sides(of: nn.Module, side: int) -> list[int]:
    """The side after the stem and after each block."""
    found: list[int] = []
    for module in blocks(of):
        module.register_forward_pre_hook(lambda _, given: found.append(given[0].shape[-1]))
    blocks(of)[-1].register_forward_hook(lambda *given: found.append(given[-1].shape[-1]))
    of.eval()(torch.zeros(1, 3, side, side))
    return found


def test_a_patch_of_64_px_is_halved_to_4() -> None:
    assert sides(network(), 64) == [32, 32, 32, 16, 16, 8, 8, 4, 4]
    assert sides(network(stem_stride=1, blocks=[1, 1]), 64) == [64, 64, 32]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 33, 120])
def test_any_side_will_do(side: int) -> None:
    assert network().train()(torch.randn(2, 3, side, side + 1)).shape == (2, 4)
    assert sides(network(), side)[-1] == -(-side // 16)


def test_every_block_begins_as_its_shortcut() -> None:
    of = network().eval()
    for block in blocks(of):
        inputs = next(block.body.parameters()).shape[1]
        x = torch.randn(2, inputs, 8, 8)
        assert torch.equal(block(x), torch.relu(block.shortcut(x)))
    scale = [m for m in blocks(of)[0].body.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    nn.init.ones_(scale.weight)
    x = torch.randn(2, 8, 8, 8)
    assert not torch.equal(blocks(of)[0](x), torch.relu(x))


def test_a_shortcut_that_halves_sees_every_pixel() -> None:
    """A strided convolution of 1 x 1 would see a quarter of them."""
    block = blocks(network())[2].eval()
    assert block.shortcut[0].kernel_size == 2
    for side in (8, 7):
        x = torch.randn(1, 8, side, side, requires_grad=True)
        seen = block.shortcut(x)
        assert seen.shape[-1] == 4
        seen.square().sum().backward()
        assert x.grad is not None and (x.grad != 0).all()


def test_a_shortcut_at_an_odd_edge_averages_the_pixels_that_there_are() -> None:
    pool = blocks(network())[2].shortcut[0]
    assert torch.equal(pool(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 2, 2))


def test_convolutions_begin_with_the_variance_that_rectifiers_keep() -> None:
    weight = blocks(network(width=64, blocks=[1, 1]))[1].body[0][0].weight
    assert weight.shape == (128, 64, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_the_gate_weighs_channels_by_the_formula() -> None:
    torch.manual_seed(0)
    gate = Gate(8, 0.5)
    x = torch.randn(2, 8, 3, 5)
    w1, w2 = gate.squeeze.weight[:, :, 0, 0], gate.excite.weight[:, :, 0, 0]
    for patch, answer in zip(x, gate(x), strict=True):
        z = patch.mean(dim=(1, 2))
        hidden = torch.clamp(w1 @ z + gate.squeeze.bias, min=0)
        share = 1 / (1 + torch.exp(-(w2 @ hidden + gate.excite.bias)))
        torch.testing.assert_close(answer, patch * share[:, None, None])
    assert gate.squeeze.out_channels == 4


def test_settings_reach_the_layers() -> None:
    of = network(blocks=[1, 3], squeeze=0.0, drop_path=0.4, dropout=0.3)
    assert len(blocks(of)) == 4
    assert not [m for m in of.modules() if isinstance(m, Gate)]
    assert [block.body[-1].rate for block in blocks(of)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [m.p for m in of.modules() if isinstance(m, nn.Dropout)] == [0.3]
    assert len([m for m in network(squeeze=0.25).modules() if isinstance(m, Gate)]) == 8
