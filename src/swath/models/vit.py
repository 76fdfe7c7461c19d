"""A small vision transformer for patches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.errors import ConfigError, RunError
from swath.models.stochastic_depth import StochasticDepth, rates
from swath.registry import Count, Share, registered


@registered("model")
def vit(
    bands: int,
    classes: int,
    *,
    patch_px: Count = 8,
    width: Count = 192,
    depth: Count = 6,
    heads: Count = 3,
    drop_path: Share = 0.1,
    dropout: Share = 0.0,
) -> nn.Module:
    """A vision transformer for one label a patch: (batch, band, y, x) -> (batch, class).

    The patch is cut into a grid of squares, each of which becomes a token; blocks of attention and
    of two layers follow, each normalised before; the mean of the tokens goes to a linear
    classifier. Positions are computed, not learnt, so any grid will do: sides are multiples of
    `patch_px`.

    Args:
        bands: number of input bands.
        classes: number of classes.
        patch_px: side of a square, in pixels.
        width: length of a token; a multiple of 4 and of the heads.
        depth: number of blocks.
        heads: heads of each attention.
        drop_path: share of the patches for which the last block is left out in training; less for
            the blocks before it.
        dropout: share of what each block adds that is dropped in training.

    Raises:
        ConfigError: a width that is no multiple of 4 and of the heads.

    Source:
        Dosovitskiy et al.: An Image is Worth 16x16 Words, ICLR 2021 (arXiv:2010.11929), figure 1;
        Beyer, Zhai, Kolesnikov: Better plain ViT baselines for ImageNet-1k, 2022
        (arXiv:2205.01580), for the positions, the mean of the tokens, and the single linear layer
        at the end.
    """
    step = math.lcm(4, heads)
    if width % step:
        raise ConfigError(
            f"{width} is no multiple of 4 and of the {heads} heads",
            where="model.width",
            mend=f"give {-(-width // step) * step}, or other model.heads",
        )
    return _ViT(bands, classes, patch_px, width, depth, heads, drop_path, dropout)


class _ViT(nn.Module):
    def __init__(
        self,
        bands: int,
        classes: int,
        patch_px: int,
        width: int,
        depth: int,
        heads: int,
        drop_path: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patch_px, self.width = patch_px, width
        self.tokens = nn.Conv2d(bands, width, patch_px, patch_px)
        self.blocks = nn.Sequential(
            *(_Block(width, heads, rate, dropout) for rate in rates(drop_path, depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.patch_px or width % self.patch_px:
            raise RunError(
                f"sides of {height} x {width} px are no multiples of its patch_px, {self.patch_px}",
                where="model vit",
                mend="give another model.patch_px, patches.size_px or trainer.augment.crop_px",
            )
        grid = self.tokens(x)
        place = positions(grid.shape[2], grid.shape[3], self.width, device=x.device)
        tokens = grid.flatten(2).transpose(1, 2) + place.to(grid.dtype)
        answer: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return answer


class _Block(nn.Module):
    """Attention among the tokens, then two layers on each: (batch, token, width) -> the same."""

    def __init__(self, width: int, heads: int, drop_path: float, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.dropout = nn.Dropout(dropout)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, token, 3 · width) -> query, key and value, each (batch, head, token, width / head)
        asked = self.ask(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.drop_path(self.dropout(self.answer(seen)))
        return x + self.drop_path(self.layers(x))


def positions(rows: int, columns: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """The position of each token of a grid, row by row, as sines and cosines: (token, width).

    A quarter of the width each for sin(x ω), cos(x ω), sin(y ω) and cos(y ω), where
    ω_k = 10,000^(-k / (width/4 - 1)), and x and y count columns and rows.

    Source:
        arXiv:2205.01580, section 3, after Vaswani et al.: Attention Is All You Need, NIPS 2017
        (arXiv:1706.03762), section 3.5.
    """
    quarter = width // 4
    power = torch.arange(quarter, device=device) / max(1, quarter - 1)
    omega = 10_000.0**-power
    y, x = torch.meshgrid(
        torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
    )
    along_x, along_y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return torch.cat([along_x.sin(), along_x.cos(), along_y.sin(), along_y.cos()], dim=1)
