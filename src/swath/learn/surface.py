"""The loss as a function of a network's weights, and planes through it.

All weights of a network are one vector here, in the order of its parameters, in float64: what a
descent goes down, where it ends, and how the ground lies around it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

Floats = NDArray[np.float64]
Loss = Callable[[Tensor], Tensor]
"""Weights (weight,) -> loss"""

AT_ONCE = 64
"""points of a plane that are worked out together"""


def weights_of(network: nn.Module) -> Tensor:
    """All weights of a network, (weight,) in float64."""
    return torch.cat([p.detach().double().flatten() for p in network.parameters()])


def loss_of(
    network: nn.Module, image: Tensor, cost: Callable[[Tensor], Tensor], *, decay: float = 0.0
) -> Loss:
    """The loss of a network as a function of its weights.

    Args:
        network: gives the form, and the statistics of batch normalisation; it is left as it is.
        image: what it is shown, normalised, (patch, band, y, x).
        cost: its answer in float64 -> loss.
        decay: of the weights but for biases and normalisation, as optimizers have it: half of the
            sum of their squares times it is added.
    """
    form = copy.deepcopy(network).double().eval()
    shapes = {name: p.shape for name, p in form.named_parameters()}
    shown = image.double()

    def loss(weights: Tensor) -> Tensor:
        parts = weights.split([shape.numel() for shape in shapes.values()])
        own = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        found: Tensor = cost(functional_call(form, own, (shown,)))
        if decay:
            squares = [part.square().sum() for part in own.values() if part.ndim > 1]
            found = found + decay / 2 * torch.stack(squares).sum()
        return found

    return loss


def filter_normalised(network: nn.Module, generator: torch.Generator) -> Tensor:
    """A random direction in which each filter is as long as the network's own, (weight,).

    A filter is what makes one output: a row of a matrix, a kernel of a convolution. Weights of
    layers that a rescaling does not change are then disturbed alike, however large they are.
    Biases and normalisation stay.

    Source:
        Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of Neural Nets, NeurIPS
        2018 (arXiv:1712.09913), section 4, equation 1.
    """
    found = []
    for own in network.parameters():
        drawn = torch.randn(own.shape, generator=generator, dtype=torch.float64)
        if own.ndim > 1:
            rows, drawn = own.detach().double().flatten(1), drawn.flatten(1)
            drawn = drawn * (rows.norm(dim=1) / drawn.norm(dim=1))[:, None]
        else:
            drawn = torch.zeros_like(drawn)
        found.append(drawn.flatten())
    return torch.cat(found)


def principal(path: Tensor) -> tuple[Tensor, Tensor]:
    """The two directions in which a path spreads the most.

    Args:
        path: weights after each step, (step, weight), at least three.

    Returns:
        Directions of unit length, (2, weight), and the share of the path's variance in each, (2,).

    Source:
        Li et al. 2018, section 7.2.
    """
    centred = path - path.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    return directions[:2], lengths[:2].square() / lengths.square().sum()


def surface(loss: Loss, centre: Tensor, directions: Tensor, x: Floats, y: Floats) -> Floats:
    """The loss on a plane through the space of weights, (y, x).

    Args:
        loss: of weights.
        centre: weights at x = y = 0.
        directions: along x and y, (2, weight).
        x: steps along the first.
        y: steps along the second.
    """
    at = torch.as_tensor(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    points = centre + at @ directions
    with torch.no_grad():
        found = [vmap(loss)(some) for some in points.split(AT_ONCE)]
    return torch.cat(found).reshape(len(y), len(x)).numpy()


def minimum(loss: Loss, start: Tensor, *, steps: int = 2000) -> Tensor:
    """The weights in which a descent by L-BFGS ends, whose gradient is nearly 0.

    Source:
        Liu, Nocedal: On the limited memory BFGS method for large scale optimization, Mathematical
        Programming 45, 1989.
    """
    at = start.clone().requires_grad_(True)
    solver = torch.optim.LBFGS(
        [at], max_iter=steps, tolerance_grad=1e-7, tolerance_change=1e-15,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Any:
        solver.zero_grad()
        found = loss(at)
        found.backward()
        return found

    solver.step(closure)
    return at.detach()


def slope(loss: Loss, at: Tensor) -> float:
    """The length of the gradient."""
    return float(grad(loss)(at).norm())


def curvatures(loss: Loss, at: Tensor) -> Floats:
    """The eigenvalues of the Hessian, rising; for as many weights as a matrix can have rows."""
    found: Floats = torch.linalg.eigvalsh(hessian(loss)(at)).numpy()
    return found
