"""The vision transformer: positions by the formula, attention by the formula, and its refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from swath.errors import ConfigError, RunError
from swath.models.vit import _Block, positions, vit


def network(**given: Any) -> nn.Module:
    torch.manual_seed(0)
    return vit(3, 4, **{"patch_px": 4, "width": 24, "depth": 2, "heads": 3, **given}).eval()


def test_positions_are_those_of_the_formula() -> None:
    found = positions(2, 3, 12)
    assert found.shape == (6, 12)
    for row in range(2):
        for column in range(3):
            wanted = []
            for along, wave in ((column, math.sin), (column, math.cos),
                                (row, math.sin), (row, math.cos)):  # fmt: skip
                wanted += [wave(along * 10_000 ** -(k / 2)) for k in range(3)]
            assert found[row * 3 + column].tolist() == pytest.approx(wanted, abs=1e-6)


def test_every_place_of_a_large_grid_has_its_own_position() -> None:
    place = positions(15, 17, 64)
    apart = torch.cdist(place, place) + 9 * torch.eye(len(place))
    assert float(apart.min()) > 0.1
    assert positions(1, 1, 4).tolist() == [[0.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize("side", [(4, 4), (8, 20), (64, 64)])
def test_any_grid_will_do(side: tuple[int, int]) -> None:
    assert network()(torch.randn(2, 3, *side)).shape == (2, 4)


def test_tokens_are_the_squares_of_the_patch_and_know_their_place() -> None:
    of = network()
    image = torch.randn(1, 3, 8, 8)
    swapped = torch.cat([image[..., 4:], image[..., :4]], dim=3)
    assert not torch.allclose(of(image), of(swapped), atol=1e-4)
    tokens = of.tokens(image).flatten(2).transpose(1, 2)
    by_hand = of.tokens.weight.flatten(1) @ image[0, :, 4:, :4].flatten() + of.tokens.bias
    torch.testing.assert_close(tokens[0, 2], by_hand)


def test_the_mean_of_the_tokens_is_classified() -> None:
    of = network(depth=1)
    seen: list[torch.Tensor] = []
    of.norm.register_forward_hook(lambda *given: seen.append(given[-1]))
    answer = of(torch.randn(2, 3, 8, 12))
    assert seen[0].shape == (2, 6, 24)
    torch.testing.assert_close(answer, of.head(seen[0].mean(dim=1)))


def test_a_block_attends_by_the_formula() -> None:
    torch.manual_seed(0)
    block = _Block(12, 3, 0.0, 0.0).eval()
    x = torch.randn(2, 5, 12)
    wq, wk, wv = block.ask.weight.chunk(3)
    bq, bk, bv = block.ask.bias.chunk(3)
    normed = block.norm(x)
    heads = []
    for head in range(3):
        part = slice(head * 4, head * 4 + 4)
        q, k, v = (normed @ w[part].T + b[part] for w, b in ((wq, bq), (wk, bk), (wv, bv)))
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v)
    after = x + block.answer(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(x), after + block.layers(after), atol=1e-5, rtol=1e-5)


def test_settings_reach_the_layers() -> None:
    of = network(depth=4, drop_path=0.2, dropout=0.1)
    assert [block.drop_path.rate for block in of.blocks] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert {m.p for m in of.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert of.tokens.kernel_size == (4, 4)


def test_a_side_that_cannot_be_cut_is_refused_in_one_line() -> None:
    with pytest.raises(RunError) as error:
        network()(torch.zeros(1, 3, 8, 10))
    assert str(error.value) == (
        "model vit: sides of 8 x 10 px are no multiples of its patch_px, 4; "
        "give another model.patch_px, patches.size_px or trainer.augment.crop_px"
    )


@pytest.mark.parametrize("width, heads, fits", [(30, 3, 36), (32, 3, 36), (30, 2, 32)])
def test_a_width_that_cannot_be_divided_is_refused(width: int, heads: int, fits: int) -> None:
    with pytest.raises(ConfigError) as error:
        vit(3, 4, width=width, heads=heads)
    assert str(error.value) == (
        f"model.width: {width} is no multiple of 4 and of the {heads} heads; "
        f"give {fits}, or other model.heads"
    )
    assert vit(3, 4, width=fits, heads=heads)(torch.zeros(1, 3, 8, 8)).shape == (1, 4)
