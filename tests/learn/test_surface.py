"""The loss as a function of weights: against networks and quadratics whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.learn.surface import (
    curvatures,
    filter_normalised,
    loss_of,
    minimum,
    principal,
    slope,
    surface,
    weights_of,
)

HESSIAN = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
LOWEST = torch.tensor([0.5, -1.0], dtype=torch.float64)


def quadratic(at: Tensor) -> Tensor:
    return (at - LOWEST) @ HESSIAN @ (at - LOWEST) / 2 + 0.25


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 2)
    )


def test_it_is_the_loss_of_the_network() -> None:
    network, image, label = small(), torch.randn(5, 2, 4, 4), torch.tensor([0, 1, 1, 0, 1])
    loss = loss_of(network, image, lambda answer: F.cross_entropy(answer, label), decay=0.3)
    weights = weights_of(network)
    bare = F.cross_entropy(network.eval()(image), label)
    assert float(loss(weights)) == pytest.approx(float(bare) + 0.15 * _squares(network), rel=1e-6)
    other = weights + 0.1
    torch.nn.utils.vector_to_parameters(other.float(), network.parameters())
    moved = float(F.cross_entropy(network(image), label)) + 0.15 * _squares(network)
    assert float(loss(other)) == pytest.approx(moved, rel=1e-5)


def test_each_filter_of_a_direction_is_as_long_as_the_networks() -> None:
    network = small()
    drawn = filter_normalised(network, torch.Generator().manual_seed(1))
    own = [part.reshape(p.shape) for part, p in _parts(network, drawn)]
    for part, p in zip(own, network.parameters(), strict=True):
        if p.ndim == 1:
            assert not part.any()
        else:
            rows = p.detach().double().flatten(1).norm(dim=1)
            torch.testing.assert_close(part.flatten(1).norm(dim=1), rows)
    assert not torch.equal(drawn, filter_normalised(network, torch.Generator().manual_seed(2)))


def test_a_plane_has_the_loss_of_its_points() -> None:
    directions = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    x, y = np.linspace(-1, 1, 9), np.linspace(-2, 2, 11)
    found = surface(quadratic, LOWEST, directions, x, y)
    assert found.shape == (11, 9)
    assert found[5, 4] == found.min() == 0.25
    assert found[10, 0] == pytest.approx(float(quadratic(LOWEST + torch.tensor([1.0, 2.0]))))


def test_a_path_in_a_plane_is_told_by_its_two_directions() -> None:
    rng = np.random.default_rng(0)
    plane = torch.as_tensor(np.linalg.qr(rng.standard_normal((7, 2)))[0].T)
    path = torch.as_tensor(rng.standard_normal((6, 2)) * [3.0, 0.5]) @ plane
    directions, shares = principal(path)
    assert float(shares.sum()) == pytest.approx(1)
    assert shares[0] > shares[1] > 0
    torch.testing.assert_close(
        directions @ directions.T, torch.eye(2, dtype=torch.float64), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(path @ directions.T @ directions, path)


def test_a_descent_ends_where_the_gradient_does() -> None:
    found = minimum(quadratic, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found, LOWEST, atol=1e-6, rtol=0)
    assert slope(quadratic, found) < 1e-6
    assert slope(quadratic, LOWEST + 1) == pytest.approx(5)
    assert curvatures(quadratic, found) == pytest.approx(np.linalg.eigvalsh(HESSIAN.numpy()))


def _squares(network: nn.Module) -> float:
    return sum(float(p.detach().square().sum()) for p in network.parameters() if p.ndim > 1)


def _parts(network: nn.Module, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
    sizes = [p.numel() for p in network.parameters()]
    return list(zip(weights.split(sizes), network.parameters(), strict=True))
