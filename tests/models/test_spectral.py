"""Networks for hyperspectral cubes: from 4 to 500 bands, any window, and what each pixel sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from swath.models import spectral
from swath.models.spectral import Convolution3d, hybrid_3d, spectral_1d, spectral_2d

MAKERS = [spectral_1d, spectral_2d, hybrid_3d]


def seen_from_the_centre(network: nn.Module, bands: int, side: int = 15) -> torch.Tensor:
    """Where (y, x) the answer at the centre of a window depends on the image."""
    torch.manual_seed(1)
    image = torch.randn(1, bands, side, side, requires_grad=True)
    network.eval()(image)[0, :, side // 2, side // 2].sum().backward()
    assert image.grad is not None
    return (image.grad[0] != 0).any(dim=0)


def square(radius: int, side: int = 15) -> torch.Tensor:
    inside = (torch.arange(side) - side // 2).abs() <= radius
    return inside[:, None] & inside


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("bands", [1, 4, 10, 103, 220, 500])
def test_any_number_of_bands_and_any_window(make: Any, bands: int) -> None:
    for window in ((5, 3), (1, 1)):
        answer = make(bands, 7).eval()(torch.randn(2, bands, *window))
        assert answer.shape == (2, 7, *window)
        assert torch.isfinite(answer).all()


@pytest.mark.parametrize("bands, kernel, stretches", [(4, 3, 2), (103, 12, 31), (220, 25, 40)])
def test_a_spectrum_is_cut_as_the_paper_cuts_it(bands: int, kernel: int, stretches: int) -> None:
    layers = spectral_1d(bands, 9).layers
    assert layers[0].kernel_size == (kernel,)
    assert layers[5].in_features == 20 * stretches
    assert layers[3](torch.zeros(1, 20, bands - kernel + 1)).shape[-1] == stretches


def test_spectra_are_answered_alone_and_alike_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = spectral_1d(30, 4).eval()
    image = torch.randn(2, 30, 5, 3)
    whole = network(image)
    turned = network(image.flip(3).transpose(2, 3))
    torch.testing.assert_close(turned, whole.flip(3).transpose(2, 3))
    calls: list[int] = []
    network.layers.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    monkeypatch.setattr(spectral, "PIXELS_AT_ONCE", 7)
    torch.testing.assert_close(network(image), whole)
    assert calls == [7, 7, 7, 7, 2]


def test_training_takes_its_statistics_over_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "PIXELS_AT_ONCE", 7)
    network = spectral_1d(30, 4).train()
    network(torch.randn(2, 30, 5, 3))
    assert int(network.layers[1].num_batches_tracked) == 1


@pytest.mark.parametrize("blocks, radius", [(1, 2), (2, 4), (3, 6)])
def test_each_block_sees_2_px_farther(blocks: int, radius: int) -> None:
    network = spectral_2d(6, 3, width=16, blocks=blocks)
    assert torch.equal(seen_from_the_centre(network, 6), square(radius))


def test_the_hybrid_sees_4_px_around() -> None:
    assert torch.equal(seen_from_the_centre(hybrid_3d(20, 3), 20), square(4))
    assert torch.equal(seen_from_the_centre(spectral_1d(20, 3), 20), square(0))


@pytest.mark.parametrize(
    "bands, reduced, kernels, planes",
    [
        (200, 15, [7, 5, 3], 3),
        (200, 30, [7, 5, 3], 18),
        (9, 15, [7, 3, 1], 1),
        (4, 15, [4, 1, 1], 1),
    ],
)
def test_filters_are_no_deeper_than_the_bands_that_are_left(
    bands: int, reduced: int, kernels: list[int], planes: int
) -> None:
    network = hybrid_3d(bands, 3, reduced=reduced)
    assert network.reduce.out_channels == min(bands, reduced)
    assert [m.kernel for m in network.modules() if isinstance(m, Convolution3d)] == kernels
    assert network.planes[0].in_channels == 32 * planes


def test_a_3d_convolution_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = Convolution3d(2, 3, 5)
    torchs = nn.Conv3d(2, 3, (5, 3, 3), padding=(0, 1, 1), bias=False)
    torchs.weight.data = ours.weight.data.reshape(3, 2, 5, 3, 3)
    x = torch.randn(2, 2, 7, 4, 6)
    answer = ours.to(memory_format=torch.channels_last)(x)
    assert answer.shape == (2, 3, 3, 4, 6)
    torch.testing.assert_close(answer, torchs(x))
    # And begins with the variance of torch's.
    big, like = Convolution3d(8, 64, 5), nn.Conv3d(8, 64, (5, 3, 3))
    assert big.weight.std().item() == pytest.approx(like.weight.std().item(), rel=0.03)
